"""Whether the stores that a command uses answer."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from ..runner.health import Health
from ..store import Store

__all__ = ["check_stores"]


async def check_stores(place: Store | str | Path) -> Health:
    """Ask the stores of `place`: an open store, or the folder of the files family.

    A store is ready when both servers answer, though without Redis it is slower and no more.
    """
    if not isinstance(place, Store):
        is_writable = await asyncio.to_thread(_is_writable, place)
        return Health(is_writable, {"files": is_writable})
    store: Store = place
    found = await store.health()
    details = {
        "mongo": found.mongo, "mongo_ms": found.mongo_ms,
        "redis": found.redis, "redis_ms": found.redis_ms,
    }  # fmt: skip
    return Health(found.mongo and found.redis, details)


def _is_writable(place: str | Path) -> bool:
    folder = Path(place).absolute()
    # The family makes its folders when it first writes to them.
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"0")
    except OSError:
        return False
    return True
