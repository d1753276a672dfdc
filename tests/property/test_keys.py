"""Keys of Redis from arbitrary contexts: rules, and both implementations alike."""

from __future__ import annotations

import contextlib
import os
from importlib import import_module
from types import ModuleType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from fastpersist import InvalidArgumentError
from fastpersist.hot import _keys_py

IMPLEMENTATIONS: list[ModuleType] = [_keys_py]
if os.environ.get("FASTPERSIST_PURE") != "1":
    with contextlib.suppress(ImportError):
        IMPLEMENTATIONS.append(import_module("fastpersist.hot._keys_c"))


class Text(str):
    __slots__ = ()


class Number(int):
    pass


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
LONG_TEXTS = st.tuples(TEXTS, st.integers(1, 300)).map(lambda pair: pair[0] * pair[1])
VALUES = {
    "name": st.one_of(TEXTS, LONG_TEXTS).filter(bool),
    "optional_name": st.one_of(TEXTS, LONG_TEXTS),
    "mode": st.booleans(),
    "timestamp": st.integers() | st.integers(-(2**70), 2**70),
}
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.text().map(Text),
    st.integers().map(Number),
    st.binary(),
    st.lists(st.none(), max_size=1),
    st.integers(505, 515).map("x".__mul__),
)


@st.composite
def templates(draw: st.DrawFn) -> tuple[tuple[Any, ...], list[tuple[str, str]], list[str]]:
    """Arguments of a template, its fields and their order."""
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), max_size=6))
    fields = [(f"f{index}", kind) for index, kind in enumerate(kinds)]
    order = draw(st.permutations([name for name, _ in fields]))
    return (draw(TEXTS), fields, order, draw(TEXTS | LONG_TEXTS)), fields, order


def outcome(call: Any, *args: object) -> tuple[Any, ...]:
    """Return a result, or what an error says."""
    try:
        result = call(*args)
    except InvalidArgumentError as error:
        return type(error), str(error), error.field
    except Exception as error:
        return type(error), str(error)
    return type(result), result


def written(kind: str, value: Any) -> str:
    return ("backtest" if value else "live") if kind == "mode" else str(value)


@settings(max_examples=200, deadline=None)
@given(templates(), st.data())
def test_a_key_joins_its_parts(template: Any, data: st.DataObject) -> None:
    args, fields, order = template
    context = {name: data.draw(VALUES[kind]) for name, kind in fields}
    parts = [written(dict(fields)[name], context[name]) for name in order]
    expected = f"{args[3]}{args[0]}:{':'.join(parts)}".encode()
    for module in IMPLEMENTATIONS:
        assert module.KeyTemplate(*args)(*context.values()) == expected


@settings(max_examples=400, deadline=None)
@given(templates(), st.data())
def test_both_treat_arbitrary_values_alike(template: Any, data: st.DataObject) -> None:
    args, fields, _ = template
    values = [data.draw(st.one_of(ANYTHING, VALUES[kind])) for _, kind in fields]
    values += data.draw(st.sampled_from([[], [], [], [None]]))
    first, *others = [outcome(module.KeyTemplate(*args), *values) for module in IMPLEMENTATIONS]
    assert first[0] in (bytes, InvalidArgumentError)
    assert all(other == first for other in others)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(
        st.text(),
        st.lists(
            st.tuples(st.sampled_from("abc"), st.sampled_from([*VALUES, "other"])), max_size=4
        ),
        st.lists(st.sampled_from("abcd"), max_size=4),
        st.text(),
    )
)
def test_both_refuse_the_same_templates(args: Any) -> None:
    first, *others = [
        outcome(lambda module=module: module.KeyTemplate(*args).prefix_bytes)
        for module in IMPLEMENTATIONS
    ]
    assert all(other == first for other in others)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([b"{", b"}", b"a"]) | st.binary(max_size=8)).map(b"".join))
def test_slots_are_those_of_the_redis_client(key: bytes) -> None:
    for module in IMPLEMENTATIONS:
        assert module.slot(key) == key_slot(key)
