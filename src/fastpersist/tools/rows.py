"""Stored rows for people: found by context and fields, newest first, or as they are written."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, Final, Literal

import pymongo
from bson import DatetimeMS, Timestamp
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.asynchronous.collection import AsyncCollection

from ..domains import CANDLE_FIGURES, Domain, Shape
from ..errors import InvalidArgumentError, StoreError, StoreUnavailableError
from ..services.base_crud import utc_now
from ..services.container import Container
from ..services.mongo import LENIENT, Document, translated_errors

__all__ = [
    "MOST_ROWS",
    "Row",
    "RowQuery",
    "find_rows",
    "follow_rows",
    "parse_context",
    "parse_where",
]

MOST_ROWS: Final = 100_000

_DATES: Final = ("createDate", "updatedDate")
_AWAIT_MS: Final = 500
_FIRST_PAUSE: Final = 0.1
_MOST_PAUSE: Final = 5.0
_POLL_SECONDS: Final = 0.5
# How much later than another writer's a date may arrive.
_OVERLAP: Final = timedelta(seconds=10)
_REMEMBERED: Final = 100_000
_NO_STREAMS: Final = frozenset({40573, 13, 59, 304})
_HISTORY_LOST: Final = frozenset({280, 286})
# The driver goes on by itself where the first answer told of a drop, but not by start_after.
_ENDED_AT_ONCE: Final = 260


@dataclass(frozen=True, kw_only=True)
class RowQuery:
    """Which rows are asked for.

    Attributes:
        domain: Their domain.
        context: Stored names of key fields and their values.
        where: Stored paths and the values of which they have one.
        since: The earliest date of a row, or opening time of a candle; ms since the epoch.
        limit: How many rows at most, at least 1.
    """

    domain: Domain
    context: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    since: int | None = None
    limit: int = 20


@dataclass(frozen=True)
class Moment:
    """A moment after which rows are followed.

    Attributes:
        cluster_time: Of a replica set; None of a standalone server.
        date: By the clock here.
    """

    cluster_time: Timestamp | None
    date: datetime


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stored row, or that one was deleted.

    Attributes:
        id: Its ``_id`` as text.
        context: Its key fields.
        when: Simulated time of its write, as stored; None where the domain has none.
        created: Date of its first write, None if it has none.
        updated: Date of its last write, None if it has none.
        removed: Whether it is flagged as removed; None where the domain has no flag.
        value: Its payload, or the figures of a candle.
        change: ``found`` by a query, else what happened to it.
    """

    id: str
    context: dict[str, Any]
    when: Any
    created: datetime | None
    updated: datetime | None
    removed: bool | None
    value: Any
    change: Literal["found", "insert", "update", "replace", "delete"] = "found"


def parse_context(domain: Domain, texts: Sequence[str]) -> dict[str, Any]:
    """Return key fields from texts, in the order of the domain's methods; the last may be missing.

    Raises:
        InvalidArgumentError: There are too many, or one does not fit its field.
    """
    if len(texts) > len(domain.key):
        names = " ".join(part.argument.upper() for part in domain.key)
        raise InvalidArgumentError("context", f"{domain.name} has at most: {names}")
    context: dict[str, Any] = {}
    for part, text in zip(domain.key, texts, strict=False):
        if part.kind == "mode":
            modes = {"backtest": True, "true": True, "live": False, "false": False}
            if text.lower() not in modes:
                raise InvalidArgumentError(part.argument, "must be backtest or live")
            context[part.stored] = modes[text.lower()]
        elif part.kind == "timestamp":
            if not (text.isascii() and text.isdecimal() and len(text) < 18):
                raise InvalidArgumentError(part.argument, "must be ms since the epoch")
            context[part.stored] = int(text)
        else:
            context[part.stored] = _storable(part.argument, text)
    return context


