import pytest

from medianode.codecs import av1
from medianode.codecs.bits import BitWriter
from medianode.codecs.vui import Colour
from medianode.errors import LimitExceeded, ProtocolError


@pytest.mark.parametrize("encoder", ["libsvtav1", "libaom-av1"])
def test_av1c_of_real_encoders(vectors: dict[str, bytes], encoder: str) -> None:
    data = vectors[f"{encoder}-320x180.av1C"]
    config = av1.parse_av1c(data)
    assert config.sequence is not None
    assert (config.sequence.width, config.sequence.height, config.bit_depth, config.profile) == (320, 180, 8, 0)
    assert (config.subsampling_x, config.subsampling_y, config.monochrome) == (1, 1, False)
    assert av1.build_av1c(config.obus) == data
    assert av1.codec_string(data) == "av01.0.00M.08"


@pytest.mark.parametrize("encoder", ["libsvtav1", "libaom-av1"])
def test_key_frames_of_real_encoders(vectors: dict[str, bytes], encoder: str) -> None:
    key, inter = vectors[f"{encoder}-320x180-key.tu"], vectors[f"{encoder}-320x180-inter.tu"]
    unit = av1.normalise(key)
    assert unit.data is key
    assert unit.keyframe
    assert av1.parse_sequence_header(unit.sequence_header).width == 320
    assert av1.normalise(inter) == (inter, False, b"")
    assert (av1.is_keyframe(key), av1.is_keyframe(inter)) == (True, False)


def test_temporal_delimiters_and_padding_go(vectors: dict[str, bytes]) -> None:
    stream = vectors["libaom-10bit.obu"]
    assert [obu.type for obu in av1.obus(stream)] == [2, 1, 6, 2, 6]
    unit = av1.normalise(stream + b"\x7a\x02\xaa\x80")
    assert [obu.type for obu in av1.obus(unit.data)] == [1, 6, 6]
    assert unit.keyframe
    assert av1.codec_string(av1.build_av1c(stream)) == "av01.0.00M.10"
    assert av1.parse_av1c(av1.build_av1c(stream)).bit_depth == 10


def test_leb128_of_4_10_5() -> None:
    for value, data in ((0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (0xFFFFFFFF, b"\xff\xff\xff\xff\x0f")):
        assert av1.leb128(value) == data
        assert av1.read_leb128(b"x" + data + b"trailing", 1) == (value, 1 + len(data))
    assert av1.read_leb128(b"\x85\x80\x80\x00", 0) == (5, 4)


def test_an_obu_without_size_reaches_to_the_end_and_is_given_one() -> None:
    data = b"\x12\x00\x34\x08\x10frame"
    found = av1.obus(data)
    assert [(obu.type, obu.has_size, obu.end) for obu in found] == [(2, True, 2), (6, False, 10)]
    assert av1.sized(data, found[1]) == b"\x36\x08\x06\x10frame"
    unit = av1.normalise(data)
    assert (unit.data, unit.keyframe) == (data[2:], True)


def test_only_a_shown_new_key_frame_counts() -> None:
    for first, expected in ((0x10, True), (0x00, False), (0x30, False), (0x90, False), (0x50, False)):
        assert av1.is_keyframe(bytes((0x32, 2, first, 0))) is expected
    assert not av1.is_keyframe(b"\x32\x02\x30\x00\x32\x02\x10\x00")  # the first frame decides
    assert not av1.is_keyframe(b"\x32\x00")


def header(w: BitWriter) -> bytes:
    body = w.trailing().to_bytes()
    return b"\x0a" + av1.leb128(len(body)) + body


def test_timing_decoder_model_and_tiers() -> None:
    w = BitWriter().u(3, 0).u(2, 0)
    w.u(1, 1).u(32, 1001).u(32, 60000).u(1, 1).ue(0)  # timing_info: equal intervals of 1 tick
    w.u(1, 1).u(5, 9).u(32, 1001).u(5, 9).u(5, 9)  # decoder_model_info: buffer_delay_length 10
    w.u(1, 1).u(5, 1)  # initial_display_delay_present, 2 operating points
    w.u(12, 0x103).u(5, 13).u(1, 1).u(1, 1).u(21, 5).u(1, 1).u(4, 9)
    w.u(12, 0x101).u(5, 5).u(1, 0).u(1, 0)
    w.u(4, 11).u(4, 10).u(12, 3839).u(11, 1607)  # 3840x1608
    w.u(1, 1).u(7, 0).u(3, 0).u(4, 0).u(1, 1).u(2, 0).u(1, 0).u(1, 1).u(1, 0).u(1, 1).u(3, 6).u(3, 0)
    w.u(1, 1).u(1, 0).u(1, 1).u(8, 9).u(8, 16).u(8, 9).u(1, 0).u(2, 2).u(1, 0).u(1, 0)
    s = av1.parse_sequence_header(header(w))
    assert (s.width, s.height, s.level_idx, s.tier, s.bit_depth) == (3840, 1608, 13, 1, 10)
    assert s.frame_rate == pytest.approx(59.94, abs=0.001)
    assert (s.colour, s.chroma_sample_position) == (Colour(9, 16, 9, False), 2)
    assert av1.codec_string(av1.build_av1c(header(w))) == "av01.0.13H.10"


@pytest.mark.parametrize(
    ("profile", "bits", "expected"),
    [
        (0, "0 1 0 1", (8, True, 1, 1)),
        (1, "1 0 0 0", (10, False, 0, 0)),
        (2, "1 1 0 0 0 1 0 0", (12, False, 1, 0)),
        (2, "1 1 0 0 0 0 0", (12, False, 0, 0)),
        (2, "0 0 0 0 0", (8, False, 1, 0)),
        (1, "0 1 00000001 00001101 00000000 0", (8, False, 0, 0)),
    ],
    ids=["monochrome", "4:4:4", "12 bit 4:2:2", "12 bit 4:4:4", "8 bit 4:2:2", "sRGB"],
)
def test_colour_of_each_profile(profile: int, bits: str, expected: tuple[int, bool, int, int]) -> None:
    w = BitWriter().u(3, profile).u(1, 1).u(1, 1).u(5, 0)  # reduced still picture
    w.u(4, 3).u(4, 3).u(4, 15).u(4, 15).u(3, 0).u(3, 0)
    for bit in bits.replace(" ", ""):
        w.u(1, int(bit))
    s = av1.parse_sequence_header(header(w.u(1, 0)))
    assert (s.bit_depth, s.monochrome, s.subsampling_x, s.subsampling_y, s.width, s.reduced_still_picture) == (*expected, 16, True)
    still = header(w) + b"\x32\x01\xff"
    assert av1.is_keyframe(still)


def test_the_number_of_obus_is_bounded() -> None:
    assert len(av1.obus(b"\x12\x00" * 1024)) == 1024
    with pytest.raises(LimitExceeded, match="at most 1024 OBUs"):
        av1.obus(b"\x12\x00" * 1025)


def test_av1c_without_a_sequence_header_is_allowed() -> None:
    assert av1.parse_av1c(b"\x81\x04\x0c\x00").sequence is None
    assert av1.codec_string(b"\x81\x08\x4c\x00") == "av01.0.08M.10"
    with pytest.raises(ProtocolError, match="none"):
        av1.build_av1c(b"\x12\x00")
