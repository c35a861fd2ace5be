import json
import struct
from pathlib import Path

import pytest

from medianode.codecs import ac3, opus
from medianode.errors import InvalidRequest, LimitExceeded, PeerError, ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Track
from medianode.protocols import fmp4, fmp4_boxes, rfc6381
from medianode.protocols.fmp4 import Sample
from medianode.protocols.fmp4_boxes import Box, parse_boxes

HEADERS = Path(__file__).parents[2] / "vectors" / "codecs" / "headers.json"


@pytest.fixture(scope="module")
def tracks() -> dict[str, Track]:
    v = {item["name"]: bytes.fromhex(item["hex"]) for item in json.loads(HEADERS.read_text())}
    return {
        "h264": Track(0, Codec.H264, 90000, v["x264-interlaced-576i-sar-hrd.avcC"]),
        "hevc": Track(5, Codec.HEVC, 90000, v["x265-main10-1080p60-pq.hvcC"], 1920, 1080),
        "av1": Track(5, Codec.AV1, 90000, v["libaom-av1-320x180.av1C"]),
        "vp9": Track(5, Codec.VP9, 90000, v["libvpx-vp9-128x96.vpcC"], 128, 96),
        "vp8": Track(5, Codec.VP8, 90000, b"", 130, 98),
        "aac": Track(9, Codec.AAC, 44100, v["aac-lc-44100-stereo.asc"], sample_rate=44100, channels=2),
        "mp3": Track(9, Codec.MP3, 44100, sample_rate=44100, channels=2),
        "opus": Track(9, Codec.OPUS, 48000, v["libopus-stereo-20ms.head"], sample_rate=48000, channels=2),
        "flac": Track(9, Codec.FLAC, 96000, v["flac-44100-stereo.streaminfo"], sample_rate=96000, channels=2),
        "ac3": Track(9, Codec.AC3, 48000, ac3.build_dac3(v["ac3-48000-5.1.packet"]), sample_rate=48000, channels=6),
        "eac3": Track(
            9, Codec.EAC3, 48000, fmp4_boxes.ac3_config(Codec.EAC3, v["eac3-48000-stereo.packet"]), sample_rate=48000, channels=2
        ),
    }


def entry_of(track: Track) -> Box:
    moov = parse_boxes(fmp4.init_segment([track]))[1]
    stsd = moov.find(b"trak", b"mdia", b"minf", b"stbl", b"stsd")
    (entry,) = parse_boxes(stsd.payload[8:])
    return entry


def children_of(entry: Box, video: bool) -> dict[bytes, bytes]:
    return {child.type: child.payload for child in parse_boxes(entry.payload[78 if video else 28 :])}


@pytest.mark.parametrize(
    ("name", "entry", "child"),
    [
        ("h264", b"avc1", b"avcC"),
        ("hevc", b"hvc1", b"hvcC"),
        ("av1", b"av01", b"av1C"),
        ("vp9", b"vp09", b"vpcC"),
        ("vp8", b"vp08", b"vpcC"),
    ],
)
def test_visual_sample_entries(tracks: dict[str, Track], name: str, entry: bytes, child: bytes) -> None:
    found = entry_of(tracks[name])
    inside = children_of(found, True)
    assert found.type == entry
    assert inside[child].endswith(tracks[name].config[4:] if name == "vp9" else tracks[name].config)
    size = {"h264": (720, 576), "hevc": (1920, 1080), "av1": (320, 180), "vp9": (128, 96), "vp8": (130, 98)}[name]
    assert struct.unpack_from(">HH", found.payload, 24) == size
    if name == "h264":
        assert inside[b"pasp"] == struct.pack(">II", 64, 45)
        assert inside[b"colr"] == b"nclx" + struct.pack(">HHHB", 5, 5, 5, 0)
    elif name == "hevc":
        assert inside[b"colr"] == b"nclx" + struct.pack(">HHHB", 9, 16, 9, 0)
        assert b"pasp" not in inside  # square
    elif name == "vp9":
        assert inside[b"vpcC"] == tracks[name].config
        assert b"colr" not in inside


