"""What every family answers: sections 2 to 5 of the contract, and the decisions."""

from __future__ import annotations

import asyncio
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from fastpersist import (
    InvalidArgumentError,
    InvalidCandleError,
    InvalidDocumentError,
    simulated_time,
)
from fastpersist.registry import Registries

WHEN = datetime(2025, 1, 1, tzinfo=timezone.utc)
WHEN_MS = 1_735_689_600_000
EARLIER = WHEN - timedelta(minutes=1)
SIGNAL: dict[str, Any] = {
    "id": "sig-1",
    "symbol": "BTCUSDT",
    "strategyName": "trend",
    "exchangeName": "binance",
    "frameName": "",
    "position": "long",
    "note": "«пробой» 突破 🚀",
    "priceOpen": 94250.5,
    "priceTakeProfit": 97000,
    "priceStopLoss": 92000.25,
    "minuteEstimatedTime": math.inf,
    "multiplier": 2,
    "isolated": False,
    "scheduledAt": WHEN_MS,
    "pendingAt": WHEN_MS,
    "empty": {},
    "nothing": None,
    "list": [],
}
CONTEXT = ("BTCUSDT", "trend", "binance")


def candles(count: int, start: int = WHEN_MS, step: int = 60_000) -> list[Any]:
    return [
        {
            "timestamp": start + index * step,
            "open": 100.5 + index,
            "high": 102.25 + index,
            "low": 99.75 + index,
            "close": 101.5 + index,
            "volume": float(index) + 0.5,
        }
        for index in range(count)
    ]


async def test_absent_answers_of_every_domain(family: Registries) -> None:
    """Decisions, Absent: None, [] or {} as in the contract."""
    await check_absent_answers(family)


async def test_dummy_answers_absent_after_writes(dummy: Registries) -> None:
    await dummy.signal.write_signal_data(*CONTEXT, SIGNAL)
    await dummy.risk.write_position_data("r", "binance", [("k", {"symbol": "X"})], WHEN)
    await dummy.storage.write_storage_data(True, [{"id": "a"}])
    await dummy.memory.write_memory_data("s", "b", "m", {"data": {}}, WHEN)
    await dummy.candle.write_candles_data("BTCUSDT", "1m", "binance", candles(1))
    await check_absent_answers(dummy)


async def check_absent_answers(family: Registries) -> None:
    assert await family.candle.read_candles_data("BTCUSDT", "1m", "binance", 1, WHEN_MS) is None
    assert await family.candle.read_candles_data("BTCUSDT", "1m", "binance", 0, WHEN_MS) == []
    assert await family.signal.read_signal_data(*CONTEXT) is None
    assert await family.schedule.read_schedule_data(*CONTEXT) is None
    assert await family.risk.read_position_data("r", "binance", WHEN) == []
    assert await family.partial.read_partial_data(*CONTEXT, "sig", WHEN) == {}
    assert await family.breakeven.read_breakeven_data(*CONTEXT, "sig", WHEN) == {}
    assert await family.storage.read_storage_data(True) == []
    assert await family.notification.read_notification_data(False) == []
    assert await family.log.read_log_data() == []
    assert await family.measure.read_measure_data("b", "k") is None
    assert [key async for key in family.measure.list_measure_data("b")] == []
    assert await family.interval.read_interval_data("b", "k") is None
    assert [key async for key in family.interval.list_interval_data("b")] == []
    assert await family.memory.read_memory_data("s", "b", "m") is None
    assert await family.memory.has_memory_data("s", "b", "m") is False
    assert [item async for item in family.memory.list_memory_data("s", "b")] == []
    assert await family.recent.read_recent_data(*CONTEXT, "", False) is None
    assert await family.state.read_state_data("s", "b") is None
    assert await family.session.read_session_data("trend", "binance", "", "BTCUSDT", False) is None


async def test_removing_what_is_absent_does_nothing(family: Registries) -> None:
    await family.measure.remove_measure_data("b", "k")
    await family.interval.remove_interval_data("b", "k")
    await family.memory.remove_memory_data("s", "b", "m")
    await check_absent_answers(family)


async def test_signal_comes_back_as_written_and_null_clears(family: Registries) -> None:
    await family.signal.write_signal_data(*CONTEXT, SIGNAL)
    assert await family.signal.read_signal_data(*CONTEXT) == SIGNAL
    await family.signal.write_signal_data(*CONTEXT, None)
    assert await family.signal.read_signal_data(*CONTEXT) is None
    await family.schedule.write_schedule_data(*CONTEXT, SIGNAL)
    assert await family.schedule.read_schedule_data(*CONTEXT) == SIGNAL
    assert await family.signal.read_signal_data(*CONTEXT) is None


