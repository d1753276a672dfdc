"""`fastpersist inspect` and `tail` on real servers."""

from __future__ import annotations

import asyncio
import json
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import aclosing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.database import Database

from conftest import Place, Servers
from fastpersist.domains import SIGNAL
from fastpersist.local import LocalServers
from fastpersist.settings import Settings
from fastpersist.tools.connection import connected
from fastpersist.tools.rows import RowQuery, current_moment, follow_rows
from toolbox_kit import START, STEP, Command, fill, process

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

NOW = datetime(2025, 6, 1, tzinfo=timezone.utc)


@pytest.fixture
def mongo(place: Place) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        yield client[place.name]


@pytest.fixture
def signals(mongo: Database[dict[str, Any]]) -> Database[dict[str, Any]]:
    mongo["signal-items"].insert_many([signal_row(number) for number in range(50)])
    return mongo


def signal_row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "symbol": f"S{number % 5}",
        "strategyName": f"t{number}",
        "exchangeName": "e",
        "payload": {"id": str(number), "position": ("long", "short")[number % 2], "size": number},
        "createDate": NOW,
        "updatedDate": NOW + timedelta(seconds=number * 7 % 50),
        **fields,
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--limit", "4"), [7, 14, 21, 28]),
        (("S1",), [1, 6, 11, 16, 21, 26, 31, 36, 41, 46]),
        (("S1", "t21"), [21]),
        (("S1", "t21", "other"), []),
        (("S1", "--where", "position=long"), [6, 16, 26, 36, 46]),
        (("--where", "payload.size=13"), [13]),
        (("--where", "size=13", "--where", "position=long"), []),
        (("--where", "id=13"), [13]),
        (("--where", "strategyName=t3"), [3]),
        (("S1", "--since", "2025-06-01T00:00:40Z"), [21, 6]),
    ],
)
@pytest.mark.usefixtures("signals")
def test_rows_are_found_newest_first(
    fastpersist: Command, arguments: tuple[str, ...], expected: list[int]
) -> None:
    found = fastpersist.json("inspect", "signal", *arguments)
    numbers = [int(row["value"]["id"]) for row in found["rows"]]
    assert numbers == sorted(expected, key=lambda number: number * 7 % 50, reverse=True)


@pytest.mark.parametrize("limit", [1, 3, 49, 50, 60])
@pytest.mark.usefixtures("signals")
def test_there_are_never_more_rows_than_asked_for(fastpersist: Command, limit: int) -> None:
    found = fastpersist.json("inspect", "signal", "--limit", str(limit))
    assert len(found["rows"]) == min(limit, 50)
    _, out, _ = fastpersist("inspect", "signal", "--limit", str(limit))
    assert len(out.splitlines()) == min(limit, 50)


@pytest.mark.usefixtures("signals")
def test_that_nothing_was_found_is_said_beside_the_output(fastpersist: Command) -> None:
    for arguments in (("BTCUSD",), ("--where", "nosuch=1")):
        assert fastpersist("inspect", "signal", *arguments) == (
            0,
            "",
            "no row of signal was found\n",
        )
    assert fastpersist("inspect", "signal", "--limit", "1")[2] == ""


def test_every_domain_can_be_looked_at(place: Place, fastpersist: Command) -> None:
    async def run() -> None:
        async with place.open() as store:
            await fill(store)

    asyncio.run(run())
    for domain in (
        "candle", "signal", "schedule", "risk", "partial", "breakeven", "storage", "notification",
        "log", "measure", "interval", "memory", "recent", "state", "session",
    ):  # fmt: skip
        found = fastpersist.json("inspect", domain, "--limit", "1")
        assert len(found["rows"]) == 1, domain
        assert found["rows"][0]["value"], domain
    candle = fastpersist.json("inspect", "candle", "BTCUSDT", "1m", "binance", "--limit", "2")
    times = [row["context"]["timestamp"] for row in candle["rows"]]
    assert times == [START + 49 * STEP, START + 48 * STEP]
    assert fastpersist.json("inspect", "recent", "BTCUSDT", "ema", "binance", "", "live")["rows"]
    assert not fastpersist.json("inspect", "storage", "live")["rows"]
    assert len(fastpersist.json("inspect", "storage", "backtest")["rows"]) == 1
    since = fastpersist.json("inspect", "candle", "--since", str(START + 47 * STEP))
    assert len(since["rows"]) == 3
    assert fastpersist.json("inspect", "log", "--since", "5m")["rows"]
    assert not fastpersist.json("inspect", "strategy")["rows"]
    assert fastpersist.json("inspect", "state")["rows"][0]["value"]["data"] == {"raw": "AA=="}


