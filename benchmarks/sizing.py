"""What the stores take: memory for each cached id, disk for each million candles and signals.

``PYTHONPATH=benchmarks python benchmarks/sizing.py [--candles N] [--ids N]``, on local servers of
its own. The candles are a seeded random walk of prices with two decimals, of one symbol.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pymongo import AsyncMongoClient
from redis.asyncio import Redis

import fastpersist
from data import STEP, signal
from fastpersist.domains import DOMAINS
from fastpersist.hot.idcache import IdCache
from fastpersist.local import LocalServers

BATCH = 20_000
SYMBOLS = 200
BEGIN = 1_600_000_020_000
MIB = 1_048_576
# Those that Node makes beside the unique one.
OF_NODE = ("symbol", "interval", "timestamp", "exchangeName")


def resident() -> int:
    """Return the bytes of memory of this process."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def walk(count: int) -> Iterator[list[Any]]:
    """Yield batches of one-minute candles."""
    chance = random.Random(7)
    price = 42_000.0
    for first in range(0, count, BATCH):
        batch = []
        for index in range(first, min(first + BATCH, count)):
            opened = price
            price = max(1.0, round(price + chance.gauss(0, 20), 2))
            batch.append(
                {
                    "timestamp": BEGIN + index * STEP,
                    "open": opened,
                    "high": round(max(opened, price) + abs(chance.gauss(0, 10)), 2),
                    "low": round(min(opened, price) - abs(chance.gauss(0, 10)), 2),
                    "close": price,
                    "volume": round(abs(chance.gauss(0, 30)), 5),
                }
            )
        yield batch


def process_memory(count: int) -> None:
    """Fill an id cache with keys of signals' levels, the longest that are common."""
    keys = [
        b"partial_cache:binance:ema_cross:SYM%03dUSDT:%032x" % (index % SYMBOLS, index)
        for index in range(count)
    ]
    ids = [index.to_bytes(12, "big") for index in range(count)]
    gc.collect()
    before = resident()
    cache = IdCache(count)
    for key, document_id in zip(keys, ids, strict=True):
        cache.put(key, document_id)
    used = (resident() - before) / count
    print(
        f"in process, {count:,} ids: {used:.0f} bytes an id, beside a key of {len(keys[0])} "
        f"characters, which is {sys.getsizeof(keys[0])} bytes"
    )


async def redis_memory(redis: Any, count: int) -> None:
    """Put ids under keys of three lengths."""
    shapes = {
        "signal": "signal_cache:binance:ema_cross:SYM{0:07d}USDT",
        "partial": "partial_cache:binance:ema_cross:BTCUSDT:{0:08x}-2f0e-4f7b-8a35-0d8c5a4c9a11",
        "candle": "candle_cache:binance:BTCUSDT:1m:{1}",
    }
    for name, shape in shapes.items():
        await redis.execute_command("FLUSHALL", "SYNC")
        before = (await redis.info("memory"))["used_memory"]
        for first in range(0, count, 1_000):
            await redis.mset(
                {
                    shape.format(index, BEGIN + index * STEP): f"{index:024x}"
                    for index in range(first, first + 1_000)
                }
            )
        used = (await redis.info("memory"))["used_memory"] - before
        length = len(shape.format(1, BEGIN))
        print(f"in Redis, {count:,} ids of {name}: {used / count:.0f} bytes each, key of {length}")


async def disk(database: Any, collection: str) -> tuple[float, float, float, int]:
    """Return MiB of data, of the file and of the indexes, and the number of documents."""
    await database.client.admin.command("fsync")
    found = await database.command("collStats", collection)
    return (
        found["size"] / MIB,
        found["storageSize"] / MIB,
        found["totalIndexSize"] / MIB,
        found["count"],
    )


async def candle_disk(store: fastpersist.Store, database: Any, count: int) -> None:
    """Store candles, and say what they take; then with Node's further indexes."""
    for batch in walk(count):
        await store.candle.write_candles_data("BTCUSDT", "1m", "binance", batch)
    data, file, indexes, stored = await disk(database, "candle-items")
    print(
        f"{stored:,} candles: {data:.0f} MiB of documents, {file:.0f} on disk, "
        f"indexes {indexes:.0f}"
    )
    for name in OF_NODE:
        await database["candle-items"].create_index(name)
    _, file, indexes, _ = await disk(database, "candle-items")
    print(f"with the indexes of Node: {file:.0f} MiB on disk, indexes {indexes:.0f}")


async def signal_disk(store: fastpersist.Store, database: Any, count: int) -> None:
    """Store rows of the history."""
    for first in range(0, count, 1_000):
        rows: list[Any] = [signal(index) for index in range(first, min(first + 1_000, count))]
        await store.storage.write_storage_data(True, rows)
    data, file, indexes, stored = await disk(database, "storage-items")
    print(
        f"{stored:,} rows of storage: {data:.1f} MiB of documents, {file:.1f} on disk, "
        f"indexes {indexes:.1f}"
    )


async def measure(candles: int, ids: int, rows: int) -> None:
    """Print everything."""
    with TemporaryDirectory() as folder, LocalServers(Path(folder)) as urls:
        async with (
            AsyncMongoClient[dict[str, Any]](urls.mongo_url) as client,
            Redis.from_url(urls.redis_url) as redis,
        ):
            mongo = (await client.server_info())["version"]
            server = await redis.info("server")
            kind = "valkey" if "valkey_version" in server else "redis"
            print(f"MongoDB {mongo}, {kind} {server[f'{kind}_version']}")
            await redis_memory(redis, ids)
            settings: dict[str, Any] = {
                "mongo_url": urls.mongo_url,
                "redis_url": urls.redis_url,
                "candle_ids": False,
                "operation_timeout": 60.0,
            }
            async with fastpersist.open(**settings) as store:
                database = store.container.mongo_service.collection("x").database
                target = client[database.name]
                empty = sum([(await disk(target, domain.collection))[2] for domain in DOMAINS])
                print(f"empty: {len(DOMAINS)} collections, indexes {empty:.1f} MiB")
                await candle_disk(store, target, candles)
                await signal_disk(store, target, rows)


def main() -> None:
    """Measure what the arguments say."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--candles", type=int, default=1_000_000)
    arguments.add_argument("--ids", type=int, default=1_000_000)
    arguments.add_argument("--rows", type=int, default=100_000)
    given = arguments.parse_args()
    print(f"compiled: {fastpersist.has_extensions()}")
    process_memory(given.ids)
    asyncio.run(measure(given.candles, given.ids, given.rows))


if __name__ == "__main__":
    main()
