"""``benchmarks/compare.py``: what got slower than the base branch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import compare


def write(folder: Path, name: str, **microseconds: float) -> None:
    rows = [{"name": key, "stats": {"min": us / 1e6}} for key, us in microseconds.items()]
    (folder / f"{name}.json").write_text(json.dumps({"benchmarks": rows}))


def test_the_middle_of_passes_counts_and_each_is_compared_with_its_own(tmp_path: Path) -> None:
    # The machine was twice as slow in the second pass, and something disturbed the third head.
    for number, (base, head) in enumerate([(1.0, 1.1), (2.0, 2.2), (1.0, 9.0)]):
        write(tmp_path, f"base-{number}", key=base)
        write(tmp_path, f"head-{number}", key=head)
    (row,) = compare.compare(tmp_path)
    assert row.ratio == pytest.approx(1.1)


@pytest.mark.parametrize(("head", "code"), [(1.15, 0), (1.3, 1)])
def test_what_got_slower_is_named_and_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    head: float,
    code: int,
) -> None:
    write(tmp_path, "base-1", key=1.0, gone=1.0, encode=2.0)
    write(tmp_path, "head-1", key=head, new=1.0, encode=1.0)
    monkeypatch.setattr(sys, "argv", ["compare.py", str(tmp_path)])
    assert compare.main() == code
    shown = capsys.readouterr().out
    assert ("| key | 1.000 | 1.300 | 1.30 | **slower than allowed** |" in shown) == bool(code)
    assert "| encode | 2.000 | 1.000 | 0.50 | faster |" in shown
    assert "| gone | 1.000 |  |  | gone |" in shown
    assert "| new |  | 1.000 |  | new |" in shown


def test_passes_that_miss_their_other_half_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "base-1", key=1.0)
    with pytest.raises(SystemExit, match="1 passes of the base, 0 of the head"):
        compare.compare(tmp_path)
