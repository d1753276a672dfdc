"""Exchanges that the command line names as ``ccxt:NAME``."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Final

import orjson

from ..errors import ConfigurationError
from ..runner.candles import CandleFeed
from ..runner.ccxt_exchange import CcxtBroker, CcxtExchange, CcxtFeed
from ..runner.engine import Frame

__all__ = ["Exchanges", "named_exchange"]

_PREFIX: Final = "ccxt:"
_OPTIONS: Final = "FASTPERSIST_EXCHANGE_OPTIONS"
_CREDENTIALS: Final = {
    "apiKey": "FASTPERSIST_EXCHANGE_API_KEY",
    "secret": "FASTPERSIST_EXCHANGE_SECRET",
    "password": "FASTPERSIST_EXCHANGE_PASSWORD",
}


def named_exchange(text: str) -> str | None:
    """Return the name behind ``ccxt:``, None for what is no exchange."""
    return text[len(_PREFIX) :] if text.startswith(_PREFIX) else None


def _options() -> dict[str, Any]:
    text = os.environ.get(_OPTIONS, "")
    try:
        options = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise ConfigurationError(_OPTIONS, "is no JSON object")
    given = {name: os.environ.get(variable) for name, variable in _CREDENTIALS.items()}
    return {**options, **{name: value for name, value in given.items() if value}}


class Exchanges:
    """Makes one object for each exchange, with options and keys of the environment.

    For ``async with``, which closes them.
    """

    def __init__(self) -> None:
        self._made: dict[str, CcxtExchange] = {}

    async def __aenter__(self) -> Exchanges:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for exchange in self._made.values():
            await exchange.close()

    def _exchange(self, text: str) -> CcxtExchange:
        name = named_exchange(text) or ""
        if name not in self._made:
            self._made[name] = CcxtExchange(name, _options())
        return self._made[name]

    def feed(
        self, text: str, symbol: str, interval: str, frame: Frame, exchange_name: str
    ) -> CandleFeed:
        """Return the candles of a symbol on the exchange ``ccxt:NAME``.

        Raises:
            ConfigurationError: There is no such exchange, or its options are wrong.
        """
        exchange = self._exchange(text)
        return CcxtFeed(exchange, symbol, interval, frame.start, frame.end, exchange_name)

    def broker(self, text: str) -> CcxtBroker:
        """Return who trades on the exchange ``ccxt:NAME``.

        Raises:
            ConfigurationError: There is no such exchange, or its options are wrong.
        """
        return CcxtBroker(self._exchange(text))
