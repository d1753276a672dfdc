"""The family on plain files: the framework's own ``./dump`` tree.

Tree, text and atomic writes follow section 5 of the contract, so that the Node framework can read
what is written here and the other way round. What differs on purpose is in the decisions, "Files
family". Names are used as they are: on a file system that ignores case, or normalises text, two
names that differ only in that share a file.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import secrets
import stat
import threading
import time
import unicodedata
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import cache, lru_cache
from typing import Any, Final

from ..contracts import Candle
from ..disk import BINARY, sync_directory
from ..domains import CANDLE_FIELDS, DOMAINS, Domain, Field, Shape
from ..errors import CorruptDataError, FastPersistError, InvalidArgumentError, StoreError
from ..hot.columns import CandleColumns, columns_from_rows
from ..hot.keys import KeyTemplate
from ..times import LookAheadPolicy, is_visible, to_ms
from .backend import Key
from .json_text import from_json, to_json

__all__ = [
    "LONGEST_TEXT",
    "RUN_LOCK",
    "FilesBackend",
    "is_passed_over",
    "keys_of_path",
    "load_json",
    "load_within",
    "names_other_context",
    "natural_key",
    "payload_moment",
]

_logger = logging.getLogger("fastpersist.files")

_TEMPORARY: Final = ".tmp-"
RUN_LOCK: Final = ".run-"
"""How the names of the locks begin that runs keep beside a tree."""
_CORRUPT: Final = ".corrupt"
_SUFFIX: Final = ".json"
_LONGEST_NAME: Final = 255
_LONGEST_FILE_NAME: Final = _LONGEST_NAME - len(f"{_TEMPORARY}{'0' * 12}-")
_TEMPORARY_LIFE_SECONDS: Final = 120
_BATCH: Final = 64
LONGEST_TEXT: Final = 6 * 16 * 1024 * 1024
"""Most bytes that a row has as JSON: MongoDB takes 16 MiB, and a control character, one byte there,
is written as ``\\u0001``."""
_AT_ONCE: Final[int] = getattr(os, "O_NONBLOCK", 0)
_NOT_JSON: Final = object()
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_Job = Callable[[], bool]


class FilesBackend:
    """Keeps every row in a JSON file of its own, below `folder`.

    A write is on the disk when it returns: the text goes to a temporary file, which is flushed and
    renamed over the target, so that readers and other processes see the old text or the new one.
    Writes to one directory happen in the order of their calls. Cancelling a call that has not
    begun to write drops it; one that has begun ends as if it had not been cancelled. Of several
    processes that write one file the last counts; a log line or a candle is never replaced.

    Look-ahead: files carry no moment of their own, so the protection rests on the moment inside of
    the payload: ``when`` of memory, state, session and interval and of declared domains,
    ``timestamp`` of recent, the latest ``openTimestamp`` of risk positions. Partial and breakeven
    carry none and are always visible, as is any row without that field.

    Contexts: names are joined by ``_``, so two contexts may share a file. A row whose own fields
    name another context (strategyName, exchangeName and so on; in risk those of the positions) is
    absent to a read, and a write that would replace it is refused with ``InvalidArgumentError``, as
    is a row that contradicts the context it is written under. ``null``, partial and breakeven carry
    no such fields: there the contexts cannot be told apart.

    Files that do not parse are moved to ``.corrupt`` in their directory and reported as a warning
    of the logger ``fastpersist.files``: by the first use of a directory, by the write that would
    replace them, and candles also by a read, where they count as missing. Any other read of one
    raises :class:`~fastpersist.errors.CorruptDataError`. A file that cannot be read or written
    raises :class:`~fastpersist.errors.StoreError`.

    Args:
        folder: The folder of the tree; a relative one belongs to the working directory of the
            moment of each call.
        look_ahead: What a read does with a row of a later simulated time.
    """

    def __init__(
        self, folder: str | os.PathLike[str] = "./dump", *, look_ahead: LookAheadPolicy = "hide"
    ) -> None:
        self.look_ahead: LookAheadPolicy = look_ahead
        self._folder = os.fspath(folder)
        self._prepared: set[str] = set()
        self._writer = _Writer()

    async def prepare(self, domain: Domain, context: Key, initial: bool) -> None:
        """Make the directory of a context and tidy it: once for each instance and directory.

        Raises:
            InvalidArgumentError: A name of the context cannot be part of a path.
        """
        relative = _context_directory(domain, context)
        if relative is None:
            return
        directory = self._absolute(relative)
        if not initial and directory in self._prepared:
            return
        # The framework reads every file here. A year of minutes is half a million candle files,
        # none of which another one depends on, so those are checked when they are read.
        checks_files = domain.shape is not Shape.CANDLE
        await asyncio.to_thread(_tidy, directory, checks_files)
        self._prepared.add(directory)

    async def read_value(self, domain: Domain, key: Key, asked_at: int | None) -> Any:
        """Return the value under `key`; a file that holds ``null`` is absent."""
        layout = _layout(domain)
        path = self._absolute(layout.file(key))
        value = _load_value(domain, path)
        if value is None or layout.foreign_field(key, value) is not None:
            return None
        return value if self._is_visible(domain, value, asked_at) else None

    async def write_value(self, domain: Domain, key: Key, value: Any, when: int | None) -> None:
        """Replace the value under `key`; None is stored as ``null``.

        Raises:
            InvalidArgumentError: The value, or the file it would replace, belongs to another
                context.
            InvalidDocumentError: The value has no JSON form.
        """
        await self._replace(domain, key, value)

    async def read_entry(
        self, domain: Domain, key: Key, asked_at: int | None
    ) -> dict[str, Any] | None:
        """Return the entry under `key` unless it is removed."""
        entry = self._entry(domain, key, asked_at)
        return None if entry is None or entry.get("removed") else entry

    async def has_entry(self, domain: Domain, key: Key, asked_at: int | None) -> bool:
        """Say whether there is an entry under `key`, removed or not; ``null`` is no entry."""
        return self._entry(domain, key, asked_at) is not None

    async def write_entry(
        self, domain: Domain, key: Key, entry: Mapping[str, Any], when: int | None
    ) -> None:
        """Store `entry`.

        Raises:
            InvalidDocumentError: The entry has no JSON form.
        """
        await self._replace(domain, key, entry)

    async def remove_entry(self, domain: Domain, key: Key) -> None:
        """Flag the entry under `key` as removed."""
        layout = _layout(domain)
        path = self._absolute(layout.file(key))

        def remove() -> bool:
            entry = _load_mapping(path)
            if entry is None or entry.get("removed") is True:
                return False
            if layout.foreign_field(key, entry) is not None:
                return False
            _write_file(path, to_json({**entry, "removed": True}, rewrite=True))
            return True

        await self._writer.run(os.path.dirname(path), remove)

    async def iterate_entries(
        self, domain: Domain, context: Key, asked_at: int | None, *, keys_only: bool
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield key and entry of all that are not removed, in natural order of the keys."""
        layout = _layout(domain)
        directory = self._directory(domain, context)
        names = await asyncio.to_thread(_names, directory)
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            for name, entry in await asyncio.to_thread(_load_mappings, directory, batch):
                if (
                    not entry.get("removed")
                    and layout.foreign_field(context, entry) is None
                    and self._is_visible(domain, entry, asked_at)
                ):
                    yield name, {} if keys_only else entry

    async def read_rows(
        self, domain: Domain, context: Key, limit: int | None
    ) -> list[dict[str, Any]]:
        """Return the rows in natural order of their ids; of a limited read, the newest `limit`.

        The newest are those that the framework itself would keep: by ``priority`` in the log, by
        ``createdAt`` elsewhere (0 if it is missing), of equal ones the later in natural order. The
        age of the file says less: it is lost when a tree is copied. A file that holds ``null`` is
        left out.
        """
        layout = _layout(domain)
        directory = self._directory(domain, context)

        def read() -> list[dict[str, Any]]:
            rows = [
                row
                for _, row in _load_mappings(directory, _names(directory))
                if layout.foreign_field(context, row) is None
            ]
            if limit is None or len(rows) <= limit:
                return rows
            field = "priority" if domain.name == "log" else "createdAt"
            newest = sorted(range(len(rows)), key=lambda place: _number(rows[place].get(field)))
            return [rows[place] for place in sorted(newest[len(rows) - limit :])]

        return await asyncio.to_thread(read)

    async def write_rows(
        self,
        domain: Domain,
        context: Key,
        rows: Mapping[str, Mapping[str, Any]],
        places: Sequence[int] | None = None,
    ) -> None:
        """Store the rows, given by their id; nothing is written if one of them is refused.

        Files that hold the very text already are not written again: the framework hands over its
        whole list for every new row.

        Raises:
            InvalidArgumentError: An id cannot be the name of a file.
            InvalidDocumentError: A row has no JSON form.
        """
        layout = _layout(domain)
        argument = "entries" if domain.name == "log" else "rows"
        texts: dict[str, bytes] = {}
        for place, (row_id, row) in zip(places or range(len(rows)), rows.items(), strict=True):
            try:
                path = self._absolute(layout.file((*context, row_id)))
            except InvalidArgumentError as error:
                raise InvalidArgumentError(
                    f"{argument}[{place}].{domain.row_id}", str(error)
                ) from None
            layout.check_own(context, row, f"{argument}[{place}]")
            texts[path] = to_json(row, f"{argument}[{place}]")

        def write() -> bool:
            changed: dict[str, bytes] = {}
            for path, text in texts.items():
                stored = _read(path)
                if stored is not None and not _set_aside_if_broken(path):
                    if domain.append_only or stored == text:
                        continue
                    layout.check_stored(context, path)
                changed[path] = text
            _write_files(changed, replaces=not domain.append_only)
            return bool(changed)

        if texts:
            await self._writer.run(os.path.dirname(next(iter(texts))), write)

    async def read_candles(
        self, domain: Domain, context: Key, since: int, step: int, limit: int
    ) -> list[Candle] | None:
        """Return the candles ``since + i * step`` for i below `limit`, None if one is missing."""
        layout = _layout(domain)
        # The timestamps need no check of their own: all are integers of the size of the first.
        directory = self._absolute(os.path.dirname(layout.file((*context, since))))

        def read() -> list[Candle] | None:
            window: list[Candle] = []
            for timestamp in range(since, since + limit * step, step):
                candle = _load_candle(os.path.join(directory, f"{timestamp}{_SUFFIX}"), timestamp)
                if candle is None:
                    return None
                window.append(candle)
            return window

        return await asyncio.to_thread(read)

    async def read_columns(
        self, domain: Domain, context: Key, start: int, end: int
    ) -> CandleColumns:
        """Return the stored candles from `start` to before `end`, by time, as columns."""
        layout = _layout(domain)
        directory = self._absolute(os.path.dirname(layout.file((*context, start))))

        def read() -> CandleColumns:
            names = _names(directory)
            moments = sorted(int(name) for name in names if name.isascii() and name.isdecimal())
            found = (
                _load_candle(os.path.join(directory, f"{moment}{_SUFFIX}"), moment)
                for moment in moments
                if start <= moment < end
            )
            return columns_from_rows([candle for candle in found if candle is not None])

        return await asyncio.to_thread(read)

    async def write_candles(self, domain: Domain, context: Key, candles: Sequence[Candle]) -> None:
        """Store candles that have closed; stored ones stay as they are.

        Candles with other figures than the stored ones are counted in one warning.
        """
        layout = _layout(domain)
        texts: dict[str, tuple[Candle, bytes]] = {}
        for row, candle in enumerate(candles):
            path = self._absolute(layout.file((*context, candle["timestamp"])))
            plain = {name: candle[name] for name in CANDLE_FIELDS}
            texts.setdefault(path, (candle, to_json(plain, f"candles[{row}]")))

        def write() -> bool:
            new: dict[str, bytes] = {}
            contradictions = 0
            for path, (candle, text) in texts.items():
                stored = _load_candle(path, candle["timestamp"])
                if stored is None:
                    new[path] = text
                elif to_json(stored) != text:
                    contradictions += 1
            if contradictions:
                _logger.warning(
                    "%d candles keep their first figures, which differ from those written now: %s",
                    contradictions,
                    os.path.dirname(next(iter(texts))),
                )
            _write_files(new, replaces=False)
            return bool(new)

        if texts:
            await self._writer.run(os.path.dirname(next(iter(texts))), write)

    async def scan(
        self, domain: Domain, context: Key, fields: Sequence[str]
    ) -> AsyncGenerator[list[tuple[Key, dict[str, Any]]], None]:
        """Yield all rows of a context, removed ones too, in batches; see the backend's protocol.

        Files whose path does not tell their key are passed over; one that is not JSON has no field.

        Raises:
            StoreError: A directory or a file cannot be read.
        """
        layout = _layout(domain)
        paths = await asyncio.to_thread(self._paths, domain, context)

        def read(start: int) -> list[tuple[Key, dict[str, Any]]]:
            found: list[tuple[Key, dict[str, Any]]] = []
            for path in paths[start : start + _BATCH]:
                keys = layout.keys(path)
                if len(keys) != 1 or keys[0][: len(context)] != context:
                    continue
                value = _json_at(self._absolute(path)) if fields else None
                row = value if isinstance(value, dict) else {}
                found.append((keys[0], {name: row[name] for name in fields if name in row}))
            return found

        for start in range(0, len(paths), _BATCH):
            yield await asyncio.to_thread(read, start)

    def _paths(self, domain: Domain, context: Key) -> list[str]:
        layout = _layout(domain)
        directory = self._absolute(layout.directory(context) or layout.root)
        found: list[str] = []
        with _store_errors(directory):
            # What cannot be listed must not count as empty: what is left there would stay for ever.
            for folder, folders, names in os.walk(directory, onerror=_unless_gone):
                folders[:] = [name for name in folders if not is_passed_over(name)]
                relative = os.path.relpath(folder, self._folder).replace(os.sep, "/")
                found += [f"{relative}/{name}" for name in names if not is_passed_over(name)]
        return found

    async def delete(self, domain: Domain, keys: Sequence[Key]) -> None:
        """Delete the files of rows; one that holds a row of another context stays.

        A directory that bears a name of the key alone goes with its last file.

        Raises:
            InvalidArgumentError: A name of a key cannot be part of a path.
            StoreError: A file cannot be deleted.
        """
        layout = _layout(domain)
        by_directory: dict[str, list[tuple[Key, str]]] = {}
        for key in keys:
            path = self._absolute(layout.file(key))
            by_directory.setdefault(os.path.dirname(path), []).append((key, path))

        def remover(rows: list[tuple[Key, str]]) -> _Job:
            def remove() -> bool:
                removed = False
                for key, path in rows:
                    value = _json_at(path) if layout.joins_names else None
                    if layout.foreign_field(key, value) is not None:
                        continue
                    with _store_errors(path), suppress(FileNotFoundError):
                        os.unlink(path)
                        removed = True
                return removed

            return remove

        for directory, rows in by_directory.items():
            await self._writer.run(directory, remover(rows))
            await asyncio.to_thread(self._remove_empty, layout, rows[0][0])

    def _remove_empty(self, layout: _Layout, key: Key) -> None:
        for directory in layout.own_directories(key):
            try:
                os.rmdir(self._absolute(directory))
            except OSError:
                return  # not empty, or gone

    def path_of(self, domain: Domain, key: Key) -> str:
        """Return the path of a row, relative to the folder of the tree.

        Raises:
            InvalidArgumentError: A field has the wrong type, is empty or cannot be part of a path.
        """
        return _layout(domain).file(key)

    async def put_all(
        self, domain: Domain, items: Sequence[tuple[Key, Any]], *, replaces: bool
    ) -> list[tuple[str, str | FastPersistError]]:
        """Write values of any shape to their files; return path and outcome of each.

        An outcome is ``written``, ``same`` (the file has the very text), ``different`` (it has
        another one and stays), ``replaced``, or why the value has no file. Nothing is tidied.

        Raises:
            StoreError: A file cannot be read or written.
        """
        layout = _layout(domain)
        outcomes: list[tuple[str, str | FastPersistError]] = []
        by_directory: dict[str, dict[str, tuple[int, bytes]]] = {}
        for place, (key, value) in enumerate(items):
            path = ""
            try:
                path = layout.file(key)
                layout.check_own(key, value, domain.value_field)
                text = to_json(value, domain.value_field)
            except FastPersistError as error:
                outcomes.append((path, error))
                continue
            outcomes.append((path, ""))
            absolute = self._absolute(path)
            by_directory.setdefault(os.path.dirname(absolute), {})[absolute] = (place, text)

        def writer(texts: dict[str, tuple[int, bytes]]) -> _Job:
            def write() -> bool:
                changed: dict[str, bytes] = {}
                for path, (place, text) in texts.items():
                    stored = _read(path)
                    if stored == text:
                        outcome = "same"
                    elif stored is not None and not replaces:
                        outcome = "different"
                    else:
                        outcome = "written" if stored is None else "replaced"
                        changed[path] = text
                    outcomes[place] = outcomes[place][0], outcome
                _write_files(changed, replaces=replaces)
                return bool(changed)

            return write

        for directory, texts in by_directory.items():
            await self._writer.run(directory, writer(texts))
        return outcomes

    def _absolute(self, relative: str) -> str:
        return os.path.abspath(os.path.join(self._folder, relative))

    def _directory(self, domain: Domain, context: Key) -> str:
        relative = _context_directory(domain, context)
        if relative is None:
            raise InvalidArgumentError(
                "domain", "rows of one context have to share a directory", hint="see Domain.file"
            )
        return self._absolute(relative)

    async def _replace(self, domain: Domain, key: Key, value: Any) -> None:
        layout = _layout(domain)
        path = self._absolute(layout.file(key))
        text = to_json(value, domain.value_field)
        layout.check_own(key, value, domain.value_field)

        def write() -> bool:
            _set_aside_if_broken(path)
            layout.check_stored(key, path)
            _write_file(path, text)
            return True

        await self._writer.run(os.path.dirname(path), write)

    def _entry(self, domain: Domain, key: Key, asked_at: int | None) -> dict[str, Any] | None:
        layout = _layout(domain)
        entry = _load_mapping(self._absolute(layout.file(key)))
        if entry is None or layout.foreign_field(key, entry) is not None:
            return None
        return entry if self._is_visible(domain, entry, asked_at) else None

    def _is_visible(self, domain: Domain, value: Any, asked_at: int | None) -> bool:
        if asked_at is None or not domain.has_when:
            return True
        return is_visible(domain.name, payload_moment(domain, value), asked_at, self.look_ahead)


