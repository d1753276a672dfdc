"""Context fields to Redis key."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._keys_py import KeyTemplate, slot
else:
    from ._choose import choose

    _module = choose("keys")
    KeyTemplate = _module.KeyTemplate
    slot = _module.slot

__all__ = ["KeyTemplate", "slot"]
