"""RFC 6184, byte by byte."""

from __future__ import annotations

from base64 import b64encode

import pytest

from medianode.codecs import nal
from medianode.codecs.h264 import build_avcc
from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp.h264 import H264Depacketiser, H264Packetiser, sprop_record
from medianode.protocols.rtp.packet import RtpPacket

SPS = bytes.fromhex("6742c00bda0507ec0440000003004000000303c50aa8")
PPS = bytes.fromhex("68ce0fc8")
TRACK = Track(0, Codec.H264, 90_000, build_avcc([SPS], [PPS]))
IDR, P, B, SEI, AUD = b"\x65idr", b"\x41p", b"\x01b", b"\x06sei", b"\x09\xf0"


def packet(*units: bytes, keyframe: bool = False) -> Packet:
    return Packet(TRACK, nal.join(units), 0, 0, keyframe, 0.0)


def rtp(payload: bytes, marker: bool = False) -> RtpPacket:
    return RtpPacket(96, marker, 0, 5, 7, {}, payload)


def test_parameter_sets_of_a_description() -> None:
    sps, pps, sei = (b64encode(unit).decode() for unit in (SPS, PPS, SEI))
    for sets in (f"{sps},{pps}", f"{pps}, {sei},{sps},"):
        assert sprop_record(sets) == build_avcc([SPS], [PPS])
    for sets in ("", sps, f"{pps},{sei}", f"{sps},x", f"{sps},\u0130"):
        assert sprop_record(sets) is None


def test_a_small_unit_is_a_payload_as_it_stands() -> None:
    assert H264Packetiser(100).packetise(packet(P)) == [P]
    whole = P.ljust(100, b"p")
    assert H264Packetiser(100).packetise(packet(whole)) == [whole]


def test_parameter_sets_go_before_each_key_frame_in_a_stap_a() -> None:
    payloads = H264Packetiser(100)
    sets = b"\x78" + len(SPS).to_bytes(2, "big") + SPS + b"\0\x04" + PPS
    assert payloads.packetise(packet(IDR, keyframe=True)) == [sets + b"\0\x04" + IDR]
    large = IDR.ljust(99, b"i")
    assert payloads.packetise(packet(large, keyframe=True)) == [sets, large]
    assert payloads.packetise(packet(P)) == [P]
    assert payloads.packetise(packet(IDR, keyframe=True)._replace(track=Track(0, Codec.H264, 90_000))) == [IDR]


def test_sei_aud_and_filler_stay_at_home() -> None:
    payloads = H264Packetiser(100)
    assert payloads.packetise(packet(AUD, SEI, P, b"\x0c\xff\xff")) == [P]
    assert payloads.packetise(packet(SEI)) == []
    assert payloads.packetise(packet()) == []


def test_stap_a_has_the_highest_nal_ref_idc_and_any_forbidden_bit() -> None:
    (payload,) = H264Packetiser(100).packetise(packet(B, P, b"\x81x"))
    assert payload == b"\xd8" + b"".join(len(u).to_bytes(2, "big") + u for u in (B, P, b"\x81x"))


def test_units_share_a_payload_only_where_they_fit() -> None:
    units = [P.ljust(n, b"p") for n in (40, 40, 40, 10, 80, 99, 98)]
    payloads = H264Packetiser(100).packetise(packet(*units))
    assert [p[0] & 31 for p in payloads] == [24, 24, 1, 1, 1]
    assert [len(p) for p in payloads] == [85, 55, 80, 99, 98]
    assert max(map(len, payloads)) <= 100


def test_a_large_unit_is_cut_into_equal_fragments() -> None:
    unit = b"\x65" + bytes(range(256)) * 4
    payloads = H264Packetiser(100).packetise(packet(unit))
    assert [len(p) for p in payloads] == [100] * 10 + [46]
    assert {p[0] for p in payloads} == {0x7C}
    assert [p[1] for p in payloads] == [0x85] + [0x05] * 9 + [0x45]
    assert b"\x65" + b"".join(p[2:] for p in payloads) == unit


@pytest.mark.parametrize(("size", "lengths"), [(101, [100, 4]), (197, [100, 100]), (198, [100, 100, 3])])
def test_the_last_fragment_is_never_empty(size: int, lengths: list[int]) -> None:
    assert [len(p) for p in H264Packetiser(100).packetise(packet(P.ljust(size, b"p")))] == lengths


def test_lengths_that_do_not_add_up() -> None:
    with pytest.raises(ProtocolError, match="NAL unit: expected a length of at most 1, got 2"):
        H264Packetiser(100).packetise(Packet(TRACK, b"\0\0\0\x02\x41", 0, 0, False, 0.0))


@pytest.mark.parametrize(("kind", "name"), [(25, "STAP-B"), (26, "MTAP16"), (27, "MTAP24"), (29, "FU-B")])
def test_the_interleaved_mode_is_refused(kind: int, name: str) -> None:
    with pytest.raises(UnsupportedMedia, match=f"expected packetization-mode 1, got {name} of mode 2"):
        H264Depacketiser(100).push(rtp(bytes((0x60 | kind, 0, 0, 0))), False)


@pytest.mark.parametrize("kind", [0, 30, 31])
def test_reserved_types_are_ignored_and_counted(kind: int) -> None:
    frames = H264Depacketiser(100)
    frames.push(rtp(bytes((kind, 0))), False)
    assert frames.malformed == 1
    assert frames.fault == f"H.264 over RTP: expected a NAL unit type of 1 to 29, got {kind}"
    assert [frame.data for frame in frames.push(rtp(P, marker=True), False)] == [nal.join([P])]


def test_a_fragment_that_is_start_and_end_at_once_is_a_unit() -> None:
    assert H264Depacketiser(100).push(rtp(b"\x7c\xc5idr", True), False)[0].data == nal.join([IDR])


def test_parameter_sets_in_packets_of_their_own_belong_to_the_picture() -> None:
    frames = H264Depacketiser(100)
    assert frames.push(rtp(SPS), False) == frames.push(rtp(PPS), False) == []
    (frame,) = frames.push(rtp(IDR, True), False)
    assert frame.data == nal.join([SPS, PPS, IDR])


def test_empty_units_and_fragments_say_nothing() -> None:
    frames = H264Depacketiser(100)
    frames.push(rtp(b"\x78\0\0\0\x02" + P), False)
    frames.push(rtp(b"\x7c\x85"), False)
    frames.push(rtp(b"\x7c\x05"), False)
    assert [frame.data for frame in frames.push(rtp(b"\x7c\x45", True), False)] == [nal.join([P, b"\x65"])]


@pytest.mark.parametrize(
    ("payloads", "fault"),
    [
        ([b"\x7c"], "FU-A: expected at least 2 bytes, got 1"),
        ([b"\x7c\x05x"], "fragmentation unit: expected its start, got another part"),
        ([b"\x7c\x85x", b"\x7c\x85x"], "fragmentation unit: expected its end, got another's start"),
        ([b"\x7c\x85x", P], "fragmentation unit: expected its end, got another NAL unit"),
        ([b"\x7c\x85x"], "fragmentation unit: expected its end, got the end of the access unit"),
        ([b"\x78\0"], "aggregation packet: expected a length of at most 0, got 0"),
    ],
)
def test_what_the_format_does_not_allow(payloads: list[bytes], fault: str) -> None:
    frames = H264Depacketiser(100)
    told = [frame for at, payload in enumerate(payloads) for frame in frames.push(rtp(payload, at == len(payloads) - 1), False)]
    assert [frame.complete for frame in told] == [False]
    assert (frames.malformed, frames.fault) == (1, fault)
