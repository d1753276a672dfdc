"""The db services: MongoDB first, the id cache second; reads go through the id cache.

Four families serve all domains, one for each shape of the table. Keys arrive as tuples in the order
of the table, values checked against the contract; they are encoded here, before anything is sent.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from itertools import islice
from typing import Any, Final, TypeVar

from bson import DatetimeMS, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from ..coalesce import Coalescer
from ..contracts import Candle
from ..domains import CANDLE_FIELDS, CANDLE_FIGURES, Domain, Shape
from ..errors import InvalidArgumentError, InvalidDocumentError, StoreError, StoreUnavailableError
from ..hot.bson import decode, encode
from ..hot.codec import MAX_SIZE
from ..hot.columns import CandleColumns, columns_from_batches
from ..times import to_datetime
from .base_crud import UPSERT_ATTEMPTS, BaseCRUD, upsert_of, utc_now
from .cache import IdCacheService
from .logger import LoggerService
from .mongo import DUPLICATE_KEY, Document, MongoService

__all__ = ["CandleDbService", "DbService", "EntryDbService", "ListDbService", "ValueDbService"]

Key = tuple[Any, ...]
T = TypeVar("T")

_LIST_BATCH: Final = 1_000
_CANDLE_BATCH: Final = 2_000
_CANDLE_WINDOW: Final = 10_000
_CLEAR_BATCH: Final = 1_000
_READ_BATCH: Final = 500
# How much of an operation's time a look may take that only makes it faster.
_LOOK_SHARE: Final = 0.25
_ROOM_FOR_NAMES: Final = 8 * 1024
_ID_ELEMENT: Final = b"\x07_id\0"
_NUMBERS: Final = (int, float)
_CANDLE_PROJECTION: Final = {"_id": 0, "timestamp": 1, **dict.fromkeys(CANDLE_FIGURES, 1)}


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
        self._unlike_text = [
            place
            for place, (_, kind) in enumerate(domain.key_parts)
            if kind in ("mode", "timestamp")
        ]
        self._key_projection = dict.fromkeys(domain.key_names, 1)
        self._key_fields = frozenset(("_id", *domain.key_names, "when"))
        # Lists and candles are read by other queries; by their key they are read whole.
        self._read_fields = (
            self._key_fields | {domain.value_field, "removed"}
            if domain.shape in (Shape.VALUE, Shape.ENTRY)
            else None
        )
        self._reads: Coalescer[bytes, bytes | None] = Coalescer(self._read_one, self._read_together)

    def _filter(self, values: Key) -> dict[str, Any]:
        return dict(zip(self._key_names, values, strict=False))

    def _belongs(self, document: Document, key: Key) -> bool:
        try:
            stored = tuple([document[name] for name in self._key_names])
        except KeyError:
            return False
        # To Python True is 1, to MongoDB it is not.
        return stored == key and all(
            (stored[place] is True or stored[place] is False)
            is (key[place] is True or key[place] is False)
            for place in self._unlike_text
        )

    async def find_by_context(self, key: Key, *, with_value: bool = True) -> Document | None:
        """Return the document of a full context, by its cached id if that is right.

        A document is only returned for the context that it carries: a stale, foreign or malformed
        id counts as a miss, the unique index finds the right document, and the cache is repaired.
        Of its fields those are there that a read needs, on request without the value.
        """
        cache_key = self._cache.key(key)
        known_id = self._cache.known_id(cache_key)
        cached_id = known_id or await self._cache.find_id(cache_key)
        fields = self._read_fields if with_value else self._key_fields
        if cached_id is not None:
            raw = await self._reads(cached_id, cached_id)
            if raw is not None:
                document = decode(raw, 0, fields, self._mongo.converts_doubles)
                if self._belongs(document, key):
                    if known_id is None:
                        self._cache.keep(cache_key, cached_id)
                    return document
        found = await self._mongo.find_raw(self._collection_name, self._filter(key))
        if found:
            document = decode(found[0], 0, fields, self._mongo.converts_doubles)
            await self._cache.remember(cache_key, document["_id"])
            return document
        if cached_id is not None:
            await self._cache.forget([cache_key])
        return None

    async def _read_one(self, document_id: bytes) -> bytes | None:
        found = await self._mongo.find_raw(self._collection_name, {"_id": ObjectId(document_id)})
        return found[0] if found else None

    async def _read_together(self, ids: Sequence[bytes]) -> list[bytes | Exception | None]:
        found = await self._mongo.find_raw(self._collection_name, _any_of(ids), len(ids))
        by_id = {_id_bytes(raw): raw for raw in found}
        if len(by_id) < len(ids):
            # Not there, or too large to travel with the others.
            missing = [document_id for document_id in ids if document_id not in by_id]
            try:
                rest = await self._mongo.find_all_raw(self._collection_name, _any_of(missing))
            except StoreError as error:
                return [by_id.get(document_id, error) for document_id in ids]
            by_id.update((_id_bytes(raw), raw) for raw in rest)
        return [by_id.get(document_id) for document_id in ids]

    async def _find_all(
        self,
        query: Mapping[str, Any],
        projection: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Document]:
        found = await self._mongo.find_all_raw(self._collection_name, query, projection, **options)
        return [decode(raw, 0, None, self._mongo.converts_doubles) for raw in found]

    async def _newest_first(
        self, query: Mapping[str, Any], projection: Mapping[str, Any]
    ) -> list[Document]:
        # Sorted here: a cursor in the order of a date misses what is written again meanwhile.
        newest_by = self.domain.newest_by
        found = await self._find_all(query, {**projection, newest_by: 1})
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
            with self._operation():
                batch = await self.collection.find(
                    query, dict.fromkeys(self._key_names, 1), limit=_CLEAR_BATCH
                ).to_list()
                if not batch:
                    return deleted
                result = await self.collection.delete_many(
                    {"_id": {"$in": [document["_id"] for document in batch]}}
                )
            deleted += result.deleted_count
            found = map(self._proper_key, batch)
            await self._cache.forget(cache_key for _, cache_key in filter(None, found))

    async def scan(
        self, context: Key, fields: Sequence[str]
    ) -> AsyncGenerator[list[tuple[Key, dict[str, Any]]], None]:
        """Yield key and some fields of the value of all documents of a context, in batches.

        No filter by value: the server may be long over documents that do not match, and each batch
        has a deadline. Documents without a proper key are passed over.
        """
        value_field = self.domain.value_field
        projection = {"_id": 0, **self._key_projection}
        projection.update((f"{value_field}.{name}", 1) for name in fields)
        batches = self._mongo.raw_batches(self._collection_name, self._filter(context), projection)
        async with aclosing(batches):
            async for batch in batches:
                for part in _batches(batch, _READ_BATCH):
                    found = []
                    for raw in part:
                        document = decode(raw, 0, None, self._mongo.converts_doubles)
                        if (proper := self._proper_key(document)) is not None:
                            value = document.get(value_field)
                            found.append((proper[0], value if isinstance(value, dict) else {}))
                    yield found
                    # A consumer that has nothing to do with them does not give others a turn.
                    await asyncio.sleep(0)

    async def delete(self, keys: Sequence[Key]) -> None:
        """Delete the documents of full contexts, and then their cached ids."""
        cache_keys = {key: self._cache.key(key) for key in keys}
        by_context: dict[Key, list[Key]] = {}
        for key in cache_keys:
            by_context.setdefault(key[:-1], []).append(key)
        # To MongoDB a list in a key equals each of its members; such a document is somebody else's.
        no_list = {"$not": {"$type": "array"}}
        for context, of_context in by_context.items():
            query: dict[str, Any] = {
                name: {"$eq": value, **no_list} for name, value in self._filter(context).items()
            }
            for batch in _batches(of_context, _CLEAR_BATCH):
                query[self._key_names[-1]] = {"$in": [key[-1] for key in batch], **no_list}
                with self._operation():
                    await self.collection.delete_many(query)
                await self._cache.forget(cache_keys[key] for key in batch)

    def _proper_key(self, document: Document) -> tuple[Key, bytes] | None:
        """Return key and cache key; None for what others wrote without a proper key."""
        key = tuple(document.get(name) for name in self._key_names)
        try:
            return key, self._cache.key(key)
        except InvalidArgumentError:
            return None


@dataclass(slots=True)
class _Write:
    """A write of one key: an update, or the removal of an entry.

    `insert` is the whole document, where most that are not known are not there either.
    """

    cache_key: bytes
    key: Key
    update: Mapping[str, Any] | None
    insert: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Applied:
    """What became of the writes of a batch, by their index."""

    by_context: set[int]
    inserted: dict[int, ObjectId] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)


class UpsertDbService(DbService):
    """Upserts by the full key; those that wait in the same turn travel together."""

    def __init__(
        self,
        domain: Domain,
        mongo: MongoService,
        cache: IdCacheService,
        logger: LoggerService,
    ) -> None:
        super().__init__(domain, mongo, cache, logger)
        self._writes: Coalescer[_Write, None] = Coalescer(
            self._write_one,
            self._write_together,
            ordered=True,
            first_counts=domain.append_only,
        )

    async def aclose(self) -> None:
        """Send the writes that wait and wait for those that are under way."""
        await self._writes.flush()

    async def _write_one(self, write: _Write) -> None:
        known = self._cache.known_id(write.cache_key)
        # A removal that finds nothing must not touch Redis.
        if known is None or write.update is None:
            document = await self._apply(write)
            if document is not None:
                await self._cache.remember(write.cache_key, document["_id"])
            return
        # The id is almost surely still right, so that Redis need not wait for MongoDB.
        filling = asyncio.ensure_future(self._cache.remember(write.cache_key, ObjectId(known)))
        try:
            document = await self._apply(write)
        except BaseException:
            filling.cancel()
            raise
        await filling
        if document is not None and document["_id"] != ObjectId(known):
            await self._cache.remember(write.cache_key, document["_id"])

    async def _apply(self, write: _Write) -> Document | None:
        if write.update is None:
            return await self._soft_remove(self._filter(write.key))
        return await self._upsert(self._filter(write.key), write.update, {"_id": 1})

    async def _write_together(self, writes: Sequence[_Write]) -> list[Exception | None]:
        in_place = await self._in_place(writes)
        known = {writes[index].cache_key: row_id for index, row_id in in_place.items()}
        filling = asyncio.ensure_future(self._cache.remember_many(known))
        try:
            applied = await self._apply_many(writes, in_place)
        except BaseException:
            filling.cancel()
            raise
        found = {writes[index].cache_key: row_id for index, row_id in applied.inserted.items()}
        unknown = [
            writes[index] for index in applied.by_context - applied.failed - applied.inserted.keys()
        ]
        await filling
        if unknown:
            try:
                found.update(await self._ids_of(unknown))
            except StoreError as error:
                self._logger.debug("mongo: ids were not found", reason=str(error))
            # An id of another kind has no place there, and what was there is of a document gone.
            await self._cache.forget(
                write.cache_key
                for write in unknown
                if write.cache_key not in found and self._cache.known_id(write.cache_key)
            )
        await self._cache.remember_many(found)
        refused = StoreError(f"mongo: {self.domain.collection} refused a document of a bulk write")
        return [refused if index in applied.failed else None for index in range(len(writes))]

    async def _in_place(self, writes: Sequence[_Write]) -> dict[int, ObjectId]:
        """Return the ids of documents that may be updated by them, by the index of their write.

        The server finds an _id at less than half of what a context costs. But a document may have
        been given another context, so one look at all of them goes before. Who renames one between
        that look and the update finds the same as if the write had come first.
        """
        known = {
            index: kept
            for index, write in enumerate(writes)
            if (kept := self._cache.known_id(write.cache_key))
        }
        if not known:
            return {}
        try:
            found = await self._mongo.find_newest_raw(
                self._collection_name,
                _any_of(known.values()),
                self._key_projection,
                len(known),
                _LOOK_SHARE,
            )
        except StoreError:
            return {}  # the upserts by context will tell
        documents = {_id_bytes(raw): decode(raw, 0, self._key_fields) for raw in found}
        return {
            index: ObjectId(document_id)
            for index, document_id in known.items()
            if document_id in documents and self._belongs(documents[document_id], writes[index].key)
        }

    async def _apply_many(
        self, writes: Sequence[_Write], in_place: Mapping[int, ObjectId]
    ) -> _Applied:
        """Apply updates in bulk: in place where that is known to be right, elsewhere as upserts."""
        applied = _Applied(by_context=set(range(len(writes))) - in_place.keys())
        # A duplicate costs more than an upsert, a new document less than half of one.
        inserts = {
            index: document
            for index in applied.by_context
            if (document := writes[index].insert) is not None
        }
        left = list(range(len(writes)))
        attempts_left = UPSERT_ATTEMPTS
        with self._operation():
            while left:
                attempts_left -= 1
                requests: list[Any] = [
                    InsertOne(inserts[index])
                    if index in inserts
                    else self._request(writes[index], in_place.get(index))
                    for index in left
                ]
                try:
                    result = await self.collection.bulk_write(requests, ordered=False)
                    upserted, errors = result.upserted_ids or {}, []
                    count = result.inserted_count + result.matched_count + len(upserted)
                except BulkWriteError as error:
                    found = error.details
                    if found.get("writeConcernErrors"):
                        raise
                    errors = found.get("writeErrors", [])
                    upserted = {row["index"]: row["_id"] for row in found["upserted"]}
                    count = found["nInserted"] + found["nMatched"] + len(upserted) + len(errors)
                applied.inserted.update((left[index], row_id) for index, row_id in upserted.items())
                refused = {left[error["index"]] for error in errors}
                applied.inserted.update(
                    (index, document["_id"])
                    for index, document in inserts.items()
                    if index not in refused
                )
                # Two first writers raced: the document is there now, so the upsert updates it.
                again = {left[error["index"]] for error in errors if error["code"] == DUPLICATE_KEY}
                applied.failed |= refused - again if attempts_left else refused
                if count < len(left):
                    # Deleted since the look, and the server does not say which.
                    again |= in_place.keys() - applied.failed
                applied.by_context |= in_place.keys() & again
                in_place, inserts = {}, {}
                left = sorted(again) if attempts_left else []
        return applied

    def _request(self, write: _Write, document_id: ObjectId | None) -> UpdateOne:
        update = write.update or {}
        if document_id is not None:
            return UpdateOne({"_id": document_id}, update)
        return UpdateOne(self._filter(write.key), update, upsert=True)

    async def _ids_of(self, writes: Sequence[_Write]) -> dict[bytes, ObjectId]:
        cache_keys = {write.key: write.cache_key for write in writes}
        contexts = {write.key[:-1] for write in writes}
        query: dict[str, Any]
        if len(contexts) == 1:
            last = {self._key_names[-1]: {"$in": [write.key[-1] for write in writes]}}
            query = {**self._filter(*contexts), **last}
        else:
            query = {"$or": [self._filter(write.key) for write in writes]}
        projection = dict.fromkeys(self._key_names, 1)
        with self._operation():
            found = await self.collection.find(query, projection).to_list()
        ids: dict[bytes, ObjectId] = {}
        for document in found:
            key = tuple(document[name] for name in self._key_names)
            # An array of a foreign writer matches the filter too, and cannot be looked up.
            if any(isinstance(part, list) for part in key):
                continue
            if isinstance(document["_id"], ObjectId):
                ids[cache_keys[key]] = document["_id"]
        return ids


class ValueDbService(UpsertDbService):
    """One value per key, replaced as a whole."""

    async def upsert_by_context(self, key: Key, value: Any, when: int | None) -> None:
        """Replace the value under `key`; returns when MongoDB has acknowledged and Redis knows.

        Raises:
            InvalidDocumentError: The value cannot be stored; nothing was sent.
        """
        await self._upsert_fields(key, {self.domain.value_field: value}, when)

    async def _upsert_fields(self, key: Key, fields: dict[str, Any], when: int | None) -> None:
        cache_key = self._cache.key(key)
        now = utc_now()
        if when is not None:
            fields["when"] = when
        fields["updatedDate"] = now
        encoded = encoded_fitting(fields, "", cache_key)
        update = upsert_of(RawBSONDocument(encoded), now)
        await self._writes(key, _Write(cache_key, key, update), len(encoded))


class EntryDbService(ValueDbService):
    """Keyed entries of a bucket with soft deletion."""

    async def upsert_entry(self, key: Key, entry: Mapping[str, Any], when: int | None) -> None:
        """Replace the entry under `key`; its ``removed`` also becomes the document's own.

        Raises:
            InvalidDocumentError: The entry cannot be stored; nothing was sent.
        """
        fields = {self.domain.value_field: entry, "removed": entry["removed"]}
        await self._upsert_fields(key, fields, when)

    async def remove_by_context(self, key: Key) -> None:
        """Flag the entry under `key` as removed; nothing happens when there is none."""
        cache_key = self._cache.key(key)
        await self._writes.exclusively(key, _Write(cache_key, key, None))

    async def iterate_context(self, context: Key, *, keys_only: bool) -> AsyncIterator[Document]:
        """Yield the documents of a context that are not removed, last written first.

        Which ones is settled at the start; each is read when its batch is reached.
        """
        alive = {**self._filter(context), "removed": False}
        key_name = self._key_names[-1]
        found = [
            document
            for document in await self._newest_first(alive, {key_name: 1, "when": 1})
            if isinstance(document.get(key_name), str)  # not so if a foreign writer left it out
        ]
        if keys_only:
            for document in found:
                yield document
            return
        for batch in _batches([document["_id"] for document in found], _READ_BATCH):
            documents = await self._find_all({"_id": {"$in": batch}, "removed": False})
            by_id = {repr(document["_id"]): document for document in documents}
            for document_id in batch:
                if repr(document_id) in by_id:
                    yield by_id[repr(document_id)]


@dataclass(slots=True)
class _Writers:
    """Writes of one row that are under way in this process."""

    count: int = 0
    have_met: bool = False


class ListDbService(UpsertDbService):
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
        self._doubted: set[Key] = set()
        self._last_stamp = 0

    async def find_newest(self, context: Key, limit: int | None) -> list[Document]:
        """Return the newest `limit` documents of a context (None for all), newest first."""
        if limit is None:
            return await self._newest_first(self._filter(context), {self.domain.value_field: 1})
        return await self._find_all(
            self._filter(context),
            {self.domain.value_field: 1},
            sort=[(self.domain.newest_by, -1), ("_id", -1)],
            limit=limit,
        )

    async def upsert_rows(
        self, context: Key, rows: Mapping[str, Mapping[str, Any]], places: Sequence[int]
    ) -> None:
        """Store rows under their ids, in bulk; what this process wrote last is not sent again.

        Raises:
            InvalidDocumentError: A row cannot be stored; it names the row by its place. Nothing
                was sent.
        """
        changed: list[tuple[bytes, Key, bytes, bytes]] = []
        for place, (row_id, row) in zip(places, rows.items(), strict=True):
            key = (*context, row_id)
            cache_key = self._cache.key(key)
            encoded = encoded_fitting(row, f"{self.domain.rows_argument}[{place}]", cache_key)
            digest = blake2b(encoded, digest_size=16).digest()
            written = self._written.get(key)
            if written is None or (written != digest and not self.domain.append_only):
                changed.append((cache_key, key, encoded, digest))
        pending = [
            (self._row_write(cache_key, key, encoded, stamp), len(encoded), digest)
            for (cache_key, key, encoded, digest), stamp in zip(
                changed, self._stamps(len(changed)), strict=True
            )
        ]
        for batch in _batches(pending, _LIST_BATCH):
            self._begin(batch)
            is_done = is_known = False
            try:
                await self._writes.all((write.key, write, size) for write, size, _ in batch)
                is_done = is_known = True
            except StoreUnavailableError:
                raise
            except StoreError:
                is_known = True
                raise
            finally:
                if not is_known:
                    self._doubt(batch)
                self._end(batch, is_done)

    def _doubt(self, batch: Iterable[tuple[_Write, int, bytes]]) -> None:
        # A write without an answer may still be applied, whenever that is: what is stored of such
        # a row is never known again.
        if len(self._doubted) > self._remembered_rows:
            self._doubted.clear()
            self._forget_written()
        self._doubted.update(write.key for write, *_ in batch)

    def _row_write(self, cache_key: bytes, key: Key, encoded: bytes, stamp: int) -> _Write:
        moment = to_datetime(stamp)
        value = {self.domain.value_field: RawBSONDocument(encoded), "updatedDate": moment}
        created = {"_id": ObjectId(), "createDate": moment, "__v": 0}
        update: dict[str, Any] = {"$set": value, "$setOnInsert": created}
        if self.domain.append_only:
            update = {"$setOnInsert": {**value, **created}}
        return _Write(cache_key, key, update, {**created, **self._filter(key), **value})

    def _begin(self, pending: Iterable[tuple[_Write, int, bytes]]) -> None:
        # What is stored is unknown until the answer: a lost one may still have been applied.
        for write, *_ in pending:
            self._written.pop(write.key, None)
            writers = self._under_way.setdefault(write.key, _Writers())
            writers.count += 1
            writers.have_met |= writers.count > 1

    def _end(self, pending: Iterable[tuple[_Write, int, bytes]], is_done: bool) -> None:
        for write, _, digest in pending:
            writers = self._under_way[write.key]
            writers.count -= 1
            if not writers.count:
                del self._under_way[write.key]
                # Of writers that met, nobody here knows who came last.
                if is_done and not writers.have_met and write.key not in self._doubted:
                    self._written[write.key] = digest
        while len(self._written) > self._remembered_rows:
            self._written.popitem(last=False)

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

    async def delete(self, keys: Sequence[Key]) -> None:
        """Delete the documents of full contexts and their cached ids; forget what was written."""
        self._forget_rows(keys)
        try:
            await super().delete(keys)
        finally:
            self._forget_rows(keys)

    def _forget_rows(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._written.pop(key, None)
            if key in self._under_way:
                self._under_way[key].have_met = True

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
        with self._operation():
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
            if failure.get("code") != DUPLICATE_KEY:
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
        with self._operation():
            found = await self.collection.find(
                {**self._filter(context), "timestamp": {"$in": list(candles)}},
                {**_CANDLE_PROJECTION, "_id": 1},
            ).to_list()
        different: list[int] = []
        for document in found:
            timestamp = int(document["timestamp"])
            given: Mapping[str, Any] = candles[timestamp]
            if any(document.get(name) != given[name] for name in CANDLE_FIGURES):
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

    async def find_columns(self, context: Key, start: int, end: int) -> CandleColumns:
        """Return the candles from `start` to before `end`, by time, as columns."""
        self._cache.key((*context, start))
        query = {**self._filter(context), "timestamp": {"$gte": start, "$lt": end}}
        batches = self._mongo.raw_batches(
            self._collection_name, query, _CANDLE_PROJECTION, sort=[("timestamp", 1)]
        )
        async with aclosing(batches):
            return columns_from_batches([b"".join(documents) async for documents in batches])

    async def _find_part(
        self, context: Key, since: int, step: int, count: int
    ) -> list[Candle] | None:
        query = {
            **self._filter(context),
            "timestamp": {"$gte": since, "$lt": since + count * step},
        }
        found = await self._mongo.find_all_raw(
            self._collection_name,
            query,
            _CANDLE_PROJECTION,
            sort=[("timestamp", 1)],
        )
        candles: list[Candle] = []
        expected = since
        for raw in found:
            document = decode(raw)
            timestamp = document["timestamp"]
            # What is no number or off the grid was stored by an unchecked writer.
            if timestamp != expected:
                if type(timestamp) not in _NUMBERS or timestamp % step:
                    continue
                return None
            if len(document) != len(CANDLE_FIELDS) or any(
                type(figure) not in _NUMBERS for figure in document.values()
            ):
                return None
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


def _any_of(ids: Iterable[bytes]) -> dict[str, Any]:
    return {"_id": {"$in": [ObjectId(document_id) for document_id in ids]}}


def _id_bytes(raw: bytes) -> bytes:
    # The server puts _id first into every document that it stores.
    if raw[4:9] == _ID_ELEMENT:
        return raw[9:21]
    document_id: ObjectId = decode(raw, 0, ("_id",))["_id"]
    return document_id.binary


def encoded_fitting(fields: Mapping[str, Any], path: str, cache_key: bytes) -> bytes:
    """Return `fields` as BSON, if they and the names in their key fit in one document.

    Raises:
        InvalidDocumentError: Something in it cannot be stored; it names the place below `path`.
    """
    encoded = encode(fields, path)
    # The codec leaves room for names of usual length.
    if len(encoded) + max(0, len(cache_key) - _ROOM_FOR_NAMES) > MAX_SIZE:
        place = path or next(iter(fields))
        raise InvalidDocumentError(place, f"exceeds {MAX_SIZE} bytes together with its key")
    return encoded


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
