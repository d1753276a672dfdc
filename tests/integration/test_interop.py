"""The dual store against the database that the Node system wrote (golden data)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from bson import json_util
from pymongo.asynchronous.database import AsyncDatabase
from redis.asyncio import Redis

import fastpersist
from conftest import Place
from fastpersist import Store, extra
from fastpersist.domains import DOMAINS, Shape
from fastpersist.payloads import repair_notification, repair_signal
from interop_calls import FIXTURES, answer, entries, perform

Database = AsyncDatabase[dict[str, Any]]
READS: Final = ("read", "has", "list")
REDIS_DATABASE: Final = 7
FUTURE_CANDLE: Final = 4_102_444_800_000
"""The candle of the year 2100: decision 15 does not store what has not closed."""


@pytest.fixture
async def plain_redis(place: Place) -> AsyncIterator[Redis]:
    """A Redis database of its own, since the Node system knows no prefix."""
    url = place.servers.redis_url.removesuffix("/0")
    async with Redis.from_url(f"{url}/{REDIS_DATABASE}", decode_responses=True) as client:
        await client.flushdb()
        yield client
        await client.flushdb()


@pytest.fixture
async def node_store(place: Place, plain_redis: Redis) -> AsyncIterator[Store]:
    """A store as the Node system's: no prefix, and `when` only recorded."""
    url = f"{place.servers.redis_url.removesuffix('/0')}/{REDIS_DATABASE}"
    async with place.open(redis_url=url, redis_prefix="", look_ahead="allow") as store:
        yield store


def golden_documents() -> dict[str, list[dict[str, Any]]]:
    return {
        path.stem: json_util.loads(
            path.read_text(encoding="utf-8"),
            json_options=json_util.JSONOptions(tz_aware=True),
        )
        for path in sorted((FIXTURES / "mongo").glob("*.json"))
    }


def golden_ids() -> dict[str, str]:
    found: dict[str, str] = json.loads((FIXTURES / "redis.json").read_text(encoding="utf-8"))
    return found


def expected(entry: dict[str, Any]) -> Any:
    """Return the Node answer with the repairs that decision 17 adds."""
    found = answer(entry, "mongo")
    if entry["op"] == "read" and found is not None:
        if entry["domain"] in ("signal", "schedule", "recent"):
            return repair_signal(found)
        if entry["domain"] == "storage":
            return [repair_signal(row) for row in found]
        if entry["domain"] == "notification":
            return [repair_notification(row) for row in found]
    return found


async def test_every_golden_entry_is_read_with_the_golden_values(
    node_store: Store, database: Database, plain_redis: Redis
) -> None:
    for collection, documents in golden_documents().items():
        await database[collection].insert_many(documents)
    await plain_redis.mset(golden_ids())
    calls = entries()
    written = {entry["domain"]: entry["n"] for entry in calls if entry["op"] not in READS}
    checked = set()
    for entry in calls:
        if entry["op"] in READS and entry["n"] > written[entry["domain"]]:
            assert await perform(node_store, entry) == expected(entry), entry["n"]
            checked.add(entry["domain"])
    assert await plain_redis.mget(list(golden_ids())) == list(golden_ids().values())
    assert len(checked) >= 10


async def test_every_golden_document_is_reachable_by_its_context(
    node_store: Store, database: Database, plain_redis: Redis
) -> None:
    golden = golden_documents()
    for collection, documents in golden.items():
        await database[collection].insert_many(documents)
    await plain_redis.mset(golden_ids())
    for domain in DOMAINS:
        service = node_store.container.db(domain)
        for document in golden[domain.collection]:
            key = tuple(document[name] for name in domain.key_names)
            if domain.name == "candle":
                key = (*key[:-1], int(key[-1]))
            found = await service.find_by_context(key)
            expected = document
            if domain.shape in (Shape.VALUE, Shape.ENTRY):
                read = {"_id", *domain.key_names, domain.value_field, "removed", "when"}
                expected = {name: document[name] for name in document if name in read}
            assert found == expected, (domain.name, key)


