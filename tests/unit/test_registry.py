"""The registries of the process: names, memo, families, declared domains, setup and shutdown."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import fastpersist
from fastpersist import ConfigurationError, Field, InvalidArgumentError, Registries, extra, store
from fastpersist import own_domains as own
from fastpersist.adapters.dual_store import DualStoreBackend
from fastpersist.adapters.dummy import DummyBackend
from fastpersist.adapters.files import FilesBackend
from fastpersist.domains import DOMAINS
from fastpersist.registry import Registry, registries
from fastpersist.services.mongo import MongoService
from fastpersist.services.redis import RedisService

MS = 1_735_689_600_000
CONTEXT = ("X", "s", "e")
# name: context, the rest of a read, the rest of a write, the answer for absent, methods
TABLE: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...], Any, str]] = {
    "candle": (("X", "1m", "e"), (1, MS), ([],), None, "candles"),
    "signal": (CONTEXT, (), ({"id": "a"},), None, "signal"),
    "schedule": (CONTEXT, (), ({"id": "a"},), None, "schedule"),
    "risk": (("r", "e"), (), ([("k", {})], MS), [], "position"),
    "partial": (CONTEXT, ("i",), ({"i": {}}, MS), {}, "partial"),
    "breakeven": (CONTEXT, ("i",), ({"i": {}}, MS), {}, "breakeven"),
    "storage": ((True,), (), ([{"id": "a"}],), [], "storage"),
    "notification": ((False,), (), ([{"id": "a"}],), [], "notification"),
    "log": ((), (), ([{"id": "a"}],), [], "log"),
    "measure": (("b",), ("k",), ({"data": 1}, MS), None, "measure"),
    "interval": (("b",), ("k",), ({"data": 1}, MS), None, "interval"),
    "memory": (("i", "b"), ("m",), ({"data": {}}, MS), None, "memory"),
    "recent": ((*CONTEXT, "f", True), (), ({"id": "a"}, MS), None, "recent"),
    "state": (("i", "b"), (), ({"data": 1}, MS), None, "state"),
    "session": (("s", "e", "f", "X", False), (), ({"data": 1}, MS), None, "session"),
}
ADAPTERS = [
    ("PersistCandleAdapter", "use_persist_candle_adapter"),
    ("PersistSignalAdapter", "use_persist_signal_adapter"),
    ("PersistScheduleAdapter", "use_persist_schedule_adapter"),
    ("PersistRiskAdapter", "use_persist_risk_adapter"),
    ("PersistPartialAdapter", "use_persist_partial_adapter"),
    ("PersistBreakevenAdapter", "use_persist_breakeven_adapter"),
    ("PersistStorageAdapter", "use_persist_storage_adapter"),
    ("PersistNotificationAdapter", "use_persist_notification_adapter"),
    ("PersistLogAdapter", "use_persist_log_adapter"),
    ("PersistMeasureAdapter", "use_persist_measure_adapter"),
    ("PersistIntervalAdapter", "use_persist_interval_adapter"),
    ("PersistMemoryAdapter", "use_persist_memory_adapter"),
    ("PersistRecentAdapter", "use_persist_recent_adapter"),
    ("PersistStateAdapter", "use_persist_state_adapter"),
    ("PersistSessionAdapter", "use_persist_session_adapter"),
]
PUBLIC = [
    "CandleFrame",
    "ClosedError",
    "ConfigurationError",
    "CorruptDataError",
    "Domain",
    "EntryDomain",
    "EventLoopError",
    "FastPersistError",
    "Field",
    "InvalidArgumentError",
    "InvalidCandleError",
    "InvalidDocumentError",
    "LegacyIndexError",
    "ListDomain",
    "LocalServerError",
    "LookAheadError",
    "PersistBreakevenAdapter",
    "PersistCandleAdapter",
    "PersistIntervalAdapter",
    "PersistLogAdapter",
    "PersistMeasureAdapter",
    "PersistMemoryAdapter",
    "PersistNotificationAdapter",
    "PersistPartialAdapter",
    "PersistRecentAdapter",
    "PersistRiskAdapter",
    "PersistScheduleAdapter",
    "PersistSessionAdapter",
    "PersistSignalAdapter",
    "PersistStateAdapter",
    "PersistStorageAdapter",
    "Registries",
    "Settings",
    "Store",
    "StoreError",
    "StoreUnavailableError",
    "ValueDomain",
    "__version__",
    "current_simulated_time",
    "has_extensions",
    "open",
    "register_type",
    "registries",
    "set_logger",
    "setup",
    "shutdown",
    "simulated_time",
]
SERVERS = {"mongo_url": "mongodb://db.invalid/x", "redis_url": "redis://cache.invalid"}
BY_NAME = pytest.mark.parametrize("name", list(TABLE))


@pytest.fixture(autouse=True)
async def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A working directory and declared domains of its own for each test, on the files family."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "_installed", {})
    registries.use_json()
    yield
    await fastpersist.shutdown()


def methods(registries: Registries, name: str) -> tuple[Any, Any]:
    """Return the read and the write method of a domain's registry."""
    registry = getattr(registries, name)
    word = TABLE[name][4]
    return getattr(registry, f"read_{word}_data"), getattr(registry, f"write_{word}_data")


