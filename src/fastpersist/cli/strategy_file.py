"""The Python file that holds strategies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import isabstract
from pathlib import Path
from types import ModuleType

from ..runner import Frame, Strategy, StrategyError
from ..runner.strategy import line_of

__all__ = ["StrategyFile", "load_strategies"]


@dataclass(frozen=True, slots=True)
class StrategyFile:
    """What a file defines.

    Attributes:
        strategies: The strategies that were asked for.
        frames: Frames that it gives names to, by those.
        source: Its bytes.
    """

    strategies: list[Strategy]
    frames: dict[str, Frame]
    source: bytes


def load_strategies(path: Path, names: Sequence[str] = ()) -> StrategyFile:
    """Return what a Python file defines.

    Args:
        path: The file: subclasses of ``Strategy`` that are not abstract, and functions made ones by
            ``@strategy``.
        names: Which of them, by their names; all by default.

    Raises:
        StrategyError: The file is missing or fails, or does not hold what is asked for.
    """
    if not path.is_file():
        raise StrategyError(f"no such file: {path}")
    if path.suffix != ".py":
        raise StrategyError(f"{path} is no Python file")
    source = path.read_bytes()
    # A name of its own: a strategy in json.py must not take the place of that module. Compiled
    # from the bytes that are returned: byte code kept for a file may be that of an earlier one.
    module = ModuleType(f"fastpersist_strategy_{path.stem}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)
        found = [
            value if isinstance(value, Strategy) else value()
            for value in list(vars(module).values())  # making one may set a global, or warn
            if isinstance(value, Strategy)
            or (
                isinstance(value, type)
                and issubclass(value, Strategy)
                and value.__module__ == module.__name__
                and not isabstract(value)  # the common base of others
            )
        ]
    except Exception as error:
        raise StrategyError(
            f"{path} fails: {type(error).__name__}: {error}{line_of(error, path)}"
        ) from error
    by_name = {strategy.name or type(strategy).__name__: strategy for strategy in found}
    if not found:
        raise StrategyError(f"{path} defines no Strategy")
    if len(by_name) != len(found):
        raise StrategyError(f"{path} has two strategies of one name: {', '.join(sorted(by_name))}")
    missing = [name for name in names if name not in by_name]
    if missing:
        raise StrategyError(
            f"{path} has no strategy {', '.join(missing)}", hint=f"it has {', '.join(by_name)}"
        )
    frames = {value.name: value for value in vars(module).values() if isinstance(value, Frame)}
    return StrategyFile([by_name[name] for name in names or by_name], frames, source)