async def test_golden_calls_get_the_golden_answers_and_leave_the_golden_database(
    node_store: Store, database: Database, plain_redis: Redis
) -> None:
    for entry in entries():
        result = await perform(node_store, entry)
        if entry["domain"] == "candle" and FUTURE_CANDLE in entry["args"]:
            assert result is None, "decision 15: unfinished candles are not stored"
        elif entry["n"] == 74:
            assert [row["topic"] for row in result if row["id"] == "log-10"] == ["strategy.start"]
        else:
            assert result == expected(entry), entry["n"]
    await make_later_calls(node_store)
    golden = golden_documents()
    for domain in [
        *DOMAINS,
        extra.PersistStrategyAdapter.domain,
        extra.PersistDictionaryAdapter.domain,
    ]:
        stored = await database[domain.collection].find({}).to_list()
        wanted = [row for row in golden[domain.collection] if row.get("timestamp") != FUTURE_CANDLE]
        assert comparable(domain, stored) == comparable(domain, wanted), domain.name
        for document in stored:
            assert document["__v"] == 0
            assert document["createDate"] <= document["updatedDate"]
    await check_ids(database, plain_redis)


async def make_later_calls(store: Store) -> None:
    """The calls of the two later domains, through `fastpersist.extra`."""
    strategy = store.domain(extra.PersistStrategyAdapter)
    dictionary = store.domain(extra.PersistDictionaryAdapter)
    calls = json.loads((FIXTURES / "calls.json").read_text(encoding="utf-8"))
    from interop_calls import decoded

    for entry in calls:
        arguments = decoded(entry["args"])
        if entry["method"] == "readStrategyData":
            read = await strategy.read_strategy_data(*arguments)
            assert read == answer(entry, "mongo"), entry["n"]
        elif entry["method"] == "writeStrategyData":
            row, *context = arguments
            await strategy.write_strategy_data(*context, row)
        elif entry["method"] == "readDictionaryData":
            found = await dictionary.read_dictionary_data("sig-10", "levels")
            assert found == answer(entry, "mongo"), entry["n"]
        elif entry["method"] == "writeDictionaryData":
            await dictionary.write_dictionary_data("sig-10", "levels", *arguments)


def comparable(
    domain: fastpersist.Domain, documents: list[dict[str, Any]]
) -> dict[tuple[Any, ...], Any]:
    """Documents by key, without ids and wall-clock dates; equal numbers are equal."""
    rows = {}
    for document in documents:
        row = {
            name: value
            for name, value in document.items()
            if name not in ("_id", "createDate", "updatedDate")
        }
        if domain.name == "log" and row["entryId"] == "log-10":
            del row["payload"]["topic"]  # the first write stays, while Node overwrites
        rows[tuple(document[name] for name in domain.key_names)] = row
    return rows


async def check_ids(database: Database, redis: Redis) -> None:
    keys = {key async for key in redis.scan_iter(count=1000)}
    wanted = {key for key in golden_ids() if not key.endswith(f":{FUTURE_CANDLE}")}
    assert keys == wanted
    stored = {
        str(document["_id"])
        for name in await database.list_collection_names()
        async for document in database[name].find({}, {"_id": 1})
    }
    for key in keys:
        assert await redis.ttl(key) == -1, key
        assert await redis.get(key) in stored, key


async def test_indexes_made_by_the_node_system_are_accepted(
    place: Place, database: Database
) -> None:
    golden = json.loads((FIXTURES / "indexes.json").read_text(encoding="utf-8"))
    for collection, indexes in golden.items():
        for index in indexes:
            if index["name"] != "_id_":
                options = {"unique": True} if index.get("unique") else {}
                await database[collection].create_index(
                    list(index["key"].items()), name=index["name"], **options
                )
    async with place.open() as store:
        await store.signal.write_signal_data("S", "t", "e", {"id": "x"})
        assert await store.signal.read_signal_data("S", "t", "e") is not None
    for collection, indexes in golden.items():
        present = await database[collection].index_information()
        assert {index["name"] for index in indexes} <= present.keys()


async def test_a_later_read_hides_what_node_would_show(place: Place) -> None:
    """Golden call 38 reads risk positions at a moment before their write."""
    call = next(entry for entry in entries() if entry["n"] == 38)
    writes = [entry for entry in entries() if entry["domain"] == "risk" and entry["n"] < 38]
    async with place.open() as store:
        for entry in writes:
            if entry["op"] == "write":
                await perform(store, entry)
        assert await perform(store, call) == []
