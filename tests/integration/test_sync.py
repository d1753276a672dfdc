"""The synchronous face on real servers: threads, interrupts, forks, and programs that just end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

import fastpersist
import fastpersist.sync as fp
from conftest import PATIENT, Place
from fastpersist.sync import _thread
from kit import CommandRecorder

CONTEXT = ("BTCUSDT", "s", "binance")
WHEN = 1_735_689_600_000

pytestmark = [
    # Python 3.12 warns of every fork of a process that has threads.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
    # The drivers leave a socket to the collector when a call ends while it connects.
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture
def store(place: Place) -> Iterator[fp.Store]:
    """An open synchronous store with a database and a prefix of its own."""
    with fp.open(**place.settings) as store:
        yield store


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "fastpersist-sync"]


def test_store_serves_and_ends_its_loop(place: Place) -> None:
    with fp.open(**place.settings) as store:
        assert loop_threads() == ["fastpersist-sync"]
        store.signal.write_signal_data(*CONTEXT, {"id": "a", "priceOpen": 1.5})
        found = store.signal.read_signal_data(*CONTEXT)
        assert found is not None
        assert found["priceOpen"] == 1.5
        assert store.health().mongo
        assert store.cache_info().entries == 1
        store.cache_clear()
        with fp.open(**place.settings) as other:
            assert other.signal.read_signal_data(*CONTEXT) == found
        assert loop_threads() == ["fastpersist-sync"]
    assert loop_threads() == []
    with pytest.raises(fp.ClosedError):
        store.signal.read_signal_data(*CONTEXT)
    _thread.release()


def test_process_wide_adapters(place: Place) -> None:
    fp.setup(**place.settings)
    try:
        fp.PersistMeasureAdapter.write_measure_data("b", "k", {"id": "k", "data": 1}, WHEN)
        assert list(fp.registries.measure.list_measure_data("b")) == ["k"]
        with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
            assert client[place.name]["measure-items"].count_documents({}) == 1
    finally:
        fp.shutdown()
    assert loop_threads() == []


def test_own_domain_of_a_store(store: fp.Store) -> None:
    orders = fastpersist.ValueDomain[dict[str, Any]].declare(
        "sync_order", collection="sync-orders", context=["symbol"], has_when=True, install=False
    )
    own = store.domain(orders)
    own.write("BTCUSDT", data={"open": 3}, when=WHEN)
    assert own.read("BTCUSDT") == {"open": 3}
    with fp.simulated_time(WHEN - 1):
        assert own.read("BTCUSDT") is None


def test_long_list_is_streamed(store: fp.Store) -> None:
    async def fill() -> None:
        for number in range(1_000):
            await store.asynchronous.memory.write_memory_data(
                "s", "b", f"m{number}", {"data": {"n": number}}, WHEN
            )

    fp.run(fill)
    items = store.memory.list_memory_data("s", "b")
    assert next(items)["memoryId"].startswith("m")
    items.close()
    assert len({item["memoryId"] for item in store.memory.list_memory_data("s", "b")}) == 1_000


def test_calls_of_many_threads_travel_together(
    store: fp.Store, place: Place, commands: CommandRecorder
) -> None:
    contexts = [(f"SYM{number}", "s", "binance") for number in range(16)]
    for context in contexts:
        store.signal.write_signal_data(*context, {"id": "a"})
    commands.clear()
    failures: list[BaseException] = []
    barrier = threading.Barrier(16)

    def read(context: tuple[str, str, str]) -> None:
        try:
            barrier.wait()
            for _ in range(50):
                assert store.signal.read_signal_data(*context) is not None
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(context,)) for context in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(commands.of(place.name)) < 16 * 50 * 0.75


def write_until_interrupted(store: fp.Store) -> None:
    # Begun in here, so that the signal cannot come before somebody waits for it.
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
    while True:
        store.signal.write_signal_data(*CONTEXT, {"id": "a"})


def test_signal_interrupts_a_call(store: fp.Store) -> None:
    """The call is cancelled, Ctrl-C arrives where the caller is, and later calls work."""
    # Whoever started the tests may have had it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(20):
            with pytest.raises(KeyboardInterrupt):
                write_until_interrupted(store)
    finally:
        signal.signal(signal.SIGINT, before)
    store.signal.write_signal_data(*CONTEXT, {"id": "b"})
    found = store.signal.read_signal_data(*CONTEXT)
    assert found is not None
    assert found["id"] == "b"


def test_handler_of_a_signal_may_call(store: fp.Store) -> None:
    calls = []

    def handle(*_: object) -> None:
        store.signal.write_signal_data(*CONTEXT, {"id": "handler"})
        calls.append(1)
        # Only now: a write may take longer than that, and handlers would pile up.
        if len(calls) < 50:
            signal.setitimer(signal.ITIMER_REAL, 0.01)

    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        while len(calls) < 50:
            store.signal.read_signal_data(*CONTEXT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def sockets() -> set[str]:
    """The sockets of this process, as the kernel numbers them."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith(("socket:", "anon_inode:[eventpoll]")):
            found.add(target)
    return found