async def read(registries: Registries, name: str, context: tuple[Any, ...] | None = None) -> Any:
    own_context, rest, *_ = TABLE[name]
    return await methods(registries, name)[0](*(context or own_context), *rest)


async def write(registries: Registries, name: str) -> None:
    context, rest, data, *_ = TABLE[name]
    key = () if name == "candle" else rest
    await methods(registries, name)[1](*context, *key, *data)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json"))


class Custom:
    """A class of the user's for any domain: remembers how it was made and initialised."""

    made: list[Custom]

    def __init__(self, *context: Any) -> None:
        self.context = context
        self.initial: list[bool] = []
        self.made.append(self)

    async def wait_for_init(self, initial: bool) -> None:
        self.initial.append(initial)

    def __getattr__(self, name: str) -> Any:
        if not name.endswith("_data"):
            raise AttributeError(name)

        async def answer(*arguments: Any) -> Any:
            return (name, arguments)

        return answer

    def dispose(self) -> None:
        raise AssertionError("the registry only forgets (contract 2)")


def custom() -> type[Custom]:
    """Return a class that counts on its own."""
    return type("Mine", (Custom,), {"made": []})


def use(registries: Registries, name: str, adapter: Any) -> None:
    getattr(getattr(registries, name), f"use_persist_{name}_adapter")(adapter)


def test_the_public_names() -> None:
    assert fastpersist.__all__ == PUBLIC
    assert all(hasattr(fastpersist, name) for name in PUBLIC)
    namespace: dict[str, Any] = {}
    exec("from fastpersist import *", namespace)
    assert set(PUBLIC) <= set(namespace)


@pytest.mark.parametrize(("name", "register"), ADAPTERS)
def test_every_registry_object_has_its_methods(name: str, register: str) -> None:
    registry = getattr(fastpersist, name)
    assert isinstance(registry, Registry)
    for method in (register, "use_json", "use_dummy", "clear"):
        assert callable(getattr(registry, method))


def test_the_registry_objects_are_those_of_the_process() -> None:
    assert fastpersist.registries is registries
    assert registries.all() == tuple(getattr(fastpersist, name) for name, _ in ADAPTERS)
    assert registries.all() == tuple(getattr(registries, name) for name in TABLE)
    assert [domain.name for domain in DOMAINS] == list(TABLE)


@pytest.mark.parametrize("name", ["memory", "state", "session"])
def test_only_three_have_wait_for_init_and_dispose(name: str) -> None:
    having = {each for each in TABLE if hasattr(getattr(registries, each), "dispose")}
    assert having == {"memory", "state", "session"}
    assert hasattr(getattr(registries, name), "wait_for_init")


@BY_NAME
async def test_one_instance_per_context_initialised_at_each_call(name: str) -> None:
    """Contract 2, point 2: the first call is the initial one."""
    own_registries, mine = Registries(), custom()
    use(own_registries, name, mine)
    context = TABLE[name][0]
    for _ in range(3):
        await read(own_registries, name)
    (instance,) = mine.made
    assert instance.context == context
    assert instance.initial == [True, False, False]
    if context:
        other = (
            (not context[0], *context[1:]) if context[0] in (True, False) else ("Y", *context[1:])
        )
        await read(own_registries, name, other)
        await read(own_registries, name)
        assert [made.context for made in mine.made] == [context, other]


