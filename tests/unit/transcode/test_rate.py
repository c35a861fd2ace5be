from __future__ import annotations

from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.transcode.rate import SourceRate


def fed(codec: Codec, nbytes: int, seconds: float, fps: int = 30) -> SourceRate:
    track = Track(1, codec, 90_000, b"", 1920, 1080)
    rate = SourceRate(track)
    for n in range(round(seconds * fps)):
        rate.push(Packet(track, bytes(nbytes), 0, n * 90_000 // fps, n == 0, 0.0))
    return rate


def test_by_size_alone_until_enough_was_seen() -> None:
    assert fed(Codec.H264, 10_000, 0.5).bound(1920, 1080) == round(1920 * 1080 * 3.2)
    assert fed(Codec.H264, 10_000, 0.5).frame_rate == 0.0


def test_the_bound_follows_the_source_within_what_the_size_allows() -> None:
    two_megabits = fed(Codec.H264, 8_333, 6.0)
    assert 2_400_000 < two_megabits.bound(1920, 1080) < 2_600_000
    assert 29 < two_megabits.frame_rate < 31
    assert two_megabits.parted(6_000_000, 1920, 1080)
    assert not two_megabits.parted(2_700_000, 1920, 1080)
    assert fed(Codec.HEVC, 8_333, 6.0).bound(1920, 1080) > two_megabits.bound(1920, 1080)
    assert fed(Codec.H264, 10, 6.0).bound(1920, 1080) == 300_000
    assert fed(Codec.H264, 1_000_000, 6.0).bound(320, 240) == 600_000


def test_a_clock_that_jumps_begins_anew_and_the_window_is_bounded() -> None:
    rate = fed(Codec.H264, 8_333, 6.0)
    track = Track(1, Codec.H264, 90_000)
    rate.push(Packet(track, b"", 0, 0, True, 0.0))
    assert rate.seconds == 0.0
    assert fed(Codec.H264, 1, 6.0, fps=1000).seconds < 1.0
