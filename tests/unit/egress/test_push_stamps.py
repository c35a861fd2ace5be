from __future__ import annotations

from medianode.egress.rtmp_publish import Stamps
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtmp.url import parse_rtmp_url

VIDEO = Track(0, Codec.H264, 90_000)
AUDIO = Track(1, Codec.AAC, 48_000)


def video(seconds: float, received_at: float) -> Packet:
    ticks = round(seconds * 90_000)
    return Packet(VIDEO, b"", ticks, ticks, True, received_at)


def test_time_begins_at_0_and_sound_that_is_earlier_is_not_before_it() -> None:
    stamps = Stamps()
    assert stamps.place(video(5000.0, 1.0)) == 0
    assert stamps.place(Packet(AUDIO, b"", round(4999.98 * 48_000), round(4999.98 * 48_000), True, 1.0)) == 0
    assert stamps.place(video(5000.04, 1.04)) == 40
    assert stamps.last == 40


def test_a_gap_of_the_reader_leaves_the_timeline_as_it_is() -> None:
    stamps = Stamps()
    stamps.place(video(10.0, 1.0))
    stamps.break_off()
    assert stamps.place(video(13.0, 4.1)) == 3000


def test_another_publisher_s_timeline_goes_on_by_what_has_passed() -> None:
    stamps = Stamps()
    stamps.place(video(10.0, 1.0))
    stamps.place(video(12.0, 3.0))
    stamps.break_off()
    assert stamps.place(video(70_000.0, 8.0)) == 7000
    assert stamps.place(video(70_000.5, 8.5)) == 7500
    stamps.break_off()
    assert stamps.place(video(0.0, 9.5)) == 8500, "one that is far behind does not make time go back"


def test_cached_packets_of_before_the_gap_do_not_go_back() -> None:
    stamps = Stamps()
    stamps.place(video(10.0, 1.0))
    stamps.place(video(20.0, 11.0))
    stamps.break_off()
    assert stamps.place(video(16.0, 7.0)) == 10_005
    assert stamps.place(video(16.5, 7.5)) == 10_505


def test_an_encoder_that_is_back_in_the_moment_of_a_slate_s_picture_is_shown_after_it() -> None:
    stamps = Stamps()
    stamps.place(video(1.0, 1.0))
    stamps.break_off()
    assert stamps.place(video(70_000.0, 1.0)) == 5
    stamps.break_off()
    assert stamps.place(video(0.0, 1.0004)) == 10


def test_the_key_beside_the_url() -> None:
    url = parse_rtmp_url("rtmp://a.rtmp.youtube.com/live2", "abcd-1234")
    assert (url.host, url.port, url.app, url.name) == ("a.rtmp.youtube.com", 1935, "live2", "abcd-1234")
    url = parse_rtmp_url("rtmps://live-api-s.facebook.com:443/rtmp/", "FB-1-0-abc?s_bl=1&s_sw=0")
    assert (url.secure, url.port, url.app, url.name) == (True, 443, "rtmp", "FB-1-0-abc?s_bl=1&s_sw=0")
    url = parse_rtmp_url("rtmp://h/app/instance?token=x", "a/b")
    assert (url.app, url.name, url.tc_url) == ("app/instance?token=x", "a/b", "rtmp://h/app/instance?token=x")
    assert parse_rtmp_url("rtmp://live.twitch.tv/app/live_1_x").name == "live_1_x"
