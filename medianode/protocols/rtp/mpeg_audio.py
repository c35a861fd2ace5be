"""AAC over RTP (RFC 3640 `mpeg4-generic`, RFC 6416 `MP4A-LATM`) and MPEG audio (RFC 2250), as cameras send them. Incoming only."""

from __future__ import annotations

from collections.abc import Mapping

from medianode.codecs import mp3
from medianode.errors import LimitExceeded, ProtocolError
from medianode.protocols.rtp.assembly import Frame
from medianode.protocols.rtp.packet import RtpPacket

MAX_UNITS = 64
"""Access units in one packet."""


class _Gathering:
    """A unit over several packets: the pieces so far, of one timestamp."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces = b""
        self._timestamp = -1
        self.malformed = 0
        self.incomplete = 0
        self.fault = ""

    def _gather(self, piece: bytes, timestamp: int, lost: bool) -> None:
        if self._pieces and (lost or timestamp != self._timestamp):
            self.incomplete += 1
            self._pieces = b""
        self._timestamp = timestamp
        self._pieces += piece
        if len(self._pieces) > self._max_bytes:
            self._pieces = b""
            raise LimitExceeded(f"audio frame: expected at most {self._max_bytes} bytes, got more")

    def _spoilt(self, error: ProtocolError, timestamp: int) -> Frame:
        self.malformed += 1
        self.fault = error.message
        self._pieces = b""
        return Frame(b"", timestamp, False)


class Mpeg4Depacketiser(_Gathering):
    """`mpeg4-generic` in the modes AAC-hbr and AAC-lbr (3.3.5, 3.3.6). `samples`: of a frame, by the RTP clock."""

    def __init__(self, max_bytes: int, fmtp: Mapping[str, str], samples: int = 1024) -> None:
        super().__init__(max_bytes)
        low = fmtp.get("mode", "").lower() == "aac-lbr"
        self._size_bits = _number(fmtp, "sizelength", 6 if low else 13)
        self._index_bits = _number(fmtp, "indexlength", 2 if low else 3)
        self._header_bits = self._size_bits + self._index_bits
        self._samples = samples

    def push(self, packet: RtpPacket, lost: bool) -> list[Frame]:
        """A packet holds whole units, or a part of one (3.2.3)."""
        payload = packet.payload
        if not payload:
            return []
        try:
            sizes, data = self._read(payload)
        except ProtocolError as e:
            return [self._spoilt(e, packet.timestamp)]
        if len(sizes) == 1 and (sizes[0] > len(data) or self._pieces):
            self._gather(data, packet.timestamp, lost)
            if len(self._pieces) < sizes[0]:
                return []
            whole, self._pieces = self._pieces[: sizes[0]], b""
            return [Frame(whole, packet.timestamp, True)]
        self._pieces = b""
        frames, at = [], 0
        for i, size in enumerate(sizes):
            if size and at + size <= len(data):
                frames.append(Frame(data[at : at + size], (packet.timestamp + i * self._samples) & 0xFFFFFFFF, True))
            at += size
        return frames

    def _read(self, payload: bytes) -> tuple[list[int], bytes]:
        """The sizes of the units, and what is behind the headers. Raises ProtocolError."""
        bits = int.from_bytes(payload[:2], "big")
        start = 2 + (bits + 7) // 8
        if len(payload) < start or not self._header_bits or bits < self._header_bits:
            raise ProtocolError(f"AAC over RTP: expected headers of {self._header_bits} bits, got {bits} in {len(payload)} bytes")
        count = bits // self._header_bits
        if count > MAX_UNITS:
            raise ProtocolError(f"AAC over RTP: expected at most {MAX_UNITS} units, got {count}")
        heads = int.from_bytes(payload[2:start], "big") >> ((start - 2) * 8 - count * self._header_bits)
        mask = (1 << self._header_bits) - 1
        sizes = [(heads >> (self._header_bits * i) & mask) >> self._index_bits for i in range(count - 1, -1, -1)]
        return sizes, payload[start:]


class LatmDepacketiser(_Gathering):
    """`MP4A-LATM` with its configuration out of band (`cpresent=0`): an AudioMuxElement is PayloadLengthInfo and the frame."""

    def push(self, packet: RtpPacket, lost: bool) -> list[Frame]:
        self._gather(packet.payload, packet.timestamp, lost)
        if not packet.marker:
            return []
        data, self._pieces = self._pieces, b""
        at = size = 0
        while at < len(data):
            size += data[at]
            at += 1
            if data[at - 1] != 0xFF:
                break
        if not size or at + size > len(data):
            return [self._spoilt(ProtocolError(f"LATM: expected a frame of {size} bytes, got {len(data) - at}"), packet.timestamp)]
        return [Frame(data[at : at + size], packet.timestamp, True)]


class MpegAudioDepacketiser(_Gathering):
    """RFC 2250 3.5: four bytes (the offset of a fragment), then whole frames, or a part of one."""

    def push(self, packet: RtpPacket, lost: bool) -> list[Frame]:
        payload = packet.payload
        if len(payload) <= 4:
            return []
        if int.from_bytes(payload[2:4], "big"):
            if not self._pieces:
                return []  # its beginning never came
            self._gather(payload[4:], packet.timestamp, lost)
        else:
            self._pieces = b""
            self._gather(payload[4:], packet.timestamp, lost)
        frames: list[Frame] = []
        timestamp = packet.timestamp
        try:
            while len(self._pieces) >= 4:
                header = mp3.parse_header(self._pieces)
                if len(self._pieces) < header.frame_size:
                    break
                frames.append(Frame(self._pieces[: header.frame_size], timestamp & 0xFFFFFFFF, True))
                timestamp += header.samples * 90_000 // header.sample_rate
                self._pieces = self._pieces[header.frame_size :]
        except ProtocolError as e:
            frames.append(self._spoilt(e, packet.timestamp))
        return frames


def _number(fmtp: Mapping[str, str], name: str, default: int) -> int:
    text = fmtp.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 and int(text) <= 32 else default
