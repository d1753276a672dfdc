"""Payloads to values that BSON can hold, and back, in both implementations."""

from __future__ import annotations

import math
import os
import re
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any
from uuid import UUID

import bson
import numpy as np
import pytest
from bson.binary import Binary, UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from bson.regex import Regex
from bson.son import SON
from bson.timestamp import Timestamp

from fastpersist import InvalidDocumentError
from fastpersist.hot import _codec_py

IMPLEMENTATIONS: dict[str, ModuleType] = {"pure": _codec_py}
if os.environ.get("FASTPERSIST_PURE") != "1":
    with suppress(ImportError):
        IMPLEMENTATIONS["compiled"] = import_module("fastpersist.hot._codec_c")

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD
)
# What bson adds to a value under the name "": length, type, empty name, end of the document.
OVERHEAD = 4 + 1 + 1 + 1

MAX_SIZE = 16 * 1024 * 1024 - 16 * 1024
UTC = timezone.utc
MIB = "x" * 2**20
LARGEST_TEXT = "x" * (MAX_SIZE - 5)


class Side(Enum):
    LONG = "long"
    PAIR = ("a", 1)
    NESTED = Decimal("1.5")


class Kind(str, Enum):
    SPOT = "spot"


class Level(IntEnum):
    TEN = 10
    LARGE = 2**40


class Number(Enum):
    ONE = 1


class Text(str):
    __slots__ = ()


class OwnText(str):
    """Equal to nothing but itself, so that a dict takes it beside the same text."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __str__(self) -> str:
        return "something else"


class Whole(int):
    pass


class Real(float):
    pass


class Items(list[Any]):
    pass


class Names(dict[str, Any]):
    pass


class Moment(datetime):
    pass


class Lost(tzinfo):
    """A time zone that does not know its offset, so that the datetime counts as naive."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None


@dataclass
class Leg:
    price: Any
    side: Any = Side.LONG


class Struct:
    __struct_fields__ = ("price", "side")

    def __init__(self, price: Any, side: Any = None) -> None:
        self.price = price
        self.side = side


