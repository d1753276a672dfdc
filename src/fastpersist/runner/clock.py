"""The clock of a run that is not replayed."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from ..times import now_ms

__all__ = ["Clock", "WallClock"]

_PIECE_SECONDS: Final = 1.0


class Clock(Protocol):
    """What tells the time, and how it passes."""

    def now(self) -> int:
        """Return the time, ms since the epoch."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of real time."""

    async def wait_until(self, moment: int, most_seconds: float) -> None:
        """Return when it is `moment` (ms), at the latest after `most_seconds` of real time."""


class WallClock:
    """The machine's clock. It may be set while a run goes on, so waits are made of short pieces."""

    def now(self) -> int:
        """Return the time, ms since the epoch."""
        return now_ms()

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of real time."""
        await asyncio.sleep(seconds)

    async def wait_until(self, moment: int, most_seconds: float) -> None:
        """Return when it is `moment` (ms), at the latest after `most_seconds` of real time."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + most_seconds
        while True:
            seconds = min((moment - self.now()) / 1000, ends - loop.time(), _PIECE_SECONDS)
            if seconds <= 0:
                return
            await asyncio.sleep(seconds)
