"""Candles and orders of an exchange that the library ccxt knows.

Needs the extra ``ccxt``. Messages name what an exchange has said without query strings and without
the options, and ccxt's own errors are not kept as causes: their texts hold signed URLs.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from decimal import Decimal
from enum import Enum
from math import ceil, isfinite
from typing import Any, Final
from urllib.parse import quote

from ..deadlines import time_limit
from ..domains import CANDLE_FIELDS, CANDLE_FIGURES, INTERVAL_STEP_MS
from ..errors import ClosedError, ConfigurationError, FastPersistError, InvalidArgumentError
from ..hot.columns import CandleColumns, columns_from_rows
from ..payloads import interval_step
from ..times import now_ms
from .broker import (
    BrokerError,
    BrokerUnavailableError,
    Order,
    OrderRejectedError,
    OrderState,
    OrderStatus,
)
from .clock import Clock
from .position import Bar
from .stream import FeedUnavailableError, polled

__all__ = ["CcxtBroker", "CcxtExchange", "CcxtFeed"]

_logger = logging.getLogger("fastpersist.runner.ccxt")
# At this level ccxt writes signed URLs and the key.
_logger.addFilter(lambda record: record.levelno > logging.DEBUG)

_FIRST_PAUSE: Final = 0.5
_MOST_PAUSE: Final = 8.0
_PAGE: Final = 500
_MOST_PAGES: Final = 20
_LOOK_BACK_MS: Final = 3_600_000
_SETTLED_MS: Final = 10_000
_SETTLE_PAUSE: Final = 1.0
_TEXT: Final = 200
_SHORTEST_SECRET: Final = 4
_LIMIT_STATUSES: Final = (418, 429)
_ALMOST: Final = Decimal("0.999999999")
_CREDENTIALS: Final = (
    "apiKey", "secret", "password", "uid", "login", "twofa", "token", "accountId", "privateKey",
    "walletAddress",
)  # fmt: skip
_QUERY: Final = re.compile(r"\?\S*")
_SIGNED: Final = re.compile(r"(?i)\b(signature|sign|api_?key|secret|token)=[^&\s]+")
# Whose fetch_order takes a client order id and definitely says when there is no such order.
_FIND_BY_CLIENT_ID: Final = ("binance", "binanceus", "binanceusdm", "binancecoinm")
_STATUSES: Final[dict[str, OrderStatus]] = {
    "open": "open",
    "canceling": "open",
    "closed": "filled",
    "canceled": "canceled",
    "expired": "canceled",
    "rejected": "canceled",
}


class _Kind(Enum):
    REFUSED = "refused"
    """The exchange has definitely not done it."""
    DOUBTFUL = "doubtful"
    """It looks like a refusal, but one that ccxt has no name for."""
    ABSENT = "absent"
    DUPLICATE = "duplicate"
    BAD_SYMBOL = "bad symbol"
    LIMITED = "limited"
    """Asked too often or at a wrong time: not done, and may be asked again."""
    UNKNOWN = "unknown"


class _FailureError(Exception):
    def __init__(self, kind: _Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class _Answer:
    """What a response says outside of its body; None as long as there is none."""

    status: int | None = None
    retry_after: float = 0.0


_answer: ContextVar[_Answer | None] = ContextVar("fastpersist_ccxt_answer", default=None)


class CcxtExchange:
    """An exchange of ccxt, shared by the feeds and the broker of one event loop.

    Args:
        exchange_id: As ccxt names it, for example ``binance``.
        options: What ccxt's class takes: ``apiKey``, ``secret``, ``options`` and so on. They are
            never shown. ``verbose`` and ccxt's own retries are switched off: the one would print
            them, the other could send an order twice.
        timeout_seconds: How long each call of a feed or a broker may take.
        clock_seconds: How long a reading of the exchange's clock is used.
        sleep: Waits before something is asked again, in seconds.

    Attributes:
        name: The exchange's id.

    Raises:
        ConfigurationError: ccxt is not installed, knows no such exchange or refuses the options.
    """

    def __init__(
        self,
        exchange_id: str,
        options: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float = 10.0,
        clock_seconds: float = 60.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not 0 < timeout_seconds < float("inf"):
            raise InvalidArgumentError(
                "timeout_seconds", f"must be finite and above 0, got {timeout_seconds!r:.20}"
            )
        try:
            library: Any = importlib.import_module("ccxt.async_support")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "ccxt":
                raise
            raise ConfigurationError(
                "ccxt", "is not installed", hint="pip install 'fastpersist[ccxt]'"
            ) from None
        if exchange_id not in library.exchanges:
            raise ConfigurationError("exchange", f"ccxt has none named {exchange_id!r:.40}")
        self.name = exchange_id
        self._errors: Any = importlib.import_module("ccxt.base.errors")
        self._timeout = timeout_seconds
        self._clock_seconds = clock_seconds
        self._sleep = sleep
        given = {**(options or {}), "verbose": False, "logger": _logger}
        given["timeout"] = round(timeout_seconds * 1000)
        self._secrets = _secrets(given)
        trouble = ""
        try:
            self._ccxt: Any = getattr(library, exchange_id)(given)
        except Exception as error:
            trouble = self._said(error)
        if trouble:
            raise ConfigurationError("options", f"{exchange_id} does not take them: {trouble}")
        self._wanted_type = _market_type((given.get("options") or {}).get("defaultType"))
        self._ccxt.options["maxRetriesOnFailure"] = 0
        self._hear_body = self._ccxt.on_rest_response
        self._ccxt.on_rest_response = self._hear
        self._loading = asyncio.Lock()
        self._names: dict[str, list[Any]] | None = None
        self._ahead: int | None = None
        self._read_at = self._quiet_until = 0.0
        self._is_closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    async def __aenter__(self) -> CcxtExchange:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back sockets; may be called again. Other calls raise ``ClosedError`` from now on."""
        if not self._is_closed:
            self._is_closed = True
            await self._ccxt.close()

    async def now(self) -> int:
        """Return the exchange's time in ms, never ahead of it; our own if it does not tell.

        Raises:
            FeedUnavailableError: The exchange did not answer.
        """
        try:
            return await self._now(self._ends())
        except _FailureError as failure:
            raise self._feed_error(failure) from None

    async def market(self, symbol: str) -> Any:
        """Return what ccxt knows about a symbol, by ccxt's name, the exchange's or ``BTCUSDT``.

        Spot goes before swaps, unless ``defaultType`` among ccxt's ``options`` says otherwise.

        Raises:
            InvalidArgumentError: No market has that name, or several have it.
            FeedUnavailableError: The exchange did not answer.
        """
        try:
            return await self._market(self._ends(), symbol)
        except _FailureError as failure:
            raise self._feed_error(failure) from None

    def _ends(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout

    def _has(self, ability: str) -> bool:
        return bool(self._ccxt.has.get(ability))

    def _most(self, market: Any, method: str, default: int) -> int:
        try:
            most = self._ccxt.feature_value(market["symbol"], method, "limit", default)
        except Exception:
            return default  # not every class of ccxt describes itself
        return most if isinstance(most, int) and most > 0 else default

    def _rounded_down(self, market: Any, amount: Decimal) -> Decimal:
        try:
            return Decimal(self._ccxt.amount_to_precision(market["symbol"], float(amount)))
        except self._errors.InvalidOrder:
            return Decimal(0)  # less than one step

    async def _now(self, ends: float) -> int:
        if not self._has("fetchTime"):
            return now_ms()
        if self._ahead is None or time.monotonic() - self._read_at > self._clock_seconds:
            await self._read_clock(ends)
        assert self._ahead is not None
        return int(time.monotonic() * 1000) + self._ahead

    async def _read_clock(self, ends: float) -> None:
        moment = await self._ask(ends, "fetch_time")
        if not isinstance(moment, int):
            raise _FailureError(_Kind.UNKNOWN, "it does not tell its time")
        # Taken when the answer is there, so that a slow line makes us late and not early; carried
        # on by a clock that nobody sets.
        self._read_at = time.monotonic()
        self._ahead = moment - ceil(self._read_at * 1000)
        if "timeDifference" in self._ccxt.options:
            self._ccxt.options["timeDifference"] = now_ms() - moment

    async def _market(self, ends: float, symbol: str) -> Any:
        await self._ready(ends)
        assert self._names is not None
        known = self._ccxt.markets.get(symbol)
        if known is not None:
            return known
        found = self._names.get(symbol) or self._names.get(_plain(symbol)) or []
        for is_better in (
            lambda market: market.get("active") is not False,
            lambda market: market["type"] == (self._wanted_type or "spot"),
            lambda market: market.get("linear"),
        ):
            if len(found) > 1:
                found = list(filter(is_better, found)) or found
        if len(found) == 1:
            return found[0]
        if found:
            names = sorted(market["symbol"] for market in found)
            raise InvalidArgumentError(
                "symbol",
                f"{symbol!r:.40} is ambiguous on {self.name}",
                hint=f"name one of {', '.join(names[:8])}",
            )
        raise InvalidArgumentError("symbol", f"{self.name} has no market {symbol!r:.40}")

    async def _ready(self, ends: float) -> None:
        if self._names is not None:
            return
        try:
            async with time_limit(ends - asyncio.get_running_loop().time()):
                await self._loading.acquire()
        except asyncio.TimeoutError:
            raise _FailureError(_Kind.UNKNOWN, "its markets are still being loaded") from None
        try:
            if self._names is None:
                await self._now(ends)  # loading may sign requests, which carry the time
                await self._ask(ends, "load_markets")
                self._names = _named(self._ccxt.markets.values())
        finally:
            self._loading.release()

    async def _ask(self, ends: float, method: str, *values: Any) -> Any:
        """Return what a method of ccxt's class gives, in time.

        Raises:
            _FailureError: It has not; nothing is left running.
        """
        loop = asyncio.get_running_loop()
        pause, clock_is_read = _FIRST_PAUSE, method == "fetch_time"
        wait = self._quiet_until - loop.time()
        while True:
            if self._is_closed:
                raise ClosedError(f"{self.name} was closed before this call")
            if wait > 0:
                if loop.time() + wait >= ends:
                    raise _FailureError(_Kind.LIMITED, f"it wants to be left alone for {wait:g} s")
                await self._sleep(wait)
            if loop.time() >= ends:
                raise _FailureError(_Kind.UNKNOWN, f"no answer within {self._timeout:g} s")
            answer = _Answer()
            is_late = False
            token = _answer.set(answer)
            try:
                async with time_limit(ends - loop.time()):
                    return await getattr(self._ccxt, method)(*values)
            except asyncio.TimeoutError:
                failure = _FailureError(_Kind.UNKNOWN, f"no answer within {self._timeout:g} s")
            except Exception as error:
                failure = self._judged(error, answer)
                is_late = isinstance(error, self._errors.InvalidNonce)
            finally:
                _answer.reset(token)
            # Raised out here, it does not carry ccxt's error along as its context.
            if failure.kind is not _Kind.LIMITED:
                raise failure
            if is_late and not clock_is_read:
                clock_is_read, wait = True, 0.0
                await self._read_clock(ends)
                continue
            wait = max(pause, answer.retry_after)
            pause = min(2 * pause, _MOST_PAUSE)
            self._quiet_until = max(self._quiet_until, loop.time() + wait)

    def _hear(self, code: int, reason: Any, url: Any, method: Any, headers: Any, *rest: Any) -> Any:
        answer = _answer.get()
        if answer is not None:
            answer.status = code
            for name, value in headers.items():
                if name.lower() == "retry-after" and value.strip().isdigit():
                    answer.retry_after = float(value)
        return self._hear_body(code, reason, url, method, headers, *rest)

    def _judged(self, error: Exception, answer: _Answer) -> _FailureError:
        errors, status, said = self._errors, answer.status, self._said(error)
        limited = (errors.RateLimitExceeded, errors.DDoSProtection, errors.InvalidNonce)
        if status in _LIMIT_STATUSES or (isinstance(error, limited) and (status or 0) < 500):
            kind = _Kind.LIMITED
        elif (status or 0) >= 500 or status == 408 or "status unknown" in said.lower():
            kind = _Kind.UNKNOWN
        elif isinstance(error, errors.OrderNotFound):
            kind = _Kind.ABSENT
        elif isinstance(error, errors.DuplicateOrderId) or (
            isinstance(error, errors.ExchangeError) and "duplicate" in said.lower()
        ):
            kind = _Kind.DUPLICATE  # not every class of ccxt gives it that name
        elif isinstance(error, errors.BadSymbol):
            kind = _Kind.BAD_SYMBOL
        elif not isinstance(error, errors.ExchangeError):
            kind = _Kind.UNKNOWN
        elif type(error) is errors.ExchangeError:
            # Also what ccxt makes of a reply that breaks off, and of one that it cannot read.
            kind = _Kind.DOUBTFUL if error.__cause__ is None else _Kind.UNKNOWN
        else:
            kind = _Kind.REFUSED
        return _FailureError(kind, said)

    def _said(self, error: Exception) -> str:
        """Return the text of an error without anything that is secret."""
        if not isinstance(error, self._errors.BaseError):
            return type(error).__name__  # its text may quote anything
        text = " ".join(str(error).split())
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = _SIGNED.sub(r"\1=***", _QUERY.sub("?...", text))
        return f"{type(error).__name__}: {text[:_TEXT]}"

    def _feed_error(self, failure: _FailureError) -> FastPersistError:
        if failure.kind is _Kind.BAD_SYMBOL:
            return InvalidArgumentError("symbol", f"{self.name}: {failure}")
        return FeedUnavailableError(f"{self.name}: {failure}")


class CcxtFeed:
    """The candles of one symbol on an exchange.

    Attributes:
        symbol, interval, exchange_name: What the candles belong to; the symbol as given.
        start: Opening time of the first candle of a run, ms.
        end: The moment before which its last candle opens, ms.

    Args:
        exchange_name: How a run names the exchange, by default as ccxt does.

    Raises:
        InvalidArgumentError: The interval is unknown, or the range runs backwards.
    """

    def __init__(
        self, exchange: CcxtExchange, symbol: str, interval: str, start: int, end: int,
        exchange_name: str | None = None,
    ) -> None:  # fmt: skip
        interval_step(interval)
        if end <= start:
            raise InvalidArgumentError("end", f"{end} is not later than the start {start}")
        self.symbol = symbol
        self.interval = interval
        self.exchange_name = exchange.name if exchange_name is None else exchange_name
        self.start = start
        self.end = end
        self._exchange = exchange

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._exchange!r}, {self.symbol!r}, {self.interval!r})"

    async def window(self, start: int, end: int) -> CandleColumns:
        """Return the closed candles that open from `start` to before `end`, ms, in their order.

        What has closed is told by the exchange's clock, read before it is asked for candles. Those
        with a figure that is no number are left out.

        Raises:
            InvalidArgumentError: The exchange has no such symbol or no such interval.
            FeedUnavailableError: It did not answer, or not in time; each page has a deadline.
        """
        exchange = self._exchange
        try:
            return await self._window(start, end)
        except _FailureError as failure:
            raise exchange._feed_error(failure) from None

    def stream(self, since: int, clock: Clock) -> AsyncGenerator[Bar, None]:
        """Give the candles that open from `since` (ms) on, asked for as they close."""
        return polled(self, since, clock)

    async def _window(self, start: int, end: int) -> CandleColumns:
        exchange, step = self._exchange, INTERVAL_STEP_MS[self.interval]
        market = await exchange._market(exchange._ends(), self.symbol)
        if self.interval not in (exchange._ccxt.timeframes or {}):
            raise InvalidArgumentError(
                "interval", f"{exchange.name} has no candles of {self.interval}"
            )
        page = exchange._most(market, "fetchOHLCV", _PAGE)
        candles: dict[int, Mapping[str, float]] = {}
        place = start
        while True:
            ends = exchange._ends()
            stop = min(end, await exchange._now(ends) - step + 1)
            if place >= stop:
                break
            # One more, as some exchanges give the candle that `place` is in.
            limit = min(page, -(-(stop - place) // step) + 1)
            rows = await exchange._ask(
                ends, "fetch_ohlcv", market["symbol"], self.interval, place, limit
            )
            last = place
            for row in rows or ():
                figures = [figure for value in row[1:6] if (figure := _figure(value)) is not None]
                moment = int(row[0])
                last = max(last, moment)
                if start <= moment < stop and len(figures) == len(CANDLE_FIGURES):
                    candles[moment] = dict(zip(CANDLE_FIELDS, (moment, *figures), strict=True))
            # A page without anything new: no trades for so long, or the line's end.
            place = last + step if last > place or place in candles else place + limit * step
        return columns_from_rows([candles[moment] for moment in sorted(candles)])


class CcxtBroker:
    """Market orders on an exchange.

    Args:
        exchange: Where it trades. ``close_connections`` closes it, and so every feed of it.
    """

    def __init__(self, exchange: CcxtExchange) -> None:
        self._exchange = exchange

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._exchange!r})"

    async def open(self, order: Order) -> OrderState:
        """Open a position, or add to one; the amount is rounded down to the exchange's steps.

        Raises:
            OrderRejectedError: The exchange has refused it, or it is too small to be sent.
            BrokerUnavailableError: What has become of it is unknown.
            InvalidArgumentError: The exchange has no such symbol, or it is an inverse contract.
        """
        return await self._place(order, is_close=False)

    async def close(self, order: Order) -> OrderState:
        """Close a position, or a part of it; contracts are only ever reduced.

        Raises:
            BrokerError: As ``open``.
        """
        return await self._place(order, is_close=True)

    async def find(self, order: Order) -> OrderState | None:
        """Return the state of an order by its client order id.

        None means that the exchange definitely knows no such order.

        Raises:
            BrokerUnavailableError: It did not answer, or the answer does not tell.
            BrokerError: It has refused to answer.
        """
        exchange = self._exchange
        ends = exchange._ends()
        try:
            market = await self._market(ends, order.symbol)
            return await self._found(ends, market, order)
        except _FailureError as failure:
            raise self._error(failure, f"order {order.client_order_id}") from None

    async def cancel(self, order: Order) -> OrderState:
        """Take back what is not filled; a final order stays as it is.

        One that the exchange does not know is told as canceled with nothing filled.

        Raises:
            BrokerError: As ``find``.
        """
        ends = self._exchange._ends()
        try:
            market = await self._market(ends, order.symbol)
            return await self._canceled(ends, market, order)
        except _FailureError as failure:
            raise self._error(failure, f"cancel {order.client_order_id}") from None

    async def open_orders(self, symbol: str) -> Sequence[OrderState]:
        """Return all orders of `symbol` that may still be filled.

        Raises:
            BrokerError: As ``find``.
        """
        exchange = self._exchange
        ends = exchange._ends()
        try:
            market = await self._market(ends, symbol)
            rows = await exchange._ask(ends, "fetch_open_orders", market["symbol"])
            return [await self._state(ends, market, row) for row in rows]
        except _FailureError as failure:
            raise self._error(failure, f"open orders of {symbol}") from None

    async def close_connections(self) -> None:
        """Close the exchange."""
        await self._exchange.close()

    def _error(self, failure: _FailureError, what: str) -> BrokerError:
        text = f"{self._exchange.name}: {what}: {failure}"
        if failure.kind in (_Kind.UNKNOWN, _Kind.LIMITED):
            return BrokerUnavailableError(text)
        return BrokerError(text)

    async def _market(self, ends: float, symbol: str) -> Any:
        market = await self._exchange._market(ends, symbol)
        if market.get("inverse"):
            raise InvalidArgumentError(
                "symbol", f"{symbol!r:.40} is an inverse contract, which is not traded here"
            )
        return market

    async def _place(self, order: Order, is_close: bool) -> OrderState:
        exchange, what = self._exchange, f"order {order.client_order_id}"
        ends = exchange._ends()
        params: dict[str, Any] = {"clientOrderId": order.client_order_id}
        try:
            market = await self._market(ends, order.symbol)
        except _FailureError as failure:
            if failure.kind in (_Kind.UNKNOWN, _Kind.LIMITED):
                raise self._error(failure, what) from None
            raise OrderRejectedError(f"{exchange.name}: {what}: not sent: {failure}") from None
        if is_close and market.get("contract"):
            params["reduceOnly"] = True
        amount = self._amount(market, order, "reduceOnly" in params)
        price = None
        if (
            market.get("spot")
            and order.side == "buy"
            and exchange._ccxt.options.get("createMarketBuyOrderRequiresPrice")
        ):
            price = order.price  # such an exchange is told the value of what is bought
        try:
            raw = await exchange._ask(
                ends, "create_order", market["symbol"], "market", order.side, float(amount),
                price, params,
            )  # fmt: skip
        except _FailureError as failure:
            if failure.kind in (_Kind.UNKNOWN, _Kind.LIMITED):
                raise self._error(failure, what) from None
            if failure.kind not in (_Kind.DUPLICATE, _Kind.DOUBTFUL):
                raise OrderRejectedError(f"{exchange.name}: {what}: {failure}") from None
            refusal = failure
        else:
            return await self._placed(ends, market, order, raw)
        try:
            found = await self._found(ends, market, order)
        except _FailureError as failure:
            raise BrokerUnavailableError(
                f"{exchange.name}: {what}: {refusal}; looking for it: {failure}"
            ) from None
        if found is not None:
            return found
        if refusal.kind is _Kind.DUPLICATE:
            raise BrokerUnavailableError(f"{exchange.name}: {what}: {refusal}")
        raise OrderRejectedError(f"{exchange.name}: {what}: {refusal}")

    async def _placed(self, ends: float, market: Any, order: Order, raw: Any) -> OrderState:
        exchange, what = self._exchange, f"order {order.client_order_id}"
        try:
            if not isinstance(raw, dict):
                raise _FailureError(_Kind.UNKNOWN, "its answer cannot be read")
            is_over = raw.get("status") in ("canceled", "expired", "rejected")
            if raw.get("status") is None or not (is_over or _price(raw, market)):
                raw = await self._again(ends, market, order, raw)
            if raw is None:
                raise _FailureError(_Kind.UNKNOWN, "it does not know it yet")
            state = await self._state(ends, market, raw, order)
        except _FailureError as failure:
            # It has been accepted: whatever goes wrong here is no refusal of it.
            raise BrokerUnavailableError(f"{exchange.name}: {what}: {failure}") from None
        if raw["status"] == "rejected" and not state.filled:
            raise OrderRejectedError(f"{exchange.name}: {what}: rejected")
        return state

    def _amount(self, market: Any, order: Order, is_reduced: bool) -> Decimal:
        exchange, size = self._exchange, _contract_size(market)
        # What is less than a step by a rounding error is the step.
        wanted = Decimal(f"{order.amount:.12g}") / size
        amount = exchange._rounded_down(market, wanted)
        limits = market.get("limits") or {}
        least = max(
            _number((limits.get(name) or {}).get("min")) or Decimal(0)
            for name in ("amount", "market")
        )
        if amount <= 0 or amount < least:
            raise OrderRejectedError(
                f"{exchange.name}: order {order.client_order_id}: {order.amount:g} of "
                f"{order.symbol} is less than the least amount of {float(least * size):g}",
                is_too_small=True,
            )
        least = _number((limits.get("cost") or {}).get("min")) or Decimal(0)
        if not is_reduced and 0 < amount * size * Decimal(str(order.price)) < least:
            raise OrderRejectedError(
                f"{exchange.name}: order {order.client_order_id}: {order.amount:g} of "
                f"{order.symbol} is worth less than the least value of {float(least):g}",
                is_too_small=True,
            )
        return amount

    async def _again(self, ends: float, market: Any, order: Order, raw: Any) -> Any:
        exchange = self._exchange
        if raw.get("id") and exchange._has("fetchOrder"):
            return await exchange._ask(ends, "fetch_order", raw["id"], market["symbol"])
        return await self._looked_up(ends, market, order)

    async def _found(self, ends: float, market: Any, order: Order) -> OrderState | None:
        raw = await self._looked_up(ends, market, order)
        return None if raw is None else await self._state(ends, market, raw, order)

    async def _looked_up(self, ends: float, market: Any, order: Order) -> Any:
        """Return an order as ccxt tells it, None if it is definitely not there."""
        exchange = self._exchange
        raw = await self._looked_up_once(ends, market, order)
        if raw is None and abs(now_ms() - order.sent_at) < _SETTLED_MS:
            # Exchanges may know of an order a moment later than they have accepted it.
            if asyncio.get_running_loop().time() + _SETTLE_PAUSE >= ends:
                raise _FailureError(_Kind.UNKNOWN, "not there, but too young to be missing")
            await exchange._sleep(_SETTLE_PAUSE)
            raw = await self._looked_up_once(ends, market, order)
        return raw

    async def _looked_up_once(self, ends: float, market: Any, order: Order) -> Any:
        exchange, symbol, name = self._exchange, market["symbol"], order.client_order_id
        try:
            if exchange._has("fetchOrderWithClientOrderId"):
                return await exchange._ask(ends, "fetch_order_with_client_order_id", name, symbol)
            if exchange.name in _FIND_BY_CLIENT_ID:
                return await exchange._ask(ends, "fetch_order", "", symbol, {"clientOrderId": name})
        except _FailureError as failure:
            if failure.kind is _Kind.ABSENT:
                return None
            raise
        return await self._searched(ends, market, order)

    async def _searched(self, ends: float, market: Any, order: Order) -> Any:
        """Look through lists; an order that is in none, not open and without trades is not there.

        Lists of closed and canceled orders do not make up all past ones: expired ones may be in
        neither.
        """
        exchange = self._exchange
        if not exchange._has("fetchOpenOrders") and not exchange._has("fetchOrders"):
            raise _FailureError(_Kind.REFUSED, "ccxt cannot look for orders there")
        if exchange._has("fetchOpenOrders"):
            rows = await exchange._ask(ends, "fetch_open_orders", market["symbol"])
            if (found := _named_order(rows, order)) is not None:
                return found
        # Our clock may have been ahead when the order was sent.
        since = min(order.sent_at, await exchange._now(ends)) - _LOOK_BACK_MS
        has_all = exchange._has("fetchOrders")
        for name in ["fetchOrders"] if has_all else ["fetchClosedOrders", "fetchCanceledOrders"]:
            if exchange._has(name):
                rows = await self._pages(ends, market, name, since)
                if (found := _named_order(rows, order)) is not None:
                    return found
        return None if has_all else await self._searched_by_trades(ends, market, order, since)

    async def _searched_by_trades(self, ends: float, market: Any, order: Order, since: int) -> Any:
        exchange = self._exchange
        if not exchange._has("fetchMyTrades") or not exchange._has("fetchOrder"):
            raise _FailureError(_Kind.REFUSED, "ccxt cannot look for past orders there")
        trades = await self._pages(ends, market, "fetchMyTrades", since)
        for order_id in dict.fromkeys(
            trade["order"] for trade in trades if trade.get("side") in (order.side, None)
        ):
            if order_id is None:
                raise _FailureError(_Kind.UNKNOWN, "trades there do not name their orders")
            raw = await exchange._ask(ends, "fetch_order", order_id, market["symbol"])
            if _named_order([raw], order) is not None:
                return raw
        return None

    async def _pages(self, ends: float, market: Any, name: str, since: int) -> list[Any]:
        """Return all rows of a list since a moment; a page without new ones is the last."""
        method = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
        limit = self._exchange._most(market, name, _PAGE)
        found: dict[Any, Any] = {}
        for _ in range(_MOST_PAGES):
            rows = await self._exchange._ask(ends, method, market["symbol"], since, limit)
            fresh = {row["id"]: row for row in rows if row["id"] not in found}
            if not fresh:
                return list(found.values())
            found.update(fresh)
            since = max([since, *(row["timestamp"] or 0 for row in fresh.values())])
        raise _FailureError(_Kind.UNKNOWN, f"{name} does not come to an end")

    async def _canceled(self, ends: float, market: Any, order: Order) -> OrderState:
        exchange, pause = self._exchange, _FIRST_PAUSE
        state = await self._found(ends, market, order)
        if state is None:
            return OrderState(order.client_order_id, "canceled", 0.0, 0.0)
        if state.status != "open":
            return state
        refusal: _FailureError | None = None
        try:
            await exchange._ask(ends, "cancel_order", state.order_id, market["symbol"])
        except _FailureError as failure:
            if failure.kind in (_Kind.UNKNOWN, _Kind.LIMITED):
                raise
            refusal = failure  # perhaps it was filled meanwhile
        while True:
            found = await self._found(ends, market, order)
            if found is not None and found.status != "open":
                return found
            if refusal is not None:
                raise refusal
            if asyncio.get_running_loop().time() + pause >= ends:
                raise _FailureError(_Kind.UNKNOWN, "it is not canceled yet")
            await exchange._sleep(pause)
            pause *= 2

    async def _state(
        self, ends: float, market: Any, raw: Any, order: Order | None = None
    ) -> OrderState:
        """Return what ccxt tells of an order, with the fees of its trades where it has none."""
        status = _STATUSES.get(raw.get("status"))
        filled, price = _number(raw.get("filled")), _price(raw, market)
        if status is None or filled is None or (filled and not price):
            raise _FailureError(_Kind.UNKNOWN, "its answer does not tell what was filled")
        if status == "filled" and not filled:
            raise _FailureError(_Kind.UNKNOWN, "it calls an order closed that has filled nothing")
        if filled and not _fee_entries(raw):
            base, quote = _fees(await self._trades(ends, market, raw, filled), market)
        else:
            base, quote = _fees([raw], market)
        client_order_id = order.client_order_id if order else raw.get("clientOrderId") or ""
        return OrderState(
            client_order_id, status, float(max(filled * _contract_size(market) - base, Decimal(0))),
            float(price), float(quote), str(raw.get("id") or ""),
        )  # fmt: skip

    async def _trades(self, ends: float, market: Any, raw: Any, filled: Decimal) -> list[Any]:
        """Return the trades of an order, all of them; none where ccxt cannot ask for them."""
        exchange, pause, symbol = self._exchange, _FIRST_PAUSE, market["symbol"]
        by_order = exchange._has("fetchOrderTrades") and bool(market.get("spot"))
        if not by_order and not exchange._has("fetchMyTrades"):
            return []
        since = raw.get("timestamp")
        while True:
            if by_order:
                limit = exchange._most(market, "fetchMyTrades", _PAGE)
                rows: list[Any] = await exchange._ask(
                    ends, "fetch_order_trades", raw["id"], symbol, None, limit
                )
            else:
                rows = await self._pages(
                    ends, market, "fetchMyTrades", (since or now_ms()) - _LOOK_BACK_MS
                )
                rows = [trade for trade in rows if trade.get("order") == raw["id"]]
            traded = sum((_number(trade.get("amount")) or Decimal(0) for trade in rows), Decimal(0))
            if traded >= filled * _ALMOST:
                return rows
            if asyncio.get_running_loop().time() + pause >= ends:
                raise _FailureError(_Kind.UNKNOWN, "it does not tell all trades of it yet")
            await exchange._sleep(pause)
            pause *= 2


