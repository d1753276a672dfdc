"""Candles as they close: the helper that polls, and the one that copes with any stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest

from candle_rows import START_MS, bars
from fastpersist.contracts import Candle
from fastpersist.hot.columns import CandleColumns, columns_from_rows
from fastpersist.runner import stream as stream_module
from fastpersist.runner.clock import Clock, WallClock
from fastpersist.runner.position import Bar
from fastpersist.runner.stream import FeedUnavailableError, polled, steady
from live_kit import FakeClock, LiveFeed

MINUTE = 60_000
CANDLES = bars(*[(100.0, 101.0, 99.0, 100.0 + index / 100) for index in range(20)])


def as_bar(candle: Candle) -> Bar:
    return Bar(*(candle[name] for name in Bar._fields))


BARS = [as_bar(candle) for candle in CANDLES]
Script = Callable[[int], AsyncGenerator[Bar, None]]


class ScriptedFeed:
    """Each connection of its stream does what the next script says; `known` can be asked for."""

    symbol, interval, exchange_name = "BTC", "1m", "demo"
    start, end = START_MS, START_MS + len(CANDLES) * MINUTE

    def __init__(self, *scripts: Script, known: Sequence[Candle] = CANDLES) -> None:
        self.scripts = list(scripts)
        self.known = known
        self.since: list[int] = []
        self.windows: list[tuple[int, int]] = []

    async def window(self, start: int, end: int) -> CandleColumns:
        self.windows.append((start, end))
        return columns_from_rows([row for row in self.known if start <= row["timestamp"] < end])

    def stream(self, since: int, clock: Clock) -> AsyncGenerator[Bar, None]:
        self.since.append((since - START_MS) // MINUTE)
        return self.scripts.pop(0)(since)


def gives(*places: int, then: Exception | None = None) -> Script:
    """Return a script that gives bars by their places and then fails or ends."""

    async def script(since: int) -> AsyncGenerator[Bar, None]:
        for place in places:
            yield BARS[place]
        if then is not None:
            raise then

    return script


async def taken(
    feed: Any, count: int, clock: FakeClock, tell: Any = lambda text: None
) -> list[int]:
    """Return the places of the first `count` bars."""
    found: list[int] = []
    source = steady(feed, START_MS, clock, tell)
    async for bar in source:
        assert bar in BARS
        found.append(BARS.index(bar))
        if len(found) == count:
            break
    await source.aclose()
    return found


async def test_what_comes_twice_or_out_of_order_comes_once_and_in_order() -> None:
    feed = ScriptedFeed(gives(0, 0, 1, 3, 2, 1, 4, 4))
    assert await taken(feed, 5, FakeClock(START_MS)) == [0, 1, 2, 3, 4]
    assert feed.windows == [(START_MS + 2 * MINUTE, START_MS + 3 * MINUTE)]


async def test_what_is_missing_everywhere_is_told_and_left_out() -> None:
    told: list[str] = []
    feed = ScriptedFeed(gives(0, 5), known=CANDLES[3:])
    assert await taken(feed, 4, FakeClock(START_MS + 6 * MINUTE), told.append) == [0, 3, 4, 5]
    assert len(told) == 1
    assert "2 candles from 2025-01-01T00:01:00+00:00 on" in told[0]


async def test_a_line_that_breaks_is_built_again_where_it_was() -> None:
    clock = FakeClock(START_MS)
    told: list[str] = []
    feed = ScriptedFeed(
        gives(0, 1, then=FeedUnavailableError("gone")), gives(then=OSError("refused")),
        gives(then=asyncio.TimeoutError()), gives(), gives(2, then=OSError("again")), gives(3),
    )  # fmt: skip
    assert await taken(feed, 4, clock, told.append) == [0, 1, 2, 3]
    assert feed.since == [0, 2, 2, 2, 2, 3]
    # Twice as long each time, and from the beginning after a candle.
    assert clock.slept == [1, 2, 4, 8, 1]
    assert len(told) == 5


async def test_pauses_do_not_grow_beyond_a_minute() -> None:
    clock = FakeClock(START_MS)
    await taken(ScriptedFeed(*[gives()] * 12, gives(0)), 1, clock)
    assert max(clock.slept) == 60
    assert clock.slept[-3:] == [60, 60, 60]


async def test_a_silent_line_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_MOST_BACK_OFF", 0.05)
    monkeypatch.setattr(stream_module, "_SILENT_STEPS", 0)

    async def silent(since: int) -> AsyncGenerator[Bar, None]:
        await asyncio.sleep(3_600)
        yield BARS[0]

    feed = ScriptedFeed(silent, gives(0))
    assert await taken(feed, 1, FakeClock(START_MS)) == [0]


@pytest.mark.parametrize(
    "figures",
    [
        {"timestamp": START_MS + MINUTE + 1}, {"timestamp": START_MS + 5_000_000 * MINUTE},
        {"close": float("nan")}, {"open": -1.0},
        {"high": float("inf")}, {"volume": -1.0}, {"high": 99.5}, {"low": 100.5},
    ],
)  # fmt: skip
async def test_a_candle_that_contradicts_itself_is_told_and_left_out(figures: Any) -> None:
    told: list[str] = []
    wrong = BARS[1]._replace(**figures)

    async def script(since: int) -> AsyncGenerator[Bar, None]:
        yield BARS[0]
        yield wrong
        yield BARS[2]

    feed = ScriptedFeed(script, known=[])
    assert await taken(feed, 2, FakeClock(START_MS), told.append) == [0, 2]
    assert any("left out" in text for text in told)


async def polls(feed: LiveFeed, since: int, count: int, clock: FakeClock) -> list[int]:
    found: list[int] = []
    source = polled(feed, since, clock)
    async for bar in source:
        assert clock.now() >= bar.timestamp + MINUTE
        found.append(BARS.index(bar))
        if len(found) == count:
            break
    await source.aclose()
    return found


async def test_polling_asks_once_after_each_close() -> None:
    clock = FakeClock(START_MS)
    feed = LiveFeed("BTC", CANDLES, clock, lambda: None)
    assert await polls(feed, START_MS, 5, clock) == [0, 1, 2, 3, 4]
    assert len(feed.asked) == 5
    assert not clock.slept


async def test_a_late_candle_is_asked_for_until_it_is_there() -> None:
    clock = FakeClock(START_MS)
    feed = LiveFeed("BTC", [*CANDLES[:1], *CANDLES[2:]], clock, lambda: None)
    # Number 1 never comes; the next ones come with the window that is asked for again.
    assert await polls(feed, START_MS, 3, clock) == [0, 2, 3]
    assert max(clock.slept) == 5


async def test_a_clock_that_is_put_on_gives_all_at_once() -> None:
    clock = FakeClock(START_MS)
    feed = LiveFeed("BTC", CANDLES, clock, lambda: None)
    source = polled(feed, START_MS, clock)
    assert await anext(source) == BARS[0]
    clock.time += 10 * MINUTE
    assert [await anext(source) for _ in range(10)] == BARS[1:11]
    assert len(feed.asked) == 2
    await source.aclose()


async def test_a_clock_that_is_set_back_costs_a_step_and_not_the_difference() -> None:
    """The feed tells what has closed by its own time; ours is an hour behind."""
    clock, theirs = FakeClock(START_MS), FakeClock(START_MS)
    feed = LiveFeed("BTC", CANDLES, theirs, lambda: None)
    source = polled(feed, START_MS, clock)
    clock.time = theirs.time = START_MS + MINUTE
    assert await anext(source) == BARS[0]
    clock.time -= 60 * MINUTE
    before = clock.time
    theirs.time += MINUTE
    assert await anext(source) == BARS[1]
    assert clock.time - before <= 2 * MINUTE
    await source.aclose()


async def test_a_stretch_without_candles_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_WINDOW", 4)
    clock = FakeClock(START_MS + 18 * MINUTE)
    feed = LiveFeed("BTC", [*CANDLES[:2], *CANDLES[13:]], clock, lambda: None)
    assert await polls(feed, START_MS, 4, clock) == [0, 1, 13, 14]


async def test_the_wall_clock_waits_no_longer_than_it_is_told() -> None:
    clock = WallClock()
    await asyncio.wait_for(clock.wait_until(clock.now() + 3_600_000, 0.02), 60)
    await asyncio.wait_for(clock.wait_until(clock.now() - 1, 3_600), 60)
    before = clock.now()
    await clock.wait_until(before + 30, 10)
    assert clock.now() >= before + 30
