"""Candles on their way into the candle domain and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from candle_rows import START_MS, random_walk, write_csv
from fastpersist import CorruptDataError, simulated_time
from fastpersist.adapters.files import FilesBackend
from fastpersist.contracts import Candle
from fastpersist.registry import Registries
from fastpersist.runner import CandleFile, Feed, GapReport, import_candles, read_candle_file
from fastpersist.runner import feed as feed_module

MINUTE = 60_000


@pytest.fixture
def family(tmp_path: Path) -> Registries:
    registries = Registries()
    registries.use_backend(FilesBackend(tmp_path / "dump"))
    return registries


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a hundred candles as good as a hundred thousand."""
    monkeypatch.setattr(feed_module, "_WINDOW", 10)
    monkeypatch.setattr(feed_module, "_WRITE_BATCH", 30)


def file_of(tmp_path: Path, candles: list[Candle]) -> CandleFile:
    return read_candle_file(write_csv(tmp_path / "BTCUSDT.csv.gz", candles))


async def everything(feed: Feed) -> list[Candle]:
    return [await feed.candle(index) for index in range(feed.count)]


class Recorder:
    """Notes the windows that the candle domain is asked for."""

    def __init__(self, family: Registries, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows: list[tuple[int, int]] = []
        read = family.candle.read_candles_data

        async def recorded(
            symbol: str, interval: str, exchange: str, limit: int, since: int, until: int
        ) -> Any:
            assert until == since + limit * MINUTE
            self.windows.append(((since - START_MS) // MINUTE, limit))
            return await read(symbol, interval, exchange, limit, since, until)

        monkeypatch.setattr(family.candle, "read_candles_data", recorded)


@pytest.mark.parametrize(
    ("gaps", "report"),
    [
        ([], GapReport(0, 0, 0)),
        ([5], GapReport(1, 1, 1)),
        ([5, 6, 7, 20, 40, 41], GapReport(6, 3, 3)),
        ([0, 1, 49], GapReport(0, 0, 0)),  # before the first and after the last nothing is missing
        (range(1, 48), GapReport(47, 1, 47)),
    ],
)
async def test_gaps_are_reported(
    tmp_path: Path, family: Registries, gaps: list[int], report: GapReport
) -> None:
    candles = random_walk(50, gaps=gaps)
    feed = Feed(family, "demo", "BTCUSDT", "1m", [candle["timestamp"] for candle in candles])
    assert feed.gaps == report
    assert feed.count == len(candles)
    assert (feed.first, feed.last) == (candles[0]["timestamp"], candles[-1]["timestamp"])
    assert [feed.timestamp(index) for index in range(feed.count)] == [
        candle["timestamp"] for candle in candles
    ]


async def test_windows_never_reach_across_a_gap(
    tmp_path: Path, family: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    candles = random_walk(50, gaps=[15, 16, 30, 32])
    feed = await import_candles(family, "demo", file_of(tmp_path, candles))
    recorder = Recorder(family, monkeypatch)
    assert await everything(feed) == candles
    assert recorder.windows == [
        (0, 10), (10, 5), (17, 10), (27, 3), (31, 1), (33, 10), (43, 7),
    ]  # fmt: skip


async def test_history_is_the_candles_before(tmp_path: Path, family: Registries) -> None:
    candles = random_walk(50, gaps=[15, 16, 30, 32])
    feed = await import_candles(family, "demo", file_of(tmp_path, candles))
    for until, limit in ((0, 10), (1, 10), (20, 100), (46, 46), (46, 5), (29, 1), (20, 0)):
        assert await feed.history(until, limit) == candles[max(0, until - limit) : until]


async def test_jumps_in_both_directions(tmp_path: Path, family: Registries) -> None:
    candles = random_walk(50, gaps=[20])
    feed = await import_candles(family, "demo", file_of(tmp_path, candles))
    for index in (48, 0, 25, 24, 19, 20, 9, 10):
        assert await feed.candle(index) == candles[index]


async def test_import_tells_its_progress(tmp_path: Path, family: Registries) -> None:
    counts: list[int] = []
    await import_candles(family, "demo", file_of(tmp_path, random_walk(100)), counts.append)
    assert counts == [30, 30, 30, 10]


async def test_import_can_be_repeated(
    tmp_path: Path, family: Registries, caplog: pytest.LogCaptureFixture
) -> None:
    file = file_of(tmp_path, random_walk(70, gaps=[33]))
    await import_candles(family, "demo", file)
    stored = stamps(tmp_path)
    feed = await import_candles(family, "demo", file)
    assert stamps(tmp_path) == stored
    assert len(stored) == 69
    assert await everything(feed) == file.candles
    assert caplog.messages == []


def stamps(tmp_path: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of all candle files."""
    found = (tmp_path / "dump").rglob("*.json")
    return {path.name: (os.stat(path).st_ino, os.stat(path).st_mtime_ns) for path in found}


async def test_a_second_import_writes_nothing(
    tmp_path: Path, family: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_of(tmp_path, random_walk(100, gaps=[3, 50, 51]))
    await import_candles(family, "demo", file)

    async def refuse(*arguments: Any) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(family.candle, "write_candles_data", refuse)
    feed = await import_candles(family, "demo", file)
    assert await everything(feed) == file.candles


@pytest.mark.parametrize("batches", [0, 1, 2])
async def test_interrupted_import_is_completed(
    tmp_path: Path, family: Registries, batches: int
) -> None:
    file = file_of(tmp_path, random_walk(70))
    done = 0

    def interrupt(count: int) -> None:
        nonlocal done
        if done == batches:
            raise KeyboardInterrupt
        done += 1

    with pytest.raises(KeyboardInterrupt):
        await import_candles(family, "demo", file, interrupt)
    assert len(stamps(tmp_path)) == min(70, 30 * (batches + 1))
    family.clear()
    feed = await import_candles(family, "demo", file)
    assert await everything(feed) == file.candles


async def test_stored_candles_keep_their_figures(
    tmp_path: Path, family: Registries, caplog: pytest.LogCaptureFixture
) -> None:
    first = random_walk(40, seed=1)
    await import_candles(family, "demo", file_of(tmp_path, first))
    other = random_walk(50, seed=2)
    feed = await import_candles(family, "demo", file_of(tmp_path, other))
    assert await everything(feed) == first + other[40:]
    assert feed.different == 40
    assert [message.split(":")[0] for message in caplog.messages] == [
        "30 candles keep their first figures, which differ from those written now",
        "10 candles keep their first figures, which differ from those written now",
    ]


async def test_exchanges_and_intervals_are_apart(tmp_path: Path, family: Registries) -> None:
    minutes, hours = random_walk(5, seed=1), random_walk(5, seed=2, step=60 * MINUTE)
    feeds = [
        await import_candles(family, exchange, file_of(tmp_path, candles))
        for exchange, candles in (("one", minutes), ("two", hours), ("one", hours))
    ]
    assert [await everything(feed) for feed in feeds] == [minutes, hours, hours]
    assert [feed.step for feed in feeds] == [MINUTE, 60 * MINUTE, 60 * MINUTE]


async def test_a_lost_candle_is_named(tmp_path: Path, family: Registries) -> None:
    feed = await import_candles(family, "demo", file_of(tmp_path, random_walk(30)))
    (tmp_path / f"dump/data/candle/demo/BTCUSDT/1m/{START_MS + 12 * MINUTE}.json").unlink()
    assert (await feed.candle(0))["timestamp"] == START_MS
    with pytest.raises(CorruptDataError, match=f"from {START_MS + 10 * MINUTE} ms on are gone"):
        await feed.candle(10)
    await import_candles(family, "demo", file_of(tmp_path, random_walk(30)))
    assert await feed.candle(12) == random_walk(30)[12]


async def test_reads_in_a_simulation_see_closed_candles_only(
    tmp_path: Path, family: Registries
) -> None:
    """The engine reads ahead outside of its simulated time; nobody inside of it can."""
    feed = await import_candles(family, "demo", file_of(tmp_path, random_walk(30)))
    with simulated_time(START_MS + 10 * MINUTE):
        assert len(await feed.history(10, 5)) == 5
        with pytest.raises(CorruptDataError):
            await feed.history(11, 5)
