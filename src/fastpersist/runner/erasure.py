"""Deleting what a backtest has stored, for one that begins anew, and nobody else's rows.

Rows name the run that made them: history, notifications, log, recent and session in the field
``run``; state, memory, measured results and markers at the end of the first name of their key.
Levels and breakeven are found by the signals of the history, which are deleted after them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any

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
from ..registry import Registries
from .rows import is_of_run

__all__ = ["erase_runs"]


async def erase_runs(
    registries: Registries,
    run_ids: Collection[str],
    pairs: Iterable[tuple[str, str]],
    exchange_name: str,
    frame_name: str,
) -> None:
    """Delete the rows of backtests that are over; called again after a crash it goes on.

    Positions, entries and risk are left to the caller, since others read those for what is open.
    A domain that is served by an adapter of one's own is left as it is.

    Args:
        registries: What the runs have been stored with.
        run_ids: The runs.
        pairs: The symbols and strategies that they had.
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
    for symbol, strategy_name in pairs:
        for domain, key in (
            (RECENT, (symbol, strategy_name, exchange_name, frame_name, True)),
            (SESSION, (strategy_name, exchange_name, frame_name, symbol, True)),
        ):
            serving = await _backend(registries, domain)
            if serving is None:
                continue
            if is_of_run(await serving.read_value(domain, key, None), run_ids):
                await serving.delete(domain, [key])


async def _erase_signals(registries: Registries, run_ids: Collection[str]) -> None:
    fields = ("run", "symbol", "strategyName", "exchangeName")
    async for backend, found in _scan(registries, STORAGE, fields):
        own = [(key, row) for key, row in found if is_of_run(row, run_ids)]
        for domain in (PARTIAL, BREAKEVEN):
            levels = await _backend(registries, domain)
            if levels is not None:
                await levels.delete(domain, [
                    (row["symbol"], row["strategyName"], row["exchangeName"], key[-1])
                    for key, row in own
                ])  # fmt: skip
        await backend.delete(STORAGE, [key for key, _ in own])


async def _scan(
    registries: Registries, domain: Domain, fields: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Backend, list[tuple[Key, dict[str, Any]]]]]:
    backend = await _backend(registries, domain)
    if backend is None:
        return
    # Where the key tells, what is not of backtests need not be looked at.
    context = (True,) if domain in (STORAGE, NOTIFICATION) else ()
    async for found in backend.scan(domain, context, fields):
        yield backend, found


async def _backend(registries: Registries, domain: Domain) -> Backend | None:
    backend: Backend | None = getattr(registries, domain.name).backend
    if backend is not None:
        await backend.prepare(domain, (), False)
    return backend
