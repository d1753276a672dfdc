"""Own domains: a user's sixteenth domain, declared in one place.

A declared domain gets what the fifteen have: collection, unique index, id cache, db service and the
three families, with soft deletion or look-ahead protection where asked for. The container's 33
services stay as they are; the services of declared domains live beside them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Generic, Literal, TypeVar, cast

from .adapters.backend import Backend
from .adapters.instances import EntryInstance, Instance, ListInstance, ValueInstance
from .domains import DOMAINS, Domain, Field, Shape
from .errors import ConfigurationError, InvalidArgumentError
from .registry import Registry, registries
from .times import When

__all__ = [
    "EntryDomain",
    "ListDomain",
    "OwnDomain",
    "ValueDomain",
    "declare_entry_domain",
    "declare_list_domain",
    "declare_value_domain",
    "declared_domains",
    "register_domain",
]

PayloadT = TypeVar("PayloadT")
OwnInstanceT = TypeVar("OwnInstanceT", bound=Instance)
OwnDomainT = TypeVar("OwnDomainT", bound="OwnDomain[Any]")

_registered: dict[str, OwnDomain[Any]] = {}


class OwnDomain(Registry[OwnInstanceT]):
    """The registry of one declared domain."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        super().__init__()

    def _make(self, backend: Backend, *context: Any) -> OwnInstanceT:
        if len(context) != self.domain.context_size:
            names = ", ".join(field.argument for field in self.domain.context)
            raise InvalidArgumentError("context", f"{self.domain.name} takes ({names})")
        instance: OwnInstanceT = self._instance_class(backend, self.domain, context)
        return instance

    def bound_to(self: OwnDomainT, backend: Backend) -> OwnDomainT:
        """Return another registry of this domain, served from `backend`."""
        other = type(self)(self.domain)
        other.use_backend(backend)
        return other


class ValueDomain(OwnDomain[ValueInstance], Generic[PayloadT]):
    """A declared domain with one value per key."""

    _instance_class = ValueInstance

    async def read(self, *context: Any, when: When | None = None) -> PayloadT:
        """Return the value, or what the domain answers for absent."""
        instance = await self._ready(*context)
        return cast(PayloadT, await instance.read(when=when))

    async def write(self, *context: Any, data: PayloadT, when: When | None = None) -> None:
        """Replace the value."""
        instance = await self._ready(*context)
        await instance.write(value=data, when=when)


class EntryDomain(OwnDomain[EntryInstance], Generic[PayloadT]):
    """A declared domain with keyed entries and soft deletion."""

    _instance_class = EntryInstance

    async def read(self, *context: Any, key: str, when: When | None = None) -> PayloadT | None:
        """Return the entry, or None when it is absent or removed."""
        instance = await self._ready(*context)
        return cast("PayloadT | None", await instance.read(key, when))

    async def has(self, *context: Any, key: str, when: When | None = None) -> bool:
        """Say whether the entry exists, removed or not."""
        instance = await self._ready(*context)
        return await instance.has(key, when)

    async def write(
        self, *context: Any, key: str, data: PayloadT, when: When | None = None
    ) -> None:
        """Store the entry; writing a removed key revives it."""
        instance = await self._ready(*context)
        await instance.write(key, data, when)

    async def remove(self, *context: Any, key: str) -> None:
        """Flag the entry as removed; an absent key is left absent."""
        instance = await self._ready(*context)
        await instance.remove(key)

    async def keys(self, *context: Any, when: When | None = None) -> AsyncIterator[str]:
        """Yield the keys of all entries that are not removed."""
        instance = await self._ready(*context)
        async for key in instance.keys(when):
            yield key

    async def items(
        self, *context: Any, when: When | None = None
    ) -> AsyncIterator[tuple[str, PayloadT]]:
        """Yield key and entry of all that are not removed."""
        instance = await self._ready(*context)
        async for key, entry in instance.items(when):
            yield key, cast(PayloadT, entry)


class ListDomain(OwnDomain[ListInstance], Generic[PayloadT]):
    """A declared domain with rows that have an id of their own."""

    _instance_class = ListInstance

    async def read(self, *context: Any, limit: int | None = None) -> list[PayloadT]:
        """Return the newest `limit` rows, None for all."""
        instance = await self._ready(*context)
        return cast("list[PayloadT]", await instance.read(limit))

    async def write(self, *context: Any, rows: Sequence[PayloadT]) -> None:
        """Upsert the rows by their id; others stay."""
        instance = await self._ready(*context)
        await instance.write(rows)


