"""Candle files: CSV with a header, plain or gzipped, Parquet and Arrow IPC."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from importlib import import_module
from io import BytesIO, TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from ..contracts import Candle
from ..domains import CANDLE_FIGURES, INTERVAL_STEP_MS
from ..errors import (
    ConfigurationError,
    FastPersistError,
    InvalidArgumentError,
    InvalidCandleError,
)
from ..hot.columns import CandleColumns, Column, part, rows
from ..payloads import checked_candles, interval_step
from ..times import now_ms, to_ms

__all__ = ["CandleFile", "CandleFileError", "read_candle_file", "symbol_of"]

_COLUMNS: Final = {
    "timestamp": ("timestamp", "time", "date", "datetime", "open_time", "opentime"),
    "open": ("open", "o"),
    "high": ("high", "h"),
    "low": ("low", "l"),
    "close": ("close", "c"),
    "volume": ("volume", "vol", "v"),
}
_DAY_FIRST: Final = re.compile(r"(\d\d)\.(\d\d)\.(\d{4})(.*)\Z")
_CHECKED_AT_ONCE: Final = 10_000
# Ten digits of seconds last until the year 2286, twelve of ms began in 1973.
_MILLISECONDS_FROM: Final = 100_000_000_000
_IPC: Final = (".arrow", ".feather")
_TABLES: Final = (".parquet", *_IPC)
_UNITS_IN_MS: Final = {"d": 86_400_000, "s": 1_000, "ms": 1}
_UNITS_OF_MS: Final = {"us": 1_000, "ns": 1_000_000}

_Row = tuple[int, int, Sequence[Any]]
"""Line, opening time in ms, and the figures as the file has them."""

_Reader = Callable[[Path, bytes], tuple[str | None, list[list[Any]]]]


class CandleFileError(FastPersistError, ValueError):
    """A candle file is malformed; the message begins with file and line.

    Attributes:
        path: The file.
        line: The line, from 1; in Parquet and Arrow the row, from 1.
    """

    def __init__(self, path: Path, line: int, message: str, *, hint: str = "") -> None:
        super().__init__(f"{path}:{line}: {message}", hint=hint)
        self.path = path
        self.line = line


@dataclass(frozen=True, slots=True)
class CandleFile:
    """The candles of a file, ordered and checked.

    Attributes:
        path: The file.
        symbol: From the file's name, unless it was given.
        interval: The smallest distance between two candles unless it was given, one of the
            contract's intervals.
        columns: Closed candles by opening time.
        digest: SHA-256 of the file's bytes, in hex.
        unclosed: How many candles at its end had not closed when it was read.
    """

    path: Path
    symbol: str
    interval: str
    columns: CandleColumns
    digest: str
    unclosed: int = 0

    @property
    def candles(self) -> list[Candle]:
        """The candles as row objects, made anew."""
        return cast("list[Candle]", rows(self.columns))

    @property
    def step(self) -> int:
        """Length of the interval in ms."""
        return INTERVAL_STEP_MS[self.interval]


def read_candle_file(
    path: str | Path,
    symbol: str | None = None,
    *,
    interval: str | None = None,
    is_growing: bool = False,
) -> CandleFile:
    """Read the columns time, open, high, low, close and volume of a file.

    By the file's name it is Parquet (``.parquet``), Arrow IPC (``.arrow``, ``.feather``), CSV.gz
    (``.gz``) or else CSV. Columns are found by their names, in any order and case. Times are
    opening times: ms or s since the epoch, ISO text, ``DD.MM.YYYY HH:MM:SS``, or Arrow timestamps
    of any unit; without a zone they count as UTC.

    Args:
        path: The file.
        symbol: What the candles belong to; by default what the file's name begins with.
        interval: Of the candles; by default the smallest distance between two of them.
        is_growing: Whether a last line without an end is being written, and is left out.

    Raises:
        CandleFileError: A row is malformed, out of order, double or off the grid of the interval.
        ConfigurationError: Parquet or Arrow IPC needs pyarrow or polars; neither is installed.
        InvalidArgumentError: There is no such file, or no such interval.
    """
    path = Path(path)
    if interval is not None:
        interval_step(interval)
    if not path.is_file():
        raise InvalidArgumentError("candles", f"no such file: {path}")
    # Read at once, so that the digest belongs to the candles even while others write.
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CandleFileError(path, 1, f"cannot be read: {error.strerror}") from error
    moments, lines = array("q"), array("q")
    figures = [array("d") for _ in CANDLE_FIGURES]
    is_table = path.suffix.lower() in _TABLES
    previous = None
    for line, timestamp, cells in (
        _table_rows(path, data) if is_table else _csv_rows(path, data, is_growing)
    ):
        if previous is not None and timestamp <= previous:
            what = "is there twice" if timestamp == previous else "is out of order"
            raise CandleFileError(path, line, f"the candle of {timestamp} ms {what}")
        previous = timestamp
        for name, column, cell in zip(CANDLE_FIGURES, figures, cells, strict=True):
            column.append(_number(path, line, name, cell))
        lines.append(line)
        moments.append(timestamp)
    if interval is None:
        interval = _smallest_distance(path, moments, lines)
    elif not moments:
        raise CandleFileError(path, 1, "holds no candle")
    step = INTERVAL_STEP_MS[interval]
    opened, high, low, close, volume = (Column("float64", column) for column in figures)
    columns = CandleColumns(Column("int64", moments), opened, high, low, close, volume)
    closed = 0
    for start in range(0, len(columns), _CHECKED_AT_ONCE):
        batch = cast("list[Candle]", rows(part(columns, start, start + _CHECKED_AT_ONCE)))
        try:
            closed += len(checked_candles(batch, step, now_ms()))
        except InvalidCandleError as error:
            line = lines[start + error.row]
            raise CandleFileError(path, line, str(error).partition(": ")[2]) from None
    if not closed:
        raise CandleFileError(path, lines[0], "no candle has closed yet")
    return CandleFile(
        path, symbol or symbol_of(path), interval, part(columns, 0, closed),
        sha256(data).hexdigest(), len(moments) - closed,
    )  # fmt: skip


def symbol_of(path: Path) -> str:
    """Return the symbol that a file's name begins with."""
    return re.split(r"[-.]", path.name)[0]


