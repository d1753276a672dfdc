"""A run on the clock among random faults of store, broker, hooks, process and clock.

Each seed is a world of its own, in which a run lives several times and ends in its own way each
time; the last life has no faults. Then the promises have to hold. Other seeds than those of each
test run are met with ``FASTPERSIST_TEST_CHAOS=FIRST:LAST``, for example ``1000:3000``, without
LAST.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from candle_rows import START_MS, random_walk
from fastpersist.domains import Domain
from fastpersist.errors import StoreUnavailableError
from fastpersist.registry import Registries
from fastpersist.runner import Context
from fastpersist.runner.broker import BrokerUnavailableError, Order, OrderState
from live_kit import Exchange, LossyBroker
from live_world import MINUTE, Trader, World
from memory_backend import Data, Fate, Killed, MemoryBackend

FIRST, LAST = map(int, os.environ.get("FASTPERSIST_TEST_CHAOS", "0:80").split(":"))
MINUTES: Final = 90
MINUTES_WITH_FAULTS: Final = 80
ENDS: Final = ("kill", "cancel", "stop", "candles")
REPLIES: Final = (
    "reject", "lose request", "lose reply", "half", "nothing", "late", "half, lose reply",
    "half, open",
)  # fmt: skip

Note = Callable[[str], None]


@dataclass(frozen=True)
class Odds:
    """How likely a write, an order and a hook meet a fault."""

    store: float = 0.0
    broker: float = 0.0
    hooks: float = 0.0


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class FlakyStore(MemoryBackend):
    """Writes sooner or later, and fails before a write, after it, or at a read."""

    def __init__(
        self, data: Data, fate: Fate, chance: random.Random, odds: Odds, note: Note
    ) -> None:
        super().__init__(data, fate)
        self._chance = chance
        self._odds = odds.store
        self._note = note

    async def read_value(self, domain: Domain, key: Any, asked_at: int | None) -> Any:
        if self._chance.random() < self._odds / 4:
            self._fail("read")
        return await super().read_value(domain, key, asked_at)

    async def _write(self, domain: Domain, new: Data) -> None:
        drawn = self._chance.random()
        await turns(self._chance.choice((0, 0, 1, 3, 8)))
        if drawn < self._odds / 2:
            self._fail("write")
        await super()._write(domain, new)
        if drawn < self._odds:
            self._fail("reply of a write")

    def _fail(self, what: str) -> None:
        self._note(what)
        raise StoreUnavailableError("memory", what)


class FlakyBroker(LossyBroker):
    """Refuses, loses, halves and delays orders; outlives the processes, as its exchange does."""

    def __init__(self, exchange: Exchange, chance: random.Random, note: Note) -> None:
        super().__init__(exchange)
        self.odds = 0.0
        self._chance = chance
        self._note = note

    async def open(self, order: Order) -> OrderState:
        await turns(self._chance.choice((0, 1, 3)))
        if self._chance.random() >= self.odds:
            return await super().open(order)
        reply = self._chance.choice(REPLIES)
        self._note(reply)
        if reply == "half, open":
            self.fate.step(lambda: self.exchange.accept(order, 0.5))
            self._become(order, status="open")
            await turns(self._chance.choice((0, 1, 3)))
            return self.exchange.states[order.client_order_id]
        self.behaviours = [reply.partition(",")[0]]
        state = await super().open(order)
        if reply == "half, lose reply":
            raise BrokerUnavailableError("timed out")
        return state

    async def find(self, order: Order) -> OrderState | None:
        if self._chance.random() < self.odds / 3:
            self._note("look")
            raise BrokerUnavailableError("timed out")
        state = await super().find(order)
        if state is not None and state.status == "open" and self._chance.random() < 0.3:
            return self._become(order, status="filled", filled=order.amount)
        return state

    async def cancel(self, order: Order) -> OrderState:
        state = await super().cancel(order)
        return self._become(order, status="canceled") if state.status == "open" else state

    def _become(self, order: Order, **fields: Any) -> OrderState:
        states, name = self.exchange.states, order.client_order_id
        states[name] = replace(states[name], **fields)
        return states[name]


class Nervous(Trader):
    """Raises in its hooks, or writes in them."""

    def __init__(self, chance: random.Random, odds: Odds, note: Note) -> None:
        self._chance = chance
        self._odds = odds.hooks
        self._note = note

    async def _hear(self, ctx: Context) -> None:
        drawn = self._chance.random()
        if drawn < self._odds:
            self._note("hook")
            raise ValueError("no idea")
        if drawn < 2 * self._odds:
            ctx.state("heard").write(drawn)
            await asyncio.sleep(0)

    async def opened(self, ctx: Context, row: dict[str, Any]) -> None:
        await self._hear(ctx)

    async def active(self, ctx: Context, row: dict[str, Any]) -> None:
        await self._hear(ctx)

    async def partial_profit(self, ctx: Context, row: dict[str, Any], level: int) -> None:
        await self._hear(ctx)

    async def cancelled(self, ctx: Context, row: dict[str, Any]) -> None:
        await self._hear(ctx)

    async def closed(self, ctx: Context, row: dict[str, Any]) -> None:
        await self._hear(ctx)


class Rival(Nervous):
    """Trades at other moments, and has to share the places of the risk profile."""

    name = "rival"
    max_positions = 2
    signal_interval = "3m"


class Chaos:
    """A world and all that happens in it.

    Args:
        seed: Decides everything.
        jumps: Whether the clock is set while the run goes on.
    """

    def __init__(self, seed: int, *, jumps: bool) -> None:
        self.chance = random.Random(seed)
        choice = self.chance.choice
        self.world = World(candles=random_walk(MINUTES, seed=choice((5, 7, 9))))
        self.symbols = choice((("BTC",), ("BTC", "ETH")))
        self.strategies = choice(((Nervous,), (Nervous, Rival)))
        self.met: set[str] = set()
        self._broker = FlakyBroker(self.world.exchange, self.chance, self.met.add)
        self._jumps = jumps

    async def run(self) -> None:
        choice = self.chance.choice
        for _ in range(self.chance.randint(1, 5)):
            odds = Odds(choice((0, 0.02, 0.1)), choice((0, 0.1, 0.4)), choice((0, 0.1)))
            await self._live(odds, choice(ENDS), self._jumps, MINUTES_WITH_FAULTS)
        await self._live(Odds(), "candles", False, MINUTES)

    async def _live(self, odds: Odds, end: str, jumps: bool, minutes: int) -> None:
        self.met.add(end)
        fate = Fate()
        if end == "kill":
            fate = Fate(self.chance.randint(1, 120), self.chance.random() < 0.5)
        family = Registries()
        family.use_backend(FlakyStore(self.world.data, fate, self.chance, odds, self.met.add))
        self._broker.fate, self._broker.odds = fate, odds.broker
        engine = self.world.engine(
            [kind(self.chance, odds, self.met.add) for kind in self.strategies],
            broker=self._broker, symbols=self.symbols, family=family, until=minutes,
        )  # fmt: skip
        run = asyncio.ensure_future(engine.run())

        async def disturb() -> None:
            for _ in range(self.chance.randint(0, 4)):
                await turns(self.chance.randint(1, 300))
                if jumps and self.chance.random() < 0.5:
                    self.met.add("jump")
                    self.world.clock.time += self.chance.choice((-30, -5, 3, 20)) * MINUTE
            if end == "cancel":
                run.cancel()
            if end == "stop":
                engine.stop()

        disturbing = asyncio.ensure_future(disturb())
        done, _ = await asyncio.wait({run}, timeout=60)
        disturbing.cancel()
        run.cancel()
        await asyncio.gather(disturbing, run, return_exceptions=True)
        await turns(30)
        assert done, "the run does not end"
        error = None if run.cancelled() else run.exception()
        # A first start may fail, and the process may.
        assert error is None or isinstance(
            error, (Killed, StoreUnavailableError, BrokerUnavailableError)
        )
        clock = self.world.clock
        clock.time = max(START_MS, min(clock.time, START_MS + minutes * MINUTE))

    def check(self) -> None:
        """Assert what is promised."""
        world = self.world
        rows = {
            domain: world.rows(domain) for domain in ("signal", "storage", "notification", "risk")
        }
        states = [
            row["data"]["state"]
            for row in world.rows("session")
            if "state" in (row.get("data") or {})
        ]
        held = [state["open"] for state in states if state["open"]]
        is_alarmed = "error.critical" in world.kinds()

        assert len(states) == len(self.symbols) * len(self.strategies)
        assert not any(state["order"] for state in states)

        assert world.exchange.duplicates == 0
        for kind in ("signal.opened", "signal.closed"):
            told = [row["signalId"] for row in rows["notification"] if row["type"] == kind]
            assert len(told) == len(set(told)), f"{kind} is told twice"

        names = {position["id"] for position in held}
        assert {row["id"] for row in rows["signal"] if row is not None} == names
        assert {row["id"] for row in rows["storage"] if row["status"] == "opened"} == names
        assert sum(len(profile) for profile in rows["risk"]) == len(held)

        if is_alarmed:
            return
        for symbol in self.symbols:
            recorded = sum(
                position["direction"] * position["amount"]
                for position in held
                if position["symbol"] == symbol
            )
            assert self._traded(symbol)[0] == pytest.approx(recorded, abs=1e-6)
        if not held:
            traded = [self._traded(symbol) for symbol in self.symbols]
            fees = sum(value for _, _, value in traded) * Trader.fee_percent / 100
            gained = sum(cash for _, cash, _ in traded) - fees
            results = [
                row["pnl"]["pnlCost"] for row in rows["storage"] if row["status"] == "closed"
            ]
            assert sum(results) == pytest.approx(gained, abs=1e-6)

    def _traded(self, symbol: str) -> tuple[float, float, float]:
        """Return amount held, cash and turnover at the exchange."""
        held = cash = turnover = 0.0
        for name, order in self.world.exchange.orders.items():
            state = self.world.exchange.states[name]
            if order.symbol == symbol:
                sign = 1 if order.side == "buy" else -1
                held += sign * state.filled
                cash -= sign * state.filled * state.price
                turnover += state.filled * state.price
        return held, cash, turnover


@pytest.mark.parametrize("jumps", [False, True], ids=["steady clock", "jumping clock"])
@pytest.mark.parametrize("seed", range(FIRST, LAST))
async def test_exchange_and_records_agree_whatever_happens(seed: int, jumps: bool) -> None:
    chaos = Chaos(seed, jumps=jumps)
    await chaos.run()
    chaos.check()


async def test_the_chaos_has_everything_in_it() -> None:
    met: set[str] = set()
    orders = closed = 0
    for seed in range(16):
        chaos = Chaos(seed, jumps=True)
        await chaos.run()
        met |= chaos.met
        orders += len(chaos.world.exchange.orders)
        closed += chaos.world.kinds().count("signal.closed")
    assert met >= {*ENDS, *REPLIES, "read", "write", "reply of a write", "look", "hook", "jump"}
    assert orders > 100
    assert closed > 30
