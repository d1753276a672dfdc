"""Payloads to values that BSON can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._codec_py import (
        MAX_DEPTH,
        MAX_SIZE,
        normalise,
        register_type,
    )
else:
    from ._choose import choose

    _module = choose("codec")
    MAX_DEPTH = _module.MAX_DEPTH
    MAX_SIZE = _module.MAX_SIZE
    normalise = _module.normalise
    register_type = _module.register_type

__all__ = [
    "MAX_DEPTH",
    "MAX_SIZE",
    "normalise",
    "register_type",
]