async def test_payload_of_an_old_row_is_repaired(family: Registries) -> None:
    """Decisions, Old rows [17]: repaired on read in every family."""
    old = {key: value for key, value in SIGNAL.items() if key not in ("multiplier", "isolated")}
    del old["minuteEstimatedTime"]
    await family.signal.write_signal_data(*CONTEXT, old)
    read: Any = await family.signal.read_signal_data(*CONTEXT)
    assert read["minuteEstimatedTime"] == math.inf
    assert read["multiplier"] == 1
    assert read["isolated"] is True


async def test_risk_positions_keep_order_and_infinity(family: Registries) -> None:
    positions: list[Any] = [
        ["b_binance_ETH", {"symbol": "ETH", "exchangeName": "binance", "minuteEstimatedTime": 5}],
        ["a_binance_BTC", {"symbol": "BTC", "exchangeName": "binance"}],
    ]
    await family.risk.write_position_data("r", "binance", positions, WHEN)
    read: Any = await family.risk.read_position_data("r", "binance", WHEN)
    assert [key for key, _ in read] == ["b_binance_ETH", "a_binance_BTC"]
    assert read[0][1]["minuteEstimatedTime"] == 5
    assert read[1][1]["minuteEstimatedTime"] == math.inf
    await family.risk.write_position_data("r", "binance", [], WHEN)
    assert await family.risk.read_position_data("r", "binance", WHEN) == []


async def test_partial_and_breakeven_are_kept_by_signal(family: Registries) -> None:
    levels: Any = {"sig-1": {"profitLevels": [10, 20], "lossLevels": []}}
    await family.partial.write_partial_data(*CONTEXT, "sig-1", levels, WHEN)
    await family.partial.write_partial_data(*CONTEXT, "sig-2", {}, WHEN)
    assert await family.partial.read_partial_data(*CONTEXT, "sig-1", WHEN) == levels
    assert await family.partial.read_partial_data(*CONTEXT, "sig-2", WHEN) == {}
    await family.breakeven.write_breakeven_data(
        *CONTEXT, "sig-1", {"sig-1": {"reached": True}}, WHEN
    )
    read = await family.breakeven.read_breakeven_data(*CONTEXT, "sig-1", WHEN)
    assert read == {"sig-1": {"reached": True}}


async def test_storage_upserts_by_id_and_keeps_others(family: Registries) -> None:
    await family.storage.write_storage_data(True, [{"id": "s10", "n": 1}, {"id": "s9", "n": 1}])
    await family.storage.write_storage_data(True, [{"id": "s9", "n": 2}])
    rows: Any = await family.storage.read_storage_data(True)
    assert {row["id"]: row["n"] for row in rows} == {"s10": 1, "s9": 2}
    assert await family.storage.read_storage_data(False) == []


async def test_storage_lists_more_than_the_node_limit(family: Registries) -> None:
    """Decisions, Lists [7]: never cut silently."""
    await family.storage.write_storage_data(True, [{"id": f"s{n}"} for n in range(1005)])
    assert len(await family.storage.read_storage_data(True)) == 1005


async def test_notifications_give_the_newest_oldest_first(family: Registries) -> None:
    """Decisions, Lists [7]: the newest limit, 500 by default, None for all."""
    rows = [{"id": f"n{n:04}", "type": "x", "createdAt": n} for n in range(520)]
    await family.notification.write_notification_data(True, rows)
    read = await family.notification.read_notification_data(True)
    assert [row["id"] for row in read] == [row["id"] for row in rows[20:]]
    assert len(await family.notification.read_notification_data(True, None)) == 520
    newest = await family.notification.read_notification_data(True, limit=2)
    assert [row["id"] for row in newest] == ["n0518", "n0519"]
    assert await family.notification.read_notification_data(True, 0) == []


async def test_log_is_append_only(family: Registries) -> None:
    """Decisions, Log written again: the first write stays, in every family."""
    await family.log.write_log_data([{"id": "l1", "topic": "first", "priority": 1}])
    await family.log.write_log_data(
        [{"id": "l1", "topic": "again", "priority": 3}, {"id": "l2", "topic": "x", "priority": 2}]
    )
    read: Any = await family.log.read_log_data()
    assert [(row["id"], row["topic"]) for row in read] == [("l1", "first"), ("l2", "x")]


