"""Batches of stored candles to columns: what bson reads, and both implementations alike."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

import bson
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from fastpersist.errors import CorruptDataError
from fastpersist.hot import _columns_py

IMPLEMENTATIONS: list[ModuleType] = [_columns_py]
if os.environ.get("FASTPERSIST_PURE") != "1":
    with suppress(ImportError):
        IMPLEMENTATIONS.append(import_module("fastpersist.hot._columns_c"))

NAMES = ("timestamp", "open", "high", "low", "close", "volume")

numbers = st.one_of(
    st.floats(),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
)
others = st.sampled_from([None, True, "text", b"bytes", [1, "a"], {"open": 1.0}, bson.ObjectId()])


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    values = {name: draw(numbers) for name in NAMES}
    values |= draw(st.dictionaries(st.sampled_from(("_id", "openx", "ope", "x", "")), others))
    values |= draw(st.one_of(st.just({}), st.dictionaries(st.sampled_from(NAMES), others)))
    keys = draw(st.one_of(st.just(list(values)), st.permutations(list(values))))
    return {key: values[key] for key in keys}


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def expected(rows: list[dict[str, Any]]) -> list[list[str]]:
    found = []
    for row in rows:
        if not all(is_number(row.get(name)) for name in NAMES):
            continue
        moment = row["timestamp"]
        if isinstance(moment, float) and not (
            moment.is_integer() and -(2.0**63) <= moment < 2.0**63
        ):
            continue
        found.append([repr(int(moment)), *(repr(float(row[name])) for name in NAMES[1:])])
    return found


def outcome(module: Any, batches: list[bytes]) -> Any:
    try:
        columns = module.columns_from_batches(batches)
    except CorruptDataError as error:
        return str(error)
    return [[repr(v) for v in row.values()] for row in module.rows(columns)], columns.skipped


@given(st.lists(st.lists(documents(), max_size=5), max_size=3))
def test_columns_hold_what_bson_reads(groups: list[list[dict[str, Any]]]) -> None:
    batches = [b"".join(map(bson.encode, group)) for group in groups]
    rows = [row for batch in batches for row in bson.decode_all(batch)]
    kept = expected(rows)
    for module in IMPLEMENTATIONS:
        assert outcome(module, batches) == (kept, len(rows) - len(kept))


@given(st.lists(documents(), min_size=1, max_size=3), st.data())
def test_damaged_batches_are_read_alike(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    batch = bytearray(b"".join(map(bson.encode, rows)))
    for _ in range(data.draw(st.integers(0, 3))):
        batch[data.draw(st.integers(0, len(batch) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(batch[: data.draw(st.integers(0, len(batch)))])
    for each in (damaged, bytes(batch)):
        results = [outcome(module, [each]) for module in IMPLEMENTATIONS]
        assert all(result == results[0] for result in results)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_read_alike(body: bytes) -> None:
    framed = (len(body) + 5).to_bytes(4, "little") + body + b"\0"
    for each in (body, framed):
        results = [outcome(module, [each]) for module in IMPLEMENTATIONS]
        assert all(result == results[0] for result in results)
