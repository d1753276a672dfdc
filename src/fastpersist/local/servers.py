"""A mongod and a Redis as child processes with their data in a folder of the project.

Servers belong to their folder: the first to need them starts them, everyone after that adopts what
is alive and answers. Each :class:`LocalServers` in use holds a lease in the folder's state file;
the last to give its lease up ends the servers, and leases of processes that were killed count for
nothing. Servers that :func:`up` started have a lease without an owner: they stay until
:func:`down`.

A killed parent leaves the servers running; the next start adopts them, so nothing is lost. A killed
server leaves its data; the next start lets mongod recover its journal.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from redis import Redis
from redis.exceptions import RedisError

from ..errors import LocalServerError
from .binaries import find_mongod, find_redis_server

__all__ = ["LocalServers", "LocalUrls", "Server", "down", "status", "up"]

DEFAULT_FOLDER: Final = Path(".fastpersist")
REPLICA_SET: Final = "rs0"
_HOST: Final = "127.0.0.1"
_PORT_ATTEMPTS: Final = 5
_POLL_SECONDS: Final = 0.02
_STOP_SECONDS: Final = 20.0
_ANY_OWNER: Final = 0
_ALREADY_INITIALIZED: Final = 23
_MISSING_LIBRARY: Final = re.compile(r"error while loading shared libraries: ([\w.+-]+)")
# The port was taken, or the last server of this folder is not quite gone.
_MAY_PASS: Final = re.compile("address already in use|DBPathInUse", re.IGNORECASE)
_PORT_OF_A_PROCESS: Final = re.compile(rf"--port (\d+)|{re.escape(_HOST)}:(\d+)")
_PACKAGES: Final = {
    "libcurl.so.4": "libcurl4",
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
}


# Servers may outlive the object that started them, and still have to be reaped if they end first.
_children: Final[list[subprocess.Popen[bytes]]] = []


@atexit.register
def _leave_children_to_init() -> None:
    for child in _children:
        if child.poll() is None:
            child.returncode = 0


_in_use: Final[dict[LocalServers, None]] = {}


# One handler and not one for each start: what is registered after this module was imported, as the
# end of the synchronous face, comes before the servers' end.
@atexit.register
def _stop_those_in_use() -> None:
    for servers in list(_in_use):
        with contextlib.suppress(LocalServerError):
            servers.stop()


@dataclass(frozen=True, slots=True)
class LocalUrls:
    """Where local servers listen."""

    mongo_url: str
    redis_url: str


class Server:
    """One server process: its command, its port, and whether it answers."""

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Callable[[int], list[str]],
        answers: Callable[[int], bool],
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.port = 0
        self.pid = 0
        self._birth = ""
        self._command = command
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None
        self._started_by = 0
        self._log_start = 0

    def state(self) -> dict[str, Any]:
        """Return what another process needs to adopt this server."""
        return {"pid": self.pid, "port": self.port, "birth": self._birth}

    def adopt(self, state: dict[str, Any]) -> bool:
        """Take over a server that another process started; say whether it is alive."""
        self.pid, self.port = state.get("pid", 0), state.get("port", 0)
        self._birth = str(state.get("birth", ""))
        return self.is_running()

    def is_running(self) -> bool:
        """Say whether the process lives; a recycled process id does not count."""
        process = self._process
        if process is not None and process.pid == self.pid and self._started_by == os.getpid():
            return process.poll() is None
        return self.pid > 0 and _birth_of(self.pid) == self._birth != ""

    def start(self, timeout: float = 30.0, note: Callable[[], None] = lambda: None) -> None:
        """Start the process, on its port if it had one, and wait until it answers.

        Args:
            timeout: Deadline in seconds.
            note: Called when the process runs, before it answers.

        Raises:
            LocalServerError: It died or did not answer in time; the error shows the log's end.
        """
        if self.is_running():
            return
        deadline = time.monotonic() + timeout
        wanted = self.port
        for attempt in range(_PORT_ATTEMPTS):
            self.port = wanted if wanted and attempt == 0 else _free_port()
            _children[:] = [child for child in _children if child.poll() is None]
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                # A session of its own keeps the terminal's Ctrl-C away from the servers.
                self._process = subprocess.Popen(
                    self._command(self.port),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._started_by = os.getpid()
            _children.append(self._process)
            self.pid = self._process.pid
            self._birth = _birth_of(self.pid)
            note()
            if self.wait_until_it_answers(deadline):
                return
            if time.monotonic() > deadline:
                self.kill()
                raise LocalServerError(
                    f"{self.name} did not answer within {timeout} s",
                    hint=f"its log ends: {self._tail()}",
                )
            self._explain_missing_library()
            if not _MAY_PASS.search(self._new_log()):
                break
            time.sleep(_POLL_SECONDS)
        code = None if self._process is None else self._process.poll()
        raise LocalServerError(
            f"{self.name} ended at once with exit code {code}",
            hint=f"its log ends: {self._tail()}",
        )

    def _explain_missing_library(self) -> None:
        missing = _MISSING_LIBRARY.search(self._new_log())
        if missing:
            library = missing.group(1)
            package = _PACKAGES.get(library)
            raise LocalServerError(
                f"{self.name} needs the shared library {library}",
                hint=f"apt-get install {package}"
                if package
                else "install the package of your system that has it",
            )

    def wait_until_it_answers(self, deadline: float) -> bool:
        """Poll until the server answers; False when it died or the deadline passed."""
        while time.monotonic() < deadline:
            if self._answers(self.port):
                return True
            if not self.is_running():
                return False
            time.sleep(_POLL_SECONDS)
        return False

    def stop(self) -> None:
        """End the process in good order, and the hard way when that takes too long."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process at once."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if not self.is_running():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        deadline = time.monotonic() + _STOP_SECONDS
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            while self.is_running():
                time.sleep(_POLL_SECONDS)

    def _new_log(self) -> str:
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")
        return ""

    def _tail(self) -> str:
        return " | ".join(self._new_log().splitlines()[-5:])[-1500:] or "(nothing)"


