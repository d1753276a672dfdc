"""What a strategy sees at the close of a bar, and where it keeps what has to last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from inspect import iscoroutine
from typing import Any, Literal, TypeVar, cast

from ..errors import InvalidArgumentError, InvalidDocumentError
from ..frames import CandleFrame
from ..hot.codec import normalise
from ..times import to_datetime
from .candles import Lookback
from .journal import Journal, session_id

__all__ = ["Context", "Mode", "maybe_await"]

Mode = Literal["backtest", "paper", "live"]
"""What a run is: replayed, or on the clock without and with real orders."""

T = TypeVar("T")


class _State:
    """One value of the strategy for this symbol and run."""

    def __init__(self, context: Context, bucket: str) -> None:
        self._context = context
        self._name = bucket
        self._key = (context.owner, bucket)

    async def read(self, default: Any = None) -> Any:
        """Return the value, or `default`."""
        found = await self._context.journal.read("state", "read_state_data", *self._key)
        return default if found is None else found["data"]

    def write(self, data: Any) -> None:
        """Replace the value.

        Raises:
            InvalidDocumentError: No store can hold it; the error names the place.
        """
        kept = storable(data, f"state({self._name!r})")
        when = self._context.when_ms
        value = {"id": "_".join(self._key), "data": kept, "when": when}
        self._context.journal.write(
            "state", "write_state_data", *self._key, value, when, places=2,
            key=self._key, value=value,
        )  # fmt: skip


class _Session:
    """One value of the strategy for this symbol and frame; of this run alone."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._key = (
            context.strategy_name, context.exchange_name, context.frame_name, context.symbol,
            context.mode == "backtest",
        )  # fmt: skip

    async def read(self, default: Any = None) -> Any:
        """Return the value, or `default`."""
        found = await self._context.journal.read("session", "read_session_data", *self._key)
        # The place is the same for each run of the frame.
        if found is None or found.get("run") != self._context.scope:
            return default
        return found["data"]

    def write(self, data: Any) -> None:
        """Replace the value.

        Raises:
            InvalidDocumentError: No store can hold it; the error names the place.
        """
        kept = storable(data, "session")
        context, when = self._context, self._context.when_ms
        value = {"id": session_id(self._key), "data": kept, "when": when, "run": context.scope}
        context.journal.write(
            "session", "write_session_data", *self._key, value, when, places=5,
            key=self._key, value=value,
        )  # fmt: skip


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
        """Store an entry; `text` is what a search looks at.

        Raises:
            InvalidArgumentError: `memory_id` or `text` is no text.
            InvalidDocumentError: No store can hold `data`; the error names the place.
        """
        for name, argument in (("memory_id", memory_id), ("text", text)):
            if not isinstance(argument, str):
                raise InvalidArgumentError(name, f"expected a text, got {type(argument).__name__}")
        kept = storable(data, f"memory({self._bucket[1]!r}).{memory_id}")
        when = self._context.when_ms
        entry = {"priority": when, "data": kept, "removed": False, "index": text, "when": when}
        key = (*self._bucket, memory_id)
        self._context.journal.write(
            "memory", "write_memory_data", *key, entry, when, places=3, key=key, value=entry
        )

    async def search(self, words: str) -> list[tuple[str, Any]]:
        """Return id and data of all entries whose text holds every one of the words, by id."""
        found = await self._context.journal.memories(*self._bucket)
        wanted = words.lower().split()
        return [
            (memory_id, storable(entry["data"], ""))
            for memory_id, entry in sorted(found.items())
            if all(word in entry.get("index", "").lower() for word in wanted)
        ]


class _Measure:
    """Results of outside calls of the strategy for this symbol, kept for one run."""

    def __init__(self, context: Context, bucket: str) -> None:
        self._context = context
        self._name = bucket
        self._bucket = f"{bucket}_{context.owner}"

    async def call(self, key: str, function: Callable[[], T | Awaitable[T]]) -> T:
        """Return the stored result of `key`, or call `function` and store what it answers.

        The result comes back as a store gives it, the first time too: a tuple as a list, say.
        """
        where = (self._bucket, key)
        found = await self._context.journal.read("measure", "read_measure_data", *where)
        if found is not None:
            return cast(T, found["data"])
        result = await maybe_await(function())
        kept = storable(result, f"measure({self._name!r})")
        entry = {"id": key, "data": kept, "removed": False}
        self._context.journal.write(
            "measure", "write_measure_data", *where, entry, self._context.when_ms, places=2,
            key=where, value=entry,
        )  # fmt: skip
        await self._context.journal.flush()
        # As a later call finds it, and apart from what is still to be written.
        return cast(T, storable(kept, ""))


