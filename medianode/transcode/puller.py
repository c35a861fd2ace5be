"""FFmpeg's demuxers for the puller: what others send in formats that we do not read ourselves, as access units. One thread per stream.

FFmpeg opens nothing here: it reads what it is handed, so that it neither resolves names nor follows what a stream names, and a thread
waits for bytes only, never for a network: it ends when its owner says so. The format is told, not guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Final, NamedTuple

import av
from av.container.input import InputContainer

from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.media.track import Codec

LIVE_FORMATS: Final = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"OggS": "ogg",
    b"ID3": "mp3",
    b"\xff\xfb": "mp3",
    b"\xff\xfa": "mp3",
    b"\xff\xf3": "mp3",
    b"\xff\xf1": "aac",
    b"\xff\xf9": "aac",
}
"""First bytes, and FFmpeg's name."""
BUFFER = 1 << 22
"""Bytes that wait for the thread: beyond, the source is read more slowly."""
PROBE = "262144"
_TICKS = 90_000
_BY_NAME = {codec.value: codec for codec in Codec} | {"libdav1d": Codec.AV1, "libopus": Codec.OPUS, "mp3float": Codec.MP3}
_OPTIONS = {"protocol_whitelist": "", "probesize": PROBE, "analyzeduration": "1000000"}


class DemuxedUnit(NamedTuple):
    """`config`: set with the first unit of a stream, and only where its container has one. Stamps in 1/90000 s."""

    codec: Codec
    config: bytes
    data: bytes
    dts: int
    pts: int


class StreamDemuxer:
    """`feed` bytes in the loop, get what the thread has made of those before. `close` ends the thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._condition = threading.Condition()
        self._bytes = bytearray()
        self._units: list[DemuxedUnit] = []
        self._room = asyncio.Event()
        self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="medianode-pull", daemon=True)
        self._thread.start()

    async def feed(self, data: bytes) -> list[DemuxedUnit]:
        """Waits while the thread has BUFFER bytes to read. Raises PeerError where it can make nothing of them."""
        while True:
            with self._condition:
                units, self._units = self._units, []
                error = self._error
                if len(self._bytes) < BUFFER:
                    self._bytes += data
                    self._condition.notify()
                    full = False
                else:
                    self._room.clear()
                    full = True
            if error is not None and not units:
                raise error
            if not full:
                return units
            await self._room.wait()

    def close(self) -> None:
        """It reads an end, and is gone within what it is making of the last bytes."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def read(self, size: int) -> bytes:
        """For FFmpeg, in the thread: empty at the end."""
        with self._condition:
            while not self._bytes and not self._closed:
                self._condition.wait()
            data = b"" if self._closed else bytes(self._bytes[:size])
            del self._bytes[: len(data)]
            was_full = len(self._bytes) + len(data) >= BUFFER
        if was_full or self._closed:
            self._tell()
        return data

    def _run(self) -> None:
        try:
            with av.open(self, "r", format=self._name, options=_OPTIONS, buffer_size=32_768) as container:
                for unit in _units(container):
                    with self._condition:
                        self._units.append(unit)
        except (av.FFmpegError, ValueError) as e:
            self._error = ProtocolError(f"{self._name}: it cannot be read: {_words(e)}", code="undecodable-media")
        except Exception as e:  # noqa: BLE001 - the thread's guard: raised again where it is fed
            self._error = e
        finally:
            self._error = self._error or ProtocolError(f"{self._name}: it ended", code="source-ended")
            self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._room.set)


def read_segment(data: bytes) -> list[DemuxedUnit]:
    """All of one fragmented MP4: initialisation and segment together. Blocks for milliseconds: call it in a thread. Raises PeerError."""
    try:
        with av.open(io.BytesIO(data), "r", format="mp4", options=_OPTIONS) as container:
            return list(_units(container))
    except (av.FFmpegError, ValueError) as e:
        raise ProtocolError(f"segment: it cannot be read: {_words(e)}", code="undecodable-media") from None


def _units(container: InputContainer) -> Iterator[DemuxedUnit]:
    """Of the first picture and the first sound that the house can carry. Raises UnsupportedMedia where there is neither."""
    chosen: dict[int, Codec] = {}
    for streams in (container.streams.video, container.streams.audio):
        for stream in streams:
            codec = _BY_NAME.get(stream.codec_context.name)
            if codec is not None:
                chosen[stream.index] = codec
                break
    if not chosen:
        names = ", ".join(stream.codec_context.name for stream in container.streams if stream.type in ("video", "audio")) or "no stream"
        raise UnsupportedMedia(f"expected a codec that the node carries, got {names}", code="unsupported-codec")
    told: set[int] = set()
    last: dict[int, int] = {}
    for packet in container.demux([container.streams[index] for index in chosen]):
        stamp = packet.dts if packet.dts is not None else packet.pts
        if packet.size == 0 or stamp is None or packet.time_base is None:
            continue
        index = packet.stream_index
        codec = chosen[index]
        dts = max(_stamp(stamp, packet.time_base), last.get(index, -(1 << 62)))
        last[index] = dts
        pts = dts if packet.pts is None else max(_stamp(packet.pts, packet.time_base), dts)
        config = b""
        if index not in told:
            told.add(index)
            config = _config(codec, packet.stream.codec_context.extradata or b"")
        yield DemuxedUnit(codec, config, bytes(packet), dts, pts)


def _config(codec: Codec, extradata: bytes) -> bytes:
    """As Track.config has it; empty where the stream itself tells it better, or in another form."""
    if codec is Codec.FLAC:
        return extradata[-34:]
    first = {Codec.H264: (b"\x00", b"\x01"), Codec.HEVC: (b"\x00", b"\x01"), Codec.AV1: (b"\x81",), Codec.VP9: ()}.get(codec)
    return extradata if first is None or (extradata[:1] in first and not extradata.startswith((b"\0\0\1", b"\0\0\0\1"))) else b""


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or type(error).__name__)


def _stamp(value: int, base: Fraction) -> int:
    return round(value * base * _TICKS)