@pytest.mark.parametrize(
    ("name", "entry", "child"),
    [
        ("aac", b"mp4a", b"esds"),
        ("mp3", b"mp4a", b"esds"),
        ("opus", b"Opus", b"dOps"),
        ("flac", b"fLaC", b"dfLa"),
        ("ac3", b"ac-3", b"dac3"),
        ("eac3", b"ec-3", b"dec3"),
    ],
)
def test_audio_sample_entries(tracks: dict[str, Track], name: str, entry: bytes, child: bytes) -> None:
    track = tracks[name]
    found = entry_of(track)
    inside = children_of(found, False)
    assert found.type == entry
    assert list(inside) == [child]
    rate = 0 if track.sample_rate > 65535 else track.sample_rate << 16
    assert struct.unpack_from(">HH4xI", found.payload, 16) == (track.channels, 16, rate)
    if name == "aac":
        assert track.config in inside[child]
    elif name == "opus":
        assert opus.parse_dops(inside[child]) == opus.parse_head(track.config)
    else:
        assert inside[child].endswith(track.config) or name == "mp3"


def test_esds_descriptors_have_honest_sizes(tracks: dict[str, Track]) -> None:
    for name, object_type in (("aac", 0x40), ("mp3", 0x6B)):
        esds = children_of(entry_of(tracks[name]), False)[b"esds"][4:]

        def size(at: int, esds: bytes = esds) -> int:
            return (esds[at + 1] & 127) << 21 | (esds[at + 2] & 127) << 14 | (esds[at + 3] & 127) << 7 | esds[at + 4]

        assert (esds[0], size(0)) == (3, len(esds) - 5)
        decoder = 5 + 3
        assert (esds[decoder], esds[decoder + 5], esds[decoder + 6]) == (4, object_type, 0x15)
        assert esds[decoder + 5 + size(decoder) :] == b"\x06\x80\x80\x80\x01\x02"


def test_the_init_segment_numbers_tracks_by_position(tracks: dict[str, Track]) -> None:
    ftyp, moov = parse_boxes(fmp4.init_segment([tracks["h264"], tracks["aac"]]))
    assert (ftyp.type, ftyp.payload[:4]) == (b"ftyp", b"iso6")
    assert b"cmfc" not in ftyp.payload  # a CMAF file holds one track
    traks = [child for child in moov.children if child.type == b"trak"]
    assert [struct.unpack_from(">I", trak.find(b"tkhd").payload, 12)[0] for trak in traks] == [1, 2]
    assert [struct.unpack_from(">I", trak.find(b"mdia", b"mdhd").payload, 12)[0] for trak in traks] == [90000, 44100]
    assert [trak.find(b"mdia", b"hdlr").payload[8:12] for trak in traks] == [b"vide", b"soun"]
    assert [len(trak.find(b"tkhd").payload) for trak in traks] == [84, 84]
    width, height = struct.unpack(">II", traks[0].find(b"tkhd").payload[-8:])
    assert (width >> 16, height >> 16) == (1024, 576)  # 720 × 64/45
    assert [trex.payload[4:12] for trex in moov.find(b"mvex").children] == [struct.pack(">II", n, 1) for n in (1, 2)]
    assert moov.find(b"mvhd").payload[-4:] == b"\0\0\0\3"
    assert b"cmfc" in fmp4.init_segment([tracks["aac"]])[:32]


def test_a_publishers_shorter_lengths_become_four(tracks: dict[str, Track]) -> None:
    for name, child, at in (("h264", b"avcC", 4), ("hevc", b"hvcC", 21)):
        track = tracks[name]
        short = track.config[:at] + bytes((track.config[at] & 0xFC | 1,)) + track.config[at + 1 :]
        inside = children_of(entry_of(Track(1, track.codec, 90000, short)), True)
        assert inside[child] == track.config


