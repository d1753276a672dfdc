"""Layer 1, the contract: what an instance of each domain offers, and the shapes of its payloads.

An instance is bound to one context (for example a symbol, a strategy and an exchange). Any class
with these methods can be registered; :mod:`fastpersist.adapters` has three families of them. After
an awaited write, the next read of the same context sees that value or a later one. Payload fields
carry their stored names; ``when`` is the logical time of the call, never the wall clock. Payloads
are stored as given: unknown fields, empty containers and nulls are kept.

Rules: contract sections 1 (terms), 3 (methods) and 4 (payloads).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypedDict

from .times import When

__all__ = [
    "BreakevenData",
    "BreakevenLevel",
    "Candle",
    "IntervalData",
    "LogEntry",
    "MeasureData",
    "MemoryData",
    "MemoryItem",
    "Notification",
    "PartialData",
    "PartialLevels",
    "PersistBreakevenInstance",
    "PersistCandleInstance",
    "PersistInstance",
    "PersistIntervalInstance",
    "PersistLogInstance",
    "PersistMeasureInstance",
    "PersistMemoryInstance",
    "PersistNotificationInstance",
    "PersistPartialInstance",
    "PersistRecentInstance",
    "PersistRiskInstance",
    "PersistScheduleInstance",
    "PersistSessionInstance",
    "PersistSignalInstance",
    "PersistStateInstance",
    "PersistStorageInstance",
    "PnL",
    "PublicSignalRow",
    "RiskData",
    "RiskPosition",
    "ScheduledSignalRow",
    "SessionData",
    "SignalRow",
    "StateData",
    "StorageSignalRow",
]

Position = Literal["long", "short"]


class Candle(TypedDict):
    """A closed candle (contract 4.1): opening time in ms, prices in quote, volume in base units."""

    timestamp: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class PnL(TypedDict):
    """Profit or loss of a position (contract 4.2); ``pnlCost`` and ``pnlEntries`` in USD."""

    pnlPercentage: float
    priceOpen: float
    priceClose: float
    pnlCost: float
    pnlEntries: float


class SignalRow(TypedDict, total=False):
    """An open position (contract 4.2). ``minuteEstimatedTime`` may be infinite; times are ms."""

    id: str
    symbol: str
    strategyName: str
    exchangeName: str
    frameName: str
    position: Position
    note: str
    priceOpen: float
    priceTakeProfit: float
    priceStopLoss: float
    minuteEstimatedTime: float
    cost: float
    multiplier: float
    isolated: bool
    scheduledAt: int
    pendingAt: int
    timestamp: int
    _isScheduled: bool
    _partial: list[dict[str, Any]]
    _entry: list[dict[str, Any]]
    _trailingPriceStopLoss: float
    _trailingPriceTakeProfit: float
    _peak: dict[str, Any]
    _fall: dict[str, Any]


class ScheduledSignalRow(SignalRow, total=False):
    """A signal that waits for its entry; ``priceOpen`` is the price waited for."""


class PublicSignalRow(SignalRow, total=False):
    """A signal with its figures as the world sees it (contract 4.5)."""

    originalPriceOpen: float
    originalPriceStopLoss: float
    originalPriceTakeProfit: float
    partialExecuted: float
    totalEntries: int
    totalPartials: int
    pnl: PnL
    peakProfit: PnL
    maxDrawdown: PnL


class StorageSignalRow(PublicSignalRow, total=False):
    """A signal in the history of a mode (contract 4.5)."""

    status: Literal["opened", "scheduled", "closed", "cancelled"]
    createdAt: int
    updatedAt: int
    priority: int
    currentPrice: float
    closeReason: str
    closeTimestamp: int


class RiskPosition(TypedDict, total=False):
    """An active position of a risk profile (contract 4.3); ``openTimestamp`` in ms."""

    strategyName: str
    exchangeName: str
    frameName: str
    symbol: str
    position: Position
    priceOpen: float
    priceStopLoss: float
    priceTakeProfit: float
    minuteEstimatedTime: float
    openTimestamp: int


RiskData = Sequence[tuple[str, RiskPosition] | list[Any]]
"""Pairs of ``strategyName_exchangeName_symbol`` and position, in order (contract 4.3)."""


class PartialLevels(TypedDict):
    """Reached partial-profit and partial-loss levels in percent: 10, 20 ... 100."""

    profitLevels: list[int]
    lossLevels: list[int]


class BreakevenLevel(TypedDict):
    """Whether the position has covered its costs."""

    reached: bool


PartialData = Mapping[str, PartialLevels]
"""Levels by the id of their signal (contract 4.4)."""

BreakevenData = Mapping[str, BreakevenLevel]
"""Whether breakeven is reached, by the id of the signal (contract 4.4)."""

Notification = dict[str, Any]
"""A notification (contract 4.6): ``id``, ``type`` and ``backtest`` always."""


class LogEntry(TypedDict, total=False):
    """A log line (contract 4.7); ``timestamp`` and ``priority`` in ms, ``createdAt`` ISO text."""

    id: str
    type: Literal["log", "debug", "info", "warn", "agent"]
    priority: int
    timestamp: int
    createdAt: str
    methodContext: dict[str, Any] | None
    executionContext: dict[str, Any] | None
    topic: str
    args: list[Any]


class MeasureData(TypedDict, total=False):
    """A cached result (contract 4.8); ``id`` equals the key."""

    id: str
    data: Any
    removed: bool


class IntervalData(TypedDict, total=False):
    """A fired marker (contract 4.9); files give ``when`` back as ISO text."""

    id: str
    data: Any
    when: datetime | str
    removed: bool


class MemoryData(TypedDict, total=False):
    """A memory entry (contract 4.10); ``index`` is its searchable text, ``when`` in ms."""

    priority: int
    data: Any
    removed: bool
    index: str
    when: int


class MemoryItem(TypedDict):
    """An element of a memory list."""

    memoryId: str
    data: MemoryData


class StateData(TypedDict, total=False):
    """A state value (contract 4.12); ``when`` in ms."""

    id: str
    data: Any
    when: int


class SessionData(TypedDict, total=False):
    """A session value (contract 4.13); ``when`` in ms."""

    id: str
    data: Any
    when: int


class PersistInstance(Protocol):
    """What every instance has."""

    async def wait_for_init(self, initial: bool) -> None:
        """Make the store usable; called before every operation.

        `initial` is true only for the call that created the instance.
        """


class PersistCandleInstance(PersistInstance, Protocol):
    """Candles of one symbol, interval and exchange (contract 3.1)."""

    async def read_candles_data(
        self, limit: int, since_timestamp: int, until_timestamp: int | None = None
    ) -> list[Candle] | None:
        """Return exactly the candles ``since + i * step`` for i below `limit`, or None.

        None means that at least one is missing. `until_timestamp` is ignored, as in the contract.
        """

    async def write_candles_data(self, candles: Sequence[Candle]) -> None:
        """Store closed candles; one that is already stored keeps its first figures."""


class PersistSignalInstance(PersistInstance, Protocol):
    """The open position of a strategy on a symbol (contract 3.2)."""

    async def read_signal_data(self) -> SignalRow | None:
        """Return the position, or None when there is none or it was cleared."""

    async def write_signal_data(self, row: SignalRow | None) -> None:
        """Replace the position; None clears it."""


class PersistScheduleInstance(PersistInstance, Protocol):
    """The signal that waits for its entry price (contract 3.3)."""

    async def read_schedule_data(self) -> ScheduledSignalRow | None:
        """Return the waiting signal, or None when there is none or it was cleared."""

    async def write_schedule_data(self, row: ScheduledSignalRow | None) -> None:
        """Replace the waiting signal; None clears it."""


class PersistRiskInstance(PersistInstance, Protocol):
    """All active positions of a risk profile (contract 3.4)."""

    async def read_position_data(self, when: When | None = None) -> RiskData:
        """Return the positions, ``[]`` when there are none."""

    async def write_position_data(self, positions: RiskData, when: When) -> None:
        """Replace the positions."""


class PersistPartialInstance(PersistInstance, Protocol):
    """Reached partial-profit and partial-loss levels (contract 3.5)."""

    async def read_partial_data(self, signal_id: str, when: When | None = None) -> PartialData:
        """Return the levels of a signal's record, ``{}`` when there are none."""

    async def write_partial_data(self, signal_id: str, data: PartialData, when: When) -> None:
        """Replace a signal's record."""


