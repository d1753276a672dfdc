"""Compare the adapters with the plain drivers and print a table of medians.

``python benchmarks/run.py``, or ``--short`` with fewer rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
from dataclasses import asdict
from pathlib import Path

import pymongo
import redis

import fastpersist
from imports import import_time
from stores import compare_stores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    build = "compiled" if fastpersist.has_extensions() else "PURE PYTHON"
    print(
        f"fastpersist {fastpersist.__version__} ({build}), Python {platform.python_version()}, "
        f"pymongo {pymongo.version}, redis {redis.__version__}; medians of interleaved rounds"
    )
    results = asyncio.run(compare_stores(rounds=7 if arguments.short else 21))
    results.append(import_time(rounds=5 if arguments.short else 15))
    previous = ""
    for result in results:
        if result.what != previous:
            print(f"\n{result.what}")
            previous = result.what
        print(f"  {result.name:<34}{result.microseconds:>10.1f} us{result.ratio:>8.2f} x")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in results], indent=1))


if __name__ == "__main__":
    main()
