"""Strips: key frames as tiles of one JPEG."""

import io

import pytest
from PIL import Image

from medianode.errors import LimitExceeded
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.transcode import strip

TRACK = Track(0, Codec.MJPEG, 90_000, width=64, height=48)


def still(colour: tuple[int, int, int]) -> Packet:
    held = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(held, "JPEG", quality=95)
    return Packet(TRACK, held.getvalue(), 0, 0, True, 0.0)


async def test_tiles_stand_in_order_and_what_cannot_be_decoded_is_black() -> None:
    wanted = [(255, 0, 0), (0, 255, 0), (0, 0, 255), None, (255, 255, 255)]
    reads = [lambda c=c: still(c) if c else Packet(TRACK, b"\xff\xd8no picture", 0, 0, True, 0.0) for c in wanted]
    made = await strip.strip_jpeg(reads, 3, 32, ratio=0.75, quality=2, max_pixels=1_000_000)
    picture = Image.open(io.BytesIO(made))
    assert picture.size == (96, 48)
    for n, colour in enumerate([*wanted, None]):
        seen = picture.convert("RGB").getpixel((n % 3 * 32 + 16, n // 3 * 24 + 12))
        assert isinstance(seen, tuple)
        assert all(abs(a - b) < 12 for a, b in zip(seen, colour or (0, 0, 0), strict=True)), (n, seen)


async def test_it_ends_when_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strip, "SECONDS", -1.0)
    with pytest.raises(LimitExceeded, match="ask for fewer"):
        await strip.strip_jpeg([lambda: still((1, 2, 3))], 1, 32, ratio=0.75, quality=5, max_pixels=1_000_000)


def test_tile_sizes_are_even() -> None:
    assert strip.tile_size(161, 9 / 16) == (160, 90)
    assert strip.tile_size(33, 4 / 3) == (32, 42)
    assert strip.tile_size(2, 0.0) == (2, 2)
