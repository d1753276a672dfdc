"""The rows that a run stores, field by field as the contract has them (section 4).

One field more, ``run``, tells whose they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from ..times import to_datetime
from .position import Position

__all__ = ["Rows", "is_of_run", "run_mark"]

_PUBLIC_IN_NOTIFICATION: Final = (
    "symbol", "strategyName", "exchangeName", "position", "priceOpen", "priceTakeProfit",
    "priceStopLoss", "originalPriceTakeProfit", "originalPriceStopLoss", "originalPriceOpen",
    "totalEntries", "totalPartials", "cost", "multiplier", "isolated", "pnl", "peakProfit",
    "maxDrawdown", "note", "scheduledAt",
)  # fmt: skip
_FLAT_PNL: Final = (
    ("Percentage", "pnlPercentage"), ("PriceOpen", "priceOpen"), ("PriceClose", "priceClose"),
    ("Cost", "pnlCost"), ("Entries", "pnlEntries"),
)  # fmt: skip


class Rows:
    """Makes the rows of one strategy.

    Args:
        strategy_name, exchange_name, frame_name: The names in all of them.
        is_backtest: Whether they belong to a backtest.
    """

    def __init__(
        self, strategy_name: str, exchange_name: str, frame_name: str, is_backtest: bool
    ) -> None:
        self._strategy_name = strategy_name
        self._exchange_name = exchange_name
        self._frame_name = frame_name
        self._is_backtest = is_backtest

    def signal(self, position: Position) -> dict[str, Any]:
        """Return the row of signal and schedule (4.2)."""
        row: dict[str, Any] = {
            "id": position.id,
            "symbol": position.symbol,
            "strategyName": self._strategy_name,
            "exchangeName": self._exchange_name,
            "frameName": self._frame_name,
            "position": "long" if position.is_long else "short",
            "note": position.note,
            "priceOpen": position.price_open,
            "priceTakeProfit": position.price_take_profit,
            "priceStopLoss": position.price_stop_loss,
            "minuteEstimatedTime": _minutes(position),
            "cost": position.cost,
            "multiplier": 1,
            "isolated": True,
            "scheduledAt": position.scheduled_at,
            "pendingAt": position.pending_at or position.scheduled_at,
            "timestamp": position.scheduled_at,
            "_isScheduled": position.pending_at == 0,
        }
        if position.partials:
            row["_partial"] = [dict(record) for record in position.partials]
        return row

    def public(self, position: Position, price: float) -> dict[str, Any]:
        """Return the row of recent (4.5) with the figures at `price`."""
        return {
            **self.signal(position),
            "originalPriceOpen": position.price_open,
            "originalPriceStopLoss": position.price_stop_loss,
            "originalPriceTakeProfit": position.price_take_profit,
            "partialExecuted": 100.0 - position.remaining,
            "totalEntries": 1,
            "totalPartials": len(position.partials),
            "pnl": position.pnl(price),
            "peakProfit": position.pnl(position.best or price),
            "maxDrawdown": position.pnl(position.worst or price),
        }

    def storage(
        self, position: Position, status: str, when: int, price: float, reason: str = ""
    ) -> dict[str, Any]:
        """Return the row of the history of signals (4.5)."""
        row = {
            **self.public(position, price),
            "status": status,
            "createdAt": position.scheduled_at,
            "updatedAt": when,
            "priority": when,
        }
        if status != "cancelled":
            row["currentPrice"] = price
        if reason:
            row["closeReason"] = reason
            row["closeTimestamp"] = when
        return row

    def risk_key(self, symbol: str) -> str:
        """Return the text that tells the strategy's position on `symbol` from others in risk."""
        return f"{self._strategy_name}_{self._exchange_name}_{symbol}"

    def risk(self, position: Position) -> dict[str, Any]:
        """Return the position in risk (4.3)."""
        return {
            "strategyName": self._strategy_name,
            "exchangeName": self._exchange_name,
            "frameName": self._frame_name,
            "symbol": position.symbol,
            "position": "long" if position.is_long else "short",
            "priceOpen": position.price_open,
            "priceStopLoss": position.price_stop_loss,
            "priceTakeProfit": position.price_take_profit,
            "minuteEstimatedTime": _minutes(position),
            "openTimestamp": position.pending_at,
        }

    def notification(
        self, position: Position, kind: str, row_id: str, when: int, price: float,
        fields: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        """Return the notification of what has happened to a position."""
        public = self.public(position, price)
        row = {
            "type": kind,
            "id": row_id,
            "backtest": self._is_backtest,
            "timestamp": when,
            "signalId": position.id,
            "currentPrice": price,
            "createdAt": when,
        }
        for name in _PUBLIC_IN_NOTIFICATION:
            row[name] = public[name]
        for prefix in ("pnl", "peakProfit", "maxDrawdown"):
            for ending, name in _FLAT_PNL:
                row[prefix + ending] = public[prefix][name]
        if kind != "signal.scheduled":
            row["pendingAt"] = public["pendingAt"]
        return {**row, **fields}

    def message(self, row_id: str, symbol: str, when: int, text: str) -> dict[str, Any]:
        """Return the notification of a strategy's own text."""
        return {
            "type": "signal.info",
            "id": row_id,
            "backtest": self._is_backtest,
            "timestamp": when,
            "symbol": symbol,
            "strategyName": self._strategy_name,
            "exchangeName": self._exchange_name,
            "note": text,
            "createdAt": when,
        }

    def error(self, row_id: str, kind: str, message: str) -> dict[str, Any]:
        """Return the notification of an error; the contract gives it no time of its own."""
        return {
            "type": kind,
            "id": row_id,
            "backtest": self._is_backtest,
            "error": {"message": message},
            "message": message,
        }

    def log(
        self, row_id: str, symbol: str, when: int, topic: str, args: Sequence[Any]
    ) -> dict[str, Any]:
        """Return a log line."""
        moment = to_datetime(when)
        return {
            "id": row_id,
            "type": "info",
            "priority": when,
            "timestamp": when,
            "createdAt": moment.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "methodContext": {
                "exchangeName": self._exchange_name,
                "strategyName": self._strategy_name,
                "frameName": self._frame_name,
            },
            "executionContext": {
                "symbol": symbol,
                "when": moment,
                "backtest": self._is_backtest,
            },
            "topic": topic,
            "args": list(args),
        }


def run_mark(run_id: str) -> dict[str, Any]:
    """Return what the field ``run`` of a row says at least; the history's says more."""
    return {"id": run_id}


def is_of_run(row: Any, run_ids: Collection[str]) -> bool:
    """Say whether the field ``run`` of a row names one of the runs."""
    mark = row.get("run") if isinstance(row, Mapping) else None
    # A strategy's session holds the id itself.
    found = mark.get("id") if isinstance(mark, Mapping) else mark
    return isinstance(found, str) and found in run_ids


def _minutes(position: Position) -> float:
    return math.inf if position.minutes is None else position.minutes
