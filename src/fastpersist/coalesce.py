"""Calls that wait in the same turn of the event loop travel as one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

__all__ = ["Coalescer"]

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

_MOST_CALLS: Final = 1_000
_MOST_BYTES: Final = 8 * 1024 * 1024
# More would only wait for each other at the server, each with its deadline running.
_MOST_BATCHES: Final = 8


class _Item(Generic[RequestT, ResultT]):
    """Calls of one key that are one request of a batch."""

    __slots__ = ("calls", "is_exclusive", "key", "later", "size")

    def __init__(self, key: Hashable, is_exclusive: bool) -> None:
        self.key = key
        self.calls: list[tuple[RequestT, asyncio.Future[ResultT]]] = []
        self.is_exclusive = is_exclusive
        self.size = 0
        # What waits behind the first item of a key; mostly nothing does.
        self.later: list[_Item[RequestT, ResultT]] = []

    def drop_cancelled(self) -> bool:
        """Forget the calls that were cancelled; say whether any is left."""
        self.calls = [call for call in self.calls if not call[1].cancelled()]
        return bool(self.calls)


class Coalescer(Generic[RequestT, ResultT]):
    """Gathers the calls of one turn of the event loop and sends them together.

    The first caller of a turn yields once. Alone, it then runs `alone` in its own task, without a
    further one; otherwise one task runs `together` for all of the turn. Calls with
    the same key in one batch are one request, the last one, and share its outcome. A cancelled
    caller drops out alone. A few batches are under way at a time; what comes meanwhile waits and
    makes the next ones larger. Belongs to one event loop.

    Args:
        alone: Performs one request.
        together: Performs several requests of different keys. It returns one outcome each; what it
            raises is the outcome of all.
        ordered: Whether requests of one key must not overtake each other, as with writes: a key
            that is under way holds back later calls of it. With it, an exception among the
            outcomes of `together` makes each call of that key be performed anew by `alone`, in
            order, so that a bad request fails nobody else.
        first_counts: Whether of several calls of one key the first request is performed, not the
            last, as where what is stored stays.
        most_calls: Most requests of one batch.
        most_bytes: Most bytes of one batch, as the callers count them.
    """

    def __init__(
        self,
        alone: Callable[[RequestT], Awaitable[ResultT]],
        together: Callable[[Sequence[RequestT]], Awaitable[Sequence[ResultT | Exception]]],
        *,
        ordered: bool = False,
        first_counts: bool = False,
        most_calls: int = _MOST_CALLS,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._alone = alone
        self._together = together
        self._ordered = ordered
        self._counts = 0 if first_counts else -1
        self._most_calls = most_calls
        self._most_bytes = most_bytes
        self._waiting: dict[Hashable, _Item[RequestT, ResultT]] = {}
        self._has_leader = False
        self._under_way: set[Hashable] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._batches = 0
        self._alone_runs = 0
        self._released: asyncio.Future[None] | None = None

    async def __call__(self, key: Hashable, request: RequestT, size: int = 0) -> ResultT:
        """Return the outcome of `request`, which has `size` bytes."""
        item, future = self._add(key, request, size)
        if self._has_leader or key in self._under_way:
            return await future
        self._has_leader = True
        try:
            await asyncio.sleep(0)
        except BaseException:
            self._has_leader = False
            future.cancel()
            self._send_waiting()
            raise
        self._has_leader = False
        is_alone = self._waiting.get(key) is item and len(self._waiting) == len(item.calls) == 1
        if not is_alone or item.later:
            self._send_waiting()
            return await future
        self._take(key)
        self._alone_runs += 1
        if self._ordered:
            self._under_way.add(key)
        try:
            return await self._alone(request)
        finally:
            self._alone_runs -= 1
            self._release((key,))

    async def all(self, requests: Iterable[tuple[Hashable, RequestT, int]]) -> None:
        """Perform requests, given with their key and size, without a task for each of them.

        Raises what the first that failed has raised, after all have ended.
        """
        futures = [self._add(key, request, size)[1] for key, request, size in requests]
        if not futures:
            return
        leads, self._has_leader = not self._has_leader, True
        try:
            if leads:
                await asyncio.sleep(0)
        except BaseException:
            _cancel(futures)
            raise
        finally:
            if leads:
                self._has_leader = False
                self._send_waiting()
        try:
            await asyncio.wait(futures)
        except BaseException:
            _cancel(futures)
            raise
        errors = [future.exception() for future in futures if not future.cancelled()]
        for error in errors:
            if error is not None:
                raise error
        for future in futures:
            future.result()

    async def exclusively(self, key: Hashable, request: RequestT) -> ResultT:
        """Perform `request` by `alone`, after the earlier calls of its key and before later ones.

        For a request that must neither replace an earlier one nor be replaced by a later one.
        """
        _, future = self._add(key, request, 0, is_exclusive=True)
        if not self._has_leader:
            self._send_waiting()
        return await future

    async def flush(self) -> None:
        """Send what waits, and wait for all that is under way."""
        while True:
            self._send_waiting()
            if self._tasks:
                await asyncio.wait(self._tasks)
            elif self._alone_runs:
                if self._released is None or self._released.done():
                    self._released = asyncio.get_running_loop().create_future()
                # Not awaited itself: a flush that is cancelled must not end another's.
                await asyncio.wait([self._released])
            else:
                return

    def _add(
        self, key: Hashable, request: RequestT, size: int, *, is_exclusive: bool = False
    ) -> tuple[_Item[RequestT, ResultT], asyncio.Future[ResultT]]:
        first = item = self._waiting.get(key)
        if first is None:
            item = self._waiting[key] = _Item(key, is_exclusive)
        else:
            item = first.later[-1] if first.later else first
            if is_exclusive or item.is_exclusive:
                item = _Item(key, is_exclusive)
                first.later.append(item)
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        item.calls.append((request, future))
        item.size = size
        return item, future

    def _take(self, key: Hashable) -> _Item[RequestT, ResultT]:
        item = self._waiting[key]
        if item.later:
            following = self._waiting[key] = item.later.pop(0)
            following.later = item.later
        else:
            del self._waiting[key]
        return item

    def _send_waiting(self) -> None:
        batch: list[_Item[RequestT, ResultT]] = []
        size = 0
        for key in [key for key in self._waiting if key not in self._under_way]:
            most = self._most_bytes - self._waiting[key].size
            if batch and (len(batch) >= self._most_calls or size > most):
                self._send(batch)
                batch, size = [], 0
            if not (batch or self._waiting[key].is_exclusive) and self._batches >= _MOST_BATCHES:
                continue
            item = self._take(key)
            while not item.drop_cancelled() and key in self._waiting:
                item = self._take(key)
            if not item.calls:
                continue
            if item.is_exclusive:
                self._send([item])
                continue
            batch.append(item)
            size += item.size
        if batch:
            self._send(batch)

    def _send(self, batch: list[_Item[RequestT, ResultT]]) -> None:
        # An exclusive request is like a caller that runs alone: it waits for nobody's batch.
        self._batches += not batch[0].is_exclusive
        if self._ordered:
            self._under_way.update(item.key for item in batch)
        task = asyncio.ensure_future(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: list[_Item[RequestT, ResultT]]) -> None:
        try:
            requests = [item.calls[self._counts][0] for item in batch]
            outcomes: Sequence[ResultT | Exception]
            if len(requests) == 1 and len(batch[0].calls) == 1:
                outcomes, may_repeat = [await self._outcome_alone(requests[0])], False
            else:
                try:
                    outcomes, may_repeat = await self._together(requests), self._ordered
                except Exception as error:
                    outcomes, may_repeat = [error] * len(batch), False
            for item, outcome in zip(batch, outcomes, strict=True):
                for request, future in item.calls:
                    if may_repeat and isinstance(outcome, Exception):
                        _resolve(future, await self._outcome_alone(request))
                    else:
                        _resolve(future, outcome)
        finally:
            for item in batch:
                # All are done, unless this task was cancelled.
                _cancel(future for _, future in item.calls)
            self._batches -= not batch[0].is_exclusive
            self._release([item.key for item in batch])

    async def _outcome_alone(self, request: RequestT) -> ResultT | Exception:
        try:
            return await self._alone(request)
        except Exception as error:
            return error

    def _release(self, keys: Sequence[Hashable]) -> None:
        self._under_way.difference_update(keys)
        if self._released is not None and not self._released.done():
            self._released.set_result(None)
        if self._waiting and not self._has_leader:
            self._send_waiting()


def _resolve(future: asyncio.Future[ResultT], outcome: ResultT | Exception) -> None:
    if future.done():
        return  # its caller was cancelled
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _cancel(futures: Iterable[asyncio.Future[ResultT]]) -> None:
    for future in futures:
        future.cancel()
