"""``fastpersist backup`` and ``fastpersist restore``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import BinaryIO

import click

from ..disk import BINARY
from ..settings import Settings
from ..tools.backup import Backup, back_up
from ..tools.connection import connected
from ..tools.restore import Restore, restore, verify
from .process import run_until_interrupted
from .toolbox import (
    PATH,
    json_option,
    known_domains,
    named_errors,
    new_table,
    output,
    print_json,
    progress_bar,
    refuse_irregular,
    settings_of,
    shown,
    store_options,
    unfinished_file,
)

__all__ = ["backup_command", "restore_command"]


@click.command("backup")
@click.argument("file", type=PATH)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@json_option
@store_options
def backup_command(
    file: Path,
    overwrite: bool,
    as_json: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Write the whole database to FILE, an archive that `fastpersist restore` reads.

    On a replica set it shows one moment. It holds all collections, those of own domains too.
    """
    started = monotonic()
    found = run_until_interrupted(
        _back_up(settings_of(mongo_url, redis_url, folder), file, overwrite, as_json)
    )
    _show_backup(found, file, as_json, monotonic() - started)
    return 0


@click.command("restore")
@click.argument("file", type=PATH)
@click.option("--merge", is_flag=True, help="Into a used database; the newest of each wins.")
@click.option("--verify", "only_verify", is_flag=True, help="Check the archive and write nothing.")
@json_option
@store_options
def restore_command(
    file: Path,
    merge: bool,
    only_verify: bool,
    as_json: bool,
    mongo_url: str | None,
    redis_url: str | None,
    folder: Path,
) -> int:
    """Bring back what `fastpersist backup` wrote to FILE, into an empty database.

    The whole archive is verified before anything is written. Interrupted, the same command carries
    on. With --merge, log lines and candles stay as they are stored, and of all others the one with
    the newer updatedDate wins.
    """
    started = monotonic()
    with _opened(file) as archive:
        if only_verify:
            manifest = verify(archive, str(file)).manifest
            if as_json:
                print_json({"file": str(file), "is_whole": True, "manifest": asdict(manifest)})
            else:
                output().print(f"{shown(str(file))} is whole: {manifest.documents:,} documents")
            return 0
        settings = settings_of(mongo_url, redis_url, folder)
        found = run_until_interrupted(_restore(settings, archive, file, merge, as_json))
    _show_restore(found, as_json, monotonic() - started)
    return 0


async def _back_up(settings: Settings, path: Path, overwrite: bool, is_quiet: bool) -> Backup:
    # A file that may not be written is refused before servers are started for it.
    with _new_archive(path, overwrite) as file:
        async with connected(settings) as container:
            with progress_bar("backup", is_quiet=is_quiet) as on_progress:
                return await back_up(container, file, known_domains(), on_progress)


async def _restore(
    settings: Settings, archive: BinaryIO, path: Path, merge: bool, is_quiet: bool
) -> Restore:
    # What is no archive is refused before servers are started for it.
    verified = await asyncio.to_thread(verify, archive, str(path))
    async with connected(settings) as container:
        with progress_bar("restore", is_quiet=is_quiet) as on_progress:
            return await restore(
                container, archive, verified, known_domains(), merge=merge, on_progress=on_progress
            )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with named_errors("file", path):
        refuse_irregular("file", path)
        with path.open("rb") as file:
            yield file


@contextmanager
def _new_archive(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    with unfinished_file("file", path, overwrite=overwrite) as unfinished:
        # State of strategies is nobody else's business.
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o600)
        with open(handle, "wb") as file:
            yield file


def _show_backup(found: Backup, path: Path, as_json: bool, seconds: float) -> None:
    size = path.stat().st_size
    if as_json:
        print_json(
            {
                "file": str(path),
                "bytes": size,
                "sha256": found.sha256,
                "seconds": round(seconds, 3),
                "documents": found.manifest.documents,
                "indexes_left_out": found.left_out,
                **asdict(found.manifest),
            }
        )
        return
    console = output()
    table = new_table(
        f"Backup of {found.manifest.database}", "collection", figures=("documents", "bytes")
    )
    for entry in found.manifest.collections:
        table.add_row(shown(entry.collection), f"{entry.documents:,}", f"{entry.bytes:,}")
    console.print(table)
    moment = found.manifest.consistent_at
    console.print(
        f"all collections as of {moment}"
        if moment
        else "a standalone server: each collection as of its own moments, NOT one point in time"
    )
    for index in found.left_out:
        console.print(f"not in the archive, for its options: the index {shown(index)}")
    console.print(
        f"{shown(str(path))}: {found.manifest.documents:,} documents in {size:,} bytes, "
        f"{seconds:.1f} s, sha256 {found.sha256}",
        soft_wrap=True,
    )


def _show_restore(found: Restore, as_json: bool, seconds: float) -> None:
    if as_json:
        print_json(
            {
                "database_of_backup": found.manifest.database,
                "created": found.manifest.created,
                "consistent_at": found.manifest.consistent_at,
                "documents": found.manifest.documents,
                "merge": found.is_merge,
                "resumed": found.resumed,
                "stale_ids": found.stale_ids,
                "seconds": round(seconds, 3),
                "collections": [asdict(counts) for counts in found.collections],
            }
        )
        return
    console = output()
    if found.resumed:
        console.print("carried on with a restore that was interrupted")
    names = ("inserted", "replaced", "kept", "same", "renumbered")
    table = new_table(
        f"Restore of {found.manifest.database}, {found.manifest.created}", "collection",
        figures=names,
    )  # fmt: skip
    for counts in found.collections:
        figures = (f"{getattr(counts, name):,}" for name in names)
        table.add_row(shown(counts.collection), *figures)
    console.print(table)
    if found.stale_ids:
        console.print(
            f"Redis did not answer: {found.stale_ids:,} ids may be stale; "
            "fastpersist cache verify --fix repairs them"
        )
    console.print(f"{found.manifest.documents:,} documents in {seconds:.1f} s")