def parse_where(domain: Domain, texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return paths and values from ``field=value`` texts; unknown fields are those of the payload.

    A value that is also a number, true, false or null means both that and the text.

    Raises:
        InvalidArgumentError: A text is none of that kind.
    """
    known = {
        *domain.key_names,
        domain.value_field,
        "when",
        "removed",
        "_id",
        *_DATES,
        *CANDLE_FIGURES,
    }
    where: dict[str, list[Any]] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        steps = path.split(".")
        if not equals or not all(steps) or any(step.startswith("$") for step in steps):
            raise InvalidArgumentError(
                "where", f"expected FIELD=VALUE, got {text!r:.60}", hint="payload.position=long"
            )
        for part in (path, value):
            _storable("where", part)
        if steps[0] not in known:
            path = f"{domain.value_field}.{path}"
        values = [value, *_meanings(value)]
        if path in where:
            raise InvalidArgumentError("where", f"{path!r:.60} is there twice")
        where[path] = values
    return where


def _storable(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(name, "is no text in UTF-8") from None
    if "\0" in text:
        raise InvalidArgumentError(name, "holds a NUL")
    return text


def _meanings(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(value, float) and not isfinite(value):
        return []
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return []
    return [value] if value is None or isinstance(value, (bool, int, float)) else []


async def find_rows(container: Container, query: RowQuery, seconds: float) -> list[Row]:
    """Return the newest rows that match, never more than asked for.

    Newest by creation of notifications and log lines, by opening time of candles, by last write of
    all others. What no index serves is looked for within `seconds`.

    Raises:
        InvalidArgumentError: The limit is none.
        StoreUnavailableError: MongoDB did not answer within `seconds`.
    """
    if not 1 <= query.limit <= MOST_ROWS:
        raise InvalidArgumentError("limit", f"must be from 1 to {MOST_ROWS}")
    newest = _newest_by(query.domain)
    with translated_errors(), pymongo.timeout(seconds):
        cursor = (
            _collection(container, query.domain)
            .find(_filter(query), sort=[(newest, -1), ("_id", -1)], limit=query.limit)
            .allow_disk_use(True)
        )
        async with cursor:
            documents = await cursor.to_list(query.limit)
    return [_row(query.domain, document) for document in documents]


async def current_moment(container: Container) -> Moment:
    """Return the moment that :func:`follow_rows` goes on from; what is stored lies before it."""
    now = utc_now()
    return Moment(await container.mongo_service.cluster_time(), now)


async def follow_rows(
    container: Container,
    query: RowQuery,
    after: Moment,
    *,
    patience: float = 300.0,
    on_notice: Callable[[str], None] = lambda text: None,
) -> AsyncGenerator[Row, None]:
    """Yield the rows that match as they are written, without end.

    From a change stream where there is one, else by asking twice a second, which sees no deletion
    and may see the last of several writes only. Deletions are told when nothing is filtered by.
    After a lost connection it goes on where it was.

    Args:
        container: Connected services.
        query: Which rows; its limit counts for nothing.
        after: Rows written before it are not told.
        patience: How many seconds MongoDB may be away at a time.
        on_notice: Is told of what a reader should know, as a lost connection.

    Raises:
        StoreError: MongoDB refuses it.
        StoreUnavailableError: MongoDB was away for longer than `patience`.
    """
    follower = _Follower(container, query, after)
    pause, lost_at = _FIRST_PAUSE, 0.0
    ended_at: dict[str, Any] = {}
    look = follower.poll if after.cluster_time is None else follower.stream
    while True:
        try:
            async with aclosing(look()) as rows:
                async for row in rows:
                    pause, lost_at = _FIRST_PAUSE, 0.0
                    if row is not None:
                        yield row
        except StoreUnavailableError as error:
            now = time.monotonic()
            if not lost_at:
                lost_at = now
                on_notice(f"{error}; trying again")
            if now - lost_at > patience:
                raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MOST_PAUSE)
        except StoreError as error:
            code = getattr(error.__cause__, "code", None)
            if code == _ENDED_AT_ONCE and follower.place != ended_at:
                ended_at = follower.place
            elif code in _HISTORY_LOST and follower.place:
                on_notice("MongoDB no longer knows the changes since then; some may be missing")
                follower.place = {}
            elif code in _NO_STREAMS and look == follower.stream:
                on_notice("no change stream is to be had here; asking twice a second")
                look = follower.poll
            else:
                raise


class _Follower:
    """Two ways to see rows as they are written; both yield None for each look without a row."""

    def __init__(self, container: Container, query: RowQuery, after: Moment) -> None:
        self._mongo = container.mongo_service
        self._query = query
        self._collection = _collection(container, query.domain)
        self._begun = self._since = after.date
        self._seen: OrderedDict[Any, None] = OrderedDict()
        self.place: dict[str, Any] = {}
        if after.cluster_time is not None:
            just_after = Timestamp(after.cluster_time.time, after.cluster_time.inc + 1)
            self.place = {"start_at_operation_time": just_after}

    async def stream(self) -> AsyncGenerator[Row | None, None]:
        conditions = {f"fullDocument.{path}": value for path, value in _filter(self._query).items()}
        kinds = ["insert", "update", "replace", *([] if conditions else ["delete"])]
        match = {"operationType": {"$in": kinds}, **conditions}
        with self._mongo.operation():
            stream = await self._collection.watch(
                [{"$match": match}],
                full_document="updateLookup",
                max_await_time_ms=_AWAIT_MS,
                **self.place,
            )
        async with stream:
            while True:
                self._note_place(stream)
                with self._mongo.operation():
                    change = await stream.try_next()
                self._note_place(stream)
                kind = None if change is None else change["operationType"]
                if change is None or kind not in kinds:
                    yield None
                elif kind == "delete":
                    yield _row(self._query.domain, change["documentKey"], kind)
                elif change.get("fullDocument"):  # None if it has been deleted since
                    yield _row(self._query.domain, change["fullDocument"], kind)
                if not stream.alive:
                    # The collection was dropped; its successor has a stream of its own.
                    return

    def _note_place(self, stream: AsyncChangeStream[Document]) -> None:
        if stream.resume_token is not None:
            # Unlike resume_after, it also goes on behind the drop of a collection.
            self.place = {"start_after": stream.resume_token}

    async def poll(self) -> AsyncGenerator[Row | None, None]:
        while True:
            started = time.monotonic()
            query = {**_filter(self._query), "updatedDate": {"$gte": self._since - _OVERLAP}}
            now = utc_now()
            with self._mongo.operation():
                found = await self._collection.find(query, sort=[("updatedDate", 1)]).to_list()
            for document in found:
                if not isinstance(document["updatedDate"], datetime):
                    continue  # of a year that Python does not know
                mark = (str(document["_id"]), str(document["updatedDate"]))
                # What was written before the start is in the overlap only.
                is_new = mark not in self._seen and document["updatedDate"] >= self._begun
                self._seen[mark] = None
                if is_new:
                    yield _row(self._query.domain, document, "update")
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
            self._since = now
            yield None
            taken = time.monotonic() - started
            await asyncio.sleep(max(_POLL_SECONDS, 4 * taken))


def _collection(container: Container, domain: Domain) -> AsyncCollection[Document]:
    return container.mongo_service.collection(domain.collection).with_options(codec_options=LENIENT)


def _newest_by(domain: Domain) -> str:
    return "timestamp" if domain.shape is Shape.CANDLE else domain.newest_by


def _filter(query: RowQuery) -> dict[str, Any]:
    conditions: dict[str, Any] = {name: {"$eq": value} for name, value in query.context.items()}
    for path, values in query.where.items():
        conditions.setdefault(path, {})["$in"] = list(values)
    if query.since is not None:
        newest = _newest_by(query.domain)
        earliest = query.since if newest == "timestamp" else DatetimeMS(query.since)
        conditions.setdefault(newest, {})["$gte"] = earliest
    return conditions


def _row(
    domain: Domain,
    document: Document,
    change: Literal["found", "insert", "update", "replace", "delete"] = "found",
) -> Row:
    created, updated = (document.get(name) for name in _DATES)
    is_candle = domain.shape is Shape.CANDLE
    return Row(
        id=str(document["_id"]),
        context={name: document[name] for name in domain.key_names if name in document},
        when=document.get("when"),
        created=created if isinstance(created, datetime) else None,
        updated=updated if isinstance(updated, datetime) else None,
        removed=document.get("removed") if domain.shape is Shape.ENTRY else None,
        value={name: document.get(name) for name in CANDLE_FIGURES}
        if is_candle
        else document.get(domain.value_field),
        change=change,
    )
