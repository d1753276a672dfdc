"""The db services: MongoDB first, the id cache second; reads go through the id cache.

Four families serve all domains, one for each shape of the table. Keys arrive as tuples in the order
of the table; values arrive ready for BSON.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import islice
from typing import Any, Final, TypeVar

import bson
from bson import DatetimeMS, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from ..contracts import Candle
from ..domains import Domain, Shape
from ..errors import StoreError
from ..times import to_datetime
from .base_crud import UPSERT_ATTEMPTS, BaseCRUD, utc_now
from .cache import IdCacheService
from .logger import LoggerService
from .mongo import Document, MongoService, translated_errors

__all__ = ["CandleDbService", "DbService", "EntryDbService", "ListDbService", "ValueDbService"]

Key = tuple[Any, ...]
T = TypeVar("T")

_DUPLICATE_KEY: Final = 11000
_LIST_BATCH: Final = 500
_CANDLE_BATCH: Final = 2_000
_CANDLE_WINDOW: Final = 10_000
_CLEAR_BATCH: Final = 1_000
_READ_BATCH: Final = 500
_FIGURES: Final = ("open", "high", "low", "close", "volume")
_CANDLE_FIELDS: Final = {"_id": 0, "timestamp": 1, **dict.fromkeys(_FIGURES, 1)}


class DbService(BaseCRUD):
    """What all families share: filters, the checked read through the id cache, clearing."""

    def __init__(
        self,
        domain: Domain,
        mongo: MongoService,
        cache: IdCacheService,
        logger: LoggerService,
    ) -> None:
        super().__init__(mongo, domain.collection)
        self.domain = domain
        self._cache = cache
        self._logger = logger
        self._key_names = domain.key_names

    def _filter(self, values: Key) -> dict[str, Any]:
        return dict(zip(self._key_names, values, strict=False))

    def _belongs(self, document: Document, key: Key) -> bool:
        for name, value in zip(self._key_names, key, strict=True):
            stored = document.get(name)
            if stored != value or isinstance(stored, bool) is not isinstance(value, bool):
                return False
        return True

    async def find_by_context(
        self, key: Key, projection: Mapping[str, Any] | None = None
    ) -> Document | None:
        """Return the document of a full context, by its cached id if that is right.

        A document is only returned for the context that it carries: a stale, foreign or malformed
        id counts as a miss, the unique index finds the right document, and the cache is repaired.
        A projection has to include the key fields.
        """
        cache_key = self._cache.key(key)
        cached_id = await self._cache.find_id(cache_key)
        with translated_errors():
            if cached_id is not None:
                document = await self.collection.find_one({"_id": cached_id}, projection)
                if document is not None and self._belongs(document, key):
                    return document
            document = await self.collection.find_one(self._filter(key), projection)
        if document is not None:
            await self._cache.remember(cache_key, document["_id"])
        elif cached_id is not None:
            await self._cache.forget([cache_key])
        return document

    async def _newest_first(
        self, query: Mapping[str, Any], projection: Mapping[str, Any]
    ) -> list[Document]:
        # Sorted here: a cursor in the order of a date misses what is written again meanwhile.
        newest_by = self.domain.newest_by
        with translated_errors():
            found = await self.collection.find(query, {**projection, newest_by: 1}).to_list()
        found.sort(
            key=lambda document: (_milliseconds(document.get(newest_by)), str(document["_id"])),
            reverse=True,
        )
        return found

    async def clear(self, context: Key) -> int:
        """Delete all documents of a context (all of the domain for ``()``) and their cached ids.

        Returns how many documents were deleted.
        """
        query = self._filter(context)
        deleted = 0
        while True:
            with translated_errors():
                batch = await self.collection.find(
                    query, dict.fromkeys(self._key_names, 1), limit=_CLEAR_BATCH
                ).to_list()
                if not batch:
                    return deleted
                result = await self.collection.delete_many(
                    {"_id": {"$in": [document["_id"] for document in batch]}}
                )
            deleted += result.deleted_count
            await self._cache.forget(self._cache_keys(batch))

    def _cache_keys(self, documents: Iterable[Document]) -> Iterator[bytes]:
        for document in documents:
            try:
                yield self._cache.key(tuple(document[name] for name in self._key_names))
            except (KeyError, ValueError):
                continue  # written by others without a proper key: no id of it is cached


class ValueDbService(DbService):
    """One value per key, replaced as a whole."""

    async def upsert_by_context(self, key: Key, value: Any, when: int | None) -> None:
        """Replace the value under `key`; returns when MongoDB has acknowledged and Redis knows."""
        cache_key = self._cache.key(key)
        fields = {self.domain.value_field: value}
        if when is not None:
            fields["when"] = when
        await self._write(cache_key, key, fields)

    async def _write(self, cache_key: bytes, key: Key, fields: Mapping[str, Any]) -> None:
        document = await self._upsert(self._filter(key), fields, {"_id": 1})
        await self._cache.remember(cache_key, document["_id"])


class EntryDbService(ValueDbService):
    """Keyed entries of a bucket with soft deletion."""

    async def upsert_entry(self, key: Key, entry: Mapping[str, Any], when: int | None) -> None:
        """Replace the entry under `key`; its ``removed`` also becomes the document's own."""
        cache_key = self._cache.key(key)
        fields = {self.domain.value_field: entry, "removed": entry["removed"]}
        if when is not None:
            fields["when"] = when
        await self._write(cache_key, key, fields)

    async def remove_by_context(self, key: Key) -> None:
        """Flag the entry under `key` as removed; nothing happens when there is none."""
        cache_key = self._cache.key(key)
        document = await self._soft_remove(self._filter(key))
        if document is not None:
            await self._cache.remember(cache_key, document["_id"])

    async def iterate_context(self, context: Key, *, keys_only: bool) -> AsyncIterator[Document]:
        """Yield the documents of a context that are not removed, last written first.

        Which ones is settled at the start; each is read when its batch is reached.
        """
        alive = {**self._filter(context), "removed": False}
        found = await self._newest_first(alive, {self._key_names[-1]: 1, "when": 1})
        if keys_only:
            for document in found:
                yield document
            return
        for batch in _batches([document["_id"] for document in found], _READ_BATCH):
            with translated_errors():
                documents = await self.collection.find(
                    {"_id": {"$in": batch}, "removed": False}
                ).to_list()
            by_id = {repr(document["_id"]): document for document in documents}
            for document_id in batch:
                if repr(document_id) in by_id:
                    yield by_id[repr(document_id)]


