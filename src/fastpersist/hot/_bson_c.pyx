"""Payloads to BSON and back, compiled; the twin ``_bson_py`` says what it has to do.

Plain values are written and read here. Rarer ones go to the functions of the codec that both share
and, one element at a time, to the driver, so that they cannot differ.
"""

import sys
from datetime import datetime, timezone
from uuid import UUID

import bson as driver
from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId

from ._bson_py import MAX_NESTING, OPTIONS, SHORTEST, malformed
from ._codec_py import (
    MAX_DEPTH,
    MAX_SIZE,
    Refusal,
    check_depth,
    int_size,
    key_text,
    plain_dict,
    references_to_dicts,
    same_key_twice,
    too_large,
    utc_milliseconds,
    utf8_length,
    walk_other,
    whole_doubles_to_int,
)

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.datetime cimport (
    PyDateTime_DATE_GET_HOUR,
    PyDateTime_DATE_GET_MICROSECOND,
    PyDateTime_DATE_GET_MINUTE,
    PyDateTime_DATE_GET_SECOND,
    PyDateTime_GET_DAY,
    PyDateTime_GET_MONTH,
    PyDateTime_GET_YEAR,
    datetime_new,
    import_datetime,
)
from cpython.dict cimport PyDict_SetItem
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    object PyUnicode_DecodeUTF8(const char *data, Py_ssize_t size, const char *errors)
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    object PyFloat_FromDouble(double number)
    object PyLong_FromLongLong(long long number)
    int Py_EnterRecursiveCall(const char *where) except *
    void Py_LeaveRecursiveCall()

__all__ = ["decode", "encode", "reply_documents", "split"]

if sys.byteorder != "little":
    raise ImportError("compiled for little-endian machines; the twin serves the others")

import_datetime()

cdef enum:
    FIRST_CAPACITY = 1024
    INTERNED = 512
    LONGEST_INTERNED = 32

cdef Py_ssize_t DEEPEST = MAX_DEPTH
cdef Py_ssize_t LARGEST = MAX_SIZE
cdef int DEEPEST_READ = MAX_NESTING
cdef Py_ssize_t LEAST = SHORTEST
cdef object UTC = timezone.utc
cdef int64_t DAY_MS = 86_400_000
cdef int64_t FIRST_MS = -62_135_596_800_000
cdef int64_t LAST_MS = 253_402_300_799_999
cdef double INT32_LEAST = -2147483648.0
cdef double INT32_MOST = 2147483647.0
cdef double INT64_BOUND = 9223372036854775808.0

# Keys repeat from document to document; a str that is kept also keeps its hash.
cdef list _interned = [None] * INTERNED

cdef struct Buffer:
    char *data
    Py_ssize_t size
    Py_ssize_t capacity


def encode(document, str path not None=""):
    cdef Buffer buffer
    try:
        fields = document if type(document) is dict else plain_dict(document)
    except Refusal as refusal:
        raise refusal.as_error(path) from None
    if not path and "_id" in fields:
        fields = {"_id": fields["_id"], **fields}
    buffer.size, buffer.capacity = 0, FIRST_CAPACITY
    buffer.data = <char *>PyMem_Malloc(FIRST_CAPACITY)
    if buffer.data == NULL:
        raise MemoryError()
    try:
        _write_dict(&buffer, <dict>fields, 0 if path else -1)
        return PyBytes_FromStringAndSize(buffer.data, buffer.size)
    except Refusal as refusal:
        raise refusal.as_error(path) from None
    finally:
        PyMem_Free(buffer.data)


cdef int _reserve(Buffer *buffer, Py_ssize_t more) except -1:
    cdef Py_ssize_t capacity
    cdef void *grown
    if buffer.size + more > buffer.capacity:
        capacity = max(buffer.capacity * 2, buffer.size + more)
        grown = PyMem_Realloc(buffer.data, capacity)
        if grown == NULL:
            raise MemoryError()
        buffer.data = <char *>grown
        buffer.capacity = capacity
    return 0


