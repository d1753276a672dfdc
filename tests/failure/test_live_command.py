"""``fastpersist run --mode live`` as an operator has it: real stores, real minutes, signals."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fake_exchange
from conftest import PATIENT_ENVIRON, Place

TESTS = Path(__file__).parent.parent
STRATEGY = """
from fastpersist.runner import Signal, Strategy

class Holds(Strategy):
    name = "holds"

    def get_signal(self, ctx):
        return Signal(
            position="long", price_take_profit=9 * ctx.price, price_stop_loss=ctx.price / 9
        )
"""


@contextmanager
def exchange() -> Iterator[str]:
    """A fake exchange whose minutes are minutes; its URL."""
    script = str(TESTS / "fake_exchange.py")
    command = [sys.executable, script, "--print-url", "--generate", "--before", "300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def free_port() -> int:
    """Return a port that is free, of those that the system gives nobody by itself meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a hundred ports are in use")


def asked(port: int) -> tuple[int, dict[str, Any]]:
    """Return what the health endpoint says, 0 while there is none."""
    try:
        url = f"http://127.0.0.1:{port}/api/v1/health/health_check"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)
    except OSError:
        return 0, {}


def test_a_live_run_ends_in_good_order_and_carries_on(place: Place, tmp_path: Path) -> None:
    strategy = tmp_path / "holds.py"
    strategy.write_text(STRATEGY)
    with exchange() as url:
        port = free_port()
        environ = {
            **os.environ,
            **PATIENT_ENVIRON,
            "FASTPERSIST_MONGO_URL": place.servers.database_url(place.name),
            "FASTPERSIST_REDIS_URL": place.servers.redis_url,
            "FASTPERSIST_REDIS_PREFIX": f"{place.name}:",
            "FASTPERSIST_LOCAL_FOLDER": str(tmp_path / "locks"),
            "FASTPERSIST_EXCHANGE_OPTIONS": json.dumps(fake_exchange.options(url)),
            "FASTPERSIST_HEALTH_PORT": str(port),
        }

        def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-m", "fastpersist", "run", *arguments],
                env={**environ, **variables}, cwd=tmp_path, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

        def until(process: subprocess.Popen[str], is_so: Any) -> dict[str, Any]:
            """Return what the endpoint says once it is so; a bar closes within a minute."""
            ends = time.monotonic() + 240
            while time.monotonic() < ends:
                assert process.poll() is None, process.communicate()
                code, body = asked(port)
                if is_so(code, body):
                    return body
                time.sleep(0.2)
            raise AssertionError(f"never: {asked(port)}")

        def end(process: subprocess.Popen[str]) -> tuple[str, str]:
            process.send_signal(signal.SIGTERM)
            output, log = process.communicate(timeout=120)
            assert process.returncode == 128 + signal.SIGTERM, log
            assert "Traceback" not in log
            return output, log

        arguments = ("holds.py", "--mode", "live", "--feed", "ccxt:binance", "--symbol", "BTCUSDT")
        process = start(*arguments)
        body = until(process, lambda code, body: body.get("open_positions") == 1)
        assert (body["mode"], body["mongo"], body["redis"]) == ("live", True, True)
        other = start(*arguments, FASTPERSIST_HEALTH_PORT="0")
        _, told = other.communicate(timeout=120)
        assert other.returncode == 2
        assert "another process is doing this run" in told
        output, log = end(process)
        assert "signal.opened" in log
        assert "stopped in good order" in output

        process = start(
            MODE="live", STRATEGY_FILE="holds.py", EXCHANGE="binance", SYMBOL="BTCUSDT",
            STRATEGY="holds", VERBOSE="1",
        )  # fmt: skip
        body = until(process, lambda code, body: code == 200)
        assert body["open_positions"] == 1
        output, log = end(process)
        assert "1 positions" in log
        assert "signal.opened" not in log
        orders = json.load(urllib.request.urlopen(f"{url}/control", timeout=60))["orders"]
    assert [order["side"] for order in orders] == ["BUY"]
    for secret in (fake_exchange.KEY, fake_exchange.SECRET):
        assert secret not in output + log
