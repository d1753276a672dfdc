"""Figures of a run against an independent computation, and the report that is made of them."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candle_rows import START_MS, random_walk, write_csv
from fastpersist.adapters.files import FilesBackend
from fastpersist.cli import main
from fastpersist.registry import Registries
from fastpersist.runner import Summary, load_reports

MINUTE = 60_000
DAY = 1_440 * MINUTE
Trades = Sequence[tuple[float, int, int]]

STRATEGY = """
from fastpersist.runner import Context, Signal, Strategy

class First(Strategy):
    name = "first"
    cost = 1_000.0

    def get_signal(self, ctx: Context):
        if ctx.when_ms // 60_000 % 11:
            return None
        way = 1 if ctx.when_ms // 660_000 % 2 else -1
        return Signal(
            position="long" if way > 0 else "short", price_take_profit=ctx.price + way,
            price_stop_loss=ctx.price - way, minute_estimated_time=30, note="<b>bold</b>",
        )
"""

SECOND = """
class Second(First):
    name = "second"
"""


def summary_of(trades: Trades, start: int, end: int) -> dict[str, Any]:
    summary = Summary.of(["A"], start, end)
    for profit, opened_at, closed_at in trades:
        summary.add_trade("A", profit, opened_at, closed_at)
    row, total = summary.figures()
    assert {**total, "symbol": "A"} == row
    assert Summary.from_state(summary.to_state()).figures() == [row, total]
    return row


def expected_of(trades: Trades, start: int, end: int) -> dict[str, Any]:
    """Work the figures out with NumPy."""
    profits = np.array([profit for profit, *_ in trades])
    equity = np.concatenate([[0.0], np.cumsum(profits)])
    first_day, last_day = start // DAY, (end - 1) // DAY
    days = np.zeros(last_day - first_day + 1)
    for profit, _, closed_at in trades:
        days[closed_at // DAY - first_day] += profit
    losses = -profits[profits <= 0].sum() if len(profits) else 0
    deviation = np.std(days, ddof=1) if len(days) > 1 else 0
    return {
        "trades": len(trades),
        "win_rate": 100 * float((profits > 0).mean()) if len(profits) else 0,
        "profit": float(profits.sum()),
        "profit_factor": float(profits[profits > 0].sum() / losses) if losses else None,
        "sharpe": float(days.mean() / deviation * math.sqrt(365)) if deviation > 1e-12 else None,
        "max_drawdown": float((np.maximum.accumulate(equity) - equity).max()),
        "exposure": 100 * sum(closed - opened for _, opened, closed in trades) / (end - start),
        "holding_minutes": (
            statistics.fmean((closed - opened) / MINUTE for _, opened, closed in trades)
            if trades
            else None
        ),
    }


@given(
    st.lists(
        st.tuples(st.floats(-100, 100).map(lambda x: round(x, 2)), st.integers(1, 500)), max_size=60
    ),
    st.integers(0, DAY - 1),
)
def test_figures_are_those_of_another_computation(
    results: list[tuple[float, int]], offset: int
) -> None:
    start = at = START_MS + offset
    trades = []
    for profit, minutes in results:
        trades.append((profit, at, at + minutes * MINUTE))
        at += (minutes + 7) * MINUTE
    end = max(at, start + MINUTE) + 1
    found, expected = summary_of(trades, start, end), expected_of(trades, start, end)
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-6)), name


def test_the_total_has_the_drawdown_of_all_together() -> None:
    summary = Summary.of(["A", "B"], 0, DAY)
    for place, (symbol, profit) in enumerate([("A", 10.0), ("B", -4.0), ("A", -7.0), ("B", 20.0)]):
        summary.add_trade(symbol, profit, place * MINUTE, (place + 1) * MINUTE)
    first, second, total = summary.figures()
    assert [row["max_drawdown"] for row in (first, second, total)] == [7, 4, 11]
    assert total["exposure"] == pytest.approx(100 * 4 / 2 / 1_440)
    assert total["sharpe"] is None


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run over two symbols by two strategies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    (tmp_path / "two.py").write_text(STRATEGY + SECOND)
    (tmp_path / "one.py").write_text(STRATEGY)
    for seed, symbol in enumerate(("B-1m", "A-1m")):
        write_csv(tmp_path / f"{symbol}.csv", random_walk(400, seed=seed))
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--files", "kept", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_report_has_the_figures_of_the_run(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = printed(capsys, "run", "two.py", "--candles", "B-1m.csv", "A-1m.csv")
    report = printed(capsys, "report", run["run"][:5])
    assert report["run"] == run["run"]
    assert list(report["symbols"]) == ["first B", "second B", "first A", "second A"]
    assert report["total"]["trades"] == run["total"]["signals"] > 20
    for name in ("profit", "wins", "losses", "max_drawdown", "cancelled"):
        assert report["total"][name] == pytest.approx(run["total"][name]), name
        for label, row in report["symbols"].items():
            assert row[name] == pytest.approx(run["symbols"][label][name]), (label, name)
    assert report["open_positions"] == run["open_positions"]
    trades = report["trades"]
    profit = sum(
        1_000
        * (one["price_close"] / one["price_open"] - 1)
        * (1 if one["position"] == "long" else -1)
        - 0.5 * (1 + one["price_close"] / one["price_open"])
        for one in trades
    )
    assert report["total"]["profit"] == pytest.approx(profit)
    by_day: dict[str, float] = defaultdict(float)
    for one in trades:
        by_day[f"{datetime.fromtimestamp(one['closed_at'] / 1000, timezone.utc):%Y-%m-%d}"] += one[
            "profit"
        ]
    assert run["total"]["days"] == pytest.approx(dict(by_day))


def test_a_report_is_made_of_a_run_that_is_going(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = printed(
        capsys, "run", "one.py", "--candles", "A-1m.csv", "--frame", "..2025-01-01T03:17"
    )
    whole = printed(capsys, "run", "one.py", "--candles", "A-1m.csv")
    assert half["run"] != whole["run"]
    for run in (half, whole):
        report = printed(capsys, "report", run["run"])
        assert report["total"]["trades"] == run["total"]["signals"]
        assert report["open_positions"] == run["open_positions"]
    assert {found["run"] for found in printed(capsys, "report")} == {half["run"], whole["run"]}


def test_an_open_position_is_in_the_report(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "one.py").write_text(
        STRATEGY.replace(" + way", " + 50 * way").replace(" - way", " - 50 * way")
    )
    run = printed(capsys, "run", "one.py", "--candles", "A-1m.csv", "--frame", "..2025-01-01T03:17")
    assert run["open_positions"] == 1
    (held,) = printed(capsys, "report", run["run"])["open"]
    assert (held["strategy_name"], held["symbol"]) == ("first", "A")
    arguments = ["report", run["run"], "--files", "kept", "--html", "page.html"]
    assert main(arguments) == 0
    _, table = (work / "page.html").read_text().split("<h2>Open positions</h2>")
    table, _ = table.split("<h2>Closed positions</h2>")
    assert f"<td>{held['price_open']:.8g}</td>" in table
    (page,) = report_pages(work)
    for name in ("price_open", "price_take_profit", "price_stop_loss"):
        assert held[name] in page[name], name


def report_pages(work: Path) -> list[dict[str, list[float]]]:
    """Return what the charts of a page's candles show, by the names of a position's figures."""
    charts = re.findall(
        r"Plotly\.newPlot\(\s*\"[^\"]*\",\s*(\[.*?\]),\s*\{\"",
        (work / "page.html").read_text(),
        re.S,
    )
    found = []
    for chart in map(json.loads, charts):
        lines = {line["name"]: line["y"] for line in chart if "y" in line}
        if "take profit" in lines:
            found.append(
                {
                    "price_open": [*lines["long entry"], *lines["short entry"]],
                    "price_take_profit": lines["take profit"],
                    "price_stop_loss": lines["stop loss"],
                }
            )
    return found


def test_a_run_ends_with_its_report(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "one.py", "--candles", "A-1m.csv", "--files", "kept"]
    assert main([*arguments, "--html", "page.html", "--csv", "trades.csv"]) == 0
    shown = capsys.readouterr().out
    for text in ("Result", "Closed positions", "written: page.html", "written: trades.csv"):
        assert text in shown
    (run_id,) = re.findall(r"fastpersist report (\w+) ", shown)
    assert (work / "page.html").read_text().startswith("<!doctype html>")
    with (work / "trades.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == printed(capsys, "report", run_id)["total"]["trades"]


def printed_last(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_run_without_a_signal_has_a_report_too(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "one.py", "--candles", "A-1m.csv", "--files", "kept"]
    (work / "one.py").write_text(STRATEGY.replace("if ctx.when_ms", "if True or ctx.when_ms"))
    assert main([*arguments, "--html", "page.html", "--csv", "trades.csv"]) == 0
    assert "none yet" in (work / "page.html").read_text()
    assert len((work / "trades.csv").read_text().splitlines()) == 1
    assert "report" not in capsys.readouterr().out
    assert main([*arguments, "--json", "--fresh", "--html", "other.html"]) == 0
    assert printed_last(capsys)["total"]["signals"] == 0
    assert (work / "other.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dummy"], "html: needs what --dummy does not keep"),
        (["--frame", "..1735690000000", "--frame", "1735690000000.."], "html: is of one frame"),
        (["--csv", "none/t.csv"], "csv: no such folder: none"),
    ],
)
def test_a_page_is_of_one_run_that_is_kept(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["run", "one.py", "--candles", "A-1m.csv", "--html", "p.html", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (work / "p.html").exists()


def test_a_run_on_the_clock_looks_for_its_outputs_first(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--mode", "paper", "--feed", "A-1m.csv", "--symbol", "A", "--html", "none/p.html"]
    assert main(["run", "one.py", *arguments]) == 2
    assert "html: no such folder: none" in capsys.readouterr().err


def test_a_fresh_run_leaves_nothing_of_the_old_one_in_its_report(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = printed(capsys, "run", "one.py", "--candles", "A-1m.csv")
    (work / "one.py").write_text(STRATEGY.replace("% 11", "% 13"))
    second = printed(capsys, "run", "one.py", "--candles", "A-1m.csv", "--fresh")
    assert first["total"]["signals"] != second["total"]["signals"]
    report = printed(capsys, "report", second["run"])
    assert report["total"]["trades"] == second["total"]["signals"]


async def test_rows_of_others_are_no_run(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = Registries()
    family.use_backend(FilesBackend(work / "kept"))
    rows: list[Any] = [
        {"id": "a", "status": "closed"},
        {"id": "b", "run": "x"},
        {"id": "c", "run": {}},
    ]
    await family.storage.write_storage_data(True, rows)
    assert await load_reports(family) == []


def test_outputs_for_people_and_machines(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = printed(capsys, "run", "two.py", "--candles", "B-1m.csv", "A-1m.csv")
    assert main(["report", "--files", "kept"]) == 0
    assert run["run"] in capsys.readouterr().out
    outputs = ["--csv", "trades.csv", "--html", "page.html"]
    assert main(["report", run["run"], "--files", "kept", *outputs]) == 0
    shown = capsys.readouterr().out
    for text in ("first B", "total", "written: page.html", "written: trades.csv"):
        assert text in shown
    _, listed = shown.split("Closed positions")
    assert len(re.findall(r"^ ?2025-01-\d\d \d\d:\d\d (?:first|second) ", listed, re.M)) == 20
    assert f"{run['total']['signals'] - 20} earlier ones are left out" in listed
    with (work / "trades.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == run["total"]["signals"]
    assert sum(float(row["profit"]) for row in rows) == pytest.approx(run["total"]["profit"])
    page = (work / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    for text in ("Equity and drawdown", "long entry", "exit with loss", run["run"]):
        assert text in page
    # Nothing is fetched; inside of plotly's own script an address may stand.
    assert not re.search(r"<(?:script|img|iframe)\s[^>]*\bsrc=|<link\b", page)
    assert sorted(path.name for path in work.iterdir() if path.is_file()) == [
        "A-1m.csv", "B-1m.csv", "one.py", "page.html", "trades.csv", "two.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "run: no run begins with 'nothing' (no run has had a signal yet)"),
        (["x", "--html", "absent/page.html"], "run: no run begins with 'x'"),
    ],
)
def test_a_report_of_nothing_is_named(
    work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["report", *arguments, "--files", "kept"]) == 2
    assert capsys.readouterr().err.startswith(f"fastpersist: {message}")


def test_a_page_that_cannot_be_written_is_named(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = printed(capsys, "run", "one.py", "--candles", "A-1m.csv")
    arguments = ["report", run["run"], "--files", "kept", "--html", "absent/page.html"]
    assert main(arguments) == 2
    assert "html: absent/page.html: No such file" in capsys.readouterr().err
