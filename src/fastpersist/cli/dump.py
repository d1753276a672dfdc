"""``fastpersist import-dump`` and ``fastpersist export-dump``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Final

import click

from ..domains import Domain
from ..errors import InvalidArgumentError
from ..settings import Settings
from ..store import Store
from ..tools.connection import connected
from ..tools.dump import DumpReport, export_dump, import_dump
from .process import run_until_interrupted
from .toolbox import (
    PATH,
    json_option,
    known_domains,
    named_domain,
    new_table,
    output,
    print_json,
    progress_bar,
    settings_of,
    shown,
    store_options,
)

__all__ = ["export_dump_command", "import_dump_command"]

_SHOWN: Final = 50


@click.command("import-dump")
@click.argument("folder_of_dump", metavar="DIR", type=PATH)
@click.option("--symbol", "symbols", multiple=True, help="A symbol that is in it.")
@click.option("--strategy", "strategies", multiple=True, help="A strategy that is in it.")
@click.option("--exchange", "exchanges", multiple=True, help="An exchange that is in it.")
@click.option("--overwrite", is_flag=True, help="Replace stored rows that have other content.")
@json_option
@store_options
def import_dump_command(
    folder_of_dump: Path,
    symbols: tuple[str, ...],
    strategies: tuple[str, ...],
    exchanges: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Store the rows of DIR, the tree `dump` of the file family or of the Node framework.

    Nothing in DIR is changed. Interrupted, the same command carries on. Names that are joined by
    `_` in a path are told apart by the row inside, else by --symbol, --strategy and --exchange,
    each as often as there are names; a file that may still be of several contexts is named and not
    imported. Ends with 1 if there was one, or a bad or unknown file, or rows that are stored with
    other content and stay.
    """
    if not folder_of_dump.is_dir():
        raise InvalidArgumentError("dir", f"no such directory: {folder_of_dump}")
    if not os.access(folder_of_dump, os.R_OK | os.X_OK):
        raise InvalidArgumentError("dir", f"{folder_of_dump} cannot be read")
    inner = folder_of_dump / "dump"
    if inner.is_dir() and not (folder_of_dump / "data").is_dir():
        raise InvalidArgumentError(
            "dir", f"{folder_of_dump} is no tree of the file family", hint=f"perhaps {inner}"
        )
    names = {"symbol": symbols, "strategyName": strategies, "exchangeName": exchanges}
    started = monotonic()
    settings = settings_of(mongo_url, redis_url, folder)
    found = run_until_interrupted(_import(settings, folder_of_dump, names, overwrite, as_json))
    _show(found, f"Import of {folder_of_dump}", as_json, monotonic() - started)
    return 0 if found.is_all_well else 1


@click.command("export-dump")
@click.argument("folder_of_dump", metavar="DIR", type=PATH)
@click.option("--domain", "names", multiple=True, help="Only this domain; more may follow.")
@click.option("--overwrite", is_flag=True, help="Replace files that have other content.")
@json_option
@store_options
def export_dump_command(
    folder_of_dump: Path,
    names: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Write the stored rows to DIR, as the file family and the Node framework have them.

    On a replica set it shows one moment. Interrupted, the same command carries on. No file is
    deleted; one with other content stays, and the command ends with 1, unless --overwrite is given.
    """
    domains = [named_domain(name) for name in names] or known_domains()
    if folder_of_dump.exists() and not folder_of_dump.is_dir():
        raise InvalidArgumentError("dir", f"{folder_of_dump} is no directory")
    started = monotonic()
    settings = settings_of(mongo_url, redis_url, folder)
    found = run_until_interrupted(_export(settings, folder_of_dump, domains, overwrite, as_json))
    _show(found, f"Export to {folder_of_dump}", as_json, monotonic() - started)
    return 0 if found.is_all_well else 1


async def _import(
    settings: Settings,
    path: Path,
    known_names: Mapping[str, Sequence[str]],
    overwrite: bool,
    is_quiet: bool,
) -> DumpReport:
    async with Store(settings) as store:
        with progress_bar("import", is_quiet=is_quiet) as on_progress:
            return await import_dump(
                store.container, path, known_domains(),
                known_names=known_names, overwrite=overwrite, on_progress=on_progress,
            )  # fmt: skip


async def _export(
    settings: Settings, path: Path, domains: Sequence[Domain], overwrite: bool, is_quiet: bool
) -> DumpReport:
    async with connected(settings) as container:
        with progress_bar("export", is_quiet=is_quiet) as on_progress:
            return await export_dump(
                container, path, domains, overwrite=overwrite, on_progress=on_progress
            )


def _show(found: DumpReport, title: str, as_json: bool, seconds: float) -> None:
    counts = list(found.counts.values())
    if as_json:
        print_json(
            {
                "domains": [count.as_dict() for count in counts],
                "bad": [asdict(problem) for problem in found.bad],
                "ambiguous": [asdict(problem) for problem in found.ambiguous],
                "unknown": found.unknown,
                "seconds": round(seconds, 3),
            }
        )
        return
    console = output()
    figures = ("written", "replaced", "same", "different", "empty")
    table = new_table(title, "domain", "sha256", figures=figures)
    for count in counts:
        digest = count.found.text[:12] if count.is_verified else "NOT AS GIVEN"
        row = (f"{getattr(count, figure):,}" for figure in figures)
        table.add_row(shown(count.domain), digest, *row)
    console.print(table)
    problems = [
        *(f"bad: {problem.name}: {problem.reason}" for problem in found.bad),
        *(f"ambiguous: {problem.name} {problem.reason}" for problem in found.ambiguous),
        *(f"unknown: {name}" for name in found.unknown),
    ]
    for line in problems[:_SHOWN]:
        console.print(shown(line), soft_wrap=True)
    if len(problems) > _SHOWN:
        console.print(f"and {len(problems) - _SHOWN:,} more; see --json")
    if any(count.different for count in counts):
        console.print("what is there with other content stays, but --overwrite replaces it")
    console.print(f"{sum(count.written for count in counts):,} written in {seconds:.1f} s")
