import pytest

from medianode.codecs import jpeg
from medianode.errors import LimitExceeded, ProtocolError


def test_jpegs_of_real_encoders(vectors: dict[str, bytes]) -> None:
    baseline, progressive = vectors["ffmpeg-160x120.jpg"], vectors["pillow-32x24-grey-progressive.jpg"]
    assert jpeg.parse_jpeg(baseline) == jpeg.JpegInfo(160, 120, 3, False, len(baseline))
    assert jpeg.parse_jpeg(progressive) == jpeg.JpegInfo(32, 24, 1, True, len(progressive))
    assert jpeg.is_jpeg(baseline)
    assert not jpeg.is_jpeg(b"\xff\xd8")


def test_zeros_after_eoi_are_padding(vectors: dict[str, bytes]) -> None:
    data = vectors["ffmpeg-160x120.jpg"]
    for padding in (1, 3, 4096):
        assert jpeg.parse_jpeg(data + bytes(padding)).size == len(data)
    with pytest.raises(ProtocolError, match="cut short"):
        jpeg.parse_jpeg(data + bytes(9), max_padding=8)
    with pytest.raises(ProtocolError, match="only zeros"):
        jpeg.parse_jpeg(data + b"\0\1")


def test_fill_bytes_before_a_marker_are_allowed(vectors: dict[str, bytes]) -> None:
    data = vectors["ffmpeg-160x120.jpg"]
    assert jpeg.parse_jpeg(data[:2] + b"\xff" * 5 + data[2:])[:4] == (160, 120, 3, False)


def test_segments_are_bounded(vectors: dict[str, bytes]) -> None:
    data = vectors["ffmpeg-160x120.jpg"]
    comment = b"\xff\xfe\0\4hi"
    assert jpeg.parse_jpeg(data[:2] + comment * 200 + data[2:]).width == 160
    with pytest.raises(LimitExceeded, match="at most 20 segments"):
        jpeg.parse_jpeg(data[:2] + comment * 20 + data[2:], max_segments=20)


@pytest.mark.parametrize("marker", [0xD8, 0xD9, 0xD0, 0x01])
def test_markers_without_a_segment_have_no_place_before_the_scan(vectors: dict[str, bytes], marker: int) -> None:
    data = vectors["ffmpeg-160x120.jpg"]
    with pytest.raises(ProtocolError, match=f"ff{marker:02x}"):
        jpeg.parse_jpeg(data[:2] + bytes((0xFF, marker)) + data[2:])
