"""JSON text as the Node framework writes it (contract 5.2, 5.3)."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

from fastpersist import InvalidDocumentError
from fastpersist.adapters.json_text import from_json, to_json
from fastpersist.hot.codec import normalise


class Side(Enum):
    LONG = "long"


class Level(IntEnum):
    TEN = 10


@dataclass
class Leg:
    price: float
    side: Side


class Struct:
    __struct_fields__ = ("price",)

    def __init__(self, price: Any) -> None:
        self.price = price


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (94000.0, "94000"),
        (-0.0, "0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-6, "0.000001"),
        (1.5e-6, "0.0000015"),
        (1e-7, "1e-7"),
        (-1.25e-8, "-1.25e-8"),
        (5e-324, "5e-324"),
        (1e20, "100000000000000000000"),
        (123456789012345680000.0, "123456789012345680000"),
        (2.0**60, "1152921504606847000"),
        (1e21, "1e+21"),
        (-1.5e300, "-1.5e+300"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (2.0**53, "9007199254740992"),
        (1000000000000000.5, "1000000000000000.5"),
        (math.inf, "null"),
        (-math.inf, "null"),
        (math.nan, "null"),
        (2**53 - 1, "9007199254740991"),
        (2**63 - 1, "9223372036854775807"),
        (-(2**63), "-9223372036854775808"),
        (True, "true"),
        (None, "null"),
    ],
)
def test_numbers_follow_ecmascript(value: Any, text: str) -> None:
    assert to_json(value).decode() == text


def test_text_stays_unescaped_where_json_allows_it() -> None:
    assert to_json('ё突🚀\u2028\x7f"\\/').decode() == '"ё突🚀\u2028\x7f\\"\\\\/"'
    assert to_json("\0\b\t\n\v\f\r\x1f").decode() == '"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f"'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2025, 1, 1, 0, 5, tzinfo=timezone.utc), "2025-01-01T00:05:00.000Z"),
        (datetime(2025, 1, 1, microsecond=999_999), "2025-01-01T00:00:00.999Z"),
        (
            datetime(2025, 1, 1, tzinfo=timezone(timedelta(hours=3))),
            "2024-12-31T21:00:00.000Z",
        ),
        (datetime(33, 1, 1, tzinfo=timezone.utc), "0033-01-01T00:00:00.000Z"),
    ],
)
def test_dates_become_iso_text_in_utc(value: datetime, text: str) -> None:
    assert to_json(value).decode() == f'"{text}"'


def test_keys_that_look_like_indexes_come_first_ascending() -> None:
    first = ["0", "9", "10", "4294967294"]
    others = ["b", "01", "-1", "4294967295", "1.5", "²", "", "a"]
    shuffled = [*others[:4], *reversed(first), *others[4:]]
    assert list(from_json(to_json(dict.fromkeys(shuffled, 1)))) == [*first, *others]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Side.LONG, '"long"'),
        (Level.TEN, "10"),
        ({Side.LONG: 1}, '{"long":1}'),
        (Leg(1.0, Side.LONG), '{"price":1,"side":"long"}'),
        (Struct([1.5]), '{"price":[1.5]}'),
        (Text("x"), '"x"'),
        (Int64(5), "5"),
        (np.float64(2.0), "2"),
        (np.float32(0.5), "0.5"),
        (np.int64(7), "7"),
        (np.bool_(True), "true"),
        (np.datetime64("2025-01-01T00:00:00.001"), '"2025-01-01T00:00:00.001Z"'),
        ((1, (2,)), "[1,[2]]"),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (MappingProxyType({"a": ()}), '{"a":[]}'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (ObjectId("0123456789abcdef01234567"), '"0123456789abcdef01234567"'),
        (Decimal("94250.10"), "94250.1"),
        (Decimal128("5"), "5"),
        (Decimal("NaN"), "null"),
    ],
)
def test_other_types_are_taken_as_by_the_codec(value: Any, text: str) -> None:
    normalise({"value": value})
    assert to_json(value).decode() == text


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"legs": [0, 1, 2, {"price": object()}]}, "payload.legs[3].price"),
        ({"a": 2**63}, "payload.a"),
        ([-(2**63) - 1], "payload[0]"),
        ({"a": {1: 2}}, "payload.a"),
        ({"a": b"x"}, "payload.a"),
        ({"a": {1, 2}}, "payload.a"),
        ({"two words": "\ud800"}, "payload['two words']"),
        ({"\udc00": 1}, "payload['\\udc00']"),
        ({"a": Decimal("0.12345678901234567890")}, "payload.a"),
        ({"a": np.array([1, 2])}, "payload.a"),
        ({"a": np.datetime64(1, "ns")}, "payload.a"),
        ({"a": np.longdouble("1.5")}, "payload.a"),
        ({"a": Leg}, "payload.a"),
        ({"a": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, "payload.a"),
        ({"a": timedelta(1)}, "payload.a"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(InvalidDocumentError) as caught:
        to_json(value)
    assert caught.value.path == path


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_nesting_has_the_limit_of_mongodb() -> None:
    assert to_json(nested(100)) == b"[" * 100 + b"]" * 100
    with pytest.raises(InvalidDocumentError, match="more than 100 containers"):
        to_json(nested(101))
    assert to_json(nested(200), rewrite=True) == b"[" * 200 + b"]" * 200
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidDocumentError, match="more than 100 containers"):
        to_json(circle)


def test_the_value_is_not_changed() -> None:
    value = {"b": (1,), "1": 2.0}
    to_json(value)
    assert list(value.items()) == [("b", (1,)), ("1", 2.0)]


def test_large_numbers_of_node_survive_a_rewrite() -> None:
    text = b"[10000000000000000000,100000000000000000000,-9223372036854776000,1e+21]"
    assert to_json(from_json(text), rewrite=True) == text


def test_a_lone_surrogate_of_node_is_read() -> None:
    assert from_json(b'{"a":"\\ud800"}') == {"a": "\ud800"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{'a':1}",
        b"NaN",
        b'["\\u0061",NaN]',
        b'"\xff"',
        b"[" * 100_000 + b'"\\u"',
        b"\0",
    ],
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(text)
