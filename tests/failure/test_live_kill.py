"""A live run, killed with SIGKILL at every step of opening and closing, trades exactly once.

Everything is real but the exchange: processes, MongoDB, Redis, HTTP between the run and a fake
exchange in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from conftest import PATIENT_ENVIRON, Place

TESTS = Path(__file__).parent.parent
MINUTE_MS = 400
BEFORE = 30
LIVES = 5
# With some to spare: a machine that lags behind the clock has more bars, so more steps.
STEPS = 36


@contextmanager
def exchange() -> Iterator[str]:
    """A fake exchange that makes a candle every 0.4 s; its URL."""
    command = [
        sys.executable, str(TESTS / "fake_exchange.py"), "--port", "0", "--print-url",
        "--generate", "--step", str(MINUTE_MS), "--before", str(BEFORE),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def control(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/control", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def life(place: Place, url: str, kill_at: int) -> tuple[int, list[str]]:
    """Run a process until it has traded or is killed; return its code and its steps."""
    environ = {
        **os.environ,
        **PATIENT_ENVIRON,
        "PYTHONPATH": str(TESTS),
        "FASTPERSIST_MONGO_URL": place.servers.database_url(place.name),
        "FASTPERSIST_REDIS_URL": place.servers.redis_url,
        "FASTPERSIST_REDIS_PREFIX": f"{place.name}:",
    }
    now = control(url)["now"]
    script = str(TESTS / "failure" / "live_trader.py")
    done = subprocess.run(
        [sys.executable, script, url, str(now), str(MINUTE_MS), str(kill_at)],
        env=environ, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout.splitlines()


def rows(place: Place, collection: str) -> list[dict[str, Any]]:
    with MongoClient[dict[str, Any]](place.servers.database_url(place.name)) as client:
        return [row["payload"] for row in client[place.name][collection].find()]


def check_traded_once(place: Place, url: str) -> None:
    orders = control(url)["orders"]
    filled = [order for order in orders if order["fills"]]
    assert [order["side"] for order in filled] == ["BUY", "SELL"], orders
    bought, sold = (sum(float(fill["qty"]) for fill in order["fills"]) for order in filled)
    assert sold == pytest.approx(bought, rel=1e-3)  # less the fee that was taken in base
    assert len({order["clientOrderId"] for order in orders}) == len(orders)
    # An entry whose order never arrived was given up before.
    statuses = [row["status"] for row in rows(place, "storage-items")]
    assert sorted(statuses, reverse=True) == ["closed", *["cancelled"] * (len(statuses) - 1)]
    kinds = [row["type"] for row in rows(place, "notification-items")]
    assert kinds.count("signal.opened") == kinds.count("signal.closed") == 1
    assert not [kind for kind in kinds if kind.startswith("error")]


def test_a_life_that_is_not_killed_has_all_the_steps(place: Place) -> None:
    with exchange() as url:
        code, steps = life(place, url, 0)
        assert code == 0
        check_traded_once(place, url)
    names = [step.partition(" ")[2] for step in steps[:-1]]
    assert len(names) <= STEPS
    assert {"before open", "after open", "before close", "after close"} < set(names)


@pytest.mark.parametrize("kill_at", range(1, STEPS + 1))
def test_killed_at_a_step(place: Place, kill_at: int) -> None:
    with exchange() as url:
        code, steps = life(place, url, kill_at)
        assert len(steps) == kill_at if code else len(steps) - 1 < kill_at
        for _ in range(LIVES):
            if code == 0:
                break
            code, steps = life(place, url, 0)
        assert code == 0, steps
        assert steps[-1] == "done"
        check_traded_once(place, url)
