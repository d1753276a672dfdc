"""Payloads to values that BSON can hold: the specification of the compiled module."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from decimal import Decimal, DecimalException
from enum import Enum
from typing import Any, Final, TypeVar
from uuid import UUID

from bson.binary import OLD_UUID_SUBTYPE, UUID_SUBTYPE, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex

from ..errors import InvalidArgumentError, InvalidDocumentError

__all__ = [
    "MAX_DEPTH",
    "MAX_SIZE",
    "normalise",
    "register_type",
]

T = TypeVar("T")

MAX_DEPTH: Final = 100
"""How many containers may stand inside each other; MongoDB's own limit is 100 too."""

MAX_SIZE: Final = 16 * 1024 * 1024 - 16 * 1024
"""Bytes of a payload: MongoDB's 16 MiB less room for the context fields beside it."""

_INT32_LEAST, _INT32_MOST = -(2**31), 2**31 - 1
_INT64_LEAST, _INT64_MOST = -(2**63), 2**63 - 1
_CONTAINER_BYTES = 5
_MAY_HOLD_REFERENCES = (dict, list, DBRef)
_UUID_SUBTYPES = (OLD_UUID_SUBTYPE, UUID_SUBTYPE)
_PLAIN: Final = frozenset(
    (str, float, bool, type(None), int, dict, list, tuple, bytes, datetime, ObjectId, object)
)
_conversions: dict[type, Callable[[Any], object]] = {}
_LONGEST_STEP = 80
_PLAIN_KEY = re.compile(r"[^\W\d]\w*\Z")


class Refusal(Exception):  # noqa: N818  # never leaves the codec
    """A value that cannot be stored; the way to it is collected while the walk unwinds."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.way: list[str | int] = []

    def as_error(self, path: str) -> InvalidDocumentError:
        """Return the error that names the place below `path`."""
        for step in reversed(self.way):
            if isinstance(step, int):
                path += f"[{step}]"
            elif len(step) <= _LONGEST_STEP and _PLAIN_KEY.match(step):
                path += f".{step}" if path else step
            else:
                path += f"[{step!r:.{_LONGEST_STEP}}]"
        return InvalidDocumentError(path or "document", str(self))


def normalise(value: object, path: str = "payload") -> tuple[Any, int]:
    """Return a copy of `value` that BSON can hold, and its size as a BSON value in bytes.

    dict and other mappings keep their order; tuples become lists; aware datetimes become UTC, naive
    ones count as UTC, both cut to ms; Decimal becomes Decimal128; Enum members, dataclasses,
    Structs and numpy scalars become what they hold. `value` is not changed.

    Raises:
        InvalidDocumentError: Something inside cannot be stored: an unknown type, an int beyond 64
            bits, a key that is no text or holds NUL, a lone surrogate, more than ``MAX_DEPTH``
            containers inside each other, or more than ``MAX_SIZE`` bytes. It names the place, as
            in ``payload.legs[3].price``.
    """
    try:
        normal, size = _walk(value, 0)
        if size > MAX_SIZE:
            raise too_large()
        return normal, size
    except Refusal as refusal:
        raise refusal.as_error(path) from None


def normalise_document(document: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a copy of a document that BSON can hold; :func:`~fastpersist.hot.bson.encode` says
    what `path` means.
    """
    try:
        return _walk_mapping(document, 0 if path else -1)[0]
    except Refusal as refusal:
        raise refusal.as_error(path) from None


def _walk(value: Any, depth: int) -> tuple[Any, int]:
    kind = type(value)
    if kind is str:
        return value, 5 + utf8_length(value)
    if kind is float:
        return value, 8
    if kind is bool:
        return value, 1
    if value is None:
        return None, 0
    if kind is int:
        return value, int_size(value)
    if kind is dict:
        return _walk_mapping(value, depth)
    if kind is list or kind is tuple:
        return _walk_sequence(value, depth)
    return walk_other(value, depth, _walk, _walk_mapping, _walk_sequence)


def _walk_mapping(value: Mapping[Any, Any], depth: int) -> tuple[dict[str, Any], int]:
    plain = value if type(value) is dict else plain_dict(value)
    check_depth(depth)
    copy: dict[str, Any] = {}
    size = _CONTAINER_BYTES
    for key, item in plain.items():
        name = key if type(key) is str else key_text(key)
        if "\0" in name:
            raise Refusal(f"the key {name!r:.80} holds a NUL character")
        try:
            size += 2 + utf8_length(name)
            copy[name], item_size = _walk(item, depth + 1)
            size += item_size
            if size > MAX_SIZE:
                raise too_large()
        except Refusal as refusal:
            refusal.way.append(name)
            raise
    if len(copy) != len(plain):
        raise same_key_twice()
    return copy, size


