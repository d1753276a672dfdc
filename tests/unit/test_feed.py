"""Candles on their way into the candle domain and back."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from candle_rows import START_MS, as_csv, random_walk, write_csv
from fastpersist import CorruptDataError, InvalidArgumentError, simulated_time
from fastpersist.adapters.files import FilesBackend
from fastpersist.contracts import Candle
from fastpersist.hot.columns import rows
from fastpersist.registry import Registries
from fastpersist.runner import (
    CandleFeed,
    CandleFile,
    CandleFileError,
    FileFeed,
    GapReport,
    StoreFeed,
    import_candles,
    read_candle_file,
)
from fastpersist.runner import feed as feed_module
from fastpersist.runner.feed import fetch_candles
from fastpersist.runner.position import Bar
from live_kit import FakeClock, LiveFeed

MINUTE = 60_000


@pytest.fixture
def family(tmp_path: Path) -> Registries:
    registries = Registries()
    registries.use_backend(FilesBackend(tmp_path / "dump"))
    return registries


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a hundred candles as good as a hundred thousand."""
    monkeypatch.setattr(feed_module, "_WRITE_BATCH", 30)


def file_of(tmp_path: Path, candles: list[Candle]) -> CandleFile:
    return read_candle_file(write_csv(tmp_path / "BTCUSDT.csv.gz", candles))


async def everything(feed: StoreFeed) -> list[Any]:
    return rows(await feed.window(feed.start, feed.end))


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
    found = await import_candles(family, "demo", file_of(tmp_path, candles))
    assert found.gaps == report
    assert found.count == len(candles)
    assert found.feed.start == candles[0]["timestamp"]
    assert found.feed.end == candles[-1]["timestamp"] + MINUTE
    assert await everything(found.feed) == candles


async def test_windows_hold_what_opens_in_them(tmp_path: Path, family: Registries) -> None:
    candles = random_walk(50, gaps=[15, 16, 30, 32])
    feed = (await import_candles(family, "demo", file_of(tmp_path, candles))).feed
    for first, last in ((0, 10), (10, 20), (15, 17), (-5, 3), (45, 99), (60, 70)):
        start, end = START_MS + first * MINUTE, START_MS + last * MINUTE
        assert rows(await feed.window(start, end)) == [
            candle for candle in candles if start <= candle["timestamp"] < end
        ]