class _Interval:
    """Markers of what has happened to the strategy on this symbol in this run."""

    def __init__(self, context: Context, bucket: str) -> None:
        self._context = context
        self._bucket = f"{bucket}_{context.owner}"

    async def once(self, key: str) -> bool:
        """Say whether this is the first time that `key` comes by."""
        context, where = self._context, (self._bucket, key)
        if await context.journal.read("interval", "read_interval_data", *where) is not None:
            return False
        entry = {"id": key, "data": True, "when": context.when, "removed": False}
        context.journal.write(
            "interval", "write_interval_data", *where, entry, context.when_ms, places=2,
            key=where, value=entry,
        )  # fmt: skip
        await context.journal.flush()
        return True


class Context:
    """What a strategy sees at the close of a bar.

    Attributes:
        symbol: The symbol that is asked about.
        when_ms: Close of the bar in ms since the epoch; in a backtest the simulated time.
        strategy_name, exchange_name, frame_name: What the run's rows are stored under; on paper and
            live the frame has no name.
        mode: What the run is.
        scope: Tells this run's state, memory and markers from those of other runs.
        journal: Where reads and writes of this bar go.
    """

    __slots__ = (
        "_history", "_price", "_report", "exchange_name", "frame_name", "journal", "mode",
        "scope", "strategy_name", "symbol", "when_ms",
    )  # fmt: skip

    def __init__(
        self, symbol: str, when_ms: int, strategy_name: str, exchange_name: str,
        frame_name: str, mode: Mode, scope: str, history: Lookback, journal: Journal,
        report: Callable[[Context, str, str, Sequence[Any]], None],
    ) -> None:  # fmt: skip
        self.symbol = symbol
        self.when_ms = when_ms
        self.strategy_name = strategy_name
        self.exchange_name = exchange_name
        self.frame_name = frame_name
        self.mode: Mode = mode
        self.scope = scope
        self.journal = journal
        self._history = history
        self._price: float | None = None
        self._report = report

    @property
    def when(self) -> datetime:
        """Close of the bar as an aware datetime in UTC."""
        return to_datetime(self.when_ms)

    @property
    def bar_interval(self) -> str:
        """Interval of the run's own candles, for example ``1m``."""
        return self._history.feed.interval

    @property
    def owner(self) -> str:
        """Id under which the strategy's state, memory, results and markers of this symbol are."""
        return f"{self.strategy_name}_{self.symbol}_{self.scope}"

    @property
    def price(self) -> float:
        """Mean of the typical prices of the last five minutes' candles, weighted by volume.

        In quote currency; without any volume their plain mean. In a run over longer candles than
        of one minute it is the last close.
        """
        if self._price is None:
            self._price = self._history.price
        return self._price

    def candles(self, interval: str, limit: int) -> CandleFrame:
        """Return up to `limit` closed candles of an interval as columns, the newest last.

        Longer intervals are made of the run's own candles. Fewer come back where some
        are missing in the time that ``warm_up`` steps span.

        Raises:
            InvalidArgumentError: The interval cannot be made of the run's candles, or `limit` is
                no positive int or reaches further back than the strategy's ``warm_up``.
        """
        return self._history.part(interval, limit, self.when_ms)

    def state(self, bucket: str) -> _State:
        """Return one value of the strategy, for reading and writing."""
        return _State(self, bucket)

    def memory(self, bucket: str) -> _Memory:
        """Return a bucket of searchable entries."""
        return _Memory(self, bucket)

    @property
    def session(self) -> _Session:
        """The run's own value for this symbol."""
        return _Session(self)

    def measure(self, bucket: str) -> _Measure:
        """Return a bucket of results of outside calls."""
        return _Measure(self, bucket)

    def interval(self, bucket: str) -> _Interval:
        """Return a bucket of markers."""
        return _Interval(self, bucket)

    def log(self, topic: str, *args: Any) -> None:
        """Store a log line."""
        self._report(self, "log", topic, storable(args, f"log({topic!r:.40})"))

    def notify(self, text: str) -> None:
        """Store a notification."""
        self._report(self, "notification", storable(text, "notify"), ())


def storable(value: Any, what: str) -> Any:
    """Return a copy of `value` as a store will give it back.

    Raises:
        InvalidDocumentError: No store can hold it; it names the way to the place below `what`.
    """
    if iscoroutine(value):
        value.close()
        raise InvalidDocumentError(what, "is a coroutine", hint="await it first")
    return normalise(value, what)[0]


async def maybe_await(value: Any) -> Any:
    """Return `value`, awaited if it can be."""
    return await value if hasattr(value, "__await__") else value
