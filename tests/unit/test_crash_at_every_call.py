"""A run that is killed at any write, and started again, ends as if it had not been killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
import pytest

from candle_rows import random_walk
from fastpersist.adapters.backend import Backend, Key
from fastpersist.contracts import Candle
from fastpersist.domains import Domain
from fastpersist.registry import Registries
from fastpersist.runner import Context, Engine, Feed, Signal, Strategy
from fastpersist.times import LookAheadPolicy, is_visible

CANDLES: Mapping[str, dict[int, Candle]] = {
    symbol: {candle["timestamp"]: candle for candle in candles}
    for symbol, candles in {
        "BTC": random_walk(100, seed=15, gaps=[50, 51]),
        "ETH": random_walk(100, seed=115),
    }.items()
}
Data = dict[tuple[Any, ...], tuple[bytes, int | None]]


class Killed(BaseException):
    """The process is gone."""


class MemoryBackend:
    """Keeps JSON texts and moments in `data`, has the candles, and dies at a write.

    Args:
        data: What earlier processes have left; changed in place.
        dies_at: Number of the write that kills it, from 1.
        applies: Whether that write still arrives.
    """

    look_ahead: LookAheadPolicy = "hide"

    def __init__(self, data: Data, dies_at: int | None = None, applies: bool = False) -> None:
        self.data = data
        self.writes = 0
        self.domains: set[str] = set()
        self._dies_at = dies_at
        self._applies = applies
        self._is_dead = False

    async def prepare(self, domain: Domain, context: Key, initial: bool) -> None:
        self._check()

    async def read_value(self, domain: Domain, key: Key, asked_at: int | None) -> Any:
        self._check()
        return self._visible(domain, key, asked_at)

    async def write_value(self, domain: Domain, key: Key, value: Any, when: int | None) -> None:
        await self._write(domain, {(domain.name, *key): (orjson.dumps(value), when)})

    async def read_entry(
        self, domain: Domain, key: Key, asked_at: int | None
    ) -> dict[str, Any] | None:
        self._check()
        entry: dict[str, Any] | None = self._visible(domain, key, asked_at)
        return None if entry is None or entry["removed"] else entry

    async def has_entry(self, domain: Domain, key: Key, asked_at: int | None) -> bool:
        self._check()
        return self._visible(domain, key, asked_at) is not None

    async def write_entry(
        self, domain: Domain, key: Key, entry: Mapping[str, Any], when: int | None
    ) -> None:
        await self._write(domain, {(domain.name, *key): (orjson.dumps(entry), when)})

    async def remove_entry(self, domain: Domain, key: Key) -> None:
        raise AssertionError("the engine removes nothing")

    async def iterate_entries(
        self, domain: Domain, context: Key, asked_at: int | None, *, keys_only: bool
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        self._check()
        for key in self._keys(domain, context):
            entry = self._visible(domain, key, asked_at)
            if entry is not None:
                yield key[-1], entry

    async def read_rows(
        self, domain: Domain, context: Key, limit: int | None
    ) -> list[dict[str, Any]]:
        self._check()
        return [self._visible(domain, key, None) for key in self._keys(domain, context)]

    async def write_rows(
        self,
        domain: Domain,
        context: Key,
        rows: Mapping[str, Mapping[str, Any]],
        places: Sequence[int] | None = None,
    ) -> None:
        new: Data = {
            (domain.name, *context, row_id): (orjson.dumps(row), None)
            for row_id, row in rows.items()
        }
        if domain.append_only:
            new = {key: row for key, row in new.items() if key not in self.data}
        await self._write(domain, new)

    async def read_candles(
        self, domain: Domain, context: Key, since: int, step: int, limit: int
    ) -> list[Candle] | None:
        self._check()
        return [CANDLES[context[0]][since + place * step] for place in range(limit)]

    async def write_candles(self, domain: Domain, context: Key, candles: Sequence[Candle]) -> None:
        raise AssertionError("the candles are imported already")

    def _check(self) -> None:
        if self._is_dead:
            raise Killed

    def _keys(self, domain: Domain, context: Key) -> list[Key]:
        start = (domain.name, *context)
        return [key[1:] for key in self.data if key[: len(start)] == start]

    def _visible(self, domain: Domain, key: Key, asked_at: int | None) -> Any:
        text, when = self.data.get((domain.name, *key), (b"null", None))
        shown = is_visible(domain.name, when, asked_at, self.look_ahead)
        return orjson.loads(text) if shown else None

    async def _write(self, domain: Domain, new: Data) -> None:
        await asyncio.sleep(0)  # lets the writes of other domains come in between
        self._check()
        self.writes += 1
        self.domains.add(domain.name)
        self._is_dead = self.writes == self._dies_at
        if not self._is_dead or self._applies:
            self.data.update(new)
        self._check()


class Trader(Strategy):
    """Enters at the market and by limit, in both directions, and keeps state of its own."""

    name = "trader"
    cost = 1_000.0
    fee_percent = 0.05
    schedule_minutes = 4.0

    async def get_signal(self, ctx: Context) -> Signal | None:
        candles = ctx.candles(4)
        if len(candles) < 4:
            return None
        rises = [candle["close"] > candle["open"] for candle in candles]
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


async def run(backend: Backend, *, fresh: bool = False) -> Engine:
    """Start and run with new registries, as a new process would."""
    family = Registries()
    family.use_backend(backend)
    feeds = [
        Feed(family, "demo", symbol, "1m", list(candles)) for symbol, candles in CANDLES.items()
    ]
    engine = Engine(family, Trader(), feeds, "demo", "fingerprint")
    await engine.start(fresh=fresh)
    await engine.run()
    return engine


async def run_killed(data: Data, dies_at: int, applies: bool, *, fresh: bool = False) -> None:
    with pytest.raises(Killed):
        await run(MemoryBackend(data, dies_at, applies), fresh=fresh)
    for _ in range(20):
        await asyncio.sleep(0)  # the writes that were under way find that the process is gone


async def undisturbed(data: Data, *, fresh: bool = False) -> tuple[int, Engine]:
    """Return how many writes a run takes that is not killed, and its engine."""
    backend = MemoryBackend(data)
    engine = await run(backend, fresh=fresh)
    return backend.writes, engine


async def test_the_run_has_everything_in_it() -> None:
    data: Data = {}
    backend = MemoryBackend(data)
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
async def test_killed_at_every_write(applies: bool) -> None:
    expected: Data = {}
    writes, whole = await undisturbed(expected)
    assert writes > 100
    for dies_at in range(1, writes + 1):
        data: Data = {}
        await run_killed(data, dies_at, applies)
        engine = await run(MemoryBackend(data))
        assert data == expected, dies_at
        assert engine.summary.to_state() == whole.summary.to_state(), dies_at


async def test_killed_twice() -> None:
    expected: Data = {}
    writes, whole = await undisturbed(expected)
    for dies_at in range(1, writes, 3):
        data: Data = {}
        await run_killed(data, dies_at, True)
        await run_killed(data, 1 + dies_at % 4, dies_at % 2 == 0)
        engine = await run(MemoryBackend(data))
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
    for dies_at in range(1, 21):
        data = dict(old)
        await run_killed(data, dies_at, applies, fresh=True)
        await run(MemoryBackend(data))
        assert data == (old if dies_at == 1 and not applies else new), dies_at
