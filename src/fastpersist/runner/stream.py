"""Candles as they close: late, twice, with gaps or over a broken line, in the order of time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from ..domains import INTERVAL_STEP_MS
from ..errors import FastPersistError
from ..times import to_datetime
from .candles import CandleFeed, bars_of
from .clock import Clock
from .position import Bar

__all__ = ["FeedUnavailableError", "polled", "steady"]

_AFTER_CLOSE_MS: Final = 500
_POLL_SECONDS: Final = 1.0
_MOST_POLL_SECONDS: Final = 5.0
_FIRST_BACK_OFF: Final = 1.0
_MOST_BACK_OFF: Final = 60.0
_SILENT_STEPS: Final = 3
_WINDOW: Final = 1_000


class FeedUnavailableError(FastPersistError):
    """A feed did not give its candles; it may do so later."""

    retryable = True


async def polled(feed: CandleFeed, since: int, clock: Clock) -> AsyncGenerator[Bar, None]:
    """Give the candles that open from `since` on (ms), by asking for a window after each close.

    Whether a candle has closed is the feed's business. It is asked at least once in each step of
    real time, so a clock that was set back costs one step and not the difference.
    """
    step = INTERVAL_STEP_MS[feed.interval]
    next_time, pause = since, _POLL_SECONDS
    while True:
        await clock.wait_until(next_time + step + _AFTER_CLOSE_MS, step / 1000)
        end = max(clock.now() // step * step, next_time + step)
        found = bars_of(await feed.window(next_time, min(end, next_time + _WINDOW * step)))
        for bar in found:
            yield bar
        if found:
            next_time, pause = found[-1].timestamp + step, _POLL_SECONDS
        elif end > next_time + _WINDOW * step:
            next_time += _WINDOW * step  # a long stretch without a candle
        else:
            await clock.sleep(pause)
            pause = min(2 * pause, _MOST_POLL_SECONDS)


async def steady(
    feed: CandleFeed,
    since: int,
    clock: Clock,
    tell: Callable[[str], None] = lambda trouble: None,
) -> AsyncGenerator[Bar, None]:
    """Give each candle of a feed's stream once and in order, from `since` (ms) on.

    What comes twice or too late is left out, what is missing is asked for once more. A line that
    breaks, or is silent for three steps and a minute, is built again, after pauses that grow up to
    a minute. `tell` hears of it.
    """
    step = INTERVAL_STEP_MS[feed.interval]
    next_time, pause = since, _FIRST_BACK_OFF
    loop = asyncio.get_running_loop()
    silence = _SILENT_STEPS * step / 1000 + _MOST_BACK_OFF
    heard = loop.time()
    while True:
        trouble, ends = "its stream has ended", loop.time() + silence
        try:
            async with aclosing(feed.stream(next_time, clock)) as stream:
                while True:
                    # Old candles do not end the silence.
                    bar = await asyncio.wait_for(anext(stream), ends - loop.time())
                    if bar.timestamp < next_time:
                        continue
                    fault = _fault(bar, step)
                    # By our clock, or if that was set back by the time that has gone by.
                    passed = int((loop.time() - heard) * 1000)
                    latest = max(clock.now(), next_time + passed + _SILENT_STEPS * step)
                    if not fault and bar.timestamp > latest:
                        fault = f"{bar.timestamp} ms lies in the future"
                    if fault:
                        tell(f"{feed.symbol}: a candle is left out: {fault}")
                        continue
                    for missed in await _missed(feed, next_time, bar.timestamp, tell):
                        yield missed
                    yield bar
                    next_time, pause = bar.timestamp + step, _FIRST_BACK_OFF
                    heard = loop.time()
                    ends = heard + silence
        except StopAsyncIteration:
            pass
        except asyncio.TimeoutError:
            trouble = f"no new candle for {silence:g} s"
        except Exception as error:  # whatever a feed's library raises
            trouble = str(error) or type(error).__name__
        tell(f"{feed.symbol}: {trouble}; the next try is in {pause:g} s")
        await clock.sleep(pause)
        pause = min(2 * pause, _MOST_BACK_OFF)


async def _missed(feed: CandleFeed, start: int, end: int, tell: Callable[[str], None]) -> list[Bar]:
    if end <= start:
        return []
    step = INTERVAL_STEP_MS[feed.interval]
    found = [bar for bar in bars_of(await feed.window(start, end)) if not _fault(bar, step)]
    missing = (end - start) // step - len(found)
    if missing:
        first = to_datetime(start).isoformat()
        tell(f"{feed.symbol}: {missing} candles from {first} on are missing")
    return found


def _fault(bar: Bar, step: int) -> str:
    if bar.timestamp % step:
        return f"{bar.timestamp} ms is off the grid"
    if not all(0 < price < math.inf for price in bar[1:5]) or not 0 <= bar.volume < math.inf:
        return f"a figure of {bar.timestamp} ms is not finite or below 0"
    if bar.high < max(bar.open, bar.close, bar.low) or bar.low > min(bar.open, bar.close):
        return f"high and low of {bar.timestamp} ms do not hold its prices"
    return ""