class PersistBreakevenInstance(PersistInstance, Protocol):
    """Whether positions have reached breakeven (contract 3.6)."""

    async def read_breakeven_data(self, signal_id: str, when: When | None = None) -> BreakevenData:
        """Return a signal's record, ``{}`` when there is none."""

    async def write_breakeven_data(self, signal_id: str, data: BreakevenData, when: When) -> None:
        """Replace a signal's record."""


class PersistStorageInstance(PersistInstance, Protocol):
    """The history of signals of a mode (contract 3.7)."""

    async def read_storage_data(self) -> list[StorageSignalRow]:
        """Return all rows; databases give the last written first, files the natural id order."""

    async def write_storage_data(self, rows: Sequence[StorageSignalRow]) -> None:
        """Upsert the rows by their ``id``; others stay."""


class PersistNotificationInstance(PersistInstance, Protocol):
    """Notifications of a mode (contract 3.8)."""

    async def read_notification_data(self, limit: int | None = 500) -> list[Notification]:
        """Return the newest `limit` notifications (None for all), oldest first."""

    async def write_notification_data(self, rows: Sequence[Notification]) -> None:
        """Upsert the notifications by their ``id``; others stay."""


class PersistLogInstance(PersistInstance, Protocol):
    """Log lines, append-only (contract 3.9)."""

    async def read_log_data(self, limit: int | None = 1000) -> list[LogEntry]:
        """Return the newest `limit` entries (None for all), oldest first."""

    async def write_log_data(self, entries: Sequence[LogEntry]) -> None:
        """Store the entries whose ``id`` is new; an existing entry never changes."""


