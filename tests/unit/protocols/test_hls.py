"""Golden playlists."""

from __future__ import annotations

import pytest

from medianode.errors import InvalidRequest
from medianode.protocols.hls import (
    MAX_SEQUENCE,
    Head,
    MediaPlaylist,
    Part,
    Reload,
    Segment,
    Variant,
    multivariant,
    parse_reload,
    seconds,
    target_of,
)


def _segment(n: int, *, parts: int = 4, **kwargs: object) -> Segment:
    head = Head(
        "init0.mp4",
        program_time=f"2026-03-29T14:30:{2 * n:02d}.000Z",
        **{k: v for k, v in kwargs.items() if k in ("new_map", "discontinuity")},
    )  # type: ignore[arg-type]
    rest = {k: v for k, v in kwargs.items() if k in ("gap", "independent")}
    return Segment(head, f"{n}.m4s", 2_000_000, tuple(Part(f"{n}.{i}.m4s", 500_000, i == 0) for i in range(parts)), **rest)  # type: ignore[arg-type]


LOW_LATENCY = """\
#EXTM3U
#EXT-X-VERSION:9
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-TARGETDURATION:2
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=12.0,HOLD-BACK=6.0,PART-HOLD-BACK=2.0
#EXT-X-PART-INF:PART-TARGET=0.5
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-DISCONTINUITY-SEQUENCE:3
#EXT-X-MAP:URI="init0.mp4"
#EXT-X-PROGRAM-DATE-TIME:2026-03-29T14:30:14.000Z
#EXTINF:2.0,
7.m4s
#EXT-X-DISCONTINUITY
#EXT-X-MAP:URI="init0.mp4"
#EXT-X-PROGRAM-DATE-TIME:2026-03-29T14:30:16.000Z
#EXTINF:2.0,
8.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-03-29T14:30:18.000Z
#EXT-X-PART:DURATION=0.5,URI="9.0.m4s",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.5,URI="9.1.m4s"
#EXT-X-PART:DURATION=0.5,URI="9.2.m4s"
#EXT-X-PART:DURATION=0.5,URI="9.3.m4s"
#EXTINF:2.0,
9.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-03-29T14:30:20.000Z
#EXT-X-PART:DURATION=0.5,URI="10.0.m4s",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.5,URI="10.1.m4s"
#EXT-X-PART:DURATION=0.5,URI="10.2.m4s"
#EXT-X-PART:DURATION=0.5,URI="10.3.m4s"
#EXTINF:2.0,
10.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-03-29T14:30:22.000Z
#EXT-X-PART:DURATION=0.5,URI="11.0.m4s",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.466667,URI="11.1.m4s"
#EXT-X-PART:DURATION=1.5,URI="11.2.m4s"
#EXT-X-PRELOAD-HINT:TYPE=PART,URI="11.3.m4s"
"""


def _low_latency(ended: bool = False) -> MediaPlaylist:
    return MediaPlaylist(
        target_duration=2,
        media_sequence=7,
        discontinuity_sequence=3,
        segments=[_segment(7), _segment(8, new_map=True, discontinuity=True), _segment(9), _segment(10)],
        part_target=500_000,
        open_head=None if ended else Head("init0.mp4", program_time="2026-03-29T14:30:22.000Z"),
        open_parts=() if ended else (Part("11.0.m4s", 500_000, True), Part("11.1.m4s", 466_667, False), Part("11.2.m4s", 1_500_000, False)),
        hint="" if ended else "11.3.m4s",
        ended=ended,
    )


def test_low_latency() -> None:
    assert _low_latency().render().replace("\0", "") == LOW_LATENCY


def test_every_uri_can_take_a_query() -> None:
    text = _low_latency().render().replace("\0", "?token=x")
    assert text.count("?token=x") == text.count(".m4s") + text.count(".mp4") == 18


def test_ended() -> None:
    """No parts, no hint: nobody joins live."""
    text = _low_latency(ended=True).render()
    assert text.endswith("#EXTINF:2.0,\n10.m4s\0\n#EXT-X-ENDLIST\n")
    assert "#EXT-X-PART:" not in text
    assert "HINT" not in text


