"""The doctor: what state both stores are in, and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

import pymongo
from bson import ObjectId
from pymongo import IndexModel

from ..domains import DOMAINS, Domain, Index
from ..errors import ConfigurationError, FastPersistError, StoreError, StoreUnavailableError
from ..hot.bson import decode
from ..services.container import Container
from ..services.mongo import (
    DUPLICATE_KEY,
    INDEX_CONFLICT_CODES,
    is_legacy_index,
    translated_errors,
)
from ..settings import Settings
from .backup import RESTORE_MARK, SCRATCH, stored_collections
from .ids import decoded, key_of

__all__ = [
    "CacheSample",
    "Diagnosis",
    "Finding",
    "IndexRepair",
    "IndexState",
    "diagnose",
    "diagnose_without_mongo",
    "index_states",
    "repair_indexes",
]

_ROUNDS: Final = 9
_PING_SECONDS: Final = 1.0
_SAMPLE: Final = 100
_SHOWN: Final = 10
_SKEW_MS: Final = 1_000
_HEALTHY_STATES: Final = frozenset({"PRIMARY", "SECONDARY", "ARBITER"})


@dataclass(frozen=True)
class Finding:
    """Something that an operator should know.

    Attributes:
        level: ``problem`` for what has to be repaired, ``note`` for what is only good to know.
        text: What it is.
        cure: What to do about it, or ``""``.
    """

    level: Literal["problem", "note"]
    text: str
    cure: str = ""


@dataclass(kw_only=True)
class IndexState:
    """The indexes of one domain's collection.

    Attributes:
        domain: Name of the domain.
        collection: Stored name of its collection.
        found: Names of all that are there, without that of ``_id``.
        missing: Those that the layout demands and that are not there.
        legacy: Unique ones of an earlier version, which refuse valid writes.
        extra: Those that neither we nor the Node runner make.
        in_the_way: Those over the fields of a missing unique index that are not unique.
    """

    domain: str
    collection: str
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    legacy: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    in_the_way: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether nothing has to be made or dropped."""
        return not (self.missing or self.legacy)


@dataclass(kw_only=True)
class CacheSample:
    """The Redis ids of a domain's newest documents.

    Attributes:
        domain: Name of the domain.
        documents: How many documents were looked at.
        cached: Of how many Redis has the right id.
        absent: Of how many it has none, which costs a slower read.
        wrong: Redis keys that lead to no document of that context; the first ten.
        wrong_ids: How many such keys there are.
    """

    domain: str
    documents: int = 0
    cached: int = 0
    absent: int = 0
    wrong: list[str] = field(default_factory=list)
    wrong_ids: int = 0


@dataclass(kw_only=True)
class Diagnosis:
    """What the doctor saw.

    Attributes:
        mongo: Version, topology, members, database and write concern of MongoDB; empty if it does
            not answer.
        redis: Version, mode, keys and memory of Redis; empty if it does not answer.
        latency_ms: Medians of several calls by what was called; None for what failed.
        clock_skew_ms: How much later the clocks of the servers are than the one here, each with
            the uncertainty of half a round trip.
        indexes: Of each domain.
        cache: Of each domain with documents.
        findings: What is wrong, or good to know.
    """

    mongo: dict[str, Any] = field(default_factory=dict)
    redis: dict[str, Any] = field(default_factory=dict)
    latency_ms: dict[str, float | None] = field(default_factory=dict)
    clock_skew_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    indexes: list[IndexState] = field(default_factory=list)
    cache: list[CacheSample] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def problems(self) -> list[Finding]:
        """The findings that have to be repaired."""
        return [finding for finding in self.findings if finding.level == "problem"]

    def problem(self, text: str, cure: str = "") -> None:
        """Add a finding that has to be repaired."""
        self.findings.append(Finding("problem", text, cure))

    def note(self, text: str, cure: str = "") -> None:
        """Add a finding that is only good to know."""
        self.findings.append(Finding("note", text, cure))


