"""The health endpoint, over raw sockets: what it answers, and what it does not put up with."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import fastpersist
from fastpersist import ConfigurationError
from fastpersist.cli.health import check_stores
from fastpersist.runner import health as health_module
from fastpersist.runner.health import Health, HealthServer
from kit import eventually

PATH = "/api/v1/health/health_check"
GET = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Check:
    """A check whose answer, delay and error a test sets."""

    def __init__(self) -> None:
        self.health: Any = Health(True, {"symbols": ["BTCUSDT"], "lag_ms": 12})
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.calls = 0

    async def __call__(self) -> Health:
        self.calls += 1
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        found: Health = self.health
        return found


@pytest.fixture
def check() -> Check:
    return Check()


@pytest.fixture
async def server(check: Check) -> AsyncIterator[HealthServer]:
    async with HealthServer(check, port=0) as server:
        yield server


async def talk(server: HealthServer, sent: str | bytes, *, ends: bool = False) -> bytes:
    """Return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(sent if isinstance(sent, bytes) else sent.encode())
        if ends:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()
        await writer.wait_closed()


def connections(server: HealthServer, count: int) -> Callable[[], Awaitable[bool]]:
    """Return a condition: the server has that many."""

    async def holds() -> bool:
        return len(server._clients) == count

    return holds


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first.startswith("HTTP/1.1 ")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


async def status(server: HealthServer, sent: str | bytes, *, ends: bool = False) -> int:
    return parsed(await talk(server, sent, ends=ends))[0]


async def test_ready(server: HealthServer) -> None:
    code, headers, body = parsed(await talk(server, GET))
    assert code == 200
    assert json.loads(body) == {"status": "ok", "symbols": ["BTCUSDT"], "lag_ms": 12}
    assert body.startswith(b'{"status":"ok"')
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    assert headers["Connection"] == "close"
    assert headers["Date"].endswith(" GMT")


async def test_not_ready(server: HealthServer, check: Check) -> None:
    check.health = Health(False, {"mongo": False, "status": "ok"})
    code, _, body = parsed(await talk(server, GET))
    assert code == 503
    assert json.loads(body) == {"status": "unavailable", "mongo": False}


async def test_head_is_get_without_a_body(server: HealthServer) -> None:
    code, headers, body = parsed(await talk(server, GET.replace("GET", "HEAD")))
    _, headers_of_get, body_of_get = parsed(await talk(server, GET))
    assert (code, body) == (200, b"")
    assert headers["Content-Length"] == headers_of_get["Content-Length"] == str(len(body_of_get))


