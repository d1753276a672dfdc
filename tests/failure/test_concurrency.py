"""Many processes, and many calls of one process, on the same keys."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient
from redis.asyncio import Redis

from conftest import Place
from fastpersist import Store

WRITER = Path(__file__).with_name("racing_writer.py")
# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

PROCESSES, KEYS, WRITES = 8, 50, 200


def test_processes_that_race_on_new_keys_make_one_document_each(place: Place) -> None:
    command = [sys.executable, str(WRITER)]
    where = [place.settings[name] for name in ("mongo_url", "redis_url", "redis_prefix")]
    processes = [
        subprocess.Popen(
            [*command, str(number), str(KEYS), str(WRITES), *where],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert errors == ""
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        states = list(client[place.name]["state-items"].find())
    assert len(states) == KEYS
    assert {row["signalId"] for row in states} == {f"signal-{key}" for key in range(KEYS)}
    # The last write of each key is one of the last writes of some process.
    for row in states:
        assert row["payload"]["data"]["count"] == row["when"]


async def test_concurrent_first_writers_of_rows_and_candles_meet_no_error(store: Store) -> None:
    now = 1_700_000_000_000
    step = 60_000
    start = now - now % step
    candles: Any = [
        {
            "timestamp": start + index * step,
            **dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0),
        }
        for index in range(50)
    ]
    rows: Any = [{"id": f"row-{index}", "priority": index, "type": "x"} for index in range(50)]
    await asyncio.gather(
        *(store.notification.write_notification_data(True, rows) for _ in range(20)),
        *(store.storage.write_storage_data(True, rows) for _ in range(20)),
        *(store.candle.write_candles_data("S", "1m", "e", candles) for _ in range(20)),
    )
    assert len(await store.storage.read_storage_data(True)) == 50
    assert len(await store.notification.read_notification_data(True)) == 50
    window = await store.candle.read_candles_data("S", "1m", "e", 50, start, start + 50 * step)
    assert window == candles


async def test_cancelling_calls_harms_no_other(store: Store) -> None:
    choice = random.Random(7)

    async def write_and_read(number: int) -> Any:
        await store.state.write_state_data("s", f"b{number}", {"data": number}, number)
        return await store.state.read_state_data("s", f"b{number}")

    for _ in range(10):
        tasks = [asyncio.create_task(write_and_read(number)) for number in range(60)]
        doomed = set(choice.sample(range(60), 30))
        await asyncio.sleep(choice.random() * 0.03)
        for number in doomed:
            tasks[number].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(results):
            if number not in doomed:
                assert result == {"data": number}
            elif isinstance(result, BaseException):
                assert isinstance(result, asyncio.CancelledError)
    for number in range(60):
        assert await write_and_read(number) == {"data": number}


async def test_of_two_racing_importers_the_first_write_of_each_candle_stays(
    place: Place,
) -> None:
    """Both import the same 5,000 candles with figures of their own, in opposite orders."""
    count, start, step = 5_000, 1_735_689_600_000, 60_000

    def candles(close: float) -> list[Any]:
        figures = {"open": 1.5, "high": 9.0, "low": 1.0, "close": close, "volume": close}
        return [{"timestamp": start + number * step, **figures} for number in range(count)]

    async def run(store: Store, rows: list[Any]) -> None:
        for first in range(0, count, 500):
            await store.candle.write_candles_data("BTC", "1m", "x", rows[first : first + 500])

    async with place.open() as one, place.open() as other:
        await asyncio.gather(run(one, candles(2.0)), run(other, candles(3.0)[::-1]))
        frame = await one.candle.read_candles_frame("BTC", "1m", "x", start, start + count * step)
    assert frame.is_complete
    closes = frame.close.tolist()
    assert set(closes) == {2.0, 3.0}
    assert closes == frame.volume.tolist()
    async with AsyncMongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        stored = await client[place.name]["candle-items"].find().to_list()
    assert len(stored) == count
    keys = [f"{place.name}:candle_cache:x:BTC:1m:{row['timestamp']}" for row in stored]
    async with Redis.from_url(place.servers.redis_url) as redis:
        assert await redis.mget(keys) == [str(row["_id"]).encode() for row in stored]
