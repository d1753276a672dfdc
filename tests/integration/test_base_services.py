"""BaseMap and BaseCRUD on real servers, and Redis Cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from conftest import PATIENT, Place
from fastpersist import InvalidArgumentError, Store, StoreError
from fastpersist.local.servers import Server, _free_port, find_redis_server
from fastpersist.services.base_crud import BaseCRUD
from fastpersist.services.base_map import NO_TTL, BaseMap
from fastpersist.services.cache import IdCacheService
from fastpersist.services.logger import LoggerService
from fastpersist.services.redis import RedisService
from fastpersist.settings import Settings


async def check_map(service: RedisService, name: str) -> None:
    first = BaseMap(service, f"{name}:a*b?[c]", ttl=NO_TTL)
    second = BaseMap(service, f"{name}:aXb", ttl=NO_TTL)
    third = BaseMap(service, f"{name}:a*b?[c]:deeper", ttl=NO_TTL)
    await asyncio.gather(*(first.set(f"k{number}", str(number)) for number in range(350)))
    await second.set_many({"x": "1", "y": "2"})
    assert await first.size() == 350
    assert await second.get_many(["x", "none", "y"]) == ["1", None, "2"]
    assert dict(await second.to_array()) == {"x": "1", "y": "2"}
    assert sorted([key async for key in second.keys()]) == ["x", "y"]
    assert sorted([value async for value in second.values()]) == ["1", "2"]
    assert len([item async for item in first.iterate()]) == 350
    assert await first.has("k1")
    assert await first.delete("k1")
    assert not await first.delete("k1")
    assert not await first.has("k1")
    assert await first.get("k1") is None
    await third.set("z", "1")
    assert await second.clear() == 2
    assert await third.size() == 1
    assert await first.clear() == 350, "the 349 left and the deeper one, whose key begins alike"
    assert await first.size() == 0


async def test_map_keeps_to_its_namespace(store: Store, place: Place) -> None:
    await check_map(store.container.redis_service, place.name)


async def test_map_sets_the_life_time_with_the_value(
    store: Store, place: Place, redis: Redis
) -> None:
    begun = time.monotonic()
    await BaseMap(store.container.redis_service, place.name).set("k", "v")
    left = await redis.ttl(f"{place.name}:k")
    assert 299 - (time.monotonic() - begun) < left <= 300
    begun = time.monotonic()
    await BaseMap(store.container.redis_service, place.name, 70).set_many({"k": "v"})
    left = await redis.ttl(f"{place.name}:k")
    assert 69 - (time.monotonic() - begun) < left <= 70
    await BaseMap(store.container.redis_service, place.name, NO_TTL).set("k", "v")
    assert await redis.ttl(f"{place.name}:k") == -1


@pytest.mark.parametrize("ttl", [0, -2, 1.5, True])
def test_map_refuses_a_life_time_that_is_none(ttl: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="ttl"):
        BaseMap(RedisService(Settings(), LoggerService()), "n", ttl)


@pytest.fixture(scope="module")
def cluster_ports(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three Redis nodes that form a cluster."""
    import redis as blocking

    folder = tmp_path_factory.mktemp("cluster")
    nodes = []
    for number in range(3):
        home = folder / str(number)
        home.mkdir()

        def command(port: int, home: Any = home) -> list[str]:
            return [
                str(find_redis_server()),
                *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(home)),
                *("--cluster-enabled", "yes", "--save", "", "--cluster-port", str(_free_port())),
            ]

        def answers(port: int, home: Any = home) -> bool:
            try:
                with blocking.Redis("127.0.0.1", port, decode_responses=True) as client:
                    # Another server may have been quicker to take the port.
                    return bool(client.config_get("dir")["dir"] == str(home.resolve()))
            except blocking.RedisError:
                return False

        node = Server("redis", home, command, answers)
        node.start()
        nodes.append(node)
    clients = [blocking.Redis("127.0.0.1", node.port, decode_responses=True) for node in nodes]
    bounds = [0, 5461, 10922, 16384]
    for client, low, high in zip(clients, bounds, bounds[1:], strict=False):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high - 1)
    for node, client in zip(nodes, clients, strict=True):
        bus = client.config_get("cluster-port")["cluster-port"]
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
    deadline = time.monotonic() + 120
    while not all(
        "cluster_state:ok" in client.execute_command("CLUSTER INFO")
        if isinstance(client.execute_command("CLUSTER INFO"), str)
        else client.execute_command("CLUSTER INFO").get("cluster_state") == "ok"
        for client in clients
    ):
        assert time.monotonic() < deadline, "the cluster did not form"
        time.sleep(0.05)
    yield [node.port for node in nodes]
    for client in clients:
        client.close()
    for node in nodes:
        node.kill()


