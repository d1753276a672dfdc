"""The compiled core: keys, id cache, codec and BSON, each beside a twin in pure Python.

No I/O and no asyncio in here. The twins are the specification; ``FASTPERSIST_PURE=1`` forces them.
"""

from ._choose import has_extensions

__all__ = ["has_extensions"]
