"""The engine on the clock: orders, restarts, and what an operator hears."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from candle_rows import START_MS, random_walk
from fastpersist import InvalidArgumentError
from fastpersist.cli import live as live_command
from fastpersist.errors import CorruptDataError, StoreUnavailableError
from fastpersist.registry import Registries
from fastpersist.runner import Context, Engine, Signal, StoreFeed
from fastpersist.runner.broker import (
    BrokerUnavailableError,
    Order,
    OrderState,
    PaperBroker,
)
from fastpersist.runner.engine import RunMismatchError
from fastpersist.runner.report import load_reports
from live_kit import LossyBroker
from live_world import (
    LIMIT,
    LONG,
    MINUTE,
    QUIET,
    SHORT,
    TO_STOP,
    TO_TARGET,
    Scripted,
    Trader,
    World,
    node_row,
)
from memory_backend import Fate, Killed, MemoryBackend


async def test_an_entry_at_the_market_is_ordered_at_once_and_closed_at_its_target() -> None:
    world = World(QUIET, QUIET, QUIET, TO_TARGET, QUIET)
    strategy = Scripted({1: LONG})
    await world.run(strategy)
    assert strategy.events() == [
        ("opened", 1, 100.0),
        *(("profit", 3, level) for level in range(10, 101, 10)),
        ("closed", 3, "take_profit", 110.5),
    ]
    opened, closed = world.exchange.orders.values()
    assert (opened.side, opened.amount, closed.side, closed.amount) == ("buy", 10.0, "sell", 10.0)
    assert len(opened.client_order_id) <= 32
    assert opened.client_order_id.isalnum()
    assert world.exchange.position == 0
    assert world.value("signal") is None
    (row,) = world.rows("storage")
    assert row["status"] == "closed"
    assert row["frameName"] == ""
    assert row["pnl"]["pnlCost"] == pytest.approx(105)
    assert all(not note["backtest"] for note in world.rows("notification"))


async def test_a_short_sells_first() -> None:
    world = World(QUIET, QUIET, (100, 100, 89, 89.5), QUIET)
    await world.run(Scripted({0: SHORT}))
    assert [order.side for order in world.exchange.orders.values()] == ["sell", "buy"]
    assert world.exchange.position == 0


async def test_a_limit_entry_is_ordered_when_its_price_has_traded() -> None:
    world = World(QUIET, QUIET, (99, 99.5, 97.5, 98.5), QUIET, TO_STOP, QUIET)
    strategy = Scripted({0: LIMIT})
    await world.run(strategy)
    assert strategy.events() == [
        ("scheduled", 0), ("opened", 2, 98.5), ("profit", 3, 10), ("closed", 4, "stop_loss", 94.5),
    ]  # fmt: skip
    assert world.value("schedule") is None
    assert world.rows("risk") == [[]]


async def test_a_limit_entry_is_cancelled_by_its_stop_without_an_order() -> None:
    world = World(QUIET, QUIET, (94, 94, 93, 93.5), QUIET)
    strategy = Scripted({0: LIMIT})
    await world.run(strategy)
    assert strategy.events() == [("scheduled", 0), ("cancelled", 2, "stop_loss")]
    assert not world.exchange.orders


async def test_a_part_is_ordered_at_its_level() -> None:
    world = World(QUIET, (100, 105.5, 99.5, 105), QUIET, TO_TARGET, QUIET)
    signal = Signal(
        position="long", price_take_profit=110, price_stop_loss=95, partial_exit_level=50,
        partial_exit_percent=40,
    )  # fmt: skip
    await world.run(Scripted({0: signal}))
    amounts = [(order.side, order.amount) for order in world.exchange.orders.values()]
    assert amounts == [("buy", 10.0), ("sell", 4.0), ("sell", 6.0)]
    (row,) = world.rows("storage")
    # 4 units at 105, 6 at 110.5
    assert row["pnl"]["pnlCost"] == pytest.approx(4 * 5 + 6 * 10.5)
    assert row["totalPartials"] == 1


async def test_the_fill_is_what_counts_not_the_wish() -> None:
    world = World(QUIET, QUIET, TO_TARGET, QUIET)
    world.broker.behaviours = ["half"]
    await world.run(Scripted({0: LONG}))
    amounts = [(order.side, order.amount) for order in world.exchange.orders.values()]
    assert amounts == [("buy", 10.0), ("sell", 5.0)]
    (row,) = world.rows("storage")
    assert row["cost"] == 500
    assert row["pnl"]["pnlCost"] == pytest.approx(52.5)


async def test_a_close_that_is_filled_in_part_goes_on_with_the_rest() -> None:
    world = World(QUIET, QUIET, TO_TARGET, QUIET)
    world.broker.behaviours = ["fill", "half"]
    await world.run(Scripted({0: LONG}))
    amounts = [(order.side, order.amount) for order in world.exchange.orders.values()]
    assert amounts == [("buy", 10.0), ("sell", 10.0), ("sell", 5.0)]
    assert world.exchange.position == 0
    (row,) = world.rows("storage")
    assert row["pnl"]["pnlCost"] == pytest.approx(105)


async def test_a_rest_that_the_broker_never_takes_is_left_there_and_told() -> None:
    world = World(QUIET, TO_TARGET, *[QUIET] * 5)
    world.broker.behaviours = ["fill", "half", *["too small"] * 9]
    strategy = Scripted({0: LONG, 6: LONG})
    await world.run(strategy)
    assert ("closed", 3, "take_profit", 100.0) in strategy.events()
    assert world.exchange.position == 5
    assert world.topics().count("order.alarm") == 1
    assert ("asked", 4) in strategy.heard
    (row,) = (row for row in world.rows("storage") if row["status"] == "closed")
    assert row["pnl"]["pnlCost"] == pytest.approx(52.5)
    assert world.value("signal") is None


async def test_a_position_that_is_too_small_to_close_is_not_forgotten() -> None:
    world = World(QUIET, TO_TARGET, *[QUIET] * 5)
    world.broker.behaviours = ["fill", *["too small"] * 9]
    await world.run(Scripted({0: LONG}))
    assert [row["status"] for row in world.rows("storage")] == ["opened"]
    assert world.topics().count("order.alarm") == 1


async def test_a_refused_entry_is_given_up_and_told() -> None:
    world = World(QUIET, QUIET, QUIET)
    world.broker.behaviours = ["reject"]
    strategy = Scripted({0: LONG})
    await world.run(strategy)
    assert strategy.events() == [("cancelled", 0, "rejected")]
    assert world.kinds().count("order_reject.open") == 1
    (told,) = (row for row in world.rows("notification") if row["type"] == "order_reject.open")
    assert told["message"] == "balance is too low"
    assert ("asked", 1) in strategy.heard


async def test_an_entry_of_which_nothing_is_filled_is_given_up() -> None:
    world = World(QUIET, QUIET, QUIET)
    world.broker.behaviours = ["nothing"]
    strategy = Scripted({0: LONG})
    await world.run(strategy)
    assert strategy.events() == [("cancelled", 0, "unfilled")]


async def test_a_refused_close_is_tried_again_at_each_bar() -> None:
    world = World(QUIET, TO_STOP, QUIET, QUIET, QUIET)
    world.broker.behaviours = ["fill", "reject", "reject"]
    strategy = Scripted({0: LONG})
    await world.run(strategy)
    # The price has come back, but the decision stands.
    assert strategy.events()[-1] == ("closed", 3, "stop_loss", 100.0)
    told = [row for row in world.rows("notification") if row["type"] == "order_reject.close"]
    assert [row["attempt"] for row in told] == [1, 2]
    assert world.exchange.position == 0


async def test_a_refused_close_is_ordered_once_at_a_bar() -> None:
    world = World(QUIET, TO_STOP, TO_STOP, TO_STOP, QUIET)
    world.broker.behaviours = ["fill", "reject", "reject"]
    orders: list[int] = []
    close = world.broker.close

    async def counted(order: Order) -> OrderState:
        orders.append((order.sent_at - START_MS) // MINUTE)
        return await close(order)

    world.broker.close = counted
    await world.run(Scripted({0: LONG}))
    assert orders == [2, 3, 4]
    assert world.exchange.position == 0


async def test_a_limit_entry_whose_time_is_over_is_cancelled_by_a_late_bar() -> None:
    touched = (99.0, 99.5, 97.5, 98.5)
    world = World(QUIET, QUIET, *[touched] * 30)
    await world.run(Scripted({0: LIMIT}), until=2)
    world.clock.time = START_MS + 32 * MINUTE
    strategy = Scripted({}, schedule_minutes=10)
    await world.run(strategy)
    assert strategy.events() == [("cancelled", 10, "timeout")]
    assert not world.exchange.orders


@pytest.mark.parametrize("number", [0, 1])
async def test_a_lost_reply_is_looked_up_and_nothing_sent_twice(number: int) -> None:
    world = World(QUIET, QUIET, TO_TARGET, QUIET)
    world.broker.behaviours = ["fill"] * number + ["lose reply"]
    strategy = Scripted({0: LONG})
    await world.run(strategy)
    assert len(world.exchange.orders) == 2
    assert strategy.events()[-1] == ("closed", 2, "take_profit", 110.5)


async def test_an_entry_that_never_arrived_is_given_up() -> None:
    world = World(QUIET, QUIET, QUIET)
    world.broker.behaviours = ["lose request"]
    strategy = Scripted({0: LONG})
    await world.run(strategy)
    assert strategy.events() == [("cancelled", 0, "unsent")]
    assert not world.exchange.orders


async def test_a_close_that_never_arrived_is_sent_anew() -> None:
    world = World(QUIET, TO_TARGET, QUIET)
    world.broker.behaviours = ["fill", "lose request"]
    strategy = Scripted({0: LONG})
    await world.run(strategy)
    assert strategy.events()[-1] == ("closed", 1, "take_profit", 110.5)
    assert [order.side for order in world.exchange.orders.values()] == ["buy", "sell"]


async def test_an_order_that_arrives_after_all_is_an_alarm() -> None:
    world = World(QUIET, QUIET, QUIET, QUIET)
    world.broker.behaviours = ["late"]
    strategy = Scripted({0: LONG})
    await world.run(strategy)
    assert strategy.events() == [("cancelled", 0, "unsent")]
    assert world.kinds().count("error.critical") == 1
    assert "order.alarm" in world.topics()


async def test_an_order_of_unknown_outcome_is_told_once_and_looked_for() -> None:
    world = World(QUIET, QUIET, QUIET, QUIET, TO_TARGET, QUIET)

    class Away(LossyBroker):
        """Takes the order, and does not answer until the third minute is over."""

        async def open(self, order: Order) -> OrderState:
            self.is_down = False
            await super().open(order)
            self.is_down = True
            raise BrokerUnavailableError("timed out")

        async def find(self, order: Order) -> OrderState | None:
            self.is_down = world.clock.now() < START_MS + 3 * MINUTE
            return await super().find(order)

    def nothing(ctx: Context) -> None:
        raise AssertionError("asked while an order is unknown")

    strategy = Scripted({0: LONG, 1: nothing, 2: nothing})
    await world.run(strategy, broker=Away(world.exchange))
    assert world.kinds().count("error.critical") == 1
    assert strategy.events()[0] == ("opened", 2, 100.0)
    assert strategy.events()[-1] == ("closed", 4, "take_profit", 110.5)
    assert len(world.exchange.orders) == 2


async def test_a_restart_carries_on_with_all_that_is_open() -> None:
    world = World(QUIET, (100, 104.5, 99.5, 104), QUIET, QUIET, TO_TARGET, QUIET)
    first, second = Scripted({0: LONG}), Scripted({0: LONG})
    await world.run(first, until=3)
    assert first.events() == [("opened", 0, 100.0), *(("profit", 1, x) for x in (10, 20, 30, 40))]
    await world.run(second)
    # No level twice; none of what was done again.
    assert second.events() == [
        *(("profit", 4, level) for level in range(50, 101, 10)),
        ("closed", 4, "take_profit", 110.5),
    ]
    assert len(world.exchange.orders) == 2
    (report,) = await load_reports(world.registries())
    assert report.summary.total.wins == 1


async def test_a_waiting_entry_survives_a_restart() -> None:
    world = World(QUIET, QUIET, QUIET, (99, 99.5, 97.5, 98.5), QUIET)
    await world.run(Scripted({0: LIMIT}), until=2)
    strategy = Scripted({})
    await world.run(strategy)
    assert strategy.events()[0] == ("opened", 3, 98.5)


async def test_what_happened_while_the_process_was_away_is_met_but_not_asked_about() -> None:
    world = World(QUIET, QUIET, TO_STOP, QUIET, QUIET, QUIET, QUIET)
    await world.run(Scripted({0: LONG}), until=2)
    world.clock.time = START_MS + 6 * MINUTE
    strategy = Scripted(dict.fromkeys(range(5), LONG))
    await world.run(strategy)
    assert strategy.heard[0] == ("closed", 2, "stop_loss", 94.5)
    assert next(event for event in strategy.heard if event[0] == "asked")[1] >= 5


async def test_a_candle_that_is_late_at_the_start_is_looked_back_at_later() -> None:
    world = World(*[QUIET] * 12)
    world.clock.time = START_MS + 6 * MINUTE
    seen: list[list[int]] = []

    def looks(ctx: Context) -> None:
        frame = ctx.candles("1m", 10)
        seen.append([(moment - START_MS) // MINUTE for moment in frame.timestamp.tolist()])

    strategy = Scripted(dict.fromkeys(range(12), looks))
    engine = world.engine(strategy)
    (feed,) = engine._feeds
    window, late = feed.window, [START_MS + 5 * MINUTE]

    async def without_the_last(start: int, end: int) -> Any:
        return await window(start, min(end, late.pop()) if late else end)

    feed.window = without_the_last
    await asyncio.wait_for(engine.run(), 60)
    # It had closed before the run began, so nothing is asked about it.
    assert strategy.heard[0] == ("asked", 6)
    assert seen[0] == list(range(7))


async def test_a_feed_without_recent_candles_is_told(caplog: pytest.LogCaptureFixture) -> None:
    world = World(*[QUIET] * 3)
    world.clock.time = START_MS + 3 * MINUTE
    await world.run(Scripted({}))
    assert "newest candle" not in caplog.text
    world.clock.time = START_MS + 100 * MINUTE
    await world.run(Scripted({}))
    assert "BTC: the newest candle that the feed has is 2025-01-01T00:02" in caplog.text


async def test_other_symbols_than_before_find_their_own() -> None:
    world = World(QUIET, QUIET, QUIET, TO_TARGET, QUIET)
    await world.run(Scripted({0: LONG}), symbols=("BTC", "ETH"), until=2)
    assert len(world.exchange.orders) == 2
    strategy = Scripted({})
    await world.run(strategy, symbols=("ETH",))
    assert strategy.events()[-1] == ("closed", 3, "take_profit", 110.5)
    world.clock.time = START_MS + 2 * MINUTE
    again = Scripted({})
    await world.run(again, symbols=("BTC",))
    assert again.events()[-1] == ("closed", 3, "take_profit", 110.5)
    assert world.exchange.position == 0


async def test_paper_and_live_do_not_take_up_each_other() -> None:
    world = World(QUIET, QUIET, QUIET)
    await world.run(Scripted({0: LONG}), mode="paper", broker=PaperBroker())
    with pytest.raises(RunMismatchError, match="paper"):
        await world.run(Scripted({}))


async def test_fresh_forgets_on_paper_but_no_position_of_a_live_run() -> None:
    world = World(QUIET, QUIET, QUIET, QUIET)
    await world.run(Scripted({0: LONG}), until=2)
    with pytest.raises(RunMismatchError, match="forget"):
        await world.run(Scripted({}), fresh=True)
    paper = World(QUIET, QUIET, QUIET, QUIET)
    await paper.run(Scripted({0: LONG}), until=2, mode="paper", broker=PaperBroker())
    assert paper.value("signal") is not None
    strategy = Scripted({})
    engine = await paper.run(strategy, mode="paper", broker=PaperBroker(), fresh=True)
    assert engine.describe()["open_positions"] == 0
    assert paper.value("signal") is None


async def test_a_run_is_ready_by_the_newest_candle_of_its_feed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour may go by before the first bar is met; a feed that has stopped is not ready."""
    world = World(*[QUIET] * 4)
    monkeypatch.setattr(live_command, "now_ms", world.clock.now)
    engine = world.engine(Scripted({}))
    health = await live_command._Watch(engine, tmp_path).check()
    assert (health.is_ready, health.details["late"]) == (False, ["BTC"])
    assert health.details["ms_since_last_bar"] == {"BTC": None}

    world.clock.time = START_MS + 4 * MINUTE
    engine = await world.run(Scripted({}))
    watch = live_command._Watch(engine, tmp_path)
    assert engine.last_closes == {}
    assert (await watch.check()).is_ready
    world.clock.time += 3 * MINUTE
    assert (await watch.check()).is_ready
    world.clock.time += 1
    health = await watch.check()
    assert (health.is_ready, health.details["late"]) == (False, ["BTC"])
    assert health.details["ms_since_last_bar"] == {"BTC": 3 * MINUTE + 1}


