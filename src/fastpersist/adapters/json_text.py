"""The JSON text of the file family, character for character as the Node framework writes it.

Rules: contract sections 5.2 and 5.3. Numbers and key order follow the ECMAScript specification
(Number::toString and OrdinaryOwnPropertyKeys).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from enum import Enum
from math import isfinite
from typing import Any, Final, NoReturn

import orjson

from ..errors import InvalidDocumentError

__all__ = ["MAX_DEPTH", "from_json", "to_json"]

MAX_DEPTH: Final = 100
"""How deeply containers may be nested: as deeply as MongoDB takes them, so that a payload does not
fit one family and not the other."""

_EXACT_LIMIT: Final = 2**53
_INT64_LIMIT: Final = 2**63
_LAST_INDEX_KEY: Final = 2**32 - 2
_UNSAFE_FRACTION: Final = 1e-3


class _RefusedError(Exception):
    """A value has no JSON form; the containers around it add their part of the path."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.steps: list[str] = []


def to_json(value: Any, path: str = "payload", *, rewrite: bool = False) -> bytes:
    """Return `value` as one line of UTF-8 without a final newline.

    Infinity and NaN become ``null`` and -0 becomes ``0``. A datetime becomes ISO text in UTC with
    three decimals and ``Z``, further digits cut off; a naive one counts as UTC. Integers of 64 bits
    are written exactly, although Node rounds those from 2**53 on to a double when it reads them,
    as it does with int64 values in MongoDB. Tuples become arrays; dataclass instances and Structs
    become objects; an Enum member counts as its value and a numpy scalar as the Python number.

    Args:
        value: What to write.
        path: How error messages call `value`.
        rewrite: `value` came from :func:`from_json`. Whole numbers beyond 64 bits, which Node
            writes for large doubles, are then written as such a double.

    Raises:
        InvalidDocumentError: Something in `value` has no JSON form: an integer beyond 64 bits,
            bytes, a set, a key that is not text, text with a lone surrogate, nesting deeper than
            ``MAX_DEPTH``, or an object of an unknown type. It carries the path of that value.
    """
    try:
        return orjson.dumps(_plain(value, MAX_DEPTH, rewrite))
    except _RefusedError as refused:
        steps = "".join(reversed(refused.steps))
        raise InvalidDocumentError(path + steps, refused.reason) from None


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
    if isinstance(value, datetime):
        return _date(value)
    return _plain_other(value, depth, rewrite)


def _plain_other(value: Any, depth: int, rewrite: bool) -> Any:
    kind = type(value)
    if isinstance(value, Enum):
        return _plain(value.value, depth, rewrite)
    for base, method in ((str, str.__str__), (int, int.__int__), (float, float.__float__)):
        if isinstance(value, base):
            return _plain(method(value), depth, rewrite)
    if isinstance(value, Mapping):
        return _object(value, depth, rewrite)
    if isinstance(value, (list, tuple)):
        return _array(value, depth, rewrite)
    if kind.__module__ == "numpy" and kind.__name__.startswith(("int", "uint", "float", "bool")):
        number = value.item()
        if isinstance(number, (bool, int, float)):
            return _plain(number, depth, rewrite)
    if is_dataclass(kind):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        return _object(named, depth, rewrite)
    if hasattr(kind, "__struct_fields__"):
        named = {name: getattr(value, name) for name in kind.__struct_fields__}
        return _object(named, depth, rewrite)
    raise _RefusedError(f"a value of type {kind.__name__} has no JSON form")


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _RefusedError(f"text with a lone surrogate at {error.start}") from None
    return value


def _integer(value: int, rewrite: bool) -> Any:
    if -_INT64_LIMIT <= value < _INT64_LIMIT:
        return value
    if rewrite:
        return _double(float(value))
    raise _RefusedError("an integer beyond 64 bits")


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
            raise _RefusedError("a date outside of the years 1 to 9999 in UTC") from None
    return f"{value.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _object(value: Mapping[Any, Any], depth: int, rewrite: bool) -> dict[str, Any]:
    if not depth:
        raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels")
    plain: dict[str, Any] = {}
    has_index_keys = False
    for key, item in value.items():
        name = _key(key)
        try:
            plain[name] = _plain(item, depth - 1, rewrite)
        except _RefusedError as refused:
            refused.steps.append(f".{name}")
            raise
        has_index_keys = has_index_keys or _is_index(name)
    if not has_index_keys:
        return plain
    first = dict.fromkeys(sorted(filter(_is_index, plain), key=int))
    return {name: plain[name] for name in (*first, *(name for name in plain if name not in first))}


def _array(value: list[Any] | tuple[Any, ...], depth: int, rewrite: bool) -> list[Any]:
    if not depth:
        raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels")
    plain: list[Any] = []
    try:
        for item in value:
            plain.append(_plain(item, depth - 1, rewrite))
    except _RefusedError as refused:
        refused.steps.append(f"[{len(plain)}]")
        raise
    return plain


def _key(key: Any) -> str:
    if isinstance(key, Enum):
        key = key.value
    if not isinstance(key, str):
        raise _RefusedError(f"a key of type {type(key).__name__} instead of text")
    try:
        return _text(str.__str__(key))
    except _RefusedError:
        raise _RefusedError("a key with a lone surrogate") from None


def _is_index(key: str) -> bool:
    if not key.isascii() or not key.isdecimal() or len(key) > 10:
        return False
    return (key[0] != "0" or key == "0") and int(key) <= _LAST_INDEX_KEY
