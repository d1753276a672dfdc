"""Write candles that go up and down: ``python tools/wave_candles.py BTCUSDT-1m.csv``."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

START, MINUTE, BARS = 1_735_689_600_000, 60_000, 3_000


def write_candles(path: Path) -> None:
    """Write one-minute candles in which the example finds something to do."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["time", "open", "high", "low", "close", "volume"])
        price = 42_000.0
        for bar in range(BARS):
            close = 42_000 + 900 * math.sin(bar / 170) + 40 * math.sin(bar / 7)
            high, low = max(price, close) + 15, min(price, close) - 15
            rows.writerow([START + bar * MINUTE, price, high, low, close, 10 + bar % 5])
            price = close


if __name__ == "__main__":
    write_candles(Path(sys.argv[1]))
