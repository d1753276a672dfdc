"""Starting: one initialization, legacy indexes, loops, closing, own domains."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

import fastpersist
from conftest import Place
from fastpersist import ClosedError, ConfigurationError, EventLoopError, LegacyIndexError, Store
from fastpersist.services.container import Container
from fastpersist.settings import Settings
from kit import CommandRecorder

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

Database = AsyncDatabase[dict[str, Any]]


async def test_a_thousand_adapters_start_with_one_initialization(
    place: Place, commands: CommandRecorder
) -> None:
    store = place.open()
    connects = 0
    connect = store.container.mongo_service.connect

    async def counting(url: str) -> None:
        nonlocal connects
        connects += 1
        await connect(url)

    store.container.mongo_service.connect = counting  # type: ignore[method-assign]  # to count
    commands.clear()
    await asyncio.gather(
        *(store.signal.read_signal_data(f"S{number}", "t", "e") for number in range(1000))
    )
    sent = commands.of(place.name)
    assert connects == 1
    assert sent.count("createIndexes") == 15
    assert sent.count("listIndexes") == 15
    assert sent.count("find") == 1000
    await store.aclose()


async def test_a_cancelled_waiter_does_not_cancel_the_others(place: Place) -> None:
    store = place.open()
    waiters = [asyncio.create_task(store.signal.read_signal_data("S", "t", "e")) for _ in range(10)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None] * 9
    await store.aclose()


@pytest.mark.parametrize(
    ("collection", "fields"),
    [
        ("candle-items", ["symbol", "interval", "timestamp"]),
        ("session-items", ["strategyName", "exchangeName", "frameName"]),
    ],
)
async def test_a_legacy_unique_index_is_named_with_its_cure(
    place: Place, database: Database, collection: str, fields: list[str]
) -> None:
    name = await database[collection].create_index([(field, 1) for field in fields], unique=True)
    with pytest.raises(LegacyIndexError, match="dropIndex") as caught:
        async with place.open():
            pass
    assert caught.value.collection == collection
    assert caught.value.index == name
    await database[collection].drop_index(name)
    async with place.open() as store:
        await store.ready()


async def test_duplicates_of_one_context_are_named(place: Place, database: Database) -> None:
    row = {"symbol": "S", "strategyName": "t", "exchangeName": "e"}
    await database["signal-items"].insert_many([dict(row), dict(row)])
    with pytest.raises(ConfigurationError, match=r"signal-items.*several documents"):
        async with place.open():
            pass


async def test_a_mongodb_that_does_not_answer_ends_with_the_deadline() -> None:
    store = fastpersist.open(
        mongo_url="mongodb://127.0.0.1:1/x", redis_url="redis://127.0.0.1:1", start_timeout=0.5
    )
    with pytest.raises(fastpersist.StoreUnavailableError) as caught:
        await store.signal.read_signal_data("S", "t", "e")
    assert caught.value.timeout
    await store.aclose()


def test_one_loop_after_another_gets_its_own_clients(place: Place) -> None:
    store = place.open()

    async def write_and_read(number: int) -> Any:
        await store.state.write_state_data("s", "b", {"data": number}, number)
        return await store.state.read_state_data("s", "b")

    assert asyncio.run(write_and_read(1)) == {"data": 1}
    assert asyncio.run(write_and_read(2)) == {"data": 2}

    async def finish() -> None:
        await store.aclose()

    asyncio.run(finish())


async def test_a_second_running_loop_is_refused_with_advice(store: Store) -> None:
    caught: list[BaseException] = []

    def in_thread() -> None:
        try:
            asyncio.run(store.signal.read_signal_data("S", "t", "e"))
        except EventLoopError as error:
            caught.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert "fastpersist.open()" in str(caught[0])
    assert await store.signal.read_signal_data("S", "t", "e") is None


async def test_a_closed_store_says_so(place: Place) -> None:
    store = place.open()
    await store.ready()
    await store.aclose()
    await store.aclose()
    with pytest.raises(ClosedError):
        await store.signal.read_signal_data("S", "t", "e")


async def test_setup_installs_and_shutdown_goes_back(
    place: Place, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    orders = fastpersist.ValueDomain.declare(
        "order", collection="order-items", context=["symbol", "exchangeName"], has_when=True
    )
    fastpersist.setup(**place.settings)
    try:
        adapter = fastpersist.PersistSignalAdapter
        await adapter.write_signal_data("S", "t", "e", {"id": "dual"})
        assert await adapter.read_signal_data("S", "t", "e") is not None
        await orders.write("S", "e", data={"open": 1}, when=5)
        assert await orders.read("S", "e") == {"open": 1}
        assert await orders.read("S", "e", when=4) is None
        assert not (tmp_path / "dump").exists()
    finally:
        await fastpersist.shutdown()
    assert await adapter.read_signal_data("S", "t", "e") is None
    async with place.open() as store:
        read: Any = await store.signal.read_signal_data("S", "t", "e")
        assert read["id"] == "dual"
        assert await store.domain(orders).read("S", "e") == {"open": 1}


async def test_own_domains_of_entries_and_lists(store: Store, database: Database) -> None:
    notes = store.domain(
        fastpersist.EntryDomain.declare("note", collection="note-items", context=["symbol"])
    )
    await notes.write("S", key="a", data={"text": "x"})
    await notes.write("S", key="b", data={"text": "y"})
    await notes.remove("S", key="a")
    assert [key async for key in notes.keys("S")] == ["b"]
    assert await notes.has("S", key="a")
    assert await notes.read("S", key="a") is None
    fills = store.domain(
        fastpersist.ListDomain.declare("fill", collection="fill-items", context=["symbol"])
    )
    await fills.write("S", rows=[{"id": "1", "price": 5}, {"id": "2", "price": 6}])
    assert [row["id"] for row in await fills.read("S")] == ["1", "2"]
    indexes = await database["fill-items"].index_information()
    assert indexes["symbol_1_entryId_1"]["unique"] is True
    with pytest.raises(ConfigurationError, match="belongs to 'signal'"):
        fastpersist.ValueDomain.declare("x", collection="signal-items", context=["symbol"])
    assert len(Container.names()) == 33


async def test_services_are_made_when_asked_for_and_can_be_replaced(place: Place) -> None:
    container = Container(Settings.load(**place.settings))
    assert container._made == {}
    assert container.signal_db_service is container.signal_db_service
    replacement = object()
    container.override("log_db_service", replacement)
    assert container.log_db_service is replacement
    with pytest.raises(fastpersist.InvalidArgumentError, match="no service"):
        container.override("order_db_service", replacement)
    await container.aclose()


async def test_services_are_closed_in_reverse_order(place: Place) -> None:
    container = Container(Settings.load(**place.settings))
    closed: list[str] = []

    class Closing:
        def __init__(self, name: str) -> None:
            self.name = name

        async def aclose(self) -> None:
            closed.append(self.name)

    for name in ("mongo_service", "redis_service", "signal_db_service"):
        container.override(name, Closing(name))
    await container.aclose()
    assert closed == ["signal_db_service", "redis_service", "mongo_service"]
