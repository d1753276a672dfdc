"""What the operator's commands show: URLs without secrets, texts that a terminal survives."""

from __future__ import annotations

import json
import os
import stat
from datetime import datetime, timezone
from pathlib import Path

import pytest
from bson import Decimal128, ObjectId

from fastpersist.cli.toolbox import plain, printable, redacted, shown, unfinished_file


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "local"),
        ("mongodb://h/db", "mongodb://h:27017/db"),
        ("mongodb://u:hunter2@h1:1,h2:2/db?authSource=a@b", "mongodb://h1:1,h2:2/db"),
        ("mongodb://u:hunter2%40%2F@h", "mongodb://h:27017/"),
        ("mongodb://%2Ftmp%2Fm.sock/db", "mongodb:///tmp/m.sock/db"),
        ("mongodb://u:hunter2?x@h/db", "mongodb://..."),
        ("mongodb+srv://u:hunter2@h.example/db?w=1", "mongodb+srv://h.example/db"),
        ("redis://:hunter2@h:1/0", "redis://h:1/0"),
        ("rediss://user:hunter2@[::1]:1/0?ssl_ca_certs=x", "rediss://[::1]:1/0"),
        ("unix://u:hunter2@/tmp/r.sock?db=1", "unix:///tmp/r.sock"),
        ("redis://:hun/ter2@h:1", "redis://..."),
    ],
)
def test_urls_are_shown_without_secrets(url: str | None, expected: str) -> None:
    assert redacted(url) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grün 🟢", "grün 🟢"),
        ("\x1b[2J\r\n\x07", "\\x1b[2J\\r\\n\\x07"),
        ("a\u202eb\x9b", "a\\u202eb\\x9b"),
        ("\udcff", "\\udcff"),
    ],
)
def test_texts_cannot_move_the_cursor(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_markup_of_stored_texts_is_none() -> None:
    assert shown("[red]x[/]") == r"\[red]x\[/]"


def test_a_file_is_durable_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    synced: list[tuple[str, bool]] = []

    def note(handle: int) -> None:
        name = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        synced.append((name, path.exists()))

    monkeypatch.setattr("os.fsync", note)
    with unfinished_file("html", path) as unfinished:
        unfinished.write_text("whole")
    assert path.read_text() == "whole"
    assert synced == [("file", False), ("folder", True)]


def test_values_become_json() -> None:
    value = {
        "date": datetime(2025, 1, 1, tzinfo=timezone.utc),
        "bytes": b"\x00",
        "id": ObjectId("0" * 24),
        "nan": float("nan"),
        "list": [1, (2.5, None, True)],
        "decimal": Decimal128("1.5"),
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "date": "2025-01-01T00:00:00.000+00:00",
        "bytes": "AA==",
        "id": "0" * 24,
        "nan": "nan",
        "list": [1, [2.5, None, True]],
        "decimal": "1.5",
    }
