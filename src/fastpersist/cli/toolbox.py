"""What the commands share: options of the store, adapters, progress, and how results are shown."""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from math import isfinite
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from .. import extra
from ..adapters.files import FilesBackend
from ..disk import sync_directory, sync_file
from ..domains import DOMAINS, Domain
from ..errors import InvalidArgumentError
from ..own_domains import declared_domains
from ..registry import Registries
from ..settings import Settings, SettingsArguments
from ..store import open_store
from ..tools.backup import OnProgress

__all__ = [
    "PATH",
    "discard_output",
    "folder_option",
    "json_option",
    "known_domains",
    "named_domain",
    "named_errors",
    "new_table",
    "opened_registries",
    "output",
    "plain",
    "print_json",
    "printable",
    "progress_bar",
    "redacted",
    "refuse_irregular",
    "settings_arguments",
    "settings_of",
    "shown",
    "store_options",
    "unfinished_file",
]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

PATH: Final = click.Path(path_type=Path)
"""The type of an option or argument that names a file or a folder."""

folder_option = click.option(
    "--folder",
    type=PATH,
    default=lambda: Settings.load().local_folder,
    show_default="FASTPERSIST_LOCAL_FOLDER, else .fastpersist",
    help="Where local servers keep their data.",
)
_STORE_OPTIONS: Final = (
    click.option("--mongo-url", help="MongoDB; a local server by default."),
    click.option("--redis-url", help="Redis; a local server by default."),
    folder_option,
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def store_options(command: CommandT) -> CommandT:
    """Give a command the options of a store: mongo_url, redis_url and folder."""
    for option in reversed(_STORE_OPTIONS):
        command = option(command)
    return command


def settings_arguments(
    mongo_url: str | None, redis_url: str | None, folder: Path
) -> SettingsArguments:
    """Return the options of a store as keywords of the settings."""
    return {"mongo_url": mongo_url, "redis_url": redis_url, "local_folder": folder}


def settings_of(mongo_url: str | None, redis_url: str | None, folder: Path) -> Settings:
    """Return the settings that the options of a store and the environment make.

    Raises:
        ConfigurationError: One is wrong.
    """
    return Settings.load(**settings_arguments(mongo_url, redis_url, folder))


@asynccontextmanager
async def opened_registries(
    files: Path | None, settings: SettingsArguments
) -> AsyncIterator[Registries]:
    """Give the adapters on the files below a folder, without one those of the store.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    if files is not None:
        registries = Registries()
        registries.use_backend(FilesBackend(files))
        yield registries
        return
    async with open_store(**settings) as store:
        yield store


def output(*, highlight: bool = False) -> Console:
    """Return the console for results; what is piped has no width of its own."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=highlight)


def discard_output() -> None:
    """Let the interpreter flush nothing more into what cannot take it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(found: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print JSON on a line of its own, at once."""
    print(json.dumps(plain(found)), flush=True)


def plain(value: Any) -> Any:
    """Return a value as JSON can say it: dates as ISO text, bytes in base64, others as text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return str(value)


def printable(text: str) -> str:
    """Return a stored text without what moves the cursor of a terminal or hides other text."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def shown(text: str) -> str:
    """Return a stored text as the consoles of rich take it: printable, without markup."""
    return escape(printable(text))


def new_table(title: str, *columns: str, figures: tuple[str, ...] = ()) -> Table:
    """Return a table in the style of all commands; `figures` are columns on the right."""
    table = Table(title=escape(title), box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in figures:
        table.add_column(column, justify="right", no_wrap=True)
    return table


@contextmanager
def progress_bar(what: str, *, is_quiet: bool) -> Iterator[OnProgress]:
    """Give what is to be told of progress; it is shown on standard error, if that is a terminal."""
    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield lambda name, done, total: None
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"),
        TimeRemainingColumn(), console=console, transient=True,
    ) as progress:  # fmt: skip
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(escape(f"{what} {name}"))
            progress.update(tasks[name], completed=done, total=max(done, total))

        yield show


def known_domains() -> tuple[Domain, ...]:
    """Return the domains whose keys are known here: the fifteen, the later ones, declared ones."""
    later = (extra.PersistStrategyAdapter.domain, extra.PersistDictionaryAdapter.domain)
    return tuple(
        dict.fromkeys((*DOMAINS, *later, *(declared.domain for declared in declared_domains())))
    )


def named_domain(name: str) -> Domain:
    """Return a domain by its name.

    Raises:
        InvalidArgumentError: There is none.
    """
    domains = {domain.name: domain for domain in known_domains()}
    if name not in domains:
        raise InvalidArgumentError("domain", f"no domain {name!r:.60}", hint=", ".join(domains))
    return domains[name]


def redacted(url: str | None) -> str:
    """Return scheme, hosts and database of a URL, without user, password and options."""
    if url is None:
        return "local"
    scheme = url.partition("://")[0]
    try:
        # As the clients read it: what they take for a host is none of the secrets.
        if scheme == "mongodb":
            parsed = parse_uri(url, warn=False)
            hosts = ",".join(
                host if port is None else f"{host}:{port}" for host, port in parsed["nodelist"]
            )
            return f"{scheme}://{hosts}/{parsed['database'] or ''}"
        parts = urlsplit(url)
        if scheme == "unix":
            return f"unix://{parts.path}"
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        return f"{scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except (PyMongoError, ValueError):
        return f"{scheme}://..."


@contextmanager
def named_errors(option: str, path: Path) -> Iterator[None]:
    """Name the option and the file at which the system fails.

    Raises:
        InvalidArgumentError: It has failed.
    """
    try:
        yield
    except OSError as error:
        raise InvalidArgumentError(option, f"{path}: {error.strerror or error}") from error


def refuse_irregular(option: str, path: Path) -> None:
    """Refuse what is there and no file: a pipe would be waited for, a device replaced.

    Raises:
        InvalidArgumentError: It is a directory, a pipe or a device.
    """
    if path.exists() and not path.is_file():
        raise InvalidArgumentError(option, f"{path} is no regular file")


@contextmanager
def unfinished_file(option: str, path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Give a path beside `path` that durably takes its place when the block has succeeded.

    Raises:
        InvalidArgumentError: It cannot be written, or is there and may not be replaced; the error
            names the option.
    """
    with named_errors(option, path):
        target = path.resolve()  # a link stays one
        # Of its own for each command: two of one name must not write into each other.
        unfinished = target.with_name(f".{target.name}.{token_hex(4)}.part")
        try:
            _check_target(option, path, overwrite)
            yield unfinished
            _check_target(option, path, overwrite)
            sync_file(unfinished)
            unfinished.replace(target)
            sync_directory(target.parent)
        finally:
            unfinished.unlink(missing_ok=True)


def _check_target(option: str, path: Path, overwrite: bool) -> None:
    refuse_irregular(option, path)
    if not overwrite and path.exists():
        raise InvalidArgumentError(option, f"{path} is there already", hint="or --overwrite")
