"""Candles as columns: the specification of the compiled module."""

from __future__ import annotations

import ctypes
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from ctypes import c_int, c_int64, c_void_p, cast, py_object, pythonapi
from itertools import count as counter
from operator import index as as_index
from typing import TYPE_CHECKING, Any, Final

from ..errors import CorruptDataError

__all__ = [
    "CandleColumns",
    "Column",
    "aggregated",
    "columns_from_batches",
    "columns_from_rows",
    "insert_documents",
    "is_complete",
    "missing_steps",
    "part",
    "rows",
]

NAMES: Final = ("timestamp", "open", "high", "low", "close", "volume")
ID_BYTES: Final = 12

if TYPE_CHECKING:
    _Array = array[Any]
else:
    _Array = array


class Column(_Array):
    """Figures of one kind, one after the other in memory.

    Offers the buffer protocol. This twin's buffer is writable, the compiled one's is not;
    ``__array_interface__`` says read-only in both.

    Args:
        kind: ``"int64"`` or ``"float64"``.
        values: The figures.

    Raises:
        ValueError: `kind` is neither.
    """

    kind: str

    def __new__(cls, kind: str, values: Iterable[float] = ()) -> Column:
        if kind not in ("int64", "float64"):
            raise ValueError(f"kind must be 'int64' or 'float64', got {kind!r}")
        column = super().__new__(cls, "q" if kind == "int64" else "d", values)
        column.kind = kind
        return column

    def __getitem__(self, index: Any) -> Any:
        try:
            return super().__getitem__(as_index(index))
        except IndexError:
            raise IndexError("column index out of range") from None

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("'Column' object does not support item assignment")

    def __delitem__(self, index: Any) -> None:
        raise TypeError("'Column' object does not support item deletion")

    def __reduce__(self) -> Any:
        return Column, (self.kind, self.tolist())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": (len(self),),
            "typestr": "<i8" if self.kind == "int64" else "<f8",
            "data": (_address(self), True),
        }


