"""A run that is killed at any write, and started again, ends as if it had not been killed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from candle_rows import random_walk
from fastpersist.adapters.backend import Backend
from fastpersist.contracts import Candle
from fastpersist.registry import Registries
from fastpersist.runner import Context, Engine, Signal, StoreFeed, Strategy
from fastpersist.runner import journal as journal_module
from memory_backend import Data, Fate, Killed, MemoryBackend

CANDLES: Mapping[str, dict[int, Candle]] = {
    symbol: {candle["timestamp"]: candle for candle in candles}
    for symbol, candles in {
        "BTC": random_walk(100, seed=13, gaps=[50, 51]),
        "ETH": random_walk(100, seed=113),
    }.items()
}


def memory(data: Data, dies_at: int | None = None, applies: bool = False) -> MemoryBackend:
    """Return the store of a process that dies at a write."""
    return MemoryBackend(data, Fate(dies_at, applies), CANDLES)


class Trader(Strategy):
    """Enters at the market and by limit, in both directions, and keeps state of its own."""

    name = "trader"
    cost = 1_000.0
    fee_percent = 0.05
    schedule_minutes = 4.0

    async def get_signal(self, ctx: Context) -> Signal | None:
        candles = ctx.candles("1m", 4)
        if len(candles) < 4:
            return None
        rises = [close > opened for close, opened in zip(candles.close, candles.open, strict=True)]
        if len(set(rises)) > 1:
            return None
        side = 1 if rises[0] else -1
        count = ctx.state("count")
        number = await count.read(default=0) + 1
        count.write(number)
        memory = ctx.memory("runs")
        memory.write(f"{number}", {"side": side}, text=f"side {side}")
        alike = len(await memory.search(f"side {side}"))
        day = await ctx.measure("days").call(f"{ctx.when:%Y%m%d%H}", lambda: f"{ctx.when:%A}")
        if not await ctx.interval("tens").once(f"{ctx.symbol}_{ctx.when_ms // 600_000}"):
            ctx.notify(f"too soon on {day}")
            return None
        limit = 0.6 if number % 2 else 0.0
        entry = ctx.price - side * limit
        return Signal(
            position="long" if side > 0 else "short",
            price_open=entry if limit else None,
            price_take_profit=entry + side * 2.0,
            price_stop_loss=entry - side * 1.5,
            minute_estimated_time=25,
            partial_exit_level=40,
            note=f"{number} of {alike}",
        )

    def closed(self, ctx: Context, row: dict[str, Any]) -> None:
        ctx.state("last").write(row["id"])


def engine_of(backend: Backend) -> Engine:
    """Return an engine with new registries, as a new process would have."""
    family = Registries()
    family.use_backend(backend)
    feeds = [
        StoreFeed(family, "demo", symbol, "1m", min(candles), max(candles) + 60_000)
        for symbol, candles in CANDLES.items()
    ]
    return Engine(family, [Trader()], feeds, "demo", "fingerprint")


async def run(backend: Backend, *, fresh: bool = False) -> Engine:
    """Start and run, as a new process would."""
    engine = engine_of(backend)
    await engine.start(fresh=fresh)
    await engine.run()
    return engine


async def run_killed(data: Data, dies_at: int, applies: bool, *, fresh: bool = False) -> None:
    with pytest.raises(Killed):
        await run(memory(data, dies_at, applies), fresh=fresh)
    for _ in range(20):
        await asyncio.sleep(0)  # the writes that were under way find that the process is gone


async def undisturbed(data: Data, *, fresh: bool = False) -> tuple[int, Engine]:
    """Return how many writes a run takes that is not killed, and its engine."""
    fate = Fate()
    engine = await run(MemoryBackend(data, fate, CANDLES), fresh=fresh)
    return fate.steps, engine


@pytest.fixture(params=[1, 7, 1_000], ids=["each bar", "some bars", "many bars"])
def most_writes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many writes make a record."""
    monkeypatch.setattr(journal_module, "_MOST_WRITES", request.param)
    monkeypatch.setattr(journal_module, "_MOST_SECONDS", 3_600)
    most: int = request.param
    return most


async def test_what_is_stored_does_not_depend_on_where_records_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Data] = []
    for most in (1, 2, 7, 50, 1_000):
        monkeypatch.setattr(journal_module, "_MOST_WRITES", most)
        found.append({})
        await run(memory(found[-1]))
    assert all(data == found[0] for data in found)


