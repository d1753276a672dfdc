"""The MongoDB service: one client, its guarantees, its indexes and its errors in our words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Final

import pymongo
from bson import Int64, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.errors import ConfigurationError as MongoConfigurationError
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from ..deadlines import time_limit
from ..domains import Domain, Index
from ..errors import (
    ClosedError,
    ConfigurationError,
    InvalidDocumentError,
    LegacyIndexError,
    StoreError,
    StoreUnavailableError,
)
from ..hot.bson import reply_cursor_id, reply_documents, split
from ..settings import Settings
from .logger import LoggerService

__all__ = [
    "DUPLICATE_KEY",
    "INDEX_CONFLICT_CODES",
    "LENIENT",
    "Document",
    "MongoService",
    "Operation",
    "is_legacy_index",
    "translated_errors",
]

Document = dict[str, Any]

# Dates that Python has no word for, as JavaScript can store them, are read as DatetimeMS.
CODEC_OPTIONS: Final = CodecOptions[Document](
    tz_aware=True, uuid_representation=4, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)

# Lenient with texts: what a server once took has to be shown and to go back.
LENIENT: Final[CodecOptions[Document]] = CODEC_OPTIONS.with_options(
    unicode_decode_error_handler="replace"
)

RAW: Final = CodecOptions[RawBSONDocument](document_class=RawBSONDocument)

DUPLICATE_KEY: Final = 11000
"""The server's code for a document that a unique index refuses."""

INDEX_CONFLICT_CODES: Final = frozenset({85, 86})
"""Its codes for an index that another one of the same fields or name stands in the way of."""

_DATABASE_OF_NODE: Final = "test"
_REFUSED_CODES: Final = frozenset({13, 18, 8000})
_NO_SUCH_CONCERN: Final = frozenset({79, 100})
_CLOSE_SECONDS: Final = 1.0
_FIRST_BATCH: Final = 20_000
_UNAVAILABLE_HINT: Final = (
    "is the server up and reachable? deadlines: operation_timeout, start_timeout"
)


