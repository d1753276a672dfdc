"""The JSON text of the file family, character for character as the Node framework writes it.

Rules: contract sections 5.2 and 5.3. Numbers and key order follow the ECMAScript specification
(Number::toString and OrdinaryOwnPropertyKeys).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any, Final, NoReturn
from uuid import UUID

import orjson
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId

from ..hot._codec_py import (
    Refusal,
    conversion_of,
    converted,
    int_size,
    key_text,
    utf8_length,
)
from ..hot.codec import MAX_DEPTH

__all__ = ["from_json", "to_json"]

_REWRITE_DEPTH: Final = 250
_EXACT_LIMIT: Final = 2**53
_LAST_INDEX_KEY: Final = 2**32 - 2
_UNSAFE_FRACTION: Final = 1e-3


def to_json(value: Any, path: str = "payload", *, rewrite: bool = False) -> bytes:
    """Return `value` as one line of UTF-8 without a final newline.

    Infinity and NaN become ``null`` and -0 becomes ``0``. A datetime becomes ISO text in UTC with
    three decimals and ``Z``, further digits cut off; a naive one counts as UTC. Integers of 64 bits
    are written exactly, although Node rounds those from 2**53 on to a double when it reads them,
    as it does with int64 values in MongoDB. Other types are taken as by
    :func:`fastpersist.hot.codec.normalise`: Enum members, dataclasses, Structs and numpy scalars
    become what they hold. UUID and ObjectId become text, a Decimal the number that a double holds.

    Args:
        value: What to write.
        path: How error messages call `value`.
        rewrite: `value` came from :func:`from_json`, so Node may have written it. Whole numbers
            beyond 64 bits are then written as the double that they were, and nesting may be deeper.

    Raises:
        InvalidDocumentError: Something inside has no JSON form: an int beyond 64 bits, a Decimal
            with more digits than a double holds, bytes, a key that is no text, a lone surrogate,
            more than ``MAX_DEPTH`` containers inside each other (the limit of MongoDB), or an
            unknown type. It names the place, as in ``payload.legs[3].price``.
    """
    try:
        return orjson.dumps(_plain(value, _REWRITE_DEPTH if rewrite else MAX_DEPTH, rewrite))
    except Refusal as refusal:
        raise refusal.as_error(path) from None


def from_json(data: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # Node may have written a lone surrogate as an escape, which only the slow parser takes.
        if b"\\u" not in data:
            raise
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _plain(value: Any, depth: int, rewrite: bool) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool:
        return value
    if kind is float:
        return _double(value)
    if kind is int:
        return _integer(value, rewrite)
    if kind is dict:
        return _object(value, depth, rewrite)
    if kind is list or kind is tuple:
        return _array(value, depth, rewrite)
    convert = conversion_of(kind)
    if convert is not None:
        return _plain(converted(value, convert), depth, rewrite)
    if isinstance(value, datetime):
        return _date(value)
    return _plain_other(value, depth, rewrite)


def _plain_other(value: Any, depth: int, rewrite: bool) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value, depth, rewrite)
    if isinstance(value, (UUID, ObjectId)):
        return str(value)
    if isinstance(value, Decimal128):
        value = value.to_decimal()
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, str):
        return _text(str.__str__(value))
    if isinstance(value, float):
        return _double(float(value))
    if isinstance(value, int):
        return _integer(int(value), rewrite)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        item = value.item()
        # Finer than microseconds, a numpy moment becomes a bare count; a long double stays one.
        if isinstance(item, (datetime, str)) or (
            value.dtype.kind in "biuf" and type(item) is not type(value)
        ):
            return _plain(item, depth, rewrite)
    if isinstance(value, Mapping):
        return _object(value, depth, rewrite)
    if isinstance(value, (list, tuple)):
        return _array(value, depth, rewrite)
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return _object(named, depth, rewrite)
    names = getattr(type(value), "__struct_fields__", None)
    if names is not None and not isinstance(value, type):
        return _object({name: getattr(value, name) for name in names}, depth, rewrite)
    raise Refusal(f"{type(value).__module__}.{type(value).__qualname__} has no JSON form")


def _text(value: str) -> str:
    utf8_length(value)
    return value


def _integer(value: int, rewrite: bool) -> Any:
    if rewrite and not -(2**63) <= value < 2**63:
        return _double(float(value))
    int_size(value)
    return value


def _decimal(value: Decimal) -> Any:
    if not value.is_finite():
        return None
    nearest = float(value)
    if Decimal(repr(nearest)) != value:
        raise Refusal("this Decimal has more digits than a double, and so JSON, can hold")
    return _double(nearest)


def _double(value: float) -> Any:
    if not isfinite(value):
        return None
    if value.is_integer():
        if -_EXACT_LIMIT < value < _EXACT_LIMIT:
            return int(value)
    elif not -_UNSAFE_FRACTION < value < _UNSAFE_FRACTION:
        return value
    # orjson agrees with ECMAScript on the digits, but not on when to use an exponent.
    return orjson.Fragment(_ecmascript_number(value))


def _ecmascript_number(value: float) -> str:
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    if fraction == "0":
        fraction = ""
    point = len(whole) + int(exponent or 0)
    unpadded = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(unpadded)
    digits = unpadded.rstrip("0")
    if len(digits) <= point <= 21:
        return f"{sign}{digits.ljust(point, '0')}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"


def _date(value: datetime) -> str:
    if value.tzinfo is not None:
        try:
            value = value.astimezone(timezone.utc)
        except OverflowError:
            raise Refusal("this datetime leaves the years 1 to 9999 in UTC") from None
    return f"{value.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _object(value: Mapping[Any, Any], depth: int, rewrite: bool) -> dict[str, Any]:
    _check_depth(depth)
    plain: dict[str, Any] = {}
    has_index_keys = False
    for key, item in value.items():
        name = key if type(key) is str else key_text(key)
        try:
            plain[_text(name)] = _plain(item, depth - 1, rewrite)
        except Refusal as refusal:
            refusal.way.append(name)
            raise
        has_index_keys = has_index_keys or _is_index(name)
    if not has_index_keys:
        return plain
    first = dict.fromkeys(sorted(filter(_is_index, plain), key=int))
    return {name: plain[name] for name in (*first, *(name for name in plain if name not in first))}


def _array(value: list[Any] | tuple[Any, ...], depth: int, rewrite: bool) -> list[Any]:
    _check_depth(depth)
    plain: list[Any] = []
    try:
        for item in value:
            plain.append(_plain(item, depth - 1, rewrite))
    except Refusal as refusal:
        refusal.way.append(len(plain))
        raise
    return plain


def _check_depth(depth: int) -> None:
    if not depth:
        raise Refusal(f"more than {MAX_DEPTH} containers stand inside each other")


def _is_index(key: str) -> bool:
    if not key.isascii() or not key.isdecimal() or len(key) > 10:
        return False
    return (key[0] != "0" or key == "0") and int(key) <= _LAST_INDEX_KEY
