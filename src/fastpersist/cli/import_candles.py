"""``fastpersist import-candles``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

import click
from rich.console import Console

from ..errors import InvalidArgumentError
from ..runner import CandleFile, Frame, read_candle_file
from ..runner.candle_file import CandleFileError, symbol_of
from ..runner.candles import CandleFeed
from ..runner.feed import FileFeed
from ..settings import Settings
from ..store import Store
from ..times import to_datetime
from ..tools.candles import CandleImport, import_file
from .exchanges import Exchanges, named_exchange
from .process import run_until_interrupted
from .toolbox import (
    PATH,
    json_option,
    new_table,
    output,
    print_json,
    progress_bar,
    settings_of,
    shown,
    store_options,
)

__all__ = ["import_candles_command"]

_SHOWN_GAPS: Final = 20


@dataclass
class _Found:
    """What came of each file that could be read, and what is wrong with the others."""

    imports: list[tuple[Path, CandleImport]] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def is_all_well(self) -> bool:
        return not self.bad and not any(
            report.different or report.gaps for _, report in self.imports
        )


@click.command("import-candles")
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option(
    "--exchange", required=True, envvar="EXCHANGE", show_envvar=True,
    help="Exchange in the stored contexts.",
)  # fmt: skip
@click.option(
    "--symbol", "symbols", multiple=True,
    help="Symbol of each file, in their order, or one for all; by default what its name begins "
    "with.",
)  # fmt: skip
@click.option(
    "--interval", default=None,
    help="Of all files; by default the smallest distance between two candles of each.",
)  # fmt: skip
@click.option(
    "--fill", "sources", multiple=True, metavar="SOURCE",
    help="Take candles that are missing from here: a file, or ccxt:EXCHANGE. More may follow; what "
    "none of them has stays missing.",
)  # fmt: skip
@json_option
@store_options
def import_candles_command(
    files: tuple[Path, ...],
    exchange: str,
    symbols: tuple[str, ...],
    interval: str | None,
    sources: tuple[str, ...],
    as_json: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Store the candles of FILES: CSV, CSV.gz, Parquet or Arrow; stored ones stay as they are.

    Interrupted, the same command carries on. A malformed file is named and stores nothing; the
    others are imported. Ends with 1 if there was one, if candles are missing between the first and
    the last of a file, or if some were stored before with other figures.
    """
    if len(symbols) > 1 and len(symbols) != len(files):
        raise click.UsageError(f"{len(files)} files, but {len(symbols)} times --symbol")
    named = symbols * len(files) if len(symbols) == 1 else symbols or map(symbol_of, files)
    wanted = list(zip(files, named, strict=True))
    if len({symbol for _, symbol in wanted}) > 1 and not all(map(named_exchange, sources)):
        raise click.UsageError("a file fills candles of one symbol: import one symbol at a time")
    for path in (*files, *(Path(text) for text in sources if named_exchange(text) is None)):
        if not path.is_file():
            raise InvalidArgumentError("files", f"no such file: {path}")
    started = monotonic()
    settings = settings_of(mongo_url, redis_url, folder)
    found = run_until_interrupted(_import(settings, wanted, exchange, interval, sources, as_json))
    _show(found, as_json, monotonic() - started)
    return 0 if found.is_all_well else 1


async def _import(
    settings: Settings,
    wanted: Sequence[tuple[Path, str]],
    exchange_name: str,
    interval: str | None,
    sources: Sequence[str],
    is_quiet: bool,
) -> _Found:
    found = _Found()
    async with Exchanges() as exchanges, AsyncExitStack() as opened:
        store: Store | None = None
        with progress_bar("import", is_quiet=is_quiet) as on_progress:
            for path, symbol in wanted:
                file = await _read(path, symbol, interval, found)
                if file is None:
                    continue
                feeds: dict[str, Callable[[int, int], CandleFeed]] = {}
                for text in sources:
                    feed = await _source(text, exchanges, file, exchange_name, found)
                    if feed is not None:
                        feeds[text] = feed
                # What is no candle file is refused before servers are started for it.
                if store is None:
                    store = await opened.enter_async_context(Store(settings))
                report = await import_file(store, exchange_name, file, feeds, on_progress)
                found.imports.append((path, report))
    return found


async def _read(path: Path, symbol: str, interval: str | None, found: _Found) -> CandleFile | None:
    try:
        return await asyncio.to_thread(read_candle_file, path, symbol, interval=interval)
    except CandleFileError as error:
        found.bad[str(path)] = str(error)
        return None


async def _source(
    text: str, exchanges: Exchanges, file: CandleFile, exchange_name: str, found: _Found
) -> Callable[[int, int], CandleFeed] | None:
    """Return what makes a feed of a range; None for a malformed file, which is noted."""
    if named_exchange(text) is not None:
        return lambda start, end: exchanges.feed(
            text, file.symbol, file.interval, Frame(start, end), exchange_name
        )
    other = await _read(Path(text), file.symbol, file.interval, found)
    return None if other is None else lambda start, end: FileFeed(other, exchange_name)


def _show(found: _Found, as_json: bool, seconds: float) -> None:
    if as_json:
        print_json(
            {
                "files": [
                    {"file": str(path), **asdict(report), "missing": report.missing}
                    for path, report in found.imports
                ],
                "bad_files": found.bad,
                "seconds": round(seconds, 3),
            }
        )
        return
    console = output()
    figures = ("candles", "different", "filled", "missing")
    table = new_table(
        "Import of candles", "file", "symbol", "interval", "exchange", figures=figures
    )
    for path, report in found.imports:
        table.add_row(
            shown(path.name), shown(report.symbol), report.interval, shown(report.exchange_name),
            f"{report.candles:,}", f"{report.different:,}", f"{sum(report.filled.values()):,}",
            f"{report.missing:,}",
        )  # fmt: skip
    if found.imports:
        console.print(table)
    for path, report in found.imports:
        _show_report(path, report, console)
    for message in found.bad.values():
        console.print(shown(message), soft_wrap=True)
    total = sum(report.candles for _, report in found.imports)
    console.print(f"{total:,} candles in {seconds:.1f} s, {len(found.bad):,} bad files")


def _show_report(path: Path, report: CandleImport, console: Console) -> None:
    name = shown(path.name)
    if report.unclosed:
        console.print(f"{name}: {report.unclosed:,} at the end had not closed and were left out")
    if report.different:
        console.print(
            f"{name}: {report.different:,} were stored before with other figures, which stay"
        )
    for gap in report.gaps[:_SHOWN_GAPS]:
        console.print(
            f"{name}: {gap.missing:,} missing from {_text(gap.start)} to before {_text(gap.end)}"
        )
    if len(report.gaps) > _SHOWN_GAPS:
        console.print(f"{name}: and {len(report.gaps) - _SHOWN_GAPS:,} gaps more; see --json")


def _text(ms: int) -> str:
    return to_datetime(ms).isoformat(timespec="minutes").replace("+00:00", "Z")
