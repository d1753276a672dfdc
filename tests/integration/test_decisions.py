"""The rows of the decisions that concern the dual store, each named in its test's docstring."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from bson import Int64, ObjectId
from pymongo.asynchronous.database import AsyncDatabase
from redis.asyncio import Redis

import fastpersist
from conftest import Place
from fastpersist import InvalidArgumentError, LookAheadError, Store, simulated_time
from fastpersist.domains import DOMAINS
from kit import CommandRecorder

Database = AsyncDatabase[dict[str, Any]]
WHEN = datetime(2025, 1, 1, tzinfo=timezone.utc)
WHEN_MS = 1_735_689_600_000
CONTEXT = ("BTCUSDT", "trend", "binance")


def candles(count: int) -> list[Any]:
    return [
        {
            "timestamp": WHEN_MS + index * 60_000,
            "open": 1.5,
            "high": 2.0,
            "low": 1.0,
            "close": 1.75,
            "volume": 3,
        }
        for index in range(count)
    ]


async def test_numbers_are_written_by_their_size(store: Store, database: Database) -> None:
    """Numbers written: int -> int32 or int64 by size, float -> double; `when` as ms."""
    data: Any = {"small": 5, "large": 2**40, "whole": 94000.0, "id": "x"}
    await store.state.write_state_data("s", "b", data, WHEN)
    collection = database["state-items"]
    kinds = {"small": "int", "large": "long", "whole": "double"}
    for name, kind in kinds.items():
        assert await collection.count_documents({f"payload.{name}": {"$type": kind}}) == 1, name
    assert await collection.count_documents({"when": {"$type": "long"}}) == 1
    assert await collection.count_documents({"when": WHEN_MS, "__v": {"$type": "int"}}) == 1
    dates = {"createDate": {"$type": "date"}, "updatedDate": {"$type": "date"}}
    assert await collection.count_documents(dates) == 1


async def test_numbers_are_read_as_stored(place: Place, database: Database) -> None:
    """Numbers read: as stored; the layout's ms as int; an option turns whole doubles into int."""
    async with place.open() as store, place.open(whole_doubles_to_int=True) as converting:
        payload = {"ms": 1735689600000.0, "small": 5.0, "price": 1.5, "rows": [3000000000.0]}
        await database["signal-items"].insert_one(
            {"symbol": "S", "strategyName": "t", "exchangeName": "e", "payload": payload}
        )
        await database["candle-items"].insert_one(
            {
                "exchangeName": "e",
                "symbol": "S",
                "interval": "1m",
                "timestamp": float(WHEN_MS),
                "open": 1,
                "high": 2.5,
                "low": 1,
                "close": 2,
                "volume": 0,
            }
        )
        read: Any = await store.signal.read_signal_data("S", "t", "e")
        assert repr(read["ms"]) == "1735689600000.0"
        converted: Any = await converting.signal.read_signal_data("S", "t", "e")
        assert repr(converted["ms"]) == "1735689600000"
        assert repr(converted["small"]) == "5.0"
        assert converted["rows"] == [3000000000]
        rows: Any = await store.candle.read_candles_data("S", "1m", "e", 1, WHEN_MS)
        assert repr(rows[0]["timestamp"]) == str(WHEN_MS)


async def test_contexts_that_share_a_key_keep_their_documents(
    store: Store, database: Database
) -> None:
    """Context of a document [1]: names may hold colons, and two contexts share one Redis key."""
    await store.signal.write_signal_data("X", "b:c", "a", {"id": "first"})
    await store.signal.write_signal_data("X", "c", "a:b", {"id": "second"})
    for _ in range(2):
        first: Any = await store.signal.read_signal_data("X", "b:c", "a")
        second: Any = await store.signal.read_signal_data("X", "c", "a:b")
        assert (first["id"], second["id"]) == ("first", "second")
    assert await database["signal-items"].count_documents({}) == 2


