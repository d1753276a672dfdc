"""The container: its 33 names, when services are made and closed, and how its start is shared."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from fastpersist import (
    ClosedError,
    EventLoopError,
    InvalidArgumentError,
    Settings,
    StoreUnavailableError,
)
from fastpersist.domains import DOMAINS, SIGNAL, Domain, Field, Shape
from fastpersist.services.cache import IdCacheService
from fastpersist.services.container import Container
from fastpersist.services.db import CandleDbService, EntryDbService, ListDbService, ValueDbService
from fastpersist.services.logger import LoggerService
from fastpersist.services.mongo import MongoService
from fastpersist.services.redis import RedisService

NAMES = [
    "logger_service",
    "mongo_service",
    "redis_service",
    "candle_cache_service",
    "signal_cache_service",
    "schedule_cache_service",
    "risk_cache_service",
    "partial_cache_service",
    "breakeven_cache_service",
    "storage_cache_service",
    "notification_cache_service",
    "log_cache_service",
    "measure_cache_service",
    "interval_cache_service",
    "memory_cache_service",
    "recent_cache_service",
    "state_cache_service",
    "session_cache_service",
    "candle_db_service",
    "signal_db_service",
    "schedule_db_service",
    "risk_db_service",
    "partial_db_service",
    "breakeven_db_service",
    "storage_db_service",
    "notification_db_service",
    "log_db_service",
    "measure_db_service",
    "interval_db_service",
    "memory_db_service",
    "recent_db_service",
    "state_db_service",
    "session_db_service",
]
DB_KINDS = {
    "candle": CandleDbService,
    **dict.fromkeys(("storage", "notification", "log"), ListDbService),
    **dict.fromkeys(("measure", "interval", "memory"), EntryDbService),
}
SETTINGS = Settings(mongo_url="mongodb://db.invalid/x", redis_url="redis://cache.invalid")
OWN = Domain(
    name="own",
    shape=Shape.VALUE,
    collection="own-items",
    namespace="own_cache",
    key=(Field("account"),),
    context_size=1,
    cache_order=("account",),
)


class Service:
    """Records what is asked of it; stands in for any service."""

    def __init__(self, name: str, seen: list[str], *errors: BaseException) -> None:
        self.name = name
        self.seen = seen
        self.errors = list(errors)

    async def connect(self, url: str) -> None:
        self.seen.append(f"{self.name} connects to {url}")
        if self.errors:
            raise self.errors.pop(0)

    async def ensure_indexes(self, domains: Any) -> None:
        names = [domain.name for domain in domains]
        self.seen.append(f"indexes of {'the table' if len(names) == 15 else names}")

    async def aclose(self) -> None:
        self.seen.append(f"{self.name} closes")


def faked(seen: list[str], *errors: BaseException, settings: Settings = SETTINGS) -> Container:
    """Return a container with both clients faked; `errors` fail the first connections."""
    container = Container(settings)
    container.override("mongo_service", Service("mongo", seen, *errors))
    container.override("redis_service", Service("redis", seen))
    return container


def test_the_33_names() -> None:
    assert len(NAMES) == 33
    assert list(Container.names()) == NAMES


def test_every_service_is_of_its_kind() -> None:
    container = Container(Settings())
    made = {name: getattr(container, name) for name in NAMES}
    assert type(made["logger_service"]) is LoggerService
    assert type(made["mongo_service"]) is MongoService
    assert type(made["redis_service"]) is RedisService
    for domain in DOMAINS:
        cache, db = (made[f"{domain.name}_{kind}_service"] for kind in ("cache", "db"))
        assert type(cache) is IdCacheService
        assert type(db) is DB_KINDS.get(domain.name, ValueDbService)
        assert db.domain is domain
        assert container.db(domain) is db
    assert len({id(service) for service in made.values()}) == 33


def test_nothing_is_made_before_it_is_asked_for() -> None:
    container = Container(Settings())
    assert container._made == {}
    _ = container.mongo_service
    assert sorted(container._made) == ["logger_service", "mongo_service"]
    _ = container.signal_db_service
    assert sorted(container._made) == [
        "logger_service",
        "mongo_service",
        "redis_service",
        "signal_cache_service",
        "signal_db_service",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_service_is_made_once_and_not_shared(name: str) -> None:
    first, second = Container(Settings()), Container(Settings())
    assert getattr(first, name) is getattr(first, name)
    assert getattr(first, name) is not getattr(second, name)


def test_the_class_shows_no_instance() -> None:
    assert not isinstance(Container.logger_service, LoggerService)


def test_services_of_a_declared_domain_stay_beside_the_33() -> None:
    container = Container(Settings())
    own = container.db(OWN)
    assert type(own) is ValueDbService
    assert container.db(OWN) is own
    assert own not in container._made.values()
    assert list(Container.names()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_override_is_used_in_its_container_only(name: str) -> None:
    container, other = Container(Settings()), Container(Settings())
    mine = object()
    container.override(name, mine)
    assert getattr(container, name) is mine
    assert getattr(other, name) is not mine


def test_services_are_built_on_overrides() -> None:
    container = Container(Settings())
    mongo: Any = object()
    container.override("mongo_service", mongo)
    assert container.signal_db_service._mongo is mongo


@pytest.mark.parametrize("name", ["", "own_db_service", "settings", "aclose", "_made", "Signal"])
def test_an_unknown_name_cannot_be_overridden(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no service") as caught:
        Container(Settings()).override(name, object())
    assert caught.value.field == "name"


async def test_services_close_in_the_reverse_order_of_their_making() -> None:
    seen: list[str] = []
    container = Container(SETTINGS)
    order = [NAMES[7], "redis_service", NAMES[30], "mongo_service"]
    for name in order:
        container.override(name, Service(name, seen))
    container.override("logger_service", object())  # has nothing to close
    await container.aclose()
    assert seen == [f"{name} closes" for name in reversed(order)]


async def test_real_services_are_made_after_what_they_rest_on() -> None:
    container = Container(SETTINGS)
    _ = container.signal_db_service
    made = list(container._made)
    assert made.index("mongo_service") < made.index("signal_db_service")
    assert made.index("redis_service") < made.index("signal_cache_service")
    await container.aclose()


async def test_a_service_that_fails_to_close_does_not_keep_the_others_open() -> None:
    class Stubborn(Service):
        async def aclose(self) -> None:
            await super().aclose()
            raise StoreUnavailableError("redis", "does not answer")

    seen: list[str] = []
    container = Container(SETTINGS)
    container.override("mongo_service", Service("mongo", seen))
    container.override("redis_service", Stubborn("redis", seen))
    await container.aclose()
    assert seen == ["redis closes", "mongo closes"]


async def test_a_closed_container_refuses() -> None:
    seen: list[str] = []
    container = faked(seen)
    await container.aclose()
    await container.aclose()
    assert seen == ["redis closes", "mongo closes"]
    for name in NAMES:
        with pytest.raises(ClosedError):
            getattr(container, name)
    for domain in (SIGNAL, OWN):
        with pytest.raises(ClosedError):
            container.db(domain)
        with pytest.raises(ClosedError):
            await container.ready(domain)
    assert container._made == {}


async def test_an_unused_container_closes_without_making_anything() -> None:
    container = Container(SETTINGS)
    await container.aclose()
    assert container._made == {}


def test_a_container_of_an_ended_loop_is_closed_by_a_later_one() -> None:
    """Nothing is made for it, and what belongs to the old loop is dropped, not awaited."""
    seen: list[str] = []
    container = faked(seen)
    asyncio.run(container.ready())
    assert "logger_service" not in container._made
    seen.clear()
    asyncio.run(container.aclose())
    assert seen == []
    assert container._made == {}


async def test_the_start_is_shared_and_done_once() -> None:
    seen: list[str] = []
    container = faked(seen)
    await asyncio.gather(*(container.ready() for _ in range(20)))
    await container.ready(SIGNAL)
    assert sorted(seen) == [
        "indexes of the table",
        "mongo connects to mongodb://db.invalid/x",
        "redis connects to redis://cache.invalid",
    ]
    await container.ready(OWN)
    await container.ready(OWN)
    assert seen[3:] == ["indexes of ['own']"]
    await container.aclose()


async def test_a_failed_start_closes_the_clients_and_is_tried_again() -> None:
    seen: list[str] = []
    error = StoreUnavailableError("mongo", "no primary")
    container = faked(seen, error)
    outcomes = await asyncio.gather(*(container.ready() for _ in range(3)), return_exceptions=True)
    assert outcomes == [error] * 3
    assert seen[-2:] == ["redis closes", "mongo closes"]
    seen.clear()
    await container.ready()
    assert "indexes of the table" in seen
    await container.aclose()


async def test_a_start_that_takes_too_long_is_an_unavailable_store() -> None:
    class Silent(Service):
        async def ensure_indexes(self, domains: Any) -> None:
            await asyncio.Event().wait()

    seen: list[str] = []
    container = faked(
        seen, settings=Settings(mongo_url="mongodb://x", redis_url="redis://x", start_timeout=1e-9)
    )
    container.override("mongo_service", Silent("mongo", seen))
    with pytest.raises(StoreUnavailableError, match="start_timeout") as caught:
        await container.ready()
    assert (caught.value.store, caught.value.timeout) == ("mongo", True)
    await container.aclose()


def test_a_second_loop_is_refused_while_the_first_lives() -> None:
    container = faked([])
    first = asyncio.new_event_loop()
    try:
        first.run_until_complete(container.ready())
        with pytest.raises(EventLoopError, match="another event loop"):
            asyncio.run(container.ready())
        first.run_until_complete(container.ready())
    finally:
        first.run_until_complete(container.aclose())
        first.close()


@pytest.mark.parametrize("forked", [False, True])
def test_a_later_loop_or_a_forked_child_starts_anew_and_keeps_overrides_and_logger(
    forked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    container = faked(seen)
    logger, cache = container.logger_service, container.signal_cache_service
    asyncio.run(container.ready())
    if forked:
        child = os.getpid() + 1
        monkeypatch.setattr(os, "getpid", lambda: child)
    seen.clear()
    asyncio.run(container.ready())
    assert len(seen) == 3
    assert container.logger_service is logger
    assert container.signal_cache_service is not cache
    asyncio.run(container.aclose())