class _Layout:
    """The path template of a domain, taken apart once."""

    _PART: Final = re.compile(r"\[([^\]]*)\]|\{(\w+)\}")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._template = KeyTemplate(domain.namespace, domain.key_parts, domain.key_order)
        self._context_fields = {
            field.stored: place
            for place, field in enumerate(domain.context)
            if field.kind in ("name", "optional_name")
        }
        self.joins_names = re.search(r"\}\[?_\{(?!mode\})", domain.file) is not None
        self._start = re.split(r"[\[{]", domain.file)[0]
        self.root = os.path.dirname(self._start)
        """The directory below which all rows lie."""

    def file(self, key: Key) -> str:
        """Return the path of a row, relative to the folder of the tree.

        Raises:
            InvalidArgumentError: A field has the wrong type, is empty or cannot be part of a path.
        """
        self._template(*key)
        names: dict[str, str] = {}
        for field, value in zip(self._domain.key, key, strict=True):
            if field.kind == "mode":
                names["mode"] = "backtest" if value else "live"
                names[field.stored] = names["mode"]
            elif field.kind == "timestamp":
                names[field.stored] = str(value)
            else:
                names[field.stored] = _checked_name(field.argument, value)
        path = self._render(self._domain.file, names)
        self._check_lengths(path, names)
        return path

    def keys(self, path: str) -> list[Key]:
        """Return every key whose row has this path; several where joined names can be split."""
        template = self._domain.file
        if not path.startswith(self._start):
            return []
        found: dict[Key, None] = {}
        for optional in (r"\1", ""):
            variant = re.sub(r"\[([^\]]*)\]", optional, template)
            tokens = [token for token in re.split(r"(\{\w+\})", variant) if token]
            for names in self._splits(tokens, path, {}):
                key = tuple(
                    names.get("mode", names.get(field.stored)) == "backtest"
                    if field.kind == "mode"
                    else int(names[field.stored])
                    if field.kind == "timestamp"
                    else names.get(field.stored, "")
                    for field in self._domain.key
                )
                with suppress(InvalidArgumentError):
                    if self.file(key) == path:
                        found[key] = None
        return list(found)

    def _splits(
        self, tokens: Sequence[str], text: str, names: dict[str, str]
    ) -> Iterator[dict[str, str]]:
        if not tokens:
            if not text:
                yield names
            return
        token, *rest = tokens
        name = token[1:-1] if token.startswith("{") else None
        if name is None or name in names:
            literal = token if name is None else names[name]
            if text.startswith(literal):
                yield from self._splits(rest, text[len(literal) :], names)
            return
        kind = next((field.kind for field in self._domain.key if field.stored == name), "mode")
        part = text.partition("/")[0]
        for end in range(1, len(part) + 1):
            value = part[:end]
            if rest and not rest[0].startswith("{") and not text.startswith(rest[0], end):
                continue
            if kind == "mode" and value not in ("backtest", "live"):
                continue
            if kind == "timestamp" and not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", value):
                continue
            yield from self._splits(rest, text[end:], {**names, name: value})

    def directory(self, context: Key) -> str | None:
        """Return the directory of a context's rows, None when they lie in several."""
        missing = self._domain.key[len(context) :]
        stand_ins: list[list[Any]] = [
            [
                {"timestamp": number, "mode": bool(number)}.get(field.kind, str(number))
                for field in missing
            ]
            for number in (0, 1)
        ]
        first, second = (os.path.dirname(self.file((*context, *rest))) for rest in stand_ins)
        return first if first == second else None

    def own_directories(self, key: Key) -> list[str]:
        """Return the directories of a row that bear one name of its key each, the inner first."""
        parts = self.file(key).split("/")
        names = self._domain.file.split("/")
        found: list[str] = []
        for place in range(len(names) - 1, 0, -1):
            if not re.fullmatch(r"\{(?!mode\})\w+\}", names[place - 1]):
                break
            found.append("/".join(parts[:place]))
        return found

    def foreign_field(self, key: Key, value: Any) -> Field | None:
        """Return a field by which `value` belongs to another context, None if there is none."""
        if not self.joins_names:
            return None
        for row in _rows_of(value):
            for stored, place in self._context_fields.items():
                own = row.get(stored) if isinstance(row, Mapping) else getattr(row, stored, None)
                if isinstance(own, str) and own != key[place]:
                    return self._domain.key[place]
        return None

    def check_own(self, key: Key, value: Any, path: str) -> None:
        """Raise when `value`, about to be written, names another context."""
        field = self.foreign_field(key, value)
        if field is not None:
            raise InvalidArgumentError(
                f"{path}.{field.stored}",
                f"differs from the {field.argument} that the row is written under",
                hint="such a row could not be told from one of another context",
            )

    def check_stored(self, key: Key, path: str) -> None:
        """Raise when the file at `path`, about to be replaced, belongs to another context."""
        field = self.foreign_field(key, _load(path)) if self.joins_names else None
        if field is not None:
            raise InvalidArgumentError(
                field.argument,
                f"{path} holds a row of another {field.argument}",
                hint="the names of both contexts make the same path; rename one of them",
            )

    def _render(self, template: str, names: Mapping[str, str]) -> str:
        def replaced(part: re.Match[str]) -> str:
            optional, name = part.groups()
            if optional is None:
                return names[name]
            inner = self._PART.findall(optional)
            return self._render(optional, names) if all(names[name] for _, name in inner) else ""

        return self._PART.sub(replaced, template)

    def _check_lengths(self, path: str, names: Mapping[str, str]) -> None:
        sizes = [len(name.encode()) for name in path.split("/")]
        if max(sizes) > _LONGEST_NAME or sizes[-1] > _LONGEST_FILE_NAME:
            longest = max(self._domain.key, key=lambda field: len(names[field.stored].encode()))
            raise InvalidArgumentError(
                longest.argument,
                f"too long for the name of a file or directory: {max(sizes)} bytes with what the "
                f"layout adds, of {_LONGEST_NAME}",
            )


