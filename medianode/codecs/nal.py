"""NAL units: behind lengths (ISO/IEC 14496-15 5.2.3) and behind start codes (ITU-T H.264 annex B)."""

from __future__ import annotations

from collections.abc import Iterable

from medianode.errors import LimitExceeded, ProtocolError

MAX_UNITS = 4096
"""NAL units in one access unit; a picture of level 6.2 in one slice per row has some 540."""

_START_CODE = b"\x00\x00\x01"


def spans(data: bytes, length_size: int = 4, *, max_units: int = MAX_UNITS) -> tuple[list[tuple[int, int]], bool]:
    """Where the NAL units of an access unit are: ([(start, end)…], tidy).

    `tidy`: `data` is exactly those units behind 4-byte lengths. Empty units are passed over.
    Some encoders put start codes where lengths belong: data that does not walk as lengths but opens with a start code is read as annex B.
    ProtocolError when a length points past the end; LimitExceeded over `max_units`.
    """
    end = len(data)
    found: list[tuple[int, int]] = []
    tidy = length_size == 4
    position = 0
    for _ in range(max_units):
        if position == end:
            return found, tidy
        start = position + length_size
        position = start + int.from_bytes(data[position:start], "big")
        if position > end:
            if data.startswith((_START_CODE, b"\x00\x00\x00\x01")):
                return annexb_spans(data, max_units=max_units), False
            raise ProtocolError(
                f"NAL unit: expected a length of at most {max(0, end - start)} at byte {start - length_size}, got {position - start}"
            )
        if position == start:
            tidy = False
        else:
            found.append((start, position))
    if position == end:
        return found, tidy
    raise LimitExceeded(f"access unit: expected at most {max_units} NAL units, got more")


def annexb_spans(data: bytes, *, max_units: int = MAX_UNITS) -> list[tuple[int, int]]:
    """NAL units between start codes, without trailing zero bytes. Bytes before the first start code must be zeros."""
    end = len(data)
    found: list[tuple[int, int]] = []
    code = data.find(_START_CODE)
    if code < 0:
        raise ProtocolError(f"annex B: expected a start code in {end} bytes, got none")
    if data.count(0, 0, code) != code:
        raise ProtocolError("annex B: expected only zeros before the first start code")
    while code >= 0:
        start = code + 3
        code = data.find(_START_CODE, start)
        stop = end if code < 0 else code
        while stop > start and not data[stop - 1]:
            stop -= 1
        if stop > start:
            if len(found) == max_units:
                raise LimitExceeded(f"access unit: expected at most {max_units} NAL units, got more")
            found.append((start, stop))
    return found


def split(data: bytes, length_size: int = 4, *, max_units: int = MAX_UNITS) -> list[bytes]:
    """The NAL units themselves, without prefixes."""
    return [data[start:end] for start, end in spans(data, length_size, max_units=max_units)[0]]


def join(units: Iterable[bytes]) -> bytes:
    """Units behind 4-byte lengths."""
    return b"".join([piece for unit in units for piece in (len(unit).to_bytes(4, "big"), unit)])


def join_spans(data: bytes, kept: Iterable[tuple[int, int]]) -> bytes:
    """As `join`, for parts of `data`."""
    return b"".join([piece for start, end in kept for piece in ((end - start).to_bytes(4, "big"), data[start:end])])


def to_annexb(data: bytes, length_size: int = 4, *, max_units: int = MAX_UNITS) -> bytes:
    """Length-prefixed units to units behind 4-byte start codes."""
    pieces = [piece for start, end in spans(data, length_size, max_units=max_units)[0] for piece in (b"\x00\x00\x00\x01", data[start:end])]
    return b"".join(pieces)


def from_annexb(data: bytes, *, max_units: int = MAX_UNITS) -> bytes:
    """Units behind start codes to units behind 4-byte lengths."""
    return join_spans(data, annexb_spans(data, max_units=max_units))


def unescape(unit: bytes) -> bytes:
    """RBSP of a NAL unit: without emulation_prevention_three_byte (H.264 7.3.1)."""
    return unit.replace(b"\x00\x00\x03", b"\x00\x00")


def escape(rbsp: bytes) -> bytes:
    """The inverse of `unescape`."""
    out = bytearray()
    zeros = 0
    for byte in rbsp:
        if zeros == 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    if zeros == 2:
        out.append(3)
    return bytes(out)
