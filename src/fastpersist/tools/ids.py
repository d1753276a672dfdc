"""What the tools share about cached ids: keys of documents, and patience with Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import bson

from ..domains import Domain
from ..errors import CorruptDataError, InvalidArgumentError, StoreUnavailableError
from ..hot.bson import decode
from ..services.cache import IdCacheService
from ..services.mongo import LENIENT

__all__ = ["context_of", "decoded", "key_of", "patiently"]

T = TypeVar("T")

_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "name": str,
    "optional_name": str,
    "mode": {"backtest": True, "live": False}.__getitem__,
    "timestamp": int,
}
_PATIENCE_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 0.05


def decoded(raw: bytes) -> dict[str, Any]:
    """Return the fields of a document; its ``_id`` alone if a text in it is no UTF-8.

    Such a text is no name of a context, so the document has no key either.
    """
    try:
        return decode(raw)
    except CorruptDataError:
        return {"_id": bson.decode(raw, LENIENT)["_id"]}


def key_of(cache: IdCacheService, domain: Domain, document: Mapping[str, Any]) -> bytes | None:
    """Return the Redis key of a document, None when its key fields are none of the domain's."""
    values = []
    for field in domain.key:
        value = document.get(field.stored)
        # The Node runner stores times as doubles.
        if field.kind == "timestamp" and isinstance(value, float) and value.is_integer():
            value = int(value)
        values.append(value)
    try:
        return cache.key(tuple(values))
    except InvalidArgumentError:
        return None


def context_of(cache: IdCacheService, domain: Domain, key: bytes) -> tuple[Any, ...] | None:
    """Return the context that a Redis key tells, in the order of the domain's key.

    None where it is not one context without doubt, as when a name in it holds a colon.
    """
    # The cache's own prefix, namespace and colon stand before every key of it.
    start = len(cache.stored_key(b"x")) - 1
    parts = key[start:].split(b":")
    if len(parts) != len(domain.cache_order):
        return None
    kinds = {field.stored: field.kind for field in domain.key}
    values: dict[str, Any] = {}
    for name, part in zip(domain.cache_order, parts, strict=True):
        try:
            text = part.decode()
            values[name] = _READERS[kinds[name]](text)
        except (UnicodeDecodeError, KeyError, ValueError):
            return None
    context = tuple(values[name] for name in domain.key_names)
    try:
        return context if cache.key(context) == key else None
    except InvalidArgumentError:
        return None


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Return what `call` returns, asking again for five seconds while Redis does not answer.

    Raises:
        StoreUnavailableError: It did not in that time.
    """
    deadline, pause = time.monotonic() + _PATIENCE_SECONDS, _FIRST_PAUSE
    while True:
        try:
            return await call()
        except StoreUnavailableError:
            if time.monotonic() + pause > deadline:
                raise
            await asyncio.sleep(pause)
            pause *= 2
