"""What a strategy is: a class that looks at closed candles and may answer with a signal."""

from __future__ import annotations

import math
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from ..domains import INTERVAL_STEP_MS
from ..errors import FastPersistError, InvalidArgumentError

if TYPE_CHECKING:
    from .context import Context

__all__ = ["ActivePosition", "FunctionStrategy", "Signal", "Strategy", "StrategyError", "line_of",
           "strategy"]  # fmt: skip

_FINITE: Final = ("cost", "fee_percent", "slippage_percent")
_SHARES: Final = ("fee_percent", "slippage_percent")


class StrategyError(FastPersistError):
    """The strategy file or the strategy itself failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A wish to open a position.

    Attributes:
        position: ``long`` or ``short``.
        price_take_profit: Price in quote currency at which the position closes with a profit.
        price_stop_loss: Price in quote currency at which it closes with a loss.
        price_open: Limit price to wait for; None enters at the next price.
        minute_estimated_time: Life time in minutes; infinite for none.
        partial_exit_level: Percent of the way to take profit that closes a part, in tens, or else
            it waits for the next ten; 0 for never.
        partial_exit_percent: How much of the position that part is.
        note: Reason, for people.
        id: Id under which it is stored, used once in a run and by no other run; None makes one, in
            a backtest of run, strategy, symbol and moment.
    """

    position: Literal["long", "short"]
    price_take_profit: float
    price_stop_loss: float
    price_open: float | None = None
    minute_estimated_time: float = math.inf
    partial_exit_level: float = 0
    partial_exit_percent: float = 50
    note: str = ""
    id: str | None = None

    def check(self, price: float, fee_percent: float = 0.0, slippage_percent: float = 0.0) -> None:
        """Refuse a signal that cannot work at `price`, the price of entry.

        Args:
            price: Price of the entry in quote currency.
            fee_percent: Fee of each side in percent of the traded value.
            slippage_percent: How much worse a market price gets, in percent.

        Raises:
            InvalidArgumentError: A field is at fault; the error names it.
        """
        if self.position not in ("long", "short"):
            raise InvalidArgumentError("position", f"must be long or short, got {self.position!r}")
        prices = {
            "price_take_profit": self.price_take_profit,
            "price_stop_loss": self.price_stop_loss,
            "price_open": price,
        }
        for name, number in prices.items():
            if not _is_price(number):
                raise InvalidArgumentError(
                    name, f"must be an int or float, finite and above 0, got {number!r:.40}"
                )
        sign = 1 if self.position == "long" else -1
        for name, target, way in (
            ("price_take_profit", self.price_take_profit, sign),
            ("price_stop_loss", self.price_stop_loss, -sign),
        ):
            if way * (target - price) <= 0:
                raise InvalidArgumentError(
                    name,
                    f"{target} is on the wrong side of the entry {price} for a {self.position}",
                )
        self._check_distances(price, sign, fee_percent / 100, slippage_percent / 100)
        minutes = self.minute_estimated_time
        if not (isinstance(minutes, (int, float)) and minutes > 0):
            raise InvalidArgumentError(
                "minute_estimated_time", f"must be an int or float above 0, got {minutes!r:.40}"
            )
        for name, percent in (
            ("partial_exit_level", self.partial_exit_level),
            ("partial_exit_percent", self.partial_exit_percent),
        ):
            if not (isinstance(percent, (int, float)) and 0 <= percent <= 100):
                raise InvalidArgumentError(
                    name, f"must be an int or float between 0 and 100, got {percent!r:.40}"
                )
        if not _is_text(self.note):
            raise InvalidArgumentError("note", f"must be a text, got {self.note!r:.40}")
        if self.id is not None and not (_is_text(self.id) and self.id):
            raise InvalidArgumentError("id", f"must be a text or None, got {self.id!r:.40}")

    def _check_distances(self, price: float, sign: int, fee: float, slippage: float) -> None:
        # A limit entry gets its price, an entry at the market pays for the next one.
        slipped = slippage if self.price_open is None else 0.0
        entry = price * (1 + sign * slipped)
        ratio = self.price_take_profit / entry
        gain = sign * (ratio - 1) - fee * (1 + ratio)
        if gain <= 0:
            raise InvalidArgumentError(
                "price_take_profit",
                f"{self.price_take_profit} is too near to the entry {price}: after fees and "
                f"slippage nothing would be gained ({100 * gain:.4f} %)",
            )
        if sign * (entry - self.price_stop_loss) <= 0 or (
            slippage and abs(price - self.price_stop_loss) / price <= slippage
        ):
            raise InvalidArgumentError(
                "price_stop_loss",
                f"{self.price_stop_loss} is nearer to the entry {price} than the slippage of "
                f"{100 * slippage:g} %",
            )


