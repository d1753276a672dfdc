"""Which implementation of the compiled core runs, each time in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastpersist

FAMILIES = ("keys", "idcache", "codec")
IS_BUILT = all(find_spec(f"fastpersist.hot._{family}_c") for family in FAMILIES)

HIDE = """
import sys

class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.rpartition(".")[2] in {hidden!r}:
            raise ModuleNotFoundError("hidden: " + name, name=name)

sys.meta_path.insert(0, Hidden)
"""

REPORT = """
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastpersist
    from fastpersist.hot import codec, idcache, keys
    has_extensions = fastpersist.has_extensions()
for warning in caught:
    print(warning.category.__name__, str(warning.message)[:46])
print(has_extensions)
print(*[kind.__module__ for kind in (keys.KeyTemplate, idcache.IdCache)])
key = keys.KeyTemplate("ns", [("a", "name")], ["a"])("x")
print(key, keys.slot(b"123456789"), len(idcache.IdCache(1)), codec.normalise({"a": (1,)}))
"""

WARNING = "RuntimeWarning fastpersist runs without its compiled modules:"
WORK = "b'ns:x' 12739 0 ({'a': [1]}, 20)"


def report(*, hidden: tuple[str, ...] = (), pure: str | None = None) -> list[str]:
    """Return what a new process says about its choice."""
    environment = {name: text for name, text in os.environ.items() if name != "FASTPERSIST_PURE"}
    environment["PYTHONPATH"] = str(Path(fastpersist.__file__).parents[1])
    if pure is not None:
        environment["FASTPERSIST_PURE"] = pure
    code = HIDE.format(hidden={f"_{family}_c" for family in hidden}) + REPORT
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def expected(*compiled: str, warns: bool) -> list[str]:
    modules = [
        f"fastpersist.hot._{family}_{'c' if family in compiled else 'py'}" for family in FAMILIES
    ]
    return [
        *([WARNING] if warns else []),
        str(set(compiled) == set(FAMILIES)),
        " ".join(modules[:2]),
        WORK,
    ]


@pytest.mark.parametrize("pure", [None, "", "0"])
def test_compiled_modules_run_where_they_are_built(pure: str | None) -> None:
    compiled = FAMILIES if IS_BUILT else ()
    assert report(pure=pure) == expected(*compiled, warns=not IS_BUILT)


@pytest.mark.parametrize(
    ("hidden", "pure"), [((), "1"), ((), " TRUE "), (("keys",), "yes"), (FAMILIES, "on")]
)
def test_pure_modules_run_silently_when_asked_for(hidden: tuple[str, ...], pure: str) -> None:
    assert report(hidden=hidden, pure=pure) == expected(warns=False)


def test_one_warning_tells_that_no_module_is_compiled() -> None:
    assert report(hidden=FAMILIES) == expected(warns=True)


@pytest.mark.parametrize("hidden", FAMILIES)
def test_one_missing_module_is_enough_for_the_warning(hidden: str) -> None:
    compiled = [family for family in FAMILIES if IS_BUILT and family != hidden]
    assert report(hidden=(hidden,)) == expected(*compiled, warns=True)
