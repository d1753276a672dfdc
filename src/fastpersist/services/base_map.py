"""A namespaced map of texts on Redis."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from typing import Final

from ..errors import InvalidArgumentError
from .redis import RedisService

__all__ = ["DEFAULT_TTL", "NO_TTL", "BaseMap"]

NO_TTL: Final = -1
DEFAULT_TTL: Final = 300
_SCAN_BATCH: Final = 100
_CLEAR_BATCH: Final = 1000
_GLOB_CHARACTERS: Final = frozenset(b"*?[]\\^-")


class BaseMap:
    """Keys and values under ``<namespace>:<key>``; other namespaces are never touched.

    Everything below ``<namespace>:`` is this map's, so a namespace ``a:b`` lies within ``a``.
    Every operation raises :class:`~fastpersist.errors.StoreUnavailableError` when Redis does not
    answer within its budget. Works on Redis Cluster: operations over several keys are split by
    slot.

    Args:
        redis: The service that runs the commands.
        namespace: First part of the keys; may hold any character.
        ttl: Life time of a value in seconds, set together with it; -1 for none.
    """

    def __init__(self, redis: RedisService, namespace: str, ttl: int = DEFAULT_TTL) -> None:
        if not isinstance(namespace, str) or not namespace:
            raise InvalidArgumentError("namespace", "must be a text that is not empty")
        if isinstance(ttl, bool) or not isinstance(ttl, int) or (ttl < 1 and ttl != NO_TTL):
            raise InvalidArgumentError("ttl", f"must be whole seconds or {NO_TTL}, got {ttl!r:.20}")
        self._redis = redis
        self._prefix = namespace.encode() + b":"
        self._pattern = _escaped(self._prefix) + b"*"
        self._expiry: dict[str, int] = {} if ttl == NO_TTL else {"ex": ttl}

    def stored_key(self, key: str | bytes) -> bytes:
        """Return the Redis key of `key`.

        Raises:
            InvalidArgumentError: `key` is empty or cannot be encoded.
        """
        if not key:
            raise InvalidArgumentError("key", "must not be empty")
        try:
            return self._prefix + (key.encode() if isinstance(key, str) else key)
        except UnicodeEncodeError:
            raise InvalidArgumentError("key", "holds a lone surrogate") from None

    async def get(self, key: str) -> str | None:
        """Return the value, or None."""
        return _text(await self._get(self.stored_key(key)))

    async def set(self, key: str, value: str) -> None:
        """Store the value together with the map's life time."""
        await self._set(self.stored_key(key), value.encode())

    async def get_many(self, keys: Iterable[str]) -> list[str | None]:
        """Return the values of `keys` in their order, None for what is absent."""
        values = await self._get_many([self.stored_key(key) for key in keys])
        return [_text(value) for value in values]

    async def set_many(self, items: Mapping[str, str]) -> None:
        """Store several values in one round trip."""
        await self._set_many({self.stored_key(key): text.encode() for key, text in items.items()})

    async def delete(self, key: str) -> bool:
        """Delete the key; say whether it was there."""
        return await self._delete([self.stored_key(key)]) > 0

    async def has(self, key: str) -> bool:
        """Say whether the key is there."""
        stored = self.stored_key(key)
        return bool(await self._redis.run(lambda client: client.exists(stored)))

    async def clear(self) -> int:
        """Delete all keys of this namespace and return how many there were."""
        count = 0
        # A key that SCAN gives twice is deleted once, so that none need be remembered.
        async for batch in self.scan(_CLEAR_BATCH):
            count += await self._delete(batch)
        return count

    async def scan(self, count: int = _SCAN_BATCH) -> AsyncGenerator[list[bytes], None]:
        """Yield the stored keys of this namespace, about `count` for each round trip.

        While the server rehashes a key may be there twice.
        """
        for node in self._redis.primaries():
            async for batch in self._redis.scan(self._pattern, count, node):
                ours = [key for key in batch if key.startswith(self._prefix)]
                if ours:
                    yield ours

    async def iterate(self) -> AsyncIterator[tuple[str, str]]:
        """Yield key and value of all, read in batches of about 100; never blocks the server."""
        async for batch in self._batches():
            for stored, value in zip(batch, await self._get_many(batch), strict=True):
                if value is not None:
                    yield _text_of(stored[len(self._prefix) :]), _text_of(value)

    async def keys(self) -> AsyncIterator[str]:
        """Yield all keys, without the namespace."""
        async for batch in self._batches():
            for stored in batch:
                yield _text_of(stored[len(self._prefix) :])

    async def values(self) -> AsyncIterator[str]:
        """Yield all values."""
        async for _, value in self.iterate():
            yield value

    async def to_array(self) -> list[tuple[str, str]]:
        """Return key and value of all."""
        return [item async for item in self.iterate()]

    async def size(self) -> int:
        """Return how many keys there are."""
        count = 0
        async for batch in self._batches():
            count += len(batch)
        return count

    async def _batches(self) -> AsyncIterator[list[bytes]]:
        seen: set[bytes] = set()
        async for batch in self.scan():
            fresh = [key for key in dict.fromkeys(batch) if key not in seen]
            seen.update(fresh)
            if fresh:
                yield fresh

    async def _get(self, stored: bytes) -> bytes | None:
        return await self._redis.lookups(stored, stored)

    async def _set(self, stored: bytes, value: bytes) -> None:
        if self._expiry:
            await self._redis.set_many({stored: value}, self._expiry)
        else:
            await self._redis.fills(stored, (stored, value))

    async def _get_many(self, stored: list[bytes]) -> list[bytes | None]:
        return await self._redis.get_many(stored)

    async def _set_many(self, items: Mapping[bytes, bytes]) -> None:
        await self._redis.set_many(items, self._expiry)

    async def _delete(self, stored: list[bytes]) -> int:
        if not stored:
            return 0
        return int(await self._redis.run(lambda client: client.unlink(*stored)))


def _escaped(prefix: bytes) -> bytes:
    return b"".join(
        b"\\" + bytes((byte,)) if byte in _GLOB_CHARACTERS else bytes((byte,)) for byte in prefix
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else _text_of(value)


def _text_of(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
