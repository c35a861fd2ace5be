"""AMF0 and AMF3 (Adobe's Action Message Format specifications), decoded wholly and encoded as far as RTMP needs.

| AMF | Python |
|---|---|
| number, integer, double | float (AMF0), int or float (AMF3) |
| boolean, null, string | bool, None, str (ill-formed UTF-8 becomes U+FFFD) |
| object | dict; with a class name TypedObject |
| ECMA array | EcmaArray, a dict; AMF3's dense part under "0", "1", … |
| strict array, vector | list |
| date, XML, byte array | Date, Xml, bytes |
| undefined, unsupported | UNDEFINED, UNSUPPORTED |
| AMF3 dictionary | list of (key, value) |

References are followed, but count against `max_items` and `max_depth` as if their target were written out, and one into an object that is
not finished is refused: the result is a tree of bounded size for whoever walks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from struct import Struct, error
from typing import NamedTuple, TypeAlias

from medianode.errors import LimitExceeded, ProtocolError

MAX_DEPTH = 16
MAX_ITEMS = 4096

_DOUBLE = Struct(">d")
_U16 = Struct(">H")
_U32 = Struct(">I")


class Date(NamedTuple):
    """Milliseconds since 1970 UTC; `zone` is AMF0's reserved field of minutes."""

    milliseconds: float
    zone: int = 0


class Xml(str):
    __slots__ = ()


class Special(Enum):
    UNDEFINED = "undefined"
    UNSUPPORTED = "unsupported"


UNDEFINED = Special.UNDEFINED
UNSUPPORTED = Special.UNSUPPORTED


class EcmaArray(dict[str, "Value"]):
    __slots__ = ()


class TypedObject(dict[str, "Value"]):
    __slots__ = ("class_name",)

    def __init__(self, class_name: str, items: Iterable[tuple[str, Value]] = ()) -> None:
        super().__init__(items)
        self.class_name = class_name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypedObject) and self.class_name == other.class_name and dict.__eq__(self, other)

    __hash__ = None


Value: TypeAlias = "bool | int | float | str | bytes | Date | Special | list[Value] | tuple[Value, ...] | dict[str, Value] | None"


class _Shared(NamedTuple):
    """The target of a reference: how many items and levels it stands for. `items` is 0 until it is finished."""

    value: Value
    items: int
    height: int


class _Cursor:
    """A position in the bytes and what may still be spent, shared by the AMF0 decoder and the AMF3 decoder that it may switch to."""

    __slots__ = ("data", "depth", "height", "items", "max_depth", "max_items", "position")

    def __init__(self, data: bytes, position: int, max_depth: int, max_items: int) -> None:
        self.data = data
        self.position = position
        self.depth = 0
        self.height = 0  # deepest level seen since the innermost open object began
        self.items = 0
        self.max_depth = max_depth
        self.max_items = max_items

    def take(self, n: int) -> bytes:
        start = self.position
        if n > len(self.data) - start:
            raise ProtocolError(f"AMF: expected {n} bytes at {start}, got {len(self.data) - start}")
        self.position = start + n
        return self.data[start : start + n]

    def byte(self) -> int:
        try:
            value = self.data[self.position]
        except IndexError:
            raise ProtocolError(f"AMF: expected a byte at {self.position}, got the end") from None
        self.position += 1
        return value

    def text(self, n: int) -> str:
        return self.take(n).decode("utf-8", "replace")

    def double(self) -> float:
        value: float = _DOUBLE.unpack(self.take(8))[0]
        return value

    def u16(self) -> int:
        value: int = _U16.unpack(self.take(2))[0]
        return value

    def u32(self) -> int:
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def spend(self, items: int) -> None:
        self.items += items
        if self.items > self.max_items:
            raise LimitExceeded(f"AMF: expected at most {self.max_items} values, got more")

    def reach(self, depth: int) -> None:
        if depth > self.max_depth:
            raise LimitExceeded(f"AMF: expected at most {self.max_depth} levels, got more")
        if depth > self.height:
            self.height = depth

    def container(self, table: list[_Shared], value: Value, fill: Callable[[], None]) -> Value:
        """Enter `value` in the reference table, fill it one level down, and note what it stands for."""
        index = len(table)
        table.append(_Shared(value, 0, 0))
        before, outer = self.items, self.height
        self.depth += 1
        self.height = self.depth
        self.reach(self.depth)
        fill()
        height = self.height - self.depth + 1
        self.depth -= 1
        table[index] = _Shared(value, self.items - before + 1, height)
        self.height = max(outer, self.height)
        return value

    def reference(self, table: list[_Shared], index: int) -> Value:
        if index >= len(table):
            raise ProtocolError(f"AMF: expected a reference below {len(table)}, got {index}")
        shared = table[index]
        if not shared.items:
            raise ProtocolError(f"AMF: expected a reference to a finished object, got one from inside number {index}")
        self.spend(shared.items)
        self.reach(self.depth + shared.height)
        return shared.value


