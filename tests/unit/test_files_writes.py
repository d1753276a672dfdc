"""Writes of the file family: whole or not at all, in order, and on the disk (contract 5.5)."""

# ruff: noqa: ASYNC240  # the files are small and the loop is the test's own

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastpersist import StoreError
from fastpersist.adapters.files import FilesBackend
from fastpersist.adapters.json_text import from_json
from fastpersist.domains import LOG, MEASURE, STATE, STORAGE

KEY = ("signal", "bucket")


@pytest.fixture
def backend(tmp_path: Path) -> FilesBackend:
    return FilesBackend(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state/signal/bucket/bucket.json"


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".tmp-*")]


class Gate:
    """Holds the flush of files until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self._fsync = os.fsync

    def fsync(self, handle: int) -> None:
        self.reached.set()
        assert self.opened.wait(60)
        self._fsync(handle)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, backend: FilesBackend) -> Gate:
    gate = Gate()
    monkeypatch.setattr(os, "fsync", gate.fsync)
    return gate


async def write(backend: FilesBackend, value: Any) -> None:
    await backend.write_value(STATE, KEY, value, 0)


async def test_a_write_is_flushed_before_it_is_visible_and_before_it_returns(
    backend: FilesBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(backend, {"n": 1})
    steps: list[str] = []

    def recorded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            steps.append(name)
            return real(*args)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    await write(backend, {"n": 2})
    assert steps == ["fsync", "replace", "fsync"]
    assert path.read_bytes() == b'{"n":2}'


async def test_many_rows_share_the_flush_of_their_directory(
    backend: FilesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.prepare(LOG, (), True)
    flushed: list[bool] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        flushed.append(os.path.isdir(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    rows = {f"l{n}": {"id": f"l{n}"} for n in range(100)}
    await backend.write_rows(LOG, (), rows)
    assert len(flushed) == 101
    assert flushed[-1]
    flushed.clear()
    await backend.write_rows(LOG, (), {**rows, "new": {"id": "new"}})
    assert len(flushed) == 2, "rows that are there cost nothing"


async def test_unchanged_rows_are_not_written_again(backend: FilesBackend, tmp_path: Path) -> None:
    """Decisions, Bulk [9, 10]."""
    await backend.write_rows(STORAGE, (True,), {"a": {"n": 1}, "b": {"n": 1}})
    directory = tmp_path / "data/storage/backtest"
    before = {path.name: path.stat().st_ino for path in directory.iterdir()}
    await backend.write_rows(STORAGE, (True,), {"a": {"n": 1}, "b": {"n": 2}})
    after = {path.name: path.stat().st_ino for path in directory.iterdir()}
    assert after["a.json"] == before["a.json"]
    assert after["b.json"] != before["b.json"]


@pytest.mark.parametrize("name", ["fsync", "replace", "write"])
async def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    backend: FilesBackend, path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    await write(backend, {"n": 1})

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(StoreError, match="No space left") as caught:
            await write(backend, {"n": 2})
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == b'{"n":1}'
    assert [other.name for other in path.parent.iterdir()] == ["bucket.json"]
    await write(backend, {"n": 3})
    assert path.read_bytes() == b'{"n":3}'


async def test_short_writes_of_the_system_are_continued(
    backend: FilesBackend, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, text: real(handle, text[:3]))
    await write(backend, {"text": "x" * 50})
    assert from_json(path.read_bytes()) == {"text": "x" * 50}


async def test_append_only_rows_survive_without_hard_links(
    backend: FilesBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    await backend.write_rows(LOG, (), {"a": {"id": "a", "n": 1}})
    await backend.write_rows(LOG, (), {"a": {"id": "a", "n": 2}, "b": {"id": "b"}})
    assert await backend.read_rows(LOG, (), None) == [{"id": "a", "n": 1}, {"id": "b"}]
    assert leftovers(tmp_path) == []


async def test_a_row_that_another_process_adds_meanwhile_stays(
    backend: FilesBackend, tmp_path: Path, gate: Gate
) -> None:
    target = tmp_path / "data/log/log/a.json"
    target.parent.mkdir(parents=True)
    task = asyncio.create_task(backend.write_rows(LOG, (), {"a": {"id": "ours"}}))
    await asyncio.to_thread(gate.reached.wait, 60)
    target.write_text('{"id":"theirs"}')
    gate.opened.set()
    await task
    assert target.read_text() == '{"id":"theirs"}'
    assert leftovers(tmp_path) == []


async def test_fifty_writers_of_one_key_end_in_the_order_of_their_calls(
    backend: FilesBackend, path: Path
) -> None:
    await asyncio.gather(*(write(backend, {"n": number}) for number in range(50)))
    assert path.read_bytes() == b'{"n":49}'
    assert [other.name for other in path.parent.iterdir()] == ["bucket.json"]


async def test_readers_beside_writers_see_whole_values(backend: FilesBackend) -> None:
    await write(backend, {"n": 0, "fill": "x" * 50_000})
    seen: set[int] = set()
    running = True

    async def read() -> None:
        while running:
            value = await backend.read_value(STATE, KEY, None)
            assert len(value["fill"]) == 50_000
            seen.add(value["n"])
            await asyncio.sleep(0)

    reader = asyncio.create_task(read())
    for number in range(1, 30):
        await write(backend, {"n": number, "fill": "x" * 50_000})
        assert (await backend.read_value(STATE, KEY, None))["n"] == number
    running = False
    await reader
    assert seen


async def test_the_loop_runs_while_a_write_is_flushed(backend: FilesBackend, gate: Gate) -> None:
    task = asyncio.create_task(write(backend, {"n": 1}))
    await asyncio.to_thread(gate.reached.wait, 60)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.done()
    gate.opened.set()
    await task


async def test_a_cancelled_write_is_whole_or_dropped(
    backend: FilesBackend,
    path: Path,
    tmp_path: Path,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bytes] = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        seen.append(Path(source).read_bytes())
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    begun = asyncio.create_task(write(backend, {"n": 1}))
    await asyncio.to_thread(gate.reached.wait, 60)
    waiting = asyncio.create_task(write(backend, {"n": 2}))
    last = asyncio.create_task(write(backend, {"n": 3}))
    await asyncio.sleep(0)
    for task in (begun, waiting):
        task.cancel()
    results = await asyncio.gather(begun, waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    gate.opened.set()
    await last
    assert seen == [b'{"n":1}', b'{"n":3}']
    assert path.read_bytes() == b'{"n":3}'
    assert leftovers(tmp_path) == []


async def test_a_removal_comes_after_the_write_before_it(backend: FilesBackend) -> None:
    entry = {"data": 1, "removed": False}
    await asyncio.gather(
        backend.write_entry(MEASURE, ("b", "k"), entry, None),
        backend.remove_entry(MEASURE, ("b", "k")),
    )
    assert await backend.read_entry(MEASURE, ("b", "k"), None) is None
    assert await backend.has_entry(MEASURE, ("b", "k"), None)


def test_a_backend_serves_one_loop_after_another_and_several_at_once(
    backend: FilesBackend, path: Path
) -> None:
    for number in range(3):
        asyncio.run(write(backend, {"n": number}))
    errors: list[BaseException] = []

    async def many() -> None:
        await asyncio.gather(*(write(backend, {"n": number}) for number in range(20)))

    def run() -> None:
        try:
            asyncio.run(many())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert path.read_bytes() == b'{"n":19}'


WRITER = """
    import asyncio, sys
    from fastpersist.adapters.files import FilesBackend
    from fastpersist.domains import STATE

    async def main(folder, name, count):
        backend = FilesBackend(folder)
        for number in range(count):
            value = {"by": name, "n": number, "fill": "x" * 20000}
            await backend.write_value(STATE, ("signal", "bucket"), value, 0)
            print(number, flush=True)

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def start_writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_write_one_file_leave_one_of_their_values(
    tmp_path: Path, path: Path
) -> None:
    writers = [start_writer(tmp_path, name, 20) for name in "abc"]
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    value = from_json(path.read_bytes())
    assert value["by"] in "abc"
    assert value["n"] == 19
    assert leftovers(tmp_path) == []


