"""Artwork: what a slate shows, drawn or decoded to pictures of the size that is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Literal

import av
from av.codec.context import CodecContext

from medianode.codecs.jpeg import is_jpeg, parse_jpeg
from medianode.errors import InvalidRequest, LimitExceeded, MedianodeError
from medianode.transcode import lettering
from medianode.transcode.clip import chain, load_clip
from medianode.transcode.clip import pictures as decoded

STAND_BY = "STAND BY"
MAX_SIDE = 8192
MAX_SCANS = 100
"""Of a JPEG; progressive ones have ten or so. Each goes over the whole picture and may have 70 bytes: 8 MiB of them take a minute."""
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PAPER, _BAND, _INK = 32, 44, 214


@dataclass(frozen=True, slots=True)
class Artwork:
    """`text`: the built-in picture with these words. `image`: a PNG or JPEG in `data`; `clip`: a `clip.Clip`, encoded."""

    kind: Literal["text", "image", "clip"]
    text: str = ""
    data: bytes = field(default=b"", repr=False)


def is_image(data: bytes) -> bool:
    """By its first bytes."""
    return data.startswith(_PNG) or is_jpeg(data)


def check_image(data: bytes, max_pixels: int) -> str:
    """Its media type; it was decoded once. Raises InvalidRequest: neither PNG nor JPEG, broken, too large."""
    try:
        width, height = _size(data)
        if not 1 <= width <= MAX_SIDE or not 1 <= height <= MAX_SIDE or width * height > max_pixels:
            raise LimitExceeded(f"expected at most {max_pixels} pixels and {MAX_SIDE} a side, got {width}x{height}")
        _decode(data)
    except MedianodeError as e:
        raise InvalidRequest(f"slate: {e.message}", code="bad-image") from None
    return "image/png" if data.startswith(_PNG) else "image/jpeg"


def pictures(artwork: Artwork, width: int, height: int, frame_rate: int, seconds: int) -> Iterator[av.VideoFrame]:
    """As `picture`, for one loop: those of a clip once, at this rate; of what stands still the same again for so many seconds."""
    if artwork.kind != "clip":
        yield from repeat(picture(artwork, width, height), seconds * frame_rate)
        return
    clip = load_clip(artwork.data)
    shown = 0
    for number, frame in enumerate(fitted(decoded(clip), width, height)):
        while shown * clip.frame_rate < (number + 1) * frame_rate:
            yield frame
            shown += 1


def picture(artwork: Artwork, width: int, height: int) -> av.VideoFrame:
    """yuv420p of this size (even), the artwork in the middle of it with its aspect kept. Raises MedianodeError."""
    if artwork.kind == "text":
        return _stand_by(artwork.text or STAND_BY, width, height)
    if artwork.kind == "clip":
        return next(fitted(decoded(load_clip(artwork.data)), width, height))
    return next(fitted(iter((_decode(artwork.data),)), width, height))


def fitted(frames: Iterator[av.VideoFrame], width: int, height: int) -> Iterator[av.VideoFrame]:
    """Pictures of one size and format, made to fit into another."""
    graph = None
    scale = f"{width}:{height}:force_original_aspect_ratio=decrease:force_divisible_by=2:out_range=tv"
    pad = f"{width}:{height}:-1:-1:black"
    for frame in frames:
        graph = graph or chain(frame, ("scale", scale), ("pad", pad), ("format", "yuv420p"), ("setsar", "1"))
        graph.vpush(frame)
        yield graph.vpull()


def _size(data: bytes) -> tuple[int, int]:
    """By its header: nothing is decoded of what is too large."""
    if is_jpeg(data):
        info = parse_jpeg(data)
        if data.count(b"\xff\xda") > MAX_SCANS:
            raise LimitExceeded(f"JPEG: expected at most {MAX_SCANS} scans")
        return info.width, info.height
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) > 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    raise InvalidRequest("expected a PNG or a JPEG")


def _decode(data: bytes) -> av.VideoFrame:
    """By the decoder of its format: no demuxer, nothing is probed."""
    is_png = data.startswith(_PNG)
    context = CodecContext.create("png" if is_png else "mjpeg", "r")
    context.thread_count = 1
    data = _picture_only(data) if is_png else data
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except (av.FFmpegError, ValueError) as e:
        raise InvalidRequest(f"expected a picture that can be decoded: {e}") from None
    if not frames:
        raise InvalidRequest("expected a picture that can be decoded, got none")
    frame = frames[0]
    frame.pts = 0
    return frame


def _picture_only(png: bytes) -> bytes:
    """Without profiles and texts: a megabyte of them unpacks to a gigabyte (PNG 11.2), and the decoder would keep it."""
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] in _PNG_PICTURE:
            kept.append(png[at:end])
        at = end
    return b"".join(kept)


def _stand_by(text: str, width: int, height: int) -> av.VideoFrame:
    """The words on a dark ground, over a lighter band."""
    frame = av.VideoFrame(width, height, "yuv420p")
    luma = bytearray(bytes((_PAPER,)) * (width * height))
    columns = max(8, min(24, max(map(len, text.split()), default=8)))
    lines = lettering.wrap(text, max(columns, 16))
    longest = max(map(len, lines), default=1)
    scale = max(1, min(width * 7 // 10 // (longest * lettering.COLUMNS), height // 3 // (max(1, len(lines)) * lettering.LINES)))
    block = len(lines) * lettering.LINES * scale
    top = max(0, (height - block) // 2)
    for y in range(max(0, top - 3 * scale), min(height, top + block + scale)):
        luma[y * width : (y + 1) * width] = bytes((_BAND,)) * width
    for number, line in enumerate(lines):
        left = max(0, (width - len(line) * lettering.COLUMNS * scale) // 2)
        for dy, row in enumerate(lettering.pixels(line, scale, _INK, _BAND)):
            y = top + number * lettering.LINES * scale + dy
            if y < height:
                start = y * width + left
                luma[start : start + min(len(row), width - left)] = row[: width - left]
    _fill(frame.planes[0], luma, width, height)
    for plane in frame.planes[1:]:
        _fill(plane, bytes((128,)) * (width // 2 * (height // 2)), width // 2, height // 2)
    return frame


def _fill(plane: av.video.plane.VideoPlane, data: bytes | bytearray, width: int, height: int) -> None:
    target = memoryview(plane)
    for y in range(height):
        target[y * plane.line_size : y * plane.line_size + width] = data[y * width : (y + 1) * width]
