"""What the workflows promise: least permissions, pinned actions, deadlines, one final job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

TREE = Path(__file__).parents[2]
PATHS = sorted((TREE / ".github" / "workflows").glob("*.yml"))
WORKFLOWS: dict[str, dict[str, Any]] = {
    path.stem: yaml.load(path.read_text(), Loader=yaml.BaseLoader) for path in PATHS
}
JOBS = [(name, job) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"]]
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
# Who needs more than to read, and for what.
WRITERS = {
    ("ci", "security"): {"security-events"},
    ("security", "codeql"): {"security-events"},
    ("docs", "publish"): {"pages", "id-token"},
    ("release", "publish"): {"id-token", "attestations"},
    ("release", "push"): {"packages", "id-token", "attestations"},
}


def test_all_that_is_asked_for_has_a_workflow() -> None:
    assert set(WORKFLOWS) == {"ci", "docs", "image", "release", "security", "wheels"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_itself_may_do_nothing(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {}
    assert "pull_request_target" not in WORKFLOWS[name]["on"]


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_job_has_no_more_than_it_needs(name: str, job: str) -> None:
    permissions = WORKFLOWS[name]["jobs"][job]["permissions"]
    written = {kind for kind, right in permissions.items() if right == "write"}
    assert written == WRITERS.get((name, job), set())
    assert set(permissions) - written <= {"contents"}


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_job_ends(name: str, job: str) -> None:
    found = WORKFLOWS[name]["jobs"][job]
    if "uses" in found:  # its jobs have their own
        assert found["uses"].removeprefix("./.github/workflows/") in {path.name for path in PATHS}
    else:
        assert 1 <= int(found["timeout-minutes"]) <= 90


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_actions_are_pinned_and_forget_their_token(name: str, job: str) -> None:
    for step in WORKFLOWS[name]["jobs"][job].get("steps", ()):
        if "uses" in step:
            assert PINNED.fullmatch(step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


def test_an_action_has_one_version_and_says_which() -> None:
    text = "".join(path.read_text() for path in PATHS)
    found = re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)\n", text)
    assert len(found) == len(re.findall(r"uses: [^.\s]", text))
    repositories = {"/".join(action.split("/")[:2]) for action, _, _ in found}
    assert len({("/".join(name.split("/")[:2]), *rest) for name, *rest in found}) == len(
        repositories
    )


@pytest.mark.parametrize("name", ["ci", "docs", "release"])
def test_the_final_job_waits_for_all(name: str) -> None:
    jobs = WORKFLOWS[name]["jobs"]
    final = jobs["done"]
    assert set(final["needs"]) == {*jobs} - {"done"}
    assert final["if"] == "always()"  # one that is skipped counts as passed
    assert list(jobs)[-1] == "done"


def test_the_matrix_has_the_servers_and_pythons_that_are_promised() -> None:
    jobs = WORKFLOWS["ci"]["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    twins = [found["python"] for found in jobs["tests"]["strategy"]["matrix"]["include"]]
    assert twins == ["3.10", "3.13"]
    servers = jobs["stores"]["strategy"]["matrix"]
    assert [tag.split(".")[0] for tag in servers["mongo"]] == ["6", "7", "8"]
    assert [name.rpartition(".")[0] for name in servers["redis"]] == [
        "redis:6.2", "redis:7.4", "valkey/valkey:8.0",
    ]  # fmt: skip
