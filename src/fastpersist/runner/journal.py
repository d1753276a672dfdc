"""The redo log: what bars have written becomes durable together, or not at all.

During a bar, writes are collected and reads see them first. A record goes through the session
adapter, the engine's state and the writes in it, and only then are the writes applied. A process
that dies before the record has done nothing; one that dies after it finds the record and applies
the writes again, which changes nothing where they had arrived. Bars that left no record are
computed again, with the same outcome.

A backtest gathers many bars in one record, which travels while the next bars are computed. What is
stored in the end does not depend on where the records were cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from typing import Any, Final, TypeVar

from ..contracts import SessionData
from ..hot.codec import normalise
from ..registry import Registries

__all__ = ["Journal", "LiveJournal", "backtest_session", "joined", "session_id"]

Key = tuple[Any, ...]
T = TypeVar("T")
_ABSENT: Final = object()
_MOST_WRITES: Final = 1_000
_MOST_BYTES: Final = 2 * 1024 * 1024
_MOST_SECONDS: Final = 1.0
_KEPT: Final = 10_000
_BARS_PER_TURN: Final = 16
_TURN_SECONDS: Final = 0.01
# Buckets of a run of their own, so that what is not listed is not there.
_RUN_BUCKETS: Final = ("measure", "interval")


def session_id(session: tuple[str, str, str, str, bool]) -> str:
    """Return the id that the framework expects in the record of a session (contract 4.13)."""
    strategy, exchange, frame, symbol, is_backtest = session
    mode = "backtest" if is_backtest else "live"
    return ":".join((symbol, strategy, exchange, *((frame,) if frame else ()), mode))


def backtest_session(
    strategies: Sequence[str], symbols: Sequence[str], exchange_name: str, frame_name: str
) -> tuple[str, str, str, str, bool]:
    """Return the session that holds the record of a backtest.

    A name that no symbol has keeps it apart from the sessions of strategies.
    """
    return joined("+", strategies), exchange_name, frame_name, f"@{joined('+', symbols)}", True


def joined(sign: str, names: Iterable[str]) -> str:
    """Return names in one text, of which no others make the same."""
    escape = f"%{ord(sign):X}"
    return sign.join(name.replace("%", "%25").replace(sign, escape) for name in names)


class _Batch:
    """Writes of one record, and what reads see of them."""

    def __init__(self) -> None:
        # By what they replace: of several writes to one place the last counts, at its own position.
        self.values: dict[Key, dict[str, Any]] = {}
        self.rows: dict[tuple[str, str, Key], dict[str, dict[str, Any]]] = {}
        self.seen: dict[tuple[str, Key], Any] = {}
        self.size = 0
        self.count = 0

    def add(self, other: _Batch) -> None:
        """Take in a later batch."""
        for place, write in other.values.items():
            self.values.pop(place, None)
            self.values[place] = write
        for context, rows in other.rows.items():
            mine = self.rows.setdefault(context, {})
            for row_id, row in rows.items():
                # Of a log line the first stays, and it is the same.
                mine.pop(row_id, None)
                mine[row_id] = row
        self.seen.update(other.seen)
        self.size += other.size
        self.count += other.count

    def writes(self) -> list[dict[str, Any]]:
        """Return the calls that apply it."""
        return [
            *self.values.values(),
            *(
                {"domain": domain, "method": method, "arguments": [*context, list(rows.values())]}
                for (domain, method, context), rows in self.rows.items()
            ),
        ]


class Journal:
    """Collects the writes of bars and makes them durable.

    Args:
        registries: The adapters to read from and write to.
        session: Context of the session that holds the record: strategy, exchange, frame, symbol
            and mode.
    """

    def __init__(self, registries: Registries, session: tuple[str, str, str, str, bool]) -> None:
        self.registries = registries
        self.written = 0
        self.seconds = 0.0
        self._session = session
        self._bar = _Batch()
        self._batch = _Batch()
        self._travelling = _Batch()
        self._task: asyncio.Task[None] | None = None
        self._recorded_at = time.monotonic()
        self._kept: dict[tuple[str, Key], Any] = {}
        self._bucket_keys: dict[tuple[str, Key], set[str]] = {}
        self._memories: dict[Key, dict[str, Any]] = {}
        self._turns = 0
        self._turned_at = time.monotonic()

    def write(
        self,
        domain: str,
        method: str,
        *arguments: Any,
        places: int,
        key: Key = (),
        value: Any = None,
    ) -> None:
        """Collect a call of a registry's method; later reads of `key` see `value`.

        Args:
            domain, method, arguments: The call.
            places: How many arguments say where it writes; a later call to the same place replaces
                an earlier one.
            key, value: Where and what the strategy reads.
        """
        bar = self._bar
        place = (domain, *arguments[:places])
        call = {"domain": domain, "method": method, "arguments": list(arguments)}
        bar.values[place] = call
        bar.count += 1
        bar.size += normalise(call)[1]
        if key:
            bar.seen[domain, key] = value

    def write_row(self, domain: str, method: str, *context: Any, row: dict[str, Any]) -> None:
        """Collect a row of a list; rows are written together."""
        rows = self._bar.rows.setdefault((domain, method, context), {})
        rows.pop(row["id"], None)
        rows[row["id"]] = row
        self._bar.count += 1
        self._bar.size += normalise(row)[1]

    async def read(self, domain: str, method: str, *key: Any) -> Any:
        """Return what this run wrote under `key`, else what the adapter answers."""
        place = (domain, key)
        for seen in (self._bar.seen, self._batch.seen, self._travelling.seen, self._kept):
            value = seen.get(place, _ABSENT)
            if value is not _ABSENT:
                return normalise(value)[0]
        if domain in _RUN_BUCKETS and key[-1] not in await self._keys(domain, key[:-1]):
            return None
        started = time.perf_counter()
        value = await getattr(getattr(self.registries, domain), method)(*key)
        self.seconds += time.perf_counter() - started
        if value is not None:
            self._keep({place: normalise(value)[0]})
        return value

    async def _keys(self, domain: str, bucket: Key) -> set[str]:
        # One list for a bucket instead of one read for each key that is not there yet. The bucket
        # is this run's own, so nobody else adds to it.
        keys = self._bucket_keys.get((domain, bucket))
        if keys is None:
            started = time.perf_counter()
            listing: AsyncIterator[str] = getattr(
                getattr(self.registries, domain), f"list_{domain}_data"
            )(*bucket)
            keys = self._bucket_keys[domain, bucket] = {key async for key in listing}
            self.seconds += time.perf_counter() - started
        return keys

    def _keep(self, values: dict[tuple[str, Key], Any]) -> None:
        self._kept.update(values)
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    async def memories(self, owner: str, bucket: str) -> dict[str, Any]:
        """Return all memory entries of a bucket by their id, those that wait to be applied too.

        They are shared: whoever hands them out gives copies.
        """
        kept = self._memories.get((owner, bucket))
        if kept is None:
            started = time.perf_counter()
            kept = {
                item["memoryId"]: item["data"]
                async for item in self.registries.memory.list_memory_data(owner, bucket)
            }
            self.seconds += time.perf_counter() - started
            if len(kept) <= _KEPT:
                self._memories[owner, bucket] = kept
        found = dict(kept)
        for seen in (self._travelling.seen, self._batch.seen, self._bar.seen):
            for (domain, key), value in seen.items():
                if domain == "memory" and key[:-1] == (owner, bucket):
                    found[key[-1]] = value
        return found

    async def end_bar(self, state: Callable[[], dict[str, Any]], when: int) -> None:
        """Count what the bar has written as done, and record it if it is time for that.

        Args:
            state: Gives the engine's state as it is now.
            when: Close of the bar, simulated, in ms.
        """
        if self._bar.count:
            self._batch.add(self._bar)
            self._bar = _Batch()
        if self._batch.count and self._is_due():
            await self._record(state(), when)
            return
        self._turns += 1
        is_turn = time.monotonic() - self._turned_at >= _TURN_SECONDS
        if is_turn or (self._task is not None and not self._turns % _BARS_PER_TURN):
            await asyncio.sleep(0)  # gives what travels its turn, and signals and probes
            self._turned_at = time.monotonic()
        if self._task is not None and self._task.done():
            await self.settle()

    def _is_due(self) -> bool:
        return (
            self._batch.count >= _MOST_WRITES
            or self._batch.size >= _MOST_BYTES
            or time.monotonic() - self._recorded_at >= _MOST_SECONDS
        )

    async def flush(self) -> None:
        """Make what was written durable before a strategy goes on; in a backtest a bar is whole."""

    def durably(self, answer: Awaitable[T]) -> Awaitable[T]:
        """Return `answer`, or what awaits it with a flush at each of its waits."""
        return answer

    async def commit(self, state: dict[str, Any], when: int) -> None:
        """Record the state with all that is done, and return when everything is applied."""
        self._batch.add(self._bar)
        self._bar = _Batch()
        await self._record(state, when)
        await self.settle()

    async def settle(self) -> None:
        """Return when what travels is applied.

        Raises:
            StoreUnavailableError: A store did not take it; the next start applies it again.
        """
        if self._task is None:
            return
        started = time.perf_counter()
        # A caller that is cancelled must not take the record with it.
        await asyncio.wait([self._task])
        self.seconds += time.perf_counter() - started
        self._task.result()  # after a failure each further call fails alike: the run has to restart
        self._task = None
        self._keep(self._travelling.seen)
        for domain, key in self._travelling.seen:
            if (keys := self._bucket_keys.get((domain, key[:-1]))) is not None:
                keys.add(key[-1])
            if domain == "memory" and (kept := self._memories.get(key[:-1])) is not None:
                kept[key[-1]] = self._travelling.seen[domain, key]
                if len(kept) > _KEPT:
                    del self._memories[key[:-1]]
        self._travelling = _Batch()

    async def _record(self, state: dict[str, Any], when: int) -> None:
        await self.settle()
        started = time.perf_counter()
        self._travelling, self._batch = self._batch, _Batch()
        self._recorded_at = time.monotonic()
        writes = self._travelling.writes()
        record: SessionData = {
            "id": session_id(self._session),
            "data": {"state": state, "writes": writes},
            "when": when,
        }
        self._task = asyncio.ensure_future(self._store(record, writes, when))
        self.seconds += time.perf_counter() - started

    async def _store(self, record: SessionData, writes: list[dict[str, Any]], when: int) -> None:
        await self.registries.session.write_session_data(*self._session, record, when)
        await self._apply(writes)

    async def last_record(self) -> dict[str, Any] | None:
        """Return ``state`` and ``writes`` of the last record, None without one."""
        record = await self.registries.session.read_session_data(*self._session)
        return None if record is None else record["data"]

    async def recover(self) -> dict[str, Any] | None:
        """Apply the writes of the last record again and return its state, None without one."""
        record = await self.last_record()
        if record is None:
            return None
        await self._apply(record["writes"])
        state: dict[str, Any] = record["state"]
        return state

    async def _apply(self, writes: list[dict[str, Any]]) -> None:
        # Each goes to a place of its own, so they may travel together.
        # All have to come to rest: what fails must not leave others on their way.
        results = await asyncio.gather(
            *(self._apply_one(write) for write in writes), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _apply_one(self, write: dict[str, Any]) -> None:
        arguments = write["arguments"]
        registry = getattr(self.registries, write["domain"])
        await getattr(registry, write["method"])(*arguments)
        rows = arguments[-1] if write["domain"] in ("storage", "notification", "log") else ()
        self.written += len(rows) or 1


class _Durably(Awaitable[T]):
    """Awaits `answer`; at each of its waits `flush` has to end before it goes on."""

    def __init__(self, answer: Awaitable[T], flush: Callable[[], Awaitable[None]]) -> None:
        self._answer = answer
        self._flush = flush

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._answer.__await__()
        raised: BaseException | None = None
        while True:
            try:
                waited_for = next(steps) if raised is None else steps.throw(raised)
            except StopIteration as end:
                result: T = end.value
                return result
            raised = None
            try:
                # The sign by which a task knows what is waited for; others, who may begin to wait
                # for the same meanwhile, must not find it.
                if asyncio.isfuture(waited_for):
                    waited_for._asyncio_future_blocking = False
                yield from self._flush().__await__()
                if asyncio.isfuture(waited_for):
                    waited_for._asyncio_future_blocking = True
                yield waited_for
            except BaseException as error:  # it is the strategy's to hear of it
                raised = error


class LiveJournal(Journal):
    """Each change is durable before a strategy goes on, and others may write to the same places.

    Args:
        state: Gives what the record holds beside the writes.

    Attributes:
        when: The moment as of which the next record is made, ms.
    """

    def __init__(
        self,
        registries: Registries,
        session: tuple[str, str, str, str, bool],
        state: Callable[[], dict[str, Any]],
    ) -> None:
        super().__init__(registries, session)
        self.when = 0
        self._live_state = state
        self._turn = asyncio.Lock()
        self._flusher: asyncio.Task[Any] | None = None

    async def rest(self) -> None:
        """Return when nothing travels any more, whatever has become of it."""
        if self._task is not None:
            await asyncio.wait([self._task])
            # Looked at, so that asyncio does not warn of it.
            self._task.cancelled() or self._task.exception()

    def _keep(self, values: dict[tuple[str, Key], Any]) -> None:
        """Keep nothing: reads ask the adapter."""

    async def read(self, domain: str, method: str, *key: Any) -> Any:
        """Return what the adapter answers, once all that was written is durable."""
        await self.flush()
        return await getattr(getattr(self.registries, domain), method)(*key)

    async def memories(self, owner: str, bucket: str) -> dict[str, Any]:
        """Return all memory entries of a bucket by their id."""
        await self.flush()
        return {
            item["memoryId"]: item["data"]
            async for item in self.registries.memory.list_memory_data(owner, bucket)
        }

    async def flush(self) -> None:
        """Make what was written durable."""
        task = asyncio.current_task()
        if self._flusher is task:
            return  # from a wait inside of this very flush, which has taken everything
        async with self._turn:  # a strategy may read from several tasks at once
            self._flusher = task
            try:
                # A caller that was cancelled may have left writes behind, or a record on its way.
                if self._bar.count or self._batch.count:
                    await self.commit(self._live_state(), self.when)
                await self.settle()
            finally:
                self._flusher = None

    def durably(self, answer: Awaitable[T]) -> Awaitable[T]:
        """Return what awaits `answer`, and has what was written durable before each of its waits.

        A wait that is none of the context's is met too, such as that for another's answer.
        """
        return _Durably(answer, self.flush)

    async def record(self) -> None:
        """Make the state durable, and all that was written."""
        async with self._turn:
            await self.commit(self._live_state(), self.when)
