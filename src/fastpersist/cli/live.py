"""``fastpersist run --mode paper`` and ``--mode live``."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from rich.console import Console

from .. import shutdown
from ..domains import INTERVAL_STEP_MS
from ..errors import InvalidArgumentError
from ..payloads import interval_step
from ..registry import registries
from ..runner import (
    Broker,
    CandleFeed,
    FileFeed,
    Frame,
    LiveEngine,
    PaperBroker,
    StoreFeed,
    Strategy,
    read_candle_file,
)
from ..runner.health import PORT, Health, HealthServer
from ..store import Store
from ..times import now_ms
from .exchanges import Exchanges, named_exchange
from .health import check_stores
from .process import InterruptedRunError, Interrupts, the_only_run
from .report import (
    check_outputs,
    figures_table,
    print_trades,
    print_written,
    report_as_json,
    write_report,
)
from .run import RunOptions, lock_folder, open_place, shows_it_again
from .strategy_file import load_strategies
from .toolbox import print_json, shown

__all__ = ["run_live"]

_logger = logging.getLogger("fastpersist.runner")

_STOP_SECONDS: Final = 4.0
_RECENT_STEPS: Final = 3


async def run_live(options: RunOptions, console: Console) -> int:
    """Run a strategy file on the clock until a signal, and return the exit code.

    Raises:
        FastPersistError: A user's mistake, or the first start failed.
    """
    feed = options.feed or f"ccxt:{options.exchange_name}"
    if options.frames or options.candles:
        raise InvalidArgumentError(
            "frame" if options.frames else "candles", f"is for backtests, not for {options.mode}"
        )
    if options.dummy:
        raise InvalidArgumentError("dummy", "keeps nothing, not even what a run has open")
    if not options.symbols:
        raise InvalidArgumentError("symbol", "is needed", hint="--symbol BTCUSDT")
    if options.mode == "live" and named_exchange(feed) is None:
        raise InvalidArgumentError(
            "feed",
            f"{feed} takes no orders",
            hint="--feed ccxt:EXCHANGE, or --mode paper for orders on paper",
        )
    check_outputs(options.html, options.csv)
    interval_step(options.stored_interval)
    assert options.mode != "backtest"
    strategy_file = load_strategies(options.strategy, options.names)
    place = open_place(options)
    assert place is not None
    interrupts = Interrupts(_STOP_SECONDS)
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(interrupts)
            exchanges = await stack.enter_async_context(Exchanges())
            feeds = [_feed(options, exchanges, feed, symbol) for symbol in options.symbols]
            broker = _broker(options, exchanges, feed, strategy_file.strategies)
            engine = LiveEngine(
                registries, strategy_file.strategies, feeds, broker, options.exchange_name,
                options.mode,
            )  # fmt: skip
            stack.enter_context(the_only_run(*lock_folder(options), engine.sessions))
            port = PORT if options.health_port is None else options.health_port
            health = _Watch(engine, place)
            await stack.enter_async_context(HealthServer(health.check, options.health_host, port))
            interrupts.end_with(engine.stop)
            if not options.as_json:
                console.print(
                    f"{options.mode} run of {shown(', '.join(options.symbols))} on "
                    f"{shown(feed)}; a signal (Ctrl-C) ends it in good order",
                    highlight=False,
                )
            await engine.run(fresh=options.fresh)
            await _show(engine, options, console)
    except InterruptedRunError:
        _logger.warning("stopped before the start")
    except asyncio.CancelledError:
        if not interrupts.numbers:
            raise
        _logger.warning("ended before everything had come to rest; the next start looks for it")
    finally:
        await shutdown()
    return 0 if not interrupts.numbers else 128 + interrupts.numbers[0]


def _feed(options: RunOptions, exchanges: Exchanges, feed: str, symbol: str) -> CandleFeed:
    interval = options.stored_interval
    now = now_ms()
    if named_exchange(feed) is not None:
        return exchanges.feed(feed, symbol, interval, Frame(now, now + 1), options.exchange_name)
    if feed == "store":
        return StoreFeed(registries, options.exchange_name, symbol, interval, now, now + 1)
    if len(options.symbols) > 1:
        raise InvalidArgumentError("feed", f"{feed} is one file, while there are several symbols")
    return FileFeed(read_candle_file(Path(feed), symbol), options.exchange_name)


def _broker(
    options: RunOptions, exchanges: Exchanges, feed: str, strategies: list[Strategy]
) -> Broker:
    if options.mode == "live":
        return exchanges.broker(feed)
    return PaperBroker(
        max(strategy.fee_percent for strategy in strategies),
        max(strategy.slippage_percent for strategy in strategies),
    )


class _Watch:
    """Says whether the stores answer and each symbol's last bar is recent.

    At first that is the newest candle of its feed, since a bar of an hour may be an hour away.
    """

    def __init__(self, engine: LiveEngine, place: Store | Path) -> None:
        self._engine = engine
        self._place = place

    async def check(self) -> Health:
        stores = await check_stores(self._place)
        now, ticked_at = now_ms(), self._engine.ticked_at
        ages = {
            symbol: now - ticked_at[symbol] if symbol in ticked_at else None
            for symbol in self._engine.steps
        }
        late = [
            symbol
            for symbol, interval in self._engine.steps.items()
            if (age := ages[symbol]) is None or age > _RECENT_STEPS * INTERVAL_STEP_MS[interval]
        ]
        details = {
            **stores.details,
            **self._engine.describe(),
            "ms_since_last_bar": ages,
            "late": late,
        }
        return Health(stores.is_ready and not late and self._engine.is_up, details)


async def _show(engine: LiveEngine, options: RunOptions, console: Console) -> None:
    if engine.run_id:  # else it was ended before it was up
        found = await engine.report()
        await write_report(registries, found, options.html, options.csv)
        if options.as_json:
            print_json(report_as_json(found))
            return
        console.print(figures_table(found.summary, f"Result of the {options.mode} run"))
        print_trades(found, console)
        print_written(options.html, options.csv, console)
        if found.trades or found.open_rows:
            console.print(shows_it_again(options, engine.run_id), highlight=False, soft_wrap=True)
    elif options.as_json:
        print_json({"run": ""})
        return
    console.print("stopped in good order; the same command carries on")