async def test_an_id_of_another_document_is_never_believed(
    place: Place, store: Store, redis: Redis
) -> None:
    """Context of a document [2]: a mismatch is a miss, and the cache is repaired."""
    await store.signal.write_signal_data("A", "t", "e", {"id": "a"})
    await store.signal.write_signal_data("B", "t", "e", {"id": "b"})
    key_a, key_b = (f"{place.name}:signal_cache:e:t:{symbol}" for symbol in "AB")
    right = await redis.get(key_a)
    await redis.set(key_a, await redis.get(key_b))
    async with place.open() as fresh:
        read: Any = await fresh.signal.read_signal_data("A", "t", "e")
        assert read["id"] == "a"
        assert await redis.get(key_a) == right
        await redis.set(key_a, str(ObjectId()))
        async with place.open() as another:
            read = await another.signal.read_signal_data("A", "t", "e")
            assert read["id"] == "a"
        assert await redis.get(key_a) == right


async def test_an_id_in_this_process_is_checked_as_well(store: Store, database: Database) -> None:
    """Context of a document [2]: also when the document went away behind our back."""
    await store.signal.write_signal_data("A", "t", "e", {"id": "old"})
    await database["signal-items"].delete_many({})
    assert await store.signal.read_signal_data("A", "t", "e") is None
    await database["signal-items"].insert_one(
        {"symbol": "A", "strategyName": "t", "exchangeName": "e", "payload": {"id": "new"}}
    )
    read: Any = await store.signal.read_signal_data("A", "t", "e")
    assert read["id"] == "new"


async def test_a_prefix_separates_databases_on_one_redis(place: Place, redis: Redis) -> None:
    """Context of a document [6]: an optional Redis key prefix."""
    other = Place(place.servers, place.name + "x")
    try:
        async with place.open() as one, other.open() as two:
            await one.state.write_state_data("s", "b", {"id": "one"}, WHEN)
            await two.state.write_state_data("s", "b", {"id": "two"}, WHEN)
            read: Any = await one.state.read_state_data("s", "b")
            assert read["id"] == "one"
            assert await redis.exists(f"{place.name}:state_cache:s:b") == 1
            assert await redis.exists(f"{other.name}:state_cache:s:b") == 1
    finally:
        other.drop()


@pytest.mark.parametrize("value", ["undefined", "", "zz" * 12, "a" * 23, "a" * 25, "\x00\xff"])
async def test_malformed_ids_are_a_miss_and_repaired(
    place: Place, store: Store, redis: Redis, value: str
) -> None:
    """Malformed or foreign ids in Redis [3]."""
    await store.signal.write_signal_data(*CONTEXT, {"id": "a"})
    key = f"{place.name}:signal_cache:binance:trend:BTCUSDT"
    right = await redis.get(key)
    await redis.set(key, value)
    async with place.open() as fresh:
        read: Any = await fresh.signal.read_signal_data(*CONTEXT)
        assert read["id"] == "a"
    assert await redis.get(key) == right


async def test_a_value_of_another_redis_type_is_a_miss_and_repaired(
    place: Place, store: Store, redis: Redis
) -> None:
    """Malformed or foreign ids in Redis [3]."""
    await store.signal.write_signal_data(*CONTEXT, {"id": "a"})
    key = f"{place.name}:signal_cache:binance:trend:BTCUSDT"
    await redis.delete(key)
    await redis.hset(key, "field", "value")
    async with place.open() as fresh:
        read: Any = await fresh.signal.read_signal_data(*CONTEXT)
        assert read["id"] == "a"
        assert fresh.container.redis_service.is_available
    assert len(await redis.get(key)) == 24


async def test_ids_of_other_types_are_read_and_kept(
    place: Place, store: Store, database: Database, redis: Redis
) -> None:
    """Malformed or foreign ids [3]: `_id` values of other types are never corrupted."""
    await database["signal-items"].insert_one(
        {
            "_id": "text-id",  # type: ignore[dict-item]  # what a foreign writer may do
            "symbol": "BTCUSDT",
            "strategyName": "trend",
            "exchangeName": "binance",
            "payload": {"id": "foreign"},
        }
    )
    for _ in range(2):
        read: Any = await store.signal.read_signal_data(*CONTEXT)
        assert read["id"] == "foreign"
    await store.signal.write_signal_data(*CONTEXT, {"id": "ours"})
    read = await store.signal.read_signal_data(*CONTEXT)
    assert read["id"] == "ours"
    found = await database["signal-items"].find({}).to_list()
    assert [document["_id"] for document in found] == ["text-id"]
    assert await redis.exists(f"{place.name}:signal_cache:binance:trend:BTCUSDT") == 0


async def test_instances_are_kept_by_the_tuple_of_fields(store: Store) -> None:
    """Registry memo [4]: strategy `b:c` on `a` and `b` on `c:a` are two instances."""
    await store.signal.write_signal_data("X", "b:c", "a", {"id": "first"})
    await store.signal.write_signal_data("X", "b", "c:a", {"id": "second"})
    read: Any = await store.signal.read_signal_data("X", "b:c", "a")
    assert read["id"] == "first"


async def test_has_asks_mongodb(
    place: Place, store: Store, database: Database, redis: Redis
) -> None:
    """has_memory_data [5]: false for one that does not exist; Redis alone is never believed."""
    await store.memory.write_memory_data("s", "b", "m", {"data": {}}, WHEN)
    assert await store.memory.has_memory_data("s", "b", "m") is True
    await database["memory-items"].delete_many({})
    assert await redis.exists(f"{place.name}:memory_cache:s:b:m") == 1
    assert await store.memory.has_memory_data("s", "b", "m") is False


async def test_lists_are_whole_and_in_a_definite_order(store: Store, database: Database) -> None:
    """Lists [7]: all, last written first, `_id` as second sort key."""
    rows: list[Any] = [{"id": f"s{number}"} for number in range(1005)]
    await store.storage.write_storage_data(True, rows)
    read = await store.storage.read_storage_data(True)
    assert [row["id"] for row in read] == [row["id"] for row in reversed(rows)]
    same = datetime(2025, 1, 1, tzinfo=timezone.utc)
    await database["storage-items"].update_many({}, {"$set": {"updatedDate": same}})
    ties = await store.storage.read_storage_data(True)
    assert ties == await store.storage.read_storage_data(True) == read


async def test_keys_of_a_large_bucket_are_streamed_whole(store: Store) -> None:
    """Lists [7]: measure, interval and memory are not cut at 1000."""
    await asyncio.gather(
        *(
            store.measure.write_measure_data("b", f"k{number}", {"id": "x"}, WHEN)
            for number in range(1100)
        )
    )
    keys = [key async for key in store.measure.list_measure_data("b")]
    assert len(keys) == len(set(keys)) == 1100


async def test_clearing_removes_all_with_their_ids(
    place: Place, store: Store, database: Database, redis: Redis
) -> None:
    """Clearing [8]: all, in bulk, also the Redis ids."""
    rows: list[Any] = [{"id": f"s{number}"} for number in range(1100)]
    await store.storage.write_storage_data(True, rows)
    await store.storage.write_storage_data(False, rows[:3])
    service = store.container.storage_db_service
    assert await service.clear((True,)) == 1100
    assert await database["storage-items"].count_documents({}) == 3
    keys = [key async for key in redis.scan_iter(f"{place.name}:storage_cache:*", count=1000)]
    assert len(keys) == 3
    await store.storage.write_storage_data(True, rows[:2])
    assert len(await store.storage.read_storage_data(True)) == 2


async def test_lists_and_candles_go_in_bulk(
    place: Place, store: Store, commands: CommandRecorder
) -> None:
    """Bulk [9]: no round trip for each item."""
    commands.clear()
    await store.storage.write_storage_data(True, [{"id": f"s{n}"} for n in range(100)])
    await store.candle.write_candles_data("S", "1m", "e", candles(100))
    await store.candle.read_candles_data("S", "1m", "e", 100, WHEN_MS)
    assert commands.of(place.name) == ["insert", "insert", "find"]


