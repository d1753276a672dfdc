"""The family on MongoDB and Redis: what :func:`fastpersist.setup` installs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..contracts import Candle
from ..domains import Domain
from ..errors import InvalidDocumentError
from ..hot.codec import MAX_SIZE, normalise, references_to_dicts, whole_doubles_to_int
from ..services.db import stored_moment
from ..times import LookAheadPolicy, is_visible
from .backend import Key

if TYPE_CHECKING:
    from ..services.container import Container

__all__ = ["DualStoreBackend"]

_ROOM_FOR_NAMES: Final = 8 * 1024


class DualStoreBackend:
    """Serves instances from the db services of a container."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._converts_doubles = container.settings.whole_doubles_to_int

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
        return self._payload(document.get(domain.value_field))

    async def write_value(self, domain: Domain, key: Key, value: Any, when: int | None) -> None:
        stored = _fitting(value, domain.value_field, key)
        await self._container.db(domain).upsert_by_context(key, stored, when)

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
        entry: dict[str, Any] | None = self._payload(document.get(domain.value_field))
        return entry

    async def has_entry(self, domain: Domain, key: Key, asked_at: int | None) -> bool:
        projection = dict.fromkeys((*domain.key_names, "when"), 1)
        document = await self._container.db(domain).find_by_context(key, projection)
        return document is not None and self._is_visible(domain, document, asked_at)

    async def write_entry(
        self, domain: Domain, key: Key, entry: Mapping[str, Any], when: int | None
    ) -> None:
        stored = _fitting(entry, domain.value_field, key)
        await self._container.db(domain).upsert_entry(key, stored, when)

    async def remove_entry(self, domain: Domain, key: Key) -> None:
        await self._container.db(domain).remove_by_context(key)

    async def iterate_entries(
        self, domain: Domain, context: Key, asked_at: int | None, *, keys_only: bool
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        key_name = domain.key_names[-1]
        documents = self._container.db(domain).iterate_context(context, keys_only=keys_only)
        async for document in documents:
            if self._is_visible(domain, document, asked_at):
                entry = {} if keys_only else self._payload(document.get(domain.value_field))
                yield document[key_name], entry

    async def read_rows(
        self, domain: Domain, context: Key, limit: int | None
    ) -> list[dict[str, Any]]:
        documents = await self._container.db(domain).find_newest(context, limit)
        rows = [self._payload(document.get(domain.value_field)) for document in documents]
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
        stored: dict[str, Any] = {}
        for place, (row_id, row) in zip(places or range(len(rows)), rows.items(), strict=True):
            path = f"{domain.rows_argument}[{place}]"
            stored[row_id] = _fitting(row, path, (*context, row_id))
        await self._container.db(domain).upsert_rows(context, stored)

    async def read_candles(
        self, domain: Domain, context: Key, since: int, step: int, limit: int
    ) -> list[Candle] | None:
        found: list[Candle] | None = await self._container.db(domain).find_window(
            context, since, step, limit
        )
        return found

    async def write_candles(self, domain: Domain, context: Key, candles: Sequence[Candle]) -> None:
        await self._container.db(domain).insert_candles(context, candles)

    def _is_visible(self, domain: Domain, document: dict[str, Any], asked_at: int | None) -> bool:
        return is_visible(domain.name, stored_moment(document), asked_at, self.look_ahead)

    def _payload(self, value: Any) -> Any:
        value = references_to_dicts(value)
        return whole_doubles_to_int(value) if self._converts_doubles else value


def _fitting(value: Any, path: str, key: Key) -> Any:
    """Return `value` ready for BSON, if it and the names of its key fit in one document."""
    stored, size = normalise(value, path)
    names = sum(len(part.encode("utf-8", "surrogatepass")) for part in key if isinstance(part, str))
    # The codec leaves room for names of usual length.
    if size + max(0, names - _ROOM_FOR_NAMES) > MAX_SIZE:
        raise InvalidDocumentError(path, f"exceeds {MAX_SIZE} bytes together with its key")
    return stored