class _Amf0:
    __slots__ = ("_c", "_table")

    def __init__(self, cursor: _Cursor) -> None:
        self._c = cursor
        self._table: list[_Shared] = []

    def value(self) -> Value:
        c = self._c
        c.spend(1)
        marker = c.byte()
        if marker == 0x00:
            return c.double()
        if marker == 0x02:
            return c.text(c.u16())
        if marker == 0x01:
            return c.byte() != 0
        if marker == 0x05:
            return None
        if marker in _AMF0_CONTAINERS:
            return self._object(marker)
        return self._rare(marker)

    def _rare(self, marker: int) -> Value:
        c = self._c
        if marker == 0x06:
            return UNDEFINED
        if marker == 0x07:
            return c.reference(self._table, c.u16())
        if marker == 0x0B:
            return Date(c.double(), int.from_bytes(c.take(2), "big", signed=True))
        if marker == 0x0C:
            return c.text(c.u32())
        if marker == 0x0D:
            return UNSUPPORTED
        if marker == 0x0F:
            return Xml(c.text(c.u32()))
        if marker == 0x11:
            return _Amf3(c).value()
        raise ProtocolError(f"AMF0: expected a type marker, got {marker:#04x}")

    def _object(self, marker: int) -> Value:
        c = self._c
        if marker == 0x0A:
            items: list[Value] = []
            count = c.u32()
            return c.container(self._table, items, lambda: self._elements(items, count))
        fields: dict[str, Value]
        if marker == 0x08:
            c.take(4)  # the count: a hint that many encoders get wrong
            fields = EcmaArray()
        elif marker == 0x10:
            fields = TypedObject(c.text(c.u16()))
        else:
            fields = {}
        return c.container(self._table, fields, lambda: self._properties(fields))

    def _elements(self, items: list[Value], count: int) -> None:
        items.extend(self.value() for _ in range(count))

    def _properties(self, fields: dict[str, Value]) -> None:
        c = self._c
        while c.position < len(c.data):  # some encoders leave out the last end marker
            name = c.text(c.u16())
            if not name and c.position < len(c.data) and c.data[c.position] == 0x09:
                c.position += 1
                return
            fields[name] = self.value()


_AMF0_CONTAINERS = frozenset({0x03, 0x08, 0x0A, 0x10})


class _Traits(NamedTuple):
    class_name: str
    names: tuple[str, ...]
    dynamic: bool


