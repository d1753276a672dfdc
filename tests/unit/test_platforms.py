"""What the package needs of a system: nothing that only Unix has.

No Windows is at hand here, so a process is told that it is on one and loses what Windows lacks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, json, logging.handlers, os, pkgutil, signal, subprocess, sys, threading
import bson, click, hiredis, orjson, pymongo, redis.asyncio, rich.progress

import multiprocessing.util  # and what else looks at the platform by itself

for module, name in (
    (os, "register_at_fork"), (os, "fork"), (os, "kill"), (os, "getuid"), (os, "chown"),
    (signal, "SIGKILL"), (signal, "SIGSTOP"), (signal, "SIGHUP"), (signal, "pthread_sigmask"),
):
    delattr(module, name)
sys.modules["fcntl"] = sys.modules["pwd"] = sys.modules["resource"] = None
opened = os.open

def open_file(path, *arguments, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, *arguments, **options)

os.open = open_file
asyncio.SelectorEventLoop.add_signal_handler = None
sys.platform = "win32"

import fastpersist

modules = [
    found.name for found in pkgutil.walk_packages(fastpersist.__path__, "fastpersist.")
    if found.name != "fastpersist.__main__"
]
for name in modules:
    __import__(name)

import fastpersist.sync as fp

value = {"id": "x", "data": "1\\n2"}
fp.PersistStateAdapter.write_state_data("s", "b", value, 1)
assert fp.PersistStateAdapter.read_state_data("s", "b") == value
print(json.dumps(modules))
"""


def test_nothing_is_needed_that_windows_lacks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout)
    assert {"fastpersist.local.servers", "fastpersist.cli.backup", "fastpersist.sync"} <= {*modules}
    assert list(tmp_path.rglob("*.json"))
