"""Formats and sample tables read back from what fmp4 writes, and what PyAV (FFmpeg) makes of the MP4 that they become."""

import contextlib
import io
import struct

import av
import pytest
from harness import AUDIO, VIDEO
from hypothesis import given
from hypothesis import strategies as st

from medianode.codecs import opus
from medianode.errors import PeerError, ProtocolError
from medianode.media.track import Codec, Track
from medianode.protocols import fmp4, mp4
from medianode.protocols.fmp4 import Sample
from medianode.protocols.fmp4_boxes import box, full_box, parse_boxes
from medianode.protocols.fmp4_samples import formats, samples

JPEG = Track(0, Codec.MJPEG, 90_000, width=640, height=480)
MP3 = Track(0, Codec.MP3, 44_100, sample_rate=44_100, channels=2)
OPUS = Track(1, Codec.OPUS, 48_000, opus.build_head(opus.OpusHead(2)), sample_rate=48_000, channels=2)


def fragment(*runs: tuple[int, int, list[Sample]]) -> bytes:
    whole = fmp4.fragment(7, runs)
    return whole[: struct.unpack_from(">I", whole)[0]]


def test_formats_are_the_tracks_that_were_written() -> None:
    for tracks in ((VIDEO, AUDIO), (VIDEO, OPUS), (AUDIO,), (JPEG,), (MP3,)):
        found = formats(fmp4.init_segment(tracks))
        assert [form.number for form in found] == list(range(1, len(tracks) + 1))
        for form, track in zip(found, tracks, strict=True):
            read = form.track
            assert (read.codec, read.clock_rate, read.config) == (track.codec, track.clock_rate, track.config)
            assert (read.sample_rate, read.channels) == (track.sample_rate, track.channels)
            assert (read.width, read.height) == (track.width, track.height)
            assert form.signature == formats(fmp4.init_segment(tracks))[form.number - 1].signature


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 300), st.integers(-9000, 9000), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 2**40),
)
def test_samples_come_back_as_they_went_in(rows: list[tuple[int, int, int, bool]], base: int) -> None:
    written = [Sample(bytes(size), duration, shift, key) for duration, size, shift, key in rows]
    (found,) = samples(fragment((0, base, written)))
    assert (found.number, found.base) == (1, base)
    assert list(found.durations) == [s.duration for s in written]
    assert list(found.sizes) == [len(s.data) for s in written]
    assert list(found.compositions or [0] * len(written)) == [s.composition_offset for s in written]
    assert (list(range(len(written))) if found.keys is None else list(found.keys)) == [i for i, s in enumerate(written) if s.keyframe]


def test_where_the_samples_stand() -> None:
    picture, sound = [Sample(b"abc", 10), Sample(b"de", 10, 0, False)], [Sample(b"fgh", 20)]
    whole = fmp4.fragment(7, [(0, 0, picture), (1, 0, sound)])
    video, audio = samples(whole[: struct.unpack_from(">I", whole)[0]])
    assert whole[video.data : video.data + 5] == b"abcde"
    assert whole[audio.data : audio.data + 3] == b"fgh"


def test_a_run_that_does_not_tell_sizes_is_refused_whatever_it_counts() -> None:
    """Four thousand million samples of one duration and one size, in 68 bytes: nobody makes a list of them."""
    tfhd = full_box(b"tfhd", 0, 0x2_0018, struct.pack(">III", 1, 10, 1))
    for count in (3, 0xFFFF_FFFF):
        traf = box(b"traf", tfhd, full_box(b"tfdt", 0, 0, bytes(4)), full_box(b"trun", 0, 0, struct.pack(">I", count)))
        with pytest.raises(ProtocolError):
            samples(box(b"moof", full_box(b"mfhd", 0, 0, bytes(4)), traf))


@given(st.data())
def test_cut_and_spoilt_boxes_are_protocol_errors(data: st.DataObject) -> None:
    whole = fragment((0, 5, [Sample(b"a", 10), Sample(b"b", 11, 3, False)]), (1, 5, [Sample(b"c", 9)]))
    init = fmp4.init_segment((VIDEO, AUDIO))
    for body, read in ((whole, samples), (init, formats)):
        cut = data.draw(st.integers(0, len(body) - 1))
        with pytest.raises(PeerError):
            read(body[:cut])
        spoilt = bytearray(body)
        spoilt[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(PeerError):
            read(bytes(spoilt))
    with pytest.raises(ProtocolError):
        samples(b"")


def made(*chunks: tuple[int, list[int], list[int], list[int]], edit: mp4.Edit | None = None) -> tuple[bytes, mp4.TrackTable]:
    """Sound of (at, durations, sizes, compositions) each, on one track."""
    table = mp4.TrackTable(formats(fmp4.init_segment((AUDIO,)))[0])
    offset = 0
    for at, durations, sizes, compositions in chunks:
        table.add(at, offset, durations, sizes, compositions, None)
        offset += sum(sizes)
    return mp4.head([(table, edit or mp4.Edit(0, table.lead, table.end))], offset) + bytes(offset), table


def test_chunks_that_do_not_meet_stretch_and_shrink_what_is_between() -> None:
    _, table = made((0, [1024] * 3, [5] * 3, []), (4000, [1024], [5], []), (5000, [1024], [5], []))
    assert table.end == 6024
    body, _ = made((0, [1024] * 3, [5] * 3, []), (4000, [1024], [5], []), (5000, [1024], [5], []))
    with av.open(io.BytesIO(body)) as container:
        assert [packet.dts for packet in container.demux(audio=0) if packet.dts is not None] == [0, 1024, 2048, 4000, 5000]


def test_composition_offsets_below_zero_are_lifted_and_the_edit_list_takes_that_back() -> None:
    body, table = made((0, [1000] * 3, [5] * 3, [0, -1000, 500]))
    assert table.lead == 1000
    moov = next(box for box in parse_boxes(body) if box.type == b"moov")
    ctts = moov.find(b"trak", b"mdia", b"minf", b"stbl", b"ctts").payload
    assert struct.unpack_from(">7I", ctts, 4) == (3, 1, 1000, 1, 0, 1, 1500)
    elst = moov.find(b"trak", b"edts", b"elst").payload
    assert struct.unpack_from(">IQq", elst, 4) == (1, 3000 * 90_000 // 48_000, 1000)


def test_over_four_gigabytes_offsets_are_wide() -> None:
    table = mp4.TrackTable(formats(fmp4.init_segment((AUDIO,)))[0])
    for i in range(3):
        table.add(i * 1024, i << 31, [1024], [1 << 31], [], None)
    head = mp4.head([(table, mp4.Edit(0, 0, table.end))], 3 << 31)
    assert head[-16:] == struct.pack(">I4sQ", 1, b"mdat", (3 << 31) + 16)
    moov = next(box for box in parse_boxes(head[:-16]) if box.type == b"moov")
    co64 = moov.find(b"trak", b"mdia", b"minf", b"stbl", b"co64").payload
    assert struct.unpack_from(">IQQQ", co64, 4) == (3, len(head), len(head) + (1 << 31), len(head) + (2 << 31))
