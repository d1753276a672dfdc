"""The instances that all three families share: one dull class per domain over a backend.

A family differs only in the backend that it hands in; argument checks, repairs and the simulated
time are the same for all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cache
from typing import Any, Final, cast

from ..contracts import (
    BreakevenData,
    Candle,
    IntervalData,
    LogEntry,
    MeasureData,
    MemoryData,
    MemoryItem,
    Notification,
    PartialData,
    PublicSignalRow,
    RiskData,
    ScheduledSignalRow,
    SessionData,
    SignalRow,
    StateData,
    StorageSignalRow,
)
from ..domains import (
    BREAKEVEN,
    CANDLE,
    INTERVAL,
    LOG,
    MEASURE,
    MEMORY,
    NOTIFICATION,
    PARTIAL,
    RECENT,
    RISK,
    SCHEDULE,
    SESSION,
    SIGNAL,
    STATE,
    STORAGE,
    Domain,
)
from ..errors import InvalidArgumentError
from ..frames import CandleFrame
from ..hot.keys import KeyTemplate
from ..payloads import (
    checked_candles,
    checked_entry,
    checked_positions,
    checked_record,
    checked_rows,
    interval_step,
    repair_notification,
    repair_positions,
    repair_signal,
)
from ..times import When, current_simulated_time, is_visible, now_ms, read_limit, to_ms
from .backend import Backend, Key

__all__ = [
    "BreakevenInstance",
    "CandleInstance",
    "EntryInstance",
    "Instance",
    "IntervalInstance",
    "ListInstance",
    "LogInstance",
    "MeasureInstance",
    "MemoryInstance",
    "NotificationInstance",
    "PartialInstance",
    "RecentInstance",
    "RiskInstance",
    "ScheduleInstance",
    "SessionInstance",
    "SignalInstance",
    "StateInstance",
    "StorageInstance",
    "ValueInstance",
]


@cache
def _context_template(domain: Domain) -> KeyTemplate:
    parts = domain.key_parts[: domain.context_size]
    return KeyTemplate(domain.namespace, parts, [name for name, _ in parts])


# MongoDB takes no larger limit.
_MOST_ROWS: Final = 2**31 - 1


class Instance:
    """Base of all instances: a backend, a domain and a checked context."""

    def __init__(self, backend: Backend, domain: Domain, context: Key) -> None:
        if context:
            _context_template(domain)(*context)
        self._backend = backend
        self._domain = domain
        self._context = context

    async def wait_for_init(self, initial: bool) -> None:
        """Make the store usable; called before every operation."""
        await self._backend.prepare(self._domain, self._context, initial)

    def dispose(self) -> None:
        """Release what the instance holds; deletes no data."""

    def _write_moment(self, when: When | None) -> int | None:
        if not self._domain.has_when:
            return None
        if when is None:
            raise InvalidArgumentError("when", "the moment of the write is required")
        return to_ms(when)


class ValueInstance(Instance):
    """One value per key, replaced as a whole."""

    async def read(self, *rest: str, when: When | None = None) -> Any:
        """Return the value, or the domain's answer for absent."""
        value = await self._backend.read_value(self._domain, self._context + rest, read_limit(when))
        if value is None:
            return {"none": None, "list": [], "dict": {}}[self._domain.absent]
        return value

    async def write(self, *rest: str, data: Any, when: When | None = None) -> None:
        """Replace the value."""
        await self._backend.write_value(
            self._domain, self._context + rest, data, self._write_moment(when)
        )


class EntryInstance(Instance):
    """Keyed entries of a bucket with soft deletion."""

    async def read(self, key: str, when: When | None = None) -> Any:
        """Return the entry, or None when it is absent or removed."""
        return await self._backend.read_entry(self._domain, (*self._context, key), read_limit(when))

    async def has(self, key: str, when: When | None = None) -> bool:
        """Say whether the entry exists, removed or not."""
        return await self._backend.has_entry(self._domain, (*self._context, key), read_limit(when))

    async def write(self, key: str, data: Any, when: When | None = None) -> None:
        """Store the entry; writing a removed key revives it."""
        if when is not None:
            to_ms(when)
        await self._backend.write_entry(
            self._domain,
            (*self._context, key),
            checked_entry(data, "data"),
            self._write_moment(when),
        )

    async def remove(self, key: str) -> None:
        """Flag the entry as removed; an absent key is left absent."""
        await self._backend.remove_entry(self._domain, (*self._context, key))

    async def keys(self, when: When | None = None) -> AsyncIterator[str]:
        """Yield the keys of all entries that are not removed."""
        async for key, _ in self._backend.iterate_entries(
            self._domain, self._context, read_limit(when), keys_only=True
        ):
            yield key

    async def items(self, when: When | None = None) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield key and entry of all that are not removed."""
        async for item in self._backend.iterate_entries(
            self._domain, self._context, read_limit(when), keys_only=False
        ):
            yield item


class ListInstance(Instance):
    """Rows with an id of their own, written and read as lists."""

    async def read(self, limit: int | None) -> list[dict[str, Any]]:
        """Return the newest `limit` rows (None for all) in the family's order."""
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise InvalidArgumentError(
                "limit", f"expected an int or None, got {type(limit).__name__}"
            )
        if limit is not None and limit < 0:
            raise InvalidArgumentError("limit", f"must not be negative, got {limit}")
        if limit == 0:
            return []
        if limit is not None and limit > _MOST_ROWS:
            limit = None
        return await self._backend.read_rows(self._domain, self._context, limit)

    async def write(self, rows: Any) -> None:
        """Store the rows under their ids; others stay."""
        domain = self._domain
        by_id, places = checked_rows(
            rows, domain.rows_argument, domain.row_id, first_wins=domain.append_only
        )
        if by_id:
            await self._backend.write_rows(self._domain, self._context, by_id, places)


