"""``fastpersist doctor``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Container, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..errors import StoreUnavailableError
from ..settings import Settings
from ..tools.connection import connected
from ..tools.doctor import (
    Diagnosis,
    IndexRepair,
    IndexState,
    diagnose,
    diagnose_without_mongo,
    repair_indexes,
)
from .process import run_until_interrupted
from .toolbox import (
    json_option,
    known_domains,
    new_table,
    output,
    print_json,
    redacted,
    settings_of,
    shown,
    store_options,
)

__all__ = ["doctor_command"]


@click.command("doctor")
@click.option("--fix", is_flag=True, help="Make missing indexes; ask before others are dropped.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask.")
@click.option(
    "--seconds", type=click.FloatRange(1, 86_400), default=600.0, show_default=True,
    help="With --fix: how long the indexes of one collection may take.",
)  # fmt: skip
@json_option
@store_options
def doctor_command(
    fix: bool,
    yes: bool,
    seconds: float,
    as_json: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Look at both stores: versions, latency, indexes, cached ids, clocks.

    Ends with 1 if there is a problem. --fix makes missing indexes and replaces those of earlier
    versions, which refuse valid writes; no row is changed.
    """
    settings = settings_of(mongo_url, redis_url, folder)
    found = run_until_interrupted(_examined(settings))
    repairs: list[IndexRepair] = []
    broken = [state for state in found.indexes if not state.is_complete]
    if fix and broken:
        # Asked outside the event loop, which would not hear of Ctrl-C meanwhile.
        replaced = {state.domain for state in broken if yes or (not as_json and _may_drop(state))}
        repairs, found = run_until_interrupted(_repaired(settings, broken, replaced, seconds))
    if as_json:
        print_json(
            {
                "mongo_url": redacted(settings.mongo_url),
                "redis_url": redacted(settings.redis_url),
                **asdict(found),
                "repairs": [asdict(repair) for repair in repairs],
                "problems": len(found.problems),
            }
        )
    else:
        _show(settings, found, repairs, output())
    return 1 if found.problems else 0


async def _examined(settings: Settings) -> Diagnosis:
    try:
        async with connected(settings) as container:
            return await diagnose(container, known_domains())
    except StoreUnavailableError as error:
        return await diagnose_without_mongo(settings, error)


async def _repaired(
    settings: Settings, broken: Sequence[IndexState], replaced: Container[str], seconds: float
) -> tuple[list[IndexRepair], Diagnosis]:
    domains = {domain.name: domain for domain in known_domains()}
    async with connected(settings) as container:
        repairs = [
            await repair_indexes(
                container, domains[state.domain], migrate=state.domain in replaced, seconds=seconds
            )
            for state in broken
        ]
        return repairs, await diagnose(container, tuple(domains.values()))


def _may_drop(state: IndexState) -> bool:
    outdated = (*state.legacy, *state.in_the_way)
    if not outdated or sys.stdin is None:
        return False
    # Python does not hear of a Ctrl-C that comes just before it starts to read; the system does,
    # and nothing is open here that would have to be closed.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return click.confirm(
            f"{state.collection}: replace the index {', '.join(outdated)}? A runner of the version "
            "that made it must not be left. No row is changed",
            err=True,
        )
    except click.Abort:
        return False  # nobody is there to answer
    finally:
        signal.signal(signal.SIGINT, before)


def _show(
    settings: Settings, found: Diagnosis, repairs: list[IndexRepair], console: Console
) -> None:
    mongo, redis = found.mongo, found.redis
    facts = new_table("Stores", "store", "what", "value")
    rows: list[tuple[str, str, Any]] = []
    if mongo:
        concern = " ".join(f"{name}={value}" for name, value in mongo["write_concern"].items())
        rows += [
            ("MongoDB", "server", f"{mongo['version']} at {redacted(settings.mongo_url)}"),
            ("", "topology", " ".join(filter(None, (mongo["topology"], mongo["set"])))),
            ("", "database", mongo["database"]),
            ("", "write concern", concern),
        ]
        for member in mongo["members"]:
            lag = "" if member["lag_seconds"] is None else f", {member['lag_seconds']:.0f} s behind"
            rows.append(("", "member", f"{member['name']} {member['state']}{lag}"))
    if redis:
        rows.append(
            ("Redis", "server", f"{redis.get('version')} at {redacted(settings.redis_url)}")
        )
        rows += [("", name, value) for name, value in redis.items() if name != "version"]
    for store, (skew, uncertainty) in found.clock_skew_ms.items():
        rows.append((store, "clock", f"{skew:+.1f} ms ± {uncertainty:.1f} from the one here"))
    for store, what, value in rows:
        facts.add_row(store, what, shown(str(value)))
    if rows:
        console.print(facts)
    legs = new_table("Latency", "call", figures=("median ms",))
    for name, taken in found.latency_ms.items():
        legs.add_row(name.replace("_", " "), "-" if taken is None else f"{taken:.3f}")
    console.print(legs)
    if found.indexes:
        indexes = new_table(
            "Indexes", "collection", "missing", "legacy", "extra", figures=("found",)
        )
        for state in found.indexes:
            named = [", ".join(names) for names in (state.missing, state.legacy, state.extra)]
            indexes.add_row(*map(shown, (state.collection, *named)), str(len(state.found)))
        console.print(indexes)
    if found.cache:
        ids = new_table(
            "Redis ids of the newest documents", "domain",
            figures=("documents", "cached", "absent", "wrong"),
        )  # fmt: skip
        for sample in found.cache:
            figures = (sample.documents, sample.cached, sample.absent, sample.wrong_ids)
            ids.add_row(sample.domain, *map(str, figures))
        console.print(ids)
    for repair in repairs:
        _show_repair(repair, console)
    for finding in found.findings:
        cure = f" -> {finding.cure}" if finding.cure else ""
        console.print(f"{finding.level}: {shown(finding.text)}{shown(cure)}", soft_wrap=True)
    if not found.problems:
        console.print("no problem was found")


def _show_repair(repair: IndexRepair, console: Console) -> None:
    for what, names in (("made", repair.created), ("dropped", repair.dropped)):
        if names:
            console.print(f"{shown(repair.collection)}: {what} {shown(', '.join(names))}")
    for violation in repair.violations:
        context = ", ".join(f"{name}={value!r}" for name, value in violation["context"].items())
        console.print(
            f"{shown(repair.collection)}: {violation['rows']} rows of one context "
            f"({shown(context)}): _id {' ... '.join(violation['ids'])}",
            soft_wrap=True,
        )
    if repair.violations:
        console.print(
            f"{shown(repair.collection)}: nothing was changed; keep one row of each context first"
        )
    if repair.unreachable:
        console.print(
            f"{shown(repair.collection)}: {repair.unreachable:,} rows of the earlier version lack "
            "fields of a context; they stay, and no read finds them"
        )
