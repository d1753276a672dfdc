"""The families under the one contract suite."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

import fastpersist.sync
from conftest import Place
from fastpersist.adapters.dummy import DummyBackend
from fastpersist.adapters.files import FilesBackend
from fastpersist.registry import Registries


class InThreads:
    """Synchronous registries whose calls are made in threads, so that the suite can await them."""

    def __init__(self, registries: fastpersist.sync.Registries) -> None:
        self._registries = registries

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._registries, name)
        return _Registry(found) if isinstance(found, fastpersist.sync._registry.Registry) else found


class _Registry:
    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._registry, name)
        source = getattr(self._registry._source, name)
        if inspect.iscoroutinefunction(source):
            return lambda *args, **options: asyncio.to_thread(found, *args, **options)
        if inspect.isasyncgenfunction(source):
            return lambda *args, **options: _items(found, *args, **options)
        return found


async def _items(function: Callable[..., Any], *args: Any, **options: Any) -> AsyncIterator[Any]:
    items = function(*args, **options)
    while (item := await asyncio.to_thread(next, items, _items)) is not _items:
        yield item


@pytest.fixture(params=["files", "replica set", "standalone", "sync files", "sync replica set"])
async def family(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registries]:
    """The fifteen registries of a family that stores."""
    is_sync = request.param.startswith("sync ")
    kind = request.param.removeprefix("sync ")
    if kind == "files":
        registries = Registries()
        registries.use_backend(FilesBackend(tmp_path / "dump"))
        if is_sync:
            yield cast(Registries, InThreads(fastpersist.sync.Registries(registries)))
        else:
            yield registries
        return
    servers = request.getfixturevalue("servers" if kind == "replica set" else "standalone_servers")
    place = Place(servers, f"contract{tmp_path.parent.name[-6:]}{abs(hash(str(tmp_path)))}")
    if is_sync:
        with fastpersist.sync.open(**place.settings) as opened:
            yield cast(Registries, InThreads(opened))
    else:
        async with place.open() as store:
            yield store
    place.drop()


@pytest.fixture
def dummy() -> Registries:
    """The registries of the family that stores nothing."""
    registries = Registries()
    registries.use_backend(DummyBackend())
    return registries
