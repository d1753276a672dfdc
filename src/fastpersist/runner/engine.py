"""The engine: replays a strategy bar by bar and keeps all of its state behind the adapters.

At the close of each bar, in this order: a waiting entry is filled or cancelled; an open position is
stopped, else reaches levels and breakeven, closes its part, takes profit or expires; then the
strategy may answer with a signal. An entry of this bar meets the next one. All writes of a bar go
through the redo log (:mod:`fastpersist.runner.journal`), so a run that is killed at any moment ends
as if it had not been. Nothing depends on the wall clock: ids come from the run and the bar, times
from the candles.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from ..contracts import Candle
from ..errors import FastPersistError, InvalidArgumentError, InvalidDocumentError
from ..registry import Registries
from ..times import simulated_time, to_datetime
from .feed import Feed
from .journal import Journal
from .position import Exit, Position
from .strategy import Context, Signal, Strategy, StrategyError, line_of, maybe_await
from .summary import Summary, SymbolSummary

__all__ = ["Engine", "RunMismatchError"]

_HISTORY: Final = 1_000


class RunMismatchError(FastPersistError):
    """A stored run of this name was made with another strategy, other candles or settings."""


class _Lane:
    """What the engine keeps for one symbol."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.next_index = 0
        self.history: deque[Candle] = deque(maxlen=_HISTORY)
        self.waiting: Position | None = None
        self.open: Position | None = None

    @property
    def is_done(self) -> bool:
        return self.next_index >= self.feed.count

    @property
    def next_close(self) -> int:
        return self.feed.timestamp(self.next_index) + self.feed.step


