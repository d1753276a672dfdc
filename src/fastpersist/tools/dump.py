"""Between a ``dump`` tree of the file family, of either implementation, and the store.

Which context a file belongs to is read from its name where that can only be split in one way:
always in candle, storage, notification, log, measure, interval, memory, state and session. Names
that are joined by ``_`` need more where a name holds that sign itself: signal, schedule and recent
the fields strategyName and exchangeName of their row, risk those of its positions, partial and
breakeven a row of the same tree that has their signal's id. What is left without a single
context, such as a cleared signal or any strategy, needs the names from whoever knows them. A file
with several possible contexts is named and not imported.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any, Final

import bson
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from ..adapters.backend import Key
from ..adapters.dual_store import DualStoreBackend
from ..adapters.files import (
    FilesBackend,
    is_passed_over,
    keys_of_path,
    load_json,
    load_within,
    names_other_context,
    natural_key,
    payload_moment,
)
from ..adapters.json_text import to_json
from ..domains import CANDLE, CANDLE_FIGURES, INTERVAL_STEP_MS, Domain, Shape
from ..errors import (
    CorruptDataError,
    FastPersistError,
    InvalidDocumentError,
    StoreError,
    StoreUnavailableError,
)
from ..hot.bson import decode, encode
from ..hot.columns import rows
from ..payloads import checked_candles, checked_entry, checked_positions, checked_record
from ..services.base_crud import UPSERT_ATTEMPTS
from ..services.container import Container
from ..services.db import encoded_fitting
from ..services.mongo import DUPLICATE_KEY, LENIENT
from ..times import now_ms, to_datetime
from .backup import OnProgress

__all__ = ["DomainCount", "DumpReport", "Problem", "export_dump", "import_dump"]

_BATCH: Final = 500
_BATCH_BYTES: Final = 16 * 1024 * 1024
_CANDLE_BATCH: Final = 2_000
_WRITE_BYTES: Final = 8 * 1024 * 1024
_CONTEXTS: Final = 100
_SHOWN_OF_WAY: Final = 40
_SIGNAL_ROWS: Final = ("storage", "signal", "schedule", "recent")
_SIGNALS_OF_A_STRATEGY: Final = (
    "closedSignal", "cancelledSignal", "activatedSignal", "takeProfitSignal", "stopLossSignal",
    "retryOpenSignal",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A file, or a stored row, that was not taken, and why."""

    name: str
    reason: str


