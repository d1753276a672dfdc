"""The eviction rule of the id cache in the plainest words: two lists and a mark."""

from __future__ import annotations

__all__ = ["Model"]


class Model:
    """New keys wait in `probation`, those used again in `main`, the oldest first."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.ids: dict[bytes, bytes] = {}
        self.probation: list[bytes] = []
        self.main: list[bytes] = []
        self.used: set[bytes] = set()
        self.hits = self.misses = self.evictions = 0

    def get(self, key: bytes) -> bytes | None:
        if key not in self.ids:
            self.misses += 1
            return None
        self.hits += 1
        self.used.add(key)
        return self.ids[key]

    def put(self, key: bytes, document_id: bytes) -> None:
        if not self.max_entries:
            return
        if key in self.ids:
            self.used.add(key)
        else:
            if len(self.ids) == self.max_entries:
                self._evict()
            self.probation.append(key)
        self.ids[key] = document_id

    def _evict(self) -> None:
        while True:
            on_trial = len(self.probation) >= max(1, self.max_entries // 10) or not self.main
            key = (self.probation if on_trial else self.main).pop(0)
            if key not in self.used:
                del self.ids[key]
                self.evictions += 1
                return
            self.used.remove(key)
            self.main.append(key)

    def drop(self, key: bytes) -> bool:
        if key not in self.ids:
            return False
        del self.ids[key]
        (self.probation if key in self.probation else self.main).remove(key)
        self.used.discard(key)
        return True

    def clear(self) -> None:
        self.__init__(self.max_entries)  # type: ignore[misc]  # a new one, in place

    def stats(self) -> tuple[int, int, int, int, int]:
        return self.hits, self.misses, len(self.ids), self.max_entries, self.evictions
