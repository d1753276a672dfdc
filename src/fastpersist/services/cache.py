"""The id caches: Redis key to document id, with the ids used last kept in this process."""

from __future__ import annotations

import re
from binascii import a2b_hex
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bson import ObjectId

from ..domains import Domain, Shape
from ..errors import StoreError
from ..hot.idcache import IdCache
from ..hot.keys import KeyTemplate
from .base_map import NO_TTL, BaseMap
from .logger import LoggerService
from .redis import RedisService

__all__ = ["HEX_ID", "IdCacheService"]

HEX_ID: Final = re.compile(rb"[0-9a-fA-F]{24}\Z")
"""An id as Redis holds it."""

_BATCH: Final = 1000


class IdCacheService(BaseMap):
    """The id cache of one domain: ids are 24 hex digits in Redis, 12 bytes in this process.

    It is only ever a hint: what Redis says is checked against the document by the db service, and
    a Redis that fails costs a slower read. Candle ids live in Redis alone, for the Node runner:
    windows are read by range, so keeping them here would only push out ids that are used. Without
    `stores_ids` nothing is put into Redis.
    """

    def __init__(
        self,
        domain: Domain,
        redis: RedisService,
        logger: LoggerService,
        ids: IdCache,
        prefix: str = "",
        *,
        stores_ids: bool = True,
    ) -> None:
        super().__init__(redis, prefix + domain.namespace, NO_TTL)
        self._template = KeyTemplate(domain.namespace, domain.key_parts, domain.key_order, prefix)
        self._logger = logger
        self._ids = ids
        self._stores_ids = stores_ids
        self._keeps_ids = domain.shape is not Shape.CANDLE

    def key(self, values: tuple[Any, ...]) -> bytes:
        """Return the Redis key of a full context; the values are checked on the way.

        Raises:
            InvalidArgumentError: A value has the wrong type, is empty or cannot be encoded.
        """
        return self._template(*values)

    async def delete(self, key: str) -> bool:
        """Delete the id under `key` here and in Redis; say whether Redis had it."""
        self._ids.drop(self.stored_key(key))
        return await super().delete(key)

    async def clear(self) -> int:
        """Delete all ids of the domain here and in Redis and return how many Redis had."""
        # The ids in this process are of all domains and cheap to find again.
        self._ids.clear()
        return await super().clear()

    def known_id(self, key: bytes) -> bytes | None:
        """Return the 12 bytes of the id that this process has seen on the document of `key`."""
        return self._ids.get(key)

    async def find_id(self, key: bytes) -> bytes | None:
        """Return the 12 bytes of the id that Redis holds under `key`; malformed is absent."""
        try:
            text = await self._get(key)
        except StoreError:
            return None
        return a2b_hex(text) if text is not None and HEX_ID.match(text) else None

    def keep(self, key: bytes, document_id: bytes) -> None:
        """Keep an id in this process, once the document has proved to belong to `key`."""
        if self._keeps_ids:
            self._ids.put(key, document_id)

    async def remember(self, key: bytes, document_id: Any) -> None:
        """Put the id of a document under `key`; an id of another kind is forgotten instead."""
        if not isinstance(document_id, ObjectId):
            await self.forget([key])
            return
        self.keep(key, document_id.binary)
        if not self._stores_ids:
            return
        try:
            await self._set(key, str(document_id).encode())
        except StoreError as error:
            self._logger.debug("redis: an id was not cached", reason=str(error))

    async def remember_many(self, ids: Mapping[bytes, ObjectId]) -> None:
        """Put several ids, a thousand in a round trip."""
        if self._keeps_ids:
            for key, document_id in ids.items():
                self._ids.put(key, document_id.binary)
        if not self._stores_ids:
            return
        items = list(ids.items())
        try:
            for start in range(0, len(items), _BATCH):
                batch = items[start : start + _BATCH]
                await self._set_many({key: str(document_id).encode() for key, document_id in batch})
        except StoreError as error:
            self._logger.debug("redis: ids were not cached", count=len(ids), reason=str(error))

    async def forget(self, keys: Iterable[bytes]) -> None:
        """Drop ids from this process and from Redis."""
        stored = list(keys)
        if not stored:
            return
        for key in stored:
            self._ids.drop(key)
        try:
            for start in range(0, len(stored), _BATCH):
                await self._delete(stored[start : start + _BATCH])
        except StoreError as error:
            self._logger.debug("redis: ids were not dropped", reason=str(error))