@BY_NAME
async def test_the_class_of_the_user_serves_the_domain(name: str) -> None:
    own_registries, mine = Registries(), custom()
    use(own_registries, name, mine)
    _, rest, *_, word = TABLE[name]
    method, arguments = await read(own_registries, name)
    assert method == f"read_{word}_data"
    assert arguments[: len(rest)] == rest
    await write(own_registries, name)
    assert len(mine.made) == 1
    others = [each for each in TABLE if each != name]
    assert [await read(own_registries, each) for each in others] == [
        TABLE[each][3] for each in others
    ]


@BY_NAME
async def test_a_new_class_and_clear_forget_the_instances(name: str) -> None:
    own_registries, first, second = Registries(), custom(), custom()
    use(own_registries, name, first)
    await read(own_registries, name)
    getattr(own_registries, name).clear()
    await read(own_registries, name)
    assert [instance.initial for instance in first.made] == [[True], [True]]
    use(own_registries, name, second)
    await read(own_registries, name)
    use(own_registries, name, first)
    await read(own_registries, name)
    assert (len(first.made), len(second.made)) == (3, 1)
    own_registries.clear()
    await read(own_registries, name)
    assert len(first.made) == 4
    getattr(own_registries, name).use_dummy()
    assert await read(own_registries, name) == TABLE[name][3]
    assert len(first.made) == 4


async def test_concurrent_first_calls_share_an_instance() -> None:
    own_registries, mine = Registries(), custom()
    use(own_registries, "state", mine)
    await asyncio.gather(*(read(own_registries, "state") for _ in range(5)))
    (instance,) = mine.made
    assert instance.initial == [True, False, False, False, False]


async def test_contexts_that_join_to_one_text_are_two(tmp_path: Path) -> None:
    own_registries, mine = Registries(), custom()
    use(own_registries, "signal", mine)
    await read(own_registries, "signal", ("X", "b:c", "a"))
    await read(own_registries, "signal", ("X", "b", "c:a"))
    assert len(mine.made) == 2


async def test_a_failed_start_is_forgotten() -> None:
    class Failing(Custom):
        made: list[Custom] = []  # noqa: RUF012  # counts over all instances

        async def wait_for_init(self, initial: bool) -> None:
            await super().wait_for_init(initial)
            if len(self.made) == 1:
                raise OSError

    own_registries = Registries()
    use(own_registries, "state", Failing)
    with pytest.raises(OSError):  # noqa: PT011  # the class says it all
        await read(own_registries, "state")
    await read(own_registries, "state")
    assert [instance.initial for instance in Failing.made] == [[True], [True]]


@pytest.mark.parametrize("name", ["memory", "state", "session"])
async def test_wait_for_init_and_dispose(name: str) -> None:
    """Contract 2: the flag counts only for a new instance, and disposing only forgets."""
    own_registries, mine = Registries(), custom()
    use(own_registries, name, mine)
    registry, context = getattr(own_registries, name), TABLE[name][0]
    await registry.wait_for_init(*context, initial=False)
    await registry.wait_for_init(*context, initial=True)
    await read(own_registries, name)
    assert [instance.initial for instance in mine.made] == [[False, False, False]]
    registry.dispose(*context)
    registry.dispose(*context)
    await registry.wait_for_init(*context, True)
    assert [instance.initial for instance in mine.made[1:]] == [[True]]


@pytest.mark.parametrize("name", [name for name in TABLE if name != "log"])
async def test_names_that_are_not_hashable_are_refused(name: str) -> None:
    registry, context = getattr(registries, name), ([], *TABLE[name][0][1:])
    with pytest.raises(InvalidArgumentError, match="expected texts"):
        await read(registries, name, context)
    if hasattr(registry, "dispose"):
        with pytest.raises(InvalidArgumentError, match="expected texts"):
            await registry.wait_for_init(*context, True)
        with pytest.raises(InvalidArgumentError, match="expected texts"):
            registry.dispose(*context)