class PersistMeasureInstance(PersistInstance, Protocol):
    """Cached results of one bucket (contract 3.10)."""

    async def read_measure_data(self, key: str) -> MeasureData | None:
        """Return the entry, or None when it is absent or removed."""

    async def write_measure_data(self, key: str, data: MeasureData, when: When) -> None:
        """Store the entry; writing a removed key revives it. `when` is not stored."""

    async def remove_measure_data(self, key: str) -> None:
        """Flag the entry as removed; an absent key is left absent."""

    def list_measure_data(self) -> AsyncIterator[str]:
        """Yield the keys of all entries that are not removed."""


class PersistIntervalInstance(PersistInstance, Protocol):
    """Fired markers of one bucket (contract 3.11)."""

    async def read_interval_data(self, key: str, when: When | None = None) -> IntervalData | None:
        """Return the marker, or None when it is absent or removed."""

    async def write_interval_data(self, key: str, data: IntervalData, when: When) -> None:
        """Store the marker; writing a removed key revives it."""

    async def remove_interval_data(self, key: str) -> None:
        """Flag the marker as removed; an absent key is left absent."""

    def list_interval_data(self, when: When | None = None) -> AsyncIterator[str]:
        """Yield the keys of all markers that are not removed."""


class PersistMemoryInstance(PersistInstance, Protocol):
    """Memory entries of a signal's bucket (contract 3.12)."""

    async def read_memory_data(self, memory_id: str, when: When | None = None) -> MemoryData | None:
        """Return the entry, or None when it is absent or removed."""

    async def has_memory_data(self, memory_id: str, when: When | None = None) -> bool:
        """Say whether the entry exists, removed or not."""

    async def write_memory_data(self, memory_id: str, data: MemoryData, when: When) -> None:
        """Store the entry; writing a removed id revives it."""

    async def remove_memory_data(self, memory_id: str) -> None:
        """Flag the entry as removed; an absent id is left absent."""

    def list_memory_data(self, when: When | None = None) -> AsyncIterator[MemoryItem]:
        """Yield all entries that are not removed."""

    def dispose(self) -> None:
        """Release what the instance holds; deletes no data."""


class PersistRecentInstance(PersistInstance, Protocol):
    """The latest active signal of a context (contract 3.13)."""

    async def read_recent_data(self, when: When | None = None) -> PublicSignalRow | None:
        """Return the signal, or None."""

    async def write_recent_data(self, row: PublicSignalRow | None, when: When) -> None:
        """Replace the signal."""


class PersistStateInstance(PersistInstance, Protocol):
    """One value per signal and bucket (contract 3.14)."""

    async def read_state_data(self, when: When | None = None) -> StateData | None:
        """Return the value, or None."""

    async def write_state_data(self, data: StateData, when: When) -> None:
        """Replace the value."""

    def dispose(self) -> None:
        """Release what the instance holds; deletes no data."""


class PersistSessionInstance(PersistInstance, Protocol):
    """One value per running strategy, frame, symbol and mode (contract 3.15)."""

    async def read_session_data(self, when: When | None = None) -> SessionData | None:
        """Return the value, or None."""

    async def write_session_data(self, data: SessionData, when: When) -> None:
        """Replace the value."""

    def dispose(self) -> None:
        """Release what the instance holds; deletes no data."""