@pytest.mark.parametrize(
    "request_text",
    [
        f"GET {PATH} HTTP/1.0\r\n\r\n",
        f"GET {PATH}?verbose=1 HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET http://127.0.0.1:60050{PATH} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"\r\nGET {PATH} HTTP/1.1\r\nHost:x\r\nUser-Agent: probe/1 (\u00fc)\r\nX:\r\n\r\n",
        f"GET {PATH} HTTP/1.1\nhost: x\n\n",
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc{GET}",
    ],
)
async def test_other_well_formed_requests(server: HealthServer, request_text: str) -> None:
    answer = await talk(server, request_text)
    assert parsed(answer)[0] == 200
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("path", ["/", "/api", f"{PATH}/", f"{PATH}x", f"/.{PATH}", "//", "/%00"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_other_paths(server: HealthServer, check: Check, path: str, method: str) -> None:
    code, _, body = parsed(await talk(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert (code, json.loads(body)) == (404, {"status": "not found"})
    assert check.calls == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "X-1"])
async def test_other_methods(server: HealthServer, check: Check, method: str) -> None:
    code, headers, _ = parsed(await talk(server, GET.replace("GET", method, 1)))
    assert (code, headers["Allow"]) == (405, "GET, HEAD")
    assert check.calls == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        f"GET {PATH}\r\n\r\n".encode(),
        f"GET {PATH} HTTP/2.0\r\nHost: x\r\n\r\n".encode(),
        f"GET {PATH} HTTP/1.1 \r\nHost: x\r\n\r\n".encode(),
        f"GET  {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"G\u00cbT {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"GET {PATH}\x00 HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET api HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET {PATH} HTTP/1.1\r\n\r\n".encode(),
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n".encode(),
        f"GET {PATH} HTTP/1.1\r\nHost : x\r\n\r\n".encode(),
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n".encode(),
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n".encode(),
        f"GET {PATH} HTTP/1.1\r\nHost: x\rY: z\r\n\r\n".encode(),
        b"GET " + b"/" * 4_000 + b"\x7f" + b"/" * 4_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_malformed_requests(server: HealthServer, check: Check, request_bytes: bytes) -> None:
    assert await status(server, request_bytes, ends=True) == 400
    assert check.calls == 0


@pytest.mark.parametrize(
    "request_text",
    [
        "x" * 1_000_000,
        f"GET /{'x' * 100_000} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nCookie: {'x' * 100_000}\r\n\r\n",
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * 10_000,
        "\r\n" * 10_000,
    ],
)
async def test_huge_requests(server: HealthServer, request_text: str) -> None:
    assert await status(server, request_text) == 431
    assert await status(server, GET) == 200


@pytest.mark.parametrize("sent", [b"", b"GET /api"])
async def test_a_client_that_goes_away(
    server: HealthServer, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await talk(server, sent, ends=True) == b"") is (sent == b"")
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    writer.transport.abort()
    assert await status(server, GET) == 200
    assert caplog.messages == []


async def test_a_slow_client_is_cut(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "_CLIENT_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    async def drip() -> None:
        for letter in GET * 10:
            writer.write(letter.encode())
            await asyncio.sleep(0.01)

    dripping = asyncio.ensure_future(drip())
    assert parsed(await asyncio.wait_for(reader.read(), 60))[0] == 408
    dripping.cancel()
    writer.close()
    with pytest.raises(asyncio.CancelledError):
        await dripping


async def test_a_client_that_never_closes_is_cut(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "_LINGER_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET.encode())
    assert parsed(await reader.read())[0] == 200
    await eventually(connections(server, 0))
    writer.close()


async def test_connections_are_few(server: HealthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "_MOST_CONNECTIONS", 3)
    idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
    await eventually(connections(server, 3))
    try:
        answer = await talk(server, GET)
    except ConnectionError:
        answer = b""
    assert answer == b""
    for _, writer in idle:
        writer.close()
    await eventually(connections(server, 0))
    assert await status(server, GET) == 200


async def test_a_check_that_takes_too_long(
    server: HealthServer, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "_CHECK_SECONDS", 1)
    check.seconds = 600
    clients = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
    await eventually(connections(server, 5))
    # All at once, since who asks after the deadline of the first has a check of its own.
    for _, writer in clients:
        writer.write(GET.encode())
    answers = [await asyncio.wait_for(reader.read(), 60) for reader, _ in clients]
    for _, writer in clients:
        writer.close()
    assert [parsed(answer)[0] for answer in answers] == [503] * 5
    assert json.loads(parsed(answers[0])[2])["error"] == "no result within 1 s"
    assert check.calls == 1
    check.seconds = 0
    monkeypatch.setattr(health_module, "_CHECK_SECONDS", 60)
    assert await status(server, GET) == 200


async def test_a_check_that_cannot_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(health_module, "_LINGER_SECONDS", 0.05)
    done = asyncio.Event()

    async def stubborn() -> Health:
        while not done.is_set():
            try:
                await done.wait()
            except asyncio.CancelledError:
                continue
        return Health(True)

    async with HealthServer(stubborn, port=0) as server:
        assert [await status(server, GET) for _ in range(3)] == [503] * 3
    checking = server._checking
    assert checking is not None
    done.set()
    await checking


@pytest.mark.parametrize("error", [RuntimeError("secret"), fastpersist.StoreError("secret")])
async def test_a_check_that_fails(
    server: HealthServer, check: Check, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    check.error = error
    answer = await talk(server, GET)
    assert parsed(answer)[0] == 503
    assert b"secret" not in answer
    name = type(error).__name__
    assert caplog.record_tuples == [
        ("fastpersist.runner", logging.WARNING, f"the health check failed: {name}")
    ]


@pytest.mark.parametrize(
    "health", [None, Health(True, {"x": object()}), Health(True, {"\ud800": 1})]
)
async def test_a_check_that_returns_nonsense(
    server: HealthServer, check: Check, health: Any
) -> None:
    check.health = health
    assert await status(server, GET) == 503


async def test_a_port_in_use(server: HealthServer, check: Check) -> None:
    with pytest.raises(ConfigurationError, match=f"port {server.port} of .* is in use") as caught:
        async with HealthServer(check, port=server.port):
            pass
    assert caught.value.setting == "health_port"
    assert "0 takes a free one" in caught.value.hint


async def test_an_address_of_another_machine(check: Check) -> None:
    with pytest.raises(ConfigurationError, match="cannot be had") as caught:
        async with HealthServer(check, "192.0.2.1", 0):
            pass
    assert caught.value.setting == "health_port"


@pytest.mark.parametrize("port", [-1, 65_536, True, "80", 1.5])
def test_no_port(check: Check, port: Any) -> None:
    with pytest.raises(ConfigurationError, match="not a port"):
        HealthServer(check, port=port)


def test_closing_gives_everything_back(check: Check) -> None:
    check.seconds = 60

    async def called() -> bool:
        return check.calls == 1

    async def run() -> int:
        async with HealthServer(check, port=0) as server:
            clients = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(4)]
            clients[0][1].write(GET.encode())  # waits for its check
            clients[1][1].write(b"GET ")  # waits for its rest
            await eventually(connections(server, 4))
            await eventually(called)
            port = server.port
        assert server.port == 0
        for reader, writer in clients:
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        with pytest.raises(OSError, match=r"refused|Connect"):
            await asyncio.open_connection("127.0.0.1", port)
        async with HealthServer(check, port=port):  # nothing is left on it
            pass
        return len(asyncio.all_tasks())

    gc.collect()  # what others have left is not to close meanwhile
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert asyncio.run(run()) == 1
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_folder_is_asked_by_a_write(tmp_path: Path) -> None:
    assert await check_stores(tmp_path) == Health(True, {"files": True})
    assert await check_stores(str(tmp_path / "a" / "dump")) == Health(True, {"files": True})
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    for place in ("file", "file/dump"):
        assert await check_stores(tmp_path / place) == Health(False, {"files": False})


async def test_a_store_that_was_never_connected_or_is_closed() -> None:
    store = fastpersist.open(mongo_url="mongodb://127.0.0.1:1/x", redis_url="redis://127.0.0.1:1")
    nothing = {"mongo": False, "mongo_ms": None, "redis": False, "redis_ms": None}
    assert await check_stores(store) == Health(False, nothing)
    await store.aclose()
    assert await check_stores(store) == Health(False, nothing)
