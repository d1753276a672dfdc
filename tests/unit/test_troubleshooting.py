"""The page of troubleshooting names what the source raises: all classes, and messages that exist.

Messages are compared with ``…`` in the place of what a call puts in. Of the library all have to be
there; of the runner and the command those that are there have to exist.
"""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path

import fastpersist
from fastpersist.errors import FastPersistError

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/fastpersist"
PAGE = ROOT / "docs/troubleshooting.md"

# Arguments of the constructors that become part of the text, in front of the message.
_FRONT = {
    "BrokerError": 0, "BrokerUnavailableError": 0, "ClosedError": 0, "EventLoopError": 0,
    "FeedUnavailableError": 0, "LocalServerError": 0, "OrderRejectedError": 0,
    "RunMismatchError": 0, "RunUnderWayError": 0, "StoreError": 0, "StrategyError": 0,
    "ConfigurationError": 1, "InvalidArgumentError": 1, "InvalidDocumentError": 1,
    "CorruptDataError": 1, "StoreUnavailableError": 1, "InvalidCandleError": 1,
    "CandleFileError": 2, "LegacyIndexError": 2,
}  # fmt: skip
_LIBRARY = (
    "adapters/", "domains.py", "frames.py", "hot/", "local/", "own_domains.py", "payloads.py",
    "registry.py", "services/", "settings.py", "store.py", "sync/", "times.py",
)  # fmt: skip


def _texts(node: ast.expr) -> list[str]:
    """Return what an argument may be, with ``…`` for what is not known before it runs."""
    if isinstance(node, ast.Constant):
        return [node.value if isinstance(node.value, str) else "…"]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    if isinstance(node, ast.JoinedStr):
        parts = [_texts(part) if isinstance(part, ast.Constant) else ["…"] for part in node.values]
        return ["".join(chosen) for chosen in product(*parts)]
    return ["…"]


def _message(name: str, arguments: list[str]) -> str:
    front, message = arguments[: _FRONT[name]], arguments[_FRONT[name]]
    if name == "InvalidCandleError":
        front = ["candles[…]"]
    elif name == "CandleFileError":
        front = ["…", "…"]
        return f"…:…: {message}"
    elif name == "LegacyIndexError":
        front = ["….…"]
    return ": ".join([*front, message])


def _raised(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", "")
        if name == "Refusal" and node.args:
            yield from (("InvalidDocumentError", f"…: {text}") for text in _texts(node.args[0]))
        if name not in _FRONT or len(node.args) <= _FRONT[name]:
            continue
        for arguments in product(*(_texts(argument) for argument in node.args)):
            yield name, _plain(_message(name, list(arguments)))


def _plain(message: str) -> str:
    return re.sub(r"…(?:…)+", "…", message)


def _of_source() -> dict[tuple[str, str], str]:
    """Return the modules of all messages, by class and text."""
    found: dict[tuple[str, str], str] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for raised in _raised(path):
            found.setdefault(raised, str(path.relative_to(SOURCE)))
    return found


def _of_page() -> dict[str, list[str]]:
    """Return the messages of the page by the class whose section they stand in."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    return {
        section.split("\n", 1)[0].strip("`"): re.findall(r"^\| `([^`]+)` \|", section, re.M)
        for section in sections
    }


def _classes() -> set[str]:
    for module in pkgutil.walk_packages(fastpersist.__path__, "fastpersist."):
        if not module.name.endswith(("__main__", "_c")):
            import_module(module.name)
    found, left = set(), [FastPersistError]
    while left:
        kind = left.pop()
        if kind.__module__.startswith("fastpersist."):
            found.add(kind.__name__)
            left += kind.__subclasses__()
    return {name for name in found if not name.startswith("_")}


def test_every_class_has_its_section() -> None:
    assert _classes() == {name for name in _of_page() if name.endswith("Error")}


def test_what_the_page_names_exists() -> None:
    source = _of_source()
    invented = [
        f"{name}: {message}"
        for name, messages in _of_page().items()
        if name.endswith("Error")
        for message in messages
        if (name, message) not in source
    ]
    assert not invented


def test_the_page_names_all_of_the_library() -> None:
    page = _of_page()
    missing = [
        f"{module}: {name}: {message}"
        for (name, message), module in _of_source().items()
        if module.startswith(_LIBRARY)
        and set(message) - set("…[]: .")
        and message not in page.get(name, ())
    ]
    assert not missing


def test_warnings_exist() -> None:
    joined = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    text = re.sub(r'" *\n *"', "", joined)  # a literal of several lines
    named = _of_page()["Warnings"]
    assert len(named) >= 8
    for message in named:
        parts = [part.strip() for part in message.split("…")]
        assert all(part in text for part in parts), message
