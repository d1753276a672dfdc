"""An open position on its way through the bars: the rules of the engine, without any store.

An entry at the market is filled by the open of the next bar. Within one candle the stop loss counts
before the take profit. A bar that opens beyond the stop closes at its open; take profit closes at
its price. Levels are each 10 % of the way to take profit or stop loss, reached by the extremes of a
bar that does not close the position by its stop. Fees are paid on the traded value of each side;
slippage makes entries at the market, stops and exits by time worse, limit prices not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, NamedTuple

from ..contracts import PnL
from ..domains import MINUTE_MS

__all__ = ["Bar", "Exit", "ExitReason", "Position"]

_LEVELS: Final = range(10, 101, 10)


ExitReason = Literal["take_profit", "stop_loss", "time_expired"]


class Bar(NamedTuple):
    """A closed candle; ``timestamp`` is its opening time in ms, prices are in quote currency."""

    timestamp: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(slots=True)
class Exit:
    """How a position ended."""

    reason: ExitReason
    price: float


@dataclass(slots=True)
class Position:
    """A position, or an entry that waits (``pending_at`` is 0 then).

    Prices are in quote currency, ``cost`` is the value of the entry, times are ms, percentages are
    of the price way or of the position, ``fee`` and ``slippage`` are shares of the price.
    ``minutes`` is None without a limit of time; ``at_market`` says that the entry waits for the
    next price and not for ``price_open``; ``amount`` is what a broker holds of it, in base units.
    """

    id: str
    symbol: str
    direction: int
    price_open: float
    price_take_profit: float
    price_stop_loss: float
    minutes: float | None
    note: str
    cost: float
    fee: float
    scheduled_at: int
    partial_level: float
    partial_percent: float
    slippage: float = 0.0
    at_market: bool = False
    amount: float = 0.0
    pending_at: int = 0
    remaining: float = 100.0
    realised: float = 0.0
    profit_levels: list[int] = field(default_factory=list)
    loss_levels: list[int] = field(default_factory=list)
    partials: list[dict[str, Any]] = field(default_factory=list)
    breakeven: bool = False
    best: float = 0.0
    worst: float = 0.0

    def to_state(self) -> dict[str, Any]:
        """Return the position as plain data."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any] | None) -> Position | None:
        """Return the position of plain data, None for None."""
        return None if state is None else cls(**state)

    @property
    def is_long(self) -> bool:
        """Whether it gains by a rising price."""
        return self.direction > 0

    def enter(self, price: float, when: int) -> None:
        """Turn a wish into an open position at `price`."""
        self.price_open = price
        self.pending_at = when
        self.best = self.worst = price

    def entry_in(self, bar: Bar) -> float | Literal["cancel"] | None:
        """Return the price at which a waiting entry is filled by a bar.

        ``cancel`` when the bar opens beyond the stop, and for an entry at the market also beyond
        the take profit; None when its price does not trade.
        """
        opened = bar.open
        if self.at_market:
            price = opened * (1 + self.direction * self.slippage)
            return price if self.is_between_exits(price) else "cancel"
        if self.direction * (opened - self.price_stop_loss) <= 0:
            return "cancel"
        if self.direction * (opened - self.price_open) <= 0:
            return opened  # the market opens at the limit or better
        return self.price_open if bar.low <= self.price_open <= bar.high else None

    def is_between_exits(self, price: float) -> bool:
        """Say whether `price` lies between stop loss and take profit."""
        return (
            self.direction * (price - self.price_stop_loss) > 0
            and self.direction * (self.price_take_profit - price) > 0
        )

    def stopped_by(self, bar: Bar) -> Exit | None:
        """Return the exit by stop loss, if the bar reaches it."""
        extreme = bar.low if self.is_long else bar.high
        if self.direction * (extreme - self.price_stop_loss) > 0:
            return None
        beyond = self.direction * (bar.open - self.price_stop_loss) < 0
        return Exit("stop_loss", self._slipped(bar.open if beyond else self.price_stop_loss))

    def exit_in(self, bar: Bar, closes_at: int) -> Exit | None:
        """Return the exit of a bar that did not stop the position: take profit, else time."""
        extreme = bar.high if self.is_long else bar.low
        if self.direction * (extreme - self.price_take_profit) >= 0:
            return Exit("take_profit", self.price_take_profit)
        if self.minutes is not None and closes_at >= self.pending_at + self.minutes * MINUTE_MS:
            return Exit("time_expired", self._slipped(bar.close))
        return None

    def _slipped(self, price: float) -> float:
        return price * (1 - self.direction * self.slippage)

    def note_price(self, price: float) -> None:
        """Count `price` among the best and worst prices."""
        self.best = max(self.best, price) if self.is_long else min(self.best, price)
        self.worst = min(self.worst, price) if self.is_long else max(self.worst, price)

    def reach_levels(self, bar: Bar) -> tuple[list[int], list[int]]:
        """Note and return the profit and loss levels that the bar reaches for the first time."""
        high, low = (bar.high, bar.low) if self.is_long else (bar.low, bar.high)
        self.note_price(high)
        self.note_price(low)
        gained = self._percent_of_way(high, self.price_take_profit, self.direction)
        lost = self._percent_of_way(low, self.price_stop_loss, -self.direction)
        profits = [
            level for level in _LEVELS if level <= gained and level not in self.profit_levels
        ]
        losses = [level for level in _LEVELS if level <= lost and level not in self.loss_levels]
        self.profit_levels += profits
        self.loss_levels += losses
        return profits, losses

    def _percent_of_way(self, price: float, target: float, sign: int) -> float:
        # A fill beyond the target, or a stop that has been moved past the entry, leaves no way.
        if sign * (target - self.price_open) <= 0:
            return 0.0
        # Rounded, so that a price that touches a level does not miss it by its last bit.
        return round(100 * (price - self.price_open) / (target - self.price_open), 6)

    def reach_breakeven(self, bar: Bar) -> bool:
        """Note and say whether the bar covers the fees of both sides for the first time."""
        extreme = bar.high if self.is_long else bar.low
        if self.breakeven or self.return_at(extreme) < 0:
            return False
        self.breakeven = True
        return True

    def part_due(self) -> float:
        """Return how much of the position is to be closed as a part now, in percent; 0 for none."""
        if not self.partial_level or self.partials:
            return 0.0
        if max(self.profit_levels, default=0) < self.partial_level:
            return 0.0
        return min(self.partial_percent, self.remaining)

    @property
    def part_price(self) -> float:
        """Price of the level at which the part closes."""
        return self.price_open + (self.price_take_profit - self.price_open) * (
            self.partial_level / 100
        )

    def take_part(
        self, percent: float, price: float, when: int, kind: Literal["profit", "loss"] = "profit"
    ) -> None:
        """Count `percent` of the position as closed at `price`; `when` is ms."""
        self.realised += self.cost * percent / 100 * self.return_at(price)
        self.remaining -= percent
        self.partials.append(
            {
                "type": kind,
                "percent": percent,
                "currentPrice": price,
                "costBasisAtClose": self.cost,
                "entryCountAtClose": 1,
                "timestamp": when,
            }
        )

    def return_at(self, price: float) -> float:
        """Return the gain per unit of cost if all were closed at `price`, after fees."""
        ratio = price / self.price_open
        return self.direction * (ratio - 1) - self.fee * (1 + ratio)

    def profit_at(self, price: float) -> float:
        """Return the profit in quote currency, closed parts included, after fees."""
        return self.realised + self.cost * self.remaining / 100 * self.return_at(price)

    def pnl(self, price: float) -> PnL:
        """Return the figures of contract 4.2 at `price`."""
        profit = self.profit_at(price)
        return {
            "pnlPercentage": 100 * profit / self.cost,
            "priceOpen": self.price_open,
            "priceClose": price,
            "pnlCost": profit,
            "pnlEntries": self.cost,
        }