async def test_a_paper_broker_fills_worse_by_its_slippage() -> None:
    world = World(QUIET, QUIET, TO_TARGET, QUIET)
    broker = PaperBroker(fee_percent=0.1, slippage_percent=1.0)
    strategy = Scripted({0: LONG})
    await world.run(strategy, mode="paper", broker=broker)
    assert strategy.events()[0] == ("opened", 0, 101.0)
    assert strategy.events()[-1][3] == pytest.approx(110.5 * 0.99)
    order = Order("a", "BTC", "buy", 2.0, 100.0, 0)
    state = await broker.open(order)
    assert (state.price, state.fee) == (101.0, pytest.approx(0.202))
    assert await broker.open(order) is state
    assert await broker.find(order) is state


async def test_a_failing_strategy_is_heard_of_and_the_run_goes_on() -> None:
    def fails(ctx: Context) -> None:
        raise ValueError("no idea")

    wrong = Signal(position="long", price_take_profit=90, price_stop_loss=95)
    world = World(QUIET, QUIET, QUIET, QUIET)
    strategy = Scripted({0: fails, 1: wrong, 2: "buy"})
    await world.run(strategy)
    errors = [event for event in strategy.heard if event[0] == "error"]
    assert [minute for _, minute, _ in errors] == [0, 1, 2]
    assert "no idea" in errors[0][2]
    assert "price_take_profit" in errors[1][2]
    assert world.kinds() == ["error.info"] * 3
    assert ("asked", 3) in strategy.heard