@cache
def _layout(domain: Domain) -> _Layout:
    return _Layout(domain)


def keys_of_path(domain: Domain, path: str) -> list[Key]:
    """Return every key of a domain whose row has `path`, relative to the folder of the tree.

    They are several where names that are joined by ``_`` can be split in more than one way.
    """
    return _layout(domain).keys(path)


def names_other_context(domain: Domain, key: Key, value: Any) -> bool:
    """Say whether fields inside of a value name another context than `key`."""
    return _layout(domain).foreign_field(key, value) is not None


def is_passed_over(name: str) -> bool:
    """Say whether a name in a tree is of no row: a temporary one, a lock, or what was set aside."""
    return name == _CORRUPT or name.startswith((_TEMPORARY, RUN_LOCK))


def load_json(path: str) -> tuple[bytes, Any]:
    """Return the text of a file and what it says; nothing is moved.

    Raises:
        CorruptDataError: It is not JSON.
        StoreError: It cannot be read.
    """
    text = _read(path)
    value = _NOT_JSON if text is None else _parsed(text)
    if text is None or value is _NOT_JSON:
        raise CorruptDataError(path, "is gone" if text is None else "is not JSON")
    return text, value


def load_within(folder: str, path: str) -> tuple[int, Any]:
    """Return the size of a file of a tree and what it says; the tree may hold anything.

    Args:
        folder: The folder of the tree.
        path: The file, relative to it.

    Raises:
        CorruptDataError: It is not JSON, a link out of the tree, no regular file, or larger than
            any row.
        StoreError: It cannot be read.
    """
    absolute = os.path.join(folder, path)
    with _store_errors(absolute):
        target = absolute
        if os.path.islink(absolute):
            target, tree = os.path.realpath(absolute), os.path.realpath(folder)
            if not target.startswith(os.path.join(tree, "")):
                raise CorruptDataError(absolute, "is a link out of the tree")
        try:
            text = _read_regular(target, absolute)
        except FileNotFoundError:
            raise CorruptDataError(absolute, "is gone") from None
    value = _parsed(text)
    if value is _NOT_JSON:
        raise CorruptDataError(absolute, "is not JSON")
    return len(text), value


