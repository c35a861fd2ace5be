"""RFC 7741, byte by byte."""

from __future__ import annotations

import pytest

from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp.assembly import Frame
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.vp8 import Vp8Depacketiser, Vp8Packetiser

TRACK = Track(0, Codec.VP8, 90_000)


def packet(data: bytes) -> Packet:
    return Packet(TRACK, data, 0, 0, False, 0.0)


def rtp(payload: bytes, marker: bool = False, timestamp: int = 5) -> RtpPacket:
    return RtpPacket(96, marker, 0, timestamp, 7, {}, payload)


def test_descriptors_count_the_frames_in_15_bits() -> None:
    payloads = Vp8Packetiser(20, picture_id=0x7FFF)
    assert payloads.packetise(packet(b"x" * 40)) == [
        b"\x90\x80\xff\xff" + b"x" * 16,
        b"\x80\x80\xff\xff" + b"x" * 16,
        b"\x80\x80\xff\xff" + b"x" * 8,
    ]
    assert payloads.packetise(packet(b"")) == []
    assert payloads.packetise(packet(b"x" * 16)) == [b"\x90\x80\x80\x00" + b"x" * 16]
    assert payloads.packetise(packet(b"x")) == [b"\x90\x80\x80\x01x"]


@pytest.mark.parametrize(
    "descriptor",
    [
        b"\x10",
        b"\x30",
        b"\x90\x00",
        b"\x90\x80\x12",
        b"\x90\x80\x92\x34",
        b"\x90\xc0\x92\x34\x01",
        b"\x90\xe0\x92\x34\x01\x40",
        b"\x90\xf0\x12\x01\x41",
        b"\x90\x10\x01",
        b"\x90\x20\x01",
    ],
    ids=lambda d: d.hex(),
)
def test_descriptors_of_every_kind(descriptor: bytes) -> None:
    assert Vp8Depacketiser(100).push(rtp(descriptor + b"frame", True), False) == [Frame(b"frame", 5, True)]
    frames = Vp8Depacketiser(100)
    assert [frame.complete for frame in frames.push(rtp(descriptor, True), False)] == [False]
    assert frames.fault == f"VP8 over RTP: expected a frame behind a descriptor of {len(descriptor)} bytes, got {len(descriptor)} in all"


def test_partitions_with_starts_of_their_own_are_one_frame() -> None:
    frames = Vp8Depacketiser(100)
    assert frames.push(rtp(b"\x10one"), False) == frames.push(rtp(b"\x11two"), False) == frames.push(rtp(b"\x02three"), False) == []
    assert frames.push(rtp(b"\x10four", True), False) == [Frame(b"onetwothree", 5, True), Frame(b"four", 5, True)]


def test_joining_in_mid_frame() -> None:
    frames = Vp8Depacketiser(100)
    assert frames.push(rtp(b"\x00rest"), False) == [Frame(b"", 5, False)]
    assert frames.push(rtp(b"\x00rest", True), False) == []
    assert frames.fault == "VP8 over RTP: expected the start of a frame, got another part"
    assert frames.push(rtp(b"\x10next", True, 6), False) == [Frame(b"next", 6, True)]


def test_after_a_loss_between_frames_the_next_start_is_taken() -> None:
    frames = Vp8Depacketiser(100)
    frames.push(rtp(b"\x10one", True), False)
    assert frames.push(rtp(b"\x10two", True, 6), True) == [Frame(b"", 6, False), Frame(b"two", 6, True)]
    assert frames.push(rtp(b"\x00rest", True, 7), True) == [Frame(b"", 7, False)]