async def test_files_are_the_family_of_the_start(tmp_path: Path) -> None:
    assert isinstance(Registries().backend, FilesBackend)
    for name in TABLE:
        await write(registries, name)
    assert files(tmp_path) == [
        "dump/data/breakeven/X_s_e/i.json",
        "dump/data/interval/b/k.json",
        "dump/data/log/log/a.json",
        "dump/data/measure/b/k.json",
        "dump/data/notification/live/a.json",
        "dump/data/partial/X_s_e/i.json",
        "dump/data/recent/X_s_e_f_backtest/X.json",
        "dump/data/risk/r_e/positions.json",
        "dump/data/schedule/X_s_e/X.json",
        "dump/data/signal/X_s_e/X.json",
        "dump/data/storage/backtest/a.json",
        "dump/memory/i/b/m.json",
        "dump/session/s/e/f/X_live.json",
        "dump/state/i/b/b.json",
    ]


@BY_NAME
async def test_the_dummy_answers_absent_and_stores_nothing(name: str, tmp_path: Path) -> None:
    """Contract 2, Dummy answers."""
    getattr(registries, name).use_dummy()
    await write(registries, name)
    assert await read(registries, name) == TABLE[name][3]
    assert not (tmp_path / "dump").exists()
    getattr(registries, name).use_json()
    await write(registries, name)
    if name != "candle":
        assert len(files(tmp_path)) == 1


async def test_the_dummy_has_lists_and_removals(tmp_path: Path) -> None:
    registries.use_dummy()
    assert isinstance(registries.backend, DummyBackend)
    memory, measure, interval = registries.memory, registries.measure, registries.interval
    for name in ("memory", "measure", "interval"):
        await write(registries, name)
    await memory.remove_memory_data("i", "b", "m")
    await measure.remove_measure_data("b", "k")
    await interval.remove_interval_data("b", "k")
    assert await memory.has_memory_data("i", "b", "m") is False
    assert [item async for item in memory.list_memory_data("i", "b")] == []
    assert [key async for key in measure.list_measure_data("b")] == []
    assert [key async for key in interval.list_interval_data("b")] == []
    assert await registries.candle.read_candles_data("X", "1m", "e", 0, MS) == []
    assert not (tmp_path / "dump").exists()


@BY_NAME
async def test_the_dummy_checks_what_the_others_check(name: str) -> None:
    registries.use_dummy()
    context, rest, data, *_ = TABLE[name]
    key = () if name == "candle" else rest
    with pytest.raises(InvalidArgumentError):
        await methods(registries, name)[1](*context, *key, "no payload", *data[1:])
    if context:
        with pytest.raises(InvalidArgumentError):
            await read(registries, name, (5, *context[1:]))


async def test_setup_connects_nothing_until_the_first_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connected: list[str] = []

    async def connect(self: object, url: str) -> None:
        connected.append(url)
        raise fastpersist.StoreUnavailableError("mongo", "not in this test")

    for service in (MongoService, RedisService):
        monkeypatch.setattr(service, "connect", connect)
    installed = fastpersist.setup(**SERVERS)
    assert registries.backend is installed.backend
    assert isinstance(registries.backend, DualStoreBackend)
    assert list(installed.container._made) == ["logger_service"]
    assert connected == []
    with pytest.raises(fastpersist.StoreUnavailableError):
        await read(registries, "signal")
    assert SERVERS["mongo_url"] in connected


async def test_setup_serves_all_and_shutdown_goes_back_to_files() -> None:
    fastpersist.setup(**SERVERS)
    for registry in registries.all():
        assert registry._factory.args == (registries.backend,)  # type: ignore[attr-defined]  # what it is bound to has no public name
    await fastpersist.shutdown()
    assert isinstance(registries.backend, FilesBackend)
    assert await read(registries, "signal") is None
    await fastpersist.shutdown()


async def test_a_second_setup_replaces_and_shutdown_closes_both() -> None:
    first = fastpersist.setup(**SERVERS)
    second = fastpersist.setup(**SERVERS)
    assert registries.backend is second.backend
    await fastpersist.shutdown()
    for closed in (first, second):
        with pytest.raises(fastpersist.ClosedError):
            await closed.ready()


@pytest.mark.parametrize(
    "wrong", [{"mongo_url": "nonsense"}, {"colour": "red"}, {"logger": object()}]
)
def test_a_wrong_setup_changes_nothing(wrong: dict[str, Any]) -> None:
    before = registries.backend
    with pytest.raises(ConfigurationError):
        fastpersist.setup(**wrong)
    assert registries.backend is before
    assert store._installed is None