async def test_an_answer_that_takes_too_long_is_cut() -> None:
    async def hangs(ctx: Context) -> None:
        await asyncio.sleep(3_600)

    world = World(QUIET, QUIET, QUIET)
    strategy = Scripted({0: hangs}, answer_seconds=0.05)
    await world.run(strategy)
    assert any("answer_seconds" in str(event[2]) for event in strategy.events())
    assert ("asked", 1) in strategy.heard


async def test_what_a_strategy_writes_is_durable_before_it_goes_on() -> None:
    world = World(QUIET, QUIET)
    seen: list[bool] = []

    async def writes(ctx: Context) -> None:
        ctx.state("count").write(1)
        await ctx.state("other").read()
        seen.append(any(key[0] == "state" for key in world.data))
        assert await ctx.interval("one").once("a")
        seen.append(any(key[0] == "interval" for key in world.data))
        ctx.memory("notes").write("n", {"x": 1}, text="hello")
        assert [found for found, _ in await ctx.memory("notes").search("hello")] == ["n"]
        assert await ctx.measure("calls").call("k", lambda: 7) == 7
        seen.append(any(key[0] == "measure" for key in world.data))

    await world.run(Scripted({0: writes}))
    assert seen == [True, True, True]


async def test_state_is_there_after_a_restart() -> None:
    world = World(QUIET, QUIET, QUIET, QUIET)

    def writes(ctx: Context) -> None:
        assert ctx.mode == "live"
        ctx.state("count").write(5)
        ctx.session.write("s")

    found: list[Any] = []

    async def reads(ctx: Context) -> None:
        found.append(await ctx.state("count").read())
        found.append(await ctx.session.read())
        found.append(await ctx.interval("one").once("a"))
        found.append(await ctx.interval("one").once("a"))

    await world.run(Scripted({0: writes}), until=2)
    await world.run(Scripted({2: reads}))
    assert found == [5, "s", True, False]