def declare_value_domain(
    name: str,
    *,
    collection: str,
    context: Sequence[str | Field],
    has_when: bool = False,
    absent: Literal["none", "list", "dict"] = "none",
) -> ValueDomain[Any]:
    """Declare a domain with one value per context and return its registry.

    Args:
        name: Word for the domain, in snake_case; the Redis namespace is ``<name>_cache``.
        collection: MongoDB collection.
        context: Stored names of the fields that make the unique key, in index order.
        has_when: Whether writes store their simulated time, which protects reads.
        absent: What a read answers when there is nothing.

    Raises:
        ConfigurationError: Name or collection is taken, or the context is malformed.
    """
    key = _fields(context)
    return register_domain(
        ValueDomain(
            _domain(
                name,
                Shape.VALUE,
                collection,
                key,
                len(key),
                f"data/{name}/{_joined(key)}/{name}.json",
                has_when=has_when,
                absent=absent,
            )
        )
    )


def declare_entry_domain(
    name: str,
    *,
    collection: str,
    context: Sequence[str | Field],
    key: str = "entryKey",
    has_when: bool = False,
) -> EntryDomain[Any]:
    """Declare a domain with keyed, softly deleted entries and return its registry.

    Args:
        name: Word for the domain, in snake_case; the Redis namespace is ``<name>_cache``.
        collection: MongoDB collection.
        context: Stored names of the fields that make a bucket, in index order.
        key: Stored name of the field that tells the entries of a bucket apart.
        has_when: Whether writes store their simulated time, which protects reads.

    Raises:
        ConfigurationError: Name or collection is taken, or the context is malformed.
    """
    fields = _fields(context)
    return register_domain(
        EntryDomain(
            _domain(
                name,
                Shape.ENTRY,
                collection,
                (*fields, *_fields((key,), "key")),
                len(fields),
                f"data/{name}/{_joined(fields)}/{{{key}}}.json",
                has_when=has_when,
                list_filter=(*(field.stored for field in fields), "removed"),
            )
        )
    )


def declare_list_domain(
    name: str,
    *,
    collection: str,
    context: Sequence[str | Field],
    key: str = "entryId",
    row_id: str = "id",
    append_only: bool = False,
) -> ListDomain[Any]:
    """Declare a domain whose rows carry ids and are read as a list; return its registry.

    Args:
        name: Word for the domain, in snake_case; the Redis namespace is ``<name>_cache``.
        collection: MongoDB collection.
        context: Stored names of the fields that a list belongs to, in index order.
        key: Stored name under which the row's id becomes part of the unique key.
        row_id: Field of a row that holds its id.
        append_only: Whether a row that exists is left as it is.

    Raises:
        ConfigurationError: Name or collection is taken, or the context is malformed.
    """
    fields = _fields(context)
    return register_domain(
        ListDomain(
            _domain(
                name,
                Shape.LIST,
                collection,
                (*fields, *_fields((key,), "key")),
                len(fields),
                f"data/{name}/{_joined(fields)}/{{{key}}}.json",
                row_id=row_id,
                append_only=append_only,
                newest_by="createDate",
                absent="list",
                list_filter=tuple(field.stored for field in fields),
            )
        )
    )


def register_domain(domain: OwnDomainT) -> OwnDomainT:
    """Serve a declared domain from the same family as the fifteen, now and after ``setup()``.

    Raises:
        ConfigurationError: Its name, collection or namespace is taken by another domain.
    """
    ours = domain.domain
    others = [*DOMAINS, *(other.domain for other in _registered.values() if other is not domain)]
    for other in others:
        for what in ("name", "collection", "namespace"):
            if getattr(ours, what) == getattr(other, what):
                raise ConfigurationError(
                    ours.name, f"the {what} {getattr(ours, what)!r} belongs to {other.name!r}"
                )
    _registered[ours.name] = domain
    domain.use_backend(registries.backend)
    return domain


def declared_domains() -> tuple[OwnDomain[Any], ...]:
    """Return the registries of all domains that were declared in this process."""
    return tuple(_registered.values())


def _domain(
    name: str,
    shape: Shape,
    collection: str,
    key: tuple[Field, ...],
    context_size: int,
    file: str,
    **flags: Any,
) -> Domain:
    if not name.isidentifier():
        raise ConfigurationError("name", f"must be an identifier, got {name!r:.60}")
    if not collection or "$" in collection or "\0" in collection:
        raise ConfigurationError("collection", f"no name of a collection: {collection!r:.60}")
    return Domain(
        name=name,
        shape=shape,
        collection=collection,
        namespace=f"{name}_cache",
        key=key,
        context_size=context_size,
        cache_order=tuple(field.stored for field in key),
        file=file,
        **flags,
    )


def _fields(context: Iterable[str | Field], argument: str = "context") -> tuple[Field, ...]:
    fields = tuple(field if isinstance(field, Field) else Field(field) for field in context)
    reserved = {"_id", "payload", "removed", "when", "createDate", "updatedDate", "__v"}
    for field in fields:
        if not field.stored.isidentifier() or field.stored in reserved:
            raise ConfigurationError(argument, f"{field.stored!r:.60} cannot name a key field")
    return fields


def _joined(fields: Sequence[Field]) -> str:
    return "_".join("{mode}" if field.kind == "mode" else f"{{{field.stored}}}" for field in fields)
