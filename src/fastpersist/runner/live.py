"""The engine on the clock: the rules of :mod:`fastpersist.runner.desk` with a broker that fills.

What one strategy has on one symbol (a slot) has a record of its own, in the session domain. Each
change is durable before the strategy goes on, and each order is in the record before it is sent.
When a store or the broker fails, the slots are taken up from their records again, as after a crash:
an order whose outcome is not recorded is looked for by its client order id, never sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Final, Literal
from uuid import uuid4

from ..deadlines import time_limit
from ..errors import FastPersistError, InvalidArgumentError, StoreUnavailableError
from ..registry import Registries
from ..times import to_datetime
from .broker import Broker, BrokerError, BrokerUnavailableError, Order, OrderState, Side
from .candles import CandleFeed, Tail
from .clock import Clock, WallClock
from .context import Context
from .desk import Desk, Event, Slot, short_id
from .engine import RunMismatchError
from .feed import StoreFeed
from .handover import position_of_row, refuse_incomplete
from .journal import LiveJournal
from .orders import CALL_SECONDS, OrderKind, Outcome, Pending, look_for, send
from .position import Bar, Exit, ExitReason, Position
from .rows import Rows
from .strategy import ActivePosition, Signal, Strategy, StrategyError
from .stream import FeedUnavailableError, steady

__all__ = ["LiveEngine"]

_logger = logging.getLogger("fastpersist.runner")

_FIRST_REST: Final = 1.0
_MOST_REST: Final = 30.0
_CLOSE_TRIES: Final = 3
_ALARMING_ATTEMPTS: Final = 3
_DOUBTFUL_MS: Final = 600_000
_AMOUNT_BITS: Final = 1e-9
_DUST: Final = 0.001
_STALE_STEPS: Final = 3
_DOUBTFUL_LOOKS: Final = 10
_AWAY: Final = (StoreUnavailableError, BrokerUnavailableError, FeedUnavailableError)


class LiveSlot(Slot):
    """What one strategy has on one symbol, with its order.

    Attributes:
        order: The order whose outcome is not known, None for none.
        leaving: Why the position has to close, until it has; None else.
        attempts: How many orders to close the position have done nothing.
        doubtful: Orders that the broker did not know, watched for a while.
        untold: What the strategy has not heard yet of what is recorded: hooks and their arguments.
        met: Close of the last bar that the slot has met, ms.
        began: When the run began here, ms.
    """

    def __init__(
        self, strategy: Strategy, name: str, rows: Rows, history: Tail, journal: LiveJournal
    ) -> None:
        super().__init__(strategy, name, rows, history, journal)
        self.history: Tail = history
        self.journal: LiveJournal = journal
        self.order: Pending | None = None
        self.leaving: ExitReason | None = None
        self.attempts = 0
        self.doubtful: list[Order] = []
        self.untold: list[Event] = []
        self.met = 0
        self.began = 0

    @property
    def is_free(self) -> bool:
        """Whether a new signal may be followed."""
        return self.open is None and self.waiting is None and self.order is None

    @property
    def is_busy(self) -> bool:
        """Whether the outcome of an order is not known."""
        return self.order is not None


class LiveEngine(Desk[LiveSlot]):
    """Runs strategies on candles as they close.

    Args:
        registries: The adapters for everything that is stored.
        strategies: The strategies; each meets each symbol.
        feeds: One feed for each symbol.
        broker: Who fills the orders.
        exchange_name: Exchange in all stored contexts.
        mode: ``paper`` or ``live``.
        clock: The time.

    Raises:
        InvalidArgumentError: A strategy is wrong, or a name is there twice.
    """

    def __init__(
        self,
        registries: Registries,
        strategies: Sequence[Strategy],
        feeds: Sequence[CandleFeed],
        broker: Broker,
        exchange_name: str,
        mode: Literal["paper", "live"],
        clock: Clock | None = None,
    ) -> None:
        super().__init__(registries, strategies, feeds, exchange_name, "", mode)
        self._broker = broker
        self._clock = clock or WallClock()
        self._warm_up = max(strategy.warm_up for strategy in strategies)
        self._admission = asyncio.Lock()
        self._risk_writes = asyncio.Lock()
        self._stale_risks: set[str] = set()
        self._stopping = asyncio.Event()
        self._unheard = ""
        self._looks: dict[str, int] = {}
        self.is_up = False
        """Whether everything was taken up and bars are met."""
        self.last_closes: dict[str, int] = {}
        """Close of the last bar that was met, ms, by symbol."""
        self.ticked_at: dict[str, int] = {}
        """When that was, ms, by symbol; at first the close of the newest candle of its feed."""

    @property
    def sessions(self) -> list[tuple[str, str, str, str, bool]]:
        """The sessions that hold the records: strategy, exchange, frame, symbol, mode."""
        return [self._session(name, symbol) for symbol in self._symbols for name in self._names]

    def _session(self, name: str, symbol: str) -> tuple[str, str, str, str, bool]:
        # A name that no symbol has keeps the record apart from the strategy's own session.
        return name, self._exchange, "", f"@{symbol}", False

    @property
    def steps(self) -> dict[str, str]:
        """The interval of each symbol's candles."""
        return {feed.symbol: feed.interval for feed in self._feeds}

    def stop(self) -> None:
        """End :meth:`run` after the bars that are being met."""
        self._stopping.set()

    async def run(self, *, fresh: bool = False) -> None:
        """Run until :meth:`stop`; stores, broker and feeds may fail and come back meanwhile.

        Args:
            fresh: Forget what is stored of this run and begin anew.

        Raises:
            RunMismatchError: What is stored belongs to the other mode, or `fresh` would forget an
                open position of a live run.
            FastPersistError: The first start failed.
        """
        rest, was_up = _FIRST_REST, False
        while not self._stopping.is_set():
            try:
                await self._take_up(fresh and not was_up)
                rest, was_up, self.is_up = _FIRST_REST, True, True
                _logger.info(
                    "%s run %s of %s is up: %d positions, %d waiting entries", self._mode,
                    self._run_id, ", ".join(self._symbols), self.summary.open_positions,
                    sum(slot.waiting is not None for slot in self._all_slots()),
                )  # fmt: skip
                if self._unheard:
                    slot = next(self._all_slots())
                    self._alarm(self._context_at(slot, slot.history.next_time), self._unheard)
                    await self._flush(slot)
                    self._unheard = ""
                await self._follow_all()
                for slot in self._all_slots():  # so that the next start applies nothing again
                    await slot.journal.record()
            except Exception as error:
                self.is_up = False
                if not was_up:
                    raise
                if isinstance(error, _AWAY):
                    _logger.error("%s; taken up again in %g s", error, rest)
                else:  # nobody else looks after what is open
                    _logger.critical(
                        "%s: %s; taken up again in %g s", type(error).__name__, error, rest,
                        exc_info=error,
                    )  # fmt: skip
                    self._unheard = f"{type(error).__name__}: {error}"
                await self._rest(rest)
                rest = min(2 * rest, _MOST_REST)

    async def _rest(self, seconds: float) -> None:
        stop = asyncio.ensure_future(self._stopping.wait())
        pause = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({stop, pause}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stop, pause):
                task.cancel()
            await asyncio.gather(stop, pause, return_exceptions=True)

    async def _take_up(self, fresh: bool) -> None:
        for slot in self._all_slots():
            await slot.journal.rest()  # what still travels would replace what comes now
        self._slots = {}
        self.summary.open_positions = 0
        for feed in self._feeds:
            history = Tail(feed, self._warm_up)
            slots = [
                await self._stored_slot(history, strategy, name, fresh)
                for strategy, name in zip(self._strategies, self._names, strict=True)
            ]
            now = self._clock.now() // history.step * history.step
            busy = [slot.met for slot in slots if not slot.is_free]
            await history.load(min([now, *busy]))
            if not busy and (history.last_time or 0) < now - _STALE_STEPS * history.step:
                newest = to_datetime(history.last_time).isoformat() if history.last_time else "none"
                _logger.warning(
                    "%s: the newest candle that the feed has is %s; bars are met as they come",
                    feed.symbol, newest,
                )  # fmt: skip
            if history.last_time is not None:
                newest_close = history.last_time + history.step
                self.ticked_at[feed.symbol] = max(
                    newest_close, self.ticked_at.get(feed.symbol, newest_close)
                )
            self._slots[feed.symbol] = slots
            for slot in slots:
                self.summary.include(self._label(slot))
        self.summary.open_positions = sum(slot.open is not None for slot in self._all_slots())
        began = min(slot.began for slot in self._all_slots())
        self._run_id = short_id(
            self._mode, "+".join(self._names), self._exchange, "+".join(self._symbols), began
        )
        self._run_row = {
            "id": self._run_id,
            "mode": self._mode,
            "start": began,
            "end": 0,
            "strategies": self._names,
            "symbols": self._symbols,
            "intervals": [feed.interval for feed in self._feeds],
        }
        self.summary.start, self.summary.end = began, max(began + 1, self._clock.now())
        self._stale_risks = {strategy.risk_name for strategy in self._strategies}
        for slot in self._all_slots():
            await self._reconcile(slot)
        await self._write_risks()

    async def _stored_slot(
        self, history: Tail, strategy: Strategy, name: str, fresh: bool
    ) -> LiveSlot:
        symbol = history.feed.symbol
        slot: LiveSlot
        journal = LiveJournal(
            self._registries, self._session(name, symbol), lambda: self._state(slot)
        )
        slot = LiveSlot(strategy, name, self._rows[name], history, journal)
        now = self._clock.now()
        state = await journal.recover()
        if state is not None and state["mode"] != self._mode:
            raise RunMismatchError(
                f"{name} on {symbol} has run in mode {state['mode']} on exchange {self._exchange}",
                hint="keep the modes apart with --exchange NAME",
            )
        if state is None:
            slot.began, slot.met = now, now
            await self._take_over(slot)
        else:
            slot.began, slot.leaving = state["began"], state["leaving"]
            slot.met = min(state["met"], now)  # the clock may have been ahead
            slot.waiting = Position.from_state(state["waiting"])
            slot.open = Position.from_state(state["open"])
            slot.order = Pending.from_state(state["order"])
            slot.doubtful = [Order(**order) for order in state["doubtful"]]
            slot.untold = [tuple(event) for event in state["untold"]]
        if fresh:
            await self._forget(slot, now)
        slot.scope = short_id(self._mode, name, self._exchange, symbol, slot.began)
        if state is not None and not fresh:
            row = await self._registries.signal.read_signal_data(symbol, name, self._exchange)
            own = slot.open.id if slot.open is not None else None
            if row is not None and not row.get("frameName") and row.get("id") != own:
                self._alarm(
                    self._context(slot, slot.met),
                    f"another runner has left position {row.get('id')} of {name} on {symbol}, "
                    "which is not looked after; close it there, or end it and start with --fresh",
                )  # fmt: skip
        if state is None or fresh:
            await journal.record()
        return slot

    async def _take_over(self, slot: LiveSlot) -> None:
        """Take up what another runner has left in the domains themselves."""
        key = (slot.symbol, slot.name, self._exchange)
        row = await self._registries.signal.read_signal_data(*key)
        if row is not None and not row.get("frameName"):
            refuse_incomplete(row, f"signal {'/'.join(key)}")
            if row.get("multiplier", 1) != 1:
                raise RunMismatchError(
                    f"{slot.name} on {slot.symbol} has a position {row['id']} of another runner "
                    f"with a leverage of {row['multiplier']}, which this one does not trade",
                    hint="close it there",
                )
            levels = await self._registries.partial.read_partial_data(*key, row["id"])
            even = await self._registries.breakeven.read_breakeven_data(*key, row["id"])
            slot.open = position_of_row(row, slot.strategy, levels, even)
            _logger.warning("%s on %s: open position %s is taken over", *key[1::-1], row["id"])
            return
        row = await self._registries.schedule.read_schedule_data(*key)
        if row is not None and not row.get("frameName"):
            refuse_incomplete(row, f"schedule {'/'.join(key)}")
            slot.waiting = position_of_row(row, slot.strategy, {}, {})
            _logger.warning("%s on %s: waiting entry %s is taken over", *key[1::-1], row["id"])

    async def _forget(self, slot: LiveSlot, now: int) -> None:
        if self._mode == "live" and (slot.doubtful or not slot.is_free):
            raise RunMismatchError(
                f"{slot.name} on {slot.symbol} has a position or an order, which a fresh start "
                "would forget",
                hint="start without --fresh; --exchange NAME leaves behind what was closed by hand",
            )
        slot.waiting = slot.open = slot.order = None
        slot.leaving, slot.began, slot.met = None, now, now
        slot.doubtful, slot.untold = [], []
        slot.journal.when = now
        key = (slot.symbol, slot.name, self._exchange)
        slot.journal.write("signal", "write_signal_data", *key, None, places=3)
        slot.journal.write("schedule", "write_schedule_data", *key, None, places=3)

    def _state(self, slot: LiveSlot) -> dict[str, Any]:
        return {
            "mode": self._mode,
            "began": slot.began,
            "met": slot.met,
            "waiting": slot.waiting.to_state() if slot.waiting else None,
            "open": slot.open.to_state() if slot.open else None,
            "order": slot.order.to_state() if slot.order else None,
            "leaving": slot.leaving,
            "doubtful": [asdict(order) for order in slot.doubtful],
            "untold": [list(event) for event in slot.untold],
        }

    async def _reconcile(self, slot: LiveSlot) -> None:
        """Compare the record with what the broker knows, before the first bar."""
        context = self._context_at(slot, slot.history.next_time)
        await self._tell(slot, context, *slot.untold)
        await self._settle(slot, context)
        await self._go_on_leaving(slot, context)
        if slot.order is None and slot.waiting is not None and slot.waiting.at_market:
            await self._cancelled(slot, slot.waiting, "unsent", slot.history.last_close, context)
        known = {order.client_order_id for order in slot.doubtful}
        if slot.order is not None:
            known.add(slot.order.order.client_order_id)
        for state in await self._open_orders(slot.symbol):
            own = state.client_order_id.startswith(self._order_prefix(slot))
            if own and state.client_order_id not in known:
                self._alarm(
                    context,
                    f"the broker has an open order {state.client_order_id} of {slot.name} on "
                    f"{slot.symbol} that is not recorded; look at it there",
                )  # fmt: skip
        await self._flush(slot)

    async def _open_orders(self, symbol: str) -> Sequence[OrderState]:
        try:
            async with time_limit(CALL_SECONDS):
                return await self._broker.open_orders(symbol)
        except (asyncio.TimeoutError, OSError) as error:
            raise BrokerUnavailableError(
                f"open orders of {symbol}: {str(error) or 'no answer in time'}"
            ) from error

    async def _follow_all(self) -> None:
        halt = asyncio.Event()
        watch = asyncio.ensure_future(self._stopping.wait())
        watch.add_done_callback(lambda task: halt.set())
        tasks = [
            asyncio.ensure_future(self._follow(self._slots[symbol], halt))
            for symbol in self._symbols
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            halt.set()  # the others end after their bar
            await asyncio.wait(tasks)
            for ended in tasks:
                if ended.cancelled():  # by what it called, since nobody else has
                    raise RuntimeError("the loop of a symbol was cancelled from inside")
                ended.result()
        finally:
            for task in (watch, *tasks):
                task.cancel()
            await asyncio.gather(watch, *tasks, return_exceptions=True)

    async def _follow(self, slots: Sequence[LiveSlot], halt: asyncio.Event) -> None:
        history = slots[0].history
        halted = asyncio.ensure_future(halt.wait())
        bars = steady(history.feed, history.next_time, self._clock, _logger.warning)
        try:
            async with aclosing(bars):
                while not halt.is_set():
                    coming = asyncio.ensure_future(anext(bars))
                    try:
                        await asyncio.wait({coming, halted}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        if not coming.done():
                            coming.cancel()
                            await asyncio.gather(coming, return_exceptions=True)
                    if not coming.cancelled():
                        await self._tick(history, coming.result())
                    elif not halt.is_set():
                        raise FeedUnavailableError(
                            f"{history.feed.symbol}: its stream was cancelled from inside"
                        )
        finally:
            halted.cancel()
            await asyncio.gather(halted, return_exceptions=True)

    async def _tick(self, history: Tail, bar: Bar) -> None:
        history.add(bar)
        feed, close = history.feed, bar.timestamp + history.step
        if not isinstance(feed, StoreFeed):
            candle: Any = bar._asdict()
            await self._registries.candle.write_candles_data(
                feed.symbol, feed.interval, self._exchange, [candle]
            )
        # What came late is too old for a new signal; what is open is looked after all the same.
        is_new = self._clock.now() - close < history.step
        for slot in self._all_slots():
            if slot.history is history and close > slot.met:
                await self._meet_at(slot, bar, close, is_new)
        self.summary.bars += 1
        self.summary.end = max(self.summary.end, close)
        self.last_closes[feed.symbol] = close
        self.ticked_at[feed.symbol] = self._clock.now()

    async def _meet_at(self, slot: LiveSlot, bar: Bar, close: int, is_new: bool) -> None:
        context = self._context_at(slot, close)
        await self._watch_doubtful(slot, context)
        await self._settle(slot, context)
        await self._go_on_leaving(slot, context)
        if slot.order is None and slot.leaving is None:
            held = slot.open or slot.waiting
            begins = (slot.open.pending_at if slot.open else held.scheduled_at) if held else 0
            if bar.timestamp >= begins:
                await self._meet(slot, bar, context, is_new and slot.is_asked_at(close))
        slot.met = close
        if slot.open is not None:
            await self._check_risk(slot)
        await self._flush(slot)

    def _context_at(self, slot: LiveSlot, when: int) -> Context:
        # What is written from now on is recorded as of this moment.
        slot.journal.when = when
        return self._context(slot, when)

    async def _flush(self, slot: LiveSlot) -> None:
        await slot.journal.flush()
        await self._write_risks()

    async def _ask(self, slot: LiveSlot, context: Context) -> None:
        try:
            await super()._ask(slot, context)
        except (StrategyError, InvalidArgumentError) as error:
            await self._call(slot, "error", context, error)
            self._note_failure(context, error)
        waiting = slot.waiting
        if waiting is not None and waiting.at_market:
            await self._send_entry(slot, waiting, context)

    async def _admitted(
        self, slot: LiveSlot, signal: Signal, entry: float, context: Context
    ) -> Position | None:
        # Between the look at the others and the place among them nobody else may take it.
        async with self._admission:
            return await super()._admitted(slot, signal, entry, context)

    async def _enter(
        self, slot: LiveSlot, waiting: Position, price: float, bar: Bar, context: Context
    ) -> None:
        if self._clock.now() - context.when_ms < slot.history.step:
            await self._send_entry(slot, waiting, context)
        elif slot.is_over(waiting, context.when_ms):
            # Of a late bar nobody knows what the price is now, but the time is over.
            await self._cancelled(slot, waiting, "timeout", bar.close, context)

    async def _send_entry(self, slot: LiveSlot, waiting: Position, context: Context) -> None:
        price = slot.history.last_close
        if not waiting.is_between_exits(price):
            await self._cancelled(slot, waiting, "price", price, context)
            return
        await self._order(slot, "open", waiting, waiting.cost / price, context)

    async def _leave(
        self, slot: LiveSlot, position: Position, leave: Exit, context: Context
    ) -> None:
        if not position.amount:  # its parts were all of it
            await self._closed(slot, position, leave, context)
            return
        slot.leaving = leave.reason
        for _ in range(_CLOSE_TRIES):
            is_refused = await self._order(
                slot, "close", position, position.amount, context, reason=leave.reason
            )
            if is_refused or slot.open is None or slot.order is not None:
                return

    async def _leave_part(
        self, slot: LiveSlot, position: Position, percent: float, context: Context
    ) -> None:
        amount = position.amount * percent / position.remaining
        await self._order(slot, "part", position, amount, context, percent=percent)

    async def _order(
        self,
        slot: LiveSlot,
        kind: OrderKind,
        position: Position,
        amount: float,
        context: Context,
        *,
        reason: ExitReason | None = None,
        percent: float = 0.0,
    ) -> bool:
        """Send an order and apply what becomes of it; return whether it was refused."""
        side: Side = "buy" if (kind == "open") == position.is_long else "sell"
        order = Order(
            self._order_prefix(slot) + uuid4().hex[:20], slot.symbol, side, amount,
            slot.history.last_close, self._clock.now(),
        )  # fmt: skip
        slot.order = Pending(kind, order, reason, percent)
        await slot.journal.record()
        outcome = await send(self._broker, slot.order, self._clock)
        await self._apply(slot, slot.order, outcome, context)
        return outcome.status == "refused"

    async def _settle(self, slot: LiveSlot, context: Context) -> None:
        """Look for an order whose outcome is not recorded."""
        if slot.order is not None:
            outcome = await look_for(self._broker, slot.order.order, self._clock)
            await self._apply(slot, slot.order, outcome, context)

    async def _go_on_leaving(self, slot: LiveSlot, context: Context) -> None:
        """Try once more to close a position that has to be closed."""
        if slot.open is not None and slot.leaving is not None and slot.order is None:
            leave = Exit(slot.leaving, slot.history.last_close)
            await self._leave(slot, slot.open, leave, context)

    async def _apply(
        self, slot: LiveSlot, pending: Pending, outcome: Outcome, context: Context
    ) -> None:
        position = slot.waiting if pending.kind == "open" else slot.open
        assert position is not None
        if outcome.status == "unknown":
            if not pending.is_told:
                pending.is_told = True
                self._alarm(
                    context,
                    f"what became of order {pending.order.client_order_id} ({pending.kind} "
                    f"{slot.symbol}) is unknown: {outcome.message}; it is looked for at each bar",
                )  # fmt: skip
                await slot.journal.record()
            return
        slot.order = None
        state = outcome.state
        filled = state.filled if state is not None else 0.0
        if outcome.status == "absent":
            slot.doubtful.append(pending.order)
        if not filled:
            message = outcome.message or "nothing of the order was filled"
            _logger.warning("%s on %s: %s", slot.name, slot.symbol, message)
            slot.attempts += pending.kind == "close"
            fields = {"orderType": "active", "attempt": max(1, slot.attempts), "message": message}
            if pending.kind == "open":
                self._notify(slot, position, "order_reject.open", context, **fields)
                reason = {"refused": "rejected", "absent": "unsent"}.get(outcome.status, "unfilled")
                await self._cancelled(slot, position, reason, slot.history.last_close, context)
            else:
                fields["closeReason"] = pending.reason or "partial"
                self._notify(slot, position, "order_reject.close", context, **fields)
                if pending.kind == "part":
                    position.partial_level = 0  # given up; the exit closes all
                elif slot.attempts < _ALARMING_ATTEMPTS:
                    return
                elif outcome.is_too_small and position.partials:
                    # What an exit that was filled in part has left would never be taken.
                    assert pending.reason is not None
                    slot.leaving, slot.attempts = None, 0
                    self._alarm(
                        context,
                        f"{position.amount:g} {slot.symbol} of {slot.name} is left at the broker, "
                        f"which takes no order as small as that: {message}; no position has it "
                        "any more",
                    )
                    leave = Exit(pending.reason, slot.history.last_close)
                    await self._closed(slot, position, leave, context)
                elif slot.attempts == _ALARMING_ATTEMPTS:
                    self._alarm(
                        context,
                        f"{slot.name} cannot close {position.amount:g} {slot.symbol}: {message}; "
                        "it is tried again at each bar",
                    )
            return
        assert state is not None
        slot.attempts = 0
        price = state.price or pending.order.price
        context.log(
            "order.filled", pending.kind, state.client_order_id, state.order_id, filled, price,
            state.fee,
        )  # fmt: skip
        if pending.kind == "open":
            position.amount, position.cost = filled, filled * price
            await self._opened(slot, position, price, context.when_ms, context)
            return
        held = position.amount
        position.amount = max(0.0, held - filled)
        if pending.kind == "part":
            percent = min(position.remaining, position.remaining * filled / held)
            await self._part_closed(slot, position, percent, price, context)
        elif state.status == "filled" or position.amount <= held * _AMOUNT_BITS:
            assert pending.reason is not None
            slot.leaving = None
            if position.amount > _DUST * held:
                self._alarm(
                    context,
                    f"{position.amount:g} {slot.symbol} of {slot.name} is left at the broker, "
                    "which has rounded the order down; no position has it any more",
                )
            await self._closed(slot, position, Exit(pending.reason, price), context)
        else:
            percent = position.remaining * filled / held
            kind: Literal["profit", "loss"] = "loss" if position.return_at(price) < 0 else "profit"
            position.take_part(percent, price, context.when_ms, kind)
            self._write_signal(slot, position, context)
            _logger.warning(
                "%s on %s: %s of %s is closed; the rest follows", slot.name, slot.symbol, filled,
                held,
            )  # fmt: skip

    async def _watch_doubtful(self, slot: LiveSlot, context: Context) -> None:
        for order in list(slot.doubtful):
            try:
                async with time_limit(CALL_SECONDS):
                    state = await self._broker.find(order)
                    if state is not None and state.status == "open":
                        state = await self._broker.cancel(order)
            except (BrokerError, asyncio.TimeoutError, OSError) as error:
                _logger.warning("doubtful order %s: %s", order.client_order_id, error)
                continue
            if state is not None and state.status == "open":
                continue
            name = order.client_order_id
            self._looks[name] = looks = self._looks.get(name, 0) + 1
            if state is not None and state.filled:
                self._alarm(
                    context,
                    f"order {order.client_order_id} arrived late: {order.side} {state.filled} "
                    f"{slot.symbol} at {state.price} is not part of a position; undo it there",
                )  # fmt: skip
            # The clock may have been set, so it does not decide alone.
            is_old = self._clock.now() - order.sent_at > _DOUBTFUL_MS and looks >= _DOUBTFUL_LOOKS
            if state is not None or is_old:
                slot.doubtful.remove(order)
                del self._looks[name]

    async def _tell(self, slot: LiveSlot, context: Context, *events: Event) -> None:
        # Recorded before, and taken from the record together with what the hook has written: a
        # strategy hears of each event, and after a crash at most of the last one again.
        slot.untold = [event for event in events if event[0] in slot.hears]
        while slot.untold:
            hook, *arguments = slot.untold[0]
            await self._call(slot, hook, context, *arguments)
            del slot.untold[0]
            await slot.journal.record()

    async def _call(self, slot: LiveSlot, method: str, context: Context, *arguments: Any) -> Any:
        await self._flush(slot)
        # A task of its own: what swallows its end is left behind, and what ends itself does not
        # take the engine's task with it.
        answer = asyncio.ensure_future(super()._call(slot, method, context, *arguments))
        try:
            await asyncio.wait({answer}, timeout=slot.strategy.answer_seconds)
        finally:
            is_late = not answer.done()
            answer.cancel()
        if is_late:
            late = StrategyError(
                f"{method} for {self._place(context)} took longer than its answer_seconds, "
                f"{slot.strategy.answer_seconds:g}"
            )
            if method != "error":
                await self._call(slot, "error", context, late)
            self._note_failure(context, late)
            return None
        try:
            return answer.result()
        except asyncio.CancelledError:
            place = self._place(context)
            self._note_failure(context, StrategyError(f"{method} for {place} has cancelled itself"))
        except _AWAY:
            raise
        except FastPersistError as error:
            self._note_failure(context, error)
        return None

    def _notify(
        self, slot: LiveSlot, position: Position, kind: str, context: Context, **fields: Any
    ) -> None:
        super()._notify(slot, position, kind, context, **fields)
        _logger.info("%s on %s: %s", slot.name, slot.symbol, kind)

    def _note_failure(self, context: Context, error: FastPersistError) -> None:
        """Keep a strategy's failure where operators look; the run goes on."""
        _logger.error("%s", error)
        context.log("strategy.error", str(error))
        self._write_error(context, "error.info", str(error))

    def _alarm(self, context: Context, message: str) -> None:
        """Tell the operator what a machine cannot decide."""
        _logger.critical("%s", message)
        context.log("order.alarm", message)
        self._write_error(context, "error.critical", message)

    def _write_error(self, context: Context, kind: str, message: str) -> None:
        row_id = self._next_id("notification", context)
        row = self._rows[context.strategy_name].error(row_id, kind, message)
        self._write_notification(context, row)

    def _write_risk(self, slot: LiveSlot, when: int) -> None:
        self._stale_risks.add(slot.strategy.risk_name)

    async def _write_risks(self) -> None:
        # Who comes while another writes waits for it: the write may be of its own positions.
        async with self._risk_writes:
            while self._stale_risks:
                profile = self._stale_risks.pop()
                rows = [*await self._risk_rows_elsewhere(profile), *self._risk_rows(profile)]
                await self._registries.risk.write_position_data(
                    profile, self._exchange, rows, self._clock.now()
                )

    async def _check_risk(self, slot: LiveSlot) -> None:
        """Store a profile's positions again if another process has written over ours."""
        profile = slot.strategy.risk_name
        stored = await self._registries.risk.read_position_data(profile, self._exchange)
        if slot.rows.risk_key(slot.symbol) not in {key for key, _ in stored}:
            self._stale_risks.add(profile)

    async def _risk_rows_elsewhere(self, profile: str) -> list[Any]:
        own = {slot.rows.risk_key(slot.symbol) for slot in self._all_slots()}
        stored = await self._registries.risk.read_position_data(profile, self._exchange)
        return [[key, row] for key, row in stored if key not in own]

    async def _positions_elsewhere(self, profile: str) -> list[ActivePosition]:
        return [
            ActivePosition(
                row["strategyName"], profile, row["symbol"], row["position"], row["priceOpen"],
                row["priceTakeProfit"], row["priceStopLoss"], 0.0, row["openTimestamp"],
            )
            for _, row in await self._risk_rows_elsewhere(profile)
            if not row.get("frameName")
        ]  # fmt: skip

    def _order_prefix(self, slot: LiveSlot) -> str:
        return f"fp{slot.scope[:8]}"

    def _id(self, what: str, context: Context) -> str:
        return str(uuid4())

    def describe(self) -> dict[str, Any]:
        """Return what an operator asks about: the last bar of each symbol and what is open."""
        return {
            "mode": self._mode,
            "run": self._run_id,
            "last_close": {
                symbol: to_datetime(close).isoformat() for symbol, close in self.last_closes.items()
            },
            "open_positions": sum(slot.open is not None for slot in self._all_slots()),
            "waiting": sum(slot.waiting is not None for slot in self._all_slots()),
            "unknown_orders": sum(slot.order is not None for slot in self._all_slots()),
        }