def test_hostile_rows_do_no_harm_to_a_terminal(
    mongo: Database[dict[str, Any]], fastpersist: Command
) -> None:
    evil = "\x1b[2J\x1b]0;x\x07\u202e[red]\r\n"
    mongo["signal-items"].insert_many(
        [
            signal_row(1, symbol=evil, payload={evil: evil, "nan": float("nan"), "n": ObjectId()}),
            {"_id": "text", "payload": [1, {"a": b"\x00"}], "updatedDate": "soon"},
            {"_id": {"a": 1}, "symbol": 7, "when": float("inf"), "payload": "x" * 100_000},
            {"_id": 3, "when": float("nan"), "backtest": 1},
        ]
    )
    code, out, err = fastpersist("inspect", "signal")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 4
    assert not set(out) & set("\x1b\x07\u202e\r")
    assert "[red]" in out
    assert max(map(len, out.splitlines())) < 200
    rows = fastpersist.json("inspect", "signal")["rows"]
    assert (
        next(row for row in rows if row["value"] and "nan" in row["value"])["value"]["nan"] == "nan"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["signal", "a", "b", "c", "d"], "signal has at most: SYMBOL STRATEGY_NAME EXCHANGE_NAME"),
        (["nothing"], "domain: no domain 'nothing'"),
        (["signal", "--limit", "0"], "Invalid value for '--limit'"),
        (["signal", "--limit", "1000000"], "Invalid value for '--limit'"),
        (["signal", "--where", "position"], "expected FIELD=VALUE"),
        (["signal", "--where", "$where=1"], "expected FIELD=VALUE"),
        (["signal", "--where", "payload.$gt=1"], "expected FIELD=VALUE"),
        (["signal", "--where", "a..b=1"], "expected FIELD=VALUE"),
        (["signal", "--where", "a=1", "--where", "a=2"], "is there twice"),
        (["signal", "--since", "soon"], "since: not a time: 'soon'"),
        (["signal", "--since", "9" * 30], "since: does not fit"),
        (["storage", "maybe"], "backtest: must be backtest or live"),
        (["candle", "S", "1m", "e", "-1.5"], "No such option"),
        (["candle", "S", "1m", "e", "noon"], "timestamp: must be ms"),
        (["signal", "a\0b"], "symbol: holds a NUL"),
        (["signal", "\udcff"], "symbol: is no text in UTF-8"),
    ],
)
def test_mistakes(fastpersist: Command, arguments: list[str], message: str) -> None:
    for command in ("inspect", "tail"):
        if command == "tail" and {"--limit", "--since"} & set(arguments):
            continue
        code, out, err = fastpersist(command, *arguments)
        assert (code, out) == (2, "")
        assert message in err.replace("\n", " ")


@pytest.mark.usefixtures("signals")
def test_values_that_look_like_operators_are_texts(fastpersist: Command) -> None:
    found = fastpersist.json("inspect", "signal", '{"$gt": ""}', "--where", 'id={"$gt":""}')
    assert found["rows"] == []


class Tail:
    """`fastpersist tail` in a process of its own."""

    def __init__(self, place: Place, *arguments: str, **more: str) -> None:
        self.process = process(place, ["tail", *arguments, "--json"], **more)
        self._lines: queue.Queue[str] = queue.Queue()
        self._notices: queue.Queue[str] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=reading, daemon=True)
            for reading in (
                (self.process.stdout, self._lines), (self.process.stderr, self._notices),
            )
        ]  # fmt: skip
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: IO[str], lines: queue.Queue[str]) -> None:
        for line in stream:
            lines.put(line)

    def next(self, seconds: float = 60.0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._lines.get(timeout=seconds))
        return found

    def notice(self) -> str:
        return self._notices.get(timeout=60)

    def is_silent(self, seconds: float = 1.5) -> bool:
        try:
            self._lines.get(timeout=seconds)
        except queue.Empty:
            return True
        return False

    def end(self, number: int = signal.SIGINT) -> str:
        self.process.send_signal(number)
        assert self.process.wait(timeout=60) == 0
        for reader in self._readers:
            reader.join()
        errors = "".join(self._notices.queue)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        assert "Traceback" not in errors
        return errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tail_shows_what_is_written(
    place: Place, signals: Database[dict[str, Any]], number: int
) -> None:
    tail = Tail(place, "signal", "--limit", "2")
    try:
        first = [tail.next()["value"]["id"] for _ in range(2)]
        assert first == ["14", "7"]
        rows = signals["signal-items"]
        later = datetime.now(timezone.utc)
        rows.insert_one(signal_row(99, updatedDate=later))
        assert (found := tail.next())["value"]["id"] == "99"
        assert found["change"] == "insert"
        rows.update_one(
            {"strategyName": "t99"},
            {"$set": {"payload.id": "100", "updatedDate": later + timedelta(milliseconds=1)}},
        )
        assert (found := tail.next())["value"]["id"] == "100"
        assert found["change"] == "update"
        rows.delete_one({"strategyName": "t99"})
        assert tail.next()["change"] == "delete"
        assert tail.is_silent()
        rows.drop()
        rows.insert_one(signal_row(101, updatedDate=later))
        assert tail.next()["value"]["id"] == "101"
        assert tail.end(number) == ""
    finally:
        tail.process.kill()


