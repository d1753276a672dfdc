"""Payloads to BSON values: what bson makes of them, and both implementations alike."""

from __future__ import annotations

import math
import os
import re
from collections import OrderedDict
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

import bson
import numpy as np
from bson.binary import Binary, UuidRepresentation
from bson.codec_options import CodecOptions
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpersist import InvalidDocumentError
from fastpersist.hot import _codec_py

IMPLEMENTATIONS: list[ModuleType] = [_codec_py]
if os.environ.get("FASTPERSIST_PURE") != "1":
    with suppress(ImportError):
        IMPLEMENTATIONS.append(import_module("fastpersist.hot._codec_c"))

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True, uuid_representation=UuidRepresentation.STANDARD
)
# What bson adds to a value under the name "": length, type, empty name, end of the document.
OVERHEAD = 4 + 1 + 1 + 1
UTC = timezone.utc
EARLIEST, LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class Side(Enum):
    LONG = "long"
    PAIR = (1.5, {"a": 2})
    NUMBER = 1
    BROKEN = "\ud800"


class Text(str):
    """Equal to nothing but itself, so that a dict takes it beside the same text."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Whole(int):
    pass


class Real(float):
    pass


class Items(list[Any]):
    pass


@dataclass
class Leg:
    price: Any
    side: Any


class Struct:
    __struct_fields__ = ("price",)

    def __init__(self, price: Any) -> None:
        self.price = price


def highest_subtypes() -> list[int]:
    """Return 255 where the driver can write it; its version for Python 3.10 cannot."""
    with suppress(SystemError):
        bson.encode({"v": Binary(b"", 255)})
        return [255]
    return [254]


def viewed(data: bytes) -> memoryview:
    return memoryview(data)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
BOUNDS = [sign * 2**power + step for sign in (1, -1) for power in (31, 53) for step in (-1, 0, 1)]
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(BOUNDS) | st.integers(-9, 9)
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31))
SUBTYPES = st.sampled_from([1, 2, 5, 6, 128, *highest_subtypes()])
PATTERNS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
FLAGS = st.sets(
    st.sampled_from([re.IGNORECASE, re.LOCALE, re.MULTILINE, re.DOTALL, re.UNICODE, re.VERBOSE])
)
DECIMALS = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent),
    st.integers(-(10**25), 10**25),
    st.integers(-6000, 6000),
)

# What BSON holds and gives back as it was.
HELD = st.one_of(
    st.none(),
    st.booleans(),
    INTEGERS,
    st.floats(),
    TEXTS,
    st.binary(max_size=8),
    st.uuids(),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.builds(Binary, st.binary(max_size=8), SUBTYPES),
    st.builds(lambda text, flags: Regex(text, sum(flags)), PATTERNS, FLAGS),
    DECIMALS.map(Decimal128),
    MOMENTS.map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)).map(
        lambda moment: moment.replace(tzinfo=UTC)
    ),
)
DOCUMENTS = st.recursive(
    HELD,
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=15,
)

# What has to change on the way to BSON, or cannot go there.
OFFSETS = st.none() | st.integers(-86_399, 86_399).map(
    lambda seconds: timezone(timedelta(seconds=seconds))
)
CHANGED = st.one_of(
    st.sampled_from(Side),
    st.text(max_size=4),
    st.text(max_size=4).map(Text),
    st.integers(),
    st.integers(-(2**64), 2**64).map(Whole),
    st.integers(-(2**64), 2**64).map(Int64),
    st.floats().map(Real),
    st.decimals(),
    DECIMALS,
    st.datetimes(timezones=st.just(UTC)),
    st.datetimes(timezones=OFFSETS),
    st.binary(max_size=4).map(bytearray),
    st.binary(max_size=4).map(viewed),
    st.builds(Regex, st.text(max_size=3) | st.binary(max_size=3)),
    st.integers(-128, 127).map(np.int8),
    st.integers(0, 2**64 - 1).map(np.uint64),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.booleans().map(np.bool_),
    TEXTS.map(np.str_),
    st.builds(np.datetime64, st.integers(-(2**60), 2**60), st.sampled_from(["ns", "ms", "D"])),
    st.builds(np.timedelta64, st.integers(-9, 9), st.sampled_from(["ns", "s", "D"])),
    st.lists(st.integers(0, 9), max_size=2).map(np.array),
    st.sampled_from([object, Leg, 1j, np.array(1), np.longdouble(1), range(2), UTC]),
    st.sets(st.integers(), max_size=1),
)
ANY_KEYS = st.one_of(
    KEYS,
    st.sampled_from(["a", "b", "long", "a\0", "two words", "x" * 90, "\udfff"]),
    st.sampled_from(["a", "long", "a\0"]).map(Text),
    st.sampled_from([Side.LONG, Side.NUMBER, Side.BROKEN]),
    st.none() | st.integers() | st.binary(max_size=2) | st.tuples(st.none()),
)


def deep(value: Any, levels: int) -> Any:
    """Put a value below many containers."""
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def containers(inner: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> Any:
    items = st.lists(inner, max_size=5)
    mappings = st.dictionaries(keys, inner, max_size=5)
    return st.one_of(
        items,
        mappings,
        items.map(tuple),
        items.map(Items),
        mappings.map(OrderedDict),
        mappings.map(MappingProxyType),
        st.builds(Leg, inner, inner),
        st.builds(Struct, inner),
    )


PAYLOADS = st.recursive(HELD | CHANGED, lambda inner: containers(inner, KEYS), max_leaves=8)
HOSTILE = st.dictionaries(
    ANY_KEYS,
    st.recursive(
        st.one_of(HELD, CHANGED, st.builds(deep, CHANGED, st.integers(90, 110))),
        lambda inner: containers(inner, ANY_KEYS),
        max_leaves=6,
    ),
    max_size=4,
)


def exact(value: Any, *, as_read: bool = False) -> Any:
    """Return a form of a value that tells types, signs and NaN apart.

    Args:
        value: Anything.
        as_read: Take an Int64 for an int, which is how bson reads all integers beyond 32 bits.
    """
    if isinstance(value, dict):
        return type(value), [(key, exact(item, as_read=as_read)) for key, item in value.items()]
    if isinstance(value, list):
        return type(value), [exact(item, as_read=as_read) for item in value]
    if isinstance(value, datetime):
        return type(value), value.isoformat()
    if as_read and type(value) is Int64:
        value = int(value)
    return type(value), repr(value)


def outcome(module: ModuleType, value: Any) -> tuple[Any, ...]:
    """Return the exact result of normalise, or what its refusal says."""
    try:
        normal, size = module.normalise(value)
    except InvalidDocumentError as error:
        return type(error), str(error), error.path
    assert len(bson.encode({"": normal}, codec_options=OPTIONS)) - OVERHEAD == size
    return exact(normal), size


def containers_in(value: Any) -> set[int]:
    """Return the identities of the containers that can be changed."""
    if not isinstance(value, (dict, list)):
        return set()
    inner = value.values() if isinstance(value, dict) else value
    return {id(value)}.union(*map(containers_in, inner))


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS)
def test_what_bson_holds_comes_back(value: Any) -> None:
    before = exact(value)
    for module in IMPLEMENTATIONS:
        normal, size = module.normalise(value)
        assert exact(normal) == exact(value) == before
        assert containers_in(normal).isdisjoint(containers_in(value))
        data = bson.encode({"v": normal}, codec_options=OPTIONS)
        assert size == len(data) - OVERHEAD - 1
        read = bson.decode(data, codec_options=OPTIONS)["v"]
        assert exact(read, as_read=True) == exact(normal, as_read=True)


@settings(max_examples=150, deadline=None)
@given(PAYLOADS)
def test_both_normalise_payloads_alike(value: Any) -> None:
    first, *others = [outcome(module, value) for module in IMPLEMENTATIONS]
    assert all(other == first for other in others)


@settings(max_examples=150, deadline=None)
@given(HOSTILE)
def test_hostile_payloads_are_stored_or_refused_alike(value: dict[Any, Any]) -> None:
    first, *others = [outcome(module, value) for module in IMPLEMENTATIONS]
    assert all(other == first for other in others)
    assert first[0] is not InvalidDocumentError or first[2].startswith("payload")


@settings(max_examples=50, deadline=None)
@given(st.lists(HELD, max_size=3), st.lists(st.sampled_from("ldt"), max_size=5))
def test_circles_are_refused_alike(start: list[Any], steps: list[str]) -> None:
    inner: Any = start
    for step in steps:
        inner = {"l": [inner], "d": {"k": inner}, "t": (inner,)}[step]
    start.append(inner)
    first, *others = [outcome(module, start) for module in IMPLEMENTATIONS]
    assert first[0] is InvalidDocumentError
    assert "more than 100 containers" in first[1]
    assert all(other == first for other in others)


@settings(max_examples=150, deadline=None)
@given(st.datetimes(timezones=OFFSETS))
def test_moments_are_cut_to_milliseconds_of_utc(moment: datetime) -> None:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    for module in IMPLEMENTATIONS:
        try:
            normal, _ = module.normalise(moment)
        except InvalidDocumentError:
            assert not EARLIEST <= aware <= LATEST
        else:
            assert timedelta(0) <= aware - normal < timedelta(milliseconds=1)
            assert normal.tzinfo is UTC
            assert normal.microsecond % 1000 == 0


DOUBLES = st.one_of(
    st.floats(),
    st.integers(-(2**65), 2**65).map(float),
    st.sampled_from([*map(float, BOUNDS), 2.0**63, -(2.0**63), 2.0**63 - 1024]),
)
STORED = st.recursive(
    DOUBLES | HELD,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


def is_large_whole(value: float) -> bool:
    whole = math.isfinite(value) and value == math.floor(value)
    return whole and -(2**63) < value < 2**63 and not -(2**31) <= value < 2**31


def converted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: converted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [converted(item) for item in value]
    return int(value) if isinstance(value, float) and is_large_whole(value) else value


@settings(max_examples=150, deadline=None)
@given(STORED)
def test_whole_doubles_beyond_32_bits_become_int(value: Any) -> None:
    expected = exact(converted(value))
    copy = deepcopy(value)
    result = _codec_py.whole_doubles_to_int(copy)
    assert exact(result) == expected
    if isinstance(copy, (dict, list)):
        assert result is copy
    assert exact(_codec_py.whole_doubles_to_int(result)) == expected


@settings(max_examples=150, deadline=None)
@given(DOUBLES)
def test_converted_doubles_keep_their_value(value: float) -> None:
    result = _codec_py.whole_doubles_to_int(value)
    assert type(result) is (int if is_large_whole(value) else float)
    assert result == value or math.isnan(value)
