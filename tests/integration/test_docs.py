"""Every block of code of the README and of ``docs/`` runs as it stands there, or says why not.

- ``python`` is executed and typed strictly.
- ``sh`` behind ``<!-- run -->`` is executed, beside a candle file and the examples. Elsewhere each
  line is checked: the command's own parser has to take it, the target has to be in the Makefile,
  the extra in pyproject.toml, the file and its options in the tree.
- ``text`` is what the block before it prints.
- Behind ``<!-- not run: reason -->`` a block is left out, and is listed here.

The blocks of a page run in their order, in a folder and a database that the page has for itself.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import click
import pytest

from candle_rows import random_walk, write_csv
from conftest import PATIENT_ENVIRON, Place
from fastpersist import has_extensions
from fastpersist.cli.app import app
from fastpersist.domains import DOMAINS
from fastpersist.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

NOT_RUN = [
    ("README.md", "sh", "needs Docker"),
    ("docs/deployment.md", "sh", "needs Docker"),
    ("docs/deployment.md", "js", "needs a sharded cluster"),
    ("docs/deployment.md", "sh", "needs a run on the clock"),
]

_FENCE = re.compile(r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<kind>\w*)\n", re.M)
_OF_EXCHANGES = {"FASTPERSIST_EXCHANGE_API_KEY", "FASTPERSIST_EXCHANGE_SECRET"}
_VARIABLES = {f"FASTPERSIST_{item.name.upper()}" for item in fields(Settings)} | _OF_EXCHANGES


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text and the comment in front of it."""

    kind: str
    text: str
    mark: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    text, found, place = page.read_text(encoding="utf-8"), [], 0
    while opened := _FENCE.search(text, place):
        assert not opened["indent"], f"{page.name}: a block is indented"
        end = text.index("\n```", opened.end() - 1)
        found.append(Block(opened["kind"], text[opened.end() : end + 1], opened["mark"] or ""))
        place = end + 4
    return found


def runnable(kind: str) -> Iterator[tuple[Path, Block]]:
    """Yield all blocks of a language that are not left out."""
    for page in PAGES:
        for block in blocks(page):
            if block.kind == kind and not block.mark.startswith("not run"):
                yield page, block


def test_what_is_left_out_is_known() -> None:
    found = [
        (name, block.kind, block.mark.removeprefix("not run: "))
        for name, page in zip(NAMES, PAGES, strict=True)
        for block in blocks(page)
        if block.mark.startswith("not run")
    ]
    assert found == NOT_RUN
    kinds = {block.kind for page in PAGES for block in blocks(page)}
    assert kinds <= {"python", "sh", "text", "js"}
    assert len(list(runnable("python"))) >= 25


@pytest.mark.timeout(1200)  # a page is many processes, and a busy machine no mistake of it
@pytest.mark.parametrize("name", NAMES)
def test_page_runs(name: str, place: Place, tmp_path: Path) -> None:
    page = ROOT / name
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FASTPERSIST_MONGO_URL": place.settings["mongo_url"],
        "FASTPERSIST_REDIS_URL": place.settings["redis_url"],
        "FASTPERSIST_REDIS_PREFIX": place.settings["redis_prefix"],
        **PATIENT_ENVIRON,
        # Without a compiler the twins run, and say so.
        **({} if has_extensions() else {"FASTPERSIST_PURE": "1"}),
    }
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    write_csv(tmp_path / "BTCUSDT-1m.csv.gz", random_walk(1_440, seed=3))
    printed = ""
    for block in blocks(page):
        if block.mark.startswith("not run"):
            continue
        if block.kind == "python":
            printed = run([sys.executable, "-c", block.text], tmp_path, environ, block)
        elif block.kind == "sh" and block.mark == "run":
            printed = run(["sh", "-e", "-c", block.text], tmp_path, environ, block)
        elif block.kind == "text":
            assert block.text == printed


