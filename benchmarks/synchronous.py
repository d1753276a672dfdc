"""The synchronous face beside the same asynchronous calls and plain synchronous pymongo.

``python benchmarks/synchronous.py``, or ``--short``. Contenders run in turns, as in ``measure``;
the asynchronous calls run on the very loop that serves the synchronous ones, in one task.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pymongo import MongoClient, ReturnDocument
from pymongo.write_concern import WriteConcern
from redis import Redis

import fastpersist.sync as fp
from data import signal
from fastpersist.local import LocalServers
from measure import Case, Result, measured

SIGNALS = 64
THREADS = 16


def compare(store: fp.Store, mongo: MongoClient[Any], redis: Redis, rounds: int) -> list[Result]:
    """Return the medians of interleaved rounds; the plain calls are the baselines."""
    database = mongo.get_default_database(write_concern=WriteConcern(w="majority", j=True))
    signals = database["signal-items"]
    rows = [signal(number) for number in range(SIGNALS)]
    contexts = [(row["symbol"], "ema_cross", "binance") for row in rows]
    for context, row in zip(contexts, rows, strict=True):
        store.signal.write_signal_data(*context, row)
    ids = {row["symbol"]: row["_id"] for row in signals.find()}
    adapter = store.asynchronous.signal

    def plain_read(number: int) -> None:
        assert signals.find_one({"_id": ids[rows[number]["symbol"]]}) is not None

    def plain_write(number: int) -> None:
        row, now = rows[number], datetime.now(timezone.utc)
        names = ("symbol", "strategyName", "exchangeName")
        document = signals.find_one_and_update(
            {name: row[name] for name in names},
            {
                "$set": {"payload": row, "updatedDate": now},
                "$setOnInsert": {"createDate": now, "__v": 0},
            },
            projection={"_id": 1},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        redis.set(f"signal_cache:binance:ema_cross:{row['symbol']}", str(document["_id"]))

    async def read_async() -> None:
        for context in contexts:
            await adapter.read_signal_data(*context)

    async def write_async() -> None:
        for context, row in zip(contexts, rows, strict=True):
            await adapter.write_signal_data(*context, row)

    def read(number: int) -> None:
        store.signal.read_signal_data(*contexts[number])

    def write(number: int) -> None:
        store.signal.write_signal_data(*contexts[number], rows[number])

    async def nothing() -> None:
        pass

    def empty(_: int) -> None:
        fp.run(nothing)

    def empty_by_asyncio(_: int) -> None:
        asyncio.run_coroutine_threadsafe(nothing(), loop).result()

    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loop = fp.run(running)
    results: list[Result] = []
    for what, spread, calls, cases in (
        (
            "read hit, sequential",
            _in_turn,
            SIGNALS,
            [("plain pymongo find_one({_id})", plain_read), ("sync adapter", read)],
        ),
        (
            "write, sequential",
            _in_turn,
            SIGNALS,
            [("plain pymongo find_one_and_update + SET", plain_write), ("sync adapter", write)],
        ),
        (
            f"read hit, {THREADS} threads",
            _in_threads,
            SIGNALS * 4,
            [("plain pymongo find_one({_id})", plain_read), ("sync adapter", read)],
        ),
        (
            "empty call",
            _in_turn,
            SIGNALS,
            [("run_coroutine_threadsafe", empty_by_asyncio), ("fastpersist.sync.run", empty)],
        ),
    ):
        contenders = [Case(name, spread(call)) for name, call in cases]
        if what.endswith("sequential"):
            together = read_async if what.startswith("read") else write_async
            contenders.insert(1, Case("async adapter", _on_the_loop(together)))
        results += asyncio.run(measured(what, calls, rounds, contenders))
    return results


def _in_turn(call: Callable[[int], None]) -> Callable[[int], Awaitable[None]]:
    async def run(_: int) -> None:
        for number in range(SIGNALS):
            call(number)

    return run


def _on_the_loop(function: Any) -> Callable[[int], Awaitable[None]]:
    async def run(_: int) -> None:
        fp.run(function)

    return run


def _in_threads(call: Callable[[int], None]) -> Callable[[int], Awaitable[None]]:
    def work(first: int) -> None:
        for number in range(SIGNALS * 4 // THREADS):
            call((first + number) % SIGNALS)

    async def run(_: int) -> None:
        threads = [threading.Thread(target=work, args=(4 * n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds")
    rounds = 7 if parser.parse_args().short else 41
    with (
        TemporaryDirectory() as folder,
        LocalServers(Path(folder)) as urls,
        MongoClient[Any](urls.mongo_url) as mongo,
        Redis.from_url(urls.redis_url) as redis,
        fp.open(mongo_url=urls.mongo_url, redis_url=urls.redis_url) as store,
    ):
        previous = ""
        for result in compare(store, mongo, redis, rounds):
            if result.what != previous:
                print(f"\n{result.what}")
                previous = result.what
            print(f"  {result.name:<42}{result.microseconds:>10.1f} us{result.ratio:>8.2f} x")


if __name__ == "__main__":
    main()
