"""The families under the one contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conftest import Place
from fastpersist.adapters.dummy import DummyBackend
from fastpersist.adapters.files import FilesBackend
from fastpersist.registry import Registries


@pytest.fixture(params=["files", "replica set", "standalone"])
async def family(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registries]:
    """The fifteen registries of a family that stores."""
    if request.param == "files":
        registries = Registries()
        registries.use_backend(FilesBackend(tmp_path / "dump"))
        yield registries
        return
    servers = request.getfixturevalue(
        "servers" if request.param == "replica set" else "standalone_servers"
    )
    place = Place(servers, f"contract{tmp_path.parent.name[-6:]}{abs(hash(str(tmp_path)))}")
    async with place.open() as store:
        yield store
    place.drop()


@pytest.fixture
def dummy() -> Registries:
    """The registries of the family that stores nothing."""
    registries = Registries()
    registries.use_backend(DummyBackend())
    return registries
