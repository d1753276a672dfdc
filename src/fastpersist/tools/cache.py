"""The ids in Redis: built anew from MongoDB, compared with it, removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

from bson import ObjectId

from ..domains import Domain, Shape
from ..services.cache import HEX_ID, IdCacheService
from ..services.container import Container
from .backup import OnProgress
from .ids import context_of, decoded, key_of, patiently

__all__ = ["Fault", "Verification", "Warmed", "WrongId", "clear", "verify", "warm"]

Fault = Literal["malformed", "deleted", "foreign", "other_context"]
"""What is wrong with an id: it is none; no document has it; a document of another domain has it; a
document of another context has it."""

_BATCH: Final = 1_000
_SHOWN: Final = 20


@dataclass(kw_only=True)
class Warmed:
    """What was put into Redis for one domain.

    Attributes:
        domain: Name of the domain.
        documents: Documents that were read.
        ids: Ids that were put into Redis.
        without_id: Documents whose ``_id`` is no ObjectId or whose key fields are malformed.
        is_left_out: Whether nothing was done, because ``candle_ids`` is off.
    """

    domain: str
    documents: int = 0
    ids: int = 0
    without_id: int = 0
    is_left_out: bool = False


@dataclass(frozen=True, kw_only=True)
class WrongId:
    """An id that does not lead to the document of its key.

    Attributes:
        key: The Redis key.
        fault: What is wrong with it.
        found: The id, or what stands in its place, cut to 60 characters.
        repair: What was done: ``replaced`` by the right id, ``removed``, or None.
    """

    key: str
    fault: Fault
    found: str
    repair: Literal["replaced", "removed"] | None


@dataclass(kw_only=True)
class Verification:
    """What the comparison of a domain's ids with its documents has found.

    Attributes:
        domain: Name of the domain.
        checked: Keys that were looked at.
        wrong: How many have each fault.
        repaired: How many of them were repaired.
        first: The first twenty of them.
    """

    domain: str
    checked: int = 0
    wrong: dict[Fault, int] = field(default_factory=dict)
    repaired: int = 0
    first: list[WrongId] = field(default_factory=list)

    @property
    def wrong_ids(self) -> int:
        """How many ids are wrong, repaired or not."""
        return sum(self.wrong.values())


async def warm(
    container: Container,
    domains: Iterable[Domain],
    on_progress: OnProgress = lambda domain, done, total: None,
) -> list[Warmed]:
    """Put the ids of all documents into Redis, a thousand in a round trip.

    Documents are read as they come, a batch in memory at a time. Candles are left out while the
    setting ``candle_ids`` is off.

    Raises:
        StoreUnavailableError: A store did not answer.
    """
    warmed = []
    for domain in domains:
        result = Warmed(domain=domain.name)
        warmed.append(result)
        if domain.shape is Shape.CANDLE and not container.settings.candle_ids:
            result.is_left_out = True
            continue
        with container.mongo_service.operation():
            collection = container.mongo_service.collection(domain.collection)
            total = await collection.estimated_document_count()
        cache = container.cache(domain)
        batches = container.mongo_service.raw_batches(
            domain.collection, {}, dict.fromkeys(domain.key_names, 1)
        )
        async with aclosing(batches):
            async for batch in batches:
                for start in range(0, len(batch), _BATCH):
                    await _warm(container, domain, cache, batch[start : start + _BATCH], result)
                    on_progress(domain.name, result.documents, max(total, result.documents))
    return warmed


async def _warm(
    container: Container,
    domain: Domain,
    cache: IdCacheService,
    raws: Sequence[bytes],
    result: Warmed,
) -> None:
    ids: dict[bytes, bytes] = {}
    result.documents += len(raws)
    for raw in raws:
        document = decoded(raw)
        key = key_of(cache, domain, document)
        if key is None or not isinstance(document.get("_id"), ObjectId):
            result.without_id += 1
        else:
            ids[key] = str(document["_id"]).encode()
    await patiently(lambda: container.redis_service.set_many(ids, {}))
    result.ids += len(ids)


async def verify(
    container: Container,
    domains: Sequence[Domain],
    known: Sequence[Domain],
    *,
    fix: bool = False,
    most: int | None = None,
    on_progress: OnProgress = lambda domain, done, total: None,
) -> list[Verification]:
    """Compare the ids in Redis with the documents that they lead to.

    A wrong id is replaced by that of the key's document where the key tells its context without
    doubt, and removed elsewhere; the next read then puts the right one there.

    Args:
        container: Connected services.
        domains: The domains to look at.
        known: The domains in which an id that is not the domain's own is looked for.
        fix: Whether wrong ids are repaired.
        most: How many keys of each domain are looked at, about; None for all.
        on_progress: Is told of the keys that were looked at, whose total is not known.

    Raises:
        StoreUnavailableError: A store did not answer.
    """
    found = []
    for domain in domains:
        result = Verification(domain=domain.name)
        found.append(result)
        scan = container.cache(domain).scan(_BATCH if most is None else min(most, _BATCH))
        async with aclosing(scan):
            async for keys in scan:
                if most is not None:
                    keys = keys[: most - result.checked]
                for start in range(0, len(keys), _BATCH):
                    batch = keys[start : start + _BATCH]
                    await _compare(container, domain, known, batch, fix, result)
                on_progress(domain.name, result.checked, result.checked)
                if most is not None and result.checked >= most:
                    break
    return found


async def _compare(
    container: Container,
    domain: Domain,
    known: Sequence[Domain],
    keys: Sequence[bytes],
    fix: bool,
    result: Verification,
) -> None:
    cache = container.cache(domain)
    values = await patiently(lambda: container.redis_service.get_many(keys))
    ids: dict[bytes, ObjectId] = {}
    faults: dict[bytes, Fault] = {}
    texts = dict(zip(keys, values, strict=True))
    for key, text in texts.items():
        if text is not None and HEX_ID.match(text):
            ids[key] = ObjectId(text.decode())
        else:
            faults[key] = "malformed"
    # What MGET has no answer for may have gone since the scan, or be no text at all.
    for key in [key for key, text in texts.items() if text is None]:
        if not await patiently(partial(_exists, container, key)):
            del faults[key], texts[key]
    documents = await _documents(container, domain, ids.values())
    missing = {key: found for key, found in ids.items() if found not in documents}
    strangers = await _strangers(container, domain, known, set(missing.values()))
    for key, found in ids.items():
        if key in missing:
            faults[key] = "foreign" if found in strangers else "deleted"
        elif key_of(cache, domain, documents[found]) != key:
            faults[key] = "other_context"
    result.checked += len(texts)
    repairs = await _repair(container, domain, cache, list(faults)) if fix and faults else {}
    for key, fault in faults.items():
        result.wrong[fault] = result.wrong.get(fault, 0) + 1
        repair = repairs.get(key)
        result.repaired += repair is not None
        if len(result.first) < _SHOWN:
            text = texts[key]
            shown = "no text" if text is None else text.decode("utf-8", "replace")[:60]
            result.first.append(
                WrongId(key=key.decode("utf-8", "replace"), fault=fault, found=shown, repair=repair)
            )


async def _exists(container: Container, key: bytes) -> bool:
    return bool(await container.redis_service.run(lambda client: client.exists(key)))


async def _documents(
    container: Container, domain: Domain, ids: Iterable[ObjectId]
) -> Mapping[ObjectId, Mapping[str, Any]]:
    wanted = list(set(ids))
    if not wanted:
        return {}
    found = await container.mongo_service.find_all_raw(
        domain.collection, {"_id": {"$in": wanted}}, dict.fromkeys(domain.key_names, 1)
    )
    return {document["_id"]: document for document in map(decoded, found)}


async def _strangers(
    container: Container, domain: Domain, known: Iterable[Domain], ids: set[ObjectId]
) -> set[ObjectId]:
    """Return those of the ids that documents of other domains have."""
    strangers: set[ObjectId] = set()
    for other in known:
        rest = ids - strangers
        if rest and other.collection != domain.collection:
            strangers.update(await _documents(container, other, rest))
    return strangers


async def _repair(
    container: Container, domain: Domain, cache: IdCacheService, keys: Sequence[bytes]
) -> dict[bytes, Literal["replaced", "removed"]]:
    contexts = {key: context_of(cache, domain, key) for key in keys}
    asked = [
        {name: {"$eq": value} for name, value in zip(domain.key_names, context, strict=True)}
        for context in contexts.values()
        if context is not None
    ]
    right: dict[bytes, bytes] = {}
    for start in range(0, len(asked), 100):
        found = await container.mongo_service.find_all_raw(
            domain.collection,
            {"$or": asked[start : start + 100]},
            dict.fromkeys(domain.key_names, 1),
        )
        for document in map(decoded, found):
            key = key_of(cache, domain, document)
            if key in contexts and isinstance(document["_id"], ObjectId):
                right[key] = str(document["_id"]).encode()
    wrong = [key for key in keys if key not in right]
    redis = container.redis_service
    if wrong:
        await patiently(lambda: redis.run(lambda client: client.unlink(*wrong)))
    # SET replaces a value of any kind.
    await patiently(lambda: redis.set_many(right, {}))
    return {key: "replaced" if key in right else "removed" for key in keys}


async def clear(container: Container, domains: Iterable[Domain]) -> dict[str, int]:
    """Remove the ids of domains from Redis and return how many each had.

    Only keys below the prefix and the domains' own namespaces are touched.

    Raises:
        StoreUnavailableError: Redis did not answer.
    """
    removed = {}
    for domain in domains:
        # What was deleted before Redis fell silent stays deleted; the repeat counts the rest.
        removed[domain.name] = await patiently(container.cache(domain).clear)
    return removed
