"""BSON, type by type, in both implementations."""

from __future__ import annotations

import contextlib
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any
from uuid import UUID

import bson
import numpy as np
import pytest
from bson import Binary, Code, DatetimeMS, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.dbref import DBRef

import fastpersist
from fastpersist import InvalidArgumentError, InvalidDocumentError
from fastpersist.adapters.json_text import to_json
from fastpersist.errors import CorruptDataError
from fastpersist.hot import _bson_py, _codec_py

IMPLEMENTATIONS: dict[str, ModuleType] = {"pure": _bson_py}
if os.environ.get("FASTPERSIST_PURE") != "1":
    with contextlib.suppress(ImportError):
        IMPLEMENTATIONS["compiled"] = import_module("fastpersist.hot._bson_c")


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=list(IMPLEMENTATIONS))
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


class Side(Enum):
    LONG = "long"


class Level(IntEnum):
    FIRST = 10


@dataclass
class Leg:
    price: float


class Struct:
    __struct_fields__ = ("price",)
    price = 2.5


class Text(str):
    pass


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


class Fee(Money):
    pass


def document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def element(kind: int, value: bytes, key: bytes = b"v") -> bytes:
    return bytes((kind,)) + key + b"\0" + value


def text(value: bytes) -> bytes:
    return struct.pack("<i", len(value) + 1) + value + b"\0"


CORPUS: dict[str, tuple[int, bytes, Any]] = {
    "double": (0x01, struct.pack("<d", 1.5), 1.5),
    "text": (0x02, text("é\0x".encode()), "é\0x"),
    "document": (0x03, document(element(0x0A, b"")), {"v": None}),
    "array": (0x04, document(element(0x08, b"\1", b"0")), [True]),
    "binary": (0x05, struct.pack("<iB", 3, 0) + b"abc", b"abc"),
    "old binary": (0x05, struct.pack("<iBi", 7, 2, 3) + b"abc", Binary(b"abc", 2)),
    "user binary": (0x05, struct.pack("<iB", 1, 128) + b"a", Binary(b"a", 128)),
    "uuid": (0x05, struct.pack("<iB", 16, 4) + bytes(range(16)), UUID(bytes=bytes(range(16)))),
    "undefined": (0x06, b"", None),
    "object id": (0x07, b"a" * 12, ObjectId(b"a" * 12)),
    "false": (0x08, b"\0", False),
    "date": (
        0x09,
        struct.pack("<q", -1),
        datetime(1969, 12, 31, 23, 59, 59, 999_000, timezone.utc),
    ),
    "far date": (0x09, struct.pack("<q", 2**60), DatetimeMS(2**60)),
    "null": (0x0A, b"", None),
    "regex": (0x0B, b"a.c\0i\0", bson.Regex("a.c", "i")),
    "symbol": (0x0E, text(b"s"), "s"),
    "code": (0x0D, text(b"f()"), Code("f()")),
    "int32": (0x10, struct.pack("<i", -5), -5),
    "timestamp": (0x11, struct.pack("<II", 2, 1), Timestamp(1, 2)),
    "int64": (0x12, struct.pack("<q", 2**40), 2**40),
    "decimal": (0x13, bson.Decimal128("1.5").bid, bson.Decimal128("1.5")),
    "max key": (0x7F, b"", MaxKey()),
    "min key": (0xFF, b"", MinKey()),
}


@pytest.mark.parametrize("name", CORPUS)
def test_each_type_is_read(module: Any, name: str) -> None:
    kind, value, expected = CORPUS[name]
    found = module.decode(document(element(kind, value)))["v"]
    assert found == expected
    assert type(found) is type(expected)
    # And as a field that is not wanted.
    both = document(element(kind, value, b"other"), element(kind, value))
    assert module.decode(both, 0, ("v",)) == {"v": expected}
    assert module.decode(both, 0, ()) == {}


