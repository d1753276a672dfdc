"""The logger service: silent until a logger is set."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Protocol

from ..errors import ConfigurationError

__all__ = ["FourMethodLogger", "LoggerService"]


class FourMethodLogger(Protocol):
    """The logger of the contract: a topic and further arguments."""

    def log(self, topic: str, *args: Any) -> None:
        """Report an event of no particular level."""

    def debug(self, topic: str, *args: Any) -> None:
        """Report a detail."""

    def info(self, topic: str, *args: Any) -> None:
        """Report a normal event."""

    def warn(self, topic: str, *args: Any) -> None:
        """Report something that needs attention."""


class _Standard:
    """Writes to a ``logging.Logger``: the event, then ``name=value`` for each field."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._logger = logger

    def write(self, method: str, event: str, fields: dict[str, Any]) -> None:
        level = {"debug": logging.DEBUG, "warn": logging.WARNING}.get(method, logging.INFO)
        if self._logger.isEnabledFor(level):
            text = " ".join((event, *(f"{name}={value}" for name, value in fields.items())))
            self._logger.log(level, "%s", text)


class _Structured:
    """Writes to a structlog logger: the fields stay fields."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def write(self, method: str, event: str, fields: dict[str, Any]) -> None:
        name = {"log": "info", "warn": "warning"}.get(method, method)
        getattr(self._logger, name)(event, **fields)


class _FourMethod:
    """Writes to a logger with ``log``, ``debug``, ``info`` and ``warn``."""

    def __init__(self, logger: FourMethodLogger) -> None:
        self._logger = logger

    def write(self, method: str, event: str, fields: dict[str, Any]) -> None:
        getattr(self._logger, method)(event, fields)


class LoggerService:
    """Passes events on to the logger that the user has set, and to none before that.

    Events carry names, counts and times, never a payload or a secret. A logger that fails does
    not fail the call that logs.
    """

    def __init__(self) -> None:
        self._target: _Standard | _Structured | _FourMethod | None = None

    def set_logger(self, logger: Any | None) -> None:
        """Use a ``logging.Logger``, a structlog logger or a four-method logger; None for none.

        Raises:
            ConfigurationError: `logger` is none of the three.
        """
        if logger is None:
            self._target = None
        elif isinstance(logger, (logging.Logger, logging.LoggerAdapter)):
            self._target = _Standard(logger)
        elif callable(getattr(logger, "bind", None)) and callable(getattr(logger, "warning", None)):
            self._target = _Structured(logger)
        elif all(
            callable(getattr(logger, name, None)) for name in ("log", "debug", "info", "warn")
        ):
            self._target = _FourMethod(logger)
        else:
            raise ConfigurationError(
                "logger",
                f"{type(logger).__name__} is no logger",
                hint="use logging.Logger, structlog, or log, debug, info and warn methods",
            )

    def log(self, event: str, **fields: Any) -> None:
        """Report an event of no particular level."""
        self._write("log", event, fields)

    def debug(self, event: str, **fields: Any) -> None:
        """Report a detail."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Report a normal event."""
        self._write("info", event, fields)

    def warn(self, event: str, **fields: Any) -> None:
        """Report something that needs attention."""
        self._write("warn", event, fields)

    def _write(self, method: str, event: str, fields: dict[str, Any]) -> None:
        if self._target is not None:
            with suppress(Exception):
                self._target.write(method, event, fields)
