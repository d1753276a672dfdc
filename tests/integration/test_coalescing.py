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
    assert commands.of(place.name) == ["insert"]
    stored = await store.log.read_log_data()
    assert [entry["id"] for entry in stored] == ["first", *(entry["id"] for entry in entries)]


async def test_rows_that_are_there_already_are_updated(
    place: Place, store: Store, database: Database, commands: CommandRecorder
) -> None:
    def rows(numbers: range, note: str) -> list[Any]:
        return [{"id": f"n{number}", "type": "x", "note": note} for number in numbers]

    await store.notification.write_notification_data(True, rows(range(10), "first"))
    before = {row["notificationId"]: row async for row in database["notification-items"].find()}
    async with place.open() as other:
        commands.clear()
        await other.notification.write_notification_data(True, rows(range(5, 15), "second"))
        assert commands.of(place.name) == ["insert", "update", "find"]
        commands.clear()
        await other.notification.write_notification_data(True, rows(range(5, 15), "third"))
        assert commands.of(place.name) == ["find", "update"]
    after = {row["notificationId"]: row async for row in database["notification-items"].find()}
    assert [after[f"n{n}"]["payload"]["note"] for n in range(15)] == ["first"] * 5 + ["third"] * 10
    for name, row in before.items():
        assert (row["_id"], row["createDate"]) == (after[name]["_id"], after[name]["createDate"])
    for row in after.values():
        assert row["__v"] == 0
        assert row["createDate"] <= row["updatedDate"]
        assert row["backtest"] is True


async def test_log_lines_that_are_there_already_stay(
    place: Place, store: Store, database: Database
) -> None:
    await store.log.write_log_data([{"id": f"l{n}", "topic": "first"} for n in range(5)])
    before = await database["log-items"].find().sort("entryId").to_list()
    async with place.open() as other:
        await other.log.write_log_data([{"id": f"l{n}", "topic": "second"} for n in range(8)])
    after = await database["log-items"].find().sort("entryId").to_list()
    assert after[:5] == before
    assert [row["payload"]["topic"] for row in after[5:]] == ["second"] * 3


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


async def test_documents_whose_ids_are_known_are_updated_by_them(
    place: Place, store: Store, database: Database, commands: CommandRecorder
) -> None:
    symbols = [f"S{number}" for number in range(5)]
    await asyncio.gather(*(write(store, symbol, 1) for symbol in symbols))
    before = {row["symbol"]: row async for row in database["signal-items"].find()}
    commands.clear()
    await asyncio.gather(*(write(store, symbol, 2) for symbol in symbols))
    assert commands.of(place.name) == ["find", "update"]
    assert commands.filters_of(place.name) == [{"_id"}] * 5
    after = {row["symbol"]: row async for row in database["signal-items"].find()}
    for symbol in symbols:
        assert after[symbol]["payload"]["priceOpen"] == 2
        for name in ("_id", "createDate", "symbol", "strategyName", "exchangeName", "__v"):
            assert after[symbol][name] == before[symbol][name]


@pytest.mark.parametrize("others", [0, 5])
async def test_a_document_that_was_given_another_context_is_left_alone(
    store: Store, others: int
) -> None:
    symbols = ["S", *(f"O{number}" for number in range(others))]
    await asyncio.gather(*(write(store, symbol, 1) for symbol in symbols))
    service = store.container.signal_db_service
    found = await service.find_by_filter({"symbol": "S"})
    assert found is not None
    await service.update(found["id"], {"symbol": "RENAMED"})
    await asyncio.gather(*(write(store, symbol, 2) for symbol in symbols))
    assert await read(store, "RENAMED") == 1
    assert [await read(store, symbol) for symbol in symbols] == [2] * len(symbols)


async def test_documents_that_changed_places_get_their_own_values(
    store: Store, database: Database
) -> None:
    await asyncio.gather(write(store, "A", 1), write(store, "B", 2))
    rows = database["signal-items"]
    for old, new in (("A", "X"), ("B", "A"), ("X", "B")):
        await rows.update_one({"symbol": old}, {"$set": {"symbol": new}})
    await asyncio.gather(write(store, "A", 10), write(store, "B", 11))
    assert [await read(store, "A"), await read(store, "B")] == [10, 11]
    assert await rows.count_documents({}) == 2


@pytest.mark.parametrize("others", [0, 5])
async def test_a_document_that_others_deleted_is_made_anew_by_its_context(
    store: Store, database: Database, redis: Redis, place: Place, others: int
) -> None:
    symbols = ["S", *(f"O{number}" for number in range(others))]
    await asyncio.gather(*(write(store, symbol, 1) for symbol in symbols))
    old = await database["signal-items"].find_one_and_delete({"symbol": "S"})
    assert old is not None
    await asyncio.gather(*(write(store, symbol, 2) for symbol in symbols))
    found = await database["signal-items"].find().to_list()
    assert sorted(document["symbol"] for document in found) == sorted(symbols)
    assert {document["payload"]["priceOpen"] for document in found} == {2}
    made = next(document for document in found if document["symbol"] == "S")
    assert made["_id"] != old["_id"]
    assert await redis.get(f"{place.name}:signal_cache:binance:ema:S") == str(made["_id"]).encode()
    assert await read(store, "S") == 2


