"""Candles and orders through ccxt, against an exchange that runs in the test."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
import urllib.request
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fake_exchange
from fake_exchange import KEY, SECRET, FakeExchange, FastClock
from fastpersist.errors import ClosedError, ConfigurationError, InvalidArgumentError
from fastpersist.runner import ccxt_exchange
from fastpersist.runner.broker import (
    BrokerError,
    BrokerUnavailableError,
    Order,
    OrderRejectedError,
    OrderState,
)
from fastpersist.runner.ccxt_exchange import CcxtBroker, CcxtExchange, CcxtFeed
from fastpersist.runner.position import Bar
from fastpersist.runner.stream import FeedUnavailableError

# ccxt asks aiohttp for something that newer Pythons do not need.
pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed:DeprecationWarning")

MINUTE = 60_000
START = 1_700_000_040_000


class Pauses(list[float]):
    """Sleeps that take no time."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture
async def fake() -> AsyncIterator[FakeExchange]:
    async with FakeExchange(with_swap=True) as fake:
        fake.behavior.price = 100.0
        yield fake


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def exchange(fake: FakeExchange, pauses: Pauses) -> AsyncIterator[CcxtExchange]:
    async with CcxtExchange("binance", fake.options, timeout_seconds=60, sleep=pauses) as exchange:
        yield exchange


@pytest.fixture
def broker(exchange: CcxtExchange) -> CcxtBroker:
    return CcxtBroker(exchange)


def patient(exchange: CcxtExchange) -> None:
    """Let the calls from now on take their time."""
    exchange._timeout = 60
    exchange._ccxt.timeout = 60_000


def order(
    fake: FakeExchange,
    name: str = "a1",
    amount: float = 0.5,
    side: Any = "buy",
    symbol: str = "BTCUSDT",
) -> Order:
    # A minute ago: a young order is looked for twice before it is called absent.
    return Order(name, symbol, side, amount, 100.0, fake.now() - MINUTE)


def candles(fake: FakeExchange, count: int, start: int = START) -> None:
    for place in range(count):
        fake.add_candle(start + place * MINUTE, 100, 102, 99, 101, place + 1)


def feed(exchange: CcxtExchange, symbol: str = "BTCUSDT", interval: str = "1m") -> CcxtFeed:
    return CcxtFeed(exchange, symbol, interval, START, START + 1000 * MINUTE)


async def moments(source: CcxtFeed, count: int, start: int = START) -> list[int]:
    """Return the places of the candles of a window."""
    found = await source.window(start, start + count * MINUTE)
    return [(moment - start) // MINUTE for moment in found.timestamp.tolist()]


# The exchange.


async def test_a_missing_ccxt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    monkeypatch.delitem(sys.modules, "ccxt.async_support", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'fastpersist\[ccxt\]'"):
        CcxtExchange("binance")


async def test_an_unknown_exchange_is_told() -> None:
    with pytest.raises(ConfigurationError, match="none named 'nowhere'"):
        CcxtExchange("nowhere")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
async def test_a_deadline_is_finite(timeout: float) -> None:
    with pytest.raises(InvalidArgumentError, match="timeout_seconds"):
        CcxtExchange("binance", timeout_seconds=timeout)


async def test_markets_are_loaded_once(fake: FakeExchange, exchange: CcxtExchange) -> None:
    await asyncio.gather(*(exchange.market("BTCUSDT") for _ in range(5)))
    assert fake.requests.count("GET /api/v3/exchangeInfo") == 1


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTCUSDT", "BTC/USDT"),
        ("BTC/USDT", "BTC/USDT"),
        ("btc-usdt", "BTC/USDT"),
        ("BTC/USDT:USDT", "BTC/USDT:USDT"),
        ("BTCUSDTUSDT", "BTC/USDT:USDT"),
    ],
)
async def test_symbols_have_several_names(exchange: CcxtExchange, name: str, symbol: str) -> None:
    assert (await exchange.market(name))["symbol"] == symbol


