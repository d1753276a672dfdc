"""The version of the package; no other file spells it."""

__version__ = "0.1.0"