async def test_nothing_is_missed_between_a_drop_and_the_next_stream(
    place: Place, signals: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, watch, opened = signals["signal-items"], AsyncCollection.watch, []

    async def late(self: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(options)
        if len(opened) == 2:
            rows.insert_one(signal_row(101))
        return await watch(self, *arguments, **options)

    monkeypatch.setattr(AsyncCollection, "watch", late)
    query = RowQuery(domain=SIGNAL)
    async with connected(Settings.load(**place.settings)) as container:
        changes = follow_rows(container, query, await current_moment(container))
        async with aclosing(changes):
            rows.drop()
            found = await asyncio.wait_for(anext(changes), 60)
    assert found.value["id"] == "101"


def test_tail_filters(place: Place, signals: Database[dict[str, Any]]) -> None:
    tail = Tail(place, "signal", "S1", "--where", "position=long", "--limit", "1")
    try:
        assert tail.next()["value"]["id"] == "6"
        later = datetime.now(timezone.utc)
        for number in (51, 52, 56):
            signals["signal-items"].insert_one(signal_row(number, updatedDate=later))
        assert tail.next()["value"]["id"] == "56"
        signals["signal-items"].delete_many({})
        assert tail.is_silent()
        tail.end()
    finally:
        tail.process.kill()


def test_tail_asks_a_standalone_server(standalone_servers: Servers) -> None:
    place = Place(standalone_servers, f"t{uuid.uuid4().hex[:16]}")
    try:
        with MongoClient[dict[str, Any]](standalone_servers.mongo_url) as client:
            rows = client[place.name]["signal-items"]
            rows.insert_one(signal_row(1))
            rows.insert_one(signal_row(2, updatedDate=datetime.now(timezone.utc)))
            tail = Tail(place, "signal", "--limit", "1")
            try:
                assert tail.next()["value"]["id"] == "2"
                assert tail.is_silent()
                for number in (3, 4):
                    rows.insert_one(signal_row(number, updatedDate=datetime.now(timezone.utc)))
                    assert tail.next()["value"]["id"] == str(number)
                assert tail.is_silent()
                tail.end()
            finally:
                tail.process.kill()
    finally:
        place.drop()


def test_tail_goes_on_after_a_lost_connection(tmp_path: Path) -> None:
    """The server is killed and comes back on its port; nothing written is missed."""
    with LocalServers(tmp_path, start_timeout=120) as urls:
        place = Place(Servers(urls.mongo_url, urls.redis_url), "tail")
        with MongoClient[dict[str, Any]](urls.mongo_url) as client:
            rows = client["tail"]["signal-items"]
            rows.insert_one(signal_row(1))
            tail = Tail(place, "signal", "--limit", "1", FASTPERSIST_OPERATION_TIMEOUT="1")
            try:
                assert tail.next()["value"]["id"] == "1"
                rows.insert_one(signal_row(2, updatedDate=datetime.now(timezone.utc)))
                assert tail.next()["value"]["id"] == "2"
                mongod = next(
                    int(path.name)
                    for path in Path("/proc").iterdir()
                    if path.name.isdecimal() and _is_mongod_of(path, tmp_path)
                )
                arguments = (Path("/proc") / str(mongod) / "cmdline").read_bytes().split(b"\0")[:-1]
                subprocess.run(["kill", "-9", str(mongod)], check=True)
                # The driver's own attempts have failed then.
                assert "trying again" in tail.notice()
                again = subprocess.Popen(
                    arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                try:
                    rows.insert_one(signal_row(3, updatedDate=datetime.now(timezone.utc)))
                    assert tail.next(120)["value"]["id"] == "3"
                    tail.end()
                finally:
                    client.close()  # it would look for the server for half a minute
                    again.kill()
                    again.wait()
            finally:
                tail.process.kill()


def _is_mongod_of(path: Path, folder: Path) -> bool:
    try:
        arguments = (path / "cmdline").read_bytes()
    except OSError:
        return False
    return b"mongod" in arguments and str(folder).encode() in arguments


def test_tail_gives_up_after_its_patience(place: Place) -> None:
    command = process(
        place,
        ["tail", "signal", "--mongo-url", "mongodb://u:hunter2@127.0.0.1:1/x"],
        FASTPERSIST_START_TIMEOUT="1",
    )
    out, err = command.communicate(timeout=60)
    assert (command.returncode, out) == (2, "")
    assert "hunter2" not in err
    assert "Traceback" not in err


def test_a_reader_that_leaves_ends_tail_quietly(
    place: Place, signals: Database[dict[str, Any]]
) -> None:
    command = process(place, ["tail", "signal", "--limit", "5"])
    assert command.stdout is not None
    assert "S" in command.stdout.readline()
    command.stdout.close()
    deadline = time.monotonic() + 60
    number = 200
    while command.poll() is None and time.monotonic() < deadline:
        signals["signal-items"].insert_one(signal_row(number))
        number += 1
        time.sleep(0.1)
    assert command.stderr is not None
    errors = command.stderr.read()
    command.stderr.close()
    assert (command.returncode, errors) == (0, "")
