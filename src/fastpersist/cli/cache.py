"""``fastpersist cache``: the ids in Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TypeVar

import click

from ..domains import Domain
from ..errors import StoreUnavailableError
from ..services.container import Container
from ..settings import Settings
from ..tools import cache
from ..tools.backup import OnProgress
from ..tools.connection import connected
from .process import run_until_interrupted
from .toolbox import (
    json_option,
    known_domains,
    named_domain,
    new_table,
    output,
    print_json,
    progress_bar,
    redacted,
    settings_of,
    shown,
    store_options,
)

__all__ = ["cache_command"]

T = TypeVar("T")


@click.group("cache")
def cache_command() -> None:
    """Build, compare or remove the ids that Redis holds; MongoDB has the truth."""


@cache_command.command("warm")
@click.argument("domain", required=False)
@json_option
@store_options
def warm_command(
    domain: str | None, as_json: bool, mongo_url: str | None, redis_url: str | None, folder: Path
) -> int:
    """Put the ids of all documents into Redis, or of one DOMAIN."""
    settings = settings_of(mongo_url, redis_url, folder)
    started = monotonic()
    domains = _chosen(domain)
    warmed = _run(
        settings, as_json, "warm",
        lambda container, on_progress: cache.warm(container, domains, on_progress),
    )  # fmt: skip
    seconds = monotonic() - started
    if as_json:
        print_json(
            {
                "redis": redacted(settings.redis_url),
                "seconds": round(seconds, 3),
                "ids": sum(result.ids for result in warmed),
                "domains": [asdict(result) for result in warmed],
            }
        )
        return 0
    console = output()
    table = new_table(
        f"Ids in {redacted(settings.redis_url)}", "domain", figures=("documents", "ids", "without")
    )
    for result in warmed:
        figures = (result.documents, result.ids, result.without_id)
        cells = ["-"] * 3 if result.is_left_out else [f"{figure:,}" for figure in figures]
        table.add_row(result.domain, *cells)
    console.print(table)
    if any(result.is_left_out for result in warmed):
        console.print("candles are left out: the setting candle_ids is off")
    console.print(f"{sum(result.ids for result in warmed):,} ids in {seconds:.1f} s")
    return 0


@cache_command.command("verify")
@click.argument("domain", required=False)
@click.option("--fix", is_flag=True, help="Replace or remove wrong ids.")
@json_option
@store_options
def verify_command(
    domain: str | None,
    fix: bool,
    as_json: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Find ids in Redis that lead to no document, or to one of another context."""
    settings = settings_of(mongo_url, redis_url, folder)
    domains = _chosen(domain)
    found = _run(
        settings, as_json, "verify",
        lambda container, on_progress: cache.verify(
            container, domains, known_domains(), fix=fix, on_progress=on_progress
        ),
    )  # fmt: skip
    wrong = sum(result.wrong_ids for result in found)
    repaired = sum(result.repaired for result in found)
    if as_json:
        print_json(
            {
                "redis": redacted(settings.redis_url),
                "checked": sum(result.checked for result in found),
                "wrong": wrong,
                "repaired": repaired,
                "domains": [asdict(result) for result in found],
            }
        )
        return int(wrong > repaired)
    console = output()
    table = new_table(
        f"Ids in {redacted(settings.redis_url)}", "domain", "wrong",
        figures=("checked", "repaired"),
    )  # fmt: skip
    for result in found:
        faults = ", ".join(f"{count:,} {fault}" for fault, count in result.wrong.items())
        table.add_row(result.domain, faults, f"{result.checked:,}", f"{result.repaired:,}")
    console.print(table)
    for one in (one for result in found for one in result.first):
        done = f", {one.repair}" if one.repair else ""
        console.print(f"{shown(one.key)}: {one.fault} ({shown(one.found)}){done}")
    if wrong > repaired:
        console.print("with --fix they are replaced or removed")
    return int(wrong > repaired)


@cache_command.command("clear")
@click.argument("domain", required=False)
@json_option
@store_options
def clear_command(
    domain: str | None, as_json: bool, mongo_url: str | None, redis_url: str | None, folder: Path
) -> int:
    """Remove the ids of all domains, or of one DOMAIN; other keys of that Redis stay."""
    settings = settings_of(mongo_url, redis_url, folder)
    domains = _chosen(domain)
    removed = _run(settings, as_json, "clear", lambda container, _: cache.clear(container, domains))
    if as_json:
        print_json(
            {
                "redis": redacted(settings.redis_url),
                "prefix": settings.redis_prefix,
                "removed": sum(removed.values()),
                "domains": removed,
            }
        )
    else:
        output().print(
            f"{sum(removed.values()):,} ids removed from {shown(redacted(settings.redis_url))}"
        )
    return 0


def _chosen(name: str | None) -> tuple[Domain, ...]:
    return known_domains() if name is None else (named_domain(name),)


def _run(
    settings: Settings,
    is_quiet: bool,
    what: str,
    work: Callable[[Container, OnProgress], Awaitable[T]],
) -> T:
    async def run() -> T:
        async with connected(settings) as container:
            if not container.redis_service.is_available:
                raise StoreUnavailableError(
                    "redis", "does not answer", hint="is it running, and is redis_url right?"
                )
            with progress_bar(what, is_quiet=is_quiet) as on_progress:
                return await work(container, on_progress)

    return run_until_interrupted(run())
