"""Candles of files into the store, with what is missing there afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, cast

from ..contracts import Candle
from ..domains import INTERVAL_STEP_MS
from ..hot.columns import rows
from ..registry import Registries
from ..runner.candle_file import CandleFile
from ..runner.candles import CandleFeed
from ..runner.feed import import_candles
from .backup import OnProgress

__all__ = ["CandleImport", "Gap", "import_file"]

_WINDOW: Final = 10_000
_FILL_WINDOW: Final = 2_000


@dataclass(frozen=True)
class Gap:
    """Candles in a row that are not stored.

    Attributes:
        start: Opening time of the first, ms.
        end: The moment before which the last one opens, ms.
        missing: How many they are.
    """

    start: int
    end: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class CandleImport:
    """What came of a file.

    Attributes:
        symbol, interval, exchange_name: What its candles belong to.
        start: Opening time of its first candle, ms.
        end: The moment before which its last candle opens, ms.
        candles: How many it has.
        unclosed: How many at its end had not closed, and were left out.
        missing_in_file: How many it lacks between its first and its last.
        different: How many were stored before with other figures, which stay.
        filled: How many were taken from other sources.
        gaps: What is not stored between its first and its last, by time.
    """

    symbol: str
    interval: str
    exchange_name: str
    start: int
    end: int
    candles: int
    unclosed: int
    missing_in_file: int
    different: int
    filled: dict[str, int]
    gaps: list[Gap]

    @property
    def missing(self) -> int:
        """How many candles are not stored between the file's first and its last."""
        return sum(gap.missing for gap in self.gaps)


async def import_file(
    registries: Registries,
    exchange_name: str,
    file: CandleFile,
    sources: dict[str, Callable[[int, int], CandleFeed]],
    on_progress: OnProgress = lambda name, done, total: None,
) -> CandleImport:
    """Store the candles of a file, and those of other sources that are missing between them.

    Safe to repeat and to interrupt. Candles that are stored keep their figures. Nothing is made up:
    what no source has stays missing.

    Args:
        registries: Where to.
        exchange_name: What the candles belong to, with the file's symbol and interval.
        file: The candles.
        sources: By name what makes a feed of a range, in the order in which they are asked.
        on_progress: Is called after each batch.

    Raises:
        StoreError: MongoDB refused a write.
        StoreUnavailableError: MongoDB did not answer within the operation's deadline.
        FeedUnavailableError: A source did not answer.
        CandleFileError: A source is malformed.
    """
    done, total = 0, len(file.columns)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        on_progress(file.path.name, done, total)

    report = await import_candles(registries, exchange_name, file, advance)
    start, end = report.feed.start, report.feed.end
    context = (file.symbol, file.interval, exchange_name)
    gaps = await _gaps(registries, context, start, end)
    filled: dict[str, int] = {}
    for name, source in sources.items():
        if not gaps:
            break
        before = sum(gap.missing for gap in gaps)
        await _fill(registries, source(start, end), name, gaps, on_progress)
        gaps = await _gaps(registries, context, start, end)
        filled[name] = before - sum(gap.missing for gap in gaps)
    return CandleImport(
        symbol=file.symbol,
        interval=file.interval,
        exchange_name=exchange_name,
        start=start,
        end=end,
        candles=report.count,
        unclosed=file.unclosed,
        missing_in_file=report.gaps.missing,
        different=report.different,
        filled=filled,
        gaps=gaps,
    )


async def _gaps(
    registries: Registries, context: tuple[str, str, str], start: int, end: int
) -> list[Gap]:
    step = INTERVAL_STEP_MS[context[1]]
    found: list[Gap] = []
    expected = start
    async for moment in _stored_moments(registries, context, start, end):
        if moment > expected:
            found.append(Gap(expected, moment, (moment - expected) // step))
        expected = moment + step
    if expected < end:
        found.append(Gap(expected, end, (end - expected) // step))
    return found


async def _stored_moments(
    registries: Registries, context: tuple[str, str, str], start: int, end: int
) -> AsyncIterator[int]:
    step = INTERVAL_STEP_MS[context[1]]
    for begin in range(start, end, _WINDOW * step):
        stop = min(begin + _WINDOW * step, end)
        frame = await registries.candle.read_candles_frame(*context, begin, stop)
        for moment in frame.timestamp.tolist():
            if moment % step == 0:  # another program may have stored others
                yield moment


async def _fill(
    registries: Registries,
    feed: CandleFeed,
    name: str,
    gaps: list[Gap],
    on_progress: OnProgress,
) -> None:
    step = INTERVAL_STEP_MS[feed.interval]
    done, total = 0, sum(gap.missing for gap in gaps)
    for gap in gaps:
        for begin in range(gap.start, gap.end, _FILL_WINDOW * step):
            stop = min(begin + _FILL_WINDOW * step, gap.end)
            columns = await feed.window(begin, stop)
            if len(columns):
                await registries.candle.write_candles_data(
                    feed.symbol, feed.interval, feed.exchange_name,
                    cast("list[Candle]", rows(columns)),
                )  # fmt: skip
            done += (stop - begin) // step
            on_progress(name, done, total)
