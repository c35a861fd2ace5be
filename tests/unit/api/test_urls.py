from __future__ import annotations

import pytest

from medianode.api.urls import Ports, Urls


@pytest.mark.parametrize(("base", "ws"), [("https://m.example", "wss://m.example"), ("http://[::1]:8080", "ws://[::1]:8080")])
def test_the_socket_has_the_scheme_of_the_page(base: str, ws: str) -> None:
    urls = Urls(base, "m", Ports(1935))
    assert urls.ws == ws
    assert urls.camera("live", "live-a.b") == f"{ws}/ingest/ws?app=live&room=live-a.b"
    assert urls.viewer("live", "live-a") == f"{ws}/live/ws?app=live&room=live-a"


def test_rtmps_shares_the_port_unless_it_has_its_own() -> None:
    assert Urls("https://m", "m", Ports(1935)).rtmps == "rtmps://m:1935/live"
    assert Urls("https://m", "m", Ports(1935, 443)).rtmps == "rtmps://m:443/live"
    assert Urls("https://m", "m", Ports(1935, 443)).rtmp == "rtmp://m:1935/live"
    assert Urls("https://m", "m", Ports(1935)).srt is None
    assert Urls("https://m", "m", Ports(1935, srt=8890)).srt == "srt://m:8890"


def test_pages_and_media() -> None:
    urls = Urls("https://m", "m", Ports(1935))
    where = ("live", "live-a")
    assert urls.play(*where) == "https://m/play/live/live-a"
    assert urls.hls(*where) == "https://m/hls/live/live-a/index.m3u8"
    assert urls.whip(*where) == "https://m/whip/live/live-a"
    assert urls.whep(*where) == "https://m/whep/live/live-a"
    assert urls.mjpeg(*where) == "https://m/live/live/live-a/mjpeg"
    assert urls.frame(*where) == "https://m/live/live/live-a/frame.jpg"
    assert Urls('https://m"', "m", Ports(1)).iframe(*where).startswith('<iframe src="https://m&quot;/embed/live/live-a"')
