import pytest

from medianode.codecs import vp8, vp9
from medianode.errors import ProtocolError


def test_vp9_of_libvpx(vectors: dict[str, bytes]) -> None:
    key, inter = vectors["libvpx-vp9-128x96-key.frame"], vectors["libvpx-vp9-128x96-inter.frame"]
    assert vp9.parse_frame(key) == vp9.FrameHeader(True, 0, False, True, 128, 96, 8, 1, False)
    assert vp9.parse_frame(inter) == vp9.FrameHeader(False, 0, False, True)
    assert (vp9.is_keyframe(key), vp9.is_keyframe(inter)) == (True, False)
    deep = vp9.parse_frame(vectors["libvpx-vp9-profile3-12bit-key.frame"])
    assert (deep.profile, deep.bit_depth, deep.chroma_subsampling, deep.width) == (3, 12, 3, 128)
    with pytest.raises(ProtocolError, match="key frame"):
        vp9.config_of(inter)


@pytest.mark.parametrize("name", ["libvpx-vp9-128x96", "libvpx-vp9-profile3-12bit"])
def test_vpcc_as_ffmpeg_writes_it(vectors: dict[str, bytes], name: str) -> None:
    box = vectors[f"{name}.vpcC"]
    config = vp9.parse_vpcc(box)
    assert vp9.parse_vpcc(box[4:]) == config  # with and without the FullBox header
    assert vp9.build_vpcc(config) == box[4:]
    assert vp9.config_of(vectors[f"{name}-key.frame"]) == config
    assert vp9.codec_string(box) == f"vp09.{config.profile:02d}.10.{config.bit_depth:02d}"


def test_codec_string_of_the_binding() -> None:
    assert vp9.codec_string(vp9.build_vpcc(vp9.VpConfig(0, 31, 8))) == "vp09.00.31.08"
    assert vp9.codec_string(vp9.build_vpcc(vp9.VpConfig(2, 51, 10, 1, True, 9, 16, 9))) == "vp09.02.51.10"


@pytest.mark.parametrize(
    ("size", "rate", "level"), [((1280, 720), 30, 31), ((1920, 1080), 30, 40), ((1920, 1080), 60, 41), ((7680, 4320), 240, 62)]
)
def test_levels(size: tuple[int, int], rate: float, level: int) -> None:
    assert vp9.level_for(*size, rate) == level


def test_other_vp9_headers() -> None:
    assert vp9.parse_frame(b"\x88") == vp9.FrameHeader(False, 0, True, True)  # show_existing_frame
    rgb = vp9.parse_frame(bytes.fromhex("a2498342e007f007f0"))
    assert (rgb.profile, rgb.keyframe, rgb.chroma_subsampling, rgb.full_range) == (1, True, 3, True)
    with pytest.raises(ProtocolError, match="reserved"):
        vp9.parse_frame(b"\xb8")


def test_vp8_of_libvpx(vectors: dict[str, bytes]) -> None:
    key, inter = vectors["libvpx-vp8-130x98-key.frame"], vectors["libvpx-vp8-130x98-inter.frame"]
    assert vp8.parse_frame(key) == vp8.FrameHeader(True, 0, True, 130, 98)
    assert vp8.parse_frame(inter) == vp8.FrameHeader(False, 0, True, 0, 0)
    assert [vp8.is_keyframe(data) for data in (key, inter, b"")] == [True, False, False]
    scaled = key[:6] + b"\x82\x40\x62\x80"
    assert vp8.parse_frame(scaled)[3:] == (130, 98)
