from __future__ import annotations

from contextlib import suppress

import pytest

from medianode.errors import PeerError, ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Kind
from medianode.protocols.flv import AudioTag, PacketType, VideoTag, audio_tag, file_header, file_tag, parse_audio, parse_video, video_tag

CONFIG, FRAMES, END = PacketType.CONFIG, PacketType.FRAMES, PacketType.END
X = b"payload"
VIDEO = [
    ("17 00 000000", VideoTag(Codec.H264, CONFIG, 0, True, 0, 0, X)),
    ("17 01 000028", VideoTag(Codec.H264, FRAMES, 0, True, 40, 0, X)),
    ("27 01 ffffd8", VideoTag(Codec.H264, FRAMES, 0, False, -40, 0, X)),
    ("47 01 000000", VideoTag(Codec.H264, FRAMES, 0, True, 0, 0, X)),
    ("1c 00 000000", VideoTag(Codec.HEVC, CONFIG, 0, True, 0, 0, X)),
    ("2c 01 000001", VideoTag(Codec.HEVC, FRAMES, 0, False, 1, 0, X)),
    ("90 68766331", VideoTag(Codec.HEVC, CONFIG, 0, True, 0, 0, X)),
    ("91 61766331 fffffe", VideoTag(Codec.H264, FRAMES, 0, True, -2, 0, X)),
    ("a1 68766331 000021", VideoTag(Codec.HEVC, FRAMES, 0, False, 33, 0, X)),
    ("a3 68766331", VideoTag(Codec.HEVC, FRAMES, 0, False, 0, 0, X)),
    ("91 61763031", VideoTag(Codec.AV1, FRAMES, 0, True, 0, 0, X)),
    ("a1 76703039", VideoTag(Codec.VP9, FRAMES, 0, False, 0, 0, X)),
    ("a1 76703038", VideoTag(Codec.VP8, FRAMES, 0, False, 0, 0, X)),
    ("94 68766331", VideoTag(Codec.HEVC, PacketType.METADATA, 0, True, 0, 0, X)),
    ("d4 68766331", VideoTag(Codec.HEVC, PacketType.METADATA, 0, False, 0, 0, X)),
    ("95 61763031", VideoTag(Codec.AV1, PacketType.MPEG2TS_CONFIG, 0, True, 0, 0, X)),
    ("96 01 68766331 05 000021", VideoTag(Codec.HEVC, FRAMES, 5, True, 33, 0, X)),
    ("97 02 0f4240 03 68766331", VideoTag(Codec.HEVC, FRAMES, 0, True, 0, 1_000_000, X)),
    ("97 02 000001 07 02 000002 03 68766331", VideoTag(Codec.HEVC, FRAMES, 0, True, 0, 3, X)),
    ("97 00 aa 13 68766331", VideoTag(Codec.HEVC, FRAMES, 0, True, 0, 0, X)),
    ("97 ff 0100" + "00" * 257 + "16 03 68766331 02", VideoTag(Codec.HEVC, FRAMES, 2, True, 0, 0, X)),
]
AUDIO = [
    ("af 00", AudioTag(Codec.AAC, CONFIG, 0, 0, X)),
    ("af 01", AudioTag(Codec.AAC, FRAMES, 0, 0, X)),
    ("2f", AudioTag(Codec.MP3, FRAMES, 0, 0, X, 44_100, 2)),
    ("2a", AudioTag(Codec.MP3, FRAMES, 0, 0, X, 22_050, 1)),
    ("e2", AudioTag(Codec.MP3, FRAMES, 0, 0, X, 8000, 1)),
    ("72", AudioTag(Codec.PCM_ALAW, FRAMES, 0, 0, X, 8000, 1)),
    ("83", AudioTag(Codec.PCM_MULAW, FRAMES, 0, 0, X, 8000, 2)),
    ("90 4f707573", AudioTag(Codec.OPUS, CONFIG, 0, 0, X)),
    ("91 4f707573", AudioTag(Codec.OPUS, FRAMES, 0, 0, X)),
    ("91 6d703461", AudioTag(Codec.AAC, FRAMES, 0, 0, X)),
    ("91 664c6143", AudioTag(Codec.FLAC, FRAMES, 0, 0, X)),
    ("91 61632d33", AudioTag(Codec.AC3, FRAMES, 0, 0, X)),
    ("91 65632d33", AudioTag(Codec.EAC3, FRAMES, 0, 0, X)),
    ("91 2e6d7033", AudioTag(Codec.MP3, FRAMES, 0, 0, X)),
    ("94 4f707573", AudioTag(Codec.OPUS, PacketType.CHANNELS, 0, 0, X)),
    ("95 01 6d703461 07", AudioTag(Codec.AAC, FRAMES, 7, 0, X)),
    ("97 02 00000a 05 00 6d703461 01", AudioTag(Codec.AAC, CONFIG, 1, 10, X)),
]


