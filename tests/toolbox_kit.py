"""What the tests of the operator's commands share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from conftest import PATIENT_ENVIRON, Place
from fastpersist import Store
from fastpersist.cli import main

START = 1_735_689_600_000
STEP = 60_000


def environ(place: Place, database: str = "") -> dict[str, str]:
    """Return the environment of a command at a place, perhaps with another database."""
    name = database or place.name
    return {
        "FASTPERSIST_MONGO_URL": place.servers.database_url(name),
        "FASTPERSIST_REDIS_URL": place.servers.redis_url,
        "FASTPERSIST_REDIS_PREFIX": f"{place.name}:",
        # Unless a test has others.
        **{name: os.environ.get(name, value) for name, value in PATIENT_ENVIRON.items()},
    }


class Command:
    """Runs the command at a place, in this process."""

    def __init__(
        self, place: Place, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._place, self._patch, self._capsys = place, patch, capsys

    def __call__(self, *arguments: str, database: str = "") -> tuple[int, str, str]:
        """Return exit code, output and errors."""
        for name, value in environ(self._place, database).items():
            self._patch.setenv(name, value)
        self._capsys.readouterr()
        code = main(list(arguments))
        printed = self._capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    def json(self, *arguments: str, code: int = 0, database: str = "") -> Any:
        """Return what a command prints as JSON."""
        found, out, err = self(*arguments, "--json", database=database)
        assert found == code, err
        return json.loads(out)


def process(
    place: Place,
    arguments: Sequence[str],
    database: str = "",
    held_at: tuple[str, int] | None = None,
    **more: str,
) -> subprocess.Popen[str]:
    """Start the command in a process of its own, that stops itself where it is held."""
    program = ["-m", "fastpersist"]
    if held_at is not None:
        name, done = held_at
        program = [str(Path(__file__).with_name("held_command.py")), name, str(done), "--"]
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        env={**os.environ, **environ(place, database), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(command: subprocess.Popen[str], kind: int) -> tuple[str, str]:
    """Send a signal, let go on what is held, and return output and errors."""
    command.send_signal(kind)
    command.send_signal(signal.SIGCONT)
    return command.communicate(timeout=120)


def candles(count: int, first: int = 0) -> list[Any]:
    """Return closed candles of a minute each."""
    return [
        {
            "timestamp": START + (first + number) * STEP,
            "open": 1.5 + number / 7,
            "high": 3.25 + number / 7,
            "low": 1.0 + number / 7,
            "close": 2.0 + number / 7,
            "volume": 0.1 * number,
        }
        for number in range(count)
    ]


async def fill(store: Store) -> None:
    """Write something into each of the fifteen domains."""
    row: Any = {"id": "one", "position": "long", "priceOpen": 1.5, "note": "grün 🟢"}
    context = ("BTCUSDT", "ema", "binance")
    await store.candle.write_candles_data("BTCUSDT", "1m", "binance", candles(50))
    await store.signal.write_signal_data(*context, row)
    await store.schedule.write_schedule_data(*context, row)
    await store.risk.write_position_data("risk", "binance", [("one", {"a": 1})], START)
    await store.partial.write_partial_data(*context, "one", {"10": {"level": 1}}, START)
    await store.breakeven.write_breakeven_data(*context, "one", {"a": {"reached": True}}, START)
    await store.storage.write_storage_data(True, [row])
    await store.notification.write_notification_data(False, [row])
    await store.log.write_log_data([{"id": "l1", "message": "first"}])
    await store.measure.write_measure_data("b", "k", {"id": "m", "data": 1}, START)
    await store.interval.write_interval_data("b", "k", {"id": "m", "data": 1}, START)
    await store.memory.write_memory_data("one", "b", "m", {"id": "m", "data": {"x": 2**40}}, START)
    await store.recent.write_recent_data(*context, "", False, row, START)
    await store.state.write_state_data("one", "b", {"id": "s", "data": {"raw": b"\x00"}}, START)
    await store.session.write_session_data("ema", "binance", "", "BTCUSDT", False, {"a": 1}, START)


def content(place: Place, database: str = "") -> dict[str, list[bytes]]:
    """Return the bytes of all documents by collection, without what is empty."""
    options = CodecOptions(document_class=RawBSONDocument)
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        found = client[database or place.name]
        documents = {
            name: [
                document.raw
                for document in found.get_collection(name, options).find().sort("_id", 1)
            ]
            for name in sorted(found.list_collection_names())
        }
    return {name: rows for name, rows in documents.items() if rows}