async def test_an_open_store_leaves_the_process_alone() -> None:
    before = registries.backend
    opened = fastpersist.open(**SERVERS)
    assert registries.backend is before
    assert opened.backend is not before
    assert not set(opened.all()) & set(registries.all())
    await opened.aclose()


async def test_the_logger_of_the_installed_store_can_be_changed() -> None:
    events: list[str] = []

    class Logger:
        def log(self, topic: str, *args: Any) -> None:
            events.append(topic)

        debug = info = warn = log

    fastpersist.set_logger(Logger())  # nothing is installed: nothing to do
    installed = fastpersist.setup(logger=Logger(), **SERVERS)
    installed.container.logger_service.info("first")
    fastpersist.set_logger(None)
    installed.container.logger_service.info("silent")
    fastpersist.set_logger(Logger())
    installed.container.logger_service.info("last")
    assert events == ["first", "last"]
    with pytest.raises(ConfigurationError):
        fastpersist.set_logger(object())


@pytest.mark.parametrize("family", ["files", "dummy"])
async def test_a_declared_value_domain(family: str, tmp_path: Path) -> None:
    accounts = fastpersist.ValueDomain.declare(
        "account", collection="account-items", context=["broker", Field("backtest", "mode")]
    )
    if family == "dummy":
        accounts.use_dummy()
    assert await accounts.read("b", True) is None
    await accounts.write("b", True, data={"cash": 5})
    stored = {"cash": 5} if family == "files" else None
    assert await accounts.read("b", True) == stored
    assert await accounts.read("b", False) is None
    expected = ["dump/data/account/b_backtest/account.json"] if family == "files" else []
    assert files(tmp_path) == expected


@pytest.mark.parametrize("family", ["files", "dummy"])
async def test_a_declared_entry_domain(family: str, tmp_path: Path) -> None:
    fills = fastpersist.EntryDomain.declare(
        "fill", collection="fill-items", context=["broker"], key="fillId", has_when=True
    )
    if family == "dummy":
        fills.use_dummy()
    stores = family == "files"
    for key in ("a", "b"):
        await fills.write("x", key=key, data={"n": 1, "when": MS}, when=MS)
    entry = {"n": 1, "when": MS, "removed": False}
    assert await fills.read("x", key="a") == (entry if stores else None)
    assert await fills.read("x", key="a", when=MS - 1) is None
    await fills.remove("x", key="a")
    assert await fills.read("x", key="a") is None
    assert await fills.has("x", key="a") is stores
    assert [key async for key in fills.keys("x")] == (["b"] if stores else [])
    assert [item async for item in fills.items("x")] == ([("b", entry)] if stores else [])
    with pytest.raises(InvalidArgumentError, match="when: the moment"):
        await fills.write("x", key="a", data={})
    assert files(tmp_path) == (
        ["dump/data/fill/x/a.json", "dump/data/fill/x/b.json"] if stores else []
    )


@pytest.mark.parametrize("family", ["files", "dummy"])
async def test_a_declared_list_domain(family: str, tmp_path: Path) -> None:
    audit = fastpersist.ListDomain.declare(
        "audit", collection="audit-items", context=["desk"], row_id="key", append_only=True
    )
    if family == "dummy":
        audit.use_dummy()
    assert await audit.read("x") == []
    await audit.write("x", rows=[{"key": "a", "n": 1}, {"key": "b"}])
    await audit.write("x", rows=[{"key": "a", "n": 2}])
    rows = [{"key": "a", "n": 1}, {"key": "b"}]
    assert await audit.read("x") == (rows if family == "files" else [])
    assert await audit.read("x", limit=0) == []
    with pytest.raises(InvalidArgumentError, match=r"rows\[0\]\.key"):
        await audit.write("x", rows=[{"id": "a"}])


@pytest.mark.parametrize(("absent", "answer"), [("none", None), ("list", []), ("dict", {})])
async def test_what_a_declared_domain_answers_for_absent(absent: Any, answer: Any) -> None:
    domain = fastpersist.ValueDomain.declare(
        "own", collection="own", context=["name"], absent=absent
    )
    assert await domain.read("x") == answer


