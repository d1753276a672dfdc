"""The fifteen registries for synchronous callers.

Made of ``registry.py`` by ``tools/make_sync.py``; change that file, not this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from .. import registry
from ..adapters.backend import Backend
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
    PersistBreakevenInstance,
    PersistCandleInstance,
    PersistIntervalInstance,
    PersistLogInstance,
    PersistMeasureInstance,
    PersistMemoryInstance,
    PersistNotificationInstance,
    PersistPartialInstance,
    PersistRecentInstance,
    PersistRiskInstance,
    PersistScheduleInstance,
    PersistSessionInstance,
    PersistSignalInstance,
    PersistStateInstance,
    PersistStorageInstance,
    PublicSignalRow,
    RiskData,
    ScheduledSignalRow,
    SessionData,
    SignalRow,
    StateData,
    StorageSignalRow,
)
from ..frames import CandleFrame
from ..times import When
from ._thread import iterate, run

__all__ = [
    "BreakevenRegistry",
    "CandleRegistry",
    "IntervalRegistry",
    "LogRegistry",
    "MeasureRegistry",
    "MemoryRegistry",
    "NotificationRegistry",
    "PartialRegistry",
    "PersistBreakevenAdapter",
    "PersistCandleAdapter",
    "PersistIntervalAdapter",
    "PersistLogAdapter",
    "PersistMeasureAdapter",
    "PersistMemoryAdapter",
    "PersistNotificationAdapter",
    "PersistPartialAdapter",
    "PersistRecentAdapter",
    "PersistRiskAdapter",
    "PersistScheduleAdapter",
    "PersistSessionAdapter",
    "PersistSignalAdapter",
    "PersistStateAdapter",
    "PersistStorageAdapter",
    "RecentRegistry",
    "Registries",
    "Registry",
    "RiskRegistry",
    "ScheduleRegistry",
    "SessionRegistry",
    "SignalRegistry",
    "StateRegistry",
    "StorageRegistry",
    "registries",
]
SourceT = TypeVar("SourceT", bound="registry.Registry[Any]")


class Registry(Generic[SourceT]):
    """Serves one domain: makes, remembers and initialises the instances of its contexts."""

    def __init__(self, source: SourceT) -> None:
        self._source = source

    @property
    def methods(self) -> frozenset[str]:
        """Names of the methods that an adapter of this domain has to have."""
        return self._source.methods

    @property
    def backend(self) -> Backend | None:
        """What serves the domain; None where that is an adapter of one's own."""
        return self._source.backend

    def use_backend(self, backend: Backend) -> None:
        """Serve the domain from `backend` and forget all instances."""
        self._source.use_backend(backend)

    def use_json(self) -> None:
        """Serve the domain from files below ``./dump`` and forget all instances."""
        self._source.use_json()

    def use_dummy(self) -> None:
        """Serve the domain from the family that stores nothing and forget all instances."""
        self._source.use_dummy()

    def clear(self) -> None:
        """Forget all instances but keep the class, for example after a change of directory."""
        self._source.clear()


