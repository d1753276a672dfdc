"""One life of a live run against a fake exchange: trades once, and may kill itself on the way.

``python live_trader.py EXCHANGE_URL NOW STEP KILL_AT``: the URL of the exchange, its time (ms), the
wall time of a minute there (ms), and the number of the step at which the process kills itself
before or after it, 0 for never. Prints each step, and ``done`` after the trade.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import fastpersist
from fake_exchange import FastClock, options
from fastpersist import registries
from fastpersist.runner import Context, Signal, Strategy
from fastpersist.runner.ccxt_exchange import CcxtBroker, CcxtExchange, CcxtFeed
from fastpersist.runner.journal import Journal
from fastpersist.runner.live import LiveEngine

T = TypeVar("T")


class Once(Strategy):
    """Opens one position and closes it after its time."""

    name = "once"
    cost = 500.0
    fee_percent = 0.1

    async def get_signal(self, ctx: Context) -> Signal | None:
        trades = ctx.state("trades")
        if await trades.read(default=0):
            engine.stop()
            return None
        return Signal(
            position="long", price_take_profit=2 * ctx.price, price_stop_loss=ctx.price / 2,
            minute_estimated_time=2,
        )  # fmt: skip

    def closed(self, ctx: Context, row: dict[str, Any]) -> None:
        ctx.state("trades").write(1)


class Steps:
    """Counts steps, and ends the process at one."""

    def __init__(self, kill_at: int) -> None:
        self.count = 0
        self._kill_at = kill_at

    def step(self, name: str) -> None:
        """Count a step, or die at it."""
        self.count += 1
        print(self.count, name, flush=True)
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call with a step before it and one after it."""
        self.step(f"before {name}")
        result = await call()
        self.step(f"after {name}")
        return result


class SteppedBroker(CcxtBroker):
    """Counts what it does."""

    async def open(self, order: Any) -> Any:
        return await steps.around("open", lambda: super(SteppedBroker, self).open(order))

    async def close(self, order: Any) -> Any:
        return await steps.around("close", lambda: super(SteppedBroker, self).close(order))

    async def find(self, order: Any) -> Any:
        return await steps.around("find", lambda: super(SteppedBroker, self).find(order))


def count_records() -> None:
    """Make each record and the writes after it steps."""
    store, apply = Journal._store, Journal._apply

    async def stepped_store(self: Any, *arguments: Any) -> None:
        steps.step("before record")
        await store(self, *arguments)

    async def stepped_apply(self: Any, *arguments: Any) -> None:
        await steps.around("writes", lambda: apply(self, *arguments))

    Journal._store = stepped_store
    Journal._apply = stepped_apply


async def live() -> None:
    global engine  # the strategy ends it
    url, now, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    fastpersist.setup()
    exchange = CcxtExchange("binance", options(url), clock_seconds=0)
    feed = CcxtFeed(exchange, "BTCUSDT", "1m", now, now + 1, "binance")
    engine = LiveEngine(
        registries, [Once()], [feed], SteppedBroker(exchange), "binance", "live",
        FastClock(now, step),
    )  # fmt: skip
    try:
        await engine.run()
        print("done", flush=True)
    finally:
        await exchange.close()
        await fastpersist.shutdown()


engine: LiveEngine
steps = Steps(int(sys.argv[4]))

if __name__ == "__main__":
    count_records()
    asyncio.run(live())
