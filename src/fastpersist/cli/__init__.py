"""The ``fastpersist`` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 2 a user's mistake, 130/143 interrupted."""
    try:
        from .app import run_app
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(
            'fastpersist: the command needs click and rich: pip install "fastpersist[cli]"',
            file=sys.stderr,
        )
        return 2
    return run_app(sys.argv[1:] if arguments is None else list(arguments))