cdef inline int _header(
    Buffer *buffer, char kind, const char *key, Py_ssize_t length, Py_ssize_t more
) except -1:
    """Write type and key, and make room for `more` bytes."""
    _reserve(buffer, length + 2 + more)
    buffer.data[buffer.size] = kind
    memcpy(buffer.data + buffer.size + 1, key, length)
    buffer.data[buffer.size + 1 + length] = 0
    buffer.size += length + 2
    return 0


cdef inline void _put(Buffer *buffer, const void *value, Py_ssize_t size) noexcept:
    memcpy(buffer.data + buffer.size, value, size)
    buffer.size += size


cdef int _write_dict(Buffer *buffer, dict value, Py_ssize_t depth) except -1:
    cdef Py_ssize_t start = buffer.size
    cdef Py_ssize_t length = 0
    cdef Py_ssize_t count = 0
    cdef const char *text = NULL
    cdef str name = None
    cdef bint has_other_keys = False
    cdef bint holds_nul = False
    if depth >= DEEPEST:
        check_depth(depth)
    _reserve(buffer, 4)
    buffer.size += 4
    try:
        for key, item in value.items():
            name = None
            if type(key) is str:
                name = <str>key
            else:
                name = key_text(key)
                has_other_keys = True
            try:
                text = PyUnicode_AsUTF8AndSize(name, &length)
                holds_nul = memchr(text, 0, length) != NULL
            except UnicodeEncodeError:
                holds_nul = "\0" in name
                if not holds_nul:
                    utf8_length(name)
            if holds_nul:
                word, name = name, None
                raise Refusal(f"the key {word!r:.80} holds a NUL character")
            _write(buffer, text, length, item, depth + 1)
            if buffer.size - start >= LARGEST:  # the terminator is to come
                raise too_large()
    except Refusal as refusal:
        if name is not None:
            refusal.way.append(name)
        raise
    if has_other_keys and len({key_text(key) for key in value}) != len(value):
        raise same_key_twice()
    return _end_container(buffer, start)


cdef int _write_sequence(Buffer *buffer, object value, Py_ssize_t depth) except -1:
    cdef Py_ssize_t start = buffer.size
    cdef Py_ssize_t index = 0
    cdef char digits[24]
    cdef char *key
    cdef Py_ssize_t rest
    if depth >= DEEPEST:
        check_depth(depth)
    _reserve(buffer, 4)
    buffer.size += 4
    try:
        for item in value:
            key = digits + 24
            rest = index
            while True:
                key -= 1
                key[0] = <char>(48 + rest % 10)
                rest //= 10
                if rest == 0:
                    break
            _write(buffer, key, digits + 24 - key, item, depth + 1)
            if buffer.size - start >= LARGEST:  # the terminator is to come
                raise too_large()
            index += 1
    except Refusal as refusal:
        refusal.way.append(index)
        raise
    return _end_container(buffer, start)


cdef int _end_container(Buffer *buffer, Py_ssize_t start) except -1:
    cdef int32_t size
    _reserve(buffer, 1)
    buffer.data[buffer.size] = 0
    buffer.size += 1
    size = <int32_t>(buffer.size - start)
    memcpy(buffer.data + start, &size, 4)
    return 0


