"""``fastpersist run``: what all modes share, and the backtest: import, replay, show."""

from __future__ import annotations

import asyncio
import gc
import logging
import shlex
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .. import setup, shutdown
from ..adapters.files import FilesBackend
from ..domains import INTERVAL_STEP_MS
from ..errors import InvalidArgumentError
from ..registry import registries
from ..runner import (
    CandleFeed,
    CandleFile,
    Engine,
    FileFeed,
    Frame,
    GapReport,
    ImportReport,
    StoreFeed,
    import_candles,
    read_candle_file,
)
from ..runner.context import Mode
from ..runner.feed import fetch_candles
from ..runner.health import Health, HealthServer
from ..settings import Settings, SettingsArguments
from ..store import Store
from ..times import parse_moment, to_datetime
from .exchanges import Exchanges, named_exchange
from .health import check_stores
from .process import InterruptedRunError, Interrupts, state_folder, the_only_run
from .report import check_outputs, figures_table, print_trades, print_written, write_report
from .strategy_file import StrategyFile, load_strategies
from .toolbox import print_json, shown

__all__ = ["RunOptions", "lock_folder", "open_place", "run", "shows_it_again"]

_REFRESH_SECONDS: Final = 0.1
_RECENT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the command line says."""

    strategy: Path
    mode: Mode
    names: Sequence[str]
    candles: Sequence[Path]
    symbols: Sequence[str]
    interval: str
    frames: Sequence[str]
    feed: str
    exchange_name: str
    fresh: bool
    as_json: bool
    files: Path | None
    dummy: bool
    csv: Path | None
    html: Path | None
    health_host: str
    health_port: int | None
    settings: SettingsArguments

    @property
    def stored_interval(self) -> str:
        """Interval of candles that are not from a file."""
        return self.interval or "1m"


def shows_it_again(options: RunOptions, run_id: str) -> str:
    """Return the command that reports a run, for printing with markup."""
    where = "" if options.files is None else f" --files {shlex.quote(str(options.files))}"
    return shown(f"fastpersist report {run_id}{where} shows it again")


def open_place(options: RunOptions) -> Store | Path | None:
    """Let all adapters use what the command line says: a store, a folder, or for None nothing."""
    if options.files is not None:
        registries.use_backend(FilesBackend(options.files))
        return options.files
    if options.dummy:
        registries.use_dummy()
        return None
    return setup(logger=logging.getLogger("fastpersist"), **options.settings)


def lock_folder(options: RunOptions) -> tuple[Path, str]:
    """Return where the locks of a run are, and what tells its store from others."""
    if options.files is not None:
        return options.files, ""
    settings = Settings.load(**options.settings)
    if settings.mongo_url is None:  # the servers belong to the folder
        return settings.local_folder, ""
    # The same from whichever directory the command is called.
    return state_folder() or settings.local_folder, settings.mongo_url


async def run(options: RunOptions, console: Console) -> int:
    """Replay a strategy file and return the exit code.

    Raises:
        FastPersistError: A user's mistake or a store that fails.
    """
    candles, feed = list(options.candles), options.feed
    if feed and feed != "store" and named_exchange(feed) is None:
        candles.append(Path(feed))
        feed = ""
    if feed and candles:
        raise InvalidArgumentError("feed", "cannot be combined with files of candles")
    if options.dummy and options.files is not None:
        raise InvalidArgumentError("files", "cannot be combined with --dummy")
    for name, path in (("html", options.html), ("csv", options.csv)):
        if path is not None and options.dummy:
            raise InvalidArgumentError(name, "needs what --dummy does not keep")
        if path is not None and len(options.frames) > 1:
            raise InvalidArgumentError(
                name, "is of one frame", hint="without it, `fastpersist report RUN` writes each"
            )
    check_outputs(options.html, options.csv)
    if options.interval and candles:
        raise InvalidArgumentError("interval", "is for stored candles; a file has its own")
    if options.dummy and not candles:
        raise InvalidArgumentError("candles", "are needed with --dummy, which has none stored")
    strategy_file = load_strategies(options.strategy, options.names)
    symbols: Sequence[str | None] = options.symbols or [None] * len(candles)
    if candles and len(symbols) != len(candles):
        raise InvalidArgumentError("symbol", "has to be given once for each file, or not at all")
    files = [read_candle_file(path, symbol) for path, symbol in zip(candles, symbols, strict=False)]
    named = [file.symbol for file in files] or list(options.symbols)
    if len(set(named)) != len(named):
        raise InvalidArgumentError("symbol", f"is there twice: {', '.join(named)}")
    frames = _frames(options, strategy_file, files)
    place = open_place(options)
    interrupts = Interrupts()
    backtests = _Backtests(options, console, strategy_file, files, interrupts)
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(interrupts)
            if options.health_port is not None:
                await stack.enter_async_context(
                    HealthServer(
                        lambda: backtests.health(place), options.health_host, options.health_port
                    )
                )
            if feed and feed != "store":
                exchanges = await stack.enter_async_context(Exchanges())
                for frame in frames:
                    await backtests.fetch(exchanges, feed, cast(Frame, frame))
            return await backtests.run(frames)
    except InterruptedRunError:
        if not options.as_json:
            console.print("stopped before the replay; the same command begins again")
        return 128 + interrupts.numbers[0]
    except asyncio.CancelledError:  # by the second signal
        if not interrupts.numbers:
            raise
        return 128 + interrupts.numbers[0]
    finally:
        await shutdown()


def _frames(
    options: RunOptions, strategy_file: StrategyFile, files: Sequence[CandleFile]
) -> list[Frame | None]:
    """Return what ``--frame`` says; None stands for all that the files have."""
    if not options.frames:
        if not files:
            raise InvalidArgumentError(
                "frame", "is needed for a run over stored candles", hint="2025-05-01..2025-06-01"
            )
        return [None]
    found = [
        strategy_file.frames.get(text) or _frame(text, strategy_file, files)
        for text in options.frames
    ]
    names = [frame.name for frame in found]
    if len(set(names)) != len(names):
        raise InvalidArgumentError("frame", f"is there twice: {', '.join(names)}")
    return list(found)


def _frame(text: str, strategy_file: StrategyFile, files: Sequence[CandleFile]) -> Frame:
    """Return ``START..END``; one side may be left out beside files."""
    start_text, dots, end_text = text.partition("..")
    if not dots or not (start_text or end_text) or not (files or (start_text and end_text)):
        known = ", ".join(strategy_file.frames)
        raise InvalidArgumentError(
            "frame",
            f"expected START..END or a frame of the strategy file, got {text!r:.60}",
            hint=f"it has {known}" if known else "2025-05-01..2025-06-01",
        )
    start = (
        parse_moment("frame", start_text)
        if start_text
        else min(file.columns.timestamp[0] for file in files)
    )
    end = (
        parse_moment("frame", end_text)
        if end_text
        else max(file.columns.timestamp[-1] + file.step for file in files)
    )
    return Frame(start, end)


def _fingerprint(
    source: bytes, options: RunOptions, files: Sequence[CandleFile], frame: Frame | None
) -> str:
    digest = sha256(source)
    for file in files:
        digest.update(f"\n{file.symbol} {file.interval} {file.digest}".encode())
    if not files:
        digest.update(f"\n{options.stored_interval} {' '.join(options.symbols)}".encode())
    if frame is not None:
        digest.update(f"\n{frame.start}..{frame.end}".encode())
    if options.names:
        digest.update(f"\n{' '.join(options.names)}".encode())
    return digest.hexdigest()[:32]


class _Progress(Progress):
    # Before 15.0 one that is disabled prints an empty line at its end, into what is piped.
    def stop(self) -> None:
        if not self.disable:
            super().stop()


class _Backtests:
    """Replays frames one after the other over the same candles."""

    def __init__(
        self,
        options: RunOptions,
        console: Console,
        strategy_file: StrategyFile,
        files: Sequence[CandleFile],
        interrupts: Interrupts,
    ) -> None:
        self._options = options
        self._console = console
        self._strategy_file = strategy_file
        self._files = files
        self._interrupts = interrupts
        self._different: dict[str, int] = {}
        self._advanced_at = time.monotonic()

    async def health(self, place: Store | Path | None) -> Health:
        """Return whether the stores answer and the replay goes on."""
        stores = Health(True, {}) if place is None else await check_stores(place)
        age = time.monotonic() - self._advanced_at
        details = {**stores.details, "mode": "backtest", "seconds_since_last_bar": round(age, 3)}
        return Health(stores.is_ready and age < _RECENT_SECONDS, details)

    async def fetch(self, exchanges: Exchanges, feed: str, frame: Frame) -> None:
        """Store the candles of a frame and of the warm-up before it, as far as they are not."""
        options = self._options
        warm_up = max(strategy.warm_up for strategy in self._strategy_file.strategies)
        with self._progress() as progress:
            for symbol in options.symbols:
                source = exchanges.feed(
                    feed, symbol, options.stored_interval, frame, options.exchange_name
                )
                start = frame.start - warm_up * INTERVAL_STEP_MS[source.interval]
                task = progress.add_task(f"fetch {symbol}", total=frame.end - start)

                def advance(ms: int, task: Any = task, progress: Progress = progress) -> None:
                    progress.advance(task, ms)
                    self._interrupts.check()

                await fetch_candles(registries, source, start, frame.end, advance)

    async def run(self, frames: Sequence[Frame | None]) -> int:
        """Replay the frames, show what came of them, and return the exit code."""
        found: list[dict[str, Any]] = []
        code = 0
        feeds: list[CandleFeed]
        with self._progress() as progress:
            feeds = [await self._feed_of(file, progress) for file in self._files]
        for frame in frames:
            if self._interrupts.numbers:
                break
            code = await self._run_frame(frame, feeds, found)
        if self._options.as_json:
            print_json(found[0] if len(frames) == 1 else {"runs": found})
        return code

    async def _run_frame(
        self, frame: Frame | None, of_files: Sequence[CandleFeed], found: list[dict[str, Any]]
    ) -> int:
        options, console, interrupts = self._options, self._console, self._interrupts
        strategies = self._strategy_file.strategies
        feeds = of_files
        if not feeds and frame is not None:
            feeds = [
                StoreFeed(
                    registries, options.exchange_name, symbol, options.stored_interval,
                    frame.start, frame.end,
                )
                for symbol in options.symbols
            ]  # fmt: skip
        fingerprint = _fingerprint(self._strategy_file.source, options, self._files, frame)
        engine = Engine(registries, strategies, feeds, options.exchange_name, fingerprint, frame)
        sessions = [] if options.dummy else [engine.session]
        with the_only_run(*lock_folder(options), sessions), self._progress() as progress:
            task = progress.add_task("delete" if options.fresh else "take up", total=None)
            await engine.start(fresh=options.fresh, check=interrupts.check)
            progress.remove_task(task)
            interrupts.end_with(engine.stop)
            # What the start has made stays: collections need not look at it again and again.
            gc.collect()
            gc.freeze()
            resumed_from = engine.summary.resumed_from
            if resumed_from and not options.as_json:
                is_finished = engine.summary.is_finished
                what = "is finished already" if is_finished else "carries on"
                way_out = "; --fresh begins anew" if is_finished else ""
                progress.console.print(
                    f"a stored run {what}: {resumed_from:,} bars were done{way_out}",
                    highlight=False,
                )
            seconds = await self._replay(engine, progress)
        summary = engine.summary
        if options.as_json:
            found.append(_as_json(engine, feeds, self._different, seconds))
        else:
            self._show(engine, frame, seconds)
        await self._report(engine)
        if interrupts.numbers and not summary.is_finished:
            if not options.as_json:
                console.print("stopped in good order; the same command carries on")
            return 128 + interrupts.numbers[0]
        return 0

    def _show(self, engine: Engine, frame: Frame | None, seconds: float) -> None:
        options, console, summary = self._options, self._console, engine.summary
        if (options.frames or not self._files) and not self._interrupts.numbers:
            for symbol, end in engine.early_ends.items():
                # A longer file is another one, of which a run begins anew.
                way_on = "" if self._files else "; with more of them the same command carries on"
                console.print(
                    f"candles of {shown(symbol)} end at {to_datetime(end):%Y-%m-%d %H:%M}, before "
                    f"the end of the frame{way_on}",
                    highlight=False,
                )
        title = "Result" if summary.is_finished else "Result so far"
        if len(options.frames) > 1:
            title = f"{title}, {engine.frame.name}"
        console.print(figures_table(summary, title))
        done = summary.bars - summary.resumed_from
        if done and seconds:
            console.print(
                f"{done:,} bars and {engine.events:,} events in {seconds:.1f} s: "
                f"{done / seconds:,.0f} bars/s, {engine.seconds_of_persistence / seconds:.0%} of "
                "the time spent waiting for the stores",
                highlight=False,
            )

    async def _report(self, engine: Engine) -> None:
        options, console = self._options, self._console
        if options.dummy or (options.as_json and options.html is options.csv is None):
            return
        found = await engine.report()
        await write_report(registries, found, options.html, options.csv)
        if options.as_json:
            return
        print_trades(found, console)
        print_written(options.html, options.csv, console)
        if engine.summary.total.signals:
            console.print(shows_it_again(options, engine.run_id), highlight=False, soft_wrap=True)

    async def _feed_of(self, file: CandleFile, progress: Progress) -> CandleFeed:
        options = self._options
        feed: CandleFeed
        if options.dummy:
            feed, gaps, different = FileFeed(file, options.exchange_name), GapReport.of(file), 0
        else:
            report = await self._import(file, progress)
            feed, gaps, different = report.feed, report.gaps, report.different
            self._different[file.symbol] = different
        if gaps.missing and not options.as_json:
            progress.console.print(
                f"{shown(file.path.name)}: {gaps.missing:,} candles of {file.interval} are "
                f"missing in {gaps.runs:,} gaps, the longest of {gaps.longest:,}",
                highlight=False,
            )
        if different and not options.as_json:
            progress.console.print(
                f"{shown(file.path.name)}: {different:,} candles are stored with other "
                "figures, which stay; the run replays those, not the file's (--exchange NAME keeps "
                "another set)",
                highlight=False,
            )
        return feed

    async def _import(self, file: CandleFile, progress: Progress) -> ImportReport:
        task = progress.add_task(f"import {file.symbol} {file.interval}", total=len(file.columns))

        def advance(count: int) -> None:
            progress.advance(task, count)
            self._interrupts.check()

        return await import_candles(registries, self._options.exchange_name, file, advance)

    async def _replay(self, engine: Engine, progress: Progress) -> float:
        task = progress.add_task("replay", total=1.0)
        started = last = time.monotonic()
        before = engine.summary.bars

        def report(bars: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _REFRESH_SECONDS:
                last = self._advanced_at = now
                rate = (bars - before) / (now - started)
                progress.update(
                    task, completed=engine.share_done, description=f"replay {rate:,.0f} bars/s"
                )

        await engine.run(report)
        progress.update(task, completed=engine.share_done)
        return time.monotonic() - started

    def _progress(self) -> Progress:
        return _Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=self._options.as_json or not self._console.is_terminal,
        )


def _as_json(
    engine: Engine, feeds: Sequence[CandleFeed], different: dict[str, int], seconds: float
) -> dict[str, Any]:
    return {
        "run": engine.run_id,
        **engine.summary.to_state(),
        "resumed_from": engine.summary.resumed_from,
        "frame": {
            "name": engine.frame.name, "start": engine.frame.start, "end": engine.frame.end,
        },
        "share_done": round(engine.share_done, 6),
        "early_ends": engine.early_ends,
        "events": engine.events,
        "seconds": round(seconds, 3),
        "seconds_of_persistence": round(engine.seconds_of_persistence, 3),
        "different_candles": different,
        "intervals": {feed.symbol: feed.interval for feed in feeds},
    }  # fmt: skip
