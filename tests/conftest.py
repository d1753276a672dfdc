"""Servers, stores and loops for the tests.

Servers are started by the fixtures with the package's own ``fastpersist.local``, once for each
worker; ``FASTPERSIST_TEST_MONGO_URL`` and ``FASTPERSIST_TEST_REDIS_URL`` name others to use
instead. Each test gets a database and a Redis prefix of its own, so that workers share servers
without meeting.
"""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pymongo import MongoClient

import fastpersist
from fastpersist.local import LocalServers

# Time decides no test, neither that of an example nor that of making one.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


_OF_THE_RUNNER = (
    "MODE", "STRATEGY_FILE", "SYMBOL", "STRATEGY", "EXCHANGE", "FRAME", "FEED", "ENTRY", "VERBOSE",
)  # fmt: skip


# A loaded machine is no slow server; what happens with one has tests of its own.
PATIENT: dict[str, Any] = {
    "redis_timeout": 60.0, "start_timeout": 60.0, "operation_timeout": 60.0,
}  # fmt: skip
PATIENT_ENVIRON = {f"FASTPERSIST_{name.upper()}": str(value) for name, value in PATIENT.items()}


@dataclass(frozen=True)
class Servers:
    """URLs of a MongoDB without a database name, and of a Redis."""

    mongo_url: str
    redis_url: str

    def database_url(self, database: str) -> str:
        """Return the MongoDB URL with a database name put in."""
        base, _, query = self.mongo_url.partition("?")
        head, _, hosts = base.partition("://")
        url = f"{head}://{hosts.split('/')[0]}/{database}"
        return f"{url}?{query}" if query else url


@pytest.fixture(autouse=True)
def no_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep settings of the shell that runs the tests out of them, and locks out of its home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
    for name in list(os.environ):
        is_ours = name in _OF_THE_RUNNER or name.startswith(("CC_", "FASTPERSIST_"))
        if is_ours and name not in (
            "FASTPERSIST_PURE",
            "FASTPERSIST_TEST_MONGO_URL",
            "FASTPERSIST_TEST_REDIS_URL",
            "FASTPERSIST_MONGOD",
            "FASTPERSIST_REDIS_SERVER",
        ):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A replica set of one and a Redis, shared by the tests of a worker."""
    mongo_url = os.environ.get("FASTPERSIST_TEST_MONGO_URL")
    redis_url = os.environ.get("FASTPERSIST_TEST_REDIS_URL")
    if mongo_url and redis_url:
        yield Servers(mongo_url, redis_url)
        return
    with LocalServers(tmp_path_factory.mktemp("servers"), start_timeout=120) as urls:
        yield Servers(urls.mongo_url, urls.redis_url)


@pytest.fixture(scope="session")
def standalone_servers(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """A standalone mongod and a Redis."""
    folder = tmp_path_factory.mktemp("standalone")
    with LocalServers(folder, replica_set=False, start_timeout=120) as urls:
        yield Servers(urls.mongo_url, urls.redis_url)


@dataclass(frozen=True)
class Place:
    """A database and a key prefix that one test has for itself."""

    servers: Servers
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that open a store here."""
        return {
            "mongo_url": self.servers.database_url(self.name),
            "redis_url": self.servers.redis_url,
            "redis_prefix": f"{self.name}:",
            **PATIENT,
        }

    def open(self, **settings: Any) -> fastpersist.Store:
        """Return a store here."""
        return fastpersist.open(**{**self.settings, **settings})

    def drop(self) -> None:
        """Delete the database."""
        with MongoClient[dict[str, Any]](self.servers.mongo_url) as client:
            client.drop_database(self.name)


@pytest.fixture
def place(servers: Servers) -> Iterator[Place]:
    """A place on the replica set."""
    place = Place(servers, f"t{uuid.uuid4().hex[:16]}")
    yield place
    place.drop()


@pytest.fixture
async def store(place: Place) -> AsyncIterator[fastpersist.Store]:
    """An open store with a database and a prefix of its own."""
    async with place.open() as store:
        yield store


@pytest.fixture
def cut_connects() -> Iterator[None]:
    """Collect here what the drivers leave to the collector: sockets of connects that were cut."""
    yield
    gc.collect()