def _secrets(options: Mapping[str, Any]) -> list[str]:
    """Return what must not be shown, the longest first, also as it stands in a URL."""
    given = {str(options.get(name) or "") for name in _CREDENTIALS}
    given = {text for text in given if len(text) >= _SHORTEST_SECRET}
    return sorted({*given, *(quote(text, safe="") for text in given)}, key=len, reverse=True)


def _market_type(chosen: Any) -> str | None:
    if chosen in ("future", "linear", "inverse", "swap"):
        return "swap"
    return "spot" if chosen == "margin" else chosen


def _plain(name: str) -> str:
    return re.sub("[^A-Za-z0-9]", "", name).upper()


def _named(markets: Iterable[Any]) -> dict[str, list[Any]]:
    """Return the markets by the exchange's names and by names without separators."""
    found: dict[str, list[Any]] = {}
    for market in markets:
        names = {market["id"], _plain(market["symbol"])}
        if market["type"] in ("spot", "swap"):
            names.add(_plain(f"{market['base']}{market['quote']}"))
        for name in names - {None}:
            found.setdefault(name, []).append(market)
    return found


def _named_order(rows: Iterable[Any], order: Order) -> Any:
    return next((row for row in rows if row.get("clientOrderId") == order.client_order_id), None)


def _figure(value: Any) -> float | None:
    try:
        figure = float(value)
    except (TypeError, ValueError):
        return None
    return figure if isfinite(figure) else None


