"""Decoders and encoders by themselves."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from medianode.codecs import aac, h264, jpeg, opus
from medianode.errors import LimitExceeded, PeerError, ProtocolError
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.transcode.decode import AudioDecoder, VideoDecoder
from medianode.transcode.derive import Sound, Tally
from medianode.transcode.encode import AudioEncoder, H264Encoder, JpegEncoder, h264_available

PIXELS = 10_000_000


def picture(width: int, height: int, luma: int = 100) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, "yuv420p")
    for index, plane in enumerate(frame.planes):
        plane.update(bytes([128 if index else luma]) * plane.buffer_size)
    return frame


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9", "vp8"])
def test_decodes_what_packets_carry(clip_of: Callable[..., Any], codec: str) -> None:
    clip = clip_of(codec)
    decoder = VideoDecoder(clip.tracks[0], PIXELS)
    times = [frame.pts for packet in clip.video for frame in decoder.decode(packet)] + [frame.pts for frame in decoder.decode(None)]
    assert len(times) == len(clip.video) == 60
    assert sorted(packet.pts for packet in clip.video) == times
    decoder.close()


def test_pictures_over_the_bound_are_refused_before_they_are_decoded(
    clip_of: Callable[..., Any], jpegs: Callable[..., list[bytes]]
) -> None:
    clip = clip_of("h264")
    with pytest.raises(LimitExceeded, match="at most 1000 pixels, got 320x240") as caught:
        VideoDecoder(clip.tracks[0], 1000)
    assert caught.value.code == "picture-too-large"
    track = Track(1, Codec.MJPEG, 90_000)
    with pytest.raises(LimitExceeded, match="320x240"):
        VideoDecoder(track, 1000).decode(Packet(track, jpegs(count=1)[0], 0, 0, True, 0.0))


def test_garbage_gives_only_peer_errors_and_the_decoder_lives_on(clip_of: Callable[..., Any]) -> None:
    clip = clip_of("h264")
    decoder = VideoDecoder(clip.tracks[0], PIXELS)
    faults = frames = 0
    for number, packet in enumerate(clip.video):
        data = bytes(b ^ 0x5A for b in packet.data) if 10 <= number < 20 else packet.data
        try:
            frames += len(decoder.decode(packet._replace(data=data)))
        except PeerError as e:
            faults += e.code == "undecodable"
            decoder.reset()
    assert faults > 0
    assert frames >= 30


def test_h264_encoder_gives_avcc_and_access_units_without_parameter_sets() -> None:
    assert h264_available()
    encoder = H264Encoder(321, 241, frame_rate=15)
    config = h264.parse_avcc(encoder.config)
    sps = h264.parse_sps(config.sps[0])
    assert (sps.width, sps.height, config.length_size) == (320, 240, 4)
    assert sps.never_reorders
    # irregular times; a key frame at 0, at the first picture from 2 s on, and 2 s after that one
    times = [0, 6_000, 100_000, 185_000, 186_000, 364_999, 365_001, 400_000]
    encoded = [e for n, pts in enumerate(times) for e in encoder.encode(picture(321, 241, 40 + n * 20), pts)]
    assert [e.pts for e in encoded] == [e.dts for e in encoded] == times
    assert [e.pts for e in encoded if e.keyframe] == [0, 185_000, 365_001]
    for e in encoded:
        unit = h264.access_unit_info(e.data)
        assert (unit.keyframe, unit.sps, unit.pps) == (e.keyframe, (), ())
    encoder.force_keyframe = True
    assert encoder.encode(picture(321, 241), 410_000)[0].keyframe
    encoder.close()
    assert encoder.encode(picture(321, 241), 420_000) == []


@pytest.mark.parametrize("size", [(320, 240), (321, 241), (17, 33)])
def test_jpeg_encoder_takes_odd_sizes_and_gives_full_range(size: tuple[int, int]) -> None:
    encoder = JpegEncoder(*size, 3)
    data = encoder.encode(picture(*size, luma=16))
    info = jpeg.parse_jpeg(data)
    assert (info.width, info.height, info.progressive) == (*size, False)
    track = Track(1, Codec.MJPEG, 90_000)
    frame = VideoDecoder(track, PIXELS).decode(Packet(track, data, 0, 0, True, 0.0))[0]
    assert max(bytes(frame.planes[0])[: size[0]]) <= 2  # black of limited range is black of full range


@pytest.mark.parametrize("form", ["yuvj422p", "yuvj444p", "gray"])
def test_the_jpegs_of_cameras_become_h264_of_limited_range(make_file: Callable[[str, str], Path], form: str) -> None:
    """4:2:2 is what the ESP32's camera makes."""
    arguments = f"-f lavfi -i color=white:size=320x240 -frames:v 1 -vf format={form} -c:v mjpeg -f mjpeg"
    data = make_file("white.mjpeg", arguments).read_bytes()
    track = Track(1, Codec.MJPEG, 90_000)
    frame = VideoDecoder(track, PIXELS).decode(Packet(track, data, 0, 0, True, 0.0))[0]
    encoder = H264Encoder(320, 240, frame_rate=15)
    encoded = encoder.encode(frame, 0)[0]
    derived = Track(1, Codec.H264, 90_000, encoder.config)
    decoder = VideoDecoder(derived, PIXELS)
    shown = (decoder.decode(Packet(derived, encoded.data, 0, 0, True, 0.0)) + decoder.decode(None))[0]
    assert shown.format.name == "yuv420p"
    assert abs(bytes(shown.planes[0])[1000] - 235) <= 2


