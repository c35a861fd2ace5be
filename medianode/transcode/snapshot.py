"""Snapshots: one key frame to one JPEG, in two threads of their own and a bounded number at a time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import av

from medianode.errors import InvalidRequest, LimitExceeded, ProtocolError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import Codec
from medianode.transcode.decode import VideoDecoder
from medianode.transcode.encode import JpegEncoder

THREADS = 2
PENDING = 32
"""Snapshots at work or waiting for a thread; more are refused."""
MAX_WIDTH = 3840
MAX_PIXELS = 3840 * 2160 * 4

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="snapshot")
_pending = 0


async def keyframe_jpeg(packet: Packet, width: int | None, quality: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """This key frame as JPEG, scaled to `width` pixels (1 to MAX_WIDTH, even height, aspect kept) if given; `quality` is FFmpeg's qscale.

    A JPEG without `width` is returned as it is. Raises LimitExceeded (`node-full`: PENDING at work already; `picture-too-large`),
    InvalidRequest for a width out of range, ProtocolError `undecodable`, UnsupportedMedia.
    """
    global _pending  # noqa: PLW0603 - one pool, one count
    if width is not None and not 1 <= width <= MAX_WIDTH:
        raise InvalidRequest(f"width: expected 1 to {MAX_WIDTH}, got {width}")
    if width is None and packet.track.codec is Codec.MJPEG:
        return packet.data
    if not packet.track.is_video or not packet.keyframe:
        raise ProtocolError(f"snapshot: expected a video key frame, got {packet.track.codec.value}, keyframe {packet.keyframe}")
    if _pending >= PENDING:
        raise LimitExceeded(f"{PENDING} snapshots are waiting already", code="node-full")
    _pending += 1
    try:
        work = asyncio.get_running_loop().run_in_executor(_threads, _render, packet, width, quality, max_pixels)
        work.add_done_callback(_done)
    except RuntimeError:
        _pending -= 1
        raise
    return await asyncio.shield(work)


def _done(work: asyncio.Future[bytes]) -> None:
    """Counted here and not where the caller waits: one that gave up leaves its work in the thread."""
    global _pending  # noqa: PLW0603
    _pending -= 1
    if not work.cancelled():
        work.exception()


def _render(packet: Packet, width: int | None, quality: int, max_pixels: int) -> bytes:
    decoder = VideoDecoder(packet.track, max_pixels)
    try:
        frames = decoder.decode(packet) or decoder.decode(None)
        if not frames:
            raise ProtocolError(f"{packet.track.codec.value}: expected a picture in a key frame of {len(packet.data)} bytes, got none")
        frame = frames[0]
        if width is None:
            size = (frame.width, frame.height)
        else:
            size = (width, max(2, round(width * frame.height / frame.width / 2) * 2))
            if size[1] > 4 * MAX_WIDTH:
                raise LimitExceeded(f"snapshot: expected a height of at most {4 * MAX_WIDTH}, got {size[1]}", code="picture-too-large")
        encoder = JpegEncoder(*size, quality)
        try:
            return encoder.encode(frame)
        except av.FFmpegError as e:
            raise UnsupportedMedia(f"mjpeg: expected a picture of {size[0]}x{size[1]} to encode: {e}") from None
        finally:
            encoder.close()
    finally:
        decoder.close()
