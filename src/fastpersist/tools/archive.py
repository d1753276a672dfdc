"""The archive of a backup: a plain tar file of gzipped BSON in which no byte is unchecked.

Its members, in this order: ``fastpersist-backup`` with the version of the format; the parts of each
collection, ``<number>-<collection>/<part>.bson.gz``, whole documents one after the other as
``bsondump`` reads them; ``manifest.json`` with the counts and digests of the collections; and
``SHA256``, the digest of all bytes before its own header. Both ways take a part in memory at a
time, at most 20 MiB.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from tarfile import BLOCKSIZE, REGTYPE, USTAR_FORMAT, HeaderError, TarInfo
from typing import Any, BinaryIO, Final

from ..errors import CorruptDataError
from ..hot.bson import split

__all__ = ["ArchiveWriter", "CollectionEntry", "Manifest", "Part", "read_archive"]

PART_BYTES: Final = 4 * 1024 * 1024
_FORMAT: Final = "1"
_MARK: Final = "fastpersist-backup"
_MANIFEST: Final = "manifest.json"
_DIGEST: Final = "SHA256"
# A part ends with the document that fills it, and a document takes 16 MiB at most.
_MOST_PART_BYTES: Final = PART_BYTES + 16 * 1024 * 1024 + 64 * 1024
_MOST_MEMBER_BYTES: Final = _MOST_PART_BYTES + 1024 * 1024
_LEVEL: Final = 2
_END: Final = bytes(2 * BLOCKSIZE)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(kw_only=True)
class CollectionEntry:
    """What the manifest says about one collection.

    Attributes:
        collection: Its stored name.
        folder: Where its parts stand in the archive.
        domain: Name of its domain; None of a collection that no known domain has.
        documents: How many there are.
        bytes: Their size in BSON.
        sha256: Digest of all of them, in the order of ``_id``.
        indexes: Its plain indexes: fields with their directions, and whether they are unique.
    """

    collection: str
    folder: str
    domain: str | None = None
    documents: int = 0
    bytes: int = 0
    sha256: str = ""
    indexes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an archive holds.

    Attributes:
        database: Name of the database that was backed up.
        created: Start of the backup, ISO text in UTC.
        consistent_at: The moment that all collections show, ISO text in UTC; None when each shows
            its own moments, as of a standalone server.
        version: The fastpersist that wrote it.
        collections: In the order of the archive.
    """

    database: str
    created: str
    consistent_at: str | None
    version: str
    collections: list[CollectionEntry]

    @property
    def documents(self) -> int:
        """How many documents the archive holds."""
        return sum(entry.documents for entry in self.collections)


@dataclass(frozen=True)
class Part:
    """A part of a collection.

    Attributes:
        folder: The collection's folder in the archive.
        place: Name and offset of the part, for messages.
        digest: SHA-256 of the documents' bytes.
        documents: Whole documents in BSON.
    """

    folder: str
    place: str
    digest: bytes
    documents: list[bytes]


