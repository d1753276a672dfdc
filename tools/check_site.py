"""Checks a built site: ``python tools/check_site.py FOLDER``.

It may load nothing from elsewhere, and its reference has to have every public name.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import fastpersist
from fastpersist import contracts, runner

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
IN_STYLES = re.compile(r"(?:url\(|@import\s)\s*[\"']?((?:https?:)?//[^\"')\s]+)")
OTHER_RELATIONS = ("canonical", "prev", "next")


class Loads(HTMLParser):
    """Collects what a page makes the browser fetch from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an address of another host."""
        values = dict(attrs)
        address = values.get(LOADING.get(tag, "")) or ""
        if tag == "link" and values.get("rel") in OTHER_RELATIONS:
            return
        if address.startswith(("http:", "https:", "//")):
            self.found.append(address)


def foreign(folder: Path) -> list[str]:
    """Return a line for each address that a page or a style sheet loads from elsewhere."""
    lines: list[str] = []
    for path in sorted(folder.rglob("*.html")):
        loads = Loads()
        loads.feed(path.read_text(encoding="utf-8"))
        lines += [f"{path}: {address}" for address in loads.found]
    for path in sorted(folder.rglob("*.css")):
        lines += [f"{path}: {found}" for found in IN_STYLES.findall(path.read_text("utf-8"))]
    return lines


def undocumented(folder: Path) -> list[str]:
    """Return the public names that have no place in the reference."""
    pages = (path.read_text(encoding="utf-8") for path in (folder / "reference").rglob("*.html"))
    anchors = set(re.findall(r'id="fastpersist\.(?:[\w.]+\.)?(\w+)"', "\n".join(pages)))
    names = {*fastpersist.__all__, *runner.__all__, *contracts.__all__}
    # Objects of classes that are there.
    names -= {name for name in names if name.endswith("Adapter")}
    names -= {"__version__", "registries"}
    return sorted(names - anchors)


if __name__ == "__main__":
    site = Path(sys.argv[1])
    if not (site / "index.html").is_file():
        sys.exit(f"{site} holds no site")
    if found := foreign(site):
        sys.exit("the site loads from elsewhere:\n" + "\n".join(found))
    if names := undocumented(site):
        sys.exit(f"the reference lacks {', '.join(names)}")
