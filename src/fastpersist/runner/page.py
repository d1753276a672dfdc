"""A report as one HTML page that needs nothing else: no server, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import import_module
from itertools import accumulate
from typing import Any, Final

from ..domains import INTERVAL_STEP_MS
from ..errors import ConfigurationError
from ..hot.columns import CandleColumns, aggregated
from ..times import to_datetime
from .report import OpenTrade, Report, Trade

__all__ = ["plotly_modules", "report_page", "span_of"]

_MOST_CANDLES: Final = 2_000
_DENSE: Final = 100
_HEADINGS: Final = (
    ("symbol", "symbol"), ("trades", "trades"), ("wins", "wins"), ("losses", "losses"),
    ("cancelled", "cancelled"), ("win_rate", "win rate"), ("profit", "PnL"),
    ("profit_factor", "profit factor"), ("sharpe", "Sharpe"), ("max_drawdown", "max drawdown"),
    ("exposure", "exposure"), ("holding_minutes", "average holding"),
)  # fmt: skip
_UP, _DOWN, _LINE, _FALL = "#2a9d63", "#d1495b", "#2b6cb0", "#b7791f"
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem;
       color: #1f2933; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e7eb; }
th { font-weight: 600; color: #52606d; } td:first-child, th:first-child { text-align: left; }
tr.total td { font-weight: 600; border-top: 2px solid #9aa5b1; }
.scroll { max-height: 26rem; overflow: auto; } .note { color: #52606d; }
"""


def _shown(name: str, value: Any) -> str:
    """Return a figure of ``Summary.figures`` as people read it."""
    if value is None:
        return "-"
    if name in ("win_rate", "exposure"):
        return f"{value:.1f} %"
    if name == "holding_minutes":
        return f"{value:,.0f} min"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def plotly_modules() -> tuple[Any, Any]:
    """Return the modules that draw: of graphs and of their places.

    Raises:
        ConfigurationError: Plotly is not installed.
    """
    try:
        return import_module("plotly.graph_objects"), import_module("plotly.subplots")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "plotly", "is not installed", hint='pip install "fastpersist[report]"'
        ) from error


def report_page(report: Report, candles: dict[str, CandleColumns]) -> str:
    """Return the page of a report with the candles of its symbols.

    Raises:
        ConfigurationError: Plotly is not installed.
    """
    graphs, subplots = plotly_modules()
    title = escape(f"{', '.join(report.strategies)} on {report.exchange_name}, {report.mode}")
    figures = [("Equity and drawdown", _equity(report, graphs, subplots))]
    for symbol in report.intervals:
        columns = candles.get(symbol)
        if columns is not None and len(columns):
            figures.append((escape(symbol), _candles(report, symbol, columns, graphs)))
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<p class='note'>{escape(span_of(report))}, "
        f"run {report.run_id}; money in quote currency, after fees; "
        f"{report.summary.open_positions} open</p>",
        _figures_table(report),
    ]
    for place, (heading, figure) in enumerate(figures):
        drawn = figure.to_html(full_html=False, include_plotlyjs=place == 0)
        parts.append(f"<h2>{heading}</h2>{drawn}")
    if report.open_rows:
        parts.append(f"<h2>Open positions</h2>{_open_table(report.open_trades)}")
    parts.append(f"<h2>Closed positions</h2>{_trades_table(report.trades)}</body></html>")
    return "\n".join(parts)


def span_of(report: Report) -> str:
    """Return the frame and intervals of a report as people read them."""
    start, end = to_datetime(report.start), to_datetime(report.end)
    intervals = ", ".join(dict.fromkeys(report.intervals.values()))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, candles of {intervals}"


def _figures_table(report: Report) -> str:
    head = "".join(f"<th>{heading}</th>" for _, heading in _HEADINGS)
    rows = report.summary.figures()
    if len(rows) == 2:
        del rows[1]
    body = "".join(
        f"<tr{' class=total' if row['symbol'] == 'total' else ''}>"
        + "".join(f"<td>{escape(_shown(name, row[name]))}</td>" for name, _ in _HEADINGS)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _open_table(trades: Sequence[OpenTrade]) -> str:
    names = ("opened", "symbol", "strategy", "side", "entry", "take profit", "stop loss", "note")
    return _table(
        names,
        (
            (
                f"{to_datetime(trade.opened_at):%Y-%m-%d %H:%M}", trade.symbol,
                trade.strategy_name, trade.position, f"{trade.price_open:.8g}",
                f"{trade.price_take_profit:.8g}", f"{trade.price_stop_loss:.8g}", trade.note,
            )
            for trade in trades
        ),
    )  # fmt: skip


def _trades_table(trades: Sequence[Trade]) -> str:
    if not trades:
        return "<p class='note'>none yet</p>"
    names = ("closed", "symbol", "strategy", "side", "entry", "exit", "PnL", "PnL %", "end", "note")
    table = _table(
        names,
        (
            (
                f"{to_datetime(trade.closed_at):%Y-%m-%d %H:%M}", trade.symbol,
                trade.strategy_name, trade.position, f"{trade.price_open:.8g}",
                f"{trade.price_close:.8g}", f"{trade.profit:,.2f}", f"{trade.percent:.3f}",
                trade.reason.replace("_", " "), trade.note,
            )
            for trade in reversed(trades)
        ),
    )  # fmt: skip
    return f"<div class='scroll'>{table}</div>"


def _equity(report: Report, graphs: Any, subplots: Any) -> Any:
    moments = [to_datetime(report.start), *(to_datetime(one.closed_at) for one in report.trades)]
    equity = [0.0, *accumulate(trade.profit for trade in report.trades)]
    peaks = accumulate(equity, max)
    falls = [value - peak for value, peak in zip(equity, peaks, strict=True)]
    figure = subplots.make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.04
    )
    figure.add_trace(
        graphs.Scatter(
            x=moments, y=equity, name="equity", mode="lines",
            line={"color": _LINE, "shape": "hv", "width": 2},
        ),
        row=1, col=1,
    )  # fmt: skip
    figure.add_trace(
        graphs.Scatter(
            x=moments, y=falls, name="drawdown", mode="lines", fill="tozeroy",
            line={"color": _FALL, "shape": "hv", "width": 1},
        ),
        row=2, col=1,
    )  # fmt: skip
    _lay_out(figure, 460)
    return figure