async def test_nothing_is_written_while_nothing_changes() -> None:
    world = World(*[QUIET] * 30)
    fate = Fate()
    await world.run(Scripted({}), fate=fate, until=3)
    few = fate.steps
    other = World(*[QUIET] * 30)
    more = Fate()
    await other.run(Scripted({}), fate=more)
    assert more.steps == few


async def test_risk_counts_positions_of_other_processes() -> None:
    world = World(QUIET, QUIET, QUIET, QUIET)
    one = Scripted({0: LONG}, name="one", max_positions=1)
    await world.run(one, until=2)
    two = Scripted({2: LONG}, name="two", max_positions=1)
    await world.run(two)
    assert two.events() == []
    assert "risk.rejection" in world.topics()
    keys = [key for key, _ in world.value("risk")]
    assert keys == ["one_demo_BTC"]


async def test_rules_see_positions_of_other_processes_and_a_failing_rule_refuses() -> None:
    seen: list[list[str]] = []

    class Careful(Scripted):
        def allow(self, ctx: Context, signal: Signal, positions: Sequence[Any]) -> bool:
            seen.append([position.strategy_name for position in positions])
            raise RuntimeError("no data")

    world = World(QUIET, QUIET, QUIET, QUIET)
    await world.run(Scripted({0: LONG}, name="one"), until=2)
    careful = Careful({2: LONG}, name="two")
    await world.run(careful)
    assert seen == [["one"]]
    assert [event[0] for event in careful.events()] == ["error"]
    assert len(world.exchange.orders) == 1


