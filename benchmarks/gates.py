"""Compare measured medians with the bounds of ``gates.toml``; exit with 1 when one falls.

``python benchmarks/gates.py RESULTS.json ...`` takes the files of ``run.py --json`` and of
pytest-benchmark's ``--benchmark-json``; of several passes the middle ratio counts, since contender
and baseline of one pass are measured one after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Medians = dict[tuple[str, str | None], float]

BOUNDS = Path(__file__).with_name("gates.toml")


@dataclass(frozen=True)
class Gate:
    """A bound on the ratio of two medians of one run, or on one median in microseconds.

    Attributes:
        what: The comparison that both belong to.
        contender: The name under which ours was measured.
        most: The most that the contender may take, in units of the baseline.
        baseline: The name that it is compared with; without one `most` is in microseconds.
        reason: Where the bound comes from.
    """

    what: str
    contender: str
    most: float
    reason: str
    baseline: str | None = None

    def ratio(self, passes: Sequence[Medians]) -> float | None:
        """Return contender over baseline, or the contender's microseconds; None if not measured."""
        ours, other = (self.what, self.contender), (self.what, self.baseline)
        if self.baseline is None:
            ratios = [medians[ours] for medians in passes if ours in medians]
        else:
            ratios = [
                medians[ours] / medians[other]
                for medians in passes
                if ours in medians and other in medians
            ]
        return median(ratios) if ratios else None


def load_gates(path: Path = BOUNDS) -> list[Gate]:
    """Return the gates of a file."""
    return [Gate(**gate) for gate in tomllib.loads(path.read_text())["gate"]]


def medians_of(results: Any) -> Medians:
    """Return the medians of one file of results, by comparison and name."""
    if isinstance(results, dict):
        return {
            (row["group"], row["params"]["kind"]): row["stats"]["median"]
            for row in results["benchmarks"]
        }
    return {(row["what"], row["name"]): row["microseconds"] for row in results}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    passes = [medians_of(json.loads(path.read_text())) for path in parser.parse_args().results]
    fallen = 0
    for gate in load_gates():
        ratio = gate.ratio(passes)
        if ratio is None:
            print(f"NOT MEASURED  {gate.what}: {gate.contender} / {gate.baseline or '1 us'}")
            fallen += 1
            continue
        verdict = "ok" if ratio <= gate.most else "FALLEN"
        fallen += verdict != "ok"
        print(
            f"{verdict:<8}{ratio:>10.3f} of at most {gate.most:<10.3f}"
            f"{gate.what}: {gate.contender} / {gate.baseline or '1 us'}"
        )
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())
