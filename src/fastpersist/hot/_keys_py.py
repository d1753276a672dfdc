"""Context fields to Redis key: the specification of the compiled module.

Names are joined with ``:`` unescaped, because the Node runner reads the same keys; two contexts can
therefore share a key, and whoever follows one compares the document's own fields (layout 6, 8.1).
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence

from ..errors import InvalidArgumentError

__all__ = ["KeyTemplate", "slot"]

KINDS = ("name", "optional_name", "mode", "timestamp")
SLOTS = 16384


class KeyTemplate:
    """Builds the Redis keys of one domain from the fields of a context.

    Args:
        namespace: First part of the key.
        fields: Name and kind of each field, in the order in which values are given. ``name`` is a
            text with at least one character, ``optional_name`` a text, ``mode`` a bool that
            becomes ``backtest`` or ``live``, ``timestamp`` an integer in decimal digits.
        order: The names of the fields in the order in which they stand in the key.
        prefix: Put before the namespace.

    Raises:
        ValueError: A kind is unknown, or `order` does not name every field once.
    """

    __slots__ = ("_kinds", "_order", "fields", "namespace", "prefix_bytes")

    def __init__(
        self,
        namespace: str,
        fields: Sequence[tuple[str, str]],
        order: Sequence[str],
        prefix: str = "",
    ) -> None:
        names = tuple(name for name, _ in fields)
        if sorted(names) != sorted(order) or len(set(names)) != len(names):
            raise ValueError(f"the order {list(order)} must name each of {list(names)} once")
        kinds = tuple(kind for _, kind in fields)
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"unknown kind {kind!r}")
        self.namespace = namespace
        self.fields = names
        self.prefix_bytes = f"{prefix}{namespace}:".encode()
        self._kinds = kinds
        self._order = tuple(names.index(name) for name in order)

    def __call__(self, *values: object) -> bytes:
        """Return the key of a context.

        Raises:
            InvalidArgumentError: A value has the wrong type, is empty, or holds a lone surrogate;
                the error names the field.
        """
        if len(values) != len(self._kinds):
            raise InvalidArgumentError(
                self.namespace, f"takes {len(self._kinds)} fields, got {len(values)}"
            )
        parts: list[bytes] = []
        for index, value in enumerate(values):
            kind = self._kinds[index]
            if kind == "mode":
                if value is True:
                    parts.append(b"backtest")
                elif value is False:
                    parts.append(b"live")
                else:
                    raise wrong_type(self.fields[index], "a bool", value)
            elif kind == "timestamp":
                if not isinstance(value, int) or isinstance(value, bool):
                    raise wrong_type(self.fields[index], "an int", value)
                try:
                    parts.append(b"%d" % value)
                except ValueError:
                    raise InvalidArgumentError(
                        self.fields[index], "has more digits than Python converts"
                    ) from None
            else:
                if not isinstance(value, str):
                    raise wrong_type(self.fields[index], "a text", value)
                try:
                    text = str.encode(value)
                except UnicodeEncodeError:
                    raise lone_surrogate(self.fields[index]) from None
                if not text and kind == "name":
                    raise InvalidArgumentError(self.fields[index], "must not be empty")
                parts.append(text)
        return self.prefix_bytes + b":".join([parts[index] for index in self._order])


def wrong_type(field: str, expected: str, value: object) -> InvalidArgumentError:
    """Return the error for a value of the wrong type."""
    return InvalidArgumentError(field, f"expected {expected}, got {type(value).__name__}")


def lone_surrogate(field: str) -> InvalidArgumentError:
    """Return the error for a text that UTF-8 cannot hold."""
    return InvalidArgumentError(field, "holds a lone surrogate, which UTF-8 cannot encode")


def slot(key: bytes) -> int:
    """Return the Redis Cluster hash slot of a key; a tag in braces is hashed alone."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS
