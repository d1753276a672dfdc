"""Coverage-guided fuzzing of what parses and encodes: ``python tests/fuzz/fuzz.py TARGET [flags]``.

The twins are instrumented, so that libFuzzer finds its way through them; each input also goes to
the compiled module, which has to give the same answer. Flags are libFuzzer's, for example
``-max_total_time=60`` or the path of a corpus.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import atheris

with atheris.instrument_imports(include=["fastpersist.hot"]):
    from fastpersist.domains import DOMAINS
    from fastpersist.errors import FastPersistError
    from fastpersist.hot import _bson_py, _columns_py, _keys_py

_bson_c, _columns_c, _keys_c = (
    import_module(f"fastpersist.hot._{family}_c") for family in ("bson", "columns", "keys")
)


def answer(call: Callable[..., Any], *arguments: Any) -> str:
    """Return the result as text, or the error that the package raises on purpose."""
    try:
        return repr(call(*arguments))
    except FastPersistError as error:
        return f"{type(error).__name__}: {error}"


def decode(data: bytes) -> None:
    """Bytes to Python: damaged documents, replies and batches."""
    for name in ("decode", "split", "reply_documents", "reply_cursor_id"):
        twin, compiled = getattr(_bson_py, name), getattr(_bson_c, name)
        assert answer(twin, data) == answer(compiled, data)
    framed = (len(data) + 5).to_bytes(4, "little") + data + b"\0"
    for fields in (None, (), ("a", "b")):
        for converts in (False, True):
            arguments = (framed, 0, fields, converts)
            assert answer(_bson_py.decode, *arguments) == answer(_bson_c.decode, *arguments)


def encode(data: bytes) -> None:
    """Whatever the decoder makes of bytes, and what a little grammar makes of them."""
    source = atheris.FuzzedDataProvider(data)
    document = {source.ConsumeUnicode(4): _value(source, 0) for _ in range(3)}
    for path in ("", "payload"):
        twin = answer(_bson_py.encode, document, path)
        compiled = answer(_bson_c.encode, document, path)
        assert twin == compiled, (document, path, twin, compiled)


def _value(source: Any, depth: int) -> Any:
    kind = source.ConsumeIntInRange(0, 9 if depth < 6 else 6)
    if kind == 0:
        return source.ConsumeInt(9)
    if kind == 1:
        return source.ConsumeFloat()
    if kind == 2:
        return source.ConsumeUnicode(6)
    if kind == 3:
        return source.ConsumeBytes(4)
    if kind == 4:
        return source.ConsumeBool()
    if kind == 5:
        return None
    if kind == 6:
        return object
    if kind == 7:
        return [_value(source, depth + 1) for _ in range(source.ConsumeIntInRange(0, 3))]
    if kind == 8:
        return tuple(_value(source, depth + 1) for _ in range(source.ConsumeIntInRange(0, 12)))
    return {
        source.ConsumeUnicode(3): _value(source, depth + 1)
        for _ in range(source.ConsumeIntInRange(0, 3))
    }


def columns(data: bytes) -> None:
    """Raw batches to candle columns."""

    def read(module: Any, batch: bytes) -> Any:
        found = module.columns_from_batches([batch])
        return found.skipped, module.rows(found)

    framed = (len(data) + 5).to_bytes(4, "little") + data + b"\0"
    for batch in (data, framed):
        assert answer(read, _columns_py, batch) == answer(read, _columns_c, batch)


def keys(data: bytes) -> None:
    """Names to Redis keys and slots."""
    source = atheris.FuzzedDataProvider(data)
    domain = source.PickValueInList(list(DOMAINS))
    values = [
        source.PickValueInList(
            [source.ConsumeUnicode(600), source.ConsumeInt(12), source.ConsumeBool(), None]
        )
        for _ in domain.key
    ]
    templates = [
        module.KeyTemplate(domain.namespace, domain.key_parts, domain.key_order)
        for module in (_keys_py, _keys_c)
    ]
    assert answer(templates[0], *values) == answer(templates[1], *values)
    assert _keys_py.slot(data) == _keys_c.slot(data)


TARGETS = {"decode": decode, "encode": encode, "columns": columns, "keys": keys}


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
