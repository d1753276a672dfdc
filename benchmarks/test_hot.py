"""The compiled modules beside their twins and the plainest alternative; run by ``make bench``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import bson
import numpy as np
import orjson
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from data import FIELDS, candles, signal
from fastpersist.domains import SIGNAL
from fastpersist.hot import (
    _bson_c,  # type: ignore[attr-defined]  # compiled: mypy sees no .so, the twin has its types
    _bson_py,
    _columns_c,  # type: ignore[attr-defined]  # compiled: mypy sees no .so, the twin has its types
    _columns_py,
    _idcache_c,  # type: ignore[attr-defined]  # compiled: mypy sees no .so, the twin has its types
    _idcache_py,
    _keys_c,  # type: ignore[attr-defined]  # compiled: mypy sees no .so, the twin has its types
    _keys_py,
)

BOTH = ("compiled", "twin")
CONTEXT = ("SYM001USDT", "ema_cross", "binance")
KEYS = [b"signal_cache:binance:ema_cross:SYM%d" % number for number in range(1000)]
ID = bson.ObjectId().binary


@pytest.mark.benchmark(group="key")
@pytest.mark.parametrize("kind", [*BOTH, "f-string"])
def test_key(benchmark: BenchmarkFixture, kind: str) -> None:
    def plain(symbol: str, strategy: str, exchange: str) -> bytes:
        return f"signal_cache:{exchange}:{strategy}:{symbol}".encode()

    builders: dict[str, Callable[..., bytes]] = {
        "compiled": _keys_c.KeyTemplate(SIGNAL.namespace, SIGNAL.key_parts, SIGNAL.key_order),
        "twin": _keys_py.KeyTemplate(SIGNAL.namespace, SIGNAL.key_parts, SIGNAL.key_order),
        "f-string": plain,
    }
    assert benchmark(builders[kind], *CONTEXT) == plain(*CONTEXT)


class OrderedDictLru:
    """The id cache that is written in an afternoon."""

    def __init__(self, max_entries: int) -> None:
        self._ids: OrderedDict[bytes, bytes] = OrderedDict()
        self._max_entries = max_entries

    def get(self, key: bytes) -> bytes | None:
        found = self._ids.get(key)
        if found is not None:
            self._ids.move_to_end(key)
        return found

    def put(self, key: bytes, document_id: bytes) -> None:
        if key in self._ids:
            self._ids.move_to_end(key)
        elif len(self._ids) >= self._max_entries:
            self._ids.popitem(last=False)
        self._ids[key] = document_id


CACHES: dict[str, Callable[[int], Any]] = {
    "compiled": _idcache_c.IdCache,
    "twin": _idcache_py.IdCache,
    "OrderedDict": OrderedDictLru,
}


@pytest.mark.benchmark(group="id cache, 1,000 hits")
@pytest.mark.parametrize("kind", CACHES)
def test_id_cache_hit(benchmark: BenchmarkFixture, kind: str) -> None:
    cache = CACHES[kind](1_000_000)
    for key in KEYS:
        cache.put(key, ID)

    def hit_all() -> None:
        for key in KEYS:
            cache.get(key)

    benchmark(hit_all)
    assert cache.get(KEYS[0]) == ID


@pytest.mark.benchmark(group="id cache, 1,000 puts into a full one")
@pytest.mark.parametrize("kind", CACHES)
def test_id_cache_put(benchmark: BenchmarkFixture, kind: str) -> None:
    cache = CACHES[kind](250)

    def put_all() -> None:
        for key in KEYS:
            cache.put(key, ID)

    benchmark(put_all)
    assert cache.get(KEYS[-1]) == ID


def batches() -> list[bytes]:
    """Return 20,000 candles as a cursor gives them."""
    stored = b"".join(bson.encode(row) for row in candles(0, 20_000))
    return [stored]


def columns_by_driver(raw: list[bytes]) -> Any:
    """Return columns as one writes it with the driver and NumPy."""
    rows = [row for batch in raw for row in bson.decode_all(batch)]
    return [np.array([row[name] for row in rows]) for name in FIELDS]


@pytest.mark.benchmark(group="columns of 20,000 candles")
@pytest.mark.parametrize("kind", [*BOTH, "bson.decode_all + numpy"])
def test_columns(benchmark: BenchmarkFixture, kind: str) -> None:
    readers: dict[str, Callable[[list[bytes]], Any]] = {
        "compiled": _columns_c.columns_from_batches,
        "twin": _columns_py.columns_from_batches,
        "bson.decode_all + numpy": columns_by_driver,
    }
    assert benchmark(readers[kind], batches()) is not None


@pytest.mark.benchmark(group="encode a signal")
@pytest.mark.parametrize("kind", [*BOTH, "bson.encode", "orjson.dumps"])
def test_encode(benchmark: BenchmarkFixture, kind: str) -> None:
    encoders: dict[str, Callable[[Any], bytes]] = {
        "compiled": _bson_c.encode,
        "twin": _bson_py.encode,
        "bson.encode": bson.encode,
        "orjson.dumps": orjson.dumps,
    }
    encoded = benchmark(encoders[kind], signal(1))
    assert kind == "orjson.dumps" or encoded == bson.encode(signal(1))


@pytest.mark.benchmark(group="decode a signal")
@pytest.mark.parametrize("kind", [*BOTH, "bson.decode", "orjson.loads"])
def test_decode(benchmark: BenchmarkFixture, kind: str) -> None:
    decoders: dict[str, Callable[[bytes], Any]] = {
        "compiled": _bson_c.decode,
        "twin": _bson_py.decode,
        "bson.decode": bson.decode,
        "orjson.loads": orjson.loads,
    }
    stored = orjson.dumps(signal(1)) if kind == "orjson.loads" else bson.encode(signal(1))
    assert benchmark(decoders[kind], stored) == signal(1)
