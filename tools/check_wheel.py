"""What an installed wheel has to do: load its compiled modules and run the example.

``python tools/check_wheel.py`` takes the fastpersist of the Python that it runs under, which may
not be the one of this tree.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import fastpersist
from wave_candles import write_candles

TREE = Path(__file__).resolve().parents[1]
EXAMPLE = TREE / "examples" / "ema_cross.py"


def run(folder: Path, *further: str) -> dict[str, Any]:
    """Replay the example with its state in files, and return what it printed."""
    command = [
        *(sys.executable, "-m", "fastpersist", "run", str(EXAMPLE), "--json"),
        *("--candles", "BTCUSDT-1m.csv", "--files", "state", *further),
    ]
    done = subprocess.run(command, cwd=folder, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the example ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    package = Path(fastpersist.__file__).resolve().parent
    if TREE / "src" in package.parents:
        sys.exit(f"{package} is not an installed wheel")
    if not fastpersist.has_extensions():
        sys.exit("the compiled modules did not load")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_candles(folder / "BTCUSDT-1m.csv")
        first = run(folder)
        again = run(folder)
    if not first["bars"] or not first["total"]["signals"]:
        sys.exit(f"the example did nothing: {first}")
    if again["resumed_from"] != first["bars"] or again["total"] != first["total"]:
        sys.exit("the second run did not find the first one's result")
    print(
        f"fastpersist {fastpersist.__version__}, {sys.version.split()[0]}: compiled, "
        f"{first['bars']:,} bars, {first['total']['signals']} signals"
    )


if __name__ == "__main__":
    main()
