"""Commands of ``fastpersist`` and their options."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from .. import __version__, has_extensions
from ..errors import FastPersistError
from ..local import down as stop_servers
from ..local import up as start_servers
from ..runner.context import Mode
from ..runner.health import PORT
from ..times import parse_moment
from .backup import backup_command, restore_command
from .cache import cache_command
from .candles import ExportOptions, export_candles
from .doctor import doctor_command
from .dump import export_dump_command, import_dump_command
from .exchanges import named_exchange
from .import_candles import import_candles_command
from .inspect import inspect_command, tail_command
from .live import run_live
from .process import run_until_interrupted
from .report import ReportOptions, report
from .run import RunOptions, run
from .toolbox import (
    PATH,
    discard_output,
    folder_option,
    json_option,
    output,
    settings_arguments,
    store_options,
)

__all__ = ["run_app"]

console = output(highlight=True)
errors = Console(stderr=True)


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        kind = "compiled" if has_extensions() else "pure Python"
        click.echo(f"fastpersist {__version__} ({kind})")
        context.exit()


class _UnreadOutputError(Exception):
    """Nobody reads the output any more, as `head` does after some lines."""


@contextmanager
def _unread_output_named() -> Iterator[None]:
    # click and rich would end the command with 1, which means here that something was found.
    try:
        yield
    except BrokenPipeError as error:
        raise _UnreadOutputError from error
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            raise _UnreadOutputError from end
        raise


class _App(click.Group):
    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _unread_output_named():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _unread_output_named():
            return super().invoke(ctx)


@click.group(cls=_App, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show version and build.",
)  # fmt: skip
def app() -> None:
    """Persistence for trading strategies on MongoDB and Redis."""


def _each(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> list[str]:
    return [name for text in texts for name in text.split(",") if name]


@app.command("run")
@click.argument("strategy", type=PATH, envvar="STRATEGY_FILE")
@click.argument("more_candles", type=PATH, nargs=-1)
@click.option(
    "--mode", type=click.Choice(["backtest", "paper", "live"]), default="backtest", envvar="MODE",
    show_default=True, show_envvar=True,
    help="Replay candles, or run on the clock with orders on paper, or with real ones.",
)  # fmt: skip
@click.option(
    "--candles", type=PATH, multiple=True,
    help="Files to replay: CSV, CSV.gz, Parquet or Arrow with the columns time, open, high, low, "
    "close, volume; more files may follow, one for each symbol. Times are opening times in ms or s "
    "since the epoch, or text, which counts as UTC unless it names a zone. Stored candles are "
    "replayed without.",
)  # fmt: skip
@click.option(
    "--symbol", "symbols", multiple=True, envvar="SYMBOL", callback=_each, show_envvar=True,
    help="Symbol of each file, in their order; without files, each symbol to run.",
)  # fmt: skip
@click.option("--interval", default="", help="Of candles that are not from a file; 1m by default.")
@click.option(
    "--frame", "frames", multiple=True, envvar="FRAME", callback=_each, show_envvar=True,
    help="START..END, ISO text (UTC) or ms, or a frame that the strategy file names; more may "
    "follow, also after a comma. All that the files have by default. The strategy's warm-up is "
    "looked for before START. The variable is for backtests alone.",
)  # fmt: skip
@click.option(
    "--feed", default="", envvar="FEED", show_envvar=True,
    help="Where candles come from: store, a file, or ccxt:EXCHANGE, which a backtest stores and "
    "replays. On paper and live ccxt:EXCHANGE by default, after --exchange.",
)  # fmt: skip
@click.option(
    "--strategy", "names", multiple=True, envvar="STRATEGY", callback=_each, show_envvar=True,
    help="Name of a strategy of the file; more may follow, and by default all run together.",
)  # fmt: skip
@click.option(
    "--exchange", default="", envvar="EXCHANGE", show_envvar=True,
    help="Exchange in stored contexts; that of --feed by default, else demo.",
)  # fmt: skip
@click.option(
    "--entry", is_flag=True, envvar="ENTRY", show_envvar=True,
    help="Run every strategy of the file on every symbol of CC_SYMBOL_LIST.",
)  # fmt: skip
@click.option("--csv", type=PATH, help="At the end write the closed positions to this file.")
@click.option(
    "--html", type=PATH, help="At the end write one page with curves, candles and positions."
)
@click.option("--fresh", is_flag=True, help="Begin anew; a backtest deletes its own earlier rows.")
@json_option
@click.option("--verbose", is_flag=True, envvar="VERBOSE", show_envvar=True, help="Log more.")
@click.option(
    "--health-host", default="127.0.0.1", envvar="FASTPERSIST_HEALTH_HOST", show_default=True,
    show_envvar=True, help="Address of the health endpoint.",
)  # fmt: skip
@click.option(
    "--health-port", type=click.IntRange(0, 65_535), envvar="FASTPERSIST_HEALTH_PORT",
    show_envvar=True, show_default=f"{PORT} on paper and live, none in a backtest",
    help="Port of the health endpoint; 0 takes a free one.",
)  # fmt: skip
@click.option("--files", type=PATH, help="Keep all state in files below this folder.")
@click.option("--dummy", is_flag=True, help="Keep nothing.")
@store_options
def run_command(
    strategy: Path,
    more_candles: tuple[Path, ...],
    mode: Mode,
    candles: tuple[Path, ...],
    symbols: list[str],
    interval: str,
    frames: list[str],
    feed: str,
    names: list[str],
    exchange: str,
    entry: bool,
    csv: Path | None,
    html: Path | None,
    fresh: bool,
    as_json: bool,
    verbose: bool,
    health_host: str,
    health_port: int | None,
    files: Path | None,
    dummy: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Run the STRATEGY file; a run that was interrupted carries on."""
    source = click.get_current_context().get_parameter_source("frames")
    if mode != "backtest" and source is ParameterSource.ENVIRONMENT:
        frames = []  # of the variables that a backtest shares
    if entry and not symbols:
        symbols = [name for name in os.environ.get("CC_SYMBOL_LIST", "").split(",") if name]
    if mode == "backtest" and not (candles or more_candles or symbols or feed):
        raise click.UsageError("give --candles, or --symbol and --frame for stored candles")
    runner = logging.getLogger("fastpersist.runner")
    runner.setLevel(logging.INFO if mode != "backtest" else logging.NOTSET)
    if verbose:
        logging.getLogger("fastpersist").setLevel(logging.DEBUG)
        runner.setLevel(logging.NOTSET)
    options = RunOptions(
        strategy=strategy,
        mode=mode,
        names=names,
        candles=[*candles, *more_candles],
        symbols=symbols,
        interval=interval,
        frames=frames,
        feed=feed,
        exchange_name=exchange or named_exchange(feed) or "demo",
        fresh=fresh,
        as_json=as_json,
        files=files,
        dummy=dummy,
        csv=csv,
        html=html,
        health_host=health_host,
        health_port=health_port,
        settings=settings_arguments(mongo_url, redis_url, folder),
    )
    command = run if mode == "backtest" else run_live
    return asyncio.run(command(options, console))


