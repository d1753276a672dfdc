"""The family that remembers nothing: for dry runs and measurements."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from ..contracts import Candle
from ..domains import Domain
from ..hot.columns import CandleColumns, columns_from_rows
from ..times import LookAheadPolicy
from .backend import Key

__all__ = ["DummyBackend"]


class DummyBackend:
    """Answers every read as if nothing had been written and forgets every write."""

    look_ahead: LookAheadPolicy = "hide"

    async def prepare(self, domain: Domain, context: Key, initial: bool) -> None:
        pass

    async def read_value(self, domain: Domain, key: Key, asked_at: int | None) -> Any:
        return None

    async def write_value(self, domain: Domain, key: Key, value: Any, when: int | None) -> None:
        pass

    async def read_entry(
        self, domain: Domain, key: Key, asked_at: int | None
    ) -> dict[str, Any] | None:
        return None

    async def has_entry(self, domain: Domain, key: Key, asked_at: int | None) -> bool:
        return False

    async def write_entry(
        self, domain: Domain, key: Key, entry: Mapping[str, Any], when: int | None
    ) -> None:
        pass

    async def remove_entry(self, domain: Domain, key: Key) -> None:
        pass

    async def iterate_entries(
        self, domain: Domain, context: Key, asked_at: int | None, *, keys_only: bool
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        nothing: tuple[tuple[str, dict[str, Any]], ...] = ()
        for item in nothing:
            yield item

    async def read_rows(
        self, domain: Domain, context: Key, limit: int | None
    ) -> list[dict[str, Any]]:
        return []

    async def write_rows(
        self,
        domain: Domain,
        context: Key,
        rows: Mapping[str, Mapping[str, Any]],
        places: Sequence[int] | None = None,
    ) -> None:
        pass

    async def read_candles(
        self, domain: Domain, context: Key, since: int, step: int, limit: int
    ) -> list[Candle] | None:
        return [] if limit == 0 else None

    async def read_columns(
        self, domain: Domain, context: Key, start: int, end: int
    ) -> CandleColumns:
        return columns_from_rows([])

    async def write_candles(self, domain: Domain, context: Key, candles: Sequence[Candle]) -> None:
        pass

    async def scan(
        self, domain: Domain, context: Key, fields: Sequence[str]
    ) -> AsyncGenerator[list[tuple[Key, dict[str, Any]]], None]:
        nothing: tuple[list[tuple[Key, dict[str, Any]]], ...] = ()
        for batch in nothing:
            yield batch

    async def delete(self, domain: Domain, keys: Sequence[Key]) -> None:
        pass
