"""The command: its answers, exit codes and what is left behind for the next call."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import fastpersist
from candle_rows import random_walk, write_csv
from fastpersist.adapters.files import FilesBackend
from fastpersist.cli import main
from fastpersist.cli.process import Interrupts, RunUnderWayError, the_only_run
from fastpersist.cli.run import lock_folder
from fastpersist.registry import Registries

EXAMPLES = Path(__file__).parents[2] / "examples"

STRATEGY = """
from fastpersist.runner import Context, Signal, Strategy

class Sometimes(Strategy):
    name = "sometimes"

    def get_signal(self, ctx: Context):
        if ctx.when_ms // 60_000 % 7:
            return None
        ctx.log("signal")
        return Signal(
            position="long", price_take_profit=ctx.price + 1, price_stop_loss=ctx.price - 1,
            minute_estimated_time=30,
        )
"""

WAITING = """
import asyncio, sys
from fastpersist.runner import Context, Signal, Strategy

class Waiting(Strategy):
    def __init__(self):
        self.bars = 0

    async def get_signal(self, ctx: Context):
        state = ctx.state("count")
        count = 1 + await state.read(default=0)
        state.write(count)
        if count == 60:
            print("half way", flush=True)
            sys.stdin.readline()
            for _ in range(5):
                await asyncio.sleep(0)
        if count % 4:
            return None
        return Signal(
            position="short", price_take_profit=ctx.price - 1, price_stop_loss=ctx.price + 1,
            minute_estimated_time=5,
        )
