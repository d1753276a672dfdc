"""The redo log: what one record may hold, and what the log keeps in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastpersist.hot.codec import MAX_SIZE, normalise
from fastpersist.runner import journal as journal_module
from fastpersist.runner.journal import Journal

SESSION = ("s", "demo", "frame", "@BTC", True)
LARGE = "x" * 50_000


class Store:
    """Takes all calls of registries and remembers the records and what memory was asked for."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.lists = 0
        self.entries: dict[str, Any] = {}

    def __getattr__(self, domain: str) -> Any:
        return self

    async def write_session_data(self, *arguments: Any) -> None:
        self.records.append(arguments[-2])

    async def write_log_data(self, rows: Any) -> None:
        pass

    async def write_signal_data(self, *arguments: Any) -> None:
        pass

    async def write_memory_data(self, *arguments: Any) -> None:
        self.entries[arguments[2]] = arguments[3]

    async def list_memory_data(self, *context: str) -> AsyncIterator[Any]:
        self.lists += 1
        for memory_id, entry in self.entries.items():
            yield {"memoryId": memory_id, "data": entry}


def log_line(journal: Journal, number: int) -> None:
    row = {"id": str(number), "args": [LARGE]}
    journal.write_row("log", "write_log_data", row=row)


def note_of_a_signal(journal: Journal, number: int) -> None:
    row = {"id": str(number), "note": LARGE}
    journal.write("signal", "write_signal_data", f"S{number}", "s", "demo", row, places=3)


@pytest.mark.parametrize("write", [log_line, note_of_a_signal])
async def test_a_record_stays_within_a_document(write: Any) -> None:
    store: Any = Store()
    journal = Journal(store, SESSION)
    for number in range(500):
        write(journal, number)
        await journal.end_bar(dict, number)
    await journal.commit({}, 500)
    assert max(normalise(record)[1] for record in store.records) < MAX_SIZE / 4


async def test_a_bucket_that_has_become_large_is_left_to_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "_KEPT", 10)
    store: Any = Store()
    journal = Journal(store, SESSION)
    for number in range(30):
        key, entry = ("owner", "bucket", str(number)), {"data": number}
        journal.write("memory", "write_memory_data", *key, entry, 0, places=3, key=key, value=entry)
        assert len(await journal.memories("owner", "bucket")) == number + 1
        await journal.commit({}, number)
        assert all(len(kept) <= 10 for kept in journal._memories.values())
    assert store.lists == 20
