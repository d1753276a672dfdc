"""The strategy runner over one-minute candles: speed, growth, memory, and what persistence takes.

``python benchmarks/runner.py --candles FOLDER`` takes the four ``-typhonun`` files of the folder
and derives five more symbols from them; without a folder random walks stand in. ``--scaling`` adds
1, 3 and 9 symbols over 1, 7 and 30 days. Each run is a process of its own. ``--profile`` adds a run
under cProfile and says what share of its time each part takes.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fastpersist
from fastpersist.contracts import Candle
from fastpersist.frames import CandleFrame
from fastpersist.hot.columns import CandleColumns, columns_from_rows, part
from fastpersist.local import LocalServers, LocalUrls
from fastpersist.registry import Registries
from fastpersist.runner import (
    CandleFile,
    Context,
    Engine,
    Frame,
    Signal,
    StoreFeed,
    Strategy,
    import_candles,
    read_candle_file,
)

START = 1_746_372_960_000
"""2025-05-04 15:36 UTC, from when on all four files have every minute."""

MINUTE = 60_000
DAY = 1_440
REAL = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
DERIVED = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT", "EEEUSDT")
EXCHANGE = "bench"


class Hourly(Strategy):
    """A mean over 200 closes at each minute, and a signal every hour or so."""

    name = "hourly"
    warm_up = 200
    cost = 1_000.0
    fee_percent = 0.02

    async def get_signal(self, ctx: Context) -> Signal | None:
        closes = ctx.candles("1m", 200).close.tolist()
        if len(closes) < 200:
            return None
        mean = sum(closes) / 200
        above, before = closes[-1] > mean, closes[-2] > mean
        if above == before:
            return None
        if not await ctx.interval("hours").once(f"{ctx.symbol} {ctx.when:%Y%m%d%H}"):
            return None
        way = 1 if above else -1
        return Signal(
            position="long" if above else "short",
            price_take_profit=ctx.price * (1 + way * 0.004),
            price_stop_loss=ctx.price * (1 - way * 0.004),
            minute_estimated_time=50,
        )


def real_candles(folder: Path) -> dict[str, Sequence[Candle]]:
    """Return 30 days of nine symbols, five of them derived by another scale of price."""
    found: dict[str, Sequence[Candle]] = {}
    for symbol in REAL:
        file = read_candle_file(folder / f"{symbol}-1m-typhonun.csv.gz")
        found[symbol] = [
            row for row in file.candles if START <= row["timestamp"] < START + 30 * DAY * MINUTE
        ]
    for number, symbol in enumerate(DERIVED):
        factor = 1.7 + number
        found[symbol] = [
            Candle(
                timestamp=row["timestamp"],
                open=round(row["open"] * factor, 6),
                high=round(row["high"] * factor, 6),
                low=round(row["low"] * factor, 6),
                close=round(row["close"] * factor, 6),
                volume=row["volume"],
            )
            for row in found[REAL[number % len(REAL)]]
        ]
    return found


def walks(days: int) -> dict[str, Sequence[Candle]]:
    """Return random walks under the same names."""
    found: dict[str, Sequence[Candle]] = {}
    for seed, symbol in enumerate((*REAL, *DERIVED)):
        chance, price, rows = random.Random(seed), 100.0, []
        for index in range(days * DAY):
            opened = price
            price = round(price * (1 + chance.gauss(0, 0.0006)), 4)
            spread = abs(chance.gauss(0, 0.0003)) * price
            rows.append(
                Candle(
                    timestamp=START + index * MINUTE, open=opened,
                    high=round(max(opened, price) + spread, 4),
                    low=round(min(opened, price) - spread, 4), close=price,
                    volume=round(chance.expovariate(0.1), 3),
                )
            )  # fmt: skip
        found[symbol] = rows
    return found


class _InMemory:
    """Serves candles to a run that keeps nothing."""

    def __init__(self, symbol: str, columns: CandleColumns) -> None:
        self._symbol = symbol
        self._columns = columns

    async def wait_for_init(self, initial: bool) -> None:
        pass

    async def read_candles_frame(self, start: int, end: int) -> CandleFrame:
        first = max(0, (start - START) // MINUTE)
        columns = part(self._columns, first, (end - START) // MINUTE)
        return CandleFrame(self._symbol, "1m", EXCHANGE, columns, start, end)

    async def read_candles_data(self, *arguments: Any) -> None:
        raise AssertionError("the engine reads frames")

    async def write_candles_data(self, candles: Sequence[Candle]) -> None:
        raise AssertionError("the engine writes no candles")


async def replay(family: Registries, symbols: Sequence[str], days: int) -> dict[str, Any]:
    """Run the strategy and return what was measured."""
    frame = Frame(START, START + days * DAY * MINUTE, f"{len(symbols)}x{days}")
    feeds = [
        StoreFeed(family, EXCHANGE, symbol, "1m", frame.start, frame.end) for symbol in symbols
    ]
    engine = Engine(family, [Hourly()], feeds, EXCHANGE, "benchmark", frame)
    await engine.start(fresh=True)
    started, cpu = time.perf_counter(), time.process_time()
    summary = await engine.run()
    seconds = time.perf_counter() - started
    return {
        "symbols": len(symbols),
        "days": days,
        "bars": summary.bars,
        "signals": summary.total.signals,
        "events": engine.events,
        "seconds": seconds,
        "bars_per_second": summary.bars / seconds,
        "waiting": engine.seconds_of_persistence / seconds,
        "cpu": (time.process_time() - cpu) / seconds,
        "megabytes": _peak_megabytes(),
    }


PARTS = (
    ("strategy and candles", ("benchmarks/runner.py", "runner/candles.py", "runner/context.py",
                              "frames.py", "columns")),
    ("rules and rows", ("runner/engine.py", "runner/desk.py", "runner/position.py",
                        "runner/rows.py", "runner/summary.py", "uuid.py", "times.py")),
    ("redo log", ("runner/journal.py",)),
    ("store", ("fastpersist/services", "fastpersist/adapters", "registry.py", "coalesce.py",
               "payloads.py", "fastpersist/hot", "pymongo", "bson", "redis")),
    ("event loop", ("asyncio", "selectors.py", "socket.py")),
)  # fmt: skip


def shares_of(profile: cProfile.Profile) -> dict[str, float]:
    """Return what share of the time each part takes itself; builtins count for who calls them."""
    seconds: dict[str, float] = {}

    def count(file: str, spent: float) -> None:
        part = next((name for name, files in PARTS if any(one in file for one in files)), "other")
        seconds[part] = seconds.get(part, 0) + spent

    stats: Any = pstats.Stats(profile)
    for (file, _, _), (_, _, spent, _, callers) in stats.stats.items():
        if file != "~":
            count(file, spent)
            continue
        for (caller, _, _), (_, _, of_caller, _) in callers.items():
            count(caller, of_caller)
    total = sum(seconds.values())
    return {part: spent / total for part, spent in seconds.items()}


async def profiled_run(urls: Sequence[str], symbols: int, days: int) -> dict[str, float]:
    """Run once more under a profiler, which slows small calls down more than large ones."""
    async with fastpersist.open(mongo_url=urls[0], redis_url=urls[1]) as store:
        _settle_memory()
        profile = cProfile.Profile()
        profile.enable()
        await replay(store, (*REAL, *DERIVED)[:symbols], days)
        profile.disable()
    return shares_of(profile)


async def one_run(urls: Sequence[str], symbols: int, days: int, kept: bool) -> dict[str, Any]:
    """Run in this process against servers that hold the candles, or keep nothing."""
    names = (*REAL, *DERIVED)[:symbols]
    async with fastpersist.open(mongo_url=urls[0], redis_url=urls[1]) as store:
        if kept:
            _settle_memory()
            return await replay(store, names, days)
        end = START + days * DAY * MINUTE
        frames = [
            await store.candle.read_candles_frame(symbol, "1m", EXCHANGE, START, end)
            for symbol in names
        ]
    columns = {frame.symbol: frame.columns for frame in frames}
    family = Registries()
    family.use_dummy()
    family.candle.use_persist_candle_adapter(
        lambda symbol, interval, exchange_name: _InMemory(symbol, columns[symbol])
    )
    _settle_memory()
    return await replay(family, names, days)


def _peak_megabytes() -> float:
    # Not by getrusage, which tells a child of its parent's peak.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _settle_memory() -> None:
    # As the command does: what the start has made need not be looked at again and again.
    gc.collect()
    gc.freeze()


def show(title: str, found: dict[str, Any]) -> None:
    """Print a line of the table."""
    print(
        f"{title:<12}{found['symbols']:>3} x {found['days']:>3} d {found['bars']:>10,} bars "
        f"{found['signals']:>6,} signals {found['events']:>8,} events {found['seconds']:>7.1f} s "
        f"{found['bars_per_second']:>8,.0f} bars/s  waiting {found['waiting']:>4.0%}  "
        f"cpu {found['cpu']:>4.0%}  {found['megabytes']:>5.0f} MB",
        flush=True,
    )


async def store_candles(urls: LocalUrls, candles: dict[str, Sequence[Candle]]) -> None:
    """Import the candles of all symbols."""
    started = time.perf_counter()
    async with fastpersist.open(mongo_url=urls.mongo_url, redis_url=urls.redis_url) as store:
        for symbol, rows in candles.items():
            digest = sha256(symbol.encode()).hexdigest()
            await import_candles(
                store,
                EXCHANGE,
                CandleFile(Path(symbol), symbol, "1m", columns_from_rows(rows), digest),
            )
    count = sum(map(len, candles.values()))
    print(f"{count:,} candles imported in {time.perf_counter() - started:.1f} s", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candles", type=Path, help="folder of the four real files")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--scaling", action="store_true", help="also 1, 3, 9 symbols; 1, 7 days")
    parser.add_argument("--profile", action="store_true", help="also where the time goes")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        *urls, symbols, days, kept = arguments.one
        if kept == "profile":
            print(json.dumps(await profiled_run(urls, int(symbols), int(days))))
        else:
            print(json.dumps(await one_run(urls, int(symbols), int(days), kept == "kept")))
        return
    days = arguments.days
    candles = real_candles(arguments.candles) if arguments.candles else walks(days)
    results = {}
    with TemporaryDirectory() as folder:
        async with LocalServers(Path(folder)) as urls:
            await store_candles(urls, candles)
            sizes = [(9, days, "kept"), (9, days, "dummy")]
            if arguments.scaling:
                sizes += [
                    (n, d, "kept") for n in (1, 3, 9) for d in (1, 7, days) if (n, d) != (9, days)
                ]
            if arguments.profile:
                sizes.append((9, days, "profile"))
            for symbols, length, kept in sizes:
                command = [
                    sys.executable, __file__, "--one", urls.mongo_url, urls.redis_url,
                    str(symbols), str(length), kept,
                ]  # fmt: skip
                output = await asyncio.to_thread(subprocess.check_output, command, text=True)
                found = results[f"{kept} {symbols}x{length}"] = json.loads(output)
                if kept == "profile":
                    for part, share in sorted(found.items(), key=lambda one: -one[1]):
                        print(f"{part:<24}{share:>6.1%} of the profiled time", flush=True)
                else:
                    show(kept, found)
    whole, alone = (results[f"{kept} 9x{days}"]["seconds"] for kept in ("kept", "dummy"))
    print(f"persistence is {1 - alone / whole:.0%} of the time")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