"""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a strategy and candles, and a disk that need not be waited for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    (tmp_path / "sometimes.py").write_text(STRATEGY)
    write_csv(tmp_path / "BTCUSDT.csv", random_walk(120, seed=1))
    return tmp_path


RUN = ("run", "sometimes.py", "--candles", "BTCUSDT.csv")


KEPT = (*RUN, "--files", "kept")


def result(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> dict[str, Any]:
    """Run with ``--json`` and return what it prints."""
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found: dict[str, Any] = json.loads(printed.out)
    return found


def outcome(found: dict[str, Any]) -> dict[str, Any]:
    """Return what two runs over the same candles have in common."""
    return {name: found[name] for name in ("symbols", "total", "bars", "is_finished")}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    kind = "compiled" if fastpersist.has_extensions() else "pure Python"
    assert capsys.readouterr().out == f"fastpersist {fastpersist.__version__} ({kind})\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-h"]) == 0
    assert "--candles" in capsys.readouterr().out


LIVE = ["run", "sometimes.py", "--mode", "live", "--symbol", "BTCUSDT"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.py", "--candles", "BTCUSDT.csv"], "no such file: none.py"),
        (["run", "sometimes.py", "--candles", "none.csv"], "candles: no such file: none.csv"),
        (["run", "sometimes.py"], "give --candles, or --symbol and --frame"),
        (["run", "sometimes.py", "--symbol", "A"], "frame: is needed for a run over stored"),
        (["run", "sometimes.py", "--symbol", "A", "--frame", "2025-01-01.."], "frame: expected"),
        (["run", "sometimes.py", "--symbol", "A", "--frame", "2025-01-01"], "frame: expected"),
        (["run", "sometimes.py", "--symbol", "A", "--frame", "x..y"], "frame: not a time: 'x'"),
        ([*RUN, "--frame", ".."], "frame: expected START..END"),
        ([*RUN, "--frame", "2025-01-02..2025-01-01"], "frame: its end"),
        ([*RUN, "--interval", "15m"], "interval: is for stored candles"),
        ([*RUN, "--dummy", "--frame", "2024-01-01..2024-01-02"], "symbol: no candles of BTC"),
        ([*RUN, "--strategy", "other"], "sometimes.py has no strategy other (it has"),
        (["run", "sometimes.py", "--symbol", "A", "--frame", "1..2", "--dummy"], "candles: are ne"),
        (["walk"], "No such command 'walk'"),
        ([*RUN, "--slow"], "No such option"),
        ([*RUN, "--symbol", "A", "--symbol", "B"], "symbol: has to be given once for each"),
        ([*RUN, "BTCUSDT.csv"], "symbol: is there twice: BTCUSDT, BTCUSDT"),
        ([*RUN, "--dummy", "--files", "x"], "files: cannot be combined with --dummy"),
        (["run", "BTCUSDT.csv", "--candles", "BTCUSDT.csv"], "BTCUSDT.csv is no Python file"),
        ([*RUN, "--feed", "store"], "feed: cannot be combined with files"),
        ([*RUN, "--frame", "2025-01-01..", "--frame", "2025-01-01.."], "frame: is there twice"),
        ([*RUN, "--mode", "paper"], "candles: is for backtests, not for paper"),
        ([*LIVE, "--frame", "2025-01-01..2025-01-02"], "frame: is for backtests, not for live"),
        ([*LIVE, "--dummy"], "dummy: keeps nothing"),
        (["run", "sometimes.py", "--mode", "live"], "symbol: is needed"),
        ([*LIVE, "--feed", "store"], "feed: store takes no orders"),
        ([*LIVE, "--feed", "BTCUSDT.csv"], "feed: BTCUSDT.csv takes no orders"),
        ([*LIVE, "--feed", "ccxt:nowhere"], "exchange: ccxt has none named 'nowhere'"),
        ([*LIVE, "--interval", "7m"], "interval: unknown interval '7m'"),
        (
            ["run", "sometimes.py", "--mode", "paper", "--feed", "BTCUSDT.csv", "--symbol", "A,B"],
            "feed: BTCUSDT.csv is one file",
        ),
        ([*RUN, "--mode", "future"], "Invalid value for '--mode'"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"fastpersist: {message}")
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_an_abstract_base_is_no_strategy(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = "from abc import ABC, abstractmethod\nfrom fastpersist.runner import Strategy\n"
    base += "class Base(Strategy, ABC):\n    @abstractmethod\n    def level(self): ...\n"
    own = STRATEGY.replace("(Strategy)", "(Base)") + "    def level(self): return 1\n"
    (work / "own.py").write_text(base + own)
    assert main(["run", "own.py", "--candles", "BTCUSDT.csv", "--dummy"]) == 0
    assert capsys.readouterr().err == ""


def test_a_strategy_may_set_a_global_when_it_is_made(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = '    def __init__(self):\n        globals()["made_one"] = True\n'
    (work / "own.py").write_text(STRATEGY + made)
    assert main(["run", "own.py", "--candles", "BTCUSDT.csv", "--dummy"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def (", "bad.py fails: SyntaxError: "),
        ("1 / 0", "bad.py fails: ZeroDivisionError: division by zero"),
        ("import absent_module", "bad.py fails: ModuleNotFoundError: No module named"),
        ("", "bad.py defines no Strategy"),
        (STRATEGY + "class Other(Strategy): pass", "Other has no get_signal"),
        (
            STRATEGY + "class Other(Sometimes): pass",
            "bad.py has two strategies of one name: sometimes",
        ),
        (
            STRATEGY + "    def __init__(self, size): pass",
            "bad.py fails: TypeError: Sometimes.__init__() missing 1 required",
        ),
        (
            STRATEGY.replace("ctx.price + 1", "ctx.price"),
            "for a long",
        ),
        (
            STRATEGY.replace("ctx.log", "ctx.call"),
            "get_signal failed for BTCUSDT at 2025-01-01T00:05:00+00:00: AttributeError",
        ),
    ],
)
def test_strategy_files_that_fail(
    work: Path, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    (work / "bad.py").write_text(source)
    assert main(["run", "bad.py", "--candles", "BTCUSDT.csv", "--dummy"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.err.count("\n") == 1


def test_a_malformed_row_is_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = work / "BTCUSDT.csv"
    lines = path.read_text().splitlines()
    lines[41] = lines[41].replace(",", ",x", 1)
    path.write_text("\n".join(lines))
    assert main([*RUN, "--dummy"]) == 2
    assert capsys.readouterr().err.startswith("fastpersist: BTCUSDT.csv:42: open is not a number")


def test_missing_libraries_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "fastpersist.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "click", None)
    assert main(["--version"]) == 2
    assert 'pip install "fastpersist[cli]"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["json.py", "signal.py", "asyncio.py"])
def test_a_strategy_may_be_called_like_a_module(
    work: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    module = sys.modules[name.removesuffix(".py")]
    (work / "sometimes.py").rename(work / name)
    result(capsys, ["run", name, "--candles", "BTCUSDT.csv", "--dummy"])
    assert sys.modules[name.removesuffix(".py")] is module


def test_run_with_dummy_keeps_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(work.rglob("*"))
    found = result(capsys, [*RUN, "--dummy"])
    assert (found["bars"], found["share_done"]) == (120, 1)
    assert found["is_finished"] is True
    assert found["intervals"] == {"BTCUSDT": "1m"}
    assert found["frame"]["name"] == "20250101T0000-20250101T0200"
    assert found["total"]["signals"] == found["total"]["wins"] + found["total"]["losses"] > 3
    assert found["symbols"]["BTCUSDT"]["profit"] == found["total"]["profit"]
    assert found["events"] > 0
    assert sorted(path for path in work.rglob("*") if "__pycache__" not in path.parts) == before


def test_run_with_files_keeps_everything(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = result(capsys, [*RUN, "--files", "kept"])
    assert outcome(kept) == outcome(result(capsys, [*RUN, "--dummy"]))
    names = {path.relative_to(work / "kept").parts[1] for path in (work / "kept").rglob("*.json")}
    assert names >= {"candle", "signal", "risk", "storage", "notification", "log", "sometimes"}
    rows = list((work / "kept/data/storage/backtest").iterdir())
    total = kept["total"]
    assert len(rows) == total["signals"] + total["cancelled"] + kept["open_positions"]


def test_a_finished_run_is_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*RUN, "--files", "kept"]
    first = result(capsys, arguments)
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "a stored run is finished already: 120 bars were done" in shown
    assert "Result" in shown
    again = result(capsys, arguments)
    assert outcome(again) == outcome(first)
    assert (first["resumed_from"], again["resumed_from"], again["seconds"]) == (0, 120, 0)


def test_the_report_that_a_run_names_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--files", "kept here"]) == 0
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.endswith(" shows it again")
    )
    command = shlex.split(line)
    assert command[:2] == ["fastpersist", "report"]
    assert main(command[1 : command.index("shows")]) == 0
    assert command[2] in capsys.readouterr().out


def test_a_fresh_run_is_like_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*RUN, "--files", "kept"]
    first = result(capsys, arguments)
    again = result(capsys, [*arguments, "--fresh"])
    assert outcome(again) == outcome(first)
    assert again["resumed_from"] == 0


def test_a_changed_strategy_needs_fresh(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*RUN, "--files", "kept"]
    result(capsys, arguments)
    (work / "sometimes.py").write_text(STRATEGY + "# another\n")
    assert main(arguments) == 2
    assert "begin anew with --fresh" in capsys.readouterr().err
    assert result(capsys, [*arguments, "--fresh"])["resumed_from"] == 0


def test_the_table(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(work / "ETH[1m].csv.gz", random_walk(120, seed=2, gaps=[5, 6, 50]))
    assert main([*RUN, "ETH[1m].csv.gz", "--dummy"]) == 0
    shown = capsys.readouterr().out
    assert "ETH[1m].csv.gz: 3 candles of 1m are missing in 2 gaps, the longest of 2" in shown
    lines = [line.split() for line in shown.splitlines()]
    rows = [words[0] for words in lines if len(words) == 9 and words[1].isdecimal()]
    assert rows == ["BTCUSDT", "ETH[1m]", "total"]
    assert max(map(len, shown.partition("Result")[2].splitlines()[:-1])) <= 80
    assert "quote currency, after fees; open positions: " in shown
    assert "237 bars and " in shown


def test_symbols_and_intervals_of_several_files(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(work / "hours.csv.gz", random_walk(30, seed=2, step=3_600_000))
    found = result(
        capsys, [*RUN, "--candles", "hours.csv.gz", "--symbol", "A", "--symbol", "B", "--dummy"]
    )
    assert found["intervals"] == {"A": "1m", "B": "1h"}
    assert found["bars"] == 150


def test_the_example(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(work / "BTCUSDT.csv", random_walk(900, seed=5))
    strategy = str(EXAMPLES / "ema_cross.py")
    arguments = ["run", strategy, "--candles", "BTCUSDT.csv", "--files", "kept"]
    first = result(capsys, arguments)
    assert first["total"]["signals"] > 2
    assert outcome(result(capsys, [*arguments, "--fresh"])) == outcome(first)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "fastpersist", *arguments]


def test_module(work: Path) -> None:
    done = subprocess.run(
        command("--version"), capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith(f"fastpersist {fastpersist.__version__} ")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_an_interrupted_run_carries_on(
    work: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    (work / "waiting.py").write_text(WAITING)
    arguments = ("run", "waiting.py", "--candles", "BTCUSDT.csv", "--files")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command(*arguments, "parts"), stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        assert main([*arguments, "parts"]) == 2
        assert "another process is doing this run" in capsys.readouterr().err
        process.send_signal(number)
        shown, errors = process.communicate("go on\n", timeout=120)
    assert process.returncode == code
    assert "stopped in good order; the same command carries on" in shown
    assert "Result so far" in shown
    assert errors == ""

    rest = subprocess.run(
        command(*arguments, "parts", "--json"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert rest.stderr == ""
    second = json.loads(rest.stdout.splitlines()[-1])
    assert 0 < second["resumed_from"] < 120
    whole = subprocess.run(
        command(*arguments, "whole", "--json"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert outcome(second) == outcome(json.loads(whole.stdout.splitlines()[-1]))
    assert stored(work / "parts") == stored(work / "whole")


def test_a_second_signal_ends_a_run_at_once_with_the_code_of_the_first(work: Path) -> None:
    (work / "stuck.py").write_text(WAITING.replace("sleep(0)", "sleep(600)"))
    with subprocess.Popen(
        command("run", "stuck.py", "--candles", "BTCUSDT.csv", "--files", "parts"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        process.stdin.write("go on\n")
        process.stdin.flush()
        process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + 30
        # Of two that come at once the system may keep one.
        while process.poll() is None and time.monotonic() < ends:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert "Traceback" not in process.stderr.read()  # type: ignore[union-attr]  # a pipe
    assert process.returncode == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_does_not_interrupt_the_waiting_loop_is_heard(number: signal.Signals) -> None:
    def send() -> None:
        # Delivered to this thread, as one would be that comes just before the loop's wait begins.
        signal.pthread_kill(threading.get_ident(), number)

    async def wait() -> list[int]:
        before = signal.getsignal(number)
        with Interrupts() as interrupts:
            heard, late = asyncio.Event(), asyncio.Event()
            interrupts.end_with(heard.set)
            timer = threading.Timer(0.1, send)
            timer.start()
            # It wakes the loop, which hears the signal then in any case.
            asyncio.get_running_loop().call_later(60, late.set)
            await heard.wait()
            timer.join()
            assert not late.is_set()
        assert signal.getsignal(number) is before
        return interrupts.numbers

    assert asyncio.run(wait()) == [number]


def stored(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.json")
    }


def test_a_terminal_shows_progress_with_its_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr("fastpersist.cli.app.console", terminal)
    monkeypatch.setattr("fastpersist.cli.run._REFRESH_SECONDS", 0)
    assert main([*RUN, "--files", "kept"]) == 0
    shown = screen.getvalue()
    assert "import BTCUSDT 1m" in shown
    assert re.search(r"replay [\d,]+ bars/s", shown)
    assert "100%" in shown


def test_a_corrected_file_is_told_that_stored_candles_stay(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = result(capsys, [*RUN, "--files", "kept"])
    assert first["different_candles"] == {"BTCUSDT": 0}
    write_csv(work / "BTCUSDT.csv", random_walk(120, seed=2))
    arguments = [*RUN, "--files", "kept", "--fresh"]
    again = result(capsys, arguments)
    assert again["different_candles"] == {"BTCUSDT": 120}
    assert outcome(again) == outcome(first)
    assert main(arguments) == 0
    assert "120 candles are stored with other figures" in capsys.readouterr().out


def test_runs_on_two_exchanges_keep_their_rows_apart(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for exchange in ("binance", "bybit"):
        result(capsys, [*RUN, "--files", "kept", "--exchange", exchange])
    for kind in ("storage/backtest", "notification/backtest", "log"):
        rows = [
            json.loads(path.read_text()) for path in (work / "kept/data" / kind).rglob("*.json")
        ]
        exchanges = [
            row.get("exchangeName") or row["methodContext"]["exchangeName"] for row in rows
        ]
        assert exchanges.count("binance") == exchanges.count("bybit") > 0


def test_an_error_in_a_strategy_names_its_line(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = STRATEGY.replace('ctx.log("signal")', "1 / 0").splitlines()
    (work / "wrong.py").write_text("\n".join(lines))
    assert main(["run", "wrong.py", "--candles", "BTCUSDT.csv", "--dummy"]) == 2
    shown = capsys.readouterr().err.replace("\n", " ")
    assert "ZeroDivisionError" in shown
    line = next(number for number, text in enumerate(lines, 1) if "1 / 0" in text)
    assert f"(wrong.py:{line})" in shown
    (work / "broken.py").write_text("\n\nimport no_such_module\n")
    assert main(["run", "broken.py", "--candles", "BTCUSDT.csv", "--dummy"]) == 2
    shown = capsys.readouterr().err.replace("\n", " ")
    assert "broken.py fails: ModuleNotFoundError" in shown
    assert "(broken.py:3)" in shown


def test_a_fresh_run_measures_anew(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = STRATEGY.replace("def get_signal", "async def get_signal").replace(
        "ctx.price + 1,", 'ctx.price + await ctx.measure("m").call("k", lambda: REACH),'
    )
    results = []
    for reach in (1, 3):
        (work / "reach.py").write_text(source.replace("REACH", str(reach)))
        arguments = ["run", "reach.py", "--candles", "BTCUSDT.csv", "--fresh"]
        kept = outcome(result(capsys, [*arguments, "--files", "kept"]))
        assert kept == outcome(result(capsys, [*arguments, "--dummy"]))
        results.append(kept)
    assert results[0] != results[1]


def test_stored_candles_are_replayed_without_a_file(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = result(capsys, [*RUN, "--files", "kept"])
    frame = ["--frame", "2025-01-01T00:00..2025-01-01T02:00"]
    stored = ["run", "sometimes.py", "--symbol", "BTCUSDT", *frame, "--files", "kept"]
    found = result(capsys, [*stored, "--fresh"])
    assert outcome(found) == outcome(whole)
    assert found["different_candles"] == {}
    (work / "BTCUSDT.csv").unlink()
    again = result(capsys, stored)
    assert again["resumed_from"] == again["bars"] == 120


def test_a_frame_is_a_part_of_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    first = result(capsys, [*RUN, "--dummy", "--frame", "..2025-01-01T01:00"])
    second = result(capsys, [*RUN, "--dummy", "--frame", "2025-01-01T01:00.."])
    both = result(capsys, [*RUN, "--dummy", "--frame", "2025-01-01T00:30..1735693200000"])
    assert (first["bars"], second["bars"], both["bars"]) == (60, 60, 30)
    assert second["frame"]["name"] == "20250101T0100-20250101T0200"
    assert first["is_finished"]
    assert second["is_finished"]


def test_the_strategies_of_a_file_run_together_or_by_name(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "two.py").write_text(
        STRATEGY
        + """
