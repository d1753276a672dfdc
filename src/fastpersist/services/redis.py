"""The Redis service: one client, a time budget for every call, and a circuit breaker.

A Redis that is absent, slow or lost costs speed, never a call: whoever asks gets
:class:`~fastpersist.errors.StoreUnavailableError` at once while the circuit is open and goes on
with MongoDB. A background probe closes the circuit when Redis answers again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..coalesce import Coalescer
from ..deadlines import time_limit
from ..errors import ConfigurationError, StoreError, StoreUnavailableError
from ..settings import Settings
from .logger import LoggerService

__all__ = ["RedisService"]

T = TypeVar("T")

_UNAVAILABLE: Final = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ClusterError,
    RedisClusterException,
    SlotNotCoveredError,
    OSError,
    asyncio.TimeoutError,
)
_WRITES_REFUSED: Final = (OutOfMemoryError, ReadOnlyError)
_REFUSED: Final = (AuthenticationError, AuthorizationError, NoPermissionError)
# One late answer may be a loop that was busy elsewhere; several in a row are a slow server.
_TIMEOUTS_TO_OPEN: Final = 3
_PROBE_FIRST_SECONDS: Final = 0.05
_PROBE_MOST_SECONDS: Final = 2.0
_STABLE_SECONDS: Final = 10.0
_RELAPSE_MOST_SECONDS: Final = 5.0


class RedisService:
    """Runs commands on Redis or Redis Cluster within the budget of ``redis_timeout`` seconds."""

    def __init__(self, settings: Settings, logger: LoggerService) -> None:
        self._settings = settings
        self._logger = logger
        self._client: Any = None
        self._is_cluster = False
        self._slots = asyncio.Semaphore(settings.redis_connections)
        self._timeouts_in_row = 0
        self._probe: asyncio.Task[None] | None = None
        self._first_pause = _PROBE_FIRST_SECONDS
        self._closed_at = -_STABLE_SECONDS
        self._refuses_writes = False
        self._url = ""
        self.lookups: Coalescer[bytes, bytes | None] = Coalescer(self._get, self.get_many)
        self.fills: Coalescer[tuple[bytes, bytes], None] = Coalescer(self._set, self._fill)

    @property
    def is_available(self) -> bool:
        """Whether calls go to Redis; False while the circuit is open."""
        return self._client is not None and self._probe is None

    @property
    def is_cluster(self) -> bool:
        """Whether the server is a Redis Cluster."""
        return self._is_cluster

    async def connect(self, url: str) -> None:
        """Connect to `url`. A server that does not answer opens the circuit, no more.

        Raises:
            ConfigurationError: The server refuses the credentials.
        """
        await self.aclose()
        self._url = url
        self._client = self._make_client(url)
        self._slots = asyncio.Semaphore(self._settings.redis_connections)
        try:
            async with time_limit(self._settings.start_timeout / 3):
                await self._discover()
        except (*_REFUSED, *_UNAVAILABLE) as error:
            if not _is_refusal(error):
                self._open_circuit(error)
                return
            await self.aclose()
            raise ConfigurationError(
                "redis_url",
                "the server refused user or password",
                hint="FASTPERSIST_REDIS_URL, or CC_REDIS_USER and CC_REDIS_PASSWORD",
            ) from error
        except RedisError as error:
            await self.aclose()
            raise StoreError(f"redis: {type(error).__name__} while connecting") from error

    def _make_client(self, url: str) -> Any:
        options = self._client_options()
        pool = ConnectionPool.from_url(
            url, max_connections=self._settings.redis_connections + 1, **options
        )
        return Redis.from_pool(pool)

    def _client_options(self) -> dict[str, Any]:
        # A single immediate retry replaces a connection that the server had closed while idle.
        return {
            "socket_timeout": self._settings.redis_timeout,
            "socket_connect_timeout": self._settings.redis_timeout,
            "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            "health_check_interval": 0,
        }

    async def _discover(self) -> None:
        await self._client.ping()
        try:
            server = await self._client.info("server")
        except ResponseError:
            return  # INFO may be forbidden by an access list; a plain server is assumed
        mode = server.get("redis_mode") or server.get("server_mode")  # the second is Valkey's
        if mode == "cluster" and not self._is_cluster:
            await self._client.aclose()
            self._client = RedisCluster.from_url(
                self._url,
                max_connections=self._settings.redis_connections,
                socket_timeout=self._settings.redis_timeout,
                socket_connect_timeout=self._settings.redis_timeout,
            )
            await self._client.initialize()
            self._is_cluster = True

    async def ping(self, seconds: float) -> float | None:
        """Return how many ms Redis took to answer, or None: it did not within `seconds`.

        Asks whether or not the circuit is open, and leaves it as it is.
        """
        client, started = self._client, time.monotonic()
        if client is None:
            return None
        try:
            async with time_limit(seconds), self._slots:
                await client.ping()
        except (RedisError, *_UNAVAILABLE):
            return None
        return (time.monotonic() - started) * 1000

    async def run(self, command: Callable[[Any], Awaitable[T]], *, stores: bool = False) -> T:
        """Return what `command` makes of the client.

        Args:
            command: Is given the client.
            stores: Whether the command stores something, which a full or read-only server refuses
                while it goes on answering the others.

        Raises:
            StoreUnavailableError: The circuit is open, or Redis did not answer in time.
            StoreError: Redis answered with an error of its own.
        """
        if self._probe is not None or self._client is None:
            raise StoreUnavailableError("redis", "the circuit is open")
        # Waiting for a free connection is the caller's own congestion, not the server's slowness.
        async with self._slots:
            if self._probe is not None or self._client is None:
                raise StoreUnavailableError("redis", "the circuit is open")
            try:
                async with time_limit(self._settings.redis_timeout):
                    result = await command(self._client)
            except _UNAVAILABLE as error:
                self._note_failure(error)
                raise StoreUnavailableError(
                    "redis", type(error).__name__, timeout=_is_timeout(error)
                ) from error
            except _WRITES_REFUSED as error:
                if not self._refuses_writes:
                    self._refuses_writes = True
                    self._logger.warn("redis refuses writes", reason=type(error).__name__)
                raise StoreUnavailableError("redis", type(error).__name__) from error
            except RedisError as error:
                raise StoreError(f"redis: {type(error).__name__}") from error
        self._timeouts_in_row = 0
        if stores and self._refuses_writes:
            self._refuses_writes = False
            self._logger.info("redis takes writes again")
        return result

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys` in their order, in one round trip (one a node on Cluster).

        Raises:
            StoreUnavailableError: Redis did not answer in time.
        """
        if not keys:
            return []
        if self._is_cluster:
            return await self.run(lambda client: client.mget_nonatomic(keys))
        return await self.run(lambda client: client.mget(keys))

    async def set_many(self, items: Mapping[bytes, bytes], expiry: Mapping[str, int]) -> None:
        """Store several values, in one round trip (one a node on Cluster).

        Raises:
            StoreUnavailableError: Redis did not answer in time.
        """
        if not items:
            return
        if not expiry and not self._is_cluster:
            await self.run(lambda client: client.mset(items), stores=True)
            return

        async def pipeline(client: Any) -> None:
            async with client.pipeline(transaction=False) as commands:
                for key, value in items.items():
                    commands.set(key, value, **expiry)
                await commands.execute()

        await self.run(pipeline, stores=True)

    async def _get(self, key: bytes) -> bytes | None:
        return await self.run(lambda client: client.get(key))

    async def _set(self, item: tuple[bytes, bytes]) -> None:
        await self.run(lambda client: client.set(*item), stores=True)

    async def _fill(self, items: Sequence[tuple[bytes, bytes]]) -> list[None]:
        await self.set_many(dict(items), {})
        return [None] * len(items)

    def primaries(self) -> Sequence[Any]:
        """Return the nodes to scan: every primary of a cluster, else one stand-in for the server.

        Raises:
            StoreUnavailableError: The circuit is open.
        """
        if self._probe is not None or self._client is None:
            raise StoreUnavailableError("redis", "the circuit is open")
        return list(self._client.get_primaries()) if self._is_cluster else [None]

    async def scan(self, pattern: bytes, count: int, node: Any) -> AsyncIterator[list[bytes]]:
        """Yield the keys of a node that match, a batch of about `count` for each round trip.

        Raises:
            StoreUnavailableError: Redis did not answer in time.
        """
        cursor = 0
        target = {} if node is None else {"target_nodes": node}
        while True:

            def step(client: Any, cursor: int = cursor) -> Any:
                return client.scan(cursor=cursor, match=pattern, count=count, **target)

            answer, batch = await self.run(step)
            if batch:
                yield batch
            cursor = next(iter(answer.values())) if isinstance(answer, dict) else answer
            if cursor == 0:
                return

    def _note_failure(self, error: BaseException) -> None:
        if _is_timeout(error):
            self._timeouts_in_row += 1
            if self._timeouts_in_row < _TIMEOUTS_TO_OPEN:
                return
        self._open_circuit(error)

    def _open_circuit(self, error: BaseException) -> None:
        # A call that fails after the end leaves nothing to come back to.
        if self._probe is None and self._client is not None:
            self._logger.warn(
                "redis is unavailable, going on with MongoDB", reason=type(error).__name__
            )
            # A server that answers the probe and fails the calls is asked less and less often.
            is_relapse = time.monotonic() - self._closed_at < _STABLE_SECONDS
            pause = self._first_pause * 2 if is_relapse else _PROBE_FIRST_SECONDS
            self._first_pause = min(pause, _RELAPSE_MOST_SECONDS)
            self._probe = asyncio.ensure_future(self._probe_until_back(self._first_pause))

    async def _probe_until_back(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            pause = max(pause, min(pause * 2, _PROBE_MOST_SECONDS))
            with suppress(RedisError, *_UNAVAILABLE):
                async with time_limit(max(1.0, self._settings.redis_timeout)):
                    await self._discover()
                break
        self._timeouts_in_row = 0
        self._closed_at = time.monotonic()
        self._probe = None
        self._logger.info("redis is available again")

    async def aclose(self) -> None:
        """Send what waits, stop probing and close all connections."""
        await self.fills.flush()
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()
            await asyncio.wait([probe])
        client, self._client = self._client, None
        self._is_cluster = False
        self._timeouts_in_row = 0
        if client is not None:
            with suppress(RedisError, OSError):
                await client.aclose()
                if isinstance(client, Redis):
                    await client.connection_pool.disconnect()


def _is_refusal(error: BaseException | None) -> bool:
    # A refusal while connecting arrives as the cause of a lost connection.
    while error is not None:
        if isinstance(error, _REFUSED):
            return True
        error = error.__cause__
    return False


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, (RedisTimeoutError, asyncio.TimeoutError, TimeoutError))
