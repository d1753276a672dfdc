"""Candles as a frame: figures in columns, for NumPy, Polars, pandas and PyArrow."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from .domains import CANDLE_FIELDS
from .errors import ConfigurationError, InvalidArgumentError
from .hot.columns import CandleColumns, Column, missing_steps, rows
from .payloads import interval_step

__all__ = ["CandleFrame"]


@dataclass(frozen=True, slots=True, eq=False)
class CandleFrame:
    """Candles of one symbol, interval and exchange between two moments, in columns.

    Offers the Arrow PyCapsule interface: ``polars.DataFrame(frame)`` and ``pyarrow.table(frame)``
    take it as it is. The packages are not needed until a method asks for one of them.

    Attributes:
        symbol, interval, exchange_name: What the candles belong to.
        columns: The candles, by time.
        start: The first moment asked for, ms.
        end: The moment that ends the range and is not part of it, ms.
        missing: How many moments of the interval's grid from `start` to before `end` have no
            candle.

    Raises:
        InvalidArgumentError: The interval is unknown, or `end` lies before `start`.
    """

    symbol: str
    interval: str
    exchange_name: str
    columns: CandleColumns = field(repr=False)
    start: int
    end: int
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        step = interval_step(self.interval)
        if self.end < self.start:
            raise InvalidArgumentError("end", f"{self.end} lies before the start {self.start}")
        first = -(-self.start // step)
        count = -(-self.end // step) - first
        missing = missing_steps(self.columns, first * step, step, count)
        object.__setattr__(self, "missing", missing)

    @property
    def is_complete(self) -> bool:
        """Whether no candle is missing."""
        return self.missing == 0

    @property
    def timestamp(self) -> Column:
        """Opening times, ms."""
        return self.columns.timestamp

    @property
    def open(self) -> Column:
        """Opening prices."""
        return self.columns.open

    @property
    def high(self) -> Column:
        """Highest prices."""
        return self.columns.high

    @property
    def low(self) -> Column:
        """Lowest prices."""
        return self.columns.low

    @property
    def close(self) -> Column:
        """Closing prices."""
        return self.columns.close

    @property
    def volume(self) -> Column:
        """Volumes in base units."""
        return self.columns.volume

    def __len__(self) -> int:
        return len(self.columns)

    def rows(self) -> list[dict[str, Any]]:
        """Return the candles as row objects."""
        return rows(self.columns)

    def to_numpy(self) -> dict[str, Any]:
        """Return read-only arrays over the same memory; ``timestamp`` is int64 ms.

        Raises:
            ConfigurationError: NumPy is not installed.
        """
        numpy = _package("numpy")
        arrays = {}
        for name in CANDLE_FIELDS:
            column = getattr(self.columns, name)
            # A view of its own, since the buffer of a pure-Python column is writable.
            arrays[name] = numpy.asarray(column).view(column.kind)
            arrays[name].flags.writeable = False
        return arrays

    def to_arrow(self) -> Any:
        """Return a ``pyarrow.Table`` over the same memory; times are ``timestamp[ms, tz=UTC]``.

        Raises:
            ConfigurationError: PyArrow is not installed.
        """
        return _package("pyarrow").table(self)

    def to_polars(self) -> Any:
        """Return a ``polars.DataFrame``; times are ``Datetime("ms", "UTC")``.

        Raises:
            ConfigurationError: Polars is not installed.
        """
        return _package("polars").DataFrame(self)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` over the same memory; times are ``datetime64[ms, UTC]``.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        pandas = _package("pandas")
        arrays = self.to_numpy()
        moments = pandas.Series(arrays["timestamp"].view("datetime64[ms]"), copy=False)
        arrays["timestamp"] = moments.dt.tz_localize("UTC")
        return pandas.DataFrame(arrays, copy=False)

    def __arrow_c_schema__(self) -> object:
        return self.columns.__arrow_c_schema__()

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self.columns.__arrow_c_array__(requested_schema)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.columns.__arrow_c_stream__(requested_schema)


_EXTRAS: Final = {"pyarrow": "arrow"}


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigurationError(
            name, "is not installed", hint=f'pip install "fastpersist[{_EXTRAS.get(name, name)}]"'
        ) from None
