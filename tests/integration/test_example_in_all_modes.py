"""The strategy of ``examples/``, replayed, on paper and live, over one exchange's candles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ccxt.async_support
import pytest

import fastpersist
from fake_exchange import FakeExchange
from fastpersist.cli.strategy_file import load_strategies
from fastpersist.runner import Bar, Engine, Frame, LiveEngine, PaperBroker, StoreFeed, load_reports
from fastpersist.runner.ccxt_exchange import CcxtBroker, CcxtExchange, CcxtFeed
from fastpersist.runner.clock import Clock
from fastpersist.runner.feed import fetch_candles

EXAMPLE = Path(__file__).parents[2] / "examples" / "ema_cross.py"
START = 1_767_225_600_000
MINUTE = 60_000
WARM_UP, BARS = 1_000, 400


class ExchangeClock:
    """The exchange's time, which whoever waits puts on."""

    def __init__(self, exchange: FakeExchange) -> None:
        self._exchange = exchange

    def now(self) -> int:
        return self._exchange.now()

    async def sleep(self, seconds: float) -> None:
        self._exchange.put_clock_on(int(seconds * 1000))
        await asyncio.sleep(0)

    async def wait_until(self, moment: int, most_seconds: float) -> None:
        self._exchange.put_clock_on(max(0, moment - self.now()))
        await asyncio.sleep(0)


@contextmanager
def exchange_time(fake: FakeExchange) -> Iterator[None]:
    """Let ccxt sign with the exchange's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ccxt.async_support.binance, "nonce", lambda exchange: fake.now())
        yield


class EndingFeed(CcxtFeed):
    """Stops the engine at the end."""

    engine: LiveEngine

    async def stream(self, since: int, clock: Clock) -> AsyncGenerator[Bar, None]:
        async for bar in super().stream(since, clock):
            yield bar
            if bar.timestamp + MINUTE >= START + BARS * MINUTE:
                self.engine.stop()


def exchange_of() -> FakeExchange:
    """Return an exchange before the first candle of the run, whose time does not go by itself."""
    return FakeExchange(start=START - WARM_UP * MINUTE, step=10**9, before=WARM_UP, seed=8)


async def on_the_clock(store: fastpersist.Store, mode: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the report's trades and the exchange's state after a run."""
    (strategy,) = load_strategies(EXAMPLE).strategies
    async with (
        exchange_of() as fake,
        CcxtExchange("binance", fake.options, clock_seconds=0) as exchange,
    ):
        feed = EndingFeed(exchange, "BTCUSDT", "1m", START, START + 1, mode)
        broker = CcxtBroker(exchange) if mode == "live" else PaperBroker()
        engine = LiveEngine(
            store, [strategy], [feed], broker, mode, mode, ExchangeClock(fake)
        )  # fmt: skip
        feed.engine = engine
        with exchange_time(fake):
            await asyncio.wait_for(engine.run(), 300)
        state = fake.state()
    (report,) = [found for found in await load_reports(store) if found.run_id == engine.run_id]
    assert report.mode == mode
    return [*report.trades, *report.open_rows], state


async def replayed(store: fastpersist.Store) -> list[Any]:
    """Return the report's trades after a backtest over what the exchange has."""
    (strategy,) = load_strategies(EXAMPLE).strategies
    frame = Frame(START, START + BARS * MINUTE)
    async with exchange_of() as fake:
        fake.put_clock_on(BARS * MINUTE)
        async with CcxtExchange("binance", fake.options, clock_seconds=0) as exchange:
            feed = CcxtFeed(exchange, "BTCUSDT", "1m", frame.start, frame.end, "replayed")
            with exchange_time(fake):
                await fetch_candles(store, feed, START - WARM_UP * MINUTE, frame.end)
    stored = StoreFeed(store, "replayed", "BTCUSDT", "1m", frame.start, frame.end)
    engine = Engine(store, [strategy], [stored], "replayed", "f", frame)
    await engine.start()
    await engine.run()
    (report,) = [found for found in await load_reports(store) if found.run_id == engine.run_id]
    return [*report.trades, *report.open_rows]


def moments(trades: list[Any]) -> list[int]:
    return sorted(
        trade["pendingAt"] if isinstance(trade, dict) else trade.opened_at for trade in trades
    )


async def test_the_example_in_all_modes(store: fastpersist.Store) -> None:
    backtest = await replayed(store)
    paper, _ = await on_the_clock(store, "paper")
    live, state = await on_the_clock(store, "live")
    assert len(backtest) > 1
    # The first signal comes at the same close; later ones follow exits, which differ by fills.
    assert moments(backtest)[0] == moments(paper)[0] == moments(live)[0]
    assert moments(paper) == moments(live)
    bought = sum(order["filled"] for order in state["orders"] if order["side"] == "BUY")
    sold = sum(order["filled"] for order in state["orders"] if order["side"] == "SELL")
    rows = await store.storage.read_storage_data(False)
    held = [row for row in rows if row["status"] == "opened" and row["exchangeName"] == "live"]
    way = sum(1 if row["position"] == "long" else -1 for row in held)
    assert (bought - sold) * way > 0 if held else bought == pytest.approx(sold, rel=1e-3)