class Twice(Mapping[str, int]):
    """A mapping that gives one key twice."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "a"])

    def __len__(self) -> int:
        return 2


Point = namedtuple("Point", "x y")


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=list(IMPLEMENTATIONS))
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


def kind_of(value: object) -> str:
    """Return the name of a test; texts of values may hold addresses, which workers cannot share."""
    return type(value).__name__


def exact(value: Any) -> Any:
    """Return a form of a value that tells types, signs and NaN apart."""
    if isinstance(value, dict):
        return type(value), [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [exact(item) for item in value]
    return type(value), repr(value)


def refusal(module: Any, value: Any, *path: str) -> InvalidDocumentError:
    with pytest.raises(InvalidDocumentError) as caught:
        module.normalise(value, *path)
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    assert caught.value.__suppress_context__
    return caught.value


PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**31 - 1,
    2**31,
    -(2**31),
    -(2**31) - 1,
    2**53,
    2**63 - 1,
    -(2**63),
    0.0,
    -0.0,
    1.5,
    5e-324,
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "text",
    "a\0b",
    "é突\U0001f680",
    b"",
    b"\0\xff",
    UUID(int=1),
    ObjectId("0123456789abcdef01234567"),
    Decimal128("1.50"),
    Decimal128("NaN"),
    Int64(1),
    Int64(-(2**63)),
    Binary(b"abc", 0),
    Binary(b"abc", 2),
    Binary(b"", 2),
    Binary(b"abc", 128),
    Regex("^a"),
    Regex("é", "imsux"),
    Regex(b"a", re.LOCALE),
    datetime(2025, 1, 1, 0, 5, 0, 1000, UTC),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC),
    [],
    {},
    [[], {}],
    {"": "", "a": [1, {"b": None}], "突": 1.0, "a.b": 1, "$c": 2, "2": 3},
    list(range(9)),
    list(range(10)),
    list(range(11)),
    [None] * 100,
    [None] * 101,
    [None] * 1001,
]

# A value, and what it becomes.
CHANGED: list[tuple[Any, Any]] = [
    ((), []),
    ((1, (2,)), [1, [2]]),
    (Point(1, "y"), [1, "y"]),
    (Items([1, (2,)]), [1, [2]]),
    (Names(a=(1,)), {"a": [1]}),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (MappingProxyType({"b": (1,), "a": 2}), {"b": [1], "a": 2}),
    (SON([("b", 1), ("a", 2)]), {"b": 1, "a": 2}),
    (RawBSONDocument(bson.encode({"a": [1]})), {"a": [1]}),
    (Side.LONG, "long"),
    (Side.PAIR, ["a", 1]),
    (Side.NESTED, Decimal128("1.5")),
    (Kind.SPOT, "spot"),
    (Level.TEN, 10),
    (Level.LARGE, 2**40),
    (
        {Side.LONG: 1, Kind.SPOT: 2, Text("t"): 3, np.str_("n"): 4},
        {"long": 1, "spot": 2, "t": 3, "n": 4},
    ),
    ({OwnText("own"): OwnText("own")}, {"own": "own"}),
    (Text("突"), "突"),
    (Whole(2**31), 2**31),
    (Real(1.5), 1.5),
    (Real("nan"), math.nan),
    (Leg(1), {"price": 1, "side": "long"}),
    (Leg((Leg(None, 1),), {}), {"price": [{"price": None, "side": 1}], "side": {}}),
    (Struct(1.5), {"price": 1.5, "side": None}),
    (Struct(Struct((1,)), 2), {"price": {"price": [1], "side": None}, "side": 2}),
    (bytearray(b"ab"), b"ab"),
    (memoryview(b"abc")[::2], b"ac"),
    (Decimal("94250.10"), Decimal128("94250.10")),
    (Decimal("-0"), Decimal128("-0")),
    (Decimal("9" * 34), Decimal128("9" * 34)),
    (Decimal("1E-6176"), Decimal128("1E-6176")),
    (Decimal("9.99E+6144"), Decimal128("9.99E+6144")),
    (Decimal("NaN"), Decimal128("NaN")),
    (Decimal("-Infinity"), Decimal128("-Infinity")),
    (np.bool_(True), True),
    (np.int8(-1), -1),
    (np.int64(2**63 - 1), 2**63 - 1),
    (np.uint32(2**32 - 1), 2**32 - 1),
    (np.uint64(7), 7),
    (np.float64(0.1), 0.1),
    (np.float32(0.5), 0.5),
    (np.float16(1.5), 1.5),
    (np.float64("nan"), math.nan),
    (np.float32("-inf"), -math.inf),
    (np.str_("é"), "é"),
    (np.bytes_(b"ab"), b"ab"),
    (np.datetime64("2025-01-01T00:00:00.001999"), datetime(2025, 1, 1, 0, 0, 0, 1000, UTC)),
    (np.datetime64(1_735_689_600_001_999_999, "ns"), datetime(2025, 1, 1, 0, 0, 0, 1000, UTC)),
    (np.datetime64("2025-01-01"), datetime(2025, 1, 1, tzinfo=UTC)),
    (DatetimeMS(8_640_000_000_000_000), DatetimeMS(8_640_000_000_000_000)),
    (datetime(2025, 1, 1, microsecond=999_999), datetime(2025, 1, 1, 0, 0, 0, 999_000, UTC)),
    (
        datetime(2025, 1, 1, microsecond=1999, tzinfo=timezone(timedelta(hours=3))),
        datetime(2024, 12, 31, 21, 0, 0, 1000, UTC),
    ),
    (datetime(2025, 1, 1, tzinfo=Lost()), datetime(2025, 1, 1, tzinfo=UTC)),
    (Moment(2025, 1, 1, microsecond=1001), datetime(2025, 1, 1, 0, 0, 0, 1000, UTC)),
    (Moment(2025, 1, 1, tzinfo=timezone(timedelta(hours=-1))), datetime(2025, 1, 1, 1, tzinfo=UTC)),
    (datetime(1969, 12, 31, 23, 59, 59, 999_999), datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC)),
]


@pytest.mark.parametrize("value", PLAIN, ids=kind_of)
def test_what_bson_holds_stays(module: Any, value: Any) -> None:
    for whole in (value, [value], {"k": value}, [1, {"a": [value, value]}]):
        normal, size = module.normalise(whole)
        assert exact(normal) == exact(whole)
        assert size == len(bson.encode({"": whole}, codec_options=OPTIONS)) - OVERHEAD


@pytest.mark.parametrize(("value", "expected"), CHANGED, ids=kind_of)
def test_other_types_become_what_they_hold(module: Any, value: Any, expected: Any) -> None:
    for outer, inner in (
        (value, expected),
        ((value,), [expected]),
        ({"k": value}, {"k": expected}),
    ):
        normal, size = module.normalise(outer)
        assert exact(normal) == exact(inner)
        assert size == len(bson.encode({"": inner}, codec_options=OPTIONS)) - OVERHEAD


def test_the_value_is_neither_changed_nor_shared(module: Any) -> None:
    leg = Leg([1.0, (2,)], {"k": bytearray(b"x")})
    value = {"legs": [leg, leg], "order": OrderedDict(z=1, a=[]), "moment": datetime(2025, 1, 1)}
    before = exact(value), repr(leg)
    normal, _ = module.normalise(value)
    assert (exact(value), repr(leg)) == before
    assert normal["legs"][0] == normal["legs"][1]
    assert normal["legs"][0] is not normal["legs"][1]
    assert normal["legs"][0]["price"] is not leg.price
    normal["legs"][0]["price"][1].append(3)
    normal["order"]["a"].append(1)
    normal["legs"].clear()
    normal.clear()
    assert (exact(value), repr(leg)) == before
    empties: list[Any] = [[], {}, Names(), Items()]
    for empty in empties:
        assert module.normalise(empty)[0] is not empty


@pytest.mark.parametrize(
    "value",
    [
        object(),
        object,
        Leg,
        Struct,
        Leg.__init__,
        1j,
        {1, 2},
        frozenset(),
        range(3),
        iter([]),
        date(2025, 1, 1),
        time(1),
        timedelta(1),
        re.compile("a"),
        Exception("a"),
        Code("x"),
        Code("x", {}),
        DBRef("a", 1),
        Timestamp(1, 1),
        MaxKey(),
        np.array([1, 2]),
        np.array([]),
        np.array(1.5),
        np.array("text"),
        np.array(["2025-01-01"], "datetime64[ms]"),
        np.complex128(1),
        np.longdouble("1.5"),
        np.datetime64("NaT", "ms"),
        np.datetime64("20000-01-01"),
        np.timedelta64(1, "s"),
        np.timedelta64(1, "ns"),
        np.timedelta64("NaT", "s"),
        np.dtype("i4"),
        np.int64,
    ],
    ids=kind_of,
)
def test_unknown_types_are_named(module: Any, value: Any) -> None:
    kind = type(value)
    error = refusal(module, {"a": [value]})
    assert error.path == "payload.a[0]"
    assert str(error) == f"payload.a[0]: {kind.__module__}.{kind.__qualname__} cannot be stored"
    assert refusal(module, value).path == "payload"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**63, "an integer does not fit in 64 bits"),
        (-(2**63) - 1, "an integer does not fit in 64 bits"),
        (10**5000, "an integer does not fit in 64 bits"),
        (Whole(2**63), "an integer does not fit in 64 bits"),
        (Int64(2**63), "an integer does not fit in 64 bits"),
        (np.uint64(2**63), "an integer does not fit in 64 bits"),
        ("\ud800", "a text holds a lone surrogate, which UTF-8 cannot encode"),
        ("a\udfffé", "a text holds a lone surrogate, which UTF-8 cannot encode"),
        (Text("\udc00"), "a text holds a lone surrogate, which UTF-8 cannot encode"),
        (Decimal("1" * 35), "this Decimal does not fit in the 34 digits of Decimal128"),
        (Decimal("1E+6145"), "this Decimal does not fit in the 34 digits of Decimal128"),
        (Decimal("1E-6177"), "this Decimal does not fit in the 34 digits of Decimal128"),
        (
            datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
            "this datetime leaves the years 1 to 9999 in UTC",
        ),
        (
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
            "this datetime leaves the years 1 to 9999 in UTC",
        ),
        (Regex("a\0"), "a regular expression holds a NUL character"),
        (Regex(b"\0"), "a regular expression holds a NUL character"),
        (Regex("\ud800"), "a regular expression is not valid UTF-8"),
        (Regex(b"\xff"), "a regular expression is not valid UTF-8"),
    ],
    ids=kind_of,
)
def test_values_beyond_the_limits_are_refused(module: Any, value: Any, message: str) -> None:
    assert str(refusal(module, value)) == f"payload: {message}"
    assert str(refusal(module, {"a": [0, value]})) == f"payload.a[1]: {message}"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "payload"),
        ({"legs": [0, 1, 2, {"price": object()}]}, "payload.legs[3].price"),
        ([[[object()]]], "payload[0][0][0]"),
        (([None] * 12, [None] * 12 + [object()]), "payload[1][12]"),
        ({"цена": object()}, "payload.цена"),
        ({"_1": object()}, "payload._1"),
        ({"1": object()}, "payload['1']"),
        ({"two words": object()}, "payload['two words']"),
        ({"a.b": object()}, "payload['a.b']"),
        ({"a\n": object()}, "payload['a\\n']"),
        ({"": object()}, "payload['']"),
        ({"it's": object()}, 'payload["it\'s"]'),
        ({"k" * 80: object()}, f"payload.{'k' * 80}"),
        ({"k" * 81: object()}, f"payload['{'k' * 79}]"),
        ({"\ud800": 1}, "payload['\\ud800']"),
        ({Side.LONG: object()}, "payload.long"),
        ({"leg": Leg([object()])}, "payload.leg.price[0]"),
        ({"leg": Struct(1, {"a": object()})}, "payload.leg.side.a"),
        (OrderedDict(a=MappingProxyType({"b": object()})), "payload.a.b"),
        ({"a": Items([Names(b=object())])}, "payload.a[0].b"),
        ({"a": {"b": {1: 2}}}, "payload.a.b"),
        ({"a": [{"b\0": 2}]}, "payload.a[0]"),
    ],
)
def test_errors_name_the_place(module: Any, value: Any, path: str) -> None:
    assert refusal(module, value).path == path
    assert refusal(module, value, "value.data").path == "value.data" + path[len("payload") :]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (1, "the key 1 is int, not a text"),
        (None, "the key None is NoneType, not a text"),
        (True, "the key True is bool, not a text"),
        (b"a", "the key b'a' is bytes, not a text"),
        (("a",), "the key ('a',) is tuple, not a text"),
        (Number.ONE, "the key 1 is int, not a text"),
        ("\0", r"the key '\x00' holds a NUL character"),
        ("a\0b", r"the key 'a\x00b' holds a NUL character"),
        (Text("a\0"), r"the key 'a\x00' holds a NUL character"),
        ("a" * 100 + "\0", f"the key '{'a' * 79} holds a NUL character"),
        (10**90, f"the key 1{'0' * 79} is int, not a text"),
    ],
    ids=kind_of,
)
@pytest.mark.parametrize("wrap", [dict, OrderedDict, MappingProxyType])
def test_wrong_keys_are_refused(
    module: Any, wrap: Callable[[dict[Any, int]], Any], key: Any, message: str
) -> None:
    assert str(refusal(module, {"a": wrap({"b": 1, key: 2})})) == f"payload.a: {message}"


@pytest.mark.parametrize(
    "value",
    [
        {Side.LONG: 1, "long": 2},
        {"long": 1, Side.LONG: 2},
        {OwnText("a"): 1, "a": 2},
        {OwnText("a"): 1, OwnText("a"): 2},
        OrderedDict([(Side.LONG, 1), ("long", 2)]),
        MappingProxyType({OwnText("a"): 1, OwnText("a"): 1}),
        Twice(),
    ],
)
def test_keys_of_the_same_text_are_refused(module: Any, value: Any) -> None:
    message = "two keys of a mapping are the same text"
    assert str(refusal(module, value)) == f"payload: {message}"
    assert str(refusal(module, [{"a": value}])) == f"payload[0].a: {message}"


WRAPS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "list": (lambda value: [value], "[0]"),
    "tuple": (lambda value: (value,), "[0]"),
    "subclass": (lambda value: Items([value]), "[0]"),
    "dict": (lambda value: {"a": value}, ".a"),
    "mapping": (lambda value: MappingProxyType({"a": value}), ".a"),
    "dataclass": (Leg, ".price"),
    "struct": (Struct, ".price"),
}


@pytest.mark.parametrize(("wrap", "step"), WRAPS.values(), ids=WRAPS.keys())
def test_a_hundred_containers_may_stand_inside_each_other(
    module: Any, wrap: Callable[[Any], Any], step: str
) -> None:
    value: Any = 1
    for _ in range(100):
        value = wrap(value)
    normal, size = module.normalise(value)
    assert size == len(bson.encode({"": normal})) - OVERHEAD
    message = "more than 100 containers stand inside each other"
    assert str(refusal(module, wrap(value))) == f"payload{step * 100}: {message}"


def test_endless_values_are_refused(module: Any) -> None:
    circle: list[Any] = []
    circle.append({"a": circle})
    assert refusal(module, circle).path == "payload" + "[0].a" * 50
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert refusal(module, deep).path == "payload" + "[0]" * 100


def test_max_values(module: Any) -> None:
    assert (module.MAX_DEPTH, module.MAX_SIZE) == (100, MAX_SIZE)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LARGEST_TEXT + "x", "payload"),
        (Text(LARGEST_TEXT + "x"), "payload"),
        (b"x" * (MAX_SIZE - 4), "payload"),
        (Binary(b"x" * (MAX_SIZE - 8), 2), "payload"),
        ("é" * (MAX_SIZE // 2), "payload"),
        ([LARGEST_TEXT], "payload[0]"),
        ({"a": {"b": LARGEST_TEXT}}, "payload.a.b"),
        ([MIB] * 16, "payload[15]"),
        ([[1, 2], {"a": [MIB] * 15, "b": 0, "c": (MIB,)}], "payload[1].c"),
        ([[MIB] * 10] * 2, "payload[1]"),
        ({LARGEST_TEXT: None, "b": 1}, f"payload['{'x' * 79}]"),
    ],
    ids=kind_of,
)
def test_payloads_beyond_the_limit_are_refused(module: Any, value: Any, path: str) -> None:
    assert str(refusal(module, value)) == f"{path}: the payload exceeds {MAX_SIZE} bytes here"


@pytest.mark.parametrize(
    "value",
    [
        LARGEST_TEXT,
        "é" * ((MAX_SIZE - 5) // 2),
        b"x" * (MAX_SIZE - 5),
        Binary(b"x" * (MAX_SIZE - 9), 2),
        [LARGEST_TEXT[: -5 - 3]],
        {"a": LARGEST_TEXT[: -5 - 3]},
        {LARGEST_TEXT[: -5 - 2 + 5]: None},
    ],
    ids=kind_of,
)
def test_payloads_at_the_limit_pass(module: Any, value: Any) -> None:
    _, size = module.normalise(value)
    assert size == len(bson.encode({"": value})) - OVERHEAD
    assert MAX_SIZE - 1 <= size <= MAX_SIZE


def test_errors_of_the_value_itself_pass_through(module: Any) -> None:
    class Broken(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            raise LookupError("broken")

        def __iter__(self) -> Iterator[str]:
            return iter("a")

        def __len__(self) -> int:
            return 1

    with pytest.raises(LookupError, match="broken"):
        module.normalise([Broken()])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2.0**31 - 1, 2.0**31 - 1),
        (2.0**31, 2**31),
        (-(2.0**31), -(2.0**31)),
        (-(2.0**31) - 1, -(2**31) - 1),
        (2.0**31 + 0.5, 2.0**31 + 0.5),
        (-(2.0**31) - 0.5, -(2.0**31) - 0.5),
        (1_735_689_600_000.0, 1_735_689_600_000),
        (2.0**53, 2**53),
        (-(2.0**53), -(2**53)),
        (2.0**53 + 2, 2**53 + 2),
        (2.0**63 - 1024, 2**63 - 1024),
        (-(2.0**63) + 1024, -(2**63) + 1024),
        (2.0**63, 2.0**63),
        (-(2.0**63), -(2.0**63)),
        (2.0**64, 2.0**64),
        (1e300, 1e300),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (math.nan, math.nan),
        (0.0, 0.0),
        (-0.0, -0.0),
        (7.0, 7.0),
        (0.5, 0.5),
        (2**40, 2**40),
        (Int64(2**40), Int64(2**40)),
        (Real(2.0**40), Real(2.0**40)),
        (np.float64(2.0**40), np.float64(2.0**40)),
        (True, True),
        (None, None),
        ("4294967296.0", "4294967296.0"),
        ((2.0**40,), (2.0**40,)),
        (Items([2.0**40]), Items([2.0**40])),
        (Names(a=2.0**40), Names(a=2.0**40)),
    ],
)
def test_whole_doubles_beyond_32_bits_become_int(value: Any, expected: Any) -> None:
    assert exact(_codec_py.whole_doubles_to_int(value)) == exact(expected)
    assert exact(_codec_py.whole_doubles_to_int([0, {"a": value}])) == exact([0, {"a": expected}])


def test_whole_doubles_are_converted_in_place() -> None:
    inner = [2.0**40, 0.5]
    value = {"b": inner, "a": {"c": 2.0**31}}
    assert _codec_py.whole_doubles_to_int(value) is value
    assert exact(value) == exact({"b": [2**40, 0.5], "a": {"c": 2**31}})
    assert value["b"] is inner


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}])
def test_whole_doubles_stand_deep(wrap: Callable[[Any], Any]) -> None:
    def nested(levels: int) -> Any:
        value: Any = wrap(2.0**40)
        for _ in range(levels):
            value = wrap(value)
        return value

    for levels in (100, 200):
        value = _codec_py.whole_doubles_to_int(nested(levels))
        for _ in range(levels + 1):
            value = next(iter(value.values())) if isinstance(value, dict) else value[0]
        assert exact(value) == exact(2**40)
    for levels in (900, 1000, 1100, 5000, 100_000):
        with suppress(RecursionError):
            _codec_py.whole_doubles_to_int(nested(levels))
    circle: list[Any] = []
    circle.append(circle)
    for _ in range(3):
        with pytest.raises(RecursionError):
            _codec_py.whole_doubles_to_int(circle)
    assert _codec_py.whole_doubles_to_int(2.0**40) == 2**40


def test_references_become_the_dicts_that_were_stored() -> None:
    deep = {"$ref": "c", "$id": {"$ref": "d", "$id": 2}, "more": [DBRef("e", 3, x=1)]}
    value = {
        "a": [DBRef("c", DBRef("d", 2), more=[DBRef("e", 3, x=1)])],
        "b": 2.5,
        "c": {"$ref": 1},
    }
    expected = {
        "a": [{**deep, "more": [{"$ref": "e", "$id": 3, "x": 1}]}],
        "b": 2.5,
        "c": {"$ref": 1},
    }
    assert _codec_py.references_to_dicts(value) is value
    assert value == expected
    assert _codec_py.references_to_dicts(DBRef("c", 1)) == {"$ref": "c", "$id": 1}
    assert _codec_py.references_to_dicts(7) == 7


def test_references_in_a_circle_do_not_crash() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(RecursionError):
        _codec_py.references_to_dicts(circle)


@pytest.mark.parametrize("subtype", [3, 4])
def test_binary_uuids_of_a_wrong_length_are_refused(module: Any, subtype: int) -> None:
    assert module.normalise(Binary(b"x" * 16, subtype))[0] == Binary(b"x" * 16, subtype)
    with pytest.raises(InvalidDocumentError, match="16 bytes"):
        module.normalise(Binary(b"abc", subtype))
