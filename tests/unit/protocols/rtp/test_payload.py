"""All payload formats on recorded streams: FFmpeg's packets to access units, ours to payloads and back, and what may be dropped."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import pytest
from aiortc.codecs.h264 import h264_depayload
from aiortc.codecs.vpx import VpxPayloadDescriptor

from medianode.codecs import nal
from medianode.errors import UnsupportedMedia
from medianode.ingress.elementary import ElementaryStream
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp.packet import RtpPacket, parse
from medianode.protocols.rtp.payload import Frame, depacketiser, is_reference, packetiser

VECTORS = Path(__file__).parents[3] / "vectors" / "rtp"
VIDEO = {
    "h264": Codec.H264,
    "h264-bframes": Codec.H264,
    "hevc": Codec.HEVC,
    "vp8": Codec.VP8,
    "vp9": Codec.VP9,
    "vp9-superframe": Codec.VP9,
    "av1": Codec.AV1,
    "av1-hidden": Codec.AV1,
}
ALL = {**VIDEO, "opus": Codec.OPUS, "pcmu": Codec.PCM_MULAW}
DECODERS = {Codec.H264: "h264", Codec.HEVC: "hevc", Codec.VP8: "vp8", Codec.VP9: "vp9", Codec.AV1: "libdav1d"}


class Stream(NamedTuple):
    """`sent`: the recorded packets; `packets`: the same media as the bus carries it, from the encoder's file."""

    codec: Codec
    sent: list[RtpPacket]
    packets: list[Packet]


def framed(data: bytes, prefix: int) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        end = at + prefix + int.from_bytes(data[at : at + prefix], "big")
        found.append(data[at + prefix : end])
        at = end
    return found


def on_the_bus(codec: Codec, units: list[bytes]) -> list[Packet]:
    stream = ElementaryStream(0, codec)
    packets = []
    for index, data in enumerate(units):
        unit = stream.unit(data)
        assert unit is not None
        assert stream.track is not None
        packets.append(Packet(stream.track, unit.data, index, index, unit.keyframe, 0.0))
    return packets


def recorded(name: str) -> Stream:
    codec = ALL[name]
    units = framed((VECTORS / f"ffmpeg9-{name}.units").read_bytes(), 4)
    if codec in (Codec.H264, Codec.HEVC):
        units = [nal.from_annexb(unit) for unit in units]
    sent = [parse(data) for data in framed((VECTORS / f"ffmpeg9-{name}.rtp").read_bytes(), 2)]
    return Stream(codec, sent, on_the_bus(codec, units))


def carry(packets: list[Packet], max_payload: int) -> list[RtpPacket]:
    """By our packetiser, as RTP packets."""
    payloads = packetiser(packets[0].track.codec, max_payload)
    out: list[RtpPacket] = []
    for packet in packets:
        cut = payloads.packetise(packet)
        out += [RtpPacket(96, at == len(cut) - 1, len(out) + at, packet.pts, 7, {}, data) for at, data in enumerate(cut)]
    return out


def gathered(codec: Codec, packets: list[RtpPacket]) -> list[Frame]:
    frames = depacketiser(codec, 1 << 20)
    out = []
    for packet in packets:
        out += frames.push(packet, False)
    assert (frames.malformed, frames.incomplete, frames.fault) == (0, 0, "")
    assert all(frame.complete for frame in out)
    return out


def pictures(packets: list[Packet]) -> dict[int, bytes]:
    """Decoded, by pts."""
    codec = packets[0].track.codec
    context = av.CodecContext.create(DECODERS[codec], "r")
    context.extradata = packets[0].track.config or None
    found = {}
    for packet in packets:
        data = av.Packet(packet.data)
        data.pts = packet.pts
        found.update({frame.pts: frame.to_ndarray().tobytes() for frame in context.decode(data)})
    found.update({frame.pts: frame.to_ndarray().tobytes() for frame in context.decode(None)})
    return found


@pytest.mark.parametrize("name", ALL)
def test_ffmpeg_s_packets_become_the_units_of_its_file(name: str) -> None:
    stream = recorded(name)
    frames = gathered(stream.codec, stream.sent)
    assert on_the_bus(stream.codec, [frame.data for frame in frames]) == stream.packets
    times = [frame.timestamp for frame in frames]
    steps = {(b - a) & 0xFFFFFFFF for a, b in pairwise(times)}
    assert len(times) == len(set(times)) == len(stream.packets)
    assert name != "h264" or steps == {9000}


