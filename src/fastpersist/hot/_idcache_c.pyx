"""Redis key to document id, compiled; the twin ``_idcache_py`` says what it has to do.

Slots of C arrays form the list of use, so that a hit moves two integers instead of an object. No
method gives up the GIL half-way, which makes each of them atomic for threads.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from ._idcache_py import CacheStats

__all__ = ["CacheStats", "IdCache"]

cdef enum:
    ID_BYTES = 12
    NONE = -1
    FIRST_CAPACITY = 64

cdef struct Slot:
    int newer
    int older
    char document_id[ID_BYTES]


cdef class IdCache:
    cdef dict _places
    cdef list _keys
    cdef list _free
    cdef Slot *_slots
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _max_entries
    cdef int _newest
    cdef int _oldest
    cdef Py_ssize_t _hits
    cdef Py_ssize_t _misses
    cdef Py_ssize_t _evictions

    def __cinit__(self, Py_ssize_t max_entries=1_000_000):
        if max_entries < 0:
            raise ValueError(f"max_entries must not be negative, got {max_entries}")
        self._max_entries = max_entries
        self._slots = NULL
        self._capacity = 0
        self._reset()

    def __dealloc__(self):
        free(self._slots)

    cdef void _reset(self):
        # Made before the first is put in place: making one can run finalizers that use this cache.
        places, keys, unused = {}, [], []
        self._places = places
        self._keys = keys
        self._free = unused
        self._newest = self._oldest = NONE
        self._hits = self._misses = self._evictions = 0

    def get(self, bytes key not None):
        place = self._places.get(key)
        if place is None:
            self._misses += 1
            return None
        self._hits += 1
        cdef int slot = place
        if slot != self._newest:
            self._unlink(slot)
            self._link_newest(slot)
        return PyBytes_FromStringAndSize(self._slots[slot].document_id, ID_BYTES)

    def put(self, bytes key not None, bytes document_id not None):
        cdef int slot
        if len(document_id) != ID_BYTES:
            raise ValueError(f"a document id has {ID_BYTES} bytes, got {len(document_id)}")
        if self._max_entries == 0:
            return
        place = self._places.get(key)
        if place is not None:
            slot = place
            self._unlink(slot)
        elif len(self._places) >= self._max_entries:
            slot = self._oldest
            self._unlink(slot)
            del self._places[self._keys[slot]]
            self._evictions += 1
            self._keys[slot] = key
            self._places[key] = slot
        elif self._free:
            slot = self._free.pop()
            self._keys[slot] = key
            self._places[key] = slot
        else:
            slot = <int>len(self._keys)
            self._make_room(slot)
            self._keys.append(key)
            self._places[key] = slot
        memcpy(self._slots[slot].document_id, <char *>document_id, ID_BYTES)
        self._link_newest(slot)

    def drop(self, bytes key not None):
        place = self._places.pop(key, None)
        if place is None:
            return False
        cdef int slot = place
        self._unlink(slot)
        self._keys[slot] = None
        self._free.append(slot)
        return True

    def clear(self):
        self._reset()

    def stats(self):
        return CacheStats(
            self._hits, self._misses, len(self._places), self._max_entries, self._evictions
        )

    def __len__(self):
        return len(self._places)

    cdef int _make_room(self, int slot) except -1:
        cdef Py_ssize_t capacity
        cdef void *grown
        if slot >= self._capacity:
            capacity = min(max(FIRST_CAPACITY, self._capacity * 2), self._max_entries)
            grown = realloc(self._slots, capacity * sizeof(Slot))
            if grown == NULL:
                raise MemoryError()
            self._slots = <Slot *>grown
            self._capacity = capacity
        return 0

    cdef void _unlink(self, int slot) noexcept:
        cdef int newer = self._slots[slot].newer
        cdef int older = self._slots[slot].older
        if newer == NONE:
            self._newest = older
        else:
            self._slots[newer].older = older
        if older == NONE:
            self._oldest = newer
        else:
            self._slots[older].newer = newer

    cdef void _link_newest(self, int slot) noexcept:
        self._slots[slot].newer = NONE
        self._slots[slot].older = self._newest
        if self._newest != NONE:
            self._slots[self._newest].newer = slot
        self._newest = slot
        if self._oldest == NONE:
            self._oldest = slot