class _Digest:
    """A digest of paths and texts that does not depend on their order."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, path: str, text: bytes) -> None:
        found = sha256(b"%s\0%s" % (path.encode("utf-8", "surrogateescape"), text)).digest()
        self._sum = (self._sum + int.from_bytes(found, "big")) % 2**256

    @property
    def text(self) -> str:
        return f"{self._sum:064x}"


@dataclass(kw_only=True)
class DomainCount:
    """What became of the rows of a domain.

    Attributes:
        domain: Its name.
        written: Rows that were not there.
        replaced: Rows that were there with other content.
        same: Rows that were there already.
        different: Rows that are there with other content, which stays.
        empty: Files that hold ``null`` where that is no row.
        given: Digest of the rows that are there now, as they were given.
        found: The same as they were read back.
    """

    domain: str
    written: int = 0
    replaced: int = 0
    same: int = 0
    different: int = 0
    empty: int = 0
    given: _Digest = field(default_factory=_Digest)
    found: _Digest = field(default_factory=_Digest)

    @property
    def is_verified(self) -> bool:
        """Whether all that was taken was read back with the same content."""
        return self.given.text == self.found.text

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        names = ("domain", "written", "replaced", "same", "different", "empty")
        figures = {name: getattr(self, name) for name in names}
        return {**figures, "sha256": self.found.text, "is_verified": self.is_verified}


@dataclass(kw_only=True)
class DumpReport:
    """What an import or an export did.

    Attributes:
        counts: Of each domain that has rows.
        bad: What could not be taken.
        ambiguous: Files with several possible contexts, not imported.
        unknown: Files of no domain that is known here, not imported.
    """

    counts: dict[str, DomainCount] = field(default_factory=dict)
    bad: list[Problem] = field(default_factory=list)
    ambiguous: list[Problem] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def is_all_well(self) -> bool:
        """Whether everything is there now as it was given."""
        return not (self.bad or self.ambiguous or self.unknown) and all(
            count.is_verified and not count.different for count in self.counts.values()
        )

    def of(self, domain: Domain) -> DomainCount:
        """Return the figures of a domain."""
        return self.counts.setdefault(domain.name, DomainCount(domain=domain.name))


@dataclass(frozen=True)
class _File:
    path: str
    keys: list[Key]


async def import_dump(
    container: Container,
    folder: Path,
    domains: Sequence[Domain],
    *,
    known_names: Mapping[str, Iterable[str]],
    overwrite: bool = False,
    on_progress: OnProgress = lambda name, done, total: None,
) -> DumpReport:
    """Store the rows of a tree. Nothing in the tree is changed.

    Safe to repeat and to interrupt: rows that are stored with the same content are only read.
    Candles and log lines that are stored stay as they are, and without `overwrite` so does all
    that is stored, also by another client at the same time.

    Args:
        container: Connected services.
        folder: The tree.
        domains: Those that are known here.
        known_names: By stored name of a key field, the only values it has where files leave a
            choice.
        overwrite: Whether stored rows with other content are replaced.
        on_progress: Is called after each batch.

    Raises:
        StoreError: The folder itself cannot be read.
        StoreUnavailableError: MongoDB did not answer within the operation's deadline.
    """
    report = DumpReport()
    by_domain = await asyncio.to_thread(_found_files, folder, domains, report)
    work = _Import(container, folder, known_names, overwrite, report)
    # Rows that tell which context a signal has come before those that need it.
    ordered = sorted(by_domain, key=lambda domain: domain.name not in _SIGNAL_ROWS)
    for domain in ordered:
        files = by_domain[domain]
        done = 0
        async for count in work.domain(domain, files):
            done += count
            on_progress(domain.name, done, len(files))
    return report


def _found_files(
    folder: Path, domains: Sequence[Domain], report: DumpReport
) -> dict[Domain, list[_File]]:
    found: dict[Domain, list[_File]] = {}

    def relative(path: str) -> str:
        return os.path.relpath(path, folder).replace(os.sep, "/")

    def note(error: OSError) -> None:
        if error.filename == str(folder):
            raise StoreError(f"{error.filename}: {error.strerror or error}") from error
        report.bad.append(Problem(relative(error.filename), error.strerror or str(error)))

    for directory, folders, names in os.walk(folder, onerror=note):
        prefix = "" if relative(directory) == "." else f"{relative(directory)}/"
        inner = sorted(name for name in folders if not is_passed_over(name))
        # Followed they might lead round in circles, or out of the tree.
        links = [name for name in inner if _is_link(os.path.join(directory, name))]
        for name in links:
            reason = "is a link to a directory, which is not followed"
            report.bad.append(Problem(prefix + name, reason))
        folders[:] = [name for name in inner if name not in links]
        for name in sorted(filter(lambda name: not is_passed_over(name), names), key=natural_key):
            path = prefix + name
            matches = {domain: keys for domain in domains if (keys := keys_of_path(domain, path))}
            if len(matches) == 1:
                ((domain, keys),) = matches.items()
                found.setdefault(domain, []).append(_File(path, keys))
            elif matches:
                several = ", ".join(domain.name for domain in matches)
                report.ambiguous.append(Problem(path, f"may be of the domains {several}"))
            else:
                report.unknown.append(path)
    return found


def _is_link(path: str) -> bool:
    # A junction of Windows is one too; older versions of Python do not know them.
    is_junction: Callable[[str], bool] | None = getattr(os.path, "isjunction", None)
    return os.path.islink(path) or (is_junction is not None and is_junction(path))


class _Row:
    """A row that is about to be stored.

    Raises:
        InvalidDocumentError: It cannot be.
    """

    def __init__(
        self, container: Container, domain: Domain, key: Key, value: Any, stamp: int
    ) -> None:
        self.key = key
        moment = payload_moment(domain, value) if domain.has_when and value else None
        now = to_datetime(stamp)
        self._context = dict(zip(domain.key_names, key, strict=True))
        self._created = {"createDate": now, "__v": 0}
        fields = {
            domain.value_field: value,
            **({"removed": value["removed"]} if domain.shape is Shape.ENTRY else {}),
            **({} if moment is None else {"when": moment}),
            "updatedDate": now,
        }
        self._fields = encoded_fitting(fields, "", container.cache(domain).key(key))

    @property
    def size(self) -> int:
        """Its bytes, about."""
        return len(self._fields)

    def insertion(self) -> InsertOne[Any]:
        """Return the write that changes nothing where the context is stored."""
        front = encode({"_id": ObjectId(), **self._context, **self._created})
        elements = front[4:-1] + self._fields[4:]
        return InsertOne(RawBSONDocument((len(elements) + 4).to_bytes(4, "little") + elements))

    def replacement(self) -> UpdateOne:
        """Return the write that replaces what is stored."""
        update = {"$set": RawBSONDocument(self._fields), "$setOnInsert": self._created}
        return UpdateOne(self._context, update, upsert=True)


def _is_part(part: Any) -> bool:
    return isinstance(part, (str, int, float))


def _by_size(pending: Iterable[_Row]) -> Iterator[list[_Row]]:
    """Yield rows in parts that one deadline is enough for."""
    part: list[_Row] = []
    size = 0
    for row in pending:
        if part and size + row.size > _WRITE_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += row.size
    if part:
        yield part


class _Import:
    def __init__(
        self,
        container: Container,
        folder: Path,
        known_names: Mapping[str, Iterable[str]],
        overwrite: bool,
        report: DumpReport,
    ) -> None:
        self._container = container
        self._backend = DualStoreBackend(container)
        self._folder = str(folder)
        self._known = {name: set(values) for name, values in known_names.items() if values}
        self._overwrite = overwrite
        self._report = report
        # By the id of a signal, the contexts that rows of the tree give it.
        self._signals: dict[str, set[tuple[Any, Any, Any]]] = {}
        # Of the domain: files that are still to come, and the date of its last row.
        self._left = 0
        self._last_stamp = 0

    async def domain(self, domain: Domain, files: list[_File]) -> AsyncIterator[int]:
        """Import the files of a domain; yield how many are done."""
        await self._backend.prepare(domain, (), False)
        self._report.of(domain)
        if domain.shape is Shape.CANDLE:
            for batch in _candle_batches(files):
                async for some in self._read(batch):
                    await self._candles(some)
                    yield len(some)
            return
        self._left, self._last_stamp = len(files), 0
        if domain.shape is Shape.LIST:
            files = await asyncio.to_thread(self._by_age, domain, files)
        for start in range(0, len(files), _BATCH):
            async for some in self._read(files[start : start + _BATCH]):
                await self._rows(domain, some)
                yield len(some)

    async def _read(self, files: Sequence[_File]) -> AsyncIterator[list[tuple[_File, Any]]]:
        """Yield files with their values, or with why they have none, not too many bytes at once."""

        def read(start: int) -> list[tuple[_File, Any]]:
            found: list[tuple[_File, Any]] = []
            left = _BATCH_BYTES
            for file in files[start:]:
                try:
                    size, value = load_within(self._folder, file.path)
                except FastPersistError as error:
                    size, value = 0, error
                found.append((file, value))
                left -= size
                if left <= 0:
                    break
            return found

        start = 0
        while start < len(files):
            found = await asyncio.to_thread(read, start)
            start += len(found)
            yield found

    def _by_age(self, domain: Domain, files: list[_File]) -> list[_File]:
        """Return the files of lists, the oldest first: lists are read by the date of the import."""
        name = "priority" if domain.name == "log" else "createdAt"

        def age(file: _File) -> float:
            try:
                value = load_within(self._folder, file.path)[1]
            except FastPersistError:
                return 0  # it is named when it is its turn
            number: Any = value.get(name) if isinstance(value, dict) else 0
            return float(number) if type(number) in (int, float) else 0

        return sorted(files, key=age)

    def _good(
        self,
        domain: Domain,
        batch: Sequence[tuple[_File, Any]],
        checked: Callable[[Domain, Key, Any], Any],
    ) -> list[tuple[_File, Key, Any]]:
        """Return files, keys and values of those that are good; the others are noted."""
        good: list[tuple[_File, Key, Any]] = []
        for file, value in batch:
            if isinstance(value, FastPersistError):
                self._bad(file, value)
                continue
            if value is None and domain.shape is not Shape.VALUE:
                self._report.of(domain).empty += 1
                continue
            try:
                value = checked(domain, file.keys[0], value)
                keys = self._possible(domain, file.keys, value)
            except FastPersistError as error:
                self._bad(file, error)
                continue
            if len(keys) == 1:
                good.append((file, keys[0], value))
                self._note_signal(domain, keys[0], value)
            elif keys:
                several = "; ".join(" ".join(map(str, key)) for key in keys)
                self._report.ambiguous.append(Problem(file.path, f"may be of {several}"))
            else:
                reason = "the fields inside name another context than the path"
                self._report.bad.append(Problem(file.path, reason))
        return good

    def _bad(self, file: _File, error: FastPersistError) -> None:
        reason = str(error).removeprefix(f"{os.path.join(self._folder, file.path)}: ")
        if isinstance(error, InvalidDocumentError) and len(error.path) > 2 * _SHOWN_OF_WAY:
            way = f"{error.path[:_SHOWN_OF_WAY]}…{error.path[-_SHOWN_OF_WAY:]}"
            reason = reason.replace(error.path, way, 1)
        self._report.bad.append(Problem(file.path, reason))

    def _possible(self, domain: Domain, keys: list[Key], value: Any) -> list[Key]:
        found = [key for key in keys if not names_other_context(domain, key, value)]
        if len(found) > 1:
            found = [
                key
                for key in found
                if all(
                    part in self._known.get(name, (part,))
                    for name, part in zip(domain.key_names, key, strict=True)
                )
            ] or found
        if len(found) > 1 and domain.name in ("partial", "breakeven"):
            told = [key for key in found if key[:3] in self._signals.get(key[3], ())]
            found = told if len(told) == 1 else found
        return found

    def _note_signal(self, domain: Domain, key: Key, value: Any) -> None:
        if domain.name in _SIGNAL_ROWS and isinstance(value, dict):
            context = value.get("symbol"), value.get("strategyName"), value.get("exchangeName")
            if isinstance(value.get("id"), str):
                self._signals.setdefault(value["id"], set()).add(context)

    async def _rows(self, domain: Domain, batch: Sequence[tuple[_File, Any]]) -> None:
        count = self._report.of(domain)
        given = [
            (file, key, value, _text(value))
            for file, key, value in self._good(domain, batch, _checked)
        ]
        before = await self._stored(domain, [key for _, key, *_ in given])
        replaces = self._overwrite and not domain.append_only
        texts: dict[Key, tuple[_File, bytes]] = {}
        pending: list[_Row] = []
        stamps = self._stamps(domain, len(given))
        self._left -= len(batch)
        for (file, key, value, text), stamp in zip(given, stamps, strict=True):
            if key in before and before[key] == text:
                count.same += 1
                count.given.add(file.path, text)
                count.found.add(file.path, before[key])
            elif key in before and not replaces:
                count.different += 1
            else:
                texts[key] = file, text
                try:
                    pending.append(_Row(self._container, domain, key, value, stamp))
                except FastPersistError as error:
                    self._bad(file, error)
        outcomes = await self._write(domain, pending, replaces)
        after = await self._stored(domain, list(outcomes))
        for key, outcome in outcomes.items():
            file, text = texts[key]
            if isinstance(outcome, FastPersistError):
                self._bad(file, outcome)
                continue
            if outcome == "there":  # another client wrote it since it was looked for
                if key not in after:
                    reason = "was stored by another client and is gone again; repeat the command"
                    self._report.bad.append(Problem(file.path, reason))
                    continue
                outcome = "same" if after[key] == text else "different"
            setattr(count, outcome, getattr(count, outcome) + 1)
            if outcome != "different":
                count.given.add(file.path, text)
                if key in after:
                    count.found.add(file.path, after[key])

    async def _write(
        self, domain: Domain, pending: Sequence[_Row], replaces: bool
    ) -> dict[Key, str | FastPersistError]:
        """Store rows in bulk; return what became of each: ``there`` is one that was not replaced.

        Without `replaces` nothing is changed that is stored, whoever stored it and when.
        """
        outcomes: dict[Key, str | FastPersistError] = {}
        left = list(pending)
        attempts_left = UPSERT_ATTEMPTS if replaces else 1
        while left:
            attempts_left -= 1
            again: list[_Row] = []
            for rows_of_one in _by_size(left):
                try:
                    done = await self._write_once(domain, rows_of_one, replaces)
                except StoreUnavailableError:
                    raise
                except FastPersistError as error:
                    done = [error] * len(rows_of_one)
                for row, outcome in zip(rows_of_one, done, strict=True):
                    outcomes[row.key] = outcome
                    # Two first writers raced: there now, it can be replaced.
                    if outcome == "there" and attempts_left:
                        again.append(row)
            left = again
        return outcomes

    async def _write_once(
        self, domain: Domain, pending: Sequence[_Row], replaces: bool
    ) -> list[str | FastPersistError]:
        mongo = self._container.mongo_service
        requests: list[InsertOne[Any] | UpdateOne] = [
            row.replacement() if replaces else row.insertion() for row in pending
        ]
        failures: Sequence[Mapping[str, Any]] = ()
        with mongo.operation():
            try:
                done = await mongo.collection(domain.collection).bulk_write(requests, ordered=False)
                upserted = set(done.upserted_ids or ())
            except BulkWriteError as error:
                if error.details.get("writeConcernErrors"):
                    raise
                failures = error.details["writeErrors"]
                upserted = {row["index"] for row in error.details["upserted"]}
        outcomes: list[str | FastPersistError] = [
            "written" if not replaces or index in upserted else "replaced"
            for index in range(len(pending))
        ]
        for failure in failures:
            outcomes[failure["index"]] = (
                "there"
                if failure["code"] == DUPLICATE_KEY
                else StoreError(f"mongo: {failure['code']} {failure['errmsg']!s:.200}")
            )
        return outcomes

    async def _stored(self, domain: Domain, keys: Sequence[Key]) -> dict[Key, bytes]:
        """Return the texts of the rows that are stored under some of `keys`."""
        mongo, cache = self._container.mongo_service, self._container.cache(domain)
        *names, last = domain.key_names
        by_context: dict[Key, list[Any]] = {}
        for key in keys:
            by_context.setdefault(key[:-1], []).append(key[-1])
        contexts = [
            {**dict(zip(names, context, strict=True)), last: {"$in": parts}}
            for context, parts in by_context.items()
        ]
        wanted = {key: key for key in keys}
        texts: dict[Key, bytes] = {}
        ids: dict[bytes, ObjectId] = {}
        for start in range(0, len(contexts), _CONTEXTS):
            query = {"$or": contexts[start : start + _CONTEXTS]}
            batches = mongo.raw_batches(domain.collection, query)
            async with aclosing(batches):
                async for raws in batches:
                    for raw in raws:
                        document = decode(raw, 0, None, mongo.converts_doubles)
                        found = tuple(document.get(name) for name in domain.key_names)
                        # A foreign writer's array matches too if it holds what was asked for.
                        if all(map(_is_part, found)) and found in wanted:
                            key = wanted[found]  # Node stores what is whole here as a double
                            texts[key] = _text(_value_of(domain, document))
                            ids[cache.key(key)] = document["_id"]
        known = {name: row_id for name, row_id in ids.items() if isinstance(row_id, ObjectId)}
        await cache.remember_many(known)
        return texts

    def _stamps(self, domain: Domain, count: int) -> Sequence[int]:
        now = now_ms()
        if domain.shape is not Shape.LIST:
            return [now] * count
        # Lists are ordered by date: of rows one ms apart, the last of all files now, the order
        # stays, and none has a date in the future.
        first = max(self._last_stamp + 1, now - self._left + 1)
        self._last_stamp = first + count - 1
        return range(first, first + count)

    async def _candles(self, batch: Sequence[tuple[_File, Any]]) -> None:
        count = self._report.of(CANDLE)
        good = self._good(CANDLE, batch, _checked_candle)
        if not good:
            return
        context = good[0][1][:3]
        start, end = good[0][1][3], good[-1][1][3] + 1
        before = await self._stored_candles(context, start, end)
        new = [value for _, key, value in good if key[3] not in before]
        if new:
            await self._backend.write_candles(CANDLE, context, new)
        after = await self._stored_candles(context, start, end) if new else before
        for file, key, value in good:
            moment = key[3]
            # One of another client may have come in between; it stays too.
            if moment in after and _text(after[moment]) != _text(value):
                count.different += 1
                continue
            count.same += moment in before
            count.written += moment not in before
            count.given.add(file.path, _text(value))
            if moment in after:
                count.found.add(file.path, _text(after[moment]))

    async def _stored_candles(self, context: Key, start: int, end: int) -> dict[int, Any]:
        columns = await self._backend.read_columns(CANDLE, context, start, end)
        return {row["timestamp"]: dict(row) for row in rows(columns)}


def _candle_batches(files: Sequence[_File]) -> Iterator[list[_File]]:
    batch: list[_File] = []
    for file in files:
        if batch and (len(batch) == _CANDLE_BATCH or file.keys[0][:3] != batch[0].keys[0][:3]):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _checked(domain: Domain, key: Key, value: Any) -> Any:
    """Return the value of a file as it is stored.

    Raises:
        InvalidArgumentError: It is none of the domain.
        CorruptDataError: It is a row of another id than the file's name.
    """
    if domain.shape is Shape.ENTRY:
        return checked_entry(value, "the file")
    if domain.shape is Shape.LIST:
        checked_record(value, "the file")
        if value.get(domain.row_id) != key[-1]:
            raise CorruptDataError("row", f"{domain.row_id} is not the name of the file")
    elif domain.absent == "list":
        value = checked_positions(value or [])
    elif domain.name in _PLAIN_VALUES:
        checked_record(value, "the file", nullable=True)
    _restore_infinity(domain, value)
    return value


_PLAIN_VALUES: Final = frozenset(
    {"signal", "schedule", "recent", "partial", "breakeven", "state", "session", "strategy"}
)


def _restore_infinity(domain: Domain, value: Any) -> None:
    """Put back the endless life time of signals, for which JSON has no word but ``null``."""
    found: Iterable[Any] = ()
    if domain.name in ("signal", "schedule", "recent", "storage", "notification"):
        found = (value,)
    elif domain.name == "risk":
        found = (position for _, position in value)
    elif domain.name == "strategy" and value is not None:
        found = (value.get(name) for name in _SIGNALS_OF_A_STRATEGY)
    for row in found:
        if isinstance(row, dict) and row.get("minuteEstimatedTime", 0) is None:
            row["minuteEstimatedTime"] = inf


def _checked_candle(domain: Domain, key: Key, value: Any) -> Any:
    checked_record(value, "the file")
    step = INTERVAL_STEP_MS.get(key[1])
    if step is None:
        raise CorruptDataError("candle", f"no interval {key[1]!r:.40}")
    closed = checked_candles([value], step, now_ms())
    if not closed or closed[0]["timestamp"] != key[3]:
        reason = "has another time than the file's name" if closed else "has not closed"
        raise CorruptDataError("candle", reason)
    return closed[0]


def _value_of(domain: Domain, document: Mapping[str, Any]) -> Any:
    value = document.get(domain.value_field)
    if domain.shape is Shape.ENTRY and isinstance(value, dict):
        return {**value, "removed": document.get("removed") is True}
    return value


def _text(value: Any) -> bytes:
    try:
        return to_json(value, rewrite=True)
    except FastPersistError as error:  # of a stored value; no file has this text
        return b"\0" + str(error).encode()


def _row_of(domain: Domain, document: Mapping[str, Any]) -> tuple[Key, Any]:
    """Return key and value of a document.

    Raises:
        CorruptDataError: It has no value, or figures that are no numbers.
    """
    key = tuple(document.get(part.stored) for part in domain.key)
    if domain.shape is not Shape.CANDLE:
        if domain.value_field not in document:
            raise CorruptDataError("row", f"has no {domain.value_field}")
        return key, _value_of(domain, document)
    moment = key[-1]
    if isinstance(moment, float) and moment.is_integer():  # as the Node runner stores it
        moment = int(moment)
    figures = {figure: document.get(figure) for figure in CANDLE_FIGURES}
    if any(not isinstance(figure, (int, float)) for figure in figures.values()):
        raise CorruptDataError("candle", "has a figure that is no number")
    return (*key[:-1], moment), {"timestamp": moment, **figures}


async def export_dump(
    container: Container,
    folder: Path,
    domains: Sequence[Domain],
    *,
    overwrite: bool = False,
    on_progress: OnProgress = lambda name, done, total: None,
) -> DumpReport:
    """Write the stored rows into a tree, on a replica set as of one moment.

    Safe to repeat and to interrupt. A file that has other content stays, whoever wrote it.

    Args:
        container: Connected services.
        folder: The tree; it is made.
        domains: Those to export.
        overwrite: Whether files with other content are replaced.
        on_progress: Is called after each batch.

    Raises:
        StoreError: A file cannot be written, or MongoDB refused a read.
        StoreUnavailableError: MongoDB did not answer within the operation's deadline.
    """
    report = DumpReport()
    backend = FilesBackend(folder)
    mongo = container.mongo_service
    at = await mongo.cluster_time()
    for domain in domains:
        with mongo.operation():
            total = await mongo.collection(domain.collection).estimated_document_count()
        owners: dict[str, Key] = {}
        done = 0
        batches = mongo.raw_batches(domain.collection, {}, sort=[("_id", 1)], at=at)
        async with aclosing(batches):
            async for raws in batches:
                # The server sends ten thousands at once; an interrupt waits for a few of them.
                for start in range(0, len(raws), _BATCH):
                    some = raws[start : start + _BATCH]
                    documents = _read_documents(some, domain, mongo.converts_doubles, report)
                    await _export(backend, folder, domain, documents, owners, overwrite, report)
                    done += len(some)
                    on_progress(domain.name, done, total)
    return report


def _read_documents(
    raws: Sequence[bytes], domain: Domain, converts_doubles: bool, report: DumpReport
) -> list[Mapping[str, Any]]:
    documents: list[Mapping[str, Any]] = []
    for raw in raws:
        try:
            documents.append(decode(raw, 0, None, converts_doubles))
        except CorruptDataError as error:
            document_id = bson.decode(raw, LENIENT).get("_id")
            report.bad.append(Problem(f"{domain.collection} {document_id}", str(error)))
    return documents


async def _export(
    backend: FilesBackend,
    folder: Path,
    domain: Domain,
    documents: Sequence[Mapping[str, Any]],
    owners: dict[str, Key],
    overwrite: bool,
    report: DumpReport,
) -> None:
    count = report.of(domain)
    names: list[str] = []
    items: list[tuple[Key, Any]] = []
    for document in documents:
        name = f"{domain.collection} {document.get('_id')}"
        try:
            key, value = _row_of(domain, document)
            path = backend.path_of(domain, key)
        except FastPersistError as error:
            report.bad.append(Problem(name, str(error)))
            continue
        if domain.shape is not Shape.CANDLE and owners.setdefault(path, key) != key:
            report.bad.append(Problem(name, f"{path} is the file of another context"))
            continue
        names.append(name)
        items.append((key, value))
    outcomes = await backend.put_all(domain, items, replaces=overwrite)
    taken: list[tuple[str, bytes]] = []
    for name, (_, value), (path, outcome) in zip(names, items, outcomes, strict=True):
        if isinstance(outcome, FastPersistError):
            report.bad.append(Problem(name, str(outcome)))
            continue
        setattr(count, outcome, getattr(count, outcome) + 1)
        if outcome != "different":
            taken.append((path, to_json(value)))

    def read_back() -> None:
        for path, text in taken:
            count.given.add(path, text)
            try:
                count.found.add(path, load_json(os.path.join(folder, path))[0])
            except CorruptDataError as error:
                report.bad.append(Problem(path, str(error)))

    await asyncio.to_thread(read_back)
