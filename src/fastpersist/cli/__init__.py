"""The ``fastpersist`` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 done, 1 something was found, 2 a mistake or a server or system that fails, 130 interrupted
    (a run by SIGTERM 143), 141 nobody reads the output any more.
    """
    _prepare_streams()
    try:
        from .app import run_app
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(
            'fastpersist: the command needs click and rich: pip install "fastpersist[cli]"',
            file=sys.stderr,
        )
        return 2
    return run_app(sys.argv[1:] if arguments is None else list(arguments))


def _prepare_streams() -> None:
    """Let what is printed neither fail for want of a stream nor of a character in its encoding."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the command
            void = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # open as long as sys is
            setattr(sys, name, void)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
