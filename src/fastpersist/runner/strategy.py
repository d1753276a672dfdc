"""What a strategy is: a class that looks at closed candles and may answer with a signal."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from ..contracts import Candle
from ..errors import FastPersistError, InvalidArgumentError
from ..hot.codec import normalise
from ..times import to_datetime
from .journal import Journal

__all__ = ["Context", "Signal", "Strategy", "StrategyError", "line_of", "maybe_await"]

T = TypeVar("T")


class StrategyError(FastPersistError):
    """The strategy file or the strategy itself failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A wish to open a position.

    Attributes:
        position: ``long`` or ``short``.
        price_take_profit: Price in quote currency at which the position closes with a profit.
        price_stop_loss: Price in quote currency at which it closes with a loss.
        price_open: Limit price to wait for; None enters at the close of the current bar.
        minute_estimated_time: Life time in minutes; infinite for none.
        partial_exit_level: Percent of the way to take profit that closes a part; 0 for never.
        partial_exit_percent: How much of the position that part is.
        note: Reason, for people.
    """

    position: Literal["long", "short"]
    price_take_profit: float
    price_stop_loss: float
    price_open: float | None = None
    minute_estimated_time: float = math.inf
    partial_exit_level: float = 0
    partial_exit_percent: float = 50
    note: str = ""

    def check(self, price: float) -> None:
        """Refuse a signal that cannot work at `price`, the price of entry.

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
            if not (isinstance(number, (int, float)) and math.isfinite(number) and number > 0):
                raise InvalidArgumentError(name, f"must be finite and above 0, got {number!r:.40}")
        sign = 1 if self.position == "long" else -1
        if sign * (self.price_take_profit - price) <= 0:
            raise InvalidArgumentError(
                "price_take_profit",
                f"{self.price_take_profit} is on the wrong side of the entry {price} "
                f"for a {self.position}",
            )
        if sign * (price - self.price_stop_loss) <= 0:
            raise InvalidArgumentError(
                "price_stop_loss",
                f"{self.price_stop_loss} is on the wrong side of the entry {price} "
                f"for a {self.position}",
            )
        minutes = self.minute_estimated_time
        if not (isinstance(minutes, (int, float)) and minutes > 0):
            raise InvalidArgumentError(
                "minute_estimated_time", f"must be above 0, got {minutes!r:.40}"
            )
        for name, percent in (
            ("partial_exit_level", self.partial_exit_level),
            ("partial_exit_percent", self.partial_exit_percent),
        ):
            if not (isinstance(percent, (int, float)) and 0 <= percent <= 100):
                raise InvalidArgumentError(name, f"must be between 0 and 100, got {percent!r:.40}")


class Strategy:
    """Base of strategies. State that has to last belongs into the context, not into attributes.

    Attributes:
        name: Name of the strategy in all stored contexts; the class's name by default.
        risk_name: Risk profile that its positions are counted under.
        cost: Size of a position in quote currency.
        fee_percent: Fee of each side in percent of the traded value.
        schedule_minutes: How long a limit entry is waited for.
        max_positions: Most open positions over all symbols of the run; 0 for any number.
    """

    name: str = ""
    risk_name: str = "default"
    cost: float = 100.0
    fee_percent: float = 0.05
    schedule_minutes: float = 120.0
    max_positions: int = 0

    def check(self) -> None:
        """Refuse attributes that no run can work with.

        Raises:
            InvalidArgumentError: An attribute is at fault; the error names it.
        """
        for name in ("name", "risk_name"):
            text = getattr(self, name)
            if not isinstance(text, str) or (not text and name == "risk_name"):
                raise InvalidArgumentError(name, f"must be a text, got {text!r:.40}")
        for name, is_above in (
            ("cost", True),
            ("schedule_minutes", True),
            ("fee_percent", False),
            ("max_positions", False),
        ):
            number = getattr(self, name)
            if (
                isinstance(number, bool)
                or not isinstance(number, (int, float))
                or not (number > 0 if is_above else number >= 0)
                or (name == "cost" and math.isinf(number))
            ):
                least = "above 0" if is_above else "0 or more"
                raise InvalidArgumentError(name, f"must be {least}, got {number!r:.40}")

    def get_signal(self, ctx: Context) -> Signal | Awaitable[Signal | None] | None:
        """Answer with a signal, or None; asked at each bar close while no position is open.

        May be ``async``.
        """
        raise StrategyError(f"{type(self).__name__} has no get_signal")

    def opened(self, ctx: Context, row: dict[str, Any]) -> Awaitable[None] | None:
        """Hear of an opened position."""

    def closed(self, ctx: Context, row: dict[str, Any]) -> Awaitable[None] | None:
        """Hear of a closed position."""


class _State:
    """One value of the strategy."""

    def __init__(self, context: Context, bucket: str) -> None:
        self._context = context
        self._name = bucket
        self._key = (context.owner, bucket)

    async def read(self, default: Any = None) -> Any:
        """Return the value, or `default`."""
        found = await self._context.journal.read("state", "read_state_data", *self._key)
        return default if found is None else found["data"]

    def write(self, data: Any) -> None:
        """Replace the value."""
        refuse_unstorable(data, f"state({self._name!r})")
        when = self._context.when_ms
        value = {"id": "_".join(self._key), "data": data, "when": when}
        self._context.journal.write(
            "state", "write_state_data", *self._key, value, when, key=self._key, value=value
        )


