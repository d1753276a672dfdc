"""An exchange on this machine that answers like Binance's REST interface, as far as ccxt asks.

In a test: ``async with FakeExchange() as exchange`` and ``ccxt.binance(exchange.options)``. As a
process: ``python tests/fake_exchange.py --print-url``; see ``--help``. Then ``GET /control`` gives
the state as JSON, and ``POST /control`` sets what it is sent: any field of :class:`Behavior`, and
``candles`` (rows to add), ``fill`` (client order id), ``balances``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import random
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

STEPS: Final = {
    "1m": 60_000, "3m": 180_000, "5m": 300_000, "15m": 900_000, "30m": 1_800_000,
    "1h": 3_600_000, "2h": 7_200_000, "4h": 14_400_000, "6h": 21_600_000, "8h": 28_800_000,
    "1d": 86_400_000,
}  # fmt: skip
MINUTE: Final = 60_000
KEY: Final = "fake-key-0123456789"
SECRET: Final = "fake-secret-9876543210"
_EIGHT: Final = Decimal("0.00000001")


@dataclass
class Behavior:
    """What goes wrong, or differently. Counters go down with each request that they hit.

    Attributes:
        rate_limit: How many requests of any kind are answered with 429.
        retry_after: Seconds that those are told to wait.
        server_errors: How many requests are answered with 500, without being carried out.
        mute: How many requests of any kind are not answered and not carried out.
        lose_requests: How many orders are lost before they are accepted.
        lose_replies: How many orders are carried out without an answer.
        fail_replies: How many orders are carried out and answered with 503.
        break_replies: How many orders are carried out and answered with half a body.
        hang: Lost means that nothing happens; else the connection is closed.
        short_replies: Orders are answered with their id alone.
        reject: ``balance``, ``lot``, ``unknown`` or ``rejected`` (accepted, then rejected);
            empty for none.
        fill_share: How much of an order is filled.
        rest: What becomes of the rest: ``cancel`` or ``open``.
        fill_after: After how many ms of the exchange's time an open rest is filled; None for never.
        parts: In how many trades.
        fee_in: ``quote``, ``base`` or another currency.
        fee_rate: Share of the value.
        price: At what price; None for the last close.
        hide_trades: How many requests for trades show none.
        skew: How far the exchange's clock is ahead, ms.
        twice: Opening times of candles that are delivered twice, ms.
        missing: Those that are never delivered.
        late: By opening time as text, how many requests do not show the candle yet.
        page: Most candles of one answer.
    """

    rate_limit: int = 0
    retry_after: int = 1
    server_errors: int = 0
    mute: int = 0
    lose_requests: int = 0
    lose_replies: int = 0
    fail_replies: int = 0
    break_replies: int = 0
    hang: bool = False
    short_replies: bool = False
    reject: str = ""
    fill_share: float = 1.0
    rest: str = "cancel"
    fill_after: int | None = None
    parts: int = 1
    fee_in: str = "quote"
    fee_rate: float = 0.001
    price: float | None = None
    hide_trades: int = 0
    skew: int = 0
    twice: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    late: dict[str, int] = field(default_factory=dict)
    page: int = 1000


class _RefusalError(Exception):
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "msg": message}


class _LostError(Exception):
    """The request gets no answer."""


class FakeExchange:
    """The spot market of ``symbol``, and a swap of that name under ``/fapi``.

    Args:
        base, quote: What is traded.
        balances: What the account has, by currency.
        port: Where to listen on 127.0.0.1; 0 for a free one.
        start: Opening time of the first candle that is made by itself, ms; None for none: then
            there are only those that are added, and the clock is that of the machine.
        step: Wall time of each minute that passes at the exchange, ms. With less than 60000 its
            clock, which begins at `start`, is faster than others.
        before: How many candles are there already when the clock begins.
        seed: Of the random walk; the same gives the same candles.
        with_swap: Whether its options let ccxt load the swap.

    Attributes:
        behavior: What goes wrong.
        candles: Opening time to open, high, low, close and volume, all of one minute.
        orders: All orders, by their id.
        requests: Method and path of all requests so far.
    """

    def __init__(
        self,
        base: str = "BTC",
        quote: str = "USDT",
        *,
        balances: dict[str, float] | None = None,
        port: int = 0,
        start: int | None = None,
        step: int = MINUTE,
        before: int = 0,
        seed: int = 1,
        with_swap: bool = False,
    ) -> None:
        self.base, self.quote, self.symbol = base, quote, base + quote
        self.behavior = Behavior()
        self.balances = {
            name: Decimal(str(amount))
            for name, amount in (balances or {base: 10.0, quote: 1_000_000.0}).items()
        }
        self.candles: dict[int, tuple[float, float, float, float, float]] = {}
        self.orders: dict[int, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.last_headers: dict[str, str] = {}
        self.with_swap = with_swap
        self._port, self._seed, self._step = port, seed, step
        self._first = self._next = start
        self._begun = time.monotonic()
        self._lead = before * MINUTE
        self._last_close = 100.0
        self._unfinished: tuple[int, tuple[float, float, float, float, float]] | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._trades = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def options(self) -> dict[str, Any]:
        """Options for ``ccxt.binance`` that lead here."""
        return options(self.url, self.with_swap)

    def now(self) -> int:
        """Return the exchange's time, ms."""
        if self._first is None:
            return time.time_ns() // 1_000_000 + self.behavior.skew
        passed = (time.monotonic() - self._begun) * 1000 * MINUTE / self._step
        return self._first + self._lead + int(passed) + self.behavior.skew

    def put_clock_on(self, ms: int) -> None:
        """Let time pass at the exchange."""
        self._lead += ms

    async def __aenter__(self) -> FakeExchange:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def add_candle(
        self, timestamp: int, open: float, high: float, low: float, close: float, volume: float
    ) -> None:
        """Add a candle of one minute, or replace it; `timestamp` is its opening time in ms."""
        self.candles[timestamp] = (open, high, low, close, volume)
        self._last_close = close

    def fill(self, client_order_id: str, share: float = 1.0) -> None:
        """Fill `share` of what is left of an open order."""
        order = self._named(client_order_id)
        self._trade(order, (order["amount"] - _filled(order)) * Decimal(str(share)), 1)

    def _fill_later(self) -> None:
        after = self.behavior.fill_after
        for order in self.orders.values() if after is not None else ():
            if order["status"] in _OPEN and self.now() - order["time"] >= after:
                self._trade(order, order["amount"] - _filled(order), 1)

    def state(self) -> dict[str, Any]:
        """Return what there is, as it goes into JSON."""
        self._make()
        return {
            "now": self.now(),
            "step": self._step,
            "orders": [
                {**order, "amount": float(order["amount"]), "filled": float(_filled(order)),
                 "fills": [{**fill, "qty": str(fill["qty"])} for fill in order["fills"]]}
                for order in self.orders.values()
            ],
            "balances": {name: float(amount) for name, amount in self.balances.items()},
            "candles": len(self.candles),
            "requests": len(self.requests),
            "behavior": asdict(self.behavior),
        }  # fmt: skip

    def set(self, wishes: dict[str, Any]) -> None:
        """Do what ``POST /control`` was sent.

        Raises:
            KeyError: There is no such thing to set.
        """
        known = {entry.name for entry in fields(Behavior)}
        for name, value in wishes.items():
            if name == "candles":
                for row in value:
                    self.add_candle(*row)
            elif name == "fill":
                self.fill(value)
            elif name == "balances":
                self.balances.update({key: Decimal(str(each)) for key, each in value.items()})
            elif name in known:
                setattr(self.behavior, name, value)
            else:
                raise KeyError(name)

    # HTTP, no more of it than aiohttp's client needs.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._answer_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line = (await reader.readline()).decode()
        if not line.strip():
            return False
        method, target, _ = line.split()
        headers: dict[str, str] = {}
        while text := (await reader.readline()).decode().strip():
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        body = (await reader.readexactly(int(headers.get("content-length", 0)))).decode()
        self.last_headers = headers
        extra, is_broken = "", False
        try:
            status, answer = 200, self._answer(method, target, headers, body)
        except _RefusalError as refusal:
            status, answer = refusal.status, refusal.body
            if status == 429:
                extra = f"Retry-After: {self.behavior.retry_after}\r\n"
        except _LostError as lost:
            if "half" not in str(lost):
                if self.behavior.hang:
                    await reader.read()  # until the other side has had enough
                return False
            status, answer, is_broken = 200, {"orderId": 1, "symbol": self.symbol}, True
        content = json.dumps(answer).encode()
        length = len(content) * 2 if is_broken else len(content)
        writer.write(
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'Error'}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n{extra}\r\n".encode()
            + content
        )
        await writer.drain()
        return not is_broken

    def _answer(self, method: str, target: str, headers: dict[str, str], body: str) -> Any:
        parts = urlsplit(target)
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.path == "/control":
            if method == "POST":
                try:
                    self.set(json.loads(body))
                except (KeyError, TypeError, ValueError) as error:
                    raise _RefusalError(400, -1, f"{type(error).__name__}: {error}") from None
            return self.state()
        self.requests.append(f"{method} {parts.path}")
        if self._counts("rate_limit"):
            raise _RefusalError(429, -1003, "Too many requests.")
        if self._counts("server_errors"):
            raise _RefusalError(500, -1000, "An unknown error occurred.")
        if self._counts("mute"):
            raise _LostError("request")
        self._fill_later()
        is_swap = parts.path.startswith("/fapi/")
        name = parts.path.rpartition("/")[2]
        if name == "time":
            return {"serverTime": self.now()}
        if name == "exchangeInfo":
            return {"serverTime": self.now(), "symbols": [self._market(is_swap)]}
        if name == "klines":
            return self._klines(given)
        if parts.path.startswith("/sapi/"):
            self._check(parts.query, body, headers)
            return []
        given.update(parse_qsl(body, keep_blank_values=True))
        self._check(parts.query, body, headers)
        return self._private(method, name, given, is_swap)

    def _counts(self, name: str) -> bool:
        left = getattr(self.behavior, name)
        if left:
            setattr(self.behavior, name, left - 1)
        return bool(left)

    def _check(self, query: str, body: str, headers: dict[str, str]) -> None:
        signed, _, signature = (query + body).rpartition("&signature=")
        if headers.get("x-mbx-apikey") != KEY:
            raise _RefusalError(401, -2015, "Invalid API-key, IP, or permissions for action.")
        right = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(right, signature):
            raise _RefusalError(400, -1022, "Signature for this request is not valid.")
        given = dict(parse_qsl(signed))
        window = int(given.get("recvWindow", 5000)) * (MINUTE // self._step or 1)
        if not -window <= int(given["timestamp"]) - self.now() <= 1000 * (MINUTE // self._step):
            raise _RefusalError(
                400, -1021, "Timestamp for this request is outside of the recvWindow."
            )

    def _private(self, method: str, name: str, given: dict[str, str], is_swap: bool) -> Any:
        if name == "account":
            return {
                "balances": [
                    {"asset": asset, "free": str(amount), "locked": "0"}
                    for asset, amount in self.balances.items()
                ]
            }
        if given.get("symbol") != self.symbol:
            raise _RefusalError(400, -1121, "Invalid symbol.")
        orders = [order for order in self.orders.values() if order["swap"] == is_swap]
        since = int(given.get("startTime", 0))
        if name == "openOrders":
            return [self._told(order) for order in orders if order["status"] in _OPEN]
        if name == "allOrders":
            found = [self._told(order) for order in orders if order["time"] >= since]
            return found[: int(given.get("limit", 500))]
        if name in ("myTrades", "userTrades"):
            if self._counts("hide_trades"):
                return []
            return [
                self._told_trade(order, fill)
                for order in orders
                for fill in order["fills"]
                if given.get("orderId") in (None, str(order["orderId"])) and fill["time"] >= since
            ][: int(given.get("limit", 500))]
        if name == "order" and method == "POST":
            return self._accept(given, is_swap)
        if name == "order":
            order = self._wanted(given, orders, method)
            if method == "DELETE":
                if order["status"] not in _OPEN:
                    raise _RefusalError(400, -2011, "Unknown order sent.")
                order["status"], order["updateTime"] = "CANCELED", self.now()
            return self._told(order)
        raise _RefusalError(404, -1, f"There is no {name} here.")

    def _wanted(
        self, given: dict[str, str], orders: list[dict[str, Any]], method: str
    ) -> dict[str, Any]:
        for order in reversed(orders):
            if given.get("origClientOrderId", "") == order["clientOrderId"]:
                return order
            if given.get("orderId") == str(order["orderId"]):
                return order
        if method == "DELETE":
            raise _RefusalError(400, -2011, "Unknown order sent.")
        raise _RefusalError(400, -2013, "Order does not exist.")

    def _accept(self, given: dict[str, str], is_swap: bool) -> Any:
        behavior = self.behavior
        if self._counts("lose_requests"):
            raise _LostError("request")
        amount, side = Decimal(given["quantity"]), given["side"]
        if behavior.reject == "balance" or (not is_swap and not self._can_pay(side, amount)):
            raise _RefusalError(
                400, -2010, "Account has insufficient balance for requested action."
            )
        if behavior.reject == "lot" or amount % Decimal("0.00001"):
            raise _RefusalError(400, -1013, "Filter failure: LOT_SIZE")
        if behavior.reject == "unknown":
            raise _RefusalError(400, -9999, "A new reason.")
        client_order_id = given.get("newClientOrderId") or f"x{len(self.orders)}"
        if any(
            order["clientOrderId"] == client_order_id and order["status"] in _OPEN
            for order in self.orders.values()
        ):
            raise _RefusalError(400, -2010, "Duplicate order sent.")
        order: dict[str, Any] = {
            "orderId": 1000 + len(self.orders),
            "clientOrderId": client_order_id,
            "swap": is_swap,
            "side": side,
            "type": given["type"],
            "reduceOnly": given.get("reduceOnly") == "true",
            "amount": amount,
            "status": "NEW",
            "time": self.now(),
            "updateTime": self.now(),
            "fills": [],
        }
        self.orders[order["orderId"]] = order
        if behavior.reject == "rejected":
            order["status"] = "REJECTED"
        else:
            share = Decimal(str(behavior.fill_share))
            filled = (amount * share).quantize(Decimal("0.00001"), ROUND_DOWN)
            self._trade(order, filled, behavior.parts)
            if _filled(order) < amount and behavior.rest == "cancel":
                order["status"] = "EXPIRED"
        if self._counts("lose_replies"):
            raise _LostError("reply")
        if self._counts("break_replies"):
            raise _LostError("half of the reply")
        if self._counts("fail_replies"):
            raise _RefusalError(503, -1007, "Timeout waiting for response from backend server.")
        if behavior.short_replies:
            return {
                name: self._told(order)[name] for name in ("symbol", "orderId", "clientOrderId")
            }
        told = self._told(order)
        if not is_swap:
            told["fills"] = [{**fill, "qty": str(fill["qty"])} for fill in order["fills"]]
        return told

    def _can_pay(self, side: str, amount: Decimal) -> bool:
        if side == "SELL":
            return self.balances.get(self.base, Decimal(0)) >= amount
        return self.balances.get(self.quote, Decimal(0)) >= amount * self._price()

    def _price(self) -> Decimal:
        self._make()
        price = self.behavior.price
        return Decimal(str(self._last_close if price is None else price))

    def _trade(self, order: dict[str, Any], amount: Decimal, parts: int) -> None:
        price, behavior = self._price(), self.behavior
        for place in range(parts if amount else 0):
            part = (amount / parts).quantize(Decimal("0.00001"), ROUND_DOWN)
            if place == parts - 1:
                part = amount - part * (parts - 1)
            value = part * price
            asset = {"quote": self.quote, "base": self.base}.get(behavior.fee_in, behavior.fee_in)
            rate = Decimal(str(behavior.fee_rate))
            fee = {self.base: part, self.quote: value}.get(asset, value / 100) * rate
            self._trades += 1
            order["fills"].append(
                {
                    "tradeId": self._trades, "price": str(price), "qty": part,
                    "commission": str(fee.quantize(_EIGHT)), "commissionAsset": asset,
                    "time": self.now(),
                }
            )  # fmt: skip
            if not order["swap"]:
                sign = 1 if order["side"] == "BUY" else -1
                for name, change in (
                    (self.base, sign * part), (self.quote, -sign * value), (asset, -fee),
                ):  # fmt: skip
                    self.balances[name] = self.balances.get(name, Decimal(0)) + change
        filled = _filled(order)
        if filled:
            order["status"] = "FILLED" if filled == order["amount"] else "PARTIALLY_FILLED"
        order["updateTime"] = self.now()

    def _named(self, client_order_id: str) -> dict[str, Any]:
        for order in self.orders.values():
            if order["clientOrderId"] == client_order_id:
                return order
        raise KeyError(client_order_id)

    def _told(self, order: dict[str, Any]) -> dict[str, Any]:
        filled = _filled(order)
        value = sum((fill["qty"] * Decimal(fill["price"]) for fill in order["fills"]), Decimal(0))
        told = {
            "symbol": self.symbol, "orderId": order["orderId"],
            "clientOrderId": order["clientOrderId"], "price": "0.00000000",
            "origQty": str(order["amount"]), "executedQty": str(filled), "status": order["status"],
            "timeInForce": "GTC", "type": order["type"], "side": order["side"],
            "time": order["time"], "updateTime": order["updateTime"],
            "transactTime": order["time"],
        }  # fmt: skip
        if order["swap"]:
            told["avgPrice"] = str(value / filled if filled else 0)
            told["cumQuote"], told["reduceOnly"] = str(value), order["reduceOnly"]
            told["positionSide"] = "BOTH"
        else:
            told["cummulativeQuoteQty"] = str(value)  # spelled as Binance does
        return told

    def _told_trade(self, order: dict[str, Any], fill: dict[str, Any]) -> dict[str, Any]:
        told = {
            "symbol": self.symbol, "id": fill["tradeId"], "orderId": order["orderId"],
            "price": fill["price"], "qty": str(fill["qty"]),
            "quoteQty": str(fill["qty"] * Decimal(fill["price"])),
            "commission": fill["commission"], "commissionAsset": fill["commissionAsset"],
            "time": fill["time"],
        }  # fmt: skip
        is_buy = order["side"] == "BUY"
        if order["swap"]:
            return told | {"side": order["side"], "buyer": is_buy, "positionSide": "BOTH"}
        return told | {"isBuyer": is_buy, "isMaker": False}

    def _market(self, is_swap: bool) -> dict[str, Any]:
        market: dict[str, Any] = {
            "symbol": self.symbol, "status": "TRADING", "baseAsset": self.base,
            "quoteAsset": self.quote, "baseAssetPrecision": 8, "quotePrecision": 8,
            "quoteAssetPrecision": 8, "orderTypes": ["LIMIT", "MARKET"],
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00",
                 "tickSize": "0.01"},
                {"filterType": "LOT_SIZE", "minQty": "0.00010000", "maxQty": "9000.00000000",
                 "stepSize": "0.00001000"},
                {"filterType": "NOTIONAL", "minNotional": "5.00000000",
                 "applyMinToMarket": True},
            ],
        }  # fmt: skip
        if is_swap:
            market |= {
                "pair": self.symbol, "contractType": "PERPETUAL", "marginAsset": self.quote,
                "deliveryDate": 4133404800000, "onboardDate": 1569398400000,
                "contractStatus": "TRADING", "pricePrecision": 2, "quantityPrecision": 5,
            }  # fmt: skip
        else:
            market |= {"isSpotTradingAllowed": True, "permissions": ["SPOT"]}
        return market

    # Candles.

    def _make(self) -> None:
        """Make the candles that have closed by now, and the one that has not."""
        if self._next is None:
            return
        now = self.now()
        while self._next + MINUTE <= now:
            self.add_candle(self._next, *self._walk(self._next))
            self._next += MINUTE
        opened, _, _, _, volume = self._walk(self._next)
        share = (now - self._next) / MINUTE
        self._unfinished = (self._next, (opened, opened, opened, opened, volume * share))

    def _walk(self, moment: int) -> tuple[float, float, float, float, float]:
        dice = random.Random(f"{self._seed}:{moment}")
        opened = self._last_close
        close = round(max(opened * (1 + dice.gauss(0, 0.002)), 1.0), 2)
        high = round(max(opened, close) * (1 + dice.random() * 0.001), 2)
        low = round(min(opened, close) * (1 - dice.random() * 0.001), 2)
        return opened, max(high, opened, close), min(low, opened, close), close, dice.random() * 10

    def _klines(self, given: dict[str, str]) -> list[list[Any]]:
        if given.get("symbol") != self.symbol:
            raise _RefusalError(400, -1121, "Invalid symbol.")
        self._make()
        behavior = self.behavior
        step = STEPS[given["interval"]]
        rows = dict(self.candles)
        if self._unfinished is not None:
            moment, figures = self._unfinished
            rows[moment] = figures
        made: dict[int, list[float]] = {}
        for moment in sorted(rows):
            opened, high, low, close, volume = rows[moment]
            longer = made.setdefault(moment // step * step, [opened, high, low, close, 0.0])
            longer[1:] = [max(longer[1], high), min(longer[2], low), close, longer[4] + volume]
        since, until = int(given.get("startTime", 0)), int(given.get("endTime", 1 << 62))
        limit = min(int(given.get("limit", 500)), behavior.page)
        found: list[list[Any]] = []
        for moment in sorted(made):
            if not since <= moment <= until or moment in behavior.missing or moment > self.now():
                continue
            if behavior.late.get(str(moment), 0) > 0:
                behavior.late[str(moment)] -= 1
                continue
            opened, high, low, close, volume = made[moment]
            row = [
                moment, str(opened), str(high), str(low), str(close), str(volume),
                moment + step - 1, "0", 1, "0", "0", "0",
            ]  # fmt: skip
            found.extend([row] * (1 + (moment in behavior.twice)))
        return found[:limit] if "startTime" in given else found[-limit:]


class FastClock:
    """A runner's clock that goes with a fake exchange whose minutes take `step` ms.

    Args:
        now: The exchange's time, ms, for example ``now`` of ``GET /control``.
        step: Wall time of a minute there, ms.
    """

    def __init__(self, now: int, step: int) -> None:
        self._began_at, self._begun = now, time.monotonic()
        self._speed = MINUTE / step

    def now(self) -> int:
        """Return the time there, ms."""
        return self._began_at + int((time.monotonic() - self._begun) * 1000 * self._speed)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of the time there."""
        await asyncio.sleep(seconds / self._speed)

    async def wait_until(self, moment: int, most_seconds: float) -> None:
        """Return when it is `moment` there (ms), at the latest after `most_seconds` there."""
        await self.sleep(max(0.0, min((moment - self.now()) / 1000, most_seconds)))


_OPEN: Final = ("NEW", "PARTIALLY_FILLED")


def _filled(order: dict[str, Any]) -> Decimal:
    return sum((fill["qty"] for fill in order["fills"]), Decimal(0))


def options(url: str, with_swap: bool = False) -> dict[str, Any]:
    """Return options for ``ccxt.binance`` that lead to a fake exchange at `url`."""
    return {
        "apiKey": KEY,
        "secret": SECRET,
        "enableRateLimit": False,
        "timeout_on_exit": 0,
        "verify": False,
        "urls": {
            "api": {
                "public": f"{url}/api/v3",
                "private": f"{url}/api/v3",
                "sapi": f"{url}/sapi/v1",
                "fapiPublic": f"{url}/fapi/v1",
                "fapiPrivate": f"{url}/fapi/v1",
                "fapiPrivateV2": f"{url}/fapi/v2",
                "fapiPrivateV3": f"{url}/fapi/v3",
            }
        },
        "options": {"fetchMarkets": ["spot", "linear"] if with_swap else ["spot"]},
    }


async def _run(arguments: argparse.Namespace) -> None:
    start: int | None = arguments.start
    lead = 0
    if start is None and arguments.generate:
        start, lead = divmod(time.time_ns() // 1_000_000, MINUTE)
        start = (start - arguments.before) * MINUTE
    exchange = FakeExchange(
        port=arguments.port, start=start, step=arguments.step, before=arguments.before,
        seed=arguments.seed, with_swap=arguments.swap,
    )  # fmt: skip
    exchange.put_clock_on(lead)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with exchange:
        if arguments.print_url:
            print(exchange.url, flush=True)
        await stopped.wait()


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description="An exchange that is none.")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    parser.add_argument("--print-url", action="store_true", help="print the URL once it listens")
    parser.add_argument("--generate", action="store_true", help="make candles as time passes")
    parser.add_argument("--start", type=int, help="opening time of the first made candle, ms")
    parser.add_argument("--step", type=int, default=MINUTE, help="wall time of a minute there, ms")
    parser.add_argument("--before", type=int, default=0, help="candles that are there at once")
    parser.add_argument("--seed", type=int, default=1, help="of the random walk")
    parser.add_argument("--swap", action="store_true", help="also let ccxt load the swap")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
