"""AOMedia's RTP payload format for AV1, byte by byte."""

from __future__ import annotations

import pytest

from medianode.codecs import av1
from medianode.errors import ProtocolError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp.assembly import Frame
from medianode.protocols.rtp.av1 import Av1Depacketiser, Av1Packetiser
from medianode.protocols.rtp.packet import RtpPacket

SEQUENCE = bytes.fromhex("0a0b02000004e1e7f66257c802")  # of SVT-AV1, with its size
TRACK = Track(0, Codec.AV1, 90_000)
DELIMITER, PADDING = b"\x12\0", b"\x7a\x01\0"


def obu(body: bytes, kind: int = 6, extension: bytes = b"") -> bytes:
    return bytes((kind << 3 | (4 if extension else 0) | 2,)) + extension + av1.leb128(len(body)) + body


def element(body: bytes, kind: int = 6, extension: bytes = b"") -> bytes:
    return bytes((kind << 3 | (4 if extension else 0),)) + extension + body


def packet(data: bytes, keyframe: bool = False, track: Track = TRACK) -> Packet:
    return Packet(track, data, 0, 0, keyframe, 0.0)


def rtp(payload: bytes, marker: bool = False, timestamp: int = 5) -> RtpPacket:
    return RtpPacket(45, marker, 0, timestamp, 7, {}, payload)


def test_elements_go_without_sizes_and_the_last_without_its_length() -> None:
    payloads = Av1Packetiser(100)
    assert payloads.packetise(packet(obu(b"frame"))) == [b"\x10" + element(b"frame")]
    two = obu(b"meta", 5) + obu(b"frame", 6, b"\x28")
    assert payloads.packetise(packet(two)) == [b"\x20\x05" + element(b"meta", 5) + element(b"frame", 6, b"\x28")]
    assert payloads.packetise(packet(element(b"no size"))) == [b"\x10" + element(b"no size")]


def test_delimiters_and_padding_stay_at_home() -> None:
    payloads = Av1Packetiser(100)
    assert payloads.packetise(packet(DELIMITER + obu(b"frame") + PADDING)) == [b"\x10" + element(b"frame")]
    assert payloads.packetise(packet(DELIMITER)) == []


def test_key_frames_open_a_new_sequence_and_bring_its_header() -> None:
    in_band = SEQUENCE + obu(b"key")
    expected = [b"\x28" + bytes((len(SEQUENCE) - 1,)) + b"\x08" + SEQUENCE[2:] + element(b"key")]
    assert Av1Packetiser(100).packetise(packet(in_band, True)) == expected
    record = Track(0, Codec.AV1, 90_000, b"\x81\0\0\0" + SEQUENCE)
    payloads = Av1Packetiser(100)
    assert payloads.packetise(packet(obu(b"key"), True, record)) == expected
    assert payloads.packetise(packet(obu(b"key"), True, record)) == expected
    assert payloads.packetise(packet(obu(b"key"), True)) == [b"\x18" + element(b"key")]


def test_a_large_obu_fills_its_payloads() -> None:
    body = bytes(range(256))
    payloads = Av1Packetiser(100).packetise(packet(SEQUENCE + obu(body), True))
    assert [len(p) for p in payloads] == [100, 100, 73]
    assert [p[0] for p in payloads] == [0x68, 0xD0, 0x90]
    assert payloads[0][:2] == b"\x68\x0c"
    assert payloads[0][14:] + payloads[1][1:] + payloads[2][1:] == element(body)


def test_no_more_than_three_elements_in_a_payload() -> None:
    payloads = Av1Packetiser(100).packetise(packet(b"".join(obu(bytes((n,))) for n in range(5))))
    assert [(p[0], len(p)) for p in payloads] == [(0x30, 9), (0x20, 6)]


def test_no_row_of_obus() -> None:
    with pytest.raises(ProtocolError, match="forbidden bit"):
        Av1Packetiser(100).packetise(packet(b"\x80"))


def test_lengths_for_all_elements_where_their_number_is_not_told() -> None:
    frames = Av1Depacketiser(100)
    payload = b"\x00\x05" + element(b"meta", 5) + b"\x06" + element(b"frame")
    assert frames.push(rtp(payload, True), False) == [Frame(obu(b"meta", 5) + obu(b"frame"), 5, True)]


def test_sizes_delimiters_and_empty_elements_of_careless_senders() -> None:
    frames = Av1Depacketiser(100)
    payload = b"\x00\x02" + DELIMITER + b"\x00\x07" + obu(b"frame") + b"\x01\x78"
    assert frames.push(rtp(payload, True), False) == [Frame(obu(b"frame"), 5, True)]


def test_an_obu_over_several_packets() -> None:
    frames = Av1Depacketiser(100)
    for payload in (b"\x60\x05" + element(b"meta", 5) + b"\x30fr", b"\xd0a"):
        assert frames.push(rtp(payload), False) == []
    expected = obu(b"meta", 5) + obu(b"frame") + obu(b"next")
    assert frames.push(rtp(b"\xa0\x02me" + element(b"next"), True), False) == [Frame(expected, 5, True)]


@pytest.mark.parametrize(
    ("payloads", "fault"),
    [
        ([b"\x90x"], "AV1 over RTP: expected the start of an OBU, got the rest of one"),
        ([b"\x50\x30x", b"\x10\x30x"], "AV1 over RTP: expected the rest of an OBU, got a new one"),
        ([b"\x50\x30x"], "AV1 over RTP: expected the rest of an OBU, got the end of the temporal unit"),
        ([b"\x10"], "AV1 over RTP: expected 1 OBU elements, got 0"),
        ([b"\x00"], "AV1 over RTP: expected some OBU elements, got 0"),
        ([b"\x30\x01\x30"], "AV1 over RTP: expected 3 OBU elements, got 1"),
        ([b"\x20\x09\x30"], "AV1 over RTP: expected an OBU element of at most 1 bytes, got 9"),
        ([b"\x00\xff"], "leb128: expected a byte at 2, got the end"),
        ([b"\x10\x80x"], "OBU: expected the forbidden bit clear, got 0x80"),
        ([b"\x10\x34"], "OBU: expected a header of 2 bytes, got 1"),
        ([b"\x10\x32\x05x"], "OBU: expected 1 bytes, got a size of 5"),
    ],
)
def test_what_the_format_does_not_allow(payloads: list[bytes], fault: str) -> None:
    frames = Av1Depacketiser(100)
    told = [frame for at, payload in enumerate(payloads) for frame in frames.push(rtp(payload, at == len(payloads) - 1), False)]
    assert [frame.complete for frame in told] == [False]
    assert (frames.malformed, frames.fault) == (1, fault)


@pytest.mark.parametrize(
    ("first", "survives"),
    [
        (b"\x18\x30x", True),
        (b"\x10\x08x", True),
        (b"\x20\x01\x10\x30x", True),
        (b"\x10\x30x", False),
        (b"\x98x", False),
        (b"\x00\x80", False),
    ],
    ids=["new sequence", "sequence header", "delimiter", "frame", "rest", "garbage"],
)
def test_a_unit_that_surely_begins_survives_a_loss_before_it(first: bytes, survives: bool) -> None:
    frames = Av1Depacketiser(100)
    frames.push(rtp(b"\x10\x30x", True), False)
    assert [frame.complete for frame in frames.push(rtp(first, True, 6), True)] == ([False, True] if survives else [False])
