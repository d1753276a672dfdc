"""What happens to the entries and positions of a run, in whichever mode it is.

At the close of each bar, in this order: a waiting entry is filled or cancelled; an open position is
stopped, else reaches levels, closes its part, breaks even, takes profit or expires; then the
strategy may answer with a signal. How an entry or an exit is filled is the mode's own: by the
rules' price in a backtest (:mod:`fastpersist.runner.engine`), by a broker on paper and live
(:mod:`fastpersist.runner.live`).
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar
from uuid import NAMESPACE_OID, uuid5

from ..domains import INTERVAL_STEP_MS, MINUTE_MS
from ..errors import FastPersistError, InvalidArgumentError, InvalidDocumentError
from ..registry import Registries
from .candles import CandleFeed, Lookback
from .context import Context, Mode, maybe_await
from .journal import Journal
from .position import Bar, Exit, Position
from .report import Report, report_of
from .rows import Rows, is_of_run, run_mark
from .strategy import (
    ActivePosition,
    FunctionStrategy,
    Signal,
    Strategy,
    StrategyError,
    line_of,
)
from .summary import Summary

__all__ = ["Desk", "Slot", "short_id"]


_HOOKS: Final = (
    "allow", "scheduled", "cancelled", "opened", "active", "partial_profit", "partial_loss",
    "breakeven", "closed",
)  # fmt: skip

Event = tuple[Any, ...]
"""The name of a strategy's hook, and what it gets after the context."""


class Slot:
    """What one strategy has on one symbol.

    Attributes:
        hears: Which of its optional methods the strategy has.
        waiting, open: The entry that waits and the open position, None for none; never both.
        scope: Tells the strategy's state here from that of other runs.
    """

    def __init__(
        self, strategy: Strategy, name: str, rows: Rows, history: Lookback, journal: Journal
    ) -> None:
        self.strategy = strategy
        self.name = name
        self.rows = rows
        self.history = history
        self.journal = journal
        self.symbol = history.feed.symbol
        self.scope = ""
        self.waiting: Position | None = None
        self.open: Position | None = None
        self.asks_every = INTERVAL_STEP_MS.get(strategy.signal_interval, 0)
        self.hears = frozenset(hook for hook in _HOOKS if _overrides(strategy, hook))
        own = strategy.function if isinstance(strategy, FunctionStrategy) else type(strategy)
        self.file = getattr(sys.modules.get(own.__module__), "__file__", None)

    @property
    def is_free(self) -> bool:
        """Whether a new signal may be followed."""
        return self.open is None and self.waiting is None

    @property
    def is_busy(self) -> bool:
        """Whether something is on its way that has to be known before the next step."""
        return False

    def is_asked_at(self, when: int) -> bool:
        """Return whether the strategy wants to be asked at a close, ms."""
        return not self.asks_every or not when % self.asks_every

    def is_over(self, waiting: Position, when: int) -> bool:
        """Return whether an entry has waited as long as it may at a close, ms."""
        return when - waiting.scheduled_at >= self.strategy.schedule_minutes * MINUTE_MS


SlotT = TypeVar("SlotT", bound=Slot)