async def diagnose(container: Container, domains: Sequence[Domain]) -> Diagnosis:
    """Look at both stores and change nothing but a scratch collection, which is dropped.

    Raises:
        StoreUnavailableError: MongoDB did not answer within the operation's deadline.
    """
    found = Diagnosis()
    await _look_at_mongo(container, found)
    await _look_at_redis(container, found)
    await _measure_mongo(container, domains, found)
    await _measure_redis(container, found)
    found.indexes = await index_states(container, domains)
    for state in found.indexes:
        _judge_indexes(state, found)
    if found.redis:
        await _look_at_ids(container, domains, found)
    return found


async def diagnose_without_mongo(settings: Settings, reason: StoreUnavailableError) -> Diagnosis:
    """Look at Redis alone; `reason` tells why MongoDB is not there.

    Raises:
        StoreUnavailableError: The same `reason`, where local servers are used and none is known.
        ConfigurationError: Redis refuses the credentials.
    """
    if settings.redis_url is None:
        raise reason
    found = Diagnosis()
    found.problem(str(reason).removesuffix(f" ({reason.hint})"), reason.hint)
    container = Container(settings, ensures_indexes=False)
    try:
        await container.redis_service.connect(settings.redis_url)
        await _look_at_redis(container, found)
        await _measure_redis(container, found)
    finally:
        await container.aclose()
    return found


async def _look_at_mongo(container: Container, found: Diagnosis) -> None:
    mongo = container.mongo_service
    samples: list[tuple[float, float]] = []
    hello: Mapping[str, Any] = {}
    with mongo.operation():
        build = await mongo.database.command("buildInfo")
        for _ in range(_ROUNDS):
            sent = time.time()
            hello = await mongo.database.command("hello")
            taken = time.time() - sent
            local = hello["localTime"].timestamp()
            samples.append((taken * 500, (local - sent - taken / 2) * 1000))
        mark = await mongo.collection(RESTORE_MARK).find_one({})
    _note_skew("mongo", samples, found)
    concern = mongo.database.write_concern.document
    found.mongo = {
        "version": build["version"],
        "database": mongo.database.name,
        "topology": "sharded"
        if hello.get("msg") == "isdbgrid"
        else "replica set"
        if "setName" in hello
        else "standalone",
        "set": hello.get("setName"),
        "primary": hello.get("primary"),
        "members": await _members(container, found) if "setName" in hello else [],
        "write_concern": concern,
    }
    if found.mongo["topology"] == "standalone":
        found.note(
            "MongoDB is a standalone server: writes survive in its journal only, a backup is not "
            "of one moment, and `tail` polls",
            "a replica set, of one member at least",
        )
    if concern.get("w") != "majority" or not concern.get("j"):
        found.note(
            f"an acknowledged write means {concern}: it can be lost",
            "leave write_concern and journal as they are by default",
        )
    if mark is not None:
        found.problem(
            "a restore into this database has begun and not ended", "repeat `fastpersist restore`"
        )


async def _members(container: Container, found: Diagnosis) -> list[dict[str, Any]]:
    members = []
    try:
        with container.mongo_service.operation():
            status = await container.mongo_service.client.admin.command("replSetGetStatus")
    except FastPersistError:
        return []  # the user may not be allowed to ask
    newest = max(member["optimeDate"] for member in status["members"] if "optimeDate" in member)
    for member in status["members"]:
        date = member.get("optimeDate")
        lag = None if date is None else (newest - date).total_seconds()
        members.append({"name": member["name"], "state": member["stateStr"], "lag_seconds": lag})
        if member["stateStr"] not in _HEALTHY_STATES:
            found.problem(f"member {member['name']} of the replica set is {member['stateStr']}")
    return members


