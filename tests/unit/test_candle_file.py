"""What candle files may look like, and how malformed ones are refused."""

from __future__ import annotations

import gzip
import io
import sys
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from candle_rows import START_MS, as_csv, random_walk, write_csv
from fastpersist import ConfigurationError, FastPersistError, InvalidArgumentError
from fastpersist.domains import INTERVAL_STEP_MS
from fastpersist.runner import CandleFileError, read_candle_file

SECONDS = START_MS // 1000
HEADER = "time,open,high,low,close,volume"


def rows(*times: object, figures: str = "2,3,1,2,5") -> str:
    return "".join(f"{time},{figures}\n" for time in times)


TWO = f"{HEADER}\n{rows(SECONDS, SECONDS + 60)}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "BTCUSDT-1m.csv"


def refusal(path: Path, content: str | bytes) -> str:
    """Return the message of the refusal without the folder."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CandleFileError) as caught:
        read_candle_file(path)
    error = caught.value
    assert isinstance(error, FastPersistError)
    assert str(error).startswith(f"{path}:{error.line}: ")
    assert error.path == path
    return str(error).removeprefix(f"{path.parent}/")


@pytest.mark.parametrize(
    "header",
    [
        "timestamp,open,high,low,close,volume",
        "time,o,h,l,c,v",
        "Date,OPEN,High,lOw,Close,Vol",
        "datetime, open , high ,low,close,Volume",
        "open_time,open,high,low,close,volume",
        "Open Time,open,high,low,close,volume",
        "OpenTime,open,high,low,close,volume",
        "\ufefftime,open,high,low,close,volume",
        '"time","open","high","low","close","volume"',
    ],
)
def test_headers(path: Path, header: str) -> None:
    candles = random_walk(3)
    path.write_text(as_csv(candles, header), encoding="utf-8")
    assert read_candle_file(path).candles == candles


def test_columns_are_found_in_any_order_and_others_are_ignored(path: Path) -> None:
    path.write_text(
        "close,trades,low,volume,high,open,time\n"
        f"2,x,1,5,4,3,{START_MS}\n\n"  # an empty line is no row
        f"2.5,,1,0,4,3,{START_MS + 60_000}\n"
    )
    first, second = read_candle_file(path).candles
    assert first == {
        "timestamp": START_MS, "open": 3.0, "high": 4.0, "low": 1.0, "close": 2.0, "volume": 5.0,
    }  # fmt: skip
    assert (second["close"], second["volume"]) == (2.5, 0.0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (SECONDS, SECONDS + 60),
        (f"{SECONDS}.0", f"{SECONDS + 60}.000"),
        (START_MS, START_MS + 60_000),
        (f" {START_MS} ", f"{START_MS + 60_000}.0"),
        ("2025-01-01T00:00:00Z", "2025-01-01T00:01:00Z"),
        ("2025-01-01T00:00:00.000Z", "2025-01-01T00:01:00.000Z"),
        ("2025-01-01 00:00:00", "2025-01-01 00:01:00"),
        ("2025-01-01 02:00:00+02:00", "2025-01-01 02:01:00+02:00"),
        ("2024-12-31T19:00-05:00", "2025-01-01T00:01+00:00"),
        ("01.01.2025 00:00:00.000", "01.01.2025 00:01:00.000"),
        ("01.01.2025 00:00", "01.01.2025 00:01"),
        ("01.01.2025 01:00:00.000+01:00", "01.01.2025 01:01:00.000+01:00"),
    ],
)
def test_times(path: Path, first: object, second: object) -> None:
    path.write_text(f"{HEADER}\n{rows(first, second)}")
    file = read_candle_file(path)
    assert [candle["timestamp"] for candle in file.candles] == [START_MS, START_MS + 60_000]


def test_days(path: Path) -> None:
    path.write_text(f"{HEADER}\n{rows('31.12.2024', '2025-01-01')}")
    file = read_candle_file(path)
    assert [candle["timestamp"] for candle in file.candles] == [START_MS - 86_400_000, START_MS]
    assert file.interval == "1d"


@pytest.mark.parametrize(("interval", "step"), INTERVAL_STEP_MS.items())
def test_interval_is_the_smallest_distance(path: Path, interval: str, step: int) -> None:
    write_csv(path, random_walk(6, step=step, gaps=[1, 3]))
    file = read_candle_file(path)
    assert (file.interval, file.step) == (interval, step)
    assert len(file.candles) == 4


@pytest.mark.parametrize(
    ("name", "given_symbol", "symbol"),
    [
        ("BTCUSDT-1m.csv", None, "BTCUSDT"),
        ("EURUSD.csv", None, "EURUSD"),
        ("BTC_USDT.2025.csv.gz", None, "BTC_USDT"),
        ("candles.csv.gz", "ETHUSDT", "ETHUSDT"),
    ],
)
def test_symbol_and_gzip(tmp_path: Path, name: str, given_symbol: str | None, symbol: str) -> None:
    candles = random_walk(100)
    path = write_csv(tmp_path / name, candles)
    file = read_candle_file(str(path), given_symbol)
    assert file.symbol == symbol
    assert file.candles == candles
    assert file.path == path
    assert file.digest == sha256(path.read_bytes()).hexdigest()


def test_a_byte_order_mark_inside_of_gzip(tmp_path: Path) -> None:
    path = tmp_path / "A.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + TWO.encode()))
    assert len(read_candle_file(path).candles) == 2


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings(path: Path, ending: str) -> None:
    path.write_bytes(TWO.replace("\n", ending).encode())
    assert len(read_candle_file(path).candles) == 2


def test_the_digest_is_that_of_the_bytes(path: Path) -> None:
    path.write_text(TWO)
    before = read_candle_file(path).digest
    assert read_candle_file(path.rename(path.with_name("B.csv"))).digest == before
    path.write_text(TWO.replace("2,3,1,2,5", "2,3,1,2,6", 1))
    assert read_candle_file(path).digest != before


def test_candles_that_have_not_closed_are_left_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candles = random_walk(5)
    write_csv(path, candles)
    monkeypatch.setattr("fastpersist.runner.candle_file.now_ms", lambda: START_MS + 200_000)
    file = read_candle_file(path)
    assert (file.candles, file.unclosed) == (candles[:3], 2)
    monkeypatch.setattr("fastpersist.runner.candle_file.now_ms", lambda: START_MS)
    with pytest.raises(CandleFileError, match=r"\.csv:2: no candle has closed yet"):
        read_candle_file(path)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ("x,3,1,2,5", "open is not a number: 'x'"),
        ("2,,1,2,5", "high is not a number: ''"),
        ("2,3,1;5,2,5", "low is not a number: '1;5'"),
        ("2,3,1,2,1e", "volume is not a number: '1e'"),
        ("2,3,1,NaN,5", "close is not finite: nan"),
        ("2,inf,1,2,5", "high is not finite: inf"),
        ("2,3,-1e999,2,5", "low is not finite: -inf"),
        ("2,3,1,2,-5", "volume -5.0 is negative"),
        ("2,1,3,2,5", "open 2.0 and close 2.0 must lie between low 3.0 and high 1.0"),
        ("9,3,1,2,5", "open 9.0 and close 2.0 must lie between low 1.0 and high 3.0"),
        ("2,3,1,0.5,5", "open 2.0 and close 0.5 must lie between low 1.0 and high 3.0"),
        ("2,3,1,2", "5 columns, while the header has 6"),
        ("2,3,1,2,5,6", "7 columns, while the header has 6"),
    ],
)
def test_malformed_figures_name_file_and_line(path: Path, figures: str, message: str) -> None:
    text = f"{TWO}\n{rows(SECONDS + 120, figures=figures)}{rows(SECONDS + 180)}"
    assert refusal(path, text) == f"BTCUSDT-1m.csv:5: {message}"


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("yesterday", "not a time: 'yesterday'"),
        ("", "not a time: ''"),
        ("2025-02-30", "not a time: '2025-02-30'"),
        ("32.01.2025 00:00:00", "not a time: '32.01.2025 00:00:00'"),
        ("1735689600.5", "not a time: '1735689600.5'"),
        ("9" * 5000, "not a time: '" + "9" * 59),
        (SECONDS + 60, f"the candle of {START_MS + 60_000} ms is there twice"),
        ("2025-01-01T00:01Z", f"the candle of {START_MS + 60_000} ms is there twice"),
        (SECONDS, f"the candle of {START_MS} ms is out of order"),
        (SECONDS + 90, "the smallest distance of two candles is 30000 ms (known: 1m, 3m, 5m, 15m,"
         " 30m, 1h, 2h, 4h, 6h, 8h, 1d)"),
    ],
)  # fmt: skip
def test_malformed_times_name_file_and_line(path: Path, time: object, message: str) -> None:
    assert refusal(path, TWO + rows(time)) == f"BTCUSDT-1m.csv:4: {message}"


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([START_MS, START_MS + 60_000, START_MS + 150_000], ":4: timestamp 1735689750000 is not a "
         "multiple of the interval's 60000 ms"),
        ([START_MS + 1, START_MS + 60_001], ":2: timestamp 1735689600001 is not a multiple of the "
         "interval's 60000 ms"),
        ([-60, 0], ":2: timestamp -60000 is no moment of trading"),
        ([2**53 + 8 - 2**53 % 60_000, 2**53 + 60_008 - 2**53 % 60_000], ":2: timestamp "),
        ([SECONDS, START_MS + 3_600_001], ":3: the smallest distance of two candles is 3600001"),
    ],
)  # fmt: skip
def test_times_off_the_grid(path: Path, times: list[int], message: str) -> None:
    assert message in refusal(path, f"{HEADER}\n{rows(*times)}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the header has no column 'timestamp' (timestamp, time, date,"),
        ("\n\n", "the header has no column 'timestamp'"),
        ("time,open,high,low,volume\n1,1,1,1,1\n", "the header has no column 'close' (close, c)"),
        (HEADER.replace(",volume", ""), "the header has no column 'volume'"),
        (HEADER, "holds fewer than two candles"),
        (HEADER + "\n" + rows(SECONDS), "holds fewer than two candles"),
        (TWO.encode() + b"1735689720,\xff,3,1,2,5\n", "cannot be read as CSV: 'utf-8' codec"),
        (TWO.encode("utf-16"), "cannot be read as CSV: 'utf-8' codec"),
        (TWO + '"' + "9" * 200_000, "cannot be read as CSV: field larger than field limit"),
        (gzip.compress(TWO.encode(), mtime=0), "cannot be read as CSV: 'utf-8' codec"),
    ],
)
def test_malformed_files(path: Path, content: str | bytes, message: str) -> None:
    assert refusal(path, content).startswith(f"BTCUSDT-1m.csv:1: {message}")


def broken_gzip(how: str) -> bytes:
    whole = gzip.compress(as_csv(random_walk(2_000)).encode(), mtime=0)
    middle = len(whole) // 2
    return {
        "truncated": whole[:middle],
        "without its end": whole[:-4],
        "wrong checksum": whole[:-8] + bytes(8),
        "damaged": whole[:200] + bytes(byte ^ 0x5A for byte in whole[200:300]) + whole[300:],
        "no gzip": TWO.encode(),
        "no text": gzip.compress(b"\xff\xfe" + TWO.encode()),
    }[how]


@pytest.mark.parametrize(
    "how", ["truncated", "without its end", "wrong checksum", "damaged", "no gzip", "no text"]
)
def test_malformed_gzip(tmp_path: Path, how: str) -> None:
    message = refusal(tmp_path / "A.csv.gz", broken_gzip(how))
    assert message.startswith("A.csv.gz:1: cannot be read as CSV: ")


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="candles: no such file"):
        read_candle_file(tmp_path / name)


def test_a_file_that_must_not_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path.write_text(TWO)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CandleFileError, match=r"\.csv:1: cannot be read: Permission denied"):
        read_candle_file(path)


CELLS = st.one_of(
    st.integers().map(str),
    st.integers(SECONDS - 3, SECONDS + 3).map(lambda minute: str(minute * 60)),
    st.floats().map(str),
    st.datetimes().map(str),
    st.text(max_size=8),
    st.sampled_from(["", '"', "\0", "9" * 4_300, "-" + "9" * 4_300, "1_0", "٣", "1e400", "Z"]),
)
LINES = st.lists(st.lists(CELLS, min_size=5, max_size=7).map(",".join), max_size=6)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(),
        st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
        LINES.map(lambda lines: "\n".join([HEADER, *lines]).encode("utf-8", "surrogatepass")),
    )
)
@example(f"{HEADER}\n-{'9' * 4_300},1,1,1,1,1\n{'9' * 4_300},1,1,1,1,1\n".encode())
@example(f"{HEADER}\n{rows('0001-01-01T00:00+23:59', '9999-12-31T23:59-23:59')}".encode())
@example(f"{HEADER}\n{rows(SECONDS * 3, SECONDS * 3 + 60)}".encode())
def test_hostile_files_raise_nothing_else(tmp_path: Path, content: bytes) -> None:
    for name, data in (("A.csv", content), ("B.csv.gz", content), ("C.csv.gz", packed(content))):
        path = tmp_path / name
        path.write_bytes(data)
        with suppress(CandleFileError):
            assert read_candle_file(path).candles


def packed(content: bytes) -> bytes:
    """Return `content` gzipped, and damaged in a place that depends on it."""
    whole = bytearray(gzip.compress(content, mtime=0))
    whole[len(content) % len(whole)] ^= 0x11
    return bytes(whole)


TABLES = (".parquet", ".arrow", ".feather")


@pytest.fixture(params=["pyarrow", "polars"])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package that reads; the other one counts as not installed."""
    name: str = request.param
    if name == "polars":
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    return name


