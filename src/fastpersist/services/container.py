"""The container: 33 services, made when first asked for, closed in reverse order."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ..deadlines import time_limit
from ..domains import (
    BREAKEVEN,
    CANDLE,
    DOMAINS,
    INTERVAL,
    LOG,
    MEASURE,
    MEMORY,
    NOTIFICATION,
    PARTIAL,
    RECENT,
    RISK,
    SCHEDULE,
    SESSION,
    SIGNAL,
    STATE,
    STORAGE,
    Domain,
    Shape,
)
from ..errors import (
    ClosedError,
    EventLoopError,
    FastPersistError,
    InvalidArgumentError,
    StoreUnavailableError,
)
from ..hot.idcache import IdCache
from ..settings import Settings
from ..singleshot import Singleshot
from .cache import IdCacheService
from .db import (
    DB_SERVICES,
    CandleDbService,
    DbService,
    EntryDbService,
    ListDbService,
    ValueDbService,
)
from .logger import LoggerService
from .mongo import MongoService
from .redis import RedisService

if TYPE_CHECKING:
    from ..local import LocalServers

__all__ = ["Container"]

ServiceT = TypeVar("ServiceT")

_DB_NAMES = {domain: f"{domain.name}_db_service" for domain in DOMAINS}


class _Service(Generic[ServiceT]):
    """A lazily made service as a typed attribute."""

    def __init__(self, make: Callable[[Container], ServiceT]) -> None:
        self._make = make
        self._name = ""

    def __set_name__(self, owner: type[Container], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, container: None, owner: type[Container]) -> _Service[ServiceT]: ...

    @overload
    def __get__(self, container: Container, owner: type[Container]) -> ServiceT: ...

    def __get__(
        self, container: Container | None, owner: type[Container]
    ) -> ServiceT | _Service[ServiceT]:
        if container is None:
            return self
        made = container._made
        service: ServiceT | None = made.get(self._name)
        if service is None:
            container._refuse_when_closed()
            service = made[self._name] = self._make(container)
        return service


def _cache(domain: Domain) -> _Service[IdCacheService]:
    return _Service(lambda container: container._make_cache(domain))


def _values(domain: Domain) -> _Service[ValueDbService]:
    return _Service(lambda container: container._make_db(ValueDbService, domain))


def _entries(domain: Domain) -> _Service[EntryDbService]:
    return _Service(lambda container: container._make_db(EntryDbService, domain))


def _lists(domain: Domain) -> _Service[ListDbService]:
    return _Service(lambda container: container._make_db(ListDbService, domain))


class Container:
    """The services of one store and the life of its clients.

    A container belongs to the event loop that uses it first. A later loop gets clients of its own
    once the first has ended (as with one ``asyncio.run`` after another); while the first still
    runs, its use is refused.

    Args:
        settings: Servers and guarantees.
        ensures_indexes: Whether the start creates missing indexes and refuses legacy ones. Tools
            that look into a database, whatever its state, leave them as they are.
    """

    logger_service = _Service(lambda container: LoggerService())
    mongo_service = _Service(lambda container: container._make_mongo())
    redis_service = _Service(lambda container: container._make_redis())

    candle_cache_service = _cache(CANDLE)
    signal_cache_service = _cache(SIGNAL)
    schedule_cache_service = _cache(SCHEDULE)
    risk_cache_service = _cache(RISK)
    partial_cache_service = _cache(PARTIAL)
    breakeven_cache_service = _cache(BREAKEVEN)
    storage_cache_service = _cache(STORAGE)
    notification_cache_service = _cache(NOTIFICATION)
    log_cache_service = _cache(LOG)
    measure_cache_service = _cache(MEASURE)
    interval_cache_service = _cache(INTERVAL)
    memory_cache_service = _cache(MEMORY)
    recent_cache_service = _cache(RECENT)
    state_cache_service = _cache(STATE)
    session_cache_service = _cache(SESSION)

    candle_db_service = _Service(lambda container: container._make_db(CandleDbService, CANDLE))
    signal_db_service = _values(SIGNAL)
    schedule_db_service = _values(SCHEDULE)
    risk_db_service = _values(RISK)
    partial_db_service = _values(PARTIAL)
    breakeven_db_service = _values(BREAKEVEN)
    storage_db_service = _lists(STORAGE)
    notification_db_service = _lists(NOTIFICATION)
    log_db_service = _lists(LOG)
    measure_db_service = _entries(MEASURE)
    interval_db_service = _entries(INTERVAL)
    memory_db_service = _entries(MEMORY)
    recent_db_service = _values(RECENT)
    state_db_service = _values(STATE)
    session_db_service = _values(SESSION)

    settings: Settings
    ids: IdCache

    def __init__(self, settings: Settings, *, ensures_indexes: bool = True) -> None:
        self.settings = settings
        self._ensures_indexes = ensures_indexes
        self._made: dict[str, Any] = {}
        self._overrides: dict[str, Any] = {}
        self._own_db: dict[Domain, DbService] = {}
        self._own_caches: dict[Domain, IdCacheService] = {}
        self._own_starts: dict[Domain, Singleshot[None]] = {}
        self.ids = IdCache(settings.id_cache_entries)
        self._start = Singleshot(self._connect)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._servers: LocalServers | None = None
        self._is_closed = False

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the 33 services."""
        return tuple(name for name, value in vars(cls).items() if isinstance(value, _Service))

    def override(self, name: str, service: Any) -> None:
        """Use `service` under `name`, in this container only; for tests.

        Services that were made before keep what they hold, so override before the first use.

        Raises:
            InvalidArgumentError: There is no service of that name.
        """
        if name not in self.names():
            raise InvalidArgumentError("name", f"no service {name!r:.60}")
        self._overrides[name] = self._made[name] = service

    def made(self) -> tuple[Any, ...]:
        """Return the services that have been made so far, the first one first."""
        return (*self._made.values(), *self._own_caches.values(), *self._own_db.values())

    def db(self, domain: Domain) -> Any:
        """Return the db service of a domain, one of the 15 or a declared one."""
        name = _DB_NAMES.get(domain)
        if name is not None:
            return getattr(self, name)
        service = self._own_db.get(domain)
        if service is None:
            self._refuse_when_closed()
            service = self._own_db[domain] = DB_SERVICES[domain.shape](
                domain, self.mongo_service, self.cache(domain), self.logger_service
            )
        return service

    def cache(self, domain: Domain) -> IdCacheService:
        """Return the id cache of a domain, one of the 15 or a declared one."""
        if domain in _DB_NAMES:
            cache: IdCacheService = getattr(self, f"{domain.name}_cache_service")
            return cache
        found = self._own_caches.get(domain)
        if found is None:
            self._refuse_when_closed()
            found = self._own_caches[domain] = self._make_cache(domain)
        return found

    async def ready(self, domain: Domain | None = None) -> None:
        """Connect and ensure the indexes, once, however many ask at the same moment.

        All who wait share one outcome; after a failure the next call tries again.

        Raises:
            ClosedError: The container was closed.
            ConfigurationError: A setting is wrong, or stored data stands in the way of an index.
            EventLoopError: The clients belong to another loop that still runs.
            StoreUnavailableError: MongoDB is not ready within ``start_timeout``.
        """
        self._refuse_when_closed()
        if self._loop is not asyncio.get_running_loop() or self._pid != os.getpid():
            self._adopt_loop()
        if not self._start.is_done:
            await self._start()
        if domain is not None and domain not in _DB_NAMES and self._ensures_indexes:
            start = self._own_starts.get(domain)
            if start is None:
                start = self._own_starts[domain] = Singleshot(
                    lambda: self.mongo_service.ensure_indexes([domain])
                )
            if not start.is_done:
                await start()

    def _adopt_loop(self) -> None:
        previous, self._loop = self._loop, asyncio.get_running_loop()
        if previous is None and self._pid == os.getpid():
            return
        if previous is not None and self._pid == os.getpid() and not previous.is_closed():
            self._loop = previous
            raise EventLoopError(
                "this store's clients belong to another event loop",
                hint="open a store of its own there with fastpersist.open(), "
                "or await fastpersist.shutdown() in the first loop",
            )
        # The old loop is gone, or this is a forked child that shares its parent's sockets.
        self._pid = os.getpid()
        self._abandon_clients()

    def _abandon_clients(self) -> None:
        kept = {
            name: service
            for name, service in self._made.items()
            if name == "logger_service" or name in self._overrides
        }
        # Closing needs the loop that is gone: dropping the clients has to close their sockets.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self._made.clear()
            self._own_db.clear()
            self._own_caches.clear()
            self._own_starts.clear()
            self._start = Singleshot(self._connect)
            gc.collect()
        self._made.update(kept)

    async def _connect(self) -> None:
        mongo_url, redis_url = self.settings.mongo_url, self.settings.redis_url
        if mongo_url is None or redis_url is None:
            urls = await self._start_local_servers()
            mongo_url, redis_url = mongo_url or urls[0], redis_url or urls[1]
        mongo = asyncio.ensure_future(self._connect_mongo(mongo_url))
        redis = asyncio.ensure_future(self.redis_service.connect(redis_url))
        try:
            async with time_limit(self.settings.start_timeout):
                await asyncio.gather(mongo, redis)
        except BaseException as error:
            for task in (mongo, redis):
                task.cancel()
            await asyncio.wait([mongo, redis])
            await self._disconnect()
            if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
                raise StoreUnavailableError(
                    "mongo",
                    f"not ready within {self.settings.start_timeout} s",
                    timeout=True,
                    hint="a longer start_timeout lets large indexes be built",
                ) from error
            raise

    async def _connect_mongo(self, url: str) -> None:
        await self.mongo_service.connect(url)
        if self._ensures_indexes:
            await self.mongo_service.ensure_indexes(DOMAINS)

    async def _start_local_servers(self) -> tuple[str, str]:
        from ..local import LocalServers  # not needed where servers are configured

        if self._servers is None:
            self._servers = LocalServers(self.settings.local_folder)
        urls = await asyncio.to_thread(self._servers.start)
        return urls.mongo_url, urls.redis_url

    async def _disconnect(self) -> None:
        for name in ("redis_service", "mongo_service"):
            service = self._made.get(name)
            if service is not None:
                await service.aclose()

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise ClosedError("this store was closed")

    def _make_mongo(self) -> MongoService:
        return MongoService(self.settings, self.logger_service)

    def _make_redis(self) -> RedisService:
        return RedisService(self.settings, self.logger_service)

    def _make_cache(self, domain: Domain) -> IdCacheService:
        return IdCacheService(
            domain,
            self.redis_service,
            self.logger_service,
            self.ids,
            self.settings.redis_prefix,
            stores_ids=domain.shape is not Shape.CANDLE or self.settings.candle_ids,
        )

    def _make_db(
        self,
        kind: Callable[[Domain, MongoService, IdCacheService, LoggerService], ServiceT],
        domain: Domain,
    ) -> ServiceT:
        return kind(domain, self.mongo_service, self.cache(domain), self.logger_service)

    async def aclose(self) -> None:
        """Close all services that were made, the last first, then the local servers."""
        if self._is_closed:
            return
        self._is_closed = True
        # In a forked child, a start that was under way is the parent's.
        starts = (self._start, *self._own_starts.values()) if self._pid == os.getpid() else ()
        for start in starts:
            await start.end(ClosedError("this store was closed during its start"))
        if self._pid == os.getpid() and self._loop in (None, asyncio.get_running_loop()):
            for service in (*self._own_db.values(), *reversed(list(self._made.values()))):
                close = getattr(service, "aclose", None)
                if close is not None:
                    with suppress(FastPersistError):
                        await close()
        else:
            self._abandon_clients()
        self._made.clear()
        self.ids.clear()
        if self._servers is not None:
            await asyncio.to_thread(self._servers.stop)
            self._servers = None