def _walk_sequence(value: Any, depth: int) -> tuple[list[Any], int]:
    check_depth(depth)
    copy: list[Any] = []
    size = _CONTAINER_BYTES
    for index, item in enumerate(value):
        try:
            normal, item_size = _walk(item, depth + 1)
            copy.append(normal)
            size += 2 + len(str(index)) + item_size
            if size > MAX_SIZE:
                raise too_large()
        except Refusal as refusal:
            refusal.way.append(index)
            raise
    return copy, size


def register_type(kind: type[T], convert: Callable[[T], object]) -> None:
    """Let payloads hold values of an own type: they are stored as what `convert` makes of them.

    It counts for subclasses too and for all families; reads give back what was stored. What
    `convert` returns may again hold anything that can be stored.

    Raises:
        InvalidArgumentError: `kind` is no class, or one that is stored as it is.
    """
    if not isinstance(kind, type) or kind in _PLAIN:
        raise InvalidArgumentError("kind", f"not a type of your own: {kind!r:.80}")
    _conversions[kind] = convert


def conversion_of(kind: type) -> Callable[[Any], object] | None:
    """Return what turns values of a registered type, or of a subclass, into storable ones."""
    if _conversions:
        for base in kind.__mro__:
            if base in _conversions:
                return _conversions[base]
    return None


def converted(value: Any, convert: Callable[[Any], object]) -> object:
    """Return a value of a registered type as what it is stored as."""
    plain = convert(value)
    if conversion_of(type(plain)) is convert:
        raise Refusal(f"the conversion of {type(value).__qualname__} gives that type again")
    return plain


def walk_other(
    value: Any,
    depth: int,
    walk: Callable[[Any, int], tuple[Any, int]],
    walk_mapping: Callable[[Any, int], tuple[Any, int]],
    walk_sequence: Callable[[Any, int], tuple[Any, int]],
) -> tuple[Any, int]:
    """Normalise what is none of the plain types; both implementations share it."""
    convert = conversion_of(type(value))
    if convert is not None:
        return walk(converted(value, convert), depth)
    if isinstance(value, Enum):
        return walk(value.value, depth)
    if isinstance(value, datetime):
        return utc_milliseconds(value), 8
    if isinstance(value, ObjectId):
        return value, 12
    if isinstance(value, DatetimeMS):
        return value, 8
    if isinstance(value, Decimal):
        try:
            return Decimal128(value), 16
        except DecimalException:
            raise Refusal("this Decimal does not fit in the 34 digits of Decimal128") from None
    if isinstance(value, Decimal128):
        return value, 16
    if isinstance(value, UUID):
        return value, 5 + 16
    if isinstance(value, Binary):
        if value.subtype in _UUID_SUBTYPES and len(value) != 16:
            raise Refusal("a binary value of a UUID subtype has to be 16 bytes long")
        return value, 5 + len(value) + (4 if value.subtype == 2 else 0)
    if isinstance(value, (bytes, bytearray, memoryview)):
        content = bytes(value)
        return content, 5 + len(content)
    if isinstance(value, Regex):
        return value, regex_size(value)
    if isinstance(value, Int64):
        int_size(int(value))
        return value, 8
    if is_numpy_scalar(type(value)):
        # The item of a datetime64 or timedelta64 in ns would be a bare count; that of a longdouble
        # is itself.
        kind = value.dtype.kind
        plain = value.astype("datetime64[ms]").item() if kind == "M" else value.item()
        if kind != "m" and isinstance(
            plain, (bool, int, float, str, bytes) if kind != "M" else datetime
        ):
            return walk(plain, depth)
    if isinstance(value, str) and not isinstance(value, Code):
        text = str.__str__(value)
        return text, 5 + utf8_length(text)
    if isinstance(value, int):
        number = int(value)
        return number, int_size(number)
    if isinstance(value, float):
        return float(value), 8
    if isinstance(value, Mapping):
        return walk_mapping(value, depth)
    if isinstance(value, (list, tuple)):
        return walk_sequence(value, depth)
    if is_dataclass(value) and not isinstance(value, type):
        return walk_mapping(
            {field.name: getattr(value, field.name) for field in fields(value)}, depth
        )
    names = getattr(type(value), "__struct_fields__", None)
    if names is not None and not isinstance(value, type):
        return walk_mapping({name: getattr(value, name) for name in names}, depth)
    raise Refusal(f"{type(value).__module__}.{type(value).__qualname__} cannot be stored")


