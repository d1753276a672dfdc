"""``fastpersist inspect`` and ``fastpersist tail``."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from re import compile as pattern
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape

from ..settings import Settings
from ..times import now_ms, parse_moment, to_datetime, to_ms
from ..tools.connection import connected
from ..tools.rows import (
    MOST_ROWS,
    Row,
    RowQuery,
    current_moment,
    find_rows,
    follow_rows,
    parse_context,
    parse_where,
)
from .process import run_until_interrupted
from .toolbox import (
    discard_output,
    json_option,
    named_domain,
    output,
    plain,
    print_json,
    printable,
    settings_of,
    shown,
    store_options,
)

__all__ = ["inspect_command", "tail_command"]

_AGO: Final = pattern(r"(\d{1,9})([smhd])\Z")
_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_WIDTH: Final = 120
_LONGEST_HEAD: Final = 2_000
_SECONDS: Final = 30.0

_where_option = click.option(
    "--where", "where", multiple=True, metavar="FIELD=VALUE",
    help="Only rows with this; a field of the row, else of its payload. More may follow.",
)  # fmt: skip
_since_option = click.option(
    "--since", help="Only rows from then on: ISO text (UTC), ms, or 15m, 2h, 1d ago."
)


@click.command("inspect")
@click.argument("domain")
@click.argument("context", nargs=-1)
@click.option(
    "--limit", type=click.IntRange(1, MOST_ROWS), default=20, show_default=True,
    help="How many rows at most.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3_600), default=30.0, show_default=True,
    help="How long to look for them.",
)  # fmt: skip
@_since_option
@_where_option
@json_option
@store_options
def inspect_command(
    domain: str,
    context: tuple[str, ...],
    limit: int,
    seconds: float,
    since: str | None,
    where: tuple[str, ...],
    as_json: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Show the newest rows of DOMAIN; CONTEXT are its key fields, of which the last may be missing.

    For example: fastpersist inspect signal BTCUSDT --where position=long
    """
    query = _query(domain, context, where, since, limit)
    settings = settings_of(mongo_url, redis_url, folder)

    async def run() -> list[Row]:
        async with connected(settings) as container:
            return await find_rows(container, query, seconds)

    rows = run_until_interrupted(run())
    if as_json:
        print_json({"domain": domain, "limit": limit, "rows": [asdict(row) for row in rows]})
        return 0
    console = output()
    for row in rows:
        line = _line(row, console.width if console.is_terminal else _WIDTH)
        console.print(escape(line), soft_wrap=True, highlight=True)
    if not rows:
        print(f"no row of {query.domain.name} was found", file=sys.stderr)
    return 0


@click.command("tail")
@click.argument("domain")
@click.argument("context", nargs=-1)
@click.option(
    "--limit", type=click.IntRange(0, MOST_ROWS), default=10, show_default=True,
    help="How many rows of before are shown first.",
)  # fmt: skip
@click.option(
    "--patience", type=click.FloatRange(0, 86_400), default=300.0, show_default=True,
    help="How many seconds MongoDB may be away at a time.",
)  # fmt: skip
@_where_option
@json_option
@store_options
def tail_command(
    domain: str,
    context: tuple[str, ...],
    limit: int,
    patience: float,
    where: tuple[str, ...],
    as_json: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Show rows of DOMAIN as they are written, until interrupted; with --json one in a line.

    From a change stream on a replica set; a standalone server is asked twice a second.
    """
    query = _query(domain, context, where, None, max(limit, 1))
    settings = settings_of(mongo_url, redis_url, folder)
    try:
        run_until_interrupted(_show_changes(settings, query, limit, patience, as_json))
    except asyncio.CancelledError:
        pass
    except BrokenPipeError:  # who reads has gone, which ends it as well as Ctrl-C
        discard_output()
    return 0


async def _show_changes(
    settings: Settings, query: RowQuery, limit: int, patience: float, as_json: bool
) -> None:
    errors = Console(stderr=True, highlight=False)

    def show(row: Row) -> None:
        if as_json:
            print_json({"domain": query.domain.name, **asdict(row)})
        else:
            print(_line(row, _WIDTH), flush=True)

    async with connected(settings) as container:
        moment = await current_moment(container)
        before = await find_rows(container, query, _SECONDS) if limit else []
        for row in reversed(before):
            show(row)
        changes = follow_rows(
            container, query, moment, patience=patience,
            on_notice=lambda text: errors.print(shown(text), soft_wrap=True),
        )  # fmt: skip
        # What was written between the two is among both.
        known = {(row.id, row.updated) for row in before}
        async with aclosing(changes):
            async for row in changes:
                if row.change == "delete" or (row.id, row.updated) not in known:
                    show(row)


def _query(
    name: str, context: tuple[str, ...], where: tuple[str, ...], since: str | None, limit: int
) -> RowQuery:
    domain = named_domain(name)
    return RowQuery(
        domain=domain,
        context=parse_context(domain, context),
        where=parse_where(domain, where),
        since=None if since is None else _moment(since),
        limit=limit,
    )


def _moment(text: str) -> int:
    ago = _AGO.match(text)
    if ago:
        return max(0, now_ms() - int(ago[1]) * _UNITS_MS[ago[2]])
    return to_ms(parse_moment("since", text), "since")


def _line(row: Row, width: int) -> str:
    date = row.updated or row.created
    facts: list[str] = ["-" * 24 if date is None else _clock(date)]
    if row.change != "found":
        facts.append(row.change)
    if row.when is not None:
        facts.append(f"when={_when(row.when)}")
    if row.removed:
        facts.append("removed")
    context = [_named(name, value) for name, value in row.context.items()]
    head = printable(" ".join((*facts, *(context or [row.id]))))
    if row.change == "delete":
        return head
    line = f"{head}  {printable(json.dumps(plain(row.value), ensure_ascii=False))}"
    # A long context leaves some room to the payload, and an absurd one is cut.
    room = max(width, min(len(head), _LONGEST_HEAD) + _WIDTH // 2)
    return line if len(line) <= room else f"{line[: room - 1]}…"


def _named(name: str, value: Any) -> str:
    if name == "backtest":
        return "backtest" if value is True else "live"
    if name == "timestamp":
        return _when(value)
    text = str(value)
    return text if text and " " not in text else json.dumps(text, ensure_ascii=False)


def _when(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    try:
        return _clock(to_datetime(int(value)))
    except (ValueError, OverflowError):
        return str(value)


def _clock(date: datetime) -> str:
    return date.strftime("%Y-%m-%dT%H:%M:%S") + f".{date.microsecond // 1000:03}Z"
