"""The registries: which class serves a domain, and one memoised instance per context.

Rules: contract section 2 and the decisions: the memo is keyed by the tuple of context fields, a new
class forgets all instances, a failed start is forgotten. Arguments come in one order everywhere:
context as in the constructor, then key, then data, then ``when``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from .adapters.backend import Backend
from .adapters.dummy import DummyBackend
from .adapters.files import FilesBackend
from .adapters.instances import (
    BreakevenInstance,
    CandleInstance,
    IntervalInstance,
    LogInstance,
    MeasureInstance,
    MemoryInstance,
    NotificationInstance,
    PartialInstance,
    RecentInstance,
    RiskInstance,
    ScheduleInstance,
    SessionInstance,
    SignalInstance,
    StateInstance,
    StorageInstance,
)
from .contracts import (
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
    PersistInstance,
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
from .errors import InvalidArgumentError
from .frames import CandleFrame
from .times import When

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

InstanceT = TypeVar("InstanceT", bound=PersistInstance)

# Not in the Node contract, so adapters written for it lack it.
_OPTIONAL_METHODS = frozenset({"read_candles_frame"})
_METHOD_PREFIXES = ("read_", "write_", "remove_", "list_", "has_")
_FILES = FilesBackend()
_DUMMY = DummyBackend()


class Registry(Generic[InstanceT]):
    """Serves one domain: makes, remembers and initialises the instances of its contexts."""

    _instance_class: ClassVar[Callable[..., Any]]

    def __init__(self) -> None:
        self._memo: dict[tuple[Any, ...], InstanceT] = {}
        self._factory: Callable[..., InstanceT]
        self._backend: Backend | None = None
        self.use_json()

    @property
    def methods(self) -> frozenset[str]:
        """Names of the methods that an adapter of this domain has to have."""
        return frozenset(
            name
            for name in dir(self._instance_class)
            if (name.startswith(_METHOD_PREFIXES) and name not in _OPTIONAL_METHODS)
            or name == "wait_for_init"
        )

    @property
    def backend(self) -> Backend | None:
        """What serves the domain; None where that is an adapter of one's own."""
        return self._backend

    def use_backend(self, backend: Backend) -> None:
        """Serve the domain from `backend` and forget all instances."""
        self._use(partial(self._make, backend))
        self._backend = backend

    def use_json(self) -> None:
        """Serve the domain from files below ``./dump`` and forget all instances."""
        self.use_backend(_FILES)

    def use_dummy(self) -> None:
        """Serve the domain from the family that stores nothing and forget all instances."""
        self.use_backend(_DUMMY)

    def clear(self) -> None:
        """Forget all instances but keep the class, for example after a change of directory."""
        self._memo.clear()

    def _make(self, backend: Backend, *context: Any) -> InstanceT:
        instance: InstanceT = self._instance_class(backend, *context)
        return instance

    def _use(self, factory: Callable[..., InstanceT]) -> None:
        if not callable(factory):
            raise InvalidArgumentError("adapter", f"expected a class, got {type(factory).__name__}")
        self._factory = factory
        self._backend = None
        self.clear()

    def _new(self, context: tuple[Any, ...]) -> InstanceT:
        instance = self._factory(*context)
        missing = [
            name for name in sorted(self.methods) if not callable(getattr(instance, name, None))
        ]
        if missing:
            raise InvalidArgumentError(
                "adapter", f"{type(instance).__name__} has no {', '.join(missing)}"
            )
        self._memo[context] = instance
        return instance

    async def _ready(self, *context: Any) -> InstanceT:
        instance = self._find(context)
        if instance is not None:
            await instance.wait_for_init(False)
            return instance
        instance = self._new(context)
        await self._initialise(instance, context, True)
        return instance

    def _find(self, context: tuple[Any, ...]) -> InstanceT | None:
        try:
            return self._memo.get(context)
        except TypeError:
            kinds = ", ".join(type(field).__name__ for field in context)
            raise InvalidArgumentError(
                "context", f"expected texts and bools, got ({kinds})"
            ) from None

    async def _initialise(
        self, instance: InstanceT, context: tuple[Any, ...], initial: bool
    ) -> None:
        try:
            await instance.wait_for_init(initial)
        except BaseException:
            if self._memo.get(context) is instance:
                del self._memo[context]
            raise

    async def _wait_for_init(self, context: tuple[Any, ...], initial: bool) -> None:
        instance = self._find(context)
        if instance is not None:
            await instance.wait_for_init(False)
            return
        instance = self._new(context)
        await self._initialise(instance, context, initial)

    def _dispose(self, *context: Any) -> None:
        if self._find(context) is not None:
            del self._memo[context]