cdef int _write(
    Buffer *buffer, const char *key, Py_ssize_t length, object value, Py_ssize_t depth
) except -1:
    cdef const char *text
    cdef Py_ssize_t size = 0
    cdef int32_t small
    cdef int64_t large
    cdef double real
    cdef int overflow = 0
    kind = type(value)
    if kind is str:
        text = _utf8(value, &size)
        if size > LARGEST:
            raise too_large()
        _header(buffer, 0x02, key, length, size + 5)
        small = <int32_t>(size + 1)
        _put(buffer, &small, 4)
        _put(buffer, text, size)
        buffer.data[buffer.size] = 0
        buffer.size += 1
    elif kind is float:
        real = value
        _header(buffer, 0x01, key, length, 8)
        _put(buffer, &real, 8)
    elif kind is bool:
        _header(buffer, 0x08, key, length, 1)
        buffer.data[buffer.size] = value is True
        buffer.size += 1
    elif value is None:
        _header(buffer, 0x0A, key, length, 0)
    elif kind is int:
        large = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow:
            int_size(value)
        if -2147483648 <= large <= 2147483647:
            small = <int32_t>large
            _header(buffer, 0x10, key, length, 4)
            _put(buffer, &small, 4)
        else:
            _header(buffer, 0x12, key, length, 8)
            _put(buffer, &large, 8)
    elif kind is dict:
        _header(buffer, 0x03, key, length, 0)
        _write_dict(buffer, <dict>value, depth)
    elif kind is list or kind is tuple:
        _header(buffer, 0x04, key, length, 0)
        _write_sequence(buffer, value, depth)
    elif kind is datetime:
        large = _milliseconds(value)
        _header(buffer, 0x09, key, length, 8)
        _put(buffer, &large, 8)
    elif kind is ObjectId:
        _write_bytes(buffer, 0x07, key, length, value.binary)
    elif kind is bytes:
        if PyBytes_GET_SIZE(value) > LARGEST:
            raise too_large()
        _header(buffer, 0x05, key, length, 5)
        small = <int32_t>PyBytes_GET_SIZE(value)
        _put(buffer, &small, 4)
        buffer.data[buffer.size] = 0
        buffer.size += 1
        _append(buffer, value)
    else:
        _write_other(buffer, key, length, value, depth)
    return 0


cdef int _write_other(
    Buffer *buffer, const char *key, Py_ssize_t length, object value, Py_ssize_t depth
) except -1:
    # The key may belong to a text that user code below gives up.
    cdef bytes name = PyBytes_FromStringAndSize(key, length)
    plain, _ = walk_other(value, depth, _unchanged, _unchanged_mapping, _unchanged)
    kind = type(plain)
    if kind is not type(value) and kind in PLAIN:
        return _write(buffer, PyBytes_AS_STRING(name), length, plain, depth)
    if kind is _Pairs:
        _header(buffer, 0x03, PyBytes_AS_STRING(name), length, 0)
        return _write_dict(buffer, (<_Pairs>plain).content, depth)
    if isinstance(plain, (list, tuple)):
        _header(buffer, 0x04, PyBytes_AS_STRING(name), length, 0)
        return _write_sequence(buffer, list(plain), depth)
    if kind is not type(value) and not isinstance(plain, DRIVER_TYPES):
        Py_EnterRecursiveCall(b" while converting a value")
        try:
            return _write_other(buffer, PyBytes_AS_STRING(name), length, plain, depth)
        finally:
            Py_LeaveRecursiveCall()
    # One element of a document of the driver's: 4 bytes of size, the type, "v", NUL, the value.
    encoded = driver.encode({"v": plain}, codec_options=OPTIONS)
    return _write_bytes(
        buffer, <char>(<bytes>encoded)[4], PyBytes_AS_STRING(name), length, encoded[7:-1]
    )


cdef int _write_bytes(
    Buffer *buffer, char kind, const char *key, Py_ssize_t length, bytes value
) except -1:
    _header(buffer, kind, key, length, 0)
    return _append(buffer, value)