class CandleColumns:
    """Candles as six columns of one length, and as an Arrow struct array that shares their memory.

    Attributes:
        timestamp: Opening times in ms.
        open, high, low, close, volume: The figures.
        skipped: Number of stored rows that were left out: a figure was absent or not a number.

    Raises:
        ValueError: A column has the wrong kind, or the lengths differ.
    """

    __slots__ = ("close", "high", "low", "open", "skipped", "timestamp", "volume")

    def __init__(
        self,
        timestamp: Column,
        open: Column,
        high: Column,
        low: Column,
        close: Column,
        volume: Column,
        skipped: int = 0,
    ) -> None:
        columns = (timestamp, open, high, low, close, volume)
        for name, column in zip(NAMES, columns, strict=True):
            if type(column) is not Column:
                raise TypeError(
                    f"Argument '{name}' has incorrect type "
                    f"(expected Column, got {type(column).__name__})"
                )
            kind = "int64" if name == "timestamp" else "float64"
            if column.kind != kind:
                raise ValueError(f"{name} must be {kind}, got {column.kind}")
            if len(column) != len(timestamp):
                raise ValueError(f"{name} has {len(column)} values, timestamp {len(timestamp)}")
        self.timestamp = timestamp
        self.open = open
        self.high = high
        self.low = low
        self.close = close
        self.volume = volume
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.timestamp)

    def __reduce__(self) -> Any:
        return CandleColumns, (*(getattr(self, name) for name in NAMES), self.skipped)

    def __arrow_c_schema__(self) -> object:
        """Return the Arrow schema as a capsule: ``timestamp[ms, UTC]`` and five doubles."""
        return _capsule("arrow_schema", _ArrowSchema, _fill_schema)

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """Return schema and array as capsules; nothing is copied, no other schema is offered."""
        return (
            self.__arrow_c_schema__(),
            _capsule("arrow_array", _ArrowArray, lambda out: _fill_array(out, self)),
        )

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return a stream of one batch as a capsule."""
        return _capsule("arrow_array_stream", _ArrowStream, lambda out: _fill_stream(out, self))


_DOUBLE: Final = struct.Struct("<d")
_INT32: Final = struct.Struct("<i")
_INT64: Final = struct.Struct("<q")
_NUMBERS: Final = {0x01: _DOUBLE, 0x10: _INT32, 0x12: _INT64}
_FIELDS: Final = {name.encode(): field for field, name in enumerate(NAMES)}
_FIXED: Final = {
    0x01: 8,  # double
    0x06: 0,  # undefined
    0x07: 12,  # ObjectId
    0x08: 1,  # bool
    0x09: 8,  # date
    0x0A: 0,  # null
    0x10: 4,  # int32
    0x11: 8,  # timestamp
    0x12: 8,  # int64
    0x13: 16,  # decimal128
    0x7F: 0,  # max key
    0xFF: 0,  # min key
}
# Smallest length that may stand in front of the value, and the bytes that it does not count.
_COUNTED: Final = {
    0x02: (1, 4),  # string
    0x03: (5, 0),  # document
    0x04: (5, 0),  # array
    0x05: (0, 5),  # binary
    0x0C: (1, 16),  # DBPointer
    0x0D: (1, 4),  # code
    0x0E: (1, 4),  # symbol
    0x0F: (14, 0),  # code with scope
}
_REGEX: Final = 0x0B


def columns_from_batches(batches: Iterable[bytes]) -> CandleColumns:
    """Return the candles of batches of stored rows, in their order.

    A figure may be a double, an int32 or an int64; the timestamp may be a double without a
    fraction. The last of equal names counts. Values of other fields are passed over unread.

    Args:
        batches: BSON documents one after the other, as ``find_raw_batches`` yields them.

    Raises:
        CorruptDataError: A batch is not BSON; says at which byte of its batch.
    """
    columns: list[list[Any]] = [[] for _ in NAMES]
    skipped = 0
    for batch in batches:
        if type(batch) is not bytes:
            raise TypeError(f"a batch must be bytes, got {type(batch).__name__}")
        start = 0
        while start < len(batch):
            length = _INT32.unpack_from(batch, start)[0] if start + 4 <= len(batch) else 0
            end = start + length - 1
            if length < 5 or end >= len(batch) or batch[end]:
                raise CorruptDataError("candle", f"bad document length at byte {start}")
            row = _row(batch, start + 4, end)
            if None in row:
                skipped += 1
            else:
                for column, figure in zip(columns, row, strict=True):
                    column.append(figure)
            start = end + 1
    return _from_lists(columns, skipped)


def columns_from_rows(rows: Sequence[Mapping[str, Any]]) -> CandleColumns:
    """Return the columns of candles that the caller has checked."""
    return _from_lists([[row[name] for row in rows] for name in NAMES], 0)


def missing_steps(columns: CandleColumns, since: int, step: int, count: int) -> int:
    """Say how many of the moments ``since + i * step`` for i below `count` have no candle.

    Rows at other moments do not matter, nor does the order.

    Raises:
        ValueError: `step` is not positive.
    """
    if step <= 0:
        raise ValueError(f"step must be positive, got {step}")
    count = max(count, 0)
    return count - len(
        {
            moment
            for moment in columns.timestamp
            if moment >= since and not (moment - since) % step and (moment - since) // step < count
        }
    )


def is_complete(columns: CandleColumns, since: int, step: int, count: int) -> bool:
    """Say whether :func:`missing_steps` finds none."""
    return missing_steps(columns, since, step, count) == 0


def part(columns: CandleColumns, start: int, stop: int) -> CandleColumns:
    """Return a copy of the candles from row `start` to before `stop`, as far as they are there."""
    start = max(start, 0)
    stop = max(min(stop, len(columns)), start)
    return _from_lists([getattr(columns, name).tolist()[start:stop] for name in NAMES], 0)


def aggregated(columns: CandleColumns, step: int) -> CandleColumns:
    """Return candles of `step` ms, made of those of a shorter interval, which are in order.

    A candle opens with the first of its parts and closes with the last; one without parts is not
    there. Whether the first and the last have all their parts is for the caller to know.

    Raises:
        ValueError: `step` is not positive.
    """
    if step <= 0:
        raise ValueError(f"step must be positive, got {step}")
    made: list[list[float]] = []
    for moment, opened, high, low, close, volume in zip(
        *(getattr(columns, name) for name in NAMES), strict=True
    ):
        first = moment // step * step
        if made and made[-1][0] == first:
            candle = made[-1]
            candle[2] = high if high > candle[2] else candle[2]
            candle[3] = low if low < candle[3] else candle[3]
            candle[4] = close
            candle[5] += volume
        else:
            made.append([first, opened, high, low, close, volume])
    return _from_lists([[candle[place] for candle in made] for place in range(len(NAMES))], 0)


def rows(columns: CandleColumns) -> list[dict[str, Any]]:
    """Return the candles as row objects."""
    return [
        dict(zip(NAMES, row, strict=True))
        for row in zip(*(getattr(columns, name) for name in NAMES), strict=True)
    ]


def insert_documents(columns: CandleColumns, prefix: bytes, ids: bytes, now_ms: int) -> list[bytes]:
    """Return the BSON documents that store the candles.

    Args:
        columns: The candles.
        prefix: Encoded BSON elements that stand between ``_id`` and ``timestamp``.
        ids: The document ids, 12 bytes each.
        now_ms: ``createDate`` and ``updatedDate``.

    Raises:
        ValueError: There are more or fewer ids than candles.
    """
    _check_bytes("prefix", prefix)
    _check_bytes("ids", ids)
    if len(ids) != ID_BYTES * len(columns):
        raise ValueError(f"{len(columns)} candles need {ID_BYTES} bytes of id each")
    date = _INT64.pack(now_ms)
    end = b"\x09createDate\0" + date + b"\x09updatedDate\0" + date + b"\x10__v\0\0\0\0\0\0"
    documents = []
    for row, figures in enumerate(zip(*(getattr(columns, name) for name in NAMES), strict=True)):
        body = bytearray(b"\x07_id\0" + ids[ID_BYTES * row : ID_BYTES * (row + 1)] + prefix)
        body += b"\x12timestamp\0" + _INT64.pack(figures[0])
        for name, figure in zip(NAMES[1:], figures[1:], strict=True):
            body += b"\x01" + name.encode() + b"\0" + _DOUBLE.pack(figure)
        body += end
        documents.append(_INT32.pack(len(body) + 4) + body)
    return documents


def _row(batch: bytes, at: int, end: int) -> list[Any]:
    row: list[Any] = [None] * len(NAMES)
    while at < end:
        element = at
        kind = batch[at]
        name_end = batch.find(b"\0", at + 1, end)
        if kind == 0 or name_end < 0:
            raise CorruptDataError("candle", f"bad element at byte {element}")
        at = name_end + 1
        size = _value_size(kind, batch, at, end)
        if size is None:
            raise CorruptDataError("candle", f"unknown type 0x{kind:02x} at byte {element}")
        if size < 0 or size > end - at:
            raise CorruptDataError("candle", f"bad element at byte {element}")
        field = _FIELDS.get(batch[element + 1 : name_end])
        if field is not None:
            number = _NUMBERS.get(kind)
            figure = None if number is None else number.unpack_from(batch, at)[0]
            if figure is not None:
                figure = float(figure) if field else _moment(figure)
            row[field] = figure
        at += size
    return row


def _value_size(kind: int, batch: bytes, at: int, end: int) -> int | None:
    """Return the size of a value, -1 for a bad one, None for a type that does not exist."""
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == _REGEX:
        options = batch.find(b"\0", at, end) + 1
        return batch.find(b"\0", options, end) + 1 - at if options else -1
    if kind not in _COUNTED:
        return None
    if end - at < 4:
        return -1
    smallest, uncounted = _COUNTED[kind]
    counted: int = _INT32.unpack_from(batch, at)[0]
    return counted + uncounted if counted >= smallest else -1


def _moment(figure: float) -> int | None:
    if isinstance(figure, int):
        return figure
    return int(figure) if figure.is_integer() and -(2.0**63) <= figure < 2.0**63 else None


def _from_lists(columns: list[list[Any]], skipped: int) -> CandleColumns:
    timestamp = Column("int64", columns[0])
    opened, high, low, close, volume = (Column("float64", figures) for figures in columns[1:])
    return CandleColumns(timestamp, opened, high, low, close, volume, skipped)


# The text is the one that Cython gives for a typed argument.
def _check_bytes(name: str, value: object) -> None:
    if type(value) is not bytes:
        raise TypeError(
            f"Argument '{name}' has incorrect type (expected bytes, got {type(value).__name__})"
        )


# The Arrow C data interface: https://arrow.apache.org/docs/format/CDataInterface.html


class _ArrowSchema(ctypes.Structure):
    _fields_ = (
        ("format", c_void_p),
        ("name", c_void_p),
        ("metadata", c_void_p),
        ("flags", c_int64),
        ("n_children", c_int64),
        ("children", c_void_p),
        ("dictionary", c_void_p),
        ("release", c_void_p),
        ("private_data", c_void_p),
    )


class _ArrowArray(ctypes.Structure):
    _fields_ = (
        ("length", c_int64),
        ("null_count", c_int64),
        ("offset", c_int64),
        ("n_buffers", c_int64),
        ("n_children", c_int64),
        ("buffers", c_void_p),
        ("children", c_void_p),
        ("dictionary", c_void_p),
        ("release", c_void_p),
        ("private_data", c_void_p),
    )


class _ArrowStream(ctypes.Structure):
    _fields_ = (
        ("get_schema", c_void_p),
        ("get_next", c_void_p),
        ("get_last_error", c_void_p),
        ("release", c_void_p),
        ("private_data", c_void_p),
    )


# What a structure points to, by its private_data, until a consumer releases it.
_held: dict[int, Any] = {}
_tokens = counter(1)
_EMPTY: Final = (c_int64 * 1)()
_Structure = type[_ArrowSchema] | type[_ArrowArray] | type[_ArrowStream]
_Release = ctypes.CFUNCTYPE(None, c_void_p)
pythonapi.PyErr_Clear.restype = None
_IO_ERROR: Final = 5


def _hold(*owners: object) -> int:
    token = next(_tokens)
    _held[token] = owners
    return token


def _forever(prototype: Any, function: Callable[..., Any]) -> Any:
    """Return the address of a C function that consumers can call until the process ends."""
    thunk = prototype(function)
    pythonapi.Py_IncRef(py_object(thunk))
    return cast(thunk, c_void_p).value


def _text_forever(text: str) -> int:
    buffer = ctypes.create_string_buffer(text.encode())
    pythonapi.Py_IncRef(py_object(buffer))
    return ctypes.addressof(buffer)


_texts = {
    text: _text_forever(text)
    for text in (
        *NAMES,
        *("", "g", "tsm:UTC", "+s"),
        *("arrow_schema", "arrow_array", "arrow_array_stream"),
    )
}


def _release_children(structure: Any, kind: Any) -> None:
    pointers = (c_void_p * structure.n_children).from_address(structure.children)
    for pointer in pointers:
        child = kind.from_address(pointer)
        if child.release:
            _Release(child.release)(pointer)


def _released(kind: Any) -> Callable[[int], None]:
    # Bound here, because a consumer may release when the globals of this module are gone.
    def release(
        address: int,
        held: dict[int, Any] = _held,
        children: Any = _release_children,
        clear: Any = pythonapi.PyErr_Clear,
    ) -> None:
        # A consumer that fails releases with its error pending. ctypes can not give that back, but
        # a structure that stays unreleased would make PyArrow abort the process.
        clear()
        structure = kind.from_address(address)
        if kind is not _ArrowStream and structure.n_children:
            children(structure, kind)
        held.pop(structure.private_data, None)
        structure.release = None

    return release


_release_schema = _forever(_Release, _released(_ArrowSchema))
_release_array = _forever(_Release, _released(_ArrowArray))
_release_stream = _forever(_Release, _released(_ArrowStream))


def _fill_schema(out: Any) -> None:
    _clear(out)
    children = (_ArrowSchema * len(NAMES))()
    pointers = (c_void_p * len(NAMES))()
    for field, name in enumerate(NAMES):
        child = children[field]
        child.format = _texts["g" if field else "tsm:UTC"]
        child.name = _texts[name]
        child.release = _release_schema
        pointers[field] = ctypes.addressof(child)
    out.format = _texts["+s"]
    out.name = _texts[""]
    out.n_children = len(NAMES)
    out.children = ctypes.addressof(pointers)
    out.release = _release_schema
    out.private_data = _hold(children, pointers)


def _clear(out: Any) -> None:
    # What a consumer hands over is not always zero.
    ctypes.memset(ctypes.addressof(out), 0, ctypes.sizeof(out))


def _fill_array(out: Any, columns: CandleColumns) -> None:
    _clear(out)
    children = (_ArrowArray * len(NAMES))()
    pointers = (c_void_p * len(NAMES))()
    for field, name in enumerate(NAMES):
        column = getattr(columns, name)
        buffers = (c_void_p * 2)(None, _address(column))
        child = children[field]
        child.length = len(column)
        child.n_buffers = 2
        child.buffers = ctypes.addressof(buffers)
        child.release = _release_array
        # An exported buffer cannot be moved.
        child.private_data = _hold(buffers, memoryview(column))
        pointers[field] = ctypes.addressof(child)
    validity = (c_void_p * 1)(None)
    out.length = len(columns)
    out.n_buffers = 1
    out.buffers = ctypes.addressof(validity)
    out.n_children = len(NAMES)
    out.children = ctypes.addressof(pointers)
    out.release = _release_array
    out.private_data = _hold(children, pointers, validity)


def _fill_stream(out: Any, columns: CandleColumns) -> None:
    out.get_schema = _stream_schema
    out.get_next = _stream_next
    out.get_last_error = _stream_error
    out.release = _release_stream
    out.private_data = _hold([columns])


def _get_schema(stream: int, out: int) -> int:
    try:
        _fill_schema(_ArrowSchema.from_address(out))
    except Exception:  # Cannot pass through C.
        return _IO_ERROR
    return 0


def _get_next(stream: int, out: int) -> int:
    try:
        array = _ArrowArray.from_address(out)
        (left,) = _held[_ArrowStream.from_address(stream).private_data]
        if left:
            _fill_array(array, left.pop())
        else:
            array.release = None
    except Exception:
        return _IO_ERROR
    return 0


_stream_schema = _forever(ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p), _get_schema)
_stream_next = _forever(ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p), _get_next)
_stream_error = _forever(ctypes.CFUNCTYPE(c_void_p, c_void_p), lambda stream: None)


def _address(column: Column) -> int:
    # An empty array has no memory, and not every consumer takes a null pointer.
    return column.buffer_info()[0] if len(column) else ctypes.addressof(_EMPTY)


# Takes the name as an address: a capsule keeps the pointer, not the text.
_new_capsule = ctypes.PYFUNCTYPE(py_object, c_void_p, c_void_p, c_void_p)(
    ("PyCapsule_New", pythonapi)
)
# Capsules with their structures. A destructor in Python would replace the error of a consumer that
# fails with one; each export looks for the capsules that nobody else has any more instead.
_exported: dict[int, tuple[object, Any]] = {}


def _references(pair: tuple[object, Any]) -> int:
    return sys.getrefcount(pair[0])


_UNSHARED: Final = _references((object(), None))


def _release_unused() -> None:
    for address, pair in list(_exported.items()):
        if _references(pair) <= _UNSHARED and address in _exported:
            del _exported[address]
            structure = pair[1]
            if structure.release:
                _Release(structure.release)(address)


def _capsule(name: str, kind: _Structure, fill: Callable[[Any], None]) -> object:
    _release_unused()
    structure = kind()
    fill(structure)
    address = ctypes.addressof(structure)
    capsule: object = _new_capsule(address, _texts[name], None)
    _exported[address] = (capsule, structure)
    return capsule
