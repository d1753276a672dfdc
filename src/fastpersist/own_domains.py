"""Own domains: a user's sixteenth domain, declared in one place.

A declared domain gets what the fifteen have: collection, unique index, id cache, db service and the
three families; values and entries have look-ahead protection where asked for. The container's 33
services stay as they are; the services of declared domains live beside them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import astuple
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
    "declared_domains",
]

PayloadT = TypeVar("PayloadT")
OwnInstanceT = TypeVar("OwnInstanceT", bound=Instance)
OwnDomainT = TypeVar("OwnDomainT", bound="OwnDomain[Any]")

_installed: dict[str, OwnDomain[Any]] = {}


class OwnDomain(Registry[OwnInstanceT]):
    """The registry of one declared domain."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        super().__init__()

    @property
    def methods(self) -> frozenset[str]:
        """Names of the methods that an adapter of this domain has."""
        public = {name for name in dir(self._instance_class) if not name.startswith("_")}
        return frozenset(public - {"dispose"})

    def use_adapter(self, adapter: Callable[..., OwnInstanceT]) -> None:
        """Serve the domain from instances that `adapter` makes of a context."""
        self._use(adapter)

    def install(self) -> None:
        """Serve the domain from the family of the process, now and after ``setup()``.

        Calling it again changes nothing.

        Raises:
            ConfigurationError: Name, collection or namespace is taken by another domain.
        """
        ours = self.domain
        others = [*DOMAINS, *(other.domain for other in _installed.values() if other is not self)]
        for other in others:
            for what in ("name", "collection", "namespace"):
                if getattr(ours, what) == getattr(other, what):
                    raise ConfigurationError(
                        ours.name,
                        f"the {what} {getattr(ours, what)!r} belongs to {other.name!r}",
                        hint="choose another, or declare the domain once and share its registry",
                    )
        if _installed.get(ours.name) is not self:
            _installed[ours.name] = self
            self.use_backend(registries.backend)

    @classmethod
    def _declared(cls: type[OwnDomainT], domain: Domain, install: bool) -> OwnDomainT:
        known = _installed.get(domain.name)
        # The same declaration again, as in a notebook cell that is run twice, is no conflict.
        if type(known) is cls and astuple(known.domain) == astuple(domain):
            return known
        declared = cls(domain)
        if install:
            declared.install()
        return declared

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

    @classmethod
    def declare(
        cls: type[OwnDomainT],
        name: str,
        *,
        collection: str,
        context: Sequence[str | Field],
        has_when: bool = False,
        absent: Literal["none", "list", "dict"] = "none",
        cache_order: Sequence[str] | None = None,
        file: str | None = None,
        install: bool = True,
    ) -> OwnDomainT:
        """Declare a domain with one value per context and return its registry.

        Args:
            name: Word for the domain, in snake_case; the Redis namespace is ``<name>_cache``.
            collection: MongoDB collection.
            context: Stored names of the fields that make the unique key, in index order.
            has_when: Whether writes store their simulated time, which protects reads.
            absent: What a read answers when there is nothing.
            cache_order: Stored names in the order of the Redis key; that of the key by default.
            file: Path of a row below the ``dump`` folder, with ``{storedName}`` for key fields and
                ``{mode}`` for ``backtest``.
            install: Whether :meth:`install` is called; later if not.

        Raises:
            ConfigurationError: Name or collection is taken, or the declaration is malformed.
        """
        key = _fields(context)
        domain = _domain(
            name,
            Shape.VALUE,
            collection,
            key,
            context_size=len(key),
            cache_order=cache_order,
            file=file or f"data/{name}/{_joined(key)}/{name}.json",
            has_when=has_when,
            absent=absent,
        )
        return cls._declared(domain, install)

    async def read(self, *context: Any, when: When | None = None) -> PayloadT:
        """Return the value, or what the domain answers for absent."""
        instance = await self._ready(*context)
        return cast(PayloadT, await instance.read(when=when))

    async def write(self, *context: Any, data: PayloadT, when: When | None = None) -> None:
        """Replace the value."""
        instance = await self._ready(*context)
        await instance.write(data=data, when=when)


