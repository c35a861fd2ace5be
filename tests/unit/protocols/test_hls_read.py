"""Playlists of others."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.errors import PeerError, ProtocolError
from medianode.protocols.hls_read import Playlist, Range, Variant, read_playlist

MEDIA = """#EXTM3U
#EXT-X-TARGETDURATION:4
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-MAP:URI="init.mp4",BYTERANGE="100@0"
#EXTINF:3.96,title
#EXT-X-BYTERANGE:50@100
all.mp4
#EXTINF:4
#EXT-X-BYTERANGE:60
all.mp4
#EXT-X-DISCONTINUITY
#EXT-X-KEY:METHOD=AES-128,URI="https://k/"
#EXT-X-GAP
#EXTINF:4,
/abs/c.ts?x=1
#EXT-X-ENDLIST
"""


def test_media_playlist() -> None:
    found = read_playlist(MEDIA, "https://h/live/index.m3u8")
    assert isinstance(found, Playlist)
    assert (found.target, found.ended) == (4.0, True)
    a, b, c = found.segments
    assert (a.sequence, a.url, a.duration, a.range) == (7, "https://h/live/all.mp4", 3.96, Range(100, 50))
    assert (a.map_url, a.map_range) == ("https://h/live/init.mp4", Range(0, 100))
    assert b.range == Range(150, 60)
    assert not b.encrypted
    assert not b.missing
    assert (c.sequence, c.url, c.encrypted, c.missing, c.range) == (9, "https://h/abs/c.ts?x=1", True, True, Range(0, 0))


def test_variants_best_first() -> None:
    text = (
        '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100,CODECS="avc1,mp4a",RESOLUTION=640x360\nlow.m3u8\n'
        "#EXT-X-STREAM-INF:BANDWIDTH=900,RESOLUTION=1280x720\nhttp://other/high.m3u8\n"
    )
    assert read_playlist(text, "http://h/a/m.m3u8") == (
        Variant("http://other/high.m3u8", 900, 720),
        Variant("http://h/a/low.m3u8", 100, 360),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n",
        "#EXTM3U\n#EXTINF:1,\nhttp://[x\n",
        "#EXTM3U\n" + "#EXTINF:1,\na\n" * 20_001,
        "#EXTM3U\n" + "#\n" * 100_000,
    ],
)
def test_no_playlist(text: str) -> None:
    with pytest.raises(ProtocolError):
        read_playlist(text, "http://h/")


def test_a_long_word_is_read_in_no_time() -> None:
    text = "#EXTM3U\n#EXT-X-MAP:" + "A" * 1_000_000 + "\n#EXTINF:1,\na\n"  # an hour, were each letter a beginning
    found = read_playlist(text, "http://h/")
    assert isinstance(found, Playlist)
    assert len(found.segments) == 1


@given(st.text(max_size=400))
def test_any_text_is_no_more_than_a_peers_fault(text: str) -> None:
    with contextlib.suppress(PeerError):
        read_playlist("#EXTM3U\n" + text, "http://h/")
