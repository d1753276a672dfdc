"""The candles of a symbol on their way into a run: one window after the other, none too early."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator
from typing import Final, Protocol

from ..domains import INTERVAL_STEP_MS, MINUTE_MS
from ..errors import InvalidArgumentError
from ..frames import CandleFrame
from ..hot.columns import CandleColumns, Column, aggregated, part
from .clock import Clock
from .position import Bar

__all__ = ["CandleFeed", "History", "Lookback", "Tail", "bars_of"]

_WINDOW: Final = 10_000
_PRICE_CANDLES: Final = 5
_MOST_LATE: Final = 5


class CandleFeed(Protocol):
    """Where the candles of one symbol come from.

    Attributes:
        symbol, interval, exchange_name: What the candles belong to.
        start: Opening time from which a run begins by default, ms.
        end: The moment before which its last candle opens, ms.
    """

    @property
    def symbol(self) -> str: ...
    @property
    def interval(self) -> str: ...
    @property
    def exchange_name(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...

    async def window(self, start: int, end: int) -> CandleColumns:
        """Return the closed candles that open from `start` to before `end`, ms, in their order."""

    def stream(self, since: int, clock: Clock) -> AsyncGenerator[Bar, None]:
        """Give the candles that open from `since` (ms) on, each when it has closed.

        They may come late, twice or with gaps, and the line may break with an error:
        :func:`fastpersist.runner.stream.steady` copes with that.
        """


def bars_of(columns: CandleColumns) -> list[Bar]:
    """Return columns as bars."""
    return [
        Bar(*figures)
        for figures in zip(
            columns.timestamp.tolist(), columns.open.tolist(), columns.high.tolist(),
            columns.low.tolist(), columns.close.tolist(), columns.volume.tolist(), strict=True,
        )
    ]  # fmt: skip


class Lookback:
    """Of the bars that have closed, any part.

    Args:
        feed: Where the candles come from.
        warm_up: How many steps back from a close candles can be looked at. Counted in time and not
            in candles: with gaps, what is seen must not depend on where a window begins.
    """

    def __init__(self, feed: CandleFeed, warm_up: int) -> None:
        self.feed = feed
        self.step = INTERVAL_STEP_MS[feed.interval]
        self.warm_up = warm_up
        self.next_time = 0
        self._columns: CandleColumns | None = None
        self._moments: list[int] = []
        self._reaches_to = 0
        self._row = -1
        self._longer: dict[str, tuple[CandleColumns, list[int]]] = {}

    @property
    def price(self) -> float:
        """Mean of the typical prices of the last five minutes' candles, weighted by volume.

        Without any volume their plain mean, for candles longer than a minute the last close, and 0
        before the first.
        """
        columns, row = self._columns, self._row
        assert columns is not None
        if row < 0:
            return 0.0
        if self.step != MINUTE_MS:
            last: float = columns.close[row]
            return last
        high, low, close, volumes = columns.high, columns.low, columns.close, columns.volume
        typical = value = volume = 0.0
        first = bisect_left(self._moments, self.next_time - _PRICE_CANDLES * self.step)
        for place in range(first, row + 1):
            price = (high[place] + low[place] + close[place]) / 3
            typical += price
            value += price * volumes[place]
            volume += volumes[place]
        return value / volume if volume else typical / (row + 1 - first)

    @property
    def last_time(self) -> int | None:
        """Opening time of the last bar, ms; None before the first."""
        return self._moments[self._row] if self._row >= 0 else None

    @property
    def last_close(self) -> float:
        """Close of the last bar, 0 before the first."""
        columns = self._columns
        return columns.close[self._row] if columns is not None and self._row >= 0 else 0.0

    def part(self, interval: str, limit: int, when: int) -> CandleFrame:
        """Return up to `limit` closed candles of `interval`, the newest last, as a copy.

        Raises:
            InvalidArgumentError: The interval cannot be made of the run's candles, or `limit` is
                no positive int or reaches further back than ``warm_up``.
        """
        step = INTERVAL_STEP_MS.get(interval)
        if step is None or step % self.step:
            raise InvalidArgumentError(
                "interval",
                f"{interval!r:.20} cannot be made of candles of {self.feed.interval}",
                hint=", ".join(name for name, ms in INTERVAL_STEP_MS.items() if not ms % self.step),
            )
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgumentError(
                "limit", f"must be a whole number above 0, got {limit!r:.20}"
            )
        needed = limit * (step // self.step)
        if needed > self.warm_up:
            raise InvalidArgumentError(
                "limit",
                f"{limit} candles of {interval} are {needed} of {self.feed.interval}, while the "
                f"strategy keeps {self.warm_up}",
                hint=f"set its warm_up to {needed} or more",
            )
        columns, moments = self._columns, self._moments
        assert columns is not None
        if step != self.step:
            columns, moments = self._made(interval, step, columns)
        stop = bisect_right(moments, when - step)
        earliest = bisect_left(moments, when - self.warm_up * self.step)
        found = part(columns, max(stop - limit, earliest), stop)
        end = when // step * step
        start = found.timestamp[0] if len(found) else end
        return CandleFrame(
            self.feed.symbol, interval, self.feed.exchange_name, found, start, max(start, end)
        )

    def _made(
        self, interval: str, step: int, columns: CandleColumns
    ) -> tuple[CandleColumns, list[int]]:
        found = self._longer.get(interval)
        if found is None:
            longer = aggregated(columns, step)
            # What begins before the window may lack its first parts.
            if len(longer) and longer.timestamp[0] < self._reaches_to:
                longer = part(longer, 1, len(longer))
            found = self._longer[interval] = longer, longer.timestamp.tolist()
        return found


class History(Lookback):
    """Gives the bars of a frame in their order, and of those that were given any part.

    Args:
        start: Opening time from which bars are given, ms.
        end: The moment before which the last of them opens, ms.
    """

    def __init__(self, feed: CandleFeed, start: int, end: int, warm_up: int) -> None:
        super().__init__(feed, warm_up)
        self.start = start
        self.end = end
        self.next_time = start
        self._window = max(_WINDOW, warm_up) * self.step
        self._reaches_to = self._looked_to = start
        self._bars: list[Bar] = []
        self._place = 0
        self._before = 0

    @property
    def is_complete(self) -> bool:
        """Whether the last bar of the frame has been given; more candles may come else."""
        return self.next_time >= self.end

    async def next_close(self) -> int | None:
        """Return when the next bar closes, in ms, or None when no more comes."""
        while self._place >= len(self._bars):
            if self._looked_to >= self.end:
                return None
            await self._load()
        return self._bars[self._place].timestamp + self.step

    def carry_on(self, next_time: int) -> None:
        """Give the bars from `next_time` on, the opening time of one in ms."""
        self.next_time = self._looked_to = next_time
        self._bars, self._place = [], 0

    async def _load(self) -> None:
        start = max(self._looked_to, self.next_time)
        end = self._looked_to = min(self.end, start + self._window)
        self._reaches_to = start - max(self.warm_up, _PRICE_CANDLES) * self.step
        columns = await self.feed.window(self._reaches_to, end)
        moments = columns.timestamp.tolist()
        before = bisect_right(moments, start - 1)
        self._bars = bars_of(part(columns, before, len(columns)))
        self._columns, self._moments = columns, moments
        self._before, self._place = before, 0
        self._longer.clear()

    def take(self) -> Bar:
        """Return the bar that ``next_close`` has told of; from now on it has closed."""
        bar = self._bars[self._place]
        self._row = self._before + self._place
        self._place += 1
        self.next_time = bar.timestamp + self.step
        return bar


class Tail(Lookback):
    """Bars that are added as they close."""

    async def load(self, until: int) -> None:
        """Take up what can be looked back from `until` (ms), before the first bar is added."""
        self._reaches_to = until - max(self.warm_up, _PRICE_CANDLES) * self.step
        self._show(await self.feed.window(self._reaches_to, until))
        # The last of them may be late; it is added when it comes.
        known = self._moments[-1] + self.step if self._moments else until
        self.next_time = max(known, until - _MOST_LATE * self.step)

    def add(self, bar: Bar) -> None:
        """Count a bar as closed, one later than those before."""
        self._reaches_to = bar.timestamp + self.step * (1 - max(self.warm_up, _PRICE_CANDLES))
        known = self._columns
        assert known is not None
        first = bisect_left(self._moments, self._reaches_to)
        kept = part(known, first, len(known))
        self._show(
            CandleColumns(
                Column("int64", [*kept.timestamp.tolist(), bar.timestamp]),
                Column("float64", [*kept.open.tolist(), bar.open]),
                Column("float64", [*kept.high.tolist(), bar.high]),
                Column("float64", [*kept.low.tolist(), bar.low]),
                Column("float64", [*kept.close.tolist(), bar.close]),
                Column("float64", [*kept.volume.tolist(), bar.volume]),
            )
        )
        self.next_time = bar.timestamp + self.step

    def _show(self, columns: CandleColumns) -> None:
        self._columns, self._moments = columns, columns.timestamp.tolist()
        self._row = len(self._moments) - 1
        self._longer.clear()