class MongoService:
    """Gives collections that acknowledge by majority and journal and read from the primary.

    Attributes:
        converts_doubles: Whether whole doubles beyond 32 bits are read as int.
    """

    def __init__(self, settings: Settings, logger: LoggerService) -> None:
        self._settings = settings
        self._logger = logger
        self._client: AsyncMongoClient[Document] | None = None
        self._database: AsyncDatabase[Document] | None = None
        self._collections: dict[str, AsyncCollection[Document]] = {}
        self._read_concern: dict[str, Any] = {}
        self._idle_sessions: list[AsyncClientSession] = []
        self.converts_doubles = settings.whole_doubles_to_int

    @property
    def client(self) -> AsyncMongoClient[Document]:
        """The driver's client.

        Raises:
            ClosedError: The service is not connected.
        """
        if self._client is None:
            raise ClosedError("mongo: not connected", hint="await the store's ready() first")
        return self._client

    @property
    def database(self) -> AsyncDatabase[Document]:
        """The database that the connection string names, with the settings' write concern.

        Raises:
            ClosedError: The service is not connected.
        """
        if self._database is None:
            raise ClosedError("mongo: not connected", hint="await the store's ready() first")
        return self._database

    def collection(self, name: str) -> AsyncCollection[Document]:
        """Return a collection by its stored name.

        Raises:
            ClosedError: The service is not connected.
        """
        collection = self._collections.get(name)
        if collection is None:
            collection = self._collections[name] = self.database.get_collection(name)
        return collection

    def operation(self) -> Operation:
        """Return a context manager for one operation: its deadline, and its errors in our words.

        Inside of a shorter deadline that one counts. Not for a block that yields to a consumer.
        """
        return Operation(self._settings.operation_timeout)

    async def find_raw(
        self, collection: str, query: Mapping[str, Any], limit: int = 1
    ) -> list[bytes]:
        """Return up to `limit` documents that match and fit into one reply (16 MiB), as BSON.

        A plain command costs less than a cursor; what the driver would repeat is left to it.

        Raises:
            StoreUnavailableError: MongoDB did not answer within the operation's deadline.
        """
        command = {**_find(collection, query, limit), **self._read_concern}
        seconds = self._settings.operation_timeout
        started = time.monotonic()
        try:
            return await self._run_raw(command, seconds)
        except ConnectionFailure:
            seconds_left = max(started + seconds - time.monotonic(), 0.001)
            with pymongo.timeout(seconds_left):
                return await self.find_all_raw(collection, query, limit=limit)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise _no_answer() from error
        except PyMongoError as error:
            raise translate(error) from error

    async def find_newest_raw(
        self,
        collection: str,
        query: Mapping[str, Any],
        projection: Mapping[str, Any],
        limit: int,
        share: float,
    ) -> list[bytes]:
        """Return what ``find_raw`` does, as the primary has it, acknowledged by others or not.

        Nothing is repeated, and it may take `share` of the operation's deadline.

        Raises:
            StoreUnavailableError: MongoDB did not answer in that time.
        """
        command = {
            **_find(collection, query, limit),
            "projection": projection,
            "readConcern": {"level": "local"},
        }
        try:
            return await self._run_raw(command, self._settings.operation_timeout * share)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise _no_answer() from error
        except PyMongoError as error:
            raise translate(error) from error

    async def _run_raw(self, command: dict[str, Any], seconds: float) -> list[bytes]:
        database, session = self._database, self._take_session()
        reply = await self._reply(command, session, seconds)
        if database is self._database:
            self._idle_sessions.append(session)
        return reply_documents(reply)

    async def _reply(
        self, command: dict[str, Any], session: AsyncClientSession, seconds: float
    ) -> bytes:
        async with time_limit(seconds):
            reply = await self.database.command(command, codec_options=RAW, session=session)
        return bytes(reply.raw)

    def _take_session(self) -> AsyncClientSession:
        # A session of one's own costs less than the implicit one that each command makes.
        if self._idle_sessions:
            return self._idle_sessions.pop()
        return self.client.start_session(causal_consistency=False)

    async def find_all_raw(
        self,
        collection: str,
        query: Mapping[str, Any],
        projection: Mapping[str, Any] | None = None,
        *,
        sort: Sequence[tuple[str, int]] = (),
        limit: int = 0,
    ) -> list[bytes]:
        """Return all documents that match, as BSON; a `limit` of 0 means no limit.

        Raises:
            StoreUnavailableError: MongoDB did not answer within the operation's deadline, which
                each batch has anew.
        """
        batches = self.raw_batches(collection, query, projection, sort=sort, limit=limit)
        async with aclosing(batches):
            return [document async for batch in batches for document in batch]

    async def raw_batches(
        self,
        collection: str,
        query: Mapping[str, Any],
        projection: Mapping[str, Any] | None = None,
        *,
        sort: Sequence[tuple[str, int]] = (),
        limit: int = 0,
        at: Timestamp | None = None,
    ) -> AsyncGenerator[list[bytes], None]:
        """Yield the documents of a query as BSON, in the batches in which they arrive.

        By plain commands, since the driver's cursor makes an object of each document before it
        hands out the bytes; where the first one meets a broken connection, the driver repeats it,
        unless the documents are asked for as they were `at` a cluster time.

        Raises:
            StoreUnavailableError: MongoDB did not answer within the operation's deadline, which
                each batch has anew.
        """
        command: dict[str, Any] = {
            "find": collection,
            "filter": query,
            "batchSize": _FIRST_BATCH,
            **({"projection": projection} if projection else {}),
            **({"sort": dict(sort)} if sort else {}),
            **({"limit": limit} if limit else {}),
            **(
                {"readConcern": {"level": "snapshot", "atClusterTime": at}}
                if at is not None
                else self._read_concern
            ),
        }
        database, session = self._database, self._take_session()
        batch, cursor_id = "firstBatch", 0
        try:
            while True:
                try:
                    reply = await self._reply(command, session, self._settings.operation_timeout)
                except ConnectionFailure as error:
                    if cursor_id or at is not None:
                        raise translate(error) from error
                    break
                except (asyncio.TimeoutError, TimeoutError) as error:
                    raise _no_answer() from error
                except PyMongoError as error:
                    raise translate(error) from error
                cursor_id = reply_cursor_id(reply)
                yield reply_documents(reply, batch)
                if not cursor_id:
                    if database is self._database:
                        self._idle_sessions.append(session)
                    return
                command = {"getMore": Int64(cursor_id), "collection": collection}
                batch = "nextBatch"
        finally:
            if cursor_id:
                await self._kill_cursor(collection, cursor_id, session)
        with self.operation():
            cursor: Any = self.collection(collection).find_raw_batches(
                query, projection, sort=list(sort) or None, limit=limit
            )
            async with cursor:
                batches = [split(raw) async for raw in cursor]
        for documents in batches:
            yield documents

    async def cluster_time(self) -> Timestamp | None:
        """Return a moment at which all collections can be read, None of a standalone server.

        All writes acknowledged before are in it. ``raw_batches`` takes it for as long as the
        server keeps its history, five minutes by default.

        Raises:
            StoreUnavailableError: MongoDB did not answer within the operation's deadline.
        """
        with self.operation():
            hello = await self.database.command("hello")
            if "setName" not in hello and hello.get("msg") != "isdbgrid":
                return None
        found: Timestamp = hello["operationTime"]
        return found

    async def _kill_cursor(
        self, collection: str, cursor_id: int, session: AsyncClientSession
    ) -> None:
        command = {"killCursors": collection, "cursors": [Int64(cursor_id)]}
        with suppress(asyncio.TimeoutError, TimeoutError, PyMongoError, ClosedError):
            await self._reply(command, session, _CLOSE_SECONDS)

    async def connect(self, url: str) -> None:
        """Connect to `url` and wait until a primary answers.

        Raises:
            ConfigurationError: The URL's options or credentials are refused.
            StoreUnavailableError: No primary answers in time.
        """
        await self.aclose()
        try:
            client: AsyncMongoClient[Document] = AsyncMongoClient(
                url,
                tz_aware=True,
                uuidRepresentation="standard",
                timeoutMS=None,  # each operation has its own deadline
                appname="fastpersist",
            )
        except (MongoConfigurationError, OSError, ValueError, TypeError) as error:
            raise ConfigurationError(
                "mongo_url", f"the driver refuses its options: {type(error).__name__}"
            ) from None
        self._client = client
        try:
            # The driver looks at its deadline twice a second; its error tells more than ours.
            seconds = max(self._settings.start_timeout - 0.7, 0.5 * self._settings.start_timeout)
            with translated_errors(), pymongo.timeout(seconds):
                await self._reach_primary(client, url)
            self._database = client.get_default_database(
                _DATABASE_OF_NODE,
                codec_options=CODEC_OPTIONS,
                read_preference=ReadPreference.PRIMARY,
                write_concern=self._write_concern(client.write_concern.document),
            )
            concern = self._database.read_concern.document
            self._read_concern = {"readConcern": concern} if concern else {}
        except BaseException:
            await self.aclose()
            raise
        self._logger.debug("mongo: connected", database=self._database.name)

    async def ping(self, seconds: float) -> float | None:
        """Return how many ms the primary took to answer, or None: it did not within `seconds`."""
        started = time.monotonic()
        try:
            async with time_limit(seconds):
                with pymongo.timeout(seconds):
                    await self.client.admin.command("ping")
        except (asyncio.TimeoutError, TimeoutError, OSError, PyMongoError, ClosedError):
            return None
        return (time.monotonic() - started) * 1000

    async def _reach_primary(self, client: AsyncMongoClient[Document], url: str) -> None:
        try:
            await client.aconnect()
            await client.admin.command("ping")
        except MongoConfigurationError as error:
            if not url.startswith("mongodb+srv://"):
                raise
            raise StoreUnavailableError(
                "mongo",
                "the SRV record of its host was not found",
                hint="is the host name in mongo_url right, and does DNS answer?",
            ) from error
        except ServerSelectionTimeoutError as error:
            servers = client.topology_description.server_descriptions().values()
            reasons = [
                str(server.error).partition(" (configured")[0]
                if server.error
                else f"{server.address[0]}:{server.address[1]}: {server.server_type_name}"
                for server in servers
            ] or [
                # The driver forgets hosts of another set, and those of none.
                f"no host is of replica set {client.topology_description.replica_set_name!r}"
            ]
            raise StoreUnavailableError(
                "mongo",
                f"no primary within {self._settings.start_timeout} s: {'; '.join(reasons)}",
                timeout=True,
                hint="is it running, and is mongo_url right? Without any URL local servers are "
                "started; with redis_url alone, mongo_url is the Node runner's default",
            ) from error

    def _write_concern(self, of_url: Mapping[str, Any]) -> WriteConcern:
        acknowledged_by = self._settings.write_concern
        if acknowledged_by is None:
            acknowledged_by = of_url.get("w", "majority")
        if acknowledged_by == 0:
            raise ConfigurationError(
                "mongo_url", "w=0 means unacknowledged: such a write cannot be promised"
            )
        journal = self._settings.journal
        if journal is None:
            journal = of_url.get("j", True)
        return WriteConcern(w=acknowledged_by, j=journal)

    async def ensure_indexes(self, domains: Iterable[Domain]) -> None:
        """Create what is missing of the domains' indexes, whoever made the others.

        Raises:
            LegacyIndexError: A unique index of an earlier version would refuse valid writes.
            ConfigurationError: Stored duplicates or another index stand in the way.
        """
        with pymongo.timeout(self._settings.start_timeout):
            tasks = [
                asyncio.ensure_future(self._ensure_domain_indexes(domain)) for domain in domains
            ]
            try:
                # All are waited for: what one failure leaves under way would meet a closed client.
                await asyncio.wait(tasks)
            except asyncio.CancelledError:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                raise
            await asyncio.gather(*tasks)

    async def stored_indexes(self, collection: str) -> list[Mapping[str, Any]]:
        """Return the indexes of a collection as the server tells them; none if it is absent."""
        with translated_errors():
            try:
                return list(await (await self.collection(collection).list_indexes()).to_list())
            except OperationFailure as error:
                if error.code != 26:  # NamespaceNotFound
                    raise
                return []

    async def _ensure_domain_indexes(self, domain: Domain) -> None:
        collection = self.collection(domain.collection)
        existing = await self.stored_indexes(domain.collection)
        with translated_errors():
            keys = {tuple(index["key"].items()): index for index in existing}
            _refuse_legacy_index(domain, existing)
            wanted: list[tuple[Index, bool]] = []
            unique = keys.get(domain.unique_index)
            if unique is None or not unique.get("unique"):
                wanted.append((domain.unique_index, True))
            if domain.list_index is not None and domain.list_index not in keys:
                wanted.append((domain.list_index, False))
            if not wanted:
                return
            models = [IndexModel(list(key), unique=True) if once else IndexModel(list(key))
                      for key, once in wanted]  # fmt: skip
            try:
                await collection.create_indexes(models)
            except (DuplicateKeyError, OperationFailure) as error:
                raise _index_error(domain, error) from error

    async def aclose(self) -> None:
        """Close all connections."""
        client, self._client, self._database = self._client, None, None
        sessions, self._idle_sessions = self._idle_sessions, []
        self._collections.clear()
        if client is not None:
            # A hanging server must not hold up the close: the driver says goodbye to its sessions.
            with suppress(asyncio.TimeoutError, PyMongoError):
                async with time_limit(_CLOSE_SECONDS):
                    with pymongo.timeout(_CLOSE_SECONDS):
                        for session in sessions:
                            await session.end_session()
                        await client.close()


