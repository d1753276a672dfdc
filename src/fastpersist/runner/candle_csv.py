"""Candle files: CSV, plain or gzipped, with a header."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Final, TextIO, cast

from ..contracts import Candle
from ..domains import INTERVAL_STEP_MS
from ..errors import FastPersistError, InvalidArgumentError, InvalidCandleError
from ..payloads import checked_candles
from ..times import now_ms, to_ms

__all__ = ["CandleFile", "CandleFileError", "read_candle_file"]

_COLUMNS: Final = {
    "timestamp": ("timestamp", "time", "date", "datetime", "open_time", "opentime"),
    "open": ("open", "o"),
    "high": ("high", "h"),
    "low": ("low", "l"),
    "close": ("close", "c"),
    "volume": ("volume", "vol", "v"),
}
_DAY_FIRST: Final = re.compile(r"(\d\d)\.(\d\d)\.(\d{4})(.*)\Z")
# Ten digits of seconds last until the year 2286, twelve of ms began in 1973.
_MILLISECONDS_FROM: Final = 100_000_000_000


class CandleFileError(FastPersistError, ValueError):
    """A candle file is malformed; the message begins with file and line."""

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
        interval: The smallest distance between two candles, one of the contract's intervals.
        candles: Closed candles by opening time.
        digest: SHA-256 of the file's bytes, in hex.
    """

    path: Path
    symbol: str
    interval: str
    candles: Sequence[Candle]
    digest: str

    @property
    def step(self) -> int:
        """Length of the interval in ms."""
        return INTERVAL_STEP_MS[self.interval]


def read_candle_file(path: str | Path, symbol: str | None = None) -> CandleFile:
    """Read a CSV or CSV.gz with the columns time, open, high, low, close and volume.

    Columns are found by their header, in any order and case. Times are opening times: ms or s since
    the epoch, ISO text, or ``DD.MM.YYYY HH:MM:SS``; text without a zone counts as UTC.

    Raises:
        CandleFileError: A row is malformed, out of order, double or off the grid of the interval.
        InvalidArgumentError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidArgumentError("candles", f"no such file: {path}")
    try:
        with _opened(path) as text:
            rows = list(_rows(path, text))
    except (UnicodeDecodeError, EOFError, OSError, csv.Error, zlib.error) as error:
        raise CandleFileError(path, 1, f"cannot be read as CSV: {error}") from error
    if len(rows) < 2:
        raise CandleFileError(path, 1, "holds fewer than two candles")
    step, line = min(
        (second["timestamp"] - first["timestamp"], line)
        for (_, first), (line, second) in _pairs(rows)
    )
    interval = next((name for name, length in INTERVAL_STEP_MS.items() if length == step), None)
    if interval is None:
        known = ", ".join(INTERVAL_STEP_MS)
        raise CandleFileError(
            path, line, f"the smallest distance of two candles is {step} ms", hint=f"known: {known}"
        )
    try:
        closed = checked_candles([candle for _, candle in rows], step, now_ms())
    except InvalidCandleError as error:
        line = rows[error.row][0]
        raise CandleFileError(path, line, str(error).partition(": ")[2]) from None
    if not closed:
        raise CandleFileError(path, rows[0][0], "no candle has closed yet")
    name = symbol or re.split(r"[-.]", path.name)[0]
    return CandleFile(path, name, interval, closed, sha256(path.read_bytes()).hexdigest())


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=""))
    return path.open(encoding="utf-8-sig", newline="")


def _rows(path: Path, text: TextIO) -> Iterator[tuple[int, Candle]]:
    reader = csv.reader(text)
    header = next(reader, [])
    places = _places(path, header)
    previous = None
    for cells in reader:
        line = reader.line_num
        if not cells:
            continue
        if len(cells) != len(header):
            raise CandleFileError(
                path, line, f"{len(cells)} columns, while the header has {len(header)}"
            )
        timestamp = _timestamp(path, line, cells[places["timestamp"]])
        if previous is not None and timestamp <= previous:
            what = "is there twice" if timestamp == previous else "is out of order"
            raise CandleFileError(path, line, f"the candle of {timestamp} ms {what}")
        previous = timestamp
        yield (
            line,
            {
                "timestamp": timestamp,
                "open": _number(path, line, "open", cells[places["open"]]),
                "high": _number(path, line, "high", cells[places["high"]]),
                "low": _number(path, line, "low", cells[places["low"]]),
                "close": _number(path, line, "close", cells[places["close"]]),
                "volume": _number(path, line, "volume", cells[places["volume"]]),
            },
        )


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


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise CandleFileError(path, line, f"{column} is not a number: {cell!r:.60}") from None


def _pairs(
    rows: Sequence[tuple[int, Candle]],
) -> Iterator[tuple[tuple[int, Candle], tuple[int, Candle]]]:
    return pairwise(rows)