async def _look_at_redis(container: Container, found: Diagnosis) -> None:
    redis = container.redis_service
    if await redis.ping(_PING_SECONDS) is None or not redis.is_available:
        found.problem(
            "Redis does not answer: reads are slower, and the Node runner stands still",
            "is it running, and is redis_url right?",
        )
        return
    node = redis.primaries()[0]
    target = {} if node is None else {"target_nodes": node}
    found.redis = {"mode": "cluster" if redis.is_cluster else "standalone"}
    samples: list[tuple[float, float]] = []
    try:
        for _ in range(_ROUNDS):
            sent = time.time()
            seconds, micros = _one(await redis.run(lambda client: client.time(**target)))
            taken = time.time() - sent
            server = int(seconds) + int(micros) / 1e6
            samples.append((taken * 500, (server - sent - taken / 2) * 1000))
        _note_skew("redis", samples, found)
        info: Mapping[str, Any] = _one(await redis.run(lambda client: client.info(**target)))
        keys = await redis.run(lambda client: client.dbsize(**target))
    except StoreError:
        found.note("Redis forbids this user to look at it (INFO, TIME, DBSIZE)")
        return
    found.redis.update(
        version=info.get("valkey_version") or info.get("redis_version"),
        keys=_one(keys),
        used_memory=info.get("used_memory"),
        maxmemory=info.get("maxmemory"),
        maxmemory_policy=info.get("maxmemory_policy"),
    )
    if info.get("maxmemory") and info.get("maxmemory_policy") == "noeviction":
        found.note(
            f"Redis refuses new ids once it holds {info['maxmemory']:,} bytes",
            "maxmemory-policy allkeys-lru",
        )
    if info.get("maxmemory_policy", "").startswith("volatile") and info.get("maxmemory"):
        found.note("Redis cannot evict ids, which do not expire", "maxmemory-policy allkeys-lru")


def _one(answer: Any) -> Any:
    # A cluster's answers come by node, and values of one node as they are.
    if isinstance(answer, dict) and len(answer) == 1 and "redis_version" not in answer:
        return next(iter(answer.values()))
    return answer


def _note_skew(store: str, samples: Sequence[tuple[float, float]], found: Diagnosis) -> None:
    uncertainty, skew = min(samples)
    found.clock_skew_ms[store] = (round(skew, 1), round(uncertainty, 1))
    if abs(skew) > _SKEW_MS + uncertainty:
        found.problem(
            f"the clock of {store} differs by {skew / 1000:.1f} s from the one here",
            "synchronise both; dates of rows and closed candles depend on it",
        )


async def _measure_mongo(container: Container, domains: Sequence[Domain], found: Diagnosis) -> None:
    mongo = container.mongo_service
    place, document_id = domains[0].collection, ObjectId()
    for domain in domains:
        raws = await mongo.find_all_raw(domain.collection, {}, {"_id": 1}, limit=1)
        if raws:
            place, document_id = domain.collection, decode(raws[0])["_id"]
            break

    async def ping() -> None:
        with mongo.operation():
            await mongo.database.command("ping")

    async def find() -> None:
        await mongo.find_raw(place, {"_id": document_id})

    async def write() -> None:
        with mongo.operation():
            await mongo.collection(SCRATCH).insert_one({})

    try:
        await _measure(found, {"mongo_ping": ping, "mongo_find_by_id": find})
        refusal = await _measure(found, {"mongo_write": write})
        if refusal is not None:
            found.problem(f"MongoDB refuses a write: {refusal}")
    finally:
        with suppress(FastPersistError), mongo.operation():
            await mongo.collection(SCRATCH).drop()


async def _measure_redis(container: Container, found: Diagnosis) -> None:
    redis = container.redis_service
    key = f"{container.settings.redis_prefix}fastpersist_doctor".encode()

    async def ping() -> None:
        await redis.run(lambda client: client.ping())

    async def get() -> None:
        await redis.run(lambda client: client.get(key))

    await _measure(found, {"redis_ping": ping, "redis_get": get})


async def _measure(
    found: Diagnosis, calls: Mapping[str, Callable[[], Awaitable[None]]]
) -> FastPersistError | None:
    """Note how long `calls` take, None for one that fails, and return the last failure."""
    failure = None
    for name, call in calls.items():
        try:
            found.latency_ms[name] = await _median_ms(call)
        except FastPersistError as error:
            found.latency_ms[name], failure = None, error
    return failure


async def _median_ms(call: Callable[[], Awaitable[None]]) -> float:
    await call()
    taken = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - started) * 1000)
    return round(median(taken), 3)