@pytest.mark.parametrize("kind", ["swap", "future"])
async def test_the_default_type_goes_first(fake: FakeExchange, kind: str) -> None:
    options = fake.options
    options["options"]["defaultType"] = kind
    async with CcxtExchange("binance", options) as exchange:
        assert (await exchange.market("BTCUSDT"))["symbol"] == "BTC/USDT:USDT"


async def test_an_unknown_symbol_is_refused(exchange: CcxtExchange) -> None:
    with pytest.raises(InvalidArgumentError, match="no market 'NOPE'"):
        await exchange.market("NOPE")


async def test_an_ambiguous_symbol_is_refused(exchange: CcxtExchange) -> None:
    spot = await exchange.market("BTCUSDT")
    assert exchange._names is not None
    exchange._names["BTCUSDT"] = [spot, {**spot, "symbol": "BT/CUSDT"}]
    with pytest.raises(InvalidArgumentError, match=r"'BTCUSDT' is ambiguous.*BT/CUSDT, BTC/USDT"):
        await exchange.market("BTCUSDT")


async def test_its_clock_is_its_own(fake: FakeExchange, exchange: CcxtExchange) -> None:
    fake.behavior.skew = -3_600_000
    begun = time.monotonic()
    for _ in range(100):
        told = await exchange.now()
        # Late by what its answer took to come, at most.
        assert 0 <= fake.now() - told <= (time.monotonic() - begun) * 1000 + 2


async def test_requests_carry_its_time(fake: FakeExchange, broker: CcxtBroker) -> None:
    fake.behavior.skew = 3_600_000
    assert (await broker.open(order(fake))).status == "filled"
    fake.behavior.skew = -3_600_000  # and when it was set meanwhile
    assert (await broker.open(order(fake, "a2"))).status == "filled"
    assert len(fake.orders) == 2


async def test_closing_twice_is_closing(exchange: CcxtExchange) -> None:
    await exchange.market("BTCUSDT")
    await exchange.close()
    await exchange.close()


# Candles.


async def test_a_window_is_made_of_pages(fake: FakeExchange, exchange: CcxtExchange) -> None:
    candles(fake, 10)
    fake.behavior.page = 3
    found = await feed(exchange).window(START + MINUTE, START + 9 * MINUTE)
    assert found.timestamp.tolist() == [START + place * MINUTE for place in range(1, 9)]
    assert found.volume.tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert (found.open[0], found.high[0], found.low[0], found.close[0]) == (100, 102, 99, 101)
    assert fake.requests.count("GET /api/v3/klines") == 3


async def test_a_candle_that_is_not_closed_does_not_come(pauses: Pauses) -> None:
    async with (
        FakeExchange(start=START, before=5) as fake,
        CcxtExchange("binance", fake.options, sleep=pauses) as exchange,
    ):
        assert await moments(feed(exchange), 20) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("skew", "expected"), [(0, [0]), (2 * MINUTE, [0, 1]), (-MINUTE, [])])
async def test_the_exchange_says_what_is_closed(
    pauses: Pauses, skew: int, expected: list[int]
) -> None:
    # Its minute begins with it, so that none ends meanwhile.
    async with (
        FakeExchange(start=START, before=1) as fake,
        CcxtExchange("binance", fake.options, sleep=pauses) as exchange,
    ):
        candles(fake, 2)
        fake.behavior.skew = skew
        assert await moments(feed(exchange), 2) == expected


async def test_what_is_delivered_badly_is_put_right(
    fake: FakeExchange, exchange: CcxtExchange
) -> None:
    candles(fake, 6)
    fake.behavior.twice = [START + MINUTE]
    fake.behavior.missing = [START + 3 * MINUTE]
    fake.behavior.late = {str(START + 5 * MINUTE): 2}
    assert await moments(feed(exchange), 6) == [0, 1, 2, 4]
    assert await moments(feed(exchange), 6) == [0, 1, 2, 4, 5]


