"""Own domains for synchronous callers.

Made of ``own_domains.py`` by ``tools/make_sync.py``; change that file, not this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from .. import own_domains
from ..times import When
from ._registry import Registry
from ._thread import iterate, run

__all__ = ["EntryDomain", "ListDomain", "OwnDomain", "ValueDomain"]
PayloadT = TypeVar("PayloadT")
SourceT = TypeVar("SourceT", bound="own_domains.OwnDomain[Any]")


class OwnDomain(Registry[SourceT]):
    """The registry of one declared domain."""

    @property
    def methods(self) -> frozenset[str]:
        """Names of the methods that an adapter of this domain has."""
        return self._source.methods

    def install(self) -> None:
        """Serve the domain from the family of the process, now and after ``setup()``.

        Calling it again changes nothing.

        Raises:
            ConfigurationError: Name, collection or namespace is taken by another domain.
        """
        self._source.install()


class ValueDomain(OwnDomain[own_domains.ValueDomain[PayloadT]], Generic[PayloadT]):
    """A declared domain with one value per key."""

    def __init__(self, source: own_domains.ValueDomain[PayloadT]) -> None:
        super().__init__(source)

    def read(self, *context: Any, when: When | None = None) -> PayloadT:
        """Return the value, or what the domain answers for absent."""
        return run(self._source.read, *context, when=when)

    def write(self, *context: Any, data: PayloadT, when: When | None = None) -> None:
        """Replace the value."""
        run(self._source.write, *context, data=data, when=when)


class EntryDomain(OwnDomain[own_domains.EntryDomain[PayloadT]], Generic[PayloadT]):
    """A declared domain with keyed entries and soft deletion."""

    def __init__(self, source: own_domains.EntryDomain[PayloadT]) -> None:
        super().__init__(source)

    def read(self, *context: Any, key: str, when: When | None = None) -> PayloadT | None:
        """Return the entry, or None when it is absent or removed."""
        return run(self._source.read, *context, key=key, when=when)

    def has(self, *context: Any, key: str, when: When | None = None) -> bool:
        """Say whether the entry exists, removed or not."""
        return run(self._source.has, *context, key=key, when=when)

    def write(self, *context: Any, key: str, data: PayloadT, when: When | None = None) -> None:
        """Store the entry; writing a removed key revives it."""
        run(self._source.write, *context, key=key, data=data, when=when)

    def remove(self, *context: Any, key: str) -> None:
        """Flag the entry as removed; an absent key is left absent."""
        run(self._source.remove, *context, key=key)

    def keys(self, *context: Any, when: When | None = None) -> Iterator[str]:
        """Yield the keys of all entries that are not removed."""
        return iterate(self._source.keys, *context, when=when)

    def items(self, *context: Any, when: When | None = None) -> Iterator[tuple[str, PayloadT]]:
        """Yield key and entry of all that are not removed."""
        return iterate(self._source.items, *context, when=when)


class ListDomain(OwnDomain[own_domains.ListDomain[PayloadT]], Generic[PayloadT]):
    """A declared domain with rows that have an id of their own."""

    def __init__(self, source: own_domains.ListDomain[PayloadT]) -> None:
        super().__init__(source)

    def read(self, *context: Any, limit: int | None = None) -> list[PayloadT]:
        """Return the newest `limit` rows, None for all."""
        return run(self._source.read, *context, limit=limit)

    def write(self, *context: Any, rows: Sequence[PayloadT]) -> None:
        """Upsert the rows by their id; others stay."""
        run(self._source.write, *context, rows=rows)
