"""The health of real stores, over the endpoint: both up, one stopped, one that hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import orjson
import pytest

import fastpersist
from conftest import PATIENT
from fastpersist import Store
from fastpersist import store as store_module
from fastpersist.cli.health import check_stores
from fastpersist.local import LocalServers, Server
from fastpersist.runner import health as health_module
from fastpersist.runner.health import HealthServer
from kit import eventually, hanging

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """Started servers that belong to one test alone."""
    servers = LocalServers(tmp_path_factory.mktemp("own"), start_timeout=120)
    servers.start()
    yield servers
    servers.stop()


async def asked(server: HealthServer) -> tuple[int, dict[str, object]]:
    """Return status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /api/v1/health/health_check HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), orjson.loads(body)


async def test_both_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_PING_SECONDS", 60)
    monkeypatch.setattr(health_module, "_CHECK_SECONDS", 60)
    async with HealthServer(lambda: check_stores(store), port=0) as server:
        code, body = await asked(server)
    assert (code, body["status"], body["mongo"], body["redis"]) == (200, "ok", True, True)
    begun = time.monotonic()
    found = await store.health()
    most_ms = (time.monotonic() - begun) * 1_000
    assert found.mongo_ms is not None
    assert found.redis_ms is not None
    assert 0 < found.mongo_ms <= most_ms
    assert 0 < found.redis_ms <= most_ms


async def test_what_is_stopped_is_told_and_what_is_back_as_well(
    own_servers: LocalServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_PING_SECONDS", 5)
    monkeypatch.setattr(health_module, "_CHECK_SECONDS", 60)
    urls = own_servers.urls
    async with (
        fastpersist.open(mongo_url=urls.mongo_url, redis_url=urls.redis_url, **PATIENT) as store,
        HealthServer(lambda: check_stores(store), port=0) as server,
    ):
        assert (await asked(server))[0] == 200

        await asyncio.to_thread(own_servers.redis.stop)
        code, body = await asked(server)
        assert (code, body["mongo"], body["redis"], body["redis_ms"]) == (503, True, False, None)
        await asyncio.to_thread(own_servers.redis.start)
        assert (await store.health()).redis

        await asyncio.to_thread(own_servers.mongod.stop)
        code, body = await asked(server)
        assert (code, body["status"]) == (503, "unavailable")
        assert (body["mongo"], body["mongo_ms"], body["redis"]) == (False, None, True)
        assert urls.mongo_url not in str(body)
        await asyncio.to_thread(own_servers.mongod.start)

        async def is_back() -> bool:
            return (await asked(server))[0] == 200

        await eventually(is_back)


@pytest.mark.parametrize("name", ["mongod", "redis"])
async def test_a_server_that_hangs_is_told(
    own_servers: LocalServers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_PING_SECONDS", 5)
    urls = own_servers.urls
    server: Server = getattr(own_servers, name)
    async with fastpersist.open(
        mongo_url=urls.mongo_url, redis_url=urls.redis_url, **PATIENT
    ) as store:
        with hanging(server):
            found = await asyncio.wait_for(store.health(), 60)
        assert (found.mongo, found.redis) == (name != "mongod", name != "redis")