async def test_an_id_is_used_once_in_a_run() -> None:
    own = replace(LONG, id="own", minute_estimated_time=1)
    world = World(*[QUIET] * 9)
    first, again = Scripted({0: own}), Scripted({0: own, 4: own}, name="again")
    await world.run([first, again], until=3)
    await world.run([first, again])
    told = [event[2] for event in again.heard if event[0] == "error"]
    assert len(told) == 2
    assert all("id: an earlier signal of the run has 'own'" in message for message in told)
    assert [row["strategyName"] for row in world.rows("storage")] == ["scripted"]


async def test_two_symbols_never_take_one_place() -> None:
    world = World(*[QUIET] * 6)
    strategy = Scripted(dict.fromkeys(range(6), LONG), max_positions=1)
    await world.run(strategy, symbols=("BTC", "ETH", "SOL"))
    assert len(world.exchange.filled("buy")) == 1


class FailingBackend(MemoryBackend):
    """Fails for a while as a store that is away."""

    fails = 0

    async def write_value(self, *arguments: Any) -> None:
        if self.fails:
            self.fails -= 1
            raise StoreUnavailableError("mongo", "no answer", timeout=True)
        await super().write_value(*arguments)


@pytest.mark.parametrize("fails", [1, 2, 5])
@pytest.mark.parametrize("moment", ["entering", "opened", "leaving"])
async def test_a_store_that_fails_for_a_while_costs_no_position(fails: int, moment: str) -> None:
    world = World(QUIET, QUIET, QUIET, QUIET, QUIET, TO_TARGET, QUIET)
    backend = FailingBackend(world.data, Fate())
    family = Registries()
    family.use_backend(backend)

    class Trading(Scripted):
        def opened(self, ctx: Context, row: dict[str, Any]) -> None:
            super().opened(ctx, row)
            fail("opened")
            ctx.state("opened").write(True)

        def partial_profit(self, ctx: Context, row: dict[str, Any], level: int) -> None:
            super().partial_profit(ctx, row, level)
            if level == 10:
                fail("leaving")

    def fail(now: str) -> None:
        if now == moment and not failed:
            failed.append(now)
            backend.fails = fails

    def enter(ctx: Context) -> Signal:
        fail("entering")
        return LONG

    failed: list[str] = []

    strategy = Trading({1: enter})
    await world.run(strategy, family=family)
    buys = world.exchange.filled("buy")
    assert world.exchange.position == 0
    # An entry whose intent was not recorded was not sent; a position is always closed.
    assert len(buys) == (moment != "entering")
    assert world.rows("signal") in ([], [None])
    assert len(buys) == len([event for event in strategy.events() if event[0] == "closed"])


