"""Compare the benchmarks of two trees; a table in Markdown, and exit code 1 for what got slower.

``python benchmarks/compare.py RESULTS`` takes ``base-N.json`` and ``head-N.json`` of
pytest-benchmark, measured in turns. Of the passes the middle ratio counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# Of the same code, measured in turns on a busy machine, the ratios lay between 0.98 and 1.01.
MOST = 1.2


@dataclass(frozen=True)
class Row:
    """A benchmark of both trees, or of one.

    Attributes:
        name: What was measured.
        base: Fastest round of the base in microseconds, the middle one of the passes.
        head: The same of the head.
        ratio: Head by base, the middle one of the passes.
    """

    name: str
    base: float | None
    head: float | None
    ratio: float | None

    def line(self, most: float) -> str:
        """Return the row of the table."""
        verdict = ""
        if self.ratio is not None and self.ratio > most:
            verdict = "**slower than allowed**"
        elif self.ratio is not None and self.ratio < 1 / most:
            verdict = "faster"
        elif self.ratio is None:
            verdict = "new" if self.base is None else "gone"
        cells = [
            f"{value:.{digits}f}" if value is not None else ""
            for value, digits in ((self.base, 3), (self.head, 3), (self.ratio, 2))
        ]
        return f"| {self.name} | {' | '.join(cells)} | {verdict} |"


def fastest(path: Path) -> dict[str, float]:
    """Return the fastest rounds of a file, which other work disturbs least, in microseconds."""
    found = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    return {row["name"]: row["stats"]["min"] * 1e6 for row in found}


def compare(folder: Path) -> list[Row]:
    """Return a row for each benchmark.

    Raises:
        SystemExit: There is no complete pass.
    """
    bases = [fastest(path) for path in sorted(folder.glob("base-*.json"))]
    heads = [fastest(path) for path in sorted(folder.glob("head-*.json"))]
    if not bases or len(bases) != len(heads):
        sys.exit(f"compare: {len(bases)} passes of the base, {len(heads)} of the head")
    rows = []
    for name in sorted({name for one in (*bases, *heads) for name in one}):
        pairs = [
            (base[name], head[name])
            for base, head in zip(bases, heads, strict=True)
            if name in base and name in head
        ]
        base = [one[name] for one in bases if name in one]
        head = [one[name] for one in heads if name in one]
        rows.append(
            Row(
                name,
                median(base) if base else None,
                median(head) if head else None,
                median(after / before for before, after in pairs) if pairs else None,
            )
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--most", type=float, default=MOST)
    arguments = parser.parse_args()
    rows = compare(arguments.results)
    slower = [row for row in rows if row.ratio is not None and row.ratio > arguments.most]
    print("### Performance against the base branch\n")
    print("| benchmark | base us | head us | ratio | |\n| --- | ---: | ---: | ---: | --- |")
    for row in rows:
        print(row.line(arguments.most))
    print(f"\n{len(rows)} benchmarks, {len(slower)} above {arguments.most:.2f}.")
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main())
