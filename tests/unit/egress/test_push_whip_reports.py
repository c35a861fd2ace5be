"""What receiver reports tell of a call by WHIP."""

from __future__ import annotations

import pytest

from medianode.egress.push.whip_reports import Reports, Sent
from medianode.errors import PeerTimeout
from medianode.protocols.rtp.rtcp import ReportBlock


def block(highest: int, lost: int = 0, ssrc: int = 1) -> ReportBlock:
    return ReportBlock(ssrc, 0, lost, highest, 0, 0, 0)


def test_what_is_reported_has_arrived() -> None:
    reports = Reports(15.0)
    reports.look([Sent(1, 100, 1100)], 100_000, 0.0)
    assert (reports.acknowledged, reports.arrives) == (0, False)
    reports.take([block(1049)])
    reports.look([Sent(1, 100, 1100)], 100_000, 1.0)
    assert (reports.acknowledged, reports.arrives) == (50_000, True)
    reports.take([block(1099, lost=10)])
    reports.look([Sent(1, 100, 1100)], 100_000, 2.0)
    assert reports.acknowledged == 90_000
    reports.take([block(1099, lost=30)])
    reports.look([Sent(1, 100, 1100)], 100_000, 3.0)
    assert reports.acknowledged == 90_000, "it never goes back"


def test_sequence_numbers_wrap() -> None:
    reports = Reports(15.0)
    reports.take([block(0x1FFF0)])
    reports.look([Sent(1, 1000, 0x10000)], 1_000_000, 1.0)
    assert reports.acknowledged == 985_000
    reports.take([block(0x20001)])
    reports.look([Sent(1, 1020, 0x10002)], 1_020_000, 2.0)
    assert reports.acknowledged == 1_020_000


def test_reports_of_other_streams_say_nothing() -> None:
    reports = Reports(15.0)
    reports.take([block(5000, ssrc=9)])
    reports.look([Sent(1, 100, 1100)], 100_000, 1.0)
    assert not reports.arrives


def test_reports_that_stand_still_while_media_goes_out() -> None:
    reports = Reports(15.0)
    reports.take([block(1099)])
    for second in range(16):
        reports.look([Sent(1, 100 + second, 1100 + second)], 100_000, float(second))
    with pytest.raises(PeerTimeout) as caught:
        reports.look([Sent(1, 300, 1300)], 100_000, 17.0)
    assert caught.value.code == "target-silent"


def test_a_publishers_gap_is_no_silence_and_who_never_reports_is_not_judged() -> None:
    reports = Reports(15.0)
    reports.take([block(1099)])
    for second in range(100):
        reports.look([Sent(1, 100, 1100)], 100_000, float(second))
    reports.look([Sent(1, 101, 1101)], 100_000, 100.0)
    never = Reports(15.0)
    for second in range(100):
        never.look([Sent(1, 100 + second, 1100 + second)], 100_000, float(second))
