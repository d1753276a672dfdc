"""The redo log: all writes of a bar become durable together, or not at all.

During a bar, writes are collected and reads see them first. At its end one record goes through the
session adapter: the engine's state and the writes. Only then are the writes applied. A process that
dies before the record has done nothing; one that dies after it finds the record and applies the
writes again, which changes nothing where they had arrived. Bars without writes need no record: they
are computed again from the last one, with the same outcome.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ..contracts import SessionData
from ..registry import Registries

__all__ = ["Journal", "Key"]

Key = tuple[Any, ...]
_ABSENT: Final = object()


class Journal:
    """Collects the writes of a bar and makes them durable.

    Args:
        registries: The adapters to read from and write to.
        session: Context of the session that holds the record: strategy, exchange, frame, symbol
            and mode.
    """

    def __init__(self, registries: Registries, session: tuple[str, str, str, str, bool]) -> None:
        self.registries = registries
        self.written = 0
        self._session = session
        self._writes: list[dict[str, Any]] = []
        self._overlay: dict[tuple[str, Key], Any] = {}

    @property
    def has_writes(self) -> bool:
        """Whether the current bar has written anything."""
        return bool(self._writes)

    def write(
        self, domain: str, method: str, *arguments: Any, key: Key = (), value: Any = None
    ) -> None:
        """Collect a call of a registry's method; later reads of `key` see `value`."""
        self._writes.append({"domain": domain, "method": method, "arguments": list(arguments)})
        if key:
            self._overlay[domain, key] = value

    def write_row(self, domain: str, method: str, *context: Any, row: dict[str, Any]) -> None:
        """Collect a row of a list; the rows of a bar are written together."""
        for write in self._writes:
            if write["domain"] == domain and write["arguments"][:-1] == list(context):
                write["arguments"][-1].append(row)
                return
        self.write(domain, method, *context, [row])

    async def read(self, domain: str, method: str, *key: Any) -> Any:
        """Return what this bar wrote under `key`, else what the adapter answers."""
        value = self._overlay.get((domain, key), _ABSENT)
        if value is not _ABSENT:
            return value
        return await getattr(getattr(self.registries, domain), method)(*key)

    def written_items(self, domain: str, *context: Any) -> dict[str, Any]:
        """Return what this bar wrote under keys that begin with `context`, by the last part."""
        return {
            key[-1]: value
            for (written_domain, key), value in self._overlay.items()
            if written_domain == domain and key[:-1] == context
        }

    async def commit(self, state: dict[str, Any], when: int) -> None:
        """Record state and writes, then apply the writes; `when` is simulated, in ms."""
        writes, self._writes = self._writes, []
        self._overlay.clear()
        strategy, exchange, frame, symbol, _ = self._session
        record: SessionData = {
            "id": f"{symbol}:{strategy}:{exchange}:{frame}:backtest",
            "data": {"state": state, "writes": writes},
            "when": when,
        }
        await self.registries.session.write_session_data(*self._session, record, when)
        await self._apply(writes)

    async def last_state(self) -> dict[str, Any] | None:
        """Return the state of the last record, None without one."""
        record = await self.registries.session.read_session_data(*self._session)
        return None if record is None else record["data"]["state"]

    async def recover(self) -> dict[str, Any] | None:
        """Apply the writes of the last record again and return its state, None without one."""
        record = await self.registries.session.read_session_data(*self._session)
        if record is None:
            return None
        await self._apply(record["data"]["writes"])
        state: dict[str, Any] = record["data"]["state"]
        return state

    async def _apply(self, writes: list[dict[str, Any]]) -> None:
        by_domain: dict[str, list[dict[str, Any]]] = {}
        for write in writes:
            by_domain.setdefault(write["domain"], []).append(write)
        await asyncio.gather(*(self._apply_in_order(group) for group in by_domain.values()))

    async def _apply_in_order(self, writes: list[dict[str, Any]]) -> None:
        for write in writes:
            registry = getattr(self.registries, write["domain"])
            await getattr(registry, write["method"])(*write["arguments"])
            self.written += 1
