from __future__ import annotations

from typing import Any

import pytest

from medianode.api.hints import hints
from medianode.media.track import Codec, Track
from medianode.routing.publication import Health, Meter

NOW = 1000.0


def said(codec: Codec = Codec.H264, age: float = 60.0, *, health: Health | None = None, declared: float = 30.0, **meter: Any) -> list[str]:
    track = Track(1, codec, 90_000, frame_rate=declared)
    known: dict[str, Any] = {"packets": 100, "keyframes": 5, "last_at": NOW - 0.03, "keyframe_at": NOW - 1, "keyframe_interval": 2.0}
    return hints((track,), {1: Meter(**{**known, "frame_rate": 30.0, **meter})}, health or Health(), age, NOW)


def test_a_healthy_stream_needs_no_advice() -> None:
    assert said() == []


@pytest.mark.parametrize(
    ("meter", "hint"),
    [
        (
            {"reordered": True},
            "B-frames: for WebRTC viewers they will be left out, or the picture be re-encoded: "
            "set bframes=0 (OBS: x264 option bframes=0, or B-frames 0)",
        ),
        ({"keyframe_interval": 8.3}, "key-frame interval 8.3 s makes HLS start slowly: set 2 s"),
        (
            {"keyframes": 0, "keyframe_at": 0.0, "keyframe_interval": 0.0},
            "no key frame yet, so nothing can be shown: set a key-frame interval of 2 s",
        ),
        ({"keyframe_at": NOW - 30}, "no key frame for 30.0 s: new viewers wait for one; set a key-frame interval of 2 s"),
        ({"last_at": NOW - 3.14}, "nothing came for 3.1 s: look at the encoder and its uplink"),
        (
            {"frame_rate": 18.0},
            "18.0 frames a second arrive of the 30.0 declared: the encoder or its uplink cannot keep up; lower resolution or bitrate",
        ),
        ({"codec": Codec.HEVC}, "H.265 plays in Safari and in browsers with a hardware decoder only: set H.264 to reach all"),
        ({"codec": Codec.AV1}, "AV1 does not play in older Safari: set H.264 to reach all"),
        (
            {"health": Health(frozen_video=True)},
            "the picture stands still while sound goes on: look at the camera or the scene of the encoder",
        ),
        ({"health": Health(drops={"late": 2, "bad": 1})}, "3 packets were dropped (bad, late)"),
        ({"health": Health(repairs={"backward-jump": 4})}, "4 timestamps were repaired (backward-jump): the encoder's clock jumps"),
        ({"health": Health(drift=-0.4)}, "its clock is -0.40 s off ours: let the encoder use constant frame rate and a synchronised clock"),
    ],
)
def test_each_fault_has_its_sentence(meter: dict[str, Any], hint: str) -> None:
    assert said(**meter) == [hint]


def test_b_frames_are_told_by_what_is_done_about_them() -> None:
    track, meter = Track(1, Codec.H264, 90_000), Meter(packets=100, keyframes=5, last_at=NOW, keyframe_at=NOW, reordered=True)

    def of(*treatments: str) -> list[str]:
        return hints((track,), {1: meter}, Health(), 60.0, NOW, treatments)

    assert len(of()) == len(of("copy")) == 1
    assert "will be left out" in of("copy")[0]
    assert "see a lower frame rate" in of("b-frames-dropped")[0]
    assert "is re-encoded for WebRTC viewers" in of("b-frames-dropped", "re-encoded: B-frames are referenced; …")[0]
    meter.reordered = False
    assert of("re-encoded: another reason") == []


def test_frame_rates_are_compared_only_where_both_are_known() -> None:
    assert said(declared=0.0, frame_rate=5.0) == []
    assert said(frame_rate=0.0) == []


def test_silence_after_connecting_and_sound_only() -> None:
    assert hints((), {}, Health(), 5.0, NOW) == ["connected 5 s ago and sent no media yet: start the stream at the encoder"]
    assert hints((), {}, Health(), 1.0, NOW) == []
    sound = Track(2, Codec.PCM_ALAW, 8000)
    assert hints((sound,), {2: Meter(packets=5, last_at=NOW)}, Health(), 9.0, NOW) == [
        "sound only: there is no picture to show; send a video track if that is not intended",
        "pcm_alaw sound plays in few browsers: set AAC or Opus",
    ]


def test_what_the_stream_does_not_allow_is_told_in_its_own_words() -> None:
    note = "this stream takes sound only: the picture that comes is left out"
    assert said(health=Health(notes={"audio-only": note}, drops={"audio-only": 300})) == [note], "and not as a fault"
    assert said(health=Health(notes={"audio-only": note}, drops={"audio-only": 300, "undecodable": 2}))[1] == (
        "2 packets were dropped (undecodable)"
    )