@pytest.mark.parametrize(("wire", "tag"), VIDEO)
def test_video(wire: str, tag: VideoTag) -> None:
    head = bytes.fromhex(wire)
    assert parse_video(head + X) == [tag]
    for end in range(len(head)):
        with suppress(PeerError):
            assert parse_video(head[:end]) == [] or end >= 5


@pytest.mark.parametrize(("wire", "tag"), AUDIO)
def test_audio(wire: str, tag: AudioTag) -> None:
    head = bytes.fromhex(wire)
    assert parse_audio(head + X) == [tag]
    for end in range(len(head)):
        with suppress(PeerError):
            assert len(parse_audio(head[:end])) <= 1


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data


def test_many_tracks() -> None:
    wire = bytes.fromhex("96 11 68766331 00") + sized(b"\0\0\x21one") + b"\x01" + sized(b"\xff\xff\xfftwo") + b"\x02" + sized(b"\0\0\0")
    assert parse_video(wire) == [
        VideoTag(Codec.HEVC, FRAMES, 0, True, 33, 0, b"one"),
        VideoTag(Codec.HEVC, FRAMES, 1, True, -1, 0, b"two"),
    ]
    wire = bytes.fromhex("95 11 6d703461 00") + sized(b"one") + b"\x09" + sized(b"two")
    assert parse_audio(wire) == [AudioTag(Codec.AAC, FRAMES, 0, 0, b"one"), AudioTag(Codec.AAC, FRAMES, 9, 0, b"two")]


def test_many_tracks_many_codecs() -> None:
    wire = bytes.fromhex("96 21") + b"av01\0" + sized(b"one") + b"avc1\x01" + sized(b"\0\0\x01two")
    assert parse_video(wire) == [
        VideoTag(Codec.AV1, FRAMES, 0, True, 0, 0, b"one"),
        VideoTag(Codec.H264, FRAMES, 1, True, 1, 0, b"two"),
    ]
    wire = bytes.fromhex("95 20") + b"Opus\0" + sized(b"one") + b"mp4a\x01" + sized(b"two")
    assert [tag.codec for tag in parse_audio(wire)] == [Codec.OPUS, Codec.AAC]


@pytest.mark.parametrize("wire", ["", "17", "57 01", "52 00", "17 01 000000", "d0", "a3 68766331", "91 68766331 000000"])
def test_video_without_a_payload_is_nothing(wire: str) -> None:
    assert parse_video(bytes.fromhex(wire)) == []


@pytest.mark.parametrize("wire", ["", "af", "af 01", "2f", "91 4f707573"])
def test_audio_without_a_payload_is_nothing(wire: str) -> None:
    assert parse_audio(bytes.fromhex(wire)) == []


def test_ends() -> None:
    assert parse_video(bytes.fromhex("17 02 000000")) == [VideoTag(Codec.H264, END, 0, False, 0, 0, b"")]
    assert parse_video(bytes.fromhex("92 61763031"))[0].packet_type is END
    assert parse_audio(bytes.fromhex("92 4f707573")) == [AudioTag(Codec.OPUS, END, 0, 0, b"")]


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("22 00", "Sorenson"),
        ("14 00", "VP6"),
        ("1d 00", "codec 13"),
        ("91 00ff1234", "0x00ff1234"),
        ("90 64766331", "'dvc1'"),
        ("96 21 41424344 00 000001 00", "'ABCD'"),
    ],
)
def test_video_that_we_cannot_carry(wire: str, message: str) -> None:
    with pytest.raises(UnsupportedMedia, match=message):
        parse_video(bytes.fromhex(wire))


