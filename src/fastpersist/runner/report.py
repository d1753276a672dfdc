"""What a run has left in the history of signals, for people and machines.

Every row of the history names its run (field ``run``), so a report needs nothing else, and can be
made of a run that is still going; how far a backtest is then, its record says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import CorruptDataError, InvalidArgumentError
from ..registry import Registries
from ..times import now_ms
from .journal import backtest_session
from .summary import Summary

__all__ = ["OpenTrade", "Report", "Trade", "load_report", "load_reports", "report_of"]

_RUN_FIELDS: Final = frozenset(("id", "start", "end", "strategies", "symbols", "intervals"))


@dataclass(frozen=True, slots=True)
class OpenTrade:
    """A position that is open; times in ms, money in quote currency."""

    id: str
    strategy_name: str
    symbol: str
    position: str
    opened_at: int
    price_open: float
    price_take_profit: float
    price_stop_loss: float
    note: str


@dataclass(frozen=True, slots=True)
class Trade:
    """A closed position; times in ms, money in quote currency after fees."""

    id: str
    strategy_name: str
    symbol: str
    position: str
    opened_at: int
    closed_at: int
    price_open: float
    price_close: float
    price_take_profit: float
    price_stop_loss: float
    reason: str
    profit: float
    percent: float
    note: str


@dataclass(frozen=True, slots=True)
class Report:
    """A run and its trades.

    Attributes:
        run_id: Id of the run.
        mode: ``backtest``, ``paper`` or ``live``.
        strategies: Names of its strategies.
        exchange_name, frame_name: What it was over.
        start, end: The frame, ms, of a backtest that is still going as far as it is; on paper and
            live from the start to now, or to what happened last if nothing is open.
        intervals: The interval of each symbol's candles, in the order of the run.
        trades: Closed positions, by the time of their close.
        open_rows: Rows of the positions that are open.
        summary: The figures, worked out anew from the trades.
    """

    run_id: str
    mode: str
    strategies: list[str]
    exchange_name: str
    frame_name: str
    start: int
    end: int
    intervals: dict[str, str]
    trades: list[Trade]
    open_rows: list[dict[str, Any]]
    summary: Summary

    @property
    def open_trades(self) -> list[OpenTrade]:
        """The positions that are open, in the order of their rows."""
        return [
            OpenTrade(
                id=row["id"],
                strategy_name=row["strategyName"],
                symbol=row["symbol"],
                position=row["position"],
                opened_at=row["pendingAt"],
                price_open=row["priceOpen"],
                price_take_profit=row["priceTakeProfit"],
                price_stop_loss=row["priceStopLoss"],
                note=row.get("note", ""),
            )
            for row in self.open_rows
        ]


async def load_reports(registries: Registries) -> list[Report]:
    """Return the reports of all runs that have had a signal, the newest end last."""
    backtests: Any = await registries.storage.read_storage_data(True)
    others: Any = await registries.storage.read_storage_data(False)
    by_run: dict[str, list[dict[str, Any]]] = {}
    for row in (*backtests, *others):
        run = row.get("run")
        # The Node runner's rows have no run.
        if isinstance(run, Mapping) and run.keys() >= _RUN_FIELDS:
            by_run.setdefault(run["id"], []).append(row)
    found = []
    for rows in by_run.values():
        run, names = rows[0]["run"], (rows[0]["exchangeName"], rows[0]["frameName"])
        found.append(report_of(run, *names, rows, await _replayed_to(registries, run, *names)))
    return sorted(found, key=lambda report: (report.end, report.start, report.run_id))


async def load_report(registries: Registries, run_id: str) -> Report:
    """Return the report of a run; the first characters of its id are enough.

    Raises:
        InvalidArgumentError: No run's id begins so, or several do.
    """
    reports = await load_reports(registries)
    found = [report for report in reports if report.run_id.startswith(run_id)]
    if len(found) != 1:
        known = ", ".join(report.run_id for report in reports[-5:])
        raise InvalidArgumentError(
            "run",
            f"{'no' if not found else len(found)} run begins with {run_id!r:.40}",
            hint=f"the last ones: {known}" if known else "no run has had a signal yet",
        )
    return found[0]


async def _replayed_to(
    registries: Registries, run: Mapping[str, Any], exchange_name: str, frame_name: str
) -> int | None:
    """Return how far a backtest is that is still going, ms; None for one that is not."""
    if not run["end"]:
        return None
    session = backtest_session(run["strategies"], run["symbols"], exchange_name, frame_name)
    try:
        record = await registries.session.read_session_data(*session)
    except (CorruptDataError, InvalidArgumentError):
        return None  # no record that could be read, or that files can have: the frame counts
    data = record.get("data") if record is not None else None
    state = data.get("state") if isinstance(data, Mapping) else None
    if not isinstance(state, Mapping) or state.get("run") != run["id"]:
        return None
    return None if state["summary"]["is_finished"] else max(state["next_times"])


def report_of(
    run: Mapping[str, Any],
    exchange_name: str,
    frame_name: str,
    rows: Sequence[dict[str, Any]],
    replayed_to: int | None = None,
) -> Report:
    """Return the report of a run whose rows in the history are `rows`.

    Args:
        run: What each of its rows says of it.
        exchange_name, frame_name: What it was over.
        rows: Its rows, maybe none.
        replayed_to: How far a backtest is that is still going, ms.
    """
    strategies, symbols = run["strategies"], run["symbols"]

    def turn(row: Mapping[str, Any]) -> tuple[int, int, int]:
        """Return when the engine came by, as it orders what happens at one moment."""
        return row["updatedAt"], symbols.index(row["symbol"]), strategies.index(row["strategyName"])

    def label(row: Mapping[str, Any]) -> str:
        several = len(strategies) > 1
        return f"{row['strategyName']} {row['symbol']}" if several else str(row["symbol"])

    labels = [
        label({"strategyName": strategy, "symbol": symbol})
        for symbol in symbols
        for strategy in strategies
    ]
    # What is not replayed has no end: it goes on while something is open.
    is_open = any(row["status"] in ("opened", "scheduled") for row in rows)
    last = max((row["updatedAt"] for row in rows), default=run["start"])
    end = run["end"] or (now_ms() if is_open else last)
    if replayed_to is not None:
        end = min(end, max(replayed_to, last))
    summary = Summary.of(labels, run["start"], max(end, run["start"] + 1))
    trades: list[Trade] = []
    open_rows: list[dict[str, Any]] = []
    for row in sorted(rows, key=turn):
        if row["status"] == "closed":
            trade = _trade(row)
            trades.append(trade)
            summary.add_trade(label(row), trade.profit, trade.opened_at, trade.closed_at)
        elif row["status"] == "cancelled":
            summary.add_cancelled(label(row))
        elif row["status"] == "opened":
            open_rows.append(row)
            summary.open_positions += 1
    return Report(
        run_id=run["id"],
        mode=run.get("mode", "backtest"),
        strategies=list(strategies),
        exchange_name=exchange_name,
        frame_name=frame_name,
        start=run["start"],
        end=summary.end,
        intervals=dict(zip(symbols, run["intervals"], strict=True)),
        trades=trades,
        open_rows=open_rows,
        summary=summary,
    )


def _trade(row: Mapping[str, Any]) -> Trade:
    return Trade(
        id=row["id"],
        strategy_name=row["strategyName"],
        symbol=row["symbol"],
        position=row["position"],
        opened_at=row["pendingAt"],
        closed_at=row["closeTimestamp"],
        price_open=row["priceOpen"],
        price_close=row["currentPrice"],
        price_take_profit=row["priceTakeProfit"],
        price_stop_loss=row["priceStopLoss"],
        reason=row["closeReason"],
        profit=row["pnl"]["pnlCost"],
        percent=row["pnl"]["pnlPercentage"],
        note=row.get("note", ""),
    )
