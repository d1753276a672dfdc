"""The rows that the benchmarks write and read, the same in every run."""

from __future__ import annotations

from typing import Any

__all__ = ["FIELDS", "START", "STEP", "WINDOW", "candles", "signal"]

WINDOW = 1_440
STEP = 60_000
START = 1_600_000_020_000
FIELDS = ("timestamp", "open", "high", "low", "close", "volume")


def signal(number: int) -> Any:
    """Return a signal row of about 270 bytes."""
    return {
        "id": f"0c1f4f1e-7d6c-4c57-9d1b-{number:012d}",
        "symbol": f"SYM{number:03d}USDT",
        "strategyName": "ema_cross",
        "exchangeName": "binance",
        "frameName": "2025",
        "position": "long",
        "note": "",
        "priceOpen": 42_000.5,
        "priceTakeProfit": 43_000.25,
        "priceStopLoss": 41_000.75,
        "minuteEstimatedTime": 120,
        "cost": 100.0,
        "multiplier": 1,
        "isolated": True,
        "scheduledAt": START,
        "pendingAt": START,
        "_isScheduled": False,
    }


def candles(first: int = 0, count: int = WINDOW) -> list[Any]:
    """Return the candles of one window."""
    return [
        {
            "timestamp": START + index * STEP,
            "open": 100.0 + index,
            "high": 101.5 + index,
            "low": 99.25 + index,
            "close": 100.75 + index,
            "volume": 12.5,
        }
        for index in range(first, first + count)
    ]
