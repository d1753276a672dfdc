"""Redis key to document id, in this process: the specification of the compiled module."""

from __future__ import annotations

from collections import OrderedDict
from operator import index
from threading import RLock
from typing import NamedTuple

__all__ = ["CacheStats", "IdCache"]

ID_BYTES = 12
# The compiled module numbers entries with 30 bits.
MAX_ENTRIES_LIMIT = 2**30


class CacheStats(NamedTuple):
    """What a cache has done since it was made or cleared."""

    hits: int
    misses: int
    entries: int
    max_entries: int
    evictions: int


class IdCache:
    """A bounded map from Redis key to the 12 bytes of a document id.

    Entries wait in two queues and get a second chance. New ones enter `probation`; reading an
    entry or writing it again marks it as used and moves nothing. When the cache is full, the
    oldest of `probation` goes if that holds a tenth of the bound or more, else the oldest of
    `main`; one that is marked loses the mark and goes to the end of `main` instead, and the next
    is looked at. So keys that are never read again, as in a bulk import, only pass through
    `probation`, and the hot ones stay.

    Safe with threads that share the GIL. An entry costs at most 64 bytes compiled and 150 to
    200 in this twin, beside its key.

    Args:
        max_entries: Most entries; 0 caches nothing.

    Raises:
        ValueError: `max_entries` is negative or 2**30 or more.
    """

    def __init__(self, max_entries: int = 1_000_000) -> None:
        max_entries = index(max_entries)
        if max_entries < 0:
            raise ValueError(f"max_entries must not be negative, got {max_entries}")
        if max_entries >= MAX_ENTRIES_LIMIT:
            raise ValueError(
                f"max_entries must be less than {MAX_ENTRIES_LIMIT}, got {max_entries}"
            )
        self._max_entries = max_entries
        self._probation_share = max(1, max_entries // 10)
        self._probation: OrderedDict[bytes, bytes] = OrderedDict()
        self._main: OrderedDict[bytes, bytes] = OrderedDict()
        self._used: set[bytes] = set()
        # A finalizer that runs inside of a method may use the cache as well.
        self._lock = RLock()
        self._hits = self._misses = self._evictions = 0

    def get(self, key: bytes, /) -> bytes | None:
        """Return the id under `key`, or None."""
        check_bytes("key", key)
        with self._lock:
            found = self._main.get(key) or self._probation.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
                self._used.add(key)
            return found

    def put(self, key: bytes, document_id: bytes, /) -> None:
        """Put an id under `key`.

        Raises:
            ValueError: `document_id` is not 12 bytes long.
        """
        check_bytes("key", key)
        check_bytes("document_id", document_id)
        if len(document_id) != ID_BYTES:
            raise ValueError(f"a document id has {ID_BYTES} bytes, got {len(document_id)}")
        with self._lock:
            if self._max_entries == 0:
                return
            for queue in (self._main, self._probation):
                if key in queue:
                    queue[key] = document_id
                    self._used.add(key)
                    return
            while len(self) >= self._max_entries:
                self._evict()
            self._probation[key] = document_id

    def drop(self, key: bytes, /) -> bool:
        """Remove the entry under `key`; say whether there was one."""
        check_bytes("key", key)
        with self._lock:
            self._used.discard(key)
            dropped = self._main.pop(key, None) or self._probation.pop(key, None)
            return dropped is not None

    def clear(self) -> None:
        """Remove all entries and start counting anew."""
        with self._lock:
            self._probation.clear()
            self._main.clear()
            self._used.clear()
            self._hits = self._misses = self._evictions = 0

    def stats(self) -> CacheStats:
        """Return the counts."""
        with self._lock:
            return CacheStats(
                self._hits, self._misses, len(self), self._max_entries, self._evictions
            )

    def __len__(self) -> int:
        # Under the lock: an entry on its way from queue to queue is in neither.
        with self._lock:
            return len(self._probation) + len(self._main)

    def _evict(self) -> None:
        while True:
            full = len(self._probation) >= self._probation_share
            queue = self._probation if full or not self._main else self._main
            key, document_id = queue.popitem(last=False)
            if key not in self._used:
                self._evictions += 1
                return
            self._used.remove(key)
            self._main[key] = document_id


# The text is the one that Cython gives for a typed argument.
def check_bytes(name: str, value: object) -> None:
    if type(value) is not bytes:
        raise TypeError(
            f"Argument '{name}' has incorrect type (expected bytes, got {type(value).__name__})"
        )
