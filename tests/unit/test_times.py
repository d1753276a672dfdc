"""Moments, and the simulated time that limits reads."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpersist import InvalidArgumentError, LookAheadError, current_simulated_time, simulated_time
from fastpersist.times import is_visible, now_ms, read_limit, to_datetime, to_ms

UTC = timezone.utc
MS = 1_735_689_600_000


class NoOffset(tzinfo):
    """A zone that cannot say its offset."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None


@pytest.mark.parametrize(
    ("when", "ms"),
    [
        (0, 0),
        (-1, -1),
        (MS, MS),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(2025, 1, 1, tzinfo=UTC), MS),
        (datetime(2025, 1, 1, 3, tzinfo=timezone(timedelta(hours=3))), MS),
        (datetime(1970, 1, 1, 0, 0, 0, 1_999, tzinfo=UTC), 1),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        (datetime.min.replace(tzinfo=UTC), -62_135_596_800_000),
        (datetime.max.replace(tzinfo=UTC), 253_402_300_799_999),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), -62_135_614_800_000),
    ],
)
def test_moments_become_whole_ms_rounded_down(when: Any, ms: int) -> None:
    assert to_ms(when) == ms
    assert type(to_ms(when)) is int


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (datetime(2025, 1, 1), "naive"),
        (datetime(2025, 1, 1, tzinfo=NoOffset()), "naive"),
        (date(2025, 1, 1), "got date"),
        (True, "got bool"),
        (1.0, "got float"),
        ("2025-01-01", "got str"),
        (None, "got NoneType"),
        (timedelta(1), "got timedelta"),
        (2**63, "64 bits"),
        (-(2**63) - 1, "64 bits"),
    ],
)
def test_what_is_no_moment_is_refused_by_name(when: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        to_ms(when, "since")
    assert caught.value.field == "since"
    with pytest.raises(InvalidArgumentError, match=message) as caught, simulated_time(when):
        pass
    assert caught.value.field == "when"
    assert current_simulated_time() is None


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_ms_come_back_from_a_datetime(ms: int) -> None:
    moment = to_datetime(ms)
    assert moment.utcoffset() == timedelta(0)
    assert to_ms(moment) == ms


def test_now_is_the_wall_clock_in_whole_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: MS * 1_000_000 + 999_999)
    assert now_ms() == MS


def test_blocks_nest_and_the_innermost_counts() -> None:
    assert current_simulated_time() is None
    with simulated_time(MS):
        with simulated_time(MS + 5):
            assert current_simulated_time() == MS + 5
            with simulated_time(0):
                assert current_simulated_time() == 0
            assert current_simulated_time() == MS + 5
        assert current_simulated_time() == MS
        with simulated_time(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)):
            assert current_simulated_time() == 1000
    assert current_simulated_time() is None


def test_a_block_that_fails_restores_the_time() -> None:
    with simulated_time(1):
        with pytest.raises(RuntimeError), simulated_time(2):
            raise RuntimeError
        assert current_simulated_time() == 1


async def test_tasks_have_moments_of_their_own() -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def simulate() -> int | None:
        with simulated_time(7):
            inside.set()
            await go_on.wait()
            return current_simulated_time()

    with simulated_time(5):
        task = asyncio.create_task(simulate())
        await inside.wait()
        assert current_simulated_time() == 5
    assert current_simulated_time() is None
    go_on.set()
    assert await task == 7


async def test_tasks_inherit_the_moment_of_their_start() -> None:
    async def ask() -> int | None:
        return current_simulated_time()

    with simulated_time(5):
        task = asyncio.create_task(ask())
        in_thread = await asyncio.to_thread(current_simulated_time)
    assert await task == 5
    assert in_thread == 5


def test_threads_do_not_share_a_moment() -> None:
    seen: list[int | None] = []

    def ask() -> None:
        seen.append(current_simulated_time())
        with simulated_time(9):
            seen.append(current_simulated_time())

    with simulated_time(5):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert current_simulated_time() == 5
    assert seen == [None, 9]


@pytest.mark.parametrize(
    ("simulated", "when", "limit"),
    [
        (None, None, None),
        (None, MS, MS),
        (MS, None, MS),
        (MS, MS - 1, MS - 1),
        (MS, MS + 1, MS),
        (0, None, 0),
        (0, 5, 0),
        (MS, to_datetime(MS - 2), MS - 2),
    ],
)
def test_a_read_sees_no_later_than_asked_and_simulated(
    simulated: int | None, when: Any, limit: int | None
) -> None:
    if simulated is None:
        assert read_limit(when) == limit
    else:
        with simulated_time(simulated):
            assert read_limit(when) == limit


@pytest.mark.parametrize("when", [datetime(2025, 1, 1), "now", 1.5, False])
def test_a_read_at_no_moment_is_refused(when: Any) -> None:
    with pytest.raises(InvalidArgumentError), simulated_time(0):
        read_limit(when)


@pytest.mark.parametrize(
    ("written", "asked", "hidden"),
    [
        (None, None, False),
        (5, None, False),
        (None, 5, False),
        (5, 5, False),
        (4, 5, False),
        (6, 5, True),
        (0, -1, True),
    ],
)
def test_policies(written: int | None, asked: int | None, hidden: bool) -> None:
    assert is_visible("state", written, asked, "allow") is True
    assert is_visible("state", written, asked, "hide") is not hidden
    if not hidden:
        assert is_visible("state", written, asked, "raise") is True
        return
    with pytest.raises(LookAheadError, match="state: ") as caught:
        is_visible("state", written, asked, "raise")
    error = caught.value
    assert (error.domain, error.written_at, error.asked_at) == ("state", written, asked)
