"""What is in the sdist and in the wheel that is made of it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
FAMILIES = ("bson", "codec", "columns", "idcache", "keys")
EXTRAS = {"arrow", "ccxt", "cli", "dev", "docs", "local", "numpy", "pandas", "polars", "report"}

# Seen with GCC 12 on x86-64: sdist 0.9 MB, wheel 1.8 MB, or 0.2 MB without compiled modules.
MOST_SDIST_BYTES, MOST_WHEEL_BYTES = 1_500_000, 3_000_000


def build(*arguments: str, environ: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *arguments],
        check=False, capture_output=True, text=True, timeout=500, env=environ, cwd=TREE.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    # Optimising takes most of the time and changes nothing that is looked at here.
    return {**os.environ, "CFLAGS": "-O1 -g0"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    build("--sdist", "--outdir", str(folder), str(TREE), environ=environ)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    tree = next(folder.glob("fastpersist-*"))
    build("--wheel", "--outdir", str(folder), str(tree), environ=environ)
    return next(folder.glob("*.whl"))


def test_sdist_has_the_sources_and_no_generated_c(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/fastpersist/hot/_{family}_c.pyx" for family in FAMILIES} <= names
    assert {f"src/fastpersist/hot/_{family}_py.py" for family in FAMILIES} <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= names
    # What cibuildwheel tests a wheel with is taken from here.
    assert {"tests/conftest.py", "tools/check_wheel.py", "examples/ema_cross.py"} <= names
    assert not [name for name in names if name.endswith((".c", ".so", ".pyd", ".pyc"))]
    assert not [name for name in names if name.startswith(("build/", ".venv"))]
    assert not [name for name in names if name.endswith("/.env")]
    assert sdist.stat().st_size < MOST_SDIST_BYTES


def test_wheel_has_what_runs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    is_compiled = "none-any" not in wheel.name
    assert is_compiled != bool(os.environ.get("FASTPERSIST_NO_EXTENSIONS"))
    if is_compiled:
        for family in FAMILIES:
            assert [name for name in names if name.startswith(f"fastpersist/hot/_{family}_c.")]
    assert "fastpersist/py.typed" in names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert not [name for name in names if name.endswith((".c", ".h", ".pyx", ".pxd", ".pyc"))]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastpersist"}
    sources = {str(path.relative_to(TREE / "src")) for path in (TREE / "src").rglob("*.py")}
    assert sources <= names
    assert wheel.stat().st_size < MOST_WHEEL_BYTES


def test_wheel_tells_extras_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert metadata["Version"] == importlib.metadata.version("fastpersist")