@pytest.mark.parametrize(
    ("interval", "end", "argument"), [("7m", 10, "interval"), ("1m", 0, "end"), ("1m", -1, "end")]
)
def test_a_feed_of_nothing_is_refused(
    family: Registries, interval: str, end: int, argument: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        StoreFeed(family, "demo", "BTCUSDT", interval, 0, end)
    assert caught.value.field == argument


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
    feed = (await import_candles(family, "demo", file)).feed
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
    feed = (await import_candles(family, "demo", file)).feed
    assert await everything(feed) == file.candles


async def test_gaps_do_not_part_what_is_written_at_once(tmp_path: Path, family: Registries) -> None:
    candles = [candle for number, candle in enumerate(random_walk(60)) if number % 3]
    counts: list[int] = []
    report = await import_candles(family, "demo", file_of(tmp_path, candles), counts.append)
    assert counts == [30, 10]
    assert await everything(report.feed) == candles
    again = await import_candles(family, "demo", file_of(tmp_path, candles))
    assert (again.count, again.different, again.gaps.missing) == (40, 0, report.gaps.missing)


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
    feed = (await import_candles(family, "demo", file)).feed
    assert await everything(feed) == file.candles


async def test_stored_candles_keep_their_figures(
    tmp_path: Path, family: Registries, caplog: pytest.LogCaptureFixture
) -> None:
    first = random_walk(40, seed=1)
    await import_candles(family, "demo", file_of(tmp_path, first))
    other = random_walk(50, seed=2)
    report = await import_candles(family, "demo", file_of(tmp_path, other))
    assert await everything(report.feed) == first + other[40:]
    assert report.different == 40
    assert [message.split(":")[0] for message in caplog.messages] == [
        "30 candles keep their first figures, which differ from those written now",
        "10 candles keep their first figures, which differ from those written now",
    ]


async def test_exchanges_and_intervals_are_apart(tmp_path: Path, family: Registries) -> None:
    minutes, hours = random_walk(5, seed=1), random_walk(5, seed=2, step=60 * MINUTE)
    feeds = [
        (await import_candles(family, exchange, file_of(tmp_path, candles))).feed
        for exchange, candles in (("one", minutes), ("two", hours), ("one", hours))
    ]
    assert [await everything(feed) for feed in feeds] == [minutes, hours, hours]
    assert [feed.interval for feed in feeds] == ["1m", "1h", "1h"]


async def test_a_lost_candle_is_named(tmp_path: Path, family: Registries) -> None:
    feed = (await import_candles(family, "demo", file_of(tmp_path, random_walk(30)))).feed
    (tmp_path / f"dump/data/candle/demo/BTCUSDT/1m/{START_MS + 12 * MINUTE}.json").unlink()
    assert len(await feed.window(START_MS, START_MS + 12 * MINUTE)) == 12
    with pytest.raises(CorruptDataError, match=f"1 candles from {START_MS + 12 * MINUTE} ms on"):
        await feed.window(START_MS, START_MS + 13 * MINUTE)
    await import_candles(family, "demo", file_of(tmp_path, random_walk(30)))
    assert await everything(feed) == random_walk(30)


async def test_reads_in_a_simulation_see_closed_candles_only(
    tmp_path: Path, family: Registries
) -> None:
    """The engine reads ahead outside of its simulated time; nobody inside of it can."""
    await import_candles(family, "demo", file_of(tmp_path, random_walk(30)))
    feed = StoreFeed(family, "demo", "BTCUSDT", "1m", START_MS, START_MS + 30 * MINUTE)
    with simulated_time(START_MS + 10 * MINUTE):
        assert len(await everything(feed)) == 10


class Steps:
    """A clock that stands still while anything waits, and then jumps."""

    def __init__(self, now: int) -> None:
        self._now = now
        self.slept = 0.0

    def now(self) -> int:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self._now += round(seconds * 1000)
        await asyncio.sleep(0)

    async def wait_until(self, moment: int, most_seconds: float) -> None:
        self._now = max(self._now, moment)
        await asyncio.sleep(0)


def as_bars(candles: list[Candle]) -> list[Bar]:
    return [Bar(*candle.values()) for candle in candles]  # type: ignore[arg-type]  # all numbers


async def test_a_file_is_served_from_memory(tmp_path: Path) -> None:
    candles = random_walk(50, gaps=[15, 16, 30, 32])
    file = file_of(tmp_path, candles)
    feed: CandleFeed = FileFeed(file, "demo")
    assert (feed.symbol, feed.interval, feed.exchange_name) == ("BTCUSDT", "1m", "demo")
    assert (feed.start, feed.end) == (START_MS, START_MS + 50 * MINUTE)
    write_csv(file.path, random_walk(10, seed=1))
    for first, last in ((0, 10), (10, 20), (15, 17), (-5, 3), (45, 99), (60, 70), (9, 3)):
        start, end = START_MS + first * MINUTE, START_MS + last * MINUTE
        assert rows(await feed.window(start, end)) == [
            candle for candle in candles if start <= candle["timestamp"] < end
        ]
    file.path.unlink()
    assert rows(await feed.window(feed.start, feed.end)) == candles


async def test_a_stream_gives_what_is_appended(tmp_path: Path) -> None:
    candles = random_walk(40, gaps=[21])
    path = write_csv(tmp_path / "BTCUSDT.csv", candles[:10])
    feed = FileFeed(read_candle_file(path), "demo")
    clock = Steps(START_MS + 10 * MINUTE)
    found: list[Bar] = []
    async with aclosing(feed.stream(START_MS + 8 * MINUTE, clock)) as stream:
        for candle in candles[8:]:
            if candle["timestamp"] >= START_MS + 10 * MINUTE:
                with path.open("a") as file:
                    file.write(as_csv([candle]).partition("\n")[2])
            found.append(await anext(stream))
    assert found == as_bars(candles[8:])
    assert feed.end == START_MS + 40 * MINUTE
    assert rows(await feed.window(START_MS, feed.end)) == candles


async def test_a_stream_waits_for_a_candle_that_is_late(tmp_path: Path) -> None:
    candles = random_walk(4)
    path = write_csv(tmp_path / "BTCUSDT.csv", candles[:3])
    feed = FileFeed(read_candle_file(path), "demo")
    clock = Steps(START_MS + 3 * MINUTE)
    text = as_csv(candles)
    async with aclosing(feed.stream(START_MS + 3 * MINUTE, clock)) as stream:
        coming = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.05)
        assert not coming.done()
        path.write_text(text[:-4])  # all but the last digits of a volume
        await asyncio.sleep(0.05)
        assert not coming.done()
        path.write_text(text)
        assert await asyncio.wait_for(coming, 60) == as_bars(candles)[3]
    assert clock.slept >= 1


