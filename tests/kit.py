"""Helpers that several test modules share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from pymongo import monitoring

SOURCES = Path(__file__).parent.parent / "src"


class CommandRecorder(monitoring.CommandListener):
    """Remembers the names of the commands that are sent, by database."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent.append((event.database_name, event.command_name))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    def of(self, database: str) -> list[str]:
        """Return the commands sent to a database since the last :meth:`clear`."""
        return [name for where, name in self.sent if where == database]

    def clear(self) -> None:
        self.sent.clear()


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Wait until `condition` holds.

    Raises:
        AssertionError: It did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)
