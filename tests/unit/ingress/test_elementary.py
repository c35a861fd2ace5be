"""Every codec from its wire form to a Track: with a sequence header, without one, and when it changes."""

import json
from pathlib import Path

import pytest

from medianode.codecs import h264, nal
from medianode.errors import ProtocolError
from medianode.ingress.elementary import ElementaryStream
from medianode.media.track import Codec

VECTORS = {v["name"]: bytes.fromhex(v["hex"]) for v in json.loads((Path(__file__).parents[2] / "vectors/codecs/headers.json").read_text())}


def stream(codec: Codec) -> ElementaryStream:
    return ElementaryStream(0, codec)


@pytest.mark.parametrize(
    ("codec", "record", "look"),
    [
        (Codec.H264, "x264-high-360p25-bframes.avcC", (640, 360, 25.0)),
        (Codec.HEVC, "x265-main-360p25.hvcC", (640, 360, 25.0)),
        (Codec.AV1, "libsvtav1-320x180.av1C", (320, 180, 0.0)),
    ],
)
def test_video_with_a_sequence_header(codec: Codec, record: str, look: tuple[int, int, float]) -> None:
    s = stream(codec)
    track = s.configure(VECTORS[record])
    assert track is not None
    assert (track.width, track.height, track.frame_rate) == look
    assert track.clock_rate == 90_000
    assert s.configure(VECTORS[record]) is None, "the same again is no news"


def test_av1_takes_the_sequence_header_that_stands_in_band() -> None:
    s = stream(Codec.AV1)
    s.configure(VECTORS["libsvtav1-320x180.av1C"])
    unit = s.unit(VECTORS["libsvtav1-320x180-key.tu"])
    assert unit is not None
    assert unit.keyframe
    again = s.unit(VECTORS["libsvtav1-320x180-key.tu"])
    assert again is not None
    assert again.track is None, "once is enough"
    inter = s.unit(VECTORS["libsvtav1-320x180-inter.tu"])
    assert inter is not None
    assert not inter.keyframe


def test_av1_without_any_header() -> None:
    s = stream(Codec.AV1)
    assert s.unit(VECTORS["libaom-av1-320x180-inter.tu"]) is None
    unit = s.unit(VECTORS["libaom-av1-320x180-key.tu"])
    assert unit is not None
    assert unit.track is not None
    assert (unit.track.width, unit.track.height) == (320, 180)


@pytest.mark.parametrize("record", [True, False], ids=["vpcC", "no vpcC"])
def test_vp9_learns_its_size_from_the_first_key_frame(record: bool) -> None:
    s = stream(Codec.VP9)
    if record:
        assert s.configure(VECTORS["libvpx-vp9-128x96.vpcC"]) is None
    assert s.unit(VECTORS["libvpx-vp9-128x96-inter.frame"]) is None
    unit = s.unit(VECTORS["libvpx-vp9-128x96-key.frame"])
    assert unit is not None
    assert unit.track is not None
    assert (unit.track.width, unit.track.height, len(unit.track.config)) == (128, 96, 8)


def test_parameter_sets_that_come_twice_in_band_are_no_change() -> None:
    record = h264.parse_avcc(VECTORS["x264-high-360p25-bframes.avcC"])
    s, idr = stream(Codec.H264), bytes.fromhex("658884002a")
    unit = s.unit(nal.join((*record.sps, *record.pps, idr)))
    assert unit is not None
    assert unit.track is not None
    again = s.unit(nal.join((*record.sps, *record.pps) * 2 + (idr,)))
    assert again is not None
    assert again.track is None


def test_vp8_and_jpeg_need_no_header() -> None:
    vp8 = stream(Codec.VP8).unit(VECTORS["libvpx-vp8-130x98-key.frame"])
    jpeg = stream(Codec.MJPEG).unit(VECTORS["ffmpeg-160x120.jpg"])
    assert vp8 is not None
    assert jpeg is not None
    assert vp8.track is not None
    assert jpeg.track is not None
    assert (vp8.track.width, vp8.track.height) == (130, 98)
    assert (jpeg.track.width, jpeg.track.height) == (160, 120)


@pytest.mark.parametrize(
    ("codec", "record", "packet", "samples", "rate", "channels"),
    [
        (Codec.AAC, "aac-lc-44100-stereo.asc", "aac-lc-44100-stereo-0.packet", 1024, 44_100, 2),
        (Codec.AAC, "", "aac-lc-44100-stereo.adts", 1024, 44_100, 2),
        (Codec.OPUS, "libopus-stereo-20ms.head", "libopus-stereo-20ms-0.packet", 960, 48_000, 2),
        (Codec.OPUS, "", "libopus-stereo-20ms-0.packet", 960, 48_000, 2),
        (Codec.FLAC, "flac-44100-stereo.streaminfo", "flac-44100-stereo-first.packet", 1024, 44_100, 2),
        (Codec.MP3, "", "lame-44100-128k-0.packet", 1152, 44_100, 2),
        (Codec.MP3, "", "lame-22050-mono-mpeg2-0.packet", 576, 22_050, 1),
        (Codec.AC3, "", "ac3-48000-5.1.packet", 1536, 48_000, 6),
        (Codec.EAC3, "", "eac3-48000-stereo.packet", 1536, 48_000, 2),
    ],
)
def test_audio(codec: Codec, record: str, packet: str, samples: int, rate: int, channels: int) -> None:
    s = stream(codec)
    if record:
        assert s.configure(VECTORS[record]) is not None
    data = VECTORS[packet]
    if packet.endswith(".adts"):
        data = data[: (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5]
    unit = s.unit(data)
    assert unit is not None
    assert (unit.samples, unit.keyframe) == (samples, True)
    assert s.track is not None
    assert (s.track.sample_rate, s.track.clock_rate, s.track.channels) == (rate, rate, channels)


def test_ac3_carries_its_specific_box() -> None:
    for codec, packet, box in (
        (Codec.AC3, "ac3-48000-5.1.packet", "ac3-48000-5.1.dac3"),
        (Codec.EAC3, "eac3-48000-stereo.packet", "eac3-48000-stereo.dec3"),
    ):
        s = stream(codec)
        s.unit(VECTORS[packet])
        assert s.track is not None
        assert s.track.config == VECTORS[box]


def test_flac_totals_filled_in_at_the_end_are_no_new_track() -> None:
    s = stream(Codec.FLAC)
    info = VECTORS["flac-44100-stereo.streaminfo"]
    assert s.configure(info) is not None
    totals = info[:4] + bytes(range(6)) + info[10:13] + bytes((info[13] | 0x0F,)) + bytes(range(20))
    assert s.configure(totals) is None


def test_g711_is_telephone_sound() -> None:
    unit = stream(Codec.PCM_ALAW).unit(bytes(160))
    assert unit is not None
    assert unit.track is not None
    assert (unit.samples, unit.track.sample_rate, unit.track.channels) == (160, 8000, 1)


@pytest.mark.parametrize("codec", [c for c in Codec if c not in (Codec.PCM_ALAW, Codec.PCM_MULAW)])
@pytest.mark.parametrize("junk", [b"\xff" * 64, b"\x00" * 64, b"\x47junk" * 20, b"\x80"])
def test_junk_is_refused_or_says_nothing(codec: Codec, junk: bytes) -> None:
    s = stream(codec)
    try:
        s.configure(junk)
        unit = s.unit(junk)
    except ProtocolError:
        return
    assert unit is None or unit.data


def test_empty_frames_say_nothing() -> None:
    for codec in Codec:
        assert stream(codec).unit(b"") is None