def test_six_channels_become_two(make_clip: Callable[..., Any]) -> None:
    clip = make_clip("six.mp4", "-f lavfi -i anoisesrc=duration=1:sample_rate=48000 -ac 6 -c:a aac")
    assert clip.tracks[0].channels == 6
    decoder, sound = AudioDecoder(clip.tracks[0]), Sound(1, 48_000, Codec.OPUS, Tally())
    packets = [p for packet in clip.audio for frame in decoder.decode(packet) for p in sound.push(frame, frame.pts or 0, 0.0)]
    assert len(packets) > 45
    assert {p.track.channels for p in packets if isinstance(p, Packet)} == {2}


def test_jpeg_quality_is_a_scale(jpegs: Callable[..., list[bytes]]) -> None:
    track = Track(1, Codec.MJPEG, 90_000)
    frame = VideoDecoder(track, PIXELS).decode(Packet(track, jpegs(count=1)[0], 0, 0, True, 0.0))[0]
    best, worst = (len(JpegEncoder(320, 240, quality).encode(frame)) for quality in (2, 31))
    assert best > 2 * worst


def tone(start: int, samples: int, rate: int = 48_000) -> av.AudioFrame:
    """A mono sine, `start` samples in."""
    frame = av.AudioFrame("s16", "mono", samples)
    frame.planes[0].update(array("h", (round(8000 * math.sin(2 * math.pi * 440 * (start + i) / rate)) for i in range(samples))).tobytes())
    frame.sample_rate = rate
    return frame


@pytest.mark.parametrize(
    ("codec", "rate", "expected"), [(Codec.AAC, 44_100, 44_100), (Codec.AAC, 32_000, 48_000), (Codec.OPUS, 44_100, 48_000)]
)
def test_audio_encoder_rates_and_configuration(codec: Codec, rate: int, expected: int) -> None:
    encoder = AudioEncoder(codec, rate, 6)
    assert (encoder.sample_rate, encoder.channels) == (expected, 2)
    if codec is Codec.AAC:
        config = aac.parse_asc(encoder.config)
        assert (config.object_type, config.sample_rate, config.channels) == (2, expected, 2)
    else:
        assert opus.parse_head(encoder.config).channels == 2


@pytest.mark.parametrize("codec", [Codec.AAC, Codec.OPUS])
def test_sound_keeps_the_media_time_of_its_source(codec: Codec) -> None:
    tally = Tally()
    sound = Sound(7, 90_000, codec, tally)
    out = [p for n in range(100) for p in sound.push(tone(n * 441, 441, 44_100), 900_000 + n * 900, 1.0)]
    packets = [p for p in out if isinstance(p, Packet)]
    track = packets[0].track
    rate = 44_100 if codec is Codec.AAC else 48_000
    assert (track.id, track.codec, track.clock_rate, track.channels) == (7, codec, rate, 1)
    assert abs(packets[0].pts / rate - 10.0) < 0.021
    assert 10.9 < packets[-1].pts / rate < 11.0
    size = 1024 if codec is Codec.AAC else 960
    assert {b.pts - a.pts for a, b in itertools.pairwise(packets)} == {size}
    assert (tally.reanchors, tally.errors) == (0, 0)


def test_a_hole_is_filled_with_silence_an_overlap_left_out_and_a_jump_is_a_gap() -> None:
    tally = Tally()
    sound = Sound(1, 48_000, Codec.AAC, tally)
    starts = [n * 1024 for n in range(50)]
    starts += [48_000 * 2 + n * 1024 for n in range(50)]  # a hole of 0.93 s
    starts += [starts[-1] - 12_000 + n * 1024 for n in range(50)]  # a step back of a quarter of a second
    starts += [48_000 * 60 + n * 1024 for n in range(50)]  # a jump
    out = [p for start in starts for p in sound.push(tone(start, 1024), start, 0.0)]
    gap = next(i for i, p in enumerate(out) if isinstance(p, Gap))
    assert out[gap] == Gap("timestamp-jump")
    before = [p for p in out[:gap] if isinstance(p, Packet)]
    after = [p for p in out[gap + 1 :] if isinstance(p, Packet)]
    assert {b.pts - a.pts for a, b in itertools.pairwise(before)} == {1024}
    assert abs(before[-1].pts - starts[149]) < 6_000
    assert after[0].pts == 48_000 * 60
    assert tally.reanchors == 3
    assert 0.9 < tally.silence < 1.0
    assert 8 <= tally.dropped["audio-overlap"] <= 13


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.mp4", "-c:a aac"),
        ("a.mkv", "-c:a libopus"),
        ("a.mp3", "-c:a libmp3lame"),
        ("a.mka", "-c:a flac"),
        ("b.mka", "-c:a ac3"),
        ("c.mka", "-c:a eac3"),
    ],
)
def test_decodes_every_sound_that_rtmp_brings(make_clip: Callable[..., Any], name: str, arguments: str) -> None:
    clip = make_clip(name, f"-f lavfi -i sine=frequency=440:duration=1:sample_rate=48000 {arguments}")
    decoder = AudioDecoder(clip.tracks[0])
    frames = [frame for packet in clip.audio for frame in decoder.decode(packet)]
    assert 0.95 < sum(frame.samples for frame in frames) / frames[0].sample_rate < 1.1
    decoder.close()


@pytest.mark.parametrize("codec", [Codec.PCM_ALAW, Codec.PCM_MULAW])
def test_decodes_g711(codec: Codec) -> None:
    track = Track(2, codec, 8000, sample_rate=8000, channels=1)
    frame = AudioDecoder(track).decode(Packet(track, bytes(160), 320, 320, True, 0.0))[0]
    assert (frame.samples, frame.sample_rate, frame.pts, frame.time_base) == (160, 8000, 320, Fraction(1, 8000))


def test_a_broken_configuration_is_the_peers_fault() -> None:
    track = Track(2, Codec.AAC, 48_000, b"\xff\xff")
    with pytest.raises(ProtocolError, match="aac: expected data that decodes"):
        AudioDecoder(track).decode(Packet(track, b"\x00" * 20, 0, 0, True, 0.0))
