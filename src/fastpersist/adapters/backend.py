"""What a family of adapters has to do: a handful of operations for each shape of domain."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from ..contracts import Candle
from ..domains import Domain
from ..hot.columns import CandleColumns
from ..times import LookAheadPolicy

__all__ = ["Backend", "Key"]

Key = tuple[Any, ...]
"""Values of a domain's key fields, or of its context fields, in the order of the table."""


class Backend(Protocol):
    """The operations behind the instances of one family.

    ``scan`` and ``delete``, which no instance has, are for a runner that deletes its own rows.

    Arguments arrive checked against the contract. ``asked_at`` is the latest simulated moment that
    a read may see, in ms, or None; ``when`` is the moment that a write belongs to, in ms, or None
    for domains that do not store it. None as an answer means absent.
    """

    @property
    def look_ahead(self) -> LookAheadPolicy:
        """What a read does with a row of a later simulated time."""

    async def prepare(self, domain: Domain, context: Key, initial: bool) -> None:
        """Make the store usable for a context; called before every operation."""

    async def read_value(self, domain: Domain, key: Key, asked_at: int | None) -> Any:
        """Return the value under `key`."""

    async def write_value(self, domain: Domain, key: Key, value: Any, when: int | None) -> None:
        """Replace the value under `key`."""

    async def read_entry(
        self, domain: Domain, key: Key, asked_at: int | None
    ) -> dict[str, Any] | None:
        """Return the entry under `key` unless it is removed."""

    async def has_entry(self, domain: Domain, key: Key, asked_at: int | None) -> bool:
        """Say whether there is an entry under `key`, removed or not."""

    async def write_entry(
        self, domain: Domain, key: Key, entry: Mapping[str, Any], when: int | None
    ) -> None:
        """Store `entry`, whose ``removed`` is set."""

    async def remove_entry(self, domain: Domain, key: Key) -> None:
        """Flag the entry under `key` as removed."""

    def iterate_entries(
        self, domain: Domain, context: Key, asked_at: int | None, *, keys_only: bool
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield key and entry of all that are not removed; with `keys_only` entries are ``{}``."""

    async def read_rows(
        self, domain: Domain, context: Key, limit: int | None
    ) -> list[dict[str, Any]]:
        """Return the rows of a list, in the family's order."""

    async def write_rows(
        self,
        domain: Domain,
        context: Key,
        rows: Mapping[str, Mapping[str, Any]],
        places: Sequence[int] | None = None,
    ) -> None:
        """Store the rows, given by their id; errors name a row by its place in the caller's list.

        `places` has it for each row; None counts them.
        """

    async def read_candles(
        self, domain: Domain, context: Key, since: int, step: int, limit: int
    ) -> list[Candle] | None:
        """Return the candles ``since + i * step`` for i below `limit`, None if one is missing."""

    async def read_columns(
        self, domain: Domain, context: Key, start: int, end: int
    ) -> CandleColumns:
        """Return the stored candles from `start` to before `end`, by time, as columns."""

    async def write_candles(self, domain: Domain, context: Key, candles: Sequence[Candle]) -> None:
        """Store candles that have closed; stored ones stay as they are."""

    def scan(
        self, domain: Domain, context: Key, fields: Sequence[str]
    ) -> AsyncGenerator[list[tuple[Key, dict[str, Any]]], None]:
        """Yield all rows of a context, removed ones too, in batches and in no order.

        Args:
            domain: A domain of lists, entries or values.
            context: The first values of the key; ``()`` for all of the domain.
            fields: Which fields of the value come with the key, where it has them.
        """

    async def delete(self, domain: Domain, keys: Sequence[Key]) -> None:
        """Delete the rows under full keys for good; nothing happens where there is none.

        It does not wait for writes of these rows that are under way.
        """
