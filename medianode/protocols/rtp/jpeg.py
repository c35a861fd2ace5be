"""Motion JPEG over RTP (RFC 2435), incoming only: the headers that the sender left out are put back."""

from __future__ import annotations

from medianode.errors import LimitExceeded, ProtocolError
from medianode.protocols.rtp.assembly import Frame
from medianode.protocols.rtp.packet import RtpPacket

_LUMA = bytes.fromhex(
    "100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c3933383740485c4e404457453738506d51575f626768673e4d71797064785c656763"
)
_CHROMA = bytes.fromhex(
    "1112121815182f1a1a2f634238426363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363"
)
"""Tables K.1 and K.2 of ITU-T T.81 in zigzag order: quantisation at Q 50 (RFC 2435 appendix A)."""

_DC_BITS = (bytes.fromhex("00010501010101010100000000000000"), bytes.fromhex("00030101010101010101010000000000"))
_DC_SYMBOLS = bytes(range(12))
_AC_BITS = (bytes.fromhex("0002010303020403050504040000017d"), bytes.fromhex("00020102040403040705040400010277"))
_AC_SYMBOLS = (
    bytes.fromhex(
        "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a"
        "434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9ba"
        "c2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
    ),
    bytes.fromhex(
        "0001020311040521310612415107617113223281081442 91a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a"
        "434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9ba"
        "c2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
    ),
)


class JpegDepacketiser:
    """Types 0, 1, 64 and 65 (3.1.3). Tables of Q 128 to 254 may come once and be meant from then on (3.1.8): they are kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._scan: list[bytes] = []
        self._size = 0
        self._head = b""
        self._timestamp = -1
        self._kept: dict[int, bytes] = {}
        self.malformed = 0
        self.incomplete = 0
        self.fault = ""

    def push(self, packet: RtpPacket, lost: bool) -> list[Frame]:
        frames: list[Frame] = []
        if packet.timestamp != self._timestamp:
            self._give_up(frames)  # its end never came
            self._timestamp = packet.timestamp
        try:
            self._take(packet.payload, lost, frames)
        except LimitExceeded:
            self._reset()
            raise
        except ProtocolError as e:
            self._reset()
            self.malformed += 1
            self.fault = e.message
            frames.append(Frame(b"", packet.timestamp, False))
            return frames
        if packet.marker and self._head:
            data = b"".join((self._head, *self._scan))
            frames.append(Frame(data if data.endswith(b"\xff\xd9") else data + b"\xff\xd9", packet.timestamp, True))
            self._reset()
        return frames

    def _reset(self) -> None:
        self._scan, self._size, self._head = [], 0, b""

    def _give_up(self, frames: list[Frame]) -> None:
        """The picture that is open, if one is."""
        if self._head:
            self.incomplete += 1
            frames.append(Frame(b"", self._timestamp, False))
            self._reset()

    def _take(self, payload: bytes, lost: bool, frames: list[Frame]) -> None:
        if len(payload) < 8:
            raise ProtocolError(f"JPEG over RTP: expected at least 8 bytes, got {len(payload)}")
        offset = int.from_bytes(payload[1:4], "big")
        kind, quality, width, height = payload[4], payload[5], payload[6] * 8, payload[7] * 8
        at, restart = 8, 0
        if 64 <= kind <= 127:
            restart = int.from_bytes(payload[8:10], "big")
            at = 12
        if offset == 0:
            tables = b""
            if quality >= 128:
                size = int.from_bytes(payload[at + 2 : at + 4], "big")
                tables = payload[at + 4 : at + 4 + size]
                at += 4 + size
                if at > len(payload):
                    raise ProtocolError(f"JPEG over RTP: expected {size} bytes of tables, got fewer")
                if tables and quality < 255:
                    self._kept[quality] = tables
                tables = tables or self._kept.get(quality, b"")
            else:
                tables = _tables(quality)
            if kind & 0x3F > 1 or kind > 127 or not tables or not width or not height:
                raise ProtocolError(
                    f"JPEG over RTP: expected type 0 or 1, a size and tables, got type {kind}, {width}x{height}, Q {quality}"
                )
            self._head, self._scan, self._size = _headers(kind & 1, width, height, tables, restart), [], 0
        elif lost or not self._head or offset != self._size:
            self._give_up(frames)
            return
        self._scan.append(payload[at:])
        self._size += len(payload) - at
        if self._size > self._max_bytes:
            raise LimitExceeded(f"picture: expected at most {self._max_bytes} bytes, got more")


def _tables(quality: int) -> bytes:
    """Appendix A, MakeTables."""
    if not 1 <= quality <= 99:
        raise ProtocolError(f"JPEG over RTP: expected Q of 1 to 99 or over 127, got {quality}")
    scale = 5000 // quality if quality < 50 else 200 - quality * 2
    return bytes(min(max((value * scale + 50) // 100, 1), 255) for table in (_LUMA, _CHROMA) for value in table)


def _headers(subsampling: int, width: int, height: int, tables: bytes, restart: int) -> bytes:
    """Appendix B, MakeHeaders. `subsampling`: 0 for 4:2:2, 1 for 4:2:0."""
    out = [b"\xff\xd8"]
    out += [_segment(0xDB, bytes((i,)) + tables[i * 64 : i * 64 + 64]) for i in range(min(len(tables) // 64, 2))]
    chroma = 1 if len(tables) >= 128 else 0
    if restart:
        out.append(_segment(0xDD, restart.to_bytes(2, "big")))
    components = bytes((1, 0x22 if subsampling else 0x21, 0, 2, 0x11, chroma, 3, 0x11, chroma))
    out.append(_segment(0xC0, b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x03" + components))
    for i in range(2):
        out.append(_segment(0xC4, bytes((i,)) + _DC_BITS[i] + _DC_SYMBOLS))
        out.append(_segment(0xC4, bytes((0x10 | i,)) + _AC_BITS[i] + _AC_SYMBOLS[i]))
    out.append(_segment(0xDA, bytes((3, 1, 0x00, 2, 0x11, 3, 0x11, 0, 63, 0))))
    return b"".join(out)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body