def _read_regular(path: str, name: str) -> bytes:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise CorruptDataError(name, "is no regular file")
    # What has been put in its place since then must neither be waited for nor be followed.
    handle = os.open(path, os.O_RDONLY | BINARY | _AT_ONCE | getattr(os, "O_NOFOLLOW", 0))
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptDataError(name, "is no regular file")
        if status.st_size > LONGEST_TEXT:
            raise CorruptDataError(name, f"is larger than {LONGEST_TEXT} bytes, as no row is")
        text = file.read(status.st_size + 1)
        if len(text) > status.st_size:  # there is no telling how much is to come
            raise CorruptDataError(name, "grows while it is read")
        return text


@lru_cache(maxsize=4096)
def _context_directory(domain: Domain, context: Key) -> str | None:
    return _layout(domain).directory(context)


def _checked_name(argument: str, name: str) -> str:
    if "/" in name or "\\" in name or "\0" in name:
        raise InvalidArgumentError(argument, "a name with a separator or NUL cannot be a file's")
    if name in (".", "..", _CORRUPT) or name.startswith(_TEMPORARY):
        raise InvalidArgumentError(
            argument, f"{name!r:.40} has a meaning of its own as a file name"
        )
    return name


def _rows_of(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple)):
        return (pair[1] for pair in value if isinstance(pair, (list, tuple)) and len(pair) == 2)
    return () if value is None else (value,)