def test_what_cannot_be_muxed_says_so(tracks: dict[str, Track]) -> None:
    for track in (
        Track(1, Codec.PCM_ALAW, 8000),
        Track(1, Codec.OPUS, 48000),
        Track(1, Codec.H264, 90000),
        Track(1, Codec.VP8, 90000),
    ):
        with pytest.raises(UnsupportedMedia, match="expected"):
            fmp4.init_segment([track])
    for codec in (Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9, Codec.AAC, Codec.OPUS, Codec.FLAC):
        with pytest.raises(PeerError):
            fmp4.init_segment([Track(1, codec, 48000, b"garbage")])
    with pytest.raises(InvalidRequest):
        fmp4.init_segment([])
    for track in (Track(1, Codec.MJPEG, 90000), Track(1, Codec.PCM_MULAW, 8000)):
        with pytest.raises(UnsupportedMedia):
            rfc6381.codec_string(track)


def test_codec_strings(tracks: dict[str, Track]) -> None:
    told = {name: rfc6381.codec_string(track) for name, track in tracks.items()}
    assert told == {
        "h264": "avc1.64001e", "hevc": "hvc1.2.4.L123.90", "av1": "av01.0.00M.08", "vp9": "vp09.00.10.08", "vp8": "vp08.00.10.08",
        "aac": "mp4a.40.2", "mp3": "mp4a.6B", "opus": "Opus", "flac": "fLaC", "ac3": "ac-3", "eac3": "ec-3",
    }  # fmt: skip


def read_fragment(data: bytes) -> tuple[int, list[tuple[int, int, list[Sample]]]]:
    """The inverse of `fragment`, straight from 8.8: (sequence number, runs)."""
    moof, mdat = parse_boxes(data)
    assert (moof.type, mdat.type) == (b"moof", b"mdat")
    runs = []
    for traf in moof.children[1:]:
        tfhd, tfdt, trun = traf.children
        flags, track = struct.unpack_from(">II", tfhd.payload)
        assert flags & 0x20000
        rest = list(struct.unpack(f">{len(tfhd.payload) // 4 - 2}I", tfhd.payload[8:]))
        duration = rest.pop(0) if flags & 8 else None
        default = rest.pop(0) if flags & 0x20 else None
        assert not rest
        assert tfdt.payload[:4] == b"\1\0\0\0"
        base = int.from_bytes(tfdt.payload[4:], "big")
        head, count, at = struct.unpack_from(">IIi", trun.payload)
        position = 12
        first = None
        if head & 4:
            first = int.from_bytes(trun.payload[12:16], "big")
            position = 16
        samples = []
        for index in range(count):
            values = {}
            for flag, form in ((0x100, ">I"), (0x200, ">I"), (0x400, ">I"), (0x800, ">i" if head >> 24 else ">I")):
                if head & flag:
                    values[flag] = struct.unpack_from(form, trun.payload, position)[0]
                    position += 4
            bits = first if index == 0 and first is not None else values.get(0x400, default)
            samples.append(Sample(data[at : at + values[0x200]], values.get(0x100, duration), values.get(0x800, 0), not bits & 0x10000))
            at += values[0x200]
        assert position == len(trun.payload)
        runs.append((track - 1, base, samples))
    return int.from_bytes(moof.children[0].payload[4:], "big"), runs


VIDEO = [Sample(b"key", 3000, 6000), Sample(b"p", 3000, 9000, False), Sample(b"b" * 70, 3000, -3000, False)]
AUDIO = [Sample(bytes((n,)) * n, 1024) for n in range(1, 6)]


