"""Payloads to values that BSON can hold, compiled; ``_codec_py`` says what it has to do.

The plain types are handled here; everything else goes to the twin's own function.
"""

from cpython.unicode cimport PyUnicode_GET_LENGTH

from ._codec_py import (
    MAX_DEPTH,
    MAX_SIZE,
    Refusal,
    check_depth,
    int_size,
    key_text,
    plain_dict,
    register_type,
    same_key_twice,
    too_large,
    utf8_length,
    walk_other,
)

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)

__all__ = [
    "MAX_DEPTH",
    "MAX_SIZE",
    "normalise",
    "register_type",
]

cdef enum:
    CONTAINER_BYTES = 5

cdef Py_ssize_t DEEPEST = MAX_DEPTH
cdef Py_ssize_t LARGEST = MAX_SIZE


def normalise(object value, str path not None="payload"):
    cdef Py_ssize_t size = 0
    try:
        normal = _walk(value, 0, &size)
        if size > LARGEST:
            raise too_large()
        return normal, size
    except Refusal as refusal:
        raise refusal.as_error(path) from None


cdef object _walk(object value, Py_ssize_t depth, Py_ssize_t *size):
    """Return the copy and add its size to `size`."""
    kind = type(value)
    if kind is str:
        size[0] += 5 + _utf8_length(value)
        return value
    if kind is float:
        size[0] += 8
        return value
    if kind is bool:
        size[0] += 1
        return value
    if value is None:
        return None
    if kind is int:
        size[0] += <Py_ssize_t>int_size(value)
        return value
    if kind is dict:
        return _walk_dict(<dict>value, depth, size)
    if kind is list:
        return _walk_sequence(value, depth, size)
    if kind is tuple:
        return _walk_sequence(value, depth, size)
    copy, added = walk_other(value, depth, _walk_sized, _walk_mapping_sized, _walk_sequence_sized)
    size[0] += <Py_ssize_t>added
    return copy


def _walk_sized(value, depth):
    cdef Py_ssize_t size = 0
    copy = _walk(value, depth, &size)
    return copy, size


def _walk_mapping_sized(value, depth):
    cdef Py_ssize_t size = 0
    copy = _walk_dict(value if type(value) is dict else plain_dict(value), depth, &size)
    return copy, size


def _walk_sequence_sized(value, depth):
    cdef Py_ssize_t size = 0
    copy = _walk_sequence(list(value), depth, &size)
    return copy, size


cdef dict _walk_dict(dict value, Py_ssize_t depth, Py_ssize_t *total):
    cdef Py_ssize_t size = CONTAINER_BYTES
    cdef dict copy = {}
    cdef str name
    if depth >= DEEPEST:
        check_depth(depth)
    for key, item in value.items():
        name = key if type(key) is str else key_text(key)
        if "\0" in name:
            raise Refusal(f"the key {name!r:.80} holds a NUL character")
        try:
            size += 2 + _utf8_length(name)
            copy[name] = _walk(item, depth + 1, &size)
            if size > LARGEST:
                raise too_large()
        except Refusal as refusal:
            refusal.way.append(name)
            raise
    if len(copy) != len(value):
        raise same_key_twice()
    total[0] += size
    return copy


cdef list _walk_sequence(object value, Py_ssize_t depth, Py_ssize_t *total):
    cdef Py_ssize_t size = CONTAINER_BYTES
    cdef Py_ssize_t index = 0
    cdef Py_ssize_t digits = 1
    cdef Py_ssize_t more_digits_from = 10
    cdef list copy = []
    if depth >= DEEPEST:
        check_depth(depth)
    for item in value:
        if index == more_digits_from:
            digits += 1
            more_digits_from *= 10
        try:
            copy.append(_walk(item, depth + 1, &size))
            size += 2 + digits
            if size > LARGEST:
                raise too_large()
        except Refusal as refusal:
            refusal.way.append(index)
            raise
        index += 1
    total[0] += size
    return copy


cdef Py_ssize_t _utf8_length(str text) except -1:
    if PyUnicode_IS_ASCII(text):
        return PyUnicode_GET_LENGTH(text)
    return utf8_length(text)