async def test_the_next_log_line_costs_one_write(
    place: Place, store: Store, database: Database, commands: CommandRecorder
) -> None:
    """Bulk [10]: entries that this process wrote last are not sent again."""
    lines: list[Any] = [{"id": f"l{number}", "topic": "x"} for number in range(50)]
    await store.log.write_log_data(lines)
    before = await database["log-items"].find({}).sort("entryId").to_list()
    commands.clear()
    await store.log.write_log_data([*lines, {"id": "new", "topic": "y"}])
    assert commands.of(place.name) == ["findAndModify"]
    await store.log.write_log_data([*lines, {"id": "new", "topic": "y"}])
    assert commands.of(place.name) == ["findAndModify"]
    after = await database["log-items"].find({"entryId": {"$ne": "new"}}).sort("entryId").to_list()
    assert after == before
    await store.notification.write_notification_data(True, [{"id": "n", "type": "a"}])
    commands.clear()
    await store.notification.write_notification_data(True, [{"id": "n", "type": "a"}])
    assert commands.of(place.name) == []
    await store.notification.write_notification_data(True, [{"id": "n", "type": "b"}])
    assert commands.of(place.name) == ["findAndModify"]


async def test_indexes_exist_before_the_first_write(place: Place, database: Database) -> None:
    """Start [11]: every domain has its unique index when the first write returns."""
    async with place.open() as store:
        await store.state.write_state_data("s", "b", {"id": "x"}, WHEN)
        for domain in DOMAINS:
            information = await database[domain.collection].index_information()
            keys = {tuple(index["key"]): index for index in information.values()}
            assert keys[domain.unique_index].get("unique") is True, domain.name
            expected = 1 + 1 + (domain.list_index is not None)
            assert len(information) == expected, domain.name


async def test_a_failed_start_is_forgotten(place: Place, servers: Any) -> None:
    """Start [12]: the next call tries again, also of the same context."""
    store = place.open()
    service = store.container.mongo_service
    connect, failures = service.connect, [fastpersist.StoreUnavailableError("mongo", "not yet")]

    async def failing_once(url: str) -> None:
        if failures:
            raise failures.pop()
        await connect(url)

    service.connect = failing_once  # type: ignore[method-assign]  # a server that comes late
    with pytest.raises(fastpersist.StoreUnavailableError):
        await store.state.read_state_data("s", "b")
    assert await store.state.read_state_data("s", "b") is None
    await store.aclose()


async def test_what_can_be_refused_is_refused_before_mongodb(
    place: Place, store: Store, commands: CommandRecorder
) -> None:
    """Half-done writes [13]."""
    commands.clear()
    bad: Any = object()
    with pytest.raises(InvalidArgumentError):
        await store.log.write_log_data([{"id": "fine"}, {"id": ""}])
    with pytest.raises(InvalidArgumentError):
        await store.storage.write_storage_data(True, [{"id": "fine"}, {"id": "x", "note": bad}])
    with pytest.raises(InvalidArgumentError):
        await store.state.write_state_data("s", "", {"id": "x"}, WHEN)
    with pytest.raises(InvalidArgumentError):
        await store.partial.write_partial_data(*CONTEXT, "\ud800", {}, WHEN)
    with pytest.raises(InvalidArgumentError):
        await store.recent.write_recent_data(*CONTEXT, "", 1, {}, WHEN)  # type: ignore[arg-type]  # the point
    assert commands.of(place.name) == []


async def test_removed_is_written_at_both_places(store: Store, database: Database) -> None:
    """Soft-removed and written again [14]."""
    collection = database["measure-items"]
    await store.measure.write_measure_data("b", "k", {"id": "k"}, WHEN)
    assert await collection.count_documents({"removed": False, "payload.removed": False}) == 1
    await store.measure.remove_measure_data("b", "k")
    assert await collection.count_documents({"removed": True, "payload.removed": True}) == 1
    await store.measure.write_measure_data("b", "k", {"id": "k"}, WHEN)
    assert await collection.count_documents({"removed": False, "payload.removed": False}) == 1


