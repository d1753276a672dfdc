"""How long ``import fastpersist`` takes beyond its drivers, in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median
from tempfile import TemporaryDirectory

from measure import Result

__all__ = ["import_time"]

_PROBE = """
import time
import pymongo, redis.asyncio
from pymongo import AsyncMongoClient
started = time.perf_counter()
import fastpersist
print(time.perf_counter() - started)
"""


def import_time(rounds: int) -> Result:
    """Return the median of `rounds` fresh processes."""
    with TemporaryDirectory() as folder:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-c", _PROBE]
        seconds = [
            float(subprocess.run(command, env=environ, capture_output=True, check=True).stdout)
            for _ in range(rounds + 1)
        ]
    # The first one wrote the byte code.
    return Result("import", "fastpersist beyond its drivers", median(seconds[1:]) * 1e6, 1.0)