class ArchiveWriter:
    """Writes an archive from the start to the end, without seeking.

    Args:
        file: Open for writing; it stays open.
        created: Moment of the backup in s since the epoch, for the members' headers.
    """

    def __init__(self, file: BinaryIO, created: int) -> None:
        self._file = file
        self._created = created
        self._digest = sha256()
        self._entry: CollectionEntry | None = None
        self._entry_digest = sha256()
        self._parts = 0
        self.entries: list[CollectionEntry] = []
        self._member(_MARK, f"{_FORMAT}\n".encode())

    def begin(
        self, collection: str, domain: str | None, indexes: Sequence[dict[str, Any]]
    ) -> CollectionEntry:
        """Begin a collection; the parts that follow are its."""
        self.end()
        folder = f"{len(self.entries):03}-{_UNSAFE.sub('_', collection)[:60]}"
        self._entry = CollectionEntry(
            collection=collection, folder=folder, domain=domain, indexes=list(indexes)
        )
        self._entry_digest = sha256()
        self._parts = 0
        return self._entry

    def part(self, documents: Sequence[bytes]) -> None:
        """Write a part of the collection that was begun."""
        assert self._entry is not None
        data = b"".join(documents)
        self._entry_digest.update(data)
        self._entry.documents += len(documents)
        self._entry.bytes += len(data)
        name = f"{self._entry.folder}/{self._parts:06}.bson.gz"
        self._member(name, gzip.compress(data, _LEVEL, mtime=0))
        self._parts += 1

    def end(self) -> None:
        """End the collection that was begun, if there is one."""
        if self._entry is not None:
            self._entry.sha256 = self._entry_digest.hexdigest()
            self.entries.append(self._entry)
            self._entry = None

    def finish(self, manifest: Manifest) -> str:
        """Write the manifest and the digest; the whole file's digest is returned as hex digits."""
        self.end()
        self._member(_MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
        self._member(_DIGEST, f"{self._digest.hexdigest()}\n".encode())
        self._write(_END)
        return self._digest.hexdigest()

    def _member(self, name: str, data: bytes) -> None:
        header = TarInfo(name)
        header.size = len(data)
        header.mtime = self._created
        header.mode = 0o600
        for piece in (header.tobuf(USTAR_FORMAT), data, bytes(-len(data) % BLOCKSIZE)):
            self._write(piece)

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


class _Members:
    """The members of a tar file of regular files, with the digest of all that was read."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self.name = name
        self.digest = sha256()
        self.offset = 0

    def next(self) -> tuple[str, str, bytes, str]:
        """Return a member's name, place and content, and the digest of what comes before it.

        Raises:
            CorruptDataError: It is no regular file, or not as long as it says.
        """
        place, before = f"{self.name}, byte {self.offset}", self.digest.hexdigest()
        try:
            header = TarInfo.frombuf(self._read(BLOCKSIZE, place), "ascii", "strict")
        except (HeaderError, UnicodeDecodeError):
            raise CorruptDataError(place, "no header of a member stands here") from None
        place = f"{place} ({header.name!r:.100})"
        if header.type != REGTYPE or not 0 < header.size <= _MOST_MEMBER_BYTES:
            raise CorruptDataError(place, "no member of a fastpersist archive")
        data = self._read(header.size, place)
        if any(self._read(-header.size % BLOCKSIZE, place)):
            raise CorruptDataError(place, "the space behind it is not empty")
        return header.name, place, data, before

    def _read(self, size: int, place: str) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise CorruptDataError(
                place, f"the file ends too early, at byte {self.offset + len(data)}"
            )
        self.digest.update(data)
        self.offset += size
        return data

    def end(self) -> None:
        """Refuse a file that goes on."""
        if self._file.read(len(_END) + 1) != _END:
            raise CorruptDataError(
                f"{self.name}, byte {self.offset}", "the end of the archive is not as written"
            )


class read_archive:  # noqa: N801  # is iterated over like the generator function it resembles
    """Iterate over the parts of an archive and check all of it on the way.

    Only an iteration that came to its end has checked everything; ``manifest`` and ``digest`` are
    there from then on.

    Args:
        file: Open for reading; it is read from where it stands.
        name: What the file is called in messages.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._members = _Members(file, name)
        self.manifest: Manifest | None = None
        self.digest = ""

    def __iter__(self) -> Iterator[Part]:
        """Yield the parts in their order.

        Raises:
            CorruptDataError: The archive is damaged or something else; it names the place.
        """
        members = self._members
        found: dict[str, CollectionEntry] = {}
        digests: dict[str, Any] = {}
        current, parts = "", 0
        self._check_mark()
        while True:
            name, place, data, _ = members.next()
            if name == _MANIFEST:
                break
            folder, _, rest = name.partition("/")
            if folder != current:
                current, parts = folder, 0
            if rest != f"{parts:06}.bson.gz" or (folder in found and not parts):
                raise CorruptDataError(place, "a part is missing before it, or out of order")
            raw = _unpacked(data, place)
            try:
                documents = split(raw)
            except CorruptDataError as error:
                raise CorruptDataError(place, str(error)) from None
            entry = found.setdefault(folder, CollectionEntry(collection="", folder=folder))
            digests.setdefault(folder, sha256()).update(raw)
            parts += 1
            entry.documents += len(documents)
            entry.bytes += len(raw)
            yield Part(folder, place, sha256(raw).digest(), documents)
        manifest = _parsed(data, place)
        for folder, digest in digests.items():
            found[folder].sha256 = digest.hexdigest()
        _compare(manifest, found, place)
        name, place, data, before = members.next()
        if name != _DIGEST:
            raise CorruptDataError(place, "the digest should stand here")
        if data != f"{before}\n".encode():
            raise CorruptDataError(place, "the bytes before it do not have the digest it tells")
        members.end()
        self.manifest, self.digest = manifest, before

    def _check_mark(self) -> None:
        try:
            name, _, data, _ = self._members.next()
        except CorruptDataError:
            name, data = "", b""
        if name != _MARK:
            raise CorruptDataError(self._members.name, "no archive of fastpersist")
        if data != f"{_FORMAT}\n".encode():
            raise CorruptDataError(
                self._members.name,
                f"an archive of another format ({data[:20]!r}, this version reads {_FORMAT})",
            )


def _unpacked(data: bytes, place: str) -> bytes:
    unpack = zlib.decompressobj(wbits=31)
    try:
        raw = unpack.decompress(data, _MOST_PART_BYTES + 1)
    except zlib.error as error:
        raise CorruptDataError(place, f"cannot be unpacked: {error}") from None
    if len(raw) > _MOST_PART_BYTES:
        raise CorruptDataError(place, f"unpacks to more than {_MOST_PART_BYTES} bytes")
    if not unpack.eof or unpack.unused_data or not raw:
        raise CorruptDataError(place, "is not one whole part")
    return raw


def _parsed(data: bytes, place: str) -> Manifest:
    try:
        found = json.loads(data)
        manifest = Manifest(
            **{
                **found,
                "collections": [CollectionEntry(**entry) for entry in found["collections"]],
            }
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CorruptDataError(place, "no manifest of this format") from None
    texts = [manifest.database, manifest.created, manifest.version]
    texts += [manifest.consistent_at or ""]
    for entry in manifest.collections:
        texts += [entry.collection, entry.folder, entry.domain or "", entry.sha256]
        if type(entry.documents) is not int or type(entry.bytes) is not int:
            raise CorruptDataError(place, "a count in it is no number")
        if not _are_indexes(entry.indexes):
            raise CorruptDataError(place, f"the indexes of {entry.collection!r:.60} are malformed")
    if not all(isinstance(text, str) for text in texts):
        raise CorruptDataError(place, "a name in it is no text")
    names = [entry.collection for entry in manifest.collections]
    for name in names:
        if not name or name.startswith("system.") or "$" in name or "\0" in name:
            raise CorruptDataError(place, f"{name!r:.60} can be no collection")
    if len(set(names)) < len(names):
        raise CorruptDataError(place, "a collection is there twice")
    return manifest


def _are_indexes(indexes: Any) -> bool:
    return isinstance(indexes, list) and all(
        isinstance(index, dict)
        and index.keys() == {"fields", "unique"}
        and isinstance(index["unique"], bool)
        and isinstance(index["fields"], list)
        and index["fields"]
        and all(
            isinstance(field, list)
            and len(field) == 2
            and isinstance(field[0], str)
            and field[1] in (1, -1)
            for field in index["fields"]
        )
        for index in indexes
    )


def _compare(manifest: Manifest, found: dict[str, CollectionEntry], place: str) -> None:
    listed = {entry.folder: entry for entry in manifest.collections}
    for folder in found:
        if folder not in listed:
            raise CorruptDataError(place, f"does not know {folder!r:.80}")
    empty = sha256().hexdigest()
    for folder, entry in listed.items():
        part = found.get(folder, CollectionEntry(collection="", folder=folder, sha256=empty))
        for what in ("documents", "bytes", "sha256"):
            if getattr(entry, what) != getattr(part, what):
                raise CorruptDataError(
                    place,
                    f"{entry.collection}: tells {what} {getattr(entry, what)!r:.80}, "
                    f"the archive has {getattr(part, what)!r:.80}",
                )
