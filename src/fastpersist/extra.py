"""The later domains ``strategy`` and ``dictionary``, declared the way a user declares an own one.

Call :func:`install` to have them served by the installed store, now or after ``setup()``. Rules:
the appendices of the contract and of the storage layout.
"""

from __future__ import annotations

from typing import Any, Final

from .own_domains import ValueDomain
from .payloads import checked_record, repair_signal
from .times import When

__all__ = [
    "DictionaryDomain",
    "PersistDictionaryAdapter",
    "PersistStrategyAdapter",
    "StrategyDomain",
    "install",
]

StrategyData = dict[str, Any]
"""Pending ids, queued commits and the signals in between states of a live strategy."""

_SIGNALS_OF_A_STRATEGY: Final = (
    "closedSignal",
    "cancelledSignal",
    "activatedSignal",
    "takeProfitSignal",
    "stopLossSignal",
    "retryOpenSignal",
)


class StrategyDomain(ValueDomain["StrategyData | None"]):
    """What a live strategy is in the middle of, one value per symbol, strategy and exchange."""

    async def read_strategy_data(
        self, symbol: str, strategy_name: str, exchange_name: str
    ) -> StrategyData | None:
        """Return the value, or None when there is none or it was cleared."""
        data = await self.read(symbol, strategy_name, exchange_name)
        if data is not None:
            for name in _SIGNALS_OF_A_STRATEGY:
                repair_signal(data.get(name))
        return data

    async def write_strategy_data(
        self, symbol: str, strategy_name: str, exchange_name: str, row: StrategyData | None
    ) -> None:
        """Replace the value; None clears it."""
        checked_record(row, "row", nullable=True)
        await self.write(symbol, strategy_name, exchange_name, data=row)


class DictionaryDomain(ValueDomain[Any]):
    """Named values of a signal."""

    async def read_dictionary_data(
        self, signal_id: str, dictionary_name: str, when: When | None = None
    ) -> Any:
        """Return the value, or None."""
        return await self.read(signal_id, dictionary_name, when=when)

    async def write_dictionary_data(
        self, signal_id: str, dictionary_name: str, data: Any, when: When
    ) -> None:
        """Replace the value."""
        await self.write(signal_id, dictionary_name, data=data, when=when)


PersistStrategyAdapter = StrategyDomain.declare(
    "strategy",
    collection="strategy-items",
    context=("symbol", "strategyName", "exchangeName"),
    cache_order=("exchangeName", "strategyName", "symbol"),
    file="data/strategy/{symbol}_{strategyName}_{exchangeName}/strategy.json",
    install=False,
)
PersistDictionaryAdapter = DictionaryDomain.declare(
    "dictionary",
    collection="dictionary-items",
    context=("signalId", "dictionaryName"),
    has_when=True,
    file="dictionary/{signalId}/{dictionaryName}/{dictionaryName}.json",
    install=False,
)


def install() -> None:
    """Serve both domains from the same family as the fifteen; calling it again changes nothing."""
    PersistStrategyAdapter.install()
    PersistDictionaryAdapter.install()
