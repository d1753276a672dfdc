"""The adapters beside plain pymongo and redis calls that do the same work on the same servers."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
from bson import ObjectId
from pymongo import AsyncMongoClient, MongoClient, ReturnDocument, UpdateOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.write_concern import WriteConcern
from redis.asyncio import Redis

import fastpersist
from data import FIELDS, START, STEP, WINDOW, candles, signal
from fastpersist.local import LocalServers
from measure import Case, Result, measured

with warnings.catch_warnings():
    # It is built for an older PyArrow than the newest, which works all the same.
    warnings.simplefilter("ignore", RuntimeWarning)
    from pymongoarrow.api import Schema, find_arrow_all

__all__ = ["compare_stores"]

SIGNALS = 64
CONCURRENT = 64
WAVES = 5
LONG_WINDOW = 200_000
CONTEXT = ("strategyName", "exchangeName")


class Plain:
    """What a careful user of the drivers would write: same guarantees, no more than needed."""

    def __init__(self, database: AsyncDatabase[Any], redis: Redis) -> None:
        self._redis = redis
        self.signals = database["signal-items"]
        self.candles = database["candle-items"]
        self.ids: list[Any] = []

    async def read(self, number: int) -> Any:
        """Read a signal by an id that is known."""
        document = await self.signals.find_one({"_id": self.ids[number]})
        assert document is not None
        return document["payload"]

    async def read_by_redis(self, number: int) -> Any:
        """Read a signal by the id that Redis holds, as the Node system does."""
        text = await self._redis.get(f"signal_cache:binance:ema_cross:SYM{number:03d}USDT")
        document = await self.signals.find_one({"_id": ObjectId(text.decode())})
        assert document is not None
        return document["payload"]

    async def write(self, number: int) -> None:
        """Upsert a signal and put its id into Redis."""
        row = signal(number)
        now = datetime.now(timezone.utc)
        document = await self.signals.find_one_and_update(
            {"symbol": row["symbol"], **{name: row[name] for name in CONTEXT}},
            {
                "$set": {"payload": row, "updatedDate": now},
                "$setOnInsert": {"createDate": now, "__v": 0},
            },
            projection={"_id": 1},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        key = f"signal_cache:binance:ema_cross:{row['symbol']}"
        await self._redis.set(key, str(document["_id"]))

    def _documents(self, symbol: str) -> list[dict[str, Any]]:
        now = datetime.now(timezone.utc)
        fields = {"symbol": symbol, "interval": "1m", "exchangeName": "binance"}
        dates = {"createDate": now, "updatedDate": now, "__v": 0}
        return [{"_id": ObjectId(), **fields, **row, **dates} for row in candles()]

    async def insert_candles(self, symbol: str) -> None:
        """Insert a window at once and put its ids into Redis in one pipeline."""
        documents = self._documents(symbol)
        await self.candles.insert_many(documents, ordered=False)
        async with self._redis.pipeline(transaction=False) as pipeline:
            for row in documents:
                key = f"candle_cache:binance:{symbol}:1m:{row['timestamp']}"
                pipeline.set(key, str(row["_id"]))
            await pipeline.execute()

    async def upsert_candles(self, symbol: str) -> None:
        """Upsert a window as one unordered bulk, without Redis."""
        unique = ("symbol", "interval", "exchangeName", "timestamp")
        updates = [
            UpdateOne({name: row[name] for name in unique}, {"$setOnInsert": row}, upsert=True)
            for row in self._documents(symbol)
        ]
        await self.candles.bulk_write(updates, ordered=False)

    @property
    def _long_window(self) -> dict[str, Any]:
        span = {"timestamp": {"$gte": START, "$lt": START + LONG_WINDOW * STEP}}
        return {"symbol": "LONG", "interval": "1m", "exchangeName": "binance", **span}

    async def drain_candles(self) -> None:
        """Receive a long window and look at nothing of it."""
        fields = {"_id": 0, **dict.fromkeys(FIELDS, 1)}
        cursor: Any = self.candles.find_raw_batches(
            self._long_window, fields, sort=[("timestamp", 1)]
        )
        assert sum([len(batch) async for batch in cursor]) > LONG_WINDOW * 50

    def read_arrow(self, collection: Any) -> None:
        """Read a long window with pymongoarrow."""
        schema = Schema({"timestamp": pyarrow.int64(), **dict.fromkeys(FIELDS[1:], float)})
        table = find_arrow_all(
            collection, self._long_window, schema=schema, sort=[("timestamp", 1)]
        )
        assert table.num_rows == LONG_WINDOW

    async def read_candles(self, symbol: str) -> None:
        """Read a window with one range query."""
        context = {"symbol": symbol, "interval": "1m", "exchangeName": "binance"}
        span = {"timestamp": {"$gte": START, "$lt": START + WINDOW * STEP}}
        cursor = self.candles.find({**context, **span}, sort=[("timestamp", 1)])
        assert len(await cursor.to_list()) == WINDOW


@asynccontextmanager
async def _contenders() -> AsyncIterator[tuple[fastpersist.Store, Plain]]:
    with TemporaryDirectory() as folder:
        async with LocalServers(Path(folder)) as urls:
            mongo: AsyncMongoClient[Any] = AsyncMongoClient(urls.mongo_url)
            async with (
                fastpersist.open(mongo_url=urls.mongo_url, redis_url=urls.redis_url) as store,
                mongo,
                Redis.from_url(urls.redis_url) as redis,
            ):
                concern = WriteConcern(w="majority", j=True)
                database = mongo.get_default_database(write_concern=concern)
                yield store, Plain(database, redis)


def _in_turn(call: Callable[[int], Awaitable[object]]) -> Callable[[int], Awaitable[object]]:
    async def run(_: int) -> None:
        for number in range(SIGNALS):
            await call(number)

    return run


def _at_once(call: Callable[[int], Awaitable[object]]) -> Callable[[int], Awaitable[object]]:
    async def run(_: int) -> None:
        for _ in range(WAVES):
            await asyncio.gather(*(call(number % SIGNALS) for number in range(CONCURRENT)))

    return run


async def compare_stores(rounds: int) -> list[Result]:
    """Return the medians of `rounds` interleaved rounds; the plain calls are the baselines."""
    async with _contenders() as (store, plain):

        async def read(number: int) -> Any:
            key = (f"SYM{number:03d}USDT", "ema_cross", "binance")
            assert await store.signal.read_signal_data(*key) is not None

        async def write(number: int) -> None:
            row = signal(number)
            await store.signal.write_signal_data(row["symbol"], "ema_cross", "binance", row)

        for number in range(SIGNALS):
            await write(number)
        by_symbol = {row["symbol"]: row["_id"] async for row in plain.signals.find()}
        plain.ids = [by_symbol[f"SYM{number:03d}USDT"] for number in range(SIGNALS)]

        window = candles()
        context = ("1m", "binance")

        async def write_candles(number: int) -> None:
            await store.candle.write_candles_data(f"F{number}", *context, window)

        async def read_candles(_: int) -> None:
            found = await store.candle.read_candles_data(
                "F0", *context, WINDOW, START, START + WINDOW * STEP
            )
            assert found is not None

        results: list[Result] = []
        for title, spread, calls in (
            ("sequential", _in_turn, SIGNALS),
            (f"{CONCURRENT} concurrent", _at_once, CONCURRENT * WAVES),
        ):
            results += await measured(
                f"read hit, {title}",
                calls,
                rounds,
                [
                    Case("plain find_one({_id})", spread(plain.read)),
                    Case("plain GET + find_one({_id})", spread(plain.read_by_redis)),
                    Case("adapter", spread(read)),
                ],
            )
            results += await measured(
                f"write, {title}",
                calls,
                rounds,
                [
                    Case("plain find_one_and_update + SET", spread(plain.write)),
                    Case("adapter", spread(write)),
                ],
            )
        results += await measured(
            f"candle of a window of {WINDOW:,}, written",
            WINDOW,
            max(3, rounds // 2),
            [
                Case("plain insert_many + pipeline", lambda n: plain.insert_candles(f"P{n}")),
                Case("plain bulk upsert, no Redis", lambda n: plain.upsert_candles(f"U{n}")),
                Case("adapter", write_candles),
            ],
        )
        results += await measured(
            f"candle of a window of {WINDOW:,}, read",
            WINDOW,
            rounds,
            [
                Case("plain find of the range", lambda n: plain.read_candles("P0")),
                Case("adapter", read_candles),
            ],
        )
        results += await _compare_frames(store, plain, max(5, rounds // 2))
        return results


async def _compare_frames(store: fastpersist.Store, plain: Plain, rounds: int) -> list[Result]:
    context = ("LONG", "1m", "binance")
    for first in range(0, LONG_WINDOW, 20_000):
        await store.candle.write_candles_data(*context, candles(first, 20_000))

    async def read_frame(_: int) -> None:
        end = START + LONG_WINDOW * STEP
        frame = await store.candle.read_candles_frame(*context, START, end)
        assert frame.is_complete

    with MongoClient[dict[str, Any]](store.container.settings.mongo_url) as client:
        collection = client.get_default_database()[plain.candles.name]

        async def read_arrow(_: int) -> None:
            plain.read_arrow(collection)

        return await measured(
            f"candle of a window of {LONG_WINDOW:,}, as a frame",
            LONG_WINDOW,
            rounds,
            [
                Case("plain find_raw_batches, unread", lambda _: plain.drain_candles()),
                Case("pymongoarrow find_arrow_all", read_arrow),
                Case("adapter", read_frame),
            ],
        )
