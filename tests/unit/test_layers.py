"""The arrows between the rooms, as ARCHITECTURE.md has them: who may import what of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fastpersist

ROOT = Path(fastpersist.__file__).parent
FACES = {"cli", "tools", "sync"}
FORBIDDEN = {
    "services": {"adapters", "registry", "store", "runner", *FACES},
    "adapters": {"registry", "store", "runner", *FACES},
    "runner": {"services", "store", *FACES},
    "sync": {"runner", "tools", "cli"},
    "tools": {"cli", "sync"},
}


def imports(room: str) -> set[tuple[str, str]]:
    """Return file and module, relative to the package, of all imports of other rooms."""
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        inside = ("fastpersist", *path.relative_to(ROOT).parts[:-1])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = [*inside[: len(inside) - node.level + 1], *(node.module or "").split(".")]
            names = [""] if node.module else [alias.name for alias in node.names]
            for name in names:
                module = ".".join(filter(None, (*base[1:], name)))
                if module.partition(".")[0] != room:
                    found.add((path.relative_to(ROOT).as_posix(), module))
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_arrows_point_down(room: str) -> None:
    found = imports(room)
    assert found
    wrong = {
        (file, module) for file, module in found if module.partition(".")[0] in FORBIDDEN[room]
    }
    assert wrong == set()


def test_hot_modules_know_the_errors_alone() -> None:
    assert {module for _, module in imports("hot")} == {"errors"}


def test_a_runner_knows_of_the_adapters_what_it_deletes_with() -> None:
    found = {(file, module) for file, module in imports("runner") if module.startswith("adapters")}
    assert found == {("runner/erasure.py", "adapters.backend")}
