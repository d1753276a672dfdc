"""Deleting what a backtest has stored, for one that begins anew, and nobody else's rows.

Rows name the run that made them: positions, history, notifications and log in the field ``run``;
state, memory, measured results and markers at the end of the first name of their key. Levels and
breakeven are found by the signals of the history, which therefore go last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from ..adapters.backend import Backend, Key
from ..domains import (
    BREAKEVEN,
    INTERVAL,
    LOG,
    MEASURE,
    MEMORY,
    NOTIFICATION,
    PARTIAL,
    RECENT,
    SESSION,
    STATE,
    STORAGE,
    Domain,
)
from ..errors import CorruptDataError
from ..registry import Registries

__all__ = ["erase_levels_of", "erase_runs", "is_of_run", "run_mark"]

_PLACE: Final = ("symbol", "strategyName", "exchangeName")


def run_mark(run_id: str) -> dict[str, Any]:
    """Return what the field ``run`` of a row holds at least."""
    return {"id": run_id}


def is_of_run(row: Any, run_ids: Collection[str]) -> bool:
    """Say whether the field ``run`` of a row names one of the runs."""
    mark = row.get("run") if isinstance(row, Mapping) else None
    found = mark.get("id") if isinstance(mark, Mapping) else mark
    return isinstance(found, str) and found in run_ids


async def erase_levels_of(registries: Registries, writes: Iterable[Mapping[str, Any]]) -> None:
    """Delete the levels and breakevens of a record's writes.

    Those of a run that was killed may be there without the history that tells of them.
    """
    keys: dict[str, list[Key]] = {}
    for write in writes:
        keys.setdefault(write["domain"], []).append(tuple(write["arguments"][: len(PARTIAL.key)]))
    for domain in (PARTIAL, BREAKEVEN):
        await _delete(registries, domain, keys.get(domain.name, []))


async def erase_runs(
    registries: Registries,
    run_ids: Collection[str],
    places: Iterable[tuple[str, str]],
    exchange_name: str,
    frame_name: str,
) -> None:
    """Delete the rows of backtests that are over; called again after a crash it goes on.

    Positions, entries and risk are left to the caller, since others read those for what is open.
    A domain that is served by an adapter of one's own is left as it is.

    Args:
        registries: What the runs have been stored with.
        run_ids: The runs.
        places: Symbol and strategy of each pair that they had.
        exchange_name, frame_name: The names in their rows.
    """
    await _erase_signals(registries, run_ids)
    for domain in (NOTIFICATION, LOG):
        async for backend, found in _scan(registries, domain, ("run",)):
            await backend.delete(domain, [key for key, row in found if is_of_run(row, run_ids)])
    endings = tuple(f"_{run_id}" for run_id in run_ids)
    for domain in (STATE, MEMORY, MEASURE, INTERVAL):
        async for backend, found in _scan(registries, domain):
            await backend.delete(domain, [key for key, _ in found if key[0].endswith(endings)])
    for symbol, strategy_name in places:
        for domain, key in (
            (RECENT, (symbol, strategy_name, exchange_name, frame_name, True)),
            (SESSION, (strategy_name, exchange_name, frame_name, symbol, True)),
        ):
            serving = await _backend(registries, domain)
            if serving is None:
                continue
            # As in a scan, what cannot be read is nobody's; the next write replaces it.
            with suppress(CorruptDataError):
                if is_of_run(await serving.read_value(domain, key, None), run_ids):
                    await serving.delete(domain, [key])


async def _erase_signals(registries: Registries, run_ids: Collection[str]) -> None:
    async for backend, found in _scan(registries, STORAGE, ("run", *_PLACE)):
        own = [(key, row) for key, row in found if is_of_run(row, run_ids)]
        levels = [
            (*(row[name] for name in _PLACE), key[-1])
            for key, row in own
            # Written by hand or by another program, a row may name us and no place.
            if all(isinstance(row.get(name), str) and row[name] for name in _PLACE)
        ]
        for domain in (PARTIAL, BREAKEVEN):
            await _delete(registries, domain, levels)
        await backend.delete(STORAGE, [key for key, _ in own])


async def _delete(registries: Registries, domain: Domain, keys: list[Key]) -> None:
    backend = await _backend(registries, domain)
    if backend is not None:
        await backend.delete(domain, keys)


async def _scan(
    registries: Registries, domain: Domain, fields: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Backend, list[tuple[Key, dict[str, Any]]]]]:
    backend = await _backend(registries, domain)
    if backend is None:
        return
    context = (True,) if domain in (STORAGE, NOTIFICATION) else ()
    async for found in backend.scan(domain, context, fields):
        yield backend, found


async def _backend(registries: Registries, domain: Domain) -> Backend | None:
    backend: Backend | None = getattr(registries, domain.name).backend
    if backend is not None:
        await backend.prepare(domain, (), False)
    return backend
