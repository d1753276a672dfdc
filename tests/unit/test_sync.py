"""The synchronous face over files: calls, threads, loops, interrupts, and what is generated."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastpersist
import fastpersist.sync as fp
from fastpersist.adapters.files import FilesBackend
from fastpersist.sync import _own_domains, _registry, _thread

ROOT = Path(__file__).parents[2]
CONTEXT = ("BTCUSDT", "s", "binance")


@pytest.fixture(autouse=True)
def loop_ends() -> Iterator[None]:
    """End the loop after each test, as closing a store does."""
    yield
    _thread.release()
    assert not [thread for thread in threading.enumerate() if thread.name == "fastpersist-sync"]


@pytest.fixture
def files(tmp_path: Path) -> fp.Registries:
    """Synchronous registries over a folder of their own."""
    registries = fastpersist.Registries()
    registries.use_backend(FilesBackend(tmp_path / "dump"))
    return fp.Registries(registries)


def test_generated_modules_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/make_sync.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["registry", "own_domains"])
def test_every_public_method_is_there_with_the_same_arguments(module: str) -> None:
    made: Any = {"registry": _registry, "own_domains": _own_domains}[module]
    source: Any = getattr(fastpersist, module)
    left_out = {"declare", "bound_to", "use_adapter"}
    for name, cls in inspect.getmembers(made, inspect.isclass):
        if cls.__module__ != made.__name__:
            continue
        theirs = getattr(source, name)
        for method, function in inspect.getmembers(theirs, inspect.isfunction):
            if method.startswith("_") or method in left_out:
                continue
            ours = inspect.signature(getattr(cls, method)).parameters
            assert ours == inspect.signature(function).parameters, (name, method)


def test_importing_the_package_imports_no_synchronous_face() -> None:
    code = "import fastpersist, sys; sys.exit('fastpersist.sync' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_those_that_are_exposed() -> None:
    assert sorted(fp.__all__) == fp.__all__
    assert all(hasattr(fp, name) for name in fp.__all__)


def test_writes_are_read(files: fp.Registries) -> None:
    files.signal.write_signal_data(*CONTEXT, {"id": "a", "priceOpen": 1.5})
    found = files.signal.read_signal_data(*CONTEXT)
    assert found is not None
    assert found["priceOpen"] == 1.5
    assert len(files.all()) == 15
    assert files.signal.methods == fastpersist.PersistSignalAdapter.methods


def test_simulated_time_of_the_caller_counts(files: fp.Registries) -> None:
    files.state.write_state_data("s", "b", {"id": "x", "data": {}, "when": 1_000}, 1_000)
    with fp.simulated_time(999):
        assert files.state.read_state_data("s", "b") is None
    assert files.state.read_state_data("s", "b") is not None


def test_errors_arrive_as_they_are(files: fp.Registries) -> None:
    with pytest.raises(fp.InvalidArgumentError, match="context"):
        files.signal.read_signal_data([], "s", "binance")
    with pytest.raises(TypeError):
        fp.run(files.signal._source.read_signal_data)


def test_loop_has_one_named_thread_that_starts_with_the_first_call(files: fp.Registries) -> None:
    def ours() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "fastpersist" in thread.name]

    assert ours() == []
    files.signal.read_signal_data(*CONTEXT)
    files.signal.read_signal_data(*CONTEXT)
    assert ours() == ["fastpersist-sync"]


async def test_caller_may_run_a_loop_of_its_own(files: fp.Registries) -> None:
    """As in a notebook."""
    files.log.write_log_data([{"id": "a"}])
    assert files.log.read_log_data() == [{"id": "a"}]


def test_call_from_the_loop_itself_is_refused(files: fp.Registries) -> None:
    async def careless() -> None:
        files.signal.read_signal_data(*CONTEXT)

    with pytest.raises(fp.EventLoopError, match="synchronous call"):
        fp.run(careless)
    assert files.signal.read_signal_data(*CONTEXT) is None


def test_a_store_is_not_closed_from_the_loop_itself(tmp_path: Path) -> None:
    async def careless(close: Callable[[], None]) -> None:
        close()

    installed = fp.setup(local_folder=tmp_path)
    store = fp.open(local_folder=tmp_path)
    for close in (store.close, fp.shutdown):
        with pytest.raises(fp.EventLoopError, match="synchronous call"):
            fp.run(careless, close)
    assert set(_thread._thread.stores) == {installed.asynchronous, store.asynchronous}
    store.close()
    fp.shutdown()
    assert not _thread._thread.stores


def test_adapter_of_ones_own_is_async(files: fp.Registries) -> None:
    class InMemory:
        def __init__(self, symbol: str, strategy_name: str, exchange_name: str) -> None:
            self.row: Any = None

        async def wait_for_init(self, initial: bool) -> None:
            pass

        async def read_signal_data(self) -> Any:
            return self.row

        async def write_signal_data(self, row: Any) -> None:
            self.row = row

    files.signal.use_persist_signal_adapter(InMemory)
    files.signal.write_signal_data(*CONTEXT, {"id": "a"})
    assert files.signal.read_signal_data(*CONTEXT) == {"id": "a"}


def test_own_domain_is_served(tmp_path: Path) -> None:
    declared = fastpersist.EntryDomain[dict[str, int]].declare(
        "sync_notes", collection="sync-notes", context=["symbol"], install=False
    )
    notes = fp.EntryDomain(declared.bound_to(FilesBackend(tmp_path)))
    notes.write("BTCUSDT", key="a", data={"n": 1})
    assert notes.read("BTCUSDT", key="a") == {"n": 1, "removed": False}
    assert list(notes.keys("BTCUSDT")) == ["a"]


class Numbers:
    """An endless async iterator that tells how far it was read and whether it was closed."""

    def __init__(self, fails_at: int = -1) -> None:
        self.given = 0
        self.is_closed = threading.Event()
        self._fails_at = fails_at

    async def all(self) -> AsyncIterator[int]:
        try:
            while True:
                if self.given == self._fails_at:
                    raise ValueError("enough")
                self.given += 1
                yield self.given
        finally:
            self.is_closed.set()


def test_iterator_is_read_in_batches_and_closed_when_left() -> None:
    numbers = Numbers()
    found = _thread.iterate(numbers.all)
    assert numbers.given == 0
    assert [next(found) for _ in range(101)] == list(range(1, 102))
    assert numbers.given == 200
    del found
    assert numbers.is_closed.wait(60)


def test_iterator_gives_what_came_before_an_error() -> None:
    found = _thread.iterate(Numbers(fails_at=3).all)
    assert [next(found) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ValueError, match="enough"):
        next(found)
    assert list(found) == []


def test_iterator_does_not_end_early_when_its_loop_has_ended() -> None:
    found = _thread.iterate(Numbers().all)
    for _ in range(100):
        next(found)
    _thread.release()
    with pytest.raises(fp.ClosedError):
        next(found)


def to_this_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def to_this_thread() -> None:
    # It does not wake the caller up, as one that comes just before the wait begins.
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


@pytest.mark.parametrize("send", [to_this_process, to_this_thread])
def test_interrupted_call_is_cancelled_and_later_ones_work(send: Callable[[], None]) -> None:
    is_cancelled = threading.Event()

    async def sleep() -> None:
        try:
            # From here, so that it cannot come before somebody waits.
            send()
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            is_cancelled.set()
            raise

    async def answer() -> int:
        return 42

    # Whoever started the tests may have had it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fp.run(sleep)
    finally:
        signal.signal(signal.SIGINT, before)
    assert is_cancelled.wait(60)
    assert fp.run(answer) == 42


def test_call_that_is_interrupted_at_once_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never() -> None:
        await asyncio.sleep(60)

    submit = _thread._thread.submit

    def interrupted(call: Any) -> None:
        submit(call)
        call.cancel()  # before its first step, as the loop sees it
        raise KeyboardInterrupt

    monkeypatch.setattr(_thread._thread, "submit", interrupted)
    for _ in range(50):
        with pytest.raises(KeyboardInterrupt):
            fp.run(never)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_error_that_would_end_a_loop_is_the_callers_alone(error: type[BaseException]) -> None:
    async def fail() -> None:
        raise error

    async def answer() -> int:
        return 42

    with pytest.raises(error):
        fp.run(fail)
    assert fp.run(answer) == 42


def test_calls_under_way_end_before_the_loop_does() -> None:
    started, results = threading.Event(), []

    async def slow() -> int:
        started.set()
        await asyncio.sleep(0.2)
        return 42

    thread = threading.Thread(target=lambda: results.append(fp.run(slow)))
    thread.start()
    started.wait(60)
    _thread.release()
    thread.join(60)
    assert results == [42]


def test_calls_of_threads_race_with_the_end_of_the_loop(files: fp.Registries) -> None:
    end = time.monotonic() + 1.0
    done = []

    def read() -> None:
        while time.monotonic() < end:
            files.signal.read_signal_data(*CONTEXT)
        done.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        _thread.release()
    for thread in threads:
        thread.join(60)
    assert len(done) == 4
