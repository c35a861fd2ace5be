from __future__ import annotations

import pytest

from medianode.errors import LimitExceeded
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.payload import Frame, depacketiser, packetiser


def rtp(payload: bytes) -> RtpPacket:
    return RtpPacket(111, True, 0, 960, 7, {}, payload)


@pytest.mark.parametrize("codec", [Codec.OPUS, Codec.PCM_ALAW, Codec.PCM_MULAW])
def test_a_packet_is_a_payload(codec: Codec) -> None:
    payloads, frames = packetiser(codec, 20), depacketiser(codec, 30)
    for data in (b"\xfcshort", b"x" * 30):
        (payload,) = payloads.packetise(Packet(Track(1, codec, 48_000), data, 0, 0, True, 0.0))
        assert payload is data
        assert frames.push(rtp(payload), True) == [Frame(data, 960, True)]
    assert payloads.packetise(Packet(Track(1, codec, 48_000), b"", 0, 0, True, 0.0)) == []
    assert frames.push(rtp(b""), False) == []
    assert (frames.incomplete, frames.malformed, frames.fault) == (0, 0, "")
    with pytest.raises(LimitExceeded, match="expected at most 30 bytes, got 31"):
        frames.push(rtp(b"x" * 31), False)
