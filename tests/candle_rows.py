"""Candles for tests: hand-made, or a seeded random walk; in memory or in a CSV file."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterable
from pathlib import Path

from fastpersist.contracts import Candle

__all__ = ["START_MS", "as_csv", "bar", "bars", "random_walk", "write_csv"]

START_MS = 1_735_689_600_000
"""2025-01-01 00:00 UTC."""

_COLUMNS = ("timestamp", "open", "high", "low", "close", "volume")


def bar(
    index: int, opened: float, high: float, low: float, close: float, *, step: int = 60_000
) -> Candle:
    """Return the candle `index` steps after the start."""
    return {
        "timestamp": START_MS + index * step,
        "open": opened,
        "high": high,
        "low": low,
        "close": close,
        "volume": 1.0,
    }


def bars(*figures: tuple[float, float, float, float], step: int = 60_000) -> list[Candle]:
    """Return consecutive candles of (open, high, low, close)."""
    return [bar(index, *figure, step=step) for index, figure in enumerate(figures)]


def random_walk(
    count: int,
    *,
    seed: int = 0,
    step: int = 60_000,
    price: float = 100.0,
    volatility: float = 0.5,
    gaps: Iterable[int] = (),
) -> list[Candle]:
    """Return `count` candles of a random walk, without those whose index is in `gaps`.

    Every price has two decimals; low <= open, close <= high, and volume >= 0.
    """
    chance = random.Random(seed)
    missing = set(gaps)
    found: list[Candle] = []
    for index in range(count):
        opened = price
        price = max(1.0, round(price + chance.gauss(0, volatility), 2))
        high = round(max(opened, price) + abs(chance.gauss(0, volatility / 2)), 2)
        low = max(0.5, round(min(opened, price) - abs(chance.gauss(0, volatility / 2)), 2))
        made = bar(index, opened, high, low, price, step=step)
        made["volume"] = round(chance.expovariate(0.1), 3)
        if index not in missing:
            found.append(made)
    return found


def as_csv(candles: Iterable[Candle], header: str = ",".join(_COLUMNS)) -> str:
    """Return candles as CSV text with times in ms."""
    rows = (
        f"{candle['timestamp']},{candle['open']},{candle['high']},{candle['low']},"
        f"{candle['close']},{candle['volume']}\n"
        for candle in candles
    )
    return f"{header}\n{''.join(rows)}"


def write_csv(path: Path, candles: Iterable[Candle]) -> Path:
    """Write candles to a CSV file, gzipped if its name ends in ``.gz``, and return its path."""
    text = as_csv(candles).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
