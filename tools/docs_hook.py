"""Puts files from outside of ``docs/`` into the site, so that links work there and in the tree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = ("ARCHITECTURE.md", "benchmarks/README.md", "examples/ema_cross.py")


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside under the path that it has in the tree."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links between ``docs/`` and those files hold in the site, where they are beside it."""
    if page.file.src_uri in OUTSIDE:
        return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)
    outside = "|".join(map(re.escape, OUTSIDE))
    return re.sub(rf"\]\(\.\./({outside})(#[^)]*)?\)", r"](\1\2)", markdown)
