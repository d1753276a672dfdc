"""Write the tables of domains in ``docs/``, which follow ``src/fastpersist/domains.py``.

``python tools/make_tables.py`` puts them between their marks in ``docs/domains.md`` and
``docs/deployment.md``; with ``--check`` it only tells whether they are up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from fastpersist.domains import DOMAINS, Domain, Shape

DOCS = Path(__file__).parents[1] / "docs"

STORES = {
    "candle": "closed candles of a symbol; a stored one keeps its first figures",
    "signal": "the open position of a strategy on a symbol",
    "schedule": "the signal that waits for its entry price",
    "risk": "all active positions of a risk profile, as pairs of text and position",
    "partial": "which levels of profit and loss a signal has reached",
    "breakeven": "whether a signal has covered its costs",
    "storage": "the history of signals of a mode",
    "notification": "notifications of a mode",
    "log": "log lines; one that is stored never changes",
    "measure": "cached results of a bucket",
    "interval": "markers of what has fired in a bucket",
    "memory": "notes of a signal, with text to search",
    "recent": "the latest signal of a context",
    "state": "one value for each signal and bucket",
    "session": "one value for each running strategy, symbol, frame and mode",
}
ABSENT = {"none": "`None`", "list": "`[]`", "dict": "`{}`"}
CLEARED_BY_NONE = ("signal", "schedule", "recent")
# How many fields of the unique index make the shard key, where it is not all of them.
SHARD_FIELDS = {"memory": 2}
SHARD_WHY = {
    "candle": "a window and its symbol's newest candles are one range; a shorter key could not be "
    "split within a symbol",
    "storage": "`backtest` alone has two values, which cannot be spread",
    "notification": "as storage",
    "log": "the only field; a list asks all shards",
    "measure": "`bucket` alone would keep a large bucket in one piece",
    "interval": "as measure",
    "memory": "keeps the entries that are listed together on one shard; few for each signal",
}


def _absent(domain: Domain) -> str:
    if domain.shape is Shape.CANDLE:
        return "`None` if one of the window is missing"
    return ABSENT[domain.absent]


def _clearing(domain: Domain) -> str:
    if domain.shape is Shape.CANDLE or domain.name == "log":
        return "never changes"
    if domain.shape is Shape.ENTRY:
        return f"`remove_{domain.name}_data`; a later write revives"
    if domain.shape is Shape.LIST:
        return "rows are replaced by id"
    if domain.name in CLEARED_BY_NONE:
        return "write `None`"
    return "is replaced" if domain.absent == "none" else f"write {ABSENT[domain.absent]}"


def domains_table() -> str:
    """Return what each domain stores and under which key."""
    lines = [
        "| domain | stores | context | key of a call | nothing stored reads as | ends by | time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for domain in DOMAINS:
        context = ", ".join(field.argument for field in domain.context) or "none"
        rest = ", ".join(field.argument for field in domain.key[domain.context_size :])
        if domain.shape is Shape.LIST:
            rest = f"`{domain.row_id}` of each row"
        if domain.shape is Shape.CANDLE:
            rest = "timestamp of each candle"
        lines.append(
            f"| {domain.name} | {STORES[domain.name]} | {context} | {rest or 'none'} | "
            f"{_absent(domain)} | {_clearing(domain)} | {'`when`' if domain.has_when else 'no'} |"
        )
    return "\n".join(lines)


def places_table() -> str:
    """Return where each domain is stored."""
    lines = [
        "| domain | collection | unique index | Redis key | file below `./dump` |",
        "| --- | --- | --- | --- | --- |",
    ]
    for domain in DOMAINS:
        kinds = {field.stored: field.kind for field in domain.key}
        parts = ["mode" if kinds[name] == "mode" else name for name in domain.cache_order]
        key = ":".join([domain.namespace, *(f"<{part}>" for part in parts)])
        unique = ", ".join(name for name, _ in domain.unique_index)
        lines.append(
            f"| {domain.name} | `{domain.collection}` | {unique} | `{key}` | `{domain.file}` |"
        )
    return "\n".join(lines)


def shard_key(domain: Domain) -> tuple[str, ...]:
    """Return the fields of the shard key that keeps the unique index valid."""
    fields = [name for name, _ in domain.unique_index]
    return tuple(fields[: SHARD_FIELDS.get(domain.name, len(fields))])


def shards_table() -> str:
    """Return the shard key of each collection."""
    lines = [
        "| collection | shard key | beside the unique index | why |",
        "| --- | --- | --- | --- |",
    ]
    for domain in DOMAINS:
        key = shard_key(domain)
        relation = "equal" if len(key) == len(domain.unique_index) else "its prefix"
        why = SHARD_WHY.get(domain.name, "each row has a place of its own")
        lines.append(
            f"| `{domain.collection}` | `{{{', '.join(f'{name}: 1' for name in key)}}}` | "
            f"{relation} | {why} |"
        )
    return "\n".join(lines)


TABLES: dict[str, tuple[tuple[str, Callable[[], str]], ...]] = {
    "domains.md": (("domains", domains_table), ("places", places_table)),
    "deployment.md": (("shards", shards_table),),
}


def with_tables(name: str, text: str) -> str:
    """Return the text of a page with its tables renewed."""
    for mark, make in TABLES[name]:
        marked = re.compile(rf"(<!-- table {mark} -->\n).*?(\n<!-- end of table -->)", re.S)
        found = marked.findall(text)
        if len(found) != 1:
            sys.exit(f"docs/{name} needs one place for the table {mark}")
        (head, tail), table = found[0], f"\n{make()}\n"
        text = marked.sub(lambda _, made=head + table + tail: made, text)
    return text


def main() -> int:
    """Write the tables or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only tell what is out of date")
    only_checks = parser.parse_args().check
    stale = 0
    for name in TABLES:
        path = DOCS / name
        text = path.read_text(encoding="utf-8")
        renewed = with_tables(name, text)
        if renewed == text:
            continue
        if only_checks:
            print(f"docs/{name} is out of date: python tools/make_tables.py")
            stale = 1
        else:
            path.write_text(renewed, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
