"""Threads that share the compiled modules: every answer is the one of a thread alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import bson
import pytest

from fastpersist.hot.bson import decode, encode
from fastpersist.hot.columns import columns_from_batches, rows
from fastpersist.hot.idcache import IdCache
from fastpersist.hot.keys import KeyTemplate

WORKERS, ROUNDS = 6, 1_500


@pytest.fixture(autouse=True)
def hasty_switches() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def together(work: Callable[[random.Random], int]) -> None:
    """Run `work` in all threads at once; it returns how many answers were wrong."""
    start = Barrier(WORKERS)

    def run(seed: int) -> int:
        start.wait()
        return work(random.Random(seed))

    with ThreadPoolExecutor(WORKERS) as pool:
        assert sum(pool.map(run, range(WORKERS))) == 0


def test_documents_are_written_and_read_side_by_side() -> None:
    def work(chance: random.Random) -> int:
        wrong = 0
        for _ in range(ROUNDS):
            # More names than the decoder keeps, so that threads replace each other's.
            names = [f"name{chance.randrange(4_000)}" for _ in range(8)]
            document: dict[str, Any] = {name: [name, {name: 1.5}] for name in names}
            encoded = encode(document)
            wrong += encoded != bson.encode(document)
            wrong += decode(encoded) != document
        return wrong

    together(work)


def test_a_payload_that_another_thread_changes_is_no_crash() -> None:
    shared: dict[str, Any] = {f"k{number}": [number] for number in range(50)}

    def work(chance: random.Random) -> int:
        unexpected = 0
        for _ in range(ROUNDS):
            key = f"k{chance.randrange(60)}"
            if chance.random() < 0.5:
                shared.pop(key, None)
            else:
                shared[key] = {"n": [key] * chance.randrange(5)}
            try:
                decode(encode(shared))
            except RuntimeError as error:
                unexpected += "changed" not in str(error)
        return unexpected

    together(work)


def test_columns_are_read_side_by_side() -> None:
    candles = [
        {"timestamp": n, "open": 1.0 * n, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 3.0}
        for n in range(200)
    ]
    batch = b"".join(bson.encode(candle) for candle in candles)

    def work(chance: random.Random) -> int:
        wrong = 0
        for _ in range(ROUNDS // 20):
            count = chance.randrange(200)
            size = len(batch) // 200
            found = columns_from_batches([batch[: size * count]])
            wrong += rows(found) != candles[:count]
        return wrong

    together(work)


def test_keys_and_ids_are_shared() -> None:
    template = KeyTemplate("n", [("a", "name"), ("b", "mode")], ["b", "a"])
    cache = IdCache(60)

    def work(chance: random.Random) -> int:
        wrong = 0
        for _ in range(ROUNDS):
            number = chance.randrange(150)
            key = template(f"name{number}", number % 2 == 0)
            wrong += key != f"n:{'live' if number % 2 else 'backtest'}:name{number}".encode()
            cache.put(key, number.to_bytes(12, "big"))
            number = chance.randrange(150)
            key = template(f"name{number}", number % 2 == 0)
            wrong += cache.get(key) not in (None, number.to_bytes(12, "big"))
            if chance.random() < 0.2:
                cache.drop(key)
            wrong += len(cache) > 60
        return wrong

    together(work)
