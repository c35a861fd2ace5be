"""SRT packets: headers (3), control information (3.2), sequence numbers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct(">IIII")
HEADER_SIZE = 16
CONTROL = 0x80000000
SEQUENCE_MASK = 0x7FFFFFFF
_HALF = 0x40000000
MAX_NAK_WORDS = 256
"""In one NAK: within any path's MTU."""


class ControlType(IntEnum):
    HANDSHAKE = 0x0000
    KEEPALIVE = 0x0001
    ACK = 0x0002
    NAK = 0x0003
    CONGESTION = 0x0004
    SHUTDOWN = 0x0005
    ACKACK = 0x0006
    DROPREQ = 0x0007
    PEER_ERROR = 0x0008
    USER = 0x7FFF


class ExtensionType(IntEnum):
    """Of handshake extensions (3.2.1.1), and subtypes of user-defined control packets."""

    HSREQ = 1
    HSRSP = 2
    KMREQ = 3
    KMRSP = 4
    SID = 5
    CONGESTION = 6
    FILTER = 7
    GROUP = 8


class Header(NamedTuple):
    """`word`: the second one: flags and message number of data, type-specific information of control. `kind` is -1 for data."""

    kind: int
    subtype: int
    sequence: int
    word: int
    timestamp: int
    socket_id: int


def parse_header(datagram: bytes) -> Header | None:
    """None for what is too short to be SRT."""
    if len(datagram) < HEADER_SIZE:
        return None
    first, word, timestamp, socket_id = HEADER.unpack_from(datagram)
    if first & CONTROL:
        return Header(first >> 16 & 0x7FFF, first & 0xFFFF, 0, word, timestamp, socket_id)
    return Header(-1, 0, first, word, timestamp, socket_id)


def control(kind: int, socket_id: int, timestamp: int, *, subtype: int = 0, word: int = 0, body: bytes = b"") -> bytes:
    """`timestamp`: µs since the connection began, cut to 32 bits. `socket_id`: the peer's."""
    return HEADER.pack(CONTROL | kind << 16 | subtype, word, timestamp & 0xFFFFFFFF, socket_id) + body


def ahead(sequence: int, of: int) -> int:
    """How far the 31 bits of `sequence` are ahead of those of `of`; negative behind."""
    return ((sequence - of + _HALF) & SEQUENCE_MASK) - _HALF


def pack_losses(sequences: Iterable[int]) -> bytes:
    """A NAK's loss list (appendix A) of ascending unbounded sequence numbers: single ones, and ranges behind a set first bit."""
    words: list[int] = []
    first = last = None
    for sequence in sequences:
        if last is not None and sequence == last + 1:
            last = sequence
            continue
        _pack_range(words, first, last)
        if len(words) > MAX_NAK_WORDS - 4:
            first = last = None
            break
        first = last = sequence
    _pack_range(words, first, last)
    return struct.pack(f">{len(words)}I", *words)


def _pack_range(words: list[int], first: int | None, last: int | None) -> None:
    if first is None or last is None:
        return
    if first == last:
        words.append(first & SEQUENCE_MASK)
    else:
        words += (first & SEQUENCE_MASK | CONTROL, last & SEQUENCE_MASK)
