"""The compiled core: keys, id cache and codec, each beside a pure-Python twin of equal behaviour.

No I/O and no asyncio in here. The twins are the specification; ``FASTPERSIST_PURE=1`` forces them.
"""

from ._choose import has_extensions

__all__ = ["has_extensions"]