# Natural order. ECMAScript leaves the comparison to the language data of the system; these are the
# groups of the root collation, with its order of the ASCII signs.

_PUNCTUATION: Final = "_-,;:!?.'\"()[]{}@*/\\&#%"
_SIGNS: Final = "`^+<=>|~$"
_GROUPS: Final = {
    sign: (group, place)
    for group, signs in ((1, _PUNCTUATION), (2, _SIGNS))
    for place, sign in enumerate(signs)
}
_BASE_LETTERS: Final = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l"})
_DIGITS_OR_SIGN: Final = re.compile(r"\d+|.", re.DOTALL)


def natural_key(text: str) -> tuple[list[tuple[int, int]], str]:
    """Return the sort key of a name: numbers by value, case and accents ignored (contract 5.5).

    Spaces come first, then punctuation, other signs, numbers, letters. Letters of Latin, Greek and
    Cyrillic are in the order of their alphabets, others in that of Unicode. Names that are equal
    so far are in order of their characters, which the framework leaves open.
    """
    folded = unicodedata.normalize("NFKD", text).casefold().translate(_BASE_LETTERS)
    weights: list[tuple[int, int]] = []
    for found in _DIGITS_OR_SIGN.finditer(unicodedata.normalize("NFKD", folded)):
        part = found.group()
        if part.isdecimal():
            weights.append((3, int(part)))
        elif part in _GROUPS:
            weights.append(_GROUPS[part])
        else:
            category = unicodedata.category(part)
            if part.isspace():
                weights.append((0, ord(part)))
            elif category[0] in "PS":
                weights.append((1 if category[0] == "P" else 2, 0x80 + ord(part)))
            elif category[0] not in "MC":
                weights.append((4, ord(part)))
    return weights, text