class Desk(ABC, Generic[SlotT]):
    """Meets bars with the entries and positions of strategies, and asks the strategies.

    Args:
        registries: The adapters for everything that is stored.
        strategies: The strategies; each meets each symbol.
        feeds: One feed for each symbol.
        exchange_name: Exchange in all stored contexts.
        frame_name: Frame in all stored contexts, empty for none.
        mode: What the run is.

    Raises:
        InvalidArgumentError: The only strategy is wrong, or a name is there twice.
        StrategyError: One of several strategies is wrong; the error names it.
    """

    def __init__(
        self,
        registries: Registries,
        strategies: Sequence[Strategy],
        feeds: Sequence[CandleFeed],
        exchange_name: str,
        frame_name: str,
        mode: Mode,
    ) -> None:
        names = [str(strategy.name) or type(strategy).__name__ for strategy in strategies]
        for strategy, name in zip(strategies, names, strict=True):
            try:
                strategy.check()
            except InvalidArgumentError as error:
                if len(strategies) == 1:
                    raise
                raise StrategyError(f"strategy {name}: {error}") from error
        symbols = [feed.symbol for feed in feeds]
        for what, given in (("strategies", names), ("feeds", symbols)):
            if not given or len(set(given)) != len(given):
                raise InvalidArgumentError(what, f"needs one or more, each once: {given}")
        self._registries = registries
        self._strategies = strategies
        self._feeds = feeds
        self._exchange = exchange_name
        self._frame_name = frame_name
        self._mode: Mode = mode
        self._is_backtest = mode == "backtest"
        self._names = names
        self._symbols = symbols
        self._has_several = len(strategies) > 1
        self._rows = {
            name: Rows(name, exchange_name, frame_name, self._is_backtest) for name in names
        }
        self._slots: dict[str, list[SlotT]] = {}
        self._run_id = ""
        self._run_row: dict[str, Any] = {}
        self._reports = 0
        self.summary = Summary.of((), 0, 0)

    @property
    def run_id(self) -> str:
        """Tells this run's rows from those of other runs."""
        return self._run_id

    async def report(self) -> Report:
        """Return what this run has stored so far, also if it has had no signal."""
        rows: Any = await self._registries.storage.read_storage_data(self._is_backtest)
        own = [row for row in rows if is_of_run(row, (self._run_id,))]
        return report_of(self._run_row, self._exchange, self._frame_name, own, self._replayed_to())

    def _replayed_to(self) -> int | None:
        """Return how far a backtest is that has not finished, ms; None for anything else."""
        return None

    @abstractmethod
    async def _enter(
        self, slot: SlotT, waiting: Position, price: float, bar: Bar, context: Context
    ) -> None:
        """Fill an entry whose price has traded, or that wants the next one."""

    @abstractmethod
    async def _leave(self, slot: SlotT, position: Position, leave: Exit, context: Context) -> None:
        """Close a position."""

    @abstractmethod
    async def _leave_part(
        self, slot: SlotT, position: Position, percent: float, context: Context
    ) -> None:
        """Close `percent` of a position whose level for that has been reached."""

    @abstractmethod
    def _write_risk(self, slot: SlotT, when: int) -> None:
        """Store the open positions of the slot's risk profile."""

    @abstractmethod
    def _id(self, what: str, context: Context) -> str:
        """Return the id of a new row."""

    def _context(self, slot: SlotT, when: int) -> Context:
        return Context(
            slot.symbol, when, slot.name, self._exchange, self._frame_name, self._mode,
            slot.scope, slot.history, slot.journal, self._report,
        )  # fmt: skip

    async def _meet(self, slot: SlotT, bar: Bar, context: Context, is_asked: bool) -> None:
        if slot.waiting is not None:
            await self._meet_waiting(slot, slot.waiting, bar, context)
        elif slot.open is not None:
            await self._meet_open(slot, slot.open, bar, context)
        if is_asked and slot.is_free:
            await self._ask(slot, context)

    async def _meet_waiting(
        self, slot: SlotT, waiting: Position, bar: Bar, context: Context
    ) -> None:
        price = waiting.entry_in(bar)
        if price == "cancel" or (price is None and slot.is_over(waiting, context.when_ms)):
            reason = "timeout"
            if price == "cancel":
                reason = "price" if waiting.at_market else "stop_loss"
            await self._cancelled(slot, waiting, reason, bar.close, context)
        elif price is not None:
            await self._enter(slot, waiting, price, bar, context)

    async def _meet_open(self, slot: SlotT, position: Position, bar: Bar, context: Context) -> None:
        stopped = position.stopped_by(bar)
        if stopped is not None:
            await self._leave(slot, position, stopped, context)
        else:
            await self._live_on(slot, position, bar, context)

    async def _live_on(self, slot: SlotT, position: Position, bar: Bar, context: Context) -> None:
        await self._note_levels(slot, position, bar, context)
        if slot.is_busy:
            return
        leave = position.exit_in(bar, context.when_ms)
        if leave is not None:
            await self._leave(slot, position, leave, context)
        elif "active" in slot.hears:
            await self._call(slot, "active", context, slot.rows.public(position, bar.close))

    async def _note_levels(
        self, slot: SlotT, position: Position, bar: Bar, context: Context
    ) -> None:
        key = (position.symbol, slot.name, self._exchange, position.id)
        when = context.when_ms
        profits, losses = position.reach_levels(bar)
        if profits or losses:
            levels = {
                "profitLevels": list(position.profit_levels),
                "lossLevels": list(position.loss_levels),
            }
            slot.journal.write(
                "partial", "write_partial_data", *key, {position.id: levels}, when, places=4
            )
            reached = [("profit", level) for level in profits]
            reached += [("loss", level) for level in losses]
            for kind, level in reached:
                self._notify(slot, position, f"partial_{kind}.available", context, level=level)
            row = slot.rows.public(position, bar.close)
            await self._tell(
                slot, context, *((f"partial_{kind}", row, level) for kind, level in reached)
            )
        percent = position.part_due()
        if percent:
            await self._leave_part(slot, position, percent, context)
        if position.reach_breakeven(bar):
            slot.journal.write(
                "breakeven", "write_breakeven_data", *key,
                {position.id: {"reached": True}}, when, places=4,
            )  # fmt: skip
            self._notify(slot, position, "breakeven.available", context)
            await self._tell(slot, context, ("breakeven", slot.rows.public(position, bar.close)))

    async def _ask(self, slot: SlotT, context: Context) -> None:
        signal = await self._call(slot, "get_signal", context)
        if signal is None:
            return
        if not isinstance(signal, Signal):
            raise StrategyError(
                f"get_signal for {self._place(context)} answered with {type(signal).__name__}, "
                "not with a Signal or None"
            )
        strategy = slot.strategy
        entry = context.price if signal.price_open is None else signal.price_open
        try:
            signal.check(entry, strategy.fee_percent, strategy.slippage_percent)
            position = await self._admitted(slot, signal, entry, context)
        except InvalidArgumentError as error:
            raise StrategyError(f"the signal for {self._place(context)}: {error}") from error
        if position is None or position.at_market:
            return
        self._write_schedule(slot, self._marked(slot.rows.signal(position)))
        self._write_history(
            slot, slot.rows.storage(position, "scheduled", context.when_ms, context.price)
        )
        self._notify(slot, position, "signal.scheduled", context)
        row = slot.rows.public(position, context.price)
        await self._tell(slot, context, ("scheduled", row))

    async def _admitted(
        self, slot: SlotT, signal: Signal, entry: float, context: Context
    ) -> Position | None:
        """Return the entry that now waits, or None for one that the rules about risk refuse."""
        refusal = await self._refusal(slot, signal, context)
        if refusal is not None:
            context.log("risk.rejection", refusal)
            return None
        if signal.id is not None:
            await self._take_id(slot, signal.id, context)
        slot.waiting = self._position(slot, signal, entry, context)
        return slot.waiting

    async def _take_id(self, slot: SlotT, signal_id: str, context: Context) -> None:
        # The history has one row for each id: a second signal would take the place of the first.
        # The mark lasts from the record on that has the entry, so a crash leaves both or none.
        where = (f"@signals_{self._run_id}", signal_id)
        is_known = await slot.journal.read("interval", "read_interval_data", *where) is not None
        held = (other.open or other.waiting for other in self._all_slots())
        if is_known or any(position is not None and position.id == signal_id for position in held):
            raise InvalidArgumentError("id", f"an earlier signal of the run has {signal_id!r:.40}")
        when = context.when_ms
        entry = {"id": signal_id, "data": True, "when": context.when, "removed": False}
        slot.journal.write(
            "interval", "write_interval_data", *where, entry, when, places=2, key=where, value=entry
        )

    async def _refusal(self, slot: SlotT, signal: Signal, context: Context) -> Any:
        most, profile = slot.strategy.max_positions, slot.strategy.risk_name
        if not most and "allow" not in slot.hears:
            return None
        others = await self._positions_elsewhere(profile)
        if most:
            # An entry that waits has its place: nobody asks again when it is filled.
            taken = len(others) + sum(
                not other.is_free and other.strategy.risk_name == profile
                for other in self._all_slots()
            )
            if taken >= most:
                return {"activePositionCount": taken}
        if "allow" not in slot.hears:
            return None
        positions = [*self._active_positions(), *others]
        answer = await self._call(slot, "allow", context, signal, positions)
        if isinstance(answer, str):
            return {"rejectionNote": answer}
        return None if answer else {"rejectionNote": ""}  # NumPy's True is another one

    async def _positions_elsewhere(self, profile: str) -> list[ActivePosition]:
        """Return the open positions of a risk profile that other processes have."""
        return []

    def _active_positions(self) -> list[ActivePosition]:
        # With entries at the market: signals of one close would not see each other otherwise.
        held = ((slot, slot.open or slot.waiting) for slot in self._all_slots())
        return [
            ActivePosition(
                slot.name, slot.strategy.risk_name, slot.symbol,
                "long" if position.is_long else "short", position.price_open,
                position.price_take_profit, position.price_stop_loss, position.cost,
                position.pending_at,
            )
            for slot, position in held
            if position is not None and (position is slot.open or position.at_market)
        ]  # fmt: skip

    def _position(self, slot: SlotT, signal: Signal, entry: float, context: Context) -> Position:
        minutes = signal.minute_estimated_time
        return Position(
            id=signal.id or self._id("signal", context),
            symbol=slot.symbol,
            direction=1 if signal.position == "long" else -1,
            price_open=entry,
            price_take_profit=signal.price_take_profit,
            price_stop_loss=signal.price_stop_loss,
            minutes=None if math.isinf(minutes) else minutes,
            note=signal.note,
            cost=slot.strategy.cost,
            fee=slot.strategy.fee_percent / 100,
            slippage=slot.strategy.slippage_percent / 100,
            at_market=signal.price_open is None,
            scheduled_at=context.when_ms,
            partial_level=signal.partial_exit_level,
            partial_percent=signal.partial_exit_percent,
        )

    async def _opened(
        self, slot: SlotT, position: Position, price: float, opened_at: int, context: Context
    ) -> None:
        """Turn an entry into an open position at `price`."""
        slot.waiting = None
        if not position.at_market:
            self._write_schedule(slot, None)
        position.enter(price, opened_at)
        slot.open = position
        self.summary.open_positions += 1
        self._write_signal(slot, position, context)
        self._write_risk(slot, context.when_ms)
        self._write_history(slot, slot.rows.storage(position, "opened", context.when_ms, price))
        self._notify(slot, position, "signal.opened", context)
        context.log("signal.opened", position.id, position.symbol, price)
        await self._tell(slot, context, ("opened", slot.rows.public(position, price)))

    async def _cancelled(
        self, slot: SlotT, waiting: Position, reason: str, price: float, context: Context
    ) -> None:
        """Give an entry up."""
        slot.waiting = None
        when = context.when_ms
        self.summary.add_cancelled(self._label(slot))
        if not waiting.at_market:
            self._write_schedule(slot, None)
        row = slot.rows.storage(waiting, "cancelled", when, price)
        self._write_history(slot, row)
        self._notify(slot, waiting, "signal.cancelled", context, cancelReason=reason, cancelId="",
                     duration=(when - waiting.scheduled_at) / MINUTE_MS)  # fmt: skip
        await self._tell(slot, context, ("cancelled", {**row, "cancelReason": reason}))

    async def _part_closed(
        self, slot: SlotT, position: Position, percent: float, price: float, context: Context
    ) -> None:
        """Count `percent` of a position as closed at `price`."""
        position.take_part(percent, price, context.when_ms)
        self._notify(slot, position, "partial_profit.commit", context, percentToClose=percent)
        self._write_history(slot, slot.rows.storage(position, "opened", context.when_ms, price))
        self._write_signal(slot, position, context)

    async def _closed(self, slot: SlotT, position: Position, leave: Exit, context: Context) -> None:
        """Count a position as closed."""
        slot.open = None
        when = context.when_ms
        profit = position.profit_at(leave.price)
        position.note_price(leave.price)
        self.summary.open_positions -= 1
        self.summary.add_trade(self._label(slot), profit, position.pending_at, when)
        slot.journal.write(
            "signal", "write_signal_data", slot.symbol, slot.name, self._exchange, None, places=3
        )
        self._write_risk(slot, when)
        row = slot.rows.storage(position, "closed", when, leave.price, leave.reason)
        self._write_history(slot, row)
        self._notify(
            slot, position, "signal.closed", context, priceClose=leave.price,
            closeReason=leave.reason, duration=(when - position.pending_at) / MINUTE_MS,
        )  # fmt: skip
        context.log("signal.closed", position.id, position.symbol, leave.reason, profit)
        await self._tell(slot, context, ("closed", row))

    async def _tell(self, slot: SlotT, context: Context, *events: Event) -> None:
        """Let a strategy hear of what has happened, as far as it listens."""
        for hook, *arguments in events:
            if hook in slot.hears:
                await self._call(slot, hook, context, *arguments)

    async def _call(self, slot: SlotT, method: str, context: Context, *arguments: Any) -> Any:
        try:
            answer = getattr(slot.strategy, method)(context, *arguments)
            return await slot.journal.durably(maybe_await(answer))
        except Exception as error:
            if method != "error":
                await self._call(slot, "error", context, error)
            where = self._place(context)
            if isinstance(error, (InvalidArgumentError, InvalidDocumentError)):
                message = f"{method} for {where}: {error}"
            elif isinstance(error, FastPersistError):
                raise
            else:
                message = f"{method} failed for {where}: {type(error).__name__}: {error}"
            raise StrategyError(f"{message}{line_of(error, slot.file)}") from error

    def _write_signal(self, slot: SlotT, position: Position, context: Context) -> None:
        key = (slot.symbol, slot.name, self._exchange)
        row = self._marked(slot.rows.signal(position))
        slot.journal.write("signal", "write_signal_data", *key, row, places=3)
        public = self._marked(slot.rows.public(position, context.price))
        slot.journal.write(
            "recent", "write_recent_data", *key, self._frame_name, self._is_backtest, public,
            context.when_ms, places=5,
        )  # fmt: skip

    def _write_schedule(self, slot: SlotT, row: dict[str, Any] | None) -> None:
        slot.journal.write(
            "schedule", "write_schedule_data", slot.symbol, slot.name, self._exchange, row, places=3
        )

    def _risk_rows(self, profile: str) -> list[Any]:
        return [
            [slot.rows.risk_key(slot.symbol), self._marked(slot.rows.risk(slot.open))]
            for slot in self._all_slots()
            if slot.open is not None and slot.strategy.risk_name == profile
        ]

    def _write_history(self, slot: SlotT, row: dict[str, Any]) -> None:
        row["run"] = dict(self._run_row)
        slot.journal.write_row("storage", "write_storage_data", self._is_backtest, row=row)

    def _notify(
        self, slot: SlotT, position: Position, kind: str, context: Context, **fields: Any
    ) -> None:
        row_id = self._next_id("notification", context)
        row = slot.rows.notification(position, kind, row_id, context.when_ms, context.price, fields)
        self._write_notification(context, row)

    def _report(self, context: Context, domain: str, topic: str, args: Sequence[Any]) -> None:
        row_id = self._next_id(domain, context)
        rows = self._rows[context.strategy_name]
        if domain == "log":
            row = rows.log(row_id, context.symbol, context.when_ms, topic, args)
            context.journal.write_row("log", "write_log_data", row=self._marked(row))
        else:
            row = rows.message(row_id, context.symbol, context.when_ms, topic)
            self._write_notification(context, row)

    def _write_notification(self, context: Context, row: dict[str, Any]) -> None:
        context.journal.write_row(
            "notification", "write_notification_data", self._is_backtest, row=self._marked(row)
        )

    def _marked(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "run": run_mark(self._run_id)}

    def _all_slots(self) -> Iterator[SlotT]:
        for slots in self._slots.values():
            yield from slots

    def _place(self, context: Context) -> str:
        strategy = f"{context.strategy_name} on " if self._has_several else ""
        return f"{strategy}{context.symbol} at {context.when.isoformat()}"

    def _label(self, slot: SlotT) -> str:
        return f"{slot.name} {slot.symbol}" if self._has_several else slot.symbol

    def _next_id(self, what: str, context: Context) -> str:
        self._reports += 1
        return self._id(what, context)


def short_id(*parts: object) -> str:
    """Return the id of a run that is made of `parts`."""
    return uuid5(NAMESPACE_OID, "/".join(map(str, parts))).hex[:12]


def _overrides(strategy: Strategy, method: str) -> bool:
    own = getattr(strategy, method)
    return getattr(own, "__func__", None) is not getattr(Strategy, method)
