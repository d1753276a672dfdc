"""What the tests on real servers share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from conftest import Place
from pymongo import AsyncMongoClient, monitoring
from pymongo.asynchronous.database import AsyncDatabase
from redis.asyncio import Redis


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


_recorder = CommandRecorder()
monitoring.register(_recorder)


@pytest.fixture
def commands() -> CommandRecorder:
    """The recorder of the driver's commands."""
    _recorder.clear()
    return _recorder


@pytest.fixture
async def database(place: Place) -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
    """The test's database through a plain driver."""
    async with AsyncMongoClient[dict[str, Any]](place.servers.mongo_url, tz_aware=True) as client:
        yield client[place.name]


@pytest.fixture
async def redis(place: Place) -> AsyncIterator[Redis]:
    """Redis through a plain client."""
    async with Redis.from_url(place.servers.redis_url) as client:
        yield client
