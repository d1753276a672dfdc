"""Credentials, sockets and write concerns, as URLs and settings give them."""

from __future__ import annotations

import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pymongo import MongoClient
from redis import Redis

import fastpersist
from conftest import Place
from fastpersist import ConfigurationError
from fastpersist.local import find_redis_server

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

USER, PASSWORD = "run:ner", "s3cr/t@%: word"  # of a test's own servers
ENCODED = "run%3Aner:s3cr%2Ft%40%25%3A%20word"


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[Path]:
    """A Redis with an access list that listens on a unix socket alone."""
    # An address has room for a short path only, and a folder of the tests may have a long one.
    with TemporaryDirectory(dir="/tmp") as short:
        yield from served(tmp_path, Path(short) / "redis.sock")


def served(folder: Path, path: Path) -> Iterator[Path]:
    process = subprocess.Popen(
        [str(find_redis_server()), "--port", "0", "--unixsocket", str(path), "--save", ""],
        stdout=subprocess.PIPE,
        cwd=folder,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if b"ready to accept" in line.lower() or b"unix" in line.lower():
                break
        with Redis(unix_socket_path=str(path)) as client:
            client.acl_setuser(
                USER, enabled=True, passwords=f"+{PASSWORD}", keys="*", commands=["+@all"]
            )
            client.acl_setuser("default", enabled=False)
        yield path
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def mongo_user(place: Place) -> str:
    """A user of the test's database; returns the host part of its URLs."""
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        client[place.name].command("createUser", USER, pwd=PASSWORD, roles=["readWrite"])
    return place.settings["mongo_url"].removeprefix("mongodb://")


async def test_users_and_passwords_of_both(
    place: Place, mongo_user: str, guarded_redis: Path
) -> None:
    async with place.open(
        mongo_url=f"mongodb://{ENCODED}@{mongo_user}",
        redis_url=f"unix://{ENCODED}@{guarded_redis}?db=1",
        redis_prefix="",
    ) as store:
        await store.state.write_state_data("s", "b", {"data": 1}, 1)
        assert await store.state.read_state_data("s", "b") == {"data": 1}
        assert store.container.redis_service.is_available
        assert await store.container.state_cache_service.size() == 1


async def test_a_wrong_mongodb_password_is_named_and_kept(place: Place, mongo_user: str) -> None:
    url = f"mongodb://run%3Aner:hunter2@{mongo_user}"
    with pytest.raises(ConfigurationError, match="mongo_url") as caught:
        async with place.open(mongo_url=url):
            pass
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "hunter2" not in text


async def test_a_wrong_redis_password_is_named_and_kept(place: Place, guarded_redis: Path) -> None:
    url = f"unix://run%3Aner:hunter2@{guarded_redis}"
    with pytest.raises(ConfigurationError, match="redis_url") as caught:
        async with place.open(redis_url=url):
            pass
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        ("", {}, {"w": "majority", "j": True}),
        ("&w=1", {}, {"w": 1, "j": True}),
        ("&journal=false", {}, {"w": "majority", "j": False}),
        ("&w=1&journal=false", {"write_concern": "majority", "journal": True},
         {"w": "majority", "j": True}),
        ("", {"journal": False}, {"w": "majority", "j": False}),
        ("", {"write_concern": 1, "journal": False}, {"w": 1, "j": False}),
    ],
)  # fmt: skip
async def test_the_write_concern_is_the_users_choice(
    place: Place, options: str, settings: Any, expected: dict[str, Any]
) -> None:
    url = place.settings["mongo_url"]
    url += options if "?" in url else f"?{options.lstrip('&')}"
    async with place.open(mongo_url=url, **settings) as store:
        concern = store.container.mongo_service.database.write_concern.document
        assert {name: concern[name] for name in expected} == expected
        await store.state.write_state_data("s", "b", {"data": 1}, 1)
        assert await store.state.read_state_data("s", "b") == {"data": 1}


async def test_an_unacknowledged_write_concern_is_refused(place: Place) -> None:
    url = place.settings["mongo_url"]
    with pytest.raises(ConfigurationError, match="unacknowledged"):
        async with place.open(mongo_url=f"{url}{'&' if '?' in url else '?'}w=0"):
            pass


async def test_a_name_that_dns_does_not_know_is_unavailable(place: Place) -> None:
    url = "mongodb+srv://u:hunter2@nope.invalid/x"
    with pytest.raises(fastpersist.StoreUnavailableError) as caught:
        async with place.open(mongo_url=url, start_timeout=5):
            pass
    assert "SRV" in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_a_mode_that_the_replica_set_lacks_names_the_setting(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="write_concern"):
        async with place.open(write_concern="everywhere"):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid:27017"])
async def test_a_mongodb_that_is_not_there_is_named_by_its_host(place: Place, host: str) -> None:
    url = f"mongodb://u:hunter2@{host}/x"
    with pytest.raises(fastpersist.StoreUnavailableError, match=host) as caught:
        async with place.open(mongo_url=url, start_timeout=2):
            pass
    assert caught.value.timeout
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