@pytest.mark.parametrize(("wire", "message"), [("b2 00", "Speex"), ("52 00", "Nellymoser"), ("02 00", "PCM"), ("91 61627364", "'absd'")])
def test_audio_that_we_cannot_carry(wire: str, message: str) -> None:
    with pytest.raises(UnsupportedMedia, match=message):
        parse_audio(bytes.fromhex(wire))


@pytest.mark.parametrize(
    "wire",
    [
        "17 01 00",
        "17 03 000000",
        "91 687663",
        "91 68766331 0000",
        "96",
        "96 31 68766331 00",
        "96 11 68766331 00 000002 00",
        "98 68766331",
        "97 05 00",
        "96 06 68766331 00",
    ],
)
def test_malformed_video(wire: str) -> None:
    with pytest.raises(ProtocolError):
        parse_video(bytes.fromhex(wire))


@pytest.mark.parametrize("wire", ["91", "93 4f707573", "95 31", "95 01 4f70", "97 ff ff", "96 4f707573"])
def test_malformed_audio(wire: str) -> None:
    with pytest.raises(ProtocolError):
        parse_audio(bytes.fromhex(wire))


def test_vpcc_and_streaminfo_are_as_iso_bmff_has_them() -> None:
    vpcc = bytes.fromhex("000a820202020000")
    full = b"\x01\0\0\0" + vpcc
    assert parse_video(b"\x90vp09" + vpcc)[0].data == full
    assert parse_video(b"\x90vp09" + full)[0].data == full
    assert video_tag(Codec.VP9, CONFIG, full) == b"\x90vp09" + vpcc
    info = bytes(range(34))
    wire = b"\x90fLaCfLaC\x80\0\0\x22" + info
    assert parse_audio(wire)[0].data == info
    assert audio_tag(Codec.FLAC, CONFIG, info) == wire


@pytest.mark.parametrize("track_id", [0, 1, 255])
@pytest.mark.parametrize("codec", [Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP8, Codec.VP9])
def test_video_round_trip(codec: Codec, track_id: int) -> None:
    offset = codec in (Codec.H264, Codec.HEVC)
    for tag in (
        VideoTag(codec, CONFIG, track_id, True, 0, 0, X),
        VideoTag(codec, FRAMES, track_id, True, 0, 0, X),
        VideoTag(codec, FRAMES, track_id, False, -8_388_608 if offset else 0, 0, X),
        VideoTag(codec, END, track_id, False, 0, 0, b""),
    ):
        wire = video_tag(codec, tag.packet_type, tag.data, keyframe=tag.keyframe, composition_time=tag.composition_time, track_id=track_id)
        assert parse_video(wire) == [tag]
        assert bool(wire[0] & 0x80) == (codec is not Codec.H264 or track_id > 0)


@pytest.mark.parametrize("track_id", [0, 9])
@pytest.mark.parametrize("codec", [Codec.AAC, Codec.OPUS, Codec.MP3, Codec.FLAC, Codec.AC3, Codec.EAC3])
def test_audio_round_trip(codec: Codec, track_id: int) -> None:
    for packet_type, data in ((CONFIG, bytes(34)), (FRAMES, X), (END, b"")):
        wire = audio_tag(codec, packet_type, data, track_id=track_id)
        assert parse_audio(wire) == [AudioTag(codec, packet_type, track_id, 0, data)]


def test_g711_round_trip_and_what_cannot_be_written() -> None:
    for codec in (Codec.PCM_ALAW, Codec.PCM_MULAW):
        assert parse_audio(audio_tag(codec, FRAMES, X)) == [AudioTag(codec, FRAMES, 0, 0, X, 8000, 1)]
        with pytest.raises(ValueError, match="track 1"):
            audio_tag(codec, FRAMES, X, track_id=1)
    with pytest.raises(ValueError, match="mjpeg"):
        video_tag(Codec.MJPEG, FRAMES, X)
    with pytest.raises(ValueError, match="metadata"):
        audio_tag(Codec.AAC, PacketType.METADATA)


def test_file() -> None:
    assert file_header(audio=True, video=True).hex() == "464c5601050000000900000000"
    assert file_tag(Kind.VIDEO, 0x12345678, b"\x17").hex() == "0900000134567812000000170000000c"
    assert file_tag(Kind.AUDIO, 1, b"ab") == bytes.fromhex("08 000002 000001 00 000000 6162 0000000d")
