"""RFC 7798, byte by byte."""

from __future__ import annotations

import pytest

from medianode.codecs import nal
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp.hevc import HevcDepacketiser, HevcPacketiser
from medianode.protocols.rtp.packet import RtpPacket

TRACK = Track(0, Codec.HEVC, 90_000)
TRAIL, LAYERED = b"\x02\x01trail", b"\x03\x0aup"
"""TRAIL_R in layer 0 with temporal id 0; the same in layer 33 with temporal id 1."""


def packet(*units: bytes) -> Packet:
    return Packet(TRACK, nal.join(units), 0, 0, False, 0.0)


def rtp(payload: bytes, marker: bool = False, timestamp: int = 5) -> RtpPacket:
    return RtpPacket(96, marker, 0, timestamp, 7, {}, payload)


def test_single_units_and_what_stays_at_home() -> None:
    payloads = HevcPacketiser(100)
    assert payloads.packetise(packet(b"\x46\x01\x50", b"\x4e\x01sei", TRAIL, b"\x50\x01sei", b"\x4c\x01ff")) == [TRAIL]


def test_an_aggregation_packet_has_the_lowest_layer_and_temporal_id() -> None:
    body = b"\0\x07" + TRAIL + b"\0\x04" + LAYERED
    assert HevcPacketiser(100).packetise(packet(TRAIL, LAYERED)) == [b"\x60\x01" + body]
    assert HevcPacketiser(100).packetise(packet(LAYERED, LAYERED)) == [b"\x61\x0a" + 2 * (b"\0\x04" + LAYERED)]
    assert HevcPacketiser(100).packetise(packet(b"\x82\x01x", TRAIL))[0][0] == 0xE0
    (frame,) = HevcDepacketiser(100).push(rtp(b"\x60\x01" + body, True), False)
    assert frame.data == nal.join([TRAIL, LAYERED])


def test_fragments() -> None:
    unit = b"\x27\x0a" + bytes(range(256))
    payloads = HevcPacketiser(100).packetise(packet(unit))
    assert [len(p) for p in payloads] == [100, 100, 65]
    assert {p[:2] for p in payloads} == {b"\x63\x0a"}
    assert [p[2] for p in payloads] == [0x93, 0x13, 0x53]
    frames = HevcDepacketiser(1000)
    assert [frames.push(rtp(p, at == 2), False) for at, p in enumerate(payloads)][2][0].data == nal.join([unit])


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"\x02\x01", "H.265 over RTP: expected at least 3 bytes, got 2"),
        (b"\x62\x01\x13x", "fragmentation unit: expected its start, got another part"),
        (b"\x60\x01\0\x09x", "aggregation packet: expected a length of at most 1, got 9"),
    ],
)
def test_what_the_format_does_not_allow(payload: bytes, fault: str) -> None:
    frames = HevcDepacketiser(100)
    assert [frame.complete for frame in frames.push(rtp(payload, True), False)] == [False]
    assert (frames.malformed, frames.fault) == (1, fault)


def test_paci_and_reserved_types_are_ignored_and_counted() -> None:
    frames = HevcDepacketiser(100)
    frames.push(rtp(b"\x64\x01paci"), False)
    assert (frames.malformed, frames.fault) == (1, "H.265 over RTP: expected a payload type of 0 to 49, got 50")
    assert frames.push(rtp(TRAIL, True), False)[0].data == nal.join([TRAIL])


@pytest.mark.parametrize(
    ("first", "survives"), [(b"\x40\x01vps", True), (b"\x46\x01\x50", True), (b"\x60\x01\0\x05\x40\x01vps", True), (TRAIL, False)]
)
def test_a_unit_that_surely_begins_survives_a_loss_before_it(first: bytes, survives: bool) -> None:
    frames = HevcDepacketiser(100)
    frames.push(rtp(TRAIL, True), False)
    assert [frame.complete for frame in frames.push(rtp(first, False, 6), True)] == [False]
    assert [frame.complete for frame in frames.push(rtp(TRAIL, True, 6), False)] == ([True] if survives else [])
