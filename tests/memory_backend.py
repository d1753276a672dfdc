"""A store in memory that outlives the processes that use it, which can be killed at any write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from fastpersist.adapters.backend import Key
from fastpersist.contracts import Candle
from fastpersist.domains import Domain
from fastpersist.hot.columns import CandleColumns, columns_from_rows
from fastpersist.times import LookAheadPolicy, is_visible

__all__ = ["Data", "Fate", "Killed", "MemoryBackend"]

Data = dict[tuple[Any, ...], tuple[bytes, int | None]]


class Killed(BaseException):
    """The process is gone."""


class Fate:
    """When a process dies: at a step, an effect on the outer world.

    Args:
        dies_at: Number of the step that kills it, from 1; never without.
        applies: Whether that step still has its effect.
    """

    def __init__(self, dies_at: int | None = None, applies: bool = False) -> None:
        self.steps = 0
        self._dies_at = dies_at
        self._applies = applies
        self._is_dead = False

    def check(self) -> None:
        """Raise if the process is dead."""
        if self._is_dead:
            raise Killed

    def step(self, effect: Callable[[], object]) -> None:
        """Have an effect, or die before or after it."""
        self.check()
        self.steps += 1
        self._is_dead = self.steps == self._dies_at
        if not self._is_dead or self._applies:
            effect()
        self.check()


class MemoryBackend:
    """Keeps JSON texts and moments in `data`, and has the candles.

    Args:
        data: What earlier processes have left; changed in place.
        fate: When it dies.
        candles: What the candle domain has, by symbol and time; what is written is left out.
    """

    look_ahead: LookAheadPolicy = "hide"

    def __init__(
        self, data: Data, fate: Fate, candles: Mapping[str, Mapping[int, Candle]] | None = None
    ) -> None:
        self.data = data
        self.domains: set[str] = set()
        self._fate = fate
        self._candles = candles or {}

    async def prepare(self, domain: Domain, context: Key, initial: bool) -> None:
        self._fate.check()

    async def read_value(self, domain: Domain, key: Key, asked_at: int | None) -> Any:
        self._fate.check()
        return self._visible(domain, key, asked_at)

    async def write_value(self, domain: Domain, key: Key, value: Any, when: int | None) -> None:
        await self._write(domain, {(domain.name, *key): (orjson.dumps(value), when)})

    async def read_entry(
        self, domain: Domain, key: Key, asked_at: int | None
    ) -> dict[str, Any] | None:
        self._fate.check()
        entry: dict[str, Any] | None = self._visible(domain, key, asked_at)
        return None if entry is None or entry["removed"] else entry

    async def has_entry(self, domain: Domain, key: Key, asked_at: int | None) -> bool:
        self._fate.check()
        return self._visible(domain, key, asked_at) is not None

    async def write_entry(
        self, domain: Domain, key: Key, entry: Mapping[str, Any], when: int | None
    ) -> None:
        await self._write(domain, {(domain.name, *key): (orjson.dumps(entry), when)})

    async def remove_entry(self, domain: Domain, key: Key) -> None:
        raise AssertionError("no engine removes anything")

    async def iterate_entries(
        self, domain: Domain, context: Key, asked_at: int | None, *, keys_only: bool
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        self._fate.check()
        for key in self._keys(domain, context):
            entry = self._visible(domain, key, asked_at)
            if entry is not None:
                yield key[-1], entry

    async def read_rows(
        self, domain: Domain, context: Key, limit: int | None
    ) -> list[dict[str, Any]]:
        self._fate.check()
        return [self._visible(domain, key, None) for key in self._keys(domain, context)]

    async def write_rows(
        self,
        domain: Domain,
        context: Key,
        rows: Mapping[str, Mapping[str, Any]],
        places: Sequence[int] | None = None,
    ) -> None:
        new: Data = {
            (domain.name, *context, row_id): (orjson.dumps(row), None)
            for row_id, row in rows.items()
        }
        if domain.append_only:
            new = {key: row for key, row in new.items() if key not in self.data}
        await self._write(domain, new)

    async def read_candles(
        self, domain: Domain, context: Key, since: int, step: int, limit: int
    ) -> list[Candle] | None:
        self._fate.check()
        return [self._candles[context[0]][since + place * step] for place in range(limit)]

    async def read_columns(
        self, domain: Domain, context: Key, start: int, end: int
    ) -> CandleColumns:
        self._fate.check()
        candles = self._candles[context[0]].values()
        return columns_from_rows([row for row in candles if start <= row["timestamp"] < end])

    async def write_candles(self, domain: Domain, context: Key, candles: Sequence[Candle]) -> None:
        self._fate.check()

    async def scan(
        self, domain: Domain, context: Key, fields: Sequence[str]
    ) -> AsyncGenerator[list[tuple[Key, dict[str, Any]]], None]:
        self._fate.check()
        for key in self._keys(domain, context):
            value = self._visible(domain, key, None)
            row = value if isinstance(value, dict) else {}
            yield [(key, {name: row[name] for name in fields if name in row})]

    async def delete(self, domain: Domain, keys: Sequence[Key]) -> None:
        for key in keys:
            await asyncio.sleep(0)
            if (domain.name, *key) in self.data:
                self._fate.step(partial(self.data.pop, (domain.name, *key)))

    def _keys(self, domain: Domain, context: Key) -> list[Key]:
        start = (domain.name, *context)
        return [key[1:] for key in self.data if key[: len(start)] == start]

    def _visible(self, domain: Domain, key: Key, asked_at: int | None) -> Any:
        text, when = self.data.get((domain.name, *key), (b"null", None))
        shown = is_visible(domain.name, when, asked_at, self.look_ahead)
        return orjson.loads(text) if shown else None

    async def _write(self, domain: Domain, new: Data) -> None:
        await asyncio.sleep(0)  # lets the writes of other domains come in between
        self.domains.add(domain.name)
        self._fate.step(lambda: self.data.update(new))
