"""The engine on the clock among stores, brokers, feeds, clocks and strategies that are at fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from candle_rows import START_MS
from fastpersist.contracts import Candle
from fastpersist.domains import Domain
from fastpersist.errors import CorruptDataError, StoreUnavailableError
from fastpersist.registry import Registries
from fastpersist.runner import Context, Signal, Strategy
from fastpersist.runner import live as live_module
from fastpersist.runner import stream as stream_module
from fastpersist.runner.broker import (
    BrokerError,
    BrokerUnavailableError,
    Order,
    OrderState,
)
from fastpersist.runner.candle_file import CandleFileError
from fastpersist.runner.candles import bars_of
from fastpersist.runner.clock import Clock
from fastpersist.runner.engine import RunMismatchError
from fastpersist.runner.live import LiveEngine
from fastpersist.runner.position import Bar
from live_kit import FakeClock, LiveFeed, LossyBroker
from live_world import (
    LIMIT,
    LONG,
    MINUTE,
    QUIET,
    TO_STOP,
    TO_TARGET,
    Scripted,
    World,
    minute_of,
    node_row,
)
from memory_backend import Data, Fate, MemoryBackend

KEY = ("BTC", "scripted", "demo")
LONE_SURROGATE = "\ud800"
RISEN = (105.0, 106.0, 104.5, 105.0)
TO_LIMIT = (99.0, 99.5, 97.5, 98.5)

Interference = Callable[[str, Data], Awaitable[None]]


class Store(MemoryBackend):
    """Asks `interferes` before each write, by domain: it may wait or raise."""

    def __init__(self, data: Data, interferes: Interference) -> None:
        super().__init__(data, Fate())
        self._interferes = interferes

    async def _write(self, domain: Domain, new: Data) -> None:
        await self._interferes(domain.name, new)
        await super()._write(domain, new)


def stored_in(backend: MemoryBackend) -> Registries:
    family = Registries()
    family.use_backend(backend)
    return family


def away() -> StoreUnavailableError:
    return StoreUnavailableError("memory", "no answer")


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled_inside() -> None:
    task = asyncio.ensure_future(asyncio.sleep(3_600))
    task.cancel()
    await task


async def left_by_another_runner(world: World, **more: Any) -> None:
    await world.registries().signal.write_signal_data(*KEY, node_row(**more))


class OpenOrders(LossyBroker):
    """Takes each order and fills nothing of it, until it is told to."""

    async def open(self, order: Order) -> OrderState:
        self.exchange.accept(order, 0.0)
        return self.become(order, status="open")

    def become(self, order: Order, **fields: Any) -> OrderState:
        states, name = self.exchange.states, order.client_order_id
        states[name] = replace(states[name], **fields)
        return states[name]


@pytest.mark.parametrize("fill", [110.0, 95.0], ids=["target", "stop"])
async def test_a_fill_at_the_target_or_at_the_stop_is_a_position_like_others(fill: float) -> None:
    class Slipping(LossyBroker):
        async def open(self, order: Order) -> OrderState:
            self.exchange.accept(order, price=fill)
            return self.exchange.states[order.client_order_id]

    world = World(QUIET, QUIET, QUIET, QUIET)
    strategy = Scripted({0: LONG})
    engine = await world.run(strategy, broker=Slipping(world.exchange))
    assert strategy.events()[0] == ("opened", 0, fill)
    assert engine.describe()["open_positions"] == 1
    assert "error.critical" not in world.kinds()


@pytest.mark.parametrize("stop", [100, 103], ids=["at", "beyond"])
async def test_a_stop_that_has_been_trailed_to_the_entry_has_no_loss_levels(stop: int) -> None:
    world = World(RISEN, RISEN, RISEN)
    await left_by_another_runner(world, _trailingPriceStopLoss=stop)
    engine = await world.run(Scripted({}))
    assert engine.describe()["open_positions"] == 1
    assert not [kind for kind in world.kinds() if kind.startswith("partial_loss")]
    assert "error.critical" not in world.kinds()


@pytest.mark.parametrize("method", ["find", "cancel"])
async def test_a_broker_that_refuses_a_look_leaves_the_outcome_unknown(method: str) -> None:
    class Refusing(OpenOrders):
        async def open(self, order: Order) -> OrderState:
            state = await super().open(order)
            if method == "find":
                raise BrokerUnavailableError("timed out")
            return state

        async def find(self, order: Order) -> OrderState | None:
            if method == "find":
                raise BrokerError("the key was revoked")
            return await super().find(order)

        async def cancel(self, order: Order) -> OrderState:
            raise BrokerError("not permitted")

    world = World(QUIET, QUIET, QUIET, QUIET)
    engine = await world.run(Scripted({0: LONG}), broker=Refusing(world.exchange))
    assert engine.describe()["unknown_orders"] == 1
    assert world.kinds() == ["error.critical"]


async def test_a_hook_that_cancels_itself_ends_no_symbol() -> None:
    class Cancelling(Scripted):
        async def active(self, ctx: Context, row: dict[str, Any]) -> None:
            if ctx.symbol == "BTC" and minute_of(ctx) == 1:
                await cancelled_inside()

    world = World(QUIET, QUIET, QUIET, TO_STOP, QUIET)
    strategy = Cancelling({0: LONG})
    engine = await world.run(strategy, symbols=("BTC", "ETH"))
    assert [event[0] for event in strategy.events()].count("closed") == 2
    assert engine.last_closes["BTC"] == engine.last_closes["ETH"]
    (told,) = (row for row in world.rows("notification") if row["type"] == "error.info")
    assert "cancelled itself" in orjson.dumps(told).decode()


async def test_a_hook_that_swallows_its_end_is_left_behind() -> None:
    released = asyncio.Event()

    async def swallows(ctx: Context) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    world = World(QUIET, QUIET, QUIET)
    strategy = Scripted({0: swallows}, answer_seconds=0.05)
    run = asyncio.ensure_future(world.run(strategy))
    try:
        done, _ = await asyncio.wait({run}, timeout=60)
    finally:
        released.set()
        await run
    assert done
    assert ("asked", 2) in strategy.heard


async def test_a_hook_may_read_several_places_at_once() -> None:
    found: list[Any] = []

    async def reads(ctx: Context) -> None:
        ctx.state("a").write(1)
        found.append(await asyncio.gather(ctx.state("a").read(), ctx.state("b").read()))

    strategy = Scripted({0: reads})
    await World(QUIET, QUIET).run(strategy)
    assert found == [[1, None]]
    assert not strategy.events()


async def test_what_was_written_is_durable_before_any_wait_of_a_strategy_is_over() -> None:
    """A wait that is not the context's is a wait too, such as that for a model's answer."""
    world = World(QUIET, QUIET, QUIET)
    kept: list[list[Any]] = []

    def keep() -> None:
        kept.append([row["data"] for row in world.rows("state")])

    async def asks(ctx: Context) -> None:
        count = ctx.state("count")
        for number in range(3):
            count.write(number)
            await asyncio.sleep(0)
            keep()
            count.write(number + 0.5)
            answer = asyncio.ensure_future(asyncio.sleep(0, "answer"))
            assert await answer == "answer"
            keep()
        count.write(9)
        assert await ctx.memory("m").read("none") is None
        keep()

    strategy = Scripted({0: asks})
    await world.run(strategy)
    assert kept == [[0], [0.5], [1], [1.5], [2], [2.5], [9]]
    assert not strategy.events()


async def test_strategies_may_wait_for_the_same() -> None:
    """Also while the one that was first is held up by its own changes."""
    world = World(QUIET, QUIET)
    shared: list[asyncio.Future[int]] = []
    found: list[int] = []

    async def asks(ctx: Context) -> None:
        if not shared:
            shared.append(asyncio.ensure_future(asyncio.sleep(0.01, 7)))
        ctx.state("a").write(ctx.symbol)
        found.append(await shared[0])
        ctx.state("a").write(found[-1])
        with pytest.raises(ZeroDivisionError):
            await failing()
        found.append(await shared[0])

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    strategy = Scripted({0: asks})
    await world.run(strategy, symbols=("BTC", "ETH", "SOL"))
    assert found == [7] * 6
    assert not strategy.events()


async def test_a_store_that_fails_ends_the_wait_of_a_strategy() -> None:
    world, state = World(QUIET, QUIET, QUIET), {"fails": 1}
    ended: list[type[BaseException] | None] = []

    async def interferes(domain: str, new: Data) -> None:
        if domain == "session" and b"before" in next(iter(new.values()))[0] and state["fails"]:
            state["fails"] = 0
            raise away()

    async def waits(ctx: Context) -> None:
        ctx.state("s").write("before")
        try:
            await asyncio.sleep(0)
        except StoreUnavailableError as error:
            ended.append(type(error))
            raise
        ended.append(None)

    strategy = Scripted({0: waits})
    await world.run(strategy, family=stored_in(Store(world.data, interferes)))
    assert ended[0] is StoreUnavailableError
    assert not strategy.events()


async def test_a_wait_ends_when_its_time_is_over() -> None:
    world = World(QUIET, QUIET, QUIET)
    ended: list[str] = []

    async def waits(ctx: Context) -> None:
        ctx.state("s").write("before")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    strategy = Scripted({0: waits}, answer_seconds=0.05)
    await world.run(strategy)
    assert ended == ["cancelled"]
    assert "took longer than its answer_seconds" in strategy.events()[0][2]
    assert [row["data"] for row in world.rows("state")] == ["before"]
    assert ("asked", 2) in strategy.heard


async def test_a_task_of_a_strategy_may_write_while_the_engine_does() -> None:
    failures: list[Exception] = []
    tasks: list[asyncio.Task[None]] = []

    async def listen(ctx: Context) -> None:
        while True:
            await asyncio.sleep(0)
            try:
                ctx.state("ticks").write(1)
                await ctx.state("ticks").read()
            except Exception as error:
                failures.append(error)

    def starts(ctx: Context) -> Signal:
        tasks.append(asyncio.ensure_future(listen(ctx)))
        return LONG

    world = World(*[QUIET] * 10, TO_TARGET, QUIET)
    strategy = Scripted({1: starts})
    try:
        await world.run(strategy)
    finally:
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert not failures
    assert strategy.events()[-1][0] == "closed"
    assert "error.critical" not in world.kinds()


async def test_writes_at_once_hear_of_a_store_that_fails() -> None:
    fails = 2

    async def interferes(domain: str, new: Data) -> None:
        nonlocal fails
        if domain == "interval" and fails:
            fails -= 1
            raise away()

    results: list[Any] = []

    async def marks(ctx: Context) -> None:
        marks = (ctx.interval("one").once(key) for key in "abc")
        results.extend(await asyncio.gather(*marks, return_exceptions=True))

    world = World(QUIET, QUIET, QUIET, QUIET)
    strategy = Scripted({0: marks})
    await world.run(strategy, family=stored_in(Store(world.data, interferes)))
    assert results
    assert {type(result) for result in results} <= {StoreUnavailableError, bool}
    assert ("asked", 3) in strategy.heard


@pytest.mark.parametrize("gives_in", [True, False])
async def test_a_doubtful_order_that_is_open_is_taken_back_and_watched(gives_in: bool) -> None:
    """It arrives after it was given up; what cannot be taken back is filled in the end."""

    class Late(OpenOrders):
        looks = 0

        async def open(self, order: Order) -> OrderState:
            raise BrokerUnavailableError("timed out")

        async def find(self, order: Order) -> OrderState | None:
            self.looks += 1
            if self.looks == 5:
                await super().open(order)
            if self.looks == 7 and not gives_in:
                self.become(order, status="filled", filled=order.amount)
            return self.exchange.states.get(order.client_order_id)

        async def cancel(self, order: Order) -> OrderState:
            return self.become(order, status="canceled" if gives_in else "open")

    world = World(*[QUIET] * 6)
    strategy = Scripted({0: LONG})
    broker = Late(world.exchange)
    await world.run(strategy, broker=broker)
    assert strategy.events() == [("cancelled", 0, "unsent")]
    assert broker.looks == (5 if gives_in else 7)
    assert world.kinds().count("error.critical") == (0 if gives_in else 1)
    assert world.exchange.position == (0 if gives_in else 10)


async def test_a_broker_that_hangs_does_not_hold_up_the_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "CALL_SECONDS", 0.02)

    class Hanging(LossyBroker):
        async def find(self, order: Order) -> OrderState | None:
            if self.looks >= 4:
                await asyncio.sleep(3_600)
            return await super().find(order)

    world = World(QUIET, QUIET, QUIET, QUIET)
    strategy = Scripted({0: LONG})
    broker = Hanging(world.exchange, behaviours=["lose request"])
    await asyncio.wait_for(world.engine(strategy, broker=broker).run(), 60)
    assert ("asked", 3) in strategy.heard


async def test_a_clock_that_is_put_on_while_an_order_is_sent_makes_it_no_old_one() -> None:
    class Late(LossyBroker):
        async def open(self, order: Order) -> OrderState:
            world.clock.time += 20 * MINUTE
            self.late.append((3, order))
            raise BrokerUnavailableError("timed out")

    world = World(*[QUIET] * 25)
    strategy = Scripted({0: LONG})
    await world.run(strategy, broker=Late(world.exchange))
    assert [event[0] for event in strategy.events()] == ["opened"]


async def test_a_clock_that_is_put_on_does_not_end_the_watch_for_a_doubtful_order() -> None:
    class Late(LossyBroker):
        async def open(self, order: Order) -> OrderState:
            self.late.append((self.looks + 7, order))
            raise BrokerUnavailableError("timed out")

    def put_on(ctx: Context) -> None:
        assert not world.exchange.orders
        world.clock.time += 15 * MINUTE

    world = World(*[QUIET] * 25)
    await world.run(Scripted({0: LONG, 1: put_on}), broker=Late(world.exchange))
    assert world.exchange.position == 10
    assert world.kinds().count("error.critical") == 1


class Deaf(Strategy):
    """Enters once; has no hooks, so that the record of its exit is the last one."""

    name = "scripted"

    def get_signal(self, ctx: Context) -> Signal | None:
        return LONG if minute_of(ctx) == 0 else None


@pytest.mark.parametrize("first", [Scripted({0: LONG}), Deaf()], ids=["hooks", "no hooks"])
async def test_a_position_of_another_runner_from_between_two_runs_is_kept_and_told(
    first: Strategy,
) -> None:
    world = World(QUIET, TO_STOP, QUIET, QUIET, QUIET)
    await world.run(first, until=2)
    assert world.value("signal") is None
    await left_by_another_runner(world, id="meanwhile")
    await world.run(Scripted({}))
    assert world.value("signal")["id"] == "meanwhile"
    assert world.kinds().count("error.critical") == 1


def notifies(text: Any) -> Callable[[Context], None]:
    return lambda ctx: ctx.notify(text)


def raises_an_error_of_ours(ctx: Context) -> None:
    raise CorruptDataError("state", "broken")


@pytest.mark.parametrize(
    "answer",
    [
        notifies(object()),
        notifies(LONE_SURROGATE),
        raises_an_error_of_ours,
        Signal(position="long", price_take_profit=110, price_stop_loss=95, note=LONE_SURROGATE),
        Signal(position="long", price_take_profit=10**400, price_stop_loss=95),
    ],
    ids=["object", "surrogate", "own error", "note", "int beyond all floats"],
)
async def test_what_no_store_can_hold_is_an_error_of_the_strategy(answer: Any) -> None:
    world = World(QUIET, QUIET, QUIET)
    strategy = Scripted({0: answer})
    await world.run(strategy)
    assert [event[0] for event in strategy.events()] == ["error"]
    assert world.kinds() == ["error.info"]
    assert ("asked", 2) in strategy.heard


async def test_a_reason_that_no_store_can_hold_refuses_the_signal() -> None:
    class Mute(Scripted):
        def allow(self, ctx: Context, signal: Signal, positions: Sequence[Any]) -> str:
            return LONE_SURROGATE

    world = World(QUIET, QUIET, QUIET)
    strategy = Mute({0: LONG})
    await world.run(strategy)
    assert [event[0] for event in strategy.events()] == ["error"]
    assert world.kinds() == ["error.info"]
    assert ("asked", 1) in strategy.heard
    assert not world.exchange.orders


async def test_files_hold_no_half_of_a_surrogate_pair_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    strategy = Scripted({0: notifies(LONE_SURROGATE)})
    await World(QUIET, QUIET, QUIET).run(strategy, family=Registries())
    assert [event[0] for event in strategy.events()] == ["error"]
    assert ("asked", 2) in strategy.heard


async def test_a_close_that_is_refused_again_and_again_is_one_alarm() -> None:
    world = World(QUIET, TO_STOP, *[QUIET] * 6)
    world.broker.behaviours = ["fill"] + ["reject"] * 20
    await world.run(Scripted({0: LONG}))
    assert world.kinds().count("order_reject.close") > 3
    assert world.kinds().count("error.critical") == 1


async def test_what_a_close_has_left_at_the_broker_is_an_alarm() -> None:
    class Stepped(LossyBroker):
        async def close(self, order: Order) -> OrderState:
            self.exchange.accept(order)
            name = order.client_order_id
            states = self.exchange.states
            states[name] = replace(states[name], filled=order.amount // 4 * 4)
            return states[name]

    world = World(QUIET, TO_TARGET, QUIET)
    await world.run(Scripted({0: LONG}), broker=Stepped(world.exchange))
    assert world.exchange.position == 2
    assert world.value("signal") is None
    assert world.kinds().count("error.critical") == 1


async def test_a_fill_that_was_seen_is_not_forgotten_by_a_cancel_that_knows_nothing() -> None:
    class Forgetful(OpenOrders):
        async def open(self, order: Order) -> OrderState:
            await super().open(order)
            return self.become(order, filled=order.amount / 2)

        async def find(self, order: Order) -> OrderState | None:
            return None

        async def cancel(self, order: Order) -> OrderState:
            return OrderState(order.client_order_id, "canceled", 0.0, 0.0)

        async def open_orders(self, symbol: str) -> Sequence[OrderState]:
            return []

    world = World(QUIET)
    await world.run(Scripted({0: LONG}), broker=Forgetful(world.exchange))
    assert world.kinds() == ["error.critical"]


async def test_a_limit_entry_whose_price_has_traded_long_ago_is_not_ordered_at_the_market() -> None:
    fallen = (90.0, 90.5, 89.5, 90.0)
    world = World(QUIET, QUIET, TO_LIMIT, *[fallen] * 20)
    await world.run(Scripted({0: LIMIT}), until=2)
    world.clock.time = START_MS + 20 * MINUTE
    strategy = Scripted({})
    await world.run(strategy)
    assert not world.exchange.orders
    assert [event[::2] for event in strategy.events()] == [("cancelled", "stop_loss")]


async def test_a_sibling_ends_its_bar_when_another_symbol_fails() -> None:
    is_ordering = False

    async def interferes(domain: str, new: Data) -> None:
        nonlocal is_ordering
        if domain == "state" and is_ordering:
            is_ordering = False
            raise away()

    class Slow(LossyBroker):
        async def open(self, order: Order) -> OrderState:
            nonlocal is_ordering
            is_ordering = order.symbol == "BTC"
            try:
                await turns(30)
            except asyncio.CancelledError:
                cut.append(order.symbol)
                raise
            return await super().open(order)

    class Writing(Scripted):
        async def get_signal(self, ctx: Context) -> Any:
            if ctx.symbol == "BTC":
                return await super().get_signal(ctx)
            ctx.state("count").write(1)
            return None

    cut: list[str] = []
    world = World(*[QUIET] * 6)
    family = stored_in(Store(world.data, interferes))
    strategy = Writing({1: LONG})
    await world.run(strategy, symbols=("BTC", "ETH"), family=family, broker=Slow(world.exchange))
    assert not cut
    assert ("opened", 1, 100.0) in strategy.events()


async def test_nothing_is_taken_up_while_a_record_still_travels() -> None:
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def interferes(domain: str, new: Data) -> None:
        if domain == "state" and not gate.is_set():
            arrived.set()
            await gate.wait()

    world = World(QUIET)
    engine = world.engine(Scripted({}), family=stored_in(Store(world.data, interferes)))
    await engine._take_up(False)
    (slot,) = engine._all_slots()
    engine._context_at(slot, START_MS).state("count").write(1)
    flush = asyncio.ensure_future(slot.journal.flush())
    await arrived.wait()
    flush.cancel()
    again = asyncio.ensure_future(engine._take_up(False))
    await turns(50)
    assert not again.done()
    assert list(engine._all_slots()) == [slot]
    gate.set()
    await again
    assert world.value("state")["data"] == 1
    assert flush.cancelled()


async def test_a_write_that_fails_waits_for_the_others_of_its_record() -> None:
    """Else the slow one would land after those of the next record."""
    is_armed, fails = True, False

    async def interferes(domain: str, new: Data) -> None:
        nonlocal is_armed, fails
        if domain == "signal" and is_armed:
            is_armed, fails = False, True
            await turns(1_500)
        elif domain == "storage" and fails:
            fails = False
            raise away()

    world = World(QUIET, QUIET, TO_STOP, QUIET, QUIET)
    await world.run(Scripted({0: LONG}), family=stored_in(Store(world.data, interferes)))
    await turns(2_000)
    assert not is_armed
    assert not fails
    assert world.exchange.position == 0
    assert world.value("signal") is None


async def test_fresh_forgets_no_order_that_may_still_arrive() -> None:
    world = World(*[QUIET] * 4)
    world.broker.behaviours = ["lose request"]
    await world.run(Scripted({1: LONG}), until=3)
    with pytest.raises(RunMismatchError, match="forget"):
        await world.run(Scripted({}), fresh=True)


async def test_a_lost_row_of_risk_is_written_again_at_the_next_bar() -> None:
    class Overwritten(Scripted):
        def active(self, ctx: Context, row: dict[str, Any]) -> None:
            (key,) = (key for key in world.data if key[0] == "risk")
            world.data[key] = (b"[]", None)

    world = World(QUIET, QUIET, QUIET)
    await world.run(Overwritten({0: LONG}))
    assert [key for key, _ in world.value("risk")] == ["scripted_demo_BTC"]


async def test_rows_of_risk_of_a_backtest_are_kept() -> None:
    row: Any = {
        "strategyName": "other", "exchangeName": "demo", "frameName": "f", "symbol": "BTC",
        "position": "long", "priceOpen": 1, "priceStopLoss": 1, "priceTakeProfit": 1,
        "minuteEstimatedTime": 1, "openTimestamp": 1,
    }  # fmt: skip
    world = World(QUIET, QUIET)
    rows = [["other_demo_BTC", row]]
    await world.registries().risk.write_position_data("default", "demo", rows, START_MS)
    await world.run(Scripted({}))
    assert world.value("risk") == rows


@pytest.mark.parametrize(
    "error", [CandleFileError(Path("candles.csv"), 1, "half a line"), FileNotFoundError("gone")]
)
async def test_a_feed_that_fails_while_all_is_taken_up_again_is_asked_again(
    error: Exception,
) -> None:
    fails = ["store", "feed"]

    async def interferes(domain: str, new: Data) -> None:
        if domain == "state" and "store" in fails:
            fails.remove("store")
            raise away()

    class Writing(Scripted):
        def active(self, ctx: Context, row: dict[str, Any]) -> None:
            ctx.state("count").write(1)

    world = World(QUIET, QUIET, QUIET, QUIET, TO_STOP, QUIET)
    strategy = Writing({0: LONG})
    engine = world.engine(strategy, family=stored_in(Store(world.data, interferes)))
    (feed,) = engine._feeds
    window = feed.window

    async def broken(start: int, end: int) -> Any:
        if fails == ["feed"]:
            fails.clear()
            raise error
        return await window(start, end)

    feed.window = broken
    await asyncio.wait_for(engine.run(), 60)
    assert not fails
    assert strategy.events()[-1][0] == "closed"


async def test_a_clock_that_was_ahead_at_the_first_start_costs_no_bar_once_it_is_right() -> None:
    world = World(*[QUIET] * 5, TO_STOP, QUIET)
    await left_by_another_runner(world)
    world.clock.time = START_MS + 24 * 60 * MINUTE
    engine = world.engine(Scripted({}), until=2)
    run = asyncio.ensure_future(engine.run())
    await turns(30)
    engine.stop()
    await asyncio.wait_for(run, 60)
    world.clock.time = START_MS + MINUTE
    strategy = Scripted({})
    await world.run(strategy)
    assert strategy.events() == [("closed", 5, "stop_loss", 94.5)]


def part(basis: float, entries: int) -> dict[str, Any]:
    return {
        "type": "profit", "percent": 50, "currentPrice": 102, "costBasisAtClose": basis,
        "entryCountAtClose": entries, "timestamp": START_MS,
    }  # fmt: skip


ENTRY = {"price": 100, "cost": 1_000, "timestamp": START_MS}
SECOND_ENTRY = {"price": 80, "cost": 1_000, "timestamp": START_MS}


@pytest.mark.parametrize(
    ("more", "amount", "result"),
    [
        ({"_partial": [part(1_000, 1), part(500, 1)]}, 2.5, 41.25),
        ({"_partial": [part(1_000, 1)], "_entry": [ENTRY, SECOND_ENTRY]}, 17.5, 443.75),
    ],
    ids=["part of the rest", "averaged after a part"],
)
async def test_parts_of_a_position_that_is_taken_over_are_of_what_was_held_then(
    more: dict[str, Any], amount: float, result: float
) -> None:
    world = World(QUIET, QUIET, TO_TARGET, QUIET)
    await left_by_another_runner(world, **more)
    await world.run(Scripted({}))
    (order,) = world.exchange.orders.values()
    assert (order.side, order.amount) == ("sell", amount)
    (row,) = world.rows("storage")
    # Averaged entries count as one at their mean price.
    assert row["pnl"]["pnlCost"] == pytest.approx(result, rel=0.02)


async def test_a_position_with_leverage_is_not_taken_over() -> None:
    world = World(QUIET, QUIET)
    await left_by_another_runner(world, multiplier=5)
    with pytest.raises(RunMismatchError, match="leverage of 5"):
        await world.run(Scripted({}))


async def test_what_was_read_and_written_is_not_kept_in_memory() -> None:
    async def measures(ctx: Context) -> None:
        await ctx.measure("calls").call(str(ctx.when_ms), lambda: "x")
        ctx.memory("notes").write(str(ctx.when_ms), "x")
        await ctx.memory("notes").search("x")

    world = World(*[QUIET] * 20)
    engine = await world.run(Scripted(dict.fromkeys(range(20), measures)))
    (slot,) = engine._all_slots()
    assert len([key for key in world.data if key[0] == "measure"]) == 20
    assert not slot.journal._kept
    assert not slot.journal._bucket_keys
    assert not slot.journal._memories


def streaming(
    engine: LiveEngine, first: Callable[[LiveFeed], AsyncGenerator[Bar, None]]
) -> list[int]:
    """Make the first stream of the only feed another one; return where each began."""
    (feed,) = engine._feeds
    assert isinstance(feed, LiveFeed)
    real, began = feed.stream, list[int]()

    def stream(since: int, clock: Clock) -> AsyncGenerator[Bar, None]:
        began.append(since)
        return real(since, clock) if len(began) > 1 else first(feed)

    feed.stream = stream
    return began


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["CancelledError", "ValueError"])
async def test_a_stream_that_ends_in_its_own_way_is_built_again(is_cancelled: bool) -> None:
    async def breaks(feed: LiveFeed) -> AsyncGenerator[Bar, None]:
        if is_cancelled:
            await cancelled_inside()
        raise ValueError("a frame that is none")
        yield

    world = World(QUIET, QUIET, TO_STOP, QUIET)
    strategy = Scripted({0: LONG})
    engine = world.engine(strategy)
    began = streaming(engine, breaks)
    await asyncio.wait_for(engine.run(), 60)
    assert len(began) > 1
    assert strategy.events()[-1][0] == "closed"
    assert is_cancelled or "error.critical" not in world.kinds()


async def all_bars(candles: Sequence[Candle]) -> list[Bar]:
    clock = FakeClock(candles[-1]["timestamp"] + MINUTE)
    feed = LiveFeed("BTC", candles, clock, lambda: None)
    return bars_of(await feed.window(feed.start, feed.end))


async def test_a_candle_from_the_future_does_not_deafen() -> None:
    world = World(QUIET, QUIET, TO_STOP, QUIET)
    bars = await all_bars(world.candles)

    async def leaps(feed: LiveFeed) -> AsyncGenerator[Bar, None]:
        yield bars[0]._replace(timestamp=START_MS + 60 * MINUTE)
        for bar in bars:
            world.clock.time = bar.timestamp + MINUTE
            yield bar

    strategy = Scripted({0: LONG})
    engine = world.engine(strategy)
    began = streaming(engine, leaps)
    await asyncio.wait_for(engine.run(), 60)
    assert began[0] == START_MS
    assert strategy.events()[-1] == ("closed", 2, "stop_loss", 94.5)


async def test_a_stream_of_nothing_but_old_candles_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_module, "_SILENT_STEPS", 0)
    monkeypatch.setattr(stream_module, "_MOST_BACK_OFF", 0.05)
    world = World(QUIET, QUIET, TO_STOP, QUIET)
    (bar, *_) = await all_bars(world.candles)

    async def repeats(feed: LiveFeed) -> AsyncGenerator[Bar, None]:
        world.clock.time = bar.timestamp + MINUTE
        while True:
            yield bar
            await asyncio.sleep(0.005)

    strategy = Scripted({0: LONG})
    engine = world.engine(strategy)
    began = streaming(engine, repeats)
    await asyncio.wait_for(engine.run(), 60)
    assert began[:2] == [START_MS, START_MS + MINUTE]
    assert strategy.events()[-1][0] == "closed"


async def test_a_run_whose_store_stays_away_can_be_stopped() -> None:
    is_down = False

    async def interferes(domain: str, new: Data) -> None:
        if is_down:
            raise away()

    def breaks(ctx: Context) -> None:
        nonlocal is_down
        is_down = True
        ctx.state("count").write(1)

    world = World(*[QUIET] * 4)
    family = stored_in(Store(world.data, interferes))
    engine = world.engine(Scripted({1: breaks}), family=family)
    run = asyncio.ensure_future(engine.run())
    await turns(300)
    assert not engine.is_up
    engine.stop()
    await asyncio.wait_for(run, 60)


async def test_a_broker_that_cancels_its_own_call_is_told_and_the_run_goes_on() -> None:
    world = World(QUIET, QUIET, QUIET, QUIET, TO_TARGET, QUIET)

    class Cancelling(LossyBroker):
        async def open(self, order: Order) -> OrderState:
            if not self.exchange.orders:
                self.exchange.accept(order)
                call = asyncio.ensure_future(asyncio.sleep(10))
                call.cancel()
                await call
            return await super().open(order)

    strategy = Scripted({0: LONG})
    await world.run(strategy, broker=Cancelling(world.exchange))
    assert world.kinds().count("error.critical") == 1
    assert strategy.events()[-1][0] == "closed"
    assert world.exchange.position == 0
