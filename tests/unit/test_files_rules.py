"""What the file family does with names, contexts, broken files and moments.

Rules: contract section 5 and the decisions, "Files family".
"""

# ruff: noqa: ASYNC240  # the files are small and the loop is the test's own

from __future__ import annotations

import logging
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from fastpersist import (
    CorruptDataError,
    InvalidArgumentError,
    InvalidDocumentError,
    LookAheadError,
    StoreError,
    simulated_time,
)
from fastpersist.adapters.files import FilesBackend, natural_key
from fastpersist.domains import DOMAINS, STATE, Domain, Field, Shape
from fastpersist.registry import Registries

MS = 1_735_689_600_000
WHEN = datetime(2025, 1, 1, tzinfo=timezone.utc)
CONTEXT = ("BTCUSDT", "trend", "binance")
CANDLES = ("BTCUSDT", "1m", "binance")
HOSTILE = ["a/b", "..", ".", "/etc", "a\\b", "a\0b", "../../x", ".corrupt", ".tmp-0123456789ab-x"]


def candle(minute: int, **figures: float) -> Any:
    values = {"open": 1.5, "high": 3, "low": 1, "close": 2, "volume": 0, **figures}
    return {"timestamp": MS + minute * 60_000, **values}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "dump"


@pytest.fixture
def family(folder: Path) -> Registries:
    registries = Registries()
    registries.use_backend(FilesBackend(folder))
    return registries


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json"))


async def test_every_domain_has_the_path_of_the_layout(family: Registries, folder: Path) -> None:
    """Contract 5.1."""
    await family.candle.write_candles_data(*CANDLES, [candle(0)])
    await family.signal.write_signal_data(*CONTEXT, None)
    await family.recent.write_recent_data(*CONTEXT, "", False, None, WHEN)
    await family.recent.write_recent_data(*CONTEXT, "jan", True, None, WHEN)
    await family.session.write_session_data("s", "e", "", "X", False, {}, WHEN)
    await family.session.write_session_data("s", "e", "f", "X", True, {}, WHEN)
    await family.storage.write_storage_data(True, [{"id": "a"}])
    assert files(folder) == [
        f"data/candle/binance/BTCUSDT/1m/{MS}.json",
        "data/recent/BTCUSDT_trend_binance_jan_backtest/BTCUSDT.json",
        "data/recent/BTCUSDT_trend_binance_live/BTCUSDT.json",
        "data/signal/BTCUSDT_trend_binance/BTCUSDT.json",
        "data/storage/backtest/a.json",
        "session/s/e/X_live.json",
        "session/s/e/f/X_backtest.json",
    ]


