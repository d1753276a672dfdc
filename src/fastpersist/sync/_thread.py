"""The event loop behind the synchronous calls: one thread for the process.

A call hands a function over to the loop and sleeps on a lock that the loop releases, which costs
two switches of threads and no future. The loop starts with the first call and ends when the last
store is closed, or at exit.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import selectors
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, Generic, ParamSpec, TypeVar

from ..errors import ClosedError, EventLoopError
from ..local import servers as _servers  # noqa: F401  # its handler at exit is the earlier one
from ..store import Store

__all__ = ["iterate", "keep", "refuse_own_thread", "release", "run"]

P = ParamSpec("P")
T = TypeVar("T")

_NAME: Final = "fastpersist-sync"
_BATCH: Final = 100
# What was acknowledged is durable, so nothing is lost when servers that hang are not waited for.
_EXIT_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.5


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose descriptors a forked child can take away from it."""

    def __init__(self) -> None:
        self._chosen = selectors.DefaultSelector()
        self._connected: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        self.calls: set[_Call[Any]] = set()
        super().__init__(self._chosen)

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        """Connect, and remember the transport: an idle one is not in the selector."""
        transport, protocol = await super().create_connection(*args, **options)
        self._connected.add(transport)
        return transport, protocol

    async def create_unix_connection(self, *args: Any, **options: Any) -> Any:
        """The same over a socket of the file system."""
        transport, protocol = await super().create_unix_connection(*args, **options)
        self._connected.add(transport)
        return transport, protocol

    def cut_off(self) -> None:
        """In a forked child: let go of the parent's sockets, whatever still refers to them."""
        numbers = {key.fd for key in (self._chosen.get_map() or {}).values()}
        for transport in list(self._connected):
            socket = transport.get_extra_info("socket")
            numbers.add(-1 if socket is None else socket.fileno())
        # The selector's too: what is unregistered there would be so for the parent.
        with suppress(AttributeError, ValueError):
            numbers.add(self._chosen.fileno())
        # Replaced and not closed: the objects close their number themselves some time, and by then
        # it could be somebody else's.
        void = os.open(os.devnull, os.O_RDWR)
        for number in numbers:
            if number >= 0:
                os.dup2(void, number, inheritable=False)
        os.close(void)


class _Call(Generic[T]):
    """One call: made in the caller's thread, performed on the loop."""

    __slots__ = (
        "_args",
        "_function",
        "_options",
        "error",
        "is_abandoned",
        "loop",
        "result",
        "task",
        "waiting",
    )

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        self._function = function
        self._args = args
        self._options = options
        self.loop: _Loop | None = None
        self.task: asyncio.Task[None] | None = None
        self.result: T
        self.error: BaseException | None = None
        self.is_abandoned = False
        self.waiting = threading.Lock()
        self.waiting.acquire()

    def start(self) -> None:
        assert self.loop is not None
        self.loop.calls.add(self)
        self.task = self.loop.create_task(self._perform())

    async def _perform(self) -> None:
        try:
            self.result = await self._function(*self._args, **self._options)
        except BaseException as error:
            # All of them are the caller's; one that ended the loop would end the others' calls.
            self.error = error
        finally:
            if self.loop is not None:
                self.loop.calls.discard(self)
            if not self.is_abandoned:
                self.waiting.release()

    def cancel(self) -> None:
        if self.loop is not None:
            with suppress(RuntimeError):  # it was closed
                self.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.loop is not None and self.task is not None:
            # Here, because a task that is cancelled before its first step never gets to do it.
            self.loop.calls.discard(self)
            self.task.cancel()


