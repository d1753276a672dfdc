"""A clock that does not wait, a feed that follows it, and an exchange that outlives a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from fastpersist.contracts import Candle
from fastpersist.domains import INTERVAL_STEP_MS
from fastpersist.hot.columns import CandleColumns, columns_from_rows
from fastpersist.runner.broker import (
    BrokerUnavailableError,
    Order,
    OrderRejectedError,
    OrderState,
)
from fastpersist.runner.clock import Clock
from fastpersist.runner.position import Bar
from fastpersist.runner.stream import polled
from memory_backend import Fate

__all__ = ["Exchange", "FakeClock", "LiveFeed", "LossyBroker"]


class FakeClock:
    """Whoever waits makes the time pass."""

    def __init__(self, now: int) -> None:
        self.time = now
        self.slept: list[float] = []

    def now(self) -> int:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += int(seconds * 1000)
        await asyncio.sleep(0)

    async def wait_until(self, moment: int, most_seconds: float) -> None:
        self.time = max(self.time, min(moment, self.time + int(most_seconds * 1000)))
        await asyncio.sleep(0)


class LiveFeed:
    """Has candles as far as they have closed by the clock; calls `ended` after the last."""

    interval = "1m"
    exchange_name = "demo"

    def __init__(
        self, symbol: str, candles: Sequence[Candle], clock: FakeClock, ended: Callable[[], None]
    ) -> None:
        self.symbol = symbol
        self.candles = list(candles)
        self.start = candles[0]["timestamp"]
        self.end = candles[-1]["timestamp"] + 60_000
        self.asked: list[tuple[int, int]] = []
        self._clock = clock
        self._ended = ended

    async def window(self, start: int, end: int) -> CandleColumns:
        self.asked.append((start, end))
        if start >= self.end:
            self._ended()
        step = INTERVAL_STEP_MS[self.interval]
        closed = min(end, self._clock.now() - step + 1)
        return columns_from_rows(
            [row for row in self.candles if start <= row["timestamp"] < closed]
        )

    def stream(self, since: int, clock: Clock) -> AsyncGenerator[Bar, None]:
        return polled(self, since, clock)


class Exchange:
    """Orders by client order id, as an exchange keeps them."""

    def __init__(self) -> None:
        self.states: dict[str, OrderState] = {}
        self.orders: dict[str, Order] = {}
        self.duplicates = 0

    def accept(self, order: Order, share: float = 1.0, price: float | None = None) -> None:
        """Fill a share of an order at its price."""
        self.duplicates += order.client_order_id in self.orders
        self.orders[order.client_order_id] = order
        self.states[order.client_order_id] = OrderState(
            order.client_order_id, "filled" if share == 1 else "canceled", order.amount * share,
            order.price if price is None else price, 0.0, f"x{len(self.states)}",
        )  # fmt: skip

    @property
    def position(self) -> float:
        """What was bought less what was sold, in base units."""
        return sum(
            state.filled * (1 if self.orders[order_id].side == "buy" else -1)
            for order_id, state in self.states.items()
        )

    def filled(self, side: str) -> list[Order]:
        """Return the orders of a side that were filled, in whole or in part."""
        return [
            order
            for order_id, order in self.orders.items()
            if order.side == side and self.states[order_id].filled
        ]


Behaviour = Callable[[Exchange, Order], OrderState]


class LossyBroker:
    """Trades at an exchange; each next order does what the next of `behaviours` says.

    ``fill``, ``reject``, ``too small``, ``lose request``, ``lose reply``, ``half``, ``nothing``,
    ``late``: filled only once it has been looked for in vain.
    """

    def __init__(
        self, exchange: Exchange, fate: Fate | None = None, behaviours: Sequence[str] = ()
    ) -> None:
        self.exchange = exchange
        self.fate = fate or Fate()
        self.behaviours = list(behaviours)
        self.late: list[tuple[int, Order]] = []
        self.is_down = False
        self.looks = 0
        self.is_closed = False

    async def open(self, order: Order) -> OrderState:
        await asyncio.sleep(0)
        if self.is_down:
            raise BrokerUnavailableError("down")
        behaviour = self.behaviours.pop(0) if self.behaviours else "fill"
        exchange = self.exchange
        if behaviour == "reject":
            raise OrderRejectedError("balance is too low")
        if behaviour == "too small":
            raise OrderRejectedError("too small", is_too_small=True)
        if behaviour == "lose request":
            raise BrokerUnavailableError("timed out")
        if behaviour == "late":
            self.late.append((self.looks + 5, order))
            raise BrokerUnavailableError("timed out")
        share = {"half": 0.5, "nothing": 0.0}.get(behaviour, 1.0)
        self.fate.step(lambda: exchange.accept(order, share))
        if behaviour == "lose reply":
            raise BrokerUnavailableError("timed out")
        return exchange.states[order.client_order_id]

    async def close(self, order: Order) -> OrderState:
        return await self.open(order)

    async def find(self, order: Order) -> OrderState | None:
        await asyncio.sleep(0)
        self.fate.check()
        if self.is_down:
            raise BrokerUnavailableError("down")
        self.looks += 1
        for after, late in list(self.late):
            if self.looks >= after:
                self.late.remove((after, late))
                self.exchange.accept(late)
        return self.exchange.states.get(order.client_order_id)

    async def cancel(self, order: Order) -> OrderState:
        self.fate.check()
        return self.exchange.states[order.client_order_id]

    async def open_orders(self, symbol: str) -> Sequence[OrderState]:
        self.fate.check()
        return [state for state in self.exchange.states.values() if state.status == "open"]

    async def close_connections(self) -> None:
        self.is_closed = True
