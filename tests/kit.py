"""Helpers that several test modules share."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pymongo import monitoring

from fastpersist.local import Server

SOURCES = Path(__file__).parent.parent / "src"


class CommandRecorder(monitoring.CommandListener):
    """Remembers the commands that are sent, by database."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, list[set[str]]]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        filters = [set(update["q"]) for update in event.command.get("updates", ())]
        self.sent.append((event.database_name, event.command_name, filters))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass

    def of(self, database: str) -> list[str]:
        """Return the names of the commands sent to a database since the last :meth:`clear`."""
        return [name for where, name, _ in self.sent if where == database]

    def updates_of(self, database: str) -> list[int]:
        """Return how many updates each update command to a database had."""
        return [len(found) for where, name, found in self.sent if where == database and found]

    def filters_of(self, database: str) -> list[set[str]]:
        """Return the fields that each update sent to a database filtered by."""
        return [fields for where, _, found in self.sent if where == database for fields in found]

    def clear(self) -> None:
        self.sent.clear()


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Wait until `condition` holds.

    Raises:
        AssertionError: It did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)


@contextmanager
def hanging(server: Server) -> Iterator[None]:
    """Stop a child process from running; it goes on when the block ends."""
    send(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def send(server: Server, fault: signal.Signals) -> None:
    """Send SIGKILL or SIGSTOP to a child process and return when it has taken effect.

    On a loaded machine its threads still answer calls for a while after the signal is sent.

    Raises:
        AssertionError: It has not within 60 s.
    """
    os.kill(server.pid, fault)
    deadline = time.monotonic() + 60
    kinds = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, server.pid, kinds) is None:
        assert time.monotonic() < deadline, f"{server.name} still runs after {fault.name}"
        time.sleep(0.002)
