"""Candles as columns, compiled; the twin ``_columns_py`` says what it has to do.

Stored rows are read without a Python object for any of them. Two rows of one writer differ in
their values only, so an element is first compared with the one in its place in the row before.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.math cimport floor
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from ..errors import CorruptDataError

__all__ = [
    "CandleColumns",
    "Column",
    "columns_from_batches",
    "columns_from_rows",
    "insert_documents",
    "is_complete",
    "missing_steps",
    "rows",
]

cdef enum:
    FIELDS = 6
    ALL_FIELDS = 63
    ID_BYTES = 12
    FIRST_CAPACITY = 256
    # Elements of the row before that are remembered.
    MAX_SLOTS = 32

cdef enum Outcome:
    FINE
    NO_MEMORY
    BAD_LENGTH
    BAD_ELEMENT
    UNKNOWN_TYPE

cdef enum:
    BAD_SIZE = -1
    NO_SUCH_TYPE = -2
    VARIABLE = -3

NAMES = ("timestamp", "open", "high", "low", "close", "volume")
cdef const char *FIELD_NAMES[FIELDS]
FIELD_NAMES[:] = [b"timestamp", b"open", b"high", b"low", b"close", b"volume"]


cdef class Column:
    cdef void *_data
    cdef Py_ssize_t _length
    cdef Py_ssize_t _shape[1]
    cdef Py_ssize_t _strides[1]
    cdef readonly str kind

    def __cinit__(self, str kind not None, values=()):
        if kind not in ("int64", "float64"):
            raise ValueError(f"kind must be 'int64' or 'float64', got {kind!r}")
        self.kind = kind
        cdef tuple items = tuple(values)
        cdef Py_ssize_t row, length = len(items)
        # Never null: not every consumer takes that for an empty column.
        self._data = malloc(max(length, 1) * 8)
        if self._data == NULL:
            raise MemoryError()
        self._length = length
        if kind == "int64":
            for row in range(length):
                (<int64_t *>self._data)[row] = items[row]
        else:
            for row in range(length):
                (<double *>self._data)[row] = items[row]

    def __dealloc__(self):
        free(self._data)

    def __len__(self):
        return self._length

    def __getitem__(self, Py_ssize_t index):
        if index < 0:
            index += self._length
        if not 0 <= index < self._length:
            raise IndexError("column index out of range")
        if self.kind == "int64":
            return (<int64_t *>self._data)[index]
        return (<double *>self._data)[index]

    def tolist(self):
        cdef Py_ssize_t row
        if self.kind == "int64":
            return [(<int64_t *>self._data)[row] for row in range(self._length)]
        return [(<double *>self._data)[row] for row in range(self._length)]

    def __reduce__(self):
        return Column, (self.kind, self.tolist())

    @property
    def __array_interface__(self):
        return {
            "version": 3,
            "shape": (self._length,),
            "typestr": "<i8" if self.kind == "int64" else "<f8",
            "data": (<size_t>self._data, True),
        }

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("a column is read-only")
        self._shape[0] = self._length
        self._strides[0] = 8
        buffer.buf = self._data
        buffer.obj = self
        buffer.len = self._length * 8
        buffer.itemsize = 8
        buffer.readonly = 1
        buffer.ndim = 1
        buffer.format = NULL
        if flags & PyBUF_FORMAT:
            buffer.format = <char *>b"q" if self.kind == "int64" else <char *>b"d"
        buffer.shape = self._shape if flags & PyBUF_ND else NULL
        buffer.strides = self._strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        buffer.suboffsets = NULL
        buffer.internal = NULL


cdef class CandleColumns:
    cdef readonly Column timestamp
    cdef readonly Column open
    cdef readonly Column high
    cdef readonly Column low
    cdef readonly Column close
    cdef readonly Column volume
    cdef readonly Py_ssize_t skipped

    def __cinit__(
        self,
        Column timestamp not None,
        Column open not None,
        Column high not None,
        Column low not None,
        Column close not None,
        Column volume not None,
        Py_ssize_t skipped=0,
    ):
        cdef Column column
        for name, column in zip(NAMES, (timestamp, open, high, low, close, volume)):
            kind = "int64" if name == "timestamp" else "float64"
            if column.kind != kind:
                raise ValueError(f"{name} must be {kind}, got {column.kind}")
            if column._length != timestamp._length:
                raise ValueError(
                    f"{name} has {column._length} values, timestamp {timestamp._length}"
                )
        self.timestamp = timestamp
        self.open = open
        self.high = high
        self.low = low
        self.close = close
        self.volume = volume
        self.skipped = skipped

    def __len__(self):
        return self.timestamp._length

    def __reduce__(self):
        return CandleColumns, (*(getattr(self, name) for name in NAMES), self.skipped)

    cdef Column column(self, int field):
        if field == 0:
            return self.timestamp
        if field == 1:
            return self.open
        if field == 2:
            return self.high
        if field == 3:
            return self.low
        if field == 4:
            return self.close
        return self.volume

    cdef double *figures(self, int field):
        cdef Column column = self.column(field)
        return <double *>column._data

    def __arrow_c_schema__(self):
        cdef ArrowSchema *schema = <ArrowSchema *>calloc(1, sizeof(ArrowSchema))
        if schema == NULL:
            raise MemoryError()
        if fill_schema(schema) < 0:
            free(schema)
            raise MemoryError()
        return PyCapsule_New(schema, b"arrow_schema", destroy_schema)

    def __arrow_c_array__(self, requested_schema=None):
        schema = self.__arrow_c_schema__()
        cdef ArrowArray *array = <ArrowArray *>calloc(1, sizeof(ArrowArray))
        if array == NULL:
            raise MemoryError()
        if fill_array(array, self) < 0:
            free(array)
            raise MemoryError()
        return schema, PyCapsule_New(array, b"arrow_array", destroy_array)

    def __arrow_c_stream__(self, requested_schema=None):
        cdef ArrowArrayStream *stream = <ArrowArrayStream *>calloc(1, sizeof(ArrowArrayStream))
        if stream == NULL:
            raise MemoryError()
        stream.get_schema = stream_schema
        stream.get_next = stream_next
        stream.get_last_error = stream_error
        stream.release = release_stream
        stream.private_data = <void *>self
        Py_INCREF(self)
        return PyCapsule_New(stream, b"arrow_array_stream", destroy_stream)


def columns_from_batches(batches):
    cdef Builder builder
    cdef Py_ssize_t where = 0
    cdef const uint8_t *data
    cdef Py_ssize_t size
    cdef Outcome outcome
    memset(&builder, 0, sizeof(Builder))
    try:
        for batch in batches:
            if type(batch) is not bytes:
                raise TypeError(f"a batch must be bytes, got {type(batch).__name__}")
            data = <const uint8_t *>PyBytes_AS_STRING(batch)
            size = PyBytes_GET_SIZE(batch)
            with nogil:
                outcome = read_batch(&builder, data, size, &where)
            if outcome == NO_MEMORY:
                raise MemoryError()
            if outcome == BAD_LENGTH:
                raise CorruptDataError("candle", f"bad document length at byte {where}")
            if outcome == BAD_ELEMENT:
                raise CorruptDataError("candle", f"bad element at byte {where}")
            if outcome == UNKNOWN_TYPE:
                raise CorruptDataError(
                    "candle", f"unknown type 0x{data[where]:02x} at byte {where}"
                )
        return CandleColumns(
            *(taken(&builder, field) for field in range(FIELDS)), builder.skipped
        )
    finally:
        for field in range(FIELDS):
            free(builder.columns[field])


def columns_from_rows(rows):
    return CandleColumns(
        *(
            Column("float64" if field else "int64", [row[name] for row in rows])
            for field, name in enumerate(NAMES)
        )
    )


def missing_steps(CandleColumns columns not None, int64_t since, int64_t step, int64_t count):
    if step <= 0:
        raise ValueError(f"step must be positive, got {step}")
    cdef const int64_t *moments = <const int64_t *>columns.timestamp._data
    cdef Py_ssize_t row, length = columns.timestamp._length
    cdef int64_t found = 0, place, last = -1
    cdef bint is_sorted = True
    if count < 0:
        count = 0
    for row in range(length):
        place = place_of(moments[row], since, step, count)
        if place < 0:
            continue
        if place <= last:
            is_sorted = False
            break
        last = place
        found += 1
    if is_sorted:
        return count - found
    places = set()
    for row in range(length):
        place = place_of(moments[row], since, step, count)
        if place >= 0:
            places.add(place)
    return count - len(places)


def is_complete(CandleColumns columns not None, int64_t since, int64_t step, int64_t count):
    return missing_steps(columns, since, step, count) == 0


cdef CandleColumns new_columns(Py_ssize_t length):
    cdef list columns = []
    cdef Column column
    cdef void *data
    cdef int field
    for field in range(FIELDS):
        column = Column("float64" if field else "int64")
        data = realloc(column._data, max(length, 1) * 8)
        if data == NULL:
            raise MemoryError()
        column._data = data
        column._length = length
        columns.append(column)
    return CandleColumns(*columns)


def part(CandleColumns columns not None, Py_ssize_t start, Py_ssize_t stop):
    cdef CandleColumns copy
    cdef int field
    start = max(start, 0)
    stop = max(min(stop, columns.timestamp._length), start)
    copy = new_columns(stop - start)
    for field in range(FIELDS):
        memcpy(
            copy.column(field)._data,
            <const char *>columns.column(field)._data + start * 8,
            (stop - start) * 8,
        )
    return copy


def aggregated(CandleColumns columns not None, int64_t step):
    if step <= 0:
        raise ValueError(f"step must be positive, got {step}")
    cdef const int64_t *moments = <const int64_t *>columns.timestamp._data
    cdef const double *opened = columns.figures(1)
    cdef const double *high = columns.figures(2)
    cdef const double *low = columns.figures(3)
    cdef const double *close = columns.figures(4)
    cdef const double *volume = columns.figures(5)
    cdef Py_ssize_t row, length = columns.timestamp._length, made = 0
    cdef int64_t first = 0, previous = 0
    for row in range(length):
        first = floor_to(moments[row], step)
        if row == 0 or first != previous:
            made += 1
        previous = first
    cdef CandleColumns result = new_columns(made)
    cdef int64_t *to_moments = <int64_t *>result.timestamp._data
    cdef double *to_opened = result.figures(1)
    cdef double *to_high = result.figures(2)
    cdef double *to_low = result.figures(3)
    cdef double *to_close = result.figures(4)
    cdef double *to_volume = result.figures(5)
    made = -1
    for row in range(length):
        first = floor_to(moments[row], step)
        if made < 0 or to_moments[made] != first:
            made += 1
            to_moments[made] = first
            to_opened[made] = opened[row]
            to_high[made] = high[row]
            to_low[made] = low[row]
            to_volume[made] = volume[row]
        else:
            if high[row] > to_high[made]:
                to_high[made] = high[row]
            if low[row] < to_low[made]:
                to_low[made] = low[row]
            to_volume[made] += volume[row]
        to_close[made] = close[row]
    return result


cdef inline int64_t floor_to(int64_t moment, int64_t step) noexcept nogil:
    cdef int64_t rest = moment % step
    # Python's rule and not C's, for moments before 1970; the directive leaves that to us.
    if rest < 0:
        rest += step
    return moment - rest


def rows(CandleColumns columns not None):
    cdef const int64_t *moments = <const int64_t *>columns.timestamp._data
    cdef const double *opened = columns.figures(1)
    cdef const double *high = columns.figures(2)
    cdef const double *low = columns.figures(3)
    cdef const double *close = columns.figures(4)
    cdef const double *volume = columns.figures(5)
    cdef Py_ssize_t row
    return [
        {
            "timestamp": moments[row],
            "open": opened[row],
            "high": high[row],
            "low": low[row],
            "close": close[row],
            "volume": volume[row],
        }
        for row in range(columns.timestamp._length)
    ]


def insert_documents(
    CandleColumns columns not None, bytes prefix not None, bytes ids not None, int64_t now_ms
):
    cdef Py_ssize_t row, length = columns.timestamp._length
    cdef int field
    if len(ids) != ID_BYTES * length:
        raise ValueError(f"{length} candles need {ID_BYTES} bytes of id each")
    date = PyBytes_FromStringAndSize(<char *>&now_ms, 8)
    body = b"\x07_id\0" + bytes(ID_BYTES) + prefix
    cdef Py_ssize_t places[FIELDS]
    for field in range(FIELDS):
        body += (b"\x01" if field else b"\x12") + FIELD_NAMES[field] + b"\0"
        places[field] = len(body) + 4
        body += bytes(8)
    body += b"\x09createDate\0" + date + b"\x09updatedDate\0" + date + b"\x10__v\0\0\0\0\0\0"
    cdef bytes template = (<int>len(body) + 4).to_bytes(4, "little") + body
    cdef Py_ssize_t size = len(template)
    cdef const char *source = template
    cdef const char *id_source = ids
    cdef const char *figures[FIELDS]
    cdef Column column
    for field in range(FIELDS):
        column = columns.column(field)
        figures[field] = <const char *>column._data
    cdef list documents = []
    cdef char *target
    for row in range(length):
        document = PyBytes_FromStringAndSize(NULL, size)
        target = PyBytes_AS_STRING(document)
        memcpy(target, source, size)
        memcpy(target + 9, id_source + ID_BYTES * row, ID_BYTES)
        for field in range(FIELDS):
            memcpy(target + places[field], figures[field] + 8 * row, 8)
        documents.append(document)
    return documents


@cython.cdivision(True)
cdef inline int64_t place_of(
    int64_t moment, int64_t since, int64_t step, int64_t count
) noexcept nogil:
    if moment < since:
        return -1
    # Unsigned, since the distance of two int64 need not be one.
    cdef uint64_t distance = <uint64_t>moment - <uint64_t>since
    cdef uint64_t place = distance // <uint64_t>step
    if place >= <uint64_t>count or place * <uint64_t>step != distance:
        return -1
    return <int64_t>place


cdef struct Slot:
    const uint8_t *head
    Py_ssize_t head_size
    Py_ssize_t value_size
    int field
    uint8_t kind

cdef struct Builder:
    void *columns[FIELDS]
    Py_ssize_t length
    Py_ssize_t capacity
    Py_ssize_t skipped


cdef Column taken(Builder *builder, int field):
    cdef Column column = Column("float64" if field else "int64")
    # Growing has doubled it, the consumers may keep it for long.
    cdef void *data = realloc(builder.columns[field], max(builder.length, 1) * 8)
    if data == NULL:
        raise MemoryError()
    builder.columns[field] = NULL
    free(column._data)
    column._data = data
    column._length = builder.length
    return column


cdef int grow(Builder *builder) noexcept nogil:
    cdef Py_ssize_t capacity = max(<Py_ssize_t>FIRST_CAPACITY, builder.capacity * 2)
    cdef void *data
    cdef int field
    for field in range(FIELDS):
        data = realloc(builder.columns[field], capacity * 8)
        if data == NULL:
            return -1
        builder.columns[field] = data
    builder.capacity = capacity
    return 0


cdef Outcome read_batch(
    Builder *builder, const uint8_t *data, Py_ssize_t size, Py_ssize_t *where
) noexcept nogil:
    cdef Slot slots[MAX_SLOTS]
    cdef Slot other
    cdef Slot *slot
    cdef int known = 0, element, found
    cdef Py_ssize_t start = 0, at, end, value_size
    cdef int32_t length, int32
    cdef int64_t int64 = 0
    cdef double figure = 0
    cdef int64_t *moments
    cdef double *figures
    while start < size:
        where[0] = start
        if size - start < 4:
            return BAD_LENGTH
        memcpy(&length, data + start, 4)
        if length < 5 or length > size - start:
            return BAD_LENGTH
        end = start + length - 1
        if data[end]:
            return BAD_LENGTH
        if builder.length == builder.capacity and grow(builder) < 0:
            return NO_MEMORY
        at = start + 4
        element = found = 0
        while at < end:
            slot = &slots[element] if element < MAX_SLOTS else &other
            if not (
                element < known
                and slot.head_size <= end - at
                and memcmp(slot.head, data + at, slot.head_size) == 0
            ):
                known = min(element, <int>MAX_SLOTS)
                where[0] = at
                if not read_head(slot, data + at, end - at):
                    return BAD_ELEMENT
                if slot.value_size == NO_SUCH_TYPE:
                    return UNKNOWN_TYPE
                if element < MAX_SLOTS:
                    known = element + 1
            element += 1
            value_size = slot.value_size
            if value_size == VARIABLE:
                value_size = counted_size(
                    slot.kind, data + at + slot.head_size, end - at - slot.head_size
                )
            if value_size < 0 or value_size > end - at - slot.head_size:
                where[0] = at
                return BAD_ELEMENT
            at += slot.head_size
            if slot.field >= 0:
                if slot.kind == 0x01:
                    memcpy(&figure, data + at, 8)
                elif slot.kind == 0x12:
                    memcpy(&int64, data + at, 8)
                    figure = <double>int64
                elif slot.kind == 0x10:
                    memcpy(&int32, data + at, 4)
                    int64 = int32
                    figure = int32
                if slot.field > 0:
                    figures = <double *>builder.columns[slot.field]
                    figures[builder.length] = figure
                    found |= 1 << slot.field
                elif slot.kind != 0x01:
                    moments = <int64_t *>builder.columns[0]
                    moments[builder.length] = int64
                    found |= 1
                elif -9223372036854775808.0 <= figure < 9223372036854775808.0 and (
                    floor(figure) == figure
                ):
                    moments = <int64_t *>builder.columns[0]
                    moments[builder.length] = <int64_t>figure
                    found |= 1
                else:
                    found &= ~1
            elif slot.field < -1:
                # One of the six, but no number: what an equal name has set before is void.
                found &= ~(1 << (-2 - slot.field))
            at += value_size
        if found == ALL_FIELDS:
            builder.length += 1
        else:
            builder.skipped += 1
        start = end + 1
    return FINE


cdef bint read_head(Slot *slot, const uint8_t *data, Py_ssize_t left) noexcept nogil:
    """Read type and name; field is -1 for a foreign one, -2 - field for one that is no number."""
    cdef const uint8_t *name_end
    cdef bint is_number
    cdef int field
    slot.kind = data[0]
    name_end = <const uint8_t *>memchr(data + 1, 0, left - 1)
    if slot.kind == 0 or name_end == NULL:
        return False
    slot.head = data
    slot.head_size = name_end + 1 - data
    slot.value_size = fixed_size(slot.kind)
    slot.field = -1
    for field in range(FIELDS):
        if name_is(data + 1, slot.head_size - 1, FIELD_NAMES[field]):
            is_number = slot.kind == 0x01 or slot.kind == 0x10 or slot.kind == 0x12
            slot.field = field if is_number else -2 - field
    return True


cdef bint name_is(const uint8_t *name, Py_ssize_t size, const char *field) noexcept nogil:
    # Both end with a zero, which stops the comparison.
    cdef Py_ssize_t at
    for at in range(size):
        if name[at] != <uint8_t>field[at]:
            return False
    return True


cdef Py_ssize_t fixed_size(uint8_t kind) noexcept nogil:
    if kind in (0x01, 0x09, 0x11, 0x12):  # double, date, timestamp, int64
        return 8
    if kind in (0x06, 0x0A, 0x7F, 0xFF):  # undefined, null, max key, min key
        return 0
    if kind == 0x07:  # ObjectId
        return 12
    if kind == 0x08:  # bool
        return 1
    if kind == 0x10:  # int32
        return 4
    if kind == 0x13:  # decimal128
        return 16
    return VARIABLE if 0x02 <= kind <= 0x0F else NO_SUCH_TYPE


cdef Py_ssize_t counted_size(uint8_t kind, const uint8_t *data, Py_ssize_t left) noexcept nogil:
    cdef const uint8_t *text_end
    cdef int32_t counted
    if kind == 0x0B:  # regular expression
        text_end = <const uint8_t *>memchr(data, 0, left)
        if text_end == NULL:
            return BAD_SIZE
        text_end = <const uint8_t *>memchr(text_end + 1, 0, data + left - text_end - 1)
        return BAD_SIZE if text_end == NULL else text_end + 1 - data
    if left < 4:
        return BAD_SIZE
    memcpy(&counted, data, 4)
    if kind == 0x03 or kind == 0x04:  # document, array
        return counted if counted >= 5 else BAD_SIZE
    if kind == 0x05:  # binary
        return <Py_ssize_t>counted + 5 if counted >= 0 else BAD_SIZE
    if kind == 0x0C:  # DBPointer
        return <Py_ssize_t>counted + 16 if counted >= 1 else BAD_SIZE
    if kind == 0x0F:  # code with scope
        return counted if counted >= 14 else BAD_SIZE
    # string, code, symbol
    return <Py_ssize_t>counted + 4 if counted >= 1 else BAD_SIZE


cdef struct ArrowSchema:
    const char *format
    const char *name
    const char *metadata
    int64_t flags
    int64_t n_children
    ArrowSchema **children
    ArrowSchema *dictionary
    void (*release)(ArrowSchema *) noexcept nogil
    void *private_data

cdef struct ArrowArray:
    int64_t length
    int64_t null_count
    int64_t offset
    int64_t n_buffers
    int64_t n_children
    const void **buffers
    ArrowArray **children
    ArrowArray *dictionary
    void (*release)(ArrowArray *) noexcept nogil
    void *private_data

cdef struct ArrowArrayStream:
    int (*get_schema)(ArrowArrayStream *, ArrowSchema *) noexcept nogil
    int (*get_next)(ArrowArrayStream *, ArrowArray *) noexcept nogil
    const char *(*get_last_error)(ArrowArrayStream *) noexcept nogil
    void (*release)(ArrowArrayStream *) noexcept nogil
    void *private_data

cdef struct SchemaParts:
    ArrowSchema *children[FIELDS]
    ArrowSchema child[FIELDS]

cdef struct ArrayParts:
    const void *validity[1]
    ArrowArray *children[FIELDS]
    ArrowArray child[FIELDS]

# A consumer may take a child and release the rest, so that each child has an owner of its own.
cdef struct ChildParts:
    const void *buffers[2]
    PyObject *owner

cdef enum:
    ENOMEM = 12


cdef int fill_schema(ArrowSchema *out) noexcept nogil:
    cdef SchemaParts *parts = <SchemaParts *>calloc(1, sizeof(SchemaParts))
    cdef int field
    if parts == NULL:
        return -1
    for field in range(FIELDS):
        parts.child[field].format = b"g" if field else b"tsm:UTC"
        parts.child[field].name = FIELD_NAMES[field]
        parts.child[field].release = release_schema
        parts.children[field] = &parts.child[field]
    memset(out, 0, sizeof(ArrowSchema))
    out.format = b"+s"
    out.name = b""
    out.n_children = FIELDS
    out.children = parts.children
    out.release = release_schema
    out.private_data = parts
    return 0


cdef void release_schema(ArrowSchema *schema) noexcept nogil:
    cdef ArrowSchema *child
    cdef int field
    for field in range(<int>schema.n_children):
        child = schema.children[field]
        if child.release != NULL:
            child.release(child)
    free(schema.private_data)
    schema.release = NULL


cdef int fill_array(ArrowArray *out, CandleColumns columns) noexcept:
    cdef ArrayParts *parts = <ArrayParts *>calloc(1, sizeof(ArrayParts))
    cdef ChildParts *held
    cdef ArrowArray *child
    cdef Column column
    cdef int field
    if parts == NULL:
        return -1
    memset(out, 0, sizeof(ArrowArray))
    out.length = columns.timestamp._length
    out.n_buffers = 1
    out.buffers = parts.validity
    out.children = parts.children
    out.release = release_array
    out.private_data = parts
    for field in range(FIELDS):
        held = <ChildParts *>calloc(1, sizeof(ChildParts))
        if held == NULL:
            release_array(out)
            return -1
        column = columns.column(field)
        held.buffers[1] = column._data
        held.owner = <PyObject *>column
        Py_INCREF(column)
        child = &parts.child[field]
        child.length = column._length
        child.n_buffers = 2
        child.buffers = held.buffers
        child.release = release_child
        child.private_data = held
        parts.children[field] = child
        out.n_children = field + 1
    return 0


cdef void release_array(ArrowArray *array) noexcept nogil:
    cdef ArrowArray *child
    cdef int field
    for field in range(<int>array.n_children):
        child = array.children[field]
        if child.release != NULL:
            child.release(child)
    free(array.private_data)
    array.release = NULL


cdef void release_child(ArrowArray *array) noexcept with gil:
    cdef ChildParts *held = <ChildParts *>array.private_data
    Py_DECREF(<object>held.owner)
    free(held)
    array.release = NULL


cdef int stream_schema(ArrowArrayStream *stream, ArrowSchema *out) noexcept nogil:
    return ENOMEM if fill_schema(out) < 0 else 0


# The stream owns the columns until it has handed them on.
cdef int stream_next(ArrowArrayStream *stream, ArrowArray *out) noexcept with gil:
    if stream.private_data == NULL:
        out.release = NULL
        return 0
    if fill_array(out, <CandleColumns>stream.private_data) < 0:
        return ENOMEM
    drop_columns(stream)
    return 0


cdef const char *stream_error(ArrowArrayStream *stream) noexcept nogil:
    return NULL


cdef void release_stream(ArrowArrayStream *stream) noexcept with gil:
    drop_columns(stream)
    stream.release = NULL


cdef void drop_columns(ArrowArrayStream *stream) noexcept:
    cdef void *columns = stream.private_data
    stream.private_data = NULL
    if columns != NULL:
        Py_DECREF(<object>columns)


cdef void destroy_schema(object capsule) noexcept:
    cdef ArrowSchema *schema = <ArrowSchema *>PyCapsule_GetPointer(capsule, b"arrow_schema")
    if schema.release != NULL:
        schema.release(schema)
    free(schema)


cdef void destroy_array(object capsule) noexcept:
    cdef ArrowArray *array = <ArrowArray *>PyCapsule_GetPointer(capsule, b"arrow_array")
    if array.release != NULL:
        array.release(array)
    free(array)


cdef void destroy_stream(object capsule) noexcept:
    cdef ArrowArrayStream *stream = <ArrowArrayStream *>PyCapsule_GetPointer(
        capsule, b"arrow_array_stream"
    )
    if stream.release != NULL:
        stream.release(stream)
    free(stream)