async def test_a_hook_is_heard_again_if_its_own_writes_are_lost() -> None:
    world = World(QUIET, QUIET, QUIET)
    steps = Fate()
    strategy = Scripted({0: LONG})
    await world.run(strategy, fate=steps)
    for dies_at in range(1, steps.steps + 1):
        for applies in (False, True):
            world = World(QUIET, QUIET, QUIET)
            heard: list[str] = []

            class Writing(Scripted):
                def opened(self, ctx: Context, row: dict[str, Any]) -> None:
                    heard.append(row["id"])  # noqa: B023  # of this turn
                    ctx.state("opened").write(row["id"])

            fate = Fate(dies_at, applies)
            world.broker = LossyBroker(world.exchange, fate)
            with pytest.raises(Killed):
                await world.run(Writing({0: LONG}), fate=fate)
            world.broker = LossyBroker(world.exchange)
            await world.run(Writing({0: LONG, 1: LONG}))
            assert [row["data"] for row in world.rows("state")] == [heard[-1]]
            assert len(set(heard)) == 1
            assert len(heard) <= 2


async def test_a_first_start_that_fails_is_told() -> None:
    world = World(QUIET, QUIET)
    backend = FailingBackend(world.data, Fate())
    backend.fails = 1
    family = Registries()
    family.use_backend(backend)
    with pytest.raises(StoreUnavailableError):
        await world.run(Scripted({}), family=family)


