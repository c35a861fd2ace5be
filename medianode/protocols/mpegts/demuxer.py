"""TsDemuxer: bytes in, access units out. Of one program, as its PMT stands; what is missing is told, never guessed."""

from __future__ import annotations

from typing import NamedTuple

from medianode.errors import ProtocolError
from medianode.media.track import Codec, Kind
from medianode.protocols.mpegts.audio import AnyFramer, framer
from medianode.protocols.mpegts.tables import EsInfo, Sections, parse_pat, parse_pmt
from medianode.protocols.rtp.packet import Unwrapper

PACKET = 188
SYNC = 0x47
MAX_STREAMS = 16
_PAT = 0x0000
_WRAP = 1 << 33
_HALF = 1 << 32
_START_CODE = b"\x00\x00\x01"
_FULL_PES = 0xFF00
"""A picture packet of nearly the largest length that can be told is followed by more of the same picture."""
_MAX_REORDER = 5 * 90_000
"""Ticks between a picture's dts and pts; more is a stamp that is wrong."""
_FRAME = 3003
_NO_HEADER = frozenset((0xBC, 0xBE, 0xBF, 0xF0, 0xF1, 0xF2, 0xF8, 0xFF))
"""PES stream ids without the optional header (table 2-21)."""
_DELIMITERS = {Codec.H264: b"\x00\x00\x01\x09", Codec.HEVC: b"\x00\x00\x01\x46\x01"}


class TsUnit(NamedTuple):
    """An access unit as `ElementaryStream.unit` takes it: pictures in annex B, AAC in ADTS (raw where it came in LATM), Opus packets.

    `number`: of its kind in the PMT. `dts` and `pts`: 90 kHz, unwrapped, one clock for all streams; equal for sound.
    `config`: AudioSpecificConfig or OpusHead where the stream tells one beside its frames, else empty.
    """

    codec: Codec
    number: int
    dts: int
    pts: int
    data: bytes
    config: bytes


class TsFault(NamedTuple):
    """`lost`: something of this stream is missing before what comes next. `malformed`: a packet or table that cannot be.
    `unsupported`: a stream that is not carried, told once for each PMT. `kind` is None where it is of no one stream.
    """

    cause: str
    kind: Kind | None
    number: int
    message: str


Event = TsUnit | TsFault


class _Stream:
    """One elementary stream. `left`: bytes of the open PES packet that are still to come, -1 where it was not told."""

    __slots__ = ("cc", "codec", "dts", "framer", "info", "last_dts", "left", "number", "open", "pieces", "pts", "repeated", "size", "step")

    def __init__(self, info: EsInfo, codec: Codec, number: int) -> None:
        self.info = info
        self.codec = codec
        self.number = number
        video = codec.kind is Kind.VIDEO
        self.framer: AnyFramer | None = None if video else framer(codec, latm=info.latm, channel_code=info.channel_code)
        self.cc = -1
        self.repeated = False
        self.open = False
        self.pieces: list[bytes] = []
        self.size = 0
        self.left = -1
        self.pts: int | None = None
        self.dts = 0
        self.last_dts: int | None = None
        self.step = _FRAME