def test_plain_mpegts_with_a_gap() -> None:
    segments = [
        Segment(Head(program_time="t7"), "7.ts", 1_966_667, independent=False),
        Segment(Head(discontinuity=True), "8.ts", 3_400_000, gap=True),
    ]
    text = MediaPlaylist(target_duration=3, media_sequence=7, discontinuity_sequence=0, segments=segments, version=3).render()
    assert (
        text.replace("\0", "")
        == """\
#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:3
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-PROGRAM-DATE-TIME:t7
#EXTINF:1.966667,
7.ts
#EXT-X-DISCONTINUITY
#EXT-X-GAP
#EXTINF:3.4,
8.ts
"""
    )


@pytest.mark.parametrize(("count", "open_parts", "skipped"), [(4, 0, 0), (6, 0, 0), (7, 0, 1), (7, 4, 2), (20, 0, 14), (0, 4, 0)])
def test_delta_skips_what_is_beyond_six_targets(count: int, open_parts: int, skipped: int) -> None:
    parts = tuple(Part(f"o.{i}.m4s", 500_000, False) for i in range(open_parts))
    segments = [_segment(n) for n in range(count)]
    playlist = MediaPlaylist(2, 0, 0, segments, 500_000, open_head=Head("init0.mp4"), open_parts=parts, hint="h")
    assert playlist.skippable() == skipped
    delta = playlist.render(delta=True)
    assert ("#EXT-X-SKIP:SKIPPED-SEGMENTS" in delta) is bool(skipped)
    if not skipped:
        assert delta == playlist.render()
        return
    assert f"SKIPPED-SEGMENTS={skipped}\n" in delta
    assert f"\n{skipped}.m4s" in delta
    assert f"\n{skipped - 1}.m4s" not in delta


def test_multivariant() -> None:
    rows = [
        Variant("main.m3u8?s=1", 3_000_000, 2_750_001, ("avc1.64001f", "Opus"), 1280, 720, 29.97),
        Variant("aac.m3u8?s=1", 64_000, 60_000, ("mp4a.40.2",)),
    ]
    assert (
        multivariant(rows)
        == """\
#EXTM3U
#EXT-X-VERSION:7
#EXT-X-INDEPENDENT-SEGMENTS
#EXT-X-STREAM-INF:BANDWIDTH=3000000,AVERAGE-BANDWIDTH=2750001,CODECS="avc1.64001f,Opus",RESOLUTION=1280x720,FRAME-RATE=29.970
main.m3u8?s=1
#EXT-X-STREAM-INF:BANDWIDTH=64000,AVERAGE-BANDWIDTH=60000,CODECS="mp4a.40.2"
aac.m3u8?s=1
"""
    )


@pytest.mark.parametrize(
    ("query", "reload"),
    [
        ({}, Reload()),
        ({"_HLS_msn": "7", "token": "x", "_HLS_push": "1"}, Reload(7)),
        ({"_HLS_msn": "0", "_HLS_part": "12", "_HLS_skip": "YES"}, Reload(0, 12, True)),
        ({"_HLS_skip": "v2"}, Reload(skip=True)),
        ({"_HLS_msn": str(MAX_SEQUENCE)}, Reload(MAX_SEQUENCE)),
    ],
)
def test_directives(query: dict[str, str], reload: Reload) -> None:
    assert parse_reload(query) == reload


@pytest.mark.parametrize(
    "query",
    [
        {"_HLS_part": "1"},
        {"_HLS_skip": "yes"},
        {"_HLS_skip": ""},
        *[{"_HLS_msn": v} for v in ("", "-1", "1.5", "٣", "0x1", " 1", "9" * 40, str(MAX_SEQUENCE + 1))],
    ],
)
def test_bad_directives(query: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        parse_reload(query)


def test_durations() -> None:
    assert [seconds(v) for v in (0, 1, 500_000, 2_000_000, 1_966_667)] == ["0.0", "0.000001", "0.5", "2.0", "1.966667"]
    assert [target_of(v) for v in (1, 1_499_999, 1_500_000, 2_499_999, 12_033_333)] == [1, 1, 2, 2, 12]
