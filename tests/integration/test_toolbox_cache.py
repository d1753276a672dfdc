"""`fastpersist cache` on real servers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database
from redis import Redis

from conftest import Place
from toolbox_kit import Command, fill, interrupt, process

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def mongo(place: Place) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        yield client[place.name]


@pytest.fixture
def client(place: Place) -> Iterator[Redis]:
    with Redis.from_url(place.servers.redis_url, decode_responses=True) as client:
        yield client
        for key in client.scan_iter(f"{place.name}*"):
            client.delete(key)


@pytest.fixture
def ids(place: Place, client: Redis) -> dict[str, str]:
    """What a filled store leaves in Redis."""

    async def run() -> None:
        async with place.open() as store:
            await fill(store)

    asyncio.run(run())
    return stored(place, client)


def stored(place: Place, client: Redis) -> dict[str, str]:
    return {
        key: client.get(key)
        for key in client.scan_iter(f"{place.name}:*")
        if client.type(key) == "string"
    }


def test_warming_brings_back_what_writes_had_put_there(
    place: Place,
    client: Redis,
    mongo: Database[dict[str, Any]],
    ids: dict[str, str],
    fastpersist: Command,
) -> None:
    assert len(ids) == 64
    client.delete(*ids)
    mongo["signal-items"].insert_one({"_id": "no ObjectId", "symbol": "x"})
    mongo["candle-items"].insert_one(
        {"exchangeName": "e", "symbol": "s", "interval": "1m", "timestamp": 1.5e12}
    )
    warmed = fastpersist.json("cache", "warm")
    assert warmed["ids"] == 65
    assert next(d for d in warmed["domains"] if d["domain"] == "signal")["without_id"] == 1
    now = stored(place, client)
    assert now.pop(f"{place.name}:candle_cache:e:s:1m:1500000000000")
    assert now == ids
    assert fastpersist.json("cache", "verify")["wrong"] == 0


def test_one_domain_can_be_warmed(
    place: Place, client: Redis, ids: dict[str, str], fastpersist: Command
) -> None:
    client.delete(*ids)
    assert fastpersist.json("cache", "warm", "state")["ids"] == 1
    assert list(stored(place, client)) == [f"{place.name}:state_cache:one:b"]


def test_candles_are_left_out_where_their_ids_are_not_wanted(
    client: Redis, ids: dict[str, str], fastpersist: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.delete(*ids)
    monkeypatch.setenv("FASTPERSIST_CANDLE_IDS", "off")
    assert fastpersist.json("cache", "warm")["ids"] == 14
    assert "candles are left out" in fastpersist("cache", "warm")[1]


def test_wrong_ids_are_found_and_repaired(
    place: Place,
    client: Redis,
    mongo: Database[dict[str, Any]],
    ids: dict[str, str],
    fastpersist: Command,
) -> None:
    prefix = f"{place.name}:"
    second = mongo["signal-items"].insert_one(
        {"symbol": "a:b", "strategyName": "ema", "exchangeName": "binance"}
    )
    third = mongo["signal-items"].insert_one(
        {"symbol": "T", "strategyName": "ema", "exchangeName": "binance"}
    )
    wrong = {
        f"{prefix}signal_cache:binance:ema:BTCUSDT": ("other_context", str(third.inserted_id)),
        f"{prefix}schedule_cache:binance:ema:BTCUSDT": ("foreign", str(third.inserted_id)),
        f"{prefix}risk_cache:binance:risk": ("malformed", "undefined"),
        f"{prefix}recent_cache:live:binance:ema::BTCUSDT": ("deleted", str(ObjectId())),
        f"{prefix}session_cache:binance:ema::BTCUSDT:live": ("malformed", "0" * 25),
    }
    gone = {
        f"{prefix}state_cache:nobody:b": ("deleted", str(ObjectId())),
        f"{prefix}signal_cache:binance:ema:x:y": ("other_context", str(second.inserted_id)),
        f"{prefix}measure_cache:b:\udcff": ("malformed", ""),
        f"{prefix}recent_cache:neither:binance:ema::BTCUSDT": ("deleted", str(ObjectId())),
    }
    for key, (_, value) in (wrong | gone).items():
        client.set(key.encode("utf-8", "surrogateescape"), value)
    client.rpush(f"{prefix}interval_cache:x:y", "a list")
    client.set(f"{prefix}signal_cache:binance:ema:a:b", str(second.inserted_id))
    found = fastpersist.json("cache", "verify", code=1)
    assert found["wrong"] == 10
    assert found["repaired"] == 0
    shown = {one["key"]: one["fault"] for domain in found["domains"] for one in domain["first"]}
    for key, (fault, _) in wrong.items():
        assert shown[key] == fault, key
    code, out, _ = fastpersist("cache", "verify")
    assert code == 1
    assert "with --fix they are replaced or removed" in out
    repaired = fastpersist.json("cache", "verify", "--fix")
    assert repaired["repaired"] == 10
    now = stored(place, client)
    assert now.pop(f"{prefix}signal_cache:binance:ema:a:b") == str(second.inserted_id)
    assert now == ids
    assert not client.exists(f"{prefix}interval_cache:x:y")
    assert fastpersist.json("cache", "verify")["wrong"] == 0


def test_clearing_touches_no_key_of_others(
    place: Place, client: Redis, ids: dict[str, str], fastpersist: Command
) -> None:
    others = {
        f"{place.name}signal_cache:e:t:S": "without the colon of the prefix",
        f"{place.name}:signal_cachet:e": "a longer namespace",
        f"{place.name}:mine": "of the user",
        f"{place.name}:x:signal_cache:e:t:S": "of another prefix",
    }
    client.mset(others)
    assert fastpersist.json("cache", "clear", "candle")["domains"] == {"candle": 50}
    cleared = fastpersist.json("cache", "clear")
    assert cleared["removed"] == 14
    assert cleared["prefix"] == f"{place.name}:"
    assert "?" not in cleared["redis"]
    assert {key: client.get(key) for key in client.scan_iter(f"{place.name}*")} == others


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache", "warm", "nothing"], "domain: no domain 'nothing' (candle, signal,"),
        (["cache", "chill"], "No such command 'chill'"),
        (["cache", "warm", "--redis-url", "redis://:hunter2@127.0.0.1:1"], "redis: does not ans"),
        (["cache", "clear", "--redis-url", "redis://:hunter2@127.0.0.1:1"], "redis: does not ans"),
        (["cache", "verify", "--redis-url", "hunter2"], "redis_url: not a Redis URL"),
    ],
)
def test_mistakes(fastpersist: Command, arguments: list[str], message: str) -> None:
    code, out, err = fastpersist(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "hunter2" not in err


def test_a_document_whose_name_is_no_text_is_passed_over(
    place: Place,
    client: Redis,
    mongo: Database[dict[str, Any]],
    ids: dict[str, str],
    fastpersist: Command,
) -> None:
    raw = bson.encode({"_id": ObjectId(), "symbol": "QQQQ", "strategyName": "t", "payload": {}})
    mongo["signal-items"].insert_one(RawBSONDocument(raw.replace(b"QQQQ", b"Q\xff\xfeQ")))
    warmed = fastpersist.json("cache", "warm")
    found = next(d for d in warmed["domains"] if d["domain"] == "signal")
    assert (found["documents"], found["ids"], found["without_id"]) == (2, 1, 1)
    key = next(key for key in ids if key.startswith(f"{place.name}:signal_cache:"))
    client.set(key, str(bson.decode(raw)["_id"]))
    assert fastpersist.json("cache", "verify", "signal", code=1)["domains"][0]["wrong"] == {
        "other_context": 1
    }
    assert fastpersist.json("cache", "verify", "signal", "--fix")["repaired"] == 1
    assert client.get(key) == ids[key]


def test_a_killed_warming_is_repeated(
    place: Place, client: Redis, mongo: Database[dict[str, Any]], fastpersist: Command
) -> None:
    mongo["state-items"].insert_many(
        [{"signalId": f"s{number}", "bucketName": "b", "payload": {}} for number in range(30_000)]
    )
    for kills in range(3):
        command = process(place, ["cache", "warm"], held_at=("state", kills * 9_000 + 3_000))
        deadline = time.monotonic() + 120
        while not client.exists(f"{place.name}:state_cache:s{kills * 9_000}:b"):
            assert command.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        interrupt(command, signal.SIGKILL)
        assert fastpersist.json("cache", "verify")["wrong"] == 0
    assert fastpersist.json("cache", "warm")["ids"] == 30_000
    documents = mongo["state-items"].find({}, {"signalId": 1})
    assert stored(place, client) == {
        f"{place.name}:state_cache:{found['signalId']}:b": str(found["_id"]) for found in documents
    }
