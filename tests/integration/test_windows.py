"""Windows that arrive in several batches: complete, in order, and given up in good order."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from candle_rows import START_MS, random_walk
from conftest import Place
from fastpersist import Store, StoreUnavailableError
from fastpersist.services import mongo as mongo_module
from kit import CommandRecorder

MINUTE = 60_000
CONTEXT = ("BTC", "1m", "demo")
CANDLES = random_walk(1_000)
SPAN = (START_MS, START_MS + 1_000 * MINUTE)


@pytest.fixture
async def stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with candles that are sent a hundred at first."""
    await store.candle.write_candles_data(*CONTEXT, CANDLES)
    monkeypatch.setattr(mongo_module, "_FIRST_BATCH", 100)
    return store


async def test_a_window_of_several_batches_is_whole(
    place: Place, stored: Store, commands: CommandRecorder
) -> None:
    commands.clear()
    frame = await stored.candle.read_candles_frame(*CONTEXT, *SPAN)
    assert frame.rows() == CANDLES
    assert commands.of(place.name) == ["find", "getMore"]
    assert await stored.candle.read_candles_data(*CONTEXT, 1_000, START_MS) == CANDLES


async def test_a_window_that_is_given_up_leaves_no_cursor(
    place: Place, stored: Store, commands: CommandRecorder
) -> None:
    commands.clear()
    batches = stored.container.mongo_service.raw_batches("candle-items", {})
    async with aclosing(batches):
        async for documents in batches:
            assert len(documents) == 100
            break
    assert commands.of(place.name) == ["find", "killCursors"]


async def test_a_window_that_is_cancelled_leaves_no_cursor(
    place: Place, stored: Store, commands: CommandRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mongo = stored.container.mongo_service
    reply, waits = mongo._reply, asyncio.Event()

    async def slow(command: dict[str, Any], *arguments: Any) -> bytes:
        if "getMore" in command:
            waits.set()
            await asyncio.sleep(60)
        return await reply(command, *arguments)

    monkeypatch.setattr(mongo, "_reply", slow)
    commands.clear()
    reading = asyncio.ensure_future(stored.candle.read_candles_frame(*CONTEXT, *SPAN))
    await waits.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert commands.of(place.name) == ["find", "killCursors"]


async def test_a_connection_that_breaks_at_first_costs_nothing(
    stored: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mongo = stored.container.mongo_service

    async def broken(*arguments: Any) -> bytes:
        raise AutoReconnect("reset")

    monkeypatch.setattr(mongo, "_reply", broken)
    frame = await stored.candle.read_candles_frame(*CONTEXT, *SPAN)
    assert frame.rows() == CANDLES
    assert await stored.candle.read_candles_data(*CONTEXT, 1_000, START_MS) == CANDLES


async def test_a_connection_that_breaks_half_way_is_told(
    stored: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mongo = stored.container.mongo_service
    reply = mongo._reply

    async def breaks(command: dict[str, Any], *arguments: Any) -> bytes:
        if "getMore" in command:
            raise AutoReconnect("reset")
        return await reply(command, *arguments)

    monkeypatch.setattr(mongo, "_reply", breaks)
    with pytest.raises(StoreUnavailableError):
        await stored.candle.read_candles_frame(*CONTEXT, *SPAN)
    monkeypatch.undo()
    frame = await stored.candle.read_candles_frame(*CONTEXT, *SPAN)
    assert frame.rows() == CANDLES
