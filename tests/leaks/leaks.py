"""Memory that the compiled modules do not give back: ``python tests/leaks/leaks.py``.

Each case runs in a fresh process, many times over; the resident memory after the warm-up may not
grow by more than a few bytes for each turn.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import bson
from bson import ObjectId

from fastpersist.errors import FastPersistError
from fastpersist.hot import has_extensions
from fastpersist.hot.bson import decode, encode, reply_documents, split
from fastpersist.hot.columns import columns_from_batches, columns_from_rows, insert_documents, rows
from fastpersist.hot.idcache import IdCache
from fastpersist.hot.keys import KeyTemplate

TURNS = 40
REPEATS = 3_000
BYTES_A_TURN = 20_000

PAYLOAD: dict[str, Any] = {
    "id": "0c1f4f1e",
    "é": [1, 2.5, None, {"deep": (1, b"x", ObjectId())}],
    "when": bson.DatetimeMS(2**60),
    "text": "x" * 300,
}
ENCODED = encode(PAYLOAD)
CANDLES = [
    {"timestamp": n * 60_000, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 3.0}
    for n in range(50)
]
BATCH = b"".join(bson.encode(row) for row in CANDLES)
REPLY = bson.encode({"cursor": {"firstBatch": [PAYLOAD], "id": 0, "ns": "a"}, "ok": 1.0})
TEMPLATE = KeyTemplate("n", [("a", "name"), ("b", "mode")], ["b", "a"])


def codec() -> None:
    decode(encode(PAYLOAD))
    decode(ENCODED, 0, ("id",), True)
    split(ENCODED * 2)
    reply_documents(REPLY)


def refused() -> None:
    for call in (
        lambda: encode({"a": [{"b": object()}]}),
        lambda: encode({"a": "\ud800"}),
        lambda: decode(ENCODED[:-3]),
        lambda: decode(ENCODED.replace(b"\x02text", b"\x33text")),
        lambda: columns_from_batches([BATCH[:-3]]),
        lambda: TEMPLATE("", True),
    ):
        with suppress(FastPersistError):
            call()


def columns() -> None:
    found = columns_from_batches([BATCH, BATCH])
    rows(found)
    memoryview(found.open).release()
    found.__arrow_c_schema__()
    found.__arrow_c_array__()
    found.__arrow_c_stream__()
    insert_documents(columns_from_rows(CANDLES), b"", bytes(12 * len(CANDLES)), 1)


def taken_columns() -> None:
    import polars
    import pyarrow

    found = columns_from_batches([BATCH])
    pyarrow.table(found)
    pyarrow.array(found)
    polars.DataFrame(found)


def ids() -> None:
    cache = IdCache(100)
    for number in range(250):
        key = TEMPLATE(f"name{number}", True)
        cache.put(key, bytes(12))
        cache.get(key)
        if number % 3 == 0:
            cache.drop(key)
    cache.clear()


CASES: dict[str, tuple[Callable[[], None], int]] = {
    "codec": (codec, REPEATS),
    "refused": (refused, REPEATS // 3),
    "columns": (columns, REPEATS // 10),
    "taken_columns": (taken_columns, REPEATS // 30),
    "ids": (ids, REPEATS // 20),
}


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def measure(case: str) -> int:
    """Run one case here; return 1 if its memory grows turn by turn."""
    work, repeats = CASES[case]
    after: list[int] = []
    for _ in range(TURNS):
        for _ in range(repeats):
            work()
        gc.collect()
        after.append(resident())
    # The second half: pools and caches have their size by then.
    half = after[TURNS // 2 :]
    growth = (half[-1] - half[0]) / (len(half) - 1)
    verdict = "ok" if growth < BYTES_A_TURN else "GROWS"
    print(f"{verdict:<6}{case}: {growth:,.0f} bytes in a turn of {repeats:,}")
    return 0 if verdict == "ok" else 1


def main() -> int:
    if not has_extensions():
        print("the compiled modules are what is measured, and they are not there")
        return 1
    if len(sys.argv) > 1:
        return measure(sys.argv[1])
    command = [sys.executable, __file__]
    return max(subprocess.run([*command, case], check=False).returncode for case in CASES)


if __name__ == "__main__":
    sys.exit(main())