@pytest.mark.parametrize("name", CORPUS)
def test_each_type_is_refused_where_it_ends_early(module: Any, name: str) -> None:
    kind, value, _ = CORPUS[name]
    for size in range(len(value)):
        for fields in (None, ()):
            with pytest.raises(CorruptDataError):
                module.decode(document(element(kind, value[:size])), 0, fields)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\5\0\0\0",
        b"\4\0\0\0\0",
        b"\6\0\0\0\0",
        b"\xff\xff\xff\xff\0",
        b"\5\0\0\0\1",
        document(element(0x08, b"\2")),
        document(element(0x02, struct.pack("<i", 0) + b"\0")),
        document(element(0x02, struct.pack("<i", -1) + b"\0")),
        document(element(0x02, struct.pack("<i", 2**31 - 1) + b"x\0")),
        document(element(0x02, struct.pack("<i", 2) + b"xy")),
        document(element(0x02, text(b"\xff"))),
        document(element(0x0A, b"", b"\xff")),
        document(element(0x20, b"")),
        document(b"\x0ano terminator"),
        document(element(0x03, struct.pack("<i", 100) + b"\0")),
        document(element(0x05, struct.pack("<iB", 15, 4) + b"a" * 15)),
        document(element(0x05, struct.pack("<iBi", 7, 2, 4) + b"abc")),
        document(element(0x0F, struct.pack("<i", 3))),
    ],
)
def test_malformed_bytes_are_refused(module: Any, data: bytes) -> None:
    with pytest.raises(CorruptDataError, match="malformed"):
        module.decode(data)


def test_too_deep_documents_are_refused_without_a_crash(module: Any) -> None:
    data = document()
    for _ in range(5_000):
        data = document(element(0x03, data))
    for fields in (None, ()):
        with pytest.raises(CorruptDataError, match="inside each other"):
            module.decode(data, 0, fields)


def test_references_are_plain_documents(module: Any) -> None:
    data = bson.encode({"v": DBRef("c", 5), "w": {"$ref": "x", "$id": 1}})
    assert module.decode(data) == {"v": {"$ref": "c", "$id": 5}, "w": {"$ref": "x", "$id": 1}}


def test_code_with_scope_is_read(module: Any) -> None:
    data = bson.encode({"v": Code("f", {"a": 1}), "w": 1})
    assert module.decode(data) == bson.decode(data)
    assert module.decode(data, 0, ("w",)) == {"w": 1}


def test_whole_doubles_become_int_on_request(module: Any) -> None:
    data = module.encode({"a": 1e12, "b": [2.0, 1e13, 1.5, 1e300], "c": {"d": -1e12}})
    found = module.decode(data, 0, None, True)
    assert found == {"a": 10**12, "b": [2.0, 10**13, 1.5, 1e300], "c": {"d": -(10**12)}}
    assert [type(one) for one in found["b"]] == [float, int, float, float]
    assert type(module.decode(data)["a"]) is float


def test_dates_are_in_the_time_zone_of_the_standard_library(module: Any) -> None:
    found = module.decode(module.encode({"a": datetime(2025, 1, 2, 3, 4, 5, 678_000)}))["a"]
    assert found.tzinfo is timezone.utc


def test_int64_is_read_as_int(module: Any) -> None:
    found = module.decode(bson.encode({"a": Int64(5), "b": [Int64(6)], "c": {"d": Int64(7)}}))
    assert {type(found["a"]), type(found["b"][0]), type(found["c"]["d"])} == {int}


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Side.LONG, "long"),
        (Level.FIRST, 10),
        (Leg(1.5), {"price": 1.5}),
        (Struct(), {"price": 2.5}),
        (Text("a"), "a"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (MappingProxyType({"a": [Leg(1.0)]}), {"a": [{"price": 1.0}]}),
        ((1, (2,)), [1, [2]]),
        (np.float64(1.5), 1.5),
        (np.int32(7), 7),
        (np.bool_(True), True),
        (
            np.datetime64("2025-01-01T00:00:00.123"),
            datetime(2025, 1, 1, 0, 0, 0, 123_000, timezone.utc),
        ),
        (Decimal("1.10"), bson.Decimal128("1.10")),
        (bytearray(b"ab"), b"ab"),
        (2**31, 2**31),
        (-(2**63), -(2**63)),
        ({Side.LONG: 1}, {"long": 1}),
    ],
)
def test_values_become_what_they_hold(module: Any, value: Any, stored: Any) -> None:
    encoded = module.encode({"v": value})
    assert encoded == _bson_py.encode({"v": value})
    assert module.decode(encoded) == {"v": stored}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"legs": [{"price": 1}, {"price": object()}]}, "legs[1].price"),
        ({"a b": {1: 2}}, "['a b']"),
        ({"a": {"x\0y": 1}}, "a"),
        ({"a": ["\ud800"]}, "a[0]"),
        ({"a": {"\ud800\0": 1}}, "a"),
        ({"a": {"\ud800": 1}}, r"a['\ud800']"),
        ({"a": 2**63}, "a"),
        ({"a": Decimal("1e9999")}, "a"),
        ({"a": {Side.LONG: 1, "long": 2}}, "a"),
        ({"a": [1, [2, [np.arange(2)]]]}, "a[1][1][0]"),
    ],
)
@pytest.mark.parametrize("path", ["", "rows[2]"])
def test_what_cannot_be_stored_is_named(module: Any, fields: Any, place: str, path: str) -> None:
    with pytest.raises(InvalidDocumentError) as caught:
        module.encode(fields, path)
    with pytest.raises(InvalidDocumentError) as expected:
        _codec_py.normalise(fields, path or "x")
    joint = "" if not path or place.startswith("[") else "."
    assert caught.value.path == f"{path}{joint}{place}"
    assert str(caught.value).partition(": ")[2] == str(expected.value).partition(": ")[2]


