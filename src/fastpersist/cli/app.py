"""Commands of ``fastpersist`` and their options."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import click
from rich.console import Console

from .. import __version__, has_extensions
from ..errors import FastPersistError
from ..local import down as stop_servers
from ..local import up as start_servers
from ..settings import Settings
from .candles import ExportOptions, export_candles, parse_moment
from .run import RunOptions, run

__all__ = ["run_app"]

console = Console()
errors = Console(stderr=True)

FILE = click.Path(path_type=Path)
folder_option = click.option(
    "--folder",
    type=FILE,
    default=lambda: Settings.load().local_folder,
    show_default="FASTPERSIST_LOCAL_FOLDER, else .fastpersist",
    help="Where local servers keep their data.",
)


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        kind = "compiled" if has_extensions() else "pure Python"
        click.echo(f"fastpersist {__version__} ({kind})")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show version and build.",
)  # fmt: skip
def app() -> None:
    """Persistence for trading strategies on MongoDB and Redis."""


@app.command("run")
@click.argument("strategy", type=FILE)
@click.option(
    "--candles", type=FILE, multiple=True, required=True,
    help="CSV or CSV.gz with the columns time, open, high, low, close, volume; more files may "
    "follow, one for each symbol. Times are opening times in ms or s since the epoch, or text, "
    "which counts as UTC unless it names a zone.",
)  # fmt: skip
@click.argument("more_candles", type=FILE, nargs=-1)
@click.option("--symbol", "symbols", multiple=True, help="Symbol of each file, in their order.")
@click.option("--exchange", default="demo", show_default=True, help="Exchange in stored contexts.")
@click.option("--fresh", is_flag=True, help="Begin the run anew.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--files", type=FILE, help="Keep all state in files below this folder.")
@click.option("--dummy", is_flag=True, help="Keep nothing.")
@click.option("--mongo-url", help="MongoDB; a local server by default.")
@click.option("--redis-url", help="Redis; a local server by default.")
@folder_option
def run_command(
    strategy: Path,
    candles: tuple[Path, ...],
    more_candles: tuple[Path, ...],
    symbols: tuple[str, ...],
    exchange: str,
    fresh: bool,
    as_json: bool,
    files: Path | None,
    dummy: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Replay the STRATEGY file over candles; a run that was interrupted carries on."""
    paths = [*candles, *more_candles]
    if symbols and len(symbols) != len(paths):
        raise click.UsageError("give --symbol once for each file, or not at all")
    options = RunOptions(
        strategy=strategy,
        candles=paths,
        symbols=symbols or [None] * len(paths),
        exchange_name=exchange,
        fresh=fresh,
        as_json=as_json,
        files=files,
        dummy=dummy,
        settings={"mongo_url": mongo_url, "redis_url": redis_url, "local_folder": folder},
    )
    return asyncio.run(run(options, console))


@app.command("candles")
@click.argument("symbol")
@click.argument("interval")
@click.argument("exchange")
@click.option("--start", required=True, help="First opening time: ISO text (UTC) or ms.")
@click.option("--end", required=True, help="The moment before which the last candle opens.")
@click.option("--output", type=FILE, help="A .csv, .parquet or .arrow file; CSV is printed else.")
@click.option("--files", type=FILE, help="Read the file family below this folder.")
@click.option("--mongo-url", help="MongoDB; a local server by default.")
@click.option("--redis-url", help="Redis; a local server by default.")
@folder_option
def candles_command(
    symbol: str,
    interval: str,
    exchange: str,
    start: str,
    end: str,
    output: Path | None,
    files: Path | None,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Export the stored candles of SYMBOL, INTERVAL and EXCHANGE; gaps stay gaps."""
    options = ExportOptions(
        symbol=symbol,
        interval=interval,
        exchange_name=exchange,
        start=parse_moment("start", start),
        end=parse_moment("end", end),
        output=output,
        files=files,
        settings={"mongo_url": mongo_url, "redis_url": redis_url, "local_folder": folder},
    )
    return asyncio.run(export_candles(options, errors))


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


def run_app(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        result = app(arguments, standalone_mode=False, prog_name="fastpersist")
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as mistake:
        errors.print(f"fastpersist: {mistake.format_message()}", highlight=False, markup=False)
        return 2
    except click.Abort:
        return 130
    except FastPersistError as error:
        errors.print(f"fastpersist: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
