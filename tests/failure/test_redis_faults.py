"""Redis absent, slow, stopped and started again: speed may suffer, answers may not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

import fastpersist
from conftest import PATIENT, Place
from fastpersist import Store
from fastpersist.local import LocalServers, Server, find_redis_server
from fastpersist.local.servers import _free_port
from kit import eventually, hanging

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

CALLS, WORKERS = 10_000, 40


def candle(index: int) -> Any:
    """Return the candle `index` minutes after the first."""
    return {
        "timestamp": 1_600_000_020_000 + index * 60_000,
        **dict.fromkeys(("open", "high", "low", "close", "volume"), 1.0 + index),
    }


class Warnings:
    """A four-method logger that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def log(self, topic: str, *args: Any) -> None:
        self.events.append(("log", topic))

    def debug(self, topic: str, *args: Any) -> None:
        pass

    def info(self, topic: str, *args: Any) -> None:
        self.events.append(("info", topic))

    def warn(self, topic: str, *args: Any) -> None:
        self.events.append(("warn", topic))


class Mixed:
    """Calls of several domains whose answers are known, since each worker has keys of its own."""

    def __init__(self, store: Store, worker: int) -> None:
        self._store = store
        self._worker = f"worker-{worker}"
        self._choice = random.Random(worker)
        self._states: dict[str, int] = {}
        self._memories: dict[str, int] = {}
        self._intervals: dict[str, int] = {}
        self._signals: dict[str, int] = {}
        self._candles = 0

    async def call(self, number: int) -> None:
        """Make one call and compare its answer."""
        store, owner, key = self._store, self._worker, f"k{self._choice.randrange(12)}"
        kind = self._choice.randrange(16)
        if kind == 0:
            await store.state.write_state_data(owner, key, {"data": number}, number)
            self._states[key] = number
        elif kind in (1, 2, 3):
            answer = await store.state.read_state_data(owner, key)
            assert (answer and answer["data"]) == self._states.get(key), key
        elif kind == 4:
            entry: Any = {"priority": 1, "data": number, "removed": False, "index": key}
            await store.memory.write_memory_data(owner, "b", key, entry, number)
            self._memories[key] = number
        elif kind == 5:
            found = await store.memory.read_memory_data(owner, "b", key)
            assert (found and found["data"]) == self._memories.get(key), key
        elif kind == 6:
            await store.memory.remove_memory_data(owner, "b", key)
            self._memories.pop(key, None)
        elif kind == 7:
            assert await store.signal.read_signal_data(owner, "never", "written") is None
        elif kind == 8:
            row: Any = {"id": f"{number}", "symbol": owner}
            await store.signal.write_signal_data(owner, key, "e", row)
            self._signals[key] = number
        elif kind in (9, 10):
            known = await store.signal.read_signal_data(owner, key, "e")
            assert (known and int(known["id"])) == self._signals.get(key), key
        elif kind == 11:
            marker: Any = {"id": key, "data": number, "removed": False}
            await store.interval.write_interval_data(owner, key, marker, number)
            self._intervals[key] = number
        elif kind == 12:
            listed = {name async for name in store.interval.list_interval_data(owner)}
            assert listed == set(self._intervals)
        elif kind == 13:
            rows: Any = [{"id": f"{owner}-{number}", "type": "log", "priority": number}]
            await store.log.write_log_data(rows)
        elif kind == 14:
            await store.candle.write_candles_data(owner, "1m", "e", [candle(self._candles)])
            self._candles += 1
        else:
            count = self._candles
            first, end = candle(0)["timestamp"], candle(count)["timestamp"]
            window = await store.candle.read_candles_data(owner, "1m", "e", count, first, end)
            assert window == [candle(index) for index in range(count)]


async def test_mixed_calls_while_redis_comes_and_goes(own_servers: LocalServers) -> None:
    logger = Warnings()
    urls = own_servers.urls
    redis = own_servers.redis
    outages = 0

    def numbers() -> Iterator[int]:
        number = 0
        while number < CALLS or outages < 3:
            yield number
            number += 1

    remaining = numbers()

    async def work(store: Store, worker: int) -> None:
        mixed = Mixed(store, worker)
        for number in remaining:
            await mixed.call(number)

    async def disturb(workers: asyncio.Future[Any]) -> None:
        nonlocal outages
        while not workers.done():
            await asyncio.sleep(0.4)
            await asyncio.to_thread(redis.kill if outages % 2 else redis.stop)
            outages += 1
            await asyncio.sleep(0.4)
            await asyncio.to_thread(redis.start)

    # Only what happens to Redis is told then, and not how fast the machine is.
    async with fastpersist.open(
        mongo_url=urls.mongo_url, redis_url=urls.redis_url, logger=logger, **PATIENT
    ) as store:
        workers = asyncio.gather(*(work(store, worker) for worker in range(WORKERS)))
        await asyncio.gather(workers, disturb(workers))
        assert outages >= 3

        async def is_back() -> bool:
            return store.container.redis_service.is_available

        await eventually(is_back)
        await store.state.write_state_data("healed", "b", {"data": 1}, 1)
    async with Redis.from_url(urls.redis_url) as client:
        assert await client.exists("state_cache:healed:b") == 1
    downs = [topic for level, topic in logger.events if level == "warn"]
    backs = [topic for level, topic in logger.events if level == "info"]
    # One line for each change of state, and they take turns.
    assert 1 <= len(downs) <= outages
    assert len(backs) == len(downs)


