from dataclasses import replace

import pytest

from medianode.codecs import h264, nal
from medianode.codecs.vui import Colour
from medianode.errors import ProtocolError

HIGH, BASE = "x264-high-360p25-bframes.avcC", "x264-baseline-1080p30.avcC"
INTERLACED, DEEP = "x264-interlaced-576i-sar-hrd.avcC", "x264-high422-10bit-scaling.avcC"


@pytest.mark.parametrize("name", [HIGH, BASE, INTERLACED, DEEP])
def test_avcc_of_x264_is_read_and_written_as_ffmpeg_writes_it(vectors: dict[str, bytes], name: str) -> None:
    config = h264.parse_avcc(vectors[name])
    assert config.length_size == 4
    assert h264.build_avcc(config.sps, config.pps) == vectors[name]
    assert h264.codec_string(vectors[name]) == h264.codec_string(config.sps[0])


def test_sps_of_x264(vectors: dict[str, bytes]) -> None:
    high, base, interlaced, deep = (h264.parse_sps(h264.parse_avcc(vectors[name]).sps[0]) for name in (HIGH, BASE, INTERLACED, DEEP))
    assert (high.profile_idc, high.level_idc, high.width, high.height, high.frame_rate) == (100, 30, 640, 360, 25.0)
    assert (high.max_num_reorder_frames, high.pic_order_cnt_type, high.never_reorders) == (2, 0, False)
    assert (base.width, base.height, base.frame_rate, base.constraint_flags) == (1920, 1080, 30.0, 0xC0)
    assert (base.max_num_reorder_frames, base.pic_order_cnt_type, base.never_reorders) == (0, 2, True)
    assert (interlaced.width, interlaced.height, interlaced.sar, interlaced.frame_mbs_only) == (720, 576, (64, 45), False)
    assert interlaced.colour == Colour(5, 5, 5, False)
    assert interlaced.max_num_reorder_frames == 2  # behind the HRD parameters
    assert (deep.chroma_format_idc, deep.bit_depth_luma, deep.width, deep.height) == (2, 10, 320, 240)


def test_codec_strings(vectors: dict[str, bytes]) -> None:
    assert [h264.codec_string(vectors[name]) for name in (HIGH, BASE, DEEP)] == ["avc1.64001e", "avc1.42c028", "avc1.7a0015"]
    with pytest.raises(ProtocolError):
        h264.codec_string(b"\x68\x42\x00\x1e")


def test_a_vui_cut_short_still_tells_its_frame_rate(vectors: dict[str, bytes]) -> None:
    unit = h264.parse_avcc(vectors[HIGH]).sps[0]
    assert replace(h264.parse_sps(unit), max_num_reorder_frames=None) == h264.parse_sps(unit[:-2])


def test_avcc_without_parameter_sets_is_allowed() -> None:
    """avc3-like: everything comes in band."""
    config = h264.parse_avcc(bytes.fromhex("0142001effe000"))
    assert (config.sps, config.pps, config.ext) == ((), (), b"")


def test_access_units_of_annexb_are_converted_and_tidied(vectors: dict[str, bytes]) -> None:
    raw = vectors["x264-aud-two-idr.annexb"]
    units = [raw[start:end] for start, end in nal.annexb_spans(raw)]
    assert [unit[0] & 31 for unit in units] == [9, 7, 8, 6, 5, 9, 7, 8, 5]
    for data in (raw, nal.join(units), b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)):
        au = h264.normalise(data, 2 if data[:2] == b"\0\2" else 4)
        assert nal.split(au.data) == [units[3], units[4], units[8]]
        assert (au.sps, au.pps) == ((units[1], units[6]), (units[2], units[7]))
        assert (au.keyframe, au.recovery_point, au.is_reference) == (True, False, True)
        assert h264.normalise(au.data).data is au.data


def test_nothing_to_change_gives_the_same_object(vectors: dict[str, bytes]) -> None:
    for index, expected in enumerate([(True, False, True), (False, True, True), (False, False, False)]):
        data = vectors[f"x264-open-gop-{index}.au"]
        au = h264.normalise(data)
        assert au.data is data
        assert au[1:4] == expected
        assert h264.access_unit_info(data) == au
        assert h264.is_idr(data) is expected[0]


def test_looking_does_not_touch(vectors: dict[str, bytes]) -> None:
    raw = vectors["x264-aud-two-idr.annexb"]
    info = h264.access_unit_info(raw)
    assert info.data is raw
    assert len(info.sps) == 2


def test_only_parameter_sets_leave_nothing() -> None:
    au = h264.normalise(nal.join([b"\x09\xf0", b"\x67\x42", b"\x68\xce", b"\x0c\xff\x80", b"\x6d\x80"]))
    assert (au.data, au.keyframe, au.sps, au.pps) == (b"", False, (b"\x67\x42",), (b"\x68\xce",))


@pytest.mark.parametrize(
    ("sei", "intra", "expected"),
    [
        (b"\x06\x06\x01\xc4\x80", b"\x41\x88", True),
        (b"\x06\x06\x01\xc4\x80", b"\x41\xb0", True),
        (b"\x06\x06\x01\x54\x80", b"\x41\x88", False),
        (b"\x06\x06\x01\xc4\x80", b"\x41\xe0", False),
        (b"\x06\x05\x02ab\x06\x01\xc4\x80", b"\x41\x88", True),
        (b"\x06\x05\x01a\x80", b"\x41\x88", False),
        (b"\x06\xff\xff\xff", b"\x41\x88", False),
    ],
    ids=["slice type 7", "slice type 2", "recovery in 4 frames", "P slice", "second message", "other message", "endless type"],
)
def test_recovery_points(sei: bytes, intra: bytes, expected: bool) -> None:
    assert h264.access_unit_info(nal.join([sei, intra])).recovery_point is expected


def test_a_recovery_point_of_mixed_slices_is_none() -> None:
    assert not h264.access_unit_info(nal.join([b"\x06\x06\x01\xc4\x80", b"\x41\x88", b"\x41\xe0"])).recovery_point


def test_build_needs_parameter_sets_that_fit(vectors: dict[str, bytes]) -> None:
    config = h264.parse_avcc(vectors[HIGH])
    for sps, pps in (([], []), (list(config.sps) * 32, []), (list(config.sps), [b"\x68"] * 256), (list(config.sps), [b"\x68" * 70000])):
        with pytest.raises(ProtocolError, match="avcC"):
            h264.build_avcc(sps, pps)