class LocalServers:
    """A mongod and a Redis in a folder; ``with`` or ``async with`` starts and stops them.

    Args:
        folder: Where data, logs and the state file are kept.
        replica_set: Whether mongod runs as a replica set of one, or standalone.
        database: Database that the MongoDB URL names; none for ``""``.
        start_timeout: Deadline for each server to answer, in seconds.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] = DEFAULT_FOLDER,
        *,
        replica_set: bool = True,
        database: str = "fastpersist",
        start_timeout: float = 30.0,
    ) -> None:
        if sys.platform == "win32":
            raise LocalServerError(
                "local servers run on Linux and macOS only",
                hint="point FASTPERSIST_MONGO_URL and FASTPERSIST_REDIS_URL at other servers",
            )
        # Resolved, because both servers report their folders that way.
        self._folder = Path(folder).resolve()
        self._replica_set = replica_set
        self._database = database
        self._timeout = start_timeout
        self._lease_of = 0
        self._token = uuid.uuid4().hex
        self.mongod = Server("mongod", self._folder, self._mongod_command, self._mongod_answers)
        self.redis = Server("redis", self._folder, self._redis_command, self._redis_answers)

    @property
    def urls(self) -> LocalUrls:
        """Where the servers listen."""
        options = f"?replicaSet={REPLICA_SET}" if self._replica_set else "?directConnection=true"
        return LocalUrls(
            f"mongodb://{_HOST}:{self.mongod.port}/{self._database}{options}",
            f"redis://{_HOST}:{self.redis.port}/0",
        )

    def start(self, *, detached: bool = False) -> LocalUrls:
        """Start the servers or adopt those of the folder; returns when both answer.

        Args:
            detached: Leave them running after this process, until :func:`down`.

        Raises:
            LocalServerError: A binary is missing, or a server does not start.
        """
        try:
            self._start(detached)
        except OSError as error:
            raise LocalServerError(
                f"{self._folder} cannot hold local servers: {error}",
                hint="choose another folder: local_folder, or FASTPERSIST_LOCAL_FOLDER",
            ) from error
        if not detached:
            self._lease_of = os.getpid()
            _in_use[self] = None
        return self.urls

    def _start(self, detached: bool) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked() as state:
            try:
                self._adopt_or_start(self.mongod, state)
                self._adopt_or_start(self.redis, state)
                self._initiate_replica_set()
            except BaseException:
                if not _living(state["leases"]):
                    self._stop_servers()
                raise
            leases = _living(state["leases"])
            owner = _ANY_OWNER if detached else os.getpid()
            lease = [owner, _birth_of(owner), "" if detached else self._token]
            if lease not in leases:
                leases.append(lease)
            self._write_state(leases)

    def stop(self) -> None:
        """Give up the lease; the last one ends the servers."""
        lease_of, self._lease_of = self._lease_of, 0
        _in_use.pop(self, None)
        # A forked child has its parent's objects, but not its lease.
        if lease_of == os.getpid():
            self._release(lambda lease: lease[0] == lease_of and lease[2] == self._token)

    def _release(self, is_released: Callable[[list[Any]], bool]) -> bool:
        with self._locked() as state:
            leases = [row for row in _living(state["leases"]) if not is_released(row)]
            running = [self._is_found(server, state) for server in (self.redis, self.mongod)]
            if not leases:
                self._stop_servers()
            self._write_state(leases)
            return any(running)

    def status(self) -> LocalUrls | None:
        """Return where the folder's servers listen, None when they do not run."""
        if not self._folder.is_dir():
            return None
        with self._locked() as state:
            alive = [self._is_found(server, state) for server in (self.mongod, self.redis)]
        return self.urls if all(alive) else None

    def __enter__(self) -> LocalUrls:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> LocalUrls:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _is_found(self, server: Server, state: dict[str, Any]) -> bool:
        return (
            server.is_running()
            or server.adopt(state.get(server.name, {}))
            or server.adopt(self._stray(server))
        )

    def _adopt_or_start(self, server: Server, state: dict[str, Any]) -> None:
        def note() -> None:
            # At once: a parent killed in the middle of a start must leave a trace of it.
            state[server.name] = server.state()
            self._write_state(_living(state["leases"]))

        if not self._is_found(server, state):
            server.port = state.get(server.name, {}).get("port", 0)
            server.start(self._timeout, note)
        elif not server.wait_until_it_answers(time.monotonic() + self._timeout):
            server.stop()
            server.start(self._timeout, note)
        note()

    def _stray(self, server: Server) -> dict[str, Any]:
        """Return the state of a server of this folder that the state file does not know."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if server.name == "mongod":
                    is_ours = str(self._folder / "mongo") in words and "--dbpath" in words
                else:
                    is_ours = (
                        re.search(r"(redis|valkey)-server", words[0]) is not None
                        and (process / "cwd").readlink() == self._folder
                    )
                port = _PORT_OF_A_PROCESS.search(" ".join(words))
                if is_ours and port:
                    pid = int(process.name)
                    number = int(port.group(1) or port.group(2))
                    return {"pid": pid, "port": number, "birth": _birth_of(pid)}
        return {}

    def _stop_servers(self) -> None:
        for server in (self.redis, self.mongod):
            server.stop()

    def _mongod_command(self, port: int) -> list[str]:
        data = self._folder / "mongo"
        data.mkdir(exist_ok=True)
        command = [
            str(find_mongod()),
            *("--dbpath", str(data), "--bind_ip", _HOST, "--port", str(port)),
            *("--nounixsocket", "--quiet", "--wiredTigerCacheSizeGB", "0.25"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]
        if self._replica_set:
            command += ["--replSet", REPLICA_SET]
        return command

    def _redis_command(self, port: int) -> list[str]:
        return [
            str(find_redis_server()),
            *("--bind", _HOST, "--port", str(port), "--dir", str(self._folder)),
            # It only holds ids that MongoDB knows better.
            *("--save", "", "--appendonly", "no"),
        ]

    def _mongod_answers(self, port: int) -> bool:
        with contextlib.suppress(PyMongoError), _direct(port) as client:
            # The dbpath tells our mongod from another that was quicker to take the port.
            options = client.admin.command("getCmdLineOpts")["parsed"]
            return bool(options["storage"]["dbPath"] == str(self._folder / "mongo"))
        return False

    def _redis_answers(self, port: int) -> bool:
        with (
            contextlib.suppress(RedisError, OSError),
            Redis(_HOST, port, socket_timeout=1, decode_responses=True) as client,
        ):
            return bool(client.config_get("dir")["dir"] == str(self._folder))
        return False

    def _initiate_replica_set(self) -> None:
        if not self._replica_set:
            return
        port = self.mongod.port
        member = f"{_HOST}:{port}"
        config = {"_id": REPLICA_SET, "members": [{"_id": 0, "host": member}]}
        deadline = time.monotonic() + self._timeout
        is_initiated = False
        with _direct(port) as client:
            while time.monotonic() < deadline:
                # What a busy machine did not answer in time is asked again.
                with contextlib.suppress(ConnectionFailure):
                    if not is_initiated:
                        self._initiate(client, config)
                        is_initiated = True
                    with contextlib.suppress(OperationFailure):
                        if client.admin.command("hello").get("isWritablePrimary"):
                            return
                time.sleep(_POLL_SECONDS)
        raise LocalServerError(f"mongod did not become primary within {self._timeout} s")

    def _initiate(self, client: MongoClient[dict[str, Any]], config: dict[str, Any]) -> None:
        try:
            client.admin.command("replSetInitiate", config)
        except OperationFailure as error:
            if error.code != _ALREADY_INITIALIZED:
                raise LocalServerError(f"mongod refuses its replica set: {error}") from error
            self._move_member(client, config["members"][0]["host"])

    @staticmethod
    def _move_member(client: MongoClient[dict[str, Any]], member: str) -> None:
        # The port may have been taken since the last run; the member's address is stored data.
        config = client.local["system.replset"].find_one()
        if config is not None and config["members"][0]["host"] != member:
            config["members"][0]["host"] = member
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        import fcntl  # Windows has none, and the rest of the package runs there

        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                state = json.loads((self._folder / "state.json").read_text())
            except (OSError, ValueError):
                state = {}
            yield _checked_state(state)

    def _write_state(self, leases: list[list[Any]]) -> None:
        state = {
            "mongod": self.mongod.state(),
            "redis": self.redis.state(),
            "leases": leases,
        }
        temporary = self._folder / "state.json.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(self._folder / "state.json")


def up(folder: str | os.PathLike[str] = DEFAULT_FOLDER) -> LocalUrls:
    """Start the folder's servers, to stay until :func:`down`.

    Raises:
        LocalServerError: A binary is missing, or a server does not start.
    """
    return LocalServers(folder).start(detached=True)


def down(folder: str | os.PathLike[str] = DEFAULT_FOLDER) -> bool:
    """Stop the folder's servers, whoever uses them; say whether any ran."""
    servers = LocalServers(folder)
    if not Path(folder).is_dir():
        return False
    return servers._release(lambda lease: True)


