# Plain methods are called faster than those that carry a signature.
# cython: binding=False
"""Redis key to document id, compiled; the twin ``_idcache_py`` says what it has to do.

An open hash table of slot numbers stands beside an array of slots, which hold the links of the
queues as well: a hit sets one bit, and an entry costs 64 bytes at most beside its key. Nothing in
a method runs Python code while the cache is half changed (keys are exact bytes, so that even
letting go of one does not), which makes each method atomic under the GIL. It relies on the GIL
for that, and so the module does not claim to run without it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject, PyObject_Hash
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy

from operator import index

from ._idcache_py import MAX_ENTRIES_LIMIT, CacheStats

__all__ = ["CacheStats", "IdCache"]

cdef enum:
    ID_BYTES = 12
    NONE = 0x3FFFFFFF
    FIRST_SLOTS = 64
    FIRST_PLACES = 128
    PROBATION = 0
    MAIN = 1

cdef extern from "Python.h":
    void drop_reference "Py_DECREF" (PyObject *) noexcept

# Cython has no bit fields.
cdef extern from *:
    """
    typedef struct {
        PyObject *key;
        uint32_t hash;
        char document_id[12];
        uint32_t older : 30;
        uint32_t used : 1;
        uint32_t queue : 1;
        uint32_t newer : 30;
    } fastpersist_slot;
    """
    ctypedef struct Slot "fastpersist_slot":
        PyObject *key
        uint32_t hash
        char *document_id
        uint32_t older
        uint32_t used
        uint32_t queue
        uint32_t newer

cdef struct Queue:
    uint32_t oldest
    uint32_t newest
    uint32_t entries


cdef class IdCache:
    # A slot number plus one in each place; 0 is an empty place.
    cdef uint32_t *_table
    cdef uint32_t _mask
    cdef Slot *_slots
    cdef uint32_t _capacity
    # Slots from here on have never been used; unused ones before it are linked by `newer`.
    cdef uint32_t _touched
    cdef uint32_t _unused
    cdef uint32_t _entries
    cdef uint32_t _max_entries
    cdef uint32_t _probation_share
    cdef Queue[2] _queues
    cdef Py_ssize_t _hits
    cdef Py_ssize_t _misses
    cdef Py_ssize_t _evictions

    def __cinit__(self, max_entries=1_000_000):
        max_entries = index(max_entries)
        if max_entries < 0:
            raise ValueError(f"max_entries must not be negative, got {max_entries}")
        if max_entries >= MAX_ENTRIES_LIMIT:
            raise ValueError(
                f"max_entries must be less than {MAX_ENTRIES_LIMIT}, got {max_entries}"
            )
        self._max_entries = max_entries
        self._probation_share = max(1, max_entries // 10)
        self._reset()

    def __dealloc__(self):
        self._reset()

    def get(self, bytes key not None, /):
        cdef uint32_t number = self._find(key, <uint32_t>PyObject_Hash(key))
        if number == NONE:
            self._misses += 1
            return None
        self._hits += 1
        self._slots[number].used = 1
        return PyBytes_FromStringAndSize(self._slots[number].document_id, ID_BYTES)

    def put(self, bytes key not None, bytes document_id not None, /):
        if PyBytes_GET_SIZE(document_id) != ID_BYTES:
            raise ValueError(f"a document id has {ID_BYTES} bytes, got {len(document_id)}")
        if self._max_entries == 0:
            return
        cdef uint32_t hashed = <uint32_t>PyObject_Hash(key)
        cdef uint32_t number = self._find(key, hashed)
        cdef PyObject *evicted = NULL
        cdef Slot *slot
        if number != NONE:
            slot = &self._slots[number]
            slot.used = 1
            memcpy(slot.document_id, PyBytes_AS_STRING(document_id), ID_BYTES)
            return
        if self._entries >= self._max_entries:
            number = self._evict()
            evicted = self._slots[number].key
        else:
            self._make_room()
            number = self._take_unused()
        slot = &self._slots[number]
        Py_INCREF(key)
        slot.key = <PyObject *>key
        slot.hash = hashed
        memcpy(slot.document_id, PyBytes_AS_STRING(document_id), ID_BYTES)
        slot.used = 0
        slot.queue = PROBATION
        self._link(number)
        self._enter(number)
        self._entries += 1
        if evicted != NULL:
            drop_reference(evicted)

    def drop(self, bytes key not None, /):
        cdef uint32_t number = self._find(key, <uint32_t>PyObject_Hash(key))
        if number == NONE:
            return False
        cdef Slot *slot = &self._slots[number]
        cdef PyObject *dropped = slot.key
        self._unlink(number)
        self._leave(number)
        self._entries -= 1
        slot.key = NULL
        slot.newer = self._unused
        self._unused = number
        drop_reference(dropped)
        return True

    def clear(self):
        self._reset()

    def stats(self):
        return CacheStats(
            self._hits, self._misses, self._entries, self._max_entries, self._evictions
        )

    def __len__(self):
        return self._entries

    def __sizeof__(self):
        cdef size_t places = 0 if self._table == NULL else <size_t>self._mask + 1
        return (
            object.__sizeof__(self)
            + places * sizeof(uint32_t)
            + <size_t>self._capacity * sizeof(Slot)
        )

    @cython.final
    cdef void _reset(self) noexcept:
        cdef uint32_t number
        for number in range(self._touched):
            if self._slots[number].key != NULL:
                drop_reference(self._slots[number].key)
        PyMem_RawFree(self._slots)
        PyMem_RawFree(self._table)
        self._slots = NULL
        self._table = NULL
        self._mask = self._capacity = self._touched = self._entries = 0
        self._unused = NONE
        for number in range(2):
            self._queues[number].oldest = self._queues[number].newest = NONE
            self._queues[number].entries = 0
        self._hits = self._misses = self._evictions = 0

    @cython.final
    cdef inline uint32_t _find(self, bytes key, uint32_t hashed) noexcept:
        if self._table == NULL:
            return NONE
        cdef uint32_t place = hashed & self._mask
        cdef uint32_t found
        cdef Slot *slot
        cdef Py_ssize_t size
        while True:
            found = self._table[place]
            if found == 0:
                return NONE
            slot = &self._slots[found - 1]
            if slot.key == <PyObject *>key:
                return found - 1
            if slot.hash == hashed:
                size = PyBytes_GET_SIZE(key)
                if PyBytes_GET_SIZE(<object>slot.key) == size and (
                    memcmp(PyBytes_AS_STRING(<object>slot.key), PyBytes_AS_STRING(key), size) == 0
                ):
                    return found - 1
            place = (place + 1) & self._mask

    @cython.final
    cdef inline void _enter(self, uint32_t number) noexcept:
        cdef uint32_t place = self._slots[number].hash & self._mask
        while self._table[place] != 0:
            place = (place + 1) & self._mask
        self._table[place] = number + 1

    @cython.final
    cdef void _leave(self, uint32_t number) noexcept:
        cdef uint32_t hole = self._slots[number].hash & self._mask
        cdef uint32_t place, found, home
        while self._table[hole] != number + 1:
            hole = (hole + 1) & self._mask
        # What stands behind the hole moves into it, unless that is before its home.
        place = hole
        while True:
            place = (place + 1) & self._mask
            found = self._table[place]
            if found == 0:
                break
            home = self._slots[found - 1].hash & self._mask
            if ((place - home) & self._mask) >= ((place - hole) & self._mask):
                self._table[hole] = found
                hole = place
        self._table[hole] = 0

    @cython.final
    cdef int _make_room(self) except -1:
        # Each array is grown on its own and before anything is linked: a failure changes nothing.
        cdef size_t places = 0 if self._table == NULL else <size_t>self._mask + 1
        cdef size_t capacity = self._capacity
        cdef uint32_t number
        cdef void *grown
        if self._unused == NONE and self._touched == capacity:
            # In small steps: the bound on the bytes of an entry holds right after one as well.
            capacity = min(max(<size_t>FIRST_SLOTS, capacity + capacity // 4), self._max_entries)
            grown = PyMem_RawRealloc(self._slots, capacity * sizeof(Slot))
            if grown == NULL:
                raise MemoryError()
            self._slots = <Slot *>grown
            self._capacity = <uint32_t>capacity
        if (<size_t>self._entries + 1) * 4 > places * 3:
            places = max(<size_t>FIRST_PLACES, places * 2)
            grown = PyMem_RawCalloc(places, sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError()
            PyMem_RawFree(self._table)
            self._table = <uint32_t *>grown
            self._mask = <uint32_t>(places - 1)
            for number in range(self._touched):
                if self._slots[number].key != NULL:
                    self._enter(number)
        return 0

    @cython.final
    cdef inline uint32_t _take_unused(self) noexcept:
        cdef uint32_t number = self._unused
        if number == NONE:
            number = self._touched
            self._touched += 1
        else:
            self._unused = self._slots[number].newer
        return number

    @cython.final
    cdef uint32_t _evict(self) noexcept:
        cdef uint32_t number
        cdef Slot *slot
        while True:
            if (
                self._queues[PROBATION].entries >= self._probation_share
                or self._queues[MAIN].entries == 0
            ):
                number = self._queues[PROBATION].oldest
            else:
                number = self._queues[MAIN].oldest
            slot = &self._slots[number]
            self._unlink(number)
            if not slot.used:
                self._leave(number)
                self._entries -= 1
                self._evictions += 1
                return number
            slot.used = 0
            slot.queue = MAIN
            self._link(number)

    @cython.final
    cdef inline void _unlink(self, uint32_t number) noexcept:
        cdef Queue *queue = &self._queues[self._slots[number].queue]
        cdef uint32_t newer = self._slots[number].newer
        cdef uint32_t older = self._slots[number].older
        if newer == NONE:
            queue.newest = older
        else:
            self._slots[newer].older = older
        if older == NONE:
            queue.oldest = newer
        else:
            self._slots[older].newer = newer
        queue.entries -= 1

    @cython.final
    cdef inline void _link(self, uint32_t number) noexcept:
        cdef Queue *queue = &self._queues[self._slots[number].queue]
        self._slots[number].newer = NONE
        self._slots[number].older = queue.newest
        if queue.newest == NONE:
            queue.oldest = number
        else:
            self._slots[queue.newest].newer = number
        queue.newest = number
        queue.entries += 1