@pytest.mark.parametrize(
    ("name", "codec", "count", "sizes"),
    [
        ("h264", Codec.H264, 20, [(320, 180)]),
        ("vp8", Codec.VP8, 28, [(320, 180)]),
        ("vp9", Codec.VP9, 21, [(320, 180)]),
        ("vp9-l2t2", Codec.VP9, 21, [(320, 180), (240, 136)]),
        ("vp9-l2t1-key", Codec.VP9, 20, [(320, 180), (240, 136)]),
        ("av1", Codec.AV1, 25, [(320, 180)]),
        ("opus", Codec.OPUS, 74, []),
    ],
)
def test_chromium_s_packets_become_pictures(name: str, codec: Codec, count: int, sizes: list[tuple[int, int]]) -> None:
    frames = gathered(codec, [parse(data) for data in framed((VECTORS / f"chromium-{name}.rtp").read_bytes(), 2)])
    assert len(frames) == count
    packets = on_the_bus(codec, [frame.data for frame in frames])
    assert packets[0].keyframe
    if codec is Codec.OPUS:
        assert packets[0].track.sample_rate == 48_000
    else:
        decoded = pictures(packets)
        assert len(decoded) == count
        assert {len(picture) for picture in decoded.values()} == {width * height * 3 // 2 for width, height in sizes}


@pytest.mark.parametrize("name", VIDEO)
def test_streams_without_markers_are_the_same_but_for_the_last_unit(name: str) -> None:
    stream = recorded(name)
    frames = gathered(stream.codec, [packet._replace(marker=False) for packet in stream.sent])
    assert on_the_bus(stream.codec, [frame.data for frame in frames]) == stream.packets[:-1]


@pytest.mark.parametrize("max_payload", [1200, 300, 17])
@pytest.mark.parametrize("name", ALL)
def test_our_payloads_become_the_same_units(name: str, max_payload: int) -> None:
    stream = recorded(name)
    sent = carry(stream.packets, max_payload)
    frames = gathered(stream.codec, sent)
    assert [frame.timestamp for frame in frames] == [packet.pts for packet in stream.packets]
    back = on_the_bus(stream.codec, [frame.data for frame in frames])
    if name in VIDEO:
        assert max(len(packet.payload) for packet in sent) == max_payload
        assert pictures(back) == pictures(stream.packets)
    if stream.codec not in (Codec.H264, Codec.HEVC):  # x264 and x265 begin with an SEI, which stays at home
        assert back == stream.packets
    assert [packet.keyframe for packet in back] == [packet.keyframe for packet in stream.packets]
    assert back[0].track == stream.packets[0].track


@pytest.mark.parametrize("name", ["h264", "h264-bframes"])
def test_aiortc_reads_our_h264(name: str) -> None:
    stream = recorded(name)
    read = b"".join(h264_depayload(packet.payload) for packet in carry(stream.packets, 1200))
    ours = b"".join(frame.data for frame in gathered(stream.codec, carry(stream.packets, 1200)))
    assert read == nal.to_annexb(ours)


def test_aiortc_reads_our_vp8() -> None:
    stream = recorded("vp8")
    read: dict[int, bytes] = {}
    for packet in carry(stream.packets, 1200):
        descriptor, rest = VpxPayloadDescriptor.parse(packet.payload)
        assert descriptor.partition_id == 0
        assert descriptor.partition_start == (packet.timestamp not in read)
        assert descriptor.picture_id == packet.timestamp
        read[packet.timestamp] = read.get(packet.timestamp, b"") + rest
    assert list(read.values()) == [packet.data for packet in stream.packets]


@pytest.mark.parametrize(("name", "droppable"), [("h264-bframes", 9), ("hevc", 11), ("av1-hidden", 5), ("av1", 10), ("vp9", 0), ("vp8", 0)])
def test_without_its_non_reference_pictures_a_stream_decodes_alike(name: str, droppable: int) -> None:
    packets = recorded(name).packets
    kept = [packet for packet in packets if is_reference(packet)]
    assert len(packets) - len(kept) == droppable
    every, some = pictures(packets), pictures(kept)
    assert len(some) == len(kept)
    assert all(every[pts] == picture for pts, picture in some.items())


def test_what_cannot_be_read_is_a_reference() -> None:
    for codec in Codec:
        track = Track(0, codec, 90_000)
        for data in (b"", b"\0", b"\xff" * 40, bytes(40), b"\0\0\0\x01\x0c"):
            assert is_reference(Packet(track, data, 0, 0, False, 0.0))
    av1 = recorded("av1").packets
    assert not is_reference(av1[1])
    assert is_reference(av1[1]._replace(data=av1[1].data[:1]))
    assert is_reference(av1[1]._replace(track=Track(0, Codec.AV1, 90_000, b"\x81\0\0\0\x0a")))


def test_hevc_s_lower_sub_layers_may_be_referred_to_by_higher_ones() -> None:
    packet = next(p for p in recorded("hevc").packets if not is_reference(p))
    config = bytearray(packet.track.config)
    config[21] = config[21] & 0xC7 | 2 << 3
    two_layers = Track(0, Codec.HEVC, 90_000, bytes(config))
    assert is_reference(packet._replace(track=two_layers))
    higher = packet.data[:5] + bytes((packet.data[5] & 0xF8 | 2,)) + packet.data[6:]
    assert not is_reference(packet._replace(track=two_layers, data=higher))


@pytest.mark.parametrize("codec", [Codec.AAC, Codec.MJPEG, Codec.FLAC])
def test_codecs_without_a_format_are_refused(codec: Codec) -> None:
    with pytest.raises(UnsupportedMedia, match=f"got {codec.value}"):
        packetiser(codec, 1200)
    with pytest.raises(UnsupportedMedia, match=f"got {codec.value}"):
        depacketiser(codec, 1200)


@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC, Codec.VP8, Codec.VP9, Codec.AV1])
def test_a_payload_too_small_is_the_caller_s_bug(codec: Codec) -> None:
    with pytest.raises(ValueError, match="max_payload: expected at least 16, got 15"):
        packetiser(codec, 15)
