"""atheris on the headers that strangers send: H.264, H.265, AAC, AV1, VP9, JPEG and the rest of `medianode.codecs`.

Run: .venv/bin/python tests/fuzz/fuzz_codecs.py [-max_total_time=60] [corpus directory]
The first byte picks the parser, the rest is its data. Only PeerError may leave a parser; a crash becomes a vector in
tests/vectors/codecs/broken.json.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from medianode.codecs import aac, ac3, av1, flac, h264, hevc, jpeg, mp3, nal, opus, vp8, vp9
from medianode.errors import PeerError
from medianode.media.track import Codec, Track
from medianode.protocols import fmp4, fmp4_boxes, rfc6381


def _normalise_twice(data: bytes) -> None:
    """What normalise gives is normal, and holds no more than came."""
    au = h264.normalise(data)
    again = h264.normalise(au.data)
    assert again.data is au.data
    assert not again.sps
    assert not again.pps


def _normalise_hevc_twice(data: bytes) -> None:
    au = hevc.normalise(data)
    assert hevc.normalise(au.data).data is au.data


def _normalise_av1_twice(data: bytes) -> None:
    unit = av1.normalise(data)
    assert av1.normalise(unit.data).data is unit.data


def _init(codec: Codec) -> Callable[[bytes], None]:
    """A configuration that makes an init segment makes a well-formed one, and a codec string."""

    def run(data: bytes) -> None:
        track = Track(1, codec, 48000, data, sample_rate=48000, channels=2)
        fmp4_boxes.parse_boxes(fmp4.init_segment([track]))
        rfc6381.codec_string(track)

    return run


PARSERS: tuple[Callable[[bytes], object], ...] = (
    h264.parse_avcc, h264.parse_sps, _normalise_twice, lambda data: h264.normalise(data, 2), nal.from_annexb,
    hevc.parse_hvcc, hevc.parse_sps, _normalise_hevc_twice,
    av1.parse_av1c, av1.parse_sequence_header, av1.build_av1c, _normalise_av1_twice,
    vp8.parse_frame, vp9.parse_frame, vp9.parse_vpcc,
    aac.parse_asc, aac.strip_adts, opus.parse_head, opus.parse_dops, opus.packet_samples,
    flac.find_streaminfo, flac.frame_samples, mp3.parse_header, ac3.build_dac3, ac3.build_dec3,
    jpeg.parse_jpeg, fmp4_boxes.parse_boxes,
    _init(Codec.H264), _init(Codec.HEVC), _init(Codec.AV1), _init(Codec.VP9), _init(Codec.AAC), _init(Codec.OPUS), _init(Codec.FLAC),
)  # fmt: skip


def one_input(data: bytes) -> None:
    """One case: any exception but PeerError is a bug of ours."""
    if not data:
        return
    try:
        PARSERS[data[0] % len(PARSERS)](data[1:])
    except PeerError:
        return


def main() -> None:
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
