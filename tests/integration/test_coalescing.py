"""Concurrent calls of one loop share their round trips, and keep all that is promised of one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bson import ObjectId
from pymongo.asynchronous.database import AsyncDatabase
from redis.asyncio import Redis

from conftest import Place
from fastpersist import InvalidDocumentError, Store, StoreError
from kit import CommandRecorder

Database = AsyncDatabase[dict[str, Any]]
CONTEXT = ("ema", "binance")
WHEN = 1_735_689_600_000


def row(number: int) -> Any:
    return {"id": f"signal-{number}", "priceOpen": float(number), "minuteEstimatedTime": 5}


async def write(store: Store, symbol: str, number: int) -> None:
    await store.signal.write_signal_data(symbol, *CONTEXT, row(number))


async def read(store: Store, symbol: str) -> Any:
    found = await store.signal.read_signal_data(symbol, *CONTEXT)
    return None if found is None else found["priceOpen"]


async def test_concurrent_writes_and_reads_are_one_command_each(
    place: Place, store: Store, commands: CommandRecorder
) -> None:
    commands.clear()
    await asyncio.gather(*(write(store, f"S{number}", number) for number in range(64)))
    assert commands.of(place.name) == ["update"]
    commands.clear()
    found = await asyncio.gather(*(read(store, f"S{number}") for number in range(64)))
    assert commands.of(place.name) == ["find"]
    assert found == list(range(64))


async def test_the_first_concurrent_reads_of_a_process_share_one_look_up(
    place: Place, store: Store, commands: CommandRecorder, redis: Redis
) -> None:
    await asyncio.gather(*(write(store, f"S{number}", number) for number in range(20)))
    assert len(await redis.keys(f"{place.name}:*")) == 20
    async with place.open() as other:
        before = (await redis.info("commandstats")).get("cmdstat_mget", {}).get("calls", 0)
        commands.clear()
        found = await asyncio.gather(*(read(other, f"S{number}") for number in range(20)))
        after = (await redis.info("commandstats"))["cmdstat_mget"]["calls"]
        assert found == list(range(20))
        assert after == before + 1
        assert commands.of(place.name) == ["find"]


async def test_concurrent_writes_over_stored_rows_put_the_right_ids_into_redis(
    place: Place, store: Store, database: Database, redis: Redis
) -> None:
    await asyncio.gather(*(write(store, f"S{number}", number) for number in range(10)))
    await redis.delete(*await redis.keys(f"{place.name}:*"))
    async with place.open() as other:
        await asyncio.gather(*(write(other, f"S{number}", number + 50) for number in range(12)))
    documents = await database["signal-items"].find().to_list()
    assert len(documents) == 12
    for document in documents:
        key = f"{place.name}:signal_cache:binance:ema:{document['symbol']}"
        assert await redis.get(key) == str(document["_id"]).encode()
        assert document["createDate"] <= document["updatedDate"]
        assert document["__v"] == 0


async def test_of_several_writes_to_one_key_the_last_stays(
    store: Store, database: Database
) -> None:
    await asyncio.gather(*(write(store, "S", number) for number in range(20)))
    assert await read(store, "S") == 19
    assert await database["signal-items"].count_documents({}) == 1


async def test_a_write_and_a_removal_of_one_key_keep_their_order(store: Store) -> None:
    def entry(data: int) -> Any:
        return {"id": "k", "data": data, "removed": False}

    bucket = store.measure
    await asyncio.gather(
        bucket.write_measure_data("b", "k", entry(1), WHEN), bucket.remove_measure_data("b", "k")
    )
    assert await bucket.read_measure_data("b", "k") is None
    await asyncio.gather(
        bucket.write_measure_data("b", "k", entry(2), WHEN),
        bucket.remove_measure_data("b", "k"),
        bucket.write_measure_data("b", "k", entry(3), WHEN),
    )
    found = await bucket.read_measure_data("b", "k")
    assert found is not None
    assert found["data"] == 3


async def test_contexts_that_share_a_redis_key_are_written_and_read_apart(store: Store) -> None:
    contexts = [("X", "b:c", "a"), ("X", "c", "a:b"), ("X", "b", "a"), ("b:X", "c", "a")]
    for turn in (1, 2):
        await asyncio.gather(
            *(
                store.signal.write_signal_data(*context, row(turn * 10 + number))
                for number, context in enumerate(contexts)
            )
        )
        found = await asyncio.gather(
            *(store.signal.read_signal_data(*context) for context in contexts)
        )
        assert [signal and signal["priceOpen"] for signal in found] == [
            turn * 10 + number for number in range(4)
        ]


async def test_a_refused_document_fails_only_its_caller(
    place: Place, store: Store, database: Database
) -> None:
    await write(store, "first", 0)
    await database.command(
        "collMod", "signal-items", validator={"payload.priceOpen": {"$ne": 13.0}}
    )
    outcomes = await asyncio.gather(
        *(write(store, f"S{number}", number) for number in range(10, 16)), return_exceptions=True
    )
    assert [isinstance(outcome, StoreError) for outcome in outcomes] == [
        number == 13 for number in range(10, 16)
    ]
    assert await read(store, "S12") == 12
    assert await read(store, "S13") is None


async def test_what_cannot_be_stored_fails_before_anything_is_sent(store: Store) -> None:
    outcomes = await asyncio.gather(
        write(store, "good", 1),
        store.signal.write_signal_data("bad", *CONTEXT, {"id": "x", "note": object()}),  # type: ignore[typeddict-item]  # what is tested
        return_exceptions=True,
    )
    assert outcomes[0] is None
    assert isinstance(outcomes[1], InvalidDocumentError)
    assert outcomes[1].path == "payload.note"
    assert await read(store, "good") == 1


async def test_concurrent_reads_do_not_share_what_a_caller_changes(store: Store) -> None:
    await write(store, "S", 1)
    first, second = await asyncio.gather(
        *(store.signal.read_signal_data("S", *CONTEXT) for _ in range(2))
    )
    assert first is not None
    assert second is not None
    first["note"] = "changed"
    assert "note" not in second


async def test_a_stale_id_is_repaired_among_concurrent_reads(
    place: Place, store: Store, database: Database, redis: Redis
) -> None:
    await asyncio.gather(*(write(store, f"S{number}", number) for number in range(5)))
    other = await database["signal-items"].find_one({"symbol": "S1"})
    assert other is not None
    key = f"{place.name}:signal_cache:binance:ema:S0"
    await redis.set(key, str(other["_id"]))
    await redis.set(f"{place.name}:signal_cache:binance:ema:S2", str(ObjectId()))
    await redis.set(f"{place.name}:signal_cache:binance:ema:S3", b"no id \xff")
    store.cache_clear()
    found = await asyncio.gather(*(read(store, f"S{number}") for number in range(5)))
    assert found == list(range(5))
    right = await database["signal-items"].find_one({"symbol": "S0"})
    assert right is not None
    assert await redis.get(key) == str(right["_id"]).encode()


async def test_close_sends_what_waits(place: Place, database: Database) -> None:
    store = place.open()
    await store.ready()
    writes = [asyncio.ensure_future(write(store, f"S{number}", number)) for number in range(8)]
    await asyncio.sleep(0)
    await store.aclose()
    assert await asyncio.gather(*writes) == [None] * 8
    assert await database["signal-items"].count_documents({}) == 8


@pytest.mark.parametrize("cancelled", [0, 3])
async def test_a_cancelled_caller_leaves_the_others(
    store: Store, database: Database, cancelled: int
) -> None:
    writes = [asyncio.ensure_future(write(store, f"S{number}", number)) for number in range(6)]
    await asyncio.sleep(0)
    writes[cancelled].cancel()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
        number == cancelled for number in range(6)
    ]
    for number in range(6):
        if number != cancelled:
            assert await read(store, f"S{number}") == number


async def test_log_lines_of_concurrent_calls_are_one_command(
    place: Place, store: Store, commands: CommandRecorder
) -> None:
    entries: list[Any] = [{"id": f"log-{number}", "topic": str(number)} for number in range(40)]
    await store.log.write_log_data([{"id": "first", "topic": ""}])
    commands.clear()
    await asyncio.gather(*(store.log.write_log_data([entry]) for entry in entries))
    assert commands.of(place.name) == ["update"]
    stored = await store.log.read_log_data()
    assert [entry["id"] for entry in stored] == ["first", *(entry["id"] for entry in entries)]


async def test_of_concurrent_log_lines_with_one_id_the_first_stays(store: Store) -> None:
    lines: list[Any] = [{"id": "same", "topic": str(number)} for number in range(5)]
    await asyncio.gather(*(store.log.write_log_data([line]) for line in lines))
    assert [entry["topic"] for entry in await store.log.read_log_data()] == ["0"]


async def test_a_refused_row_fails_only_its_call(store: Store, database: Database) -> None:
    await store.storage.write_storage_data(False, [{"id": "a", "priority": 1}])
    await database.command("collMod", "storage-items", validator={"payload.priority": {"$ne": 13}})
    outcomes = await asyncio.gather(
        *(
            store.storage.write_storage_data(False, [{"id": f"s{number}", "priority": number}])
            for number in range(10, 15)
        ),
        return_exceptions=True,
    )
    assert [isinstance(outcome, StoreError) for outcome in outcomes] == [
        number == 13 for number in range(10, 15)
    ]
    stored = {row["id"] for row in await store.storage.read_storage_data(False)}
    assert stored == {"a", "s10", "s11", "s12", "s14"}
    # What was refused is sent again when it is written again.
    await database.command("collMod", "storage-items", validator={})
    await store.storage.write_storage_data(False, [{"id": "s13", "priority": 13}])
    assert "s13" in {row["id"] for row in await store.storage.read_storage_data(False)}


async def test_a_removal_that_finds_nothing_leaves_redis_alone(
    place: Place, store: Store, database: Database, redis: Redis
) -> None:
    entry: Any = {"id": "k", "data": 1, "removed": False}
    await store.measure.write_measure_data("b", "k", entry, WHEN)
    await database["measure-items"].delete_many({})
    await redis.delete(*await redis.keys(f"{place.name}:*"))
    await store.measure.remove_measure_data("b", "k")
    assert await redis.keys(f"{place.name}:*") == []


async def test_a_list_of_many_rows_is_stored_whole_and_in_order(store: Store) -> None:
    rows: list[Any] = [{"id": f"n{number:05d}", "type": "x"} for number in range(6_500)]
    await store.notification.write_notification_data(True, rows)
    stored = await store.notification.read_notification_data(True, None)
    assert sorted(row["id"] for row in stored) == [row["id"] for row in rows]
    assert [row["id"] for row in stored[-1_000:]] == [row["id"] for row in rows[-1_000:]]


async def test_close_sends_what_waits_behind_a_write_that_runs_alone(
    place: Place, database: Database
) -> None:
    store = place.open()
    await write(store, "S", 0)
    first = asyncio.ensure_future(write(store, "S", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.ensure_future(write(store, "S", 2))
    await asyncio.sleep(0)
    await store.aclose()
    assert await asyncio.gather(first, second) == [None, None]
    document = await database["signal-items"].find_one()
    assert document is not None
    assert document["payload"]["priceOpen"] == 2.0


async def test_many_removals_and_writes_behind_them_all_end(store: Store) -> None:
    def entry(data: int) -> Any:
        return {"id": "k", "data": data, "removed": False}

    keys = [f"k{number}" for number in range(30)]
    await asyncio.gather(
        *(store.measure.write_measure_data("b", key, entry(1), WHEN) for key in keys)
    )
    removals = [store.measure.remove_measure_data("b", key) for key in keys]
    back = store.measure.write_measure_data("b", "k29", entry(2), WHEN)
    await asyncio.wait_for(asyncio.gather(*removals, back), 20)
    assert [key async for key in store.measure.list_measure_data("b")] == ["k29"]


async def test_documents_of_a_careless_writer_hurt_nobody_else(
    store: Store, database: Database
) -> None:
    """Arrays as keys, rows without a key or a payload, candles that are none."""
    await database["signal-items"].insert_one(
        {"symbol": ["B"], "strategyName": "ema", "exchangeName": "binance", "payload": None}
    )
    await asyncio.gather(*(write(store, symbol, 1) for symbol in "BCD"))
    assert await read(store, "C") == 1
    await database["interval-items"].insert_one({"bucket": "b", "removed": False})
    assert [key async for key in store.interval.list_interval_data("b")] == []
    await database["notification-items"].insert_one({"backtest": True, "notificationId": "n"})
    await store.notification.write_notification_data(True, [{"id": "a", "type": "x"}])
    rows = await store.notification.read_notification_data(True)
    assert [found["id"] for found in rows] == ["a"]
    candle: Any = {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}
    context = {"symbol": "B", "interval": "1m", "exchangeName": "x"}
    await database["candle-items"].insert_many(
        [
            {**context, **candle, "timestamp": [WHEN]},
            {**context, **candle, "open": None, "timestamp": WHEN + 60_000},
        ]
    )
    assert await store.candle.read_candles_data("B", "1m", "x", 1, WHEN) is None
    assert await store.candle.read_candles_data("B", "1m", "x", 1, WHEN + 60_000) is None
    frame = await store.candle.read_candles_frame("B", "1m", "x", WHEN, WHEN + 120_000)
    assert len(frame) == 0
    assert frame.columns.skipped == 2
