"""`fastpersist backup` and `restore` on real servers: rules, damage, interruption."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from tarfile import TarInfo
from typing import Any

import bson
import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database
from redis import Redis

from conftest import Place, Servers
from fastpersist import Store
from fastpersist.cli import backup as backup_command
from fastpersist.domains import DOMAINS, STATE
from fastpersist.errors import CorruptDataError
from fastpersist.settings import Settings
from fastpersist.tools.archive import ArchiveWriter, Manifest
from fastpersist.tools.backup import RESTORE_MARK, back_up
from fastpersist.tools.connection import connected
from fastpersist.tools.dump import export_dump
from fastpersist.tools.restore import _Merger, verify
from toolbox_kit import Command, content, environ, fill, interrupt, process

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

NOW = datetime(2025, 6, 1, tzinfo=timezone.utc)
SIGNAL = {"symbol": "S", "strategyName": "t", "exchangeName": "e"}


@pytest.fixture
def mongo(place: Place) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](place.servers.mongo_url, tz_aware=True) as client:
        yield client[place.name]
        client.drop_database(f"{place.name}b")


@pytest.fixture
def other(place: Place, mongo: Database[dict[str, Any]]) -> Database[dict[str, Any]]:
    """A second database, empty at first."""
    return mongo.client[f"{place.name}b"]


def filled(place: Place) -> None:
    async def run() -> None:
        async with place.open() as store:
            await fill(store)

    asyncio.run(run())


def row(updated: datetime, value: str, **fields: Any) -> dict[str, Any]:
    return {
        **SIGNAL,
        "payload": {"id": value},
        "createDate": NOW,
        "updatedDate": updated,
        "__v": 0,
        **fields,
    }


def test_what_is_restored_is_what_was_backed_up(
    place: Place,
    other: Database[dict[str, Any]],
    mongo: Database[dict[str, Any]],
    fastpersist: Command,
    tmp_path: Path,
) -> None:
    filled(place)
    mongo["foreign-items"].create_index([("symbol", 1), ("exchangeName", 1)], unique=True)
    mongo["foreign-items"].create_index("when", expireAfterSeconds=1_000_000)
    mongo["foreign-items"].insert_one(
        {"symbol": "S", "exchangeName": "e", "payload": {"a.b": 1, "$c": bson.Decimal128("1.5")}}
    )
    mongo["signal-items"].insert_one({"_id": "text", **SIGNAL, "payload": None})
    file = tmp_path / "a.backup"
    made = fastpersist.json("backup", str(file))
    assert made["documents"] == sum(map(len, content(place).values())) == 66
    assert made["consistent_at"] is not None
    assert made["indexes_left_out"] == ["foreign-items.when_1"]
    assert made["sha256"] == sha256(file.read_bytes()).hexdigest()  # as sha256sum has it
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a.backup"]
    restored = fastpersist.json("restore", str(file), database=other.name)
    assert sum(counts["inserted"] for counts in restored["collections"]) == 66
    assert content(place, other.name) == content(place)
    assert "symbol_1_exchangeName_1" in other["foreign-items"].index_information()
    assert other["session-items"].index_information().keys() > {"_id_"}
    again = fastpersist.json("backup", str(tmp_path / "b.backup"), database=other.name)
    assert [entry["sha256"] for entry in again["collections"]] == [
        entry["sha256"] for entry in made["collections"]
    ]
    checked = fastpersist.json("restore", str(file), "--verify")
    assert checked["manifest"]["database"] == place.name


def test_a_backup_shows_one_moment(place: Place, mongo: Database[dict[str, Any]]) -> None:
    filled(place)
    file = io.BytesIO()

    def write_more(collection: str, done: int, total: int) -> None:
        if collection == "breakeven-items":
            mongo["signal-items"].update_one(SIGNAL, {"$set": {"payload": 1}}, upsert=True)
            mongo["state-items"].delete_many({})
            mongo["storage-items"].insert_one({"backtest": True, "signalId": "later"})

    async def run() -> Any:
        async with connected(Settings.load(**place.settings)) as container:
            return await back_up(container, file, DOMAINS, write_more)

    before = {name: len(rows) for name, rows in content(place).items()}
    made = asyncio.run(run())
    counts = {entry.collection: entry.documents for entry in made.manifest.collections}
    assert {name: count for name, count in counts.items() if count} == before
    assert len(content(place)["storage-items"]) == 2


def test_a_standalone_server_is_said_to_have_no_one_moment(
    standalone_servers: Servers, fastpersist: Command, tmp_path: Path
) -> None:
    place = Place(standalone_servers, f"t{random.getrandbits(60):x}")
    filled(place)
    try:
        fastpersist._place = place
        code, out, _ = fastpersist("backup", str(tmp_path / "a"))
        assert code == 0
        assert "NOT one point in time" in out
        before = content(place)
        place.drop()
        assert fastpersist.json("restore", str(tmp_path / "a"))["consistent_at"] is None
        assert content(place) == before
        with MongoClient[dict[str, Any]](standalone_servers.mongo_url) as client:
            changed = {"updatedDate": NOW, "payload": {"id": "older"}}
            client[place.name]["signal-items"].update_one({}, {"$set": changed})
        merged = fastpersist.json("restore", str(tmp_path / "a"), "--merge")
        assert sum(counts["replaced"] for counts in merged["collections"]) == 1
        assert content(place) == before
    finally:
        place.drop()


@pytest.mark.parametrize("same_id", [True, False])
@pytest.mark.parametrize("newer", ["archive", "stored", "neither"])
def test_of_two_rows_the_newer_one_wins(
    mongo: Database[dict[str, Any]],
    fastpersist: Command,
    place: Place,
    tmp_path: Path,
    same_id: bool,
    newer: str,
) -> None:
    archived = {"_id": ObjectId(), **row(NOW, "archived")}
    mongo["signal-items"].insert_one(archived)
    fastpersist.json("backup", str(tmp_path / "a"))
    later = {"archive": -1, "stored": 1, "neither": 0}[newer]
    stored = row(NOW + timedelta(milliseconds=later), "stored")
    stored = {"_id": archived["_id"] if same_id else ObjectId(), **stored}
    mongo["signal-items"].delete_many({})
    mongo["signal-items"].insert_one(stored)
    key = f"{place.name}:signal_cache:e:t:S"
    with Redis.from_url(place.servers.redis_url) as redis:
        redis.set(key, str(stored["_id"]))
        merged = fastpersist.json("restore", str(tmp_path / "a"), "--merge")
        assert redis.get(key) is None
    found = list(mongo["signal-items"].find())
    # Under the id that runners know.
    assert found == [{**archived, "_id": stored["_id"]} if newer == "archive" else stored]
    counts = next(c for c in merged["collections"] if c["collection"] == "signal-items")
    expected = {"archive": "replaced", "stored": "kept", "neither": "same" if same_id else "kept"}
    assert counts[expected[newer]] == 1
    assert fastpersist.json("restore", str(tmp_path / "a"), "--merge")["documents"] == 1
    assert list(mongo["signal-items"].find()) == found


@pytest.mark.parametrize(
    ("collection", "context"),
    [
        ("log-items", {"entryId": "l"}),
        (
            "candle-items",
            {"exchangeName": "e", "symbol": "S", "interval": "1m", "timestamp": 1.7355e12},
        ),
    ],
)
def test_append_only_rows_stay_as_they_are_stored(
    mongo: Database[dict[str, Any]],
    fastpersist: Command,
    tmp_path: Path,
    collection: str,
    context: dict[str, Any],
) -> None:
    mongo[collection].insert_one({**context, "payload": "archived", "updatedDate": NOW})
    fastpersist.json("backup", str(tmp_path / "a"))
    mongo[collection].delete_many({})
    stored = {**context, "payload": "stored", "updatedDate": NOW - timedelta(days=1)}
    mongo[collection].insert_one(stored)
    fastpersist.json("restore", str(tmp_path / "a"), "--merge")
    assert list(mongo[collection].find()) == [stored]


def test_an_id_that_another_context_has_is_not_taken_from_it(
    mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    shared, second = ObjectId(), ObjectId()
    mongo["signal-items"].insert_one({"_id": shared, **row(NOW, "a")})
    mongo["signal-items"].insert_one({"_id": second, **row(NOW, "b", symbol="T")})
    fastpersist.json("backup", str(tmp_path / "a"))
    mongo["signal-items"].delete_many({})
    strangers = [
        {"_id": shared, **row(NOW, "x", symbol="X")},
        {"_id": second, **row(NOW, "y", symbol="Y")},
        {"_id": ObjectId(), **row(NOW - timedelta(1), "old", symbol="T")},
    ]
    mongo["signal-items"].insert_many(strangers)
    for _ in range(2):
        merged = fastpersist.json("restore", str(tmp_path / "a"), "--merge")
        found = {r["symbol"]: r["payload"]["id"] for r in mongo["signal-items"].find()}
        assert found == {"S": "a", "T": "b", "X": "x", "Y": "y"}
        assert mongo["signal-items"].find_one({"_id": shared}) == strangers[0]
    assert next(c for c in merged["collections"] if c["collection"] == "signal-items")["kept"] == 2


@pytest.mark.parametrize("same_id", [True, False])
def test_writers_that_meet_a_merge_lose_nothing(
    mongo: Database[dict[str, Any]],
    fastpersist: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same_id: bool,
) -> None:
    rows = mongo["signal-items"]
    keys = ["symbol", "strategyName", "exchangeName"]
    rows.create_index([(name, 1) for name in keys], unique=True)
    archived = [
        {"_id": ObjectId(), **row(NOW, "archived", symbol=f"S{number}")} for number in range(3_000)
    ]
    rows.insert_many(archived)
    fastpersist.json("backup", str(tmp_path / "a"))
    older = [
        {**document, "updatedDate": NOW - timedelta(1), **({} if same_id else {"_id": ObjectId()})}
        for document in archived
    ]
    rows.delete_many({})
    rows.insert_many(older)
    written: dict[str, int] = {}
    is_over = threading.Event()

    def write() -> None:
        choice = random.Random(5)
        while not is_over.is_set():
            symbol = f"S{choice.randrange(3_000)}"
            number = written.get(symbol, 0) + 1
            later = NOW + timedelta(seconds=number)
            rows.update_one(
                {**SIGNAL, "symbol": symbol},
                {"$set": {"payload": {"id": str(number)}, "updatedDate": later}},
                upsert=True,
            )
            written[symbol] = number

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(written) < 20:
            time.sleep(0.01)
        before = sum(written.values())

        @contextmanager
        def shared(what: str, *, is_quiet: bool) -> Iterator[Any]:
            def wait(name: str, done: int, total: int) -> None:
                while sum(written.values()) == before:
                    time.sleep(0.001)

            yield wait

        # After each batch: the writer gets on before the last is merged.
        monkeypatch.setattr(backup_command, "progress_bar", shared)
        fastpersist.json("restore", str(tmp_path / "a"), "--merge")
        assert sum(written.values()) > before
    finally:
        is_over.set()
        writer.join()
    found = {document["symbol"]: document["payload"]["id"] for document in rows.find()}
    assert found == {
        document["symbol"]: str(written.get(document["symbol"], "archived"))
        for document in archived
    }


def test_a_merge_comes_to_its_end_though_each_look_is_overtaken(
    mongo: Database[dict[str, Any]],
    fastpersist: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = mongo["signal-items"]
    archived = [
        {"_id": ObjectId(), **row(NOW, "archived", symbol=f"S{number}")} for number in range(100)
    ]
    rows.insert_many(archived)
    fastpersist.json("backup", str(tmp_path / "a"))
    rows.delete_many({})
    rows.insert_many(
        {**document, "_id": ObjectId(), "updatedDate": NOW - timedelta(1)} for document in archived
    )
    overtaken: list[str] = []
    look = _Merger._stored_by_context

    async def overtaken_look(merger: _Merger, documents: Any) -> Any:
        found = await look(merger, documents)
        if documents:
            symbol = f"S{len(overtaken)}"
            changed = {"updatedDate": NOW + timedelta(1), "payload": {"id": "newer"}}
            rows.update_one({"symbol": symbol}, {"$set": changed})
            overtaken.append(symbol)
        return found

    monkeypatch.setattr(_Merger, "_stored_by_context", overtaken_look)
    fastpersist.json("restore", str(tmp_path / "a"), "--merge")
    assert overtaken
    assert {found["symbol"]: found["payload"]["id"] for found in rows.find()} == {
        f"S{number}": "newer" if f"S{number}" in overtaken else "archived" for number in range(100)
    }


def test_a_used_database_is_refused_without_merge(
    place: Place, fastpersist: Command, tmp_path: Path
) -> None:
    filled(place)
    fastpersist.json("backup", str(tmp_path / "a"))
    before = content(place)
    code, out, err = fastpersist("restore", str(tmp_path / "a"))
    assert (code, out) == (2, "")
    assert "holds documents already, in 'breakeven-items'" in err
    assert "--merge" in err
    assert content(place) == before


def test_a_killed_restore_is_repeated_with_the_same_outcome(
    place: Place,
    other: Database[dict[str, Any]],
    fastpersist: Command,
    tmp_path: Path,
) -> None:
    filled(place)
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        context = {"exchangeName": "e", "symbol": "S", "interval": "1m"}
        client[place.name]["candle-items"].insert_many(
            [{**context, "timestamp": 60_000 * n, "open": n / 7} for n in range(60_000)]
        )
    file = tmp_path / "a"
    fastpersist.json("backup", str(file))
    empty = tmp_path / "empty"
    fastpersist.json("backup", str(empty), database=f"{place.name}c")
    choice, counts = random.Random(7), set()
    for kills in range(4):
        least = kills * 12_000 + 1
        command = process(
            place, ["restore", str(file), "--json"], other.name, ("candle-items", least + 6_000)
        )
        deadline = time.monotonic() + 120
        while other["candle-items"].estimated_document_count() < least:
            assert command.poll() is None
            assert time.monotonic() < deadline
            time.sleep(choice.uniform(0.001, 0.02))
        interrupt(command, signal.SIGKILL)
        counts.add(other["candle-items"].count_documents({}))
        code, _, err = fastpersist("restore", str(empty), database=other.name)
        assert code == 2
        assert "the restore of another archive" in err
    assert len(counts) > 1
    assert other[RESTORE_MARK].count_documents({}) == 1
    assert fastpersist.json("restore", str(file), database=other.name)["resumed"]
    assert content(place, other.name) == content(place)
    assert RESTORE_MARK not in other.list_collection_names()


def test_an_interrupt_ends_a_restore_without_a_traceback(
    place: Place, other: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        client[place.name]["log-items"].insert_many(
            [{"entryId": str(number), "payload": "x" * 100} for number in range(50_000)]
        )
    fastpersist.json("backup", str(tmp_path / "a"))
    command = process(
        place, ["restore", str(tmp_path / "a")], other.name, held_at=("log-items", 30_000)
    )
    deadline = time.monotonic() + 120
    while not other["log-items"].estimated_document_count():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    _, errors = interrupt(command, signal.SIGINT)
    assert command.returncode == 130
    assert "Traceback" not in errors


@pytest.fixture
def archive(place: Place, fastpersist: Command, tmp_path: Path) -> bytes:
    """A small archive whose database is empty again."""
    filled(place)
    fastpersist.json("backup", str(tmp_path / "whole"))
    place.drop()
    return (tmp_path / "whole").read_bytes()


def test_no_byte_of_an_archive_can_be_another(archive: bytes) -> None:
    assert verify(io.BytesIO(archive), "a").manifest.documents == 64
    choice = random.Random(3)
    places = set(choice.sample(range(len(archive)), 1_500)) | set(range(2_000))
    for place in places:
        damaged = bytearray(archive)
        damaged[place] ^= 1 << choice.randrange(8)
        with pytest.raises(CorruptDataError, match=r"^a"):
            verify(io.BytesIO(bytes(damaged)), "a")
    for length in (*range(0, len(archive), 511), len(archive) - 1):
        with pytest.raises(CorruptDataError):
            verify(io.BytesIO(archive[:length]), "a")
    with pytest.raises(CorruptDataError, match="the end of the archive"):
        verify(io.BytesIO(archive + b"\0"), "a")


def _without_first_part(archive: bytes) -> bytes:
    size = TarInfo.frombuf(archive[1024:1536], "ascii", "strict").size
    return archive[:1024] + archive[1536 + size + -size % 512 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda archive: archive[:-2000], "ends too early"),
        (lambda archive: archive[:3000], r"byte \d+ \('.*bson.gz'\): the file ends too early"),
        (lambda archive: archive[:1560] + b"\xff" + archive[1561:], "bson.gz'\\): cannot be unpac"),
        (lambda archive: b"", "no archive of fastpersist"),
        (gzip.compress, "no archive of fastpersist"),
        (lambda archive: archive[:512] + b"2" + archive[513:], "another format"),
        (_without_first_part, "tells documents 1, the archive has 0"),
    ],
)
def test_a_damaged_archive_is_refused_before_anything_is_written(
    archive: bytes,
    place: Place,
    fastpersist: Command,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    message: str,
) -> None:
    file = tmp_path / "damaged"
    file.write_bytes(damage(archive))
    code, out, err = fastpersist("restore", str(file))
    assert (code, out) == (2, "")
    assert str(file) in err.replace("\n", "")
    with pytest.raises(CorruptDataError, match=message):
        verify(io.BytesIO(file.read_bytes()), "a")
    assert content(place) == {}


def forged(change: Callable[[dict[str, Any]], Any], document: bytes | None = None) -> bytes:
    """Return an archive that is whole, of contents that no backup writes."""
    file = io.BytesIO()
    writer = ArchiveWriter(file, 0)
    writer.begin("signal-items", "signal", [])
    writer.part([bson.encode({"_id": 1}) if document is None else document])
    writer.end()
    manifest = Manifest(
        database="d", created="", consistent_at=None, version="1", collections=writer.entries
    )
    entry = manifest.collections[0]
    change(vars(entry))
    writer.finish(manifest)
    return file.getvalue()


BOMB = b"\0" * 30_000_000


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: forged(lambda e: e.update(documents=2)), "tells documents 2"),
        (lambda: forged(lambda e: e.update(sha256="0")), "tells sha256"),
        (lambda: forged(lambda e: e.update(documents="1")), "a count in it is no number"),
        (lambda: forged(lambda e: e.update(collection="system.users")), "can be no collection"),
        (lambda: forged(lambda e: e.update(collection="a\0b")), "can be no collection"),
        (lambda: forged(lambda e: e.update(collection=7)), "a name in it is no text"),
        (lambda: forged(lambda e: e.update(folder="../x")), "does not know"),
        (lambda: forged(lambda e: e.update(indexes=5)), "are malformed"),
        (
            lambda: forged(
                lambda e: e.update(
                    indexes=[{"fields": [["when", 1]], "unique": True, "expireAfterSeconds": 0}]
                )
            ),
            "are malformed",
        ),
        (lambda: forged(lambda e: None, b"\xff\xff\xff\x7fxxxxx"), "a length is wrong"),
        (lambda: forged(lambda e: None, bson.encode({"a": 1})), "has no _id"),
        (lambda: forged(lambda e: None, b"\x0c\0\0\0\x99_id\0\1\1\0"), "document 0 of it is malf"),
        (lambda: forged(lambda e: None, BOMB), "unpacks to more than"),
    ],
)
def test_a_forged_archive_is_refused(made: Callable[[], bytes], message: str) -> None:
    with pytest.raises(CorruptDataError, match=message):
        verify(io.BytesIO(made()), "a")


def test_values_that_look_like_operators_stay_values(
    mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    evil = bson.encode(
        {"_id": 1, **SIGNAL, "symbol": {"$gt": ""}, "updatedDate": NOW + timedelta(9)}
    )
    file = tmp_path / "a"
    file.write_bytes(forged(lambda e: None, evil))
    stored = {"_id": 1, **row(NOW, "good")}
    mongo["signal-items"].insert_one(stored)
    fastpersist.json("restore", str(file), "--merge")
    assert mongo["signal-items"].find_one({"_id": 1}) == stored
    assert mongo["signal-items"].count_documents({}) == 2


def test_without_redis_a_restore_tells_of_ids_that_may_be_stale(
    place: Place,
    other: Database[dict[str, Any]],
    fastpersist: Command,
    tmp_path: Path,
) -> None:
    filled(place)
    fastpersist.json("backup", str(tmp_path / "a"))
    restored = fastpersist.json(
        "restore", str(tmp_path / "a"), "--redis-url", "redis://:secret@127.0.0.1:1",
        database=other.name,
    )  # fmt: skip
    assert restored["stale_ids"] == 64
    assert content(place, other.name) == content(place)


def test_mistakes(place: Place, fastpersist: Command, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for arguments, message in [
        (["backup", str(taken)], "is there already"),
        (["backup", str(tmp_path / "no" / "a")], "No such file or directory"),
        (["restore", str(tmp_path / "none")], "No such file or directory"),
        (["restore", str(tmp_path)], "is no regular file"),
        (["restore", str(taken)], "no archive of fastpersist"),
        (["backup"], "Missing argument"),
    ]:
        code, out, err = fastpersist(*arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err.replace("\n", " ")
    assert taken.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_no_secret_is_shown(place: Place, tmp_path: Path) -> None:
    command = process(
        place,
        ["backup", str(tmp_path / "a"), "--json"],
        FASTPERSIST_MONGO_URL="mongodb://user:hunter2@127.0.0.1:1/x",
        FASTPERSIST_START_TIMEOUT="1",
    )
    out, err = command.communicate(timeout=60)
    assert command.returncode == 2
    assert "hunter2" not in out + err
    assert "Traceback" not in err
    assert "no primary within" in err
    assert environ(place)["FASTPERSIST_MONGO_URL"] not in json.dumps([out, err])


def not_text(name: str) -> RawBSONDocument:
    """Return a signal whose strategy and note are no UTF-8, as some drivers once wrote them."""
    raw = bson.encode({"_id": ObjectId(), **row(NOW, "QQQQ", symbol=name, strategyName="QQQQ")})
    return RawBSONDocument(raw.replace(b"QQQQ", b"Q\xff\xfeQ"))


def test_texts_that_are_none_go_into_the_archive_and_back(
    mongo: Database[dict[str, Any]], place: Place, fastpersist: Command, tmp_path: Path
) -> None:
    mongo["signal-items"].insert_many([not_text("S"), not_text("T")])
    before = content(place)
    fastpersist.json("backup", str(tmp_path / "a"))
    mongo["signal-items"].drop()
    fastpersist.json("restore", str(tmp_path / "a"))
    assert content(place) == before


def test_strange_targets_are_refused_and_left_alone(
    place: Place, fastpersist: Command, tmp_path: Path
) -> None:
    filled(place)
    pipe, directory, link = tmp_path / "pipe", tmp_path / "directory", tmp_path / "link"
    os.mkfifo(pipe)
    directory.mkdir()
    link.symlink_to("/dev/null")
    for strange in (pipe, directory, link, Path(".")):
        for arguments in (["backup", "--overwrite"], ["restore"]):
            code, _, err = fastpersist(*arguments, str(strange))
            assert (code, "is no regular file" in err) == (2, True), err
    for name in ("x" * 300, "missing/a"):
        code, _, err = fastpersist("backup", str(tmp_path / name))
        assert code == 2
        assert "File name too long" in err or "No such file" in err
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "directory", "link"}


def test_a_link_to_an_archive_stays_a_link(
    place: Place, fastpersist: Command, tmp_path: Path
) -> None:
    filled(place)
    (tmp_path / "a").write_text("old")
    (tmp_path / "link").symlink_to("a")
    fastpersist.json("backup", str(tmp_path / "link"), "--overwrite")
    assert (tmp_path / "link").is_symlink()
    assert fastpersist.json("restore", str(tmp_path / "a"), "--verify")["is_whole"]


def test_a_file_that_appears_during_a_backup_stays(
    place: Place, fastpersist: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(place)
    finish = ArchiveWriter.finish

    def finished_late(writer: ArchiveWriter, manifest: Manifest) -> str:
        (tmp_path / "a").write_text("of another")
        return finish(writer, manifest)

    monkeypatch.setattr(ArchiveWriter, "finish", finished_late)
    code, _, err = fastpersist("backup", str(tmp_path / "a"))
    assert (code, "is there already" in err) == (2, True)
    assert (tmp_path / "a").read_text() == "of another"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_collection_that_cannot_be_read_is_named(
    place: Place, mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    mongo.command({"insert": "a..b", "documents": [{"_id": 1}]})
    try:
        code, _, err = fastpersist("backup", str(tmp_path / "a"))
        assert code == 2
        assert "no collection with the name 'a..b'" in err
    finally:
        mongo.command({"drop": "a..b"})


def test_a_killed_backup_leaves_the_earlier_archive(
    place: Place, mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    file = tmp_path / "a"
    filled(place)
    fastpersist.json("backup", str(file))
    earlier = file.read_bytes()
    mongo["log-items"].insert_many(
        [{"entryId": str(number), "payload": os.urandom(500)} for number in range(40_000)]
    )
    for least in (1, 2_000_000, 6_000_000):
        held_at = "log-items", 25_000
        command = process(place, ["backup", str(file), "--overwrite"], held_at=held_at)
        deadline = time.monotonic() + 120
        while sum(part.stat().st_size for part in tmp_path.glob(".a.*.part")) < least:
            assert command.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        interrupt(command, signal.SIGKILL)
        assert file.read_bytes() == earlier
        (unfinished,) = tmp_path.glob(".a.*.part")
        assert fastpersist("restore", str(unfinished), "--verify")[0] == 2
        unfinished.unlink()
    fastpersist.json("backup", str(file), "--overwrite")
    assert fastpersist.json("restore", str(file), "--verify")["is_whole"]


def test_a_killed_merge_is_repeated_with_the_same_outcome(
    place: Place, other: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    archived = [row(NOW, "archived", symbol=f"S{number}") for number in range(12_000)]
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        client[place.name]["signal-items"].insert_many(archived)
    fastpersist.json("backup", str(tmp_path / "a"))
    rows = other["signal-items"]
    # Every third is older, every third newer and every third missing, under other ids.
    rows.insert_many(
        row(NOW + timedelta(days=number % 3 - 1), "stored", symbol=f"S{number}")
        for number in range(12_000)
        if number % 3 != 1
    )
    command_line = ["restore", str(tmp_path / "a"), "--merge"]
    for kills in range(3):
        least = 1_000 + kills * 2_500
        held_at = "signal-items", least * 3 // 2 + 1_000
        command = process(place, command_line, other.name, held_at)
        deadline = time.monotonic() + 120
        while rows.count_documents({"payload.id": "archived"}) < least:
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        interrupt(command, signal.SIGKILL)
    fastpersist.json(*command_line, database=other.name)
    found = {document["symbol"]: document["payload"]["id"] for document in rows.find()}
    assert found == {
        f"S{number}": "stored" if number % 3 == 2 else "archived" for number in range(12_000)
    }


@pytest.mark.parametrize("tool", ["backup", "export"])
async def test_a_tool_that_ends_early_leaves_no_cursor_open(
    store: Store, tool: str, tmp_path: Path
) -> None:
    mongo = store.container.mongo_service

    async def cursors() -> list[Any]:
        found = await mongo.client.admin.aggregate(
            [{"$currentOp": {"idleCursors": True}}, {"$match": {"type": "idleCursor"}}]
        )
        named = [operation["ns"] for operation in await found.to_list()]
        return [name for name in named if name.startswith(f"{mongo.database.name}.")]

    def stop(name: str, done: int, total: int) -> None:
        raise KeyError("stopped")

    # More than one reply of the server takes.
    for number in range(20):
        payload: Any = {"id": "x", "data": random.randbytes(1_000_000).hex()[:1_000_000]}
        await store.state.write_state_data("s", str(number), payload, 0)
    ended = (
        back_up(store.container, io.BytesIO(), DOMAINS, stop)
        if tool == "backup"
        else export_dump(store.container, tmp_path, [STATE], on_progress=stop)
    )
    with pytest.raises(KeyError) as stopped:
        await ended
    # Whoever looks at the error keeps what it met alive.
    assert await cursors() == [], stopped
