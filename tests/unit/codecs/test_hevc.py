import pytest

from medianode.codecs import hevc, nal
from medianode.codecs.vui import Colour
from medianode.errors import ProtocolError

MAIN, MAIN10, KVAZAAR = "x265-main-360p25.hvcC", "x265-main10-1080p60-pq.hvcC", "kvazaar-main-72x72.hvcC"


def test_hvcc_is_read_and_written_as_ffmpeg_writes_it(vectors: dict[str, bytes]) -> None:
    for name, messages in ((MAIN, 1), (MAIN10, 2), (KVAZAAR, 0)):
        config = hevc.parse_hvcc(vectors[name])
        built = hevc.build_hvcc(config.vps, config.sps, config.pps)
        assert len(config.sei) == messages
        assert built[:22] == vectors[name][:22]
        if messages:  # kvazaar's file is 'hev1', where the arrays are not marked complete
            assert vectors[name][23:].startswith(built[23:])
        else:
            assert hevc.parse_hvcc(built) == config
        assert hevc.codec_string(built) == hevc.codec_string(config.sps[0])


def test_sps_of_real_encoders(vectors: dict[str, bytes]) -> None:
    main, main10, kvazaar = (hevc.parse_sps(hevc.parse_hvcc(vectors[name]).sps[0]) for name in (MAIN, MAIN10, KVAZAAR))
    assert (main.width, main.height, main.frame_rate, main.max_num_reorder, main.profile.level_idc) == (640, 360, 25.0, 2, 63)
    assert (main10.width, main10.height, main10.frame_rate, main10.bit_depth_luma) == (1920, 1080, 60.0, 10)  # cropped from 1088
    assert main10.colour == Colour(9, 16, 9, False)
    assert (kvazaar.width, kvazaar.height, kvazaar.max_sub_layers, kvazaar.frame_rate) == (72, 72, 2, 25.0)


def test_codec_strings(vectors: dict[str, bytes]) -> None:
    assert [hevc.codec_string(vectors[name]) for name in (MAIN, MAIN10, KVAZAAR)] == [
        "hvc1.1.6.L63.90",
        "hvc1.2.4.L123.90",
        "hvc1.1.6.L186.80",
    ]
    # The example of ISO/IEC 14496-15 annex E: progressive, nothing else.
    record = bytes((1, 0x01, 0x60, 0, 0, 0, 0xB0, 0, 0, 0, 0, 0, 93)) + bytes(10)
    assert hevc.codec_string(record) == "hvc1.1.6.L93.B0"
    assert hevc.codec_string(bytes((1, 0xA2, 0x20, 0, 0, 0, 0xB0, 0, 0x04, 0, 0, 0, 120)) + bytes(10)) == "hvc1.B2.4.H120.B0.0.4"


def test_version_0_of_the_draft_is_taken(vectors: dict[str, bytes]) -> None:
    assert hevc.parse_hvcc(b"\0" + vectors[MAIN][1:]) == hevc.parse_hvcc(vectors[MAIN])


def test_access_units_are_tidied(vectors: dict[str, bytes]) -> None:
    raw = vectors["x265-aud-idr.annexb"]
    units = [raw[start:end] for start, end in nal.annexb_spans(raw)]
    assert [unit[0] >> 1 & 63 for unit in units] == [35, 32, 33, 34, 39, 20]
    for data in (raw, nal.join(units)):
        au = hevc.normalise(data)
        assert nal.split(au.data) == units[4:]
        assert (au.vps, au.sps, au.pps) == ((units[1],), (units[2],), (units[3],))
        assert au.keyframe
        assert hevc.normalise(au.data).data is au.data
        assert hevc.access_unit_info(data).data is data
    assert hevc.is_irap(raw)


@pytest.mark.parametrize(
    ("kind", "keyframe", "reference"),
    [(0, False, False), (1, False, True), (8, False, False), (9, False, True), (16, True, True), (21, True, True)],
)
def test_kinds_of_slices(kind: int, keyframe: bool, reference: bool) -> None:
    data = nal.join([bytes((kind << 1, 1)) + b"slice"])
    au = hevc.normalise(data)
    assert (au.data is data, au.keyframe, au.is_reference) == (True, keyframe, reference)
    assert hevc.is_irap(data) is keyframe


def test_build_needs_an_sps(vectors: dict[str, bytes]) -> None:
    config = hevc.parse_hvcc(vectors[MAIN])
    with pytest.raises(ProtocolError, match="expected 1 SPS"):
        hevc.build_hvcc(config.vps, [], config.pps)
    with pytest.raises(ProtocolError, match="65535"):
        hevc.build_hvcc([b"\x40" * 70000], config.sps, config.pps)