async def test_declared_domains_follow_the_family_of_the_process() -> None:
    before = fastpersist.ValueDomain.declare("before", collection="b", context=["name"])
    installed = fastpersist.setup(**SERVERS)
    after = fastpersist.ValueDomain.declare("after", collection="a", context=["name"])
    assert own.declared_domains() == (before, after)
    for domain in own.declared_domains():
        assert domain._factory.args == (installed.backend,)  # type: ignore[attr-defined]  # what it is bound to has no public name
    elsewhere = fastpersist.open(**SERVERS)
    bound = elsewhere.domain(before)
    assert bound is not before
    assert bound.domain is before.domain
    assert bound._factory.args == (elsewhere.backend,)  # type: ignore[attr-defined]  # what it is bound to has no public name
    await elsewhere.aclose()
    await fastpersist.shutdown()
    await before.write("x", data=1)
    assert await before.read("x") == 1


async def test_a_context_of_the_wrong_size_is_refused() -> None:
    domain = fastpersist.ValueDomain.declare(
        "own", collection="own", context=["accountName", "day"]
    )
    for context in ((), ("a",), ("a", "b", "c")):
        with pytest.raises(InvalidArgumentError, match=r"own takes \(account_name, day\)"):
            await domain.read(*context)
    with pytest.raises(InvalidArgumentError, match="account_name"):
        await domain.read("", "b")


@pytest.mark.parametrize(
    ("declared", "setting"),
    [
        ({"name": "signal"}, "signal"),
        ({"name": "taken"}, "taken"),
        ({"collection": "signal-items"}, "own"),
        ({"collection": "taken"}, "own"),
        ({"name": "no name"}, "name"),
        ({"name": ""}, "name"),
        ({"collection": ""}, "collection"),
        ({"collection": "a$b"}, "collection"),
        ({"collection": "a\0b"}, "collection"),
        ({"context": ["payload"]}, "context"),
        ({"context": ["when"]}, "context"),
        ({"context": ["a.b"]}, "context"),
        ({"context": ["a", "a"]}, "own"),
        ({"key": "removed"}, "key"),
        ({"key": "_id"}, "key"),
        ({"key": "a-b"}, "key"),
        ({"key": "name"}, "own"),
    ],
)
def test_wrong_declarations_are_refused_and_leave_nothing(
    declared: dict[str, Any], setting: str
) -> None:
    fastpersist.ValueDomain.declare("taken", collection="taken", context=["name"])
    arguments = {"name": "own", "collection": "own", "context": ["name"], **declared}
    name = arguments.pop("name")
    kinds: list[Callable[..., object]] = [
        fastpersist.EntryDomain.declare,
        fastpersist.ListDomain.declare,
    ]
    if "key" not in declared:
        kinds.append(fastpersist.ValueDomain.declare)
    for declare in kinds:
        with pytest.raises(ConfigurationError) as caught:
            declare(name, **arguments)
        assert caught.value.setting == setting
    assert [domain.domain.name for domain in own.declared_domains()] == ["taken"]


def test_a_value_domain_needs_a_key() -> None:
    with pytest.raises(ConfigurationError, match="at least one field"):
        fastpersist.ValueDomain.declare("own", collection="own", context=[])


async def test_the_later_domains_on_files(tmp_path: Path) -> None:
    extra.install()
    extra.install()
    strategy, dictionary = extra.PersistStrategyAdapter, extra.PersistDictionaryAdapter
    assert own.declared_domains() == (strategy, dictionary)
    assert await strategy.read_strategy_data(*CONTEXT) is None
    assert await dictionary.read_dictionary_data("i", "d") is None
    row = {"pendingSignalId": None, "closedSignal": {"id": "a"}, "retryOpenSignal": None}
    await strategy.write_strategy_data(*CONTEXT, row)
    await dictionary.write_dictionary_data("i", "d", {"a": [1]}, MS)
    assert files(tmp_path) == [
        "dump/data/strategy/X_s_e/strategy.json",
        "dump/dictionary/i/d/d.json",
    ]
    repaired = {"id": "a", "minuteEstimatedTime": float("inf"), "multiplier": 1, "isolated": True}
    assert await strategy.read_strategy_data(*CONTEXT) == {**row, "closedSignal": repaired}
    assert json.loads((tmp_path / "dump/data/strategy/X_s_e/strategy.json").read_text()) == row
    assert await dictionary.read_dictionary_data("i", "d") == {"a": [1]}
    await strategy.write_strategy_data(*CONTEXT, None)
    assert await strategy.read_strategy_data(*CONTEXT) is None
    with pytest.raises(InvalidArgumentError, match="row: expected a mapping"):
        await strategy.write_strategy_data(*CONTEXT, [])  # type: ignore[arg-type]  # the point