def in_fork(work: Callable[[], str]) -> str:
    """Return what `work` does in a forked child, which ends without cleaning up."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)
        try:
            text = work()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def test_forked_child_has_connections_of_its_own(store: fp.Store) -> None:
    before = sockets()
    store.signal.write_signal_data(*CONTEXT, {"id": "parent"})
    barrier = threading.Barrier(5)

    def busy() -> None:
        barrier.wait()
        for number in range(20):
            store.state.write_state_data("s", f"b{number}", {"id": "x", "data": {}}, WHEN)

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    barrier.wait()
    ours = sockets()
    assert ours

    def work() -> str:
        shared = sockets() & ours
        found = store.signal.read_signal_data(*CONTEXT)
        store.signal.write_signal_data(*CONTEXT, {"id": "child"})
        store.close()
        return f"{found and found['id']} {len(shared - outside)} {len(loop_threads())}"

    # Those of the test run itself are nobody's business here.
    outside = before - loop_sockets()
    assert in_fork(work) == "parent 0 0"
    for thread in threads:
        thread.join()
    found = store.signal.read_signal_data(*CONTEXT)
    assert found is not None
    assert found["id"] == "child"


def loop_sockets() -> set[str]:
    """The sockets that the loop uses, by the kernel's numbers."""
    loop = _thread._thread.loop
    assert loop is not None
    numbers = {key.fd for key in loop._chosen.get_map().values()}
    numbers |= {transport.get_extra_info("socket").fileno() for transport in list(loop._connected)}
    return {os.readlink(f"/proc/self/fd/{number}") for number in numbers if number >= 0}


def test_idle_connections_are_not_shared_with_a_fork(store: fp.Store) -> None:
    store.signal.write_signal_data(*CONTEXT, {"id": "parent"})
    ours = loop_sockets()
    assert len(ours) >= 3
    assert in_fork(lambda: str(len(sockets() & ours))) == "0"


def test_iterator_of_the_parent_is_refused_in_the_child(store: fp.Store) -> None:
    for number in range(150):
        store.memory.write_memory_data("s", "b", f"m{number}", {"data": {}}, WHEN)
    items = store.memory.list_memory_data("s", "b")
    next(items)
    assert in_fork(lambda: str(len(list(items)))).startswith("ClosedError")
    assert len(list(items)) == 149


def child(place_settings: dict[str, Any], queue: Any) -> None:
    with fp.open(**place_settings) as store:
        queue.put(store.signal.read_signal_data(*CONTEXT))


def test_multiprocessing_fork(store: fp.Store, place: Place) -> None:
    store.signal.write_signal_data(*CONTEXT, {"id": "parent"})
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(place.settings, queue))
    process.start()
    assert queue.get(timeout=120)["id"] == "parent"
    process.join(120)
    assert process.exitcode == 0


