"""What makes a file durable beside its content."""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["BINARY", "sync_directory", "sync_file"]

BINARY: int = getattr(os, "O_BINARY", 0)
"""A flag for ``os.open``: without it Windows turns each line feed into two bytes."""


def sync_file(path: str | os.PathLike[str]) -> None:
    """Return when the content of a file that was written and closed is durable.

    Raises:
        OSError: The file cannot be opened or written.
    """
    handle = os.open(path, os.O_RDWR | BINARY)  # Windows flushes only what may be written to
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Return when the names in a directory are durable: what was made, renamed and removed there.

    On Windows, which opens no directories, it does nothing; the file system logs its names there.

    Raises:
        OSError: The directory cannot be opened or written.
    """
    if sys.platform == "win32":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system has no such notion
            raise
    finally:
        os.close(handle)