from fastpersist.runner import strategy

@strategy(signal_interval="15m")
def quarter(ctx):
    return Signal(
        position="short", price_take_profit=ctx.price - 1, price_stop_loss=ctx.price + 1,
        minute_estimated_time=10,
    )
"""
    )
    run_two = ["run", "two.py", "--candles", "BTCUSDT.csv", "--dummy"]
    both = result(capsys, run_two)
    assert list(both["symbols"]) == ["sometimes BTCUSDT", "quarter BTCUSDT"]
    assert all(row["signals"] for row in both["symbols"].values())
    for name in ("sometimes", "quarter"):
        alone = result(capsys, [*run_two, "--strategy", name])
        row, expected = alone["symbols"]["BTCUSDT"], both["symbols"][f"{name} BTCUSDT"]
        assert {**row, "symbol": ""} == {**expected, "symbol": ""}


def test_a_symbol_without_candles_is_no_result(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = ["--frame", "2025-01-01..2025-01-01T01:50", "--files", "kept"]
    mistaken = ["run", "sometimes.py", "--symbol", "BTCUSDT", "--symbol", "btcusdt", *frame]
    result(capsys, [*RUN, "--files", "kept"])
    assert main(mistaken) == 2
    assert "no candles of btcusdt (1m, exchange demo) between 2025-01-01" in capsys.readouterr().err
    early = ["run", "sometimes.py", "--symbol", "ETHUSDT", *frame]
    assert main(early) == 2
    capsys.readouterr()
    write_csv(work / "ETHUSDT.csv", random_walk(120, seed=3))
    result(capsys, ["run", "sometimes.py", "--candles", "ETHUSDT.csv", "--files", "kept"])
    assert result(capsys, early)["bars"] == 110


def test_a_run_whose_candles_end_early_carries_on_with_more(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candles = random_walk(120, seed=1)
    write_csv(work / "BTCUSDT.csv", candles[:70])
    stored = ["--symbol", "BTCUSDT", "--frame", "2025-01-01..2025-01-01T01:50", "--files", "kept"]
    result(capsys, [*RUN, "--files", "kept"])
    first = result(capsys, ["run", "sometimes.py", *stored])
    assert (first["bars"], first["is_finished"]) == (70, False)
    assert first["early_ends"] == {"BTCUSDT": candles[70]["timestamp"]}
    assert main(["run", "sometimes.py", *stored]) == 0
    shown = capsys.readouterr().out
    assert "candles of BTCUSDT end at 2025-01-01 01:10, before the end of the frame; with" in shown
    write_csv(work / "BTCUSDT.csv", candles)
    result(
        capsys, ["run", "sometimes.py", "--candles", "BTCUSDT.csv", "--files", "kept", "--fresh"]
    )
    found = result(capsys, ["run", "sometimes.py", *stored])
    assert (found["bars"], found["is_finished"], found["resumed_from"]) == (110, True, 70)
    again = result(capsys, ["run", "sometimes.py", *stored, "--fresh"])
    assert outcome(again) == outcome(found)


def test_a_file_that_ends_early_does_not_promise_that_a_longer_one_carries_on(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candles = random_walk(120, seed=1)
    write_csv(work / "BTCUSDT.csv", candles[:70])
    arguments = [*KEPT, "--frame", "2025-01-01..2025-01-01T01:50"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "candles of BTCUSDT end at 2025-01-01 01:10, before the end of the frame\n" in shown
    write_csv(work / "BTCUSDT.csv", candles)
    assert main(arguments) == 2


def test_a_report_shows_stored_names_without_what_moves_the_cursor(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registries = Registries()
    registries.use_backend(FilesBackend("kept"))
    symbol, name = "S\x1b[2J", "[bold]e\x1b[2J"
    run = {
        "id": "abc", "start": 0, "end": 60_000, "strategies": ["s"], "symbols": [symbol],
        "intervals": ["1m"],
    }  # fmt: skip
    row: Any = {
        "id": "a", "symbol": symbol, "strategyName": "s", "exchangeName": name, "frameName": name,
        "status": "opened", "updatedAt": 1, "run": run,
    }  # fmt: skip
    asyncio.run(registries.storage.write_storage_data(True, [row]))
    for arguments in ([], ["abc"]):
        assert main(["report", *arguments, "--files", "kept"]) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert "S\\x1b[2J" in shown
        assert "[bold]e\\x1b[2J" in shown


def test_symbols_of_different_length_are_done_to_the_end(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(work / "ETHUSDT.csv", random_walk(200, seed=2))
    found = result(capsys, [*RUN, "ETHUSDT.csv", "--dummy"])
    assert (found["share_done"], found["is_finished"]) == (1, True)


@pytest.mark.parametrize(
    ("body", "line"), [("1 / 0", 4), ("return Signal(position='long')", 4), ("x = [][1]", 4)]
)
def test_errors_of_functions_name_their_line_and_strategy(
    work: Path, capsys: pytest.CaptureFixture[str], body: str, line: int
) -> None:
    (work / "two.py").write_text(
        f"""from fastpersist.runner import Signal, strategy
