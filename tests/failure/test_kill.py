"""Runs that are killed with SIGKILL end as if they had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from candle_rows import random_walk, write_csv
from conftest import PATIENT_ENVIRON, Place

STRATEGY = Path(__file__).parent.parent / "strategies" / "busy.py"
DYING = Path(__file__).with_name("killed_at_delete.py")
KILLS, BARS = 50, 6_000
OWN_FIELDS = ("_id", "createDate", "updatedDate")


def command(
    place: Place, candles: Path, database: str, *options: str, dies_at: int = 0
) -> subprocess.Popen[str]:
    """Start a run of the busy strategy, which may die at a deletion."""
    environ = {
        **os.environ,
        **PATIENT_ENVIRON,
        "FASTPERSIST_MONGO_URL": place.servers.database_url(database),
        "FASTPERSIST_REDIS_URL": place.servers.redis_url,
        "FASTPERSIST_REDIS_PREFIX": f"{database}:",
    }
    program = [str(DYING), str(dies_at)] if dies_at else ["-m", "fastpersist"]
    arguments = ["run", str(STRATEGY), "--candles", str(candles), "--json", *options]
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, Any], float]:
    """Return the summary of a run that ends by itself, and how many seconds it took."""
    started = time.monotonic()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    result: dict[str, Any] = json.loads(output)
    return result, time.monotonic() - started


def stored(place: Place, database: str) -> dict[str, list[Any]]:
    """Return what all collections hold, without what differs between any two runs."""
    content: dict[str, list[Any]] = {}
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        for name in sorted(client[database].list_collection_names()):
            rows = [
                {field: value for field, value in row.items() if field not in OWN_FIELDS}
                for row in client[database][name].find()
            ]
            content[name] = sorted(rows, key=lambda row: json.dumps(row, default=str))
    return content


def sessions(place: Place, database: str) -> list[Any]:
    """Return where a run carries on."""
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        return list(client[database]["session-items"].find())


def test_a_run_killed_fifty_times_ends_like_an_undisturbed_one(
    place: Place, tmp_path: Path
) -> None:
    choice = random.Random(20)
    candles = tmp_path / "ABC-1m.csv.gz"
    write_csv(candles, random_walk(BARS, seed=4))
    undisturbed_database = f"{place.name}u"
    try:
        undisturbed, lasted = finish(command(place, candles, undisturbed_database))
        again, to_start = finish(command(place, candles, undisturbed_database))
        assert again["resumed_from"] == again["bars"] == undisturbed["bars"]
        for number in range(KILLS):
            position = sessions(place, place.name)
            process = command(place, candles, place.name)
            if number % 2:
                # The machine may be slower now than it was: some shall get on in any case.
                while sessions(place, place.name) == position and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(choice.uniform(0, (lasted - to_start) / 10))
            else:
                # From the middle of the start on, and some steps below what a whole run takes.
                time.sleep(choice.uniform(0.5 * to_start, to_start + (lasted - to_start) / 5))
            process.kill()
            process.communicate()
        disturbed, _ = finish(command(place, candles, place.name))
        expected, found = stored(place, undisturbed_database), stored(place, place.name)
    finally:
        with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
            client.drop_database(undisturbed_database)
    assert disturbed["resumed_from"] > 0
    for name in ("symbols", "bars", "open_positions", "is_finished", "share_done", "frame"):
        assert disturbed[name] == undisturbed[name], name
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name
    for name in ("storage-items", "partial-items", "breakeven-items", "memory-items", "log-items"):
        assert len(expected[name]) > 5, name


def test_a_fresh_run_killed_while_it_deletes_ends_like_an_undisturbed_one(
    place: Place, tmp_path: Path
) -> None:
    candles = tmp_path / "ABC-1m.csv.gz"
    write_csv(candles, random_walk(BARS, seed=4))
    undisturbed_database = f"{place.name}u"
    foreign = {"id": "node", "symbol": "ABC", "strategyName": "busy", "timestamp": 1}
    collections = {
        "storage-items": {"backtest": True, "signalId": "node"},
        "notification-items": {"backtest": True, "notificationId": "node"},
        "log-items": {"entryId": "node"},
        "state-items": {"signalId": "busy_ABC", "bucketName": "asked"},
        "measure-items": {"bucket": "mood", "entryKey": "node"},
    }
    try:
        with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
            for database in (place.name, undisturbed_database):
                first, _ = finish(command(place, candles, database))
                for name, key in collections.items():
                    client[database][name].insert_one({**key, "payload": foreign})
        undisturbed, _ = finish(command(place, candles, undisturbed_database, "--fresh"))
        for number in range(KILLS):
            fresh = () if number else ("--fresh",)
            process = command(place, candles, place.name, *fresh, dies_at=1 + number)
            output, errors = process.communicate(timeout=300)
            if not process.returncode:
                break
            assert process.returncode == -signal.SIGKILL, errors
        disturbed = json.loads(output)
        expected, found = stored(place, undisturbed_database), stored(place, place.name)
    finally:
        with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
            client.drop_database(undisturbed_database)
    assert number > 5
    assert disturbed["run"] == undisturbed["run"] != first["run"]
    assert disturbed["symbols"] == undisturbed["symbols"]
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name
        assert first["run"] not in json.dumps(found[name], default=str), name
        if name in collections:
            assert any(row.get("payload") == foreign for row in found[name]), name


def test_a_fresh_run_that_is_ended_while_it_deletes_goes_on_with_the_next(
    place: Place, tmp_path: Path
) -> None:
    candles = tmp_path / "ABC-1m.csv.gz"
    write_csv(candles, random_walk(60, seed=4))
    first, _ = finish(command(place, candles, place.name))
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        lines = client[place.name]["log-items"]
        payload = {"run": {"id": first["run"]}}
        count = 100_000
        lines.insert_many({"entryId": f"n{n}", "payload": payload} for n in range(count))
        process = command(place, candles, place.name, "--fresh")
        while process.poll() is None and lines.count_documents({}) > count - 5_000:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM, errors
        assert lines.count_documents({"payload.run.id": first["run"]}) > 1_000
        cursors = [
            {"$currentOp": {"idleCursors": True}},
            {"$match": {"type": "idleCursor", "ns": f"{place.name}.log-items"}},
        ]
        assert not list(client.admin.aggregate(cursors))
        second, _ = finish(command(place, candles, place.name))
        assert second["run"] != first["run"]
        assert not lines.count_documents({"payload.run.id": first["run"]})