@pytest.fixture(params=TABLES)
def table_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"BTCUSDT-1m{request.param}"


def write_table(path: Path, columns: dict[str, Any]) -> Path:
    table = pyarrow.table(columns)
    if path.suffix.lower() == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=3)
    else:
        pyarrow.feather.write_feather(table, path, compression="lz4", chunksize=3)
    return path


def columns_of(candles: Any, **others: Any) -> dict[str, Any]:
    names = ("timestamp", "open", "high", "low", "close", "volume")
    return {name: [candle[name] for candle in candles] for name in names} | others


def test_a_table_equals_its_csv(table_path: Path, package: str) -> None:
    candles = random_walk(100, gaps=[3, 50])
    write_table(table_path, columns_of(candles))
    table = read_candle_file(table_path)
    text = read_candle_file(write_csv(table_path.with_suffix(".csv"), candles))
    for name in ("timestamp", "open", "high", "low", "close", "volume"):
        found, expected = getattr(table.columns, name), getattr(text.columns, name)
        assert (found.kind, found.tolist()) == (expected.kind, expected.tolist())
    assert (table.symbol, table.interval, table.candles) == ("BTCUSDT", "1m", candles)
    assert table.digest == sha256(table_path.read_bytes()).hexdigest() != text.digest
    renamed = read_candle_file(table_path.rename(table_path.with_stem("other")), "X")
    assert (renamed.digest, renamed.symbol) == (table.digest, "X")