def run(command: list[str], folder: Path, environ: Mapping[str, str], block: Block) -> str:
    """Run a block and return what it prints."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"
    # `fastpersist candles` says there what it has written.
    assert block.kind == "sh" or done.stderr == "", block.text
    assert not re.search(r"^(WARNING|Traceback)", done.stderr, re.M), done.stderr
    return done.stdout


def test_python_is_typed(tmp_path: Path) -> None:
    paths = []
    for number, (page, block) in enumerate(runnable("python")):
        path = tmp_path / f"{re.sub('[^a-z]', '_', page.stem.lower())}_{number}.py"
        path.write_text(block.text)
        paths.append(path)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *map(str, paths)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    for block in blocks(ROOT / name):
        if block.kind == "sh" and not block.mark.startswith("not run"):
            for line in block.text.replace("\\\n", " ").splitlines():
                check_line(shlex.split(line, comments=True), line)


def test_a_wrong_command_is_found() -> None:
    for line in (
        "fastpersist run my.py --no-such-option",
        "fastpersist no-such-command",
        "fastpersist report a b",
        "make no-such-target",
        'pip install "fastpersist[nothing]"',
        "python benchmarks/sizing.py --no-such-option",
        "FASTPERSIST_NOTHING=1 fastpersist down",
        "some-other-program",
    ):
        with pytest.raises((AssertionError, click.ClickException)):
            check_line(shlex.split(line), line)


def check_line(words: list[str], line: str) -> None:
    """Refuse a line that no shell of a reader would take."""
    if words and words[0] == "export":
        words = words[1:]
    while words and re.match(r"[A-Z_]+=", words[0]):
        variable = words.pop(0).partition("=")[0]
        assert variable == "PYTHONPATH" or variable in _VARIABLES, line
    if not words:
        return
    program, *arguments = words
    if program == "fastpersist":
        parse(app, "fastpersist", arguments)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for word in arguments:
            known = rf"^{re.escape(word)}:" if "=" not in word else rf"^{word.split('=')[0]} \?="
            assert re.search(known, makefile, re.M), line
    elif program == "pip":
        assert arguments[0] == "install", line
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for extra in re.findall(r"\w+", "".join(re.findall(r"\[(.*?)\]", line.partition("#")[0]))):
            assert re.search(rf"^{extra} = \[", project, re.M), line
    elif program == "python":
        text = (ROOT / arguments[0]).read_text(encoding="utf-8")
        for option in arguments[1:]:
            assert not option.startswith("-") or f'"{option}"' in text, line
    else:
        assert program == ".ci/run", line


def parse(
    command: click.Command, name: str, arguments: list[str], parent: click.Context | None = None
) -> None:
    """Let the command's own parser take the arguments, without running anything."""
    if isinstance(command, click.Group):
        found = command.commands.get(arguments[0])
        assert found is not None, f"no command {arguments[0]}"
        # A command inherits settings, and keeps what it has made of the first.
        context = click.Context(command, parent, name, **command.context_settings)
        parse(found, arguments[0], arguments[1:], context)
    else:
        command.make_context(name, list(arguments), parent).close()


def test_shard_keys_keep_the_unique_indexes_valid() -> None:
    text = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    row = r"^\| `([\w-]+)` \| `\{(.*?)\}` \| (equal|its prefix) \|"
    table = {found[0]: found[1:] for found in re.findall(row, text, re.M)}
    named = re.findall(r'sh\.shardCollection\("trading\.([\w-]+)", \{(.*?)\}\)', text)
    assert len(table) == len(DOMAINS)
    assert len(named) == 3
    unique = {domain.collection: domain.unique_index for domain in DOMAINS}
    for collection, key, *relation in [
        *named,
        *((name, *found) for name, found in table.items()),
    ]:
        fields_of_key = tuple(part.split(": ")[0] for part in key.split(", "))
        of_index = tuple(stored for stored, _ in unique[collection])
        assert fields_of_key == of_index[: len(fields_of_key)]
        if relation:
            assert (relation[0] == "equal") is (fields_of_key == of_index)
    assert all(table[collection][0] == key for collection, key in named)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
