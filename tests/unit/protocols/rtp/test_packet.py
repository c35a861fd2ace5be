"""RTP packets: Chromium's and RFC 8285's, round trips, RTX, counters that wrap, garbage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiortc.rtp import RtpPacket as TheirPacket
from aiortc.rtp import unwrap_rtx as their_unwrap_rtx

from medianode.errors import PeerError, ProtocolError
from medianode.protocols.rtp.packet import RtpPacket, Unwrapper, build, parse, unwrap_rtx

CHROMIUM = json.loads((Path(__file__).parents[3] / "vectors" / "rtp" / "chromium-dump.json").read_text())


def test_chromium_packets_read_as_aiortc_reads_them() -> None:
    assert len(CHROMIUM["rtp"]) >= 8
    for wire in map(bytes.fromhex, CHROMIUM["rtp"]):
        ours, theirs = parse(wire), TheirPacket.parse(wire)
        assert (ours.payload_type, ours.marker, ours.sequence) == (theirs.payload_type, bool(theirs.marker), theirs.sequence_number)
        assert (ours.timestamp, ours.ssrc, ours.payload) == (theirs.timestamp, theirs.ssrc, theirs.payload)
        assert len(ours.extensions[3]) == 2  # transport-cc
        assert len(ours.extensions[2]) == 3  # abs-send-time


def test_chromium_probes_are_padding_and_unwrap_to_nothing() -> None:
    probes = [packet for packet in map(parse, map(bytes.fromhex, CHROMIUM["rtp"])) if packet.payload_type == 97]
    assert probes
    assert all(packet.payload == b"" and unwrap_rtx(packet, 96, 1) is None for packet in probes)


def test_rtx_gives_the_original_as_aiortc_does() -> None:
    packets = [packet for packet in map(bytes.fromhex, CHROMIUM["rtp"]) if packet[1] & 0x7F == 119]
    assert packets
    for wire in packets:
        ours = unwrap_rtx(parse(wire), 118, 497079109)
        theirs = their_unwrap_rtx(TheirPacket.parse(wire), payload_type=118, ssrc=497079109)
        assert ours is not None
        assert (ours.payload_type, ours.ssrc) == (118, 497079109)
        assert (ours.sequence, ours.timestamp, ours.marker) == (theirs.sequence_number, theirs.timestamp, bool(theirs.marker))
        assert ours.payload == theirs.payload


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("bede 0001 10aa 0000", {1: b"\xaa"}),  # RFC 8285 4.2
        ("bede 0003 10aa 21bbbb 0000 33cccccccc", {1: b"\xaa", 2: b"\xbb\xbb", 3: b"\xcc\xcc\xcc\xcc"}),  # padding between them
        ("bede 0001 10aa f0bb", {1: b"\xaa"}),  # id 15 ends it
        ("bede 0002 10aa 01bb 20cc 0000", {1: b"\xaa"}),  # padding with a length ends it
        ("bede 0001 10aa 22bb", {1: b"\xaa"}),  # overlong
        ("1000 0002 0100 0203 aabbcc 00", {1: b"", 2: b"\xaa\xbb\xcc"}),  # RFC 8285 4.3
        ("100f 0001 ff01 aa 00", {255: b"\xaa"}),
        ("1000 0001 0109 aabb", {}),
        ("1000 0001 0000 0001", {}),
        ("abcd 0001 01020304", {}),  # of another profile
        ("bede 0000", {}),
    ],
)
def test_extension_forms(block: str, expected: dict[int, bytes]) -> None:
    wire = bytes.fromhex("90600001 00000002 00000003" + block) + b"payload"
    assert parse(wire) == RtpPacket(96, False, 1, 2, 3, expected, b"payload")


@pytest.mark.parametrize("extensions", [{}, {1: b"a", 14: b"b" * 16}, {15: b"c"}, {1: b""}, {1: b"d" * 17, 200: b"e"}])
@pytest.mark.parametrize("padding", [0, 1, 255])
@pytest.mark.parametrize("csrcs", [(), (7, 8), tuple(range(15))])
def test_parse_undoes_build(extensions: dict[int, bytes], padding: int, csrcs: tuple[int, ...]) -> None:
    wire = build(127, 65535, 0xFFFFFFFF, 0xFFFFFFFE, b"data", marker=True, extensions=extensions, csrcs=csrcs, padding=padding)
    assert parse(wire) == RtpPacket(127, True, 65535, 0xFFFFFFFF, 0xFFFFFFFE, extensions, b"data")


def test_build_wraps_counters() -> None:
    packet = parse(build(96, 65537, (1 << 32) + 5, 1))
    assert (packet.sequence, packet.timestamp, packet.payload) == (1, 5, b"")


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("", "at least 12 bytes, got 0"),
        ("80600001000000020000", "at least 12 bytes, got 10"),
        ("006000010000000200000003", "version 2, got 0"),
        ("c06000010000000200000003", "version 2, got 3"),
        ("826000010000000200000003 00000000", "20 bytes of header, got 16"),
        ("906000010000000200000003 bede", "16 bytes of header, got 14"),
        ("906000010000000200000003 bede0002 00000000", "2 words of header extensions, got 4 bytes"),
        ("a06000010000000200000003 0000", "padding, got 0"),
        ("a06000010000000200000003 0003", "padding, got 3"),
        ("a06000010000000200000003", "padding, got 3"),
    ],
)
def test_garbage_is_told(wire: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        parse(bytes.fromhex(wire))


def test_every_cut_of_a_packet_is_read_or_refused() -> None:
    wire = build(96, 1, 2, 3, b"payload", extensions={1: b"abc", 2: b"de"}, csrcs=(9,), padding=4)
    refused = 0
    for end in range(len(wire)):
        try:
            parse(wire[:end])
        except PeerError:
            refused += 1
    assert refused > 20


def test_rtx_of_an_empty_packet_and_of_too_little() -> None:
    packet = parse(build(97, 5, 6, 7, b"\x12\x34", marker=True, extensions={3: b"\0\1"}))
    assert unwrap_rtx(packet, 96, 8) == RtpPacket(96, True, 0x1234, 6, 8, {3: b"\0\1"}, b"")
    assert unwrap_rtx(packet._replace(payload=b"\x12"), 96, 8) is None


def test_unwrapper_follows_both_ways() -> None:
    sequence = Unwrapper(16)
    assert [sequence(value) for value in (65534, 65535, 0, 2, 1, 65535, 3)] == [65534, 65535, 65536, 65538, 65537, 65535, 65539]
    below = Unwrapper(16)
    assert [below(value) for value in (0, 65535, 1)] == [0, -1, 1]
    stamp = Unwrapper(32)
    assert [stamp(value) for value in (0xFFFFFF00, 0x100, 0x80000000)] == [0xFFFFFF00, (1 << 32) + 0x100, (1 << 32) + 0x80000000]