async def test_the_later_domains_follow_the_family_of_the_process() -> None:
    installed = fastpersist.setup(**SERVERS)
    extra.install()
    for domain in own.declared_domains():
        assert domain._factory.args == (installed.backend,)  # type: ignore[attr-defined]  # what it is bound to has no public name


def test_the_same_declaration_twice_is_one_domain() -> None:
    first = fastpersist.ValueDomain.declare("own", collection="own", context=["name"])
    assert fastpersist.ValueDomain.declare("own", collection="own", context=["name"]) is first
    with pytest.raises(ConfigurationError, match="own"):
        fastpersist.ValueDomain.declare("own", collection="other", context=["name"])


def test_a_declaration_can_be_installed_later() -> None:
    domain = fastpersist.ListDomain.declare(
        "own", collection="own", context=["name"], install=False
    )
    assert own.declared_domains() == ()
    domain.install()
    domain.install()
    assert own.declared_domains() == (domain,)


async def test_a_declared_order_and_file_are_kept(tmp_path: Path) -> None:
    domain = fastpersist.EntryDomain.declare(
        "own", collection="own", context=["desk"], key="fillId",
        cache_order=["fillId", "desk"], file="own/{fillId}/{desk}.json",
    )  # fmt: skip
    assert domain.domain.cache_order == ("fillId", "desk")
    await domain.write("d", key="f", data={"n": 1})
    assert files(tmp_path) == ["dump/own/f/d.json"]
    with pytest.raises(ConfigurationError, match="order"):
        fastpersist.EntryDomain.declare(
            "more", collection="more", context=["desk"], cache_order=["desk"]
        )


async def test_a_declared_domain_takes_a_class_of_the_user() -> None:
    class Constant:
        def __init__(self, name: str) -> None:
            self.name = name

        async def wait_for_init(self, initial: bool) -> None:
            pass

        async def read(self, when: Any = None) -> Any:
            return self.name

        async def write(self, data: Any, when: Any = None) -> None:
            raise AssertionError

    domain = fastpersist.ValueDomain.declare("own", collection="own", context=["name"])
    adapter: Any = Constant
    domain.use_adapter(adapter)
    assert await domain.read("a") == "a"


async def test_a_store_keeps_its_registry_of_a_declared_domain() -> None:
    domain = fastpersist.ValueDomain.declare("own", collection="own", context=["name"])
    elsewhere = fastpersist.open(**SERVERS)
    assert elsewhere.domain(domain) is elsewhere.domain(domain)
    container = elsewhere.container
    assert container.cache(domain.domain) is container.cache(domain.domain)
    assert container.db(domain.domain) is container.db(domain.domain)
    await elsewhere.aclose()


@pytest.mark.parametrize("wrong", [5, None, "class"])
def test_an_adapter_that_is_no_class_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="adapter"):
        fastpersist.PersistSignalAdapter.use_persist_signal_adapter(wrong)


async def test_an_adapter_without_its_methods_is_refused_by_name() -> None:
    class Half:
        def __init__(self, *context: str) -> None:
            pass

        async def wait_for_init(self, initial: bool) -> None:
            pass

        async def read_signal_data(self) -> None:
            pass

    adapter: Any = Half
    registry = Registries().signal
    registry.use_persist_signal_adapter(adapter)
    with pytest.raises(InvalidArgumentError, match="Half has no write_signal_data"):
        await registry.read_signal_data(*CONTEXT)


async def test_a_logger_that_was_set_before_setup_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_logger", None)
    with pytest.raises(ConfigurationError, match="logger"):
        fastpersist.set_logger(object())
    logger = logging.getLogger("early")
    fastpersist.set_logger(logger)
    installed = fastpersist.setup(**SERVERS)
    target: Any = installed.container.logger_service._target
    assert target._logger is logger
    await fastpersist.shutdown()