def test_depth_is_limited(module: Any) -> None:
    value: Any = 1
    for _ in range(100):
        value = {"a": value}
    assert module.encode({"payload": value})
    with pytest.raises(InvalidDocumentError, match="inside each other"):
        module.encode({"payload": [value]})
    with pytest.raises(InvalidDocumentError, match="inside each other"):
        module.encode({"payload": value}, "rows[0]")


def test_size_is_limited(module: Any) -> None:
    exact = _codec_py.MAX_SIZE - len(module.encode({"a": ""}))
    assert len(module.encode({"a": "x" * exact})) == _codec_py.MAX_SIZE
    for value in ("x" * (exact + 1), "x" * 20_000_000, b"x" * 20_000_000, ["x" * 1000] * 20_000):
        with pytest.raises(InvalidDocumentError, match="exceeds"):
            module.encode({"a": value})


def test_a_mapping_that_changes_while_it_is_written_is_no_crash(module: Any) -> None:
    outer: dict[str, Any] = {}

    class Spiteful(dict[str, Any]):
        def items(self) -> Any:
            outer.clear()
            return super().items()

    outer.update(a=Spiteful(x=1), b=2, c=3)
    with contextlib.suppress(RuntimeError, InvalidDocumentError):
        module.encode(outer)
    assert module.encode({"ok": 1})


def test_an_error_of_user_code_comes_through(module: Any) -> None:
    class Broken(dict[str, Any]):
        def items(self) -> Any:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        module.encode({"a": Broken(x=1)})


@pytest.fixture
def conversions() -> Iterator[None]:
    before = dict(_codec_py._conversions)
    yield
    _codec_py._conversions.clear()
    _codec_py._conversions.update(before)


@pytest.mark.usefixtures("conversions")
def test_own_types_are_stored_as_what_they_are_converted_to(module: Any) -> None:
    fastpersist.register_type(Money, lambda money: {"cents": money.cents})
    values = {"a": Money(5), "b": [Fee(6)]}
    stored = {"a": {"cents": 5}, "b": [{"cents": 6}]}
    assert module.decode(module.encode(values)) == stored
    assert to_json(values) == to_json(stored)
    fastpersist.register_type(Fee, lambda fee: Money(fee.cents + 1))
    assert module.decode(module.encode(values))["b"] == [{"cents": 7}]


@pytest.mark.usefixtures("conversions")
def test_a_conversion_that_leads_nowhere_is_refused(module: Any) -> None:
    fastpersist.register_type(Money, lambda money: money)
    with pytest.raises(InvalidDocumentError, match="gives that type again"):
        module.encode({"a": Money(5)})
    fastpersist.register_type(Money, lambda money: Leg(1.0))
    fastpersist.register_type(Leg, lambda leg: Money(1))
    with pytest.raises(RecursionError):
        module.encode({"a": Money(5)})


@pytest.mark.parametrize("kind", [str, dict, object, datetime, "Money"])
def test_plain_types_are_not_registered(kind: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="not a type of your own"):
        fastpersist.register_type(kind, str)
