"""The family on MongoDB and Redis: what :func:`fastpersist.setup` installs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ..contracts import Candle
from ..domains import Domain
from ..hot.columns import CandleColumns
from ..services.db import stored_moment
from ..times import LookAheadPolicy, is_visible
from .backend import Key

if TYPE_CHECKING:
    from ..services.container import Container

__all__ = ["DualStoreBackend"]


class DualStoreBackend:
    """Serves instances from the db services of a container."""

    def __init__(self, container: Container) -> None:
        self._container = container

    @property
    def look_ahead(self) -> LookAheadPolicy:
        """What a read does with a row of a later simulated time."""
        return self._container.settings.look_ahead

    async def prepare(self, domain: Domain, context: Key, initial: bool) -> None:
        await self._container.ready(domain)

    async def read_value(self, domain: Domain, key: Key, asked_at: int | None) -> Any:
        document = await self._container.db(domain).find_by_context(key)
        if document is None or not self._is_visible(domain, document, asked_at):
            return None
        return document.get(domain.value_field)

    async def write_value(self, domain: Domain, key: Key, value: Any, when: int | None) -> None:
        await self._container.db(domain).upsert_by_context(key, value, when)

    async def read_entry(
        self, domain: Domain, key: Key, asked_at: int | None
    ) -> dict[str, Any] | None:
        document = await self._container.db(domain).find_by_context(key)
        if (
            document is None
            or document.get("removed")
            or not self._is_visible(domain, document, asked_at)
        ):
            return None
        entry: dict[str, Any] | None = document.get(domain.value_field)
        return entry

    async def has_entry(self, domain: Domain, key: Key, asked_at: int | None) -> bool:
        document = await self._container.db(domain).find_by_context(key, with_value=False)
        return document is not None and self._is_visible(domain, document, asked_at)

    async def write_entry(
        self, domain: Domain, key: Key, entry: Mapping[str, Any], when: int | None
    ) -> None:
        await self._container.db(domain).upsert_entry(key, entry, when)

    async def remove_entry(self, domain: Domain, key: Key) -> None:
        await self._container.db(domain).remove_by_context(key)

    async def iterate_entries(
        self, domain: Domain, context: Key, asked_at: int | None, *, keys_only: bool
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        key_name = domain.key_names[-1]
        documents = self._container.db(domain).iterate_context(context, keys_only=keys_only)
        async for document in documents:
            if self._is_visible(domain, document, asked_at):
                entry = {} if keys_only else document.get(domain.value_field)
                yield document[key_name], entry

    async def read_rows(
        self, domain: Domain, context: Key, limit: int | None
    ) -> list[dict[str, Any]]:
        documents = await self._container.db(domain).find_newest(context, limit)
        values = (document.get(domain.value_field) for document in documents)
        rows = [row for row in values if isinstance(row, dict)]  # a foreign writer may leave it out
        if domain.newest_by == "createDate":
            rows.reverse()
        return rows

    async def write_rows(
        self,
        domain: Domain,
        context: Key,
        rows: Mapping[str, Mapping[str, Any]],
        places: Sequence[int] | None = None,
    ) -> None:
        await self._container.db(domain).upsert_rows(context, rows, places or range(len(rows)))

    async def read_candles(
        self, domain: Domain, context: Key, since: int, step: int, limit: int
    ) -> list[Candle] | None:
        found: list[Candle] | None = await self._container.db(domain).find_window(
            context, since, step, limit
        )
        return found

    async def read_columns(
        self, domain: Domain, context: Key, start: int, end: int
    ) -> CandleColumns:
        columns: CandleColumns = await self._container.db(domain).find_columns(context, start, end)
        return columns

    async def write_candles(self, domain: Domain, context: Key, candles: Sequence[Candle]) -> None:
        await self._container.db(domain).insert_candles(context, candles)

    async def scan(
        self, domain: Domain, context: Key, fields: Sequence[str]
    ) -> AsyncGenerator[list[tuple[Key, dict[str, Any]]], None]:
        batches = self._container.db(domain).scan(context, fields)
        async with aclosing(batches):
            async for batch in batches:
                yield batch

    async def delete(self, domain: Domain, keys: Sequence[Key]) -> None:
        await self._container.db(domain).delete(keys)

    def _is_visible(self, domain: Domain, document: dict[str, Any], asked_at: int | None) -> bool:
        return is_visible(domain.name, stored_moment(document), asked_at, self.look_ahead)
