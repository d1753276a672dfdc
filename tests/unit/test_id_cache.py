"""The map from Redis key to document id, in both implementations."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from threading import Barrier
from types import ModuleType
from typing import Any

import pytest

from fastpersist.hot import _idcache_py

IMPLEMENTATIONS: dict[str, ModuleType] = {"pure": _idcache_py}
if os.environ.get("FASTPERSIST_PURE") != "1":
    with contextlib.suppress(ImportError):
        IMPLEMENTATIONS["compiled"] = import_module("fastpersist.hot._idcache_c")


class Bytes(bytes):
    pass


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=list(IMPLEMENTATIONS))
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


def id_of(number: int) -> bytes:
    return number.to_bytes(12, "big")


def key_of(number: int) -> bytes:
    return b"key:%d" % number


def filled(module: Any, max_entries: int, entries: int) -> Any:
    cache = module.IdCache(max_entries)
    for number in range(entries):
        cache.put(key_of(number), id_of(number))
    return cache


def held(cache: Any, numbers: range) -> list[int]:
    """Say which keys a cache holds; the reads count and mark them as used."""
    return [number for number in numbers if cache.get(key_of(number)) is not None]


def test_an_id_comes_back(module: Any) -> None:
    cache = module.IdCache()
    assert cache.get(b"k") is None
    assert cache.put(b"k", id_of(1)) is None
    found = cache.get(b"k")
    assert type(found) is bytes
    assert found == id_of(1)
    cache.put(b"k", id_of(2))
    assert cache.get(b"k") == id_of(2)
    assert len(cache) == 1
    assert cache.stats() == (2, 1, 1, 1_000_000, 0)


@pytest.mark.parametrize("key", [b"", b"\0", b"a\0b", "突:é".encode(), b"x" * 100_000])
@pytest.mark.parametrize("document_id", [b"\0" * 12, b"\xff" * 12, bytes(range(12))])
def test_any_bytes_are_a_key_and_any_twelve_an_id(
    module: Any, key: bytes, document_id: bytes
) -> None:
    cache = module.IdCache(1)
    cache.put(key, document_id)
    assert cache.get(bytes(bytearray(key))) == document_id
    assert cache.drop(key) is True


def test_unread_entries_go_in_the_order_they_came(module: Any) -> None:
    cache = filled(module, 3, 3)
    for number in range(3, 9):
        cache.put(key_of(number), id_of(number))
        assert cache.stats().evictions == number - 2
        assert cache.get(key_of(number - 3)) is None
    assert held(cache, range(9)) == [6, 7, 8]


def test_a_read_or_a_write_gives_a_second_chance(module: Any) -> None:
    cache = filled(module, 3, 3)
    assert cache.get(key_of(0)) == id_of(0)
    cache.put(key_of(1), id_of(11))
    cache.put(key_of(3), id_of(3))
    assert cache.get(key_of(2)) is None
    # 0 and 1 have used up their marks, but stand in the main queue now.
    for number in range(4, 9):
        cache.put(key_of(number), id_of(number))
    assert held(cache, range(9)) == [0, 1, 8]
    assert cache.get(key_of(1)) == id_of(11)


def test_the_main_queue_goes_round_while_probation_is_short(module: Any) -> None:
    cache = filled(module, 20, 20)
    for number in range(20):
        cache.get(key_of(number))
    # All are marked: they move to the main queue, and the oldest there goes.
    cache.put(key_of(20), id_of(20))
    cache.get(key_of(1))
    # One stands in probation, where a tenth is two: 1 is marked and moves on, 2 goes.
    cache.put(key_of(21), id_of(21))
    cache.put(key_of(22), id_of(22))
    assert held(cache, range(23)) == [1, *range(3, 20), 21, 22]


@pytest.mark.parametrize("max_entries", [10, 100, 1000])
def test_a_scan_leaves_the_entries_that_were_read(module: Any, max_entries: int) -> None:
    hot = range(max_entries * 9 // 10)
    cache = filled(module, max_entries, len(hot))
    assert held(cache, hot) == list(hot)
    for number in range(1_000_000, 1_000_000 + 10 * max_entries):
        cache.put(key_of(number), id_of(number))
    assert held(cache, hot) == list(hot)


def test_a_miss_is_no_use(module: Any) -> None:
    cache = filled(module, 2, 2)
    assert cache.get(b"other") is None
    cache.put(key_of(2), id_of(2))
    assert held(cache, range(3)) == [1, 2]


@pytest.mark.parametrize("max_entries", [1, 2, 63, 64, 65, 128, 129, 1000])
def test_the_bound_holds(module: Any, max_entries: int) -> None:
    entries = 2 * max_entries + 1
    cache = filled(module, max_entries, entries)
    assert len(cache) == max_entries
    assert cache.stats() == (0, 0, max_entries, max_entries, entries - max_entries)
    for number in range(entries - max_entries, entries):
        assert cache.get(key_of(number)) == id_of(number)
    assert held(cache, range(entries - max_entries)) == []


def test_zero_entries_cache_nothing(module: Any) -> None:
    cache = filled(module, 0, 3)
    assert len(cache) == 0
    assert cache.get(key_of(0)) is None
    assert cache.drop(key_of(0)) is False
    assert cache.stats() == (0, 1, 0, 0, 0)
    with pytest.raises(ValueError, match="12 bytes"):
        cache.put(b"k", b"short")


def test_dropped_entries_make_room(module: Any) -> None:
    cache = filled(module, 4, 4)
    assert [cache.drop(key_of(number)) for number in (1, 3, 1)] == [True, True, False]
    assert len(cache) == 2
    cache.put(key_of(5), id_of(5))
    cache.put(key_of(6), id_of(6))
    assert cache.stats().evictions == 0
    cache.put(key_of(7), id_of(7))
    assert cache.stats().evictions == 1
    assert held(cache, range(8)) == [2, 5, 6, 7]


@pytest.mark.parametrize("dropped", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]])
def test_a_cache_emptied_by_drops_starts_anew(module: Any, dropped: list[int]) -> None:
    cache = filled(module, 3, 3)
    for number in dropped:
        assert cache.drop(key_of(number))
    assert len(cache) == 0
    for number in range(10, 14):
        cache.put(key_of(number), id_of(number))
    assert held(cache, range(20)) == [11, 12, 13]


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_a_drop_keeps_the_order_of_the_others(module: Any, dropped: int) -> None:
    cache = filled(module, 3, 3)
    cache.drop(key_of(dropped))
    left = [number for number in range(3) if number != dropped]
    cache.put(key_of(10), id_of(10))
    for number in left:
        cache.put(key_of(11 + number), id_of(11 + number))
        assert cache.get(key_of(number)) is None
    assert len(cache) == 3


def test_clear_removes_all_and_counts_anew(module: Any) -> None:
    cache = filled(module, 100, 150)
    cache.get(key_of(149))
    cache.get(b"other")
    cache.drop(key_of(100))
    cache.clear()
    assert cache.stats() == (0, 0, 0, 100, 0)
    assert held(cache, range(150)) == []
    cache.clear()
    for number in range(101):
        cache.put(key_of(number), id_of(number))
    assert cache.stats() == (0, 0, 100, 100, 1)


def test_stats_have_names(module: Any) -> None:
    cache = filled(module, 2, 3)
    cache.get(key_of(2))
    cache.get(key_of(0))
    stats = cache.stats()
    assert module.CacheStats is _idcache_py.CacheStats
    assert stats._asdict() == {
        "hits": 1,
        "misses": 1,
        "entries": 2,
        "max_entries": 2,
        "evictions": 1,
    }


@pytest.mark.parametrize("length", [0, 1, 11, 13, 24])
def test_an_id_has_twelve_bytes(module: Any, length: int) -> None:
    cache = filled(module, 1, 1)
    with pytest.raises(ValueError, match=f"a document id has 12 bytes, got {length}"):
        cache.put(b"k", b"x" * length)
    assert cache.stats() == (0, 0, 1, 1, 0)
    assert cache.get(key_of(0)) == id_of(0)


@pytest.mark.parametrize(
    "wrong", [None, "text", 1, bytearray(b"k" * 12), memoryview(b"k"), Bytes(b"k" * 12)]
)
def test_only_bytes_are_taken(module: Any, wrong: Any) -> None:
    cache = module.IdCache(2)
    calls: list[tuple[Any, tuple[Any, ...], str]] = [
        (cache.get, (wrong,), "key"),
        (cache.drop, (wrong,), "key"),
        (cache.put, (wrong, id_of(1)), "key"),
        (cache.put, (b"k", wrong), "document_id"),
    ]
    for call, args, name in calls:
        with pytest.raises(TypeError) as caught:
            call(*args)
        assert str(caught.value) == (
            f"Argument '{name}' has incorrect type (expected bytes, got {type(wrong).__name__})"
        )
    assert cache.stats() == (0, 0, 0, 2, 0)


def test_the_size_is_checked(module: Any) -> None:
    with pytest.raises(ValueError, match="max_entries must not be negative, got -1"):
        module.IdCache(-1)
    with pytest.raises(TypeError):
        module.IdCache("many")


@pytest.mark.parametrize("wrong", [2**30, 2**40, 2**80])
def test_the_size_has_a_limit(module: Any, wrong: int) -> None:
    assert module.IdCache(2**30 - 1).stats().max_entries == 2**30 - 1
    with pytest.raises(ValueError, match=f"max_entries must be less than 1073741824, got {wrong}"):
        module.IdCache(wrong)


def test_keys_are_let_go(module: Any) -> None:
    keys = [b"a key to count %d" % number for number in range(200)]
    before = [sys.getrefcount(key) for key in keys]
    cache = module.IdCache(100)

    def counts() -> list[int]:
        return [sys.getrefcount(key) for key in keys]

    for number in range(200):
        cache.put(keys[number], id_of(1))
    assert counts()[:100] == before[:100]
    assert all(now > then for now, then in zip(counts()[100:], before[100:], strict=True))
    for number in range(100, 200):
        cache.get(keys[number])
        cache.put(keys[number], id_of(2))
    for number in range(100, 150):
        cache.drop(keys[number])
    assert counts()[:150] == before[:150]
    cache.clear()
    assert counts() == before
    for number in range(200):
        cache.put(keys[number], id_of(3))
    del cache
    assert counts() == before


if "compiled" in IMPLEMENTATIONS:

    @pytest.mark.parametrize("max_entries", [100_001, 1_000_000])
    def test_an_entry_has_64_bytes_at_most(max_entries: int) -> None:
        cache = IMPLEMENTATIONS["compiled"].IdCache(max_entries)
        empty = sys.getsizeof(cache)
        assert empty < 256
        sizes = {}
        for number in range(1, 300_001):
            cache.put(key_of(number), id_of(number))
            if number >= 1000 and number <= max_entries:
                sizes[number] = sys.getsizeof(cache)
        assert all(32 < size / number <= 64 for number, size in sizes.items())
        assert {1_000, 10_000, 100_001} <= sizes.keys()
        assert sizes[1_000] < sizes[10_000] < sizes[100_001] <= sys.getsizeof(cache)
        cache.clear()
        assert sys.getsizeof(cache) == empty

    def test_the_counted_bytes_are_those_that_are_taken() -> None:
        keys = [key_of(number) for number in range(5000)]
        document_id = id_of(1)
        tracemalloc.start()
        try:
            cache = IMPLEMENTATIONS["compiled"].IdCache()
            before, _ = tracemalloc.get_traced_memory()
            empty = sys.getsizeof(cache)
            for key in keys:
                cache.put(key, document_id)
            after, _ = tracemalloc.get_traced_memory()
            taken = sys.getsizeof(cache) - empty
            assert taken <= after - before < taken + 2000
            cache.clear()
            assert tracemalloc.get_traced_memory()[0] < before + 2000
        finally:
            tracemalloc.stop()


def test_threads_share_a_cache(module: Any) -> None:
    cache = module.IdCache(50)
    workers, rounds = 6, 3000
    start = Barrier(workers)

    def work(seed: int) -> int:
        chance = random.Random(seed)
        wrong = 0
        start.wait()
        for _ in range(rounds):
            number = chance.randrange(120)
            cache.put(key_of(number), id_of(number))
            number = chance.randrange(120)
            wrong += cache.get(key_of(number)) not in (None, id_of(number))
            cache.drop(key_of(chance.randrange(120)))
            wrong += not 0 <= len(cache) <= 50
        return wrong

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(workers) as pool:
            assert sum(pool.map(work, range(workers))) == 0
    finally:
        sys.setswitchinterval(interval)
    stats = cache.stats()
    assert stats.hits + stats.misses == workers * rounds
    assert stats.entries == len(cache) == len(held(cache, range(120)))
    for number in range(50):
        cache.put(key_of(200 + number), id_of(number))
    assert len(cache) == 50
    assert all(cache.drop(key_of(number)) for number in held(cache, range(250)))
    assert len(cache) == 0
