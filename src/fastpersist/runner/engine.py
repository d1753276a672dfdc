"""The engine of backtests: replays strategies bar by bar.

All writes go through the redo log (:mod:`fastpersist.runner.journal`), so a run that is killed at
any moment ends as if it had not been. Nothing depends on the wall clock: ids come from the run and
the bar, times from the candles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from ..errors import FastPersistError, InvalidArgumentError
from ..registry import Registries
from ..times import parse_moment, simulated_time, to_datetime
from .candles import CandleFeed, History
from .context import Context
from .desk import Desk, Slot, short_id
from .erasure import Eraser
from .journal import Journal, backtest_session, joined
from .position import Bar, Exit, Position
from .rows import is_of_run
from .strategy import Strategy
from .summary import Summary

__all__ = ["Engine", "Frame", "RunMismatchError"]


class RunMismatchError(FastPersistError):
    """A stored run of this name was made with another strategy, other candles or settings."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A stretch of time to replay.

    Attributes:
        start: Opening time of the first bar, ms.
        end: The moment before which the last bar opens, ms.
        name: Under which its rows are stored; made of start and end by default.
    """

    start: int
    end: int
    name: str = ""

    @classmethod
    def of(cls, start: str, end: str, name: str = "") -> Frame:
        """Return the frame between two moments in ISO text, UTC unless they name a zone.

        Raises:
            InvalidArgumentError: A text is no moment, or `end` is not after `start`.
        """
        return cls(parse_moment("start", start), parse_moment("end", end), name)

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise InvalidArgumentError(
                "frame", f"its end {_moment(self.end)} is not after {_moment(self.start)}"
            )
        if not self.name:
            object.__setattr__(self, "name", f"{_minute(self.start)}-{_minute(self.end)}")


class Engine(Desk[Slot]):
    """Replays strategies over the feeds of their symbols.

    Args:
        registries: The adapters for everything that is stored.
        strategies: The strategies; each meets each symbol.
        feeds: One feed for each symbol.
        exchange_name: Exchange in all stored contexts.
        fingerprint: What the run was made from; a stored run with another one is not continued.
        frame: What to replay; by default all that the feeds have.

    Raises:
        InvalidArgumentError: A strategy or the frame is wrong, or a name is there twice.
    """

    def __init__(
        self,
        registries: Registries,
        strategies: Sequence[Strategy],
        feeds: Sequence[CandleFeed],
        exchange_name: str,
        fingerprint: str,
        frame: Frame | None = None,
    ) -> None:
        frame = frame or Frame(min(feed.start for feed in feeds), max(feed.end for feed in feeds))
        super().__init__(registries, strategies, feeds, exchange_name, frame.name, "backtest")
        self._fingerprint = fingerprint
        self._frame = frame
        warm_up = max(strategy.warm_up for strategy in strategies)
        self._histories = [
            History(feed, max(frame.start, feed.start), min(frame.end, feed.end), warm_up)
            for feed in feeds
        ]
        self._session = backtest_session(self._names, self._symbols, exchange_name, frame.name)
        # What deletes by the id of a run must not meet that of another whose names join alike.
        self._id_parts = (joined("/", self._session[:3]), *self._session[3:])
        self._journal = Journal(registries, self._session)
        self._slots = {
            history.feed.symbol: [
                Slot(strategy, name, self._rows[name], history, self._journal)
                for strategy, name in zip(strategies, self._names, strict=True)
            ]
            for history in self._histories
        }
        self._begin_generation(0)
        self._oldest_stored = 0  # the first generation of which rows may be left
        self.summary = Summary.of(map(self._label, self._all_slots()), frame.start, frame.end)
        self._is_stopping = False

    @property
    def frame(self) -> Frame:
        """What is replayed."""
        return self._frame

    @property
    def session(self) -> tuple[str, str, str, str, bool]:
        """The session that holds the run's record: strategies, exchange, frame, symbols, mode."""
        return self._session

    @property
    def events(self) -> int:
        """How many writes this process has applied."""
        return self._journal.written

    @property
    def seconds_of_persistence(self) -> float:
        """How long this process has waited for the adapters."""
        return self._journal.seconds

    @property
    def share_done(self) -> float:
        """How much of the frame has been replayed, between 0 and 1."""
        histories = self._histories
        done = sum(min(history.next_time, history.end) - history.start for history in histories)
        return done / sum(history.end - history.start for history in histories)

    @property
    def early_ends(self) -> dict[str, int]:
        """Where candles end before the frame does: the close of the last by symbol, ms."""
        return {
            history.feed.symbol: history.next_time
            for history in self._histories
            if history.next_time < self._frame.end
        }

    def _replayed_to(self) -> int | None:
        if self.summary.is_finished:
            return None
        return max(history.next_time for history in self._histories)

    def stop(self) -> None:
        """End :meth:`run` after the current bar."""
        self._is_stopping = True

    async def start(self, *, fresh: bool = False, check: Callable[[], None] = lambda: None) -> None:
        """Take up the stored run, if there is one.

        Args:
            fresh: Delete what is stored of it and begin anew instead.
            check: Called while it deletes; what it raises ends that, and the next start goes on.

        Raises:
            InvalidArgumentError: A symbol has no candle in the frame.
            RunMismatchError: The stored run was made from something else, or a run on the clock has
                a position or an entry here, whose row has the same place as that of a backtest.
        """
        eraser = Eraser(self._registries, check)
        await self._refuse_empty()
        await self._refuse_to_overwrite()
        if fresh:
            await self._begin_anew(eraser)
            await self._erase_earlier(eraser)
            return
        state = await self._journal.recover()
        if state is None:
            return
        if state["fingerprint"] != self._fingerprint:
            raise RunMismatchError(
                f"a run of {self._session[0]} over {self._frame.name} is stored that was made with "
                "another strategy file, other candles or other settings",
                hint="begin anew with --fresh",
            )
        self._begin_generation(state["generation"])
        # A record of an earlier version: nobody has asked for the deletion of what came before.
        self._oldest_stored = state.get("oldest_stored", self._generation)
        await self._erase_earlier(eraser)
        self.summary = Summary.from_state(state["summary"])
        for history, next_time in zip(self._histories, state["next_times"], strict=True):
            history.carry_on(next_time)
        for slot, stored in zip(self._all_slots(), state["slots"], strict=True):
            slot.waiting = Position.from_state(stored["waiting"])
            slot.open = Position.from_state(stored["open"])

    async def _refuse_empty(self) -> None:
        empty = [
            history.feed.symbol
            for history in self._histories
            if history.end <= history.start or await history.next_close() is None
        ]
        if empty:
            feed = self._histories[0].feed
            raise InvalidArgumentError(
                "symbol",
                f"no candles of {', '.join(empty)} ({feed.interval}, exchange {self._exchange}) "
                f"between {_moment(self._frame.start)} and {_moment(self._frame.end)}",
                hint="is it spelt as it was imported, and is the frame right?",
            )

    async def _refuse_to_overwrite(self) -> None:
        for slot in self._all_slots():
            key = (slot.symbol, slot.name, self._exchange)
            profile = slot.strategy.risk_name
            found = [
                await self._registries.signal.read_signal_data(*key),
                await self._registries.schedule.read_schedule_data(*key),
                *(
                    row
                    for _, row in await self._registries.risk.read_position_data(
                        profile, self._exchange
                    )
                ),
            ]
            for row in found:
                if row is not None and row.get("frameName") == "":
                    raise RunMismatchError(
                        f"{row['strategyName']} holds {row['symbol']} on exchange "
                        f"{self._exchange} in a run on paper or live, which a backtest would "
                        "overwrite",
                        hint="give the backtest another --exchange NAME",
                    )

    async def _begin_anew(self, eraser: Eraser) -> None:
        """Record a new generation, which sees nothing of those before, and clear what was open."""
        record = await self._journal.last_record()
        if record is None:
            # Rows without a record, which this generation would take for its own.
            await self._erase(eraser, [0])
        else:
            # Killed meanwhile, the old run carries on and applies them again.
            await eraser.erase_levels_of(record["writes"])
            state = record["state"]
            self._begin_generation(state["generation"] + 1)
            self._oldest_stored = state.get("oldest_stored", 0)
        # Without a record it is the new generation's id that is on the rows.
        stored_ids = self._run_ids(range(self._oldest_stored, self._generation + 1))
        for slot in self._all_slots():
            key = (slot.symbol, slot.name, self._exchange)
            if is_of_run(await self._registries.signal.read_signal_data(*key), stored_ids):
                self._journal.write("signal", "write_signal_data", *key, None, places=3)
            if is_of_run(await self._registries.schedule.read_schedule_data(*key), stored_ids):
                self._journal.write("schedule", "write_schedule_data", *key, None, places=3)
        for profile in {slot.strategy.risk_name: None for slot in self._all_slots()}:
            stored = await self._registries.risk.read_position_data(profile, self._exchange)
            others = [[key, row] for key, row in stored if not is_of_run(row, stored_ids)]
            if len(others) < len(stored):
                self._journal.write(
                    "risk", "write_position_data", profile, self._exchange, others,
                    self._frame.start, places=2,
                )  # fmt: skip
        await self._journal.commit(self._state(), self._frame.start)

    async def _erase_earlier(self, eraser: Eraser) -> None:
        # After the record, which says what is still to be deleted if this process is killed.
        if self._oldest_stored < self._generation:
            # No other record has followed, so what this generation has is from before a lost one.
            await self._erase(eraser, range(self._oldest_stored, self._generation + 1))
        self._oldest_stored = self._generation

    async def _erase(self, eraser: Eraser, generations: Iterable[int]) -> None:
        pairs = [(slot.symbol, slot.name) for slot in self._all_slots()]
        run_ids = self._run_ids(generations)
        await eraser.erase_runs(run_ids, pairs, self._exchange, self._frame_name)

    def _run_ids(self, generations: Iterable[int]) -> frozenset[str]:
        return frozenset(short_id(*self._id_parts, generation) for generation in generations)

    async def run(self, progress: Callable[[int], None] = lambda bars: None) -> Summary:
        """Replay to the end of the frame, or until :meth:`stop`.

        `progress` is told how many bars are done, after each bar.

        Raises:
            StrategyError: A strategy failed, or answered with something else than a signal. Bars
                since the last record are computed again by the next run.
        """
        closes: dict[History, int] = {}
        for history in self._histories:
            close = await history.next_close()
            if close is not None:
                closes[history] = close
        when = self._frame.start
        while closes and not self._is_stopping:
            history = min(closes, key=closes.__getitem__) if len(closes) > 1 else next(iter(closes))
            when = closes[history]
            await self._replay_bar(history, when)
            progress(self.summary.bars)
            following = await history.next_close()
            if following is None:
                del closes[history]
            else:
                closes[history] = following
        if closes:
            await self._journal.commit(self._state(), when)
        elif not self.summary.is_finished:
            await self._journal.commit(self._state(), when)
            # Else candles end before the frame: with more of them the run carries on.
            self.summary.is_finished = all(history.is_complete for history in self._histories)
            # Without writes, so that it is the same wherever the records before were cut.
            await self._journal.commit(self._state(), self._frame.end)
        return self.summary

    async def _replay_bar(self, history: History, when: int) -> None:
        bar = history.take()
        self.summary.bars += 1
        self._reports = 0
        for slot in self._slots[history.feed.symbol]:
            is_asked = slot.is_asked_at(when)
            if is_asked or not slot.is_free:
                with simulated_time(when):
                    await self._meet(slot, bar, self._context(slot, when), is_asked)
        await self._journal.end_bar(self._state, when)

    async def _enter(
        self, slot: Slot, waiting: Position, price: float, bar: Bar, context: Context
    ) -> None:
        # By the first price of the bar, or a limit somewhere within it.
        is_first = waiting.at_market or price == bar.open
        await self._opened(
            slot, waiting, price, bar.timestamp if is_first else context.when_ms, context
        )
        stopped = waiting.stopped_by(bar)
        if stopped is not None:
            await self._closed(slot, waiting, stopped, context)
        elif is_first:
            # Filled within the bar, nobody knows whether its best price came before.
            await self._live_on(slot, waiting, bar, context)

    async def _leave(self, slot: Slot, position: Position, leave: Exit, context: Context) -> None:
        await self._closed(slot, position, leave, context)

    async def _leave_part(
        self, slot: Slot, position: Position, percent: float, context: Context
    ) -> None:
        await self._part_closed(slot, position, percent, position.part_price, context)

    def _write_risk(self, slot: Slot, when: int) -> None:
        profile = slot.strategy.risk_name
        self._journal.write(
            "risk", "write_position_data", profile, self._exchange, self._risk_rows(profile), when,
            places=2,
        )  # fmt: skip

    def _state(self) -> dict[str, Any]:
        return {
            "run": self._run_id,
            "fingerprint": self._fingerprint,
            "generation": self._generation,
            "oldest_stored": self._oldest_stored,
            "summary": self.summary.to_state(),
            "next_times": [history.next_time for history in self._histories],
            "slots": [
                {
                    "waiting": slot.waiting.to_state() if slot.waiting else None,
                    "open": slot.open.to_state() if slot.open else None,
                }
                for slot in self._all_slots()
            ],
        }

    def _begin_generation(self, generation: int) -> None:
        self._generation = generation
        self._run_id = short_id(*self._id_parts, generation)
        self._run_row = {
            "id": self._run_id,
            "start": self._frame.start,
            "end": self._frame.end,
            "strategies": self._names,
            "symbols": self._symbols,
            "intervals": [feed.interval for feed in self._feeds],
        }
        for slot in self._all_slots():
            slot.scope = self._run_id

    def _id(self, what: str, context: Context) -> str:
        number = () if what == "signal" else (self._reports,)
        parts = (what, context.strategy_name, context.symbol, context.when_ms, *number)
        return str(
            uuid5(NAMESPACE_OID, "/".join(map(str, (self._fingerprint, *self._id_parts, *parts))))
        )


def _moment(ms: int) -> str:
    return f"{to_datetime(ms):%Y-%m-%d %H:%M}"


def _minute(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y%m%dT%H%M")
