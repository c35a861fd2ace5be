"""HLS over files: maps, breaks, growth; what HLS does not carry."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from harness import AUDIO, VIDEO

from medianode.egress.playback.footage import Footage, Reel
from medianode.egress.playback.playlists import Cuts, Entry, Past, multivariant, render, text_for
from medianode.egress.playback.span import Span
from medianode.errors import LimitExceeded, NotFound, UnsupportedMedia
from medianode.media.parts import Part, pack
from medianode.media.track import Codec, Track
from medianode.protocols import fmp4
from medianode.protocols.fmp4_samples import Format, formats
from medianode.store.recordings import Recording

SHAPE = formats(fmp4.init_segment((VIDEO, AUDIO)))
OTHER = (SHAPE[0]._replace(entry=SHAPE[0].entry + b"x"), SHAPE[1])
REEL = Reel(Recording(id="rec_a", project_id="p", room="r", node_id="n", directory="/d", started_at=1000.0), ())


def file(sequence: int, *, start: int | None = None, gap: str = "", seconds: int = 8, closed: bool = True) -> Footage:
    start = (sequence - 1) * 8_000_000 if start is None else start
    parts = tuple(Part(500 + i * 1000, 1000, start + i * 1_000_000, 1_000_000, i % 2 == 0) for i in range(seconds))
    length, nbytes = seconds * 1_000_000, 500 + seconds * 1000
    path = Path(f"/d/{sequence:06}.mp4")
    return Footage(path, sequence, 1000 + start / 1e6, start, length, nbytes, 500, gap, closed, index=pack(parts))


def entry(of: Footage, shape: tuple[Format, ...] = SHAPE, *, follows: bool = True) -> Entry:
    return Entry(REEL, of, of.name, shape, follows)


def made(*entries: Entry, span: Span = Span(), growing: bool = False, bound: int = 1000, past: Past | None = None) -> str:  # noqa: B008 - frozen
    return text_for(render(entries, Cuts(), span, growing=growing, bound=bound, past=past), "?token=t").decode()


def test_files_of_one_format_share_one_map_and_need_no_discontinuity() -> None:
    text = made(entry(file(1)), entry(file(2)))
    assert text.count("#EXT-X-MAP") == 1
    assert '#EXT-X-MAP:URI="000001.mp4?token=t",BYTERANGE="500@0"' in text
    assert "DISCONTINUITY" not in text
    assert re.findall(r"#EXT-X-BYTERANGE:(\S+)\n(\S+)", text) == [
        ("4000@500", "000001.mp4?token=t"),
        ("4000@4500", "000001.mp4?token=t"),
        ("4000@500", "000002.mp4?token=t"),
        ("4000@4500", "000002.mp4?token=t"),
    ]
    assert text.startswith("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-TARGETDURATION:4\n")
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert "#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:16:48.000Z\n#EXTINF:4.0,\n#EXT-X-BYTERANGE:4000@500\n000002" in text


def test_a_gap_is_a_discontinuity_and_a_new_format_a_new_map_as_well() -> None:
    text = made(
        entry(file(1)), entry(file(2, gap="publisher-gap"), follows=False), entry(file(3, gap="track-changed"), OTHER, follows=False)
    )
    assert text.count("#EXT-X-DISCONTINUITY\n") == 2
    assert "#EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:16:48.000Z\n" in text
    assert '#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI="000003.mp4?token=t",BYTERANGE="500@0"\n' in text


def test_growing_lists_what_is_final_and_its_target_duration_does_not_shrink() -> None:
    open_file = replace(file(2, seconds=7, closed=False), listed=tuple(file(2, seconds=7).parts))
    text = made(entry(file(1)), entry(open_file), growing=True, past=Past(target=6))
    assert "#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:0\n" in text
    assert "ENDLIST" not in text
    assert text.count("#EXTINF") == 3
    # once the oldest file was deleted it does not only grow any more
    assert "EVENT" not in (later := made(entry(open_file), growing=True, past=Past(dropped=2)))
    assert "#EXT-X-MEDIA-SEQUENCE:2\n" in later


def test_a_span_takes_whole_segments_and_says_where_to_begin() -> None:
    text = made(entry(file(1)), entry(file(2)), span=Span(1005.5, 1009.0))
    assert re.findall(r"BYTERANGE:(\S+)\n(\w+)", text) == [("4000@4500", "000001"), ("4000@500", "000002")]
    assert "#EXT-X-START:TIME-OFFSET=1.5,PRECISE=YES\n" in text
    with pytest.raises(NotFound, match="nothing is recorded"):
        made(entry(file(1)), span=Span(2000.0, 2001.0))


def test_jpeg_is_no_hls_but_does_not_hide_what_is() -> None:
    jpeg = (Format(1, Track(0, Codec.MJPEG, 90_000, width=320, height=240), b"jpeg", (0, 0)),)
    with pytest.raises(UnsupportedMedia, match="download it") as refused:
        made(entry(file(1), jpeg))
    assert refused.value.code == "not-for-hls"
    text = made(entry(file(1)), entry(file(2), jpeg), entry(file(3)))
    assert "000002" not in text
    assert "#EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:16:56.000Z" in text


def test_too_long_is_refused() -> None:
    with pytest.raises(LimitExceeded, match="ask for less"):
        made(entry(file(1)), entry(file(2)), bound=3)


def test_the_multivariant_playlist_tells_codecs_and_rates() -> None:
    text = multivariant(render([entry(file(1))], Cuts(), Span(), growing=False, bound=10), "?token=t")
    assert 'BANDWIDTH=8000,AVERAGE-BANDWIDTH=8000,CODECS="avc1.64000d,mp4a.40.2",RESOLUTION=320x240\nmain.m3u8?token=t\n' in text
