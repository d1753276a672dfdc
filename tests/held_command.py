"""A command that stops itself, as by Ctrl-Z, once it has come as far as a test wants it to.

``python held_command.py NAME DONE -- ARGUMENTS``: as its progress is told, `DONE` of `NAME`. So
what is to be killed on its way cannot end before, however slow the one is that kills it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fastpersist.cli import main, toolbox

show_progress = toolbox.progress_bar


@contextmanager
def held_progress(what: str, *, is_quiet: bool) -> Iterator[toolbox.OnProgress]:
    with show_progress(what, is_quiet=is_quiet) as on_progress:
        is_held = False

        def hold(name: str, done: int, total: int) -> None:
            nonlocal is_held
            on_progress(name, done, total)
            if not is_held and name == sys.argv[1] and done >= int(sys.argv[2]):
                is_held = True
                os.kill(os.getpid(), signal.SIGSTOP)

        yield hold


if __name__ == "__main__":
    # Before the commands are imported, which take it from there.
    toolbox.progress_bar = held_progress
    sys.exit(main(sys.argv[4:]))
