"""The `export-candles` command: stored candles as CSV, plain or gzipped, Parquet or Arrow."""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, TextIO

from rich.console import Console

from ..domains import CANDLE_FIELDS
from ..errors import InvalidArgumentError
from ..frames import CandleFrame
from ..settings import SettingsArguments
from .toolbox import opened_registries, print_json, unfinished_file

__all__ = ["ExportOptions", "export_candles"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the command was asked for."""

    symbol: str
    interval: str
    exchange_name: str
    start: int
    end: int
    output: Path | None
    as_json: bool
    files: Path | None
    settings: SettingsArguments


async def export_candles(options: ExportOptions, errors: Console) -> int:
    """Write the stored candles and say on `errors` how many there are; return 0, or 1 for none.

    Raises:
        InvalidArgumentError: The output's kind is unknown, or an argument is wrong.
        ConfigurationError: A package that the output's kind needs is missing.
    """
    write = _writer(options.output)
    async with opened_registries(options.files, options.settings) as registries:
        frame = await registries.candle.read_candles_frame(
            options.symbol, options.interval, options.exchange_name, options.start, options.end
        )
    write(frame)
    code = 0 if len(frame) else 1  # a window without a single candle is more likely a slip
    if options.as_json:
        print_json(
            {
                "file": str(options.output),
                "symbol": options.symbol,
                "interval": options.interval,
                "exchange_name": options.exchange_name,
                "candles": len(frame),
                "missing": frame.missing,
            }
        )
        return code
    errors.print(
        f"{len(frame):,} candles of {options.symbol} {options.interval} {options.exchange_name}, "
        f"{frame.missing:,} missing",
        highlight=False,
        markup=False,
    )
    return code


def _writer(output: Path | None) -> Callable[[CandleFrame], None]:
    if output is None:
        return lambda frame: _write_csv(frame, sys.stdout)
    kinds: Final[dict[str, Callable[[CandleFrame, Path], None]]] = {
        ".csv": _save_csv,
        ".csv.gz": _save_packed_csv,
        ".parquet": _save_parquet,
        ".arrow": _save_arrow,
    }
    name = output.name.lower()
    save = next((save for ending, save in kinds.items() if name.endswith(ending)), None)
    if save is None:
        raise InvalidArgumentError("output", f"must end in {', '.join(kinds)}, got {output.name!r}")
    return lambda frame: save(frame, output)


def _write_csv(frame: CandleFrame, file: TextIO) -> None:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(CANDLE_FIELDS)
    columns = (frame.timestamp, frame.open, frame.high, frame.low, frame.close, frame.volume)
    rows.writerows(zip(*(column.tolist() for column in columns), strict=True))


def _save_csv(frame: CandleFrame, path: Path) -> None:
    with unfinished_file("output", path) as unfinished, unfinished.open("w", newline="") as file:
        _write_csv(frame, file)


def _save_packed_csv(frame: CandleFrame, path: Path) -> None:
    with (
        unfinished_file("output", path) as unfinished,
        unfinished.open("wb") as file,
        # Without name and date the same candles make the same file.
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        _write_csv(frame, text)


def _save_parquet(frame: CandleFrame, path: Path) -> None:
    table = frame.to_arrow()
    with unfinished_file("output", path) as unfinished:
        import_module("pyarrow.parquet").write_table(table, unfinished)


def _save_arrow(frame: CandleFrame, path: Path) -> None:
    table: Any = frame.to_arrow()
    new_file = import_module("pyarrow.ipc").new_file
    with (
        unfinished_file("output", path) as unfinished,
        new_file(str(unfinished), table.schema) as file,
    ):
        file.write_table(table)
