"""Restore: an archive into an empty database, or merged into a used one.

A document is identified by its context, the fields of its collection's unique index. One whose
context is not stored is inserted. Of two, in collections whose rows are replaced by later writes,
the one with the newer ``updatedDate`` wins, and what is stored if they are equal; it takes the
place of the other under the ``_id`` that runners know. Log lines, candles and rows of other domains
known to be append-only stay as they are stored. Rows of collections without a unique index are
identified by ``_id``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO, Final

import bson
from bson import DatetimeMS, ObjectId
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import IndexModel, ReplaceOne
from pymongo.errors import BulkWriteError

from ..domains import Domain
from ..errors import CorruptDataError, InvalidArgumentError, StoreError
from ..services.container import Container
from ..services.mongo import DUPLICATE_KEY, LENIENT, Document
from .archive import CollectionEntry, Manifest, Part, read_archive
from .backup import RESTORE_MARK, OnProgress, stored_collections
from .ids import key_of, patiently

__all__ = ["CollectionRestore", "Restore", "Verified", "restore", "verify"]

_BATCH: Final = 1_000
_BATCH_BYTES: Final = 8 * 1024 * 1024
_CONTEXTS: Final = 100
_ATTEMPTS: Final = 5
_ID_AT: Final = slice(4, 9)
_ID_ELEMENT: Final = b"\x07_id\0"
_LENIENT_RAW: Final = CodecOptions[RawBSONDocument](
    document_class=RawBSONDocument, unicode_decode_error_handler="replace"
)


@dataclass(frozen=True)
class Verified:
    """An archive that was found whole.

    Attributes:
        name: What it is called in messages.
        manifest: What it holds.
        sha256: Its digest.
        parts: Digests of its parts, in their order.
    """

    name: str
    manifest: Manifest
    sha256: str
    parts: tuple[bytes, ...]


@dataclass(kw_only=True)
class CollectionRestore:
    """What became of the documents of one collection.

    Attributes:
        collection: Its stored name.
        inserted: Documents whose context was not there.
        replaced: Stored documents that were older.
        kept: Stored documents that are newer, or of an append-only collection.
        same: Documents that were there already.
        renumbered: Of those inserted, how many could not keep their ``_id``, which a document of
            another context has.
    """

    collection: str
    inserted: int = 0
    replaced: int = 0
    kept: int = 0
    same: int = 0
    renumbered: int = 0


@dataclass(kw_only=True)
class Restore:
    """What a restore did.

    Attributes:
        manifest: What the archive holds.
        is_merge: Whether it was merged into what is stored.
        resumed: Whether it carried on with a restore that was interrupted.
        collections: What became of each collection.
        stale_ids: Redis keys that could not be dropped, because Redis did not answer.
    """

    manifest: Manifest
    is_merge: bool
    resumed: bool = False
    collections: list[CollectionRestore] = field(default_factory=list)
    stale_ids: int = 0


def verify(file: BinaryIO, name: str) -> Verified:
    """Read an archive from the start to its end and check all of it.

    Raises:
        CorruptDataError: It is damaged or something else; the error names the place.
    """
    archive = read_archive(file, name)
    parts = []
    for part in archive:
        for number, document in enumerate(part.documents):
            try:
                decoded: Document = bson.decode(document, LENIENT)
            except BSONError as error:
                raise CorruptDataError(
                    part.place, f"document {number} of it is malformed: {error}"
                ) from None
            if "_id" not in decoded:
                raise CorruptDataError(part.place, f"document {number} of it has no _id")
        parts.append(part.digest)
    assert archive.manifest is not None  # the iteration has come to its end
    return Verified(name, archive.manifest, archive.digest, tuple(parts))


async def restore(
    container: Container,
    file: BinaryIO,
    verified: Verified,
    domains: Sequence[Domain],
    *,
    merge: bool = False,
    on_progress: OnProgress = lambda collection, done, total: None,
) -> Restore:
    """Bring the documents of an archive back; the module says which win, and under which ``_id``.

    When it was interrupted, the same call carries on and ends the same. Redis ids of all contexts
    in the archive are dropped.

    Args:
        container: Connected services.
        file: The archive, open for reading and seekable.
        verified: What :func:`verify` made of it.
        domains: The domains that are known here.
        merge: Whether the database may hold documents already.
        on_progress: Is called after each batch.

    Raises:
        CorruptDataError: The archive is not any more what was verified.
        InvalidArgumentError: The database holds documents and `merge` was not asked for.
        ConfigurationError: An index that is stored or missing stands in the way.
        StoreUnavailableError: MongoDB did not answer within the operation's deadline.
    """
    manifest = verified.manifest
    result = Restore(manifest=manifest, is_merge=merge)
    mongo = container.mongo_service
    mark = mongo.collection(RESTORE_MARK)
    if not merge:
        result.resumed = await _begin(container, verified)
    await _ensure_indexes(container, manifest, domains)
    by_collection = {domain.collection: domain for domain in domains}
    mergers = {
        entry.folder: _Merger(container, entry, by_collection.get(entry.collection), result)
        for entry in manifest.collections
    }
    file.seek(0)
    parts = iter(read_archive(file, verified.name))
    digests = iter(verified.parts)
    while True:
        part: Part | None = await asyncio.to_thread(next, parts, None)
        if part is None:
            break
        if part.digest != next(digests, b""):
            raise CorruptDataError(part.place, "changed while it was restored")
        merger = mergers[part.folder]
        for batch in _batches(part.documents):
            await merger.apply(batch)
            on_progress(merger.entry.collection, merger.done, merger.entry.documents)
    if next(digests, None) is not None:
        raise CorruptDataError(verified.name, "changed while it was restored")
    if not merge:
        with mongo.operation():
            await mark.drop()
    return result


async def _begin(container: Container, verified: Verified) -> bool:
    """Refuse a used database, else leave the mark; say whether this very restore had begun."""
    mongo = container.mongo_service
    mark = mongo.collection(RESTORE_MARK)
    with mongo.operation():
        begun = await mark.find_one({"_id": "restore"})
    if begun is not None:
        if begun.get("sha256") == verified.sha256:
            return True
        raise InvalidArgumentError(
            "file",
            f"the restore of another archive into {mongo.database.name!r} has not ended",
            hint="repeat that one first, or drop the database",
        )
    for name in await stored_collections(container):
        with mongo.operation():
            found = await mongo.collection(name).find_one({}, {"_id": 1})
        if found is not None:
            raise InvalidArgumentError(
                "merge",
                f"the database {mongo.database.name!r} holds documents already, in {name!r}",
                hint="with --merge the newest of each wins",
            )
    with mongo.operation():
        await mark.insert_one(
            {"_id": "restore", "sha256": verified.sha256, "startedAt": int(time.time() * 1000)}
        )
    return False


async def _ensure_indexes(
    container: Container, manifest: Manifest, domains: Sequence[Domain]
) -> None:
    mongo = container.mongo_service
    collections = {entry.collection for entry in manifest.collections}
    known = [domain for domain in domains if domain.collection in collections]
    await mongo.ensure_indexes(known)
    served = {domain.collection for domain in known}
    for entry in manifest.collections:
        models = [
            IndexModel(
                [(name, direction) for name, direction in index["fields"]], unique=index["unique"]
            )
            for index in entry.indexes
        ]
        if entry.collection not in served and models:
            with mongo.operation():
                await mongo.collection(entry.collection).create_indexes(models)


def _batches(documents: Sequence[bytes]) -> Iterable[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for document in documents:
        if batch and (len(batch) >= _BATCH or size + len(document) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document)
    if batch:
        yield batch


class _Merger:
    """Brings the documents of one collection back; see the module for the rules."""

    def __init__(
        self, container: Container, entry: CollectionEntry, domain: Domain | None, result: Restore
    ) -> None:
        self._container = container
        self._mongo = container.mongo_service
        self._domain = domain
        self._result = result
        self._keeps_first = domain is not None and domain.append_only
        self._counts = CollectionRestore(collection=entry.collection)
        self._names = _context_names(entry, domain)
        self._collection = self._mongo.collection(entry.collection)
        self.entry = entry
        self.done = 0
        self._looks_first = False
        result.collections.append(self._counts)

    async def apply(self, raws: Sequence[bytes]) -> None:
        """Bring back a batch."""
        pending = list(raws)
        attempts_left = _ATTEMPTS
        while pending:
            if not attempts_left:
                raise StoreError(
                    f"mongo: {self.entry.collection}: {len(pending)} documents collide with "
                    "others, though none has their context",
                    hint="another unique index of the collection may refuse them",
                )
            is_first = attempts_left == _ATTEMPTS
            attempts_left -= 1
            # A duplicate costs the server more than a look, a look more than none.
            if is_first and self._looks_first:
                refused = pending
            else:
                refused = await self._insert(pending)
            if is_first:
                self._looks_first = len(refused) > len(raws) // 2
            pending = await self._settle(refused) if refused else []
            if is_first and len(pending) > len(raws) // 2:
                self._looks_first = False
        await self._drop_ids(raws)
        self.done += len(raws)

    async def _insert(self, raws: Sequence[bytes]) -> list[bytes]:
        """Insert what is not there and return what is refused as a duplicate."""
        refused: list[bytes] = []
        with self._mongo.operation():
            try:
                await self._collection.insert_many([_as_it_is(raw) for raw in raws], ordered=False)
            except BulkWriteError as error:
                if error.details.get("writeConcernErrors"):
                    raise
                for failure in error.details["writeErrors"]:
                    if failure.get("code") != DUPLICATE_KEY:
                        raise
                    refused.append(raws[failure["index"]])
        self._counts.inserted += len(raws) - len(refused)
        return refused

    async def _settle(self, raws: Sequence[bytes]) -> list[bytes]:
        """Compare documents with the stored ones; return those that have to be inserted again."""
        given = [bson.decode(raw, LENIENT) for raw in raws]
        by_id = await self._stored_by_id([document["_id"] for document in given])
        by_context = {self._context(found): found for found in by_id.values()}
        unknown = [document for document in given if self._context(document) not in by_context]
        by_context.update(await self._stored_by_context(unknown))
        again: list[bytes] = []
        in_place: list[tuple[Document, bytes]] = []
        for raw, document in zip(raws, given, strict=True):
            stored = by_context.get(self._context(document))
            holder = by_id.get(_comparable(document["_id"]))
            is_taken = holder is not None and self._context(holder) != self._context(document)
            if stored is None:
                if is_taken:
                    raw = _with_id(raw, ObjectId())
                    self._counts.renumbered += 1
                again.append(raw)
            elif not self._wins(document, stored):
                self._count_kept(document, stored)
            else:
                # Under the id that it has, which runners may know.
                in_place.append((stored, _with_id(raw, stored["_id"])))
        if in_place:
            again += await self._replace(in_place)
        return again

    def _wins(self, given: Document, stored: Document) -> bool:
        return not self._keeps_first and _updated(given) > _updated(stored)

    def _count_kept(self, given: Document, stored: Document) -> None:
        if _updated(given) == _updated(stored) and given["_id"] == stored["_id"]:
            self._counts.same += 1
        else:
            self._counts.kept += 1

    def _context(self, document: Document) -> tuple[Any, ...]:
        return tuple(_comparable(document.get(name)) for name in self._names)

    async def _stored_by_id(self, ids: Sequence[Any]) -> dict[Any, Document]:
        with self._mongo.operation():
            found = await self._collection.find({"_id": {"$in": list(ids)}}, self._fields).to_list()
        return {_comparable(document["_id"]): document for document in found}

    async def _stored_by_context(self, documents: Sequence[Document]) -> dict[Any, Document]:
        found: list[Document] = []
        for start in range(0, len(documents), _CONTEXTS):
            some = documents[start : start + _CONTEXTS]
            # $eq, since a value that is itself a document must not be read as an operator.
            contexts = [
                {name: {"$eq": document.get(name)} for name in self._names} for document in some
            ]
            with self._mongo.operation():
                found += await self._collection.find({"$or": contexts}, self._fields).to_list()
        return {self._context(document): document for document in found}

    @property
    def _fields(self) -> dict[str, int]:
        return {**dict.fromkeys(self._names, 1), "_id": 1, "updatedDate": 1}

    async def _replace(self, pairs: Sequence[tuple[Document, bytes]]) -> list[bytes]:
        """Replace stored documents under their ``_id``, unless they were written meanwhile."""
        requests = [ReplaceOne(_as_seen(stored), _as_it_is(raw)) for stored, raw in pairs]
        with self._mongo.operation():
            done = await self._collection.bulk_write(requests, ordered=False)
        if done.matched_count == len(pairs):
            self._counts.replaced += len(pairs)
            return []
        self._counts.replaced += done.matched_count
        return await self._unlike([raw for _, raw in pairs])

    async def _unlike(self, raws: Sequence[bytes]) -> list[bytes]:
        """Return those that are not stored as they are, after writers were met."""
        given = [bson.decode(raw, LENIENT) for raw in raws]
        stored = await self._stored_by_id([document["_id"] for document in given])
        unlike = []
        for raw, document in zip(raws, given, strict=True):
            found = stored.get(_comparable(document["_id"]))
            if found is None or _updated(found) != _updated(document):
                unlike.append(raw)
        return unlike

    async def _drop_ids(self, raws: Sequence[bytes]) -> None:
        if self._domain is None:
            return
        cache = self._container.cache(self._domain)
        keys = []
        for raw in raws:
            key = key_of(cache, self._domain, _as_it_is(raw))
            if key is not None:
                keys.append(key)
        if not keys:
            return
        if self._result.stale_ids:  # waiting anew for each batch helps nobody
            self._result.stale_ids += len(keys)
            return
        try:
            await patiently(
                lambda: self._container.redis_service.run(lambda client: client.unlink(*keys))
            )
        except StoreError:
            self._result.stale_ids += len(keys)


def _context_names(entry: CollectionEntry, domain: Domain | None) -> tuple[str, ...]:
    if domain is not None:
        return domain.key_names
    unique = [index["fields"] for index in entry.indexes if index["unique"]]
    return tuple(name for name, _ in unique[0]) if len(unique) == 1 else ("_id",)


def _as_it_is(raw: bytes) -> Any:
    return RawBSONDocument(raw, _LENIENT_RAW)


def _as_seen(stored: Document) -> dict[str, Any]:
    return {"_id": {"$eq": stored["_id"]}, "updatedDate": {"$eq": stored.get("updatedDate")}}


def _comparable(value: Any) -> Any:
    # To Python True is 1, to MongoDB it is not; of documents their bytes are compared.
    if isinstance(value, bool):
        return (bool, value)
    try:
        hash(value)
    except TypeError:
        return bson.encode({"": value})
    return value


def _updated(document: Document) -> int:
    date = document.get("updatedDate")
    if isinstance(date, datetime):
        return round(date.timestamp() * 1000)
    return int(date) if isinstance(date, DatetimeMS) else 0


def _with_id(raw: bytes, document_id: Any) -> bytes:
    if raw[_ID_AT] == _ID_ELEMENT and isinstance(document_id, ObjectId):
        return raw[:9] + document_id.binary + raw[21:]
    return bson.encode({**_as_it_is(raw), "_id": document_id})
