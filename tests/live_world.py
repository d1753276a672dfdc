"""A world in which an engine on the clock runs, dies and comes back, and strategies for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from candle_rows import START_MS, bars
from fastpersist.contracts import Candle
from fastpersist.registry import Registries
from fastpersist.runner import Context, Signal, Strategy
from fastpersist.runner.live import LiveEngine
from live_kit import Exchange, FakeClock, LiveFeed, LossyBroker
from memory_backend import Data, Fate, MemoryBackend

__all__ = [
    "LIMIT",
    "LONG",
    "MINUTE",
    "QUIET",
    "SHORT",
    "TO_STOP",
    "TO_TARGET",
    "Scripted",
    "Trader",
    "World",
    "minute_of",
    "node_row",
]

MINUTE = 60_000
QUIET = (100.0, 100.5, 99.5, 100.0)
LONG = Signal(position="long", price_take_profit=110, price_stop_loss=95)
SHORT = Signal(position="short", price_take_profit=90, price_stop_loss=105)
LIMIT = Signal(position="long", price_open=98, price_take_profit=110, price_stop_loss=95)
TO_TARGET = (100.0, 111.0, 99.5, 110.5)
TO_STOP = (100.0, 100.5, 94.0, 94.5)


class Scripted(Strategy):
    """Answers at the bars of its script, by minutes from the start, and remembers what it heard."""

    name = "scripted"
    cost = 1_000.0
    fee_percent = 0.0

    def __init__(self, answers: Mapping[int, Any], **own: Any) -> None:
        self.answers = answers
        self.heard: list[tuple[Any, ...]] = []
        for name, value in own.items():
            setattr(self, name, value)

    async def get_signal(self, ctx: Context) -> Any:
        minute = minute_of(ctx)
        self.heard.append(("asked", minute))
        answer = self.answers.get(minute)
        if callable(answer):
            answer = answer(ctx)
            return await answer if hasattr(answer, "__await__") else answer
        return answer

    def opened(self, ctx: Context, row: dict[str, Any]) -> None:
        self.heard.append(("opened", minute_of(ctx), row["priceOpen"]))

    def scheduled(self, ctx: Context, row: dict[str, Any]) -> None:
        self.heard.append(("scheduled", minute_of(ctx)))

    async def closed(self, ctx: Context, row: dict[str, Any]) -> None:
        self.heard.append(("closed", minute_of(ctx), row["closeReason"], row["currentPrice"]))

    def cancelled(self, ctx: Context, row: dict[str, Any]) -> None:
        self.heard.append(("cancelled", minute_of(ctx), row["cancelReason"]))

    def partial_profit(self, ctx: Context, row: dict[str, Any], level: int) -> None:
        self.heard.append(("profit", minute_of(ctx), level))

    def error(self, ctx: Context, error: Exception) -> None:
        self.heard.append(("error", minute_of(ctx), str(error)))

    def events(self) -> list[tuple[Any, ...]]:
        return [event for event in self.heard if event[0] != "asked"]


def minute_of(ctx: Context) -> int:
    """Return the minute whose bar has just closed, from the start."""
    return (ctx.when_ms - START_MS) // MINUTE - 1


class World:
    """What outlives a process: the store, the exchange, the candles and the time."""

    def __init__(
        self, *figures: tuple[float, float, float, float], candles: list[Candle] | None = None
    ) -> None:
        self.candles = candles or bars(*figures)
        self.data: Data = {}
        self.exchange = Exchange()
        self.clock = FakeClock(START_MS)
        self.broker = LossyBroker(self.exchange)
        self.backends: list[MemoryBackend] = []

    def registries(self, fate: Fate | None = None) -> Registries:
        family = Registries()
        self.backends.append(MemoryBackend(self.data, fate or Fate()))
        family.use_backend(self.backends[-1])
        return family

    def engine(
        self,
        strategies: Strategy | Sequence[Strategy],
        *,
        fate: Fate | None = None,
        broker: Any = None,
        mode: Any = "live",
        symbols: Sequence[str] = ("BTC",),
        until: int | None = None,
        family: Registries | None = None,
    ) -> LiveEngine:
        """Return an engine that stops after its candles."""
        made: list[LiveEngine] = []
        candles = self.candles[:until]

        def stop() -> None:
            made[0].stop()

        feeds = [LiveFeed(name, candles, self.clock, stop) for name in symbols]
        if isinstance(strategies, Strategy):
            strategies = [strategies]
        family = family or self.registries(fate)
        broker = broker or self.broker
        made.append(LiveEngine(family, strategies, feeds, broker, "demo", mode, self.clock))
        return made[0]

    async def run(self, strategies: Strategy | Sequence[Strategy], **options: Any) -> LiveEngine:
        fresh = options.pop("fresh", False)
        engine = self.engine(strategies, **options)
        await asyncio.wait_for(engine.run(fresh=fresh), 60)
        # The last look for a candle that does not come has made the time pass.
        self.clock.time = START_MS + len(self.candles[: options.get("until")]) * MINUTE
        return engine

    def rows(self, domain: str) -> list[dict[str, Any]]:
        return [orjson.loads(text) for key, (text, _) in self.data.items() if key[0] == domain]

    def kinds(self) -> list[str]:
        return [row["type"] for row in self.rows("notification")]

    def topics(self) -> list[str]:
        return [row["topic"] for row in self.rows("log")]

    def value(self, domain: str) -> Any:
        (value,) = self.rows(domain)
        return value


def node_row(**more: Any) -> dict[str, Any]:
    return {
        "id": "from-node", "symbol": "BTC", "strategyName": "scripted", "exchangeName": "demo",
        "frameName": "", "position": "long", "note": "", "priceOpen": 100,
        "priceTakeProfit": 110, "priceStopLoss": 95, "minuteEstimatedTime": None, "cost": 1_000,
        "multiplier": 1, "isolated": True, "scheduledAt": START_MS, "pendingAt": START_MS,
        "timestamp": START_MS, "_isScheduled": False, **more,
    }  # fmt: skip


class Trader(Strategy):
    """Enters at the market and by limit in both directions, with a part."""

    name = "trader"
    cost = 1_000.0
    schedule_minutes = 6.0

    async def get_signal(self, ctx: Context) -> Signal | None:
        candles = ctx.candles("1m", 3)
        if len(candles) < 3:
            return None
        rises = [close > opened for close, opened in zip(candles.close, candles.open, strict=True)]
        if len(set(rises)) > 1:
            return None
        side = 1 if rises[0] else -1
        count = ctx.state("count")
        number = await count.read(default=0) + 1
        count.write(number)
        entry = ctx.price - side * (0.4 if number % 2 else 0.0)
        return Signal(
            position="long" if side > 0 else "short",
            price_open=entry if number % 2 else None,
            price_take_profit=entry + side * 1.6,
            price_stop_loss=entry - side * 1.2,
            minute_estimated_time=20,
            partial_exit_level=30,
        )
