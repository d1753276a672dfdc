"""The errors of fastpersist: one root, and below it what a caller can act on."""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "ConfigurationError",
    "CorruptDataError",
    "EventLoopError",
    "FastPersistError",
    "InvalidArgumentError",
    "InvalidCandleError",
    "InvalidDocumentError",
    "LegacyIndexError",
    "LocalServerError",
    "LookAheadError",
    "StoreError",
    "StoreUnavailableError",
]


class FastPersistError(Exception):
    """Root of everything that fastpersist raises on purpose.

    The driver's error, where there is one, is the ``__cause__``.

    Attributes:
        hint: What to do about it, or ``""``.
        timeout: True when a deadline passed; the outcome of a write is then unknown.
        retryable: True when the same call may succeed later without a change by the caller.
    """

    timeout = False
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.hint = hint


class ConfigurationError(FastPersistError, ValueError):
    """A setting is wrong or contradicts another.

    Attributes:
        setting: Name of the keyword or environment variable at fault.
    """

    def __init__(self, setting: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{setting}: {message}", hint=hint)
        self.setting = setting


class LegacyIndexError(ConfigurationError):
    """A unique index left by an earlier version would refuse valid writes.

    Attributes:
        collection: The collection that carries the index.
        index: Name of the index.
    """

    def __init__(self, collection: str, index: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{collection}.{index}", message, hint=hint)
        self.collection = collection
        self.index = index


class InvalidArgumentError(FastPersistError, ValueError):
    """An argument breaks the contract; nothing was sent to a store.

    Attributes:
        field: Name of the argument at fault.
    """

    def __init__(self, field: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{field}: {message}", hint=hint)
        self.field = field


class InvalidDocumentError(InvalidArgumentError):
    """A payload holds a value that cannot be stored; nothing was sent to a store.

    Attributes:
        path: Where the value stands, for example ``payload.legs[3].price``.
    """

    def __init__(self, path: str, message: str, *, hint: str = "") -> None:
        super().__init__(path, message, hint=hint)
        self.path = path


class InvalidCandleError(InvalidArgumentError):
    """A candle is incomplete, off the grid of its interval or contradicts itself.

    Attributes:
        row: Position of the candle in the batch, from 0.
    """

    def __init__(self, row: int, message: str, *, hint: str = "") -> None:
        super().__init__(f"candles[{row}]", message, hint=hint)
        self.row = row


class LookAheadError(FastPersistError):
    """A read asked for data of a later simulated time (policy ``raise``).

    Attributes:
        domain: The domain that was read.
        written_at: Simulated time of the stored row, ms since the epoch.
        asked_at: Simulated time of the read, ms since the epoch.
    """

    def __init__(self, domain: str, written_at: int, asked_at: int) -> None:
        super().__init__(
            f"{domain}: the stored row belongs to simulated time {written_at} ms, "
            f"which is later than the {asked_at} ms of this read",
            hint="set look_ahead='hide' to treat such rows as absent",
        )
        self.domain = domain
        self.written_at = written_at
        self.asked_at = asked_at


class StoreError(FastPersistError):
    """A store refused an operation for a reason of its own; see ``__cause__``."""


class StoreUnavailableError(StoreError):
    """A store did not answer within the operation's deadline.

    After a failed read nothing has changed. After a failed write the outcome is unknown: repeating
    the same call is safe, every write of this package is idempotent.

    Attributes:
        store: ``"mongo"`` or ``"redis"``.
    """

    retryable = True

    def __init__(self, store: str, message: str, *, timeout: bool = False, hint: str = "") -> None:
        super().__init__(f"{store}: {message}", hint=hint)
        self.store = store
        self.timeout = timeout


class CorruptDataError(StoreError):
    """Stored data does not have the shape that the layout demands.

    Attributes:
        location: The file or the document at fault.
    """

    def __init__(self, location: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{location}: {message}", hint=hint)
        self.location = location


class ClosedError(FastPersistError):
    """The store or container was closed before this call."""


class EventLoopError(FastPersistError):
    """The clients belong to another event loop that is still running."""


class LocalServerError(FastPersistError):
    """A local database server could not be found, started or stopped."""
