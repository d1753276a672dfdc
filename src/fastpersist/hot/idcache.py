"""Redis key to document id, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._idcache_py import CacheStats, IdCache
else:
    from ._choose import choose

    _module = choose("idcache")
    CacheStats = _module.CacheStats
    IdCache = _module.IdCache

__all__ = ["CacheStats", "IdCache"]