async def test_a_candle_written_again_moves_no_date_and_is_reported_once(
    place: Place, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Candle written again [16]."""
    async with place.open(logger=logging.getLogger("test.candles")) as store:
        await store.candle.write_candles_data("S", "1m", "e", candles(5))
        before = await database["candle-items"].find({}).to_list()
        await store.candle.write_candles_data("S", "1m", "e", candles(5))
        assert not caplog.records
        other = [{**row, "volume": 4} for row in candles(5)]
        await store.candle.write_candles_data("S", "1m", "e", other)
    assert await database["candle-items"].find({}).to_list() == before
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "count=5" in warnings[0].getMessage()


async def test_a_stored_candle_without_a_figure_is_missing(
    store: Store, database: Database
) -> None:
    """Validation [20], for what an unchecked writer left."""
    await database["candle-items"].insert_one(
        {"exchangeName": "e", "symbol": "S", "interval": "1m", "timestamp": WHEN_MS, "open": 1}
    )
    assert await store.candle.read_candles_data("S", "1m", "e", 1, WHEN_MS) is None


async def test_candles_off_the_grid_do_not_disturb_a_window(
    store: Store, database: Database
) -> None:
    """Validation [20], for what an unchecked writer left."""
    await store.candle.write_candles_data("S", "1m", "e", candles(3))
    row = {**candles(1)[0], "timestamp": WHEN_MS + 1}
    await database["candle-items"].insert_one(
        {"exchangeName": "e", "symbol": "S", "interval": "1m", **row}
    )
    read = await store.candle.read_candles_data("S", "1m", "e", 3, WHEN_MS)
    assert read == candles(3)


async def test_the_policy_raise_names_the_row(place: Place) -> None:
    async with place.open(look_ahead="raise") as store:
        await store.state.write_state_data("s", "b", {"id": "x"}, WHEN)
        await store.memory.write_memory_data("s", "b", "m", {"data": {}}, WHEN)
        await store.candle.write_candles_data("S", "1m", "e", candles(1))
        with simulated_time(WHEN - timedelta(minutes=1)):
            with pytest.raises(LookAheadError, match="state") as caught:
                await store.state.read_state_data("s", "b")
            assert caught.value.written_at == WHEN_MS
            with pytest.raises(LookAheadError, match="memory"):
                [item async for item in store.memory.list_memory_data("s", "b")]
            with pytest.raises(LookAheadError, match="candle"):
                await store.candle.read_candles_data("S", "1m", "e", 1, WHEN_MS)
    async with place.open(look_ahead="allow") as store:
        with simulated_time(WHEN - timedelta(minutes=1)):
            assert await store.state.read_state_data("s", "b") is not None


async def test_partial_and_breakeven_store_their_moment(store: Store) -> None:
    earlier = WHEN - timedelta(minutes=1)
    levels: Any = {"s": {"profitLevels": [10], "lossLevels": []}}
    await store.partial.write_partial_data(*CONTEXT, "s", levels, WHEN)
    await store.breakeven.write_breakeven_data(*CONTEXT, "s", {"s": {"reached": True}}, WHEN)
    assert await store.partial.read_partial_data(*CONTEXT, "s", earlier) == {}
    assert await store.breakeven.read_breakeven_data(*CONTEXT, "s", earlier) == {}
    assert await store.partial.read_partial_data(*CONTEXT, "s", WHEN) != {}


async def test_int64_of_the_driver_stays_int64(store: Store, database: Database) -> None:
    await store.state.write_state_data("s", "b", {"data": Int64(5)}, WHEN)
    assert await database["state-items"].count_documents({"payload.data": {"$type": "long"}}) == 1


async def test_candle_ids_stay_out_of_redis_on_request(place: Place, redis: Redis) -> None:
    rows = candles(2)
    async with place.open(candle_ids=False) as store:
        await store.candle.write_candles_data("BTCUSDT", "1m", "binance", rows)
        await store.signal.write_signal_data("BTCUSDT", "s", "binance", {"id": "x"})
        first = rows[0]["timestamp"]
        found = await store.candle.read_candles_data("BTCUSDT", "1m", "binance", 2, first)
    assert found == rows
    keys = await redis.keys(f"{place.name}:*")
    assert keys == [f"{place.name}:signal_cache:binance:s:BTCUSDT".encode()]
