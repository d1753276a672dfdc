"""The outcome of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Summary", "SymbolSummary"]


@dataclass(slots=True)
class SymbolSummary:
    """Counts and results of one symbol; money in quote currency, after fees."""

    symbol: str
    signals: int = 0
    wins: int = 0
    losses: int = 0
    cancelled: int = 0
    profit: float = 0.0
    peak: float = 0.0
    max_drawdown: float = 0.0

    def add_trade(self, profit: float) -> None:
        """Count a closed position."""
        self.signals += 1
        if profit > 0:
            self.wins += 1
        else:
            self.losses += 1
        self.profit += profit
        self.peak = max(self.peak, self.profit)
        self.max_drawdown = max(self.max_drawdown, self.peak - self.profit)

    @property
    def win_rate(self) -> float:
        """Share of winning trades in percent; 0 without a trade."""
        return 100 * self.wins / self.signals if self.signals else 0.0


@dataclass(slots=True)
class Summary:
    """The outcome of a run so far.

    Attributes:
        symbols: One row per symbol.
        total: All symbols together; its drawdown is that of the common equity curve.
        open_positions: How many positions are still open.
        bars: How many bars have been replayed.
        resumed_from: How many of them an earlier process did.
        is_finished: Whether the end of the candles was reached.
    """

    symbols: dict[str, SymbolSummary] = field(default_factory=dict)
    total: SymbolSummary = field(default_factory=lambda: SymbolSummary("total"))
    open_positions: int = 0
    bars: int = 0
    resumed_from: int = 0
    is_finished: bool = False

    def add_trade(self, symbol: str, profit: float) -> None:
        """Count a closed position."""
        self.symbols[symbol].add_trade(profit)
        self.total.add_trade(profit)

    def add_cancelled(self, symbol: str) -> None:
        """Count a limit entry that was never filled."""
        self.symbols[symbol].cancelled += 1
        self.total.cancelled += 1

    def to_state(self) -> dict[str, Any]:
        """Return the results as plain data, the same whether the run was interrupted or not."""
        state = asdict(self)
        del state["resumed_from"]
        return state

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Summary:
        """Return the results of plain data."""
        return cls(
            symbols={name: SymbolSummary(**row) for name, row in state["symbols"].items()},
            total=SymbolSummary(**state["total"]),
            open_positions=state["open_positions"],
            bars=state["bars"],
            resumed_from=state["bars"],
            is_finished=state["is_finished"],
        )