@strategy
def bad(ctx):
    {body}

@strategy()
async def good(ctx):
    return None
"""
    )
    assert main(["run", "two.py", "--candles", "BTCUSDT.csv", "--dummy"]) == 2
    printed = capsys.readouterr().err
    assert "get_signal failed for bad on BTCUSDT at 2025-01-01T00:01:00+00:00: " in printed
    assert f"(two.py:{line})" in printed


def test_a_wrong_setting_names_its_strategy(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "two.py").write_text(
        """from fastpersist.runner import strategy
@strategy(slippage_percent=200)
def bad(ctx): ...
@strategy
def good(ctx): ...
"""
    )
    assert main(["run", "two.py", "--candles", "BTCUSDT.csv", "--dummy"]) == 2
    printed = capsys.readouterr().err
    assert "strategy bad: slippage_percent: must be a number from 0 on and below 100" in printed


# It stops itself half way, since who watches it may be slower.
HELD_IMPORT = """
import os, signal, sys
from fastpersist.cli import main, run

importing = run.import_candles

async def held(registries, exchange_name, file, advance):
    done = 0

    def hold(count):
        nonlocal done
        advance(count)
        if done < 10_000 <= done + count:
            os.kill(os.getpid(), signal.SIGSTOP)
        done += count

    return await importing(registries, exchange_name, file, hold)

