"""What the files of ``docker/`` promise, as far as it can be seen without Docker."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docker"
SERVICES: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
STRONG = "9f2c4b7a1d8e6035c2f1"


def in_profile(profile: str) -> set[str]:
    return {name for name, service in SERVICES.items() if profile in service["profiles"]}


def test_profiles() -> None:
    assert in_profile("run") == {"mongo", "redis", "runner"}
    assert in_profile("dev") == {"mongo", "redis"}
    assert in_profile("cluster") == {
        *("mongo-1", "mongo-2", "mongo-3", "redis-1", "redis-2", "redis-3"),
        *("redis-cluster", "runner-cluster"),
    }


@pytest.mark.parametrize("name", SERVICES)
def test_services_stay_up(name: str) -> None:
    """`up --wait` fails if one ends, and what has ended does not come back after a reboot."""
    restart = SERVICES[name]["restart"]
    assert restart == ("${RESTART:-unless-stopped}" if "runner" in name else "unless-stopped")


def test_ports_are_open_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) >= 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_healthy_before_they_are_used(name: str) -> None:
    service = SERVICES[name]
    assert service["image"] in ("mongo:8.0.4", "redis:7.4.1", "fastpersist-runner")
    assert "no-new-privileges:true" in service["security_opt"]
    for other, wanted in service.get("depends_on", {}).items():
        assert other in SERVICES
        assert set(SERVICES[other]["profiles"]) >= set(service["profiles"])
        if wanted["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"]
    if "runner" in name:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert {wanted["condition"] for wanted in service["depends_on"].values()} == {
            "service_healthy"
        }


def test_every_variable_of_compose_has_its_line_in_the_example() -> None:
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (FOLDER / "compose.yaml").read_text()))
    example = dict(
        line.split("=", 1)
        for line in (FOLDER / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert used == set(example) - {"COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"}
    assert example["COMPOSE_PROJECT_NAME"] == "fastpersist"
    assert not any(example[name] for name in ("MONGO_PASSWORD", "REDIS_PASSWORD", "MONGO_KEY"))


def test_trying_compose_removes_no_volumes_but_its_own() -> None:
    text = (FOLDER.parent / "tools" / "try_compose.sh").read_text()
    assert "down --volumes" in text
    assert 'compose="docker compose --project-name fastpersist-try ' in text


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("", "fewer than 16"),
        ("short1", "fewer than 16"),
        ("MyPassword1234567890", "others guess"),
        ("fastpersistfastpersist", "others guess"),
        ("9f2c4b7a1d8e6035c2f1@", "letters and digits only"),
    ],
)
def test_weak_passwords_are_refused(secret: str, why: str) -> None:
    done = check(secret)
    assert done.returncode == 64
    assert why in done.stderr
    assert not secret or secret not in done.stderr


def test_a_weak_password_can_be_let_through_with_a_warning() -> None:
    done = check("short1", ALLOW_WEAK_PASSWORDS="1")
    assert done.returncode == 0
    assert done.stderr.startswith("WARNING")


def test_a_strong_password_is_taken_in_silence() -> None:
    done = check(STRONG)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def check(secret: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(FOLDER / "servers.sh"), "check", "X", secret],
        check=False, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environ},
    )  # fmt: skip


def test_a_cluster_is_formed_and_held_together(tmp_path: Path) -> None:
    """Servers that start again may have other addresses; the keeper makes them meet."""
    calls, state = tmp_path / "calls", tmp_path / "state"
    state.write_text("cluster_state:fail cluster_slots_assigned:0")
    for name, text in {
        "redis-cli": f"""
            case "$*" in
              *ping) echo PONG ;;
              *"cluster info") cat {state} ;;
              *) echo "$*" >> {calls} ;;
            esac""",
        "getent": 'echo "10.0.0.${2#redis-}  STREAM $2"',
        "sleep": "exec /bin/sleep 0.05",
        "timeout": 'shift; exec "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    keeper = subprocess.Popen(
        ["sh", str(FOLDER / "servers.sh"), "keep-redis-cluster", "redis-1:1", "redis-2:2"],
        stdout=subprocess.PIPE, text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "REDIS_PASSWORD": STRONG},
    )  # fmt: skip
    assert keeper.stdout is not None
    with keeper, keeper.stdout as said:
        assert said.readline() == "the cluster is new\n"
        state.write_text("cluster_state:fail cluster_slots_assigned:16384")
        assert said.readline() == "the cluster is lost\n"
        state.write_text("cluster_state:ok cluster_slots_assigned:16384")
        assert said.readline() == "the cluster is ok\n"
        keeper.terminate()
        assert keeper.wait(timeout=60) == 0
    asked = calls.read_text().splitlines()
    create = "--cluster create 10.0.0.1:1 10.0.0.2:2 --cluster-replicas 0 --cluster-yes"
    meet = {"-h 10.0.0.1 -p 1 cluster meet 10.0.0.2 2", "-h 10.0.0.2 -p 2 cluster meet 10.0.0.1 1"}
    assert asked[0] == create
    assert set(asked) == {create, *meet}


def test_image_runs_as_nobody_in_particular_under_an_init_without_compiler() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "gcc" not in last
    assert "\nUSER 10001:10001\n" in last
    assert 'ENTRYPOINT ["tini", "--", "fastpersist"]' in last
    assert 'CMD ["run"]' in last
    assert "FASTPERSIST_HEALTH_HOST=0.0.0.0" in last
    assert re.search(r"^HEALTHCHECK .*\\\n +CMD .*health_check\.py", last, re.M)
    pins = (FOLDER / "requirements.txt").read_text() + (
        FOLDER / "build-requirements.txt"
    ).read_text()
    lines = [line for line in pins.splitlines() if not line.startswith("#")]
    assert len(lines) > 20
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


class _Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:  # the name that http.server looks for
        assert self.path == "/api/v1/health/health_check"
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_check_tells_what_the_endpoint_says(
    endpoint: HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, code: int
) -> None:
    monkeypatch.setattr(_Health, "status", status)
    done = ask(endpoint.server_port)
    assert done.returncode == code
    assert '{"status":"ok"}' in done.stdout  # of a 503 too: docker inspect shows why


def test_health_check_fails_where_nothing_listens(endpoint: HTTPServer) -> None:
    endpoint.shutdown()
    endpoint.server_close()
    done = ask(endpoint.server_port)
    assert done.returncode == 1
    assert "not healthy" in done.stdout


def ask(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-IS", str(FOLDER / "health_check.py")],
        check=False, capture_output=True, text=True, timeout=60,
        env={"FASTPERSIST_HEALTH_PORT": str(port), "http_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
