from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from medianode.media.track import Codec, Track
from medianode.transcode.want import COPY, Plan, Want, fit, reordering

REALTIME, H264 = Want("realtime", "opus"), Want("realtime-h264", "opus")
SOUND = Track(9, Codec.AAC, 48_000, sample_rate=48_000, channels=2)


def video(codec: Codec, track_id: int = 1, config: bytes = b"") -> Track:
    return Track(track_id, codec, 90_000, config, 320, 240)


@pytest.mark.parametrize(
    ("want", "codec", "plan"),
    [
        (REALTIME, Codec.VP8, Plan(None, COPY)),
        (REALTIME, Codec.VP9, Plan(None, COPY)),
        (REALTIME, Codec.AV1, Plan(None, COPY)),
        (REALTIME, Codec.H264, Plan(None, COPY, True)),
        (REALTIME, Codec.HEVC, Plan(None, COPY, True)),
        (REALTIME, Codec.MJPEG, Plan(Codec.H264, "mjpeg-to-h264")),
        (H264, Codec.H264, Plan(None, COPY, True)),
        (H264, Codec.HEVC, Plan(Codec.H264, "hevc-to-h264")),
        (H264, Codec.VP8, Plan(Codec.H264, "vp8-to-h264")),
        (H264, Codec.AV1, Plan(Codec.H264, "av1-to-h264")),
        (Want("copy"), Codec.H264, Plan(None, COPY)),
        (Want("mjpeg"), Codec.H264, Plan(Codec.MJPEG, "h264-to-mjpeg")),
    ],
)
def test_what_is_done_with_pictures(want: Want, codec: Codec, plan: Plan) -> None:
    assert want.plan(video(codec)) == plan


@pytest.mark.parametrize(
    ("codec", "channels", "plan"),
    [
        (Codec.AAC, 2, Plan(Codec.OPUS, "aac-to-opus")),
        (Codec.MP3, 2, Plan(Codec.OPUS, "mp3-to-opus")),
        (Codec.PCM_ALAW, 1, Plan(Codec.OPUS, "pcm_alaw-to-opus")),
        (Codec.OPUS, 2, Plan(None, COPY)),
        (Codec.OPUS, 1, Plan(None, COPY)),
        (Codec.OPUS, 6, Plan(Codec.OPUS, "opus of 6 channels to stereo")),
    ],
)
def test_what_is_done_with_sound(codec: Codec, channels: int, plan: Plan) -> None:
    assert REALTIME.plan(Track(2, codec, 48_000, sample_rate=48_000, channels=channels)) == plan


def test_a_layer_is_picked_by_its_id_and_the_first_where_there_is_none() -> None:
    best, low = video(Codec.VP8, 0), video(Codec.VP8, 4)
    tracks = (best, SOUND, low)
    assert REALTIME.select(tracks) == (best, SOUND)
    assert Want("realtime", "opus", 4).select(tracks) == (SOUND, low)
    assert Want("realtime", "opus", 7).select(tracks) == (best, SOUND)
    assert Want("none", "opus", 4).select(tracks) == (SOUND,)
    assert Want("copy", "none", 4).select(tracks) == (low,)


def test_only_realtime_wants_hurry() -> None:
    assert REALTIME.realtime
    assert H264.realtime
    assert Want("none", "opus").realtime
    assert not Want("h264", "aac").realtime


@pytest.mark.parametrize(
    ("name", "arguments", "never"),
    [
        ("none.mp4", "-c:v libx264 -preset ultrafast -bf 0", True),
        ("baseline.mp4", "-c:v libx264 -preset ultrafast -profile:v baseline", True),
        ("b.mp4", "-c:v libx264 -preset ultrafast -bf 2", False),
        ("h.mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=0", True),
        ("hb.mkv", "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=3", False),
    ],
)
def test_what_the_configuration_tells_of_reordering(make_clip: Callable[..., object], name: str, arguments: str, never: bool) -> None:
    picture = "-f lavfi -i testsrc2=size=320x240:rate=30:duration=0.5 -pix_fmt yuv420p"
    track = make_clip(name, f"{picture} {arguments}").tracks[0]  # type: ignore[attr-defined]  # conftest's Clip cannot be imported
    assert reordering(track) == (never, "")


def test_h264_that_browsers_cannot_decode_is_encoded_anew(make_clip: Callable[..., object]) -> None:
    arguments = "-f lavfi -i testsrc2=size=320x240:rate=30:duration=0.2 -pix_fmt yuv422p -c:v libx264 -preset ultrafast"
    track = make_clip("422.mp4", arguments).tracks[0]  # type: ignore[attr-defined]  # conftest's Clip cannot be imported
    plan = REALTIME.plan(track)
    assert plan.codec is Codec.H264
    assert "4:2:0" in plan.treatment


def test_a_configuration_that_cannot_be_read_promises_nothing() -> None:
    assert reordering(video(Codec.H264, config=b"\x01garbage")) == (False, "")
    assert reordering(video(Codec.HEVC)) == (False, "")


@pytest.mark.parametrize(
    ("size", "lines", "fitted"),
    [
        ((1920, 1080), 720, (1280, 720)),
        ((1920, 1080), 480, (854, 480)),
        ((1080, 1920), 720, (720, 1280)),
        ((1920, 1080), 1080, (1920, 1080)),
        ((640, 360), 720, (640, 360)),
        ((2560, 1080), 1080, (2560, 1080)),
        ((3440, 1441), 720, (1718, 720)),
        ((4000, 722), 721, (3994, 722)),
        ((1921, 1079), 0, (1921, 1079)),
        ((0, 0), 720, (0, 0)),
    ],
)
def test_the_shorter_side_is_fitted(size: tuple[int, int], lines: int, fitted: tuple[int, int]) -> None:
    assert fit(*size, lines) == fitted


def test_pictures_over_the_limit_become_smaller_and_the_rest_passes() -> None:
    want = Want(max_height=480)
    tall, fits = replace(video(Codec.VP8, 0), width=1280, height=720), video(Codec.VP8, 4)
    high, low = replace(tall, id=6, layer="h"), replace(fits, id=8, layer="l")
    assert want.plan(tall) == Plan(Codec.H264, "scaled: 720 lines, the stream allows 480")
    assert want.plan(fits) == want.plan(SOUND) == Plan(None, COPY)
    assert want.select((tall, SOUND, high, low)) == (tall, SOUND, low), "a layer over it is left out"
    assert want.foreseen((tall, SOUND)) == (Track(0, Codec.H264, 90_000, b"", 854, 480), SOUND)
    assert want.foreseen((fits, SOUND)) == (fits, SOUND)
    assert Want().plan(tall) == Plan(None, COPY)