@pytest.mark.parametrize("suffix", TABLES)
def test_what_polars_writes(tmp_path: Path, package: str, suffix: str) -> None:
    candles = random_walk(10)
    frame = polars.DataFrame(columns_of(candles)).with_columns(
        polars.from_epoch("timestamp", "ms").dt.replace_time_zone("UTC")
    )
    path = tmp_path / f"A{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_ipc(path)
    assert read_candle_file(path).candles == candles


UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", UNITS)
def test_times_of_a_table(table_path: Path, package: str, unit: str, zone: str | None) -> None:
    candles = random_walk(4)
    raw = [candle["timestamp"] * UNITS[unit] // 1000 for candle in candles]
    times = pyarrow.array(raw, pyarrow.timestamp(unit, zone))
    write_table(table_path, columns_of(candles, timestamp=times))
    assert read_candle_file(table_path).candles == candles


@pytest.mark.parametrize(
    "times",
    [
        pyarrow.array([SECONDS, SECONDS + 60], pyarrow.int64()),
        pyarrow.array([SECONDS, SECONDS + 60], pyarrow.uint32()),
        pyarrow.array([float(SECONDS), SECONDS + 60.0]),
        pyarrow.array([START_MS, START_MS + 60_000], pyarrow.uint64()),
        pyarrow.array(["2025-01-01T00:00Z", "2025-01-01T00:01"]),
        pyarrow.array(["2025-01-01T00:00Z", "2025-01-01T00:01"]).dictionary_encode(),
    ],
    ids=str,
)
def test_other_times_of_a_table(table_path: Path, package: str, times: Any) -> None:
    candles = random_walk(2)
    write_table(table_path, columns_of(candles, timestamp=times))
    assert read_candle_file(table_path).candles == candles


@pytest.mark.parametrize("kind", [pyarrow.date32(), pyarrow.date64()])
def test_days_of_a_table(table_path: Path, package: str, kind: Any) -> None:
    days = pyarrow.array([date(2025, 1, 1), date(2025, 1, 2)], kind)
    candles = random_walk(2, step=86_400_000)
    write_table(table_path, columns_of(candles, timestamp=days))
    assert read_candle_file(table_path).candles == candles


def test_early_arrow_times_are_no_seconds(table_path: Path, package: str) -> None:
    times = pyarrow.array([60_000, 120_000], pyarrow.timestamp("ms"))
    write_table(table_path, columns_of(random_walk(2), timestamp=times))
    assert [candle["timestamp"] for candle in read_candle_file(table_path).candles] == [
        60_000, 120_000,
    ]  # fmt: skip


def test_names_and_kinds_of_a_table(tmp_path: Path, package: str) -> None:
    moments = [datetime(2025, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=n) for n in range(2)]
    path = write_table(
        tmp_path / "A.PARQUET",
        {
            "Close": pyarrow.array([2, 3], pyarrow.int32()),
            "trades": pyarrow.array([[1], None]),
            "LOW": [Decimal("1.50"), Decimal("2.25")],
            "v": pyarrow.array([1.5, 2.5], pyarrow.float32()),
            "h": [4.0, 4.0],
            "o": ["2", "3.5"],
            "Open Time": moments,
        },
    )
    first, second = read_candle_file(path).candles
    assert first == {
        "timestamp": START_MS, "open": 2.0, "high": 4.0, "low": 1.5, "close": 2.0, "volume": 1.5,
    }  # fmt: skip
    assert (second["open"], second["low"]) == (3.5, 2.25)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"open": [1.0, None, 1.0]}, "2: open is not a number: None"),
        ({"high": [9.0, 9.0, float("nan")]}, "3: high is not finite: nan"),
        ({"close": ["1", "x", "1"]}, "2: close is not a number: 'x'"),
        ({"low": [[1.0], [1.0], [1.0]]}, "1: low is not a number: [1.0]"),
        ({"volume": [1.0, 1.0, -1.0]}, "3: volume -1.0 is negative"),
        ({"timestamp": [SECONDS, SECONDS + 60, SECONDS]}, f"3: the candle of {START_MS} ms is out"),
        ({"timestamp": [SECONDS, SECONDS, SECONDS + 60]}, f"2: the candle of {START_MS} ms is th"),
        ({"timestamp": [SECONDS, None, SECONDS + 60]}, "2: not a time: 'None'"),
        ({"timestamp": [True, False, True]}, "1: not a time: 'True'"),
        ({"timestamp": [2**62, 2**62 + 60_000, 2**62 + 120_000]}, "1: not a time: '46116"),
        ({"timestamp": [SECONDS, SECONDS + 30, SECONDS + 60]}, "2: the smallest distance of two "),
        (
            {"timestamp": pyarrow.array([0, None, 120], pyarrow.timestamp("s"))},
            "2: not a time: 'None'",
        ),
    ],
)
def test_malformed_rows_of_a_table(
    table_path: Path, package: str, changed: dict[str, Any], message: str
) -> None:
    flat: dict[str, Any] = {
        "timestamp": [SECONDS, SECONDS + 60, SECONDS + 120], "open": [1.0] * 3, "high": [9.0] * 3,
        "low": [1.0] * 3, "close": [1.0] * 3, "volume": [1.0] * 3,
    }  # fmt: skip
    write_table(table_path, flat | changed)
    with pytest.raises(CandleFileError) as caught:
        read_candle_file(table_path)
    assert str(caught.value).startswith(f"{table_path}:{message}")


