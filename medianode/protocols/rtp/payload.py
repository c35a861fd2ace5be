"""RTP payload formats: access units of the bus to payloads and back, one pair of classes per codec."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from medianode.codecs.av1_frame import FrameRules, frame_rules
from medianode.codecs.av1_frame import is_reference as is_av1_reference
from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import Codec
from medianode.protocols.rtp.assembly import Frame
from medianode.protocols.rtp.audio import AudioDepacketiser, AudioPacketiser
from medianode.protocols.rtp.av1 import Av1Depacketiser, Av1Packetiser
from medianode.protocols.rtp.h264 import H264Depacketiser, H264Packetiser
from medianode.protocols.rtp.hevc import HevcDepacketiser, HevcPacketiser
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.vp8 import Vp8Depacketiser, Vp8Packetiser
from medianode.protocols.rtp.vp9 import Vp9Depacketiser, Vp9Packetiser

__all__ = ["Depacketiser", "Frame", "Packetiser", "depacketiser", "is_reference", "packetiser"]


class Packetiser(Protocol):
    """One per outgoing stream."""

    def packetise(self, packet: Packet) -> list[bytes]:
        """RTP payloads, the marker on the last; exactly `max_payload` bytes each but the last of a run. Empty: nothing to send."""


class Depacketiser(Protocol):
    """One per incoming stream. `malformed` counts payloads that their format does not allow, the last one's `fault` in words."""

    malformed: int
    incomplete: int
    fault: str

    def push(self, packet: RtpPacket, lost: bool) -> list[Frame]:
        """Packets in order of sequence; `lost`: some right before this one are missing for good.

        Raises LimitExceeded over `max_bytes`, UnsupportedMedia on a mode that was not negotiated.
        """


def packetiser(codec: Codec, max_payload: int) -> Packetiser:
    """UnsupportedMedia where RTP, or we, have no format for it. `max_payload` is at least 16 bytes."""
    make = _PACKETISERS.get(codec)
    if make is None:
        raise UnsupportedMedia(f"RTP: expected one of {', '.join(c.value for c in _PACKETISERS)}, got {codec.value}")
    return make(max_payload)


def depacketiser(codec: Codec, max_bytes: int) -> Depacketiser:
    """`max_bytes`: of one access unit. UnsupportedMedia as in `packetiser`."""
    make = _DEPACKETISERS.get(codec)
    if make is None:
        raise UnsupportedMedia(f"RTP: expected one of {', '.join(c.value for c in _DEPACKETISERS)}, got {codec.value}")
    return make(max_bytes)


def is_reference(packet: Packet) -> bool:
    """False only where it is sure that no other picture needs this one.

    Always true of VP8 and VP9: players count their picture ids, and wait for a key frame where one is missing.
    """
    if packet.keyframe:
        return True
    look = _REFERENCE.get(packet.track.codec)
    return look is None or look(packet)


def _h264_is_reference(packet: Packet) -> bool:
    """nal_ref_idc of the first slice: it is zero in all slices of a picture or in none (ITU-T H.264 7.4.1)."""
    data = packet.data
    position, end = 0, len(data)
    while position + 4 < end:
        header = data[position + 4]
        if 1 <= header & 31 <= 5:
            return header & 0x60 != 0
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    return True


def _hevc_is_reference(packet: Packet) -> bool:
    """Sub-layer non-reference pictures (ITU-T H.265 table 7-1), where no higher sub-layer may refer to them."""
    data = packet.data
    position, end = 0, len(data)
    while position + 5 < end:
        kind = data[position + 4] >> 1 & 63
        if kind < 32:
            if kind & 1 or kind > 14:
                return True
            config = packet.track.config
            sub_layers = config[21] >> 3 & 7 if len(config) > 21 else 0
            return not 0 < sub_layers <= data[position + 5] & 7
        position += 4 + int.from_bytes(data[position : position + 4], "big")
    return True


def _av1_is_reference(packet: Packet) -> bool:
    """refresh_frame_flags."""
    rules = _av1_rules(packet.track.config)
    try:
        return rules is None or is_av1_reference(packet.data, rules)
    except ProtocolError:  # what cannot be read is not for us to drop
        return True


@lru_cache(maxsize=64)
def _av1_rules(config: bytes) -> FrameRules | None:
    try:
        return frame_rules(config[4:])
    except ProtocolError:
        return None


_PACKETISERS: dict[Codec, Callable[[int], Packetiser]] = {
    Codec.H264: H264Packetiser,
    Codec.HEVC: HevcPacketiser,
    Codec.VP8: Vp8Packetiser,
    Codec.VP9: Vp9Packetiser,
    Codec.AV1: Av1Packetiser,
    Codec.OPUS: lambda max_payload: AudioPacketiser(),
    Codec.PCM_ALAW: lambda max_payload: AudioPacketiser(),
    Codec.PCM_MULAW: lambda max_payload: AudioPacketiser(),
}
_DEPACKETISERS: dict[Codec, Callable[[int], Depacketiser]] = {
    Codec.H264: H264Depacketiser,
    Codec.HEVC: HevcDepacketiser,
    Codec.VP8: Vp8Depacketiser,
    Codec.VP9: Vp9Depacketiser,
    Codec.AV1: Av1Depacketiser,
    Codec.OPUS: AudioDepacketiser,
    Codec.PCM_ALAW: AudioDepacketiser,
    Codec.PCM_MULAW: AudioDepacketiser,
}
_REFERENCE: dict[Codec, Callable[[Packet], bool]] = {
    Codec.H264: _h264_is_reference,
    Codec.HEVC: _hevc_is_reference,
    Codec.AV1: _av1_is_reference,
}
