"""The file family against the tree that the Node framework wrote (contract 5, golden data)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastpersist.adapters.files import FilesBackend
from fastpersist.adapters.json_text import from_json, to_json
from fastpersist.registry import Registries
from interop_calls import FIXTURES, answer, as_call, entries, perform

GOLDEN = FIXTURES / "dump"
READS = ("read", "has", "list")


def registries_on(folder: Path) -> Registries:
    registries = Registries()
    registries.use_backend(FilesBackend(folder, look_ahead="allow"))
    return registries


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "strategy" not in path.relative_to(folder).parts[:2]
    }


def last_answers() -> dict[str, dict[str, Any]]:
    """Return the last read of each kind and context that no write follows."""
    last: dict[str, dict[str, Any]] = {}
    written: dict[str, int] = {}
    for entry in entries():
        if entry["op"] in READS:
            last[json.dumps([entry["method"], entry["args"]])] = entry
        else:
            written[entry["domain"]] = entry["n"]
    return {key: entry for key, entry in last.items() if entry["n"] > written[entry["domain"]]}


async def test_golden_calls_leave_the_golden_tree(tmp_path: Path) -> None:
    registries = registries_on(tmp_path)
    for entry in entries():
        if entry["op"] not in READS:
            await perform(registries, entry)
    assert tree(tmp_path) == tree(GOLDEN)


async def test_golden_calls_get_the_golden_answers(tmp_path: Path) -> None:
    registries = registries_on(tmp_path)
    for entry in entries():
        result = await perform(registries, entry)
        assert result == answer(entry, "file"), entry["n"]
    assert tree(tmp_path) == tree(GOLDEN)


@pytest.mark.parametrize("entry", last_answers().values(), ids=lambda entry: str(entry["n"]))
async def test_golden_tree_is_read(entry: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "dump")
    registries = registries_on(tmp_path / "dump")
    assert await perform(registries, entry) == answer(entry, "file")


@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("*.json")), ids=lambda path: path.name)
def test_golden_text_survives_reading_and_writing(path: Path) -> None:
    text = path.read_bytes()
    assert to_json(from_json(text)) == text


def test_arguments_are_put_in_our_order() -> None:
    entry = {
        "n": 1,
        "domain": "session",
        "method": "writeSessionData",
        "args": [
            {"a": "Infinity"},
            "s",
            "e",
            "f",
            {"$date": "2025-01-01T00:00:00.000Z"},
            "X",
            True,
        ],
    }
    registry, method, args = as_call(entry)
    assert (registry, method) == ("session", "write_session_data")
    assert args[:5] == ("s", "e", "f", "X", True)
    assert args[5] == {"a": float("inf")}
    assert args[6].isoformat() == "2025-01-01T00:00:00+00:00"
