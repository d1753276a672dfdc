"""Deleting what a backtest has stored, for one that begins anew, and nobody else's rows.

Rows name the run that made them: history, notifications, log, recent and session in the field
``run``; state, memory, measured results and markers at the end of the first name of their key.
Levels and breakeven are found by the signals of the history, which are deleted after them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import aclosing, suppress
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
from .rows import is_of_run

__all__ = ["Eraser"]

_BATCH: Final = 1_000
_PLACE: Final = ("symbol", "strategyName", "exchangeName")


class Eraser:
    """Deletes rows of backtests that are over; called again after a crash it goes on.

    A domain that is served by an adapter of one's own is left as it is.

    Args:
        registries: What the runs have been stored with.
        check: Called again and again; what it raises ends the deletion.
    """

    def __init__(self, registries: Registries, check: Callable[[], None]) -> None:
        self._registries = registries
        self._check = check

    async def erase_levels_of(self, writes: Iterable[Mapping[str, Any]]) -> None:
        """Delete the levels and breakevens of a record's writes.

        Those of a run that was killed may be there without the history that tells of them.
        """
        keys: dict[str, list[Key]] = {}
        for write in writes:
            place = tuple(write["arguments"][: len(PARTIAL.key)])
            keys.setdefault(write["domain"], []).append(place)
        for domain in (PARTIAL, BREAKEVEN):
            await self._delete(domain, keys.get(domain.name, []))

    async def erase_runs(
        self,
        run_ids: Collection[str],
        pairs: Iterable[tuple[str, str]],
        exchange_name: str,
        frame_name: str,
    ) -> None:
        """Delete all rows but positions, entries and risk, which others read for what is open.

        Args:
            run_ids: The runs.
            pairs: The symbols and strategies that they had.
            exchange_name, frame_name: The names in their rows.
        """
        for domain in (STORAGE, NOTIFICATION, LOG):
            fields = ("run", *_PLACE) if domain is STORAGE else ("run",)
            await self._erase(domain, fields, lambda key, row: is_of_run(row, run_ids))
        endings = tuple(f"_{run_id}" for run_id in run_ids)
        for domain in (STATE, MEMORY, MEASURE, INTERVAL):
            await self._erase(domain, (), lambda key, row: key[0].endswith(endings))
        for symbol, strategy_name in pairs:
            for domain, key in (
                (RECENT, (symbol, strategy_name, exchange_name, frame_name, True)),
                (SESSION, (strategy_name, exchange_name, frame_name, symbol, True)),
            ):
                backend = await self._backend(domain)
                if backend is None:
                    continue
                # As in a scan, what cannot be read is nobody's; the next write replaces it.
                with suppress(CorruptDataError):
                    if is_of_run(await backend.read_value(domain, key, None), run_ids):
                        await self._delete(domain, [key])

    async def _erase(
        self,
        domain: Domain,
        fields: tuple[str, ...],
        is_own: Callable[[Key, dict[str, Any]], bool],
    ) -> None:
        backend = await self._backend(domain)
        if backend is None:
            return
        # Where the key tells, what is not of backtests need not be looked at.
        context = (True,) if domain in (STORAGE, NOTIFICATION) else ()
        async with aclosing(backend.scan(domain, context, fields)) as batches:
            async for found in batches:
                self._check()
                own = [(key, row) for key, row in found if is_own(key, row)]
                if domain is STORAGE:
                    await self._erase_levels(own)
                await self._delete(domain, [key for key, _ in own])

    async def _erase_levels(self, signals: Iterable[tuple[Key, dict[str, Any]]]) -> None:
        keys = [
            (*(row[name] for name in _PLACE), key[-1])
            for key, row in signals
            # Written by hand or by another program, a row may name us and no place.
            if all(isinstance(row.get(name), str) and row[name] for name in _PLACE)
        ]
        for domain in (PARTIAL, BREAKEVEN):
            await self._delete(domain, keys)

    async def _delete(self, domain: Domain, keys: list[Key]) -> None:
        backend = await self._backend(domain)
        if backend is not None:
            # A batch of a scan may have rows for half a minute.
            for start in range(0, len(keys), _BATCH):
                self._check()
                await backend.delete(domain, keys[start : start + _BATCH])

    async def _backend(self, domain: Domain) -> Backend | None:
        backend: Backend | None = getattr(self._registries, domain.name).backend
        if backend is not None:
            await backend.prepare(domain, (), False)
        return backend
