"""The engine over the files family: what a strategy sees, and what is stored afterwards."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candle_rows import START_MS, bars, random_walk
from fastpersist import (
    FastPersistError,
    InvalidArgumentError,
    current_simulated_time,
)
from fastpersist.adapters.files import FilesBackend
from fastpersist.contracts import Candle
from fastpersist.domains import INTERVAL_STEP_MS
from fastpersist.hot.columns import columns_from_rows
from fastpersist.registry import Registries
from fastpersist.runner import (
    CandleFile,
    Context,
    Engine,
    Frame,
    RunMismatchError,
    Signal,
    StoreFeed,
    Strategy,
    StrategyError,
    import_candles,
    load_reports,
)
from fastpersist.runner import strategy as strategy_of

MINUTE = 60_000
QUIET = (100.0, 100.5, 99.5, 100.0)
LONG = Signal(position="long", price_take_profit=110, price_stop_loss=95)
SHORT = Signal(position="short", price_take_profit=90, price_stop_loss=105)
LIMIT = Signal(position="long", price_open=98, price_take_profit=110, price_stop_loss=95)

Answer = Callable[[Context], Any]


class Scripted(Strategy):
    """Answers at the bars of its script, counted for each symbol, and remembers what it heard."""

    name = "scripted"
    cost = 1_000.0
    fee_percent = 0.0

    def __init__(
        self, answers: Mapping[int | tuple[str, int], Signal | Answer], **own: Any
    ) -> None:
        self.answers = answers
        self.heard: list[tuple[str, str, int]] = []
        for name, value in own.items():
            setattr(self, name, value)

    async def get_signal(self, ctx: Context) -> Any:
        index = index_of(ctx)
        self.heard.append(("asked", ctx.symbol, index))
        answer = self.answers.get((ctx.symbol, index), self.answers.get(index))
        if callable(answer):
            answer = answer(ctx)
            return await answer if hasattr(answer, "__await__") else answer
        return answer

    def opened(self, ctx: Context, row: dict[str, Any]) -> None:
        self.heard.append(("opened", row["symbol"], index_of(ctx)))

    async def closed(self, ctx: Context, row: dict[str, Any]) -> None:
        self.heard.append(("closed", row["symbol"], index_of(ctx)))


def index_of(ctx: Context) -> int:
    """Return the index of the bar that has just closed, in minutes from the start."""
    return (ctx.when_ms - START_MS) // MINUTE - 1


class Place:
    """A folder with what runs have stored there; every run has registries of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.family = self.fresh_family()

    def fresh_family(self) -> Registries:
        family = Registries()
        family.use_backend(FilesBackend(self.folder))
        return family

    async def engine(
        self,
        strategy: Strategy | Sequence[Strategy],
        candles: list[Candle] | Mapping[str, list[Candle]],
        *,
        fresh: bool = False,
        fingerprint: str = "f",
        frame: Frame | None = None,
    ) -> Engine:
        """Return an engine that has taken up what is stored."""
        self.family = self.fresh_family()
        feeds = []
        for symbol, rows in ({"BTC": candles} if isinstance(candles, list) else candles).items():
            step = min(second["timestamp"] - first["timestamp"] for first, second in pairwise(rows))
            interval = next(name for name, ms in INTERVAL_STEP_MS.items() if ms == step)
            file = CandleFile(Path(f"{symbol}.csv"), symbol, interval, columns_from_rows(rows), "")
            feeds.append((await import_candles(self.family, "demo", file)).feed)
        strategies = [strategy] if isinstance(strategy, Strategy) else strategy
        engine = Engine(self.family, strategies, feeds, "demo", fingerprint, frame)
        await engine.start(fresh=fresh)
        return engine

    async def run(self, *arguments: Any, until: int | None = None, **options: Any) -> Engine:
        """Run to the end, or until `until` bars are done, and return the engine."""
        engine = await self.engine(*arguments, **options)
        await engine.run(lambda done: engine.stop() if done == until else None)
        return engine

    async def rows(self) -> list[dict[str, Any]]:
        """Return the signals of the history by age."""
        found: Any = await self.family.storage.read_storage_data(True)
        return sorted(found, key=lambda row: (row["createdAt"], row["symbol"]))

    async def statuses(self) -> list[str]:
        return [row["status"] for row in await self.rows()]

    async def notifications(self) -> list[dict[str, Any]]:
        """Return the notifications by age; those of one moment by type and level."""
        found = await self.family.notification.read_notification_data(True, None)
        return sorted(found, key=lambda row: (row["timestamp"], row["type"], row.get("level", 0)))

    def tree(self) -> dict[str, bytes]:
        """Return all stored files."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted(self.folder.rglob("*.json"))
        }


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk: what a crash leaves behind is the matter of other tests."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "dump")


async def test_only_closed_candles_are_visible(place: Place) -> None:
    candles = random_walk(12, gaps=[7])
    seen: list[int] = []

    async def look(ctx: Context) -> None:
        now = START_MS + (index_of(ctx) + 1) * MINUTE
        assert ctx.when_ms == current_simulated_time() == now
        assert ctx.when.timestamp() * 1000 == now
        closed = [candle for candle in candles if candle["timestamp"] + MINUTE <= now]
        assert ctx.candles("1m", 1_000).rows() == closed
        assert ctx.candles("1m", 2).rows() == closed[-2:]
        longer = ctx.candles("5m", 100).rows()
        assert [row["timestamp"] for row in longer] == [
            START_MS + minute * MINUTE
            for minute in (0, 5)
            if START_MS + (minute + 5) * MINUTE <= now
        ]
        assert ctx.bar_interval == "1m"

        read = place.family.candle.read_candles_data
        newest = closed[-1]["timestamp"]
        assert await read("BTC", "1m", "demo", 1, newest) == closed[-1:]
        assert await read("BTC", "1m", "demo", 1, newest + MINUTE) is None
        assert await read("BTC", "1m", "demo", 2, newest) is None
        frame = await place.family.candle.read_candles_frame(
            "BTC", "1m", "demo", START_MS, START_MS + 99 * MINUTE
        )
        assert frame.rows() == closed
        seen.append(len(closed))

    await place.run(Scripted(dict.fromkeys(range(12), look)), candles)
    assert seen == list(range(1, 12))


async def test_rows_of_later_moments_are_hidden(place: Place) -> None:
    family = place.family
    key = ("s", "b")
    when = START_MS + 3 * MINUTE
    await family.state.write_state_data(*key, {"data": "later", "when": when}, when)
    await family.memory.write_memory_data(*key, "m", {"when": when, "data": 1}, when)
    found: list[tuple[bool, bool]] = []

    async def look(ctx: Context) -> None:
        state = await ctx.journal.registries.state.read_state_data(*key)
        memory = await ctx.journal.read("memory", "read_memory_data", *key, "m")
        found.append((state is not None, memory is not None))

    await place.run(Scripted(dict.fromkeys(range(5), look)), bars(*[QUIET] * 5))
    assert found == [(False, False)] * 2 + [(True, True)] * 3


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"price_take_profit": Decimal(110)}, "price_take_profit: must be an int or float"),
        ({"minute_estimated_time": "60"}, "minute_estimated_time: must be an int or float"),
        ({"partial_exit_level": "50"}, "partial_exit_level: must be an int or float"),
    ],
)
def test_a_number_of_another_type_is_named_as_such(own: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        replace(LONG, **own).check(100)


@pytest.mark.parametrize("until", [None, 8])
async def test_an_id_is_used_once_in_a_run(place: Place, until: int | None) -> None:
    own = replace(LONG, id="own", minute_estimated_time=2)
    strategy = Scripted({("BTC", 1): own, ("ETH", 10): own})
    candles = {"BTC": bars(*[QUIET] * 20), "ETH": bars(*[QUIET] * 20)}
    if until is not None:
        await place.run(strategy, candles, until=until)
    with pytest.raises(StrategyError, match="id: an earlier signal of the run has 'own'"):
        await place.run(strategy, candles)
    for engine in (
        await place.run(Scripted({1: own}), {"BTC": candles["BTC"]}),
        await place.run(Scripted({1: own}), {"BTC": candles["BTC"]}, fresh=True),
    ):
        assert engine.summary.total.signals == 1


async def test_history_is_limited_and_the_same_after_a_restart(place: Place) -> None:
    candles = random_walk(10)
    seen: list[list[Candle]] = []

    def look(ctx: Context) -> None:
        seen.append(ctx.candles("1m", 4).rows())  # type: ignore[arg-type]  # rows are candles
        ctx.log("makes a record")

    strategy = Scripted(dict.fromkeys(range(10), look), warm_up=4)
    await place.run(strategy, candles, until=6)
    await place.run(strategy, candles)
    assert seen == [candles[max(0, done - 4) : done] for done in range(1, 11)]


async def test_the_strategy_is_asked_while_it_holds_nothing(place: Place) -> None:
    strategy = Scripted({1: LONG, 4: LIMIT})
    hit = (100.0, 111.0, 99.5, 100.0)
    await place.run(strategy, bars(QUIET, QUIET, QUIET, QUIET, hit, QUIET, QUIET))
    assert strategy.heard == [
        ("asked", "BTC", 0),
        ("asked", "BTC", 1),
        ("opened", "BTC", 2),  # at its open, which is the next price
        ("closed", "BTC", 4),
        ("asked", "BTC", 4),  # an exit frees the same bar for a new signal
    ]
    assert await place.statuses() == ["closed", "scheduled"]


@pytest.mark.parametrize("step", [MINUTE, 60 * MINUTE, 1440 * MINUTE])
async def test_time_steps_by_the_interval_of_the_feed(place: Place, step: int) -> None:
    moments: list[int] = []

    class Watch(Strategy):
        def get_signal(self, ctx: Context) -> None:
            moments.append(ctx.when_ms)

    engine = await place.run(Watch(), random_walk(5, step=step))
    assert moments == [START_MS + count * step for count in range(1, 6)]
    last = {MINUTE: "20250101T0005", 60 * MINUTE: "20250101T0500"}.get(step, "20250106T0000")
    assert engine.frame.name == f"20250101T0000-{last}"
    assert (engine.share_done, engine.summary.bars) == (1, 5)


async def test_symbols_take_turns_by_their_closes(place: Place) -> None:
    strategy = Scripted({})
    fives = random_walk(2, step=5 * MINUTE)
    engine = await place.run(
        strategy, {"SLOW": fives, "FAST": random_walk(11), "GAP": random_walk(5, gaps=[1, 2])}
    )
    asked = [(symbol, index) for _, symbol, index in strategy.heard]
    assert asked == [
        ("FAST", 0), ("GAP", 0), ("FAST", 1), ("FAST", 2), ("FAST", 3), ("GAP", 3), ("SLOW", 4),
        ("FAST", 4), ("GAP", 4), ("FAST", 5), ("FAST", 6), ("FAST", 7), ("FAST", 8), ("SLOW", 9),
        ("FAST", 9), ("FAST", 10),
    ]  # fmt: skip
    assert engine.summary.bars == 16


async def test_scheduled_opened_closed_bar_by_bar(place: Place) -> None:
    """Each bar is played by an engine of its own."""
    candles = bars(
        QUIET,
        QUIET,
        (100.0, 100.0, 97.0, 99.0),  # fills the limit of 98
        (99.0, 112.0, 98.0, 111.0),
        QUIET,
    )
    context = ("BTC", "scripted", "demo")
    seen = []
    for done in range(1, 6):
        strategy = Scripted({1: LIMIT})
        engine = await place.run(strategy, candles, until=done)
        family = place.family
        schedule, signal = (
            await family.schedule.read_schedule_data(*context),
            await family.signal.read_signal_data(*context),
        )
        risk = await family.risk.read_position_data("default", "demo")
        seen.append((
            schedule and (schedule["priceOpen"], schedule["_isScheduled"]),
            signal and (signal["priceOpen"], signal["_isScheduled"], signal["pendingAt"]),
            len(risk),
            await place.statuses(),
        ))  # fmt: skip
    filled = START_MS + 3 * MINUTE
    assert seen == [
        (None, None, 0, []),
        ((98, True), None, 0, ["scheduled"]),
        (None, (98, False, filled), 1, ["opened"]),
        (None, None, 0, ["closed"]),
        (None, None, 0, ["closed"]),
    ]
    [row] = await place.rows()
    assert row["scheduledAt"] == row["createdAt"] == START_MS + 2 * MINUTE
    assert (row["pendingAt"], row["updatedAt"]) == (filled, filled + MINUTE)
    assert (row["closeReason"], row["currentPrice"]) == ("take_profit", 110)
    assert row["pnl"]["pnlCost"] == pytest.approx(1_000 * 12 / 98)
    assert engine.summary.is_finished
    assert engine.summary.total.wins == 1


@pytest.mark.parametrize(
    ("figures", "minutes", "reason", "after"),
    [
        ([QUIET] * 4, 2, "timeout", 2),
        ([QUIET, (99.0, 100.0, 98.5, 99.0), QUIET], 3, "timeout", 3),
        ([QUIET, (95.0, 96.0, 94.0, 95.5), QUIET], 60, "stop_loss", 2),
        ([(94.0, 99.0, 93.0, 98.0)], 60, "stop_loss", 1),
    ],
)
async def test_limit_entry_is_cancelled(
    place: Place,
    figures: list[tuple[float, float, float, float]],
    minutes: float,
    reason: str,
    after: int,
) -> None:
    strategy = Scripted({0: LIMIT}, schedule_minutes=minutes)
    engine = await place.run(strategy, bars(QUIET, *figures))
    assert await place.statuses() == ["cancelled"]
    assert await place.family.schedule.read_schedule_data("BTC", "scripted", "demo") is None
    assert await place.family.signal.read_signal_data("BTC", "scripted", "demo") is None
    [_, note] = await place.notifications()
    assert (note["type"], note["cancelReason"]) == ("signal.cancelled", reason)
    assert note["timestamp"] == START_MS + (after + 1) * MINUTE
    assert note["duration"] == after
    assert ("opened", "BTC", after) not in strategy.heard
    assert ("asked", "BTC", after) in strategy.heard
    total = engine.summary.total
    assert (total.cancelled, total.signals, total.profit) == (1, 0, 0)


@pytest.mark.parametrize(
    ("entry_bar", "status", "price"),
    [
        ((100.0, 100.0, 94.0, 96.0), "closed", 95),  # through the limit and on to the stop
        ((96.0, 97.0, 94.0, 96.0), "closed", 95),
        ((100.0, 112.0, 97.0, 111.0), "opened", 98),  # the target may have come before the entry
    ],
)
async def test_the_bar_of_a_limit_entry(
    place: Place, entry_bar: tuple[float, float, float, float], status: str, price: float
) -> None:
    await place.run(Scripted({0: LIMIT}), bars(QUIET, entry_bar))
    [row] = await place.rows()
    assert (row["status"], row["currentPrice"]) == (status, price)


@pytest.mark.parametrize(
    ("signal", "figures", "reason", "profit"),
    [
        (LONG, (100, 111, 99, 110), "take_profit", 100),
        (LONG, (100, 111, 94, 110), "stop_loss", -50),
        (LONG, (90, 111, 89, 110), "stop_loss", -100),
        (SHORT, (100, 101, 89, 90), "take_profit", 100),
        (SHORT, (108, 109, 89, 90), "stop_loss", -80),
    ],
)
async def test_exits(
    place: Place,
    signal: Signal,
    figures: tuple[float, float, float, float],
    reason: str,
    profit: float,
) -> None:
    engine = await place.run(Scripted({0: signal}), bars(QUIET, QUIET, figures, QUIET))
    [row] = await place.rows()
    assert (row["status"], row["closeReason"]) == ("closed", reason)
    assert row["pnl"]["pnlCost"] == pytest.approx(profit)
    assert engine.summary.total.profit == pytest.approx(profit)
    assert engine.summary.open_positions == 0
    worst, best = row["maxDrawdown"]["pnlCost"], row["peakProfit"]["pnlCost"]
    assert worst <= row["pnl"]["pnlCost"] <= best


async def test_a_limit_filled_at_the_open_counts_its_time_from_there(place: Place) -> None:
    signal = Signal(
        position="long", price_open=98, price_take_profit=110, price_stop_loss=90,
        minute_estimated_time=2,
    )  # fmt: skip
    below = (97.0, 97.5, 96.5, 97.0)
    await place.run(Scripted({0: signal}), bars(QUIET, below, below, below, below))
    [row] = await place.rows()
    assert (row["priceOpen"], row["pendingAt"]) == (97, START_MS + MINUTE)
    assert (row["closeReason"], row["closeTimestamp"]) == ("time_expired", START_MS + 3 * MINUTE)


async def test_time_expires(place: Place) -> None:
    signal = Signal(
        position="long", price_take_profit=110, price_stop_loss=95, minute_estimated_time=3
    )
    rising = [(100 + n, 101 + n, 99 + n, 100.5 + n) for n in range(6)]
    await place.run(Scripted({1: signal}), bars(*rising))
    [row] = await place.rows()
    assert row["closeReason"] == "time_expired"
    assert row["closeTimestamp"] == START_MS + 5 * MINUTE
    assert row["currentPrice"] == 104.5
    assert row["minuteEstimatedTime"] == 3
    [*_, note] = await place.notifications()
    assert (note["type"], note["duration"], note["priceClose"]) == ("signal.closed", 3, 104.5)


@pytest.mark.parametrize(
    ("first", "second", "highest"),
    [(LONG, LONG, 0), (LONG, LONG, 2), (LONG, LONG, 1), (LIMIT, LONG, 1), (LONG, LIMIT, 1)],
)
async def test_max_positions(place: Place, first: Signal, second: Signal, highest: int) -> None:
    figures = [QUIET, QUIET, QUIET, (100.0, 100.0, 97.0, 99.0), QUIET, QUIET]
    strategy = Scripted({("A", 0): first, ("B", 1): second}, max_positions=highest)
    engine = await place.run(strategy, {"A": bars(*figures), "B": bars(*figures)})
    allowed = 2 if highest != 1 else 1
    assert engine.summary.open_positions == allowed
    assert [row["symbol"] for row in await place.rows()] == ["A", "B"][:allowed]
    risk: Any = await place.family.risk.read_position_data("default", "demo")
    assert [name for name, _ in risk] == ["scripted_demo_A", "scripted_demo_B"][:allowed]
    refused = [
        entry for entry in await place.family.log.read_log_data()
        if entry["topic"] == "risk.rejection"
    ]  # fmt: skip
    assert [entry["args"] for entry in refused] == [[{"activePositionCount": 1}]] * (2 - allowed)


async def test_summary_of_two_symbols(place: Place) -> None:
    up, down = (100.0, 111.0, 99.0, 100.0), (100.0, 101.0, 94.0, 100.0)
    candles = {
        "A": bars(QUIET, up, QUIET, down, QUIET),
        "B": bars(QUIET, down, QUIET, down, QUIET),
    }
    engine = await place.run(Scripted({0: LONG, 2: LONG, 4: LIMIT}), candles)
    summary = engine.summary
    rows = {
        name: (row.wins, row.losses, round(row.profit, 9)) for name, row in summary.symbols.items()
    }
    assert rows == {"A": (1, 1, 50), "B": (0, 2, -100)}
    total = summary.total
    assert (total.signals, total.wins, total.losses, total.win_rate) == (4, 1, 3, 25)
    assert [total.profit, total.peak, total.max_drawdown] == pytest.approx([-50, 100, 150])
    assert summary.is_finished
    assert summary.resumed_from == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"position": "up"}, "position"),
        ({"price_take_profit": math.nan}, "price_take_profit"),
        ({"price_take_profit": "110"}, "price_take_profit"),
        ({"price_take_profit": 100}, "price_take_profit"),
        ({"price_take_profit": 99}, "price_take_profit"),
        ({"position": "short"}, "price_take_profit"),
        ({"price_stop_loss": 100}, "price_stop_loss"),
        ({"price_stop_loss": 101}, "price_stop_loss"),
        ({"price_stop_loss": 0}, "price_stop_loss"),
        ({"price_stop_loss": -math.inf}, "price_stop_loss"),
        ({"price_open": math.inf}, "price_open"),
        ({"price_open": 0}, "price_open"),
        ({"price_open": 111}, "price_take_profit"),
        ({"price_open": 94}, "price_stop_loss"),
        ({"minute_estimated_time": 0}, "minute_estimated_time"),
        ({"minute_estimated_time": math.nan}, "minute_estimated_time"),
        ({"minute_estimated_time": "60"}, "minute_estimated_time"),
        ({"partial_exit_level": 101}, "partial_exit_level"),
        ({"partial_exit_level": "50"}, "partial_exit_level"),
        ({"partial_exit_percent": -1}, "partial_exit_percent"),
        ({"partial_exit_percent": None}, "partial_exit_percent"),
    ],
)
async def test_a_wrong_signal_is_refused(place: Place, fields: Any, field: str) -> None:
    values = {"position": "long", "price_take_profit": 110, "price_stop_loss": 95, **fields}
    engine = await place.engine(Scripted({1: Signal(**values)}), bars(QUIET, QUIET, QUIET))
    with pytest.raises(StrategyError, match=r"the signal for BTC at 2025-01-01T00:02") as caught:
        await engine.run()
    assert isinstance(caught.value.__cause__, InvalidArgumentError)
    assert caught.value.__cause__.field == field
    assert await place.rows() == []


def fail(ctx: Context) -> None:
    raise KeyError("gone")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({1: fail}, r"get_signal failed for BTC at 2025-01-01T00:02:00\+00:00: KeyError: 'gone'"),
        ({0: lambda ctx: "long"}, r"get_signal for BTC at 2025-01-01T00:01:00\+00:00 .*str, not"),
        ({0: lambda ctx: {}}, r"get_signal for BTC at .* answered with dict, not with a Signal"),
        (
            {0: lambda ctx: ctx.state("n").write(ctx.state("m").read())},
            r"for BTC at .*state\('n'\): is a coroutine \(await it first\)",
        ),
        ({0: lambda ctx: ctx.state("n").write([object()])}, r"for BTC at .*state\('n'\)\[0\]"),
        ({0: lambda ctx: ctx.memory("m").write("k", {1})}, r"for BTC at .*memory\('m'\)\.k: "),
        ({0: lambda ctx: ctx.memory("m").write(5, 1)}, r"for BTC at .*memory_id: .*int"),
        ({0: lambda ctx: ctx.log("t", object())}, r"for BTC at .*log\('t'\)\[0\]: "),
    ],
)
async def test_failures_of_a_strategy_are_named(place: Place, answers: Any, message: str) -> None:
    engine = await place.engine(Scripted(answers), bars(QUIET, QUIET, QUIET))
    with pytest.raises(StrategyError, match=message):
        await engine.run()


@pytest.mark.parametrize(("hook", "minute"), [("opened", 2), ("closed", 2)])
async def test_failures_of_a_hook_are_named(place: Place, hook: str, minute: int) -> None:
    strategy = Scripted({0: LONG}, **{hook: lambda ctx, row: fail(ctx)})
    engine = await place.engine(strategy, bars(QUIET, (100, 111, 99, 100), QUIET))
    with pytest.raises(StrategyError, match=rf"^{hook} failed for BTC at .*:0{minute}:00.*'gone'"):
        await engine.run()


async def test_a_run_that_writes_nothing_is_stopped_all_the_same(place: Place) -> None:
    """As by a signal, which the event loop hears of when it has a turn."""

    class Slow(Scripted):
        async def get_signal(self, ctx: Context) -> None:
            time.sleep(0.005)  # noqa: ASYNC251  # as one that computes for long

    engine = await place.engine(Slow({}), random_walk(400, seed=1))
    asyncio.get_running_loop().call_later(0.1, engine.stop)
    summary = await engine.run()
    assert 0 < summary.bars < 200


async def test_a_failed_bar_stores_nothing_and_the_run_carries_on(place: Place) -> None:
    candles = bars(QUIET, QUIET, (100, 111, 99, 100))

    def half(ctx: Context) -> None:
        ctx.state("s").write("half done")
        ctx.log("half done")
        fail(ctx)

    engine = await place.engine(Scripted({1: half}), candles)
    with pytest.raises(StrategyError):
        await engine.run()
    assert not any("candle" not in name for name in place.tree())
    await place.run(Scripted({1: LONG}), candles)
    assert await place.statuses() == ["closed"]


async def test_errors_of_the_package_pass_through(place: Place) -> None:
    def refuse(ctx: Context) -> None:
        raise FastPersistError("as it is")

    engine = await place.engine(Scripted({0: refuse}), bars(QUIET, QUIET))
    with pytest.raises(FastPersistError, match=r"^as it is$"):
        await engine.run()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 3),
        ("risk_name", ""),
        ("cost", 0),
        ("cost", math.inf),
        ("cost", True),
        ("fee_percent", -1),
        ("fee_percent", math.nan),
        ("schedule_minutes", "120"),
        ("max_positions", None),
    ],
)
async def test_wrong_attributes_of_a_strategy_are_named(
    place: Place, name: str, value: Any
) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        await place.engine(Scripted({}, **{name: value}), bars(QUIET, QUIET))


async def test_a_strategy_without_get_signal(place: Place) -> None:
    engine = await place.engine(Strategy(), bars(QUIET, QUIET))
    with pytest.raises(StrategyError, match=r"^Strategy has no get_signal$"):
        await engine.run()


class Busy(Strategy):
    """Uses everything a context offers."""

    cost = 1_000.0
    fee_percent = 0.1
    risk_name = "careful"

    def __init__(self) -> None:
        self.calls = 0
        self.answers: list[Any] = []

    async def get_signal(self, ctx: Context) -> Signal | None:
        count = ctx.state("count")
        before = await count.read(default=0)
        count.write(before + 1)
        assert await count.read() == before + 1
        first = await ctx.interval("marks").once("start")
        assert not await ctx.interval("marks").once("start")
        memory = ctx.memory("notes")
        memory.write(f"m{before}", {"n": before}, text=f"Bar number {before}")
        assert await memory.read(f"m{before}") == {"n": before}
        assert await memory.read("absent") is None
        self.answers.append(await memory.search("number bar"))
        self.answers.append(await memory.search("number 0"))
        cost: int = await ctx.measure("results").call("cost", self.measured)
        assert cost == 42
        if not first:
            return None
        ctx.log("topic", 1, {"a": None})
        ctx.notify("a word")
        return Signal(
            position="long", price_take_profit=110, price_stop_loss=95, partial_exit_level=30,
            partial_exit_percent=25, note="because",
        )  # fmt: skip

    async def measured(self) -> int:
        self.calls += 1
        return 42


FIGURES = [QUIET, (100.0, 103.5, 98.9, 103.0), (103.0, 104.0, 102.0, 104.0)]


async def test_all_adapters_hold_an_open_position(place: Place) -> None:
    strategy = Busy()
    engine = await place.run(strategy, bars(*FIGURES))
    family = place.family
    context = ("BTC", "Busy", "demo")
    opened, partial_at, end = (START_MS + minutes * MINUTE for minutes in (1, 2, 3))

    [row] = await place.rows()
    identity = row["id"]
    signal = await family.signal.read_signal_data(*context)
    assert signal == {
        "id": identity,
        "symbol": "BTC",
        "strategyName": "Busy",
        "exchangeName": "demo",
        "frameName": "20250101T0000-20250101T0003",
        "position": "long",
        "note": "because",
        "priceOpen": 100,
        "priceTakeProfit": 110,
        "priceStopLoss": 95,
        "minuteEstimatedTime": math.inf,
        "cost": 1_000,
        "multiplier": 1,
        "isolated": True,
        "scheduledAt": opened,
        "pendingAt": opened,
        "timestamp": opened,
        "_isScheduled": False,
        "_partial": [
            {
                "type": "profit",
                "percent": 25,
                "currentPrice": 103,
                "costBasisAtClose": 1_000,
                "entryCountAtClose": 1,
                "timestamp": partial_at,
            }
        ],
        "run": {"id": engine.run_id},
    }
    assert row["run"]["id"] == engine.run_id
    assert {**row, **signal, "run": row["run"]} == row
    assert (row["status"], row["partialExecuted"], row["totalPartials"]) == ("opened", 25, 1)
    # 250 at 103: 7.5 - 0.25 - 0.2575; 750 at 103: 22.5 - 0.75 - 0.7725
    assert row["pnl"]["pnlCost"] == pytest.approx(6.9925 + 20.9775)
    assert await family.schedule.read_schedule_data(*context) is None
    assert await family.risk.read_position_data("careful", "demo") == [
        [
            "Busy_demo_BTC",
            {
                "strategyName": "Busy",
                "exchangeName": "demo",
                "frameName": engine.frame.name,
                "symbol": "BTC",
                "position": "long",
                "priceOpen": 100,
                "priceStopLoss": 95,
                "priceTakeProfit": 110,
                "minuteEstimatedTime": math.inf,
                "openTimestamp": opened,
                "run": {"id": engine.run_id},
            },
        ]
    ]
    recent = await family.recent.read_recent_data(*context, engine.frame.name, True)
    assert recent is not None
    assert (recent["id"], recent["totalPartials"]) == (identity, 1)
    assert await family.partial.read_partial_data(*context, identity) == {
        identity: {"profitLevels": [10, 20, 30, 40], "lossLevels": [10, 20]}
    }
    breakeven = await family.breakeven.read_breakeven_data(*context, identity)
    assert breakeven == {identity: {"reached": True}}

    notes = await place.notifications()
    kinds = [(note["timestamp"], note["type"], note.get("level")) for note in notes]
    assert kinds == [
        (opened, "signal.info", None),
        (partial_at, "breakeven.available", None),
        (partial_at, "partial_loss.available", 10),
        (partial_at, "partial_loss.available", 20),
        (partial_at, "partial_profit.available", 10),
        (partial_at, "partial_profit.available", 20),
        (partial_at, "partial_profit.available", 30),
        (partial_at, "partial_profit.commit", None),
        (partial_at, "signal.opened", None),
        (end, "partial_profit.available", 40),
    ]
    assert notes[0]["note"] == "a word"
    assert {note["signalId"] for note in notes[1:]} == {identity}
    assert len({note["id"] for note in notes}) == len(notes)

    log: Any = await family.log.read_log_data()
    assert [row["run"] for row in (*notes, *log, recent)] == [{"id": engine.run_id}] * 13
    assert {entry["topic"]: entry["args"] for entry in log} == {
        "topic": [1, {"a": None}],
        "signal.opened": [identity, "BTC", 100],
    }
    assert {entry["topic"]: entry["createdAt"] for entry in log} == {
        "topic": "2025-01-01T00:01:00.000Z",
        "signal.opened": "2025-01-01T00:02:00.000Z",
    }

    session = await family.session.read_session_data(
        "Busy", "demo", engine.frame.name, "@BTC", True
    )
    assert session is not None
    assert session["when"] == end
    state = session["data"]["state"]
    assert state["next_times"] == [end]
    assert state["slots"][0]["open"]["id"] == identity
    assert state["summary"]["is_finished"] is True


async def test_all_adapters_hold_what_the_strategy_kept(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = Busy()
    owners: list[tuple[str, str]] = []

    def note_owner(ctx: Context, row: dict[str, Any]) -> None:
        owners.append((ctx.owner, ctx.scope))

    monkeypatch.setattr(strategy, "opened", note_owner)
    stopped = (100.0, 100.0, 90.0, 96.0)
    await place.run(strategy, bars(QUIET, stopped, QUIET))
    family = place.family
    [(owner, scope)] = owners
    assert owner == f"Busy_BTC_{scope}"
    end = START_MS + 3 * MINUTE
    state = await family.state.read_state_data(owner, "count")
    assert state == {"id": f"{owner}_count", "data": 3, "when": end}
    items = [item async for item in family.memory.list_memory_data(owner, "notes")]
    assert [(item["memoryId"], item["data"]["data"], item["data"]["index"]) for item in items] == [
        (f"m{n}", {"n": n}, f"Bar number {n}") for n in range(3)
    ]
    assert strategy.answers == [
        [("m0", {"n": 0})], [("m0", {"n": 0})],
        [("m0", {"n": 0}), ("m1", {"n": 1})], [("m0", {"n": 0})],
        [("m0", {"n": 0}), ("m1", {"n": 1}), ("m2", {"n": 2})], [("m0", {"n": 0})],
    ]  # fmt: skip
    assert await family.measure.read_measure_data(f"results_{owner}", "cost") == {
        "id": "cost", "data": 42, "removed": False,
    }  # fmt: skip
    assert strategy.calls == 1
    bucket = f"marks_{owner}"
    assert [key async for key in family.interval.list_interval_data(bucket)] == ["start"]
    marker = await family.interval.read_interval_data(bucket, "start")
    assert marker is not None
    assert marker["when"] == "2025-01-01T00:01:00.000Z"
    assert [entry["topic"] for entry in await family.log.read_log_data()].count(
        "signal.closed"
    ) == 1


def walk() -> list[Candle]:
    return random_walk(100, seed=3, volatility=1.0, gaps=[30, 31])


def at_market(kind: str, *, limit: float = 0.0) -> Answer:
    def answer(ctx: Context) -> Signal:
        side = 1 if kind == "long" else -1
        entry = ctx.price - side * limit
        return Signal(
            position=kind,  # type: ignore[arg-type]  # one of the two
            price_open=entry if limit else None,
            price_take_profit=entry + side * 3,
            price_stop_loss=entry - side * 2,
            minute_estimated_time=40,
            partial_exit_level=50,
        )

    return answer


class Trader(Scripted):
    """Trades a random walk and keeps state of its own."""

    def __init__(self) -> None:
        kinds = (at_market("long"), at_market("short"), at_market("long", limit=1.0))
        super().__init__(
            {index: kinds[index // 9 % 3] for index in range(0, 100, 9)}, schedule_minutes=5
        )

    async def get_signal(self, ctx: Context) -> Any:
        answer = await super().get_signal(ctx)
        if answer is not None and await ctx.interval("once").once(str(index_of(ctx))):
            state = ctx.state("signals")
            count = await state.read(default=0) + 1
            state.write(count)
            ctx.memory("signals").write(str(ctx.when_ms), count)
            return answer
        return None


async def test_two_runs_store_the_same(tmp_path: Path) -> None:
    places = [Place(tmp_path / name) for name in "ab"]
    summaries = []
    for place in places:
        engine = await place.run(Trader(), {"A": walk(), "B": random_walk(80, seed=4)})
        summaries.append(engine.summary)
    assert places[0].tree() == places[1].tree()
    assert summaries[0] == summaries[1]
    total = summaries[0].total
    assert min(total.wins, total.losses, total.cancelled) > 0
    assert any(row["totalPartials"] for row in await places[0].rows())


@pytest.mark.parametrize("until", [1, 9, 10, 11, 12, 37, 97, 98])
async def test_a_run_in_two_parts_stores_the_same(tmp_path: Path, until: int) -> None:
    whole, parts = Place(tmp_path / "whole"), Place(tmp_path / "parts")
    summary = (await whole.run(Trader(), walk())).summary
    first = await parts.run(Trader(), walk(), until=until)
    assert first.summary.bars == until
    second = await parts.run(Trader(), walk())
    assert second.summary.resumed_from <= until
    assert parts.tree() == whole.tree()
    assert second.summary.to_state() == summary.to_state()


async def test_a_finished_run_is_left_alone(place: Place) -> None:
    first = await place.run(Trader(), walk())
    tree = place.tree()
    strategy = Trader()
    again = await place.run(strategy, walk())
    assert strategy.heard == []
    assert again.summary.is_finished
    assert again.summary.resumed_from == again.summary.bars == 98
    assert again.summary.total == first.summary.total
    assert place.tree() == tree


async def test_a_run_made_from_something_else_is_refused(place: Place) -> None:
    await place.run(Trader(), walk(), until=50)
    with pytest.raises(RunMismatchError, match=r"another strategy file.*\(begin anew with --fresh"):
        await place.engine(Trader(), walk(), fingerprint="g")
    carried_on = await place.run(Trader(), walk())
    assert carried_on.summary.is_finished
    assert carried_on.summary.resumed_from > 0


@pytest.mark.parametrize("until", [None, 12, 50])
@pytest.mark.parametrize("fingerprint", ["f", "g"])
async def test_a_fresh_run_is_like_the_first(
    place: Place, until: int | None, fingerprint: str
) -> None:
    expected = (await place.run(Trader(), walk())).summary
    for _ in range(2):
        await place.run(Trader(), walk(), fresh=True, until=until)
        engine = await place.run(Trader(), walk(), fresh=True, fingerprint=fingerprint)
        assert engine.summary == expected


async def test_a_fresh_run_clears_the_open_position(place: Place) -> None:
    candles = bars(*[QUIET] * 5)
    context = ("BTC", "scripted", "demo")
    for signal in (LONG, LIMIT):
        await place.run(Scripted({0: signal}), candles, fresh=True)
        await place.run(Scripted({}), candles, fresh=True, until=1)
        assert await place.family.signal.read_signal_data(*context) is None
        assert await place.family.schedule.read_schedule_data(*context) is None
        assert await place.family.risk.read_position_data("default", "demo") == []


async def test_the_report_of_a_run_that_is_going_ends_where_it_is(place: Place) -> None:
    """Else exposure and Sharpe would count time that has not come."""
    engine = await place.run(Trader(), walk(), until=50)
    (going,) = await load_reports(place.family)
    assert going.end == START_MS + (index_of_bar(walk(), 50) + 1) * MINUTE < engine.frame.end
    held = sum(trade.closed_at - trade.opened_at for trade in going.trades)
    assert held
    exposure = 100 * held / (going.end - going.start)
    assert going.summary.figures()[-1]["exposure"] == pytest.approx(exposure)
    assert await engine.report() == going
    engine = await place.run(Trader(), walk())
    (whole,) = await load_reports(place.family)
    assert whole.end == engine.frame.end
    assert await engine.report() == whole


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"data": 1}', b'{"data": {"state": []}}'])
async def test_a_record_that_cannot_be_read_costs_no_report(place: Place, text: bytes) -> None:
    engine = await place.run(Trader(), walk(), until=50)
    record = place.folder / f"session/scripted/demo/{engine.frame.name}/@BTC_backtest.json"
    assert (await load_reports(place.family))[0].end < engine.frame.end
    record.write_bytes(text)
    (report,) = await load_reports(place.family)
    assert report.end == engine.frame.end


async def test_a_run_of_which_files_can_have_no_record_is_reported(place: Place) -> None:
    """As after an export of a database in which a run had many symbols."""
    engine = await place.run(Trader(), walk())
    rows: Any = await place.rows()
    names = [f"S{number:03}USDT" for number in range(40)]
    for row in rows:
        row["run"] |= {"symbols": ["BTC", *names], "intervals": ["1m"] * 41}
    await place.family.storage.write_storage_data(True, rows)
    (report,) = await load_reports(place.family)
    assert (report.run_id, report.end) == (engine.run_id, engine.frame.end)


def index_of_bar(candles: list[Candle], number: int) -> int:
    """Return the minute of the bar of this number, from 1; some are missing."""
    return (candles[number - 1]["timestamp"] - START_MS) // MINUTE


async def test_a_run_without_a_signal_has_a_report(place: Place) -> None:
    engine = await place.run(Scripted({}), walk())
    report = await engine.report()
    assert (report.run_id, report.trades, report.open_rows) == (engine.run_id, [], [])
    assert (report.start, report.end) == (engine.frame.start, engine.frame.end)
    assert await load_reports(place.family) == []


async def test_a_fresh_run_leaves_nothing_of_the_old_one(place: Place, tmp_path: Path) -> None:
    """Other trades, since the strategy has changed; neither their rows nor their state stay."""
    await place.run(Trader(), walk(), until=60)
    old = place.tree()
    changed = Trader()
    changed.answers = {index + 4: answer for index, answer in changed.answers.items()}
    engine = await place.run(changed, walk(), fresh=True, fingerprint="g")
    alone = Place(tmp_path / "alone")
    first = await alone.run(changed, walk(), fingerprint="g")
    expected = {
        path.replace(first.run_id, engine.run_id): text.replace(
            first.run_id.encode(), engine.run_id.encode()
        )
        for path, text in alone.tree().items()
    }
    record = f"session/scripted/demo/{engine.frame.name}/@BTC_backtest.json"
    found = place.tree()
    assert len(old) > 100
    assert found.pop(record) != expected.pop(record)  # it has another generation
    # Cleared, as the contract has it, not deleted: others read this place for what is open.
    assert found.pop("data/schedule/BTC_scripted_demo/BTC.json", b"null") == expected.pop(
        "data/schedule/BTC_scripted_demo/BTC.json", b"null"
    )
    assert found == expected
    folders = {path.name for path in place.folder.rglob("*") if path.is_dir()}
    assert not [name for name in folders if first.run_id in name]


async def test_a_fresh_run_deletes_nobody_elses_rows(place: Place) -> None:
    halves = {
        name: Frame.of("2025-01-01T00:00", f"2025-01-01T0{hours}:30", name)
        for hours, name in enumerate(("short", "long"))
    }
    other = Trader()
    other.name = "other"
    await place.run(Trader(), walk(), frame=halves["short"], until=25)
    await place.run(other, walk())
    await place.run(Trader(), {"BTC": walk(), "ETH": walk()}, until=90)
    node: Any = {"id": "node", "symbol": "BTC", "strategyName": "scripted", "exchangeName": "demo"}
    await place.family.storage.write_storage_data(True, [node])
    await place.family.storage.write_storage_data(False, [node])
    await place.family.notification.write_notification_data(True, [node])
    await place.family.log.write_log_data([node, {**node, "id": "odd", "run": {"id": 1}}])
    await place.family.partial.write_partial_data("BTC", "scripted", "demo", "node", {}, START_MS)
    for bucket in ("marks", "marks_"):
        await place.family.interval.write_interval_data(bucket, "k", {"id": "k"}, START_MS)
    others = place.tree()
    await place.run(Trader(), walk(), frame=halves["long"])
    await place.run(Trader(), walk(), frame=halves["long"], fresh=True, until=1)
    shared = ("data/signal/BTC_scripted_", "data/schedule/BTC_scripted_", "data/risk/")
    found = place.tree()
    for path, text in others.items():
        assert found.get(path) == text or path.startswith(shared), path


@pytest.mark.parametrize("signal", [LONG, LIMIT], ids=["open", "waiting"])
async def test_what_another_frame_has_open_stays(place: Place, signal: Signal) -> None:
    candles = bars(*[QUIET] * 6)
    first = Frame.of("2025-01-01T00:00", "2025-01-01T00:03")
    second = Frame.of("2025-01-01T00:03", "2025-01-01T00:06")
    await place.run(Scripted({0: signal}), candles, frame=first)
    before = place.tree()
    await place.run(Scripted({}), candles, frame=second, fresh=True)
    assert before.items() <= place.tree().items()
    assert any(
        path.startswith(("data/signal/", "data/schedule/")) and text != b"null"
        for path, text in before.items()
    )


@pytest.mark.parametrize("text", [b"{", b"[]", b"7"])
async def test_a_fresh_run_passes_over_what_it_cannot_read(place: Place, text: bytes) -> None:
    await place.run(Trader(), walk(), until=60)
    (recent,) = (path for path in place.folder.glob("data/recent/**/*.json"))
    recent.write_bytes(text)
    for path in (place.folder / "data/log/log/odd.json", place.folder / "data/storage/odd.json"):
        path.write_bytes(text)
    await place.run(Trader(), walk(), fresh=True, until=1)
    assert recent.read_bytes() == text
    assert await place.rows() == []


async def test_a_row_that_names_the_run_and_no_place_is_deleted(place: Place) -> None:
    engine = await place.run(Trader(), walk(), until=60)
    mark = {"run": {"id": engine.run_id}}
    rows: list[Any] = [{"id": "a", **mark}, {"id": "b", "symbol": 1, **mark}]
    await place.family.storage.write_storage_data(True, rows)
    await place.run(Trader(), walk(), fresh=True, until=1)
    assert await place.rows() == []


def test_runs_whose_names_join_alike_are_two(place: Place) -> None:
    def engine(names: Sequence[str], exchange: str, symbols: str, frame: str) -> Engine:
        strategies = [Trader() for _ in names]
        for strategy, name in zip(strategies, names, strict=True):
            strategy.name = name
        family = place.fresh_family()
        feeds = [
            StoreFeed(family, exchange, symbol, "1m", START_MS, START_MS + 60_000)
            for symbol in symbols.split()
        ]
        named = Frame(START_MS, START_MS + 60_000, frame)
        return Engine(family, strategies, feeds, exchange, "f", named)

    alike = [
        engine(["s"], "e/x", "A", "f"),
        engine(["s/e"], "x", "A", "f"),
        engine(["s"], "e", "A", "x/f"),
        engine(["s%2Fe"], "x", "A", "f"),
        engine(["s"], "e", "A+B", "f"),
        engine(["s"], "e", "A B", "f"),
        engine(["s"], "e", "A%2BB", "f"),
        engine(["s", "t"], "e", "A", "f"),
        engine(["s+t"], "e", "A", "f"),
        engine(["s"], "e", "A/B", "f"),
    ]
    assert len({run.run_id for run in alike}) == len({run.session for run in alike}) == len(alike)
    assert alike[-1].session == ("s", "e", "f", "@A/B", True)


async def test_rows_without_a_record_are_deleted_too(place: Place) -> None:
    """Who has lost the record begins with what the run had kept, unless told to begin anew."""
    engine = await place.run(Trader(), walk(), until=60)
    record = place.folder / f"session/scripted/demo/{engine.frame.name}/@BTC_backtest.json"
    record.unlink()
    again = await place.run(Scripted({}), walk(), fresh=True, until=1)
    assert again.run_id == engine.run_id
    assert await place.rows() == []
    assert not list((place.folder / "state").iterdir())


async def test_a_generation_that_was_there_before_the_record_was_lost_is_deleted(
    place: Place,
) -> None:
    await place.run(Trader(), walk(), until=60)
    second = await place.run(Trader(), walk(), fresh=True, until=60)
    (place.folder / f"session/scripted/demo/{second.frame.name}/@BTC_backtest.json").unlink()
    await place.run(Scripted({}), walk(), fresh=True, until=1)
    again = await place.run(Scripted({}), walk(), fresh=True, until=1)
    assert again.run_id == second.run_id
    assert await place.rows() == []
    assert not list((place.folder / "state").iterdir())


async def test_a_domain_of_an_own_adapter_is_left_as_it_is(place: Place) -> None:
    lines: list[Any] = []

    class Lines:
        async def wait_for_init(self, initial: bool) -> None:
            pass

        async def read_log_data(self, limit: int | None = None) -> list[Any]:
            return lines

        async def write_log_data(self, entries: Sequence[Any]) -> None:
            lines.extend(entries)

    made = place.fresh_family

    def family() -> Registries:
        found = made()
        found.log.use_persist_log_adapter(Lines)
        return found

    place.fresh_family = family  # type: ignore[method-assign]  # each run has registries of its own
    await place.run(Trader(), walk(), until=60)
    count = len(lines)
    assert count
    await place.run(Trader(), walk(), fresh=True, until=1)
    assert len(lines) == count
    assert await place.rows() == []


async def test_runs_over_other_candles_do_not_meet(place: Place, tmp_path: Path) -> None:
    """State, memory and markers belong to a run, not to the name of a strategy."""
    alone = Place(tmp_path / "alone")
    expected = (await alone.run(Trader(), walk())).summary
    await place.run(Trader(), walk()[:50])
    await place.run(Trader(), walk(), until=40)
    await place.run(Trader(), walk()[:60])
    engine = await place.run(Trader(), walk())
    assert engine.summary.total == expected.total


class Hears(Scripted):
    """Notes every hook with what it is told."""

    def note(self, hook: str, ctx: Context, row: dict[str, Any], *more: Any) -> None:
        assert row["symbol"] == ctx.symbol
        self.heard.append((hook, *more, index_of(ctx)))  # type: ignore[arg-type]  # as it comes

    async def scheduled(self, ctx: Context, row: dict[str, Any]) -> None:
        self.note("scheduled", ctx, row)

    def cancelled(self, ctx: Context, row: dict[str, Any]) -> None:
        self.note("cancelled", ctx, row, row["cancelReason"])

    def opened(self, ctx: Context, row: dict[str, Any]) -> None:
        self.note("opened", ctx, row, row["priceOpen"])

    def active(self, ctx: Context, row: dict[str, Any]) -> None:
        self.note("active", ctx, row)

    async def partial_profit(self, ctx: Context, row: dict[str, Any], level: int) -> None:
        self.note("profit", ctx, row, level)

    async def partial_loss(self, ctx: Context, row: dict[str, Any], level: int) -> None:
        self.note("loss", ctx, row, level)

    def breakeven(self, ctx: Context, row: dict[str, Any]) -> None:
        self.note("breakeven", ctx, row)

    async def closed(self, ctx: Context, row: dict[str, Any]) -> None:
        self.note("closed", ctx, row, row["closeReason"])


async def test_hooks_are_told_in_the_order_of_events(place: Place) -> None:
    strategy = Hears({0: LIMIT, 4: LONG})
    await place.run(
        strategy,
        bars(
            QUIET,
            (100.0, 100.0, 97.8, 98.5),  # fills the limit of 98
            (98.5, 99.5, 97.0, 99.0),  # 12.5 % of the way up, 33 % down
            (99.0, 111.0, 99.0, 110.5),
            QUIET,
            (112.0, 113.0, 111.0, 112.0),  # opens beyond the target
        ),
    )
    told = [event for event in strategy.heard if event[0] != "asked"]
    assert told == [
        ("scheduled", 0),
        ("opened", 98, 1),
        ("profit", 10, 2), ("loss", 10, 2), ("loss", 20, 2), ("loss", 30, 2), ("breakeven", 2),
        ("active", 2),
        *[("profit", level, 3) for level in range(20, 101, 10)],
        ("closed", "take_profit", 3),
        ("cancelled", "price", 5),
    ]  # fmt: skip
    assert await place.statuses() == ["closed", "cancelled"]


async def test_the_error_hook_hears_what_ends_the_run(place: Place) -> None:
    heard: list[str] = []
    strategy = Scripted({1: fail}, error=lambda ctx, error: heard.append(repr(error)))
    engine = await place.engine(strategy, bars(QUIET, QUIET))
    with pytest.raises(StrategyError, match="get_signal failed"):
        await engine.run()
    assert heard == ["KeyError('gone')"]


async def test_an_error_hook_that_fails_is_named(place: Place) -> None:
    engine = await place.engine(
        Scripted({1: fail}, error=lambda ctx, error: 1 / 0), bars(QUIET, QUIET)
    )
    with pytest.raises(StrategyError, match=r"error failed for BTC .*ZeroDivisionError"):
        await engine.run()


async def test_signals_are_asked_for_at_closes_of_their_interval(place: Place) -> None:
    strategy = Scripted({4: LONG}, signal_interval="5m")
    hit = (100.0, 111.0, 99.5, 100.0)
    await place.run(strategy, bars(*[QUIET] * 6, hit, *[QUIET] * 5))
    assert strategy.heard == [
        ("asked", "BTC", 4), ("opened", "BTC", 5), ("closed", "BTC", 6), ("asked", "BTC", 9),
    ]  # fmt: skip


async def test_strategies_share_symbols_and_a_risk_profile(place: Place) -> None:
    first = Scripted({0: LONG}, name="first", max_positions=2)
    second = Scripted({0: LONG, 2: SHORT}, name="second", max_positions=2)
    other = Scripted({0: LONG}, name="other", risk_name="own")
    candles = {"A": bars(*[QUIET] * 5), "B": bars(*[QUIET] * 5)}
    engine = await place.run([first, second, other], candles)
    names = [(row["strategyName"], row["symbol"]) for row in await place.rows()]
    assert sorted(names) == [
        ("first", "A"), ("other", "A"), ("other", "B"), ("second", "A"),
    ]  # fmt: skip
    risk: Any = await place.family.risk.read_position_data("default", "demo")
    assert [name for name, _ in risk] == ["first_demo_A", "second_demo_A"]
    own: Any = await place.family.risk.read_position_data("own", "demo")
    assert [name for name, _ in own] == ["other_demo_A", "other_demo_B"]
    assert list(engine.summary.symbols) == [
        "first A", "second A", "other A", "first B", "second B", "other B",
    ]  # fmt: skip
    assert engine.summary.bars == 10
    assert engine.session[0] == "first+second+other"


async def test_a_strategys_own_rules_see_all_positions(place: Place) -> None:
    seen: list[list[tuple[str, str, str, float]]] = []

    def allow(ctx: Context, signal: Signal, positions: Any) -> bool | str:
        seen.append(
            [(one.strategy_name, one.symbol, one.position, one.price_open) for one in positions]
        )
        return True if len(positions) < 3 else "enough"

    strategies = [
        Scripted({0: LONG}, name="first"),
        Scripted({1: SHORT, 3: SHORT}, name="second", allow=allow),
    ]
    await place.run(strategies, {"A": bars(*[QUIET] * 6), "B": bars(*[QUIET] * 6)})
    long_a, long_b = ("first", "A", "long", 100.0), ("first", "B", "long", 100.0)
    short_a = ("second", "A", "short", 100.0)
    # At the market on its way, or open: the next bar of B has not opened it yet.
    assert seen == [[long_a, long_b], *[[long_a, short_a, long_b]] * 2]
    refused = [
        entry["args"]
        for entry in await place.family.log.read_log_data()
        if entry["topic"] == "risk.rejection"
    ]
    assert refused == [[{"rejectionNote": "enough"}]] * 2


@pytest.mark.parametrize(
    ("answer", "signals"),
    [(np.bool_(True), 1), (np.bool_(False), 0), (False, 0), (None, 0), ("", 0)],
)
async def test_a_rule_may_answer_with_what_numpy_takes_for_true(
    place: Place, answer: Any, signals: int
) -> None:
    strategy = Scripted({0: LONG}, allow=lambda ctx, signal, positions: answer)
    await place.run(strategy, bars(*[QUIET] * 4))
    assert len(await place.rows()) == signals


async def test_signals_of_one_close_see_each_other(place: Place) -> None:
    waiting: list[list[int]] = []

    def allow(ctx: Context, signal: Signal, positions: Any) -> bool:
        waiting.append([one.opened_at for one in positions])
        return len(positions) < 2

    candles = {symbol: bars(*[QUIET] * 4) for symbol in "ABC"}
    engine = await place.run(Scripted({0: LONG}, allow=allow), candles)
    assert waiting == [[], [0], [0, 0]]
    assert engine.summary.open_positions == 2
    candles = {symbol: bars(*[QUIET] * 4) for symbol in "AB"}
    waits = Scripted({0: LIMIT}, allow=lambda ctx, signal, positions: not positions)
    await place.run(waits, candles, fresh=True)
    assert sorted(await place.statuses())[-2:] == ["scheduled", "scheduled"]


async def test_markers_and_results_are_those_of_one_strategy_on_one_symbol(place: Place) -> None:
    found: list[tuple[str, str, bool, Any]] = []

    async def mark(ctx: Context) -> None:
        is_first = await ctx.interval("days").once("day")
        result = await ctx.measure("names").call("name", lambda: ctx.symbol + ctx.strategy_name)
        found.append((ctx.strategy_name, ctx.symbol, is_first, result))

    strategies = [Scripted({0: mark, 1: mark}, name=name) for name in ("one", "two")]
    await place.run(strategies, {"A": bars(*[QUIET] * 3), "B": bars(*[QUIET] * 3)})
    assert found == [
        (name, symbol, is_first, symbol + name)
        for is_first in (True, False)
        for symbol in "AB"
        for name in ("one", "two")
    ]


@pytest.mark.parametrize("strategies", [[], [Scripted({}), Scripted({})]])
async def test_strategies_are_there_once(place: Place, strategies: list[Strategy]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^strategies: "):
        await place.engine(strategies, bars(QUIET, QUIET))


async def test_a_function_is_a_strategy(place: Place) -> None:
    @strategy_of(cost=500.0, signal_interval="1m", fee_percent=0.0)
    async def buys_once(ctx: Context) -> Signal | None:
        return LONG if index_of(ctx) == 0 else None

    @strategy_of(name="plain", fee_percent=0.0)
    def plain(ctx: Context) -> Signal | None:
        return SHORT if index_of(ctx) == 0 else None

    await place.run([buys_once, plain], bars(*[QUIET] * 3))
    rows = {row["strategyName"]: row for row in await place.rows()}
    assert rows["buys_once"]["cost"] == 500
    assert rows["plain"]["position"] == "short"


async def test_a_frame_is_replayed_with_the_candles_before_it(place: Place) -> None:
    candles = random_walk(50)
    frame = Frame(START_MS + 20 * MINUTE, START_MS + 30 * MINUTE, "mine")
    seen: list[list[Any]] = []
    strategy = Scripted(
        dict.fromkeys(range(50), lambda ctx: seen.append(ctx.candles("1m", 15).rows())), warm_up=15
    )
    engine = await place.run(strategy, candles, frame=frame)
    assert seen == [candles[done - 15 : done] for done in range(21, 31)]
    assert (engine.summary.bars, engine.share_done) == (10, 1)
    assert engine.session[2] == "mine"


def test_a_frame_that_runs_backwards_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"^frame: "):
        Frame(START_MS, START_MS)


async def test_slippage_makes_entry_and_stop_worse(place: Place) -> None:
    stopped = (100.0, 100.5, 94.0, 95.0)
    engine = await place.run(Scripted({0: LONG}, slippage_percent=0.1), bars(QUIET, QUIET, stopped))
    [row] = await place.rows()
    assert row["priceOpen"] == pytest.approx(100.1)
    assert row["currentPrice"] == pytest.approx(95 * 0.999)
    expected = 1_000 * (95 * 0.999 / 100.1 - 1)
    assert engine.summary.total.profit == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "costs", "field"),
    [
        ({"price_take_profit": 100.05}, {"fee_percent": 0.05}, "price_take_profit"),
        ({"price_take_profit": 100.15}, {"slippage_percent": 0.2}, "price_take_profit"),
        ({"price_stop_loss": 99.9}, {"slippage_percent": 0.2}, "price_stop_loss"),
        ({"id": ""}, {}, "id"),
        ({"id": 5}, {}, "id"),
        ({"note": None}, {}, "note"),
    ],
)
async def test_a_signal_has_to_be_worth_its_costs(
    place: Place, fields: Any, costs: Any, field: str
) -> None:
    values = {"position": "long", "price_take_profit": 110, "price_stop_loss": 95, **fields}
    engine = await place.engine(Scripted({0: Signal(**values)}, **costs), bars(QUIET, QUIET))
    with pytest.raises(StrategyError, match=f"for BTC at .*: {field}: "):
        await engine.run()


async def test_a_signal_may_bring_its_id(place: Place) -> None:
    signal = Signal(position="long", price_take_profit=110, price_stop_loss=95, id="mine")
    await place.run(Scripted({0: signal}), bars(QUIET, QUIET))
    assert [row["id"] for row in await place.rows()] == ["mine"]


async def test_the_session_belongs_to_the_run(place: Place) -> None:
    seen: list[Any] = []

    async def remember(ctx: Context) -> None:
        seen.append(await ctx.session.read("nothing"))
        ctx.session.write({"bar": index_of(ctx)})

    strategy = Scripted(dict.fromkeys(range(4), remember))
    candles = bars(*[QUIET] * 4)
    await place.run(strategy, candles, until=2)
    await place.run(strategy, candles)
    assert seen == ["nothing", *({"bar": index} for index in range(3))]
    frame_name = "20250101T0000-20250101T0004"
    stored = await place.family.session.read_session_data(
        "scripted", "demo", frame_name, "BTC", True
    )
    assert stored is not None
    assert stored["data"] == {"bar": 3}
    assert stored["id"] == f"BTC:scripted:demo:{frame_name}:backtest"
    seen.clear()
    await place.run(strategy, candles, fresh=True, until=1)
    assert seen == ["nothing"]


async def test_what_was_written_does_not_change_with_its_object(place: Place) -> None:
    async def change(ctx: Context) -> None:
        data = {"list": [1]}
        ctx.state("s").write(data)
        ctx.memory("m").write("k", data)
        data["list"].append(2)
        read = await ctx.state("s").read()
        read["list"].append(3)
        found = await ctx.memory("m").search("")
        found[0][1]["list"].append(4)
        assert await ctx.state("s").read() == await ctx.memory("m").read("k") == {"list": [1]}

    async def check(ctx: Context) -> None:
        assert await ctx.state("s").read() == {"list": [1]}
        assert await ctx.memory("m").read("k") == {"list": [1]}

    await place.run(Scripted({0: change, 1: check}), bars(QUIET, QUIET))


async def test_a_measured_result_is_the_same_at_first_and_when_it_is_read(place: Place) -> None:
    async def measure(ctx: Context) -> None:
        result: Any = await ctx.measure("m").call("k", lambda: {"levels": (1, 2)})
        seen.append(result)
        assert result == {"levels": [1, 2]}
        result["levels"].append(3)  # the strategy's own copy

    seen: list[Any] = []
    await place.run(Scripted({0: measure, 1: measure}), bars(QUIET, QUIET))
    assert len(seen) == 2


class Curious(Strategy):
    """Tries to see what has not happened yet."""

    name = "curious"
    warm_up = 50

    def __init__(self, family: Callable[[], Registries]) -> None:
        self.family = family
        self.looks = 0

    async def get_signal(self, ctx: Context) -> None:
        now = ctx.when_ms
        for interval in ("1m", "5m", "15m"):
            step = INTERVAL_STEP_MS[interval]
            frame = ctx.candles(interval, 3)
            assert all(moment + step <= now for moment in frame.timestamp)
            assert frame.end <= now
        candle = self.family().candle
        context = ("BTC", "1m", "demo")
        later = await candle.read_candles_frame(*context, now - MINUTE, now + 9 * MINUTE)
        assert list(later.timestamp) == [now - MINUTE]
        assert await candle.read_candles_data(*context, 1, now) is None
        earlier = await ctx.state("last").read()
        assert earlier is None or earlier < now
        ctx.state("last").write(now)
        found = await ctx.memory("all").search("bar")
        assert all(data < now for _, data in found)
        assert await ctx.memory("all").read(str(now)) is None
        ctx.memory("all").write(str(now), now, text="bar")
        assert await ctx.measure("m").call(str(now), lambda: now) == now
        assert await ctx.interval("i").once(str(now))
        session = await ctx.session.read()
        assert session is None or session < now
        ctx.session.write(now)
        self.looks += 1


async def test_nothing_of_the_future_can_be_seen(place: Place) -> None:
    """Not in the first run, and not in a fresh one after it has left everything behind."""
    candles = random_walk(30)
    for fresh in (False, True, True):
        strategy = Curious(lambda: place.family)
        await place.run(strategy, candles, fresh=fresh)
        assert strategy.looks == 30


async def test_a_store_that_fails_is_not_passed_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await place.engine(Trader(), walk())

    async def refuse(*arguments: Any) -> None:
        raise FastPersistError("the store is gone")

    monkeypatch.setattr(place.family.storage, "write_storage_data", refuse)
    for _ in range(2):
        with pytest.raises(FastPersistError, match="the store is gone"):
            await engine.run()
    monkeypatch.undo()
    monkeypatch.setattr("os.fsync", lambda handle: None)
    await place.run(Trader(), walk())
    other = Place(place.folder.parent / "other")
    await other.run(Trader(), walk())
    assert place.tree() == other.tree()