async def test_names_that_are_there_twice_are_refused() -> None:
    world = World(QUIET)
    with pytest.raises(InvalidArgumentError, match="each once"):
        world.engine([Scripted({}), Scripted({})])


async def test_a_position_of_another_runner_is_taken_over_with_its_levels() -> None:
    world = World(QUIET, QUIET, TO_TARGET, QUIET)
    key = ("BTC", "scripted", "demo")
    partial = {"type": "profit", "percent": 25, "currentPrice": 102, "costBasisAtClose": 1_000,
               "entryCountAtClose": 1, "timestamp": START_MS}  # fmt: skip
    family = world.registries()
    await family.signal.write_signal_data(*key, node_row(_partial=[partial]))
    levels = {"from-node": {"profitLevels": [10, 20, 30], "lossLevels": [10]}}
    await family.partial.write_partial_data(*key, "from-node", levels, START_MS)
    strategy = Scripted({})
    await world.run(strategy)
    assert strategy.events() == [
        *(("profit", 2, level) for level in range(40, 101, 10)),
        ("closed", 2, "take_profit", 110.5),
    ]
    (order,) = world.exchange.orders.values()
    assert (order.side, order.amount) == ("sell", 7.5)


async def test_an_entry_of_another_runner_is_taken_over() -> None:
    world = World(QUIET, QUIET, (99, 99.5, 97.5, 98.5), QUIET)
    row = node_row(priceOpen=98, _isScheduled=True)
    await world.registries().schedule.write_schedule_data("BTC", "scripted", "demo", row)
    strategy = Scripted({})
    await world.run(strategy)
    assert strategy.events()[0] == ("opened", 2, 98.5)
    assert world.value("schedule") is None


@pytest.mark.parametrize(
    ("domain", "lacking", "named"),
    [
        ("signal", ["cost"], "cost"),
        ("signal", ["id", "pendingAt"], "id, pendingAt"),
        ("schedule", ["scheduledAt"], "scheduledAt"),
    ],
)
async def test_a_row_that_does_not_tell_its_position_is_named(
    domain: str, lacking: list[str], named: str
) -> None:
    world = World(QUIET, QUIET)
    row = node_row(_isScheduled=domain == "schedule")
    for name in lacking:
        del row[name]
    registry = getattr(world.registries(), domain)
    await getattr(registry, f"write_{domain}_data")("BTC", "scripted", "demo", row)
    with pytest.raises(CorruptDataError, match=f"{domain} BTC/scripted/demo: lacks {named}, which"):
        await world.run(Scripted({}))


