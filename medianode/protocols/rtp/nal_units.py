"""What the payload formats of H.264 (RFC 6184) and H.265 (RFC 7798) have in common: single units, aggregation, fragments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from medianode.codecs.nal import MAX_UNITS
from medianode.errors import LimitExceeded, ProtocolError
from medianode.media.packet import Packet
from medianode.media.track import Track
from medianode.protocols.rtp.assembly import Assembly

LEAST_PAYLOAD = 16


class Layout(NamedTuple):
    """How a format says it. `header`: bytes of its unit header. `dropped`: by the first byte of a unit, whether it stays at home."""

    header: int
    dropped: tuple[bool, ...]


class NalPacketiser(ABC):
    """Access units of the bus to RTP payloads: the parameter sets of the track before each key frame, no AUD, SEI or filler.

    Units that fit together share an aggregation packet; larger ones are cut into fragments of exactly `max_payload` bytes but the last.
    """

    __slots__ = ("_layout", "_max_payload", "_sets", "_track")

    def __init__(self, layout: Layout, max_payload: int) -> None:
        if max_payload < LEAST_PAYLOAD:
            raise ValueError(f"max_payload: expected at least {LEAST_PAYLOAD}, got {max_payload}")
        self._layout = layout
        self._max_payload = max_payload
        self._track: Track | None = None
        self._sets = b""

    def packetise(self, packet: Packet) -> list[bytes]:
        """The marker belongs on the last payload. Empty where nothing is left to send. ProtocolError on lengths that do not add up."""
        data = packet.data
        if packet.keyframe:
            track = packet.track
            if track is not self._track:
                self._sets = self._parameter_sets(track.config) if track.config else b""
                self._track = track
            data = self._sets + data
        head, dropped = self._layout
        limit = self._max_payload
        out: list[bytes] = []
        small: list[bytes] = []
        used = head
        position, end = 0, len(data)
        while position < end:
            start = position + 4
            position = start + int.from_bytes(data[position:start], "big")
            if position > end:
                raise ProtocolError(f"NAL unit: expected a length of at most {max(0, end - start)}, got {position - start}")
            size = position - start
            if size < head or dropped[data[start]]:
                continue
            if used + 2 + size <= limit:
                small.append(data[start:position])
                used += 2 + size
                continue
            if small:
                out.append(self._aggregate(small) if len(small) > 1 else small[0])
                small = []
                used = head
            if head + 2 + size <= limit:
                small.append(data[start:position])
                used += 2 + size
            elif size <= limit:
                out.append(data[start:position])
            else:
                first, middle, last = self._fragment_heads(data, start)
                step = limit - len(middle)
                start += head
                final = start + (position - start - 1) // step * step
                out.append(first + data[start : start + step])
                out += [middle + data[at : at + step] for at in range(start + step, final, step)]
                out.append(last + data[final:position])
        if small:
            out.append(self._aggregate(small) if len(small) > 1 else small[0])
        return out

    @abstractmethod
    def _parameter_sets(self, config: bytes) -> bytes:
        """Those of a configuration record, behind 4-byte lengths."""

    @abstractmethod
    def _aggregate(self, units: list[bytes]) -> bytes: ...

    @abstractmethod
    def _fragment_heads(self, data: bytes, start: int) -> tuple[bytes, bytes, bytes]:
        """What goes before the first, the middle and the last fragment of the unit at `start`, in place of its header."""


class NalAssembly(Assembly):
    """Units behind 4-byte lengths, parameter sets in band."""

    __slots__ = ("_fragment", "_fragment_size", "_units")

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self._fragment = -1
        """Where in `_pieces` the length of a fragmented unit belongs; -1 where none is open."""
        self._fragment_size = 0
        self._units = 0

    def _drop(self) -> None:
        super()._drop()
        self._fragment = -1
        self._units = 0

    def _finish(self) -> bytes:
        if self._fragment >= 0:
            raise ProtocolError("fragmentation unit: expected its end, got the end of the access unit")
        return super()._finish()

    def _unit(self, unit: bytes) -> None:
        """A whole NAL unit."""
        if self._fragment >= 0:
            raise ProtocolError("fragmentation unit: expected its end, got another NAL unit")
        self._count()
        self._add(len(unit).to_bytes(4, "big"))
        self._add(unit)

    def _aggregated(self, payload: bytes, position: int) -> None:
        """Units behind 2-byte lengths from `position` on."""
        end = len(payload)
        while position < end:
            start = position + 2
            position = start + int.from_bytes(payload[position:start], "big")
            if position > end:
                raise ProtocolError(f"aggregation packet: expected a length of at most {max(0, end - start)}, got {position - start}")
            if position > start:
                self._unit(payload[start:position])

    def _fragmented(self, header: bytes, body: bytes, starts: bool, ends: bool) -> None:
        """A fragment. `header`: of the unit it was cut from. Both flags set is forbidden, and sent all the same by some."""
        if starts:
            if self._fragment >= 0:
                raise ProtocolError("fragmentation unit: expected its end, got another's start")
            self._count()
            self._fragment = len(self._pieces)
            self._fragment_size = len(header)
            self._add(b"\0\0\0\0")
            self._add(header)
        elif self._fragment < 0:
            raise ProtocolError("fragmentation unit: expected its start, got another part")
        if body:
            self._fragment_size += len(body)
            self._add(body)
        if ends:
            self._pieces[self._fragment] = self._fragment_size.to_bytes(4, "big")
            self._fragment = -1

    def _count(self) -> None:
        self._units += 1
        if self._units > MAX_UNITS:
            raise LimitExceeded(f"access unit: expected at most {MAX_UNITS} NAL units, got more")
