"""Candles on their way into the candle domain and out of it again."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import ne
from typing import Any, Final, cast

from ..contracts import Candle
from ..domains import INTERVAL_STEP_MS
from ..errors import CorruptDataError, InvalidArgumentError
from ..hot.columns import CandleColumns, part, rows
from ..payloads import interval_step
from ..registry import Registries
from .candle_file import CandleFile, CandleFileError, read_candle_file
from .candles import CandleFeed
from .clock import Clock
from .position import Bar
from .stream import polled

__all__ = ["FileFeed", "GapReport", "ImportReport", "StoreFeed", "fetch_candles", "import_candles"]

_WRITE_BATCH: Final = 2_000
_MOST_RUNS: Final = 32


class StoreFeed:
    """The candles of one symbol in the candle domain.

    Attributes:
        symbol, interval, exchange_name: What the candles belong to.
        start: Opening time of the first candle of a run, ms.
        end: The moment before which its last candle opens, ms.

    Raises:
        InvalidArgumentError: The interval is unknown, or the range runs backwards.
    """

    def __init__(
        self, registries: Registries, exchange_name: str, symbol: str, interval: str,
        start: int, end: int,
    ) -> None:  # fmt: skip
        interval_step(interval)
        if end <= start:
            raise InvalidArgumentError("end", f"{end} is not later than the start {start}")
        self.symbol = symbol
        self.interval = interval
        self.exchange_name = exchange_name
        self.start = start
        self.end = end
        self._registries = registries

    async def window(self, start: int, end: int) -> CandleColumns:
        """Return the stored candles that open from `start` to before `end`, both ms."""
        frame = await self._registries.candle.read_candles_frame(
            self.symbol, self.interval, self.exchange_name, start, end
        )
        return frame.columns

    def stream(self, since: int, clock: Clock) -> AsyncGenerator[Bar, None]:
        """Give the candles that open from `since` (ms) on, as another process stores them."""
        return polled(self, since, clock)


class FileFeed:
    """The candles of a file, straight from memory.

    Attributes:
        symbol, interval, exchange_name: What the candles belong to.
        start: Opening time of the first candle, ms.
        end: The moment before which the last candle opens, ms; a stream moves it.
    """

    def __init__(self, file: CandleFile, exchange_name: str) -> None:
        self.symbol = file.symbol
        self.interval = file.interval
        self.exchange_name = exchange_name
        self._is_followed = False
        self._seen: tuple[int, int, int] | None = None
        self._show(file)

    async def window(self, start: int, end: int) -> CandleColumns:
        """Return the candles that open from `start` to before `end`, both ms.

        Raises:
            CandleFileError: A stream is under way, and what the file has become is malformed; the
                next call looks at it again.
        """
        if self._is_followed:
            await self._look_again()
        first, last = bisect_left(self._moments, start), bisect_left(self._moments, end)
        return part(self._file.columns, first, last)

    def stream(self, since: int, clock: Clock) -> AsyncGenerator[Bar, None]:
        """Give the candles that open from `since` (ms) on, as another program appends them.

        From now on windows, too, hold what the file has grown by.
        """
        self._is_followed = True
        return polled(self, since, clock)

    async def _look_again(self) -> None:
        path = self._file.path
        status = await asyncio.to_thread(path.stat)
        seen = status.st_ino, status.st_size, status.st_mtime_ns
        # A candle that had not closed may do so without a change of the file.
        if seen == self._seen and not self._file.unclosed:
            return
        file = await asyncio.to_thread(read_candle_file, path, self.symbol, is_growing=True)
        if file.interval != self.interval:
            raise CandleFileError(
                path, 1, f"holds candles of {file.interval} now, and of {self.interval} before"
            )
        self._seen = seen
        self._show(file)

    def _show(self, file: CandleFile) -> None:
        self._file, self._moments = file, array("q", file.columns.timestamp)
        self.start, self.end = self._moments[0], self._moments[-1] + file.step


class _ImportedFeed(StoreFeed):
    """What a file has brought into the candle domain; it knows which candles have to be there."""

    def __init__(self, registries: Registries, exchange_name: str, file: CandleFile) -> None:
        moments = array("q", file.columns.timestamp)
        super().__init__(
            registries, exchange_name, file.symbol, file.interval, moments[0],
            moments[-1] + file.step,
        )  # fmt: skip
        self._moments = moments

    async def window(self, start: int, end: int) -> CandleColumns:
        """Return what ``StoreFeed.window`` does.

        Raises:
            CorruptDataError: The candle domain has lost candles since the import.
        """
        found = await super().window(start, end)
        expected = self._moments[
            bisect_left(self._moments, start) : bisect_left(self._moments, end)
        ]
        there = set(found.timestamp.tolist())
        lost = [moment for moment in expected if moment not in there]
        if lost:
            raise CorruptDataError(
                f"candle {self.exchange_name}/{self.symbol}/{self.interval}",
                f"{len(lost)} candles from {lost[0]} ms on are gone",
                hint="import the file again",
            )
        return found


@dataclass(frozen=True, slots=True)
class GapReport:
    """Missing candles between the first and the last: how many, in how many runs, the longest."""

    missing: int
    runs: int
    longest: int

    @classmethod
    def of(cls, file: CandleFile) -> GapReport:
        """Return what is missing in a file."""
        moments, step = array("q", file.columns.timestamp), file.step
        starts = [start for start, _ in _contiguous(moments, step)[1:]]
        lengths = [(moments[start] - moments[start - 1]) // step - 1 for start in starts]
        return cls(sum(lengths), len(lengths), max(lengths, default=0))


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import has found.

    Attributes:
        feed: The candles, for a run.
        count: How many candles the file has.
        gaps: What is missing between its first and its last.
        different: How many candles were stored before with other figures than the file's; the
            stored ones stay and are what the feed gives.
    """

    feed: StoreFeed
    count: int
    gaps: GapReport
    different: int


