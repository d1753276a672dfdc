"""What families offer below the contract: looking through a domain, and deleting for good."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Place
from fastpersist.adapters.backend import Key
from fastpersist.adapters.files import FilesBackend
from fastpersist.domains import (
    BREAKEVEN,
    INTERVAL,
    LOG,
    MEASURE,
    MEMORY,
    NOTIFICATION,
    PARTIAL,
    RECENT,
    SESSION,
    STATE,
    STORAGE,
    Domain,
)
from fastpersist.errors import StoreError
from fastpersist.registry import Registries

MS = 1_735_689_600_000


@pytest.fixture(params=["files", "replica set"])
async def family(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registries]:
    """The families that store, without the synchronous ones, which have no backend of their own."""
    if request.param == "files":
        registries = Registries()
        registries.use_backend(FilesBackend(tmp_path / "dump"))
        yield registries
        return
    place: Place = request.getfixturevalue("place")
    async with place.open() as store:
        yield store


async def scanned(
    family: Registries, domain: Domain, context: Key = (), fields: tuple[str, ...] = ()
) -> dict[Key, dict[str, Any]]:
    found: dict[Key, dict[str, Any]] = {}
    async for batch in family.backend.scan(domain, context, fields):
        for key, row in batch:
            assert key not in found
            found[key] = row
    return found


async def test_a_scan_gives_keys_and_the_fields_asked_for(family: Registries) -> None:
    rows: list[Any] = [
        {"id": "a", "run": {"id": "r", "more": 1}, "symbol": "S", "status": "opened"},
        {"id": "b", "status": "opened"},
    ]
    await family.storage.write_storage_data(True, rows)
    await family.storage.write_storage_data(False, rows[:1])
    assert await scanned(family, STORAGE, (True,), ("run", "symbol")) == {
        (True, "a"): {"run": {"id": "r", "more": 1}, "symbol": "S"},
        (True, "b"): {},
    }
    assert set(await scanned(family, STORAGE)) == {(True, "a"), (True, "b"), (False, "a")}
    await family.log.write_log_data([{"id": "l", "topic": "x"}])
    assert await scanned(family, LOG, (), ("topic", "none")) == {("l",): {"topic": "x"}}
    assert await scanned(family, NOTIFICATION, (True,), ("run",)) == {}


async def test_a_scan_gives_entries_of_all_buckets_removed_ones_too(family: Registries) -> None:
    for bucket, key in (("a b", "1"), ("a_b", "x:y"), ("é", "1")):
        await family.measure.write_measure_data(bucket, key, {"id": key, "data": 1}, MS)
        await family.interval.write_interval_data(bucket, key, {"id": key, "data": 1}, MS)
    await family.measure.remove_measure_data("a b", "1")
    expected = {("a b", "1"), ("a_b", "x:y"), ("é", "1")}
    assert set(await scanned(family, MEASURE)) == set(await scanned(family, INTERVAL)) == expected
    assert set(await scanned(family, MEASURE, ("a_b",))) == {("a_b", "x:y")}
    await family.memory.write_memory_data("s_1", "b", "m", {"data": 1, "index": "i"}, MS)
    await family.state.write_state_data("s_1", "b", {"id": "x", "data": 1}, MS)
    assert set(await scanned(family, MEMORY)) == {("s_1", "b", "m")}
    assert set(await scanned(family, STATE)) == {("s_1", "b")}


async def test_a_scan_reaches_over_many_batches(family: Registries) -> None:
    rows: list[Any] = [{"id": f"n{number}", "number": number} for number in range(300)]
    await family.notification.write_notification_data(True, rows)
    found = await scanned(family, NOTIFICATION, (True,), ("number",))
    assert found == {(True, row["id"]): {"number": row["number"]} for row in rows}


async def test_what_is_deleted_is_gone_and_can_be_written_again(family: Registries) -> None:
    keys = [(True, f"s{number}") for number in range(250)]
    rows: list[Any] = [{"id": row_id} for _, row_id in keys]
    await family.storage.write_storage_data(True, rows)
    await family.storage.write_storage_data(False, rows[:1])
    await family.backend.delete(STORAGE, [*keys[:-1], *keys[:3], (True, "none")])
    assert [row["id"] for row in await family.storage.read_storage_data(True)] == ["s249"]
    assert [row["id"] for row in await family.storage.read_storage_data(False)] == ["s0"]
    await family.storage.write_storage_data(True, rows[:2])
    assert len(await family.storage.read_storage_data(True)) == 3


async def test_a_log_line_that_was_deleted_is_written_again(family: Registries) -> None:
    line: Any = {"id": "l", "topic": "first"}
    await family.log.write_log_data([line])
    await family.backend.delete(LOG, [("l",)])
    await family.log.write_log_data([line])
    assert await family.log.read_log_data() == [line]
    await family.backend.delete(LOG, [("l",)])
    await family.log.write_log_data([{"id": "l", "topic": "second"}])
    assert await family.log.read_log_data() == [{"id": "l", "topic": "second"}]


async def test_values_and_entries_are_deleted(family: Registries) -> None:
    context = ("BTC", "trend", "demo")
    for signal in ("a", "b"):
        await family.partial.write_partial_data(*context, signal, {signal: {}}, MS)
        await family.breakeven.write_breakeven_data(*context, signal, {signal: {}}, MS)
        await family.state.write_state_data(signal, "s", {"id": "x", "data": signal}, MS)
        await family.memory.write_memory_data(signal, "m", "k", {"data": signal}, MS)
        await family.measure.write_measure_data(signal, "k", {"id": "k", "data": signal}, MS)
        await family.recent.write_recent_data(*context, f"f{signal}", True, {"id": signal}, MS)
        await family.session.write_session_data(
            *context[1:], f"f{signal}", "BTC", True, {"id": "x", "data": signal}, MS
        )
    deleted: dict[Domain, Key] = {
        PARTIAL: (*context, "a"),
        BREAKEVEN: (*context, "a"),
        STATE: ("a", "s"),
        MEMORY: ("a", "m", "k"),
        MEASURE: ("a", "k"),
        RECENT: (*context, "fa", True),
        SESSION: (*context[1:], "fa", "BTC", True),
    }
    for domain, key in deleted.items():
        await family.backend.delete(domain, [key])
        await family.backend.delete(domain, [key])
    read = {
        signal: [
            await family.partial.read_partial_data(*context, signal),
            await family.breakeven.read_breakeven_data(*context, signal),
            await family.state.read_state_data(signal, "s"),
            await family.memory.read_memory_data(signal, "m", "k"),
            await family.measure.read_measure_data(signal, "k"),
            await family.recent.read_recent_data(*context, f"f{signal}", True),
            await family.session.read_session_data(*context[1:], f"f{signal}", "BTC", True),
        ]
        for signal in ("a", "b")
    }
    assert read["a"] == [{}, {}, None, None, None, None, None]
    assert all(read["b"])
    await family.state.write_state_data("a", "s", {"id": "x", "data": 2}, MS)
    state: Any = await family.state.read_state_data("a", "s")
    assert state["data"] == 2


async def test_documents_whose_key_is_no_text_are_nobodys(place: Place) -> None:
    """To MongoDB a list equals each of its members, and some are of a type that no key has."""
    async with place.open() as store:
        own: Any = {"id": "a"}
        await store.storage.write_storage_data(True, [own])
        foreign: dict[Domain, list[dict[str, Any]]] = {
            STORAGE: [
                {"backtest": True, "signalId": ["x", "b"], "payload": None},
                {"backtest": [True], "signalId": "c", "payload": 1},
                {"backtest": True, "signalId": 7, "payload": [{"run": {"id": "r"}}]},
                {"backtest": True, "payload": {}},
            ],
            PARTIAL: [
                {"symbol": "S", "strategyName": ["s", "t"], "exchangeName": "e", "signalId": "b"},
                {"symbol": "S", "strategyName": "s", "exchangeName": "e", "signalId": ["d", "x"]},
                {"symbol": ["S"], "strategyName": "s", "exchangeName": "e"},
            ],
        }
        for domain, documents in foreign.items():
            await store.container.mongo_service.collection(domain.collection).insert_many(documents)
        assert await scanned(store, STORAGE, (True,), ("run",)) == {(True, "a"): {}}
        await store.backend.delete(STORAGE, [(True, name) for name in "abc"])
        await store.backend.delete(PARTIAL, [("S", "s", "e", name) for name in "bd"])
        for domain, documents in foreign.items():
            collection = store.container.mongo_service.collection(domain.collection)
            found = await collection.find({}).to_list()
            assert [row["_id"] for row in found] == [row["_id"] for row in documents]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such links")
async def test_a_directory_that_cannot_be_listed_is_no_empty_one(tmp_path: Path) -> None:
    """Its rows would stay, and the record would say that they are gone."""
    family = Registries()
    family.use_backend(FilesBackend(tmp_path))
    assert await scanned(family, STATE) == {}
    folder = tmp_path / STATE.file.partition("{")[0]
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(folder.name)
    with pytest.raises(StoreError):
        await scanned(family, STATE)
