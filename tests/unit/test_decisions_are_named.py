"""Every decision about what is stored and answered has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SUBJECTS = (
    "Names in Python",
    "Absent",
    "Times",
    "Numbers written",
    "Numbers read",
    "Context of a document [1]",
    "Context of a document [2]",
    "Context of a document [6]",
    "Malformed or foreign ids in Redis [3]",
    "Registry memo [4]",
    "has_memory_data [5]",
    "Lists [7]",
    "Clearing [8]",
    "Bulk [9]",
    "Bulk [10]",
    "Start [11]",
    "Start [12]",
    "Half-done writes [13]",
    "Soft-removed and written again [14]",
    "Soft-removed and written again [19]",
    "Unfinished candles [15]",
    "Candle written again [16]",
    "Old rows [17]",
    "Validation [20]",
    "Log written again",
    "Files family",
)


def docstrings() -> list[str]:
    """Return the docstrings of all tests."""
    pattern = re.compile(
        r'^(?:async )?def test_[^\n]*?(?:\([^)]*\))[^\n]*:\n    """(.*?)"""', re.M | re.S
    )
    texts = (path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    return [found for text in texts for found in pattern.findall(text)]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_test_names_it(subject: str) -> None:
    assert any(subject in text for text in docstrings())