class _Amf3:
    __slots__ = ("_c", "_strings", "_table", "_traits")

    def __init__(self, cursor: _Cursor) -> None:
        self._c = cursor
        self._strings: list[str] = []
        self._table: list[_Shared] = []
        self._traits: list[_Traits] = []

    def value(self) -> Value:
        c = self._c
        c.spend(1)
        marker = c.byte()
        if marker == 0x06:
            return self._string()
        if marker == 0x04:
            number = self._u29()
            return number - (1 << 29) if number & (1 << 28) else number
        if marker == 0x05:
            return c.double()
        if marker < 0x04:
            return (UNDEFINED, None, False, True)[marker]
        reader = self._READERS.get(marker)
        if reader is None:
            raise ProtocolError(f"AMF3: expected a type marker, got {marker:#04x}")
        header = self._u29()
        if not header & 1:
            return c.reference(self._table, header >> 1)
        return reader(self, header >> 1)

    def _u29(self) -> int:
        value = 0
        for _ in range(3):
            byte = self._c.byte()
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        return value << 8 | self._c.byte()

    def _string(self) -> str:
        header = self._u29()
        if header & 1:
            text = self._c.text(header >> 1)
            if text:
                self._strings.append(text)
            return text
        if header >> 1 >= len(self._strings):
            raise ProtocolError(f"AMF3: expected a string reference below {len(self._strings)}, got {header >> 1}")
        return self._strings[header >> 1]

    def _leaf(self, value: Value) -> Value:
        self._table.append(_Shared(value, 1, 0))
        return value

    def _xml(self, size: int) -> Value:
        return self._leaf(Xml(self._c.text(size)))

    def _date(self, _: int) -> Value:
        return self._leaf(Date(self._c.double()))

    def _bytes(self, size: int) -> Value:
        return self._leaf(self._c.take(size))

    def _array(self, count: int) -> Value:
        name = self._string()
        if not name:
            items: list[Value] = []
            return self._c.container(self._table, items, lambda: self._elements(items, count))
        fields = EcmaArray()

        def fill() -> None:
            self._named(fields, name)
            for index in range(count):
                fields[str(index)] = self.value()

        return self._c.container(self._table, fields, fill)

    def _elements(self, items: list[Value], count: int) -> None:
        items.extend(self.value() for _ in range(count))

    def _named(self, fields: dict[str, Value], name: str) -> None:
        while name:
            fields[name] = self.value()
            name = self._string()

    def _object(self, header: int) -> Value:
        traits = self._read_traits(header)
        fields: dict[str, Value] = TypedObject(traits.class_name) if traits.class_name else {}

        def fill() -> None:
            for name in traits.names:
                fields[name] = self.value()
            if traits.dynamic:
                self._named(fields, self._string())

        return self._c.container(self._table, fields, fill)

    def _read_traits(self, header: int) -> _Traits:
        if not header & 1:
            if header >> 1 >= len(self._traits):
                raise ProtocolError(f"AMF3: expected a traits reference below {len(self._traits)}, got {header >> 1}")
            traits = self._traits[header >> 1]
            self._c.spend(len(traits.names))
            return traits
        class_name = self._string()
        if header & 2:
            raise ProtocolError(f"AMF3: expected no externalizable class, got {class_name[:64]!r}")
        count = header >> 3
        self._c.spend(count)
        traits = _Traits(class_name, tuple(self._string() for _ in range(count)), bool(header & 4))
        self._traits.append(traits)
        return traits

    def _vector(self, count: int, read: Callable[[], Value]) -> Value:
        self._c.byte()  # fixed length or not
        items: list[Value] = []

        def fill() -> None:
            for _ in range(count):
                self._c.spend(1)
                items.append(read())

        return self._c.container(self._table, items, fill)

    def _vector_int(self, count: int) -> Value:
        return self._vector(count, lambda: int.from_bytes(self._c.take(4), "big", signed=True))

    def _vector_uint(self, count: int) -> Value:
        return self._vector(count, self._c.u32)

    def _vector_double(self, count: int) -> Value:
        return self._vector(count, self._c.double)

    def _vector_object(self, count: int) -> Value:
        self._c.byte()
        self._string()  # the class all elements have
        items: list[Value] = []
        return self._c.container(self._table, items, lambda: self._elements(items, count))

    def _dictionary(self, count: int) -> Value:
        self._c.byte()  # weak keys or not
        pairs: list[Value] = []

        def fill() -> None:
            pairs.extend((self.value(), self.value()) for _ in range(count))

        return self._c.container(self._table, pairs, fill)

    _READERS = {  # noqa: RUF012  # a table, never written
        0x07: _xml,
        0x08: _date,
        0x09: _array,
        0x0A: _object,
        0x0B: _xml,
        0x0C: _bytes,
        0x0D: _vector_int,
        0x0E: _vector_uint,
        0x0F: _vector_double,
        0x10: _vector_object,
        0x11: _dictionary,
    }


def decode_amf0(data: bytes, position: int = 0, *, max_depth: int = MAX_DEPTH, max_items: int = MAX_ITEMS) -> list[Value]:
    """All values from `position` on, as in a command or data message. Reference numbers count from each top-level value, as AMF0 2 says
    of a message body. Raises ProtocolError, LimitExceeded."""
    cursor = _Cursor(data, position, max_depth, max_items)
    values: list[Value] = []
    while cursor.position < len(data):
        values.append(_Amf0(cursor).value())
    return values


def decode_amf3(data: bytes, position: int = 0, *, max_depth: int = MAX_DEPTH, max_items: int = MAX_ITEMS) -> list[Value]:
    """All AMF3 values from `position` on, over one set of reference tables. Raises ProtocolError, LimitExceeded."""
    cursor = _Cursor(data, position, max_depth, max_items)
    decoder = _Amf3(cursor)
    values: list[Value] = []
    while cursor.position < len(data):
        values.append(decoder.value())
    return values


def encode_amf0(*values: Value) -> bytes:
    """The values one after the other. Raises ValueError or TypeError for what AMF0 cannot say: our own mistake, never a peer's."""
    out = bytearray()
    for value in values:
        _write0(out, value)
    return bytes(out)


