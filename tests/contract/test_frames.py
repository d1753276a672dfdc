"""Candle frames in the families that store."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import polars
import pyarrow
import pytest
from pymongo import AsyncMongoClient

import fastpersist
from conftest import Place
from fastpersist import InvalidArgumentError, LookAheadError, Store, simulated_time
from fastpersist.registry import Registries

CONTEXT = ("BTCUSDT", "1m", "binance")
STEP = 60_000
START = 1_735_689_600_000


def candle(number: int) -> Any:
    return {
        "timestamp": START + number * STEP,
        "open": 100.0 + number,
        "high": 103.5 + number,
        "low": 99,
        "close": 101.25 + number,
        "volume": 0.5 * number,
    }


async def test_a_frame_has_the_stored_candles_by_time(family: Registries) -> None:
    rows = [candle(number) for number in range(300)]
    await family.candle.write_candles_data(*CONTEXT, rows[::-1])
    frame = await family.candle.read_candles_frame(*CONTEXT, START, START + 300 * STEP)
    assert len(frame) == 300
    assert frame.is_complete
    assert frame.rows() == rows
    assert frame.timestamp.tolist() == [row["timestamp"] for row in rows]
    assert frame.to_numpy()["close"].sum() == sum(row["close"] for row in rows)


async def test_a_frame_with_gaps_tells_how_many_are_missing(family: Registries) -> None:
    stored = [candle(number) for number in (0, 1, 3, 7)]
    await family.candle.write_candles_data(*CONTEXT, stored)
    frame = await family.candle.read_candles_frame(*CONTEXT, START, START + 8 * STEP)
    assert frame.rows() == stored
    assert frame.missing == 4
    assert not frame.is_complete


async def test_a_frame_begins_with_start_and_ends_before_end(family: Registries) -> None:
    await family.candle.write_candles_data(*CONTEXT, [candle(number) for number in range(10)])
    start = datetime.fromtimestamp((START + 2 * STEP) / 1000, timezone.utc)
    frame = await family.candle.read_candles_frame(*CONTEXT, start, START + 5 * STEP)
    assert [row["timestamp"] for row in frame.rows()] == [START + n * STEP for n in (2, 3, 4)]
    assert frame.is_complete
    off_grid = await family.candle.read_candles_frame(*CONTEXT, START + 1, START + 3 * STEP + 1)
    assert [row["timestamp"] for row in off_grid.rows()] == [START + n * STEP for n in (1, 2, 3)]
    assert off_grid.is_complete


async def test_a_frame_of_nothing_is_empty(family: Registries, dummy: Registries) -> None:
    for registries in (family, dummy):
        frame = await registries.candle.read_candles_frame(*CONTEXT, START, START + 3 * STEP)
        assert len(frame) == 0
        assert frame.missing == 3
        assert frame.to_polars().height == 0
        empty = await registries.candle.read_candles_frame(*CONTEXT, START, START)
        assert empty.is_complete


async def test_a_frame_does_not_see_the_future(family: Registries) -> None:
    await family.candle.write_candles_data(*CONTEXT, [candle(number) for number in range(10)])
    with simulated_time(START + 4 * STEP + 30_000):
        frame = await family.candle.read_candles_frame(*CONTEXT, START, START + 10 * STEP)
        later = await family.candle.read_candles_frame(*CONTEXT, START + 6 * STEP, START + 9 * STEP)
    assert len(frame) == 4
    assert frame.end == START + 4 * STEP
    assert frame.is_complete
    assert len(later) == 0


async def test_a_frame_of_the_future_is_an_error_on_request(place: Place) -> None:
    async with place.open(look_ahead="raise") as store:
        await store.candle.write_candles_data(*CONTEXT, [candle(number) for number in range(10)])
        with simulated_time(START + 4 * STEP):
            found = await store.candle.read_candles_frame(*CONTEXT, START, START + 4 * STEP)
            assert len(found) == 4
            with pytest.raises(LookAheadError):
                await store.candle.read_candles_frame(*CONTEXT, START, START + 5 * STEP)


async def test_wrong_ranges_are_refused(family: Registries) -> None:
    for start, end, field in (
        (START, START - 1, "end"),
        (datetime(2025, 1, 1), START, "start"),  # naive on purpose
        (START, "tomorrow", "end"),
        (2**63 - 5, 2**63 - 1, "end"),
        (-(2**63), START, "end"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            await family.candle.read_candles_frame(*CONTEXT, start, end)  # type: ignore[arg-type]  # what is tested
        assert caught.value.field == field


async def test_an_adapter_without_frames_is_named(family: Registries) -> None:
    class Rows:
        def __init__(self, *context: str) -> None:
            pass

        async def wait_for_init(self, initial: bool) -> None:
            pass

        async def read_candles_data(self, *window: Any) -> Any:
            return None

        async def write_candles_data(self, candles: Any) -> None:
            pass

    family.candle.use_persist_candle_adapter(Rows)
    assert await family.candle.read_candles_data(*CONTEXT, 1, START) is None
    with pytest.raises(InvalidArgumentError, match="Rows has no read_candles_frame"):
        await family.candle.read_candles_frame(*CONTEXT, START, START + STEP)


async def test_frames_of_many_batches_reach_the_table_libraries(store: Store) -> None:
    rows = [candle(number) for number in range(5_000)]
    await store.candle.write_candles_data(*CONTEXT, rows)
    frame = await store.candle.read_candles_frame(*CONTEXT, START, START + 5_000 * STEP)
    assert isinstance(frame, fastpersist.CandleFrame)
    moment = datetime.fromtimestamp(START / 1000, timezone.utc)
    table = frame.to_arrow()
    assert table.schema.field("timestamp").type == pyarrow.timestamp("ms", "UTC")
    assert table["timestamp"][0].as_py() == moment
    assert table.num_rows == 5_000
    data = frame.to_polars()
    assert data.schema["timestamp"] == polars.Datetime("ms", "UTC")
    assert data["volume"].to_list() == [row["volume"] for row in rows]
    pandas = frame.to_pandas()
    assert str(pandas["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert pandas["timestamp"][0] == moment
    assert pandas["high"].tolist() == [row["high"] for row in rows]


async def test_a_candle_off_the_grid_is_not_seen_before_it_has_closed(place: Place) -> None:
    async with place.open() as store, AsyncMongoClient[Any](place.servers.mongo_url) as client:
        await store.ready()
        hour = 60 * STEP
        figures = {name: value for name, value in candle(0).items() if name != "timestamp"}
        await client[place.name]["candle-items"].insert_one(
            {
                **figures,
                "symbol": "BTCUSDT",
                "interval": "1h",
                "exchangeName": "binance",
                "timestamp": START + 2 * hour + hour // 2,
            }
        )
        context = ("BTCUSDT", "1h", "binance")
        with simulated_time(START + 3 * hour):
            early = await store.candle.read_candles_frame(*context, START, START + 9 * hour)
        with simulated_time(START + 4 * hour):
            later = await store.candle.read_candles_frame(*context, START, START + 9 * hour)
        assert (len(early), early.missing) == (0, 3)
        assert (len(later), later.missing) == (1, 4)