class CandleRegistry(Registry[registry.CandleRegistry]):
    """The registry of the candle domain."""

    def use_persist_candle_adapter(
        self, adapter: Callable[[str, str, str], PersistCandleInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_candle_adapter(adapter)

    def read_candles_data(
        self,
        symbol: str,
        interval: str,
        exchange_name: str,
        limit: int,
        since_timestamp: int,
        until_timestamp: int | None = None,
    ) -> list[Candle] | None:
        """Return exactly the candles ``since + i * step`` for i below `limit`, or None."""
        return run(
            self._source.read_candles_data,
            symbol,
            interval,
            exchange_name,
            limit,
            since_timestamp,
            until_timestamp,
        )

    def read_candles_frame(
        self, symbol: str, interval: str, exchange_name: str, start: When, end: When
    ) -> CandleFrame:
        """Return the stored candles from `start` to before `end` as columns, complete or not.

        The frame tells how many are missing. In a simulation it ends with the last candle that has
        closed.

        Args:
            symbol: Symbol of the context.
            interval: Interval of the context.
            exchange_name: Exchange of the context.
            start: First opening time, an aware datetime or ms.
            end: The moment before which the last candle opens.

        Raises:
            InvalidArgumentError: An argument is wrong, or an adapter of one's own offers no frames.
            LookAheadError: It has candles that have not closed yet (policy ``raise``).
        """
        return run(self._source.read_candles_frame, symbol, interval, exchange_name, start, end)

    def write_candles_data(
        self, symbol: str, interval: str, exchange_name: str, candles: Sequence[Candle]
    ) -> None:
        """Store closed candles; one that is already stored keeps its first figures."""
        run(self._source.write_candles_data, symbol, interval, exchange_name, candles)


class SignalRegistry(Registry[registry.SignalRegistry]):
    """The registry of the signal domain."""

    def use_persist_signal_adapter(
        self, adapter: Callable[[str, str, str], PersistSignalInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_signal_adapter(adapter)

    def read_signal_data(
        self, symbol: str, strategy_name: str, exchange_name: str
    ) -> SignalRow | None:
        """Return the open position, or None when there is none or it was cleared."""
        return run(self._source.read_signal_data, symbol, strategy_name, exchange_name)

    def write_signal_data(
        self, symbol: str, strategy_name: str, exchange_name: str, row: SignalRow | None
    ) -> None:
        """Replace the open position; None clears it."""
        run(self._source.write_signal_data, symbol, strategy_name, exchange_name, row)


class ScheduleRegistry(Registry[registry.ScheduleRegistry]):
    """The registry of the schedule domain."""

    def use_persist_schedule_adapter(
        self, adapter: Callable[[str, str, str], PersistScheduleInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_schedule_adapter(adapter)

    def read_schedule_data(
        self, symbol: str, strategy_name: str, exchange_name: str
    ) -> ScheduledSignalRow | None:
        """Return the waiting signal, or None when there is none or it was cleared."""
        return run(self._source.read_schedule_data, symbol, strategy_name, exchange_name)

    def write_schedule_data(
        self, symbol: str, strategy_name: str, exchange_name: str, row: ScheduledSignalRow | None
    ) -> None:
        """Replace the waiting signal; None clears it."""
        run(self._source.write_schedule_data, symbol, strategy_name, exchange_name, row)


class RiskRegistry(Registry[registry.RiskRegistry]):
    """The registry of the risk domain."""

    def use_persist_risk_adapter(self, adapter: Callable[[str, str], PersistRiskInstance]) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_risk_adapter(adapter)

    def read_position_data(
        self, risk_name: str, exchange_name: str, when: When | None = None
    ) -> RiskData:
        """Return the active positions of a risk profile, ``[]`` when there are none."""
        return run(self._source.read_position_data, risk_name, exchange_name, when)

    def write_position_data(
        self, risk_name: str, exchange_name: str, positions: RiskData, when: When
    ) -> None:
        """Replace the active positions of a risk profile."""
        run(self._source.write_position_data, risk_name, exchange_name, positions, when)


class PartialRegistry(Registry[registry.PartialRegistry]):
    """The registry of the partial domain."""

    def use_persist_partial_adapter(
        self, adapter: Callable[[str, str, str], PersistPartialInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_partial_adapter(adapter)

    def read_partial_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        signal_id: str,
        when: When | None = None,
    ) -> PartialData:
        """Return the reached levels of a signal's record, ``{}`` when there are none."""
        return run(
            self._source.read_partial_data, symbol, strategy_name, exchange_name, signal_id, when
        )

    def write_partial_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        signal_id: str,
        data: PartialData,
        when: When,
    ) -> None:
        """Replace a signal's record of reached levels."""
        run(
            self._source.write_partial_data,
            symbol,
            strategy_name,
            exchange_name,
            signal_id,
            data,
            when,
        )


class BreakevenRegistry(Registry[registry.BreakevenRegistry]):
    """The registry of the breakeven domain."""

    def use_persist_breakeven_adapter(
        self, adapter: Callable[[str, str, str], PersistBreakevenInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_breakeven_adapter(adapter)

    def read_breakeven_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        signal_id: str,
        when: When | None = None,
    ) -> BreakevenData:
        """Return a signal's breakeven record, ``{}`` when there is none."""
        return run(
            self._source.read_breakeven_data, symbol, strategy_name, exchange_name, signal_id, when
        )

    def write_breakeven_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        signal_id: str,
        data: BreakevenData,
        when: When,
    ) -> None:
        """Replace a signal's breakeven record."""
        run(
            self._source.write_breakeven_data,
            symbol,
            strategy_name,
            exchange_name,
            signal_id,
            data,
            when,
        )


class StorageRegistry(Registry[registry.StorageRegistry]):
    """The registry of the storage domain."""

    def use_persist_storage_adapter(
        self, adapter: Callable[[bool], PersistStorageInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_storage_adapter(adapter)

    def read_storage_data(self, backtest: bool) -> list[StorageSignalRow]:
        """Return the whole history of signals of a mode."""
        return run(self._source.read_storage_data, backtest)

    def write_storage_data(self, backtest: bool, rows: Sequence[StorageSignalRow]) -> None:
        """Upsert signals by their ``id``; others stay."""
        run(self._source.write_storage_data, backtest, rows)


class NotificationRegistry(Registry[registry.NotificationRegistry]):
    """The registry of the notification domain."""

    def use_persist_notification_adapter(
        self, adapter: Callable[[bool], PersistNotificationInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_notification_adapter(adapter)

    def read_notification_data(self, backtest: bool, limit: int | None = 500) -> list[Notification]:
        """Return the newest `limit` notifications (None for all), oldest first."""
        return run(self._source.read_notification_data, backtest, limit)

    def write_notification_data(self, backtest: bool, rows: Sequence[Notification]) -> None:
        """Upsert notifications by their ``id``; others stay."""
        run(self._source.write_notification_data, backtest, rows)


class LogRegistry(Registry[registry.LogRegistry]):
    """The registry of the log domain."""

    def use_persist_log_adapter(self, adapter: Callable[[], PersistLogInstance]) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_log_adapter(adapter)

    def read_log_data(self, limit: int | None = 1000) -> list[LogEntry]:
        """Return the newest `limit` entries (None for all), oldest first."""
        return run(self._source.read_log_data, limit)

    def write_log_data(self, entries: Sequence[LogEntry]) -> None:
        """Store the entries whose ``id`` is new; an existing entry never changes."""
        run(self._source.write_log_data, entries)


class MeasureRegistry(Registry[registry.MeasureRegistry]):
    """The registry of the measure domain."""

    def use_persist_measure_adapter(self, adapter: Callable[[str], PersistMeasureInstance]) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_measure_adapter(adapter)

    def read_measure_data(self, bucket: str, key: str) -> MeasureData | None:
        """Return a cached result, or None when it is absent or removed."""
        return run(self._source.read_measure_data, bucket, key)

    def write_measure_data(self, bucket: str, key: str, data: MeasureData, when: When) -> None:
        """Store a result; writing a removed key revives it."""
        run(self._source.write_measure_data, bucket, key, data, when)

    def remove_measure_data(self, bucket: str, key: str) -> None:
        """Flag a result as removed; an absent key is left absent."""
        run(self._source.remove_measure_data, bucket, key)

    def list_measure_data(self, bucket: str) -> Iterator[str]:
        """Yield the keys of all results that are not removed."""
        return iterate(self._source.list_measure_data, bucket)


class IntervalRegistry(Registry[registry.IntervalRegistry]):
    """The registry of the interval domain."""

    def use_persist_interval_adapter(
        self, adapter: Callable[[str], PersistIntervalInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_interval_adapter(adapter)

    def read_interval_data(
        self, bucket: str, key: str, when: When | None = None
    ) -> IntervalData | None:
        """Return a marker, or None when it is absent or removed."""
        return run(self._source.read_interval_data, bucket, key, when)

    def write_interval_data(self, bucket: str, key: str, data: IntervalData, when: When) -> None:
        """Store a marker; writing a removed key revives it."""
        run(self._source.write_interval_data, bucket, key, data, when)

    def remove_interval_data(self, bucket: str, key: str) -> None:
        """Flag a marker as removed; an absent key is left absent."""
        run(self._source.remove_interval_data, bucket, key)

    def list_interval_data(self, bucket: str, when: When | None = None) -> Iterator[str]:
        """Yield the keys of all markers that are not removed."""
        return iterate(self._source.list_interval_data, bucket, when)


class MemoryRegistry(Registry[registry.MemoryRegistry]):
    """The registry of the memory domain."""

    def use_persist_memory_adapter(
        self, adapter: Callable[[str, str], PersistMemoryInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_memory_adapter(adapter)

    def read_memory_data(
        self, signal_id: str, bucket_name: str, memory_id: str, when: When | None = None
    ) -> MemoryData | None:
        """Return an entry, or None when it is absent or removed."""
        return run(self._source.read_memory_data, signal_id, bucket_name, memory_id, when)

    def has_memory_data(
        self, signal_id: str, bucket_name: str, memory_id: str, when: When | None = None
    ) -> bool:
        """Say whether an entry exists, removed or not."""
        return run(self._source.has_memory_data, signal_id, bucket_name, memory_id, when)

    def write_memory_data(
        self, signal_id: str, bucket_name: str, memory_id: str, data: MemoryData, when: When
    ) -> None:
        """Store an entry; writing a removed id revives it."""
        run(self._source.write_memory_data, signal_id, bucket_name, memory_id, data, when)

    def remove_memory_data(self, signal_id: str, bucket_name: str, memory_id: str) -> None:
        """Flag an entry as removed; an absent id is left absent."""
        run(self._source.remove_memory_data, signal_id, bucket_name, memory_id)

    def list_memory_data(
        self, signal_id: str, bucket_name: str, when: When | None = None
    ) -> Iterator[MemoryItem]:
        """Yield all entries that are not removed."""
        return iterate(self._source.list_memory_data, signal_id, bucket_name, when)

    def wait_for_init(self, signal_id: str, bucket_name: str, initial: bool) -> None:
        """Make the instance of a context and initialise it, unless it is there."""
        run(self._source.wait_for_init, signal_id, bucket_name, initial)

    def dispose(self, signal_id: str, bucket_name: str) -> None:
        """Forget the instance of a context; deletes no data."""
        self._source.dispose(signal_id, bucket_name)


class RecentRegistry(Registry[registry.RecentRegistry]):
    """The registry of the recent domain."""

    def use_persist_recent_adapter(
        self, adapter: Callable[[str, str, str, str, bool], PersistRecentInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_recent_adapter(adapter)

    def read_recent_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        backtest: bool,
        when: When | None = None,
    ) -> PublicSignalRow | None:
        """Return the latest active signal, or None."""
        return run(
            self._source.read_recent_data,
            symbol,
            strategy_name,
            exchange_name,
            frame_name,
            backtest,
            when,
        )

    def write_recent_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        backtest: bool,
        row: PublicSignalRow | None,
        when: When,
    ) -> None:
        """Replace the latest active signal."""
        run(
            self._source.write_recent_data,
            symbol,
            strategy_name,
            exchange_name,
            frame_name,
            backtest,
            row,
            when,
        )


class StateRegistry(Registry[registry.StateRegistry]):
    """The registry of the state domain."""

    def use_persist_state_adapter(
        self, adapter: Callable[[str, str], PersistStateInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_state_adapter(adapter)

    def read_state_data(
        self, signal_id: str, bucket_name: str, when: When | None = None
    ) -> StateData | None:
        """Return the value of a signal's bucket, or None."""
        return run(self._source.read_state_data, signal_id, bucket_name, when)

    def write_state_data(
        self, signal_id: str, bucket_name: str, data: StateData, when: When
    ) -> None:
        """Replace the value of a signal's bucket."""
        run(self._source.write_state_data, signal_id, bucket_name, data, when)

    def wait_for_init(self, signal_id: str, bucket_name: str, initial: bool) -> None:
        """Make the instance of a context and initialise it, unless it is there."""
        run(self._source.wait_for_init, signal_id, bucket_name, initial)

    def dispose(self, signal_id: str, bucket_name: str) -> None:
        """Forget the instance of a context; deletes no data."""
        self._source.dispose(signal_id, bucket_name)


class SessionRegistry(Registry[registry.SessionRegistry]):
    """The registry of the session domain."""

    def use_persist_session_adapter(
        self, adapter: Callable[[str, str, str, str, bool], PersistSessionInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._source.use_persist_session_adapter(adapter)

    def read_session_data(
        self,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        symbol: str,
        backtest: bool,
        when: When | None = None,
    ) -> SessionData | None:
        """Return the value of a running strategy, or None."""
        return run(
            self._source.read_session_data,
            strategy_name,
            exchange_name,
            frame_name,
            symbol,
            backtest,
            when,
        )

    def write_session_data(
        self,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        symbol: str,
        backtest: bool,
        data: SessionData,
        when: When,
    ) -> None:
        """Replace the value of a running strategy."""
        run(
            self._source.write_session_data,
            strategy_name,
            exchange_name,
            frame_name,
            symbol,
            backtest,
            data,
            when,
        )

    def wait_for_init(
        self,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        symbol: str,
        backtest: bool,
        initial: bool,
    ) -> None:
        """Make the instance of a context and initialise it, unless it is there."""
        run(
            self._source.wait_for_init,
            strategy_name,
            exchange_name,
            frame_name,
            symbol,
            backtest,
            initial,
        )

    def dispose(
        self, strategy_name: str, exchange_name: str, frame_name: str, symbol: str, backtest: bool
    ) -> None:
        """Forget the instance of a context; deletes no data."""
        self._source.dispose(strategy_name, exchange_name, frame_name, symbol, backtest)


class Registries:
    """The fifteen registries of one store, or of the process.

    Attributes:
        backend: The family that was chosen last for all of them.
    """

    def __init__(self, source: registry.Registries) -> None:
        self._source = source
        self.candle = CandleRegistry(source.candle)
        self.signal = SignalRegistry(source.signal)
        self.schedule = ScheduleRegistry(source.schedule)
        self.risk = RiskRegistry(source.risk)
        self.partial = PartialRegistry(source.partial)
        self.breakeven = BreakevenRegistry(source.breakeven)
        self.storage = StorageRegistry(source.storage)
        self.notification = NotificationRegistry(source.notification)
        self.log = LogRegistry(source.log)
        self.measure = MeasureRegistry(source.measure)
        self.interval = IntervalRegistry(source.interval)
        self.memory = MemoryRegistry(source.memory)
        self.recent = RecentRegistry(source.recent)
        self.state = StateRegistry(source.state)
        self.session = SessionRegistry(source.session)

    @property
    def backend(self) -> Backend:
        """The family that was chosen last for all of them."""
        return self._source.backend

    def all(self) -> tuple[Registry[Any], ...]:
        """Return the registries in the order of the domain table."""
        return (
            self.candle,
            self.signal,
            self.schedule,
            self.risk,
            self.partial,
            self.breakeven,
            self.storage,
            self.notification,
            self.log,
            self.measure,
            self.interval,
            self.memory,
            self.recent,
            self.state,
            self.session,
        )

    def use_backend(self, backend: Backend) -> None:
        """Serve every domain from `backend`."""
        self._source.use_backend(backend)

    def use_json(self) -> None:
        """Serve every domain from files below ``./dump``."""
        self._source.use_json()

    def use_dummy(self) -> None:
        """Serve every domain from the family that stores nothing."""
        self._source.use_dummy()

    def clear(self) -> None:
        """Forget all instances of every domain."""
        self._source.clear()


registries = Registries(registry.registries)
PersistCandleAdapter = registries.candle
PersistSignalAdapter = registries.signal
PersistScheduleAdapter = registries.schedule
PersistRiskAdapter = registries.risk
PersistPartialAdapter = registries.partial
PersistBreakevenAdapter = registries.breakeven
PersistStorageAdapter = registries.storage
PersistNotificationAdapter = registries.notification
PersistLogAdapter = registries.log
PersistMeasureAdapter = registries.measure
PersistIntervalAdapter = registries.interval
PersistMemoryAdapter = registries.memory
PersistRecentAdapter = registries.recent
PersistStateAdapter = registries.state
PersistSessionAdapter = registries.session
