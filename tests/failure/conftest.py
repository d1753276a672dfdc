"""Servers that a test may stop, kill and start again."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from fastpersist.local import LocalServers


@pytest.fixture
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """Started servers that belong to one test alone."""
    servers = LocalServers(tmp_path_factory.mktemp("own"))
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture(autouse=True)
def leave_no_sockets_to_other_tests() -> Iterator[None]:
    """Collect here what the driver leaves to the collector: sockets of cancelled connects."""
    yield
    gc.collect()
