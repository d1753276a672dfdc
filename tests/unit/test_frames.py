"""Candles as a frame, for the packages that work on columns."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import polars
import pyarrow
import pytest

from fastpersist.errors import ConfigurationError, InvalidArgumentError
from fastpersist.frames import CandleFrame
from fastpersist.hot.columns import columns_from_rows

NAMES = ["timestamp", "open", "high", "low", "close", "volume"]
STEP = 60_000
CANDLES = [
    {"timestamp": n * STEP, "open": n + 1.0, "high": n + 3.0, "low": 0.5, "close": 2.0, "volume": n}
    for n in range(4)
]


def frame_of(start: int = 0, end: int = 4 * STEP, interval: str = "1m") -> CandleFrame:
    return CandleFrame("BTCUSDT", interval, "binance", columns_from_rows(CANDLES), start, end)


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_frame_knows_what_it_lacks() -> None:
    frame = frame_of()
    assert (frame.missing, frame.is_complete, len(frame)) == (0, True, 4)
    frame = frame_of(end=5 * STEP + 1)
    assert (frame.missing, frame.is_complete) == (2, False)
    assert frame_of(end=0).is_complete
    with pytest.raises(FrozenInstanceError):
        frame.missing = 0


def test_a_frame_needs_a_range_and_an_interval() -> None:
    with pytest.raises(InvalidArgumentError, match="interval"):
        frame_of(interval="7m")
    with pytest.raises(InvalidArgumentError, match="end: 0 lies before the start 1"):
        frame_of(1, 0)


def test_rows_and_columns_are_the_candles() -> None:
    frame = frame_of()
    assert frame.rows() == CANDLES
    for name in NAMES:
        assert getattr(frame, name).tolist() == [row[name] for row in CANDLES]


def test_numpy_shares_the_memory() -> None:
    frame = frame_of()
    arrays = frame.to_numpy()
    assert list(arrays) == NAMES
    for name, array in arrays.items():
        assert array.tolist() == [row[name] for row in CANDLES]
        assert array.dtype == (np.int64 if name == "timestamp" else np.float64)
        assert address(array) == address(getattr(frame, name))
        assert not array.flags.writeable
    del frame
    gc.collect()
    assert arrays["low"].tolist() == [0.5] * 4


def test_arrow_shares_the_memory() -> None:
    frame = frame_of()
    table = frame.to_arrow()
    assert table.column_names == NAMES
    assert str(table.schema.field("timestamp").type) == "timestamp[ms, tz=UTC]"
    assert table["close"].chunk(0).buffers()[1].address == address(frame.close)
    assert pyarrow.array(frame).type == pyarrow.struct(table.schema)
    del frame
    gc.collect()
    assert table["open"].to_pylist() == [1.0, 2.0, 3.0, 4.0]


def test_polars_takes_the_frame() -> None:
    frame = frame_of()
    table = frame.to_polars()
    assert table.columns == NAMES
    assert table.schema["timestamp"] == polars.Datetime("ms", "UTC")
    assert address(table["close"].to_numpy(allow_copy=False)) == address(frame.close)
    del frame
    gc.collect()
    assert table["timestamp"].cast(polars.Int64).to_list() == [0, STEP, 2 * STEP, 3 * STEP]
    assert table["volume"].to_list() == [0.0, 1.0, 2.0, 3.0]


def test_pandas_takes_the_frame() -> None:
    frame = frame_of()
    table = frame.to_pandas()
    assert list(table.columns) == NAMES
    assert str(table["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert address(table["close"].to_numpy()) == address(frame.close)
    del frame
    gc.collect()
    assert table["timestamp"].astype("int64").tolist() == [0, STEP, 2 * STEP, 3 * STEP]
    assert table["open"].tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("numpy", CandleFrame.to_numpy),
        ("pyarrow", CandleFrame.to_arrow),
        ("polars", CandleFrame.to_polars),
        ("pandas", CandleFrame.to_pandas),
    ],
)
def test_an_absent_package_is_named(
    package: str, call: Callable[[CandleFrame], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError) as caught:
        call(frame_of())
    extra = "arrow" if package == "pyarrow" else package
    assert caught.value.hint == f'pip install "fastpersist[{extra}]"'
    assert caught.value.setting == package