class _LoopThread:
    """The loop, its thread and the stores that need it."""

    def __init__(self) -> None:
        self.stores: dict[Store, None] = {}
        self._is_exiting = False
        self._inherited: list[Any] = []
        self._forget()
        # Now, since handlers run last first: those of the program may still call.
        atexit.register(self._exit)
        if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
            os.register_at_fork(after_in_child=self._leave_parent)

    def _forget(self) -> None:
        # A handler of a signal, or of garbage, may call while its own thread is at it.
        self._lock = threading.RLock()
        self._current: tuple[_Loop, threading.Thread] | None = None
        self._loops: dict[_Loop, None] = {}

    @property
    def loop(self) -> _Loop | None:
        """The loop that takes calls, if there is one."""
        return self._current[0] if self._current is not None else None

    def refuse_own_thread(self) -> None:
        """Refuse a call of the loop's own thread, which would wait for itself.

        Raises:
            EventLoopError: It is one.
        """
        current = self._current
        if current is not None and current[1].ident == threading.get_ident():
            raise EventLoopError(
                "a synchronous call in the thread of the loop that performs it",
                hint="await the adapter of fastpersist there",
            )

    def submit(self, call: _Call[Any]) -> None:
        """Have `call` performed.

        Raises:
            ClosedError: The interpreter is exiting.
            EventLoopError: This is the loop's own thread, which would wait for itself.
        """
        with self._lock:
            current = self._current
            if current is None:
                if self._is_exiting:
                    if threading.current_thread() is threading.main_thread():
                        raise ClosedError("the interpreter is exiting")
                    return  # a daemon thread, which waits for its end
                current = self._start()
            loop, _ = current
            self.refuse_own_thread()
            call.loop = loop
            # The new task copies the context that it is made in: the caller's.
            loop.call_soon_threadsafe(call.start, context=copy_context())

    def post(self, loop: _Loop | None, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `function` performed, which nobody waits for; nothing if `loop` has ended."""
        with self._lock:
            if loop is not None and loop is self.loop:
                loop.call_soon_threadsafe(lambda: loop.create_task(function()))

    def _start(self) -> tuple[_Loop, threading.Thread]:
        loop = _Loop()
        thread = threading.Thread(target=self._serve, args=(loop,), name=_NAME, daemon=True)
        self._loops[loop] = None
        self._current = loop, thread
        thread.start()
        return self._current

    def _serve(self, loop: _Loop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            if not self._is_exiting:  # no thread can be started then, which this would do
                loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()
            self._loops.pop(loop, None)

    def end(self) -> None:
        """End the loop if no store needs it, after the calls that are under way."""
        with self._lock:
            if self.stores or self._current is None:
                return
            (loop, thread), self._current = self._current, None

            async def end() -> None:
                while loop.calls:
                    await asyncio.wait([call.task for call in loop.calls if call.task is not None])
                loop.stop()

            loop.call_soon_threadsafe(lambda: loop.create_task(end()))
        thread.join()

    def _exit(self) -> None:
        with self._lock:
            self._is_exiting = True
            current, self._current = self._current, None
            if current is None:
                return
            loop, thread = current
            loop.call_soon_threadsafe(lambda: loop.create_task(self._close_stores(loop)))
        thread.join(_EXIT_SECONDS + 1)

    async def _close_stores(self, loop: _Loop) -> None:
        # Only daemon threads can be waiting now; an error would be a traceback as the last word.
        for call in list(loop.calls):
            call.is_abandoned = True
            call._cancel()
        closing = [asyncio.ensure_future(store.aclose()) for store in self.stores]
        if closing:
            done, _ = await asyncio.wait(closing, timeout=_EXIT_SECONDS)
            for task in done:
                with suppress(BaseException):
                    task.exception()
        loop.stop()

    def _leave_parent(self) -> None:
        loops = list(self._loops)
        self._forget()
        clients = [store.container.made() for store in self.stores]
        for loop in loops:
            loop.cut_off()
            # Nothing of them may run here, not even the ends of their blocks: they would use a loop
            # that does not go on.
            self._inherited.append((loop, clients, asyncio.all_tasks(loop)))


_thread: Final = _LoopThread()


def run(function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **options: P.kwargs) -> T:
    """Call an async `function` on the loop of the synchronous face and return its result.

    It runs in the caller's context, so that ``simulated_time`` counts. An interrupted call, by
    Ctrl-C say, is cancelled; of a write that was sent the outcome is unknown then.

    Raises:
        ClosedError: The interpreter is exiting.
        EventLoopError: This is the loop's own thread, which would wait for itself.
    """
    call = _Call(function, args, options)
    try:
        _thread.submit(call)
        # Python does not hear of a Ctrl-C that comes just before it starts to wait.
        while not call.waiting.acquire(timeout=_LOOK_SECONDS):
            pass
    except BaseException:
        call.cancel()
        raise
    if call.error is None:
        return call.result
    error, call.error = call.error, None
    try:
        raise error
    finally:
        del error  # which has this frame in its traceback


class _Stream(Generic[T]):
    """An async iterator, read some items at a time."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._loop: _Loop | None = None
        self.error: Exception | None = None
        self.is_exhausted = False

    def next_batch(self) -> list[T]:
        """Return what comes next; afterwards, `error` and `is_exhausted` tell how it goes on."""
        if self._loop is not None and self._loop is not _thread.loop:
            self.is_exhausted = True
            raise ClosedError("the store of this iterator was closed, or this is a forked process")
        return run(self._pull)

    async def _pull(self) -> list[T]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Loop)
        self._loop = loop
        items: list[T] = []
        try:
            while len(items) < _BATCH:
                items.append(await self._source.__anext__())
        except StopAsyncIteration:
            self.is_exhausted = True
        except Exception as error:
            self.error = error
        return items

    def close(self) -> None:
        """Close an iterator that was not read to its end; returns at once."""
        if not self.is_exhausted:
            _thread.post(self._loop, self._close)

    async def _close(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is not None:
            with suppress(Exception):  # as when it is under way, because it was interrupted
                await close()


def iterate(
    function: Callable[P, AsyncIterator[T]], /, *args: P.args, **options: P.kwargs
) -> Iterator[T]:
    """Yield what the async iterator of `function` does, fetched a hundred items at a time."""
    stream = _Stream(function(*args, **options))
    try:
        while not stream.is_exhausted:
            yield from stream.next_batch()
            if stream.error is not None:
                raise stream.error
    finally:
        stream.close()


def refuse_own_thread() -> None:
    """Refuse to go on in the loop's own thread, before anything is given up that needs the loop.

    Raises:
        EventLoopError: This is that thread.
    """
    _thread.refuse_own_thread()


def keep(store: Store) -> None:
    """Have the loop live at least as long as `store` is open."""
    with _thread._lock:
        _thread.stores[store] = None


def release(*stores: Store) -> None:
    """Tell that `stores` are closed; after the last one the loop ends."""
    with _thread._lock:
        for store in stores:
            _thread.stores.pop(store, None)
    _thread.end()
