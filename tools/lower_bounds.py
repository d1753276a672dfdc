"""Print the oldest versions that ``pyproject.toml`` allows, as a constraints file for pip.

They are those of the dependencies and of all extras but ``dev`` and ``docs``: what runs, not what
tests it or tells of it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TREE = Path(__file__).resolve().parents[1]
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?:>=|==)\s*([^,;\s]+)")


def lower_bounds(text: str) -> list[str]:
    """Return the constraints that follow from a ``pyproject.toml``.

    Raises:
        ValueError: A requirement has no lower bound.
    """
    project = tomllib.loads(text)["project"]
    requirements = list(project["dependencies"])
    for extra, names in project["optional-dependencies"].items():
        requirements += names if extra not in ("dev", "docs") else []
    found = []
    for requirement in requirements:
        match = REQUIREMENT.match(requirement)
        if match is None:
            raise ValueError(f"no lower bound: {requirement}")
        _, semicolon, marker = requirement.partition(";")
        condition = f"; {marker.strip()}" if semicolon else ""
        found.append(f"{match[1]}=={match[2]}{condition}")
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(lower_bounds((TREE / "pyproject.toml").read_text(encoding="utf-8"))))
