"""MongoDB killed, hanging and gone: what was acknowledged is there, and nothing hangs."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from redis.asyncio import Redis

import fastpersist
from conftest import PATIENT
from fastpersist import ClosedError, StoreUnavailableError
from fastpersist.local import LocalServers
from kit import eventually, hanging, send

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

WRITERS = 24


async def test_acknowledged_writes_survive_a_killed_mongod(own_servers: LocalServers) -> None:
    urls = own_servers.urls
    acknowledged: list[dict[str, int]] = [{} for _ in range(WRITERS)]
    candles_acknowledged = 0
    failures = 0
    is_over = False

    async def write(store: fastpersist.Store, writer: int) -> None:
        nonlocal failures
        count = 0
        while not is_over:
            count += 1
            key = f"b{count % 7}"
            try:
                await store.state.write_state_data(f"w{writer}", key, {"data": count}, count)
            except StoreUnavailableError:
                failures += 1
                await asyncio.sleep(0.05)
            else:
                acknowledged[writer][key] = count

    async def write_candles(store: fastpersist.Store) -> None:
        nonlocal candles_acknowledged
        while not is_over:
            window = [candle(candles_acknowledged + index) for index in range(50)]
            try:
                await store.candle.write_candles_data("S", "1m", "e", window)
            except StoreUnavailableError:
                await asyncio.sleep(0.05)
            else:
                candles_acknowledged += 50

    def count_of_all() -> int:
        return sum(sum(keys.values()) for keys in acknowledged)

    async with fastpersist.open(
        mongo_url=urls.mongo_url, redis_url=urls.redis_url, start_timeout=60, operation_timeout=1.0
    ) as store:
        tasks = [asyncio.create_task(write(store, writer)) for writer in range(WRITERS)]
        tasks.append(asyncio.create_task(write_candles(store)))
        for _ in range(3):
            await asyncio.sleep(1.0)
            await asyncio.to_thread(own_servers.mongod.kill)
            before = count_of_all(), candles_acknowledged

            async def goes_on(before: tuple[int, int] = before) -> bool:
                return count_of_all() > before[0] and candles_acknowledged > before[1]

            await asyncio.to_thread(own_servers.start)
            await eventually(goes_on)
        is_over = True
        await asyncio.gather(*tasks)
    assert candles_acknowledged

    async with fastpersist.open(
        mongo_url=urls.mongo_url, redis_url=urls.redis_url, **PATIENT
    ) as store:
        for writer, keys in enumerate(acknowledged):
            for key, count in keys.items():
                stored: Any = await store.state.read_state_data(f"w{writer}", key)
                # A write that was not acknowledged may have arrived all the same.
                assert stored["data"] >= count, (writer, key)
        window = await store.candle.read_candles_data(
            "S", "1m", "e", candles_acknowledged, candle(0)["timestamp"],
            candle(candles_acknowledged)["timestamp"],
        )  # fmt: skip
        assert window is not None
        assert len(window) == candles_acknowledged


def candle(index: int) -> Any:
    return {
        "timestamp": 1_600_000_020_000 + index * 60_000,
        **dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0 + index),
    }


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_mongodb_ends_every_call_with_the_deadline(
    own_servers: LocalServers, fault: signal.Signals
) -> None:
    urls = own_servers.urls
    async with fastpersist.open(
        mongo_url=urls.mongo_url, redis_url=urls.redis_url, start_timeout=60, operation_timeout=1.0
    ) as store:

        async def is_written() -> bool:
            try:
                await store.state.write_state_data("s", "known", {"data": 1}, 1)
            except StoreUnavailableError:  # a second may pass on a loaded machine
                return False
            return True

        async def is_read() -> bool:
            try:
                return await store.state.read_state_data("s", "known") == {"data": 1}
            except StoreUnavailableError:
                return False

        await eventually(is_written)
        send(own_servers.mongod, fault)
        try:
            calls = (
                lambda: store.state.read_state_data("s", "known"),
                lambda: store.state.read_state_data("s", "unknown"),
                lambda: store.state.write_state_data("s", "new", {"data": 2}, 2),
                lambda: store.log.write_log_data([{"id": "l", "priority": 1, "type": "log"}]),
                lambda: store.memory.remove_memory_data("s", "b", "m"),
                lambda: store.candle.write_candles_data("S", "1m", "e", [candle(0)]),
                lambda: store.candle.read_candles_data(
                    "S", "1m", "e", 1, candle(0)["timestamp"], candle(1)["timestamp"]
                ),
            )
            for call in calls:
                with pytest.raises(StoreUnavailableError) as caught:
                    await asyncio.wait_for(call(), 60)
                assert "127.0.0.1" not in str(caught.value)
        finally:
            if fault is signal.SIGSTOP:
                os.kill(own_servers.mongod.pid, signal.SIGCONT)
        async with Redis.from_url(urls.redis_url) as client:
            assert await client.exists("state_cache:s:new") == 0
        await asyncio.to_thread(own_servers.start)
        await eventually(is_read)


async def test_closing_and_starting_end_though_mongodb_hangs(own_servers: LocalServers) -> None:
    urls = own_servers.urls
    where: dict[str, Any] = {"mongo_url": urls.mongo_url, "redis_url": urls.redis_url}
    idle = fastpersist.open(**where, start_timeout=120, operation_timeout=120)
    await idle.state.write_state_data("s", "b", {"data": 1}, 1)
    with hanging(own_servers.mongod):
        await asyncio.wait_for(idle.aclose(), 60)
        starting = fastpersist.open(**where, start_timeout=1.0, operation_timeout=1.0)
        with pytest.raises(StoreUnavailableError):
            await asyncio.wait_for(starting.ready(), 60)
        await asyncio.wait_for(starting.aclose(), 60)


async def test_a_store_that_is_closed_during_its_start_says_so() -> None:
    store = fastpersist.open(mongo_url="mongodb://127.0.0.1:1/x", redis_url="redis://127.0.0.1:1")
    waiting = asyncio.create_task(store.state.read_state_data("s", "b"))
    await asyncio.sleep(0.1)
    await store.aclose()
    with pytest.raises(ClosedError):
        await waiting