def is_legacy_index(domain: Domain, index: Mapping[str, Any]) -> bool:
    """Say whether a stored index is unique over fewer fields than a context of the domain has."""
    ours, theirs = {stored for stored, _ in domain.unique_index}, set(index["key"])
    return bool(index.get("unique")) and theirs != {"_id"} and not ours <= theirs


def _refuse_legacy_index(domain: Domain, existing: Iterable[Mapping[str, Any]]) -> None:
    for index in existing:
        if not is_legacy_index(domain, index):
            continue
        name, theirs = index["name"], set(index["key"])
        raise LegacyIndexError(
            domain.collection,
            name,
            f"this unique index over {', '.join(sorted(theirs))} was left by an earlier version "
            f"and would refuse valid {domain.name} writes",
            hint=f'drop it once no runner of that version is left: db["{domain.collection}"]'
            f'.dropIndex("{name}"), or `fastpersist doctor --fix`',
        )


def _index_error(domain: Domain, error: OperationFailure) -> Exception:
    fields = ", ".join(stored for stored, _ in domain.unique_index)
    if error.code == DUPLICATE_KEY:
        return ConfigurationError(
            domain.collection,
            f"holds several documents of one context ({fields}), "
            "so its unique index cannot be built",
            hint="keep the newest of each and delete the others",
        )
    if error.code in INDEX_CONFLICT_CODES:
        return ConfigurationError(
            domain.collection,
            f"has an index over the same fields ({fields}) with other options",
            hint="drop it; it is created anew at the next start",
        )
    return translate(error)


