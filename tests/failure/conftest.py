"""Servers that a test may stop, kill and start again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastpersist.local import LocalServers


@pytest.fixture
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """Started servers that belong to one test alone."""
    servers = LocalServers(tmp_path_factory.mktemp("own"), start_timeout=120)
    servers.start()
    yield servers
    servers.stop()
