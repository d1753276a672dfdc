"""Moments: the ``when`` argument, and the simulated time that guards reads against look-ahead."""

from __future__ import annotations

import time
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from typing import Literal

from .errors import InvalidArgumentError, LookAheadError

__all__ = [
    "LookAheadPolicy",
    "When",
    "current_simulated_time",
    "is_visible",
    "now_ms",
    "parse_moment",
    "read_limit",
    "simulated_time",
    "to_datetime",
    "to_ms",
]

When = datetime | int
"""A moment: an aware ``datetime``, or whole milliseconds since the epoch (UTC)."""

LookAheadPolicy = Literal["hide", "raise", "allow"]
"""What a read does with a row of a later simulated time: treat it as absent, raise
:class:`~fastpersist.errors.LookAheadError`, or return it (as the Node adapters do)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)

_simulated_ms: ContextVar[int | None] = ContextVar("fastpersist_simulated_ms", default=None)


def to_ms(when: When, field: str = "when") -> int:
    """Return `when` as whole ms since the epoch, rounded down.

    Raises:
        InvalidArgumentError: `when` is a naive datetime or neither datetime nor int.
    """
    if isinstance(when, datetime):
        if when.utcoffset() is None:
            raise InvalidArgumentError(
                field, "a naive datetime names no moment", hint="add tzinfo, for example UTC"
            )
        return (when - _EPOCH) // _MILLISECOND
    if isinstance(when, int) and not isinstance(when, bool):
        if not -(2**63) <= when < 2**63:
            raise InvalidArgumentError(field, "does not fit in 64 bits of milliseconds")
        return when
    raise InvalidArgumentError(
        field, f"expected an aware datetime or integer ms, got {type(when).__name__}"
    )


def parse_moment(name: str, text: str) -> int:
    """Return a time as ms: a whole number of ms, or ISO text, UTC unless it names a zone.

    Raises:
        InvalidArgumentError: It is neither.
    """
    if text.isascii() and text.isdecimal() and len(text) > 8:
        return int(text)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InvalidArgumentError(
            name, f"not a time: {text!r:.60}", hint="for example 2025-01-31 or 2025-01-31T12:00Z"
        ) from None
    return to_ms(moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc), name)


def to_datetime(ms: int) -> datetime:
    """Return `ms` since the epoch as an aware datetime in UTC."""
    return _EPOCH + timedelta(milliseconds=ms)


def now_ms() -> int:
    """Return the wall clock in ms since the epoch."""
    return time.time_ns() // 1_000_000


class simulated_time:  # noqa: N801  # reads as a statement, like contextlib.suppress
    """Run a block at a simulated moment: reads inside see nothing that was written for later.

    The moment belongs to the current task (a context variable): tasks started inside inherit it,
    others are not touched. Blocks may be nested; the innermost counts.

    Raises:
        InvalidArgumentError: `when` is a naive datetime or neither datetime nor int.
    """

    __slots__ = ("_moment", "_token")

    def __init__(self, when: When) -> None:
        self._moment = to_ms(when)

    def __enter__(self) -> None:
        self._token = _simulated_ms.set(self._moment)

    def __exit__(self, *error: object) -> None:
        _simulated_ms.reset(self._token)


def current_simulated_time() -> int | None:
    """Return the simulated moment in ms since the epoch, or None outside of a simulation."""
    return _simulated_ms.get()


def read_limit(when: When | None) -> int | None:
    """Return the latest moment in ms that a read may see; None when nothing limits it.

    It is the read's own `when`, but inside of a simulation never later than the simulated time.
    """
    simulated = _simulated_ms.get()
    if when is None:
        return simulated
    asked = to_ms(when)
    return asked if simulated is None else min(asked, simulated)


def is_visible(
    domain: str, written_at: int | None, asked_at: int | None, policy: LookAheadPolicy
) -> bool:
    """Say whether a row may be seen, given the moments of its write and of the read in ms.

    Raises:
        LookAheadError: The row is of a later time and the policy is ``raise``.
    """
    if asked_at is None or written_at is None or written_at <= asked_at or policy == "allow":
        return True
    if policy == "raise":
        raise LookAheadError(domain, written_at, asked_at)
    return False
