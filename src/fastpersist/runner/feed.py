"""Candles on their way into the candle domain and out of it again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import ne
from typing import Final

from ..contracts import Candle
from ..domains import INTERVAL_STEP_MS
from ..errors import CorruptDataError
from ..registry import Registries
from .candle_csv import CandleFile

__all__ = ["Feed", "GapReport", "import_candles"]

_WRITE_BATCH: Final = 2_000
_WINDOW: Final = 1_000


@dataclass(frozen=True, slots=True)
class GapReport:
    """Missing candles between the first and the last: how many, in how many runs, the longest."""

    missing: int
    runs: int
    longest: int


class Feed:
    """The closed candles of one symbol, read from the candle domain in windows.

    The contract answers a window as a whole or not at all, so the feed remembers where the
    contiguous runs are and never asks across a gap.

    Attributes:
        different: How many candles were stored before with other figures than the imported file's;
            the stored ones stay and are what the feed gives.
    """

    def __init__(
        self, registries: Registries, exchange_name: str, symbol: str, interval: str,
        timestamps: Sequence[int],
    ) -> None:  # fmt: skip
        self.symbol = symbol
        self.interval = interval
        self.step = INTERVAL_STEP_MS[interval]
        self.different = 0
        self._registries = registries
        self._exchange_name = exchange_name
        self._run_starts: list[int] = []
        self._first_of_run: list[int] = []
        self._window: list[Candle] = []
        self._window_from = 0
        previous = None
        for index, timestamp in enumerate(timestamps):
            if previous is None or timestamp != previous + self.step:
                self._run_starts.append(index)
                self._first_of_run.append(timestamp)
            previous = timestamp
        self.count = len(timestamps)
        self.first, self.last = timestamps[0], timestamps[-1]

    @property
    def gaps(self) -> GapReport:
        """What is missing between the first and the last candle."""
        lengths = [
            (start - self.timestamp(index - 1)) // self.step - 1
            for index, start in zip(self._run_starts[1:], self._first_of_run[1:], strict=True)
        ]
        return GapReport(sum(lengths), len(lengths), max(lengths, default=0))

    def timestamp(self, index: int) -> int:
        """Return the opening time of a candle in ms."""
        run = bisect_right(self._run_starts, index) - 1
        return self._first_of_run[run] + (index - self._run_starts[run]) * self.step

    def end_of_run(self, index: int) -> int:
        """Return the position behind the contiguous run that holds `index`."""
        run = bisect_right(self._run_starts, index)
        return self._run_starts[run] if run < len(self._run_starts) else self.count

    async def candle(self, index: int) -> Candle:
        """Return a candle by its position; reading forward costs one window in a thousand.

        Raises:
            CorruptDataError: The candle domain has lost it since the import.
        """
        offset = index - self._window_from
        if not 0 <= offset < len(self._window):
            self._window = await self._read_run(index, min(self.count, index + _WINDOW))
            self._window_from, offset = index, 0
        return self._window[offset]

    async def history(self, until: int, limit: int) -> list[Candle]:
        """Return up to `limit` candles before position `until`."""
        index = max(0, until - limit)
        found: list[Candle] = []
        while index < until:
            part = await self._read_run(index, until)
            found += part
            index += len(part)
        return found

    async def _read_run(self, start: int, until: int) -> list[Candle]:
        limit = min(until, self.end_of_run(start)) - start
        since = self.timestamp(start)
        candles = await self._registries.candle.read_candles_data(
            self.symbol, self.interval, self._exchange_name, limit, since, since + limit * self.step
        )
        if candles is None:
            raise CorruptDataError(
                f"candle {self._exchange_name}/{self.symbol}/{self.interval}",
                f"candles from {since} ms on are gone",
                hint="import the file again",
            )
        return candles


async def import_candles(
    registries: Registries,
    exchange_name: str,
    file: CandleFile,
    progress: Callable[[int], None] = lambda count: None,
) -> Feed:
    """Write a file's candles into the candle domain and return their feed.

    Safe to repeat and to interrupt: runs of candles that are stored with the same figures are only
    read. Others are written, where candles that are stored stay as they are. `progress` is told how
    many candles each batch had.
    """
    timestamps = [candle["timestamp"] for candle in file.candles]
    feed = Feed(registries, exchange_name, file.symbol, file.interval, timestamps)
    candle = registries.candle
    context = (file.symbol, file.interval, exchange_name)
    start = 0
    while start < len(file.candles):
        batch = file.candles[start : min(start + _WRITE_BATCH, feed.end_of_run(start))]
        since, count = batch[0]["timestamp"], len(batch)
        window = (*context, count, since, since + count * feed.step)
        stored = await candle.read_candles_data(*window)
        if stored != batch:
            await candle.write_candles_data(*context, batch)
            stored = await candle.read_candles_data(*window)
            feed.different += sum(map(ne, stored or (), batch))
        progress(count)
        start += count
    return feed
