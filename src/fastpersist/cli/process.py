"""What a run is to its machine: the only one of its kind, and ended by signals in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from ..adapters.files import RUN_LOCK
from ..errors import FastPersistError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]  # None says: no locking

__all__ = [
    "InterruptedRunError",
    "Interrupts",
    "RunUnderWayError",
    "run_until_interrupted",
    "state_folder",
    "the_only_run",
]

T = TypeVar("T")


_LAST_SECONDS: Final = 0.7
_AGAIN_SECONDS: Final = 0.1


class RunUnderWayError(FastPersistError):
    """The same run is under way in another process."""


def state_folder() -> Path | None:
    """Return the folder of this user for what lasts between commands; None if it cannot be made."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = Path(home) / "fastpersist"
    if not folder.is_absolute():  # nobody knows the home of this user
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


@contextmanager
def the_only_run(folder: Path, store: str, sessions: Sequence[Sequence[object]]) -> Iterator[None]:
    """Refuse a second process that does the same run on the same store and looks into `folder`.

    Args:
        folder: Where the locks are.
        store: Tells the store from others.
        sessions: What the run keeps its records under.
    """
    if fcntl is None:
        yield
        return
    with ExitStack() as locks:
        for session in sessions:
            name = sha256(repr((store, *session)).encode()).hexdigest()[:16]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = locks.enter_context((folder / f"{RUN_LOCK}{name}.lock").open("w"))
            except OSError:  # a read-only place, as in a container: nothing to lock with
                continue
            # The system gives the lock back when the process ends, however it ends.
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunUnderWayError(
                    "another process is doing this run on this store",
                    hint="wait for it or end it; two at once would count everything twice",
                ) from None
        yield


class InterruptedRunError(Exception):
    """A signal came before there was anything to stop in good order."""


def _wake() -> None:
    """Do nothing: that the loop gets here is enough."""


class Interrupts:
    """SIGINT and SIGTERM: the first ends the command in good order, the second at once.

    For ``with``, which gives the signals back.

    Args:
        most_seconds: How long the good order may take before the process ends however it stands;
            None for as long as it takes.
    """

    def __init__(self, most_seconds: float | None = None) -> None:
        self._most_seconds = most_seconds
        self.numbers: list[int] = []
        self._stop: Callable[[], None] | None = None
        self._last: threading.Timer | None = None
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Interrupts:
        self._before = {
            number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
        }
        for number in self._before:
            with suppress(NotImplementedError):  # Windows has no such handlers
                # A loop that is just about to wait would hear of it when it wakes up otherwise.
                self._loop.add_signal_handler(number, _wake)
            # In its stead, since a strategy may have blocked the loop.
            signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            with suppress(NotImplementedError):  # Windows has none to remove
                self._loop.remove_signal_handler(number)
            signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        if self._most_seconds is not None and self._last is None:
            # Threads of a strategy, and tasks that swallow their end, would keep the process.
            self._last = threading.Timer(
                self._most_seconds + _LAST_SECONDS, os._exit, (128 + number,)
            )
            self._last.daemon = True
            self._last.start()
        self._loop.call_soon_threadsafe(self._note, number)

    def _note(self, number: int) -> None:
        self.numbers.append(number)
        if self._stop is not None:
            self._stop()
        if self._task is None:
            return
        if len(self.numbers) > 1:
            self._task.cancel()
        elif self._most_seconds is not None:
            self._loop.call_later(self._most_seconds, self._task.cancel)

    def check(self) -> None:
        """Raise ``InterruptedRunError`` if a signal has come."""
        if self.numbers:
            raise InterruptedRunError

    def end_with(self, stop: Callable[[], None]) -> None:
        """Call `stop` at a signal from now on."""
        self.check()
        self._stop = stop


def run_until_interrupted(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` and return its result; SIGINT and SIGTERM cancel it.

    Raises:
        CancelledError: It was cancelled.
    """
    return asyncio.run(_until_interrupted(main))


async def _until_interrupted(main: Coroutine[Any, Any, T]) -> T:
    loop, work = asyncio.get_running_loop(), asyncio.ensure_future(main)

    def interrupt() -> None:
        # More than once: wait_for of Python 3.11 and older loses a cancellation that comes together
        # with a result, and the driver waits with it.
        if not work.done():
            work.cancel()
            loop.call_later(_AGAIN_SECONDS, interrupt)

    with suppress(NotImplementedError):  # Windows has no such handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
    return await work