def is_numpy_scalar(kind: type) -> bool:
    """Say whether a type is a scalar of numpy, without importing numpy; arrays are not."""
    return kind.__module__ == "numpy" and any(base.__name__ == "generic" for base in kind.__mro__)


def plain_dict(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a mapping of another type as a dict."""
    items = list(mapping.items())
    plain = dict(items)
    if len(plain) != len(items):
        raise same_key_twice()
    return plain


def same_key_twice() -> Refusal:
    """Return the refusal of a mapping in which two keys are one text, so that one would be lost."""
    return Refusal("two keys of a mapping are the same text")


def utf8_length(text: str) -> int:
    """Return the length of `text` in UTF-8."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise Refusal("a text holds a lone surrogate, which UTF-8 cannot encode") from None


def int_size(number: int) -> int:
    """Return the size of an integer: int32 or int64 by range."""
    if _INT32_LEAST <= number <= _INT32_MOST:
        return 4
    if _INT64_LEAST <= number <= _INT64_MOST:
        return 8
    raise Refusal("an integer does not fit in 64 bits")


def key_text(key: object) -> str:
    """Return the key of a mapping as a plain str."""
    if isinstance(key, Enum):
        key = key.value
    if not isinstance(key, str):
        raise Refusal(f"the key {key!r:.80} is {type(key).__name__}, not a text")
    return str.__str__(key)


def check_depth(depth: int) -> None:
    """Refuse a container that stands too deep."""
    if depth >= MAX_DEPTH:
        raise Refusal(f"more than {MAX_DEPTH} containers stand inside each other")


def too_large() -> Refusal:
    """Return the refusal of a payload that is too large."""
    return Refusal(f"the payload exceeds {MAX_SIZE} bytes here")


def utc_milliseconds(moment: datetime) -> datetime:
    """Return a moment as aware UTC, cut to ms."""
    try:
        aware = (
            moment.replace(tzinfo=timezone.utc)
            if moment.utcoffset() is None
            else moment.astimezone(timezone.utc)
        )
        if type(aware) is not datetime:
            aware = datetime(*aware.timetuple()[:6], aware.microsecond, timezone.utc)
    except (OverflowError, TypeError, ValueError):
        raise Refusal("this datetime leaves the years 1 to 9999 in UTC") from None
    return aware.replace(microsecond=aware.microsecond // 1000 * 1000)


def regex_size(pattern: Regex[Any]) -> int:
    """Return the size of a regular expression."""
    try:
        text = pattern.pattern
        content = text if isinstance(text, bytes) else text.encode()
        content.decode()
    except UnicodeError:
        raise Refusal("a regular expression is not valid UTF-8") from None
    if b"\0" in content:
        raise Refusal("a regular expression holds a NUL character")
    flags = sum(
        bool(pattern.flags & flag)
        for flag in (re.IGNORECASE, re.LOCALE, re.MULTILINE, re.DOTALL, re.UNICODE, re.VERBOSE)
    )
    return len(content) + 1 + flags + 1


def whole_doubles_to_int(value: Any) -> Any:
    """Turn whole doubles beyond 32 bits into int, in place, and return the result.

    For documents of the Node runner, which stores every integer beyond 32 bits as a double.
    """
    kind = type(value)
    if kind is float:
        if value.is_integer() and not _INT32_LEAST <= value <= _INT32_MOST and abs(value) < 2**63:
            return int(value)
    elif kind is dict:
        for key, item in value.items():
            value[key] = whole_doubles_to_int(item)
    elif kind is list:
        for index, item in enumerate(value):
            value[index] = whole_doubles_to_int(item)
    return value


def references_to_dicts(value: Any) -> Any:
    """Turn every DBRef into the dict that was stored, in place, and return the result.

    The driver makes one of each mapping with ``$ref`` and ``$id``; in a payload they are only keys.
    """
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            if type(item) in _MAY_HOLD_REFERENCES:
                value[key] = references_to_dicts(item)
    elif kind is list:
        for index, item in enumerate(value):
            if type(item) in _MAY_HOLD_REFERENCES:
                value[index] = references_to_dicts(item)
    elif kind is DBRef:
        return references_to_dicts(dict(value.as_doc()))
    return value
