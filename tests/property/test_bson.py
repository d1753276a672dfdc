"""BSON written and read by the compiled module, its twin and the driver."""

from __future__ import annotations

import contextlib
import math
import os
import random
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from importlib import import_module
from types import ModuleType
from typing import Any

import bson
from bson import Binary, DatetimeMS, Decimal128, Int64, ObjectId, Regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpersist.errors import CorruptDataError, InvalidDocumentError
from fastpersist.hot import _bson_py
from fastpersist.hot.codec import normalise

IMPLEMENTATIONS: list[ModuleType] = [_bson_py]
if os.environ.get("FASTPERSIST_PURE") != "1":
    with contextlib.suppress(ImportError):
        IMPLEMENTATIONS.append(import_module("fastpersist.hot._bson_c"))

TEXTS = st.text(max_size=12) | st.text("aé€\U0001f600\0", max_size=4)
KEYS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30))
ZONES = st.sampled_from(
    [None, timezone.utc, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31) - 2, 2**31 + 2),
    st.floats(),
    TEXTS.filter(lambda text: text.isascii() or text.encode("utf-8", "ignore") != b""),
    st.binary(max_size=20),
    st.builds(lambda moment, zone: moment.replace(tzinfo=zone), MOMENTS, ZONES),
    st.uuids(),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(
        lambda number: Decimal(number) % 10**20
    ),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.integers(-(2**55), 2**55).map(DatetimeMS),
    st.binary(max_size=5).map(lambda content: Binary(content, 128)),
    st.just(Binary(b"old", 2)),
    st.just(Decimal128("1.50")),
    st.just(Regex("a.c", "i")),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=12)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=25,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=6)


def outcome(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except (CorruptDataError, InvalidDocumentError) as error:
        return type(error), str(error)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@settings(max_examples=300)
@given(DOCUMENTS)
@example({"": None, "_id": None})
def test_bytes_are_those_of_the_driver(document: dict[str, Any]) -> None:
    def by_driver(path: str) -> bytes:
        normal = normalise(document, path or "x")[0]
        if not path:
            return bson.encode(normal, codec_options=_bson_py.OPTIONS)
        return bson.encode({"v": normal}, codec_options=_bson_py.OPTIONS)[7:-1]

    for path in ("payload", ""):
        expected = outcome(by_driver, path)
        for module in IMPLEMENTATIONS:
            found = outcome(module.encode, document, path)
            assert found == expected if path else type(found) is type(expected)
            assert isinstance(found, tuple) or found == expected


@settings(max_examples=300)
@given(DOCUMENTS)
def test_what_was_written_is_read_as_the_driver_reads_it(document: dict[str, Any]) -> None:
    try:
        encoded = _bson_py.encode(document)
    except InvalidDocumentError:
        return
    expected = bson.decode(encoded, _bson_py.OPTIONS)
    for module in IMPLEMENTATIONS:
        assert same(module.decode(encoded), expected)
        assert same(module.decode(b"??" + encoded + b"rest", 2), expected)
        for name in list(expected)[:2]:
            assert same(module.decode(encoded, 0, (name,)), {name: expected[name]})
        assert module.split(encoded * 3) == [encoded] * 3


@settings(max_examples=300)
@given(DOCUMENTS, st.integers(0, 2**32))
def test_damaged_bytes_get_one_answer_and_no_crash(document: dict[str, Any], seed: int) -> None:
    try:
        encoded = bytearray(_bson_py.encode(document))
    except InvalidDocumentError:
        return
    chance = random.Random(seed)
    for _ in range(30):
        damaged = bytearray(encoded)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.choice(
                (0, 1, 2, 3, 4, 5, 15, 255, chance.randrange(256))
            )
        given_bytes = bytes(damaged[: chance.randint(0, len(damaged))] if seed % 3 else damaged)
        answers = [outcome(module.decode, given_bytes) for module in IMPLEMENTATIONS]
        assert all(same(answers[0], answer) for answer in answers), given_bytes
        for module in IMPLEMENTATIONS:
            outcome(module.split, given_bytes)
            outcome(module.reply_documents, given_bytes)


@given(st.binary(max_size=60))
def test_any_bytes_get_one_answer(data: bytes) -> None:
    framed = (len(data) + 5).to_bytes(4, "little") + data + b"\0"
    for given_bytes in (data, framed):
        answers = [outcome(module.decode, given_bytes) for module in IMPLEMENTATIONS]
        assert all(same(answers[0], answer) for answer in answers)


@given(
    st.lists(DOCUMENTS, max_size=4),
    st.sampled_from(["firstBatch", "nextBatch"]),
    st.integers(-(2**63), 2**63 - 1),
)
def test_what_a_reply_holds_is_found(
    documents: list[dict[str, Any]], batch: str, cursor_id: int
) -> None:
    with contextlib.suppress(InvalidDocumentError):
        encoded = [_bson_py.encode(document) for document in documents]
        reply = bson.encode(
            {
                "extra": {"a": [1, "x"]},
                "cursor": {
                    batch: [bson.raw_bson.RawBSONDocument(one) for one in encoded],
                    "id": Int64(cursor_id),
                    "ns": "a.b",
                },
                "ok": 1.0,
            }
        )
        for module in IMPLEMENTATIONS:
            assert module.reply_documents(reply, batch) == encoded
            assert module.reply_cursor_id(reply) == cursor_id


@given(st.binary(max_size=60), st.integers(0, 2**32))
def test_a_damaged_reply_gets_one_answer(data: bytes, seed: int) -> None:
    reply = bytearray(
        bson.encode({"cursor": {"id": Int64(5), "firstBatch": [{"a": data}]}, "ok": 1})
    )
    chance = random.Random(seed)
    for _ in range(chance.randint(0, 3)):
        reply[chance.randrange(len(reply))] = chance.randrange(256)
    damaged = bytes(reply[: chance.randint(0, len(reply))] if seed % 2 else reply)
    for name in ("reply_cursor_id", "reply_documents"):
        answers = [outcome(getattr(module, name), damaged) for module in IMPLEMENTATIONS]
        assert all(same(answers[0], answer) for answer in answers), damaged