class CandleRegistry(Registry[PersistCandleInstance]):
    """The registry of the candle domain."""

    _instance_class = CandleInstance

    def use_persist_candle_adapter(
        self, adapter: Callable[[str, str, str], PersistCandleInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_candles_data(
        self,
        symbol: str,
        interval: str,
        exchange_name: str,
        limit: int,
        since_timestamp: int,
        until_timestamp: int | None = None,
    ) -> list[Candle] | None:
        """Return exactly the candles ``since + i * step`` for i below `limit`, or None."""
        instance = await self._ready(symbol, interval, exchange_name)
        return await instance.read_candles_data(limit, since_timestamp, until_timestamp)

    async def read_candles_frame(
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
        instance = await self._ready(symbol, interval, exchange_name)
        read = getattr(instance, "read_candles_frame", None)
        if read is None:
            raise InvalidArgumentError(
                "adapter", f"{type(instance).__name__} has no read_candles_frame"
            )
        frame: CandleFrame = await read(start, end)
        return frame

    async def write_candles_data(
        self, symbol: str, interval: str, exchange_name: str, candles: Sequence[Candle]
    ) -> None:
        """Store closed candles; one that is already stored keeps its first figures."""
        instance = await self._ready(symbol, interval, exchange_name)
        await instance.write_candles_data(candles)


class SignalRegistry(Registry[PersistSignalInstance]):
    """The registry of the signal domain."""

    _instance_class = SignalInstance

    def use_persist_signal_adapter(
        self, adapter: Callable[[str, str, str], PersistSignalInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_signal_data(
        self, symbol: str, strategy_name: str, exchange_name: str
    ) -> SignalRow | None:
        """Return the open position, or None when there is none or it was cleared."""
        instance = await self._ready(symbol, strategy_name, exchange_name)
        return await instance.read_signal_data()

    async def write_signal_data(
        self, symbol: str, strategy_name: str, exchange_name: str, row: SignalRow | None
    ) -> None:
        """Replace the open position; None clears it."""
        instance = await self._ready(symbol, strategy_name, exchange_name)
        await instance.write_signal_data(row)


class ScheduleRegistry(Registry[PersistScheduleInstance]):
    """The registry of the schedule domain."""

    _instance_class = ScheduleInstance

    def use_persist_schedule_adapter(
        self, adapter: Callable[[str, str, str], PersistScheduleInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_schedule_data(
        self, symbol: str, strategy_name: str, exchange_name: str
    ) -> ScheduledSignalRow | None:
        """Return the waiting signal, or None when there is none or it was cleared."""
        instance = await self._ready(symbol, strategy_name, exchange_name)
        return await instance.read_schedule_data()

    async def write_schedule_data(
        self, symbol: str, strategy_name: str, exchange_name: str, row: ScheduledSignalRow | None
    ) -> None:
        """Replace the waiting signal; None clears it."""
        instance = await self._ready(symbol, strategy_name, exchange_name)
        await instance.write_schedule_data(row)


class RiskRegistry(Registry[PersistRiskInstance]):
    """The registry of the risk domain."""

    _instance_class = RiskInstance

    def use_persist_risk_adapter(self, adapter: Callable[[str, str], PersistRiskInstance]) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_position_data(
        self, risk_name: str, exchange_name: str, when: When | None = None
    ) -> RiskData:
        """Return the active positions of a risk profile, ``[]`` when there are none."""
        instance = await self._ready(risk_name, exchange_name)
        return await instance.read_position_data(when)

    async def write_position_data(
        self, risk_name: str, exchange_name: str, positions: RiskData, when: When
    ) -> None:
        """Replace the active positions of a risk profile."""
        instance = await self._ready(risk_name, exchange_name)
        await instance.write_position_data(positions, when)


class PartialRegistry(Registry[PersistPartialInstance]):
    """The registry of the partial domain."""

    _instance_class = PartialInstance

    def use_persist_partial_adapter(
        self, adapter: Callable[[str, str, str], PersistPartialInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_partial_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        signal_id: str,
        when: When | None = None,
    ) -> PartialData:
        """Return the reached levels of a signal's record, ``{}`` when there are none."""
        instance = await self._ready(symbol, strategy_name, exchange_name)
        return await instance.read_partial_data(signal_id, when)

    async def write_partial_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        signal_id: str,
        data: PartialData,
        when: When,
    ) -> None:
        """Replace a signal's record of reached levels."""
        instance = await self._ready(symbol, strategy_name, exchange_name)
        await instance.write_partial_data(signal_id, data, when)


class BreakevenRegistry(Registry[PersistBreakevenInstance]):
    """The registry of the breakeven domain."""

    _instance_class = BreakevenInstance

    def use_persist_breakeven_adapter(
        self, adapter: Callable[[str, str, str], PersistBreakevenInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_breakeven_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        signal_id: str,
        when: When | None = None,
    ) -> BreakevenData:
        """Return a signal's breakeven record, ``{}`` when there is none."""
        instance = await self._ready(symbol, strategy_name, exchange_name)
        return await instance.read_breakeven_data(signal_id, when)

    async def write_breakeven_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        signal_id: str,
        data: BreakevenData,
        when: When,
    ) -> None:
        """Replace a signal's breakeven record."""
        instance = await self._ready(symbol, strategy_name, exchange_name)
        await instance.write_breakeven_data(signal_id, data, when)


class StorageRegistry(Registry[PersistStorageInstance]):
    """The registry of the storage domain."""

    _instance_class = StorageInstance

    def use_persist_storage_adapter(
        self, adapter: Callable[[bool], PersistStorageInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_storage_data(self, backtest: bool) -> list[StorageSignalRow]:
        """Return the whole history of signals of a mode."""
        instance = await self._ready(backtest)
        return await instance.read_storage_data()

    async def write_storage_data(self, backtest: bool, rows: Sequence[StorageSignalRow]) -> None:
        """Upsert signals by their ``id``; others stay."""
        instance = await self._ready(backtest)
        await instance.write_storage_data(rows)


class NotificationRegistry(Registry[PersistNotificationInstance]):
    """The registry of the notification domain."""

    _instance_class = NotificationInstance

    def use_persist_notification_adapter(
        self, adapter: Callable[[bool], PersistNotificationInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_notification_data(
        self, backtest: bool, limit: int | None = 500
    ) -> list[Notification]:
        """Return the newest `limit` notifications (None for all), oldest first."""
        instance = await self._ready(backtest)
        return await instance.read_notification_data(limit)

    async def write_notification_data(self, backtest: bool, rows: Sequence[Notification]) -> None:
        """Upsert notifications by their ``id``; others stay."""
        instance = await self._ready(backtest)
        await instance.write_notification_data(rows)


class LogRegistry(Registry[PersistLogInstance]):
    """The registry of the log domain."""

    _instance_class = LogInstance

    def use_persist_log_adapter(self, adapter: Callable[[], PersistLogInstance]) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_log_data(self, limit: int | None = 1000) -> list[LogEntry]:
        """Return the newest `limit` entries (None for all), oldest first."""
        instance = await self._ready()
        return await instance.read_log_data(limit)

    async def write_log_data(self, entries: Sequence[LogEntry]) -> None:
        """Store the entries whose ``id`` is new; an existing entry never changes."""
        instance = await self._ready()
        await instance.write_log_data(entries)


class MeasureRegistry(Registry[PersistMeasureInstance]):
    """The registry of the measure domain."""

    _instance_class = MeasureInstance

    def use_persist_measure_adapter(self, adapter: Callable[[str], PersistMeasureInstance]) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_measure_data(self, bucket: str, key: str) -> MeasureData | None:
        """Return a cached result, or None when it is absent or removed."""
        instance = await self._ready(bucket)
        return await instance.read_measure_data(key)

    async def write_measure_data(
        self, bucket: str, key: str, data: MeasureData, when: When
    ) -> None:
        """Store a result; writing a removed key revives it."""
        instance = await self._ready(bucket)
        await instance.write_measure_data(key, data, when)

    async def remove_measure_data(self, bucket: str, key: str) -> None:
        """Flag a result as removed; an absent key is left absent."""
        instance = await self._ready(bucket)
        await instance.remove_measure_data(key)

    async def list_measure_data(self, bucket: str) -> AsyncIterator[str]:
        """Yield the keys of all results that are not removed."""
        instance = await self._ready(bucket)
        async for item in instance.list_measure_data():
            yield item


class IntervalRegistry(Registry[PersistIntervalInstance]):
    """The registry of the interval domain."""

    _instance_class = IntervalInstance

    def use_persist_interval_adapter(
        self, adapter: Callable[[str], PersistIntervalInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_interval_data(
        self, bucket: str, key: str, when: When | None = None
    ) -> IntervalData | None:
        """Return a marker, or None when it is absent or removed."""
        instance = await self._ready(bucket)
        return await instance.read_interval_data(key, when)

    async def write_interval_data(
        self, bucket: str, key: str, data: IntervalData, when: When
    ) -> None:
        """Store a marker; writing a removed key revives it."""
        instance = await self._ready(bucket)
        await instance.write_interval_data(key, data, when)

    async def remove_interval_data(self, bucket: str, key: str) -> None:
        """Flag a marker as removed; an absent key is left absent."""
        instance = await self._ready(bucket)
        await instance.remove_interval_data(key)

    async def list_interval_data(self, bucket: str, when: When | None = None) -> AsyncIterator[str]:
        """Yield the keys of all markers that are not removed."""
        instance = await self._ready(bucket)
        async for item in instance.list_interval_data(when):
            yield item


class MemoryRegistry(Registry[PersistMemoryInstance]):
    """The registry of the memory domain."""

    _instance_class = MemoryInstance

    def use_persist_memory_adapter(
        self, adapter: Callable[[str, str], PersistMemoryInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_memory_data(
        self, signal_id: str, bucket_name: str, memory_id: str, when: When | None = None
    ) -> MemoryData | None:
        """Return an entry, or None when it is absent or removed."""
        instance = await self._ready(signal_id, bucket_name)
        return await instance.read_memory_data(memory_id, when)

    async def has_memory_data(
        self, signal_id: str, bucket_name: str, memory_id: str, when: When | None = None
    ) -> bool:
        """Say whether an entry exists, removed or not."""
        instance = await self._ready(signal_id, bucket_name)
        return await instance.has_memory_data(memory_id, when)

    async def write_memory_data(
        self, signal_id: str, bucket_name: str, memory_id: str, data: MemoryData, when: When
    ) -> None:
        """Store an entry; writing a removed id revives it."""
        instance = await self._ready(signal_id, bucket_name)
        await instance.write_memory_data(memory_id, data, when)

    async def remove_memory_data(self, signal_id: str, bucket_name: str, memory_id: str) -> None:
        """Flag an entry as removed; an absent id is left absent."""
        instance = await self._ready(signal_id, bucket_name)
        await instance.remove_memory_data(memory_id)

    async def list_memory_data(
        self, signal_id: str, bucket_name: str, when: When | None = None
    ) -> AsyncIterator[MemoryItem]:
        """Yield all entries that are not removed."""
        instance = await self._ready(signal_id, bucket_name)
        async for item in instance.list_memory_data(when):
            yield item

    async def wait_for_init(self, signal_id: str, bucket_name: str, initial: bool) -> None:
        """Make the instance of a context and initialise it, unless it is there."""
        await self._wait_for_init((signal_id, bucket_name), initial)

    def dispose(self, signal_id: str, bucket_name: str) -> None:
        """Forget the instance of a context; deletes no data."""
        self._dispose(signal_id, bucket_name)


class RecentRegistry(Registry[PersistRecentInstance]):
    """The registry of the recent domain."""

    _instance_class = RecentInstance

    def use_persist_recent_adapter(
        self, adapter: Callable[[str, str, str, str, bool], PersistRecentInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_recent_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        backtest: bool,
        when: When | None = None,
    ) -> PublicSignalRow | None:
        """Return the latest active signal, or None."""
        instance = await self._ready(symbol, strategy_name, exchange_name, frame_name, backtest)
        return await instance.read_recent_data(when)

    async def write_recent_data(
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
        instance = await self._ready(symbol, strategy_name, exchange_name, frame_name, backtest)
        await instance.write_recent_data(row, when)


class StateRegistry(Registry[PersistStateInstance]):
    """The registry of the state domain."""

    _instance_class = StateInstance

    def use_persist_state_adapter(
        self, adapter: Callable[[str, str], PersistStateInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_state_data(
        self, signal_id: str, bucket_name: str, when: When | None = None
    ) -> StateData | None:
        """Return the value of a signal's bucket, or None."""
        instance = await self._ready(signal_id, bucket_name)
        return await instance.read_state_data(when)

    async def write_state_data(
        self, signal_id: str, bucket_name: str, data: StateData, when: When
    ) -> None:
        """Replace the value of a signal's bucket."""
        instance = await self._ready(signal_id, bucket_name)
        await instance.write_state_data(data, when)

    async def wait_for_init(self, signal_id: str, bucket_name: str, initial: bool) -> None:
        """Make the instance of a context and initialise it, unless it is there."""
        await self._wait_for_init((signal_id, bucket_name), initial)

    def dispose(self, signal_id: str, bucket_name: str) -> None:
        """Forget the instance of a context; deletes no data."""
        self._dispose(signal_id, bucket_name)


class SessionRegistry(Registry[PersistSessionInstance]):
    """The registry of the session domain."""

    _instance_class = SessionInstance

    def use_persist_session_adapter(
        self, adapter: Callable[[str, str, str, str, bool], PersistSessionInstance]
    ) -> None:
        """Serve the domain from `adapter`, called with the context, and forget all instances."""
        self._use(adapter)

    async def read_session_data(
        self,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        symbol: str,
        backtest: bool,
        when: When | None = None,
    ) -> SessionData | None:
        """Return the value of a running strategy, or None."""
        instance = await self._ready(strategy_name, exchange_name, frame_name, symbol, backtest)
        return await instance.read_session_data(when)

    async def write_session_data(
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
        instance = await self._ready(strategy_name, exchange_name, frame_name, symbol, backtest)
        await instance.write_session_data(data, when)

    async def wait_for_init(
        self,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        symbol: str,
        backtest: bool,
        initial: bool,
    ) -> None:
        """Make the instance of a context and initialise it, unless it is there."""
        await self._wait_for_init(
            (strategy_name, exchange_name, frame_name, symbol, backtest), initial
        )

    def dispose(
        self, strategy_name: str, exchange_name: str, frame_name: str, symbol: str, backtest: bool
    ) -> None:
        """Forget the instance of a context; deletes no data."""
        self._dispose(strategy_name, exchange_name, frame_name, symbol, backtest)


class Registries:
    """The fifteen registries of one store, or of the process.

    Attributes:
        backend: The family that was chosen last for all of them.
    """

    def __init__(self) -> None:
        self.backend: Backend = _FILES
        self.candle = CandleRegistry()
        self.signal = SignalRegistry()
        self.schedule = ScheduleRegistry()
        self.risk = RiskRegistry()
        self.partial = PartialRegistry()
        self.breakeven = BreakevenRegistry()
        self.storage = StorageRegistry()
        self.notification = NotificationRegistry()
        self.log = LogRegistry()
        self.measure = MeasureRegistry()
        self.interval = IntervalRegistry()
        self.memory = MemoryRegistry()
        self.recent = RecentRegistry()
        self.state = StateRegistry()
        self.session = SessionRegistry()

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
        self.backend = backend
        for registry in self.all():
            registry.use_backend(backend)

    def use_json(self) -> None:
        """Serve every domain from files below ``./dump``."""
        self.use_backend(_FILES)

    def use_dummy(self) -> None:
        """Serve every domain from the family that stores nothing."""
        self.use_backend(_DUMMY)

    def clear(self) -> None:
        """Forget all instances of every domain."""
        for registry in self.all():
            registry.clear()


registries = Registries()
"""The registries that strategies of this process use."""

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