async def test_log_survives_a_restart_of_the_registry(family: Registries) -> None:
    await family.log.write_log_data([{"id": "l1", "topic": "first"}])
    family.clear()
    await family.log.write_log_data([{"id": "l1", "topic": "again"}])
    assert [row["topic"] for row in await family.log.read_log_data()] == ["first"]


async def test_measure_entries_are_softly_removed_and_revived(family: Registries) -> None:
    """Decisions, Soft-removed and written again [14]: a write revives."""
    measure = family.measure
    await measure.write_measure_data("b", "k", {"id": "k", "data": None, "removed": False}, WHEN)
    assert await measure.read_measure_data("b", "k") == {"id": "k", "data": None, "removed": False}
    await measure.remove_measure_data("b", "k")
    assert await measure.read_measure_data("b", "k") is None
    assert [key async for key in measure.list_measure_data("b")] == []
    await measure.write_measure_data("b", "k", {"id": "k", "data": 2}, WHEN)
    read: Any = await measure.read_measure_data("b", "k")
    assert read["data"] == 2
    assert read["removed"] is False
    assert [key async for key in measure.list_measure_data("b")] == ["k"]


async def test_removed_payload_of_a_write_counts_as_removed(family: Registries) -> None:
    await family.measure.write_measure_data("b", "k", {"id": "k", "removed": True}, WHEN)
    assert await family.measure.read_measure_data("b", "k") is None


@pytest.mark.parametrize("payload", [None, 5, "text", [1]])
async def test_entries_that_are_no_mapping_are_refused(family: Registries, payload: Any) -> None:
    """Decisions, Soft-removed and written again [19]."""
    for write in (
        family.measure.write_measure_data("b", "k", payload, WHEN),
        family.interval.write_interval_data("b", "k", payload, WHEN),
        family.memory.write_memory_data("s", "b", "m", payload, WHEN),
    ):
        with pytest.raises(InvalidArgumentError, match="expected a mapping"):
            await write


async def test_intervals_are_kept_by_bucket(family: Registries) -> None:
    await family.interval.write_interval_data("a", "k", {"id": "k", "data": True}, WHEN)
    assert await family.interval.read_interval_data("b", "k") is None
    read: Any = await family.interval.read_interval_data("a", "k")
    assert read["data"] is True
    await family.interval.remove_interval_data("a", "k")
    assert await family.interval.read_interval_data("a", "k") is None


async def test_memory_has_is_true_for_a_removed_entry(family: Registries) -> None:
    """Decisions, has_memory_data [5]."""
    memory = family.memory
    data: Any = {"priority": 1, "data": {"a": [[]]}, "index": "рынок", "when": WHEN_MS}
    await memory.write_memory_data("s", "b", "m", data, WHEN)
    items = [item async for item in memory.list_memory_data("s", "b")]
    assert items == [{"memoryId": "m", "data": {**data, "removed": False}}]
    await memory.remove_memory_data("s", "b", "m")
    assert await memory.read_memory_data("s", "b", "m") is None
    assert await memory.has_memory_data("s", "b", "m") is True
    assert [item async for item in memory.list_memory_data("s", "b")] == []


async def test_recent_tells_frames_and_modes_apart(family: Registries) -> None:
    live = {**SIGNAL, "id": "live"}
    tested = {**SIGNAL, "id": "tested", "frameName": "jan"}
    await family.recent.write_recent_data(*CONTEXT, "", False, live, WHEN)
    await family.recent.write_recent_data(*CONTEXT, "jan", True, tested, WHEN)
    assert await family.recent.read_recent_data(*CONTEXT, "", False) == live
    assert await family.recent.read_recent_data(*CONTEXT, "jan", True) == tested
    assert await family.recent.read_recent_data(*CONTEXT, "jan", False) is None


async def test_state_and_session_are_replaced_as_a_whole(family: Registries) -> None:
    await family.state.write_state_data("s", "b", {"id": "s_b", "data": {"a": 1}, "when": 5}, WHEN)
    await family.state.write_state_data("s", "b", {"id": "s_b", "data": {"b": 2}, "when": 6}, WHEN)
    assert await family.state.read_state_data("s", "b") == {
        "id": "s_b",
        "data": {"b": 2},
        "when": 6,
    }
    session = ("trend", "binance", "", "BTCUSDT", False)
    await family.session.write_session_data(*session, {"id": "x", "data": None, "when": 5}, WHEN)
    assert await family.session.read_session_data(*session) == {"id": "x", "data": None, "when": 5}
    assert await family.session.read_session_data("trend", "binance", "", "BTCUSDT", True) is None


