"""Program specific information: sections, PAT and PMT (ISO/IEC 13818-1 2.4.4), and what a PMT's descriptors tell of a stream's codec."""

from __future__ import annotations

from typing import NamedTuple

from medianode.errors import ProtocolError
from medianode.media.track import Codec

MAX_SECTION = 1024
MAX_PROGRAMS = 16
_HEADER = 8
_POLYNOMIAL = 0x04C11DB7
_REGISTRATION, _AC3, _EAC3, _AAC, _EXTENSION, _OPUS_EXTENSION = 0x05, 0x6A, 0x7A, 0x7C, 0x7F, 0x80


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (_POLYNOMIAL if crc & 0x80000000 else 0)
        table.append(crc & 0xFFFFFFFF)
    return tuple(table)


_CRC = _crc_table()


def crc32(data: bytes) -> int:
    """Annex A; 0 over a whole section that is as it was sent."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _CRC[crc >> 24 ^ byte]
    return crc


class Sections:
    """The sections of one PID, from packets' payloads. What is cut off or too long is dropped; `next` is waited for."""

    __slots__ = ("_buffer", "_open", "cc", "last")

    def __init__(self) -> None:
        self._buffer = b""
        self._open = False
        self.cc = -1
        self.last = b""
        """What was taken last: tables are repeated ten times a second and read once."""

    def push(self, payload: bytes, *, starts: bool) -> list[bytes]:
        """Whole sections, in order. `starts`: payload_unit_start_indicator, a pointer_field comes first."""
        found: list[bytes] = []
        if starts:
            begin = 1 + payload[0]
            if self._open:
                self._buffer += payload[1:begin]
                self._cut(found)
            self._buffer, self._open = payload[begin:], True
        elif self._open:
            self._buffer += payload
        self._cut(found)
        return found

    def lose(self) -> None:
        self._buffer, self._open = b"", False

    def _cut(self, found: list[bytes]) -> None:
        while self._open and len(self._buffer) >= 3:
            if self._buffer[0] == 0xFF:  # stuffing up to the end of the packet
                self.lose()
                return
            end = 3 + ((self._buffer[1] & 15) << 8 | self._buffer[2])
            if end > MAX_SECTION:
                self.lose()
                return
            if len(self._buffer) < end:
                return
            section, self._buffer = self._buffer[:end], self._buffer[end:]
            if end < 6 or section[5] & 1:
                found.append(section)  # else it is announced only (2.4.4.4), and comes again when it holds


class EsInfo(NamedTuple):
    """A stream of a program. `codec` is None for what we do not carry, `shown` says what it is. `channel_code`: Opus's."""

    pid: int
    stream_type: int
    codec: Codec | None
    latm: bool
    channel_code: int
    shown: str


def parse_pat(section: bytes) -> dict[int, int]:
    """Program number → PID of its PMT. Raises ProtocolError."""
    body = _body(section, 0x00)
    found = {}
    for at in range(0, len(body) - 3, 4):
        number = body[at] << 8 | body[at + 1]
        if number:  # 0 is the network's
            found[number] = (body[at + 2] & 0x1F) << 8 | body[at + 3]
        if len(found) == MAX_PROGRAMS:
            break
    return found


def parse_pmt(section: bytes) -> tuple[int, list[EsInfo]]:
    """(Program number, its streams in order). Raises ProtocolError."""
    body = _body(section, 0x02)
    if len(body) < 4:
        raise ProtocolError(f"PMT: expected at least 4 bytes, got {len(body)}")
    at = 4 + ((body[2] & 15) << 8 | body[3])
    streams = []
    while at + 5 <= len(body):
        kind = body[at]
        pid = (body[at + 1] & 0x1F) << 8 | body[at + 2]
        end = at + 5 + ((body[at + 3] & 15) << 8 | body[at + 4])
        if end > len(body):
            raise ProtocolError(f"PMT: expected descriptors up to byte {len(body)}, got {end}")
        streams.append(_stream(kind, pid, body[at + 5 : end]))
        at = end
    return section[3] << 8 | section[4], streams


def _body(section: bytes, table_id: int) -> bytes:
    """Between the header of a long section and its CRC."""
    if len(section) < _HEADER + 4 or section[0] != table_id or not section[1] & 0x80:
        raise ProtocolError(f"section: expected table {table_id:#04x}, got {section[:1].hex() or 'nothing'} of {len(section)} bytes")
    if crc32(section):
        raise ProtocolError("section: the CRC does not match")
    return section[_HEADER:-4]


_TYPES = {
    0x03: Codec.MP3,
    0x04: Codec.MP3,
    0x0F: Codec.AAC,
    0x11: Codec.AAC,
    0x1B: Codec.H264,
    0x24: Codec.HEVC,
    0x81: Codec.AC3,
    0x87: Codec.EAC3,
    0xC1: Codec.AC3,
    0xC2: Codec.EAC3,
}
_NAMES = {
    0x01: "MPEG-1 video",
    0x02: "MPEG-2 video",
    0x10: "MPEG-4 part 2 video",
    0x1F: "SVC",
    0x20: "MVC",
    0x21: "JPEG 2000",
    0x33: "H.266",
    0x42: "AVS",
    0x80: "PCM or DigiCipher video",
    0x82: "DTS",
    0x85: "DTS-HD",
    0xD1: "Dirac",
    0xEA: "VC-1",
}
_FORMATS = {b"Opus": Codec.OPUS, b"AC-3": Codec.AC3, b"EAC3": Codec.EAC3, b"HEVC": Codec.HEVC}


def _stream(kind: int, pid: int, descriptors: bytes) -> EsInfo:
    codec = _TYPES.get(kind)
    shown = _NAMES.get(kind, "")
    channels = 0
    if codec is None and kind == 0x06:
        codec, channels, shown = _private(descriptors)
    return EsInfo(pid, kind, codec, kind == 0x11, channels, shown)


def _private(descriptors: bytes) -> tuple[Codec | None, int, str]:
    """Stream type 6 is whatever its descriptors say; also subtitles, teletext and data, which are nobody's fault."""
    codec: Codec | None = None
    channels, shown, at = 2, "", 0
    while at + 2 <= len(descriptors):
        tag, value = descriptors[at], descriptors[at + 2 : at + 2 + descriptors[at + 1]]
        at += 2 + descriptors[at + 1]
        if tag == _REGISTRATION and len(value) >= 4:
            codec = _FORMATS.get(value[:4], codec)
            if codec is None and value[:4] in (b"AV01", b"BSSD", b"DTS1", b"DTS2", b"DTS3", b"VANC"):
                shown = value[:4].decode("ascii")
        elif tag in (_AC3, _EAC3):
            codec = Codec.AC3 if tag == _AC3 else Codec.EAC3
        elif tag == _EXTENSION and len(value) >= 2 and value[0] == _OPUS_EXTENSION:
            channels = value[1]
    return codec, channels, shown
