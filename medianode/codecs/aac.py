"""AAC: AudioSpecificConfig (ISO/IEC 14496-3 1.6.2.1) and ADTS (1.A.2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from medianode.codecs.bits import BitReader, BitWriter
from medianode.errors import LimitExceeded, ProtocolError

SAMPLE_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)

AAC_MAIN, AAC_LC, AAC_SSR, AAC_LTP, SBR, AAC_SCALABLE, PS, USAC = 1, 2, 3, 4, 5, 6, 29, 42

_CHANNELS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 8, 11: 7, 12: 8, 13: 24, 14: 8}
_GA = frozenset({1, 2, 3, 4, 6, 7, 17, 19, 20, 21, 22, 23})
_ER = frozenset(range(17, 28)) | {39}
_LD, _ELD = 23, 39
_SYNC_SBR, _SYNC_PS = 0x2B7, 0x548
_USAC_FRAMES = (768, 1024, 2048, 2048, 4096)


@dataclass(frozen=True, slots=True)
class AudioSpecificConfig:
    """`object_type` is the core's, `signalled_type` the first in the bits (5 or 29 with hierarchical signalling).

    `sample_rate` is the core's and `extension_sample_rate` what SBR doubles it to, 0 without; `channels` is what comes out
    (2 for a mono core with PS); `frame_length` is of the core: 1024 or 960, LD and ELD 512 or 480. `sbr` and `ps`: explicitly signalled.
    """

    object_type: int
    signalled_type: int
    sample_rate: int
    channel_config: int
    channels: int
    frame_length: int = 1024
    sbr: bool = False
    ps: bool = False
    extension_sample_rate: int = 0

    @property
    def output_sample_rate(self) -> int:
        """Hz of the decoded sound."""
        return self.extension_sample_rate or self.sample_rate

    @property
    def samples_per_frame(self) -> int:
        """Of the decoded sound, at `output_sample_rate`: 2048 for HE-AAC of 1024."""
        return self.frame_length * self.output_sample_rate // self.sample_rate


class AdtsHeader(NamedTuple):
    """`frame_size` includes the header of 7 or 9 bytes; `samples` is 1024 for each raw data block."""

    object_type: int
    sample_rate: int
    channel_config: int
    header_size: int
    frame_size: int
    samples: int


def parse_asc(data: bytes) -> AudioSpecificConfig:
    """ProtocolError on a reserved rate or channel configuration, or bits that run out. Trailing bytes are no fault."""
    return read_asc(BitReader(data[:1024], "AudioSpecificConfig"), alone=True)


def read_asc(r: BitReader, *, alone: bool = False) -> AudioSpecificConfig:
    """As `parse_asc`, from where the reader is, which is then behind it. `alone`: nothing but it is there, so that backward compatible
    signalling can be looked for.
    """
    signalled = kind = _read_object_type(r)
    rate, channel_config = _read_rate(r), r.u(4)
    extension_rate = 0
    if kind in (SBR, PS):
        extension_rate = _read_rate(r)
        kind = _read_object_type(r)
        if kind == 22:
            r.skip(4)
    frame_length, channels = _read_specific(r, kind, rate, channel_config)
    sbr, ps = signalled in (SBR, PS), signalled == PS
    if alone and not sbr and kind not in (USAC, _ELD) and r.remaining >= 16:
        extension_rate, ps = _read_sync_extension(r, kind)
        sbr = extension_rate > 0
    if extension_rate and not rate <= extension_rate <= 2 * rate:
        raise ProtocolError(f"AudioSpecificConfig: expected SBR at {rate} to {2 * rate} Hz, got {extension_rate}")
    if ps and channels == 1:
        channels = 2
    return AudioSpecificConfig(kind, signalled, rate, channel_config, channels, frame_length, sbr, ps, extension_rate)


def _read_object_type(r: BitReader) -> int:
    kind = r.u(5)
    return 32 + r.u(6) if kind == 31 else kind


def _read_rate(r: BitReader) -> int:
    index = r.u(4)
    rate = r.u(24) if index == 15 else SAMPLE_RATES[index] if index < len(SAMPLE_RATES) else 0
    if not rate:
        raise ProtocolError(f"AudioSpecificConfig: expected a sampling rate, got index {index}")
    return rate


def _read_specific(r: BitReader, kind: int, rate: int, channel_config: int) -> tuple[int, int]:
    """(frame length, channels) of GASpecificConfig (4.4.1), ELDSpecificConfig (4.6.20) or UsacConfig (23003-3 5.2)."""
    if kind == USAC:
        if r.u(5) == 31:
            r.skip(24)
        index = r.u(3)
        if index >= len(_USAC_FRAMES):
            raise ProtocolError(f"UsacConfig: expected coreSbrFrameLengthIndex 0 to 4, got {index}")
        # A USAC stream tells its output rate and frame here, not its core's.
        return _USAC_FRAMES[index], _channels(channel_config)
    short = r.flag() if kind in _GA or kind == _ELD else False
    full = 512 if kind in (_LD, _ELD) else 1024
    frame_length = full - full // 16 if short else full
    if kind not in _GA:
        return frame_length, _channels(channel_config)
    if r.flag():
        r.skip(14)
    extension = r.flag()
    channels = _channels(channel_config) if channel_config else _read_program_config(r)
    if kind in (6, 20):
        r.skip(3)
    if extension:
        if kind == 22:
            r.skip(16)
        if kind in (17, 19, 20, 23):
            r.skip(3)
        r.skip(1)
    if kind in _ER:
        r.skip(2)
    return frame_length, channels


def _channels(config: int) -> int:
    channels = _CHANNELS.get(config)
    if channels is None:
        raise ProtocolError(f"AudioSpecificConfig: expected a channel configuration of 1 to 7 or 11 to 14, got {config}")
    return channels


def _read_program_config(r: BitReader) -> int:
    """program_config_element (4.4.1.1): the sum of its channels."""
    r.skip(4 + 2 + 4)
    front, side, back, lfe, data_elements, coupling = r.u(4), r.u(4), r.u(4), r.u(2), r.u(3), r.u(4)
    for count in (4, 4, 3):
        if r.flag():
            r.skip(count)
    channels = lfe
    for _ in range(front + side + back):
        channels += 1 + r.u(1)
        r.skip(4)
    r.skip(4 * lfe + 4 * data_elements + 5 * coupling)
    r.align()
    r.skip(8 * r.u(8))
    if not channels:
        raise ProtocolError("program config element: expected channels, got none")
    return channels


def _read_sync_extension(r: BitReader, kind: int) -> tuple[int, bool]:
    """Backward compatible signalling: (extension rate or 0, PS)."""
    if r.u(11) != _SYNC_SBR or _read_object_type(r) != SBR or not r.flag():
        return 0, False
    rate = _read_rate(r)
    return rate, r.remaining >= 12 and r.u(11) == _SYNC_PS and r.flag()


def build_asc(
    sample_rate: int,
    channel_config: int,
    object_type: int = AAC_LC,
    *,
    frame_length: int = 1024,
    extension_sample_rate: int = 0,
    ps: bool = False,
) -> bytes:
    """AudioSpecificConfig of a GA core with a channel configuration of 1 to 7; `extension_sample_rate` makes it HE-AAC, `ps` v2."""
    if object_type not in (AAC_MAIN, AAC_LC, AAC_SSR, AAC_LTP) or frame_length not in (960, 1024) or not 1 <= channel_config <= 7:
        raise ProtocolError(
            f"AAC: expected object type 1 to 4, 960 or 1024, configuration 1 to 7, got {object_type}, {frame_length}, {channel_config}"
        )
    w = BitWriter()
    if extension_sample_rate:
        w.u(5, PS if ps else SBR)
        _write_rate(w, sample_rate)
        w.u(4, channel_config)
        _write_rate(w, extension_sample_rate)
        w.u(5, object_type)
    else:
        w.u(5, object_type)
        _write_rate(w, sample_rate)
        w.u(4, channel_config)
    return w.u(1, frame_length == 960).u(2, 0).to_bytes()


def _write_rate(w: BitWriter, rate: int) -> None:
    if rate in SAMPLE_RATES:
        w.u(4, SAMPLE_RATES.index(rate))
    elif 0 < rate < 1 << 24:
        w.u(4, 15).u(24, rate)
    else:
        raise ProtocolError(f"AAC: expected a sampling rate under 2^24, got {rate}")


def codec_string(asc: bytes) -> str:
    """RFC 6381 3.3: 'mp4a.40.2', 'mp4a.40.5' where SBR is told in either way, 'mp4a.40.29' with PS."""
    c = parse_asc(asc)
    return f"mp4a.40.{PS if c.ps else SBR if c.sbr else c.object_type}"


def parse_adts(data: bytes) -> AdtsHeader:
    """The header at the start of `data`; of the frame itself nothing need be there."""
    if len(data) < 7:
        raise ProtocolError(f"ADTS: expected at least 7 bytes, got {len(data)}")
    if data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        raise ProtocolError(f"ADTS: expected syncword fff and layer 0, got {data[:2].hex()}")
    index = data[2] >> 2 & 15
    if index >= len(SAMPLE_RATES):
        raise ProtocolError(f"ADTS: expected a sampling frequency index of 0 to 12, got {index}")
    header_size = 7 if data[1] & 1 else 9
    frame_size = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
    if frame_size < header_size:
        raise ProtocolError(f"ADTS: expected a frame of at least {header_size} bytes, got {frame_size}")
    channel_config = (data[2] & 1) << 2 | data[3] >> 6
    return AdtsHeader((data[2] >> 6) + 1, SAMPLE_RATES[index], channel_config, header_size, frame_size, 1024 * ((data[6] & 3) + 1))


def is_adts(data: bytes) -> bool:
    """A cheap look: syncword and layer 0. Raw AAC cannot open so: element id 7 is END."""
    return len(data) >= 7 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0


def strip_adts(data: bytes, *, max_frames: int = 64) -> tuple[bytes, list[bytes]]:
    """(AudioSpecificConfig, raw frames) of whole ADTS frames back to back."""
    config, position = b"", 0
    frames: list[bytes] = []
    while position < len(data):
        if len(frames) == max_frames:
            raise LimitExceeded(f"ADTS: expected at most {max_frames} frames, got more")
        header = parse_adts(data[position : position + 7])
        if header.samples != 1024:
            raise ProtocolError(f"ADTS: expected one raw data block in a frame, got {header.samples // 1024}")
        end = position + header.frame_size
        if end > len(data):
            raise ProtocolError(f"ADTS: expected a frame of {header.frame_size} bytes, got {len(data) - position}")
        if not config:
            config = build_asc(header.sample_rate, header.channel_config, header.object_type)
        frames.append(data[position + header.header_size : end])
        position = end
    if not frames:
        raise ProtocolError("ADTS: expected a frame, got nothing")
    return config, frames
