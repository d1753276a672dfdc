"""The strategy runner: replays a strategy over candles, with all state behind the adapters."""

from .candle_csv import CandleFile, CandleFileError, read_candle_file
from .engine import Engine, RunMismatchError
from .feed import Feed, GapReport, import_candles
from .strategy import Context, Signal, Strategy, StrategyError
from .summary import Summary, SymbolSummary

__all__ = [
    "CandleFile",
    "CandleFileError",
    "Context",
    "Engine",
    "Feed",
    "GapReport",
    "RunMismatchError",
    "Signal",
    "Strategy",
    "StrategyError",
    "Summary",
    "SymbolSummary",
    "import_candles",
    "read_candle_file",
]