def _write0(out: bytearray, value: Value) -> None:
    if isinstance(value, str):
        _write0_string(out, value)
    elif value is None:
        out.append(0x05)
    elif isinstance(value, bool):
        out += b"\x01\x01" if value else b"\x01\x00"
    elif isinstance(value, int | float):
        out.append(0x00)
        out += _DOUBLE.pack(value)
    elif isinstance(value, Date):
        out.append(0x0B)
        out += _DOUBLE.pack(value.milliseconds) + value.zone.to_bytes(2, "big", signed=True)
    elif isinstance(value, list | tuple):
        out.append(0x0A)
        out += _U32.pack(len(value))
        for item in value:
            _write0(out, item)
    elif isinstance(value, dict):
        _write0_object(out, value)
    elif isinstance(value, Special):
        out.append(0x06 if value is UNDEFINED else 0x0D)
    else:
        raise TypeError(f"AMF0 has no {type(value).__name__}")


def _write0_string(out: bytearray, value: str) -> None:
    text = value.encode("utf-8", "replace")
    if isinstance(value, Xml):
        out.append(0x0F)
        out += _U32.pack(len(text))
    elif len(text) > 0xFFFF:
        out.append(0x0C)
        out += _U32.pack(len(text))
    else:
        out.append(0x02)
        out += _U16.pack(len(text))
    out += text


def _write0_object(out: bytearray, value: dict[str, Value]) -> None:
    if isinstance(value, EcmaArray):
        out.append(0x08)
        out += _U32.pack(len(value))
    elif isinstance(value, TypedObject):
        out.append(0x10)
        _write0_name(out, value.class_name)
    else:
        out.append(0x03)
    for name, item in value.items():
        _write0_name(out, name)
        _write0(out, item)
    out += b"\x00\x00\x09"


def _write0_name(out: bytearray, name: str) -> None:
    text = name.encode("utf-8", "replace")
    try:
        out += _U16.pack(len(text))
    except error:
        raise ValueError(f"AMF0 names have at most 65535 bytes, this one {len(text)}") from None
    out += text


def encode_amf3(*values: Value) -> bytes:
    """The values one after the other, without references."""
    out = bytearray()
    for value in values:
        _write3(out, value)
    return bytes(out)


def _write3(out: bytearray, value: Value) -> None:
    if isinstance(value, bool):
        out.append(0x03 if value else 0x02)
    elif value is None:
        out.append(0x01)
    elif value is UNDEFINED:
        out.append(0x00)
    elif isinstance(value, int) and -(1 << 28) <= value < 1 << 28:
        out.append(0x04)
        _write3_u29(out, value & 0x1FFFFFFF)
    elif isinstance(value, int | float):
        out.append(0x05)
        out += _DOUBLE.pack(value)
    elif isinstance(value, str):
        out.append(0x0B if isinstance(value, Xml) else 0x06)
        _write3_text(out, value)
    elif isinstance(value, bytes):
        out.append(0x0C)
        _write3_u29(out, len(value) << 1 | 1)
        out += value
    elif isinstance(value, Date):
        out += b"\x08\x01" + _DOUBLE.pack(value.milliseconds)
    elif isinstance(value, list | tuple):
        out.append(0x09)
        _write3_u29(out, len(value) << 1 | 1)
        out.append(0x01)
        for item in value:
            _write3(out, item)
    elif isinstance(value, dict):
        _write3_object(out, value)
    else:
        raise TypeError(f"AMF3 has no {value!r}")


def _write3_object(out: bytearray, value: dict[str, Value]) -> None:
    if isinstance(value, EcmaArray):
        out += b"\x09\x01"
    else:
        out += b"\x0a\x0b"  # its own traits, dynamic, no sealed names
        _write3_text(out, value.class_name if isinstance(value, TypedObject) else "")
    for name, item in value.items():
        if not name:
            raise ValueError("AMF3 names are not empty")
        _write3_text(out, name)
        _write3(out, item)
    out.append(0x01)


def _write3_text(out: bytearray, value: str) -> None:
    text = value.encode("utf-8", "replace")
    _write3_u29(out, len(text) << 1 | 1)
    out += text


def _write3_u29(out: bytearray, value: int) -> None:
    if value >= 1 << 29:
        raise ValueError(f"AMF3 lengths have 28 bits, this one is {value >> 1}")
    if value < 0x80:
        out.append(value)
    elif value < 0x4000:
        out += bytes((value >> 7 | 0x80, value & 0x7F))
    elif value < 0x200000:
        out += bytes((value >> 14 | 0x80, value >> 7 & 0x7F | 0x80, value & 0x7F))
    else:
        out += bytes((value >> 22 | 0x80, value >> 15 & 0x7F | 0x80, value >> 8 & 0x7F | 0x80, value & 0xFF))
