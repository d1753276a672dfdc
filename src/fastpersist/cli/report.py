"""``fastpersist report``: what a run has left, as a table, JSON, CSV or one HTML page."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..errors import InvalidArgumentError
from ..hot.columns import CandleColumns
from ..registry import Registries
from ..runner import Report, Summary, Trade, load_report, load_reports
from ..runner.page import plotly_modules, report_page, span_of
from ..settings import SettingsArguments
from ..times import to_datetime
from .toolbox import opened_registries, print_json, shown, unfinished_file

__all__ = [
    "ReportOptions",
    "check_outputs",
    "figures_table",
    "print_trades",
    "print_written",
    "report",
    "report_as_json",
    "write_report",
]


# Narrow enough for a terminal of 80 columns.
_COLUMNS: Final = (
    ("trades", "trades", "d"),
    ("win\nrate %", "win_rate", ".1f"),
    ("PnL", "profit", ",.2f"),
    ("profit\nfactor", "profit_factor", ".2f"),
    ("Sharpe", "sharpe", ".2f"),
    ("max\ndrawdown", "max_drawdown", ",.2f"),
    ("exposure\n%", "exposure", ".1f"),
    ("holding\nmin", "holding_minutes", ",.0f"),
)


_MOST_TRADES: Final = 20


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What the command was asked for."""

    run_id: str | None
    as_json: bool
    csv: Path | None
    html: Path | None
    files: Path | None
    settings: SettingsArguments


async def report(options: ReportOptions, console: Console) -> int:
    """Show a run, or all of them without an id; return the exit code.

    Raises:
        InvalidArgumentError: There is no such run, or an output cannot be written.
        ConfigurationError: A package that the page needs is missing.
    """
    async with opened_registries(options.files, options.settings) as registries:
        return await _show(registries, options, console)


async def _show(registries: Registries, options: ReportOptions, console: Console) -> int:
    if options.run_id is None:
        _list(await load_reports(registries), options, console)
        return 0
    found = await load_report(registries, options.run_id)
    await write_report(registries, found, options.html, options.csv)
    if options.as_json:
        print_json(report_as_json(found))
        return 0
    console.print(_title(found), highlight=False)
    console.print(figures_table(found.summary))
    print_trades(found, console)
    print_written(options.html, options.csv, console)
    return 0


def check_outputs(html: Path | None, csv: Path | None) -> None:
    """Refuse at the start of a run what could not be written at its end.

    Raises:
        InvalidArgumentError: The folder of a file is not there.
        ConfigurationError: A package that the page needs is missing.
    """
    if html is not None:
        plotly_modules()
    for name, path in (("html", html), ("csv", csv)):
        if path is not None and not path.absolute().parent.is_dir():
            raise InvalidArgumentError(name, f"no such folder: {path.parent}")


async def write_report(
    registries: Registries, found: Report, html: Path | None, csv: Path | None
) -> None:
    """Write a report to the files that are asked for.

    Raises:
        InvalidArgumentError: One cannot be written.
        ConfigurationError: A package that the page needs is missing.
    """
    if html is not None:
        candles = {symbol: await _candles(registries, found, symbol) for symbol in found.intervals}
        page = report_page(found, candles)
        with unfinished_file("html", html) as unfinished:
            unfinished.write_text(page, encoding="utf-8")
    if csv is not None:
        with unfinished_file("csv", csv) as unfinished:
            _write_trades(found.trades, unfinished)


def print_written(html: Path | None, csv: Path | None, console: Console) -> None:
    """Say which files have been written."""
    for path in (html, csv):
        if path is not None:
            console.print(f"written: {shown(str(path))}", highlight=False)


async def _candles(registries: Registries, found: Report, symbol: str) -> CandleColumns:
    frame = await registries.candle.read_candles_frame(
        symbol, found.intervals[symbol], found.exchange_name, found.start, found.end
    )
    return frame.columns


def _title(found: Report) -> str:
    return (
        f"{shown(found.mode)} run {shown(found.run_id)}: {shown(found.exchange_name)}, "
        f"{shown(found.frame_name)}{', ' if found.frame_name else ''}{shown(span_of(found))}"
    )


def figures_table(summary: Summary, title: str = "") -> Table:
    """Return the figures of a run as a table for people."""
    table = Table(title=shown(title), box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("symbol", overflow="fold", min_width=7)
    for heading, _, _ in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    rows = summary.figures()
    if len(rows) == 2:
        del rows[1]
    for row in rows:
        figures = (
            "-" if row[name] is None else format(row[name], spec) for _, name, spec in _COLUMNS
        )
        table.add_row(shown(row["symbol"]), *figures)
    table.caption = f"quote currency, after fees; open positions: {summary.open_positions}"
    return table


def print_trades(found: Report, console: Console) -> None:
    """Print the closed positions, the last ones of many."""
    if not found.trades:
        return
    table = Table(title="Closed positions", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("closed", no_wrap=True)
    has_several = len(found.strategies) > 1
    table.add_column("position", overflow="fold")
    for heading in ("entry", "exit", "PnL", "PnL %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("end", no_wrap=True)
    for trade in found.trades[-_MOST_TRADES:]:
        name = f"{trade.strategy_name} {trade.symbol}" if has_several else trade.symbol
        table.add_row(
            f"{to_datetime(trade.closed_at):%Y-%m-%d %H:%M}",
            shown(f"{name} {trade.position}"),
            f"{trade.price_open:.6g}",
            f"{trade.price_close:.6g}",
            f"{trade.profit:,.2f}",
            f"{trade.percent:.3f}",
            shown(trade.reason.replace("_", " ")),
        )
    left_out = len(found.trades) - _MOST_TRADES
    if left_out > 0:
        table.caption = f"{left_out:,} earlier ones are left out; --json, --csv and --html have all"
    console.print(table)


def _list(reports: Sequence[Report], options: ReportOptions, console: Console) -> None:
    if options.as_json:
        print_json([report_as_json(found) for found in reports])
        return
    table = Table(title="Runs that have had a signal", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for heading in ("mode", "exchange", "frame", "symbols"):
        table.add_column(heading, overflow="fold")
    for heading in ("trades", "PnL", "open"):
        table.add_column(heading, justify="right", no_wrap=True)
    for found in reports:
        table.add_row(
            shown(found.run_id),
            shown(found.mode),
            shown(found.exchange_name),
            shown(found.frame_name),
            shown(", ".join(found.intervals)),
            str(len(found.trades)),
            f"{found.summary.total.profit:,.2f}",
            str(found.summary.open_positions),
        )
    console.print(table)


def report_as_json(found: Report) -> dict[str, Any]:
    """Return a report for machines."""
    *rows, total = found.summary.figures()
    return {
        "run": found.run_id,
        "mode": found.mode,
        "exchange_name": found.exchange_name,
        "frame": {"name": found.frame_name, "start": found.start, "end": found.end},
        "intervals": found.intervals,
        "symbols": {row["symbol"]: row for row in rows},
        "total": total,
        "open_positions": found.summary.open_positions,
        "open": [asdict(trade) for trade in found.open_trades],
        "trades": [asdict(trade) for trade in found.trades],
    }


def _write_trades(trades: Sequence[Trade], path: Path) -> None:
    names = [field.name for field in fields(Trade)]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(names)
        rows.writerows([getattr(trade, name) for name in names] for trade in trades)