def status(folder: str | os.PathLike[str] = DEFAULT_FOLDER) -> LocalUrls | None:
    """Return where the folder's servers listen, None when they do not run."""
    return LocalServers(folder).status()


def _checked_state(state: Any) -> dict[str, Any]:
    """Return what is usable of a state file; a damaged one only costs finding the servers."""
    if not isinstance(state, dict):
        state = {}
    servers = {
        name: row
        for name in ("mongod", "redis")
        if isinstance(row := state.get(name), dict)
        and isinstance(row.get("pid"), int)
        and isinstance(row.get("port"), int)
    }
    leases = state.get("leases")
    rows = leases if isinstance(leases, list) else []
    return {
        **servers,
        "leases": [
            row
            for row in rows
            if isinstance(row, list) and len(row) == 3 and isinstance(row[0], int)
        ],
    }


def _living(leases: list[list[Any]]) -> list[list[Any]]:
    return [row for row in leases if row[0] == _ANY_OWNER or _birth_of(row[0]) == row[1] != ""]


def _direct(port: int) -> MongoClient[dict[str, Any]]:
    return MongoClient(
        _HOST,
        port,
        directConnection=True,
        serverSelectionTimeoutMS=500,
        connectTimeoutMS=500,
        socketTimeoutMS=5_000,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _birth_of(pid: int) -> str:
    """Return when a process began, in its system's own terms; ``""`` when it does not live."""
    if pid == _ANY_OWNER:
        return ""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _birth_from_ps(pid)
    # Fields after the command's name, which may hold spaces: state first, start time 20th.
    after_name = stat.rpartition(")")[2].split()
    if after_name[0] in "ZX":
        # The first thread may have ended while others still hold the data's lock.
        with contextlib.suppress(OSError):
            if len(os.listdir(f"/proc/{pid}/task")) > 1:
                return after_name[19]
        return ""
    return after_name[19]


def _birth_from_ps(pid: int) -> str:
    if Path("/proc/self/stat").exists():
        return ""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return "" if not answer or answer.startswith("Z") else answer.partition(" ")[2].strip()