async def test_a_relative_folder_follows_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract 5: relative to the working directory at the moment of each access."""
    registries = Registries()
    registries.use_backend(FilesBackend())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert await registries.state.read_state_data("s", "b") is None
        await registries.state.write_state_data("s", "b", {"data": name}, WHEN)
    monkeypatch.chdir(tmp_path / "one")
    read: Any = await registries.state.read_state_data("s", "b")
    assert read["data"] == "one"
    assert files(tmp_path) == ["one/dump/state/s/b/b.json", "two/dump/state/s/b/b.json"]


async def test_a_first_read_makes_the_directory(family: Registries, folder: Path) -> None:
    """Contract 5.1 and 5.5."""
    await family.measure.read_measure_data("bucket", "key")
    assert (folder / "data/measure/bucket").is_dir()


async def test_a_deleted_tree_is_made_again(family: Registries, folder: Path) -> None:
    await family.state.write_state_data("s", "b", {"data": 1}, WHEN)
    (folder / "state/s/b/b.json").unlink()
    (folder / "state/s/b").rmdir()
    assert await family.state.read_state_data("s", "b") is None
    await family.state.write_state_data("s", "b", {"data": 2}, WHEN)
    assert await family.state.read_state_data("s", "b") == {"data": 2}


@pytest.mark.parametrize("name", HOSTILE)
async def test_names_that_leave_the_directory_are_refused(
    family: Registries, folder: Path, name: str
) -> None:
    with pytest.raises(InvalidArgumentError, match="strategy_name"):
        await family.signal.write_signal_data("BTCUSDT", name, "binance", {})
    with pytest.raises(InvalidArgumentError, match="frame_name"):
        await family.session.write_session_data("s", "e", name, "X", True, {}, WHEN)
    with pytest.raises(InvalidArgumentError, match="bucket"):
        await family.measure.read_measure_data(name, "key")
    with pytest.raises(InvalidArgumentError, match="exchange_name"):
        await family.candle.read_candles_data("X", "1m", name, 1, MS)
    with pytest.raises(InvalidArgumentError, match="bucket"):
        await anext(family.measure.list_measure_data(name))
    assert not folder.exists()
    with pytest.raises(InvalidArgumentError, match="memory_id"):
        await family.memory.write_memory_data("s", "b", name, {}, WHEN)
    with pytest.raises(InvalidArgumentError, match="signal_id"):
        await family.partial.write_partial_data(*CONTEXT, name, {}, WHEN)
    with pytest.raises(InvalidArgumentError, match=r"entries\[1\]\.id"):
        await family.log.write_log_data([{"id": "fine"}, {"id": name}])
    assert files(folder) == []
    assert not (folder.parent / "x.json").exists()


async def test_names_too_long_for_a_file_are_refused(family: Registries, folder: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="strategy_name: too long"):
        await family.signal.read_signal_data("BTCUSDT", "ё" * 120, "binance")
    with pytest.raises(InvalidArgumentError, match="entry_key: too long"):
        await family.measure.write_measure_data("b", "k" * 233, {}, WHEN)
    await family.measure.write_measure_data("b", "k" * 232, {"data": 1}, WHEN)
    assert [key async for key in family.measure.list_measure_data("b")] == ["k" * 232]


async def test_a_file_in_the_way_of_a_directory_is_an_error_of_the_store(
    family: Registries, folder: Path
) -> None:
    folder.mkdir()
    (folder / "state").write_text("in the way")
    with pytest.raises(StoreError, match="state") as caught:
        await family.state.read_state_data("s", "b")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
async def test_unencodable_and_mistyped_keys_are_refused(domain: Domain, folder: Path) -> None:
    backend = FilesBackend(folder)
    for wrong in ("\ud800", "", b"x", None):
        key = (*("x" for _ in domain.key[:-1]), wrong)
        with pytest.raises(InvalidArgumentError):
            await backend.read_value(domain, key, None)


async def test_joined_names_never_show_the_row_of_another_context(family: Registries) -> None:
    row: Any = {"symbol": "X", "strategyName": "b", "exchangeName": "c_d", "frameName": ""}
    for domain in ("signal", "schedule"):
        registry = getattr(family, domain)
        write, read = (getattr(registry, f"{verb}_{domain}_data") for verb in ("write", "read"))
        await write("X", "b", "c_d", row)
        assert await read("X", "b", "c_d") is not None
        assert await read("X", "b_c", "d") is None
        for other in ({**row, "strategyName": "b_c", "exchangeName": "d"}, {"id": "x"}, None):
            with pytest.raises(InvalidArgumentError, match="holds a row of another strategy_name"):
                await write("X", "b_c", "d", other)
        assert await read("X", "b", "c_d") is not None


async def test_joined_frame_names_are_told_apart(family: Registries) -> None:
    row: Any = {"symbol": "X", "strategyName": "s", "exchangeName": "e", "frameName": "f"}
    await family.recent.write_recent_data("X", "s", "e", "f", True, row, WHEN)
    assert await family.recent.read_recent_data("X", "s", "e_f", "", True) is None
    with pytest.raises(InvalidArgumentError, match="exchange_name"):
        await family.recent.write_recent_data("X", "s", "e_f", "", True, {}, WHEN)
    assert await family.recent.read_recent_data("X", "s", "e", "f", True) is not None


async def test_joined_risk_names_are_told_apart_by_the_positions(family: Registries) -> None:
    positions: Any = [("k", {"exchangeName": "c_d", "symbol": "X"})]
    await family.risk.write_position_data("b", "c_d", positions, WHEN)
    assert await family.risk.read_position_data("b_c", "d") == []
    with pytest.raises(InvalidArgumentError, match="exchange_name"):
        await family.risk.write_position_data("b_c", "d", [], WHEN)
    await family.risk.write_position_data("b", "c_d", [], WHEN)
    await family.risk.write_position_data("b_c", "d", [], WHEN)


async def test_a_row_that_contradicts_its_context_is_refused(
    family: Registries, folder: Path
) -> None:
    with pytest.raises(InvalidArgumentError, match=r"payload\.strategyName: differs"):
        await family.signal.write_signal_data(*CONTEXT, {"strategyName": "other"})
    assert files(folder) == []


async def test_a_null_file_belongs_to_every_context(family: Registries) -> None:
    await family.signal.write_signal_data("X", "b", "c_d", None)
    await family.signal.write_signal_data("X", "b_c", "d", {"strategyName": "b_c"})
    assert await family.signal.read_signal_data("X", "b_c", "d") is not None
    assert await family.signal.read_signal_data("X", "b", "c_d") is None


async def test_start_moves_broken_files_aside_and_reports(
    family: Registries, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Decisions, Files family: moved aside and reported, never deleted."""
    directory = folder / "data/storage/live"
    directory.mkdir(parents=True)
    (directory / "good.json").write_text('{"id":"good"}')
    (directory / "half.json").write_text('{"id":"ha')
    (directory / ".corrupt").mkdir()
    (directory / ".corrupt/half.json").write_text("an older one")
    with caplog.at_level(logging.WARNING, "fastpersist.files"):
        rows: Any = await family.storage.read_storage_data(False)
    assert [row["id"] for row in rows] == ["good"]
    kept = sorted(path.read_text() for path in (directory / ".corrupt").iterdir())
    assert kept == ["an older one", '{"id":"ha']
    assert len(caplog.messages) == 1
    assert "half.json is not JSON" in caplog.messages[0]