async def test_a_killed_process_leaves_what_it_had_written(
    backend: FilesBackend, tmp_path: Path, path: Path
) -> None:
    writer = start_writer(tmp_path, "a", 1_000_000)
    assert writer.stdout is not None
    written = -1
    for line in writer.stdout:
        written = int(line)
        if written == 20:
            break
    writer.send_signal(signal.SIGKILL)
    written = max(int(line) for line in [str(written), *writer.stdout.read().split()])
    writer.stdout.close()
    writer.wait(60)
    value = await backend.read_value(STATE, KEY, None)
    assert value["n"] in (written, written + 1)
    assert len(value["fill"]) == 20_000
    for name in leftovers(tmp_path):
        os.utime(path.parent / name, (0, 0))
    await backend.prepare(STATE, KEY, True)
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_write(backend: FilesBackend, path: Path) -> None:
    code = """
        import asyncio, os, sys, threading
        from fastpersist.adapters.files import FilesBackend
        from fastpersist.domains import STATE

        backend = FilesBackend(sys.argv[1])

        async def write(number):
            await backend.write_value(STATE, ("signal", "bucket"), {"n": number}, 0)

        async def parent():
            opened, reached, real = threading.Event(), threading.Event(), os.fsync
            os.fsync = lambda handle: (reached.set(), opened.wait(60), real(handle))
            task = asyncio.create_task(write(1))
            await asyncio.to_thread(reached.wait, 60)
            child = os.fork()
            if not child:
                os.fsync = real
                def run():
                    asyncio.run(asyncio.wait_for(write(2), 60))
                    os._exit(0)
                thread = threading.Thread(target=run)
                thread.start()
                thread.join(70)
                os._exit(1)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            opened.set()
            await task
            sys.exit(os.waitstatus_to_exitcode(status))

        asyncio.run(parent())
    """
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(path.parents[3])],
        check=True,
        timeout=120,
    )
    assert path.read_bytes() == b'{"n":1}'
