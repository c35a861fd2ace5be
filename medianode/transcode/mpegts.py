"""MPEG-TS segments (ISO/IEC 13818-1) from encoded packets, by FFmpeg's muxer. One call, one container, one segment: no state is kept.

Continuity counters start anew in each segment, which the discontinuity_indicator of its first packets allows.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from heapq import merge
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Stream

from medianode.codecs import aac, h264, hevc, nal
from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Track
from medianode.protocols.fmp4 import Sample

_OPTIONS = {"mpegts_flags": "initial_discontinuity", "mpegts_copyts": "1", "pat_period": "1", "max_interleave_delta": "0"}
_FORMATS = {Codec.H264: "h264", Codec.HEVC: "hevc", Codec.AAC: "aac", Codec.MP3: "mp3", Codec.AC3: "ac3", Codec.EAC3: "eac3"}
_CLOCK = 90_000

Run = tuple[int, int, Sequence[Sample]]


def check(tracks: Sequence[Track]) -> None:
    """Raises UnsupportedMedia for a codec that MPEG-TS does not carry here, ProtocolError for a configuration that cannot be read."""
    for track in tracks:
        if track.codec not in _FORMATS:
            raise UnsupportedMedia(f"MPEG-TS: expected H.264, H.265, AAC, MP3 or AC-3, got {track.codec.value}")
        _prefix(track)


def segment(tracks: Sequence[Track], runs: Sequence[Run]) -> bytes:
    """One segment of (track index, decode time of the first sample in ticks, samples). PAT and PMT come first.

    Raises ProtocolError for samples or configurations that cannot be muxed.
    """
    out = io.BytesIO()
    try:
        with av.open(out, "w", format="mpegts", options=_OPTIONS) as container:
            streams = [container.add_mux_stream(_FORMATS[track.codec], **_shape(track)) for track in tracks]
            for stream in streams:
                stream.time_base = Fraction(1, _CLOCK)
            rows = [_packets(tracks[index], streams[index], base, samples) for index, base, samples in runs if samples]
            for _, _, packet in merge(*rows, key=lambda row: row[:2]):
                container.mux_one(packet)
    except FFmpegError as e:
        raise ProtocolError(f"MPEG-TS: {e.strerror or type(e).__name__}") from None
    return out.getvalue()


def _shape(track: Track) -> dict[str, int]:
    if track.is_video:
        return {"width": track.width, "height": track.height}
    return {"rate": track.sample_rate or track.clock_rate}


def _packets(track: Track, stream: Stream, base: int, samples: Sequence[Sample]) -> Iterator[tuple[int, int, av.Packet[Any]]]:
    """Timestamps start one second in, so that no pts is negative; they go on from segment to segment and wrap at 33 bits in the muxer."""
    prefix = _prefix(track)
    rate, time_base, at = track.clock_rate, Fraction(1, _CLOCK), base
    last = -1
    for sample in samples:
        packet = av.Packet(_framed(track, prefix, sample))
        packet.stream = stream
        packet.time_base = time_base
        dts = max(last + 1, at * _CLOCK // rate + _CLOCK)
        packet.dts = last = dts
        packet.pts = max(dts, (at + sample.composition_offset) * _CLOCK // rate + _CLOCK)
        packet.is_keyframe = sample.keyframe
        yield dts, stream.index, packet
        at += sample.duration


def _framed(track: Track, prefix: bytes, sample: Sample) -> bytes:
    if track.codec in (Codec.H264, Codec.HEVC):
        units = nal.to_annexb(sample.data)
        return prefix + units if sample.keyframe else units
    if track.codec is Codec.AAC:
        return _adts(prefix, len(sample.data)) + sample.data
    return sample.data


def _prefix(track: Track) -> bytes:
    """Annex B parameter sets that go before each key frame; for AAC the 7 bytes of an ADTS header (14496-3 1.A.2.2) without its length."""
    if track.codec is Codec.H264:
        avcc = h264.parse_avcc(track.config)
        return b"".join([b"\0\0\0\1" + unit for unit in (*avcc.sps, *avcc.pps)])
    if track.codec is Codec.HEVC:
        hvcc = hevc.parse_hvcc(track.config)
        return b"".join([b"\0\0\0\1" + unit for unit in (*hvcc.vps, *hvcc.sps, *hvcc.pps)])
    if track.codec is not Codec.AAC:
        return b""
    asc = aac.parse_asc(track.config)
    if asc.object_type > 4 or asc.sample_rate not in aac.SAMPLE_RATES or not 0 < asc.channel_config < 8:
        raise UnsupportedMedia(f"ADTS: expected AAC of object type 1 to 4 and configuration 1 to 7, got {asc}")
    index = aac.SAMPLE_RATES.index(asc.sample_rate)
    head = (asc.object_type - 1) << 14 | index << 10 | asc.channel_config << 6
    return bytes((0xFF, 0xF1)) + head.to_bytes(2, "big") + b"\x00\x1f\xfc"


def _adts(prefix: bytes, size: int) -> bytes:
    size += 7
    if size >= 1 << 13:
        raise ProtocolError(f"ADTS: expected a frame of at most 8184 bytes, got {size - 7}")
    return bytes((*prefix[:3], prefix[3] & 0xFC | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC))
