"""VP9 over RTP (RFC 9628)."""

from __future__ import annotations

from typing import NamedTuple

from medianode.errors import ProtocolError
from medianode.media.packet import Packet
from medianode.protocols.rtp.assembly import Assembly

LEAST_PAYLOAD = 16
_PICTURE_IDS = 1 << 15
_PICTURE_ID, _INTER, _LAYERS, _FLEXIBLE, _BEGIN, _END, _STRUCTURE = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
_MAX_REFERENCES = 3
# one spatial layer with its size (Y), a group (G) of one picture that refers to the one before it
_ONE_LAYER, _GROUP_OF_ONE = b"\x18", b"\x01\x04\x01"


class Vp9Packetiser:
    """Non-flexible mode, one layer: a 15-bit picture id, which counts the frames, and the scalability structure on key frames.

    A superframe goes out as the one frame it is to a decoder.
    """

    __slots__ = ("_max_payload", "_picture_id")

    def __init__(self, max_payload: int, picture_id: int = 0) -> None:
        if max_payload < LEAST_PAYLOAD:
            raise ValueError(f"max_payload: expected at least {LEAST_PAYLOAD}, got {max_payload}")
        self._max_payload = max_payload
        self._picture_id = picture_id % _PICTURE_IDS

    def packetise(self, packet: Packet) -> list[bytes]:
        data = packet.data
        if not data:
            return []
        number = self._picture_id
        self._picture_id = (number + 1) % _PICTURE_IDS
        step = self._max_payload - 3
        end = len(data)
        structure = b""
        flags = _PICTURE_ID | _INTER
        if packet.keyframe:
            flags = _PICTURE_ID
            track = packet.track
            if 0 < track.width <= 0xFFFF and 0 < track.height <= 0xFFFF:  # VP9 itself goes to 65536
                structure = _ONE_LAYER + track.width.to_bytes(2, "big") + track.height.to_bytes(2, "big") + _GROUP_OF_ONE
        middle = bytes((flags, number >> 8 | 0x80, number & 0xFF))
        at = min(step - len(structure), end)
        opening = flags | _BEGIN | (_STRUCTURE if structure else 0) | (_END if at == end else 0)
        out = [bytes((opening,)) + middle[1:] + structure + data[:at]]
        if at < end:
            final = at + (end - at - 1) // step * step
            out += [middle + data[at : at + step] for at in range(at, final, step)]
            out.append(bytes((flags | _END,)) + middle[1:] + data[final:])
        return out


class Descriptor(NamedTuple):
    """`size` in bytes; `spatial` is the spatial layer, 0 where none is told."""

    size: int
    begins: bool
    ends: bool
    spatial: int


class Vp9Depacketiser(Assembly):
    """The base spatial layer of each picture, all temporal layers: a stream that any decoder plays, and ISO BMFF holds.

    Higher spatial layers are passed over and counted in `layer_payloads`: libvpx sets show_frame in every layer, and Chromium starts and
    stops them without a key frame (seen), so that all of them together would be several pictures, of changing size, to a plain decoder.
    """

    __slots__ = ("_ended", "layer_payloads")

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self._ended = False
        self.layer_payloads = 0

    def _begins(self, payload: bytes) -> bool:
        return self._ended and self._surely_first(payload)

    def _surely_first(self, payload: bytes) -> bool:
        try:
            look = parse_descriptor(payload)
        except ProtocolError:
            return False
        return look.begins and look.spatial == 0

    def _is_whole(self) -> bool:
        return self._ended

    def _drop(self) -> None:
        super()._drop()
        self._ended = False

    def _take(self, payload: bytes) -> None:
        look = parse_descriptor(payload)
        if look.spatial:
            self.layer_payloads += 1
            return
        if look.begins == bool(self._pieces) or self._ended:
            expected, got = ("another part", "a start") if look.begins else ("the start of a frame", "another part")
            raise ProtocolError(f"VP9 over RTP: expected {expected}, got {got}")
        self._add(payload[look.size :])
        self._ended = look.ends

    def _finish(self) -> bytes:
        if self._pieces and not self._ended:
            raise ProtocolError("VP9 over RTP: expected the end of a frame, got the end of the picture")
        return super()._finish()


def parse_descriptor(payload: bytes) -> Descriptor:
    """The payload descriptor (4.2). ProtocolError where it runs past the end, or nothing follows it."""
    flags = payload[0] if payload else 0
    at, end, spatial = 1, len(payload), 0
    try:
        if flags & _PICTURE_ID:
            at += 2 if payload[at] & 0x80 else 1
        if flags & _LAYERS:
            spatial = payload[at] >> 1 & 7
            at += 1 if flags & _FLEXIBLE else 2
        if flags & _FLEXIBLE and flags & _INTER:
            for _ in range(_MAX_REFERENCES):
                at += 1
                if not payload[at - 1] & 1:
                    break
            else:
                raise ProtocolError(f"VP9 over RTP: expected at most {_MAX_REFERENCES} reference indices, got more")
        if flags & _STRUCTURE:
            at = _skip_structure(payload, at)
    except IndexError:
        at = end
    if at >= end:
        raise ProtocolError(f"VP9 over RTP: expected a frame behind its descriptor, got {end} bytes in all")
    return Descriptor(at, flags & _BEGIN != 0, flags & _END != 0, spatial)


def _skip_structure(payload: bytes, at: int) -> int:
    """Scalability structure (4.2.1). IndexError past the end."""
    head = payload[at]
    at += 1
    if head & 0x10:
        at += 4 * ((head >> 5) + 1)
    if head & 0x08:
        count = payload[at]
        at += 1
        for _ in range(count):
            at += 1 + (payload[at] >> 2 & 3)
    return at
