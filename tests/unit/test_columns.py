"""Candle columns in both implementations: parsing, sharing of memory, insert documents."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
from importlib import import_module
from types import ModuleType
from typing import Any

import bson
import numpy as np
import polars
import pyarrow
import pytest
from bson import Int64, ObjectId

from fastpersist import InvalidArgumentError
from fastpersist.errors import CorruptDataError
from fastpersist.frames import CandleFrame
from fastpersist.hot import _columns_py

IMPLEMENTATIONS: dict[str, ModuleType] = {"pure": _columns_py}
if os.environ.get("FASTPERSIST_PURE") != "1":
    with contextlib.suppress(ImportError):
        IMPLEMENTATIONS["compiled"] = import_module("fastpersist.hot._columns_c")

NAMES = ("timestamp", "open", "high", "low", "close", "volume")
START = 1_735_689_600_000
STEP = 60_000


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=list(IMPLEMENTATIONS))
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


def row(number: int) -> dict[str, Any]:
    return {
        "timestamp": START + number * STEP,
        "open": 1.5 + number,
        "high": 3.0 + number,
        "low": 1.0,
        "close": 2.25,
        "volume": 0.0,
    }


def batch(*rows: dict[str, Any]) -> bytes:
    return b"".join(bson.encode(one) for one in rows)


def test_batches_become_columns(module: Any) -> None:
    rows = [row(number) for number in range(500)]
    columns = module.columns_from_batches([batch(*rows[:200]), b"", batch(*rows[200:])])
    assert len(columns) == 500
    assert columns.skipped == 0
    assert module.rows(columns) == rows
    assert [column.kind for column in map(columns.__getattribute__, NAMES)] == [
        "int64",
        *["float64"] * 5,
    ]


def test_figures_of_every_type_and_order_are_read(module: Any) -> None:
    stored = [
        {**row(0), "open": 2, "volume": Int64(5)},
        {name: row(1)[name] for name in reversed(NAMES)},
        {"_id": ObjectId(), "symbol": "é", "x": {"open": 5}, "y": [1], **row(2), "z": None},
        {**row(3), "timestamp": float(START + 3 * STEP)},
    ]
    found = module.rows(module.columns_from_batches([batch(*stored)]))
    assert [one["timestamp"] for one in found] == [START + n * STEP for n in range(4)]
    assert found[0]["open"] == 2.0
    assert found[0]["volume"] == 5.0
    assert type(found[0]["open"]) is float
    assert type(found[3]["timestamp"]) is int
    assert found[1] == row(1)
    assert found[2] == row(2)


@pytest.mark.parametrize(
    "change",
    [
        {"close": None},
        {"close": "2"},
        {"close": True},
        {"timestamp": 1.5},
        {"timestamp": float("nan")},
        {"timestamp": 1e300},
    ],
)
def test_rows_without_a_figure_are_left_out(module: Any, change: dict[str, Any]) -> None:
    broken = {**row(1), **change}
    lacking = {name: value for name, value in row(2).items() if name != "volume"}
    columns = module.columns_from_batches([batch(row(0), broken, lacking, row(3))])
    assert module.rows(columns) == [row(0), row(3)]
    assert columns.skipped == 2


@pytest.mark.parametrize("size", [1, 3, 4, 5, 10, 50])
def test_truncated_batches_are_refused(module: Any, size: int) -> None:
    whole = batch(row(0))
    with pytest.raises(CorruptDataError, match="byte"):
        module.columns_from_batches([whole, whole[:size]])


def test_damaged_batches_get_one_answer_and_no_crash() -> None:
    def answer(module: Any, data: bytes) -> Any:
        try:
            columns = module.columns_from_batches([data])
        except CorruptDataError as error:
            return str(error)
        return columns.skipped, [getattr(columns, name).tolist() for name in NAMES]

    chance = random.Random(7)
    whole = batch(row(0), {"_id": ObjectId(), "r": bson.Regex("a"), "s": "x", **row(1)}, row(2))
    for _ in range(20_000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 2, 16, 18, 255, 128))
        data = bytes(
            damaged[: chance.randint(1, len(damaged))] if chance.random() < 0.3 else damaged
        )
        answers = [repr(answer(module, data)) for module in IMPLEMENTATIONS.values()]
        assert len(set(answers)) == 1, data


def test_columns_share_their_memory_with_numpy(module: Any) -> None:
    columns = module.columns_from_batches([batch(*(row(number) for number in range(10)))])
    array = np.asarray(columns.open)
    assert array.dtype == np.float64
    assert not array.flags.owndata
    assert array.tolist() == [1.5 + number for number in range(10)]
    assert memoryview(columns.timestamp).format == "q"
    assert np.frombuffer(columns.timestamp, np.int64)[1] == START + STEP
    assert columns.open[-1] == 10.5
    with pytest.raises(IndexError):
        columns.open[10]


@pytest.mark.parametrize("consumer", ["array", "table", "polars"])
def test_memory_outlives_the_columns(module: Any, consumer: str) -> None:
    rows = [row(number) for number in range(1_000)]
    columns = module.columns_from_batches([batch(*rows)])
    consumers: dict[str, Any] = {
        "array": pyarrow.array,
        "table": pyarrow.table,
        "polars": polars.DataFrame,
    }
    taken = consumers[consumer](columns)
    del columns
    gc.collect()
    noise = [bytearray(8_000) for _ in range(200)]
    if consumer == "array":
        closes = [one["open"] for one in taken.to_pylist()]
    elif consumer == "table":
        assert taken.schema.field("timestamp").type == pyarrow.timestamp("ms", "UTC")
        closes = taken["open"].to_pylist()
    else:
        closes = taken["open"].to_list()
    assert closes == [one["open"] for one in rows]
    del taken, noise
    gc.collect()


def test_capsules_that_nobody_takes_are_released(module: Any) -> None:
    columns = module.columns_from_batches([batch(row(0))])
    for _ in range(50):
        columns.__arrow_c_schema__()
        columns.__arrow_c_array__()
        columns.__arrow_c_stream__()
    gc.collect()
    assert pyarrow.table(columns).num_rows == 1


def test_no_candles_are_columns_too(module: Any) -> None:
    columns = module.columns_from_batches([])
    assert len(columns) == 0
    assert pyarrow.table(columns).num_rows == 0
    assert polars.DataFrame(columns).height == 0
    assert module.rows(columns) == []


def test_columns_can_be_pickled(module: Any) -> None:
    columns = module.columns_from_rows([row(0), row(1)])
    assert module.rows(pickle.loads(pickle.dumps(columns))) == [row(0), row(1)]


def test_missing_moments_are_counted(module: Any) -> None:
    columns = module.columns_from_rows([row(0), row(2), {**row(3), "timestamp": START + 3}, row(9)])
    assert module.missing_steps(columns, START, STEP, 4) == 2
    assert module.missing_steps(columns, START, STEP, 10) == 7
    assert module.missing_steps(columns, START + 2 * STEP, STEP, 1) == 0
    assert module.missing_steps(columns, START, STEP, 0) == 0
    assert module.is_complete(columns, START, STEP, 1)
    with pytest.raises(ValueError, match="step must be positive"):
        module.missing_steps(columns, START, 0, 1)


def test_insert_documents_are_the_drivers_bytes(module: Any) -> None:
    rows = [row(0), row(1)]
    ids = [ObjectId(), ObjectId()]
    context = {"symbol": "BTCUSDT", "interval": "1m", "exchangeName": "binance"}
    date = bson.DatetimeMS(START + 5)
    expected = [
        bson.encode(
            {"_id": one_id, **context, **one, "createDate": date, "updatedDate": date, "__v": 0}
        )
        for one_id, one in zip(ids, rows, strict=True)
    ]
    prefix = bson.encode(context)[4:-1]
    columns = module.columns_from_rows(rows)
    packed = b"".join(one.binary for one in ids)
    assert module.insert_documents(columns, prefix, packed, START + 5) == expected
    with pytest.raises(ValueError, match="candles need 12 bytes"):
        module.insert_documents(columns, prefix, packed[:12], START)


def test_a_batch_that_is_no_bytes_is_refused(module: Any) -> None:
    with pytest.raises(TypeError, match="a batch must be bytes"):
        module.columns_from_batches(["text"])


def test_a_large_window_is_read_whole(module: Any) -> None:
    count = 30_000
    rows = [row(number) for number in range(count)]
    columns = module.columns_from_batches([batch(*rows)])
    assert len(columns) == count
    assert columns.timestamp[count - 1] == START + (count - 1) * STEP


def frame(module: Any, *rows: dict[str, Any], end: int) -> CandleFrame:
    columns = module.columns_from_rows(list(rows))
    return CandleFrame("BTCUSDT", "1m", "binance", columns, START, end)


def test_a_frame_has_read_only_arrays() -> None:
    from fastpersist.hot import columns as chosen

    arrays = frame(chosen, row(0), row(1), end=START + 2 * STEP).to_numpy()
    assert list(arrays) == list(NAMES)
    assert arrays["timestamp"].dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        arrays["open"][0] = 1.0


def test_a_frame_refuses_a_range_that_runs_backwards() -> None:
    from fastpersist.hot import columns as chosen

    with pytest.raises(InvalidArgumentError, match="lies before"):
        frame(chosen, end=START - 1)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 5), (2, 4), (4, 4), (3, 1), (-3, 2), (2, 99), (7, 9), (0, 0)]
)
def test_a_part_is_a_copy_of_some_rows(module: Any, start: int, stop: int) -> None:
    rows = [row(number) for number in range(5)]
    found = module.part(module.columns_from_rows(rows), start, stop)
    first = max(start, 0)
    assert module.rows(found) == rows[first : max(first, stop)]


def test_a_part_leaves_no_way_to_the_rest(module: Any) -> None:
    columns = module.columns_from_rows([row(number) for number in range(100)])
    found = np.asarray(module.part(columns, 0, 3).close)
    assert found.shape == (3,)
    assert memoryview(found).nbytes == memoryview(module.part(columns, 0, 3).open).nbytes == 24
    assert not np.shares_memory(found, np.asarray(columns.close))


def test_longer_candles_are_made_of_shorter_ones(module: Any) -> None:
    figures = [  # minute, open, high, low, close, volume
        (3, 10.0, 12.0, 9.0, 11.0, 1.0),
        (4, 11.0, 15.0, 11.0, 14.0, 2.0),
        (5, 14.0, 14.5, 8.0, 9.0, 0.5),
        (7, 9.0, 9.5, 7.0, 9.25, 4.0),
        (16, 1.0, 2.0, 0.5, 1.5, 3.0),
    ]
    base = START // (5 * STEP) * 5 * STEP
    columns = module.columns_from_rows(
        [dict(zip(NAMES, (base + minute * STEP, *rest), strict=True)) for minute, *rest in figures]
    )
    found = module.rows(module.aggregated(columns, 5 * STEP))
    assert [tuple(candle.values()) for candle in found] == [
        (base, 10.0, 15.0, 9.0, 14.0, 3.0),
        (base + 5 * STEP, 14.0, 14.5, 7.0, 9.25, 4.5),
        (base + 15 * STEP, 1.0, 2.0, 0.5, 1.5, 3.0),
    ]


@pytest.mark.parametrize("moment", [-1, -STEP, -STEP - 1, 0, 1])
def test_moments_before_1970_are_rounded_down_too(module: Any, moment: int) -> None:
    columns = module.columns_from_rows([{**row(0), "timestamp": moment}])
    assert module.aggregated(columns, STEP).timestamp.tolist() == [moment // STEP * STEP]


def test_candles_of_no_length_are_refused(module: Any) -> None:
    with pytest.raises(ValueError, match="step must be positive"):
        module.aggregated(module.columns_from_rows([]), 0)
    assert len(module.aggregated(module.columns_from_rows([]), 5)) == 0
