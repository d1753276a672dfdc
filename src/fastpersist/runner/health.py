"""The health endpoint: whether a run and its stores are well, over HTTP, for probes."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final

import orjson

from ..deadlines import time_limit
from ..errors import ConfigurationError

__all__ = ["PORT", "Health", "HealthServer"]

_logger = logging.getLogger("fastpersist.runner")

PORT: Final = 60050
"""The port that is listened on by default."""

_PATH: Final = "/api/v1/health/health_check"
_METHODS: Final = ("GET", "HEAD")
_CHECK_SECONDS: Final = 3.0
_CLIENT_SECONDS: Final = 5.0
_LINGER_SECONDS: Final = 1.0
_MOST_CONNECTIONS: Final = 32
_MOST_HEAD_BYTES: Final = 8_192
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE: Final = re.compile(
    rb"(%b) (?:[Hh][Tt][Tt][Pp]://[!-.0->@-~]*)?(/[!->@-~]*)(?:\?[!-~]*)? HTTP/1\.([01])" % _TOKEN
)
_HEADER: Final = re.compile(rb"(%b):[\t -~\x80-\xff]*" % _TOKEN)


@dataclass(frozen=True, slots=True)
class Health:
    """What a check has found.

    Attributes:
        is_ready: Whether the work goes on.
        details: What the answer says besides; values that JSON can hold.
    """

    is_ready: bool
    details: dict[str, Any] = field(default_factory=dict)


class HealthServer:
    """Answers ``GET /api/v1/health/health_check`` with 200 when `check` says ready, else with 503.

    For ``async with``. The answer is JSON: ``status``, which is ``ok`` or ``unavailable``, and the
    check's details. A check that fails, or takes longer than 3 s, counts as not ready; requests
    that come during a check share it.

    Args:
        check: Makes the answer.
        host: The address to listen on; by default one that only this machine reaches.
        port: The port to listen on; 0 takes any that is free.

    Raises:
        ConfigurationError: The port is no number below 65536.
    """

    def __init__(
        self, check: Callable[[], Awaitable[Health]], host: str = "127.0.0.1", port: int = PORT
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65_536:
            raise ConfigurationError("health_port", f"not a port: {port!r:.20}")
        self._check = check
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._checking: asyncio.Task[tuple[HTTPStatus, bytes]] | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; while there is none, the one that was asked for."""
        if self._server is None or not self._server.sockets:
            return self._port
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> HealthServer:
        """Begin to listen.

        Raises:
            ConfigurationError: The address or the port cannot be had.
        """
        try:
            self._server = await asyncio.start_server(
                self._accept, self._host, self._port, limit=_MOST_HEAD_BYTES
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigurationError(
                    "health_port",
                    f"port {self._port} of {self._host} is in use",
                    hint="end the program that has it, or choose another; 0 takes a free one",
                ) from error
            raise ConfigurationError(
                "health_port",
                f"port {self._port} of {self._host} cannot be had: {error.strerror or error}",
                hint="choose a port from 1024 on and an address of this machine",
            ) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        tasks: set[asyncio.Task[Any]] = {*self._clients}
        if self._checking is not None:
            tasks.add(self._checking)
        for task in tasks:
            task.cancel()
        if tasks:
            # A check may take its time to end; it holds up nobody.
            await asyncio.wait(tasks, timeout=_LINGER_SECONDS)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._clients) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return

        def end(client: asyncio.Task[None]) -> None:
            self._clients.discard(client)
            writer.transport.abort()

        client = asyncio.ensure_future(self._serve(reader, writer))
        self._clients.add(client)
        client.add_done_callback(end)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.TimeoutError):
            answer = await self._answer(reader)
            if not answer:
                return
            async with time_limit(_CLIENT_SECONDS):
                writer.write(answer)
                await writer.drain()
                writer.write_eof()
            # Closing on unread bytes would reset the connection before the answer is read.
            async with time_limit(_LINGER_SECONDS):
                while await reader.read(_MOST_HEAD_BYTES):
                    pass

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with time_limit(_CLIENT_SECONDS):
                lines = await _head(reader)
            if not lines:
                return b""
            method, path = _parsed(lines)
        except asyncio.TimeoutError:
            return _response(HTTPStatus.REQUEST_TIMEOUT)
        except _RefusedError as refusal:
            return _response(refusal.status)
        if path != _PATH:
            return _response(HTTPStatus.NOT_FOUND, is_head=method == "HEAD")
        if method not in _METHODS:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED)
        status, body = await self._checked()
        return _response(status, body, is_head=method == "HEAD")

    async def _checked(self) -> tuple[HTTPStatus, bytes]:
        task = self._checking
        if task is None or task.done():
            task = self._checking = asyncio.ensure_future(self._state())
        await asyncio.wait([task], timeout=_CHECK_SECONDS)
        if not task.done():
            task.cancel()
        if not task.done() or task.cancelled():
            return _not_ready(f"no result within {_CHECK_SECONDS:g} s")
        return task.result()

    async def _state(self) -> tuple[HTTPStatus, bytes]:
        try:
            health = await self._check()
            status = HTTPStatus.OK if health.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
            word = "ok" if health.is_ready else "unavailable"
            return status, orjson.dumps({"status": word, **health.details} | {"status": word})
        except Exception as error:  # of the caller's code; its text may hold secrets
            _logger.warning("the health check failed: %s", type(error).__name__)
            return _not_ready(type(error).__name__)


def _not_ready(reason: str) -> tuple[HTTPStatus, bytes]:
    body = orjson.dumps({"status": "unavailable", "error": reason})
    return HTTPStatus.SERVICE_UNAVAILABLE, body


class _RefusedError(Exception):
    """A request that is answered with `status` and not looked at further."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


async def _head(reader: asyncio.StreamReader) -> list[bytes]:
    """Return the lines before the body; none if the client sent nothing."""
    lines: list[bytes] = []
    size = 0
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # longer than the reader's limit
            raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
        size += len(line)
        if size > _MOST_HEAD_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if not line.endswith(b"\n"):
            if size:
                raise _RefusedError(HTTPStatus.BAD_REQUEST)
            return []
        line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        if line:
            lines.append(line)
        elif lines:
            return lines


def _parsed(lines: list[bytes]) -> tuple[str, str]:
    """Return method and path."""
    request = _REQUEST_LINE.fullmatch(lines[0])
    headers = [_HEADER.fullmatch(line) for line in lines[1:]]
    if request is None or None in headers:
        raise _RefusedError(HTTPStatus.BAD_REQUEST)
    method, path, minor = request.groups()
    hosts = sum(header is not None and header[1].lower() == b"host" for header in headers)
    if hosts > 1 or (minor == b"1" and not hosts):
        raise _RefusedError(HTTPStatus.BAD_REQUEST)
    return method.decode(), path.decode()


def _response(status: HTTPStatus, body: bytes = b"", *, is_head: bool = False) -> bytes:
    body = body or orjson.dumps({"status": status.phrase.lower()})
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Date: {formatdate(usegmt=True)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        head.append(f"Allow: {', '.join(_METHODS)}")
    text = "\r\n".join([*head, "", ""]).encode()
    return text if is_head else text + body
