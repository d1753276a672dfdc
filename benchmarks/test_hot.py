"""The compiled modules beside their twins and the plainest alternative; run by ``make bench``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import bson
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastpersist.domains import SIGNAL
from fastpersist.hot import (
    _codec_c,  # type: ignore[attr-defined]  # compiled: mypy sees no .so, the twin has its types
    _codec_py,
    _idcache_c,  # type: ignore[attr-defined]  # compiled: as above
    _idcache_py,
    _keys_c,  # type: ignore[attr-defined]  # compiled: as above
    _keys_py,
)
from stores import signal

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


@pytest.mark.benchmark(group="id cache, 1,000 hits")
@pytest.mark.parametrize("kind", [*BOTH, "OrderedDict"])
def test_id_cache(benchmark: BenchmarkFixture, kind: str) -> None:
    ordered: OrderedDict[bytes, bytes] = OrderedDict()

    def from_ordered(key: bytes) -> bytes | None:
        found = ordered.get(key)
        if found is not None:
            ordered.move_to_end(key)
        return found

    caches: dict[str, Any] = {"compiled": _idcache_c.IdCache(), "twin": _idcache_py.IdCache()}
    for key in KEYS:
        ordered[key] = ID
        for cache in caches.values():
            cache.put(key, ID)
    get = from_ordered if kind == "OrderedDict" else caches[kind].get

    def hit_all() -> None:
        for key in KEYS:
            get(key)

    benchmark(hit_all)
    assert get(KEYS[0]) == ID


@pytest.mark.benchmark(group="codec, one signal")
@pytest.mark.parametrize("kind", [*BOTH, "bson.encode"])
def test_codec(benchmark: BenchmarkFixture, kind: str) -> None:
    row = signal(1)
    encoders: dict[str, Callable[[Any], Any]] = {
        "compiled": _codec_c.normalise,
        "twin": _codec_py.normalise,
        "bson.encode": bson.encode,
    }
    assert benchmark(encoders[kind], row)
