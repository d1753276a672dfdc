"""Context fields to Redis key, compiled; the twin ``_keys_py`` says what it has to do.

Ordinary values are written straight into a buffer on the stack. Whatever is not ordinary (a wrong
value, a subclass, a very long name) goes to an instance of the twin, so that errors cannot differ.
"""

from binascii import crc_hqx

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from . import _keys_py
from ._keys_py import KINDS, SLOTS

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

__all__ = ["KeyTemplate", "slot"]

cdef enum Kind:
    NAME = 0
    OPTIONAL_NAME = 1
    MODE = 2
    TIMESTAMP = 3

cdef enum:
    LONGEST_KEY = 512
    LONGEST_NUMBER = 24


cdef class KeyTemplate:
    cdef readonly str namespace
    cdef readonly tuple fields
    cdef readonly bytes prefix_bytes
    cdef object _twin
    cdef bytes _kinds
    cdef bytes _order

    def __init__(self, namespace, fields, order, prefix=""):
        twin = _keys_py.KeyTemplate(namespace, fields, order, prefix)
        self.namespace = str(namespace)
        self.fields = twin.fields
        self.prefix_bytes = twin.prefix_bytes
        self._twin = twin
        self._kinds = bytes([KINDS.index(kind) for _, kind in fields])
        self._order = bytes([self.fields.index(name) for name in order])

    def __call__(self, *values):
        if len(values) == len(self._kinds):
            try:
                key = self._written(values)
            except (OverflowError, UnicodeEncodeError):
                key = None
            if key is not None:
                return key
        return self._twin(*values)

    cdef bytes _written(self, tuple values):
        """Return the key, or None where the twin has to decide."""
        cdef char key[LONGEST_KEY]
        cdef char digits[LONGEST_NUMBER]
        cdef const char *part
        cdef Py_ssize_t size = len(self.prefix_bytes)
        cdef Py_ssize_t length
        cdef int overflow = 0
        cdef int kind
        cdef unsigned char position
        if not values:
            return self.prefix_bytes
        if size > LONGEST_KEY:
            return None
        memcpy(key, <const char *>self.prefix_bytes, size)
        for position in self._order:
            value = values[position]
            kind = self._kinds[position]
            if kind <= OPTIONAL_NAME:
                if type(value) is not str:
                    return None
                part = PyUnicode_AsUTF8AndSize(value, &length)
                if length == 0 and kind == NAME:
                    return None
            elif kind == MODE:
                if value is True:
                    part, length = b"backtest", 8
                elif value is False:
                    part, length = b"live", 4
                else:
                    return None
            else:
                if type(value) is not int:
                    return None
                number = PyLong_AsLongLongAndOverflow(value, &overflow)
                if overflow:
                    return None
                length = snprintf(digits, LONGEST_NUMBER, "%lld", number)
                part = digits
            # One byte more, for the colon behind it.
            if size + length >= LONGEST_KEY:
                return None
            memcpy(key + size, part, length)
            size += length
            key[size] = c":"
            size += 1
        return PyBytes_FromStringAndSize(key, size - 1)


cpdef int slot(bytes key) except -1:
    cdef Py_ssize_t start, end
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS
