"""Payloads that only a real server shows to be hard: references, far dates, sizes, odd indexes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bson import Binary, DatetimeMS
from pymongo.asynchronous.database import AsyncDatabase

from fastpersist import InvalidDocumentError, Store, StoreError
from fastpersist.hot.codec import MAX_SIZE

Database = AsyncDatabase[dict[str, Any]]


async def test_keys_that_look_like_a_reference_stay_keys(store: Store) -> None:
    payload: Any = {"data": {"$ref": "orders", "$id": 7, "legs": [{"$ref": "x", "$id": None}]}}
    await store.state.write_state_data("s", "b", payload, 1)
    found = await store.state.read_state_data("s", "b")
    assert found == payload
    assert found is not None
    await store.state.write_state_data("s", "b", found, 2)


async def test_a_date_beyond_the_year_9999_is_read_and_written_back(
    store: Store, database: Database
) -> None:
    await store.log.write_log_data([{"id": "a", "priority": 1, "type": "log"}])
    far = DatetimeMS(8_640_000_000_000_000)
    await database["log-items"].update_one(
        {"entryId": "a"}, {"$set": {"payload.at": far, "createDate": far}}
    )
    found: Any = await store.log.read_log_data()
    assert found[0]["at"] == far
    found_all: Any = await store.log.read_log_data(None)
    assert found_all == found
    await store.notification.write_notification_data(True, [{**found[0], "id": "b"}])


async def test_a_uuid_of_a_wrong_length_is_refused(store: Store) -> None:
    data: Any = {"data": [Binary(b"abc", 4)]}
    with pytest.raises(InvalidDocumentError, match=r"payload\.data\[0\]"):
        await store.state.write_state_data("s", "b", data, 1)


async def test_a_long_key_counts_with_its_payload(store: Store) -> None:
    text = "x" * (MAX_SIZE - 100)
    with pytest.raises(InvalidDocumentError, match="together with its key"):
        await store.state.write_state_data("s" * 60_000, "b", {"data": text}, 1)
    with pytest.raises(InvalidDocumentError, match=r"rows\[0\].*together with its key"):
        await store.storage.write_storage_data(True, [{"id": "s" * 60_000, "note": text[:-60_000]}])


async def test_another_unique_index_ends_a_list_write_with_its_error(
    store: Store, database: Database
) -> None:
    await store.ready()
    await database["storage-items"].create_index([("payload.u", 1)], unique=True, sparse=True)
    first: Any = [{"id": "1", "u": 1}]
    second: Any = [{"id": "2", "u": 1}]
    await store.storage.write_storage_data(True, first)
    with pytest.raises(StoreError, match="11000"):
        await asyncio.wait_for(store.storage.write_storage_data(True, second), 30)
    assert len(await store.storage.read_storage_data(True)) == 1


async def test_listing_misses_nothing_that_is_written_again_meanwhile(store: Store) -> None:
    """Decisions, Lists [7]: never cut, also when entries move to the front during the listing."""
    entry: Any = {"id": "x", "data": 1, "removed": False}
    keys = {f"k{number:04}" for number in range(1_500)}
    await asyncio.gather(
        *(store.interval.write_interval_data("b", key, entry, 1) for key in sorted(keys))
    )
    listed = []
    async for key in store.interval.list_interval_data("b"):
        listed.append(key)
        if len(listed) % 300 == 5:
            again = sorted(keys - set(listed))[0]
            await store.interval.write_interval_data("b", again, entry, 2)
    assert sorted(listed) == sorted(keys)

    data: Any = {"priority": 1, "data": 1, "removed": False, "index": ""}
    await asyncio.gather(
        *(store.memory.write_memory_data("s", "b", key, data, 1) for key in sorted(keys))
    )
    found = []
    async for item in store.memory.list_memory_data("s", "b"):
        found.append(item["memoryId"])
        if len(found) == 600:
            left = sorted(keys - set(found))
            await store.memory.write_memory_data("s", "b", left[0], data, 2)
            await store.memory.remove_memory_data("s", "b", left[1])
    assert sorted(found) == sorted(keys - {left[1]})


@pytest.mark.parametrize("since", [60_000 * 2**60, -60_000 * 2**60])
async def test_a_window_beyond_all_times_is_absent(store: Store, since: int) -> None:
    assert await store.candle.read_candles_data("S", "1m", "e", 1, since, since + 60_000) is None


async def test_a_limit_beyond_what_mongodb_takes_means_all(store: Store) -> None:
    await store.log.write_log_data([{"id": "a", "priority": 1, "type": "log"}])
    assert len(await store.log.read_log_data(2**63)) == 1
