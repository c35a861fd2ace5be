"""What an operator should change at the encoder, in plain words. Pure: from the numbers of the session view."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from medianode.media.track import Codec, Track
from medianode.routing.publication import Health, Meter

SLOW_KEYFRAMES = 4.0
SILENT = 2.0
CRYSTAL = 500e-6
"""Drift of this much per second is what cheap clocks do; nobody needs to act on it."""
DRIFTING = 0.2
SLOW_FRAMES = 0.8


NO_B_FRAMES = "set bframes=0 (OBS: x264 option bframes=0, or B-frames 0)"


def hints(
    tracks: tuple[Track, ...],
    meters: dict[int, Meter],
    health: Health,
    age: float,
    now: float,
    realtime: Collection[str] = (),
) -> list[str]:
    """One sentence each; empty when all is well. `age`: seconds since the publication opened; `now`: clock.now().

    `realtime`: how the renditions for WebRTC treat the picture at present (`copy`, `b-frames-dropped`, `re-encoded: …`); empty while
    nobody watches so.
    """
    found = list(_of_session(tracks, meters, health, age, now))
    for track in tracks:
        meter = meters.get(track.id)
        if meter is not None and track.is_video:
            found += _of_video(track, meter, now, realtime)
        elif track.codec in (Codec.AC3, Codec.EAC3, Codec.FLAC, Codec.PCM_ALAW, Codec.PCM_MULAW):
            found.append(f"{track.codec.value} sound plays in few browsers: set AAC or Opus")
    return found


def _of_session(tracks: tuple[Track, ...], meters: dict[int, Meter], health: Health, age: float, now: float) -> Iterator[str]:
    last = max((m.last_at for m in meters.values()), default=0.0)
    if not tracks and age > SILENT:
        yield f"connected {age:.0f} s ago and sent no media yet: start the stream at the encoder"
    elif last and now - last > SILENT:
        yield f"nothing came for {now - last:.1f} s: look at the encoder and its uplink"
    if tracks and not any(t.is_video for t in tracks):
        yield "sound only: there is no picture to show; send a video track if that is not intended"
    if health.frozen_video:
        yield "the picture stands still while sound goes on: look at the camera or the scene of the encoder"
    if abs(health.drift) > max(DRIFTING, age * CRYSTAL):
        yield f"its clock is {health.drift:+.2f} s off ours: let the encoder use constant frame rate and a synchronised clock"
    if health.repairs:
        yield f"{sum(health.repairs.values())} timestamps were repaired ({', '.join(sorted(health.repairs))}): the encoder's clock jumps"
    yield from health.notes.values()
    drops = {cause: count for cause, count in health.drops.items() if cause not in health.notes}
    if drops:
        yield f"{sum(drops.values())} packets were dropped ({', '.join(sorted(drops))})"


def _b_frames(realtime: Collection[str]) -> str:
    if any(treatment.startswith("re-encoded") for treatment in realtime):
        return f"B-frames: the picture is re-encoded for WebRTC viewers, at the cost of CPU and sharpness: {NO_B_FRAMES}"
    if "b-frames-dropped" in realtime:
        return f"B-frames: WebRTC viewers cannot be shown them and see a lower frame rate: {NO_B_FRAMES}"
    return f"B-frames: for WebRTC viewers they will be left out, or the picture be re-encoded: {NO_B_FRAMES}"


def _of_video(track: Track, meter: Meter, now: float, realtime: Collection[str]) -> Iterator[str]:
    if meter.reordered:
        yield _b_frames(realtime)
    if meter.keyframe_interval > SLOW_KEYFRAMES:
        yield f"key-frame interval {meter.keyframe_interval:.1f} s makes HLS start slowly: set 2 s"
    elif meter.keyframes == 0 and meter.packets:
        yield "no key frame yet, so nothing can be shown: set a key-frame interval of 2 s"
    elif meter.keyframe_at and now - meter.keyframe_at > max(SLOW_KEYFRAMES, 2 * meter.keyframe_interval):
        yield f"no key frame for {now - meter.keyframe_at:.1f} s: new viewers wait for one; set a key-frame interval of 2 s"
    if track.frame_rate and meter.frame_rate and meter.frame_rate < SLOW_FRAMES * track.frame_rate:
        yield (
            f"{meter.frame_rate:.1f} frames a second arrive of the {track.frame_rate:.1f} declared: "
            "the encoder or its uplink cannot keep up; lower resolution or bitrate"
        )
    if track.codec is Codec.HEVC:
        yield "H.265 plays in Safari and in browsers with a hardware decoder only: set H.264 to reach all"
    if track.codec in (Codec.AV1, Codec.VP9):
        yield f"{'AV1' if track.codec is Codec.AV1 else 'VP9'} does not play in older Safari: set H.264 to reach all"