# From here on everything blocks and runs in threads, except reads of a single small file.
@contextmanager
def _store_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidArgumentError(
                "context", f"the file system takes no path of {len(path)} characters"
            ) from error
        raise StoreError(f"{path}: {error.strerror or error}") from error


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _read(path: str) -> bytes | None:
    with _store_errors(path):
        try:
            with open(path, "rb", opener=_open_at_once) as file:
                return file.read() or b""
        except FileNotFoundError:
            return None


def _open_at_once(path: str, flags: int) -> int:
    # A pipe that stands where a file should would be waited for.
    return os.open(path, flags | _AT_ONCE)


def _parsed(text: bytes) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return _NOT_JSON


def _json_at(path: str) -> Any:
    """Return what a file holds; None when there is no file, and for what is not JSON."""
    text = _read(path)
    value = _NOT_JSON if text is None else _parsed(text)
    return None if value is _NOT_JSON else value


def _load(path: str) -> Any:
    """Return what a file holds; None when there is no file, and for ``null``."""
    text = _read(path)
    if text is None:
        return None
    value = _parsed(text)
    if value is _NOT_JSON:
        raise CorruptDataError(
            path, "is not JSON", hint="the next start moves it aside; a write replaces it"
        )
    if isinstance(value, dict):
        when = value.get("when")
        if isinstance(when, float) and when.is_integer():
            value["when"] = int(when)
    return value