async def test_a_long_gap_ends_nothing(
    fake: FakeExchange, exchange: CcxtExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    candles(fake, 2)
    candles(fake, 2, START + 3000 * MINUTE)
    fetch = exchange._ccxt.fetch_ohlcv

    async def by_range(symbol: str, interval: str, since: int, limit: int) -> Any:
        # Some exchanges look no further than the moment of the last row that was asked for.
        rows = await fetch(symbol, interval, since, limit)
        return [row for row in rows if row[0] < since + limit * MINUTE]

    monkeypatch.setattr(exchange._ccxt, "fetch_ohlcv", by_range)
    assert await moments(feed(exchange), 3010) == [0, 1, 3000, 3001]


async def test_figures_that_are_none_are_left_out(
    exchange: CcxtExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[START, 1, 1, 1, 1, 1], [START + MINUTE, 1, 1, None, 1, 1], [START, 1, 1, 1, 1, 2]]

    async def fetch(*values: Any) -> Any:
        return rows

    monkeypatch.setattr(exchange._ccxt, "fetch_ohlcv", fetch)
    found = await feed(exchange).window(START, START + 2 * MINUTE)
    assert (found.timestamp.tolist(), found.volume.tolist()) == ([START], [2.0])


async def test_longer_candles(fake: FakeExchange, exchange: CcxtExchange) -> None:
    start = START // (5 * MINUTE) * 5 * MINUTE
    candles(fake, 10, start)
    found = await feed(exchange, interval="5m").window(start, start + 10 * MINUTE)
    assert found.volume.tolist() == [15.0, 40.0]


async def test_a_feed_refuses_what_does_not_exist(exchange: CcxtExchange) -> None:
    with pytest.raises(InvalidArgumentError, match="interval: unknown"):
        feed(exchange, interval="7m")
    with pytest.raises(InvalidArgumentError, match="not later than"):
        CcxtFeed(exchange, "BTCUSDT", "1m", START, START)
    with pytest.raises(InvalidArgumentError, match="no market 'NOPE'"):
        await feed(exchange, "NOPE").window(START, START + MINUTE)
    exchange._ccxt.timeframes = {"1m": "1m"}
    with pytest.raises(InvalidArgumentError, match="no candles of 1h"):
        await feed(exchange, interval="1h").window(START, START + MINUTE)


async def test_a_feed_that_fails_may_be_asked_again(
    fake: FakeExchange, exchange: CcxtExchange
) -> None:
    candles(fake, 1)
    fake.behavior.server_errors = 1
    with pytest.raises(FeedUnavailableError) as caught:
        await moments(feed(exchange), 1)
    assert caught.value.retryable
    assert await moments(feed(exchange), 1) == [0]


async def test_a_feed_that_does_not_answer(fake: FakeExchange) -> None:
    candles(fake, 1)
    fake.behavior.mute, fake.behavior.hang = 1, True
    async with CcxtExchange("binance", fake.options, timeout_seconds=0.2) as exchange:
        with pytest.raises(FeedUnavailableError, match=r"no answer within 0\.2 s|RequestTimeout"):
            await moments(feed(exchange), 1)
        patient(exchange)
        assert await moments(feed(exchange), 1) == [0]


async def test_a_feed_without_a_server() -> None:
    options = fake_exchange.options("http://127.0.0.1:1")
    async with CcxtExchange("binance", options) as exchange:
        with pytest.raises(FeedUnavailableError, match="ExchangeNotAvailable"):
            await moments(feed(exchange), 1)


async def test_a_rate_limit_is_waited_for(
    fake: FakeExchange, exchange: CcxtExchange, pauses: Pauses
) -> None:
    candles(fake, 1)
    await exchange.market("BTCUSDT")
    fake.behavior.rate_limit, fake.behavior.retry_after = 3, 1
    assert await moments(feed(exchange), 1) == [0]
    assert pauses == [1.0, 1.0, 2.0]


async def test_a_stream_gives_candles_as_they_close() -> None:
    async with (
        FakeExchange(start=START, step=30, before=2) as fake,
        CcxtExchange("binance", fake.options, clock_seconds=0) as exchange,
    ):
        fake.behavior.twice = [START + 3 * MINUTE]
        clock = FastClock(fake.now(), 30)
        bars: list[Bar] = []
        async with aclosing(feed(exchange).stream(START, clock)) as stream:
            async for bar in stream:
                assert bar.timestamp + MINUTE <= fake.now()
                bars.append(bar)
                if len(bars) == 6:
                    break
        assert [bar.timestamp for bar in bars] == [START + place * MINUTE for place in range(6)]
        assert [tuple(bar)[1:] for bar in bars] == [fake.candles[bar.timestamp] for bar in bars]


# Orders.


async def test_an_order_is_filled(fake: FakeExchange, broker: CcxtBroker) -> None:
    fake.behavior.parts = 3
    wish = order(fake)
    state = await broker.open(wish)
    assert state == OrderState("a1", "filled", 0.5, 100.0, pytest.approx(0.05), "1000")
    assert await broker.find(wish) == state
    assert fake.orders[1000]["clientOrderId"] == "a1"
    assert await broker.open_orders("BTCUSDT") == []


async def test_the_amount_is_rounded_down(fake: FakeExchange, broker: CcxtBroker) -> None:
    assert (await broker.open(order(fake, amount=0.123459999))).filled == 0.12345


async def test_a_rounding_error_costs_no_step(fake: FakeExchange, broker: CcxtBroker) -> None:
    amount = 0.1 + 0.2 - 0.3 + 0.4995 - 1e-16
    assert (await broker.open(order(fake, amount=amount - 5e-17))).filled == 0.4995


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.00009, "least amount of 0.0001"), (0.000001, "least amount"), (0.01, "least value of 5")],
)
async def test_too_little_is_not_sent(
    fake: FakeExchange, broker: CcxtBroker, amount: float, text: str
) -> None:
    with pytest.raises(OrderRejectedError, match=text):
        await broker.open(order(fake, amount=amount))
    assert "POST /api/v3/order" not in fake.requests