class CandleInstance(Instance):
    """Candles of one symbol, interval and exchange."""

    def __init__(self, backend: Backend, symbol: str, interval: str, exchange_name: str) -> None:
        super().__init__(backend, CANDLE, (symbol, interval, exchange_name))
        self._step = interval_step(interval)

    async def read_candles_data(
        self, limit: int, since_timestamp: int, until_timestamp: int | None = None
    ) -> list[Candle] | None:
        """Return exactly the candles ``since + i * step`` for i below `limit`, or None.

        In a simulation, a window with a candle that has not closed yet is absent (policy ``hide``).
        """
        for name, number in (("limit", limit), ("since_timestamp", since_timestamp)):
            if isinstance(number, bool) or not isinstance(number, int):
                raise InvalidArgumentError(name, f"expected an int, got {type(number).__name__}")
        if limit < 0:
            raise InvalidArgumentError("limit", f"must not be negative, got {limit}")
        if limit == 0:
            return []
        if since_timestamp % self._step or not _fits_int64(
            since_timestamp, since_timestamp + limit * self._step
        ):
            return None
        window_closes = since_timestamp + limit * self._step
        if not is_visible(
            "candle", window_closes, current_simulated_time(), self._backend.look_ahead
        ):
            return None
        return await self._backend.read_candles(
            self._domain, self._context, since_timestamp, self._step, limit
        )

    async def read_candles_frame(self, start: When, end: When) -> CandleFrame:
        """Return the stored candles from `start` to before `end` as a frame, complete or not.

        In a simulation the frame ends with the last candle that has closed (policy ``hide``).

        Raises:
            InvalidArgumentError: `start` or `end` is no moment, or `end` lies before `start`.
            LookAheadError: The frame has candles that have not closed yet (policy ``raise``).
        """
        first, last = to_ms(start, "start"), to_ms(end, "end")
        if last < first:
            raise InvalidArgumentError("end", f"{last} lies before the start {first}")
        if not _fits_int64(first - self._step, last + self._step):
            raise InvalidArgumentError("end", "no moment of trading")
        visible = last
        simulated = current_simulated_time()
        last_close = -(-last // self._step) * self._step
        if not is_visible("candle", last_close, simulated, self._backend.look_ahead):
            assert simulated is not None  # outside of a simulation all is visible
            last = max(first, simulated // self._step * self._step)
            # Also of candles off the grid, which only an unchecked writer stores.
            visible = max(first, simulated - self._step + 1)
        columns = await self._backend.read_columns(self._domain, self._context, first, visible)
        symbol, interval, exchange_name = self._context
        return CandleFrame(symbol, interval, exchange_name, columns, first, last)

    async def write_candles_data(self, candles: Sequence[Candle]) -> None:
        """Store closed candles; one that is already stored keeps its first figures."""
        simulated = current_simulated_time()
        closed = checked_candles(candles, self._step, now_ms() if simulated is None else simulated)
        if closed:
            await self._backend.write_candles(self._domain, self._context, closed)


class SignalInstance(ValueInstance):
    """The open position of a strategy on a symbol."""

    def __init__(
        self, backend: Backend, symbol: str, strategy_name: str, exchange_name: str
    ) -> None:
        super().__init__(backend, SIGNAL, (symbol, strategy_name, exchange_name))

    async def read_signal_data(self) -> SignalRow | None:
        """Return the position, or None when there is none or it was cleared."""
        return cast("SignalRow | None", repair_signal(await self.read()))

    async def write_signal_data(self, row: SignalRow | None) -> None:
        """Replace the position; None clears it."""
        await self.write(data=checked_record(row, "row", nullable=True))


class ScheduleInstance(ValueInstance):
    """The signal that waits for its entry price."""

    def __init__(
        self, backend: Backend, symbol: str, strategy_name: str, exchange_name: str
    ) -> None:
        super().__init__(backend, SCHEDULE, (symbol, strategy_name, exchange_name))

    async def read_schedule_data(self) -> ScheduledSignalRow | None:
        """Return the waiting signal, or None when there is none or it was cleared."""
        return cast("ScheduledSignalRow | None", repair_signal(await self.read()))

    async def write_schedule_data(self, row: ScheduledSignalRow | None) -> None:
        """Replace the waiting signal; None clears it."""
        await self.write(data=checked_record(row, "row", nullable=True))


class RiskInstance(ValueInstance):
    """All active positions of a risk profile."""

    def __init__(self, backend: Backend, risk_name: str, exchange_name: str) -> None:
        super().__init__(backend, RISK, (risk_name, exchange_name))

    async def read_position_data(self, when: When | None = None) -> RiskData:
        """Return the positions, ``[]`` when there are none."""
        return repair_positions(await self.read(when=when))

    async def write_position_data(self, positions: RiskData, when: When) -> None:
        """Replace the positions."""
        await self.write(data=checked_positions(positions), when=when)


class PartialInstance(ValueInstance):
    """Reached partial-profit and partial-loss levels."""

    def __init__(
        self, backend: Backend, symbol: str, strategy_name: str, exchange_name: str
    ) -> None:
        super().__init__(backend, PARTIAL, (symbol, strategy_name, exchange_name))

    async def read_partial_data(self, signal_id: str, when: When | None = None) -> PartialData:
        """Return the levels of a signal's record, ``{}`` when there are none."""
        return cast(PartialData, await self.read(signal_id, when=when))

    async def write_partial_data(self, signal_id: str, data: PartialData, when: When) -> None:
        """Replace a signal's record."""
        await self.write(signal_id, data=checked_record(data, "data"), when=when)


class BreakevenInstance(ValueInstance):
    """Whether positions have reached breakeven."""

    def __init__(
        self, backend: Backend, symbol: str, strategy_name: str, exchange_name: str
    ) -> None:
        super().__init__(backend, BREAKEVEN, (symbol, strategy_name, exchange_name))

    async def read_breakeven_data(self, signal_id: str, when: When | None = None) -> BreakevenData:
        """Return a signal's record, ``{}`` when there is none."""
        return cast(BreakevenData, await self.read(signal_id, when=when))

    async def write_breakeven_data(self, signal_id: str, data: BreakevenData, when: When) -> None:
        """Replace a signal's record."""
        await self.write(signal_id, data=checked_record(data, "data"), when=when)


class StorageInstance(ListInstance):
    """The history of signals of a mode."""

    def __init__(self, backend: Backend, backtest: bool) -> None:
        super().__init__(backend, STORAGE, (backtest,))

    async def read_storage_data(self) -> list[StorageSignalRow]:
        """Return all rows; databases give the last written first, files the natural id order."""
        rows = await self.read(None)
        return cast("list[StorageSignalRow]", [repair_signal(row) for row in rows])

    async def write_storage_data(self, rows: Sequence[StorageSignalRow]) -> None:
        """Upsert the rows by their ``id``; others stay."""
        await self.write(rows)


class NotificationInstance(ListInstance):
    """Notifications of a mode."""

    def __init__(self, backend: Backend, backtest: bool) -> None:
        super().__init__(backend, NOTIFICATION, (backtest,))

    async def read_notification_data(
        self, limit: int | None = NOTIFICATION.default_limit
    ) -> list[Notification]:
        """Return the newest `limit` notifications (None for all), oldest first."""
        return [repair_notification(row) for row in await self.read(limit)]

    async def write_notification_data(self, rows: Sequence[Notification]) -> None:
        """Upsert the notifications by their ``id``; others stay."""
        await self.write(rows)


class LogInstance(ListInstance):
    """Log lines, append-only."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend, LOG, ())

    async def read_log_data(self, limit: int | None = LOG.default_limit) -> list[LogEntry]:
        """Return the newest `limit` entries (None for all), oldest first."""
        return cast("list[LogEntry]", await self.read(limit))

    async def write_log_data(self, entries: Sequence[LogEntry]) -> None:
        """Store the entries whose ``id`` is new; an existing entry never changes."""
        await self.write(entries)


class MeasureInstance(EntryInstance):
    """Cached results of one bucket."""

    def __init__(self, backend: Backend, bucket: str) -> None:
        super().__init__(backend, MEASURE, (bucket,))

    async def read_measure_data(self, key: str) -> MeasureData | None:
        """Return the entry, or None when it is absent or removed."""
        return cast("MeasureData | None", await self.read(key))

    async def write_measure_data(self, key: str, data: MeasureData, when: When) -> None:
        """Store the entry; writing a removed key revives it. `when` is not stored."""
        await self.write(key, data, when)

    async def remove_measure_data(self, key: str) -> None:
        """Flag the entry as removed; an absent key is left absent."""
        await self.remove(key)

    def list_measure_data(self) -> AsyncIterator[str]:
        """Yield the keys of all entries that are not removed."""
        return self.keys()


class IntervalInstance(EntryInstance):
    """Fired markers of one bucket."""

    def __init__(self, backend: Backend, bucket: str) -> None:
        super().__init__(backend, INTERVAL, (bucket,))

    async def read_interval_data(self, key: str, when: When | None = None) -> IntervalData | None:
        """Return the marker, or None when it is absent or removed."""
        return cast("IntervalData | None", await self.read(key, when))

    async def write_interval_data(self, key: str, data: IntervalData, when: When) -> None:
        """Store the marker; writing a removed key revives it."""
        await self.write(key, data, when)

    async def remove_interval_data(self, key: str) -> None:
        """Flag the marker as removed; an absent key is left absent."""
        await self.remove(key)

    def list_interval_data(self, when: When | None = None) -> AsyncIterator[str]:
        """Yield the keys of all markers that are not removed."""
        return self.keys(when)


class MemoryInstance(EntryInstance):
    """Memory entries of a signal's bucket."""

    def __init__(self, backend: Backend, signal_id: str, bucket_name: str) -> None:
        super().__init__(backend, MEMORY, (signal_id, bucket_name))

    async def read_memory_data(self, memory_id: str, when: When | None = None) -> MemoryData | None:
        """Return the entry, or None when it is absent or removed."""
        return cast("MemoryData | None", await self.read(memory_id, when))

    async def has_memory_data(self, memory_id: str, when: When | None = None) -> bool:
        """Say whether the entry exists, removed or not."""
        return await self.has(memory_id, when)

    async def write_memory_data(self, memory_id: str, data: MemoryData, when: When) -> None:
        """Store the entry; writing a removed id revives it."""
        await self.write(memory_id, data, when)

    async def remove_memory_data(self, memory_id: str) -> None:
        """Flag the entry as removed; an absent id is left absent."""
        await self.remove(memory_id)

    async def list_memory_data(self, when: When | None = None) -> AsyncIterator[MemoryItem]:
        """Yield all entries that are not removed."""
        async for memory_id, data in self.items(when):
            yield {"memoryId": memory_id, "data": cast(MemoryData, data)}


class RecentInstance(ValueInstance):
    """The latest active signal of a context."""

    def __init__(
        self,
        backend: Backend,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        backtest: bool,
    ) -> None:
        super().__init__(
            backend, RECENT, (symbol, strategy_name, exchange_name, frame_name, backtest)
        )

    async def read_recent_data(self, when: When | None = None) -> PublicSignalRow | None:
        """Return the signal, or None."""
        return cast("PublicSignalRow | None", repair_signal(await self.read(when=when)))

    async def write_recent_data(self, row: PublicSignalRow | None, when: When) -> None:
        """Replace the signal."""
        await self.write(data=checked_record(row, "row", nullable=True), when=when)


class StateInstance(ValueInstance):
    """One value per signal and bucket."""

    def __init__(self, backend: Backend, signal_id: str, bucket_name: str) -> None:
        super().__init__(backend, STATE, (signal_id, bucket_name))

    async def read_state_data(self, when: When | None = None) -> StateData | None:
        """Return the value, or None."""
        return cast("StateData | None", await self.read(when=when))

    async def write_state_data(self, data: StateData, when: When) -> None:
        """Replace the value."""
        await self.write(data=checked_record(data, "data"), when=when)


class SessionInstance(ValueInstance):
    """One value per running strategy, frame, symbol and mode."""

    def __init__(
        self,
        backend: Backend,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        symbol: str,
        backtest: bool,
    ) -> None:
        super().__init__(
            backend, SESSION, (strategy_name, exchange_name, frame_name, symbol, backtest)
        )

    async def read_session_data(self, when: When | None = None) -> SessionData | None:
        """Return the value, or None."""
        return cast("SessionData | None", await self.read(when=when))

    async def write_session_data(self, data: SessionData, when: When) -> None:
        """Replace the value."""
        await self.write(data=checked_record(data, "data"), when=when)


def _fits_int64(*numbers: int) -> bool:
    return all(-(2**63) <= number < 2**63 for number in numbers)
