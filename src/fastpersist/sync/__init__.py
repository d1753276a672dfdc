"""The adapters for synchronous callers: ``import fastpersist.sync as fp``.

The same names as in ``fastpersist``, whose calls return when it is done. They may come from any
thread, also from one that runs an event loop of its own, as in a notebook, and those of several
threads at once share round trips. A forked child gets a loop and connections of its own. A program
may end without closing; what was acknowledged is stored.

:func:`run` calls any other async function of the package.
"""

from __future__ import annotations

from .. import (
    CandleFrame,
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
    Settings,
    StoreError,
    StoreUnavailableError,
    current_simulated_time,
    register_type,
    set_logger,
    simulated_time,
)
from ._own_domains import EntryDomain, ListDomain, ValueDomain
from ._registry import (
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
from ._store import Store, setup, shutdown
from ._store import open_store as open
from ._thread import run

__all__ = [
    "CandleFrame",
    "ClosedError",
    "ConfigurationError",
    "CorruptDataError",
    "EntryDomain",
    "EventLoopError",
    "FastPersistError",
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
    "current_simulated_time",
    "open",
    "register_type",
    "registries",
    "run",
    "set_logger",
    "setup",
    "shutdown",
    "simulated_time",
]
