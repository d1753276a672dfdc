"""`fastpersist doctor` on real servers: what it sees, and what it repairs without losing a row."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import bson
import click
import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.database import Database
from redis import Redis

from conftest import Place, Servers
from fastpersist.domains import DOMAINS
from fastpersist.tools import doctor
from fastpersist.tools.backup import RESTORE_MARK, SCRATCH
from toolbox_kit import Command, content, environ, fill

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

LEGACY = {
    "candle-items": ["symbol", "interval", "timestamp"],
    "session-items": ["strategyName", "exchangeName", "frameName"],
}


@pytest.fixture
def mongo(place: Place) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        yield client[place.name]


def fill_store(place: Place) -> None:
    async def run() -> None:
        async with place.open() as store:
            await fill(store)

    asyncio.run(run())


@pytest.fixture
def filled(place: Place) -> None:
    fill_store(place)


@pytest.fixture
def legacy(mongo: Database[dict[str, Any]]) -> dict[str, str]:
    """Rows and indexes as an earlier version left them."""
    names = {}
    for collection, fields in LEGACY.items():
        names[collection] = mongo[collection].create_index([(f, 1) for f in fields], unique=True)
    mongo["candle-items"].insert_many(
        [
            {"exchangeName": "e", "symbol": "S", "interval": "1m", "timestamp": 60_000.0 * number}
            for number in range(500)
        ]
    )
    mongo["session-items"].insert_many(
        [
            {"strategyName": name, "exchangeName": "e", "frameName": "f", "payload": {}}
            for name in ("a", "b")
        ]
    )
    return names


def texts(found: dict[str, Any]) -> str:
    return "\n".join(finding["text"] for finding in found["findings"])


@pytest.mark.usefixtures("filled")
def test_a_healthy_store_has_no_problem(
    place: Place, mongo: Database[dict[str, Any]], fastpersist: Command
) -> None:
    before = content(place)
    found = fastpersist.json("doctor")
    assert found["problems"] == 0
    assert found["mongo"]["topology"] == "replica set"
    assert found["mongo"]["write_concern"] == {"w": "majority", "j": True}
    assert [member["state"] for member in found["mongo"]["members"]] == ["PRIMARY"]
    assert found["redis"]["mode"] == "standalone"
    assert all(taken > 0 for taken in found["latency_ms"].values())
    assert found["latency_ms"].keys() == {
        "mongo_ping", "mongo_find_by_id", "mongo_write", "redis_ping", "redis_get"
    }  # fmt: skip
    assert all(
        abs(skew) < 500 + uncertainty for skew, uncertainty in found["clock_skew_ms"].values()
    )
    assert len(found["indexes"]) == len(DOMAINS)
    assert all(not state["extra"] for state in found["indexes"])
    assert sum(sample["cached"] for sample in found["cache"]) == 64
    assert content(place) == before
    assert SCRATCH not in mongo.list_collection_names()
    code, out, err = fastpersist("doctor")
    assert (code, err) == (0, "")
    assert "no problem was found" in out


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_row_that_is_no_utf8_does_not_keep_the_doctor_from_looking(
    place: Place, mongo: Database[dict[str, Any]], fastpersist: Command, is_alone: bool
) -> None:
    if not is_alone:
        fill_store(place)
    sound = fastpersist.json("doctor", "--fix")
    for collection in ("candle-items", "signal-items"):
        names = {"symbol": "QQQQ", "strategyName": "t", "exchangeName": "e", "interval": "1m"}
        raw = bson.encode({"_id": ObjectId(), **names, "timestamp": 60_000})
        mongo[collection].insert_one(RawBSONDocument(raw.replace(b"QQQQ", b"Q\xff\xfeQ")))
    found = fastpersist.json("doctor")
    assert found["cache"] == sound["cache"]
    assert found["findings"] == sound["findings"]


def test_missing_indexes_are_named_and_made(
    mongo: Database[dict[str, Any]], fastpersist: Command
) -> None:
    found = fastpersist.json("doctor", code=1)
    assert found["problems"] == 15
    assert found["indexes"][1]["missing"] == ["symbol_1_strategyName_1_exchangeName_1"]
    assert mongo.list_collection_names() == []
    repaired = fastpersist.json("doctor", "--fix")
    assert repaired["problems"] == 0
    assert sum(len(repair["created"]) for repair in repaired["repairs"]) == 17
    information = mongo["log-items"].index_information()
    assert information["entryId_1"]["unique"]
    assert "createDate_-1__id_-1" in information


def test_indexes_of_node_are_not_extra_and_others_are(
    mongo: Database[dict[str, Any]], fastpersist: Command
) -> None:
    fastpersist.json("doctor", "--fix")
    for name in ("signalId", "bucketName", "removed", "when"):
        mongo["memory-items"].create_index(name)
    mongo["memory-items"].create_index([("signalId", 1), ("bucketName", 1), ("removed", 1)])
    mongo["notification-items"].create_index([("backtest", 1), ("createDate", -1)])
    mongo["memory-items"].create_index("payload.x")
    found = fastpersist.json("doctor")
    extra = {state["domain"]: state["extra"] for state in found["indexes"] if state["extra"]}
    assert extra == {"memory": ["payload.x_1"]}


def test_legacy_indexes_are_migrated_without_losing_a_row(
    place: Place, mongo: Database[dict[str, Any]], legacy: dict[str, str], fastpersist: Command
) -> None:
    before = content(place)
    found = fastpersist.json("doctor", code=1)
    states = {state["collection"]: state["legacy"] for state in found["indexes"]}
    assert {name: states[name] for name in legacy} == {n: [i] for n, i in legacy.items()}
    unasked = fastpersist.json("doctor", "--fix", code=1)
    assert unasked["problems"] == 2
    repaired = fastpersist.json("doctor", "--fix", "--yes")
    dropped = {r["collection"]: r["dropped"] for r in repaired["repairs"] if r["dropped"]}
    assert dropped == {name: [index] for name, index in legacy.items()}
    session = next(r for r in repaired["repairs"] if r["collection"] == "session-items")
    assert session["unreachable"] == 2
    assert content(place) == before

    async def second_symbol() -> None:
        async with place.open() as store:
            for symbol in ("A", "B"):
                await store.session.write_session_data("a", "e", "f", symbol, True, {"s": 1}, 1)

    asyncio.run(second_symbol())
    assert mongo["session-items"].count_documents({}) == 4


@pytest.mark.parametrize("answer", [True, False, None])
def test_nothing_is_dropped_unasked(
    legacy: dict[str, str],
    mongo: Database[dict[str, Any]],
    fastpersist: Command,
    monkeypatch: pytest.MonkeyPatch,
    answer: bool | None,
) -> None:
    asked: list[str] = []

    def confirm(text: str, **options: Any) -> bool:
        asked.append(text)
        if answer is None:
            raise click.Abort
        return answer

    monkeypatch.setattr(click, "confirm", confirm)
    code, out, _ = fastpersist("doctor", "--fix")
    assert len(asked) == 2
    assert code == (0 if answer else 1)
    for collection, index in legacy.items():
        assert (index in mongo[collection].index_information()) is (not answer)
        assert (f"dropped {index}" in out) is bool(answer)


def test_rows_that_the_new_index_would_refuse_are_named(
    place: Place, mongo: Database[dict[str, Any]], fastpersist: Command
) -> None:
    mongo["session-items"].create_index("payload.run", unique=True, name="odd")
    rows = [
        {"strategyName": "a", "exchangeName": "e", "frameName": "f", "payload": {"run": number}}
        for number in range(3)
    ]
    rows[1]["symbol"] = None  # to a unique index as good as absent
    ids = mongo["session-items"].insert_many(rows).inserted_ids
    before = content(place)
    found = fastpersist.json("doctor", "--fix", "--yes", code=1)
    repair = next(r for r in found["repairs"] if r["collection"] == "session-items")
    (violation,) = repair["violations"]
    assert violation["rows"] == 3
    assert violation["context"]["strategyName"] == "a"
    assert violation["ids"] == [str(ids[0]), str(ids[2])]
    assert repair["created"] == repair["dropped"] == []
    assert "odd" in mongo["session-items"].index_information()
    assert content(place) == before
    code, out, _ = fastpersist("doctor", "--fix", "--yes")
    assert code == 1
    assert str(ids[0]) in out
    assert "nothing was changed" in out


def test_a_migration_that_was_cut_short_is_finished(
    mongo: Database[dict[str, Any]],
    legacy: dict[str, str],
    fastpersist: Command,
) -> None:
    fields = ["strategyName", "exchangeName", "frameName", "symbol", "backtest"]
    mongo["session-items"].create_index([(name, 1) for name in fields], unique=True)
    found = fastpersist.json("doctor", "--fix", "--yes")
    repair = next(r for r in found["repairs"] if r["collection"] == "session-items")
    assert (repair["created"], repair["dropped"]) == ([], [legacy["session-items"]])


def test_an_index_that_is_not_unique_makes_way_for_one_that_is(
    mongo: Database[dict[str, Any]], fastpersist: Command
) -> None:
    name = mongo["log-items"].create_index("entryId")
    assert "log-items: the index entryId_1, " in texts(fastpersist.json("doctor", code=1))
    assert fastpersist.json("doctor", "--fix", code=1)["problems"] == 1
    assert fastpersist.json("doctor", "--fix", "--yes")["problems"] == 0
    information = mongo["log-items"].index_information()
    assert name not in information
    assert information["entryId_1_unique"]["unique"]


@pytest.mark.usefixtures("filled")
def test_wrong_ids_and_an_unfinished_restore_are_problems(
    place: Place, mongo: Database[dict[str, Any]], fastpersist: Command
) -> None:
    prefix = f"{place.name}:"
    twin = mongo["signal-items"].insert_one(
        {"symbol": "c:d", "strategyName": "a", "exchangeName": "b"}
    )
    mongo["signal-items"].insert_one({"symbol": "d", "strategyName": "a:c", "exchangeName": "b"})
    with Redis.from_url(place.servers.redis_url) as redis:
        redis.set(f"{prefix}signal_cache:b:a:c:d", str(twin.inserted_id))
        redis.set(f"{prefix}state_cache:one:b", str(ObjectId()))
        redis.set(f"{prefix}risk_cache:binance:risk", "undefined")
        redis.delete(f"{prefix}log_cache:l1")
    mongo[RESTORE_MARK].insert_one({"_id": "restore"})
    found = fastpersist.json("doctor", code=1)
    samples = {sample["domain"]: sample for sample in found["cache"]}
    assert samples["signal"]["wrong_ids"] == 0
    assert samples["state"]["wrong"] == [f"{prefix}state_cache:one:b"]
    assert samples["risk"]["wrong_ids"] == samples["log"]["absent"] == 1
    assert found["problems"] == 3
    assert "has begun and not ended" in texts(found)


@pytest.mark.usefixtures("filled")
def test_a_redis_that_does_not_answer_is_a_problem(fastpersist: Command) -> None:
    arguments = ("doctor", "--redis-url", "redis://user:hunter2@127.0.0.1:1/0")
    found = fastpersist.json(*arguments, code=1)
    assert found["redis"] == {}
    assert found["redis_url"] == "redis://127.0.0.1:1/0"
    assert found["latency_ms"]["redis_get"] is None
    assert found["problems"] == 1
    code, out, err = fastpersist(*arguments)
    assert code == 1
    assert "hunter2" not in out + err


@pytest.mark.usefixtures("filled")
def test_redis_is_looked_at_where_mongodb_does_not_answer(
    fastpersist: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTPERSIST_START_TIMEOUT", "6")
    arguments = ("doctor", "--fix", "--mongo-url", "mongodb://user:hunter2@127.0.0.1:1/x")
    found = fastpersist.json(*arguments, code=1)
    assert found["mongo"] == {}
    assert found["redis"]["version"]
    assert found["latency_ms"].keys() == {"redis_ping", "redis_get"}
    assert all(found["latency_ms"].values())
    (finding,) = found["findings"]
    assert "no primary within 6.0 s: " in finding["text"]
    assert "is mongo_url right?" in finding["cure"]
    monkeypatch.setenv("FASTPERSIST_START_TIMEOUT", "1")
    code, out, err = fastpersist(*arguments, "--redis-url", "redis://user:hunter2@127.0.0.1:1/0")
    assert code == 1
    assert out.count("problem: ") == 2
    assert "hunter2" not in out + err


def test_a_standalone_server_is_noted(standalone_servers: Servers, fastpersist: Command) -> None:
    place = Place(standalone_servers, f"t{random.getrandbits(60):x}")
    fastpersist._place = place
    try:
        found = fastpersist.json("doctor", "--fix")
        assert found["mongo"]["topology"] == "standalone"
        assert "standalone server" in texts(found)
    finally:
        place.drop()


def test_a_clock_that_is_off_is_a_problem(
    fastpersist: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastpersist.json("doctor", "--fix")
    now = doctor.time.time
    monkeypatch.setattr(doctor.time, "time", lambda: now() - 5)
    found = fastpersist.json("doctor", code=1)
    assert found["problems"] == 2
    skew, uncertainty = found["clock_skew_ms"]["mongo"]
    assert abs(skew - 5_000) < 100 + uncertainty
    skew, _ = found["clock_skew_ms"]["redis"]
    assert f"the clock of redis differs by {skew / 1000:.1f} s" in texts(found)


def test_a_url_with_another_replica_set_is_told(
    place: Place, fastpersist: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The driver has to have asked the host once by then.
    monkeypatch.setenv("FASTPERSIST_START_TIMEOUT", "5")
    host = place.servers.mongo_url.partition("://")[2].partition("/")[0]
    code, out, err = fastpersist("doctor", "--mongo-url", f"mongodb://{host}/x?replicaSet=rs9")
    assert (code, err) == (1, "")
    assert "problem: mongo: no primary within 5.0 s: no host is of replica set 'rs9' -> " in out


def test_mistakes(fastpersist: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTPERSIST_START_TIMEOUT", "1")
    for arguments, message in [
        (["doctor", "--mongo-url", "hunter2"], "mongo_url: not a MongoDB connection string"),
        (["doctor", "--seconds", "0"], "Invalid value for '--seconds'"),
    ]:
        code, out, err = fastpersist(*arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert "hunter2" not in err


@pytest.mark.parametrize("closing", ["", "<&-"])
def test_a_question_that_nobody_can_answer_is_no(
    place: Place, legacy: dict[str, str], mongo: Database[dict[str, Any]], closing: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m fastpersist doctor --fix {closing}', sys.executable],
        env={**os.environ, **environ(place)}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    for collection, index in legacy.items():
        assert index in mongo[collection].index_information()


def test_ctrl_c_at_the_question_ends_the_command(
    place: Place, legacy: dict[str, str], mongo: Database[dict[str, Any]]
) -> None:
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "fastpersist", "doctor", "--fix"],
        env={**os.environ, **environ(place)}, stdin=theirs, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert command.stderr is not None
    try:
        asked = b""
        while b"[y/N]" not in asked:
            asked += os.read(command.stderr.fileno(), 4096)
        command.send_signal(signal.SIGINT)
        # The signal itself ends it, which a shell tells as 130.
        assert command.wait(60) == -signal.SIGINT
    finally:
        command.kill()
        command.wait()
        command.stderr.close()
        os.close(ours)
        os.close(theirs)
    for collection, index in legacy.items():
        assert index in mongo[collection].index_information()


def test_a_repair_that_ends_at_any_step_is_repeated_without_losing_a_row(
    place: Place,
    legacy: dict[str, str],
    mongo: Database[dict[str, Any]],
    fastpersist: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = content(place)
    left = ends = 0

    def ending(step: Any) -> Any:
        async def run(*args: Any, **options: Any) -> Any:
            nonlocal left
            if not left:
                raise asyncio.CancelledError
            left -= 1
            return await step(*args, **options)

        return run

    for name in ("create_indexes", "drop_index"):
        monkeypatch.setattr(AsyncCollection, name, ending(getattr(AsyncCollection, name)))
    # The first ends before anything is made or dropped, each later one gets one step further.
    while (code := fastpersist("doctor", "--fix", "--yes")[0]) == 130:
        assert content(place) == before
        ends, left = ends + 1, 1
    assert code == 0
    assert ends > 3
    assert content(place) == before
    for collection, index in legacy.items():
        found = mongo[collection].index_information()
        assert index not in found
        assert any(options.get("unique") for options in found.values())
