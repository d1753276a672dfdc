"""An order on its way: sent once, then looked for until it is known what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from ..deadlines import time_limit
from .broker import Broker, BrokerError, Order, OrderRejectedError, OrderState
from .clock import Clock
from .position import ExitReason

__all__ = ["CALL_SECONDS", "OrderKind", "Outcome", "Pending", "look_for", "send"]

OrderKind = Literal["open", "close", "part"]

CALL_SECONDS: Final = 10.0
"""How long a call of a broker may take."""

_LOOK_PAUSES: Final = (0.0, 0.5, 1.0, 2.0)
_FILL_PAUSES: Final = (0.1, 0.3, 0.6, 1.0, 2.0, 3.0)
_SURELY_ARRIVED_MS: Final = 60_000


@dataclass(slots=True)
class Pending:
    """An order whose outcome the run does not know yet; made durable before it is sent.

    Attributes:
        kind: Whether it opens a position, closes it, or closes a part of it.
        reason: Why the position closes, for an order that closes it.
        percent: How much of the position the part is.
        is_told: Whether the operator has heard that its outcome is unknown.
    """

    kind: OrderKind
    order: Order
    reason: ExitReason | None = None
    percent: float = 0.0
    is_told: bool = False

    def to_state(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any] | None) -> Pending | None:
        """Return what plain data says, None for None."""
        return None if state is None else cls(**{**state, "order": Order(**state["order"])})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of an order.

    Attributes:
        status: ``done`` is final, filled in whole, in part or not at all; ``refused`` and
            ``absent`` say that the broker has no such order; ``unknown`` has to be asked again.
        state: What the broker says, where it has the order.
        message: What the broker says else.
        is_too_small: Whether it was refused since the broker takes none as small as this one.
    """

    status: Literal["done", "refused", "absent", "unknown"]
    state: OrderState | None = None
    message: str = ""
    is_too_small: bool = False


async def send(broker: Broker, pending: Pending, clock: Clock) -> Outcome:
    """Send an order once, and return when its outcome is known or has been looked for in vain."""
    order = pending.order
    call = broker.open if pending.kind == "open" else broker.close
    try:
        async with time_limit(CALL_SECONDS):
            state = await call(order)
    except OrderRejectedError as error:
        return Outcome("refused", message=str(error), is_too_small=error.is_too_small)
    except (BrokerError, asyncio.TimeoutError, OSError):
        return await look_for(broker, order, clock, is_young=True)
    return await _final(broker, order, state, clock)


async def look_for(
    broker: Broker, order: Order, clock: Clock, *, is_young: bool = False
) -> Outcome:
    """Return what has become of an order that may or may not have arrived.

    An order of this minute may still be on its way, so it is absent only if the broker has said so
    more than once.
    """
    is_old = not is_young and clock.now() - order.sent_at > _SURELY_ARRIVED_MS
    least = 1 if is_old else 2
    needed = 1 if is_old else len(_LOOK_PAUSES)
    message, absences = "the broker did not answer", 0
    for pause in _LOOK_PAUSES:
        await clock.sleep(pause)
        try:
            async with time_limit(CALL_SECONDS):
                state = await broker.find(order)
        except (BrokerError, asyncio.TimeoutError, OSError) as error:
            message = str(error) or message
            needed = max(least, needed - 1)
            continue
        if state is not None:
            return await _final(broker, order, state, clock)
        absences += 1
        if absences >= needed:
            return Outcome("absent", message="the broker does not know the order")
    return Outcome("unknown", message=message)


async def _final(broker: Broker, order: Order, state: OrderState, clock: Clock) -> Outcome:
    """Wait for the rest of an order for some seconds, then take that back."""
    known = state
    try:
        for pause in _FILL_PAUSES:
            if state.status != "open":
                return Outcome("done", state)
            await clock.sleep(pause)
            async with time_limit(CALL_SECONDS):
                state = await broker.find(order) or state
        if state.status == "open":
            async with time_limit(CALL_SECONDS):
                state = await broker.cancel(order)
    except (BrokerError, asyncio.TimeoutError, OSError) as error:
        return Outcome("unknown", state, str(error) or "the broker did not answer")
    if state.filled < known.filled:
        return Outcome("unknown", known, "less of it is filled than before")
    if state.status == "open":
        return Outcome("unknown", state, "the rest of the order could not be taken back")
    return Outcome("done", state)
