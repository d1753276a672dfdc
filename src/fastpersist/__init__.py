"""Persistence for trading strategies: MongoDB is the truth, Redis caches its ids.

``setup()`` serves the fifteen process-wide ``Persist<X>Adapter`` objects from both stores; without
it they use files below ``./dump``. ``open()`` gives a store of its own.
"""

from __future__ import annotations

from ._version import __version__
from .domains import Domain, Field
from .errors import (
    ClosedError,
    ConfigurationError,
    CorruptDataError,
    EventLoopError,
    FastPersistError,
    InvalidArgumentError,
    InvalidCandleError,
    InvalidDocumentError,
    LegacyIndexError,
    LocalServerError,
    LookAheadError,
    StoreError,
    StoreUnavailableError,
)
from .frames import CandleFrame
from .hot import has_extensions
from .hot.codec import register_type
from .own_domains import EntryDomain, ListDomain, ValueDomain
from .registry import (
    PersistBreakevenAdapter,
    PersistCandleAdapter,
    PersistIntervalAdapter,
    PersistLogAdapter,
    PersistMeasureAdapter,
    PersistMemoryAdapter,
    PersistNotificationAdapter,
    PersistPartialAdapter,
    PersistRecentAdapter,
    PersistRiskAdapter,
    PersistScheduleAdapter,
    PersistSessionAdapter,
    PersistSignalAdapter,
    PersistStateAdapter,
    PersistStorageAdapter,
    Registries,
    registries,
)
from .settings import Settings
from .store import Store, set_logger, setup, shutdown
from .store import open_store as open
from .times import current_simulated_time, simulated_time

__all__ = [
    "CandleFrame",
    "ClosedError",
    "ConfigurationError",
    "CorruptDataError",
    "Domain",
    "EntryDomain",
    "EventLoopError",
    "FastPersistError",
    "Field",
    "InvalidArgumentError",
    "InvalidCandleError",
    "InvalidDocumentError",
    "LegacyIndexError",
    "ListDomain",
    "LocalServerError",
    "LookAheadError",
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
    "Registries",
    "Settings",
    "Store",
    "StoreError",
    "StoreUnavailableError",
    "ValueDomain",
    "__version__",
    "current_simulated_time",
    "has_extensions",
    "open",
    "register_type",
    "registries",
    "set_logger",
    "setup",
    "shutdown",
    "simulated_time",
]