class TsDemuxer:
    """`feed(bytes)` however they are cut. `max_unit_bytes`: of one PES packet; a longer one is dropped and told.

    Never raises on what a peer may send.
    """

    def __init__(self, max_unit_bytes: int) -> None:
        self._max = max_unit_bytes
        self._rest = b""
        self._out: list[Event] = []
        self._streams: dict[int, _Stream] = {}
        self._tables: dict[int, Sections] = {_PAT: Sections()}
        self._programs: dict[int, int] = {}
        self._program: int | None = None
        self._clock = Unwrapper(33)  # one for all streams

    def feed(self, data: bytes) -> list[Event]:
        """What is complete by it."""
        out = self._out = []
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        streams = self._streams
        while at + PACKET <= end:
            if data[at] != SYNC:
                at = self._resync(data, at)
                continue
            second = data[at + 1]
            pid = (second & 0x1F) << 8 | data[at + 2]
            stream = streams.get(pid)
            if stream is None:
                if pid in self._tables and not second & 0x80:
                    self._table(pid, data[at : at + PACKET])
                    streams = self._streams
                at += PACKET
                continue
            flags = data[at + 3]
            start = at + 4
            at += PACKET
            if second & 0x80 or flags & 0xC0:
                self._damage(stream, "transport error" if second & 0x80 else "scrambled")
                continue
            if flags & 0x20:
                length = data[start]
                if length and data[start + 1] & 0x80:
                    stream.cc = -1  # discontinuity_indicator: what comes is meant
                start += 1 + length
            if not flags & 0x10 or start >= at:
                continue
            counter = flags & 15
            if counter != stream.cc + 1 & 15 and stream.cc >= 0:
                if counter == stream.cc and not stream.repeated:
                    stream.repeated = True  # a packet may be sent twice (2.4.3.3)
                    continue
                self._damage(stream, f"expected continuity {stream.cc + 1 & 15}, got {counter}")
            stream.cc = counter
            stream.repeated = False
            if second & 0x40:
                self._begin(stream, data[start:at])
            elif stream.open:
                self._add(stream, data[start:at])
        self._rest = data[at:]
        return out

    def lost(self, packets: int) -> list[Event]:
        """Up to so many transport packets are missing before what is fed next. Of fewer than 16 each stream's counter tells by itself."""
        self._out = []
        self._rest = b""
        if packets >= 16:
            for stream in self._streams.values():
                self._damage(stream, f"{packets} packets or more are missing")
                stream.cc = -1
        return self._out

    def flush(self, *, whole: bool = True) -> list[Event]:
        """The end. What is open is complete, unless it says otherwise or `whole` is False: the end of a picture is told by the next one
        only, and where a connection broke the last one may be cut.
        """
        self._out = []
        for stream in self._streams.values():
            if stream.left > 0 or (stream.left < 0 and not whole):
                stream.open = False
                stream.pieces = []
            self._close(stream)
        return self._out

    # packets

    def _resync(self, data: bytes, at: int) -> int:
        """To where packets follow each other again."""
        self._tell("malformed", None, 0, f"expected sync byte 47, got {data[at]:02x}")
        for stream in self._streams.values():
            self._damage(stream, "out of sync")
        while True:
            at = data.find(SYNC, at + 1)
            if at < 0:
                return len(data)
            if at + PACKET >= len(data) or data[at + PACKET] == SYNC:
                return at

    def _damage(self, stream: _Stream, why: str) -> None:
        stream.open = False
        stream.pieces = []
        if stream.framer is not None:
            stream.framer.lose()
        self._tell("lost", stream.codec.kind, stream.number, why)

    def _tell(self, cause: str, kind: Kind | None, number: int, message: str) -> None:
        self._out.append(TsFault(cause, kind, number, message))

    # PES packets (2.4.3.6)

    def _begin(self, stream: _Stream, payload: bytes) -> None:
        if len(payload) < 9 or payload[:3] != _START_CODE or payload[3] in _NO_HEADER or payload[6] & 0xC0 != 0x80:
            self._close(stream)
            if payload[3:4] not in (b"\xbe", b"\xbf"):  # padding and private_2 are nobody's fault
                self._tell("malformed", stream.codec.kind, stream.number, f"expected a PES header, got {payload[:9].hex()}")
            return
        length = payload[4] << 8 | payload[5]
        begin = 9 + payload[8]
        flags = payload[7] >> 6
        left = length - 3 - payload[8] if length and (stream.framer is not None or length < _FULL_PES) else -1
        pts = dts = None
        if flags & 2 and begin >= 14 and len(payload) >= 14:
            pts = dts = _stamp(payload, 9)
            if flags == 3 and begin >= 19 and len(payload) >= 19:
                dts = _stamp(payload, 14)
        if pts is None and stream.framer is None and stream.open:
            # a picture goes on in a packet without a stamp
            stream.left = left
            self._add(stream, payload[begin:])
            return
        self._close(stream)
        if pts is not None and dts is not None:
            stream.dts = self._clock(dts)
            ahead = (pts - dts + _HALF) % _WRAP - _HALF
            stream.pts = stream.dts + (ahead if 0 <= ahead <= _MAX_REORDER else 0)
        elif stream.framer is None:
            return  # nothing says when this picture is
        else:
            stream.pts = None
        stream.open = True
        stream.size = 0
        stream.left = left
        self._add(stream, payload[begin:])

    def _add(self, stream: _Stream, piece: bytes) -> None:
        if stream.left >= 0:
            piece = piece[: stream.left]
            stream.left -= len(piece)
        stream.pieces.append(piece)
        stream.size += PACKET  # what it costs to keep, however little is in it
        if stream.left == 0:
            self._close(stream)
        elif stream.size > self._max:
            self._damage(stream, f"expected at most {self._max} bytes of packets in a PES packet, got more")

    def _close(self, stream: _Stream) -> None:
        """Hand on what is open; where a length was told, only when it is all there."""
        if not stream.open:
            return
        stream.open = False
        data, stream.pieces = b"".join(stream.pieces), []
        if stream.left > 0:
            self._damage(stream, f"a PES packet ended {stream.left} bytes early")
            return
        if stream.framer is None:
            self._picture(stream, data)
            return
        faults = stream.framer.faults
        for frame in stream.framer.push(data, stream.pts):
            self._out.append(TsUnit(stream.codec, stream.number, frame.pts, frame.pts, frame.data, frame.config))
        if stream.framer.faults != faults:
            passed = stream.framer.faults - faults
            self._tell("malformed", Kind.AUDIO, stream.number, f"{passed} bytes that are no {stream.codec.value} frame")

    def _picture(self, stream: _Stream, data: bytes) -> None:
        """One access unit to a PES packet; encoders that put several into one delimit them."""
        assert stream.pts is not None
        dts, pts = stream.dts, stream.pts
        if stream.last_dts is not None and 0 < dts - stream.last_dts < _MAX_REORDER:
            stream.step = dts - stream.last_dts
        delimiter = _DELIMITERS[stream.codec]
        begin, cut = 0, data.find(delimiter, 8)
        while cut >= 0:
            cut -= data[cut - 1] == 0  # a start code of four bytes
            self._out.append(TsUnit(stream.codec, stream.number, dts, pts, data[begin:cut], b""))
            dts, pts, begin = dts + stream.step, pts + stream.step, cut
            cut = data.find(delimiter, begin + 8)
        stream.last_dts = dts
        if data:
            self._out.append(TsUnit(stream.codec, stream.number, dts, pts, data[begin:] if begin else data, b""))

    # tables

    def _table(self, pid: int, packet: bytes) -> None:
        flags = packet[3]
        start = 5 + packet[4] if flags & 0x20 else 4
        if not flags & 0x10 or flags & 0xC0 or start >= PACKET:
            return
        sections = self._tables[pid]
        counter = flags & 15
        if counter != sections.cc + 1 & 15 and sections.cc >= 0:
            if counter == sections.cc:
                return
            sections.lose()
        sections.cc = counter
        for section in sections.push(packet[start:], starts=bool(packet[1] & 0x40)):
            if section == sections.last:
                continue
            try:
                if pid == _PAT:
                    self._on_pat(parse_pat(section))
                else:
                    self._on_pmt(pid, *parse_pmt(section))
            except ProtocolError as e:
                self._tell("malformed", None, 0, e.message)
                continue
            sections.last = section

    def _on_pat(self, programs: dict[int, int]) -> None:
        if programs == self._programs:
            return
        self._programs = programs
        tables = {_PAT: self._tables[_PAT]}
        for pid in programs.values():
            tables[pid] = self._tables.get(pid) or Sections()
        self._tables = tables
        if self._program is not None and self._program not in programs:
            self._program = None

    def _on_pmt(self, pid: int, program: int, found: list[EsInfo]) -> None:
        """Of several programs the first one that has something for us, until it is gone."""
        if self._programs.get(program) != pid or self._program not in (None, program):
            return
        carried = [info for info in found if info.codec is not None and info.pid not in self._tables]
        for info in found:
            if info.codec is None and info.shown:
                self._tell("unsupported", None, 0, f"a stream of type {info.stream_type:#04x} ({info.shown}) is not carried")
        if not carried:
            return
        self._program = program
        if len(carried) > MAX_STREAMS:
            self._tell("unsupported", None, 0, f"expected at most {MAX_STREAMS} streams in a program, got {len(carried)}")
        streams: dict[int, _Stream] = {}
        counts = {Kind.VIDEO: 0, Kind.AUDIO: 0}
        for info in carried[:MAX_STREAMS]:
            assert info.codec is not None
            number = counts[info.codec.kind]
            counts[info.codec.kind] += 1
            old = self._streams.get(info.pid)
            kept = old is not None and (old.info, old.number) == (info, number)
            streams[info.pid] = old if kept and old is not None else _Stream(info, info.codec, number)
        for stream in self._streams.values():
            if streams.get(stream.info.pid) is not stream:
                self._close(stream)
        self._streams = streams


def _stamp(data: bytes, at: int) -> int:
    """33 bits of 90 kHz between marker bits."""
    return (data[at] & 0x0E) << 29 | data[at + 1] << 22 | (data[at + 2] & 0xFE) << 14 | data[at + 3] << 7 | data[at + 4] >> 1