def _find(collection: str, query: Mapping[str, Any], limit: int) -> dict[str, Any]:
    return {
        "find": collection,
        "filter": query,
        "limit": limit,
        "batchSize": limit,
        "singleBatch": True,
    }


def _no_answer(kind: str = "") -> StoreUnavailableError:
    return StoreUnavailableError(
        "mongo",
        f"no answer within the deadline ({kind})" if kind else "no answer within the deadline",
        timeout=True,
        hint=_UNAVAILABLE_HINT,
    )


def translate(error: Exception) -> Exception:
    """Return the error of this package that says what a driver's error means."""
    if isinstance(error, OperationFailure) and error.code in _REFUSED_CODES:
        return ConfigurationError(
            "mongo_url",
            "the server refused user, password or permission",
            hint="FASTPERSIST_MONGO_URL, or CC_MONGO_CONNECTION_STRING",
        )
    if isinstance(error, OperationFailure) and error.code in _NO_SUCH_CONCERN:
        return ConfigurationError(
            "write_concern", "the replica set has no such mode", hint="a number, or majority"
        )
    if isinstance(error, MongoConfigurationError):
        return ConfigurationError("mongo_url", "the driver refuses its options")
    if isinstance(error, DocumentTooLarge):
        return InvalidDocumentError("payload", "the document exceeds MongoDB's 16 MiB")
    if isinstance(error, BSONError):
        return InvalidDocumentError("payload", str(error)[:200])
    if isinstance(error, PyMongoError) and (
        error.timeout or isinstance(error, (ConnectionFailure, ExecutionTimeout))
    ):
        if error.timeout:
            return _no_answer(type(error).__name__)
        return StoreUnavailableError(
            "mongo",
            f"the connection failed ({type(error).__name__})",
            hint=_UNAVAILABLE_HINT,
        )
    if isinstance(error, BulkWriteError):
        first: Mapping[str, Any] = next(iter(error.details.get("writeErrors", ())), {})
        return StoreError(
            f"mongo: {error.code} {str(first.get('errmsg', 'write concern failed'))[:200]}"
        )
    if isinstance(error, OperationFailure):
        return StoreError(f"mongo: {error.code} {str(error)[:200]}")
    if isinstance(error, InvalidOperation):
        return ClosedError("mongo: the client was closed during the call")
    return StoreError(f"mongo: {type(error).__name__}")


class translated_errors:  # noqa: N801  # reads as a statement, like contextlib.suppress
    """Raise the driver's errors inside of the block as errors of this package."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, (PyMongoError, BSONError)):
            raise translate(error) from error


class Operation(translated_errors):
    """One operation: ``translated_errors`` within a deadline of `seconds`, retries included."""

    __slots__ = ("_deadline",)

    def __init__(self, seconds: float) -> None:
        self._deadline = pymongo.timeout(seconds)

    def __enter__(self) -> None:
        self._deadline.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._deadline.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)