run.import_candles = held
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_import_ends_the_command(work: Path, number: signal.Signals) -> None:
    write_csv(work / "LONG.csv", random_walk(20_000, seed=1))
    arguments = ["run", "sometimes.py", "--candles", "LONG.csv", "--files", "kept"]
    process = subprocess.Popen(
        [sys.executable, "-c", HELD_IMPORT, *arguments],
        cwd=work, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    first = work / "kept/data/candle/demo/LONG/1m"
    while process.poll() is None and not first.exists():
        time.sleep(0.001)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (128 + number, "")
    assert "stopped before the replay" in output


def test_frames_of_one_command_share_candles_and_have_results_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames = ["2025-01-01..2025-01-01T01:00", "2025-01-01T01:00.."]
    found = result(capsys, [*KEPT, "--frame", frames[0], "--frame", frames[1]])
    first, second = found["runs"]
    assert (first["bars"], second["bars"]) == (60, 60)
    assert first["run"] != second["run"]
    assert outcome(first) == outcome(result(capsys, [*KEPT, "--frame", frames[0]]))


def test_a_strategy_file_gives_names_to_frames(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        STRATEGY
        + """
from fastpersist.runner import Frame

half_an_hour = Frame.of("2025-01-01", "2025-01-01T00:30", "morning")
"""
    )
    (work / "sometimes.py").write_text(text)
    found = result(capsys, [*KEPT, "--frame", "morning"])
    assert (found["bars"], found["frame"]["name"]) == (30, "morning")
    assert main([*RUN, "--frame", "evening"]) == 2
    assert "it has morning" in capsys.readouterr().err


def test_variables_of_the_image_stand_for_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from_variables = ["run", "--files", "kept", "--fresh"]
    expected = result(
        capsys, [*KEPT, "--frame", "2025-01-01..2025-01-01T01:00", "--exchange", "binance"]
    )
    for name, value in {
        "MODE": "backtest", "STRATEGY_FILE": "sometimes.py", "STRATEGY": "sometimes",
        "SYMBOL": "BTCUSDT", "EXCHANGE": "binance", "FRAME": "2025-01-01..2025-01-01T01:00",
        "FEED": "store", "ENTRY": "", "VERBOSE": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = result(capsys, from_variables)
    assert outcome(found) == outcome(expected)
    monkeypatch.setenv("SYMBOL", "")
    monkeypatch.setenv("ENTRY", "1")
    monkeypatch.setenv("CC_SYMBOL_LIST", "BTCUSDT")
    assert outcome(result(capsys, from_variables)) == outcome(expected)
    monkeypatch.setenv("FRAME", "2025-01-01..2025-01-01T01:00,2025-01-01T01:00..2025-01-01T02:00")
    first, second = result(capsys, from_variables)["runs"]
    assert outcome(first) == outcome(expected)
    assert second["frame"]["start"] == first["frame"]["end"]


def test_on_the_clock_the_frame_of_the_environment_is_that_of_backtests(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAME", "2025-01-01..2025-01-02")
    assert main(["run", "sometimes.py", "--mode", "live"]) == 2
    assert "symbol: is needed" in capsys.readouterr().err
    assert main(["run", "sometimes.py", "--mode", "live", "--frame", "1..2"]) == 2
    assert "frame: is for backtests" in capsys.readouterr().err


def test_a_feed_that_is_a_file_is_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    expected = result(capsys, KEPT)
    given = ["run", "sometimes.py", "--feed", "BTCUSDT.csv", "--files", "kept", "--fresh"]
    found = result(capsys, given)
    assert outcome(found) == outcome(expected)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_device_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastpersist", "--help"], stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=120, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "fastpersist: No space left on device\n")


def test_output_needs_neither_streams_nor_unicode(tmp_path: Path) -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    program = [sys.executable, "-m", "fastpersist"]
    done = subprocess.run(
        [*program, "run", "x.py", "--candles", "grün 🟢.csv"], cwd=tmp_path, env=ascii_only,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    for closed in ("<&- >&-", "2>&-", ">&- 2>&-"):
        command = ["sh", "-c", f'"$0" "$@" {closed}', *program, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_who_reads_no_more_hears_nothing_further() -> None:
    command = ["sh", "-c", '"$0" -m fastpersist run --help | head -1', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize("arguments", [["report", "--files", "dump"], ["--help"], ["run", "-h"]])
def test_what_nobody_reads_is_no_finding(tmp_path: Path, arguments: list[str]) -> None:
    unread, output = os.pipe()
    os.close(unread)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fastpersist", *arguments],
            cwd=tmp_path, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(output)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_run_on_servers_is_the_only_one_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"mongo_url": "mongodb://h/db", "local_folder": Path(".fastpersist")}
    options: Any = SimpleNamespace(files=None, settings=settings)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with the_only_run(*lock_folder(options), [("run",)]):
        monkeypatch.chdir(tmp_path / "there")
        with (
            pytest.raises(RunUnderWayError),
            the_only_run(*lock_folder(options), [("run",)]),
        ):
            pass
        with the_only_run(*lock_folder(options), [("another",)]):
            pass


def test_a_home_that_cannot_be_written_leaves_the_lock_to_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    settings = {"mongo_url": "mongodb://h/db", "local_folder": tmp_path / "local"}
    options: Any = SimpleNamespace(files=None, settings=settings)
    assert lock_folder(options)[0] == tmp_path / "local"
