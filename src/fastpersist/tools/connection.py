"""Services for tools: connected, with the indexes left as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..services.container import Container
from ..settings import Settings

__all__ = ["connected"]


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Container]:
    """Give a container whose stores are connected and whose indexes were neither made nor judged.

    Raises:
        ConfigurationError: A setting is wrong or refused by a server.
        StoreUnavailableError: MongoDB is not there within ``start_timeout``.
    """
    container = Container(settings, ensures_indexes=False)
    try:
        await container.ready()
        yield container
    finally:
        await container.aclose()