async def test_candles_window_is_whole_or_absent(family: Registries) -> None:
    rows = candles(30)
    await family.candle.write_candles_data("BTCUSDT", "1m", "binance", rows[:10] + rows[11:])
    candle = family.candle
    assert await candle.read_candles_data("BTCUSDT", "1m", "binance", 10, WHEN_MS) == rows[:10]
    assert await candle.read_candles_data("BTCUSDT", "1m", "binance", 11, WHEN_MS) is None
    await candle.write_candles_data("BTCUSDT", "1m", "binance", rows[10:11])
    assert await candle.read_candles_data("BTCUSDT", "1m", "binance", 30, WHEN_MS) == rows
    assert await candle.read_candles_data("BTCUSDT", "1m", "binance", 2, WHEN_MS + 1) is None
    assert await candle.read_candles_data("BTCUSDT", "1m", "bybit", 1, WHEN_MS) is None


async def test_candles_keep_their_first_figures(family: Registries) -> None:
    """Decisions, Candle written again [16]: nothing changes."""
    rows = candles(3)
    await family.candle.write_candles_data("BTCUSDT", "1m", "binance", rows)
    other = [{**row, "close": row["close"] + 0.25} for row in rows]
    await family.candle.write_candles_data("BTCUSDT", "1m", "binance", other)
    assert await family.candle.read_candles_data("BTCUSDT", "1m", "binance", 3, WHEN_MS) == rows


async def test_unfinished_candles_are_not_stored(family: Registries) -> None:
    """Decisions, Unfinished candles [15]: against the simulated time, else the wall clock."""
    rows = candles(3)
    with simulated_time(WHEN_MS + 2 * 60_000):
        await family.candle.write_candles_data("BTCUSDT", "1m", "binance", rows)
    assert await family.candle.read_candles_data("BTCUSDT", "1m", "binance", 2, WHEN_MS)
    assert await family.candle.read_candles_data("BTCUSDT", "1m", "binance", 3, WHEN_MS) is None
    future = candles(1, start=4_102_444_800_000)
    await family.candle.write_candles_data("BTCUSDT", "1m", "binance", future)
    read = await family.candle.read_candles_data("BTCUSDT", "1m", "binance", 1, 4_102_444_800_000)
    assert read is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timestamp": WHEN_MS + 1}, "not a multiple"),
        ({"timestamp": "x"}, "timestamp must be integer"),
        ({"high": 50.0}, "must lie between"),
        ({"close": None}, "close must be a number"),
        ({"open": math.nan}, "open is not finite"),
        ({"volume": -1.0}, "volume -1.0 is negative"),
        ({"volume": True}, "volume must be a number"),
        ({"low": 2**70}, "does not fit"),
    ],
)
async def test_bad_candles_are_refused_with_their_row(
    family: Registries, change: dict[str, Any], words: str
) -> None:
    """Decisions, Validation [20]."""
    rows = candles(3)
    rows[1] = {**rows[1], **change}
    with pytest.raises(InvalidCandleError, match=words) as caught:
        await family.candle.write_candles_data("BTCUSDT", "1m", "binance", rows)
    assert caught.value.row == 1
    assert await family.candle.read_candles_data("BTCUSDT", "1m", "binance", 1, WHEN_MS) is None


async def test_unknown_interval_is_refused(family: Registries) -> None:
    """Decisions, Validation [20]: unknown intervals, read or written."""
    with pytest.raises(InvalidArgumentError, match="unknown interval '7m'"):
        await family.candle.read_candles_data("BTCUSDT", "7m", "binance", 1, WHEN_MS)
    with pytest.raises(InvalidArgumentError, match="unknown interval '7m'"):
        await family.candle.write_candles_data("BTCUSDT", "7m", "binance", candles(1))


@pytest.mark.parametrize("name", ["", 5, None, b"x", "\ud800"])
async def test_bad_names_are_refused_before_anything_is_stored(
    family: Registries, name: Any
) -> None:
    """Decisions, Half-done writes [13]."""
    with pytest.raises(InvalidArgumentError, match="strategy_name"):
        await family.signal.write_signal_data("BTCUSDT", name, "binance", SIGNAL)
    with pytest.raises(InvalidArgumentError, match="entry_key"):
        await family.measure.write_measure_data("b", name, {"id": "k"}, WHEN)
    with pytest.raises(InvalidArgumentError, match="entr"):
        await family.log.write_log_data([{"id": name}])


