"""RFC 9628, byte by byte."""

from __future__ import annotations

import pytest

from medianode.errors import ProtocolError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp.assembly import Frame
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.vp9 import Descriptor, Vp9Depacketiser, Vp9Packetiser, parse_descriptor

TRACK = Track(0, Codec.VP9, 90_000, b"", 320, 180)


def packet(data: bytes, keyframe: bool = False, track: Track = TRACK) -> Packet:
    return Packet(track, data, 0, 0, keyframe, 0.0)


def rtp(payload: bytes, marker: bool = False, timestamp: int = 5) -> RtpPacket:
    return RtpPacket(98, marker, 0, timestamp, 7, {}, payload)


def layer(spatial: int, body: bytes, flags: int = 0x0C) -> bytes:
    """Non-flexible, of a spatial layer; 0x08 begins, 0x04 ends a frame."""
    return bytes((0xA0 | flags, 0x81, 0x23, spatial << 1 | (spatial > 0), 0x07)) + body


def test_inter_frames_count_in_15_bits() -> None:
    payloads = Vp9Packetiser(20, picture_id=0x7FFF)
    assert payloads.packetise(packet(b"x" * 40)) == [b"\xc8\xff\xff" + b"x" * 17, b"\xc0\xff\xff" + b"x" * 17, b"\xc4\xff\xff" + b"x" * 6]
    assert payloads.packetise(packet(b"")) == []
    assert payloads.packetise(packet(b"x" * 17)) == [b"\xcc\x80\x00" + b"x" * 17]
    assert [len(p) for p in payloads.packetise(packet(b"x" * 18))] == [20, 4]
    assert [len(p) for p in payloads.packetise(packet(b"x" * 34))] == [20, 20]


def test_key_frames_tell_the_scalability_structure() -> None:
    structure = bytes.fromhex("18 0140 00b4 01 04 01".replace(" ", ""))
    payloads = Vp9Packetiser(20)
    assert payloads.packetise(packet(b"x" * 30, True)) == [
        b"\x8a\x80\x00" + structure + b"x" * 9,
        b"\x80\x80\x00" + b"x" * 17,
        b"\x84\x80\x00" + b"x" * 4,
    ]
    assert payloads.packetise(packet(b"x", True)) == [b"\x8e\x80\x01" + structure + b"x"]
    assert payloads.packetise(packet(b"x", True, Track(0, Codec.VP9, 90_000))) == [b"\x8c\x80\x02x"]
    # a frame header says up to 65536, the structure up to 65535
    assert payloads.packetise(packet(b"x", True, Track(0, Codec.VP9, 90_000, b"", 65_536, 16))) == [b"\x8c\x80\x03x"]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("08", Descriptor(1, True, False, 0)),
        ("8c 12", Descriptor(2, True, True, 0)),
        ("84 9234", Descriptor(3, False, True, 0)),
        ("ac 9234 43 07", Descriptor(5, True, True, 1)),
        ("bc 9234 04", Descriptor(4, True, True, 2)),
        ("fc 9234 02 02", Descriptor(5, True, True, 1)),
        ("fc 9234 00 03 05 06", Descriptor(7, True, True, 0)),
        ("8e 12 00", Descriptor(3, True, True, 0)),
        ("8e 12 38 0140 00b4 0280 0168 01 04 01", Descriptor(14, True, True, 0)),
        ("8e 12 08 03 00 0401 0c010203", Descriptor(11, True, True, 0)),
    ],
)
def test_descriptors_of_every_kind(head: str, expected: Descriptor) -> None:
    descriptor = bytes.fromhex(head.replace(" ", ""))
    assert parse_descriptor(descriptor + b"frame") == expected
    for size in range(len(descriptor) + 1):
        with pytest.raises(ProtocolError, match=f"expected a frame behind its descriptor, got {size} bytes"):
            parse_descriptor(descriptor[:size])


def test_more_than_three_references() -> None:
    with pytest.raises(ProtocolError, match="at most 3 reference indices"):
        parse_descriptor(b"\xdc\x12\x03\x05\x07\x08frame")


def test_the_base_spatial_layer_is_kept() -> None:
    frames = Vp9Depacketiser(100)
    for payload in (layer(0, b"ba", 8), layer(0, b"se", 4), layer(1, b"up", 8), layer(1, b"per", 4)):
        assert frames.push(rtp(payload), False) == []
    assert frames.push(rtp(layer(2, b"top"), True), False) == [Frame(b"base", 5, True)]
    assert (frames.layer_payloads, frames.malformed) == (3, 0)


def test_loss_among_higher_layers_does_no_harm() -> None:
    frames = Vp9Depacketiser(100)
    frames.push(rtp(layer(0, b"base")), False)
    assert frames.push(rtp(layer(2, b"top"), True), True) == [Frame(b"base", 5, True)]
    frames.push(rtp(layer(0, b"base"), False, 6), False)
    assert frames.push(rtp(layer(0, b"next"), True, 7), True) == [Frame(b"base", 6, True), Frame(b"", 7, False), Frame(b"next", 7, True)]
    assert frames.incomplete == 1


def test_a_picture_that_lost_its_base_is_given_up() -> None:
    frames = Vp9Depacketiser(100)
    frames.push(rtp(layer(0, b"base"), True), False)
    assert frames.push(rtp(layer(1, b"up"), True, 6), True) == [Frame(b"", 6, False)]
    assert frames.push(rtp(layer(0, b"next"), True, 7), False) == [Frame(b"next", 7, True)]


@pytest.mark.parametrize(
    ("payloads", "fault"),
    [
        ([layer(0, b"x", 4)], "expected the start of a frame, got another part"),
        ([layer(0, b"x", 8), layer(0, b"x", 8)], "expected another part, got a start"),
        ([layer(0, b"x", 8)], "expected the end of a frame, got the end of the picture"),
        ([b"\x8c"], "expected a frame behind its descriptor, got 1 bytes in all"),
    ],
)
def test_what_the_format_does_not_allow(payloads: list[bytes], fault: str) -> None:
    frames = Vp9Depacketiser(100)
    told = [frame for at, payload in enumerate(payloads) for frame in frames.push(rtp(payload, at == len(payloads) - 1), False)]
    assert [frame.complete for frame in told] == [False]
    assert (frames.malformed, frames.fault) == (1, f"VP9 over RTP: {fault}")


def test_frames_under_one_timestamp_without_markers() -> None:
    frames = Vp9Depacketiser(100)
    frames.push(rtp(b"\x0cone"), False)
    assert frames.push(rtp(b"\x0ctwo"), False) == [Frame(b"one", 5, True)]
