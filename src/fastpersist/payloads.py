"""Checks of payloads before they reach a store, and repairs of old rows after they leave it.

Rules: rows 15, 17, 19 and 20 of the decisions, and section 5.4 of the contract.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from .contracts import Candle
from .domains import CANDLE_FIGURES, INTERVAL_STEP_MS
from .errors import ConfigurationError, InvalidArgumentError, InvalidCandleError

__all__ = [
    "checked_candles",
    "checked_entry",
    "checked_positions",
    "checked_record",
    "checked_rows",
    "interval_step",
    "repair_notification",
    "repair_positions",
    "repair_signal",
]


def interval_step(interval: str) -> int:
    """Return the length of a candle interval in ms.

    Raises:
        InvalidArgumentError: The interval is not one of the contract's eleven.
    """
    step = INTERVAL_STEP_MS.get(interval) if isinstance(interval, str) else None
    if step is None:
        known = ", ".join(INTERVAL_STEP_MS)
        raise InvalidArgumentError("interval", f"unknown interval {interval!r:.40}; known: {known}")
    return step


def checked_candles(candles: Sequence[Candle], step: int, now: int) -> list[Candle]:
    """Return those of `candles` that have closed by `now`, with exactly the six fields.

    Raises:
        InvalidCandleError: A candle misses a figure, has one that is not a finite number, lies
            off the grid of `step`, or contradicts itself. No candle is stored then.
        InvalidArgumentError: `candles` is no list.
    """
    if isinstance(candles, (str, bytes, Mapping)) or not isinstance(candles, Iterable):
        raise InvalidArgumentError("candles", f"expected a list, got {type(candles).__name__}")
    closed: list[Candle] = []
    for row, candle in enumerate(candles):
        if not isinstance(candle, Mapping):
            raise InvalidCandleError(row, f"expected a mapping, got {type(candle).__name__}")
        timestamp: object = candle.get("timestamp")
        if isinstance(timestamp, float) and timestamp.is_integer():
            timestamp = int(timestamp)
        if not isinstance(timestamp, int) or isinstance(timestamp, bool):
            raise InvalidCandleError(row, f"timestamp must be integer ms, got {timestamp!r:.40}")
        if timestamp % step:
            raise InvalidCandleError(
                row, f"timestamp {timestamp} is not a multiple of the interval's {step} ms"
            )
        if not 0 <= timestamp < 2**53:
            raise InvalidCandleError(row, f"timestamp {timestamp} is no moment of trading")
        opened, high, low, close, volume = (
            _figure(row, name, candle.get(name)) for name in CANDLE_FIGURES
        )
        if not (low <= opened <= high and low <= close <= high):
            raise InvalidCandleError(
                row,
                f"open {opened} and close {close} must lie between low {low} and high {high}",
            )
        if volume < 0:
            raise InvalidCandleError(row, f"volume {volume} is negative")
        if timestamp + step <= now:
            closed.append(
                {
                    "timestamp": timestamp,
                    "open": opened,
                    "high": high,
                    "low": low,
                    "close": close,
                    "volume": volume,
                }
            )
    return closed


def _figure(row: int, name: str, figure: object) -> float:
    if isinstance(figure, bool) or not isinstance(figure, (int, float)):
        raise InvalidCandleError(row, f"{name} must be a number, got {figure!r:.40}")
    if isinstance(figure, int) and not -(2**63) <= figure < 2**63:
        raise InvalidCandleError(row, f"{name} does not fit in 64 bits")
    if not math.isfinite(figure):
        raise InvalidCandleError(row, f"{name} is not finite: {figure}")
    return figure


def checked_record(value: Any, argument: str, *, nullable: bool = False) -> Any:
    """Return `value` if it can be stored as a document, else say what it is.

    Raises:
        InvalidArgumentError: It is neither a mapping, a dataclass instance nor a Struct (nor
            None, where that is allowed).
    """
    if isinstance(value, Mapping) or (value is None and nullable):
        return value
    if (is_dataclass(value) and not isinstance(value, type)) or hasattr(value, "__struct_fields__"):
        return value
    raise InvalidArgumentError(argument, f"expected a mapping, got {type(value).__name__}")


def checked_entry(entry: Any, argument: str) -> dict[str, Any]:
    """Return a copy of a softly deleted domain's payload with ``removed`` set.

    Raises:
        InvalidArgumentError: It is not a mapping, or its ``removed`` is not a bool.
    """
    if not isinstance(entry, Mapping):
        raise InvalidArgumentError(argument, f"expected a mapping, got {type(entry).__name__}")
    removed = entry.get("removed", False)
    if not isinstance(removed, bool):
        raise InvalidArgumentError(
            f"{argument}.removed", f"expected a bool, got {type(removed).__name__}"
        )
    return {**entry, "removed": removed}


def checked_positions(positions: Any) -> list[Any]:
    """Return risk positions as a list of pairs.

    Raises:
        InvalidArgumentError: An element is not a pair of text and mapping.
    """
    if isinstance(positions, (str, bytes, Mapping)) or not isinstance(positions, Sequence):
        raise InvalidArgumentError(
            "positions", f"expected a list of pairs, got {type(positions).__name__}"
        )
    for index, pair in enumerate(positions):
        if (
            not isinstance(pair, (list, tuple))
            or len(pair) != 2
            or not isinstance(pair[0], str)
            or not isinstance(pair[1], Mapping)
        ):
            raise InvalidArgumentError(f"positions[{index}]", "expected a pair [text, mapping]")
    return list(positions)


def checked_rows(
    rows: Any, argument: str, row_id: str, *, first_wins: bool
) -> tuple[dict[str, Mapping[str, Any]], Sequence[int]]:
    """Return list rows by their id, in order, and the place of each in `rows`.

    Of several rows with one id the last counts; with `first_wins` the first.

    Raises:
        InvalidArgumentError: A row is not a mapping or its id is not a text with a character.
    """
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Sequence):
        raise InvalidArgumentError(argument, f"expected a list, got {type(rows).__name__}")
    by_id: dict[str, Mapping[str, Any]] = {}
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InvalidArgumentError(
                f"{argument}[{index}]", f"expected a mapping, got {type(row).__name__}"
            )
        identity = row.get(row_id)
        if not isinstance(identity, str) or not identity:
            raise InvalidArgumentError(
                f"{argument}[{index}].{row_id}", "expected a text that is not empty"
            )
        if identity in by_id:
            if first_wins:
                continue
            del by_id[identity]
        by_id[identity] = row
    if len(by_id) == len(rows):
        return by_id, range(len(rows))
    places: dict[str, int] = {}
    for index in range(len(rows))[:: -1 if first_wins else 1]:
        places[rows[index][row_id]] = index
    return by_id, [places[identity] for identity in by_id]


def _default_multiplier() -> float:
    text = os.environ.get("CC_SIGNAL_LEVERAGE_MULTIPLIER", "")
    if not text:
        return 1
    try:
        number = float(text)
    except ValueError:
        raise ConfigurationError(
            "CC_SIGNAL_LEVERAGE_MULTIPLIER", f"not a number: {text!r:.40}"
        ) from None
    return int(number) if number.is_integer() else number


def _default_isolated() -> bool:
    text = os.environ.get("CC_SIGNAL_ISOLATED_MARGIN", "").strip().lower()
    if text in ("", "1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ConfigurationError("CC_SIGNAL_ISOLATED_MARGIN", f"not a boolean: {text!r:.40}")


def _repair_margin(row: dict[str, Any]) -> None:
    if row.get("multiplier") is None:
        row["multiplier"] = _default_multiplier()
    if row.get("isolated") is None:
        row["isolated"] = _default_isolated()


def repair_signal(row: dict[str, Any] | None) -> dict[str, Any] | None:
    """Fill in, in place, what a signal row of an earlier version or a file lacks; None stays."""
    if row is not None:
        if row.get("minuteEstimatedTime") is None:
            row["minuteEstimatedTime"] = math.inf
        _repair_margin(row)
    return row


def repair_positions(positions: list[Any] | None) -> list[Any]:
    """Fill in, in place, the endless life time that JSON loses in risk positions."""
    if positions is None:
        return []
    for _, position in positions:
        if position.get("minuteEstimatedTime") is None:
            position["minuteEstimatedTime"] = math.inf
    return positions


def repair_notification(row: dict[str, Any]) -> dict[str, Any]:
    """Fill in, in place, what a notification of an earlier version or a file lacks."""
    if "minuteEstimatedTime" in row and row["minuteEstimatedTime"] is None:
        row["minuteEstimatedTime"] = math.inf
    if "cost" in row:
        _repair_margin(row)
    return row
