"""Transport streams made by hand, packet by packet: what a demuxer may meet. And what SRT asks for again, as a sender reads it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import count

from medianode.protocols.mpegts.tables import crc32
from medianode.protocols.srt.packet import CONTROL, SEQUENCE_MASK

PMT, VIDEO, AUDIO = 0x1000, 0x100, 0x101


def section(table: int, number: int, body: bytes) -> bytes:
    length = 5 + len(body) + 4
    head = bytes((table, 0xB0 | length >> 8, length & 0xFF, number >> 8, number & 0xFF, 0xC1, 0, 0)) + body
    return head + crc32(head).to_bytes(4, "big")


def pat(programs: dict[int, int]) -> bytes:
    return section(0, 1, b"".join(n.to_bytes(2, "big") + (0xE000 | pid).to_bytes(2, "big") for n, pid in programs.items()))


def pmt(streams: Iterable[tuple[int, int, bytes]], number: int = 1) -> bytes:
    """`streams`: type, PID, descriptors."""
    body = b"\xe1\x00\xf0\x00"
    for kind, pid, descriptors in streams:
        body += bytes((kind,)) + (0xE000 | pid).to_bytes(2, "big") + (0xF000 | len(descriptors)).to_bytes(2, "big") + descriptors
    return section(2, number, body)


def stamp(marker: int, value: int) -> bytes:
    value &= (1 << 33) - 1
    first = marker << 4 | (value >> 30) << 1 | 1
    return bytes((first, value >> 22 & 0xFF, (value >> 14 & 0xFE) | 1, value >> 7 & 0xFF, (value << 1 & 0xFE) | 1))


def pes(payload: bytes, pts: int | None, dts: int | None = None, *, stream_id: int = 0xE0, length: bool = False) -> bytes:
    flags = 0 if pts is None else 0x80 if dts is None else 0xC0
    optional = b"" if pts is None else stamp(2 if dts is None else 3, pts) + (b"" if dts is None else stamp(1, dts))
    size = 3 + len(optional) + len(payload) if length else 0
    return b"\0\0\1" + bytes((stream_id,)) + size.to_bytes(2, "big") + bytes((0x80, flags, len(optional))) + optional + payload


class Packets:
    """Cuts units into packets of 188 bytes, counting continuity for each PID."""

    def __init__(self) -> None:
        self._counters: dict[int, count[int]] = {}

    def cut(self, pid: int, unit: bytes) -> bytes:
        counter = self._counters.setdefault(pid, count())
        out, starts = b"", 0x40
        while unit:
            piece, unit = unit[:184], unit[184:]
            stuffing = 184 - len(piece)
            adaptation = b""
            if stuffing:
                adaptation = bytes((stuffing - 1,)) + (b"\0" + b"\xff" * (stuffing - 2) if stuffing > 1 else b"")
            control = (0x30 if stuffing else 0x10) | next(counter) & 15
            out += bytes((0x47, starts | pid >> 8, pid & 0xFF, control)) + adaptation + piece
            starts = 0
        return out

    def tables(self, streams: Iterable[tuple[int, int, bytes]]) -> bytes:
        return self.cut(0, b"\0" + pat({1: PMT})) + self.cut(PMT, b"\0" + pmt(streams))


def unpack_losses(body: bytes) -> list[tuple[int, int]]:
    """First and last of each range of a loss list; what is cut off is left out."""
    words = struct.unpack(f">{len(body) // 4}I", body[: len(body) & ~3])
    found, at = [], 0
    while at < len(words):
        first = words[at]
        if first & CONTROL and at + 1 < len(words):
            found.append((first & SEQUENCE_MASK, words[at + 1]))
            at += 2
        else:
            found.append((first & SEQUENCE_MASK, first & SEQUENCE_MASK))
            at += 1
    return found