def _smallest_distance(path: Path, moments: Sequence[int], lines: Sequence[int]) -> str:
    """Return the interval that the smallest distance between two candles is."""
    if len(moments) < 2:
        raise CandleFileError(path, 1, "holds fewer than two candles")
    step, place = min(
        (later - earlier, place) for place, (earlier, later) in enumerate(pairwise(moments), 1)
    )
    interval = next((name for name, length in INTERVAL_STEP_MS.items() if length == step), None)
    if interval is None:
        known = ", ".join(INTERVAL_STEP_MS)
        raise CandleFileError(
            path, lines[place], f"the smallest distance of two candles is {step} ms",
            hint=f"known: {known}",
        )  # fmt: skip
    return interval


def _csv_rows(path: Path, data: bytes, is_growing: bool) -> Iterator[_Row]:
    packed = BytesIO(data)
    source = cast(
        BinaryIO, gzip.GzipFile(fileobj=packed) if path.suffix.lower() == ".gz" else packed
    )
    try:
        with TextIOWrapper(source, encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(_whole_lines(text) if is_growing else text)
            header = next(reader, [])
            places = _places(path, header)
            for cells in reader:
                line = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise CandleFileError(
                        path, line, f"{len(cells)} columns, while the header has {len(header)}"
                    )
                timestamp = _timestamp(path, line, cells[places["timestamp"]])
                yield line, timestamp, [cells[places[name]] for name in CANDLE_FIGURES]
    except (UnicodeDecodeError, EOFError, OSError, csv.Error, zlib.error) as error:
        raise CandleFileError(path, 1, f"cannot be read as CSV: {error}") from error


def _whole_lines(text: Iterable[str]) -> Iterator[str]:
    return (line for line in text if line.endswith(("\n", "\r")))


def _table_rows(path: Path, data: bytes) -> Iterator[_Row]:
    read, malformed = _table_reader()
    try:
        unit, (times, *figures) = read(path, data)
    except FastPersistError:
        raise
    except malformed as error:
        reason = str(error).partition("\n")[0]
        raise CandleFileError(path, 1, f"cannot be read as a table: {reason:.200}") from error
    for row, (time, *cells) in enumerate(zip(times, *figures, strict=True), 1):
        yield row, _moment(path, row, time, unit), cells


def _table_reader() -> tuple[_Reader, tuple[type[BaseException], ...]]:
    """Return what reads tables, and what it raises for malformed ones."""
    usual = (OSError, ValueError, OverflowError)
    # Polars comes second, since there is damage that makes it end the process.
    with suppress(ModuleNotFoundError):
        return _read_by_pyarrow, (*usual, import_module("pyarrow").ArrowException)
    with suppress(ModuleNotFoundError):
        errors = import_module("polars").exceptions
        return _read_by_polars, (*usual, errors.PolarsError, errors.PanicException)
    raise ConfigurationError(
        "pyarrow",
        "neither pyarrow nor polars is installed",
        hint='pip install "fastpersist[arrow]"',
    )


def _read_by_pyarrow(path: Path, data: bytes) -> tuple[str | None, list[list[Any]]]:
    """Return the unit of the times, None if they are no timestamps, and the six columns."""
    pyarrow, source = import_module("pyarrow"), BytesIO(data)
    if path.suffix.lower() in _IPC:
        file = import_module("pyarrow.ipc").open_file(source)
        names = _chosen(path, file.schema.names)
        table = file.read_all().select(names)
    else:
        file = import_module("pyarrow.parquet").ParquetFile(source)
        names = _chosen(path, file.schema_arrow.names)
        table = file.read(columns=names).select(names)
    times, *figures = table.columns
    kinds, kind, unit = pyarrow.types, times.type, None
    if kinds.is_timestamp(kind):
        unit, times = kind.unit, times.cast(pyarrow.int64())
    elif kinds.is_date32(kind):
        unit, times = "d", times.cast(pyarrow.int32())
    elif kinds.is_date64(kind):
        unit, times = "ms", times.cast(pyarrow.int64())
    return unit, [column.to_pylist() for column in (times, *figures)]


def _read_by_polars(path: Path, data: bytes) -> tuple[str | None, list[list[Any]]]:
    """Return what ``_read_by_pyarrow`` does."""
    polars, source = import_module("polars"), BytesIO(data)
    if path.suffix.lower() in _IPC:
        names = _chosen(path, list(polars.read_ipc_schema(source)))
        source.seek(0)
        table = polars.read_ipc(source, columns=names)
    else:
        names = _chosen(path, list(polars.read_parquet_schema(source)))
        source.seek(0)
        table = polars.read_parquet(source, columns=names)
    times, *figures = (table.get_column(name) for name in names)
    unit = None
    if times.dtype == polars.Datetime or times.dtype == polars.Date:
        unit = getattr(times.dtype, "time_unit", "d")
        times = times.to_physical()
    return unit, [column.to_list() for column in (times, *figures)]


def _chosen(path: Path, names: Sequence[str]) -> list[str]:
    places = _places(path, names)
    return [names[places[name]] for name in _COLUMNS]


def _moment(path: Path, row: int, cell: Any, unit: str | None) -> int:
    """Return the ms of a table's cell, rounded down."""
    if unit is None or not isinstance(cell, int):
        return _timestamp(path, row, cell if isinstance(cell, str) else repr(cell))
    moment = cell // _UNITS_OF_MS[unit] if unit in _UNITS_OF_MS else cell * _UNITS_IN_MS[unit]
    if not -(2**63) <= moment < 2**63:
        raise CandleFileError(path, row, f"not a time: {cell} {unit}")
    return moment


def _places(path: Path, header: Sequence[str]) -> dict[str, int]:
    names = [cell.strip().lower().replace(" ", "_") for cell in header]
    places: dict[str, int] = {}
    for column, aliases in _COLUMNS.items():
        found = [names.index(alias) for alias in aliases if alias in names]
        if not found:
            raise CandleFileError(
                path, 1, f"the header has no column {column!r}", hint=", ".join(aliases)
            )
        places[column] = found[0]
    return places


def _timestamp(path: Path, line: int, cell: str) -> int:
    text = cell.strip()
    try:
        if re.fullmatch(r"-?\d{1,18}(\.0+)?", text):
            number = int(text.partition(".")[0])
            return number if abs(number) >= _MILLISECONDS_FROM else number * 1000
        day_first = _DAY_FIRST.match(text)
        if day_first:
            day, month, year, rest = day_first.groups()
            text = f"{year}-{month}-{day}{rest}"
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise CandleFileError(path, line, f"not a time: {cell!r:.60}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return to_ms(moment)


def _number(path: Path, line: int, column: str, cell: Any) -> float:
    try:
        return float(cell)
    except (ValueError, TypeError, OverflowError):
        raise CandleFileError(path, line, f"{column} is not a number: {cell!r:.60}") from None
