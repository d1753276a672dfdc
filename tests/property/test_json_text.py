"""JSON text of arbitrary payloads (contract 5.2, 5.3), against the standard library and rules."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastpersist.adapters.json_text import from_json, to_json

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
# Larger whole doubles are written with their shortest digits, which an exact reader takes for
# another integer; the numbers have a test of their own.
EXACT = st.floats().filter(lambda number: abs(number) < 2**53 or not math.isfinite(number))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | EXACT
KEYS = TEXTS | st.integers(0, 2**33).map(str)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=30,
)

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*[1-9])?(e[+-]\d+)?")


def without_infinity(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [without_infinity(item) for item in value]
    if isinstance(value, dict):
        return {key: without_infinity(item) for key, item in value.items()}
    return value


@given(VALUES)
def test_text_holds_the_value(value: Any) -> None:
    text = to_json(value)
    assert json.loads(text) == without_infinity(value)
    assert from_json(text) == without_infinity(value)
    assert b"\n" not in text


@given(VALUES)
def test_text_is_stable(value: Any) -> None:
    text = to_json(value)
    assert to_json(from_json(text), rewrite=True) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_have_the_form_of_ecmascript(value: float) -> None:
    text = to_json(value).decode()
    assert _NUMBER.fullmatch(text)
    assert float(text) == value
    magnitude = abs(Decimal(text))
    assert ("e" in text) == (magnitude != 0 and not Decimal("1e-6") <= magnitude < Decimal("1e21"))
    mantissa = text.partition("e")[0].lstrip("-")
    if "e" in text:
        assert re.fullmatch(r"[1-9](\.\d+)?", mantissa)
    assert len(re.sub(r"\D", "", mantissa).strip("0")) <= 17


@given(st.dictionaries(KEYS, st.none()))
def test_keys_are_in_the_order_of_ecmascript(value: dict[str, None]) -> None:
    written = list(json.loads(to_json(value)))
    indexes = [key for key in value if key.isascii() and key.isdigit() and str(int(key)) == key]
    indexes = sorted((key for key in indexes if int(key) < 2**32 - 1), key=int)
    assert written == indexes + [key for key in value if key not in indexes]