@dataclass(slots=True)
class _Writers:
    """Writes of one row that are under way in this process."""

    count: int = 0
    have_met: bool = False


class ListDbService(DbService):
    """Rows with an id of their own, written and read as lists."""

    _remembered_rows = 100_000

    def __init__(
        self,
        domain: Domain,
        mongo: MongoService,
        cache: IdCacheService,
        logger: LoggerService,
    ) -> None:
        super().__init__(domain, mongo, cache, logger)
        self._written: OrderedDict[Key, bytes] = OrderedDict()
        self._under_way: dict[Key, _Writers] = {}
        self._last_stamp = 0

    async def find_newest(self, context: Key, limit: int | None) -> list[Document]:
        """Return the newest `limit` documents of a context (None for all), newest first."""
        if limit is None:
            return await self._newest_first(self._filter(context), {self.domain.value_field: 1})
        with translated_errors():
            async with self.collection.find(
                self._filter(context),
                {self.domain.value_field: 1},
                sort=[(self.domain.newest_by, -1), ("_id", -1)],
                limit=limit,
            ) as cursor:
                return await cursor.to_list()

    async def upsert_rows(self, context: Key, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Store rows under their ids, in bulk; what this process wrote last is not sent again."""
        pending: list[tuple[bytes, Key, bytes, bytes]] = []
        for row_id, row in rows.items():
            key = (*context, row_id)
            cache_key = self._cache.key(key)
            encoded = bson.encode(row)
            digest = blake2b(encoded, digest_size=16).digest()
            written = self._written.get(key)
            if written is None or (written != digest and not self.domain.append_only):
                pending.append((cache_key, key, encoded, digest))
        for batch in _batches(pending, _LIST_BATCH):
            self._begin(batch)
            is_done = False
            try:
                await self._upsert_batch(batch)
                is_done = True
            finally:
                self._end(batch, is_done)

    def _begin(self, batch: Sequence[tuple[bytes, Key, bytes, bytes]]) -> None:
        # What is stored is unknown until the answer: a lost one may still have been applied.
        for _, key, *_ in batch:
            self._written.pop(key, None)
            writers = self._under_way.setdefault(key, _Writers())
            writers.count += 1
            writers.have_met |= writers.count > 1

    def _end(self, batch: Sequence[tuple[bytes, Key, bytes, bytes]], is_done: bool) -> None:
        for _, key, _, digest in batch:
            writers = self._under_way[key]
            writers.count -= 1
            if not writers.count:
                del self._under_way[key]
                # Of writers that met, nobody here knows who came last.
                if is_done and not writers.have_met:
                    self._written[key] = digest
        while len(self._written) > self._remembered_rows:
            self._written.popitem(last=False)

    async def _upsert_batch(self, batch: Sequence[tuple[bytes, Key, bytes, bytes]]) -> None:
        updates = []
        for (_, key, encoded, _), stamp in zip(batch, self._stamps(len(batch)), strict=True):
            value = {self.domain.value_field: RawBSONDocument(encoded)}
            moment = to_datetime(stamp)
            created = {"_id": ObjectId(), "createDate": moment, "__v": 0}
            if self.domain.append_only:
                update = {"$setOnInsert": {**value, **created, "updatedDate": moment}}
            else:
                update = {"$set": {**value, "updatedDate": moment}, "$setOnInsert": created}
            updates.append(UpdateOne(self._filter(key), update, upsert=True))
        ids = await self._bulk_upsert(updates, [cache_key for cache_key, *_ in batch])
        updated = {key[-1]: cache_key for cache_key, key, *_ in batch if cache_key not in ids}
        if updated:
            ids.update(await self._ids_of_rows(batch[0][1][:-1], updated))
        await self._cache.remember_many(ids)

    async def _bulk_upsert(
        self, updates: list[UpdateOne], cache_keys: list[bytes]
    ) -> dict[bytes, ObjectId]:
        """Apply the upserts and return the ids of those that inserted, by cache key."""
        ids: dict[bytes, ObjectId] = {}
        unique = {stored for stored, _ in self.domain.unique_index}
        attempts_left = UPSERT_ATTEMPTS
        with translated_errors():
            while True:
                attempts_left -= 1
                try:
                    result = await self.collection.bulk_write(updates, ordered=False)
                    inserted, failures = result.upserted_ids or {}, []
                except BulkWriteError as error:
                    details = error.details
                    failures = details.get("writeErrors", [])
                    # Two first writers raced: the document is there now, so the upsert updates it.
                    if (
                        not attempts_left
                        or details.get("writeConcernErrors")
                        or any(
                            failure.get("code") != _DUPLICATE_KEY
                            or set(failure.get("keyPattern", unique)) != unique
                            for failure in failures
                        )
                    ):
                        raise
                    inserted = {row["index"]: row["_id"] for row in details.get("upserted", [])}
                ids.update((cache_keys[index], found) for index, found in inserted.items())
                if not failures:
                    return ids
                again = [failure["index"] for failure in failures]
                updates = [updates[index] for index in again]
                cache_keys = [cache_keys[index] for index in again]

    async def _ids_of_rows(
        self, context: Key, cache_keys: Mapping[str, bytes]
    ) -> dict[bytes, ObjectId]:
        row_field = self._key_names[-1]
        with translated_errors():
            found = await self.collection.find(
                {**self._filter(context), row_field: {"$in": list(cache_keys)}}, {row_field: 1}
            ).to_list()
        return {
            cache_keys[document[row_field]]: document["_id"]
            for document in found
            if isinstance(document["_id"], ObjectId)
        }

    def _stamps(self, count: int) -> range:
        # Lists are ordered by date and a batch is one moment: stamps one ms apart, the last of
        # them now, keep the order of its rows without a date in the future.
        now = int(utc_now().timestamp() * 1000)
        first = max(self._last_stamp + 1, now - count + 1)
        self._last_stamp = first + count - 1
        return range(first, first + count)

    async def clear(self, context: Key) -> int:
        """Delete all documents of a context and their cached ids; forget what was written."""
        self._forget_written()
        try:
            return await super().clear(context)
        finally:
            self._forget_written()

    def _forget_written(self) -> None:
        self._written.clear()
        for writers in self._under_way.values():
            writers.have_met = True


class CandleDbService(DbService):
    """Insert-only candles, read as windows of a time grid."""

    async def insert_candles(self, context: Key, candles: Sequence[Candle]) -> None:
        """Store candles; those already stored stay as they are, differences are reported."""
        first_of_each = {row["timestamp"]: row for row in reversed(candles)}
        different: list[int] = []
        for batch in _batches(list(first_of_each.values()), _CANDLE_BATCH):
            different += await self._insert_batch(context, batch)
        if different:
            self._logger.warn(
                "candles: stored figures differ from those written again and were kept",
                count=len(different),
                first=min(different),
                context="/".join(map(str, context)),
            )

    async def _insert_batch(self, context: Key, candles: Sequence[Candle]) -> list[int]:
        now = utc_now()
        key_fields = self._filter(context)
        documents: list[Document] = [
            {
                "_id": ObjectId(),
                **key_fields,
                **candle,
                "createDate": now,
                "updatedDate": now,
                "__v": 0,
            }
            for candle in candles
        ]
        ids = {document["timestamp"]: document["_id"] for document in documents}
        with translated_errors():
            try:
                await self.collection.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                for timestamp in self._duplicates(documents, error):
                    del ids[timestamp]
        different: list[int] = []
        stored = {row["timestamp"]: row for row in candles if row["timestamp"] not in ids}
        if stored:
            different = await self._compare(context, stored, ids)
        await self._cache.remember_many(
            {self._cache.key((*context, timestamp)): found for timestamp, found in ids.items()}
        )
        return different

    def _duplicates(self, documents: Sequence[Document], error: BulkWriteError) -> Iterator[int]:
        if error.details.get("writeConcernErrors"):
            raise error
        unique = {stored for stored, _ in self.domain.unique_index}
        for failure in error.details.get("writeErrors", []):
            if failure.get("code") != _DUPLICATE_KEY:
                raise error
            if set(failure.get("keyPattern", unique)) != unique:
                raise StoreError(
                    f"mongo: another unique index of {self.domain.collection} refuses a candle: "
                    f"{sorted(failure['keyPattern'])}",
                    hint="drop that index",
                ) from error
            yield documents[failure["index"]]["timestamp"]

    async def _compare(
        self, context: Key, candles: Mapping[int, Candle], ids: dict[int, ObjectId]
    ) -> list[int]:
        """Add the ids of stored candles and return the times whose figures differ."""
        with translated_errors():
            found = await self.collection.find(
                {**self._filter(context), "timestamp": {"$in": list(candles)}},
                {**_CANDLE_FIELDS, "_id": 1},
            ).to_list()
        different: list[int] = []
        for document in found:
            timestamp = int(document["timestamp"])
            given: Mapping[str, Any] = candles[timestamp]
            if any(document.get(name) != given[name] for name in _FIGURES):
                different.append(timestamp)
            if isinstance(document["_id"], ObjectId):
                ids[timestamp] = document["_id"]
        return different

    async def find_window(
        self, context: Key, since: int, step: int, limit: int
    ) -> list[Candle] | None:
        """Return the candles ``since + i * step`` for i below `limit`, None if one is missing."""
        self._cache.key((*context, since))
        window: list[Candle] = []
        for start in range(0, limit, _CANDLE_WINDOW):
            count = min(_CANDLE_WINDOW, limit - start)
            candles = await self._find_part(context, since + start * step, step, count)
            if candles is None:
                return None
            window.extend(candles)
        return window

    async def _find_part(
        self, context: Key, since: int, step: int, count: int
    ) -> list[Candle] | None:
        query = {
            **self._filter(context),
            "timestamp": {"$gte": since, "$lt": since + count * step},
        }
        with translated_errors():
            async with self.collection.find(
                query, _CANDLE_FIELDS, sort=[("timestamp", 1)], batch_size=count + 1
            ) as cursor:
                found = await cursor.to_list()
        candles: list[Candle] = []
        expected = since
        for document in found:
            timestamp = document["timestamp"]
            if timestamp != expected:
                if timestamp % step:
                    continue  # off the grid, as only an unchecked writer stores it
                return None
            if len(document) != len(_FIGURES) + 1:
                return None  # a figure is missing, as only an unchecked writer stores it
            document["timestamp"] = expected
            candles.append(document)  # type: ignore[arg-type]  # the projection makes it a Candle
            expected += step
        return candles if len(candles) == count else None


DB_SERVICES: Final[Mapping[Shape, type[DbService]]] = {
    Shape.VALUE: ValueDbService,
    Shape.ENTRY: EntryDbService,
    Shape.LIST: ListDbService,
    Shape.CANDLE: CandleDbService,
}


def _batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _milliseconds(date: Any) -> int:
    if isinstance(date, datetime):
        return round(date.timestamp() * 1000)
    return int(date) if isinstance(date, DatetimeMS) else 0


def stored_moment(document: Document) -> int | None:
    """Return the simulated time of a document's write in ms, or None when it has none."""
    when = document.get("when")
    if isinstance(when, bool) or not isinstance(when, (int, float)) or not math.isfinite(when):
        return None
    return int(when)
