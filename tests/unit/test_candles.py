"""The candles of a run: bars in their order, and what can be seen of those that have closed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from candle_rows import START_MS, bar, random_walk
from fastpersist import InvalidArgumentError
from fastpersist.contracts import Candle
from fastpersist.hot.columns import CandleColumns, columns_from_rows
from fastpersist.runner import candles as candles_module
from fastpersist.runner.candles import History

MINUTE = 60_000
HOUR = 60 * MINUTE


class ListFeed:
    """Candles of a list; notes the windows that it is asked for, in steps from the start."""

    symbol = "BTC"
    exchange_name = "demo"

    def __init__(self, candles: list[Candle], interval: str = "1m") -> None:
        self.interval = interval
        self.start = candles[0]["timestamp"]
        self.end = candles[-1]["timestamp"] + 1
        self.windows: list[tuple[int, int]] = []
        self._candles = candles

    async def window(self, start: int, end: int) -> CandleColumns:
        self.windows.append(((start - START_MS) // MINUTE, (end - START_MS) // MINUTE))
        return columns_from_rows(
            [candle for candle in self._candles if start <= candle["timestamp"] < end]
        )


def history(candles: list[Candle], *, warm_up: int = 50, interval: str = "1m") -> History:
    feed = ListFeed(candles, interval)
    return History(feed, feed.start, feed.end, warm_up)


async def to_the_end(found: History) -> list[int]:
    """Take all bars and return their opening times."""
    moments = []
    while await found.next_close() is not None:
        moments.append(found.take().timestamp)
    return moments


@pytest.mark.parametrize("gaps", [[], [0, 1], range(5, 60), [9, 10, 11, 97]])
async def test_all_bars_come_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch, gaps: list[int]
) -> None:
    monkeypatch.setattr(candles_module, "_WINDOW", 10)
    candles = random_walk(100, gaps=gaps)
    assert await to_the_end(history(candles, warm_up=3)) == [row["timestamp"] for row in candles]


async def test_windows_reach_back_by_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles_module, "_WINDOW", 10)
    feed = ListFeed(random_walk(25))
    found = History(feed, START_MS + 5 * MINUTE, START_MS + 25 * MINUTE, 4)
    assert len(await to_the_end(found)) == 20
    assert feed.windows == [(0, 15), (10, 25)]
    assert found.next_time == START_MS + 25 * MINUTE


async def test_a_frame_begins_with_the_candles_before_it() -> None:
    candles = random_walk(30)
    feed = ListFeed(candles)
    found = History(feed, START_MS + 20 * MINUTE, START_MS + 30 * MINUTE, 15)
    assert await found.next_close() == START_MS + 21 * MINUTE
    found.take()
    assert found.part("1m", 15, START_MS + 21 * MINUTE).rows() == candles[6:21]


GAPS = [7, 30, 31, 32, 60, *range(90, 99), *range(115, 149)]


@pytest.mark.parametrize("window", [1, 20, 10_000])
@pytest.mark.parametrize("resumes_at", [0, 41, 113])
async def test_parts_hold_what_has_closed_wherever_a_window_begins(
    monkeypatch: pytest.MonkeyPatch, window: int, resumes_at: int
) -> None:
    monkeypatch.setattr(candles_module, "_WINDOW", window)
    candles = random_walk(190, gaps=GAPS)
    feed = ListFeed(candles)
    found = History(feed, START_MS + resumes_at * MINUTE, feed.end, 60)
    while (when := await found.next_close()) is not None:
        bar = found.take()
        closed = [row for row in candles if row["timestamp"] <= bar.timestamp]
        assert (bar.timestamp + MINUTE, bar.close) == (when, closed[-1]["close"])
        in_reach = [row for row in closed if row["timestamp"] >= when - 60 * MINUTE]
        for limit in (1, 5, 60):
            assert found.part("1m", limit, when).rows() == in_reach[-limit:]
        for interval, step in (("5m", 5), ("15m", 15), ("1h", 60)):
            longer = [
                row
                for row in made_of(closed, step * MINUTE, when)
                if row["timestamp"] >= when - 60 * MINUTE
            ]
            limit = 60 // step
            assert found.part(interval, limit, when).rows() == longer[-limit:]
        recent = [row for row in closed if row["timestamp"] >= when - 5 * MINUTE]
        value = sum(
            sum(row[n] for n in ("high", "low", "close")) / 3 * row["volume"] for row in recent
        )  # type: ignore[literal-required]  # three of its fields
        assert found.price == pytest.approx(value / sum(row["volume"] for row in recent))


def made_of(candles: list[Candle], step: int, when: int) -> list[dict[str, Any]]:
    """Return the closed longer candles, worked out in the plainest way."""
    groups: dict[int, list[Candle]] = {}
    for candle in candles:
        groups.setdefault(candle["timestamp"] // step * step, []).append(candle)
    made = []
    for moment, parts in groups.items():
        volume = 0.0
        for part in parts:
            volume += part["volume"]
        made.append(
            {
                "timestamp": moment,
                "open": parts[0]["open"],
                "high": max(part["high"] for part in parts),
                "low": min(part["low"] for part in parts),
                "close": parts[-1]["close"],
                "volume": volume,
            }
        )
    return [candle for candle in made if candle["timestamp"] + step <= when]


async def test_a_part_keeps_its_figures_and_leads_to_no_others() -> None:
    candles = random_walk(100)
    found = history(candles)
    for _ in range(20):
        await found.next_close()
        found.take()
    frame = found.part("1m", 10, START_MS + 20 * MINUTE)
    kept = frame.rows()
    await to_the_end(found)
    assert frame.rows() == kept == candles[10:20]
    array = frame.to_numpy()["close"]
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    assert root.size == 10
    assert len(memoryview(frame.close)) == 10
    assert frame.missing == 0


async def test_the_price_is_weighted_by_volume() -> None:
    rows = [bar(index, 1, 12, 6, 9) for index in range(7)]  # typical price 9
    for index, volume in enumerate((50.0, 50.0, 1.0, 0.0, 3.0, 0.0, 4.0)):
        rows[index]["volume"] = volume
    rows[4].update(high=20, low=10, close=12)  # typical price 14
    found = history(rows)
    prices = []
    while await found.next_close() is not None:
        found.take()
        prices.append(found.price)
    assert prices[-1] == pytest.approx((9 * 1 + 14 * 3 + 9 * 4) / 8)
    assert prices[0] == 9


async def test_without_volume_the_price_is_the_plain_mean() -> None:
    rows = [bar(0, 1, 3, 1, 2), bar(1, 1, 6, 2, 4)]
    for row in rows:
        row["volume"] = 0.0
    found = history(rows)
    await to_the_end(found)
    assert found.price == 3


async def test_the_price_of_longer_candles_is_their_close() -> None:
    rows = random_walk(10, step=HOUR)
    found = history(rows, interval="1h")
    await to_the_end(found)
    assert found.price == rows[-1]["close"]


@pytest.mark.parametrize(
    ("interval", "limit", "argument", "hint"),
    [
        ("7m", 1, "interval", "5m, 15m"),
        ("", 1, "interval", "5m, 15m"),
        ("1m", 1, "interval", "5m, 15m"),
        ("5m", 0, "limit", ""),
        ("5m", -1, "limit", ""),
        ("5m", True, "limit", ""),
        ("5m", 2.5, "limit", ""),
        ("5m", 51, "limit", "warm_up to 51"),
        ("1h", 5, "limit", "warm_up to 60"),
    ],
)
async def test_what_cannot_be_given_is_named(
    interval: str, limit: Any, argument: str, hint: str
) -> None:
    found = history(random_walk(10, step=5 * MINUTE), interval="5m")
    await to_the_end(found)
    with pytest.raises(InvalidArgumentError) as caught:
        found.part(interval, limit, START_MS + 50 * MINUTE)
    assert caught.value.field == argument
    assert hint in str(caught.value)


def test_intervals_have_no_odd_ones() -> None:
    """Longer candles are made of whole shorter ones."""
    from fastpersist.domains import INTERVAL_STEP_MS

    steps = sorted(INTERVAL_STEP_MS.values())
    assert all(longer % steps[0] == 0 for _, longer in pairwise(steps))