# Half of what an operation may take here, which is what an end must not wait for.
LONG = PATIENT["operation_timeout"] / 2


def ended(place: Place, program: str, *, code: int = 0) -> float:
    """Run a program to its end and return the seconds from its last word to its end."""
    head = (
        "import os, signal, sys, threading, time\n"
        "import fastpersist.sync as fp\n"
        f"settings = {place.settings!r}\n"
        "row = {'id': 'a', 'priceOpen': 1.5}\n"
        "context = ('BTCUSDT', 's', 'binance')\n"
    )
    # A child cannot close what is its parent's, and only warnings that are off by default tell so.
    flags = [] if "fork" in program else ["-W", "error"]
    done = subprocess.run(
        [sys.executable, *flags, "-c", f"{head}{program}\nprint(time.time())"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    end = time.time()
    assert done.stderr == ""
    assert done.returncode == code
    return end - float(done.stdout.split()[-1])


def stored(place: Place) -> int:
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        return client[place.name]["signal-items"].count_documents({"payload.id": "a"})


@pytest.mark.parametrize(
    "program",
    [
        "store = fp.open(**settings)\nstore.signal.write_signal_data(*context, row)",
        "fp.setup(**settings)\nfp.PersistSignalAdapter.write_signal_data(*context, row)",
        "def end():\n"
        "    store.signal.write_signal_data(*context, row)\n"
        "import atexit\natexit.register(end)\n"
        "store = fp.open(**settings)\nstore.ready()",
        "store = fp.open(**settings)\n"
        "store.signal.write_signal_data(*context, row)\n"
        "def busy():\n"
        "    while True: store.signal.write_signal_data('ETH', 's', 'binance', row)\n"
        "for _ in range(4): threading.Thread(target=busy, daemon=True).start()\n"
        "time.sleep(0.5)",
        "store = fp.open(**settings)\n"
        "store.signal.write_signal_data(*context, row)\n"
        "for n in range(150): store.memory.write_memory_data('s', 'b', f'{n}', {'data': 1}, 5)\n"
        "items = store.memory.list_memory_data('s', 'b')\nnext(items)",
        "def late():\n"
        "    time.sleep(0.5)\n"
        "    store.signal.write_signal_data(*context, row)\n"
        "store = fp.open(**settings)\nstore.ready()\nthreading.Thread(target=late).start()",
        "store = fp.open(**settings)\n"
        "store.signal.write_signal_data(*context, row)\n"
        "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    store.signal.read_signal_data(*context)\n"
        "    print(time.time()); sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0",
        "store = fp.open(**settings)\n"
        "store.signal.write_signal_data(*context, row)\n"
        "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    print(time.time()); sys.exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0",
    ],
    ids=[
        "open",
        "setup",
        "atexit",
        "daemons",
        "iterator",
        "thread",
        "fork",
        "unused fork",
    ],
)
def test_program_that_forgets_to_close_ends_quietly(place: Place, program: str) -> None:
    assert ended(place, program) < LONG
    assert stored(place) >= 1


def test_program_ends_though_a_daemon_waits_for_a_stopped_server(place: Place) -> None:
    program = (
        "store = fp.open(**settings)\n"
        "store.signal.write_signal_data(*context, row)\n"
        "async def hang():\n"
        "    import asyncio\n"
        "    await asyncio.sleep(600)\n"
        "threading.Thread(target=fp.run, args=(hang,), daemon=True).start()\n"
        "time.sleep(0.2)"
    )
    assert ended(place, program) < LONG


def test_local_servers_end_with_a_program_that_forgets_to_close(tmp_path: Path) -> None:
    """The clients close before the servers do, without a warning."""
    program = (
        "import fastpersist.sync as fp\n"
        "fp.setup()\n"
        "fp.PersistLogAdapter.write_log_data([{'id': 'a'}])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    state = json.loads((tmp_path / ".fastpersist/state.json").read_text())
    assert state["leases"] == []
