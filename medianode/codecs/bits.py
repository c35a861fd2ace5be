"""Reading and writing headers bit by bit, most significant bit first; Exp-Golomb codes of ITU-T H.264 9.1."""

from __future__ import annotations

from medianode.errors import ProtocolError

_MAX_LEADING_ZEROS = 32


class BitReader:
    """A cursor over `data`. Reading past the end raises ProtocolError that names `what`."""

    __slots__ = ("_data", "_end", "_what", "position")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._end = len(data) * 8
        self._what = what
        self.position = 0

    @property
    def remaining(self) -> int:
        """Bits left."""
        return self._end - self.position

    def u(self, count: int) -> int:
        """`count` bits, unsigned; 0 of 0 bits."""
        start = self.position
        stop = start + count
        if stop > self._end:
            raise ProtocolError(f"{self._what}: expected {count} bits at bit {start}, got {self._end - start}")
        self.position = stop
        last = (stop + 7) >> 3
        return (int.from_bytes(self._data[start >> 3 : last], "big") >> (last * 8 - stop)) & ((1 << count) - 1)

    def flag(self) -> bool:
        return self.u(1) == 1

    def skip(self, count: int) -> None:
        if count > self._end - self.position:
            raise ProtocolError(f"{self._what}: expected {count} bits at bit {self.position}, got {self._end - self.position}")
        self.position += count

    def align(self) -> None:
        """To the next byte boundary."""
        self.position = (self.position + 7) & ~7

    def ue(self, maximum: int = 0xFFFFFFFE) -> int:
        """ue(v); over `maximum` is a ProtocolError."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > _MAX_LEADING_ZEROS:
                raise ProtocolError(f"{self._what}: expected an Exp-Golomb code of at most 32 leading zeros at bit {self.position}")
        value = (1 << zeros) - 1 + self.u(zeros)
        if value > maximum:
            raise ProtocolError(f"{self._what}: expected at most {maximum} before bit {self.position}, got {value}")
        return value

    def se(self) -> int:
        """se(v)."""
        code = self.ue()
        return (code + 1) >> 1 if code & 1 else -(code >> 1)


class BitWriter:
    """The inverse of BitReader. Fields must fit: a value over its width is the caller's bug (ValueError)."""

    __slots__ = ("_bits", "_value")

    def __init__(self) -> None:
        self._value = 0
        self._bits = 0

    def u(self, count: int, value: int) -> BitWriter:
        if value < 0 or value >> count:
            raise ValueError(f"{value} does not fit {count} bits")
        self._value = self._value << count | value
        self._bits += count
        return self

    def ue(self, value: int) -> BitWriter:
        return self.u(2 * (value + 1).bit_length() - 1, value + 1)

    def se(self, value: int) -> BitWriter:
        return self.ue(2 * value - 1 if value > 0 else -2 * value)

    def trailing(self) -> BitWriter:
        """rbsp_trailing_bits: a one, then zeros to the byte boundary."""
        return self.u(1, 1).align()

    def align(self) -> BitWriter:
        return self.u(-self._bits % 8, 0)

    def to_bytes(self) -> bytes:
        """Padded with zeros to whole bytes."""
        pad = -self._bits % 8
        return (self._value << pad).to_bytes((self._bits + pad) // 8, "big")
