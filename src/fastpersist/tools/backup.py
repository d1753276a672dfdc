"""Backup: all collections of a database into one archive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from bson import Timestamp
from pymongo.errors import InvalidName

from .._version import __version__
from ..domains import Domain
from ..errors import StoreError
from ..services.container import Container
from ..services.mongo import translated_errors
from ..times import to_datetime
from .archive import PART_BYTES, ArchiveWriter, Manifest

__all__ = ["RESTORE_MARK", "SCRATCH", "Backup", "OnProgress", "back_up", "stored_collections"]

OnProgress = Callable[[str, int, int], None]
"""Is told of a collection, of how many of its documents are done, and of about how many it has."""

RESTORE_MARK: Final = "fastpersist-restore"
"""The collection that tells of a restore that has begun and not ended."""

SCRATCH: Final = "fastpersist-doctor"
"""The collection whose writes are measured; it is dropped afterwards."""

_ATTEMPTS: Final = 5
_PAUSE_SECONDS: Final = 0.5
_SNAPSHOT_TOO_OLD: Final = 239
_SNAPSHOT_UNAVAILABLE: Final = 246
_INDEX_BASICS: Final = frozenset({"v", "key", "name", "unique", "background", "ns"})


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What a backup wrote.

    Attributes:
        manifest: What the archive holds.
        sha256: Digest of the file, as other programs compute it.
        left_out: Indexes that a restore will not make, as ``collection.index``: those with options
            beyond their fields and ``unique``, of collections that no known domain has.
    """

    manifest: Manifest
    sha256: str
    left_out: list[str]


async def back_up(
    container: Container,
    file: BinaryIO,
    domains: Sequence[Domain],
    on_progress: OnProgress = lambda collection, done, total: None,
) -> Backup:
    """Write all collections of the database to `file`, those of unknown domains too.

    On a replica set all of them show one moment; on a standalone server each shows what it held
    while it was read, and the manifest says so.

    Args:
        container: Connected services.
        file: Open for writing, empty and seekable.
        domains: The domains that are known here.
        on_progress: Is called after each part.

    Raises:
        OSError: `file` cannot be written.
        StoreError: MongoDB refused a read; on a replica set perhaps because the backup took longer
            than the server keeps its history.
        StoreUnavailableError: MongoDB did not answer within the operation's deadline.
    """
    attempts_left = _ATTEMPTS
    while True:
        attempts_left -= 1
        try:
            return await _back_up(container, file, domains, on_progress)
        except StoreError as error:
            code = getattr(error.__cause__, "code", None)
            # An index that was just made, by a start of a runner, has no history yet.
            if code == _SNAPSHOT_UNAVAILABLE and attempts_left:
                await asyncio.sleep(_PAUSE_SECONDS)
                file.seek(0)
                file.truncate()
                continue
            if code == _SNAPSHOT_TOO_OLD:
                raise StoreError(
                    "mongo: the backup took longer than the server keeps its history",
                    hint="raise the server parameter minSnapshotHistoryWindowInSeconds, "
                    "300 by default",
                ) from error
            raise


async def stored_collections(container: Container) -> list[str]:
    """Return the names of the database's collections, without the server's own and views."""
    mongo = container.mongo_service
    with mongo.operation():
        cursor = await mongo.database.list_collections(filter={"type": "collection"})
        found = await cursor.to_list()
    names = (str(collection["name"]) for collection in found)
    ours = (RESTORE_MARK, SCRATCH)
    return sorted(name for name in names if not name.startswith("system.") and name not in ours)


async def _back_up(
    container: Container, file: BinaryIO, domains: Sequence[Domain], on_progress: OnProgress
) -> Backup:
    known = {domain.collection: domain for domain in domains}
    names = await stored_collections(container)
    for name in names:
        try:
            container.mongo_service.collection(name)
        except InvalidName as error:
            raise StoreError(
                f"mongo: the driver reads no collection with the name {name!r}",
                hint="rename it or drop it; an archive without it would not be the whole database",
            ) from error
    started = int(time.time())
    # After the list, so that all of it exists at that moment.
    at = await container.mongo_service.cluster_time()
    writer = ArchiveWriter(file, started)
    left_out: list[str] = []
    for name in names:
        domain = known.get(name)
        indexes, others = await _indexes(container, name)
        if domain is None:
            left_out += [f"{name}.{index}" for index in others]
        entry = writer.begin(name, domain.name if domain else None, indexes)
        with container.mongo_service.operation():
            total = await container.mongo_service.collection(name).estimated_document_count()
        async with aclosing(_parts(container, name, at)) as parts:
            async for part in parts:
                await asyncio.to_thread(writer.part, part)
                on_progress(name, entry.documents, max(total, entry.documents))
    writer.end()
    manifest = Manifest(
        database=container.mongo_service.database.name,
        created=to_datetime(started * 1000).isoformat(),
        consistent_at=None if at is None else to_datetime(at.time * 1000).isoformat(),
        version=__version__,
        collections=writer.entries,
    )
    return Backup(manifest=manifest, sha256=writer.finish(manifest), left_out=left_out)


async def _indexes(container: Container, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the plain indexes of a collection and the names of the others."""
    with container.mongo_service.operation(), translated_errors():
        found = await (await container.mongo_service.collection(name).list_indexes()).to_list()
    plain, others = [], []
    for index in found:
        fields = [[field, direction] for field, direction in index["key"].items()]
        if index["name"] == "_id_":
            continue
        if index.keys() <= _INDEX_BASICS and all(direction in (1, -1) for _, direction in fields):
            fields = [[field, int(direction)] for field, direction in fields]
            plain.append({"fields": fields, "unique": bool(index.get("unique"))})
        else:
            others.append(str(index["name"]))
    return plain, others


async def _parts(
    container: Container, name: str, at: Timestamp | None
) -> AsyncGenerator[list[bytes], None]:
    """Yield the documents of a collection, in the order of ``_id``, in parts of the archive."""
    batches = container.mongo_service.raw_batches(name, {}, sort=[("_id", 1)], at=at)
    part: list[bytes] = []
    size = 0
    async with aclosing(batches):
        async for batch in batches:
            for document in batch:
                part.append(document)
                size += len(document)
                if size >= PART_BYTES:
                    yield part
                    part, size = [], 0
    if part:
        yield part