def test_seconds_that_ms_cannot_hold(tmp_path: Path) -> None:
    times = pyarrow.array([0, 2**61], pyarrow.timestamp("s"))
    path = write_table(tmp_path / "A.arrow", columns_of(random_walk(2), timestamp=times))
    with pytest.raises(CandleFileError, match=":2: not a time: 2305843009213693952 s"):
        read_candle_file(path)


def test_malformed_tables(table_path: Path, package: str) -> None:
    columns = columns_of(random_walk(2000))
    without_low = {name: values for name, values in columns.items() if name != "low"}
    write_table(table_path, without_low)
    with pytest.raises(CandleFileError, match=r":1: the header has no column 'low' \(low, l\)"):
        read_candle_file(table_path)
    write_table(table_path, {name: values[:1] for name, values in columns.items()})
    with pytest.raises(CandleFileError, match=":1: holds fewer than two candles"):
        read_candle_file(table_path)
    whole = write_table(table_path, columns).read_bytes()
    for content in (b"", b"PAR1", b"ARROW1", TWO.encode(), whole[: len(whole) // 2], whole[:-4]):
        table_path.write_bytes(content)
        with pytest.raises(CandleFileError, match=":1: cannot be read as a table: "):
            read_candle_file(table_path)


def test_a_table_without_a_package_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "A.parquet", columns_of(random_walk(2)))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigurationError, match="neither pyarrow nor polars") as caught:
        read_candle_file(path)
    assert caught.value.hint == 'pip install "fastpersist[arrow]"'


