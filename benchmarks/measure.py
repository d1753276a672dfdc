"""Medians of interleaved rounds, so that what disturbs one contender disturbs the others too."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median

__all__ = ["Case", "Result", "measured"]


@dataclass(frozen=True)
class Case:
    """One contender of a comparison; `run` does `calls` calls, numbered by the round."""

    name: str
    run: Callable[[int], Awaitable[object]]


@dataclass(frozen=True)
class Result:
    """Median time of a contender in microseconds per call, and its ratio to the baseline's."""

    what: str
    name: str
    microseconds: float
    ratio: float


async def measured(what: str, calls: int, rounds: int, cases: list[Case]) -> list[Result]:
    """Run all cases `rounds` times in turns and compare them with the first, the baseline.

    Args:
        what: What is compared.
        calls: Calls that one run makes; times are per call.
        rounds: How often each case runs; one more, unmeasured, warms up.
    """
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    for number in range(rounds + 1):
        # Who goes first in a round gains or loses by it, so that changes as well.
        for case in cases if number % 2 else cases[::-1]:
            gc.collect()
            gc.disable()
            try:
                started = time.perf_counter()
                await case.run(number)
                lasted = time.perf_counter() - started
            finally:
                gc.enable()
            if number:
                times[case.name].append(lasted / calls * 1e6)
    baseline = median(times[cases[0].name])
    return [
        Result(what, case.name, median(times[case.name]), median(times[case.name]) / baseline)
        for case in cases
    ]
