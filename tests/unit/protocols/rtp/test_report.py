"""Sender reports on one clock, and what viewers report."""

from __future__ import annotations

import pytest

from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.report import MediaClock, Receptions, SenderClock

UTC = 1_795_000_000.0


def _report(sender: SenderClock, wallclock: float) -> rtcp.SenderReport:
    wire = sender.report(wallclock)
    assert wire is not None
    (report,) = rtcp.parse(wire)
    assert isinstance(report, rtcp.SenderReport)
    return report


def test_audio_and_video_share_one_clock() -> None:
    clock = MediaClock()
    video, audio = SenderClock(1, 90_000, clock), SenderClock(2, 48_000, clock)
    assert video.report(UTC) is None
    clock.observe(10.0, UTC)
    video.sent(1_000_000, 10.0, 9, 10_000)
    audio.sent(0xFFFF_FF00, 10.2, 1, 160)
    video.sent(1_003_000, 10.0 + 1 / 30, 1, 500)
    for report, rate, media, timestamp in (
        (_report(video, UTC + 5), 90_000, 10.0, 1_000_000),
        (_report(audio, UTC + 5.5), 48_000, 10.2, 0xFFFF_FF00),
    ):
        elapsed = rtcp.wallclock(report.ntp) - UTC
        ticks = (report.timestamp - timestamp) & 0xFFFFFFFF
        assert ticks == pytest.approx((10.0 + elapsed - media) * rate, abs=1)  # this media time plays at that UTC, in both
    assert _report(video, UTC)[3:5] == (10, 10_500)
    assert (_report(audio, UTC).packets, _report(audio, UTC).octets) == (1, 160)


def test_a_report_may_lie_before_the_last_packet() -> None:
    clock = MediaClock()
    sender = SenderClock(1, 90_000, clock)
    clock.observe(0.0, UTC)
    sender.sent(45_000, 0.5, 1, 1)
    assert _report(sender, UTC).timestamp == 0
    assert _report(sender, UTC - 1).timestamp == (1 << 32) - 90_000


def test_the_clock_does_not_follow_jitter_but_follows_drift_slowly() -> None:
    clock = MediaClock()
    clock.observe(0.0, UTC)
    for number in range(1, 500):
        clock.observe(number * 0.02, UTC + number * 0.02 + (0.015 if number % 3 else -0.015))
    assert clock.wallclock(1.0) == pytest.approx(UTC + 1.0, abs=1e-9)
    worst = 0.0
    before = clock.wallclock(0.0)
    for number in range(500, 50_000):  # 300 ppm for a quarter of an hour
        clock.observe(number * 0.02, UTC + number * 0.02 * 1.0003)
        after = clock.wallclock(0.0)
        assert before is not None
        assert after is not None
        worst, before = max(worst, abs(after - before)), after
    assert clock.wallclock(1000.0) == pytest.approx(UTC + 1000.3, abs=0.05)
    assert worst < 0.0001


def test_the_clock_jumps_only_when_media_stays_off() -> None:
    clock = MediaClock()
    clock.observe(0.0, UTC)
    clock.observe(60.0, UTC + 1)  # one stray stamp
    clock.observe(2.0, UTC + 2)
    assert clock.wallclock(0.0) == pytest.approx(UTC, abs=0.01)
    for number in range(60):
        clock.observe(3.0 + number / 10, UTC + 33 + number / 10)  # the source began anew, thirty seconds later
    assert clock.wallclock(0.0) == pytest.approx(UTC + 30, abs=0.01)
    assert clock.media(UTC + 30) == pytest.approx(0.0, abs=0.01)


def test_nothing_sent_is_nothing_known() -> None:
    assert MediaClock().wallclock(0.0) is None
    assert MediaClock().media(UTC) is None


def test_what_a_viewer_reports() -> None:
    receptions = Receptions({1: 90_000, 2: 48_000})
    assert receptions.rtt is None
    sent, came = rtcp.ntp(UTC), rtcp.ntp(UTC + 0.35)
    block = rtcp.ReportBlock(1, 64, 7, 70_000, 900, sent >> 16 & 0xFFFFFFFF, int(0.25 * 65536))
    receptions.update([block, block._replace(ssrc=2, last_sr=0), block._replace(ssrc=9)], came)
    video, audio = receptions.by_ssrc[1], receptions.by_ssrc[2]
    assert (video.loss, video.lost, video.highest, video.jitter) == (0.25, 7, 70_000, 0.01)
    assert video.rtt == pytest.approx(0.1, abs=0.001)
    assert (audio.rtt, receptions.unknown) == (None, 1)
    assert receptions.rtt == video.rtt
    receptions.update([block], rtcp.ntp(UTC + 0.35 + 0.8))
    assert video.rtt == pytest.approx(0.2, abs=0.001)  # an eighth of the way
    assert video.reports == 2