@pytest.mark.parametrize("when", [datetime(2025, 1, 1), "2025", None, 1.5, True])
async def test_moments_without_a_zone_are_refused(family: Registries, when: Any) -> None:
    """Decisions, Times: aware datetime or integer ms."""
    with pytest.raises(InvalidArgumentError, match="when"):
        await family.state.write_state_data("s", "b", {"data": 1}, when)
    assert await family.state.read_state_data("s", "b") is None


async def test_when_can_be_ms_or_datetime(family: Registries) -> None:
    """Decisions, Times."""
    await family.state.write_state_data("s", "b", {"data": 1, "when": WHEN_MS}, WHEN_MS)
    with simulated_time(WHEN):
        assert await family.state.read_state_data("s", "b") is not None
    with simulated_time(EARLIER):
        assert await family.state.read_state_data("s", "b") is None


async def test_unserializable_values_are_named_by_their_path(family: Registries) -> None:
    row: Any = {"id": "x", "legs": [{"price": 1}, {"price": object()}]}
    with pytest.raises(InvalidDocumentError) as caught:
        await family.signal.write_signal_data(*CONTEXT, row)
    assert caught.value.path == "payload.legs[1].price"
    assert await family.signal.read_signal_data(*CONTEXT) is None


async def test_rows_of_a_later_simulated_time_are_hidden(family: Registries) -> None:
    signal = {**SIGNAL, "timestamp": WHEN_MS}
    await family.recent.write_recent_data(*CONTEXT, "", True, signal, WHEN)
    await family.state.write_state_data("s", "b", {"data": 1, "when": WHEN_MS}, WHEN)
    session = ("trend", "binance", "jan", "BTCUSDT", True)
    await family.session.write_session_data(*session, {"data": 1, "when": WHEN_MS}, WHEN)
    await family.memory.write_memory_data("s", "b", "m", {"data": {}, "when": WHEN_MS}, WHEN)
    await family.interval.write_interval_data("b", "k", {"id": "k", "when": WHEN}, WHEN)
    position: Any = ("k", {"symbol": "X", "exchangeName": "binance", "openTimestamp": WHEN_MS})
    await family.risk.write_position_data("r", "binance", [position], WHEN)

    async def visible(when: datetime | None = None) -> list[bool]:
        return [
            await family.recent.read_recent_data(*CONTEXT, "", True, when=when) is not None,
            await family.state.read_state_data("s", "b", when=when) is not None,
            await family.session.read_session_data(*session, when=when) is not None,
            await family.memory.read_memory_data("s", "b", "m", when=when) is not None,
            await family.memory.has_memory_data("s", "b", "m", when=when),
            len([item async for item in family.memory.list_memory_data("s", "b", when)]) == 1,
            await family.interval.read_interval_data("b", "k", when=when) is not None,
            len([key async for key in family.interval.list_interval_data("b", when)]) == 1,
            len(await family.risk.read_position_data("r", "binance", when=when)) == 1,
        ]

    assert all(await visible())
    assert all(await visible(WHEN))
    assert not any(await visible(EARLIER))
    with simulated_time(EARLIER):
        assert not any(await visible())
        assert not any(await visible(WHEN)), "a later `when` shows nothing in a simulation"
    with simulated_time(WHEN):
        assert all(await visible())


async def test_candles_that_have_not_closed_in_the_simulation_are_hidden(
    family: Registries,
) -> None:
    rows = candles(5)
    await family.candle.write_candles_data("BTCUSDT", "1m", "binance", rows)
    with simulated_time(WHEN_MS + 3 * 60_000):
        read = family.candle.read_candles_data
        assert await read("BTCUSDT", "1m", "binance", 3, WHEN_MS) == rows[:3]
        assert await read("BTCUSDT", "1m", "binance", 4, WHEN_MS) is None


async def test_concurrent_writes_end_with_one_of_them(family: Registries) -> None:
    async def write(number: int) -> None:
        await family.state.write_state_data("s", "b", {"data": number}, WHEN)

    await asyncio.gather(*(write(number) for number in range(32)))
    read: Any = await family.state.read_state_data("s", "b")
    assert read["data"] in range(32)


async def test_arguments_after_the_second_can_be_keywords(family: Registries) -> None:
    """Decisions, Names in Python: context, then key, then data, then when."""
    await family.partial.write_partial_data(
        "BTCUSDT", "trend", exchange_name="binance", signal_id="s", data={}, when=WHEN
    )
    await family.candle.write_candles_data("BTCUSDT", "1m", exchange_name="b", candles=candles(1))
    read = await family.candle.read_candles_data(
        "BTCUSDT", "1m", exchange_name="b", limit=1, since_timestamp=WHEN_MS, until_timestamp=0
    )
    assert read == candles(1)
