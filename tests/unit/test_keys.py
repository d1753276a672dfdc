"""Keys of Redis from the fields of a context, in both implementations."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from enum import Enum, IntEnum
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from fastpersist import InvalidArgumentError
from fastpersist.hot import _keys_py

IMPLEMENTATIONS: dict[str, ModuleType] = {"pure": _keys_py}
if os.environ.get("FASTPERSIST_PURE") != "1":
    with contextlib.suppress(ImportError):
        IMPLEMENTATIONS["compiled"] = import_module("fastpersist.hot._keys_c")

FIELDS = [("symbol", "name"), ("note", "optional_name"), ("backtest", "mode"), ("at", "timestamp")]
ORDER = ["symbol", "note", "backtest", "at"]


class Text(str):
    __slots__ = ()


class Side(str, Enum):
    LONG = "long"


class Level(IntEnum):
    TEN = 10


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=list(IMPLEMENTATIONS))
def module(request: pytest.FixtureRequest) -> Any:
    return request.param


def key_of(kind: str, module: Any, value: object, prefix: str = "") -> bytes:
    key: bytes = module.KeyTemplate("ns", [("x", kind)], ["x"], prefix)(value)
    return key


def test_a_template_shows_what_it_was_made_from(module: Any) -> None:
    template = module.KeyTemplate("candle", FIELDS, ORDER, "app:")
    assert template.namespace == "candle"
    assert template.fields == ("symbol", "note", "backtest", "at")
    assert template.prefix_bytes == b"app:candle:"


@pytest.mark.parametrize(
    ("order", "key"),
    [
        (ORDER, b"candle:BTC:n:backtest:7"),
        (["at", "backtest", "note", "symbol"], b"candle:7:backtest:n:BTC"),
        (["note", "at", "symbol", "backtest"], b"candle:n:7:BTC:backtest"),
    ],
)
def test_values_stand_in_the_order_of_the_template(
    module: Any, order: list[str], key: bytes
) -> None:
    assert module.KeyTemplate("candle", FIELDS, order)("BTC", "n", True, 7) == key


@pytest.mark.parametrize(
    ("kind", "value", "part"),
    [
        ("name", "BTCUSDT", b"BTCUSDT"),
        ("name", "a:b::", b"a:b::"),
        ("name", " ", b" "),
        ("name", "a\0b", b"a\0b"),
        ("name", "пара", "пара".encode()),
        ("name", "\U0001f680突é\x7f", "\U0001f680突é\x7f".encode()),
        ("name", Text("sub"), b"sub"),
        ("name", Side.LONG, b"long"),
        ("optional_name", "", b""),
        ("optional_name", "x", b"x"),
        ("optional_name", Text(""), b""),
        ("mode", True, b"backtest"),
        ("mode", False, b"live"),
        ("timestamp", 0, b"0"),
        ("timestamp", -1, b"-1"),
        ("timestamp", 1_735_689_600_000, b"1735689600000"),
        ("timestamp", 2**63 - 1, b"9223372036854775807"),
        ("timestamp", 2**63, b"9223372036854775808"),
        ("timestamp", -(2**63), b"-9223372036854775808"),
        ("timestamp", -(2**63) - 1, b"-9223372036854775809"),
        ("timestamp", 10**600, b"1" + b"0" * 600),
        ("timestamp", Level.TEN, b"10"),
    ],
)
def test_parts(module: Any, kind: str, value: object, part: bytes) -> None:
    key = key_of(kind, module, value)
    assert type(key) is bytes
    assert key == b"ns:" + part
    assert key_of(kind, module, value, "é:") == "é:ns:".encode() + part


@pytest.mark.parametrize("length", [*range(500, 516), 600, 5000, 100_000])
@pytest.mark.parametrize("letter", ["a", "é", "突"])
def test_long_names_are_not_cut(module: Any, length: int, letter: str) -> None:
    name = letter * length
    template = module.KeyTemplate("ns", [("a", "name"), ("b", "mode"), ("c", "name")], "abc")
    assert template(name, False, "z") == f"ns:{name}:live:z".encode()
    assert template("z", False, name) == f"ns:z:live:{name}".encode()


@pytest.mark.parametrize("length", [*range(500, 516), 2000])
def test_long_prefixes_are_not_cut(module: Any, length: int) -> None:
    prefix = "p" * length
    for fields in ([], [("a", "optional_name")], [("a", "optional_name"), ("b", "mode")]):
        template = module.KeyTemplate("ns", fields, [name for name, _ in fields], prefix)
        parts = ["", "live"][: len(fields)]
        assert template(*["", False][: len(fields)]) == f"{prefix}ns:{':'.join(parts)}".encode()


def test_no_fields_leave_the_namespace(module: Any) -> None:
    assert module.KeyTemplate("ns", [], [], "p:")() == b"p:ns:"


def test_different_contexts_may_share_a_key(module: Any) -> None:
    template = module.KeyTemplate("ns", [("a", "name"), ("b", "name")], "ab")
    assert template("x:y", "z") == template("x", "y:z") == b"ns:x:y:z"


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("name", "", "must not be empty"),
        ("name", Text(""), "must not be empty"),
        ("name", None, "expected a text, got NoneType"),
        ("name", b"a", "expected a text, got bytes"),
        ("name", 1, "expected a text, got int"),
        ("name", ["a"], "expected a text, got list"),
        ("name", "a\ud800", "holds a lone surrogate, which UTF-8 cannot encode"),
        ("name", Text("\udfff"), "holds a lone surrogate, which UTF-8 cannot encode"),
        ("optional_name", None, "expected a text, got NoneType"),
        ("optional_name", "\udc00", "holds a lone surrogate, which UTF-8 cannot encode"),
        ("mode", 1, "expected a bool, got int"),
        ("mode", 0, "expected a bool, got int"),
        ("mode", None, "expected a bool, got NoneType"),
        ("mode", "live", "expected a bool, got str"),
        ("timestamp", True, "expected an int, got bool"),
        ("timestamp", 1.0, "expected an int, got float"),
        ("timestamp", "1", "expected an int, got str"),
        ("timestamp", None, "expected an int, got NoneType"),
    ],
)
def test_wrong_values_name_their_field(module: Any, kind: str, value: object, message: str) -> None:
    template = module.KeyTemplate("ns", [("a", "name"), ("wrong", kind)], ["wrong", "a"])
    with pytest.raises(InvalidArgumentError) as caught:
        template("fine", value)
    assert caught.value.field == "wrong"
    assert str(caught.value) == f"wrong: {message}"


def test_the_first_wrong_value_in_the_order_of_the_fields_is_named(module: Any) -> None:
    template = module.KeyTemplate("ns", FIELDS, ORDER[::-1])
    with pytest.raises(InvalidArgumentError) as caught:
        template("a", 1, 2, "3")
    assert caught.value.field == "note"


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", True), ("a", "b", True, 1, 2)])
def test_the_number_of_values_is_checked(module: Any, values: Sequence[object]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"takes 4 fields, got {len(values)}") as caught:
        module.KeyTemplate("candle", FIELDS, ORDER)(*values)
    assert caught.value.field == "candle"


@pytest.mark.parametrize(
    ("fields", "order", "message"),
    [
        ([("a", "number")], ["a"], "unknown kind 'number'"),
        ([("a", "name")], [], "must name each of"),
        ([("a", "name")], ["b"], "must name each of"),
        ([("a", "name")], ["a", "a"], "must name each of"),
        ([("a", "name"), ("a", "name")], ["a", "a"], "must name each of"),
        ([], ["a"], "must name each of"),
    ],
)
def test_wrong_templates_are_refused(
    module: Any, fields: list[tuple[str, str]], order: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module.KeyTemplate("ns", fields, order)


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"", 0),
        (b"123456789", 12739),
        (b"foo", 12182),
        (b"bar", 5061),
        (b"foo{bar}", 5061),
        (b"{bar}foo", 5061),
        (b"foo{bar}{zap}", 5061),
        (b"foo{bar}}", 5061),
        (b"}{bar}", 5061),
        (b"somekey", 11058),
        (b"foo{hash_tag}", 2515),
        (b"bar{hash_tag}", 2515),
    ],
)
def test_slots_known_from_redis(module: Any, key: bytes, slot: int) -> None:
    assert module.slot(key) == slot


@pytest.mark.parametrize("key", [b"foo{}{bar}", b"{}bar", b"foo{bar", b"foo}bar", b"}foo{", b"{}"])
def test_keys_without_a_tag_are_hashed_whole(module: Any, key: bytes) -> None:
    # Inside braces the same bytes would be cut at their own braces, so the rule is written out.
    whole = 0
    for byte in key:
        whole ^= byte << 8
        for _ in range(8):
            whole = whole << 1 ^ (0x1021 if whole & 0x8000 else 0)
            whole &= 0xFFFF
    assert module.slot(key) == whole % 16384


def test_only_the_first_brace_opens_a_tag(module: Any) -> None:
    assert module.slot(b"foo{{bar}}zap") == module.slot(b"x{{bar}") != module.slot(b"bar")


@pytest.mark.parametrize("key", ["text", None, 1])
def test_slots_are_of_bytes(module: Any, key: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        module.slot(key)
