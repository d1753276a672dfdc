"""Build the sdist, wheels from it with several Pythons, and try each one as installed.

``python tools/wheels.py --output dist python3.10 python3.13 ...``; without names every CPython
from 3.10 on that PATH has. Linux wheels are repaired by auditwheel where it can.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
VERSIONS = range(10, 15)


def call(*command: object, cwd: Path | None = None) -> str:
    """Run a command outside of the tree and return its output; end with it if it fails."""
    environ = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environ["PATH"]])
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environ, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{done.stdout}\nwheels: failed: {' '.join(map(str, command))}")
    return done.stdout


def pythons(names: list[str]) -> list[str]:
    """Return the interpreters that are there and run."""
    found = []
    for name in names or [f"python3.{minor}" for minor in VERSIONS]:
        path = shutil.which(name)
        check = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))"
        done = path and subprocess.run([path, "-c", check], check=False, capture_output=True)
        if path and done and not done.returncode:
            found.append(path)
        elif names:
            sys.exit(f"wheels: {name} is no CPython from 3.10 on with venv")
    return found or [sys.executable]


def repair(wheel: Path, output: Path) -> Path:
    """Return the wheel for many Linuxes, or as it is."""
    shutil.rmtree(output, ignore_errors=True)
    if sys.platform == "linux":
        command = [sys.executable, "-m", "auditwheel", "repair", "-w", str(output), str(wheel)]
        scripts = str(Path(sys.executable).parent)
        environ = {**os.environ, "PATH": os.pathsep.join([scripts, os.environ["PATH"]])}
        done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
        if not done.returncode:
            return next(output.glob("*.whl"))
        print(f"not repaired: {done.stderr.strip().splitlines()[-1]}")
    return wheel


def environment(python: str, folder: Path) -> Path:
    """Make an environment and return its interpreter; a distribution's own Python may lack pip."""
    call(python, "-m", "venv", folder)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def build(own: Path, sdist: Path, folder: Path) -> Path:
    """Build a wheel from the sdist and return it."""
    command = ("wheel", "--quiet", "--disable-pip-version-check", "--no-deps")
    call(own, "-m", "pip", *command, "--wheel-dir", folder, sdist, cwd=sdist.parent)
    return next(folder.glob("*.whl"))


def try_out(own: Path, wheel: Path, folder: Path) -> str:
    """Install the wheel into that environment, and return what it says there."""
    tests = [f"{wheel}[cli,numpy]", "hypothesis", "pytest", "pytest-asyncio", "pytest-timeout"]
    call(own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *tests)
    call(own, "-c", "import fastpersist; assert fastpersist.has_extensions()", cwd=folder)
    # As cibuildwheel does it: the tests without the sources.
    for name in ("benchmarks", "examples", "tests", "tools"):
        shutil.copytree(TREE / name, folder / name)
    shutil.copy(TREE / "pyproject.toml", folder)
    said = call(own, "tools/check_wheel.py", cwd=folder).splitlines()[-1]
    hot = call(
        *(own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "@tools/wheel_tests.txt"), cwd=folder
    )
    return f"{said}; {hot.splitlines()[-1].strip('= ')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=TREE / "dist")
    parser.add_argument("pythons", nargs="*")
    arguments = parser.parse_args()
    output: Path = arguments.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        call(sys.executable, "-m", "build", "--sdist", "--outdir", output, TREE, cwd=work)
        sdist = next(output.glob("*.tar.gz"))
        print(f"{sdist.name}: {sdist.stat().st_size:,} bytes", flush=True)
        for number, python in enumerate(pythons(arguments.pythons)):
            started = time.monotonic()
            folder = work / str(number)
            own = environment(python, folder / "venv")
            wheel = repair(build(own, sdist, folder / "built"), folder / "repaired")
            wheel = Path(shutil.copy(wheel, output))
            seconds = time.monotonic() - started
            print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {seconds:.0f} s", flush=True)
            print(f"  {try_out(own, wheel, folder)}", flush=True)


if __name__ == "__main__":
    main()