def _load_value(domain: Domain, path: str) -> Any:
    value = _load(path)
    if value is None or domain not in DOMAINS:
        return value
    if domain.absent != "list":
        if isinstance(value, dict):
            return value
        raise CorruptDataError(path, "holds no object")
    if isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], dict) for pair in value
    ):
        return value
    raise CorruptDataError(path, "holds no list of pairs")


def _load_mapping(path: str) -> dict[str, Any] | None:
    value = _load(path)
    if value is None or isinstance(value, dict):
        return value
    raise CorruptDataError(path, "holds no object")


def _load_mappings(directory: str, names: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for name in names:
        mapping = _load_mapping(os.path.join(directory, f"{name}{_SUFFIX}"))
        if mapping is not None:
            found.append((name, mapping))
    return found


def _load_candle(path: str, timestamp: int) -> Candle | None:
    text = _read(path)
    if text is None:
        return None
    value = _parsed(text)
    candle = {name: value.get(name) for name in CANDLE_FIELDS} if isinstance(value, dict) else {}
    if candle.get("timestamp") == timestamp and all(map(_is_number, candle.values())):
        candle["timestamp"] = timestamp
        return candle  # type: ignore[return-value]  # a dict of the six fields, checked above
    # Left in place it would be missing for ever: a candle that has a file is not written again.
    _set_aside(path, lambda moved: moved == text, "is no candle")
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return value if _is_number(value) else 0


def payload_moment(domain: Domain, value: Any) -> int | None:
    """Return the moment inside of a payload in ms, None when it carries none."""
    if domain.name == "risk":
        opened = [_moment_of(pair[1].get("openTimestamp")) for pair in value]
        return max((moment for moment in opened if moment is not None), default=None)
    if not isinstance(value, dict) or domain.name in ("partial", "breakeven"):
        return None
    return _moment_of(value.get("timestamp" if domain.name == "recent" else "when"))


def _moment_of(value: Any) -> int | None:
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", value))
        except ValueError:
            return None
        return to_ms(moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc))
    return int(value) if _is_number(value) else None


def _names(directory: str) -> list[str]:
    """Return the ids of a directory's rows in natural order."""
    with _store_errors(directory):
        try:
            with os.scandir(directory) as entries:
                names = [
                    entry.name[: -len(_SUFFIX)]
                    for entry in entries
                    if entry.name.endswith(_SUFFIX)
                    and not entry.name.startswith(_TEMPORARY)
                    and entry.name != _SUFFIX
                    and entry.is_file()
                ]
        except FileNotFoundError:
            return []
    return sorted(names, key=natural_key)