@app.command("export-candles")
@click.argument("symbol")
@click.argument("interval")
@click.argument("exchange")
@click.option("--start", required=True, help="First opening time: ISO text (UTC) or ms.")
@click.option("--end", required=True, help="The moment before which the last candle opens.")
@click.option(
    "--output", type=PATH, help="A .csv, .csv.gz, .parquet or .arrow file; CSV is printed else."
)
@json_option
@click.option("--files", type=PATH, help="Read the file family below this folder.")
@store_options
def export_candles_command(
    symbol: str,
    interval: str,
    exchange: str,
    start: str,
    end: str,
    output: Path | None,
    as_json: bool,
    files: Path | None,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Export the stored candles of SYMBOL, INTERVAL and EXCHANGE; gaps stay gaps."""
    if as_json and output is None:
        raise click.UsageError("--json says what was exported, so the candles need --output")
    options = ExportOptions(
        symbol=symbol,
        interval=interval,
        exchange_name=exchange,
        start=parse_moment("start", start),
        end=parse_moment("end", end),
        output=output,
        as_json=as_json,
        files=files,
        settings=settings_arguments(mongo_url, redis_url, folder),
    )
    return run_until_interrupted(export_candles(options, errors))


@app.command("report")
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the closed positions.")
@click.option("--csv", type=PATH, help="Write the closed positions to this file.")
@click.option("--html", type=PATH, help="Write one page with curves, candles and positions.")
@click.option("--files", type=PATH, help="Read the file family below this folder.")
@store_options
def report_command(
    run_id: str | None,
    as_json: bool,
    csv: Path | None,
    html: Path | None,
    files: Path | None,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Show what a RUN has left, also while it is going; without one, list all runs."""
    options = ReportOptions(
        run_id=run_id,
        as_json=as_json,
        csv=csv,
        html=html,
        files=files,
        settings=settings_arguments(mongo_url, redis_url, folder),
    )
    return run_until_interrupted(report(options, console))


@app.command("up")
@folder_option
def up_command(folder: Path) -> None:
    """Start local servers that stay until `fastpersist down`."""
    urls = start_servers(folder)
    click.echo(f"FASTPERSIST_MONGO_URL={urls.mongo_url}")
    click.echo(f"FASTPERSIST_REDIS_URL={urls.redis_url}")


@app.command("down")
@folder_option
def down_command(folder: Path) -> None:
    """Stop the local servers."""
    click.echo("stopped" if stop_servers(folder) else "no local servers were running")


app.add_command(export_candles_command, "candles")
app.add_command(import_candles_command)
app.add_command(import_dump_command)
app.add_command(export_dump_command)
app.add_command(backup_command)
app.add_command(restore_command)
app.add_command(cache_command)
app.add_command(doctor_command)
app.add_command(inspect_command)
app.add_command(tail_command)


def run_app(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        result = app(arguments, standalone_mode=False, prog_name="fastpersist")
        with _unread_output_named():
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except _UnreadOutputError:
        discard_output()
        return 141
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as mistake:
        errors.print(f"fastpersist: {mistake.format_message()}", highlight=False, markup=False)
        return 2
    except (click.Abort, asyncio.CancelledError):
        return 130
    except FastPersistError as error:
        errors.print(f"fastpersist: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    except OSError as error:
        return _failed(error)


def _failed(error: OSError) -> int:
    """Say what the system refused."""
    what = error.strerror or str(error)
    if error.filename is None:
        discard_output()
    else:
        what = f"{error.filename}: {what}"
    errors.print(f"fastpersist: {what}", highlight=False, markup=False, soft_wrap=True)
    return 2