async def test_rows_of_a_backtest_are_not_taken_over() -> None:
    world = World(QUIET, QUIET)
    row = node_row(frameName="20250101T0000-20250102T0000")
    await world.registries().signal.write_signal_data("BTC", "scripted", "demo", row)
    engine = await world.run(Scripted({}))
    assert engine.describe()["open_positions"] == 0


def check_once(world: World) -> None:
    """Assert that each position was opened and closed once, and that exchange and records agree."""
    assert world.exchange.duplicates == 0
    record = [
        row["data"]["state"] for row in world.rows("session") if "state" in (row.get("data") or {})
    ]
    held = sum(
        state["open"]["direction"] * state["open"]["amount"] for state in record if state["open"]
    )
    assert world.exchange.position == pytest.approx(held, abs=1e-9)
    assert "error.critical" not in world.kinds()
    opened = {row["id"] for row in world.rows("storage") if row["status"] in ("closed", "opened")}
    told = [row["signalId"] for row in world.rows("notification") if row["type"] == "signal.opened"]
    assert sorted(told) == sorted(opened)
    closed = [row["id"] for row in world.rows("storage") if row["status"] == "closed"]
    told = [row["signalId"] for row in world.rows("notification") if row["type"] == "signal.closed"]
    assert sorted(told) == sorted(closed)


async def until_killed(world: World, fate: Fate, **options: Any) -> None:
    world.broker = LossyBroker(world.exchange, fate, world.broker.behaviours)
    with pytest.raises(Killed):
        await world.run(Trader(), fate=fate, **options)
    for _ in range(20):
        await asyncio.sleep(0)
    world.broker = LossyBroker(world.exchange, Fate(), world.broker.behaviours)


def trading_world() -> World:
    return World(candles=random_walk(90, seed=5))


async def test_the_trading_world_has_everything_in_it() -> None:
    world = trading_world()
    await world.run(Trader())
    check_once(world)
    rows = world.rows("storage")
    assert {row["position"] for row in rows} == {"long", "short"}
    assert {row["status"] for row in rows} >= {"closed", "cancelled"}
    assert any(row["totalPartials"] for row in rows)


@pytest.mark.parametrize("applies", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("away", [0, 1, 7], ids=["at once", "a minute later", "minutes later"])
async def test_killed_at_every_step(applies: bool, away: int) -> None:
    """A step is a write to the store or an order that arrives at the exchange."""
    fate = Fate()
    whole = trading_world()
    whole.broker = LossyBroker(whole.exchange, fate)
    await whole.run(Trader(), fate=fate)
    assert fate.steps > 60
    for dies_at in range(1, fate.steps + 1):
        world = trading_world()
        await until_killed(world, Fate(dies_at, applies))
        world.clock.time += away * MINUTE
        await world.run(Trader())
        check_once(world)


async def test_killed_again_while_taking_up() -> None:
    steps = Fate()
    whole = trading_world()
    whole.broker = LossyBroker(whole.exchange, steps)
    await whole.run(Trader(), fate=steps)
    for dies_at in range(1, steps.steps, 5):
        for again in range(1, 5):
            world = trading_world()
            await until_killed(world, Fate(dies_at, True))
            await until_killed(world, Fate(again, again % 2 == 0))
            await world.run(Trader())
            check_once(world)


async def test_a_backtest_does_not_overwrite_what_is_open_live() -> None:
    world = World(QUIET, QUIET, QUIET)
    await world.run(Scripted({0: LONG}))
    candles = {row["timestamp"]: row for row in world.candles}
    family = Registries()
    family.use_backend(MemoryBackend(world.data, Fate(), {"BTC": candles}))
    feed = StoreFeed(family, "demo", "BTC", "1m", START_MS, START_MS + 3 * MINUTE)
    before = dict(world.data)
    with pytest.raises(RunMismatchError, match="overwrite"):
        await Engine(family, [Scripted({})], [feed], "demo", "f").start()
    assert world.data == before
    with pytest.raises(RunMismatchError, match="overwrite"):
        await Engine(family, [Scripted({}, name="other")], [feed], "demo", "f").start()
    apart = Scripted({}, name="other", risk_name="apart")
    await Engine(family, [apart], [feed], "demo", "f").start()