def _tidy(directory: str, checks_files: bool) -> None:
    with _store_errors(directory):
        _make_directory(directory)
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(_TEMPORARY):
                    # A younger one may belong to a process that is writing.
                    with suppress(FileNotFoundError):
                        age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                        if age > _TEMPORARY_LIFE_SECONDS:
                            os.unlink(entry.path)
                elif checks_files and entry.name.endswith(_SUFFIX) and entry.is_file():
                    _set_aside_if_broken(entry.path)


def _set_aside_if_broken(path: str) -> bool:
    """Move a file that is not JSON to ``.corrupt``; say whether that was needed."""
    text = _read(path)
    if text is None or _parsed(text) is not _NOT_JSON:
        return False
    return _set_aside(path, lambda moved: _parsed(moved) is _NOT_JSON, "is not JSON")


def _set_aside(path: str, is_bad: Callable[[bytes], bool], reason: str) -> bool:
    folder = os.path.join(os.path.dirname(path), _CORRUPT)
    target = os.path.join(folder, os.path.basename(path))
    with _store_errors(path):
        os.makedirs(folder, exist_ok=True)
        if os.path.lexists(target):
            target = f"{target[: -len(_SUFFIX)]}.{secrets.token_hex(6)}{_SUFFIX}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return False
        if not is_bad(_read(target) or b""):
            # Another process has replaced the file since it was read.
            with suppress(FileExistsError):
                os.link(target, path)
                os.unlink(target)
            return False
    _logger.warning("%s %s; moved to %s", path, reason, target)
    return True


def _make_directory(directory: str) -> None:
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    _make_directory(parent)
    with suppress(FileExistsError):
        os.mkdir(directory)
    sync_directory(parent)


@contextmanager
def _temporary_files(texts: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    """Write texts to flushed temporary files beside their targets; remove those left at the end."""
    temporary: dict[str, str] = {}
    handles: list[int] = []
    try:
        for path, text in texts.items():
            directory, name = os.path.split(path)
            made = os.path.join(directory, f"{_TEMPORARY}{secrets.token_hex(6)}-{name}")
            handles.append(_create(made))
            temporary[path] = made
            _write_all(handles[-1], text)
        for handle in handles:
            os.fsync(handle)
        while handles:
            os.close(handles.pop())
        yield temporary
    finally:
        for handle in handles:
            os.close(handle)
        for made in temporary.values():
            with suppress(FileNotFoundError):
                os.unlink(made)


def _create(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        _make_directory(os.path.dirname(path))
        return os.open(path, flags, 0o666)


def _write_all(handle: int, text: bytes) -> None:
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _write_file(path: str, text: bytes) -> None:
    _write_files({path: text}, replaces=True)


def _write_files(texts: Mapping[str, bytes], *, replaces: bool) -> None:
    """Write files of one directory; without `replaces` those stay that are there by then."""
    put = os.replace if replaces else _link
    paths = list(texts)
    for start in range(0, len(paths), _BATCH):
        batch = {path: texts[path] for path in paths[start : start + _BATCH]}
        with _store_errors(paths[start]), _temporary_files(batch) as temporary:
            for path, made in temporary.items():
                put(made, path)


def _link(made: str, path: str) -> None:
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not os.path.lexists(path):
            os.replace(made, path)


class _Writer:
    """Runs write jobs in threads: those of one directory in order, and with one flush for several.

    A job says whether it changed names in its directory.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._queues: dict[str, deque[tuple[_Job, Future[None]]]] = {}

    async def run(self, directory: str, job: _Job) -> None:
        """Run `job` after those that were given before for the directory, and wait for it."""
        if self._process != os.getpid():
            self._forget()  # the threads of the parent process do not exist here
        done: Future[None] = Future()
        with self._lock:
            is_idle = directory not in self._queues
            self._queues.setdefault(directory, deque()).append((job, done))
        if is_idle:
            try:
                asyncio.get_running_loop().run_in_executor(None, self._drain, directory)
            except BaseException as error:
                with self._lock:
                    stranded = self._queues.pop(directory)
                for _, other in stranded:
                    if other.set_running_or_notify_cancel():
                        other.set_exception(error)
                raise
        await asyncio.wrap_future(done)

    def _drain(self, directory: str) -> None:
        while batch := self._next_batch(directory):
            finished: list[Future[None]] = []
            changed = False
            for job, done in batch:
                if not done.set_running_or_notify_cancel():
                    continue
                try:
                    changed = job() or changed
                except BaseException as error:
                    done.set_exception(error)
                else:
                    finished.append(done)
            try:
                if changed:
                    with _store_errors(directory):
                        sync_directory(directory)
            except StoreError as error:
                for done in finished:
                    done.set_exception(error)
            else:
                for done in finished:
                    done.set_result(None)

    def _next_batch(self, directory: str) -> list[tuple[_Job, Future[None]]]:
        with self._lock:
            queue = self._queues[directory]
            batch = [queue.popleft() for _ in range(min(len(queue), _BATCH))]
            if not batch:
                del self._queues[directory]
            return batch