@dataclass(frozen=True, slots=True)
class ActivePosition:
    """An open position, as the rules about risk see it.

    Prices are in quote currency, ``cost`` is the value of the entry, ``opened_at`` is ms. Of an
    entry at the market that is about to be filled ``opened_at`` is 0 and ``price_open`` what is
    expected.
    """

    strategy_name: str
    risk_name: str
    symbol: str
    position: Literal["long", "short"]
    price_open: float
    price_take_profit: float
    price_stop_loss: float
    cost: float
    opened_at: int


class Strategy:
    """Base of strategies. State that has to last belongs into the context, not into attributes.

    All methods may be ``async``. Hooks get the row of the signal as it is stored (contract 4.5).

    Attributes:
        name: Name of the strategy in all stored contexts; the class's name by default.
        signal_interval: How often ``get_signal`` is asked, at closes of this interval; every bar
            by default.
        warm_up: How many steps of the run's own interval can be looked back. The first bar of a
            frame has those before it, as far as they are stored.
        risk_name: Risk profile that its positions are counted under.
        max_positions: Most positions of that profile, over all symbols and strategies, waiting
            entries included; 0 for any number.
        cost: Size of a position in quote currency.
        fee_percent: Fee of each side in percent of the traded value.
        slippage_percent: How much worse than the market entries at the market, stops and exits by
            time are, in percent of the price.
        schedule_minutes: How long a limit entry is waited for.
        answer_seconds: How long a method may take on paper and live, where others wait for it.
    """

    name: str = ""
    signal_interval: str = ""
    warm_up: int = 1_000
    risk_name: str = "default"
    max_positions: int = 0
    cost: float = 100.0
    fee_percent: float = 0.05
    slippage_percent: float = 0.0
    schedule_minutes: float = 120.0
    answer_seconds: float = 30.0

    def check(self) -> None:
        """Refuse attributes that no run can work with.

        Raises:
            InvalidArgumentError: An attribute is at fault; the error names it.
        """
        for name in ("name", "risk_name"):
            text = getattr(self, name)
            if not isinstance(text, str) or (not text and name == "risk_name"):
                raise InvalidArgumentError(name, f"must be a text, got {text!r:.40}")
        if self.signal_interval and self.signal_interval not in INTERVAL_STEP_MS:
            raise InvalidArgumentError(
                "signal_interval",
                f"unknown interval {self.signal_interval!r:.20}",
                hint=", ".join(INTERVAL_STEP_MS),
            )
        for name, is_above in (
            ("warm_up", True),
            ("cost", True),
            ("schedule_minutes", True),
            ("answer_seconds", True),
            ("fee_percent", False),
            ("slippage_percent", False),
            ("max_positions", False),
        ):
            number = getattr(self, name)
            if (
                isinstance(number, bool)
                or not isinstance(number, int if name == "warm_up" else (int, float))
                or not (number > 0 if is_above else number >= 0)
                or (name in _FINITE and math.isinf(number))
                or (name in _SHARES and number >= 100)
            ):
                kind = "a whole number" if name == "warm_up" else "a number"
                least = "above 0" if is_above else "from 0 on"
                most = " and below 100" if name in _SHARES else ""
                raise InvalidArgumentError(
                    name, f"must be {kind} {least}{most}, got {number!r:.40}"
                )

    def get_signal(self, ctx: Context) -> Signal | Awaitable[Signal | None] | None:
        """Answer with a signal, or None; asked at closes while the strategy holds nothing there."""
        raise StrategyError(f"{type(self).__name__} has no get_signal")

    def allow(
        self, ctx: Context, signal: Signal, positions: Sequence[ActivePosition]
    ) -> bool | str | Awaitable[bool | str]:
        """Say whether a signal may be followed; a text is the reason why it may not.

        `positions` are all that are open in the run, of every strategy and symbol, and those that
        the next price opens; on paper and live also those of other processes under the same
        profile, whose cost is not known (0).
        """
        return True

    def scheduled(self, ctx: Context, row: dict[str, Any]) -> Awaitable[None] | None:
        """Hear of a limit entry that waits."""

    def cancelled(self, ctx: Context, row: dict[str, Any]) -> Awaitable[None] | None:
        """Hear of an entry that was given up.

        ``cancelReason`` is timeout, stop_loss or price; from a broker also rejected, unfilled or
        unsent.
        """

    def opened(self, ctx: Context, row: dict[str, Any]) -> Awaitable[None] | None:
        """Hear of an opened position."""

    def active(self, ctx: Context, row: dict[str, Any]) -> Awaitable[None] | None:
        """Hear of each bar that leaves a position open."""

    def partial_profit(
        self, ctx: Context, row: dict[str, Any], level: int
    ) -> Awaitable[None] | None:
        """Hear of a level on the way to take profit, in percent of the way."""

    def partial_loss(self, ctx: Context, row: dict[str, Any], level: int) -> Awaitable[None] | None:
        """Hear of a level on the way to stop loss, in percent of the way."""

    def breakeven(self, ctx: Context, row: dict[str, Any]) -> Awaitable[None] | None:
        """Hear of a position that has covered its fees."""

    def closed(self, ctx: Context, row: dict[str, Any]) -> Awaitable[None] | None:
        """Hear of a closed position; ``closeReason`` is take_profit, stop_loss or time_expired."""

    def error(self, ctx: Context, error: Exception) -> Awaitable[None] | None:
        """Hear of what another method has raised: a backtest ends with it, others go on."""