async def test_a_redis_that_hangs_costs_a_few_budgets_and_no_call(
    own_servers: LocalServers,
) -> None:
    urls = own_servers.urls
    async with fastpersist.open(
        mongo_url=urls.mongo_url, redis_url=urls.redis_url, **{**PATIENT, "redis_timeout": 0.05}
    ) as store:
        await store.state.write_state_data("s", "b", {"data": 1}, 1)
        with hanging(own_servers.redis):
            for number in range(200):
                await store.state.write_state_data("s", f"b{number}", {"data": number}, 1)
                assert await store.state.read_state_data("s", f"b{number}") == {"data": number}
            assert not store.container.redis_service.is_available

        async def is_back() -> bool:
            return store.container.redis_service.is_available

        await eventually(is_back)


async def test_a_store_starts_without_redis(place: Place) -> None:
    logger = Warnings()
    async with place.open(redis_url="redis://127.0.0.1:1/0", logger=logger) as store:
        await store.state.write_state_data("s", "b", {"data": 1}, 1)
        assert await store.state.read_state_data("s", "b") == {"data": 1}
    assert [level for level, _ in logger.events] == ["warn"]


async def test_a_map_without_redis_fails_and_names_it(place: Place) -> None:
    async with place.open(redis_url="redis://127.0.0.1:1/0") as store:
        with pytest.raises(fastpersist.StoreUnavailableError, match="redis"):
            await store.container.state_cache_service.size()


async def test_a_call_that_fails_after_the_end_starts_no_probe(place: Place) -> None:
    ended = asyncio.Event()

    async def fail(client: Any) -> None:
        await ended.wait()
        raise RedisConnectionError

    logger = Warnings()
    async with place.open(logger=logger) as store:
        service = store.container.redis_service
        call = asyncio.ensure_future(service.run(fail))
        await asyncio.sleep(0)
    ended.set()
    with pytest.raises(fastpersist.StoreUnavailableError):
        await call
    assert service._probe is None
    assert logger.events == []


async def test_a_full_redis_is_reported_once_and_heals(own_servers: LocalServers) -> None:
    logger = Warnings()
    urls = own_servers.urls
    async with (
        fastpersist.open(
            mongo_url=urls.mongo_url, redis_url=urls.redis_url, logger=logger, **PATIENT
        ) as store,
        Redis.from_url(urls.redis_url) as client,
    ):
        await client.config_set("maxmemory", 1)
        for number in range(50):
            await store.state.write_state_data("s", f"b{number}", {"data": number}, 1)
            assert await store.state.read_state_data("s", f"b{number}") == {"data": number}
            await asyncio.sleep(0.01)
        assert store.container.redis_service.is_available
        assert logger.events == [("warn", "redis refuses writes")]
        await client.config_set("maxmemory", 0)
        await store.state.write_state_data("s", "healed", {"data": 1}, 1)
        assert await client.exists("state_cache:s:healed") == 1
    assert [level for level, _ in logger.events] == ["warn", "info"]


async def test_a_lost_cluster_fails_no_call(place: Place, tmp_path: Path) -> None:
    def command(port: int) -> list[str]:
        return [
            *(str(find_redis_server()), "--bind", "127.0.0.1", "--port", str(port)),
            *("--dir", str(tmp_path), "--cluster-enabled", "yes", "--save", ""),
            *("--cluster-port", str(_free_port())),
        ]

    def answers(port: int) -> bool:
        try:
            with BlockingRedis("127.0.0.1", port, decode_responses=True) as client:
                # Another server may have been quicker to take the port.
                return bool(client.config_get("dir")["dir"] == str(tmp_path.resolve()))
        except RedisError:
            return False

    node = Server("redis", tmp_path, command, answers)
    await asyncio.to_thread(node.start)
    try:
        with BlockingRedis("127.0.0.1", node.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

            async def is_formed() -> bool:
                return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")

            await eventually(is_formed)
        logger = Warnings()
        async with place.open(redis_url=f"redis://127.0.0.1:{node.port}", logger=logger) as store:
            assert store.container.redis_service.is_cluster
            await store.state.write_state_data("s", "b", {"data": 1}, 1)
            await asyncio.to_thread(node.kill)
            for number in range(100):
                await store.state.write_state_data("s", f"b{number}", {"data": number}, 1)
                assert await store.state.read_state_data("s", f"b{number}") == {"data": number}
            assert not store.container.redis_service.is_available
        assert [level for level, _ in logger.events] == ["warn"]
    finally:
        await asyncio.to_thread(node.kill)
