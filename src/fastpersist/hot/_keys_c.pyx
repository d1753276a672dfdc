"""Context fields to Redis key, compiled; the twin ``_keys_py`` says what it has to do."""

from binascii import crc_hqx

from ..errors import InvalidArgumentError
from ._keys_py import KINDS, SLOTS, lone_surrogate, wrong_type

__all__ = ["KeyTemplate", "slot"]

cdef enum Kind:
    NAME = 0
    OPTIONAL_NAME = 1
    MODE = 2
    TIMESTAMP = 3


cdef class KeyTemplate:
    cdef readonly str namespace
    cdef readonly tuple fields
    cdef readonly bytes prefix_bytes
    cdef tuple _kinds
    cdef tuple _order
    cdef str _prefix
    cdef Py_ssize_t _count

    def __init__(self, str namespace not None, fields, order, str prefix not None=""):
        names = tuple([name for name, _ in fields])
        if sorted(names) != sorted(order) or len(set(names)) != len(names):
            raise ValueError(f"the order {list(order)} must name each of {list(names)} once")
        kinds = tuple([kind for _, kind in fields])
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"unknown kind {kind!r}")
        self.namespace = namespace
        self.fields = names
        self._prefix = f"{prefix}{namespace}"
        self.prefix_bytes = f"{prefix}{namespace}:".encode()
        self._kinds = tuple([KINDS.index(kind) for kind in kinds])
        self._order = tuple([names.index(name) for name in order])
        self._count = len(names)

    def __call__(self, *values):
        cdef Py_ssize_t index
        cdef int kind
        cdef object value
        if len(values) != self._count:
            raise InvalidArgumentError(
                self.namespace, f"takes {self._count} fields, got {len(values)}"
            )
        cdef list parts = [self._prefix]
        cdef tuple checked = values
        for index in range(self._count):
            value = checked[index]
            kind = self._kinds[index]
            if kind <= OPTIONAL_NAME:
                if not isinstance(value, str):
                    raise wrong_type(self.fields[index], "a text", value)
                if not value and kind == NAME:
                    raise InvalidArgumentError(self.fields[index], "must not be empty")
            elif kind == MODE:
                if value is not True and value is not False:
                    raise wrong_type(self.fields[index], "a bool", value)
            elif not isinstance(value, int) or isinstance(value, bool):
                raise wrong_type(self.fields[index], "an int", value)
        for position in self._order:
            value = checked[position]
            kind = self._kinds[position]
            if kind <= OPTIONAL_NAME:
                parts.append(value)
            elif kind == MODE:
                parts.append("backtest" if value is True else "live")
            else:
                parts.append(int.__repr__(value))
        try:
            return (":".join(parts)).encode()
        except UnicodeEncodeError:
            # The twin refuses in the order of the fields, so this has to as well.
            raise lone_surrogate(self._first_unencodable(values)) from None

    cdef str _first_unencodable(self, tuple values):
        for index in range(self._count):
            if self._kinds[index] <= OPTIONAL_NAME:
                try:
                    values[index].encode()
                except UnicodeEncodeError:
                    return self.fields[index]
        return self.namespace


cpdef int slot(bytes key):
    cdef Py_ssize_t start, end
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS
