"""The test picture and sound: a moving pattern with the time of day in it, and a beep at each second."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from fractions import Fraction

import av

from medianode import clock
from medianode.media.packet import Packet
from medianode.media.track import VIDEO_CLOCK_RATE, Codec, Track
from medianode.transcode import lettering
from medianode.transcode.encode import AudioEncoder, H264Encoder

WIDTH, HEIGHT, FRAME_RATE, SAMPLE_RATE = 1280, 720, 30, 48_000
BIT_RATE = 2_500_000
BEEP_SECONDS = 0.1

SCALE = 8
CLOCK_X, CLOCK_Y = 32, HEIGHT - 32 - 9 * SCALE
_BLACK, _WHITE = 16, 235
_COLUMNS, _ROWS = lettering.COLUMNS, 9  # with a row above and below
_SHAPE = "00:00:00.000"
_SIGNS = "0123456789:."
_BLANK = bytes((_BLACK,)) * (_COLUMNS * SCALE)
_PIXELS = {sign: [_BLANK, *lettering.pixels(sign, SCALE, _WHITE, _BLACK)[::SCALE], _BLANK] for sign in _SIGNS}
_BY_BITS = {lettering.GLYPHS[sign].replace(" ", ""): sign for sign in _SIGNS}


def draw_clock(frame: av.VideoFrame, wallclock: float) -> None:
    """Burn HH:MM:SS.mmm (UTC) into a yuv420p frame at CLOCK_X, CLOCK_Y: cells of SCALE pixels, white on black."""
    text = clock.iso(wallclock)[11:23]
    luma, chroma = frame.planes[0], frame.planes[1:]
    pixels = memoryview(luma)
    width = len(text) * _COLUMNS * SCALE
    for row in range(_ROWS):
        line = b"".join(_PIXELS[glyph][row] for glyph in text)
        for y in range(CLOCK_Y + row * SCALE, CLOCK_Y + (row + 1) * SCALE):
            start = y * luma.line_size + CLOCK_X
            pixels[start : start + width] = line
    grey = bytes([128]) * (width // 2)
    for plane in chroma:
        pixels = memoryview(plane)
        for y in range(CLOCK_Y // 2, (CLOCK_Y + _ROWS * SCALE) // 2):
            start = y * plane.line_size + CLOCK_X // 2
            pixels[start : start + width // 2] = grey


def read_clock(frame: av.VideoFrame) -> str | None:
    """What `draw_clock` burned into this picture (of the same size), read back after any encoding; None where it cannot be read."""
    luma = frame.planes[0]
    pixels = memoryview(luma)
    text = ""
    for index in range(len(_SHAPE)):
        bits = ""
        for row in range(1, _ROWS - 1):
            y = CLOCK_Y + row * SCALE + SCALE // 2
            x = CLOCK_X + index * _COLUMNS * SCALE + SCALE // 2
            bits += "".join("1" if pixels[y * luma.line_size + x + column * SCALE] > 126 else "0" for column in range(5))
        text += _BY_BITS.get(bits, "?")
    return None if "?" in text else text


def _second() -> bytes:
    """One second of s16 stereo: a beep of 440 Hz with soft edges, then silence."""
    beep = round(BEEP_SECONDS * SAMPLE_RATE)
    samples = array("h", bytes(4 * SAMPLE_RATE))
    for i in range(beep):
        edge = min(1.0, i / 240, (beep - i) / 240)
        samples[2 * i] = samples[2 * i + 1] = round(12_000 * edge * math.sin(2 * math.pi * 440 * i / SAMPLE_RATE))
    return samples.tobytes()


class TestCard:
    """H.264 High 1280x720 at 30 pictures a second and at most 2.5 Mbit/s, no B-frames, a key frame each 2 s; AAC-LC 128 kbit/s stereo."""

    __test__ = False  # not a test class, whatever its name

    def __init__(self) -> None:
        self._video = H264Encoder(WIDTH, HEIGHT, frame_rate=FRAME_RATE, bit_rate=BIT_RATE, high=True)
        self._audio = AudioEncoder(Codec.AAC, SAMPLE_RATE, 2)
        self.tracks = (
            Track(1, Codec.H264, VIDEO_CLOCK_RATE, self._video.config, WIDTH, HEIGHT, float(FRAME_RATE)),
            Track(2, Codec.AAC, SAMPLE_RATE, self._audio.config, sample_rate=SAMPLE_RATE, channels=2),
        )

    def packets(self, wallclock: float) -> Iterator[Packet]:
        """Without end; media time starts at 0, which is `wallclock`. `received_at` is the media time in seconds."""
        graph = av.filter.Graph()
        source, sink = graph.add("testsrc2", f"size={WIDTH}x{HEIGHT}:rate={FRAME_RATE}"), graph.add("buffersink")
        source.link_to(sink)
        graph.configure()
        second = _second() * 2
        offset = round(wallclock % 1 * SAMPLE_RATE)
        number = samples = 0
        while True:
            seconds = number / FRAME_RATE
            frame = graph.vpull()
            frame.make_writable()
            draw_clock(frame, wallclock + seconds)
            for e in self._video.encode(frame, number * VIDEO_CLOCK_RATE // FRAME_RATE):
                yield Packet(self.tracks[0], e.data, e.pts, e.dts, e.keyframe, seconds)
            number += 1
            while samples < number * SAMPLE_RATE // FRAME_RATE:
                yield from self._sound(second, offset, samples)
                samples += self._audio.frame_size

    def _sound(self, second: bytes, offset: int, samples: int) -> Iterator[Packet]:
        size = self._audio.frame_size
        frame = av.AudioFrame("s16", "stereo", size)
        start = (offset + samples) % SAMPLE_RATE * 4
        frame.planes[0].update(second[start : start + size * 4])
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, samples, Fraction(1, SAMPLE_RATE)
        for e in self._audio.encode(frame):
            if e.pts >= 0:
                yield Packet(self.tracks[1], e.data, e.pts, e.dts, True, e.pts / SAMPLE_RATE)

    def close(self) -> None:
        self._video.close()
        self._audio.close()
