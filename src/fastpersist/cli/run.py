"""``fastpersist run``: import, replay, show."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .. import setup, shutdown
from ..adapters.files import FilesBackend
from ..contracts import Candle
from ..errors import FastPersistError, InvalidArgumentError
from ..registry import Registries, registries
from ..runner import (
    CandleFile,
    Engine,
    Feed,
    Strategy,
    StrategyError,
    Summary,
    import_candles,
    read_candle_file,
)
from ..runner.strategy import line_of
from ..settings import Settings

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]  # None says: no locking

__all__ = ["RunOptions", "RunUnderWayError", "load_strategy", "run"]

_REFRESH_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line says."""

    strategy: Path
    candles: Sequence[Path]
    symbols: Sequence[str | None]
    exchange_name: str
    fresh: bool
    as_json: bool
    files: Path | None
    dummy: bool
    settings: dict[str, Any]


class RunUnderWayError(FastPersistError):
    """The same run is under way in another process."""


async def run(options: RunOptions, console: Console) -> int:
    """Do the command and return its exit code.

    Raises:
        FastPersistError: A user's mistake or a store that fails.
    """
    if options.dummy and options.files is not None:
        raise InvalidArgumentError("files", "cannot be combined with --dummy")
    strategy, source = load_strategy(options.strategy)
    files = [
        read_candle_file(path, symbol)
        for path, symbol in zip(options.candles, options.symbols, strict=True)
    ]
    symbols = [file.symbol for file in files]
    if len(set(symbols)) != len(symbols):
        raise InvalidArgumentError("symbol", f"two files are of one symbol: {', '.join(symbols)}")
    if options.files is not None:
        registries.use_backend(FilesBackend(options.files))
    elif options.dummy:
        _use_dummy(registries, files)
    else:
        setup(logger=logging.getLogger("fastpersist"), **options.settings)
    try:
        return await _run(options, console, strategy, _fingerprint(source, strategy, files), files)
    finally:
        await shutdown()


def load_strategy(path: Path) -> tuple[Strategy, bytes]:
    """Return the one strategy that a Python file defines, and the file's bytes.

    Raises:
        StrategyError: The file is missing or fails, or holds none or several strategies.
    """
    if not path.is_file():
        raise StrategyError(f"no such file: {path}")
    if path.suffix != ".py":
        raise StrategyError(f"{path} is no Python file")
    source = path.read_bytes()
    # A name of its own: a strategy in json.py must not take the place of that module. Compiled
    # from the bytes that are returned: byte code kept for a file may be that of an earlier one.
    module = ModuleType(f"fastpersist_strategy_{path.stem}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)
    except Exception as error:
        raise StrategyError(
            f"{path} fails: {type(error).__name__}: {error}{line_of(error, path)}"
        ) from error
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Strategy)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(kind.__name__ for kind in found) or "none"
        raise StrategyError(f"{path} has to define exactly one Strategy class, found: {names}")
    try:
        return found[0](), source
    except Exception as error:
        raise StrategyError(
            f"{path} fails: {type(error).__name__}: {error}{line_of(error, path)}"
        ) from error


def _fingerprint(source: bytes, strategy: Strategy, files: Sequence[CandleFile]) -> str:
    digest = sha256(source)
    for file in files:
        digest.update(f"\n{file.symbol} {file.interval} {file.digest}".encode())
    return digest.hexdigest()[:32]


def _use_dummy(target: Registries, files: Sequence[CandleFile]) -> None:
    target.use_dummy()
    by_symbol = {file.symbol: file for file in files}
    target.candle.use_persist_candle_adapter(
        lambda symbol, interval, exchange_name: _CandlesInMemory(by_symbol[symbol])
    )


class _CandlesInMemory:
    """Serves the candles of a file, so that a run without persistence has something to replay."""

    def __init__(self, file: CandleFile) -> None:
        self._places = {row["timestamp"]: place for place, row in enumerate(file.candles)}
        self._file = file

    async def wait_for_init(self, initial: bool) -> None:
        pass

    async def read_candles_data(
        self, limit: int, since_timestamp: int, until_timestamp: int | None = None
    ) -> list[Candle] | None:
        place = self._places.get(since_timestamp)
        if place is None:
            return None
        return list(self._file.candles[place : place + limit])

    async def write_candles_data(self, candles: Sequence[Candle]) -> None:
        pass


async def _run(
    options: RunOptions,
    console: Console,
    strategy: Strategy,
    fingerprint: str,
    files: Sequence[CandleFile],
) -> int:
    quiet = options.as_json or not console.is_terminal
    interrupted: list[int] = []
    with ExitStack() as stack:
        progress = stack.enter_context(_progress(console, quiet))
        feeds = [await _import(options, progress, file) for file in files]
        engine = Engine(registries, strategy, feeds, options.exchange_name, fingerprint)
        stack.enter_context(_the_only_run(options, engine.session))
        await engine.start(fresh=options.fresh)
        _stop_on_signals(engine, interrupted)
        resumed_from = engine.summary.resumed_from
        if resumed_from and not options.as_json:
            is_finished = engine.summary.is_finished
            what = "is finished already" if is_finished else "carries on"
            way_out = "; --fresh begins anew" if is_finished else ""
            progress.console.print(
                f"a stored run {what}: {resumed_from:,} of {engine.total_bars:,} bars were done"
                f"{way_out}",
                highlight=False,
            )
        seconds = await _replay(engine, progress)
    summary = engine.summary
    if options.as_json:
        print(json.dumps(_as_json(engine, files, feeds, seconds)))
    else:
        console.print(_table(summary))
        done = summary.bars - resumed_from
        if done and seconds:
            console.print(
                f"{done:,} bars and {engine.events:,} events in {seconds:.1f} s: "
                f"{done / seconds:,.0f} bars/s, {engine.events / seconds:,.0f} events/s",
                highlight=False,
            )
    if interrupted and not summary.is_finished:
        if not options.as_json:
            console.print("stopped in good order; the same command carries on")
        return 128 + interrupted[0]
    return 0


@contextmanager
def _the_only_run(options: RunOptions, session: Sequence[object]) -> Iterator[None]:
    """Refuse a second process of this machine that does the same run on the same store."""
    if options.dummy or fcntl is None:
        yield
        return
    if options.files is not None:
        folder, store = options.files, ""
    else:
        settings = Settings.load(**options.settings)
        folder, store = settings.local_folder, settings.mongo_url or ""
    name = sha256(repr((store, *session)).encode()).hexdigest()[:16]
    path = folder / f".run-{name}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError:  # a read-only place, as in a container: nothing to lock with
        yield
        return
    # The system gives the lock back when the process ends, however it ends.
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunUnderWayError(
                "another process is doing this run on this store",
                hint="wait for it or end it; two at once would count everything twice",
            ) from None
        yield


async def _import(options: RunOptions, progress: Progress, file: CandleFile) -> Feed:
    task = progress.add_task(f"import {file.symbol} {file.interval}", total=len(file.candles))
    feed = await import_candles(
        registries, options.exchange_name, file, lambda count: progress.advance(task, count)
    )
    gaps = feed.gaps
    if gaps.missing and not options.as_json:
        progress.console.print(
            f"{escape(file.path.name)}: {gaps.missing:,} candles of {file.interval} are missing in "
            f"{gaps.runs:,} gaps, the longest of {gaps.longest:,}",
            highlight=False,
        )
    if feed.different and not options.as_json:
        progress.console.print(
            f"{escape(file.path.name)}: {feed.different:,} candles are stored with other figures, "
            "which stay; the run replays those, not the file's (--exchange NAME keeps another set)",
            highlight=False,
        )
    return feed


async def _replay(engine: Engine, progress: Progress) -> float:
    task = progress.add_task("replay", total=engine.total_bars, completed=engine.summary.bars)
    started = last = time.monotonic()

    def report(bars: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _REFRESH_SECONDS:
            last = now
            rate = engine.events / (now - started)
            progress.update(task, completed=bars, description=f"replay {rate:,.0f} events/s")

    await engine.run(report)
    progress.update(task, completed=engine.summary.bars)
    return time.monotonic() - started


def _progress(console: Console, quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
    )


def _stop_on_signals(engine: Engine, interrupted: list[int]) -> None:
    def stop(number: int) -> None:
        interrupted.append(number)
        engine.stop()

    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):  # Windows has no such handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)


def _table(summary: Summary) -> Table:
    table = Table(title="Result" if summary.is_finished else "Result so far")
    table.add_column("symbol")
    for heading in ("signals", "wins", "losses", "cancelled", "win rate", "PnL", "max drawdown"):
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    rows = [*summary.symbols.values(), *([summary.total] if len(summary.symbols) > 1 else [])]
    for row in rows:
        table.add_row(
            escape(row.symbol),
            str(row.signals),
            str(row.wins),
            str(row.losses),
            str(row.cancelled),
            f"{row.win_rate:.1f} %",
            f"{row.profit:,.2f}",
            f"{row.max_drawdown:,.2f}",
        )
    table.caption = f"quote currency, after fees; open positions: {summary.open_positions}"
    return table


def _as_json(
    engine: Engine, files: Sequence[CandleFile], feeds: Sequence[Feed], seconds: float
) -> dict[str, Any]:
    state = engine.summary.to_state()
    return {
        **state,
        "resumed_from": engine.summary.resumed_from,
        "frame_name": engine.frame_name,
        "total_bars": engine.total_bars,
        "events": engine.events,
        "seconds": round(seconds, 3),
        "different_candles": {feed.symbol: feed.different for feed in feeds},
        "intervals": {file.symbol: file.interval for file in files},
    }