async def test_an_unknown_symbol_is_not_sent(fake: FakeExchange, broker: CcxtBroker) -> None:
    with pytest.raises(InvalidArgumentError, match="NOPE"):
        await broker.open(order(fake, symbol="NOPE"))


async def test_fees_in_base_are_taken_off(fake: FakeExchange, broker: CcxtBroker) -> None:
    fake.behavior.fee_in = "base"
    state = await broker.open(order(fake))
    assert (state.filled, state.fee) == (0.4995, 0.0)
    assert await broker.find(order(fake)) == state
    assert (await broker.close(order(fake, "a2", state.filled - 1e-16, "sell"))).status == "filled"


async def test_fees_in_another_currency_are_not_known(
    fake: FakeExchange, broker: CcxtBroker
) -> None:
    fake.behavior.fee_in = "BNB"
    state = await broker.open(order(fake))
    assert (state.filled, state.fee) == (0.5, 0.0)
    assert await broker.find(order(fake)) == state


async def test_an_order_that_is_filled_in_part(fake: FakeExchange, broker: CcxtBroker) -> None:
    fake.behavior.fill_share = 0.4
    wish = order(fake)
    state = await broker.open(wish)
    assert state == OrderState("a1", "canceled", 0.2, 100.0, pytest.approx(0.02), "1000")
    assert await broker.find(wish) == state
    assert await broker.cancel(wish) == state


async def test_an_order_that_is_filled_later(fake: FakeExchange, broker: CcxtBroker) -> None:
    fake.behavior.fill_share, fake.behavior.rest = 0.4, "open"
    wish = order(fake)
    state = await broker.open(wish)
    assert (state.status, state.filled) == ("open", 0.2)
    assert await broker.open_orders("BTCUSDT") == [state]
    fake.behavior.price = 110.0
    fake.fill("a1")
    found = await broker.find(wish)
    assert found == OrderState(
        "a1", "filled", 0.5, pytest.approx(106), pytest.approx(0.053), "1000"
    )
    assert await broker.open_orders("BTCUSDT") == []


