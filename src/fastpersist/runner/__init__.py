"""The strategy runner: backtest, paper and live, with all state behind the adapters."""

from .broker import (
    Broker,
    BrokerError,
    BrokerUnavailableError,
    Order,
    OrderRejectedError,
    OrderState,
    PaperBroker,
)
from .candle_file import CandleFile, CandleFileError, read_candle_file
from .candles import CandleFeed
from .context import Context
from .engine import Engine, Frame, RunMismatchError
from .feed import FileFeed, GapReport, ImportReport, StoreFeed, import_candles
from .live import LiveEngine
from .position import Bar
from .report import OpenTrade, Report, Trade, load_report, load_reports
from .strategy import (
    ActivePosition,
    FunctionStrategy,
    Signal,
    Strategy,
    StrategyError,
    strategy,
)
from .stream import FeedUnavailableError, polled
from .summary import Summary, SymbolSummary

__all__ = [
    "ActivePosition",
    "Bar",
    "Broker",
    "BrokerError",
    "BrokerUnavailableError",
    "CandleFeed",
    "CandleFile",
    "CandleFileError",
    "Context",
    "Engine",
    "FeedUnavailableError",
    "FileFeed",
    "Frame",
    "FunctionStrategy",
    "GapReport",
    "ImportReport",
    "LiveEngine",
    "OpenTrade",
    "Order",
    "OrderRejectedError",
    "OrderState",
    "PaperBroker",
    "Report",
    "RunMismatchError",
    "Signal",
    "StoreFeed",
    "Strategy",
    "StrategyError",
    "Summary",
    "SymbolSummary",
    "Trade",
    "import_candles",
    "load_report",
    "load_reports",
    "polled",
    "read_candle_file",
    "strategy",
]
