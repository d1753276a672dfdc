"""The start-up step that many wait for and one performs."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from fastpersist.singleshot import Singleshot


class Step:
    """Counts its runs, waits for a gate, and fails while it has errors left."""

    def __init__(self, *errors: BaseException) -> None:
        self.runs = 0
        self.ended = 0
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.errors = list(errors)

    async def __call__(self) -> int:
        self.runs += 1
        self.begun.set()
        await self.gate.wait()
        self.ended += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.runs


def start(shot: Singleshot[int], count: int) -> list[asyncio.Task[int]]:
    """Return waiters; they all wait when the run begins, whose task comes after theirs."""

    async def wait() -> int:
        return await shot()

    return [asyncio.create_task(wait()) for _ in range(count)]


async def test_one_run_serves_all_who_wait_and_all_who_come_later() -> None:
    step = Step()
    shot = Singleshot(step)
    waiters = start(shot, 50)
    await step.begun.wait()
    assert not shot.is_done
    step.gate.set()
    assert await asyncio.gather(*waiters) == [1] * 50
    assert shot.is_done
    assert await shot() == 1
    assert step.runs == 1


async def test_a_failure_reaches_all_and_the_next_call_runs_anew() -> None:
    error = RuntimeError("first")
    step = Step(error)
    shot = Singleshot(step)
    waiters = start(shot, 5)
    await step.begun.wait()
    step.gate.set()
    assert await asyncio.gather(*waiters, return_exceptions=True) == [error] * 5
    assert not shot.is_done
    assert await shot() == 2
    assert shot.is_done


async def test_a_failed_run_never_looks_done_nor_is_shared_with_later_calls() -> None:
    """Between the end of the task and its callbacks another task may already ask."""
    shot: Singleshot[int]
    later: list[asyncio.Task[int]] = []

    class FirstError(Exception):
        pass

    async def ask_later() -> int:
        assert not shot.is_done
        return await shot()

    async def step() -> int:
        if not later:
            later.append(asyncio.create_task(ask_later()))
            raise FirstError
        return 2

    shot = Singleshot(step)
    with pytest.raises(FirstError):
        await shot()
    assert await later[0] == 2
    assert shot.is_done


async def test_a_cancelled_waiter_harms_no_one() -> None:
    step = Step()
    shot = Singleshot(step)
    first, second, third = start(shot, 3)
    await step.begun.wait()
    first.cancel()
    third.cancel()
    for waiter in (first, third):
        with pytest.raises(asyncio.CancelledError):
            await waiter
    step.gate.set()
    assert await second == 1
    assert step.runs == 1


async def test_the_run_goes_on_when_all_waiters_are_cancelled() -> None:
    step = Step()
    shot = Singleshot(step)
    waiters = start(shot, 3)
    await step.begun.wait()
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert not shot.is_done
    step.gate.set()
    assert await shot() == 1
    assert (step.runs, step.ended) == (1, 1)


async def test_a_failure_that_nobody_waits_for_is_forgotten_quietly() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def step() -> int:
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
        failed.set()
        raise RuntimeError("nobody listens")

    failed = asyncio.Event()
    shot = Singleshot(step)
    waiters = start(shot, 2)
    await failed.wait()
    await asyncio.sleep(0)  # the callbacks of the run
    del shot
    gc.collect()
    assert [context for context in reported if "never retrieved" in context["message"]] == []


class EndedError(Exception):
    """Why a run was ended."""


async def test_ending_a_run_under_way_tells_all_who_wait() -> None:
    step = Step()
    shot = Singleshot(step)
    waiters = start(shot, 2)
    await step.begun.wait()
    await shot.end(EndedError())
    for waiter in waiters:
        with pytest.raises(EndedError):
            await waiter
    assert step.ended == 0
    assert not shot.is_done
    step.gate.set()
    assert await shot() == 2


async def test_ending_forgets_an_outcome_and_may_come_before_any_run() -> None:
    step = Step()
    step.gate.set()
    shot = Singleshot(step)
    await shot.end(EndedError())
    assert await shot() == 1
    await shot.end(EndedError())
    assert not shot.is_done
    assert await shot() == 2


async def test_a_run_that_is_cancelled_from_inside_is_forgotten() -> None:
    step = Step(asyncio.CancelledError())
    step.gate.set()
    shot = Singleshot(step)
    with pytest.raises(asyncio.CancelledError):
        await shot()
    assert await shot() == 2
