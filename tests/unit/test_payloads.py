"""Checks of payloads, each with what it takes and what it refuses, and the repairs of old rows."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fastpersist import (
    ConfigurationError,
    InvalidArgumentError,
    InvalidCandleError,
    InvalidDocumentError,
    Settings,
)
from fastpersist.adapters.dual_store import DualStoreBackend
from fastpersist.adapters.files import FilesBackend
from fastpersist.payloads import (
    checked_candles,
    checked_entry,
    checked_positions,
    checked_record,
    checked_rows,
    interval_step,
    repair_notification,
    repair_positions,
    repair_signal,
)
from fastpersist.registry import Registries
from fastpersist.services.container import Container

STEP = 60_000
NOW = 10 * STEP
FIGURES = {"open": 2, "high": 3, "low": 1, "close": 2.5, "volume": 0}
NOT_LISTS: list[Any] = [None, 5, "rows", b"rows", {}, {"id": "a"}, {"a"}, iter([])]


@dataclass
class Record:
    """A dataclass payload."""

    id: str = "a"


class Struct:
    """What a Struct looks like from outside."""

    __struct_fields__ = ("id",)


def candle(**changes: Any) -> dict[str, Any]:
    return {"timestamp": STEP, **FIGURES, **changes}


@pytest.mark.parametrize(
    ("interval", "minutes"),
    [
        ("1m", 1),
        ("3m", 3),
        ("5m", 5),
        ("15m", 15),
        ("30m", 30),
        ("1h", 60),
        ("2h", 120),
        ("4h", 240),
        ("6h", 360),
        ("8h", 480),
        ("1d", 1440),
    ],
)
def test_the_eleven_intervals(interval: str, minutes: int) -> None:
    assert interval_step(interval) == minutes * STEP


@pytest.mark.parametrize("interval", ["", "2m", "1M", "1m ", "1w", 60_000, None, ["1m"]])
def test_other_intervals_are_refused(interval: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="known: 1m, 3m") as caught:
        interval_step(interval)
    assert caught.value.field == "interval"


def test_closed_candles_come_back_with_their_six_fields() -> None:
    given = [candle(timestamp=index * STEP, extra="gone") for index in range(12)]
    before = copy.deepcopy(given)
    checked = checked_candles(given, STEP, NOW)
    assert [row["timestamp"] for row in checked] == [index * STEP for index in range(10)]
    assert all(list(row) == ["timestamp", *FIGURES] for row in checked)
    assert given == before


@pytest.mark.parametrize(
    "given",
    [
        candle(timestamp=float(STEP)),
        candle(open=1, high=1, low=1, close=1),
        candle(low=-1),
        candle(volume=2**63 - 1),
        MappingProxyType(candle()),
    ],
)
def test_candles_that_are_taken(given: Any) -> None:
    (checked,) = checked_candles([given], STEP, NOW)
    assert checked == dict(given)
    assert type(checked["timestamp"]) is int


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "expected a mapping, got NoneType"),
        ([1, 2], "expected a mapping, got list"),
        ({}, "timestamp must be integer ms, got None"),
        *(
            (candle(timestamp=value), "timestamp must be integer ms")
            for value in (None, "0", True, 0.5, math.inf, math.nan)
        ),
        (candle(timestamp=STEP + 1), "not a multiple of the interval's 60000 ms"),
        (candle(timestamp=-STEP), "no moment of trading"),
        (candle(timestamp=2**60 * STEP), "no moment of trading"),
        *(
            (candle(**{name: value}), f"{name} must be a number")
            for name in FIGURES
            for value in (None, "1", True, [1])
        ),
        *((candle(**{name: math.nan}), f"{name} is not finite") for name in FIGURES),
        *((candle(**{name: math.inf}), f"{name} is not finite") for name in FIGURES),
        (candle(high=2**63), "high does not fit in 64 bits"),
        (candle(high=1.5), "must lie between low 1 and high 1.5"),
        (candle(open=0.5), "open 0.5 and close 2.5 must lie between"),
        (candle(close=4), "open 2 and close 4 must lie between"),
        (candle(low=3.5), "must lie between"),
        (candle(volume=-0.1), "volume -0.1 is negative"),
    ],
)
def test_wrong_candles_are_refused_by_row(wrong: Any, message: str) -> None:
    with pytest.raises(InvalidCandleError) as caught:
        checked_candles([candle(), candle(), wrong], STEP, NOW)
    assert message in str(caught.value)
    assert (caught.value.row, caught.value.field) == (2, "candles[2]")


def test_a_wrong_candle_is_refused_even_if_it_has_not_closed() -> None:
    with pytest.raises(InvalidCandleError):
        checked_candles([candle(timestamp=NOW, volume=-1)], STEP, NOW)


@pytest.mark.parametrize("wrong", [None, 5, "candles", b"", {}, candle()])
def test_candles_have_to_be_a_list(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a list") as caught:
        checked_candles(wrong, STEP, NOW)
    assert caught.value.field == "candles"


@pytest.mark.parametrize("value", [{}, {"a": 1}, MappingProxyType({}), Record(), Struct()])
def test_records_that_are_taken_as_they_are(value: Any) -> None:
    assert checked_record(value, "row") is value


@pytest.mark.parametrize("value", [None, 5, "row", b"", [], (), Record, [("a", 1)]])
def test_what_is_no_record_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a mapping, got") as caught:
        checked_record(value, "data")
    assert caught.value.field == "data"


def test_none_is_a_record_only_where_it_clears() -> None:
    assert checked_record(None, "row", nullable=True) is None
    with pytest.raises(InvalidArgumentError):
        checked_record([], "row", nullable=True)


@pytest.mark.parametrize(
    ("entry", "removed"),
    [({}, False), ({"data": 1, "removed": False}, False), ({"removed": True, "data": 1}, True)],
)
def test_entries_are_copied_with_their_removed(entry: dict[str, Any], removed: bool) -> None:
    before = dict(entry)
    checked = checked_entry(MappingProxyType(entry), "data")
    assert checked == {**entry, "removed": removed}
    assert type(checked) is dict
    assert entry == before


@pytest.mark.parametrize("entry", [None, 5, "x", [], Record()])
def test_entries_that_are_no_mapping_are_refused(entry: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a mapping") as caught:
        checked_entry(entry, "data")
    assert caught.value.field == "data"


@pytest.mark.parametrize("removed", [None, 0, 1, "false", []])
def test_removed_has_to_be_a_bool(removed: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a bool") as caught:
        checked_entry({"removed": removed}, "data")
    assert caught.value.field == "data.removed"


@pytest.mark.parametrize("kind", [list, tuple, deque])
def test_positions_become_a_list_of_the_same_pairs(kind: Any) -> None:
    pairs = [("a", {"x": 1}), ["b", MappingProxyType({})]]
    positions = kind(pairs)
    checked = checked_positions(positions)
    assert type(checked) is list
    assert checked is not positions
    assert all(mine is yours for mine, yours in zip(checked, pairs, strict=True))


@pytest.mark.parametrize("wrong", NOT_LISTS)
def test_positions_have_to_be_a_list(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a list of pairs") as caught:
        checked_positions(wrong)
    assert caught.value.field == "positions"


@pytest.mark.parametrize(
    "wrong", [None, "ab", {}, (), ("a",), ("a", {}, 1), (1, {}), ("a", None), ("a", [])]
)
def test_wrong_pairs_are_refused_by_place(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a pair") as caught:
        checked_positions([("a", {}), wrong])
    assert caught.value.field == "positions[1]"


def row(identity: str, number: int = 0) -> dict[str, Any]:
    return {"id": identity, "n": number}


@pytest.mark.parametrize(
    ("ids", "first_wins", "kept"),
    [
        ("", False, []),
        ("abc", False, [0, 1, 2]),
        ("abc", True, [0, 1, 2]),
        ("aba", False, [1, 2]),
        ("aba", True, [0, 1]),
        ("aabbac", False, [3, 4, 5]),
        ("aabbac", True, [0, 2, 5]),
    ],
)
def test_rows_by_id_with_their_places(ids: str, first_wins: bool, kept: list[int]) -> None:
    rows = tuple(row(name, index) for index, name in enumerate(ids))
    before = copy.deepcopy(rows)
    by_id, places = checked_rows(rows, "rows", "id", first_wins=first_wins)
    assert list(places) == kept
    assert list(by_id) == [ids[index] for index in kept]
    assert all(by_id[ids[index]] is rows[index] for index in kept)
    assert rows == before


def test_the_id_can_have_another_name() -> None:
    by_id, _ = checked_rows([{"key": "k", "id": 5}], "rows", "key", first_wins=False)
    assert list(by_id) == ["k"]


@pytest.mark.parametrize("wrong", NOT_LISTS)
def test_rows_have_to_be_a_list(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a list") as caught:
        checked_rows(wrong, "entries", "id", first_wins=False)
    assert caught.value.field == "entries"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (None, "entries[2]"),
        ("row", "entries[2]"),
        (Record(), "entries[2]"),
        ({}, "entries[2].key"),
        ({"id": "a"}, "entries[2].key"),
        *(({"key": value}, "entries[2].key") for value in (None, "", 5, b"a", ["a"])),
    ],
)
def test_wrong_rows_are_refused_by_place(wrong: Any, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        checked_rows([{"key": "a"}, {"key": "a"}, wrong], "entries", "key", first_wins=True)
    assert caught.value.field == field


class Ready(Container):
    """A container that is ready without servers."""

    async def ready(self, domain: Any = None) -> None:
        pass


@pytest.fixture(params=["files", "dual store"])
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Registries:
    """Registries of each family, which refuse wrong rows before they touch a store."""
    registries = Registries()
    if request.param == "files":
        registries.use_backend(FilesBackend(tmp_path / "dump"))
    else:
        registries.use_backend(DualStoreBackend(Ready(Settings())))
    return registries


@pytest.mark.parametrize(
    ("ids", "wrong"), [("aab", 2), ("aba", 2), ("abba", 3), ("baa", 2), ("ab", 1), ("b", 0)]
)
async def test_errors_name_the_place_in_the_callers_list(
    family: Registries, ids: str, wrong: int
) -> None:
    """Of several rows with one id one is stored; the others still count."""
    rows: list[Any] = [row(name) for name in ids]
    rows[wrong]["n"] = 2**64
    with pytest.raises(InvalidDocumentError) as caught:
        await family.storage.write_storage_data(True, rows)
    assert caught.value.path == f"rows[{wrong}].n"


@pytest.mark.parametrize(("ids", "wrong"), [("aab", 2), ("abab", 1), ("aaab", 3), ("aab", 0)])
async def test_errors_of_append_only_lists_too(family: Registries, ids: str, wrong: int) -> None:
    entries: list[Any] = [row(name) for name in ids]
    entries[wrong]["args"] = [2**64]
    with pytest.raises(InvalidDocumentError) as caught:
        await family.log.write_log_data(entries)
    assert caught.value.path == f"entries[{wrong}].args[0]"


async def test_an_id_that_names_no_file_is_refused_by_its_place(tmp_path: Path) -> None:
    registries = Registries()
    registries.use_backend(FilesBackend(tmp_path))
    rows: list[Any] = [row("a"), row("a"), row("b/c")]
    with pytest.raises(InvalidArgumentError) as caught:
        await registries.storage.write_storage_data(True, rows)
    assert caught.value.field == "rows[2].id"


def without(source: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name not in names}


FULL = {"id": "a", "minuteEstimatedTime": 5, "multiplier": 3, "isolated": False}
REPAIRED = {"minuteEstimatedTime": math.inf, "multiplier": 1, "isolated": True}


@pytest.mark.parametrize("name", list(REPAIRED))
def test_signal_rows_get_what_they_lack(name: str) -> None:
    expected = {**FULL, name: REPAIRED[name]}
    for old in (without(FULL, name), {**FULL, name: None}):
        repaired = repair_signal(old)
        assert repaired is old  # rows are fresh from a store: the repair is in place
        assert repaired == expected


def test_what_a_signal_row_has_stays() -> None:
    assert repair_signal(dict(FULL)) == FULL
    zero = {**FULL, "minuteEstimatedTime": 0, "multiplier": 0, "more": None}
    assert repair_signal(dict(zero)) == zero
    assert repair_signal(None) is None


@pytest.mark.parametrize(
    ("multiplier", "isolated", "expected"),
    [
        ("", "", (1, True)),
        ("5", "false", (5, False)),
        ("2.0", " OFF ", (2, False)),
        ("2.5", "yes", (2.5, True)),
        ("1e1", "0", (10, False)),
    ],
)
def test_defaults_of_the_margin_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, multiplier: str, isolated: str, expected: tuple[Any, Any]
) -> None:
    monkeypatch.setenv("CC_SIGNAL_LEVERAGE_MULTIPLIER", multiplier)
    monkeypatch.setenv("CC_SIGNAL_ISOLATED_MARGIN", isolated)
    repaired = repair_signal({}) or {}
    assert (repaired["multiplier"], repaired["isolated"]) == expected
    assert type(repaired["multiplier"]) is type(expected[0])


@pytest.mark.parametrize("variable", ["CC_SIGNAL_LEVERAGE_MULTIPLIER", "CC_SIGNAL_ISOLATED_MARGIN"])
def test_defaults_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "perhaps")
    with pytest.raises(ConfigurationError) as caught:
        repair_signal({})
    assert caught.value.setting == variable
    assert repair_signal(dict(FULL)) == FULL


def test_positions_get_their_endless_life_time() -> None:
    positions: list[Any] = [
        ["a", {"minuteEstimatedTime": None}],
        ("b", {}),
        ("c", {"minuteEstimatedTime": 0, "multiplier": None}),
    ]
    assert repair_positions(positions) is positions
    assert positions == [
        ["a", {"minuteEstimatedTime": math.inf}],
        ("b", {"minuteEstimatedTime": math.inf}),
        ("c", {"minuteEstimatedTime": 0, "multiplier": None}),
    ]
    assert repair_positions(None) == []
    assert repair_positions([]) == []


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ({}, {}),
        ({"id": "a", "multiplier": None}, {"id": "a", "multiplier": None}),
        ({"minuteEstimatedTime": None}, {"minuteEstimatedTime": math.inf}),
        ({"minuteEstimatedTime": 0}, {"minuteEstimatedTime": 0}),
        ({"cost": None}, {"cost": None, "multiplier": 1, "isolated": True}),
        (
            {"cost": 5, "multiplier": 2, "isolated": None},
            {"cost": 5, "multiplier": 2, "isolated": True},
        ),
    ],
)
def test_notifications_get_only_what_belongs_to_them(
    old: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert repair_notification(old) is old
    assert old == expected


async def test_a_repair_never_reaches_what_was_written(tmp_path: Path) -> None:
    """The caller's payload and the file stay as they are; only what is read is repaired."""
    registries = Registries()
    registries.use_backend(FilesBackend(tmp_path))
    written: Any = {"id": "a", "multiplier": None}
    await registries.signal.write_signal_data("X", "s", "e", written)
    read: Any = await registries.signal.read_signal_data("X", "s", "e")
    assert read == {"id": "a", **REPAIRED}
    assert written == {"id": "a", "multiplier": None}
    assert (tmp_path / "data/signal/X_s_e/X.json").read_text() == '{"id":"a","multiplier":null}'
