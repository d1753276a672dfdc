"""Run once, share the outcome, forget it on failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Singleshot"]

T = TypeVar("T")


class Singleshot(Generic[T]):
    """An asynchronous start-up step that many callers wait for and only one run performs.

    The run has a task of its own: a cancelled waiter cancels neither the run nor the other waiters.
    A success is kept; a failure reaches all who waited for it, and the next call runs anew.
    Belongs to one event loop.
    """

    def __init__(self, step: Callable[[], Awaitable[T]]) -> None:
        self._step = step
        self._task: asyncio.Task[T] | None = None
        self._succeeded: asyncio.Task[T] | None = None
        self._ended_by: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether a run has succeeded."""
        task = self._task
        if task is None or task is self._succeeded:
            return task is not None
        if task.done() and not task.cancelled() and task.exception() is None:
            self._succeeded = task
        return task is self._succeeded

    async def __call__(self) -> T:
        task = self._task
        # A failure is forgotten by a callback, which runs a moment after the task has ended.
        if task is None or (task.done() and not self.is_done):
            self._ended_by = None
            task = self._task = asyncio.ensure_future(self._run())
            task.add_done_callback(self._forget_failure)
        return await asyncio.shield(task)

    async def _run(self) -> T:
        try:
            return await self._step()
        except asyncio.CancelledError:
            # Nobody cancelled those who wait, so they must not believe it.
            if self._ended_by is not None:
                raise self._ended_by from None
            raise

    def _forget_failure(self, task: asyncio.Task[T]) -> None:
        # Reading the exception also keeps a failure that nobody waited for out of the loop's log.
        if (task.cancelled() or task.exception() is not None) and self._task is task:
            self._task = None

    async def end(self, error: Exception) -> None:
        """End a run that is under way with `error` for all who wait, and forget any outcome."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            self._ended_by = error
            task.cancel()
            await asyncio.wait([task])