class EntryDomain(OwnDomain[EntryInstance], Generic[PayloadT]):
    """A declared domain with keyed entries and soft deletion."""

    _instance_class = EntryInstance

    @classmethod
    def declare(
        cls: type[OwnDomainT],
        name: str,
        *,
        collection: str,
        context: Sequence[str | Field],
        key: str = "entryKey",
        has_when: bool = False,
        cache_order: Sequence[str] | None = None,
        file: str | None = None,
        install: bool = True,
    ) -> OwnDomainT:
        """Declare a domain with keyed, softly deleted entries and return its registry.

        Args:
            name: Word for the domain, in snake_case; the Redis namespace is ``<name>_cache``.
            collection: MongoDB collection.
            context: Stored names of the fields that make a bucket, in index order.
            key: Stored name of the field that tells the entries of a bucket apart.
            has_when: Whether writes store their simulated time, which protects reads.
            cache_order: Stored names in the order of the Redis key; that of the key by default.
            file: Path of a row below the ``dump`` folder, with ``{storedName}`` for key fields and
                ``{mode}`` for ``backtest``.
            install: Whether :meth:`install` is called; later if not.

        Raises:
            ConfigurationError: Name or collection is taken, or the declaration is malformed.
        """
        fields = _fields(context)
        domain = _domain(
            name,
            Shape.ENTRY,
            collection,
            (*fields, *_fields((key,), "key")),
            context_size=len(fields),
            cache_order=cache_order,
            file=file or f"data/{name}/{_joined(fields)}/{{{key}}}.json",
            has_when=has_when,
            list_filter=(*(field.stored for field in fields), "removed"),
        )
        return cls._declared(domain, install)

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

    @classmethod
    def declare(
        cls: type[OwnDomainT],
        name: str,
        *,
        collection: str,
        context: Sequence[str | Field],
        key: str = "entryId",
        row_id: str = "id",
        append_only: bool = False,
        cache_order: Sequence[str] | None = None,
        file: str | None = None,
        install: bool = True,
    ) -> OwnDomainT:
        """Declare a domain whose rows carry ids and are read as a list; return its registry.

        Its rows carry no simulated time, so nothing of it is hidden in a simulation.

        Args:
            name: Word for the domain, in snake_case; the Redis namespace is ``<name>_cache``.
            collection: MongoDB collection.
            context: Stored names of the fields that a list belongs to, in index order.
            key: Stored name under which the row's id becomes part of the unique key.
            row_id: Field of a row that holds its id.
            append_only: Whether a row that exists is left as it is.
            cache_order: Stored names in the order of the Redis key; that of the key by default.
            file: Path of a row below the ``dump`` folder, with ``{storedName}`` for key fields and
                ``{mode}`` for ``backtest``.
            install: Whether :meth:`install` is called; later if not.

        Raises:
            ConfigurationError: Name or collection is taken, or the declaration is malformed.
        """
        fields = _fields(context)
        domain = _domain(
            name,
            Shape.LIST,
            collection,
            (*fields, *_fields((key,), "key")),
            context_size=len(fields),
            cache_order=cache_order,
            file=file or f"data/{name}/{_joined(fields)}/{{{key}}}.json",
            row_id=row_id,
            append_only=append_only,
            newest_by="createDate",
            absent="list",
            list_filter=tuple(field.stored for field in fields),
        )
        return cls._declared(domain, install)

    async def read(self, *context: Any, limit: int | None = None) -> list[PayloadT]:
        """Return the newest `limit` rows, None for all."""
        instance = await self._ready(*context)
        return cast("list[PayloadT]", await instance.read(limit))

    async def write(self, *context: Any, rows: Sequence[PayloadT]) -> None:
        """Upsert the rows by their id; others stay."""
        instance = await self._ready(*context)
        await instance.write(rows)


def declared_domains() -> tuple[OwnDomain[Any], ...]:
    """Return the registries of all installed declared domains."""
    return tuple(_installed.values())


def _domain(
    name: str,
    shape: Shape,
    collection: str,
    key: tuple[Field, ...],
    *,
    cache_order: Sequence[str] | None,
    **flags: Any,
) -> Domain:
    if not name.isidentifier():
        raise ConfigurationError("name", f"must be an identifier, got {name!r:.60}")
    if not collection or "$" in collection or "\0" in collection:
        raise ConfigurationError("collection", f"no name of a collection: {collection!r:.60}")
    stored = tuple(field.stored for field in key)
    return Domain(
        name=name,
        shape=shape,
        collection=collection,
        namespace=f"{name}_cache",
        key=key,
        cache_order=stored if cache_order is None else tuple(cache_order),
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
