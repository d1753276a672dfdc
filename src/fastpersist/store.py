"""Opening, installing and closing stores."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, cast

from .adapters.dual_store import DualStoreBackend
from .errors import ClosedError
from .hot.idcache import CacheStats
from .own_domains import OwnDomain, OwnDomainT, declared_domains
from .registry import Registries, registries
from .services.container import Container
from .services.logger import LoggerService
from .settings import Settings, SettingsArguments

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Store", "StoreHealth", "open_store", "set_logger", "setup", "shutdown"]

_PING_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Which servers of a store answer.

    Attributes:
        mongo_ms: How long MongoDB's primary took, in ms, or None: it did not answer.
        redis_ms: The same of Redis, without which a store is slower and no more.
    """

    mongo_ms: float | None
    redis_ms: float | None

    @property
    def mongo(self) -> bool:
        """Whether MongoDB's primary answers."""
        return self.mongo_ms is not None

    @property
    def redis(self) -> bool:
        """Whether Redis answers."""
        return self.redis_ms is not None


class Store(Registries):
    """A dual store with a life of its own: fifteen registries over one container.

    ``async with`` connects and closes it; without it, the first operation connects.

    Attributes:
        container: The services behind the registries.
    """

    def __init__(self, settings: Settings, logger: Any | None = None) -> None:
        super().__init__()
        self._domains: dict[OwnDomain[Any], OwnDomain[Any]] = {}
        self.container = Container(settings)
        self.container.logger_service.set_logger(logger)
        self.use_backend(DualStoreBackend(self.container))

    def domain(self, declared: OwnDomainT) -> OwnDomainT:
        """Return the registry of a declared domain that is served from this store."""
        bound = self._domains.get(declared)
        if bound is None:
            bound = self._domains[declared] = declared.bound_to(self.backend)
        return cast(OwnDomainT, bound)

    def cache_info(self) -> CacheStats:
        """Return hits, misses and entries of the id cache in this process."""
        return self.container.ids.stats()

    def cache_clear(self) -> None:
        """Empty the id cache in this process; answers stay the same, the next reads are slower."""
        self.container.ids.clear()

    async def ready(self) -> None:
        """Connect and ensure the indexes, unless that is done.

        Raises:
            ConfigurationError: A setting is wrong, or stored data stands in the way of an index.
            StoreUnavailableError: MongoDB is not ready within ``start_timeout``.
        """
        await self.container.ready()

    async def health(self) -> StoreHealth:
        """Ask both servers, for a second at most; raises nothing when one does not answer.

        Connects nothing: of a store that has not been used, or is closed, none answers.
        """
        try:
            mongo, redis = self.container.mongo_service, self.container.redis_service
        except ClosedError:
            return StoreHealth(None, None)
        return StoreHealth(
            *await asyncio.gather(mongo.ping(_PING_SECONDS), redis.ping(_PING_SECONDS))
        )

    async def aclose(self) -> None:
        """Close all connections and the local servers that this store started."""
        await self.container.aclose()

    async def __aenter__(self) -> Store:
        try:
            await self.ready()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


_logger: Any | None = None
_installed: Store | None = None
_replaced: list[Store] = []


def open_store(*, logger: Any | None = None, **settings: Unpack[SettingsArguments]) -> Store:
    """Return a store of its own, for ``async with``; the process-wide adapters are not touched.

    Args:
        logger: A ``logging.Logger``, a structlog logger or a four-method logger.
        **settings: See :class:`~fastpersist.Settings`.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    return Store(Settings.load(**settings), logger)


def setup(*, logger: Any | None = None, **settings: Unpack[SettingsArguments]) -> Store:
    """Serve the fifteen process-wide adapters, and declared domains, from MongoDB and Redis.

    Connects nothing: the first operation does. Calling it again installs another store; the first
    is closed by :func:`shutdown` together with it.

    Args:
        logger: A ``logging.Logger``, a structlog logger or a four-method logger; by default the
            one that :func:`set_logger` was given.
        **settings: See :class:`~fastpersist.Settings`.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    global _installed
    store = open_store(logger=_logger if logger is None else logger, **settings)
    if _installed is not None:
        _replaced.append(_installed)
    _installed = store
    registries.use_backend(store.backend)
    for domain in declared_domains():
        domain.use_backend(store.backend)
    return store


def set_logger(logger: Any | None) -> None:
    """Let the installed store and those of later :func:`setup` calls report to `logger`.

    None silences them. The files family reports to the stdlib's ``fastpersist.files``.

    Raises:
        ConfigurationError: `logger` is no logger that fits.
    """
    global _logger
    service = LoggerService() if _installed is None else _installed.container.logger_service
    service.set_logger(logger)
    _logger = logger


async def shutdown() -> None:
    """Close every store that :func:`setup` installed and go back to the files family."""
    global _installed
    stores, _installed = [*_replaced, *([_installed] if _installed else [])], None
    _replaced.clear()
    registries.use_json()
    for domain in declared_domains():
        domain.use_json()
    for store in stores:
        await store.aclose()
