"""Document operations over one collection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bson import ObjectId
from bson.errors import InvalidId
from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from ..errors import InvalidArgumentError
from ..times import now_ms, to_datetime
from .mongo import Document, MongoService, Operation

__all__ = ["BaseCRUD", "Page", "upsert_of", "utc_now"]

NEWEST_FIRST: Final = (("updatedDate", -1), ("_id", -1))
# The server retries an upsert that lost a race by itself; this covers the versions that do not.
UPSERT_ATTEMPTS: Final = 5
_ITERATE_BATCH: Final = 500


_latest: tuple[int, datetime] = (0, to_datetime(0))


def utc_now() -> datetime:
    """Return the wall clock as an aware datetime with whole milliseconds, as MongoDB keeps it."""
    global _latest
    now, latest = now_ms(), _latest
    if latest[0] != now:
        # Made once a millisecond: writes that travel together mostly share it.
        latest = _latest = now, to_datetime(now)
    return latest[1]


def upsert_of(fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the update that sets `fields` and, on a new document, what the layout adds."""
    return {"$set": fields, "$setOnInsert": {"createDate": now, "__v": 0}}


@dataclass(frozen=True, slots=True)
class Page:
    """One page of documents and how many there are in all."""

    total: int
    rows: list[Document]


class BaseCRUD:
    """Creates, finds and changes documents. Ids are 24 hex digits in an ``id`` field outside.

    ``createDate``, ``updatedDate`` and ``__v`` are kept as the layout has them (section 2).
    Every operation raises :class:`~fastpersist.errors.StoreUnavailableError` when MongoDB does not
    answer within the operation's deadline.

    Args:
        mongo: The service that gives the collection.
        collection: Stored name of the collection.
    """

    def __init__(self, mongo: MongoService, collection: str) -> None:
        self._mongo = mongo
        self._collection_name = collection

    @property
    def collection(self) -> AsyncCollection[Document]:
        """The driver's collection."""
        return self._mongo.collection(self._collection_name)

    def _operation(self) -> Operation:
        return self._mongo.operation()

    async def create(self, fields: Mapping[str, Any]) -> Document:
        """Insert a document and return it.

        Raises:
            StoreError: A document of the same unique key is there.
        """
        now = utc_now()
        document = {
            "_id": ObjectId(),
            **_without_id(fields),
            "createDate": now,
            "updatedDate": now,
            "__v": 0,
        }
        with self._operation():
            await self.collection.insert_one(document)
        return _outside(document)

    async def update(self, document_id: str, fields: Mapping[str, Any]) -> Document | None:
        """Set fields of a document and return it, None when there is none."""
        return await self._update(
            {"_id": _object_id(document_id)},
            {"$set": {**_without_id(fields), "updatedDate": utc_now()}},
        )

    async def find_by_id(self, document_id: str) -> Document | None:
        """Return a document, or None."""
        return await self._find_one({"_id": _object_id(document_id)})

    async def find_by_filter(
        self, query: Mapping[str, Any], sort: Mapping[str, int] | None = None
    ) -> Document | None:
        """Return the first document that matches, or None; `sort` maps fields to 1 or -1."""
        return await self._find_one(query, sort)

    async def _find_one(
        self, query: Mapping[str, Any], sort: Mapping[str, int] | None = None
    ) -> Document | None:
        with self._operation():
            document: Document | None = await self.collection.find_one(
                _inside(query), sort=list(sort.items()) if sort else None
            )
        return None if document is None else _outside(document)

    async def find_all(
        self, query: Mapping[str, Any] | None = None, sort: Mapping[str, int] | None = None
    ) -> list[Document]:
        """Return all documents that match, newest update first unless told otherwise."""
        return [document async for document in self.iterate(query, sort)]

    async def iterate(
        self, query: Mapping[str, Any] | None = None, sort: Mapping[str, int] | None = None
    ) -> AsyncIterator[Document]:
        """Yield the documents that match as they arrive, newest update first by default."""
        async with self.collection.find(
            _inside(query or {}), sort=list(sort.items()) if sort else list(NEWEST_FIRST)
        ) as cursor:
            while True:
                with self._operation():
                    batch = await cursor.to_list(_ITERATE_BATCH)
                for document in batch:
                    yield _outside(document)
                if len(batch) < _ITERATE_BATCH:
                    return

    async def paginate(
        self,
        query: Mapping[str, Any] | None = None,
        *,
        limit: int,
        offset: int = 0,
        sort: Mapping[str, int] | None = None,
    ) -> Page:
        """Return `limit` documents from `offset` on, and the total number that match."""
        for name, number in (("limit", limit), ("offset", offset)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise InvalidArgumentError(name, "must be a whole number that is not negative")
        inside = _inside(query or {})
        with self._operation():
            total = await self.collection.count_documents(inside)
            if limit == 0:
                return Page(total, [])
            async with self.collection.find(
                inside,
                sort=list(sort.items()) if sort else list(NEWEST_FIRST),
                skip=offset,
                limit=limit,
            ) as cursor:
                rows = await cursor.to_list()
        return Page(total, [_outside(row) for row in rows])

    async def upsert(self, key: Mapping[str, Any], fields: Mapping[str, Any]) -> Document:
        """Set `fields` of the document with exactly this key, made if absent, and return it.

        `key` has to be all fields of a unique index: concurrent first writers then make one
        document and none of them fails.
        """
        now = utc_now()
        return _outside(await self._upsert(key, upsert_of({**fields, "updatedDate": now}, now)))

    async def _upsert(
        self,
        key: Mapping[str, Any],
        update: Mapping[str, Any],
        projection: Mapping[str, Any] | None = None,
    ) -> Document:
        attempts_left = UPSERT_ATTEMPTS
        with self._operation():
            while True:
                attempts_left -= 1
                try:
                    document: Document | None = await self.collection.find_one_and_update(
                        key,
                        update,
                        projection=projection,
                        upsert=True,
                        return_document=ReturnDocument.AFTER,
                    )
                    assert document is not None  # an upsert always has one
                    return document
                except DuplicateKeyError:
                    if not attempts_left:
                        raise

    async def soft_remove(self, key: Mapping[str, Any]) -> Document | None:
        """Flag the document with this key as removed and return it, None when there is none."""
        document = await self._soft_remove(key)
        return None if document is None else _outside(document)

    async def _soft_remove(self, key: Mapping[str, Any]) -> Document | None:
        update = {"$set": {"removed": True, "payload.removed": True, "updatedDate": utc_now()}}
        with self._operation():
            document: Document | None = await self.collection.find_one_and_update(
                key, update, return_document=ReturnDocument.AFTER
            )
        return document

    async def _update(self, query: Mapping[str, Any], update: Mapping[str, Any]) -> Document | None:
        with self._operation():
            document: Document | None = await self.collection.find_one_and_update(
                query, update, return_document=ReturnDocument.AFTER
            )
        return None if document is None else _outside(document)


def _object_id(document_id: Any) -> ObjectId:
    try:
        return ObjectId(document_id)
    except (InvalidId, TypeError):
        raise InvalidArgumentError("id", f"not 24 hex digits: {document_id!r:.40}") from None


def _without_id(fields: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("id", "_id"):
        if name in fields:
            raise InvalidArgumentError(name, "ids are made by the store")
    return dict(fields)


def _inside(query: Mapping[str, Any]) -> dict[str, Any]:
    inside = dict(query)
    if "id" in inside:
        inside["_id"] = _object_id(inside.pop("id"))
    return inside


def _outside(document: Document) -> Document:
    document_id = document.pop("_id", None)
    return {"id": str(document_id), **document} if document_id is not None else document
