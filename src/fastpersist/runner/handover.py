"""Positions that another runner has left in the signal and schedule domains (contract 4.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from ..errors import CorruptDataError
from .position import Position
from .strategy import Strategy

__all__ = ["position_of_row", "refuse_incomplete"]

_NEEDED: Final = (
    "id", "symbol", "position", "priceOpen", "priceTakeProfit", "priceStopLoss", "scheduledAt",
)  # fmt: skip


def refuse_incomplete(row: Mapping[str, Any], place: str) -> None:
    """Refuse a row that does not tell its position, as a script may have written it.

    Raises:
        CorruptDataError: It lacks fields; the error names them and `place`.
    """
    needed = [*_NEEDED]
    if not row.get("_entry"):
        needed.append("cost")
    if not row.get("_isScheduled"):
        needed.append("pendingAt")
    lacking = [name for name in needed if row.get(name) is None]
    if lacking:
        raise CorruptDataError(
            place,
            f"lacks {', '.join(lacking)}, which a run needs to look after it",
            hint="complete it, or clear it by writing None",
        )


def position_of_row(
    row: Mapping[str, Any],
    strategy: Strategy,
    levels: Mapping[str, Any],
    even: Mapping[str, Any],
) -> Position:
    """Return the position, or the waiting entry, of a stored row.

    Trailing prices count for the original ones, and averaged entries as one at their mean price.

    Args:
        row: The row of signal or schedule.
        strategy: Whose fees and slippage are assumed.
        levels, even: The rows of partial and breakeven.
    """
    is_waiting = bool(row.get("_isScheduled"))
    entries = row.get("_entry") or [{"price": row["priceOpen"], "cost": row["cost"]}]
    cost = sum(entry["cost"] for entry in entries)
    amount = sum(entry["cost"] / entry["price"] for entry in entries)
    reached = levels.get(row["id"], {})
    minutes = row.get("minuteEstimatedTime")
    position = Position(
        id=row["id"],
        symbol=row["symbol"],
        direction=1 if row["position"] == "long" else -1,
        price_open=cost / amount,
        price_take_profit=row.get("_trailingPriceTakeProfit") or row["priceTakeProfit"],
        price_stop_loss=row.get("_trailingPriceStopLoss") or row["priceStopLoss"],
        # Stored as null by some writers, which stands for no limit.
        minutes=None if minutes is None or math.isinf(minutes) else minutes,
        note=row.get("note") or "",
        cost=cost,
        fee=strategy.fee_percent / 100,
        slippage=strategy.slippage_percent / 100,
        scheduled_at=row["scheduledAt"],
        partial_level=0,
        partial_percent=0,
        profit_levels=list(reached.get("profitLevels", ())),
        loss_levels=list(reached.get("lossLevels", ())),
        breakeven=bool(even.get(row["id"], {}).get("reached")),
    )
    if is_waiting:
        return position
    position.enter(position.price_open, row["pendingAt"])
    # A part's percent is of what was held before it, costBasisAtClose, which counts the entries so
    # far less the parts before.
    held = basis = 0.0
    seen_entries = 0
    for part in row.get("_partial") or ():
        count = part.get("entryCountAtClose", len(entries))
        for entry in entries[seen_entries:count]:
            held += entry["cost"] / entry["price"]
            basis += entry["cost"]
        seen_entries = max(seen_entries, count)
        share = part["percent"] / 100
        percent = min(100 * share * basis / cost, position.remaining)
        held, basis = held * (1 - share), basis * (1 - share)
        position.take_part(percent, part["currentPrice"], part["timestamp"], part["type"])
    position.amount = held + sum(entry["cost"] / entry["price"] for entry in entries[seen_entries:])
    for name in ("_peak", "_fall"):
        if seen := row.get(name, {}).get("price"):
            position.note_price(seen)
    return position