@pytest.mark.parametrize(
    "runs",
    [
        [(0, 0, VIDEO)],
        [(0, 1 << 40, VIDEO), (1, 7, AUDIO)],
        [(1, 7, AUDIO)],
        [(0, 5, VIDEO[1:])],
        [(0, 5, VIDEO + VIDEO)],
        [(0, 5, [*VIDEO[1:], VIDEO[0]])],
        [(0, 5, [sample._replace(duration=2970 + index) for index, sample in enumerate(VIDEO + VIDEO)])],
        [(3, 0, [Sample(b"", 0)])],
    ],
    ids=["B-frames", "two tracks", "sound", "no key frame", "two key frames", "key frame last", "jitter", "empty sample"],
)
def test_fragments_read_back(runs: list[tuple[int, int, list[Sample]]]) -> None:
    assert read_fragment(fmp4.fragment(77, runs)) == (77, runs)


def test_what_all_share_is_told_once() -> None:
    trun = parse_boxes(fmp4.fragment(1, [(1, 0, AUDIO)]))[0].find(b"traf", b"trun")
    assert trun.payload[:4] == b"\0\0\2\1"  # sizes only
    assert len(trun.payload) == 12 + 4 * len(AUDIO)
    trun = parse_boxes(fmp4.fragment(1, [(1, 0, [sample._replace(composition_offset=0) for sample in VIDEO])]))[0].find(b"traf", b"trun")
    assert trun.payload[:4] == b"\0\0\2\5"
    assert trun.payload[12:16] == b"\2\0\0\0"


def test_runs_without_samples_are_left_out() -> None:
    assert read_fragment(fmp4.fragment(1, [(0, 9, []), (1, 7, AUDIO)])) == (1, [(1, 7, AUDIO)])
    with pytest.raises(InvalidRequest, match="got none"):
        fmp4.fragment(1, [(0, 9, [])])


def test_sequence_numbers_wrap() -> None:
    assert read_fragment(fmp4.fragment((1 << 32) + 5, [(0, 0, AUDIO)]))[0] == 5


@pytest.mark.parametrize("bad", [Sample(b"x", -1), Sample(b"x", 1 << 32), Sample(b"x", 1, 1 << 31), Sample(b"x", 1, -(1 << 31) - 1)])
def test_numbers_over_32_bits_are_refused(bad: Sample) -> None:
    for samples in ([bad], [Sample(b"y", 9), bad]):
        with pytest.raises(LimitExceeded, match="32 bits"):
            fmp4.fragment(1, [(0, 0, samples)])
    with pytest.raises(LimitExceeded, match="32 bits"):
        fmp4.fragment(1, [(0, -1, AUDIO)])


def test_styp_and_prft() -> None:
    assert fmp4.styp() == b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix"
    assert fmp4.styp(b"cmfs").endswith(b"\0\0\0\0cmfs")
    (box,) = parse_boxes(fmp4.prft(1, 0.5, 1 << 33))
    assert box == (b"prft", bytes.fromhex("01000018 00000002 83aa7e80 80000000 0000000200000000"), ())


def test_the_box_reader_is_bounded() -> None:
    empty = b"\0\0\0\x08free"
    assert len(parse_boxes(empty * 9, max_boxes=9)) == 9
    with pytest.raises(LimitExceeded, match="fewer boxes"):
        parse_boxes(empty * 10, max_boxes=9)
    nested = b""
    for _ in range(9):
        nested = fmp4_boxes.box(b"moov", nested)
    with pytest.raises(LimitExceeded, match="nesting"):
        parse_boxes(nested, max_depth=8)
    for bad in (b"\0\0\0", b"\0\0\0\7free", b"\0\0\0\x09free", b"\0\0\0\1mdat\0\0", b"\0\0\0\1mdat" + bytes(7) + b"\x0f", empty + b"x"):
        with pytest.raises(ProtocolError):
            parse_boxes(bad)
    assert parse_boxes(b"\0\0\0\1mdat" + bytes(7) + b"\x12hi") == [Box(b"mdat", b"hi")]
    assert parse_boxes(b"\0\0\0\0mdathello") == [Box(b"mdat", b"hello")]
    with pytest.raises(ProtocolError, match="none"):
        Box(b"moov", b"").find(b"trak")
