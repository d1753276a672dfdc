"""Derive the synchronous registries from the asynchronous ones.

``python tools/make_sync.py`` writes ``src/fastpersist/sync/_registry.py`` and ``_own_domains.py``;
with ``--check`` it only tells whether they are up to date. Signatures, types and docstrings are
taken over as they are; a body becomes one call of ``run`` or ``iterate``.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src/fastpersist"
MODULES = {
    "registry": "The fifteen registries for synchronous callers.",
    "own_domains": "Own domains for synchronous callers.",
}
# They make instances or declare domains, which is the business of the asynchronous registry.
LEFT_OUT = {"declare", "bound_to", "use_adapter"}


def made(module: str) -> str:
    """Return the text of the synchronous module, formatted."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    body: list[ast.stmt] = []
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            made_class = _class(node, module)
            if made_class is not None:
                body.append(made_class)
                names.append(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name == "registries":
                body += ast.parse(f"registries = Registries({module}.registries)").body
                names.append(name)
            elif name.startswith("Persist"):
                body.append(node)
                names.append(name)
    used = {part.id for node in body for part in ast.walk(node) if isinstance(part, ast.Name)}
    imports = [_import(node, used, names) for node in tree.body if isinstance(node, ast.ImportFrom)]
    head = [
        f'"""{MODULES[module]}\n\nMade of ``{module}.py`` by ``tools/make_sync.py``; '
        'change that file, not this one.\n"""',
        "from __future__ import annotations",
        "from typing import Any, Generic, TypeVar",
        f"from .. import {module}",
        *(text for text in imports if text),
    ]
    if module == "own_domains":
        head += ["from ._registry import Registry"]
    head += [
        "from ._thread import iterate, run" if "iterate" in used else "from ._thread import run"
    ]
    head += [f"__all__ = {sorted(names)!r}"]
    if module == "registry":
        head += ["SourceT = TypeVar('SourceT', bound='registry.Registry[Any]')"]
    else:
        head += [
            "PayloadT = TypeVar('PayloadT')",
            "SourceT = TypeVar('SourceT', bound='own_domains.OwnDomain[Any]')",
        ]
    text = "\n".join([*head, *(ast.unparse(node) for node in body)])
    for command in (["check", "--fix", "--quiet", "--select", "I,F401"], ["format", "--quiet"]):
        text = subprocess.run(
            [
                sys.executable,
                "-m",
                "ruff",
                *command,
                "--stdin-filename",
                f"src/fastpersist/sync/_{module}.py",
                "-",
            ],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=PACKAGE.parents[1],
        ).stdout
    return text


def _import(node: ast.ImportFrom, used: set[str], made: list[str]) -> str:
    for alias in node.names:
        alias.name = {"AsyncIterator": "Iterator"}.get(alias.name, alias.name)
    names = [alias for alias in node.names if alias.name in used and alias.name not in made]
    if node.module in ("__future__", "typing", "registry") or not names:
        return ""
    level = node.level + 1 if node.level else 0
    return ast.unparse(ast.ImportFrom(node.module, names, level))


def _class(node: ast.ClassDef, module: str) -> ast.ClassDef | None:
    if node.name == "Registries":
        bases, first = "", _registries_init(node)
    elif not node.name.endswith(("Registry", "Domain")):
        return None
    else:
        generic = [base for base in node.bases if isinstance(base, ast.Subscript)]
        base = generic[0].value
        assert isinstance(base, ast.Name)
        if base.id == "Generic":
            bases = "Generic[SourceT]"
        elif node.name == "OwnDomain":
            bases = "Registry[SourceT]"
        elif len(generic) > 1:
            bases = f"{base.id}[{module}.{node.name}[PayloadT]], Generic[PayloadT]"
        else:
            bases = f"{base.id}[{module}.{node.name}]"
        first = ""
        if base.id in ("Generic", "OwnDomain"):
            source = "SourceT" if base.id == "Generic" else f"{module}.{node.name}[PayloadT]"
            first = f"def __init__(self, source: {source}) -> None: "
            first += "self._source = source" if base.id == "Generic" else "super().__init__(source)"
    shell = ast.parse(f"class {node.name}({bases}): pass").body[0]
    assert isinstance(shell, ast.ClassDef)
    shell.body = [node.body[0], *ast.parse(first).body]
    for method in node.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if not method.name.startswith("_") and method.name not in LEFT_OUT:
            shell.body.append(_method(method))
    return shell


def _registries_init(node: ast.ClassDef) -> str:
    lines = [
        "def __init__(self, source: registry.Registries) -> None:",
        "    self._source = source",
    ]
    init = next(part for part in node.body if isinstance(part, ast.FunctionDef))
    for line in init.body:
        if isinstance(line, ast.Assign):
            target, value = line.targets[0], line.value
            assert isinstance(target, ast.Attribute)
            assert isinstance(value, ast.Call)
            lines.append(
                f"    self.{target.attr} = {ast.unparse(value.func)}(source.{target.attr})"
            )
    lines += [
        "@property",
        "def backend(self) -> Backend:",
        "    '''The family that was chosen last for all of them.'''",
        "    return self._source.backend",
    ]
    return "\n".join(lines)


def _method(method: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.FunctionDef:
    returns = method.returns
    arguments = [argument.arg for argument in method.args.args[1:]]
    if method.args.vararg:
        arguments.append(f"*{method.args.vararg.arg}")
    arguments += [f"{argument.arg}={argument.arg}" for argument in method.args.kwonlyargs]
    target = f"self._source.{method.name}"
    call = f"{target}({', '.join(arguments)})"
    if isinstance(method, ast.AsyncFunctionDef):
        is_iterator = ast.unparse(returns or ast.Constant(None)).startswith("AsyncIterator")
        if is_iterator:
            assert isinstance(returns, ast.Subscript)
            returns = ast.Subscript(ast.Name("Iterator"), returns.slice, ast.Load())
        call = f"{'iterate' if is_iterator else 'run'}({', '.join([target, *arguments])})"
    is_property = any(ast.unparse(one) == "property" for one in method.decorator_list)
    if is_property:
        call = target
    is_none = isinstance(returns, ast.Constant) and returns.value is None
    body = (
        method.body[1:]
        if method.name == "all"
        else ast.parse(call if is_none else f"return {call}").body
    )
    made = ast.FunctionDef(
        method.name, method.args, [method.body[0], *body], method.decorator_list, returns
    )
    made.type_params = []  # a field of Python 3.12
    return ast.fix_missing_locations(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if out of date")
    is_check = parser.parse_args().check
    for module in MODULES:
        path = PACKAGE / f"sync/_{module}.py"
        text = made(module)
        if is_check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            sys.exit(f"{path} is out of date: python tools/make_sync.py")
        if not is_check:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