async def test_a_file_that_does_not_change_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    def counting(*arguments: Any, **keywords: Any) -> CandleFile:
        nonlocal reads
        reads += 1
        return read_candle_file(*arguments, **keywords)

    monkeypatch.setattr(feed_module, "read_candle_file", counting)
    candles = random_walk(20)
    path = write_csv(tmp_path / "BTCUSDT.csv", candles[:10])
    feed = FileFeed(read_candle_file(path), "demo")
    clock = Steps(START_MS + 10 * MINUTE)
    async with aclosing(feed.stream(START_MS, clock)) as stream:
        for _ in range(10):
            await anext(stream)
        await feed.window(START_MS, feed.end)
        assert reads == 1
        path.write_text(as_csv(candles))
        assert (await anext(stream)).timestamp == START_MS + 10 * MINUTE
        assert reads == 2


async def test_candles_that_have_not_closed_come_when_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candles = random_walk(5)
    clock = Steps(START_MS + 3 * MINUTE + 1_000)
    monkeypatch.setattr("fastpersist.runner.candle_file.now_ms", clock.now)
    feed = FileFeed(read_candle_file(write_csv(tmp_path / "BTCUSDT.csv", candles)), "demo")
    assert feed.end == START_MS + 3 * MINUTE
    async with aclosing(feed.stream(feed.end, clock)) as stream:
        found = [await anext(stream), await anext(stream)]
    assert found == as_bars(candles[3:])
    assert clock.slept == 0


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("time,open,high,low,close,volume\n1,2,3\n", ":2: 3 columns"),
        (as_csv(random_walk(9, step=5 * MINUTE)), ":1: holds candles of 5m now, and of 1m before"),
        (None, "No such file"),
    ],
)
async def test_what_a_file_must_not_become(tmp_path: Path, content: str | None, error: str) -> None:
    candles = random_walk(12)
    path = write_csv(tmp_path / "BTCUSDT.csv", candles[:10])
    feed = FileFeed(read_candle_file(path), "demo")
    clock = Steps(START_MS + 10 * MINUTE)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    kind = FileNotFoundError if content is None else CandleFileError
    for _ in range(2):
        with pytest.raises(kind, match=error):
            await anext(feed.stream(START_MS, clock))
    assert feed.end == START_MS + 10 * MINUTE
    write_csv(path, candles)
    async with aclosing(feed.stream(START_MS, clock)) as stream:
        assert [await anext(stream) for _ in candles] == as_bars(candles)


async def test_a_stored_feed_streams_what_others_store(tmp_path: Path, family: Registries) -> None:
    candles = random_walk(30)
    feed: CandleFeed = (await import_candles(family, "demo", file_of(tmp_path, candles[:20]))).feed
    other = Registries()
    other.use_backend(FilesBackend(tmp_path / "dump"))
    clock = Steps(START_MS + 20 * MINUTE)
    found: list[Bar] = []
    async with aclosing(feed.stream(START_MS + 18 * MINUTE, clock)) as stream:
        for candle in candles[18:]:
            if candle["timestamp"] >= START_MS + 20 * MINUTE:
                await other.candle.write_candles_data("BTCUSDT", "1m", "demo", [candle])
            found.append(await anext(stream))
    assert found == as_bars(candles[18:])


async def test_fetched_are_only_candles_that_are_not_stored(tmp_path: Path) -> None:
    candles = random_walk(5_000, seed=3, gaps=[100, 4_500])
    clock = FakeClock(START_MS + 5_000 * 60_000)
    feed = LiveFeed("BTC", candles, clock, lambda: None)
    family = Registries()
    family.use_backend(FilesBackend(tmp_path))
    end = START_MS + 5_000 * 60_000
    done: list[int] = []
    await fetch_candles(family, feed, START_MS + 30, end, done.append)
    assert sum(done) == end - START_MS
    found = await family.candle.read_candles_frame("BTC", "1m", "demo", START_MS, end)
    assert found.rows() == candles
    asked = len(feed.asked)
    await fetch_candles(family, feed, START_MS, end)
    # The two batches with a gap are asked for again, those that are whole are not.
    assert len(feed.asked) - asked == 2