async def test_the_run_has_everything_in_it() -> None:
    data: Data = {}
    backend = memory(data)
    engine = await run(backend)
    total = engine.summary.total
    assert min(total.wins, total.losses, total.cancelled) >= 2
    assert backend.domains == {
        "signal", "schedule", "risk", "partial", "breakeven", "storage", "notification", "log",
        "measure", "interval", "memory", "recent", "state", "session",
    }  # fmt: skip
    rows = [orjson.loads(text) for key, (text, _) in data.items() if key[0] == "storage"]
    assert any(row["totalPartials"] for row in rows)
    assert {row["position"] for row in rows} == {"long", "short"}
    assert {row["status"] for row in rows} >= {"closed", "cancelled"}
    reasons = {row.get("closeReason") for row in rows}
    assert reasons >= {"take_profit", "stop_loss", "time_expired"}


@pytest.mark.parametrize("applies", [False, True], ids=["before", "after"])
async def test_killed_at_every_write(applies: bool, most_writes: int) -> None:
    expected: Data = {}
    writes, whole = await undisturbed(expected)
    assert writes > (100 if most_writes == 1 else 20)
    for dies_at in range(1, writes + 1):
        data: Data = {}
        await run_killed(data, dies_at, applies)
        engine = await run(memory(data))
        assert data == expected, dies_at
        assert engine.summary.to_state() == whole.summary.to_state(), dies_at


async def test_killed_twice(most_writes: int) -> None:
    expected: Data = {}
    writes, whole = await undisturbed(expected)
    for dies_at in range(1, writes, 3):
        data: Data = {}
        await run_killed(data, dies_at, True)
        await run_killed(data, 1 + dies_at % 4, dies_at % 2 == 0)
        engine = await run(memory(data))
        assert data == expected, dies_at
        assert engine.summary.to_state() == whole.summary.to_state(), dies_at


@pytest.mark.parametrize("applies", [False, True], ids=["before", "after"])
async def test_a_fresh_run_that_is_killed_is_old_or_new(applies: bool) -> None:
    """Before its first record the old run is as it was; after that the new one carries on."""
    old: Data = {}
    await undisturbed(old)
    new = dict(old)
    await undisturbed(new, fresh=True)
    assert new != old
    erased = sum(key not in new or new[key] != row for key, row in old.items())
    assert erased > 150
    for dies_at in (*range(1, 21), *range(21, erased + 20, 9)):
        data = dict(old)
        await run_killed(data, dies_at, applies, fresh=True)
        await run(memory(data))
        assert data == (old if dies_at == 1 and not applies else new), dies_at


async def test_a_fresh_run_that_is_killed_twice_leaves_nothing() -> None:
    """The second start, and a second fresh one, know what the first had still to delete."""
    old: Data = {}
    _, engine = await undisturbed(old)
    for second in (False, True):
        new = dict(old)
        await run_killed(new, 40, True, fresh=True)
        await run_killed(new, 40, True, fresh=second)
        assert any(engine.run_id.encode() in text for text, _ in new.values())
        await run(memory(new))
        assert not any(engine.run_id.encode() in text for text, _ in new.values())
        assert not any(engine.run_id in str(key) for key in new)


async def test_a_fresh_start_after_a_kill_leaves_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels may be there already, and the history that tells of them not yet."""
    monkeypatch.setattr(journal_module, "_MOST_SECONDS", 3_600)
    whole: Data = {}
    writes, _ = await undisturbed(whole)
    had_levels = 0
    for dies_at in range(1, writes + 1):
        data: Data = {}
        await run_killed(data, dies_at, True)
        kinds = {key[0] for key in data}
        had_levels += "partial" in kinds and "storage" not in kinds
        await engine_of(memory(data)).start(fresh=True)
        left = {key[0] for key, (text, _) in data.items() if text not in (b"null", b"[]")}
        assert left == {"session"}, dies_at
    assert had_levels > 10


async def test_a_fresh_start_that_is_killed_keeps_the_levels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before its record the old run carries on, with the levels that were deleted already."""
    monkeypatch.setattr(journal_module, "_MOST_SECONDS", 3_600)
    whole: Data = {}
    await undisturbed(whole)
    for dies_at in range(1, 12):
        data: Data = {}
        await run_killed(data, 20, True)
        with pytest.raises(Killed):
            await engine_of(memory(data, dies_at)).start(fresh=True)
        had_begun = b'"generation":1' in b"".join(text for text, _ in data.values())
        await run(memory(data))
        levels = [key for key in data if key[0] in ("partial", "breakeven")]
        assert had_begun or data == whole, dies_at
        assert len(levels) == len([key for key in whole if key[0] in ("partial", "breakeven")])


async def test_a_deletion_that_is_interrupted_goes_on_with_the_next_start() -> None:
    new: Data = {}
    await undisturbed(new)
    old = dict(new)
    await undisturbed(new, fresh=True)
    for calls in (1, 2, 30, 120):
        data, left = dict(old), calls

        def check() -> None:
            nonlocal left
            left -= 1
            if not left:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            await engine_of(memory(data)).start(fresh=True, check=check)
        await run(
            memory(data), fresh=b'"generation":1' not in b"".join(t for t, _ in data.values())
        )
        assert data == new, calls
