"""Makes links of the cross-references in docstrings, as in ``:class:`~fastpersist.Settings```."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod):`(~?)([\w.]+)`")


def _link(found: re.Match[str]) -> str:
    shown = found[2].rsplit(".", 1)[-1] if found[1] else found[2]
    return f"`{shown}`"


class Roles(griffe.Extension):
    """Rewrites roles before the docstring is rendered."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value)