@pytest.fixture
async def cluster(cluster_ports: list[int]) -> AsyncIterator[RedisService]:
    service = RedisService(Settings(**PATIENT), LoggerService())
    await service.connect(f"redis://127.0.0.1:{cluster_ports[0]}")
    yield service
    await service.aclose()


async def test_map_works_on_a_cluster(cluster: RedisService) -> None:
    assert cluster.is_cluster
    await check_map(cluster, "on cluster")


async def test_store_works_on_a_cluster(place: Place, cluster_ports: list[int]) -> None:
    url = f"redis://127.0.0.1:{cluster_ports[1]}"
    async with place.open(redis_url=url) as store:
        cache: IdCacheService = store.container.storage_cache_service
        await store.storage.write_storage_data(True, [{"id": f"s{n}"} for n in range(200)])
        assert await cache.size() == 200
        await store.signal.write_signal_data("S", "t", "e", {"id": "x"})
        assert await store.signal.read_signal_data("S", "t", "e") is not None
        assert await store.container.storage_db_service.clear(()) == 200
        assert await cache.size() == 0


async def test_documents_are_created_found_and_changed(store: Store) -> None:
    crud = BaseCRUD(store.container.mongo_service, "things")
    made = await crud.create({"name": "a", "rank": 1})
    assert len(made["id"]) == 24
    assert made["__v"] == 0
    assert made["createDate"] == made["updatedDate"]
    assert await crud.find_by_id(made["id"]) == made
    changed = await crud.update(made["id"], {"rank": 2})
    assert changed is not None
    assert changed["rank"] == 2
    assert changed["createDate"] == made["createDate"]
    assert changed["updatedDate"] >= made["updatedDate"]
    assert await crud.find_by_filter({"rank": 2}) == changed
    assert await crud.find_by_filter({"rank": 1}) is None
    assert await crud.update("f" * 24, {"rank": 3}) is None
    with pytest.raises(InvalidArgumentError, match="24 hex digits"):
        await crud.find_by_id("x")
    with pytest.raises(InvalidArgumentError, match="ids are made by the store"):
        await crud.create({"id": "x"})


async def test_documents_are_paged_and_streamed(store: Store) -> None:
    crud = BaseCRUD(store.container.mongo_service, "things")
    for number in range(25):
        await crud.create({"number": number})
    page = await crud.paginate(limit=10, offset=20, sort={"number": 1})
    assert page.total == 25
    assert [row["number"] for row in page.rows] == [20, 21, 22, 23, 24]
    assert len(await crud.find_all({"number": {"$lt": 5}})) == 5
    newest = [row["number"] async for row in crud.iterate()]
    assert newest == list(reversed(range(25)))


async def test_upsert_and_soft_remove(store: Store) -> None:
    crud = BaseCRUD(store.container.mongo_service, "measure-items")
    key = {"bucket": "b", "entryKey": "k"}
    made = await crud.upsert(key, {"payload": {"data": 1}, "removed": False})
    again = await crud.upsert(key, {"payload": {"data": 2}, "removed": False})
    assert made["id"] == again["id"]
    removed = await crud.soft_remove(key)
    assert removed is not None
    assert removed["removed"] is True
    assert removed["payload"]["removed"] is True
    assert await crud.soft_remove({"bucket": "b", "entryKey": "none"}) is None
    with pytest.raises(StoreError):
        await crud.create({**key, "payload": {}})


async def test_deleting_ids_reaches_this_process_as_well(store: Store) -> None:
    cache: IdCacheService = store.container.state_cache_service
    await store.state.write_state_data("s", "b", {"data": 1}, 1)
    await store.state.write_state_data("s", "c", {"data": 1}, 1)
    before = store.cache_info().entries
    assert await cache.delete("s:b") is True
    assert store.cache_info().entries == before - 1
    assert await cache.clear() == 1
    assert store.cache_info().entries == 0
    assert await store.state.read_state_data("s", "b") == {"data": 1}
    store.cache_clear()
    assert await store.state.read_state_data("s", "b") == {"data": 1}