def _is_price(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value) and value > 0
    except OverflowError:  # an int beyond all floats
        return False


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # half of a surrogate pair, which no store can hold
        return False


Answer = Callable[["Context"], "Signal | Awaitable[Signal | None] | None"]


class FunctionStrategy(Strategy):
    """A strategy that is one function.

    Attributes:
        function: What ``get_signal`` asks.
    """

    def __init__(self, function: Answer, name: str) -> None:
        self.name = name
        self.function = function

    def get_signal(self, ctx: Context) -> Signal | Awaitable[Signal | None] | None:
        """Answer what the function answers."""
        return self.function(ctx)


@overload
def strategy(function: Answer, /) -> FunctionStrategy: ...
@overload
def strategy(
    *,
    name: str = ...,
    signal_interval: str = ...,
    warm_up: int = ...,
    risk_name: str = ...,
    max_positions: int = ...,
    cost: float = ...,
    fee_percent: float = ...,
    slippage_percent: float = ...,
    schedule_minutes: float = ...,
    answer_seconds: float = ...,
) -> Callable[[Answer], FunctionStrategy]: ...
def strategy(
    function: Answer | None = None,
    /,
    *,
    name: str = "",
    signal_interval: str = Strategy.signal_interval,
    warm_up: int = Strategy.warm_up,
    risk_name: str = Strategy.risk_name,
    max_positions: int = Strategy.max_positions,
    cost: float = Strategy.cost,
    fee_percent: float = Strategy.fee_percent,
    slippage_percent: float = Strategy.slippage_percent,
    schedule_minutes: float = Strategy.schedule_minutes,
    answer_seconds: float = Strategy.answer_seconds,
) -> FunctionStrategy | Callable[[Answer], FunctionStrategy]:
    """Make a strategy of a function, plain or ``async``, that takes the context.

    Used as ``@strategy`` or with arguments.

    The arguments are the attributes of :class:`Strategy`; its name is the function's by default.
    """

    def register(function: Answer) -> FunctionStrategy:
        made = FunctionStrategy(function, name or getattr(function, "__name__", "strategy"))
        made.signal_interval = signal_interval
        made.warm_up = warm_up
        made.risk_name = risk_name
        made.max_positions = max_positions
        made.cost = cost
        made.fee_percent = fee_percent
        made.slippage_percent = slippage_percent
        made.schedule_minutes = schedule_minutes
        made.answer_seconds = answer_seconds
        return made

    return register if function is None else register(function)


def line_of(error: BaseException, file: str | Path | None) -> str:
    """Return the innermost line of `file` that `error` came by, as `` (name:line)``, or ``""``."""
    path = Path(file or "").resolve()
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == path
    ]
    return f" ({path.name}:{lines[-1]})" if lines else ""