class Engine:
    """Replays one strategy over the feeds of its symbols.

    Args:
        registries: The adapters for everything that is stored.
        strategy: The strategy.
        feeds: One feed for each symbol.
        exchange_name: Exchange in all stored contexts.
        fingerprint: What the run was made from; a stored run with another one is not continued.
    """

    def __init__(
        self,
        registries: Registries,
        strategy: Strategy,
        feeds: Sequence[Feed],
        exchange_name: str,
        fingerprint: str,
    ) -> None:
        strategy.check()
        self._registries = registries
        self._strategy = strategy
        self._file = getattr(sys.modules.get(type(strategy).__module__), "__file__", None)
        self._exchange = exchange_name
        self._fingerprint = fingerprint
        self._name = strategy.name or type(strategy).__name__
        self._lanes = [_Lane(feed) for feed in feeds]
        self.total_bars = sum(feed.count for feed in feeds)
        first = min(feed.first for feed in feeds)
        last = max(feed.last + feed.step for feed in feeds)
        self.frame_name = f"{_minute(first)}-{_minute(last)}"
        self._first_moment = first
        symbols = "+".join(feed.symbol for feed in feeds)
        # A name that no symbol has keeps the run's record apart from the sessions of strategies.
        self._session = (self._name, exchange_name, self.frame_name, f"@{symbols}", True)
        self._journal = Journal(registries, self._session)
        self._begin_generation(0)
        self.summary = Summary({feed.symbol: SymbolSummary(feed.symbol) for feed in feeds})
        self._reports = 0
        self._is_stopping = False

    @property
    def session(self) -> tuple[str, str, str, str, bool]:
        """The session that holds the run's record: strategy, exchange, frame, symbols and mode."""
        return self._session

    @property
    def events(self) -> int:
        """How many writes this process has applied."""
        return self._journal.written

    def stop(self) -> None:
        """End :meth:`run` after the current bar."""
        self._is_stopping = True

    async def start(self, *, fresh: bool = False) -> None:
        """Take up the stored run, if there is one.

        Args:
            fresh: Begin anew instead.

        Raises:
            RunMismatchError: The stored run was made from something else.
        """
        if fresh:
            await self._begin_anew()
            return
        state = await self._journal.recover()
        if state is None:
            return
        if state["fingerprint"] != self._fingerprint:
            raise RunMismatchError(
                f"a run of {self._name} over {self.frame_name} is stored that was made with "
                "another strategy file, other candles or other settings",
                hint="begin anew with --fresh",
            )
        self._begin_generation(state["generation"])
        self.summary = Summary.from_state(state["summary"])
        for lane, stored in zip(self._lanes, state["lanes"], strict=True):
            lane.next_index = stored["next_index"]
            lane.waiting = Position.from_state(stored["waiting"])
            lane.open = Position.from_state(stored["open"])
            lane.history.extend(await lane.feed.history(lane.next_index, _HISTORY))

    async def _begin_anew(self) -> None:
        # What the strategy kept in the stored run must not be met again at the same moments.
        state = await self._journal.last_state()
        self._begin_generation(0 if state is None else state["generation"] + 1)
        for lane in self._lanes:
            context = (lane.feed.symbol, self._name, self._exchange)
            self._journal.write("signal", "write_signal_data", *context, None)
            self._journal.write("schedule", "write_schedule_data", *context, None)
        self._write_risk(self._first_moment)
        await self._journal.commit(self._state(), self._first_moment)

    async def run(self, progress: Callable[[int], None] = lambda bars: None) -> Summary:
        """Replay to the end of the candles, or until :meth:`stop`.

        `progress` is told how many bars are done, after each bar.

        Raises:
            StrategyError: The strategy failed, or answered with something else than a signal.
        """
        lanes = [lane for lane in self._lanes if not lane.is_done]
        while lanes and not self._is_stopping:
            lane = lanes[0] if len(lanes) == 1 else min(lanes, key=lambda lane: lane.next_close)
            await self._replay_bar(lane)
            progress(self.summary.bars)
            if lane.is_done:
                lanes.remove(lane)
        if not lanes and not self.summary.is_finished:
            self.summary.is_finished = True
            await self._journal.commit(self._state(), self._last_moment())
        return self.summary

    async def _replay_bar(self, lane: _Lane) -> None:
        bar = await lane.feed.candle(lane.next_index)
        when = bar["timestamp"] + lane.feed.step
        with simulated_time(when):
            lane.history.append(bar)
            lane.next_index += 1
            self.summary.bars += 1
            self._reports = 0
            context = Context(
                self._strategy, lane.feed.symbol, when, lane.history, self._journal,
                self._run_id, self._reporter(lane, when),
            )  # fmt: skip
            if lane.waiting is not None:
                await self._meet_waiting(lane, lane.waiting, bar, context)
            elif lane.open is not None:
                await self._meet_open(lane, lane.open, bar, context)
            if lane.open is None and lane.waiting is None:
                await self._ask_strategy(lane, context)
            if self._journal.has_writes:
                await self._journal.commit(self._state(), when)

    async def _meet_waiting(
        self, lane: _Lane, waiting: Position, bar: Candle, context: Context
    ) -> None:
        price = waiting.entry_in(bar)
        age = context.when_ms - waiting.scheduled_at
        if price == "cancel" or (price is None and age >= self._strategy.schedule_minutes * 60_000):
            lane.waiting = None
            self.summary.add_cancelled(waiting.symbol)
            self._write_schedule(waiting.symbol, None)
            self._store(waiting, "cancelled", context.when_ms, bar["close"])
            reason = "stop_loss" if price == "cancel" else "timeout"
            self._notify(waiting, "signal.cancelled", context, cancelReason=reason, cancelId="",
                         duration=age / 60_000)  # fmt: skip
        elif price is not None:
            lane.waiting = None
            self._write_schedule(waiting.symbol, None)
            await self._open(lane, waiting, price, context)
            stopped = waiting.stopped_by(bar)
            if stopped is not None:
                await self._close(lane, waiting, stopped, context)

    async def _meet_open(
        self, lane: _Lane, position: Position, bar: Candle, context: Context
    ) -> None:
        leave = position.stopped_by(bar)
        if leave is None:
            self._note_levels(position, bar, context)
            leave = position.exit_in(bar, context.when_ms)
        if leave is not None:
            await self._close(lane, position, leave, context)

    def _note_levels(self, position: Position, bar: Candle, context: Context) -> None:
        key = (position.symbol, self._name, self._exchange, position.id)
        profits, losses = position.reach_levels(bar)
        part = position.close_part(context.when_ms)
        if profits or losses:
            levels = {
                "profitLevels": list(position.profit_levels),
                "lossLevels": list(position.loss_levels),
            }
            self._journal.write(
                "partial", "write_partial_data", *key, {position.id: levels}, context.when_ms
            )
            for kind, reached in (("profit", profits), ("loss", losses)):
                for level in reached:
                    self._notify(position, f"partial_{kind}.available", context, level=level)
        if part is not None:
            self._notify(position, "partial_profit.commit", context, percentToClose=part["percent"])
            self._store(position, "opened", context.when_ms, bar["close"])
            self._write_signal(position, context)
        if position.reach_breakeven(bar):
            self._journal.write(
                "breakeven", "write_breakeven_data", *key,
                {position.id: {"reached": True}}, context.when_ms,
            )  # fmt: skip
            self._notify(position, "breakeven.available", context)

    async def _ask_strategy(self, lane: _Lane, context: Context) -> None:
        signal = await self._call("get_signal", context)
        if signal is None:
            return
        if not isinstance(signal, Signal):
            raise StrategyError(
                f"get_signal for {_place(context)} answered with {type(signal).__name__}, "
                "not with a Signal or None"
            )
        entry = context.price if signal.price_open is None else signal.price_open
        try:
            signal.check(entry)
        except InvalidArgumentError as error:
            raise StrategyError(f"the signal for {_place(context)}: {error}") from error
        position = self._position(signal, entry, context)
        # A limit entry that waits has its place: nobody asks again when it is filled.
        taken = sum(lane.open is not None or lane.waiting is not None for lane in self._lanes)
        if self._strategy.max_positions and taken >= self._strategy.max_positions:
            context.log("risk.rejection", {"activePositionCount": taken})
            return
        if signal.price_open is None:
            await self._open(lane, position, entry, context)
            return
        lane.waiting = position
        self._write_schedule(position.symbol, self._row(position))
        self._store(position, "scheduled", context.when_ms, context.price)
        self._notify(position, "signal.scheduled", context)

    def _position(self, signal: Signal, entry: float, context: Context) -> Position:
        minutes = signal.minute_estimated_time
        return Position(
            id=self._id("signal", context.symbol, context.when_ms),
            symbol=context.symbol,
            direction=1 if signal.position == "long" else -1,
            price_open=entry,
            price_take_profit=signal.price_take_profit,
            price_stop_loss=signal.price_stop_loss,
            minutes=None if math.isinf(minutes) else minutes,
            note=signal.note,
            cost=self._strategy.cost,
            fee=self._strategy.fee_percent / 100,
            scheduled_at=context.when_ms,
            partial_level=signal.partial_exit_level,
            partial_percent=signal.partial_exit_percent,
        )

    async def _open(self, lane: _Lane, position: Position, price: float, context: Context) -> None:
        position.enter(price, context.when_ms)
        lane.open = position
        self.summary.open_positions += 1
        self._write_signal(position, context)
        self._write_risk(context.when_ms)
        self._store(position, "opened", context.when_ms, price)
        self._notify(position, "signal.opened", context)
        context.log("signal.opened", position.id, position.symbol, price)
        await self._tell("opened", context, position)

    async def _close(self, lane: _Lane, position: Position, leave: Exit, context: Context) -> None:
        lane.open = None
        profit = position.profit_at(leave.price)
        position.note_price(leave.price)
        self.summary.open_positions -= 1
        self.summary.add_trade(position.symbol, profit)
        self._journal.write(
            "signal", "write_signal_data", position.symbol, self._name, self._exchange, None
        )
        self._write_risk(context.when_ms)
        self._store(position, "closed", context.when_ms, leave.price, leave.reason)
        self._notify(
            position, "signal.closed", context, priceClose=leave.price, closeReason=leave.reason,
            duration=(context.when_ms - position.pending_at) / 60_000,
        )  # fmt: skip
        context.log("signal.closed", position.id, position.symbol, leave.reason, profit)
        await self._tell("closed", context, position)

    async def _tell(self, hook: str, context: Context, position: Position) -> None:
        await self._call(hook, context, self._row(position))

    async def _call(self, method: str, context: Context, *arguments: Any) -> Any:
        try:
            return await maybe_await(getattr(self._strategy, method)(context, *arguments))
        except (InvalidArgumentError, InvalidDocumentError) as error:
            raise StrategyError(
                f"{method} for {_place(context)}: {error}{line_of(error, self._file)}"
            ) from error
        except FastPersistError:
            raise
        except Exception as error:
            raise StrategyError(
                f"{method} failed for {_place(context)}: {type(error).__name__}: {error}"
                f"{line_of(error, self._file)}"
            ) from error

    def _write_signal(self, position: Position, context: Context) -> None:
        row = self._row(position)
        key = (position.symbol, self._name, self._exchange)
        self._journal.write("signal", "write_signal_data", *key, row)
        public = self._public_row(position, context.price)
        self._journal.write(
            "recent", "write_recent_data", *key, self.frame_name, True, public, context.when_ms
        )

    def _write_schedule(self, symbol: str, row: dict[str, Any] | None) -> None:
        self._journal.write(
            "schedule", "write_schedule_data", symbol, self._name, self._exchange, row
        )

    def _write_risk(self, when: int) -> None:
        positions = [
            [
                f"{self._name}_{self._exchange}_{position.symbol}",
                {
                    "strategyName": self._name,
                    "exchangeName": self._exchange,
                    "frameName": self.frame_name,
                    "symbol": position.symbol,
                    "position": "long" if position.is_long else "short",
                    "priceOpen": position.price_open,
                    "priceStopLoss": position.price_stop_loss,
                    "priceTakeProfit": position.price_take_profit,
                    "minuteEstimatedTime": _minutes(position),
                    "openTimestamp": position.pending_at,
                },
            ]
            for position in (lane.open for lane in self._lanes)
            if position is not None
        ]
        self._journal.write(
            "risk", "write_position_data", self._strategy.risk_name, self._exchange, positions, when
        )

    def _store(
        self, position: Position, status: str, when: int, price: float, reason: str = ""
    ) -> None:
        row = {
            **self._public_row(position, price),
            "status": status,
            "createdAt": position.scheduled_at,
            "updatedAt": when,
            "priority": when,
        }
        if status != "cancelled":
            row["currentPrice"] = price
        if reason:
            row["closeReason"] = reason
            row["closeTimestamp"] = when
        self._journal.write_row("storage", "write_storage_data", True, row=row)

    def _row(self, position: Position) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": position.id,
            "symbol": position.symbol,
            "strategyName": self._name,
            "exchangeName": self._exchange,
            "frameName": self.frame_name,
            "position": "long" if position.is_long else "short",
            "note": position.note,
            "priceOpen": position.price_open,
            "priceTakeProfit": position.price_take_profit,
            "priceStopLoss": position.price_stop_loss,
            "minuteEstimatedTime": _minutes(position),
            "cost": position.cost,
            "multiplier": 1,
            "isolated": True,
            "scheduledAt": position.scheduled_at,
            "pendingAt": position.pending_at or position.scheduled_at,
            "timestamp": position.scheduled_at,
            "_isScheduled": position.pending_at == 0,
        }
        if position.partials:
            row["_partial"] = [dict(record) for record in position.partials]
        return row

    def _public_row(self, position: Position, price: float) -> dict[str, Any]:
        return {
            **self._row(position),
            "originalPriceOpen": position.price_open,
            "originalPriceStopLoss": position.price_stop_loss,
            "originalPriceTakeProfit": position.price_take_profit,
            "partialExecuted": 100.0 - position.remaining,
            "totalEntries": 1,
            "totalPartials": len(position.partials),
            "pnl": position.pnl(price),
            "peakProfit": position.pnl(position.best or price),
            "maxDrawdown": position.pnl(position.worst or price),
        }

    def _notify(self, position: Position, kind: str, context: Context, **fields: Any) -> None:
        public = self._public_row(position, context.price)
        block = {
            "type": kind,
            "id": self._next_id("notification", position.symbol, context.when_ms),
            "backtest": True,
            "timestamp": context.when_ms,
            "signalId": position.id,
            "currentPrice": context.price,
            "createdAt": context.when_ms,
        }
        for name in (
            "symbol", "strategyName", "exchangeName", "position", "priceOpen", "priceTakeProfit",
            "priceStopLoss", "originalPriceTakeProfit", "originalPriceStopLoss",
            "originalPriceOpen", "totalEntries", "totalPartials", "cost", "multiplier", "isolated",
            "pnl", "peakProfit", "maxDrawdown", "note", "scheduledAt",
        ):  # fmt: skip
            block[name] = public[name]
        for prefix in ("pnl", "peakProfit", "maxDrawdown"):
            for ending, name in (
                ("Percentage", "pnlPercentage"), ("PriceOpen", "priceOpen"),
                ("PriceClose", "priceClose"), ("Cost", "pnlCost"), ("Entries", "pnlEntries"),
            ):  # fmt: skip
                block[prefix + ending] = public[prefix][name]
        if kind != "signal.scheduled":
            block["pendingAt"] = public["pendingAt"]
        self._journal.write_row(
            "notification", "write_notification_data", True, row={**block, **fields}
        )

    def _reporter(self, lane: _Lane, when: int) -> Callable[[str, str, Sequence[Any]], None]:
        def report(domain: str, topic: str, args: Sequence[Any]) -> None:
            identity = self._next_id(domain, lane.feed.symbol, when)
            if domain == "log":
                entry: dict[str, Any] = {
                    "id": identity,
                    "type": "info",
                    "priority": when,
                    "timestamp": when,
                    "createdAt": to_datetime(when).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                    "methodContext": {
                        "exchangeName": self._exchange,
                        "strategyName": self._name,
                        "frameName": self.frame_name,
                    },
                    "executionContext": {
                        "symbol": lane.feed.symbol,
                        "when": to_datetime(when),
                        "backtest": True,
                    },
                    "topic": topic,
                    "args": list(args),
                }
                self._journal.write_row("log", "write_log_data", row=entry)
            else:
                note = {
                    "type": "signal.info",
                    "id": identity,
                    "backtest": True,
                    "timestamp": when,
                    "symbol": lane.feed.symbol,
                    "strategyName": self._name,
                    "exchangeName": self._exchange,
                    "note": topic,
                    "createdAt": when,
                }
                self._journal.write_row("notification", "write_notification_data", True, row=note)

        return report

    def _state(self) -> dict[str, Any]:
        return {
            "fingerprint": self._fingerprint,
            "generation": self._generation,
            "summary": self.summary.to_state(),
            "lanes": [
                {
                    "next_index": lane.next_index,
                    "waiting": lane.waiting.to_state() if lane.waiting else None,
                    "open": lane.open.to_state() if lane.open else None,
                }
                for lane in self._lanes
            ],
        }

    def _begin_generation(self, generation: int) -> None:
        self._generation = generation
        parts = "/".join(map(str, (*self._session, generation)))
        self._run_id = uuid5(NAMESPACE_OID, parts).hex[:12]

    def _last_moment(self) -> int:
        return max(lane.feed.last + lane.feed.step for lane in self._lanes)

    def _next_id(self, what: str, symbol: str, when: int) -> str:
        self._reports += 1
        return self._id(what, symbol, when, self._reports)

    def _id(self, *parts: Any) -> str:
        return str(
            uuid5(NAMESPACE_OID, "/".join(map(str, (self._fingerprint, *self._session, *parts))))
        )


def _place(context: Context) -> str:
    return f"{context.symbol} at {context.when.isoformat()}"


def _minutes(position: Position) -> float:
    return math.inf if position.minutes is None else position.minutes


def _minute(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y%m%dT%H%M")
