"""The map from Redis key to document id, in both implementations."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from threading import Barrier
from types import ModuleType
from typing import Any

import pytest

from fastpersist.hot import _idcache_py
from id_cache_model import Model

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
    """Say which keys a cache holds; the reads count and make the last one the newest."""
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


def test_an_entry_that_was_used_gets_a_second_chance(module: Any) -> None:
    cache = filled(module, 3, 3)
    assert cache.get(key_of(0)) == id_of(0)
    cache.put(key_of(1), id_of(11))
    for number in (3, 4, 5):
        cache.put(key_of(number), id_of(number))
        assert cache.stats().evictions == number - 2
    assert held(cache, range(6)) == [0, 1, 5]
    assert cache.get(key_of(1)) == id_of(11)


@pytest.mark.parametrize("max_entries", [10, 100, 1000])
def test_a_scan_leaves_the_entries_that_are_used(module: Any, max_entries: int) -> None:
    hot = range(max_entries // 2)
    cache = filled(module, max_entries, max_entries // 2)
    assert held(cache, hot) == list(hot)
    for number in range(1_000, 1_000 + 10 * max_entries):
        cache.put(key_of(number), id_of(number))
    assert held(cache, hot) == list(hot)
    assert len(cache) == max_entries


def test_entries_that_are_used_no_more_make_room(module: Any) -> None:
    cache = filled(module, 20, 20)
    assert held(cache, range(20)) == list(range(20))
    for number in range(100, 160):
        cache.put(key_of(number), id_of(number))
        assert cache.get(key_of(number)) == id_of(number)
    assert held(cache, range(20)) == []


if "compiled" in IMPLEMENTATIONS:

    @pytest.mark.parametrize("entries", [1_000, 10_000, 49_152, 100_001, 196_609, 300_000])
    def test_a_compiled_entry_costs_at_most_64_bytes_beside_its_key(entries: int) -> None:
        cache: Any = IMPLEMENTATIONS["compiled"].IdCache()
        empty = sys.getsizeof(cache)
        for number in range(entries):
            cache.put(key_of(number), id_of(number))
        assert sys.getsizeof(cache) <= 64 * entries
        cache.clear()
        assert sys.getsizeof(cache) == empty


def test_keys_are_let_go(module: Any) -> None:
    keys = [bytes(key_of(number)) + b"!" for number in range(6)]
    before = [sys.getrefcount(key) for key in keys]
    cache = module.IdCache(3)
    for key in keys:
        cache.put(key, id_of(0))
        cache.put(key, id_of(1))
    cache.drop(keys[0])
    cache.clear()
    cache.put(keys[1], id_of(1))
    del cache, key
    assert [sys.getrefcount(key) for key in keys] == before


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


def test_a_long_run_matches_the_model(module: Any) -> None:
    chance = random.Random(5)
    cache = module.IdCache(150)
    model = Model(150)
    for step in range(20_000):
        key = key_of(chance.randrange(300))
        action = chance.random()
        if action < 0.5:
            cache.put(key, id_of(step))
            model.put(key, id_of(step))
        elif action < 0.8:
            assert cache.get(key) == model.get(key)
        else:
            assert cache.drop(key) == model.drop(key)
        assert len(cache) == len(model.ids)
    assert cache.stats() == model.stats()


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
    cache.clear()
    for number in range(200, 250):
        cache.put(key_of(number), id_of(number))
    assert held(cache, range(250)) == list(range(200, 250))
