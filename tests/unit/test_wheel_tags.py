"""The wheels of a release, and the bounds that they are installed with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TREE = Path(__file__).parents[2]

PYTHONS = ("cp310", "cp311", "cp312", "cp313", "cp314")
PLATFORMS = (
    "manylinux_x86_64",
    "manylinux_aarch64",
    "musllinux_x86_64",
    "musllinux_aarch64",
    "macosx_x86_64",
    "macosx_arm64",
    "win_amd64",
)


def tool(name: str) -> ModuleType:
    """Load a program of ``tools/``, which is no package."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", TREE / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.version_info < (3, 11), reason="cibuildwheel needs Python 3.11")
def test_configuration_stands_for_these_wheels() -> None:
    expected = {f"{python}-{platform}" for python in PYTHONS for platform in PLATFORMS}
    found = tool("wheel_tags").identifiers()
    assert len(found) == len(expected) == 35
    assert set(found) == expected


@pytest.mark.parametrize(
    ("wheel", "identifier"),
    [
        (
            "f-1-cp310-cp310-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            "cp310-manylinux_x86_64",
        ),
        ("f-1-cp314-cp314-manylinux_2_28_aarch64.whl", "cp314-manylinux_aarch64"),
        ("f-1-cp311-cp311-musllinux_1_2_aarch64.whl", "cp311-musllinux_aarch64"),
        ("f-1-cp312-cp312-macosx_10_13_x86_64.whl", "cp312-macosx_x86_64"),
        ("f-1-cp313-cp313-macosx_11_0_arm64.whl", "cp313-macosx_arm64"),
        ("f-1-cp313-cp313-win_amd64.whl", "cp313-win_amd64"),
        ("f-1-cp314-cp314t-win_amd64.whl", "cp314t-win_amd64"),
        ("f-1-cp313-cp313-linux_x86_64.whl", "cp313-linux_x86_64"),
    ],
)
def test_a_file_name_tells_its_identifier(wheel: str, identifier: str) -> None:
    assert tool("wheel_tags").identifier_of(wheel) == identifier


def test_every_requirement_has_a_lower_bound() -> None:
    text = (TREE / "pyproject.toml").read_text(encoding="utf-8")
    found = tool("lower_bounds").lower_bounds(text)
    names = {line.partition("==")[0] for line in found}
    assert names >= {"pymongo", "redis", "hiredis", "orjson", "click", "numpy", "ccxt", "plotly"}
    assert "mypy" not in names


def test_a_requirement_without_lower_bound_is_refused() -> None:
    text = '[project]\ndependencies = ["pymongo<5"]\noptional-dependencies = {}\n'
    with pytest.raises(ValueError, match="pymongo"):
        tool("lower_bounds").lower_bounds(text)


def test_an_interpreter_without_pip_is_asked_for_an_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tool("wheels")
    asked: list[tuple[str, ...]] = []

    def call(*command: object, cwd: Path | None = None) -> str:
        asked.append(tuple(map(str, command)))
        for option, name in (("--outdir", "f-1.tar.gz"), ("--wheel-dir", "f-1-py3-none-any.whl")):
            if option in command:
                folder = Path(str(command[command.index(option) + 1]))
                folder.mkdir(parents=True)
                (folder / name).touch()
        return "said\n"

    monkeypatch.setattr(wheels, "call", call)
    monkeypatch.setattr(wheels, "pythons", lambda names: names)
    monkeypatch.setattr(wheels, "repair", lambda wheel, output: wheel)
    monkeypatch.setattr(wheels, "try_out", lambda own, wheel, folder: "tried")
    output = tmp_path / "dist"
    monkeypatch.setattr(sys, "argv", ["wheels", "--output", str(output), "other-python"])
    wheels.main()
    assert sorted(path.name for path in output.iterdir()) == ["f-1-py3-none-any.whl", "f-1.tar.gz"]
    assert [command[1:3] for command in asked if command[0] == "other-python"] == [("-m", "venv")]
    assert [command[3] for command in asked if command[2] == "pip"] == ["wheel"]