@pytest.mark.parametrize("others", [0, 5])
async def test_a_document_that_others_replaced_is_found_by_its_context(
    store: Store, database: Database, redis: Redis, place: Place, others: int
) -> None:
    symbols = ["S", *(f"O{number}" for number in range(others))]
    await asyncio.gather(*(write(store, symbol, 1) for symbol in symbols))
    document = await database["signal-items"].find_one_and_delete({"symbol": "S"})
    assert document is not None
    document["_id"] = ObjectId()
    await database["signal-items"].insert_one(document)
    await asyncio.gather(*(write(store, symbol, 2) for symbol in symbols))
    found = await database["signal-items"].find({"symbol": "S"}).to_list()
    assert [row["_id"] for row in found] == [document["_id"]]
    assert found[0]["payload"]["priceOpen"] == 2
    key = f"{place.name}:signal_cache:binance:ema:S"
    assert await redis.get(key) == str(document["_id"]).encode()
    assert store.container.signal_cache_service.known_id(key.encode()) == document["_id"].binary


async def test_what_is_gone_is_made_anew_in_the_same_command(
    place: Place, store: Store, database: Database, commands: CommandRecorder
) -> None:
    await asyncio.gather(*(write(store, f"S{number}", 1) for number in range(10)))
    await database["signal-items"].delete_many({"symbol": {"$in": ["S3", "S7"]}})
    commands.clear()
    await asyncio.gather(*(write(store, f"S{number}", number + 2) for number in range(10)))
    assert commands.updates_of(place.name) == [10]
    assert [await read(store, f"S{number}") for number in range(10)] == list(range(2, 12))
    assert await database["signal-items"].count_documents({}) == 10


@pytest.mark.parametrize("comes_back", [False, True])
async def test_what_is_deleted_at_the_last_moment_is_written_all_the_same(
    store: Store, database: Database, comes_back: bool
) -> None:
    await asyncio.gather(*(write(store, f"S{number}", 1) for number in range(10)))
    service = store.container.signal_db_service
    look = service._in_place

    async def look_and_lose(writes: Any) -> Any:
        found = await look(writes)
        row = await database["signal-items"].find_one_and_delete({"symbol": "S3"})
        assert row is not None
        if comes_back:
            await database["signal-items"].insert_one({**row, "_id": ObjectId()})
        await database["signal-items"].delete_one({"symbol": "S7"})
        return found

    service._in_place = look_and_lose  # type: ignore[method-assign]  # a deletion in between
    await asyncio.gather(*(write(store, f"S{number}", number + 2) for number in range(10)))
    assert [await read(store, f"S{number}") for number in range(10)] == list(range(2, 12))
    assert await database["signal-items"].count_documents({}) == 10


async def test_a_look_that_fails_costs_no_write(store: Store, monkeypatch: Any) -> None:
    await asyncio.gather(*(write(store, f"S{number}", 1) for number in range(4)))

    async def fail(*arguments: Any) -> Any:
        raise StoreError("no look")

    monkeypatch.setattr(store.container.mongo_service, "find_newest_raw", fail)
    await asyncio.gather(*(write(store, f"S{number}", number + 2) for number in range(4)))
    assert [await read(store, f"S{number}") for number in range(4)] == [2, 3, 4, 5]


async def test_an_id_of_another_kind_leaves_none_behind(
    place: Place, store: Store, database: Database, redis: Redis
) -> None:
    await asyncio.gather(*(write(store, f"S{number}", 1) for number in range(4)))
    row = await database["signal-items"].find_one_and_delete({"symbol": "S2"})
    assert row is not None
    await database["signal-items"].insert_one({**row, "_id": "a text"})
    await asyncio.gather(*(write(store, f"S{number}", number + 2) for number in range(4)))
    assert [await read(store, f"S{number}") for number in range(4)] == [2, 3, 4, 5]
    key = f"{place.name}:signal_cache:binance:ema:S2"
    assert await redis.get(key) is None
    assert store.container.signal_cache_service.known_id(key.encode()) is None


async def test_readers_of_what_is_there_do_not_wait_for_the_rest(
    store: Store, database: Database, monkeypatch: Any
) -> None:
    await asyncio.gather(*(write(store, f"S{number}", number) for number in range(4)))
    await database["signal-items"].delete_one({"symbol": "S2"})
    mongo = store.container.mongo_service

    async def fail(*arguments: Any, **options: Any) -> Any:
        raise StoreError("the second look hangs")

    monkeypatch.setattr(mongo, "find_all_raw", fail)
    found = await asyncio.gather(
        *(read(store, f"S{number}") for number in range(4)), return_exceptions=True
    )
    assert [isinstance(value, StoreError) for value in found] == [False, False, True, False]
    assert [found[0], found[1], found[3]] == [0, 1, 3]


async def test_a_key_that_contexts_may_share_leads_no_write(
    store: Store, database: Database
) -> None:
    """The id under such a key may be of the other context, though this process has proved it."""
    mine, other = ("X", "c", "a:b"), ("X", "b:c", "a")
    await store.signal.write_signal_data(*mine, row(1))
    await store.signal.write_signal_data(*other, row(2))
    assert await store.signal.read_signal_data(*other) is not None
    await store.signal.write_signal_data(*mine, row(3))
    found = await database["signal-items"].find().to_list()
    assert {document["strategyName"]: document["payload"]["priceOpen"] for document in found} == {
        "c": 3,
        "b:c": 2,
    }


async def test_reads_that_exceed_one_reply_are_all_answered(store: Store) -> None:
    large = "x" * 7_000_000
    for number in range(4):
        await store.state.write_state_data("s", f"b{number}", {"id": str(number), "t": large}, WHEN)
    found = await asyncio.gather(
        *(store.state.read_state_data("s", f"b{number}") for number in range(5))
    )
    assert [state and state["id"] for state in found] == ["0", "1", "2", "3", None]
