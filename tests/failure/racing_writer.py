"""One of several processes that write the same keys; run by ``test_concurrency``.

Prints nothing when all is well; a wrong value or an error ends it with a traceback.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import defaultdict
from typing import Any

import fastpersist


async def race(number: int, keys: int, writes: int, settings: dict[str, Any]) -> None:
    """Write `keys` states `writes` times in all and read each back at once."""
    order = random.Random(number)
    newest: dict[tuple[int, int], int] = defaultdict(int)
    written: dict[int, int] = defaultdict(int)
    store = fastpersist.open(**settings)
    sys.stdin.readline()  # all begin together

    async def write_and_read(key: int) -> None:
        own = written[key] = written[key] + 1
        newest[number, key] = own
        before = dict(newest)
        data = {"data": {"writer": number, "count": own}}
        await store.state.write_state_data(f"signal-{key}", "race", data, own)
        answer = await store.state.read_state_data(f"signal-{key}", "race")
        assert answer is not None, f"key {key} is gone"
        writer, count = answer["data"]["writer"], answer["data"]["count"]
        # Writes of one process to one key are ordered, so what is read never goes back.
        assert count >= before.get((writer, key), 0), f"key {key}: {answer} after {before}"
        newest[writer, key] = max(newest[writer, key], count)

    sequence = [index % keys for index in range(writes)]
    order.shuffle(sequence)
    for start in range(0, writes, keys):
        # A key once in each round: the rounds are concurrent inside and ordered among each other.
        await asyncio.gather(*map(write_and_read, dict.fromkeys(sequence[start : start + keys])))
    for key in set(range(keys)) - written.keys():
        await write_and_read(key)
    await store.aclose()


if __name__ == "__main__":
    number, keys, writes = map(int, sys.argv[1:4])
    names = ("mongo_url", "redis_url", "redis_prefix")
    # Eight of them at once are a burden, and what is late would be an error here.
    patient = dict.fromkeys(("start_timeout", "operation_timeout"), 60.0)
    settings = {**dict(zip(names, sys.argv[4:7], strict=True)), **patient}
    asyncio.run(race(number, keys, writes, settings))