async def index_states(container: Container, domains: Sequence[Domain]) -> list[IndexState]:
    """Return the state of the indexes of each domain; of the fifteen, others only if used."""
    used = set(await stored_collections(container))
    return [
        await _index_state(container, domain)
        for domain in domains
        if domain in DOMAINS or domain.collection in used
    ]


async def _index_state(container: Container, domain: Domain) -> IndexState:
    with container.mongo_service.operation():
        stored = await container.mongo_service.stored_indexes(domain.collection)
    state = IndexState(domain=domain.name, collection=domain.collection)
    wanted = _wanted(domain)
    for index in stored:
        fields: Index = tuple(index["key"].items())
        name = str(index["name"])
        if name == "_id_":
            continue
        state.found.append(name)
        if is_legacy_index(domain, index):
            state.legacy.append(name)
        elif fields in wanted and (index.get("unique") or fields != domain.unique_index):
            wanted.remove(fields)
        elif fields == domain.unique_index:
            state.in_the_way.append(name)
        elif not _is_of_node(domain, fields, bool(index.get("unique"))):
            state.extra.append(name)
    state.missing = [index_name(fields) for fields in wanted]
    return state


def _wanted(domain: Domain) -> list[Index]:
    return [index for index in (domain.unique_index, domain.list_index) if index is not None]


def index_name(fields: Index) -> str:
    """Return the name that the driver gives an index."""
    return "_".join(f"{name}_{direction}" for name, direction in fields)


def _is_of_node(domain: Domain, fields: Index, is_unique: bool) -> bool:
    names = tuple(name for name, _ in fields)
    if is_unique:
        return False
    single = (*domain.key_names, "when", "removed")
    lists = (domain.list_filter, (*domain.list_filter, "createDate"))
    return (len(names) == 1 and names[0] in single) or names in lists


def _judge_indexes(state: IndexState, found: Diagnosis) -> None:
    if state.legacy:
        found.problem(
            f"{state.collection}: the index {', '.join(state.legacy)} of an earlier version "
            "refuses valid writes, and no runner starts",
            "`fastpersist doctor --fix`, once no runner of that version is left",
        )
    if state.missing:
        found.problem(
            f"{state.collection}: the index {', '.join(state.missing)} is missing",
            "`fastpersist doctor --fix`, or the next start of a runner makes it",
        )


async def _look_at_ids(container: Container, domains: Sequence[Domain], found: Diagnosis) -> None:
    for domain in domains:
        if container.settings.candle_ids or domain.name != "candle":
            sample = CacheSample(domain=domain.name)
            try:
                await _sample(container, domain, sample)
            except StoreError as error:
                found.problem(f"the ids of {domain.name} could not be read: {error}")
                return
            if sample.documents:
                found.cache.append(sample)
            if sample.wrong_ids:
                found.problem(
                    f"Redis has a wrong id for {sample.wrong_ids} of the newest "
                    f"{sample.documents} documents of {domain.name}, as {sample.wrong[0]!r:.100}",
                    "`fastpersist cache verify --fix`",
                )


async def _sample(container: Container, domain: Domain, sample: CacheSample) -> None:
    mongo, cache = container.mongo_service, container.cache(domain)
    fields = dict.fromkeys(domain.key_names, 1)
    raws = await mongo.find_all_raw(
        domain.collection, {}, fields, sort=[("_id", -1)], limit=_SAMPLE
    )
    by_key = {}
    for document in map(decoded, raws):
        key = key_of(cache, domain, document)
        if key is not None and isinstance(document["_id"], ObjectId):
            by_key[key] = document["_id"]
    keys = list(by_key)
    values = await container.redis_service.get_many(keys)
    sample.documents = len(keys)
    doubted: dict[bytes, bytes] = {}
    for key, value in zip(keys, values, strict=True):
        if value is None:
            sample.absent += 1
        elif value.lower() == str(by_key[key]).encode():
            sample.cached += 1
        else:
            doubted[key] = value
    for key, value in doubted.items():
        # Two contexts may share a key, so that the id of either is right.
        text = value.decode("utf-8", "replace")
        query = {"_id": ObjectId(text)} if ObjectId.is_valid(text) else None
        found = await mongo.find_all_raw(domain.collection, query, fields) if query else []
        if found and key_of(cache, domain, decoded(found[0])) == key:
            sample.cached += 1
            continue
        sample.wrong_ids += 1
        if len(sample.wrong) < _SHOWN:
            sample.wrong.append(key.decode("utf-8", "replace"))