async def test_a_file_that_breaks_later_raises_until_it_is_written(
    family: Registries, folder: Path
) -> None:
    """Contract 5.5: after the initialisation reads and lists throw."""
    await family.memory.write_memory_data("s", "b", "m", {"data": {}}, WHEN)
    path = folder / "memory/s/b/m.json"
    path.write_bytes(b'{"data"')
    with pytest.raises(CorruptDataError) as caught:
        await family.memory.read_memory_data("s", "b", "m")
    assert caught.value.location == str(path)
    with pytest.raises(CorruptDataError):
        [item async for item in family.memory.list_memory_data("s", "b")]
    await family.memory.write_memory_data("s", "b", "m", {"data": {}}, WHEN)
    assert await family.memory.read_memory_data("s", "b", "m") is not None
    assert (path.parent / ".corrupt/m.json").read_bytes() == b'{"data"'


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
async def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    family: Registries, folder: Path
) -> None:
    await family.memory.write_memory_data("s", "b", "m", {"data": {}}, WHEN)
    path = folder / "memory/s/b/m.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptDataError, match="is not JSON"):
        await family.memory.read_memory_data("s", "b", "m")
    writer = os.open(path, os.O_RDWR)  # somebody who may still write
    with pytest.raises(CorruptDataError, match="is not JSON"):
        await family.memory.read_memory_data("s", "b", "m")
    os.close(writer)
    await family.memory.write_memory_data("s", "b", "m", {"data": {"again": 1}}, WHEN)
    found = await family.memory.read_memory_data("s", "b", "m")
    assert found is not None
    assert found["data"] == {"again": 1}


@pytest.mark.parametrize("text", [b"5", b'"x"', b"[]"])
async def test_json_of_the_wrong_shape_is_named(
    family: Registries, folder: Path, text: bytes
) -> None:
    await family.signal.write_signal_data(*CONTEXT, None)
    await family.measure.write_measure_data("b", "k", {}, WHEN)
    for path in folder.rglob("*.json"):
        path.write_bytes(text)
    with pytest.raises(CorruptDataError, match=r"BTCUSDT\.json: holds no object"):
        await family.signal.read_signal_data(*CONTEXT)
    with pytest.raises(CorruptDataError, match=r"k\.json: holds no object"):
        await family.measure.read_measure_data("b", "k")


