"""Opening, installing and closing stores for synchronous callers."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .. import own_domains
from .. import store as asynchronous
from ..errors import InvalidArgumentError
from ..hot.idcache import CacheStats
from ..settings import SettingsArguments
from ..store import StoreHealth
from ._own_domains import EntryDomain, ListDomain, ValueDomain
from ._registry import Registries
from ._thread import keep, refuse_own_thread, release, run

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Store", "open_store", "setup", "shutdown"]

PayloadT = TypeVar("PayloadT")


class Store(Registries):
    """A dual store for synchronous callers: fifteen registries over one container.

    ``with`` connects and closes it; without it, the first operation connects. Any thread may call.
    Connections belong to the loop of this module, so the asynchronous store is not for another one.

    Args:
        source: The store whose face this is.

    Attributes:
        asynchronous: That store. What it has beyond this class is for :func:`run`, as in
            ``run(store.asynchronous.container.state_db_service.clear, ("signal", "bucket"))``.
    """

    def __init__(self, source: asynchronous.Store) -> None:
        super().__init__(source)
        self.asynchronous = source
        keep(source)

    @overload
    def domain(self, declared: own_domains.ValueDomain[PayloadT]) -> ValueDomain[PayloadT]: ...

    @overload
    def domain(self, declared: own_domains.EntryDomain[PayloadT]) -> EntryDomain[PayloadT]: ...

    @overload
    def domain(self, declared: own_domains.ListDomain[PayloadT]) -> ListDomain[PayloadT]: ...

    def domain(self, declared: own_domains.OwnDomain[Any]) -> Any:
        """Return the registry of a declared domain that is served from this store."""
        bound = self.asynchronous.domain(declared)
        if isinstance(bound, own_domains.ValueDomain):
            return ValueDomain(bound)
        if isinstance(bound, own_domains.EntryDomain):
            return EntryDomain(bound)
        if isinstance(bound, own_domains.ListDomain):
            return ListDomain(bound)
        raise InvalidArgumentError("declared", f"no kind of domain: {type(declared).__name__}")

    def cache_info(self) -> CacheStats:
        """Return hits, misses and entries of the id cache in this process."""
        return self.asynchronous.cache_info()

    def cache_clear(self) -> None:
        """Empty the id cache in this process; answers stay the same, the next reads are slower."""
        self.asynchronous.cache_clear()

    def ready(self) -> None:
        """Connect and ensure the indexes, unless that is done.

        Raises:
            ConfigurationError: A setting is wrong, or stored data stands in the way of an index.
            StoreUnavailableError: MongoDB is not ready within ``start_timeout``.
        """
        run(self.asynchronous.ready)

    def health(self) -> StoreHealth:
        """Ask both servers, for a second at most; raises nothing when one does not answer.

        Connects nothing: of a store that has not been used, or is closed, none answers.
        """
        return run(self.asynchronous.health)

    def close(self) -> None:
        """Close all connections and the local servers that this store started.

        Calls of other threads that are under way end first. After the last store the loop ends.
        """
        refuse_own_thread()
        try:
            run(self.asynchronous.aclose)
        finally:
            release(self.asynchronous)

    def __enter__(self) -> Store:
        try:
            self.ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_installed: list[asynchronous.Store] = []


def open_store(*, logger: Any | None = None, **settings: Unpack[SettingsArguments]) -> Store:
    """Return a store of its own, for ``with``; the process-wide adapters are not touched.

    Args:
        logger: A ``logging.Logger``, a structlog logger or a four-method logger.
        **settings: See :class:`~fastpersist.Settings`.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    return Store(asynchronous.open_store(logger=logger, **settings))


def setup(*, logger: Any | None = None, **settings: Unpack[SettingsArguments]) -> Store:
    """Serve the fifteen process-wide adapters, and declared domains, from MongoDB and Redis.

    They are those of ``fastpersist`` itself, which another event loop cannot use meanwhile.
    Connects nothing: the first operation does. Calling it again installs another store; the first
    is closed by :func:`shutdown` together with it.

    Args:
        logger: A ``logging.Logger``, a structlog logger or a four-method logger; by default the
            one that :func:`set_logger` was given.
        **settings: See :class:`~fastpersist.Settings`.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    store = Store(asynchronous.setup(logger=logger, **settings))
    _installed.append(store.asynchronous)
    return store


def shutdown() -> None:
    """Close every store that :func:`setup` installed and go back to the files family."""
    refuse_own_thread()
    installed, _installed[:] = _installed[:], []
    try:
        run(asynchronous.shutdown)
    finally:
        release(*installed)