async def test_the_rest_is_filled_by_itself(fake: FakeExchange, broker: CcxtBroker) -> None:
    fake.behavior.fill_share, fake.behavior.rest = 0.4, "open"
    await broker.open(order(fake))
    fake.behavior.fill_after = 0
    found = await broker.find(order(fake))
    assert found is not None
    assert (found.status, found.filled) == ("filled", 0.5)


async def test_the_rest_is_taken_back(fake: FakeExchange, broker: CcxtBroker) -> None:
    fake.behavior.fill_share, fake.behavior.rest = 0.4, "open"
    wish = order(fake)
    await broker.open(wish)
    state = await broker.cancel(wish)
    assert (state.status, state.filled) == ("canceled", 0.2)
    assert await broker.cancel(wish) == state


async def test_an_order_that_is_filled_while_it_is_taken_back(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.behavior.fill_share, fake.behavior.rest = 0.0, "open"
    wish = order(fake)
    assert (await broker.open(wish)).filled == 0
    cancel = exchange._ccxt.cancel_order

    async def too_late(*values: Any) -> Any:
        fake.fill("a1")
        return await cancel(*values)

    monkeypatch.setattr(exchange._ccxt, "cancel_order", too_late)
    state = await broker.cancel(wish)
    assert (state.status, state.filled) == ("filled", 0.5)


async def test_a_young_order_is_looked_for_twice(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    await exchange.market("BTCUSDT")
    # Ahead of us, since it does not get old then however long this takes.
    wish = replace(order(fake), sent_at=fake.now() + 9_000)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await broker.open(wish)

    pauses: list[float] = []
    monkeypatch.setattr(exchange, "_sleep", sleep)
    assert await broker.find(wish) is not None
    assert pauses == [1.0]
    monkeypatch.setattr(ccxt_exchange, "_SETTLE_PAUSE", 1_000.0)  # beyond any deadline
    with pytest.raises(BrokerUnavailableError, match="too young"):
        await broker.find(replace(wish, client_order_id="a2"))


async def test_what_was_never_sent_is_canceled(fake: FakeExchange, broker: CcxtBroker) -> None:
    assert await broker.find(order(fake)) is None
    assert await broker.cancel(order(fake)) == OrderState("a1", "canceled", 0.0, 0.0)


@pytest.mark.parametrize(
    ("reject", "text"),
    [
        ("balance", "InsufficientFunds"),
        ("lot", "InvalidOrder"),
        ("unknown", "A new reason"),
        ("rejected", "rejected"),
    ],
)
async def test_a_refusal(fake: FakeExchange, broker: CcxtBroker, reject: str, text: str) -> None:
    fake.behavior.reject = reject
    with pytest.raises(OrderRejectedError, match=text):
        await broker.open(order(fake))
    with pytest.raises(OrderRejectedError, match=text):
        await broker.close(order(fake, "a2", side="sell"))


async def test_wrong_credentials(fake: FakeExchange) -> None:
    for name in ("apiKey", "secret"):
        async with CcxtExchange("binance", {**fake.options, name: "wrong-one"}) as exchange:
            broker = CcxtBroker(exchange)
            with pytest.raises(OrderRejectedError, match="AuthenticationError"):
                await broker.open(order(fake))
            with pytest.raises(BrokerError, match="AuthenticationError") as caught:
                await broker.find(order(fake))
            assert not caught.value.retryable
    assert not fake.orders


async def test_markets_that_cannot_be_loaded(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.behavior.server_errors = 1
    with pytest.raises(BrokerUnavailableError):
        await broker.open(order(fake))

    async def odd() -> Any:
        raise exchange._errors.ExchangeError("cannot make sense of it")

    with monkeypatch.context() as patched:
        patched.setattr(exchange._ccxt, "load_markets", odd)
        with pytest.raises(OrderRejectedError, match="not sent"):
            await broker.open(order(fake))
    assert (await broker.open(order(fake))).status == "filled"


async def test_no_credentials(fake: FakeExchange) -> None:
    options = {name: value for name, value in fake.options.items() if name != "secret"}
    async with CcxtExchange("binance", options) as exchange:
        with pytest.raises(OrderRejectedError, match="AuthenticationError"):
            await CcxtBroker(exchange).open(order(fake))


async def test_an_order_is_sent_again_after_a_rate_limit(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, pauses: Pauses
) -> None:
    await exchange.market("BTCUSDT")
    fake.behavior.rate_limit, fake.behavior.retry_after = 2, 3
    assert (await broker.open(order(fake))).status == "filled"
    assert pauses == [3.0, 3.0]
    assert len(fake.orders) == 1


async def test_pauses_grow_where_none_is_named(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, pauses: Pauses
) -> None:
    await exchange.market("BTCUSDT")
    fake.behavior.rate_limit, fake.behavior.retry_after = 4, 0
    await broker.open(order(fake))
    assert pauses == [0.5, 1.0, 2.0, 4.0]


async def test_a_rate_limit_beyond_the_deadline(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange
) -> None:
    await exchange.market("BTCUSDT")
    fake.behavior.rate_limit, fake.behavior.retry_after = 1, 600
    with pytest.raises(BrokerUnavailableError, match="left alone"):
        await broker.open(order(fake))
    asked = len(fake.requests)
    with pytest.raises(BrokerUnavailableError, match="left alone"):
        await broker.find(order(fake))
    assert len(fake.requests) == asked


@pytest.mark.parametrize("hang", [False, True])
@pytest.mark.parametrize("lost", ["lose_requests", "lose_replies"])
async def test_an_order_that_is_lost(fake: FakeExchange, lost: str, hang: bool) -> None:
    async with CcxtExchange("binance", fake.options, timeout_seconds=60) as exchange:
        await exchange.market("BTCUSDT")
        broker, wish = CcxtBroker(exchange), order(fake)
        setattr(fake.behavior, lost, 1)
        fake.behavior.hang = hang
        if hang:
            exchange._timeout = 2  # the order has arrived by then
        with pytest.raises(BrokerUnavailableError) as caught:
            await broker.open(wish)
        assert caught.value.retryable
        patient(exchange)
        found = await broker.find(wish)
        if lost == "lose_requests":
            assert found is None
        else:
            assert found is not None
            assert (found.status, found.filled) == ("filled", 0.5)
        assert fake.requests.count("POST /api/v3/order") == 1


@pytest.mark.parametrize("trouble", ["fail_replies", "break_replies", "server_errors"])
async def test_an_answer_that_says_nothing(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, trouble: str
) -> None:
    await exchange.market("BTCUSDT")
    setattr(fake.behavior, trouble, 1)
    with pytest.raises(BrokerUnavailableError):
        await broker.open(order(fake))
    assert (await broker.find(order(fake)) is None) == (trouble == "server_errors")


@pytest.mark.parametrize("trouble", ["mute", "server_errors", "rate_limit"])
async def test_an_order_is_not_called_absent_without_an_answer(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, trouble: str
) -> None:
    await exchange.market("BTCUSDT")
    fake.behavior.retry_after = 60
    for call in (broker.find, broker.cancel):
        exchange._quiet_until = 0.0
        setattr(fake.behavior, trouble, 2)  # aiohttp asks once more over a new connection
        with pytest.raises(BrokerUnavailableError):
            await call(order(fake))
        setattr(fake.behavior, trouble, 0)


@pytest.mark.parametrize("trouble", ["server_errors", "rate_limit"])
async def test_a_doubtful_refusal_that_cannot_be_looked_into(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await exchange.market("BTCUSDT")
    fake.behavior.retry_after = 60

    async def odd(*values: Any) -> Any:
        setattr(fake.behavior, trouble, 1)
        raise exchange._errors.ExchangeError("cannot make sense of it")

    monkeypatch.setattr(exchange._ccxt, "create_order", odd)
    with pytest.raises(BrokerUnavailableError, match="looking for it"):
        await broker.open(order(fake))


async def test_a_short_answer_is_completed(fake: FakeExchange, broker: CcxtBroker) -> None:
    fake.behavior.short_replies = True
    state = await broker.open(order(fake))
    assert state == OrderState("a1", "filled", 0.5, 100.0, pytest.approx(0.05), "1000")
    assert fake.requests.count("GET /api/v3/order") == 1


async def test_an_accepted_order_is_never_called_refused(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_yet(*values: Any) -> Any:
        raise exchange._errors.OrderNotFound("not yet")

    monkeypatch.setattr(exchange._ccxt, "fetch_order", not_yet)
    fake.behavior.short_replies = True
    with pytest.raises(BrokerUnavailableError, match="not yet"):
        await broker.open(order(fake))


async def test_a_known_id_is_looked_up(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange
) -> None:
    fake.behavior.fill_share, fake.behavior.rest = 0.4, "open"
    state = await broker.open(order(fake))
    assert await broker.open(order(fake)) == state
    assert len(fake.orders) == 1


async def test_a_refusal_without_a_name_is_looked_into(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = exchange._ccxt.create_order

    async def odd(*values: Any) -> Any:
        await create(*values)
        raise exchange._errors.ExchangeError("cannot make sense of it")

    monkeypatch.setattr(exchange._ccxt, "create_order", odd)
    assert (await broker.open(order(fake))).status == "filled"


async def test_trades_that_come_late_are_waited_for(
    fake: FakeExchange, broker: CcxtBroker, pauses: Pauses
) -> None:
    fake.behavior.fee_in = "base"
    await broker.open(order(fake))
    fake.behavior.hide_trades = 2
    found = await broker.find(order(fake))
    assert found is not None
    assert found.filled == 0.4995
    assert pauses == [0.5, 1.0]
    fake.behavior.hide_trades = 100
    with pytest.raises(BrokerUnavailableError, match="all trades"):
        await broker.find(order(fake))


@pytest.mark.parametrize(
    "missing",
    [
        [],
        ["fetchOrders"],
        ["fetchOrders", "fetchCanceledOrders"],
        ["fetchOrders", "fetchCanceledOrders", "fetchClosedOrders"],
    ],
    ids=["all", "two lists", "one list", "trades"],
)
async def test_an_order_is_found_in_lists(
    fake: FakeExchange,
    broker: CcxtBroker,
    exchange: CcxtExchange,
    monkeypatch: pytest.MonkeyPatch,
    missing: list[str],
) -> None:
    monkeypatch.setattr(ccxt_exchange, "_FIND_BY_CLIENT_ID", ())
    exchange._ccxt.has.update(dict.fromkeys(missing, False))
    states = []
    for name, share, rest in (("a1", 1.0, ""), ("a2", 0.4, "cancel"), ("a3", 0.4, "open")):
        fake.behavior.fill_share, fake.behavior.rest = share, rest
        states.append(await broker.open(order(fake, name)))
    assert [await broker.find(order(fake, name)) for name in ("a1", "a2", "a3")] == states
    assert await broker.find(order(fake, "a4")) is None


async def test_what_cannot_be_looked_for_is_not_called_absent(
    fake: FakeExchange,
    broker: CcxtBroker,
    exchange: CcxtExchange,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ccxt_exchange, "_FIND_BY_CLIENT_ID", ())
    has = exchange._ccxt.has
    has.update({name: False for name in has if name.startswith("fetch") and "Order" in name})
    with pytest.raises(BrokerError, match="cannot look for"):
        await broker.find(order(fake))


async def test_contracts_are_only_reduced(fake: FakeExchange, broker: CcxtBroker) -> None:
    symbol = "BTC/USDT:USDT"
    opened = await broker.open(order(fake, symbol=symbol))
    assert (opened.filled, opened.price, opened.fee) == (0.5, 100.0, pytest.approx(0.05))
    closed = await broker.close(order(fake, "a2", 0.5, "sell", symbol))
    assert closed.status == "filled"
    assert [each["reduceOnly"] for each in fake.orders.values()] == [False, True]
    assert await broker.find(order(fake, "a2", 0.5, "sell", symbol)) == closed
    await broker.close(order(fake, "a3", 0.5, "sell"))
    assert fake.orders[1002]["reduceOnly"] is False


async def test_a_contract_may_be_a_part_of_a_coin(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange
) -> None:
    symbol = "BTC/USDT:USDT"
    (await exchange.market(symbol))["contractSize"] = 0.01
    state = await broker.open(order(fake, symbol=symbol))
    assert fake.orders[1000]["amount"] == 50
    assert state.filled == 0.5


async def test_inverse_contracts_are_refused(
    fake: FakeExchange, broker: CcxtBroker, exchange: CcxtExchange
) -> None:
    (await exchange.market("BTC/USDT:USDT"))["inverse"] = True
    with pytest.raises(InvalidArgumentError, match="inverse"):
        await broker.open(order(fake, symbol="BTC/USDT:USDT"))


async def test_no_call_is_made_after_closing(fake: FakeExchange, broker: CcxtBroker) -> None:
    await broker.open(order(fake))
    await broker.close_connections()
    with pytest.raises(ClosedError):
        await broker.find(order(fake))


async def test_cancellation_passes_through(fake: FakeExchange, broker: CcxtBroker) -> None:
    await broker.find(order(fake))
    fake.behavior.lose_replies, fake.behavior.hang = 1, True
    task = asyncio.create_task(broker.open(order(fake)))
    while not fake.orders:  # noqa: ASYNC110  # the fake has no event to wait for
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await broker.find(order(fake)) is not None


async def test_nothing_secret_is_shown(
    fake: FakeExchange, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    options = {**fake.options, "verbose": True}
    async with CcxtExchange("binance", options) as exchange:
        broker = CcxtBroker(exchange)
        shown += [
            repr(exchange),
            repr(broker),
            repr(feed(exchange)),
            str(await broker.find(order(fake))),
        ]
        for name, value in (
            ("lose_replies", 1),
            ("break_replies", 1),
            ("fail_replies", 1),
            ("server_errors", 1),
            ("reject", "lot"),
        ):
            setattr(fake.behavior, name, value)
            for call in (broker.open, broker.find):
                wish = order(fake, name.replace("_", ""))
                (error,) = await asyncio.gather(call(wish), return_exceptions=True)
                if isinstance(error, BaseException):
                    assert isinstance(error, BrokerError)
                    shown += traceback.format_exception(error)
                    while error is not None:
                        assert error.__cause__ is None
                        shown.append(repr(error))
                        error = error.__context__
        shown.append(exchange._said(exchange._errors.ExchangeError(f"{KEY} x?a=1&signature=ff")))
    with pytest.raises(ConfigurationError) as caught:
        CcxtExchange("binance", {"apiKey": KEY, "secret": SECRET, "options": 5})
    shown += traceback.format_exception(caught.value)
    captured = capsys.readouterr()
    everything = "\n".join([*shown, caplog.text, captured.out, captured.err])
    assert "OrderRejectedError" in everything
    assert "BrokerUnavailableError" in everything
    for secret in (KEY, SECRET, "signature=", "timestamp="):
        assert secret not in everything


# The fake as a process of its own.


async def test_the_process_outlives_its_clients() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(fake_exchange.__file__)), "--print-url", "--generate",
        "--before", "3", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()

        def control(wishes: dict[str, Any] | None = None) -> dict[str, Any]:
            body = None if wishes is None else json.dumps(wishes).encode()
            with urllib.request.urlopen(f"{url}/control", body, timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return found

        await asyncio.to_thread(control, {"price": 100.0, "fill_share": 0.4, "rest": "open"})
        wish = Order("p1", "BTCUSDT", "buy", 0.5, 100.0, 0)
        async with CcxtExchange("binance", fake_exchange.options(url)) as exchange:
            assert (await CcxtBroker(exchange).open(wish)).status == "open"
        state = await asyncio.to_thread(control, {"fill": "p1"})
        assert (state["candles"], state["orders"][0]["filled"]) == (3, 0.5)
        async with CcxtExchange("binance", fake_exchange.options(url)) as exchange:
            found = await CcxtBroker(exchange).find(wish)
            assert found is not None
            assert (found.status, found.filled) == ("filled", 0.5)
    finally:
        process.terminate()
        assert await process.wait() == 0