@dataclass(kw_only=True)
class IndexRepair:
    """What was done about the indexes of one domain's collection.

    Attributes:
        collection: Stored name of the collection.
        created: Indexes that were made.
        dropped: Legacy indexes that were dropped, after their successor was made.
        violations: Contexts that several rows have, which the unique index would refuse; the first
            ten, each with the ``_id`` of its rows. Nothing was done then.
        unreachable: Rows that lack fields of a context. They stay, but no read finds them.
    """

    collection: str
    created: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    violations: list[dict[str, Any]] = field(default_factory=list)
    unreachable: int = 0


async def repair_indexes(
    container: Container, domain: Domain, *, migrate: bool, seconds: float
) -> IndexRepair:
    """Make the missing indexes of a domain and, with `migrate`, drop the legacy ones after that.

    No row is changed or deleted. Rows that the unique index would refuse are looked for first, and
    leave everything as it is.

    Args:
        container: Connected services.
        domain: Whose collection is repaired.
        migrate: Whether indexes may be dropped.
        seconds: Deadline of all of it.

    Raises:
        ConfigurationError: Another index stands in the way, or a row was written meanwhile that
            the unique index refuses.
        StoreUnavailableError: MongoDB did not finish within `seconds`; it may go on building.
    """
    mongo = container.mongo_service
    state = await _index_state(container, domain)
    repair = IndexRepair(collection=domain.collection)
    collection = mongo.collection(domain.collection)
    unique = index_name(domain.unique_index)
    with translated_errors(), pymongo.timeout(seconds):
        if unique in state.missing:
            repair.violations = await _violations(container, domain)
            if repair.violations:
                return repair
        if migrate and state.legacy:
            lacking = {"$or": [{name: {"$exists": False}} for name in domain.key_names]}
            repair.unreachable = await collection.count_documents(lacking)
        for fields in _wanted(domain):
            name = index_name(fields)
            if name not in state.missing:
                continue
            is_unique = fields == domain.unique_index
            if is_unique and state.in_the_way and not migrate:
                continue
            # Beside one of the same fields it needs a name of its own.
            taken = f"{name}_unique" if name in state.found else name
            model = IndexModel(list(fields), name=taken, **({"unique": True} if is_unique else {}))
            try:
                await collection.create_indexes([model])
            except pymongo.errors.OperationFailure as error:
                if error.code in (DUPLICATE_KEY, *INDEX_CONFLICT_CODES):
                    raise ConfigurationError(
                        domain.collection,
                        f"the index {name} cannot be made beside what is stored ({error.code})",
                        hint="is a runner writing? nothing was dropped",
                    ) from error
                raise
            repair.created.append(taken)
        if migrate:
            for name in (*state.legacy, *state.in_the_way):
                await collection.drop_index(name)
                repair.dropped.append(name)
    return repair


async def _violations(container: Container, domain: Domain) -> list[dict[str, Any]]:
    names = domain.key_names
    stages: list[Mapping[str, Any]] = [
        {
            "$group": {
                # To a unique index a field that is not there is null.
                "_id": {name: {"$ifNull": [f"${name}", None]} for name in names},
                "rows": {"$sum": 1},
                "first": {"$min": "$_id"},
                "last": {"$max": "$_id"},
            }
        },
        {"$match": {"rows": {"$gt": 1}}},
        {"$limit": _SHOWN},
    ]
    collection = container.mongo_service.collection(domain.collection)
    cursor = await collection.aggregate(stages, allowDiskUse=True)
    return [
        {
            "context": {name: found["_id"].get(name) for name in names},
            "rows": found["rows"],
            "ids": [str(found["first"]), str(found["last"])],
        }
        for found in await cursor.to_list()
    ]
