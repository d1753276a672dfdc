"""What the engine asks of a broker, and a broker on paper.

An order carries a client order id that the engine has made durable before. Whatever happens to a
call, ``find`` tells by that id what became of the order, so that no order is sent twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from ..errors import FastPersistError

__all__ = [
    "Broker",
    "BrokerError",
    "BrokerUnavailableError",
    "Order",
    "OrderRejectedError",
    "OrderState",
    "PaperBroker",
    "Side",
]

_REMEMBERED: Final = 10_000

Side = Literal["buy", "sell"]
OrderStatus = Literal["open", "filled", "canceled"]


class BrokerError(FastPersistError):
    """A broker did not do what it was asked for."""


class OrderRejectedError(BrokerError):
    """The broker has refused an order; it does not exist there.

    Attributes:
        is_too_small: Whether the broker takes no order as small as this one.
    """

    def __init__(self, message: str, *, hint: str = "", is_too_small: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.is_too_small = is_too_small


class BrokerUnavailableError(BrokerError):
    """The broker did not answer; whether an order has arrived is unknown until it is looked for."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Order:
    """A wish to trade at the market.

    Attributes:
        client_order_id: At most 32 letters and digits, different for each order.
        symbol: What is traded, as the run names it.
        side: ``buy`` or ``sell``.
        amount: How much, in base units.
        price: The last known price in quote currency.
        sent_at: When the engine decided on it, ms.
    """

    client_order_id: str
    symbol: str
    side: Side
    amount: float
    price: float
    sent_at: int


@dataclass(frozen=True, slots=True)
class OrderState:
    """What has become of an order.

    Attributes:
        client_order_id: That of the order; empty for one that was placed without.
        status: ``open`` may still be filled; ``filled`` and ``canceled`` are final, and a canceled
            order may be filled in part.
        filled: How much was traded, in base units, less fees that were taken in them.
        price: Mean price of what was traded, in quote currency; 0 for nothing.
        fee: Fees in quote currency, as far as they are known.
        order_id: The broker's own id.
    """

    client_order_id: str
    status: OrderStatus
    filled: float
    price: float
    fee: float = 0.0
    order_id: str = ""


class Broker(Protocol):
    """Trades for a run.

    All methods raise ``BrokerUnavailableError`` when the outcome is
    unknown, in time: none may wait forever.
    """

    async def open(self, order: Order) -> OrderState:
        """Open a position, or add to one.

        Raises:
            OrderRejectedError: The broker has refused it.
        """

    async def close(self, order: Order) -> OrderState:
        """Close a position, or a part of it; never opens one the other way where that can be told.

        Raises:
            OrderRejectedError: The broker has refused it.
        """

    async def find(self, order: Order) -> OrderState | None:
        """Return the state of an order by its client order id, None if the broker has none."""

    async def cancel(self, order: Order) -> OrderState:
        """Take back what is not filled and return what has become of the order."""

    async def open_orders(self, symbol: str) -> Sequence[OrderState]:
        """Return all orders of `symbol` that may still be filled."""


class PaperBroker:
    """Fills each order at once and in whole, at its last known price made worse by slippage.

    It remembers the last 10,000 orders of its process. That is enough: a fill on paper that was not
    recorded has never happened.

    Args:
        fee_percent: Fee of each side in percent of the traded value.
        slippage_percent: How much worse than the last known price it fills, in percent.
    """

    def __init__(self, fee_percent: float = 0.0, slippage_percent: float = 0.0) -> None:
        self._fee = fee_percent / 100
        self._slippage = slippage_percent / 100
        self._states: dict[str, OrderState] = {}

    async def open(self, order: Order) -> OrderState:
        """Fill the order; a second one of its id changes nothing."""
        known = self._states.get(order.client_order_id)
        if known is None:
            worse = self._slippage if order.side == "buy" else -self._slippage
            price = order.price * (1 + worse)
            fee = price * order.amount * self._fee
            known = self._states[order.client_order_id] = OrderState(
                order.client_order_id, "filled", order.amount, price, fee, order.client_order_id
            )
            while len(self._states) > _REMEMBERED:
                del self._states[next(iter(self._states))]
        return known

    async def close(self, order: Order) -> OrderState:
        """Fill the order; a second one of its id changes nothing."""
        return await self.open(order)

    async def find(self, order: Order) -> OrderState | None:
        """Return the state of an order by its client order id, None if it is not known."""
        return self._states.get(order.client_order_id)

    async def cancel(self, order: Order) -> OrderState:
        """Return the state of an order: nothing of it is left to take back."""
        return self._states.get(order.client_order_id) or OrderState(
            order.client_order_id, "canceled", 0.0, 0.0
        )

    async def open_orders(self, symbol: str) -> Sequence[OrderState]:
        """Return nothing: orders are filled at once."""
        return ()
