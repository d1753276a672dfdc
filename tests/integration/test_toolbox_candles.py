"""`fastpersist import-candles` and `export-candles` on real servers."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

import fake_exchange
from candle_rows import START_MS, random_walk, write_csv
from conftest import Place
from fastpersist.adapters.files import FilesBackend
from fastpersist.contracts import Candle
from fastpersist.registry import Registries
from interop_calls import FIXTURES
from toolbox_kit import Command, interrupt, process

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

STEP = 60_000


@pytest.fixture
def stored(place: Place) -> Iterator[Collection[dict[str, Any]]]:
    """The collection of the candles."""
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        yield client[place.name]["candle-items"]


def candles_of(stored: Collection[dict[str, Any]], symbol: str = "BTCUSDT") -> list[Candle]:
    fields = dict.fromkeys(("timestamp", "open", "high", "low", "close", "volume"), 1)
    found: list[Any] = [*stored.find({"symbol": symbol}, {**fields, "_id": 0}).sort("timestamp", 1)]
    return found


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet", "arrow"])
def test_what_is_exported_is_imported_again(
    place: Place,
    stored: Collection[dict[str, Any]],
    fastpersist: Command,
    tmp_path: Path,
    suffix: str,
) -> None:
    rows = random_walk(3_000)
    first = write_csv(tmp_path / "BTCUSDT-1m.csv", rows)
    report = fastpersist.json("import-candles", str(first), "--exchange", "binance")
    assert report["files"][0] == {
        "file": str(first),
        "symbol": "BTCUSDT",
        "interval": "1m",
        "exchange_name": "binance",
        "start": START_MS,
        "end": START_MS + 3_000 * STEP,
        "candles": 3_000,
        "unclosed": 0,
        "missing_in_file": 0,
        "different": 0,
        "filled": {},
        "gaps": [],
        "missing": 0,
    }
    assert candles_of(stored) == rows
    output = tmp_path / f"out.{suffix.removesuffix('.gz')}"
    window = ("--start", str(START_MS), "--end", str(START_MS + 3_000 * STEP))
    exported = fastpersist.json(
        "export-candles", "BTCUSDT", "1m", "binance", *window, "--output", str(output)
    )
    assert (exported["candles"], exported["missing"]) == (3_000, 0)
    if suffix.endswith(".gz"):
        packed = tmp_path / f"out.{suffix}"
        packed.write_bytes(gzip.compress(output.read_bytes()))
        output = packed
    again = ("import-candles", str(output), "--exchange", "other", "--symbol", "COPY")
    assert fastpersist.json(*again)["files"][0]["candles"] == 3_000
    assert candles_of(stored, "COPY") == rows
    documents = list(stored.find())
    assert fastpersist.json(*again)["files"][0]["different"] == 0
    assert list(stored.find()) == documents


def test_the_golden_candles_come_into_the_store(
    stored: Collection[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    directory = FIXTURES / "dump" / "data" / "candle" / "binance" / "BTCUSDT" / "1m"
    golden = sorted(
        (json.loads(path.read_text()) for path in directory.glob("*.json")),
        key=lambda candle: int(candle["timestamp"]),
    )
    output = tmp_path / "golden.parquet"
    code, _, errors = fastpersist(
        "candles", "BTCUSDT", "1m", "binance", "--output", str(output),
        "--start", str(golden[0]["timestamp"]), "--end", str(golden[-1]["timestamp"] + STEP),
        "--files", str(FIXTURES / "dump"),
    )  # fmt: skip
    assert (code, errors) == (0, f"{len(golden)} candles of BTCUSDT 1m binance, 0 missing\n")
    fastpersist.json("import-candles", str(output), "--exchange", "binance", "--symbol", "BTCUSDT")
    assert candles_of(stored) == golden


def test_gaps_are_named_and_stay(
    stored: Collection[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    rows = random_walk(100, gaps=[10, 20, 21, 22])
    file = str(write_csv(tmp_path / "BTCUSDT.csv", rows))
    report = fastpersist.json("import-candles", file, "--exchange", "e", code=1)["files"][0]
    assert report["gaps"] == [
        {"start": START_MS + 10 * STEP, "end": START_MS + 11 * STEP, "missing": 1},
        {"start": START_MS + 20 * STEP, "end": START_MS + 23 * STEP, "missing": 3},
    ]
    assert (report["missing"], report["missing_in_file"]) == (4, 4)
    assert candles_of(stored) == rows
    code, out, _ = fastpersist("import-candles", file, "--exchange", "e")
    assert code == 1
    assert "3 missing from 2025-01-01T00:20Z to before 2025-01-01T00:23Z" in out
    # What another file has brought is not missing.
    whole = write_csv(tmp_path / "whole.csv", random_walk(100))
    fastpersist.json("import-candles", str(whole), "--exchange", "e", "--symbol", "BTCUSDT")
    report = fastpersist.json("import-candles", file, "--exchange", "e")["files"][0]
    assert (report["missing"], report["missing_in_file"]) == (0, 4)


def test_a_gap_longer_than_a_window_is_one(fastpersist: Command, tmp_path: Path) -> None:
    rows = random_walk(25_000)
    file = str(write_csv(tmp_path / "BTCUSDT.csv.gz", [*rows[:5], *rows[24_990:]]))
    report = fastpersist.json("import-candles", file, "--exchange", "e", code=1)["files"][0]
    assert [gap["missing"] for gap in report["gaps"]] == [24_985]


def test_other_figures_are_counted_and_the_stored_ones_stay(
    stored: Collection[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    rows = random_walk(50)
    file = write_csv(tmp_path / "BTCUSDT.csv", rows)
    command = ("import-candles", str(file), "--exchange", "e")
    fastpersist.json(*command)
    corrected = random_walk(50)
    for row in corrected[:7]:
        row["volume"] += 1
    write_csv(file, corrected)
    assert fastpersist.json(*command, code=1)["files"][0]["different"] == 7
    assert candles_of(stored) == rows
    assert "7 were stored before with other figures" in fastpersist(*command)[1]


def test_bad_files_are_named_and_the_others_imported(
    stored: Collection[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    rows = random_walk(30)
    bad = tmp_path / "AAA.csv"
    write_csv(bad, [*rows[:5], {**rows[5], "low": 1e9}, *rows[6:]])
    garbage = tmp_path / "BBB.parquet"
    garbage.write_bytes(b"\x00[red]no table")
    good = write_csv(tmp_path / "CCC.csv", rows)
    files = [str(path) for path in (bad, garbage, good)]
    found = fastpersist.json("import-candles", *files, "--exchange", "e", code=1)
    assert list(found["bad_files"]) == files[:2]
    assert found["bad_files"][files[0]].startswith(f"{bad}:7: ")
    assert candles_of(stored, "CCC") == rows
    assert stored.count_documents({}) == 30
    code, out, _ = fastpersist("import-candles", *files, "--exchange", "e")
    assert code == 1
    assert "2 bad files" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("A.csv",), "Missing option '--exchange'"),
        (("A.csv", "no.csv", "--exchange", "e"), "no such file: no.csv"),
        (("A.csv", "--exchange", "e", "--fill", "no.csv"), "no such file: no.csv"),
        (("A.csv", "--exchange", "e", "--interval", "7m"), "7m"),
        (("A.csv", "--exchange", "e", "--fill", "ccxt:nowhere"), "nowhere"),
        (("A.csv", "B.csv", "C.csv", "--exchange", "e", "--symbol", "A", "--symbol", "B"), "3 fil"),
        (("A.csv", "B.csv", "--exchange", "e", "--fill", "C.csv"), "one symbol"),
        (("A.csv", "--exchange", ""), "exchange"),
    ],
)
def test_mistakes_are_told_in_a_line(
    place: Place,
    fastpersist: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ABC":
        write_csv(tmp_path / f"{name}.csv", random_walk(10, gaps=[3]))
    code, out, errors = fastpersist("import-candles", *arguments)
    assert (code, out) == (2, "")
    assert message in errors


def test_an_interval_may_be_given(
    stored: Collection[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    rows = random_walk(20)[::5]
    file = write_csv(tmp_path / "BTCUSDT.csv", rows)
    command = ("import-candles", str(file), "--exchange", "e")
    report = fastpersist.json(*command, "--interval", "1m", code=1)["files"][0]
    assert (report["interval"], report["missing"]) == ("1m", 12)
    assert {document["interval"] for document in stored.find()} == {"1m"}
    found = fastpersist.json(*command, "--interval", "1h", code=1)
    assert "not a multiple of the interval's 3600000 ms" in found["bad_files"][str(file)]
    write_csv(file, rows[:1])
    assert fastpersist.json(*command, "--interval", "1m")["files"][0]["candles"] == 1


def test_gaps_are_filled_from_a_file_and_no_further(
    stored: Collection[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    rows = random_walk(100)
    file = write_csv(tmp_path / "BTCUSDT.csv", [row for n, row in enumerate(rows) if n % 10])
    # Has more at both ends, other figures for what is stored, and lacks one of the missing.
    others = random_walk(120, seed=5, gaps=[50])
    source = write_csv(tmp_path / "source.csv.gz", others)
    found = fastpersist.json(
        "import-candles", str(file), "--exchange", "e", "--fill", str(source), code=1
    )
    (report,) = found["files"]
    assert (report["candles"], report["missing_in_file"]) == (90, 9)
    assert (report["filled"], report["missing"]) == ({str(source): 8}, 1)
    by_time = {other["timestamp"]: other for other in others}
    assert candles_of(stored) == [
        row if number % 10 else by_time[row["timestamp"]]
        for number, row in enumerate(rows)
        if number not in (0, 50)
    ]


def test_a_malformed_source_is_named_and_fills_nothing(
    fastpersist: Command, tmp_path: Path
) -> None:
    file = write_csv(tmp_path / "BTCUSDT.csv", random_walk(20, gaps=[4]))
    source = tmp_path / "source.csv"
    source.write_text("nonsense\n")
    command = ("import-candles", str(file), "--exchange", "e", "--fill", str(source))
    found = fastpersist.json(*command, code=1)
    assert list(found["bad_files"]) == [str(source)]
    assert (found["files"][0]["candles"], found["files"][0]["missing"]) == (19, 1)


@contextmanager
def exchange(start: int, before: int) -> Iterator[str]:
    arguments = ["--print-url", "--start", str(start), "--before", str(before)]
    running = subprocess.Popen(
        [sys.executable, str(Path(fake_exchange.__file__)), *arguments],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        yield running.stdout.readline().strip()
    finally:
        running.terminate()
        running.communicate(timeout=60)


def test_gaps_are_filled_from_an_exchange(
    stored: Collection[dict[str, Any]],
    fastpersist: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    rows = random_walk(300, gaps=range(100, 150))
    file = write_csv(tmp_path / "BTCUSDT.csv", rows)
    with exchange(START_MS, 140) as url:
        monkeypatch.setenv("FASTPERSIST_EXCHANGE_OPTIONS", json.dumps(fake_exchange.options(url)))
        found = fastpersist.json(
            "import-candles", str(file), "--exchange", "e", "--fill", "ccxt:binance", code=1
        )
    (report,) = found["files"]
    # The exchange has come as far as 140: what it does not have yet is not made up.
    assert report["filled"] == {"ccxt:binance": 40}
    assert [gap["missing"] for gap in report["gaps"]] == [10]
    assert stored.count_documents({}) == 290


def test_a_killed_import_is_repeated_with_the_same_outcome(
    place: Place, stored: Collection[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    rows = random_walk(60_000)
    file = write_csv(tmp_path / "BTCUSDT.csv.gz", rows)
    command = ("import-candles", str(file), "--exchange", "e")
    kills = 0
    for number, kind in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)):
        before = stored.estimated_document_count()
        # Never as far as the end, and always beyond what the one before has reached.
        running = process(place, command, held_at=(file.name, 13_000 * (number + 1)))
        deadline = time.monotonic() + 120
        while stored.estimated_document_count() < before + 2_000 and running.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        _, errors = interrupt(running, kind)
        assert "Traceback" not in errors, number
        kills += running.returncode == (-9 if kind == signal.SIGKILL else 130)
        # The server may still be at what was sent last.
        deadline = time.monotonic() + 120
        while candles_of(stored) != rows[: stored.count_documents({})]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert kills == 4
    assert 0 < stored.count_documents({}) < 60_000
    report = fastpersist.json(*command)["files"][0]
    assert (report["candles"], report["different"], report["missing"]) == (60_000, 0, 0)
    assert candles_of(stored) == rows


def test_the_files_family_is_exported_too(fastpersist: Command, tmp_path: Path) -> None:
    registries = Registries()
    registries.use_backend(FilesBackend(tmp_path / "dump"))
    asyncio.run(registries.candle.write_candles_data("X", "1m", "e", random_walk(5)))
    window = ("--start", str(START_MS), "--end", str(START_MS + 10 * STEP))
    command = ("export-candles", "X", "1m", "e", *window, "--files", str(tmp_path / "dump"))
    code, out, errors = fastpersist(*command)
    assert (code, len(out.splitlines()), errors) == (0, 6, "5 candles of X 1m e, 5 missing\n")
    code, _, errors = fastpersist(*command, "--json")
    assert code == 2
    assert "need --output" in errors
