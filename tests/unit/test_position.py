"""The rules of a position, bar by bar; numbers in the tests are worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import candle_rows
from candle_rows import START_MS
from fastpersist.runner.position import Bar, Exit, Position

MINUTE = 60_000
Figures = tuple[float, float, float, float]
SIDES = pytest.mark.parametrize("side", [1, -1], ids=["long", "short"])


def bar(index: int, opened: float, high: float, low: float, close: float) -> Bar:
    return Bar(**candle_rows.bar(index, opened, high, low, close))


def position(side: int = 1, **fields: Any) -> Position:
    """Return a position of 1,000 at 100 with targets 110 and 95, or for a short 90 and 105."""
    values: dict[str, Any] = {
        "id": "s",
        "symbol": "BTCUSDT",
        "direction": side,
        "price_open": 100.0,
        "price_take_profit": 100.0 + side * 10,
        "price_stop_loss": 100.0 - side * 5,
        "minutes": None,
        "note": "",
        "cost": 1_000.0,
        "fee": 0.0,
        "scheduled_at": START_MS,
        "partial_level": 0,
        "partial_percent": 50,
    }
    return Position(**{**values, **fields})


def opened(side: int = 1, **fields: Any) -> Position:
    made = position(side, **fields)
    made.enter(made.price_open, START_MS)
    return made


def mirrored(side: int, figures: Figures) -> Bar:
    """Return a bar as it is for a long, mirrored at 100 for a short."""
    first, high, low, close = figures
    if side < 0:
        first, high, low, close = (200 - price for price in (first, low, high, close))
    return bar(1, first, high, low, close)


def leave(held: Position, candle: Bar, closes_at: int = START_MS + MINUTE) -> Exit | None:
    """Return the exit in the order in which the engine asks."""
    return held.stopped_by(candle) or held.exit_in(candle, closes_at)


@SIDES
@pytest.mark.parametrize(
    ("figures", "reason", "price"),
    [
        ((100, 109.99, 95.01, 100), None, None),
        ((100, 110, 99, 109), "take_profit", 110),
        ((100, 130, 99, 109), "take_profit", 110),
        ((115, 120, 112, 118), "take_profit", 110),  # the gain of a gap is not counted
        ((100, 101, 95, 100), "stop_loss", 95),
        ((100, 101, 80, 90), "stop_loss", 95),
        ((95, 96, 94, 95), "stop_loss", 95),
        ((93, 94, 90, 92), "stop_loss", 93),  # a gap beyond the stop
        ((93, 120, 90, 115), "stop_loss", 93),
        ((100, 111, 94, 110), "stop_loss", 95),  # both in one candle
    ],
)
def test_exit(side: int, figures: Figures, reason: str | None, price: float | None) -> None:
    found = leave(opened(side), mirrored(side, figures))
    if reason is None or price is None:
        assert found is None
    else:
        assert found == Exit(reason, price if side > 0 else 200 - price)  # type: ignore[arg-type]  # one of the reasons


@SIDES
@pytest.mark.parametrize(
    ("minutes", "closes_after", "expired"),
    [(30, 29, False), (30, 30, True), (30, 45, True), (0.5, 1, True), (None, 10**9, False)],
)
def test_time_expires_at_the_close(
    side: int, minutes: float | None, closes_after: int, expired: bool
) -> None:
    held = opened(side, minutes=minutes)
    candle = mirrored(side, (100, 103, 99, 102))
    expected = Exit("time_expired", candle.close) if expired else None
    assert held.exit_in(candle, START_MS + closes_after * MINUTE) == expected


def test_take_profit_goes_before_time() -> None:
    found = opened(minutes=1).exit_in(bar(1, 100, 111, 99, 105), START_MS + MINUTE)
    assert found == Exit("take_profit", 110)


def test_life_time_counts_from_the_entry() -> None:
    held = position(minutes=10)
    held.enter(99.0, START_MS + 5 * MINUTE)
    quiet = bar(0, 100, 101, 99, 100)
    assert held.exit_in(quiet, START_MS + 14 * MINUTE) is None
    assert held.exit_in(quiet, START_MS + 15 * MINUTE) == Exit("time_expired", 100)


@SIDES
@pytest.mark.parametrize(
    ("figures", "entry"),
    [
        ((103, 104, 100.5, 102), None),
        ((103, 104, 100, 102), 100),
        ((103, 104, 90, 91), 100),  # the stop is for the engine, after the entry
        ((98, 99, 97, 98), 98),  # a better price at the open
        ((100, 101, 99, 100), 100),
        ((95, 99, 94, 98), "cancel"),
        ((94, 120, 93, 110), "cancel"),
    ],
)
def test_entry(side: int, figures: Figures, entry: float | str | None) -> None:
    if side < 0 and isinstance(entry, (int, float)):
        entry = 200 - entry
    assert position(side).entry_in(mirrored(side, figures)) == entry


def test_a_limit_across_the_market_is_filled_at_the_open() -> None:
    assert position(price_open=104.0).entry_in(bar(1, 103, 105, 102, 103)) == 103


def test_entering_sets_price_and_moment() -> None:
    held = position()
    assert (held.pending_at, held.is_long, position(-1).is_long) == (0, True, False)
    held.enter(98.0, START_MS + MINUTE)
    assert (held.price_open, held.pending_at) == (98.0, START_MS + MINUTE)
    assert (held.best, held.worst) == (98.0, 98.0)


@SIDES
@pytest.mark.parametrize(
    ("figures", "profits", "losses"),
    [
        ((100, 100.99, 99.51, 100), [], []),
        ((100, 101, 100, 100), [10], []),
        ((100, 105.5, 97.4, 100), [10, 20, 30, 40, 50], [10, 20, 30, 40, 50]),
        ((100, 112, 99.5, 111), list(range(10, 101, 10)), [10]),
        ((100, 100, 95.05, 96), [], list(range(10, 91, 10))),
    ],
)
def test_levels(side: int, figures: Figures, profits: list[int], losses: list[int]) -> None:
    held = opened(side)
    assert held.reach_levels(mirrored(side, figures)) == (profits, losses)
    assert held.reach_levels(mirrored(side, figures)) == ([], [])
    assert (held.profit_levels, held.loss_levels) == (profits, losses)


@SIDES
def test_levels_add_up_and_extremes_are_kept(side: int) -> None:
    held = opened(side)
    assert held.reach_levels(mirrored(side, (100, 103, 98, 99))) == ([10, 20, 30], [10, 20, 30, 40])
    assert held.reach_levels(mirrored(side, (99, 104, 99, 103))) == ([40], [])
    assert held.reach_levels(mirrored(side, (103, 103, 97, 97))) == ([], [50, 60])
    best, worst = (104, 97) if side > 0 else (96, 103)
    assert (held.best, held.worst) == (best, worst)
    held.note_price(mirrored(side, (95, 95, 95, 95)).close)
    assert (held.best, held.worst) == (best, 95 if side > 0 else 105)


@given(st.integers(5_000, 10_000_000), st.integers(1, 400), st.integers(1, 10))
def test_a_price_that_touches_a_level_reaches_it(entry: int, tenth: int, level: int) -> None:
    """Prices in cents, as an exchange has them."""
    held = opened(
        price_open=entry / 100,
        price_take_profit=(entry + 10 * tenth) / 100,
        price_stop_loss=(entry - 10 * tenth) / 100,
    )
    reached = list(range(10, 10 * level + 1, 10))
    high, low = (entry + level * tenth) / 100, (entry - level * tenth) / 100
    assert held.reach_levels(bar(1, entry / 100, high, low, high)) == (reached, reached)


def test_breakeven_covers_the_fees_of_both_sides_once() -> None:
    # 1 % of each side: 100 -> x pays x - 100 - 1 - x/100, which is 0 at 101 / 0.99 = 102.0202
    held = opened(fee=0.01)
    assert not held.reach_breakeven(bar(1, 100, 102.02, 99, 100))
    assert held.reach_breakeven(bar(2, 100, 102.0203, 99, 100))
    assert held.breakeven
    assert not held.reach_breakeven(bar(3, 100, 105, 99, 100))


def test_breakeven_of_a_short() -> None:
    # 100 -> x pays 100 - x - 1 - x/100, which is 0 at 99 / 1.01 = 98.0198
    held = opened(-1, fee=0.01)
    assert not held.reach_breakeven(bar(1, 100, 101, 98.02, 99))
    assert held.reach_breakeven(bar(2, 100, 101, 98.0197, 99))


def close_part(held: Position, when: int) -> dict[str, Any] | None:
    """Close the part that is due as a backtest does; return its record."""
    percent = held.part_due()
    if not percent:
        return None
    held.take_part(percent, held.part_price, when)
    return held.partials[-1]


@SIDES
def test_part_closes_once_at_its_level(side: int) -> None:
    held = opened(side, partial_level=50, partial_percent=40, fee=0.001)
    held.reach_levels(mirrored(side, (100, 104.9, 99, 100)))
    assert close_part(held, START_MS + MINUTE) is None
    held.reach_levels(mirrored(side, (100, 107, 99, 100)))
    record = close_part(held, START_MS + 2 * MINUTE)
    price = 105 if side > 0 else 95
    assert record == {
        "type": "profit",
        "percent": 40,
        "currentPrice": price,
        "costBasisAtClose": 1_000.0,
        "entryCountAtClose": 1,
        "timestamp": START_MS + 2 * MINUTE,
    }
    assert held.partials == [record]
    assert held.remaining == 60
    # 400 of 1,000 gain 5 %: 20, less 0.1 % of 400 and of what they are worth: 420, or 380 short
    assert held.realised == pytest.approx(20 - 0.4 - (0.42 if side > 0 else 0.38))
    assert close_part(held, START_MS + 3 * MINUTE) is None


@pytest.mark.parametrize(
    ("level", "high", "price"),
    [(100, 110, 110), (55, 105.9, None), (55, 106, 105.5), (0, 112, None)],
)
def test_part_waits_for_the_next_tenth(level: float, high: float, price: float | None) -> None:
    held = opened(partial_level=level)
    held.reach_levels(bar(1, 100, high, 99, 100))
    record = close_part(held, START_MS)
    assert (record and record["currentPrice"]) == price


@pytest.mark.parametrize(
    ("side", "price", "profit"),
    [
        # 1,000 at 100 with 0.1 % of each side: the entry costs 1, the exit 0.1 % of its value
        (1, 110, 100 - 1 - 1.1),
        (1, 95, -50 - 1 - 0.95),
        (1, 100, -2),
        (-1, 90, 100 - 1 - 0.9),
        (-1, 105, -50 - 1 - 1.05),
        (-1, 100, -2),
    ],
)
def test_profit_after_fees(side: int, price: float, profit: float) -> None:
    held = opened(side, fee=0.001)
    assert held.profit_at(price) == pytest.approx(profit)
    assert held.pnl(price) == pytest.approx(
        {
            "pnlPercentage": profit / 10,
            "priceOpen": 100,
            "priceClose": price,
            "pnlCost": profit,
            "pnlEntries": 1_000,
        }
    )


def test_profit_with_a_part() -> None:
    held = opened(fee=0.001, partial_level=50, partial_percent=25)
    held.reach_levels(bar(1, 100, 106, 99, 105))
    assert close_part(held, START_MS)
    # 250 gain 5 % = 12.5 less 0.25 + 0.2625; 750 lose 5 % = -37.5 less 0.75 + 0.7125
    assert held.profit_at(95) == pytest.approx(12.5 - 0.5125 - 37.5 - 1.4625)


PRICES = st.floats(1, 1e5)


@given(
    side=st.sampled_from([1, -1]),
    entry=PRICES,
    way=st.floats(0.01, 0.5),
    level=st.integers(1, 100),
    percent=st.floats(0, 100),
    fee=st.floats(0, 0.01),
    exit_at=PRICES,
)
def test_parts_and_rest_are_the_whole(
    side: int, entry: float, way: float, level: int, percent: float, fee: float, exit_at: float
) -> None:
    target = entry * (1 + side * way)
    held = opened(
        side, price_open=entry, price_take_profit=target, price_stop_loss=entry * (1 - side * way),
        fee=fee, partial_level=level, partial_percent=percent,
    )  # fmt: skip
    beyond = entry * (1 + side * way * 1.01)
    held.reach_levels(bar(1, entry, max(entry, beyond), min(entry, beyond), entry))
    record = close_part(held, START_MS)
    assert (record is None) == (percent == 0)

    def alone(share: float, price: float) -> float:
        value = 1_000 * share / 100
        sold = value * price / entry
        return side * (sold - value) - fee * (value + sold)

    parts = alone(percent, record["currentPrice"]) if record else 0.0
    assert held.realised == pytest.approx(parts, abs=1e-6)
    whole = parts + alone(100 - percent, exit_at)
    assert held.profit_at(exit_at) == pytest.approx(whole, rel=1e-9, abs=1e-6)


@given(st.lists(st.lists(st.integers(720, 880), min_size=4, max_size=4), max_size=20))
def test_a_short_is_a_mirrored_long(bars_in_eighths: list[list[int]]) -> None:
    """Eighths, so that the arithmetic is exact on both sides."""
    sides = {1: opened(1), -1: opened(-1)}
    for eighths in bars_in_eighths:
        low, first, close, high = (number / 8 for number in sorted(eighths))
        exits = []
        for side, held in sides.items():
            candle = mirrored(side, (first, high, low, close))
            found = leave(held, candle)
            exits.append(found and (found.reason, side * (found.price - 100)))
            if found is None:
                held.reach_levels(candle)
        assert exits[0] == exits[1]
        assert sides[1].profit_levels == sides[-1].profit_levels
        assert sides[1].loss_levels == sides[-1].loss_levels
        if exits[0]:
            return


@given(st.floats(0.5, 2), st.floats(90, 110))
def test_a_position_survives_its_plain_form(minutes: float, price: float) -> None:
    held = opened(minutes=minutes, partial_level=10)
    held.reach_levels(bar(1, 100, max(price, 100), min(price, 100), price))
    close_part(held, START_MS)
    assert Position.from_state(json.loads(json.dumps(held.to_state()))) == held
    assert Position.from_state(None) is None


@SIDES
@pytest.mark.parametrize(
    ("opens", "slippage", "price"),
    [
        (100.5, 0.0, 100.5),
        (100.0, 0.01, 101.0),
        (110.0, 0.0, "cancel"),  # nothing is left to gain
        (109.5, 0.01, "cancel"),
        (95.0, 0.0, "cancel"),
        (94.0, 0.0, "cancel"),
    ],
)
def test_the_market_is_entered_at_the_open(
    side: int, opens: float, slippage: float, price: float | str
) -> None:
    waiting = position(side, at_market=True, slippage=slippage)
    found = waiting.entry_in(mirrored(side, (opens, 120, 90, 100)))
    if isinstance(price, str):
        assert found == price
    else:
        expected = opens if side > 0 else 200 - opens
        assert found == pytest.approx(expected * (1 + side * slippage))


@SIDES
def test_slippage_makes_stops_and_expiry_worse_but_no_limit_price(side: int) -> None:
    held = opened(side, slippage=0.001, minutes=1)
    by_stop = held.stopped_by(mirrored(side, (100, 101, 94, 96)))
    assert by_stop == Exit("stop_loss", pytest.approx((100 - side * 5) * (1 - side * 0.001)))
    by_time = held.exit_in(mirrored(side, (100, 101, 99, 100.5)), START_MS + MINUTE)
    close = 100.5 if side > 0 else 99.5
    assert by_time == Exit("time_expired", pytest.approx(close * (1 - side * 0.001)))
    taken = held.exit_in(mirrored(side, (100, 111, 99, 100)), START_MS + MINUTE)
    assert taken == Exit("take_profit", 100 + side * 10)
    assert position(side, slippage=0.5).entry_in(mirrored(side, (101, 102, 99, 100))) == 100