class _Memory:
    """Entries that can be searched."""

    def __init__(self, context: Context, bucket: str) -> None:
        self._context = context
        self._bucket = (context.owner, bucket)

    async def read(self, memory_id: str) -> Any:
        """Return the data of an entry, or None."""
        key = (*self._bucket, memory_id)
        found = await self._context.journal.read("memory", "read_memory_data", *key)
        return None if found is None or found["removed"] else found["data"]

    def write(self, memory_id: str, data: Any, text: str = "") -> None:
        """Store an entry; `text` is what a search looks at."""
        for name, argument in (("memory_id", memory_id), ("text", text)):
            if not isinstance(argument, str):
                raise InvalidArgumentError(name, f"expected a text, got {type(argument).__name__}")
        refuse_unstorable(data, f"memory({self._bucket[1]!r}).{memory_id}")
        when = self._context.when_ms
        entry = {"priority": when, "data": data, "removed": False, "index": text, "when": when}
        key = (*self._bucket, memory_id)
        self._context.journal.write(
            "memory", "write_memory_data", *key, entry, when, key=key, value=entry
        )

    async def search(self, words: str) -> list[tuple[str, Any]]:
        """Return id and data of all entries whose text holds every one of the words, by id."""
        found = {
            item["memoryId"]: item["data"]
            async for item in self._context.journal.registries.memory.list_memory_data(
                *self._bucket
            )
        }
        found.update(self._context.journal.written_items("memory", *self._bucket))
        wanted = words.lower().split()
        return [
            (memory_id, entry["data"])
            for memory_id, entry in sorted(found.items())
            if all(word in entry.get("index", "").lower() for word in wanted)
        ]


class _Measure:
    """Results of outside calls, kept for one run."""

    def __init__(self, context: Context, bucket: str) -> None:
        self._context = context
        self._name = bucket
        self._bucket = f"{bucket}_{context.run_id}"

    async def call(self, key: str, function: Callable[[], T | Awaitable[T]]) -> T:
        """Return the stored result of `key`, or call `function` and store what it answers."""
        found = await self._context.journal.read("measure", "read_measure_data", self._bucket, key)
        if found is not None:
            return cast(T, found["data"])
        result = await maybe_await(function())
        refuse_unstorable(result, f"measure({self._name!r})")
        entry = {"id": key, "data": result, "removed": False}
        where = (self._bucket, key)
        self._context.journal.write(
            "measure", "write_measure_data", *where, entry, self._context.when_ms,
            key=where, value=entry,
        )  # fmt: skip
        return cast(T, result)


class _Interval:
    """Markers of what has happened."""

    def __init__(self, context: Context, bucket: str) -> None:
        self._context = context
        self._bucket = f"{bucket}_{context.run_id}"

    async def once(self, key: str) -> bool:
        """Say whether this is the first time that `key` comes by."""
        where = (self._bucket, key)
        if await self._context.journal.read("interval", "read_interval_data", *where) is not None:
            return False
        context = self._context
        entry = {"id": key, "data": True, "when": context.when, "removed": False}
        context.journal.write(
            "interval", "write_interval_data", *where, entry, context.when_ms,
            key=where, value=entry,
        )  # fmt: skip
        return True


class Context:
    """What a strategy sees at the close of a bar.

    Attributes:
        symbol: The symbol that is asked about.
        when_ms: Close of the bar, simulated, in ms since the epoch.
        price: Close price of the bar, in quote currency.
        run_id: Tells this run's state, memory and markers from those of other runs.
        owner: Id under which the strategy's state of this symbol is stored.
        journal: Where reads and writes of this bar go.
    """

    def __init__(
        self, strategy: Strategy, symbol: str, when_ms: int, closed: Sequence[Candle],
        journal: Journal, run_id: str, report: Callable[[str, str, Sequence[Any]], None],
    ) -> None:  # fmt: skip
        self.strategy = strategy
        self.symbol = symbol
        self.when_ms = when_ms
        self.price = closed[-1]["close"]
        self.run_id = run_id
        self.owner = f"{strategy.name or type(strategy).__name__}_{symbol}_{run_id}"
        self.journal = journal
        self._closed = closed
        self._report = report

    @property
    def when(self) -> datetime:
        """Close of the bar as an aware datetime in UTC."""
        return to_datetime(self.when_ms)

    def candles(self, limit: int) -> list[Candle]:
        """Return up to `limit` closed candles, the newest last; the runner keeps 1,000."""
        return list(self._closed)[-limit:] if limit > 0 else []

    def state(self, bucket: str) -> _State:
        """Return one value of the strategy, for reading and writing."""
        return _State(self, bucket)

    def memory(self, bucket: str) -> _Memory:
        """Return a bucket of searchable entries."""
        return _Memory(self, bucket)

    def measure(self, bucket: str) -> _Measure:
        """Return a bucket of results of outside calls."""
        return _Measure(self, bucket)

    def interval(self, bucket: str) -> _Interval:
        """Return a bucket of markers."""
        return _Interval(self, bucket)

    def log(self, topic: str, *args: Any) -> None:
        """Store a log line."""
        refuse_unstorable(args, f"log({topic!r:.40})")
        self._report("log", topic, args)

    def notify(self, text: str) -> None:
        """Store a notification."""
        self._report("notification", text, ())


def line_of(error: BaseException, file: str | Path | None) -> str:
    """Return the innermost line of `file` that `error` came by, as `` (name:line)``, or ``""``."""
    path = Path(file or "").resolve()
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == path
    ]
    return f" ({path.name}:{lines[-1]})" if lines else ""


def refuse_unstorable(value: Any, what: str) -> None:
    """Refuse what no store can hold where it is handed in, under the name that it has there.

    Raises:
        InvalidDocumentError: It names the way to the place below `what`.
    """
    normalise(value, what)


async def maybe_await(value: Any) -> Any:
    """Return `value`, awaited if it can be."""
    return await value if inspect.isawaitable(value) else value