cdef int _append(Buffer *buffer, bytes value) except -1:
    _reserve(buffer, PyBytes_GET_SIZE(value))
    _put(buffer, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return 0


cdef class _Pairs:
    """A mapping of another type as a dict, told from a value that was one."""

    cdef dict content


def _unchanged(value, depth):
    return value, 0


def _unchanged_mapping(value, depth):
    cdef _Pairs pairs = _Pairs()
    pairs.content = value if type(value) is dict else plain_dict(value)
    return pairs, 0


cdef frozenset PLAIN = frozenset(
    (str, float, bool, type(None), int, dict, list, tuple, datetime, ObjectId, bytes)
)
cdef tuple DRIVER_TYPES = (
    UUID, DatetimeMS, driver.Decimal128, driver.Binary, driver.Regex, driver.Int64
)


cdef const char *_utf8(str text, Py_ssize_t *length) except NULL:
    try:
        return PyUnicode_AsUTF8AndSize(text, length)
    except UnicodeEncodeError:
        utf8_length(text)
        raise


cdef int64_t _milliseconds(object moment) except? -1:
    if moment.tzinfo is not None and moment.tzinfo is not UTC:
        moment = utc_milliseconds(moment)
    cdef int64_t year = PyDateTime_GET_YEAR(moment)
    cdef int64_t month = PyDateTime_GET_MONTH(moment)
    # Days from the civil calendar, with March as the first month.
    if month <= 2:
        year -= 1
        month += 12
    cdef int64_t days = (
        365 * year
        + year // 4
        - year // 100
        + year // 400
        + (153 * (month - 3) + 2) // 5
        + PyDateTime_GET_DAY(moment)
        - 719_469
    )
    return (
        (days * 24 + PyDateTime_DATE_GET_HOUR(moment)) * 60 + PyDateTime_DATE_GET_MINUTE(moment)
    ) * 60_000 + (
        PyDateTime_DATE_GET_SECOND(moment) * 1000 + PyDateTime_DATE_GET_MICROSECOND(moment) // 1000
    )


cdef struct Reader:
    const char *data
    bint converts


def decode(bytes data not None, Py_ssize_t offset=0, fields=None, bint doubles_to_int=False):
    cdef Reader reader
    cdef Py_ssize_t end
    reader.data = PyBytes_AS_STRING(data)
    reader.converts = doubles_to_int
    end = _end_of(&reader, offset, PyBytes_GET_SIZE(data))
    return _read_dict(&reader, offset, end, 0, fields)


def split(bytes data not None):
    cdef Reader reader
    cdef Py_ssize_t offset = 0
    cdef Py_ssize_t end
    reader.data = PyBytes_AS_STRING(data)
    reader.converts = False
    documents = []
    while offset < PyBytes_GET_SIZE(data):
        end = _end_of(&reader, offset, PyBytes_GET_SIZE(data))
        documents.append(data[offset:end])
        offset = end
    return documents


def reply_cursor_id(bytes reply not None):
    cdef Reader reader
    cdef Py_ssize_t start, end, value
    cdef int64_t number
    reader.data = PyBytes_AS_STRING(reply)
    reader.converts = False
    end = _end_of(&reader, 0, PyBytes_GET_SIZE(reply))
    start = _field(&reader, 0, end, b"cursor", 0x03)
    end = _end_of(&reader, start, end)
    value = _field(&reader, start, end, b"id", 0x12)
    _skip(&reader, 0x12, value, end, 0)
    memcpy(&number, reader.data + value, 8)
    return number


def reply_documents(bytes reply not None, str batch not None="firstBatch"):
    cdef Reader reader
    cdef Py_ssize_t start, end, at, value
    reader.data = PyBytes_AS_STRING(reply)
    reader.converts = False
    end = _end_of(&reader, 0, PyBytes_GET_SIZE(reply))
    start = _field(&reader, 0, end, b"cursor", 0x03)
    start = _field(&reader, start, _end_of(&reader, start, end), batch.encode(), 0x04)
    end = _end_of(&reader, start, end)
    documents = []
    at = start + 4
    while reader.data[at]:
        if reader.data[at] != 0x03:
            malformed("a batch holds no documents")
        value = _key_end(&reader, at + 1, end) + 1
        at = _end_of(&reader, value, end - 1)
        documents.append(reply[value:at])
    return documents


cdef Py_ssize_t _field(
    Reader *reader, Py_ssize_t start, Py_ssize_t end, bytes wanted, int kind
) except -1:
    cdef Py_ssize_t at = start + 4
    cdef Py_ssize_t key_end, value, size = PyBytes_GET_SIZE(wanted)
    while at < end - 1:
        key_end = _key_end(reader, at + 1, end)
        value = key_end + 1
        if (
            <unsigned char>reader.data[at] == kind
            and key_end - at - 1 == size
            and memcmp(reader.data + at + 1, PyBytes_AS_STRING(wanted), size) == 0
        ):
            return value
        if <unsigned char>reader.data[at] in (0x03, 0x04):
            # Documents are checked when they are read, if they are.
            at = _end_of(reader, value, end - 1)
        else:
            at = _skip(reader, <unsigned char>reader.data[at], value, end, 0)
    malformed(f"a reply without {wanted.decode()}")


cdef int32_t _int32(Reader *reader, Py_ssize_t at) noexcept:
    cdef int32_t number
    memcpy(&number, reader.data + at, 4)
    return number


cdef Py_ssize_t _end_of(Reader *reader, Py_ssize_t start, Py_ssize_t end) except -1:
    cdef Py_ssize_t size
    if start < 0 or start > end - LEAST:
        malformed("it ends too early")
    size = _int32(reader, start)
    if size < LEAST or size > end - start:
        malformed("a length is wrong")
    if reader.data[start + size - 1]:
        malformed("a terminator is missing")
    return start + size


cdef Py_ssize_t _key_end(Reader *reader, Py_ssize_t start, Py_ssize_t end) except -1:
    cdef const void *found = NULL
    # The terminator of the document cannot end a key.
    if start < end - 1:
        found = memchr(reader.data + start, 0, end - 1 - start)
    if found == NULL:
        malformed("a key has no end")
    return <const char *>found - reader.data


cdef Py_ssize_t _within(Py_ssize_t at, Py_ssize_t end) except -1:
    if at > end - 1:
        malformed("a value leaves its document")
    return at


cdef Py_ssize_t _length(Reader *reader, Py_ssize_t at, Py_ssize_t end) except -1:
    cdef Py_ssize_t length
    _within(at + 4, end)
    length = _int32(reader, at)
    if length < 0:
        malformed("a length is wrong")
    return length


cdef object _text(Reader *reader, Py_ssize_t start, Py_ssize_t end):
    try:
        return PyUnicode_DecodeUTF8(reader.data + start, end - start, NULL)
    except UnicodeDecodeError:
        malformed("a text is no UTF-8")


cdef object _key(Reader *reader, Py_ssize_t start, Py_ssize_t end):
    cdef Py_ssize_t size = end - start
    cdef Py_ssize_t known = 0
    cdef uint32_t place = 2166136261
    cdef Py_ssize_t index
    cdef const char *text
    if size > LONGEST_INTERNED:
        return _text(reader, start, end)
    for index in range(start, end):
        place = (place ^ <unsigned char>reader.data[index]) * 16777619
    place = (place ^ (place >> 15)) % INTERNED
    kept = _interned[place]
    if kept is not None:
        text = PyUnicode_AsUTF8AndSize(kept, &known)
        if known == size and memcmp(text, reader.data + start, size) == 0:
            return kept
    key = _text(reader, start, end)
    _interned[place] = key
    return key


cdef dict _read_dict(
    Reader *reader, Py_ssize_t start, Py_ssize_t end, int depth, object fields
):
    cdef Py_ssize_t at = start + 4
    cdef Py_ssize_t key_end
    cdef int kind
    cdef dict document = {}
    if depth > DEEPEST_READ:
        malformed("too many documents inside each other")
    while at < end - 1:
        kind = <unsigned char>reader.data[at]
        key_end = _key_end(reader, at + 1, end)
        key = _key(reader, at + 1, key_end)
        at = key_end + 1
        if fields is None or key in fields:
            PyDict_SetItem(document, key, _read(reader, kind, &at, end, depth))
        else:
            at = _skip(reader, kind, at, end, depth)
    if at != end - 1:
        malformed("a value leaves its document")
    return document


cdef list _read_list(Reader *reader, Py_ssize_t start, Py_ssize_t end, int depth):
    cdef Py_ssize_t at = start + 4
    cdef Py_ssize_t key_end
    cdef int kind
    cdef list items = []
    if depth > DEEPEST_READ:
        malformed("too many documents inside each other")
    while at < end - 1:
        kind = <unsigned char>reader.data[at]
        key_end = _key_end(reader, at + 1, end)
        _key(reader, at + 1, key_end)
        at = key_end + 1
        items.append(_read(reader, kind, &at, end, depth))
    if at != end - 1:
        malformed("a value leaves its document")
    return items


cdef object _read(Reader *reader, int kind, Py_ssize_t *at, Py_ssize_t end, int depth):
    """Return the value at `at` and move `at` behind it."""
    cdef Py_ssize_t start = at[0]
    cdef Py_ssize_t last, length
    cdef int64_t large
    cdef double real
    if kind == 0x02:
        length = _length(reader, start, end)
        last = _within(start + 4 + length, end)
        if length < 1 or reader.data[last - 1]:
            malformed("a text has no end")
        at[0] = last
        return _text(reader, start + 4, last - 1)
    if kind == 0x01:
        at[0] = _within(start + 8, end)
        memcpy(&real, reader.data + start, 8)
        if reader.converts and (real < INT32_LEAST or real > INT32_MOST):
            return whole_doubles_to_int(real)
        return PyFloat_FromDouble(real)
    if kind == 0x10:
        at[0] = _within(start + 4, end)
        return PyLong_FromLongLong(_int32(reader, start))
    if kind == 0x12:
        at[0] = _within(start + 8, end)
        memcpy(&large, reader.data + start, 8)
        return PyLong_FromLongLong(large)
    if kind == 0x08:
        if start < end and <unsigned char>reader.data[start] > 1:
            malformed("a bool is neither 0 nor 1")
        at[0] = _within(start + 1, end)
        return reader.data[start] == 1
    if kind == 0x0A or kind == 0x06:
        _within(start, end)
        return None
    if kind == 0x03:
        at[0] = last = _end_of(reader, start, end - 1)
        return _read_dict(reader, start, last, depth + 1, None)
    if kind == 0x04:
        at[0] = last = _end_of(reader, start, end - 1)
        return _read_list(reader, start, last, depth + 1)
    if kind == 0x09:
        at[0] = _within(start + 8, end)
        memcpy(&large, reader.data + start, 8)
        return _moment(large)
    if kind == 0x07:
        at[0] = _within(start + 12, end)
        return ObjectId(PyBytes_FromStringAndSize(reader.data + start, 12))
    at[0] = last = _skip(reader, kind, start, end, depth)
    if kind == 0x05 and reader.data[start + 4] == 0:
        return PyBytes_FromStringAndSize(reader.data + start + 5, last - start - 5)
    return _read_by_driver(reader, kind, start, last)


cdef object _read_by_driver(Reader *reader, int kind, Py_ssize_t start, Py_ssize_t last):
    cdef bytes value = PyBytes_FromStringAndSize(reader.data + start, last - start)
    size = (len(value) + 8).to_bytes(4, "little")
    try:
        read = driver.decode(size + bytes((kind,)) + b"v\0" + value + b"\0", OPTIONS)["v"]
    except (driver.errors.BSONError, ValueError, TypeError, OverflowError):
        malformed("a value that the driver refuses")
    return references_to_dicts(read)


cdef object _moment(int64_t ms):
    if ms < FIRST_MS or ms > LAST_MS:
        return DatetimeMS(ms)
    # Counted from the year 1, so that no number is negative.
    cdef int64_t since = ms - FIRST_MS
    cdef int64_t days = since // DAY_MS + 306
    cdef int64_t rest = since % DAY_MS
    cdef int64_t era = days // 146_097
    cdef int64_t day = days % 146_097
    cdef int64_t year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    cdef int64_t of_year = day - (365 * year + year // 4 - year // 100)
    cdef int64_t month = (5 * of_year + 2) // 153
    cdef int64_t of_month = of_year - (153 * month + 2) // 5 + 1
    year += era * 400
    month += 3
    if month > 12:
        month -= 12
        year += 1
    return datetime_new(
        <int>year,
        <int>month,
        <int>of_month,
        <int>(rest // 3_600_000),
        <int>(rest // 60_000 % 60),
        <int>(rest // 1000 % 60),
        <int>(rest % 1000 * 1000),
        UTC,
    )


cdef Py_ssize_t _skip(
    Reader *reader, int kind, Py_ssize_t at, Py_ssize_t end, int depth
) except -1:
    """Return the end of a value, checked as strictly as if it were read."""
    cdef Py_ssize_t last, length, scope, text_end
    cdef int turn
    if kind == 0x01 or kind == 0x09 or kind == 0x11 or kind == 0x12:
        return _within(at + 8, end)
    if kind == 0x10:
        return _within(at + 4, end)
    if kind == 0x07:
        return _within(at + 12, end)
    if kind == 0x13:
        return _within(at + 16, end)
    if kind == 0x08:
        if at < end and <unsigned char>reader.data[at] > 1:
            malformed("a bool is neither 0 nor 1")
        return _within(at + 1, end)
    if kind == 0x06 or kind == 0x0A or kind == 0x7F or kind == 0xFF:
        return _within(at, end)
    if kind == 0x03 or kind == 0x04:
        last = _end_of(reader, at, end - 1)
        _check(reader, at, last, depth + 1)
        return last
    if kind == 0x0B:
        for turn in range(2):
            text_end = _key_end(reader, at, end)
            _text(reader, at, text_end)
            at = text_end + 1
        return at
    if kind not in (0x02, 0x05, 0x0C, 0x0D, 0x0E, 0x0F):
        _length(reader, at, end)
        malformed(f"unknown type {kind:#04x}")
    length = _length(reader, at, end)
    if kind == 0x05:
        last = _within(at + 5 + length, end)
        if reader.data[at + 4] == 2 and (
            length < 4 or _length(reader, at + 5, end) != length - 4
        ):
            malformed("a length is wrong")
        if (reader.data[at + 4] == 3 or reader.data[at + 4] == 4) and length != 16:
            malformed("a UUID has no 16 bytes")
        return last
    if kind == 0x0F:
        last = _within(at + length, end)
        if length < 4 + 5 + LEAST:
            malformed("a length is wrong")
        scope = _skip(reader, 0x02, at + 4, last, depth)
        if _end_of(reader, scope, last) != last:
            malformed("a length is wrong")
        _check(reader, scope, last, depth + 1)
        return last
    last = _within(at + 4 + length, end)
    if length < 1 or reader.data[last - 1]:
        malformed("a text has no end")
    _text(reader, at + 4, last - 1)
    return _within(last + 12, end) if kind == 0x0C else last


cdef int _check(Reader *reader, Py_ssize_t start, Py_ssize_t end, int depth) except -1:
    cdef Py_ssize_t at = start + 4
    cdef Py_ssize_t key_end
    cdef int kind
    if depth > DEEPEST_READ:
        malformed("too many documents inside each other")
    while at < end - 1:
        kind = <unsigned char>reader.data[at]
        key_end = _key_end(reader, at + 1, end)
        _key(reader, at + 1, key_end)
        at = _skip(reader, kind, key_end + 1, end, depth)
    if at != end - 1:
        malformed("a value leaves its document")
    return 0
