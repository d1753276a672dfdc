"""Which wheels a release has: what ``[tool.cibuildwheel]`` stands for.

``python tools/wheel_tags.py`` prints cibuildwheel's identifiers; with the folder of a release it
exits with 1 unless there is exactly one wheel for each of them, and one sdist.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TREE = Path(__file__).resolve().parents[1]


def identifiers() -> list[str]:
    """Return what cibuildwheel makes of the configuration, for all platforms."""
    text = (TREE / "pyproject.toml").read_text(encoding="utf-8")
    configuration = tomllib.loads(text)["tool"]["cibuildwheel"]
    found: list[str] = []
    for platform in ("linux", "macos", "windows"):
        command = [
            *(sys.executable, "-m", "cibuildwheel", "--print-build-identifiers"),
            *("--platform", platform, "--archs", ",".join(configuration[platform]["archs"])),
        ]
        done = subprocess.run(command, cwd=TREE, check=True, capture_output=True, text=True)
        found += done.stdout.split()
    return sorted(found)


def identifier_of(wheel: str) -> str:
    """Return the identifier that a wheel's file name belongs to."""
    python, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    name = platforms.split(".")[0]
    family = "manylinux" if name.startswith("manylinux") else name.split("_")[0]
    if family in ("manylinux", "musllinux"):
        architecture = "aarch64" if name.endswith("aarch64") else "x86_64"
        platform = f"{family}_{architecture}"
    elif family == "macosx":
        platform = f"macosx_{'arm64' if name.endswith('arm64') else 'x86_64'}"
    else:
        platform = name
    return f"{python}{'t' if abi.endswith('t') else ''}-{platform}"


def main() -> int:
    expected = identifiers()
    if len(sys.argv) < 2:
        print("\n".join(expected))
        return 0
    folder = Path(sys.argv[1])
    there = sorted(identifier_of(path.name) for path in folder.glob("*.whl"))
    sdists = list(folder.glob("*.tar.gz"))
    print(f"{len(there)} wheels and {len(sdists)} sdist, {len(expected)} wheels expected")
    for name in sorted(set(expected) - set(there)):
        print(f"missing: {name}")
    for name in sorted(set(there) - set(expected)):
        print(f"not expected: {name}")
    return int(there != expected or len(sdists) != 1)


if __name__ == "__main__":
    sys.exit(main())
