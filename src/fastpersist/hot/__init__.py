"""The compiled core: keys, id cache, codec, BSON and columns, each beside a pure-Python twin.

No I/O and no asyncio in here. The twins are the specification; ``FASTPERSIST_PURE=1`` forces them.
"""

from ._choose import has_extensions

__all__ = ["has_extensions"]
