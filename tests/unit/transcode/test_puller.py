"""FFmpeg's demuxers fed by hand: what comes out, what is not opened, and that no thread stays."""

from __future__ import annotations

import asyncio
import io
import threading

import av
import pytest

from medianode.errors import PeerError, ProtocolError
from medianode.media.track import Codec
from medianode.transcode.puller import LIVE_FORMATS, DemuxedUnit, StreamDemuxer, read_segment


def ogg(seconds: int = 1) -> bytes:
    made = io.BytesIO()
    with av.open(made, "w", format="ogg") as out:
        stream = out.add_stream("libopus", rate=48_000)
        for i in range(seconds * 50):
            frame = av.AudioFrame(format="flt", layout="stereo", samples=960)
            frame.sample_rate, frame.pts = 48_000, i * 960
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return made.getvalue()


async def drained(demuxer: StreamDemuxer, data: bytes) -> list[DemuxedUnit]:
    units: list[DemuxedUnit] = []
    for at in range(0, len(data), 500):
        units += await demuxer.feed(data[at : at + 500])
    async with asyncio.timeout(10):
        while len(units) < 40:
            units += await demuxer.feed(b"")
            await asyncio.sleep(0)
    return units


async def test_a_live_stream_in_pieces() -> None:
    before = threading.active_count()
    data = ogg()
    assert LIVE_FORMATS[data[:4]] == "ogg"
    demuxer = StreamDemuxer("ogg")
    units = await drained(demuxer, data)
    assert {unit.codec for unit in units} == {Codec.OPUS}
    assert units[0].config.startswith(b"OpusHead")
    assert not any(unit.config for unit in units[1:])
    assert [unit.dts for unit in units] == sorted(unit.dts for unit in units)
    demuxer.close()
    demuxer._thread.join(5)
    assert threading.active_count() <= before


async def test_what_cannot_be_read_is_told_and_a_thread_that_waits_ends() -> None:
    waiting = StreamDemuxer("matroska")
    assert await waiting.feed(b"\x1a\x45\xdf\xa3") == []
    waiting.close()
    waiting._thread.join(5)
    assert not waiting._thread.is_alive()
    bad = StreamDemuxer("matroska")
    with pytest.raises(ProtocolError):
        await drained(bad, b"no such thing" * 100_000)
    bad.close()
    bad._thread.join(5)
    assert not bad._thread.is_alive()


def test_segments_that_are_none() -> None:
    for data in (b"", b"garbage" * 50, b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"):
        with pytest.raises(PeerError):
            read_segment(data)