def _number(value: Any) -> Decimal | None:
    return None if _figure(value) is None else Decimal(str(value))


def _contract_size(market: Any) -> Decimal:
    """Return how much of the base one unit of an amount is."""
    size = _number(market.get("contractSize")) if market.get("contract") else None
    return size or Decimal(1)


def _price(raw: Any, market: Any) -> Decimal:
    """Return the mean price of what was filled, 0 for nothing."""
    filled, cost = _number(raw.get("filled")), _number(raw.get("cost"))
    if not filled:
        return Decimal(0)
    average = _number(raw.get("average"))
    if not average and cost:
        average = cost / (filled * _contract_size(market))
    return average or _number(raw.get("price")) or Decimal(0)


def _fee_entries(raw: Any) -> list[Any]:
    return [
        fee
        for fee in raw.get("fees") or [raw.get("fee")]
        if fee and fee.get("currency") and _number(fee.get("cost")) is not None
    ]


def _fees(rows: Iterable[Any], market: Any) -> tuple[Decimal, Decimal]:
    """Return what was taken in base and in quote currency; others have no price here."""
    base = quote = Decimal(0)
    for fee in (fee for row in rows for fee in _fee_entries(row)):
        cost = Decimal(str(fee["cost"]))
        if fee["currency"] == market["base"]:
            base += cost
        elif fee["currency"] == market["quote"]:
            quote += cost
    return base, quote
