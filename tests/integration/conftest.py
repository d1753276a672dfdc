"""What the tests on real servers share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient, monitoring
from pymongo.asynchronous.database import AsyncDatabase
from redis.asyncio import Redis

from conftest import Place
from kit import CommandRecorder
from toolbox_kit import Command

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


@pytest.fixture
def fastpersist(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command, at the test's place."""
    return Command(place, monkeypatch, capsys)