def parquet_of(candles: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns_of(candles)), file)
    return file.getvalue()


PARQUET = parquet_of(random_walk(20))


def damaged(places: list[tuple[int, int]]) -> bytes:
    """Return a Parquet file with bytes changed."""
    content = bytearray(PARQUET)
    for place, change in places:
        content[place % len(content)] ^= change
    return bytes(content)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 255)), min_size=1, max_size=3))
def test_damaged_tables_raise_nothing_else(tmp_path: Path, places: list[tuple[int, int]]) -> None:
    """By pyarrow, since some damage makes polars end the process."""
    path = tmp_path / "A.parquet"
    path.write_bytes(damaged(places))
    with suppress(CandleFileError):
        assert read_candle_file(path).candles


def test_a_line_that_is_being_written_is_left_out(path: Path) -> None:
    line = rows(SECONDS + 120, figures="2,3,1,2,512").rstrip("\n")
    for written in range(len(line) + 1):
        path.write_text(TWO + line[:written])
        assert len(read_candle_file(path, is_growing=True).candles) == 2
    path.write_text(f"{TWO}{line}\n")
    assert read_candle_file(path, is_growing=True).candles[2]["volume"] == 512
    path.write_text(TWO + line)
    assert read_candle_file(path).candles[2]["volume"] == 512
