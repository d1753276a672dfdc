"""The table of domains: what is stored where, under which key, with which indexes.

No other module spells a collection name, a cache key, an index or a file path. The rows follow
sections 3 and 6 of the storage layout and section 5.1 of the contract.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from .errors import ConfigurationError

__all__ = [
    "BREAKEVEN",
    "CANDLE",
    "CANDLE_FIELDS",
    "CANDLE_FIGURES",
    "DOMAINS",
    "INTERVAL",
    "INTERVAL_STEP_MS",
    "LOG",
    "MEASURE",
    "MEMORY",
    "MINUTE_MS",
    "NOTIFICATION",
    "PARTIAL",
    "RECENT",
    "RISK",
    "SCHEDULE",
    "SESSION",
    "SIGNAL",
    "STATE",
    "STORAGE",
    "Domain",
    "Field",
    "Index",
    "Shape",
]

FieldKind = Literal["name", "optional_name", "mode", "timestamp"]
Index = tuple[tuple[str, int], ...]

MINUTE_MS: Final = 60_000
INTERVAL_STEP_MS: Final[dict[str, int]] = {
    "1m": MINUTE_MS,
    "3m": 3 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "1h": 60 * MINUTE_MS,
    "2h": 120 * MINUTE_MS,
    "4h": 240 * MINUTE_MS,
    "6h": 360 * MINUTE_MS,
    "8h": 480 * MINUTE_MS,
    "1d": 1440 * MINUTE_MS,
}
"""Candle intervals and their length in ms."""

CANDLE_FIGURES: Final = ("open", "high", "low", "close", "volume")
CANDLE_FIELDS: Final = ("timestamp", *CANDLE_FIGURES)
"""Opening time and figures of a candle, in the order of all tables."""


class Shape(Enum):
    """How the rows of a domain are addressed; each shape is one family of operations."""

    VALUE = "value"
    """One value per key, replaced as a whole."""
    ENTRY = "entry"
    """Keyed entries of a bucket, softly deleted, listed by bucket."""
    LIST = "list"
    """Rows with an id of their own, written and read as lists."""
    CANDLE = "candle"
    """Insert-only rows on a time grid, read as windows."""


_CAMEL_HUMP = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a domain's key: its stored name and what values it takes."""

    stored: str
    kind: FieldKind = "name"

    @property
    def argument(self) -> str:
        """The Python name of the field, for signatures and error messages."""
        return _CAMEL_HUMP.sub("_", self.stored).lower()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Domain:
    """One row of the table; two are equal only when they are the same object.

    Attributes:
        name: Word for the domain, for example ``"signal"``.
        shape: The family of operations that it offers.
        collection: MongoDB collection.
        namespace: First part of the Redis keys.
        key: The fields of the unique key; the context of an instance first, in constructor
            order, then what each call adds.
        context_size: How many of the ``key`` fields are the context of an instance.
        cache_order: Stored names in the order in which the Redis key joins them.
        unique_order: Stored names in the order of the unique index, where it differs from ``key``.
        value_field: The field that holds the value; unused for candles.
        absent: What a read answers when there is nothing.
        has_when: Whether rows store the simulated time of their write, in ms.
        row_id: Field of a list's row that carries its id.
        rows_argument: What the rows of a list are called in its methods.
        append_only: Whether a row that exists is left as it is.
        newest_by: Date field that lists are ordered by, newest first.
        default_limit: How many rows a list read returns unless told otherwise; None for all.
        list_filter: Stored names that list queries filter by, in index order.
        file: Path of a row below the ``dump`` folder. ``{name}`` is a key field, ``{mode}`` the
            word for ``backtest``; a part in brackets is left out when its field is empty.
    """

    name: str
    shape: Shape
    collection: str
    namespace: str
    key: tuple[Field, ...]
    context_size: int
    cache_order: tuple[str, ...]
    unique_order: tuple[str, ...] = ()
    value_field: str = "payload"
    absent: Literal["none", "list", "dict"] = "none"
    has_when: bool = False
    row_id: str = "id"
    rows_argument: str = "rows"
    append_only: bool = False
    newest_by: str = "updatedDate"
    default_limit: int | None = None
    list_filter: tuple[str, ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        stored = [field.stored for field in self.key]
        if sorted(stored) != sorted(set(stored)) or not stored:
            raise ConfigurationError(self.name, "the key needs at least one field, each only once")
        for order in (self.cache_order, self.unique_order or self.key_names):
            if sorted(order) != sorted(stored):
                raise ConfigurationError(
                    self.name, f"the order {order!r} must name exactly the key fields {stored!r}"
                )

    @property
    def key_names(self) -> tuple[str, ...]:
        """Stored names of the key fields."""
        return tuple(field.stored for field in self.key)

    @property
    def context(self) -> tuple[Field, ...]:
        """The key fields that an instance is bound to."""
        return self.key[: self.context_size]

    @property
    def key_parts(self) -> tuple[tuple[str, FieldKind], ...]:
        """The key fields as the compiled key template takes them: argument name and kind."""
        return tuple((field.argument, field.kind) for field in self.key)

    @property
    def key_order(self) -> tuple[str, ...]:
        """Argument names in the order of the Redis key."""
        arguments = {field.stored: field.argument for field in self.key}
        return tuple(arguments[stored] for stored in self.cache_order)

    @property
    def unique_index(self) -> Index:
        """The index that makes a context exist at most once."""
        return tuple((stored, 1) for stored in self.unique_order or self.key_names)

    @property
    def list_index(self) -> Index | None:
        """The index that serves a limited list query in its order, if the domain has one.

        Lists by ``updatedDate`` are read whole over the unique index and sorted by the reader.
        """
        if self.shape is not Shape.LIST or self.newest_by != "createDate":
            return None
        return (*((stored, 1) for stored in self.list_filter), (self.newest_by, -1), ("_id", -1))


_SYMBOL, _STRATEGY, _EXCHANGE = Field("symbol"), Field("strategyName"), Field("exchangeName")
_SIGNAL_ID, _BUCKET_NAME = Field("signalId"), Field("bucketName")
_FRAME, _MODE = Field("frameName", "optional_name"), Field("backtest", "mode")

CANDLE: Final = Domain(
    name="candle",
    shape=Shape.CANDLE,
    collection="candle-items",
    namespace="candle_cache",
    key=(_SYMBOL, Field("interval"), _EXCHANGE, Field("timestamp", "timestamp")),
    context_size=3,
    cache_order=("exchangeName", "symbol", "interval", "timestamp"),
    unique_order=("exchangeName", "symbol", "interval", "timestamp"),
    append_only=True,
    file="data/candle/{exchangeName}/{symbol}/{interval}/{timestamp}.json",
)
SIGNAL: Final = Domain(
    name="signal",
    shape=Shape.VALUE,
    collection="signal-items",
    namespace="signal_cache",
    key=(_SYMBOL, _STRATEGY, _EXCHANGE),
    context_size=3,
    cache_order=("exchangeName", "strategyName", "symbol"),
    file="data/signal/{symbol}_{strategyName}_{exchangeName}/{symbol}.json",
)
SCHEDULE: Final = Domain(
    name="schedule",
    shape=Shape.VALUE,
    collection="schedule-items",
    namespace="schedule_cache",
    key=(_SYMBOL, _STRATEGY, _EXCHANGE),
    context_size=3,
    cache_order=("exchangeName", "strategyName", "symbol"),
    file="data/schedule/{symbol}_{strategyName}_{exchangeName}/{symbol}.json",
)
RISK: Final = Domain(
    name="risk",
    shape=Shape.VALUE,
    collection="risk-items",
    namespace="risk_cache",
    key=(Field("riskName"), _EXCHANGE),
    context_size=2,
    cache_order=("exchangeName", "riskName"),
    value_field="positions",
    absent="list",
    has_when=True,
    file="data/risk/{riskName}_{exchangeName}/positions.json",
)
PARTIAL: Final = Domain(
    name="partial",
    shape=Shape.VALUE,
    collection="partial-items",
    namespace="partial_cache",
    key=(_SYMBOL, _STRATEGY, _EXCHANGE, _SIGNAL_ID),
    context_size=3,
    cache_order=("exchangeName", "strategyName", "symbol", "signalId"),
    absent="dict",
    has_when=True,
    file="data/partial/{symbol}_{strategyName}_{exchangeName}/{signalId}.json",
)
BREAKEVEN: Final = Domain(
    name="breakeven",
    shape=Shape.VALUE,
    collection="breakeven-items",
    namespace="breakeven_cache",
    key=(_SYMBOL, _STRATEGY, _EXCHANGE, _SIGNAL_ID),
    context_size=3,
    cache_order=("exchangeName", "strategyName", "symbol", "signalId"),
    absent="dict",
    has_when=True,
    file="data/breakeven/{symbol}_{strategyName}_{exchangeName}/{signalId}.json",
)
STORAGE: Final = Domain(
    name="storage",
    shape=Shape.LIST,
    collection="storage-items",
    namespace="storage_cache",
    key=(_MODE, _SIGNAL_ID),
    context_size=1,
    cache_order=("backtest", "signalId"),
    absent="list",
    list_filter=("backtest",),
    file="data/storage/{mode}/{signalId}.json",
)
NOTIFICATION: Final = Domain(
    name="notification",
    shape=Shape.LIST,
    collection="notification-items",
    namespace="notification_cache",
    key=(_MODE, Field("notificationId")),
    context_size=1,
    cache_order=("backtest", "notificationId"),
    absent="list",
    newest_by="createDate",
    default_limit=500,
    list_filter=("backtest",),
    file="data/notification/{mode}/{notificationId}.json",
)
LOG: Final = Domain(
    name="log",
    shape=Shape.LIST,
    collection="log-items",
    namespace="log_cache",
    key=(Field("entryId"),),
    context_size=0,
    cache_order=("entryId",),
    absent="list",
    rows_argument="entries",
    append_only=True,
    newest_by="createDate",
    default_limit=1000,
    file="data/log/log/{entryId}.json",
)
MEASURE: Final = Domain(
    name="measure",
    shape=Shape.ENTRY,
    collection="measure-items",
    namespace="measure_cache",
    key=(Field("bucket"), Field("entryKey")),
    context_size=1,
    cache_order=("bucket", "entryKey"),
    list_filter=("bucket", "removed"),
    file="data/measure/{bucket}/{entryKey}.json",
)
INTERVAL: Final = Domain(
    name="interval",
    shape=Shape.ENTRY,
    collection="interval-items",
    namespace="interval_cache",
    key=(Field("bucket"), Field("entryKey")),
    context_size=1,
    cache_order=("bucket", "entryKey"),
    has_when=True,
    list_filter=("bucket", "removed"),
    file="data/interval/{bucket}/{entryKey}.json",
)
MEMORY: Final = Domain(
    name="memory",
    shape=Shape.ENTRY,
    collection="memory-items",
    namespace="memory_cache",
    key=(_SIGNAL_ID, _BUCKET_NAME, Field("memoryId")),
    context_size=2,
    cache_order=("signalId", "bucketName", "memoryId"),
    has_when=True,
    list_filter=("signalId", "bucketName", "removed"),
    file="memory/{signalId}/{bucketName}/{memoryId}.json",
)
RECENT: Final = Domain(
    name="recent",
    shape=Shape.VALUE,
    collection="recent-items",
    namespace="recent_cache",
    key=(_SYMBOL, _STRATEGY, _EXCHANGE, _FRAME, _MODE),
    context_size=5,
    cache_order=("backtest", "exchangeName", "strategyName", "frameName", "symbol"),
    has_when=True,
    file="data/recent/{symbol}_{strategyName}_{exchangeName}[_{frameName}]_{mode}/{symbol}.json",
)
STATE: Final = Domain(
    name="state",
    shape=Shape.VALUE,
    collection="state-items",
    namespace="state_cache",
    key=(_SIGNAL_ID, _BUCKET_NAME),
    context_size=2,
    cache_order=("signalId", "bucketName"),
    has_when=True,
    file="state/{signalId}/{bucketName}/{bucketName}.json",
)
SESSION: Final = Domain(
    name="session",
    shape=Shape.VALUE,
    collection="session-items",
    namespace="session_cache",
    key=(_STRATEGY, _EXCHANGE, _FRAME, _SYMBOL, _MODE),
    context_size=5,
    cache_order=("exchangeName", "strategyName", "frameName", "symbol", "backtest"),
    has_when=True,
    file="session/{strategyName}/{exchangeName}/[{frameName}/]{symbol}_{mode}.json",
)

DOMAINS: Final[tuple[Domain, ...]] = (
    CANDLE,
    SIGNAL,
    SCHEDULE,
    RISK,
    PARTIAL,
    BREAKEVEN,
    STORAGE,
    NOTIFICATION,
    LOG,
    MEASURE,
    INTERVAL,
    MEMORY,
    RECENT,
    STATE,
    SESSION,
)
"""The fifteen domains of the contract."""
