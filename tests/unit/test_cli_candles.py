"""The `export-candles` command over the files family, and its answers to mistakes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars
import pytest

from fastpersist.adapters.files import FilesBackend
from fastpersist.cli import main
from fastpersist.errors import InvalidArgumentError
from fastpersist.registry import Registries
from fastpersist.runner import read_candle_file
from fastpersist.times import parse_moment

START = 1_735_689_600_000
STEP = 60_000
ROWS: list[Any] = [
    {
        "timestamp": START + number * STEP,
        "open": 1.5,
        "high": 3.25,
        "low": 1.0,
        "close": 2.0 + number / 8,
        "volume": 0.1,
    }
    for number in (0, 1, 3)
]
RANGE = ("--start", "2025-01-01", "--end", "2025-01-01T00:05Z")


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    registries = Registries()
    registries.use_backend(FilesBackend(tmp_path / "dump"))
    asyncio.run(registries.candle.write_candles_data("BTCUSDT", "1m", "binance", ROWS))
    return tmp_path / "dump"


def export(dump: Path, *options: str) -> int:
    return main(["export-candles", "BTCUSDT", "1m", "binance", *options, "--files", str(dump)])


def test_csv_goes_to_standard_output(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(dump, *RANGE) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "timestamp,open,high,low,close,volume",
        f"{START},1.5,3.25,1.0,2.0,0.1",
        f"{START + STEP},1.5,3.25,1.0,2.125,0.1",
        f"{START + 3 * STEP},1.5,3.25,1.0,2.375,0.1",
    ]
    assert err == "3 candles of BTCUSDT 1m binance, 2 missing\n"


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "CSV.GZ", "parquet", "arrow"])
def test_files_hold_the_same_candles(dump: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out.{suffix}"
    assert export(dump, *RANGE, "--output", str(output)) == 0
    readers: dict[str, Any] = {
        "csv": polars.read_csv,
        "csv.gz": polars.read_csv,
        "parquet": polars.read_parquet,
        "arrow": polars.read_ipc,
    }
    data = readers[suffix.lower()](output)
    assert data["close"].to_list() == [row["close"] for row in ROWS]
    assert data["timestamp"].cast(polars.Int64).to_list() == [row["timestamp"] for row in ROWS]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert read_candle_file(output, "BTCUSDT").candles == ROWS


def test_the_same_candles_make_the_same_file(dump: Path, tmp_path: Path) -> None:
    files = [tmp_path / "first.csv.gz", tmp_path / "second.csv.gz"]
    for file in files:
        assert export(dump, *RANGE, "--output", str(file)) == 0
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*RANGE, "--output", "out.xlsx"), "output: must end in .csv, .csv.gz, .parquet, .arrow"),
        (("--start", "soon", "--end", "2025-01-02"), "start: not a time: 'soon'"),
        (("--start", "2025-01-02", "--end", "2025-01-01"), "lies before the start"),
        ((*RANGE, "--output", "no/such/folder/out.csv"), "no/such/folder/out.csv: No such file"),
    ],
)
def test_a_mistake_is_named_without_a_traceback(
    dump: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert export(dump, *options) == 2
    assert message in capsys.readouterr().err


def test_moments_are_ms_or_text() -> None:
    assert parse_moment("start", str(START)) == START
    assert parse_moment("start", "2025-01-01T01:00+01:00") == START
    with pytest.raises(InvalidArgumentError):
        parse_moment("start", "20250")


def test_a_window_without_a_candle_is_told_by_the_exit_code(
    dump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(dump, "--start", "2001-01-01", "--end", "2001-01-02") == 1
    assert "0 candles of BTCUSDT 1m binance" in capsys.readouterr().err