def _candles(report: Report, symbol: str, columns: CandleColumns, graphs: Any) -> Any:
    columns, interval = _coarse(columns, report.intervals[symbol])
    figure = graphs.Figure(
        graphs.Candlestick(
            x=[to_datetime(moment) for moment in columns.timestamp.tolist()],
            open=columns.open.tolist(), high=columns.high.tolist(), low=columns.low.tolist(),
            close=columns.close.tolist(), name=f"candles of {interval}",
            increasing_line_color=_UP, decreasing_line_color=_DOWN, opacity=0.55,
        )
    )  # fmt: skip
    trades = [trade for trade in report.trades if trade.symbol == symbol]
    held: list[Trade | OpenTrade] = [
        *trades,
        *(trade for trade in report.open_trades if trade.symbol == symbol),
    ]
    is_dense = len(held) > _DENSE
    # An open position lasts to the newest candle.
    last = columns.timestamp[-1]
    spans = [
        (one.opened_at, one.closed_at if isinstance(one, Trade) else max(one.opened_at, last))
        for one in held
    ]
    for name, color, prices in (
        ("take profit", _UP, [one.price_take_profit for one in held]),
        ("stop loss", _DOWN, [one.price_stop_loss for one in held]),
    ):
        figure.add_trace(
            graphs.Scatter(
                x=_segments(spans),
                y=[value for price in prices for value in (price, price, None)],
                mode="lines", name=name, line={"color": color, "width": 1, "dash": "dot"},
                visible="legendonly" if is_dense else True,
            )
        )  # fmt: skip
    for side, sign in (("long", "triangle-up"), ("short", "triangle-down")):
        entered = [one for one in held if one.position == side]
        figure.add_trace(
            graphs.Scatter(
                x=[to_datetime(one.opened_at) for one in entered],
                y=[one.price_open for one in entered], mode="markers", name=f"{side} entry",
                marker={"symbol": sign, "size": 6 if is_dense else 9, "color": _LINE},
                text=[escape(one.note) for one in entered],
            )
        )  # fmt: skip
    for name, color, left in (
        ("exit with profit", _UP, [trade for trade in trades if trade.profit > 0]),
        ("exit with loss", _DOWN, [trade for trade in trades if trade.profit <= 0]),
    ):
        figure.add_trace(
            graphs.Scatter(
                x=[to_datetime(trade.closed_at) for trade in left],
                y=[trade.price_close for trade in left], mode="markers", name=name,
                marker={"symbol": "x", "size": 5 if is_dense else 8, "color": color},
                text=[f"{trade.reason.replace('_', ' ')}: {trade.profit:,.2f}" for trade in left],
            )
        )  # fmt: skip
    _lay_out(figure, 520)
    figure.update_layout(xaxis_rangeslider_visible=False)
    return figure


def _coarse(columns: CandleColumns, interval: str) -> tuple[CandleColumns, str]:
    """Return candles of the shortest interval of which not too many are there, and its name."""
    for name, step in sorted(INTERVAL_STEP_MS.items(), key=lambda item: item[1]):
        if step < INTERVAL_STEP_MS[interval]:
            continue
        longer = columns if name == interval else aggregated(columns, step)
        if len(longer) <= _MOST_CANDLES:
            return longer, name
    return longer, name


def _segments(spans: Sequence[tuple[int, int]]) -> list[Any]:
    return [
        moment
        for opened, closed in spans
        for moment in (to_datetime(opened), to_datetime(closed), None)
    ]


def _lay_out(figure: Any, height: int) -> None:
    figure.update_layout(
        height=height, template="plotly_white", hovermode="x unified",
        margin={"l": 60, "r": 20, "t": 20, "b": 40}, legend={"orientation": "h", "y": -0.12},
    )  # fmt: skip
