"""Sound out of PES payloads: frames that are packed several to a packet and cut anywhere (ADTS, LATM, MPEG audio, AC-3), and Opus."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from medianode.codecs import aac, ac3, latm, mp3, opus
from medianode.errors import ProtocolError
from medianode.media.track import Codec

CLOCK = 90_000
MAX_FRAMES = 512
"""Of one PES packet, and access units of Opus; 64 KiB in ADTS frames of two seconds are some 90."""
_FAMILY_1 = {
    3: (2, 1, bytes((0, 2, 1))),
    4: (2, 2, bytes((0, 1, 2, 3))),
    5: (3, 2, bytes((0, 4, 1, 2, 3))),
    6: (4, 2, bytes((0, 4, 1, 2, 3, 5))),
    7: (4, 3, bytes((0, 4, 1, 2, 3, 5, 6))),
    8: (5, 3, bytes((0, 6, 1, 2, 3, 4, 5, 7))),
}
"""RFC 7845 5.1.1.2, by channels: streams, coupled ones, and their order."""


class Measured(NamedTuple):
    """Of the frame at hand: bytes, samples, and Hz."""

    size: int
    samples: int
    rate: int


class AudioFrame(NamedTuple):
    """`pts` in 90 kHz; `config` (AudioSpecificConfig, OpusHead) where it is told beside the frames."""

    pts: int
    data: bytes
    config: bytes


class Framer:
    """Frames of one stream. A stamp belongs to the first frame that begins in its packet (13818-1 2.4.3.7); the others are counted on.

    `faults`: bytes passed over in search of a frame.
    """

    __slots__ = ("_head", "_measure", "_next", "_rest", "_sync", "faults")

    def __init__(self, measure: Callable[[bytes], Measured], sync: bytes, head: int) -> None:
        self._measure = measure
        self._sync = sync
        self._head = head
        self._rest = b""
        self._next: int | None = None
        self.faults = 0

    def push(self, data: bytes, pts: int | None) -> list[AudioFrame]:
        """The payload of one PES packet."""
        old = len(self._rest)
        data = self._rest + data
        at, end = 0, len(data)
        frames: list[AudioFrame] = []
        while end - at >= self._head:
            try:
                size, samples, rate = self._measure(data[at : at + 64])
            except ProtocolError:
                found = data.find(self._sync, at + 1)
                found = found if found >= 0 else max(at + 1, end - len(self._sync) + 1)
                self.faults += found - at
                at = found
                continue
            if at + size > end:
                break
            if pts is not None and at >= old:
                self._next, pts = pts, None
            if self._next is not None and len(frames) < MAX_FRAMES:
                frames += self._made(self._next, data[at : at + size])
                self._next += samples * CLOCK // rate
            at += size
        if pts is not None and at >= old:
            self._next = pts  # of the frame that begins here and ends in the next packet
        self._rest = data[at:]
        return frames

    def _made(self, pts: int, frame: bytes) -> list[AudioFrame]:
        return [AudioFrame(pts, frame, b"")]

    def lose(self) -> None:
        self._rest, self._next = b"", None


class LatmFramer(Framer):
    """LOAS, ISO/IEC 14496-3 1.7.2: the frames come out raw, beside their AudioSpecificConfig."""

    __slots__ = ("_mux",)

    def __init__(self) -> None:
        self._mux = latm.StreamMux()
        super().__init__(self._measure_loas, b"\x56", 3)

    def _measure_loas(self, data: bytes) -> Measured:
        config = self._mux.config
        rate, samples = (config.output_sample_rate, config.samples_per_frame) if config is not None else (48_000, 1024)
        return Measured(latm.loas_size(data), samples, rate)

    def _made(self, pts: int, frame: bytes) -> list[AudioFrame]:
        try:
            payload = self._mux.read(frame[3:])
        except ProtocolError:
            self.faults += len(frame)
            return []
        return [AudioFrame(pts, payload, self._mux.record)] if payload else []


class OpusFramer:
    """Opus in MPEG-2 TS (ETSI TS 103 491 annex A): access units behind control headers, whole in their PES packet."""

    __slots__ = ("_config", "faults")

    def __init__(self, channel_code: int) -> None:
        channels = channel_code if 1 <= channel_code <= 8 else 2
        if channels <= 2:
            head = opus.OpusHead(channels)
        else:
            streams, coupled, mapping = _FAMILY_1[channels]
            head = opus.OpusHead(channels, mapping_family=1, stream_count=streams, coupled_count=coupled, mapping=mapping)
        self._config = opus.build_head(head)
        self.faults = 0

    def push(self, data: bytes, pts: int | None) -> list[AudioFrame]:
        frames: list[AudioFrame] = []
        at = 0
        while pts is not None and at < len(data) and len(frames) < MAX_FRAMES:
            try:
                start, end = _opus_unit(data, at)
                samples = opus.packet_samples(data[start:end])
            except ProtocolError:
                self.faults += len(data) - at
                break
            frames.append(AudioFrame(pts, data[start:end], self._config))
            pts += samples * CLOCK // opus.SAMPLE_RATE
            at = end
        return frames

    def lose(self) -> None:
        """Nothing is kept between packets."""


def _opus_unit(data: bytes, at: int) -> tuple[int, int]:
    """Where the packet behind the control header at `at` is."""
    if len(data) - at < 3 or data[at] != 0x7F or data[at + 1] & 0xE0 != 0xE0:
        raise ProtocolError(f"Opus in TS: expected a control header, got {data[at : at + 2].hex()}")
    flags = data[at + 1]
    at += 2
    size = 0
    while at < len(data):
        size += data[at]
        at += 1
        if data[at - 1] != 0xFF:
            break
    at += 2 * bool(flags & 0x10) + 2 * bool(flags & 0x08)
    if flags & 0x04:
        if at >= len(data):
            raise ProtocolError("Opus in TS: expected a control extension, got the end")
        at += 1 + data[at]
    if not size or at + size > len(data):
        raise ProtocolError(f"Opus in TS: expected a packet of {size} bytes, got {max(0, len(data) - at)}")
    return at, at + size


def _adts(data: bytes) -> Measured:
    header = aac.parse_adts(data)
    return Measured(header.frame_size, header.samples, header.sample_rate)


def _mpeg(data: bytes) -> Measured:
    header = mp3.parse_header(data)
    return Measured(max(header.frame_size, 4), header.samples, header.sample_rate)


def _ac3(data: bytes) -> Measured:
    header = ac3.parse_syncframe(data)
    # a dependent substream belongs to the frame before it and takes no time
    return Measured(max(header.frame_size, 7), 0 if header.strmtyp == 1 else header.samples, header.sample_rate)


AnyFramer = Framer | OpusFramer


def framer(codec: Codec, *, latm: bool, channel_code: int) -> AnyFramer:
    """For a stream of sound of a PMT."""
    if codec is Codec.OPUS:
        return OpusFramer(channel_code)
    if codec is Codec.AAC:
        return LatmFramer() if latm else Framer(_adts, b"\xff", 7)
    if codec is Codec.MP3:
        return Framer(_mpeg, b"\xff", 4)
    return Framer(_ac3, b"\x0b\x77", 64)
