"""Which implementation of the compiled core runs."""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from types import ModuleType

__all__ = ["choose", "has_extensions"]

FAMILIES = ("keys", "idcache", "codec", "bson", "columns")

_is_compiled: dict[str, bool] = {}
_has_warned = False


def choose(family: str) -> ModuleType:
    """Return the compiled module of a family, else its twin.

    The twin runs when ``FASTPERSIST_PURE`` asks for it, or when the compiled module is not there;
    in the second case one warning for the process says so.
    """
    if os.environ.get("FASTPERSIST_PURE", "").strip().lower() not in ("1", "true", "yes", "on"):
        try:
            module = import_module(f"{__package__}._{family}_c")
        except ImportError:
            _warn_once()
        else:
            _is_compiled[family] = True
            return module
    _is_compiled[family] = False
    return import_module(f"{__package__}._{family}_py")


def has_extensions() -> bool:
    """Say whether all of the compiled modules are in use."""
    for family in FAMILIES:
        if family not in _is_compiled:
            choose(family)
    return all(_is_compiled.values())


def _warn_once() -> None:
    global _has_warned
    if not _has_warned:
        _has_warned = True
        warnings.warn(
            "fastpersist runs without its compiled modules: correct, but slower. "
            "Install a wheel, or a C compiler and `pip install --force-reinstall fastpersist`; "
            "FASTPERSIST_PURE=1 accepts the pure-Python modules silently.",
            RuntimeWarning,
            stacklevel=2,
        )
