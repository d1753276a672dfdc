"""Calls that wait in the same turn of the event loop travel as one round trip."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, TypeVar

__all__ = ["Coalescer"]

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

_MOST_CALLS: Final = 1_000
_MOST_BYTES: Final = 8 * 1024 * 1024
# More would only wait for each other at the server, each with its deadline running.
_MOST_BATCHES: Final = 8


class _Call(Generic[RequestT, ResultT]):
    __slots__ = ("future", "request")

    def __init__(self, request: RequestT) -> None:
        self.request = request
        self.future: asyncio.Future[ResultT] | None = None

    @property
    def is_cancelled(self) -> bool:
        return self.future is not None and self.future.cancelled()

    def wait(self) -> asyncio.Future[ResultT]:
        if self.future is None:
            self.future = asyncio.get_running_loop().create_future()
        return self.future

    def resolve(self, outcome: ResultT | Exception) -> None:
        future = self.wait()
        if future.done():
            return  # its caller was cancelled
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


class _Item(Generic[RequestT, ResultT]):
    """Calls of one key that are one request of a batch."""

    __slots__ = ("calls", "is_exclusive", "is_sent", "key", "size")

    def __init__(self, key: Hashable, is_exclusive: bool) -> None:
        self.key = key
        self.calls: list[_Call[RequestT, ResultT]] = []
        self.is_exclusive = is_exclusive
        self.is_sent = False
        self.size = 0

    def drop_cancelled(self) -> bool:
        """Forget the calls that were cancelled; say whether any is left."""
        self.calls = [call for call in self.calls if not call.is_cancelled]
        return bool(self.calls)


class Coalescer(Generic[RequestT, ResultT]):
    """Gathers the calls of one turn of the event loop and sends them together.

    The first caller of a turn yields once. Alone, it then runs `alone` in its own task, without a
    future or a further task; otherwise one task runs `together` for all of the turn. Calls with
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
        self._waiting: dict[Hashable, deque[_Item[RequestT, ResultT]]] = {}
        self._has_leader = False
        self._under_way: set[Hashable] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._batches = 0
        self._alone_runs = 0
        self._released: asyncio.Future[None] | None = None

    async def __call__(self, key: Hashable, request: RequestT, size: int = 0) -> ResultT:
        """Return the outcome of `request`, which has `size` bytes."""
        item, call = self._add(key, request, size)
        if self._has_leader or key in self._under_way:
            return await call.wait()
        self._has_leader = True
        try:
            await asyncio.sleep(0)
        except BaseException:
            self._has_leader = False
            if item.is_sent:
                call.wait().cancel()
            else:
                self._withdraw(item, call)
            self._send_waiting()
            raise
        self._has_leader = False
        is_alone = not item.is_sent and len(self._waiting) == len(self._waiting[key]) == 1
        if not is_alone or len(item.calls) > 1:
            future = call.wait()
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
        futures = [self._add(key, request, size)[1].wait() for key, request, size in requests]
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
        _, call = self._add(key, request, 0, is_exclusive=True)
        future = call.wait()
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
    ) -> tuple[_Item[RequestT, ResultT], _Call[RequestT, ResultT]]:
        items = self._waiting.get(key)
        if items is None:
            items = self._waiting[key] = deque()
        if not items or is_exclusive or items[-1].is_exclusive:
            items.append(_Item(key, is_exclusive))
        item = items[-1]
        call: _Call[RequestT, ResultT] = _Call(request)
        item.calls.append(call)
        item.size = size
        return item, call

    def _take(self, key: Hashable) -> _Item[RequestT, ResultT]:
        items = self._waiting[key]
        item = items.popleft()
        if not items:
            del self._waiting[key]
        item.is_sent = True
        return item

    def _withdraw(self, item: _Item[RequestT, ResultT], call: _Call[RequestT, ResultT]) -> None:
        item.calls.remove(call)
        if not item.calls:
            items = self._waiting[item.key]
            items.remove(item)
            if not items:
                del self._waiting[item.key]

    def _send_waiting(self) -> None:
        batch: list[_Item[RequestT, ResultT]] = []
        size = 0
        for key in [key for key in self._waiting if key not in self._under_way]:
            most = self._most_bytes - self._waiting[key][0].size
            if batch and (len(batch) >= self._most_calls or size > most):
                self._send(batch)
                batch, size = [], 0
            if not (batch or self._waiting[key][0].is_exclusive) and (
                self._batches >= _MOST_BATCHES
            ):
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
        for item in batch:
            for call in item.calls:
                call.wait()
        if self._ordered:
            self._under_way.update(item.key for item in batch)
        task = asyncio.ensure_future(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: list[_Item[RequestT, ResultT]]) -> None:
        try:
            requests = [item.calls[self._counts].request for item in batch]
            outcomes: Sequence[ResultT | Exception]
            if len(requests) == 1 and len(batch[0].calls) == 1:
                outcomes, may_repeat = [await self._outcome_alone(requests[0])], False
            else:
                try:
                    outcomes, may_repeat = await self._together(requests), self._ordered
                except Exception as error:
                    outcomes, may_repeat = [error] * len(batch), False
            for item, outcome in zip(batch, outcomes, strict=True):
                for call in item.calls:
                    if may_repeat and isinstance(outcome, Exception):
                        call.resolve(await self._outcome_alone(call.request))
                    else:
                        call.resolve(outcome)
        finally:
            for item in batch:
                for call in item.calls:
                    # All are done, unless this task was cancelled.
                    call.wait().cancel()
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


def _cancel(futures: Iterable[asyncio.Future[ResultT]]) -> None:
    for future in futures:
        future.cancel()
