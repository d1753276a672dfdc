"""Payloads to BSON and back: the specification of the compiled module.

This twin lets the driver's codec read and write the bytes. What the driver leaves open is settled
here: which values are taken, and that malformed bytes are refused strictly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timezone
from struct import Struct
from typing import Any, Final, NoReturn

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.int64 import Int64

from ..errors import CorruptDataError
from ._codec_py import normalise_document, references_to_dicts, whole_doubles_to_int

__all__ = ["decode", "encode", "reply_cursor_id", "reply_documents", "split"]

OPTIONS: Final = CodecOptions[dict[str, Any]](
    tz_aware=True,
    tzinfo=timezone.utc,
    uuid_representation=4,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
MAX_NESTING: Final = 250
"""How many documents of others may stand inside each other; the server stores no deeper ones."""

SHORTEST: Final = 5
_INT32 = Struct("<i")
_FIXED_SIZES: Final = {
    0x01: 8,
    0x06: 0,
    0x07: 12,
    0x08: 1,
    0x09: 8,
    0x0A: 0,
    0x10: 4,
    0x11: 8,
    0x12: 8,
    0x13: 16,
    0x7F: 0,
    0xFF: 0,
}


def encode(document: Mapping[str, Any], path: str = "") -> bytes:
    """Return `document` as BSON, in one pass.

    Values are taken as :func:`~fastpersist.hot.codec.normalise` takes them, and stored with the
    exact types of the layout: int as int32 or int64 by size, float as double.

    Args:
        document: A payload; with an empty `path` the whole document that holds payloads as its
            fields, which does not count as a container of them and begins with its ``_id``.
        path: What errors call the document.

    Raises:
        InvalidDocumentError: Something inside cannot be stored; it names the place below `path`.
    """
    normal = normalise_document(document, path)
    if not path:
        return bson.encode(normal, codec_options=OPTIONS)
    # The driver moves _id to the front, but only in the outermost document.
    return bson.encode({"v": normal}, codec_options=OPTIONS)[7:-1]


def decode(
    data: bytes,
    offset: int = 0,
    fields: Collection[str] | None = None,
    doubles_to_int: bool = False,
) -> dict[str, Any]:
    """Return the BSON document at `offset` as a dict.

    int32 and int64 become int, dates aware datetimes in UTC (``DatetimeMS`` outside of the years
    1 to 9999), binary values bytes or UUID or the driver's ``Binary``; the rarer types become the
    driver's own.

    Args:
        data: Bytes that hold the document, and may go on behind it.
        offset: Where it begins.
        fields: The top-level fields that are wanted; the others are skipped. None takes all.
        doubles_to_int: Whether whole doubles beyond 32 bits become int.

    Raises:
        CorruptDataError: The bytes are no well-formed document.
    """
    end = _end_of(data, offset, len(data))
    _check(data, offset, end, 0)
    try:
        document = bson.decode(data[offset:end], OPTIONS)
    except (BSONError, ValueError, TypeError, OverflowError):
        malformed("a value that the driver refuses")
    if fields is not None:
        document = {name: value for name, value in document.items() if name in fields}
    document = _plain_ints(references_to_dicts(document))
    found: dict[str, Any] = whole_doubles_to_int(document) if doubles_to_int else document
    return found


def split(data: bytes) -> list[bytes]:
    """Return the documents that stand one behind the other in `data`.

    Raises:
        CorruptDataError: A length is wrong.
    """
    documents = []
    offset = 0
    while offset < len(data):
        end = _end_of(data, offset, len(data))
        documents.append(data[offset:end])
        offset = end
    return documents


def reply_cursor_id(reply: bytes) -> int:
    """Return ``cursor.id`` of a server's reply, 0 when there is no more to get.

    Raises:
        CorruptDataError: The reply is malformed or has no such field.
    """
    end = _end_of(reply, 0, len(reply))
    start = _field(reply, 0, end, "cursor", 0x03)
    end = _end_of(reply, start, end)
    value = _field(reply, start, end, "id", 0x12)
    _check_value(reply, 0x12, value, end, 0)
    return int.from_bytes(reply[value : value + 8], "little", signed=True)


def reply_documents(reply: bytes, batch: str = "firstBatch") -> list[bytes]:
    """Return the documents in a batch of ``cursor`` of a server's reply.

    Raises:
        CorruptDataError: The reply is malformed or has no such batch.
    """
    end = _end_of(reply, 0, len(reply))
    start = _field(reply, 0, end, "cursor", 0x03)
    start = _field(reply, start, _end_of(reply, start, end), batch, 0x04)
    end = _end_of(reply, start, end)
    documents = []
    at = start + 4
    while reply[at]:
        if reply[at] != 0x03:
            malformed("a batch holds no documents")
        value = _key_end(reply, at + 1, end) + 1
        at = _end_of(reply, value, end - 1)
        documents.append(reply[value:at])
    return documents


def _field(data: bytes, start: int, end: int, wanted: str, kind: int) -> int:
    at = start + 4
    while at < end - 1:
        key_end = _key_end(data, at + 1, end)
        value = key_end + 1
        if data[at] == kind and data[at + 1 : key_end] == wanted.encode():
            return value
        if data[at] in (0x03, 0x04):
            # Documents are checked when they are read, if they are.
            at = _end_of(data, value, end - 1)
        else:
            at = _check_value(data, data[at], value, end, 0)
    return malformed(f"a reply without {wanted}")


def _plain_ints(value: Any) -> Any:
    if type(value) is Int64:
        return int(value)
    if type(value) is dict:
        for key, item in value.items():
            if type(item) in (Int64, dict, list):
                value[key] = _plain_ints(item)
    elif type(value) is list:
        for index, item in enumerate(value):
            if type(item) in (Int64, dict, list):
                value[index] = _plain_ints(item)
    return value


def malformed(what: str) -> NoReturn:
    """Refuse bytes that are no well-formed BSON."""
    raise CorruptDataError("BSON", f"malformed document: {what}")


def _end_of(data: bytes, start: int, end: int) -> int:
    if start < 0 or start + SHORTEST > end:
        malformed("it ends too early")
    (size,) = _INT32.unpack_from(data, start)
    if size < SHORTEST or start + size > end:
        malformed("a length is wrong")
    if data[start + size - 1]:
        malformed("a terminator is missing")
    return int(start + size)


def _key_end(data: bytes, start: int, end: int) -> int:
    # The terminator of the document cannot end a key.
    found = data.find(b"\0", start, end - 1)
    if found < 0:
        malformed("a key has no end")
    return found


def _check(data: bytes, start: int, end: int, depth: int) -> None:
    if depth > MAX_NESTING:
        malformed("too many documents inside each other")
    at = start + 4
    while at < end - 1:
        key_end = _key_end(data, at + 1, end)
        _check_text(data, at + 1, key_end)
        at = _check_value(data, data[at], key_end + 1, end, depth)
    if at != end - 1:
        malformed("a value leaves its document")


def _check_value(data: bytes, kind: int, at: int, end: int, depth: int) -> int:
    """Return the end of a value."""
    size = _FIXED_SIZES.get(kind)
    if size is not None:
        if kind == 0x08 and at < end and data[at] > 1:
            malformed("a bool is neither 0 nor 1")
        return _within(at + size, end)
    if kind in (0x03, 0x04):
        last = _end_of(data, at, end - 1)
        _check(data, at, last, depth + 1)
        return last
    if kind == 0x0B:
        for _ in range(2):
            text_end = _key_end(data, at, end)
            _check_text(data, at, text_end)
            at = text_end + 1
        return at
    length = _length(data, at, end)
    if kind in (0x02, 0x0D, 0x0E, 0x0C):
        last = _within(at + 4 + length, end)
        if length < 1 or data[last - 1]:
            malformed("a text has no end")
        _check_text(data, at + 4, last - 1)
        return _within(last + 12, end) if kind == 0x0C else last
    if kind == 0x05:
        last = _within(at + 5 + length, end)
        if data[at + 4] == 2 and (length < 4 or _length(data, at + 5, end) != length - 4):
            malformed("a length is wrong")
        if data[at + 4] in (3, 4) and length != 16:
            malformed("a UUID has no 16 bytes")
        return last
    if kind == 0x0F:
        last = _within(at + length, end)
        if length < 4 + 5 + SHORTEST:
            malformed("a length is wrong")
        scope = _check_value(data, 0x02, at + 4, last, depth)
        if _end_of(data, scope, last) != last:
            malformed("a length is wrong")
        _check(data, scope, last, depth + 1)
        return last
    return malformed(f"unknown type {kind:#04x}")


def _length(data: bytes, at: int, end: int) -> int:
    _within(at + 4, end)
    (length,) = _INT32.unpack_from(data, at)
    if length < 0:
        malformed("a length is wrong")
    return int(length)


def _within(at: int, end: int) -> int:
    if at > end - 1:
        malformed("a value leaves its document")
    return at


def _check_text(data: bytes, start: int, end: int) -> None:
    try:
        data[start:end].decode()
    except UnicodeDecodeError:
        malformed("a text is no UTF-8")
