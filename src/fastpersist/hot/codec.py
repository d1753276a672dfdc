"""Payloads to values that BSON can hold, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._codec_py import (
        MAX_DEPTH,
        MAX_SIZE,
        normalise,
        references_to_dicts,
        register_type,
        whole_doubles_to_int,
    )
else:
    from ._choose import choose

    _module = choose("codec")
    MAX_DEPTH = _module.MAX_DEPTH
    MAX_SIZE = _module.MAX_SIZE
    normalise = _module.normalise
    references_to_dicts = _module.references_to_dicts
    register_type = _module.register_type
    whole_doubles_to_int = _module.whole_doubles_to_int

__all__ = [
    "MAX_DEPTH",
    "MAX_SIZE",
    "normalise",
    "references_to_dicts",
    "register_type",
    "whole_doubles_to_int",
]
