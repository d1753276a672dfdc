"""The outcome of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any, Final

from ..domains import MINUTE_MS
from ..times import to_datetime

__all__ = ["Summary", "SymbolSummary"]

_DAY_MS: Final = 86_400_000
_DAYS_OF_A_YEAR: Final = 365


@dataclass(slots=True)
class SymbolSummary:
    """Counts and results of one symbol; money in quote currency, after fees.

    Attributes:
        symbol: The symbol, or strategy and symbol where there are several strategies.
        signals: How many positions have closed.
        profit, gross_profit, gross_loss: The sum of all results, of the gains and of the losses.
        peak, max_drawdown: The highest sum of results so far, and the deepest fall below it.
        held_ms: How long positions were open, in all.
        days: Results by the UTC day of their close, for example ``2025-01-31``.
    """

    symbol: str
    signals: int = 0
    wins: int = 0
    losses: int = 0
    cancelled: int = 0
    profit: float = 0.0
    gross_profit: float = 0.0
    gross_loss: float = 0.0
    peak: float = 0.0
    max_drawdown: float = 0.0
    held_ms: int = 0
    days: dict[str, float] = field(default_factory=dict)

    def add_trade(self, profit: float, opened_at: int, closed_at: int) -> None:
        """Count a closed position; times in ms."""
        self.signals += 1
        if profit > 0:
            self.wins += 1
            self.gross_profit += profit
        else:
            self.losses += 1
            self.gross_loss -= profit
        self.profit += profit
        self.peak = max(self.peak, self.profit)
        self.max_drawdown = max(self.max_drawdown, self.peak - self.profit)
        self.held_ms += closed_at - opened_at
        day = f"{to_datetime(closed_at):%Y-%m-%d}"
        self.days[day] = self.days.get(day, 0.0) + profit

    @property
    def win_rate(self) -> float:
        """Share of winning trades in percent; 0 without a trade."""
        return 100 * self.wins / self.signals if self.signals else 0.0

    @property
    def profit_factor(self) -> float | None:
        """Gains by losses; None without a loss."""
        return self.gross_profit / self.gross_loss if self.gross_loss else None

    @property
    def holding_minutes(self) -> float | None:
        """How long a position was open on average; None without a trade."""
        return self.held_ms / self.signals / MINUTE_MS if self.signals else None

    def sharpe(self, start: int, end: int) -> float | None:
        """Return mean by deviation of the daily results of a frame in ms, for a year of 365 days.

        Days without a close count as 0; the day on which the frame ends counts if it has begun.
        None for fewer than two days, or when all are alike.
        """
        count = -(-end // _DAY_MS) - start // _DAY_MS
        if count < 2:
            return None
        results = [*self.days.values(), *[0.0] * (count - len(self.days))]
        deviation = stdev(results)
        return fmean(results) / deviation * math.sqrt(_DAYS_OF_A_YEAR) if deviation else None


@dataclass(slots=True)
class Summary:
    """The outcome of a run so far.

    Attributes:
        start, end: The frame, ms.
        symbols: One row per symbol, or per strategy and symbol where there are several.
        total: All rows together; its drawdown is that of the common equity curve.
        open_positions: How many positions are still open.
        bars: How many bars have been replayed.
        resumed_from: How many of them an earlier process did.
        is_finished: Whether each symbol has reached the end of the frame, or of a file before it.
    """

    start: int
    end: int
    symbols: dict[str, SymbolSummary] = field(default_factory=dict)
    total: SymbolSummary = field(default_factory=lambda: SymbolSummary("total"))
    open_positions: int = 0
    bars: int = 0
    resumed_from: int = 0
    is_finished: bool = False

    @classmethod
    def of(cls, labels: Iterable[str], start: int, end: int) -> Summary:
        """Return an empty outcome with a row for each label."""
        return cls(start, end, {label: SymbolSummary(label) for label in labels})

    def include(self, label: str) -> None:
        """Give a label its row."""
        self.symbols.setdefault(label, SymbolSummary(label))

    def add_trade(self, symbol: str, profit: float, opened_at: int, closed_at: int) -> None:
        """Count a closed position; times in ms."""
        self.symbols[symbol].add_trade(profit, opened_at, closed_at)
        self.total.add_trade(profit, opened_at, closed_at)

    def add_cancelled(self, symbol: str) -> None:
        """Count an entry that was never filled."""
        self.symbols[symbol].cancelled += 1
        self.total.cancelled += 1

    def figures(self) -> list[dict[str, Any]]:
        """Return the figures that people look at, a row for each symbol, the total last.

        ``exposure`` is the share of the frame in which a position was open, in percent; for the
        total the mean over the rows.
        """
        rows = [*self.symbols.values(), self.total]
        frame_ms = self.end - self.start
        total_ms = frame_ms * max(1, len(self.symbols))
        return [
            {
                "symbol": row.symbol,
                "trades": row.signals,
                "wins": row.wins,
                "losses": row.losses,
                "cancelled": row.cancelled,
                "win_rate": row.win_rate,
                "profit": row.profit,
                "profit_factor": row.profit_factor,
                "sharpe": row.sharpe(self.start, self.end),
                "max_drawdown": row.max_drawdown,
                "exposure": 100 * row.held_ms / (total_ms if row is self.total else frame_ms),
                "holding_minutes": row.holding_minutes,
            }
            for row in rows
        ]

    def to_state(self) -> dict[str, Any]:
        """Return the results as plain data, the same whether the run was interrupted or not."""
        state = asdict(self)
        del state["resumed_from"]
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Summary:
        """Return the results of plain data."""
        return cls(
            start=state["start"],
            end=state["end"],
            symbols={name: SymbolSummary(**row) for name, row in state["symbols"].items()},
            total=SymbolSummary(**state["total"]),
            open_positions=state["open_positions"],
            bars=state["bars"],
            resumed_from=state["bars"],
            is_finished=state["is_finished"],
        )
