"""Strip: key frames as tiles of one JPEG, row by row: what a player shows while somebody seeks. One at a time, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import av
from av.video.reformatter import VideoReformatter

from medianode import clock
from medianode.errors import LimitExceeded, PeerError, UnsupportedMedia
from medianode.media.packet import Packet
from medianode.transcode.decode import decode_keyframe
from medianode.transcode.encode import JpegEncoder
from medianode.transcode.workers import Workers

SECONDS = 20.0
"""How long one may take."""
_BLACK = (0, 128, 128)
_WORKERS = Workers("strips", 1, 8)


async def strip_jpeg(
    frames: Sequence[Callable[[], Packet]], columns: int, width: int, *, ratio: float, quality: int, max_pixels: int
) -> bytes:
    """A JPEG of `columns` tiles a row, each `width` pixels wide (even; height by `ratio`, height over width), in order.

    `frames`: one key frame each, read in the thread. One that cannot be decoded leaves its tile black. Raises LimitExceeded (`node-full`;
    `too-slow`: over SECONDS), what reading raises, and UnsupportedMedia.
    """
    return await _WORKERS.run(_render, tuple(frames), columns, width, ratio, quality, max_pixels)


def tile_size(width: int, ratio: float) -> tuple[int, int]:
    """Of a tile, pixels: both even."""
    width = max(2, width // 2 * 2)
    return width, max(2, min(4 * width, round(width * ratio / 2) * 2))


def _render(frames: Sequence[Callable[[], Packet]], columns: int, width: int, ratio: float, quality: int, max_pixels: int) -> bytes:
    wide, high = tile_size(width, ratio)
    rows = -(-len(frames) // columns)
    canvas = av.VideoFrame(columns * wide, rows * high, "yuvj420p")
    planes = [bytearray(bytes((value,)) * plane.buffer_size) for plane, value in zip(canvas.planes, _BLACK, strict=True)]
    until = clock.now() + SECONDS
    reformatter = VideoReformatter()
    for number, read in enumerate(frames):
        if clock.now() > until:
            raise LimitExceeded(f"a strip of {len(frames)} pictures takes too long here: ask for fewer", code="too-slow")
        key_frame = read()
        try:
            picture = decode_keyframe(key_frame, max_pixels)
        except PeerError:
            continue
        small = reformatter.reformat(picture, wide, high, "yuvj420p", dst_color_range="JPEG")
        left, top = number % columns * wide, number // columns * high
        for pixels, plane, source, scale in zip(planes, canvas.planes, small.planes, (1, 2, 2), strict=True):
            _put(pixels, plane.line_size, left // scale, top // scale, source)
    for plane, pixels in zip(canvas.planes, planes, strict=True):
        plane.update(bytes(pixels))
    encoder = JpegEncoder(canvas.width, canvas.height, quality)
    try:
        return encoder.encode(canvas)
    except av.FFmpegError as e:
        raise UnsupportedMedia(f"mjpeg: expected a strip of {canvas.width}x{canvas.height} to encode: {e}") from None
    finally:
        encoder.close()


def _put(pixels: bytearray, stride: int, left: int, top: int, source: av.video.plane.VideoPlane) -> None:
    """A plane into a larger one."""
    given, width = memoryview(source), source.width
    at = top * stride + left
    for row in range(0, source.height * source.line_size, source.line_size):
        pixels[at : at + width] = given[row : row + width]
        at += stride
