"""A command that kills itself once MongoDB has answered its N-th deletion.

``python killed_at_delete.py N ARGUMENTS``: what has fewer ends by itself.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from pymongo.asynchronous.collection import AsyncCollection

from fastpersist.cli import main

delete_many = AsyncCollection.delete_many
left = int(sys.argv[1])


async def delete_then_die(collection: AsyncCollection[Any], *arguments: Any) -> Any:
    global left
    result = await delete_many(collection, *arguments)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return result


if __name__ == "__main__":
    AsyncCollection.delete_many = delete_then_die  # type: ignore[method-assign]  # dies at the N-th
    sys.exit(main(sys.argv[2:]))
