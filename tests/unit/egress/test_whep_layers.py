from __future__ import annotations

from medianode.egress.whep.layers import higher, lower
from medianode.media.track import Codec, Track


def layer(ident: int, width: int, height: int, rid: str) -> Track:
    return Track(ident, Codec.VP8, 90_000, b"", width, height, layer=rid)


MAIN = Track(0, Codec.VP8, 90_000, b"", 1280, 720)
TRACKS = (
    MAIN,
    Track(1, Codec.OPUS, 48_000, b"", sample_rate=48_000, channels=2),
    layer(2, 320, 180, "q"),
    layer(4, 640, 360, "h"),
    layer(6, 1280, 720, "f"),
)


def test_the_next_lower_layer() -> None:
    down = lower(TRACKS, 1280 * 720)
    assert down is not None
    assert down.layer == "h"
    down = lower(TRACKS, 640 * 360)
    assert down is not None
    assert down.layer == "q"
    assert lower(TRACKS, 320 * 180) is None


def test_the_next_higher_layer() -> None:
    up = higher(TRACKS, 320 * 180)
    assert up is not None
    assert up.layer == "h"
    assert higher(TRACKS, 1280 * 720) is None


def test_a_stream_without_layers_has_none() -> None:
    assert lower((MAIN,), 1280 * 720) is None
    assert higher((MAIN,), 0) is None


def test_a_layer_of_unknown_size_is_not_taken() -> None:
    assert lower((MAIN, layer(2, 0, 0, "q")), 1280 * 720) is None