async def import_candles(
    registries: Registries,
    exchange_name: str,
    file: CandleFile,
    progress: Callable[[int], None] = lambda count: None,
) -> ImportReport:
    """Write a file's candles into the candle domain.

    Safe to repeat and to interrupt: runs of candles that are stored with the same figures are only
    read. Others are written, where candles that are stored stay as they are. `progress` is told how
    many candles each batch had.
    """
    candle = registries.candle
    context = (file.symbol, file.interval, exchange_name)
    step = INTERVAL_STEP_MS[file.interval]
    different = 0

    async def stored_like(batches: Sequence[list[Candle]]) -> list[Any]:
        return await asyncio.gather(
            *(
                candle.read_candles_data(
                    *context, len(batch), batch[0]["timestamp"],
                    batch[0]["timestamp"] + len(batch) * step,
                )
                for batch in batches
            )
        )  # fmt: skip

    for places in _batches(array("q", file.columns.timestamp), step):
        batches = [
            cast("list[Candle]", rows(part(file.columns, begin, end))) for begin, end in places
        ]
        stored = await stored_like(batches)
        others = [batch for batch, found in zip(batches, stored, strict=True) if found != batch]
        if others:
            await candle.write_candles_data(*context, list(chain.from_iterable(others)))
            for batch, found in zip(others, await stored_like(others), strict=True):
                different += sum(map(ne, found or (), batch))
        progress(sum(map(len, batches)))
    feed = _ImportedFeed(registries, exchange_name, file)
    return ImportReport(feed, len(file.columns), GapReport.of(file), different)


def _contiguous(moments: Sequence[int], step: int) -> list[tuple[int, int]]:
    """Return begin and end of each run of candles without a gap, as places."""
    borders = [
        place for place in range(1, len(moments)) if moments[place] != moments[place - 1] + step
    ]
    return list(zip([0, *borders], [*borders, len(moments)], strict=True))


def _batches(moments: Sequence[int], step: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the runs of candles without a gap, as places, by what is written at once.

    A market with many gaps would else cost three round trips for each.
    """
    batch: list[tuple[int, int]] = []
    count = 0
    for begin, end in _contiguous(moments, step):
        for start in range(begin, end, _WRITE_BATCH):
            stop = min(start + _WRITE_BATCH, end)
            if batch and (len(batch) == _MOST_RUNS or count + stop - start > _WRITE_BATCH):
                yield batch
                batch, count = [], 0
            batch.append((start, stop))
            count += stop - start
    if batch:
        yield batch


async def fetch_candles(
    registries: Registries,
    feed: CandleFeed,
    start: int,
    end: int,
    progress: Callable[[int], None] = lambda ms: None,
) -> None:
    """Store the candles that open from `start` to before `end` (ms) and are not stored yet.

    Safe to repeat and to interrupt. `progress` is told how many ms each batch spanned.
    """
    candle = registries.candle
    context = (feed.symbol, feed.interval, feed.exchange_name)
    step = INTERVAL_STEP_MS[feed.interval]
    for begin in range(start // step * step, end, _WRITE_BATCH * step):
        stop = min(begin + _WRITE_BATCH * step, end)
        if (await candle.read_candles_frame(*context, begin, stop)).missing:
            columns = await feed.window(begin, stop)
            if len(columns):
                await candle.write_candles_data(*context, cast("list[Candle]", rows(columns)))
        progress(stop - begin)
