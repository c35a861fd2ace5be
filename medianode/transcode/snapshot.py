"""Snapshots: one key frame to one JPEG, in two threads of their own and a bounded number at a time."""

from __future__ import annotations

import av

from medianode.errors import InvalidRequest, LimitExceeded, ProtocolError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.media.track import Codec
from medianode.transcode.decode import decode_keyframe
from medianode.transcode.encode import JpegEncoder
from medianode.transcode.workers import Workers

MAX_WIDTH = 3840
MAX_PIXELS = 3840 * 2160 * 4

THREADS = 2
WORKERS = Workers("snapshots", THREADS, 32)


async def keyframe_jpeg(packet: Packet, width: int | None, quality: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """This key frame as JPEG, scaled to `width` pixels (1 to MAX_WIDTH, even height, aspect kept) if given; `quality` is FFmpeg's qscale.

    A JPEG without `width` is returned as it is. Raises LimitExceeded (`node-full`: as many as may be wait already; `picture-too-large`),
    InvalidRequest for a width out of range, ProtocolError `undecodable`, UnsupportedMedia.
    """
    if width is not None and not 1 <= width <= MAX_WIDTH:
        raise InvalidRequest(f"width: expected 1 to {MAX_WIDTH}, got {width}")
    if width is None and packet.track.codec is Codec.MJPEG:
        return packet.data
    if not packet.track.is_video or not packet.keyframe:
        raise ProtocolError(f"snapshot: expected a video key frame, got {packet.track.codec.value}, keyframe {packet.keyframe}")
    return await WORKERS.run(_render, packet, width, quality, max_pixels)


def _render(packet: Packet, width: int | None, quality: int, max_pixels: int) -> bytes:
    frame = decode_keyframe(packet, max_pixels)
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