async def test_risk_takes_null_and_refuses_other_shapes(family: Registries, folder: Path) -> None:
    """Contract 5.4: a null array reads as []."""
    await family.risk.write_position_data("r", "e", [], WHEN)
    path = folder / "data/risk/r_e/positions.json"
    path.write_bytes(b"null")
    assert await family.risk.read_position_data("r", "e") == []
    path.write_bytes(b'[["k"]]')
    with pytest.raises(CorruptDataError, match="no list of pairs"):
        await family.risk.read_position_data("r", "e")


async def test_only_old_temporary_files_are_removed(family: Registries, folder: Path) -> None:
    """Contract 5.5: younger ones may belong to another process."""
    directory = folder / "data/log/log"
    directory.mkdir(parents=True)
    old, young = directory / ".tmp-000000000000-a.json", directory / ".tmp-000000000001-b.json"
    for path in (old, young):
        path.write_text('{"id":')
    os.utime(old, (time.time() - 121,) * 2)
    assert await family.log.read_log_data() == []
    assert not old.exists()
    assert young.exists()


async def test_repeated_starts_do_not_scan_again(
    family: Registries, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await family.storage.read_storage_data(True)

    def fail(*_: Any) -> None:
        raise AssertionError("scanned again")

    monkeypatch.setattr("fastpersist.adapters.files._tidy", fail)
    assert await family.storage.read_storage_data(True) == []
    with pytest.raises(AssertionError):
        await family.storage.read_storage_data(False)


async def test_a_start_does_not_read_candle_files(
    family: Registries, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await family.candle.write_candles_data(*CANDLES, [candle(0)])
    family.clear()
    read: list[str] = []
    monkeypatch.setattr("fastpersist.adapters.files._read", read.append)
    await family.candle.read_candles_data(*CANDLES, 0, MS)
    assert read == []


async def test_candle_files_hold_exactly_the_six_fields(family: Registries, folder: Path) -> None:
    more: Any = {**candle(0, volume=1e-8), "extra": 1}
    await family.candle.write_candles_data(*CANDLES, [more])
    path = folder / f"data/candle/binance/BTCUSDT/1m/{MS}.json"
    assert path.read_text() == (
        '{"timestamp":1735689600000,"open":1.5,"high":3,"low":1,"close":2,"volume":1e-8}'
    )


async def test_candle_of_node_with_more_fields_is_read_without_them(
    family: Registries, folder: Path
) -> None:
    await family.candle.write_candles_data(*CANDLES, [candle(0)])
    path = folder / f"data/candle/binance/BTCUSDT/1m/{MS}.json"
    text = path.read_text()
    path.write_text(text.replace("{", '{"more":[1],').replace(str(MS), f"{MS}.0"))
    read: Any = await family.candle.read_candles_data(*CANDLES, 1, MS)
    assert read == [candle(0)]
    assert type(read[0]["timestamp"]) is int
    assert list(read[0]) == ["timestamp", "open", "high", "low", "close", "volume"]


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", '{"timestamp":1735689600000}', '{"timestamp":5,"open":1}', '{"timest'],
)
async def test_broken_candle_is_missing_and_can_be_written_again(
    family: Registries, folder: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """Contract 5.5: a candle that does not parse counts as a miss, with a warning."""
    await family.candle.write_candles_data(*CANDLES, [candle(0)])
    path = folder / f"data/candle/binance/BTCUSDT/1m/{MS}.json"
    path.write_text(text)
    assert await family.candle.read_candles_data(*CANDLES, 1, MS) is None
    assert f"{MS}.json is no candle" in caplog.text
    assert (path.parent / f".corrupt/{MS}.json").read_text() == text
    await family.candle.write_candles_data(*CANDLES, [candle(0)])
    assert await family.candle.read_candles_data(*CANDLES, 1, MS) == [candle(0)]


async def test_other_figures_for_stored_candles_are_counted_once(
    family: Registries, caplog: pytest.LogCaptureFixture
) -> None:
    """Decisions, Candle written again [16]."""
    first = [candle(minute) for minute in range(150)]
    await family.candle.write_candles_data(*CANDLES, first)
    await family.candle.write_candles_data(*CANDLES, first)
    assert caplog.messages == []
    second = [candle(minute, volume=5) for minute in range(100, 200)]
    await family.candle.write_candles_data(*CANDLES, second)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("50 candles keep their first figures")
    expected = first + second[50:]
    assert await family.candle.read_candles_data(*CANDLES, 200, MS) == expected


def test_natural_order_is_the_observed_one() -> None:
    """Contract 5.5."""
    observed = ["_x", "9", "10", "a 1", "a-1", "A1", "a2", "a10", "b", "é", "e1", "а", "Б"]
    backwards = observed[::-1]
    assert sorted(backwards, key=natural_key) == observed


def test_natural_order_of_equal_names_is_definite() -> None:
    names = ["é", "E", "e", "01", "1", "a\u0001", "a"]
    expected = ["01", "1", "a", "a\u0001", "E", "e", "é"]
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == expected
    assert sorted(backwards, key=natural_key) == expected


def test_natural_order_of_signs_is_that_of_the_root_collation() -> None:
    signs = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0a"
    backwards = signs[::-1]
    assert "".join(sorted(backwards, key=natural_key)) == signs


async def test_lists_are_in_natural_order_and_json_only(family: Registries, folder: Path) -> None:
    for key in ("n10", "N2", "n1"):
        await family.measure.write_measure_data("b", key, {"data": 1}, WHEN)
    directory = folder / "data/measure/b"
    (directory / "note.txt").write_text("{}")
    (directory / "sub.json").mkdir()
    (directory / ".json").write_text("{}")
    (directory / ".tmp-000000000000-n3.json").write_text("{}")
    (directory / "null.json").write_text("null")
    assert [key async for key in family.measure.list_measure_data("b")] == ["n1", "N2", "n10"]


async def test_long_lists_are_complete(family: Registries) -> None:
    await family.storage.write_storage_data(True, [{"id": f"s{n}"} for n in range(200)])
    for number in range(130):
        await family.memory.write_memory_data("s", "b", f"m{number}", {"priority": number}, WHEN)
    rows: Any = await family.storage.read_storage_data(True)
    assert [row["id"] for row in rows] == [f"s{n}" for n in range(200)]
    items: Any = [item async for item in family.memory.list_memory_data("s", "b")]
    assert [item["data"]["priority"] for item in items] == list(range(130))


async def test_limited_lists_keep_the_newest_in_natural_order(family: Registries) -> None:
    """Contract 3.8 and 3.9: by createdAt (0 if missing), by priority in the log."""
    times = {"a": 5, "b": 1, "c": None, "d": 4, "e": 1}
    rows = [{"id": name, "createdAt": at} for name, at in times.items() if at is not None]
    await family.notification.write_notification_data(True, [*rows, {"id": "c"}])

    async def newest(limit: int) -> str:
        read = await family.notification.read_notification_data(True, limit)
        return "".join(row["id"] for row in read)

    assert [await newest(limit) for limit in range(6)] == ["", "a", "ad", "ade", "abde", "abcde"]
    lines: Any = [{"id": name, "priority": at or 0} for name, at in times.items()]
    await family.log.write_log_data(lines)
    read: Any = await family.log.read_log_data(2)
    assert [line["id"] for line in read] == ["a", "d"]


async def test_null_rows_are_left_out(family: Registries, folder: Path) -> None:
    await family.storage.write_storage_data(True, [{"id": "a"}])
    (folder / "data/storage/backtest/b.json").write_text("null")
    assert len(await family.storage.read_storage_data(True)) == 1


async def test_nothing_is_written_when_one_row_is_refused(family: Registries, folder: Path) -> None:
    """Decisions, Half-done writes [13]."""
    rows: Any = [{"id": "a"}, {"id": "b", "legs": [{"price": 2**64}]}]
    with pytest.raises(InvalidDocumentError) as caught:
        await family.storage.write_storage_data(True, rows)
    assert caught.value.path == "rows[1].legs[0].price"
    assert files(folder) == []


async def test_removal_rewrites_the_entry_in_place(family: Registries, folder: Path) -> None:
    """Contract 5.5, Soft removal; numbers that Node wrote stay as they are."""
    await family.measure.read_measure_data("b", "k")
    path = folder / "data/measure/b/k.json"
    path.write_text('{"id":"k","data":[10000000000000000000,1e+21],"removed":false,"more":1}')
    await family.measure.remove_measure_data("b", "k")
    assert path.read_text() == (
        '{"id":"k","data":[10000000000000000000,1e+21],"removed":true,"more":1}'
    )
    before = path.stat().st_mtime_ns
    await family.measure.remove_measure_data("b", "k")
    assert path.stat().st_mtime_ns == before


async def test_an_entry_file_that_holds_null_is_absent(family: Registries, folder: Path) -> None:
    await family.memory.read_memory_data("s", "b", "m")
    (folder / "memory/s/b/m.json").write_text("null")
    assert await family.memory.read_memory_data("s", "b", "m") is None
    assert await family.memory.has_memory_data("s", "b", "m") is False
    await family.memory.remove_memory_data("s", "b", "m")
    assert (folder / "memory/s/b/m.json").read_text() == "null"


async def test_when_comes_back_as_int(family: Registries, folder: Path) -> None:
    await family.state.read_state_data("s", "b")
    (folder / "state/s/b/b.json").write_text('{"data":1.0,"when":1735689600000.0}')
    read: Any = await family.state.read_state_data("s", "b")
    assert read == {"data": 1, "when": MS}
    assert type(read["when"]) is int


async def fill(family: Registries) -> None:
    await family.recent.write_recent_data(*CONTEXT, "", True, {"timestamp": MS}, WHEN)
    await family.state.write_state_data("s", "b", {"when": MS}, WHEN)
    await family.session.write_session_data("s", "e", "f", "X", True, {"when": MS}, WHEN)
    await family.memory.write_memory_data("s", "b", "m", {"when": MS}, WHEN)
    await family.interval.write_interval_data("b", "k", {"when": WHEN}, WHEN)
    positions: Any = [("a", {"openTimestamp": MS - 60_000}), ("b", {"openTimestamp": MS})]
    await family.risk.write_position_data("r", "e", positions, WHEN)


def reads(family: Registries, when: int) -> list[Any]:
    return [
        family.recent.read_recent_data(*CONTEXT, "", True, when),
        family.state.read_state_data("s", "b", when),
        family.session.read_session_data("s", "e", "f", "X", True, when),
        family.memory.read_memory_data("s", "b", "m", when),
        family.memory.has_memory_data("s", "b", "m", when),
        family.interval.read_interval_data("b", "k", when),
        family.risk.read_position_data("r", "e", when),
    ]


async def test_rows_of_later_moments_are_hidden(family: Registries) -> None:
    await fill(family)
    assert not any([await read for read in reads(family, MS - 1)])
    assert all([await read for read in reads(family, MS)])
    assert [key async for key in family.interval.list_interval_data("b", MS - 1)] == []


async def test_rows_of_later_moments_raise(folder: Path) -> None:
    family = Registries()
    family.use_backend(FilesBackend(folder, look_ahead="raise"))
    await fill(family)
    for read in reads(family, MS - 1):
        with pytest.raises(LookAheadError) as caught:
            await read
        assert (caught.value.written_at, caught.value.asked_at) == (MS, MS - 1)
    with pytest.raises(LookAheadError):
        [item async for item in family.memory.list_memory_data("s", "b", MS - 1)]


async def test_rows_of_later_moments_are_allowed_on_request(folder: Path) -> None:
    family = Registries()
    family.use_backend(FilesBackend(folder, look_ahead="allow"))
    await fill(family)
    assert all([await read for read in reads(family, MS - 1)])


async def test_rows_without_a_moment_are_always_visible(family: Registries) -> None:
    """Partial and breakeven carry none; a moment that is no moment counts as none."""
    await family.partial.write_partial_data(*CONTEXT, "s", {"s": {}}, WHEN)  # type: ignore[typeddict-item]  # any record does
    await family.state.write_state_data("s", "b", {"data": 1}, WHEN)
    await family.interval.write_interval_data("b", "k", {"when": "soon"}, WHEN)
    with simulated_time(0):
        assert await family.partial.read_partial_data(*CONTEXT, "s")
        assert await family.state.read_state_data("s", "b")
        assert await family.interval.read_interval_data("b", "k")


async def test_a_domain_whose_rows_lie_in_several_directories_can_hold_values(
    folder: Path,
) -> None:
    domain = Domain(
        name="own",
        shape=Shape.VALUE,
        collection="own",
        namespace="own_cache",
        key=(Field("account"), Field("day")),
        context_size=1,
        cache_order=("account", "day"),
        file="data/own/{account}/{day}/own.json",
    )
    backend = FilesBackend(folder)
    await backend.prepare(domain, ("a",), True)
    assert not folder.exists()
    await backend.write_value(domain, ("a", "1"), [1.5, "x"], None)
    assert await backend.read_value(domain, ("a", "1"), None) == [1.5, "x"]
    assert await backend.read_value(domain, ("a", "2"), None) is None


async def test_joined_names_of_declared_lists_are_told_apart(folder: Path) -> None:
    domain = Domain(
        name="own",
        shape=Shape.LIST,
        collection="own",
        namespace="own_cache",
        key=(Field("account"), Field("desk"), Field("entryId")),
        context_size=2,
        cache_order=("account", "desk", "entryId"),
        file="data/own/{account}_{desk}/{entryId}.json",
    )
    backend = FilesBackend(folder)
    row = {"account": "a", "desk": "b_c"}
    await backend.write_rows(domain, ("a", "b_c"), {"1": row})
    assert await backend.read_rows(domain, ("a_b", "c"), None) == []
    assert await backend.read_rows(domain, ("a", "b_c"), None) == [row]
    with pytest.raises(InvalidArgumentError, match="holds a row of another account"):
        await backend.write_rows(domain, ("a_b", "c"), {"1": {}})
    with pytest.raises(InvalidArgumentError, match=r"rows\[0\]\.account: differs"):
        await backend.write_rows(domain, ("a_b", "c"), {"2": row})


async def scanned(backend: FilesBackend, domain: Domain) -> dict[Any, Any]:
    return {key: row async for batch in backend.scan(domain, (), ("data",)) for key, row in batch}


async def test_a_scan_finds_rows_below_a_directory_that_may_be_missing(folder: Path) -> None:
    domain = Domain(
        name="own",
        shape=Shape.VALUE,
        collection="own",
        namespace="own_cache",
        key=(Field("desk", "optional_name"), Field("account")),
        context_size=2,
        cache_order=("desk", "account"),
        file="own/[{desk}/]{account}.json",
    )
    backend = FilesBackend(folder)
    for desk in ("", "d"):
        await backend.write_value(domain, (desk, "a"), {"data": desk}, None)
    assert await scanned(backend, domain) == {("", "a"): {"data": ""}, ("d", "a"): {"data": "d"}}


async def test_a_scan_gives_the_key_of_a_broken_file_alone(folder: Path) -> None:
    backend = FilesBackend(folder)
    await backend.write_value(STATE, ("s", "b"), {"data": 1}, None)
    (folder / "state/s/b/b.json").write_text("{")
    assert await scanned(backend, STATE) == {("s", "b"): {}}


async def test_a_scan_that_cannot_look_is_an_error_of_the_store(folder: Path) -> None:
    backend = FilesBackend(folder)
    assert await scanned(backend, STATE) == {}
    folder.mkdir()
    (folder / "state").write_text("in the way")
    with pytest.raises(StoreError, match="state"):
        await scanned(backend, STATE)
