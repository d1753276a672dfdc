"""The golden calls of ``fixtures/interop/calls.json``, turned into calls of our registries.

The Node registries take their arguments in another order (contract 3); ours are context, key,
data, ``when``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastpersist.registry import Registries

FIXTURES: Final = Path(__file__).parent / "fixtures" / "interop"
LATER_DOMAINS: Final = frozenset({"strategy", "dictionary"})
"""Domains that the package does not offer."""

# For each of our arguments its place among those of Node. Calls that are not here take the same.
_PLACES: Final[dict[str, tuple[int, ...]]] = {
    "writeCandlesData": (1, 2, 3, 0),
    "writeSignalData": (1, 2, 3, 0),
    "writeScheduleData": (1, 2, 3, 0),
    "writePositionData": (1, 2, 0, 3),
    "readPartialData": (0, 1, 3, 2, 4),
    "writePartialData": (1, 2, 4, 3, 0, 5),
    "readBreakevenData": (0, 1, 3, 2, 4),
    "writeBreakevenData": (1, 2, 4, 3, 0, 5),
    "writeStorageData": (1, 0),
    "writeNotificationData": (1, 0),
    "writeMeasureData": (1, 2, 0, 3),
    "writeIntervalData": (1, 2, 0, 3),
    "writeMemoryData": (1, 2, 3, 0, 4),
    "writeRecentData": (1, 2, 3, 4, 5, 0, 6),
    "writeStateData": (1, 2, 0, 3),
    "writeSessionData": (1, 2, 3, 5, 6, 0, 4),
}


class Call(NamedTuple):
    """A call as ours: attribute of the registries, method and positional arguments."""

    registry: str
    method: str
    args: tuple[Any, ...]


def entries() -> list[dict[str, Any]]:
    """Return the golden calls in order, without those of the later domains."""
    text = (FIXTURES / "calls.json").read_text(encoding="utf-8")
    return [entry for entry in json.loads(text) if entry["domain"] not in LATER_DOMAINS]


def decoded(value: Any) -> Any:
    """Return a value of the file as it was: dates aware in UTC, ``Infinity``, None for nothing."""
    if value == "Infinity":
        return math.inf
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$date"}:
        return datetime.fromisoformat(value["$date"].replace("Z", "+00:00"))
    if value.keys() == {"$undefined"}:
        return None
    return {name: decoded(item) for name, item in value.items()}


def as_call(entry: dict[str, Any]) -> Call:
    """Return a golden call as one of ours."""
    args = decoded(entry["args"])
    places = _PLACES.get(entry["method"], tuple(range(len(args))))
    if sorted(places) != list(range(len(args))):
        raise ValueError(f"call {entry['n']}: {entry['method']} with {len(args)} arguments")
    method = re.sub("(?<=[a-z])(?=[A-Z])", "_", entry["method"]).lower()
    return Call(entry["domain"], method, tuple(args[place] for place in places))


def answer(entry: dict[str, Any], backend: str) -> Any:
    """Return what a Node backend (``"mongo"`` or ``"file"``) answered to a golden call."""
    return decoded(entry[backend]["returned"])


async def perform(registries: Registries, entry: dict[str, Any]) -> Any:
    """Make a golden call on `registries`; a list is collected."""
    call = as_call(entry)
    result = getattr(getattr(registries, call.registry), call.method)(*call.args)
    if isinstance(result, AsyncIterator):
        return [item async for item in result]
    return await result
