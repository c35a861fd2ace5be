"""Fragmented MP4 as CMAF and LL-HLS want it (ISO/IEC 14496-12 8.8, 23000-19): an init segment, then fragments.

The track_ID is the position in the Tracks of the init segment plus 1: Track ids may be anything, CMAF's may not be 0.
Timescales are the Tracks' clock rates. Fragments use default-base-is-moof, tfdt version 1 and signed composition offsets
(trun version 1), so no edit list is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from medianode.errors import InvalidRequest, LimitExceeded
from medianode.media.track import Kind, Track
from medianode.protocols.fmp4_boxes import LANGUAGE_UND, MATRIX, box, full_box, media_box, picture, sample_entry


class Sample(NamedTuple):
    """`duration` and `composition_offset` (pts - dts, signed) in ticks of the Track's clock rate."""

    data: bytes
    duration: int
    composition_offset: int = 0
    keyframe: bool = True


# sample_flags (8.8.3.1): sample_depends_on 2, or 1 with sample_is_non_sync_sample.
_SYNC, _NON_SYNC = 0x0200_0000, 0x0101_0000
# tfhd: default-base-is-moof, default-sample-duration-present, default-sample-flags-present.
_BASE_IS_MOOF, _DEFAULT_DURATION, _DEFAULT_FLAGS = 0x02_0000, 0x08, 0x20
# trun: data-offset, first-sample-flags, then what each sample has.
_OFFSET, _FIRST_FLAGS, _DURATION, _SIZE, _FLAGS, _COMPOSITION = 0x1, 0x4, 0x100, 0x200, 0x400, 0x800

_MOOF = struct.Struct(">I4sI4sII")
_TRAF_HEAD = struct.Struct(">I4sI4sII")
_TFDT = struct.Struct(">I4sIQ")
_TRUN = struct.Struct(">I4sIIi")
_U32 = 0xFFFF_FFFF


def init_segment(tracks: Sequence[Track], *more: bytes) -> bytes:
    """ftyp and moov, with `more` boxes at the end of moov.

    UnsupportedMedia for a codec that ISO BMFF or the Track's configuration does not carry.
    """
    if not tracks:
        raise InvalidRequest("fMP4: expected a track, got none")
    traks = [_trak(number, track) for number, track in enumerate(tracks, 1)]
    trex = [full_box(b"trex", 0, 0, struct.pack(">IIIII", number, 1, 0, 0, 0)) for number in range(1, len(tracks) + 1)]
    mvhd = full_box(b"mvhd", 0, 0, struct.pack(">IIIIIH10x", 0, 0, 1000, 0, 0x10000, 0x100), MATRIX, bytes(24), _next_id(len(tracks)))
    # A CMAF track file holds one track (23000-19 7.3.1); with more, this is plain ISO BMFF.
    brands = b"iso6cmfcmp41" if len(tracks) == 1 else b"iso6mp41"
    return box(b"ftyp", b"iso6", bytes(4), brands) + box(b"moov", mvhd, *traks, box(b"mvex", *trex), *more)


def _next_id(count: int) -> bytes:
    return (count + 1).to_bytes(4, "big")


def _trak(number: int, track: Track) -> bytes:
    """8.3.1, with an empty sample table."""
    video = track.kind is Kind.VIDEO
    width = height = 0
    if video:
        look = picture(track)
        width, height = look.width << 16, look.height << 16
        if look.sar[0]:
            width = min(_U32, width * look.sar[0] // look.sar[1])
    tkhd = full_box(
        b"tkhd",
        0,
        7,
        struct.pack(">IIIII8xHHH2x", 0, 0, number, 0, 0, 0, 0, 0 if video else 0x100),
        MATRIX,
        struct.pack(">II", width, height),
    )
    mdhd = full_box(b"mdhd", 0, 0, struct.pack(">IIIIHH", 0, 0, track.clock_rate, 0, LANGUAGE_UND, 0))
    stbl = box(
        b"stbl",
        full_box(b"stsd", 0, 0, b"\0\0\0\1", sample_entry(track)),
        full_box(b"stts", 0, 0, bytes(4)),
        full_box(b"stsc", 0, 0, bytes(4)),
        full_box(b"stsz", 0, 0, bytes(8)),
        full_box(b"stco", 0, 0, bytes(4)),
    )
    return box(b"trak", tkhd, media_box(mdhd, stbl, video=video))


def fragment(sequence_number: int, runs: Sequence[tuple[int, int, Sequence[Sample]]]) -> bytes:
    """`fragment_pieces`, joined."""
    return b"".join(fragment_pieces(sequence_number, runs))


def fragment_pieces(sequence_number: int, runs: Sequence[tuple[int, int, Sequence[Sample]]]) -> list[bytes]:
    """moof and mdat of (track index, base decode time, samples), one traf each; runs without samples are left out.

    The samples' own objects are among the pieces: who keeps them unjoined has copied nothing.

    `sequence_number` wraps at 32 bits. LimitExceeded where a duration, an offset or the whole does not fit its 32 bits.
    """
    trafs: list[tuple[bytes, int, int, int, bytes]] = []
    payload: list[bytes] = []
    moof_size, mdat_size = 24, 8
    try:
        for index, base, samples in runs:
            if samples:
                datas, durations, offsets, keys = zip(*samples, strict=True)
                sizes = list(map(len, datas))
                head, flags, table = _run(index, base, sizes, durations, offsets, keys)
                trafs.append((head, flags, len(samples), mdat_size, table))
                moof_size += len(head) + 20 + len(table)
                mdat_size += sum(sizes)
                payload += datas
        if not payload:
            raise InvalidRequest("fMP4: expected a sample, got none")
        out = [_MOOF.pack(moof_size, b"moof", 16, b"mfhd", 0, sequence_number & _U32)]
        for head, flags, count, offset, table in trafs:
            out += (head, _TRUN.pack(20 + len(table), b"trun", flags, count, moof_size + offset), table)
        out.append(struct.pack(">I4s", mdat_size, b"mdat"))
    except struct.error as error:
        raise LimitExceeded(f"fMP4: expected durations, offsets and sizes of 32 bits: {error}") from error
    return out + payload


def _run(
    index: int, base: int, sizes: list[int], durations: tuple[int, ...], offsets: tuple[int, ...], keys: tuple[bool, ...]
) -> tuple[bytes, int, bytes]:
    """(traf header, tfhd and tfdt; trun version and flags; what follows the trun's data offset).

    What all samples share goes to tfhd; a key frame that opens a run of others goes to first_sample_flags.
    """
    count = len(sizes)
    duration = durations[0]
    trun = _OFFSET | _SIZE
    columns: list[Sequence[int]] = []
    tfhd, defaults = _BASE_IS_MOOF | _DEFAULT_FLAGS, []
    if durations.count(duration) == count:
        tfhd |= _DEFAULT_DURATION
        defaults.append(duration)
    else:
        trun |= _DURATION
        columns.append(durations)
    columns.append(sizes)
    synced = keys.count(True)
    first = b""
    if synced == count:
        defaults.append(_SYNC)
    else:
        defaults.append(_NON_SYNC)
        if synced == 1 and keys[0]:
            trun |= _FIRST_FLAGS
            first = _SYNC.to_bytes(4, "big")
        elif synced:
            trun |= _FLAGS
            columns.append([_SYNC if key else _NON_SYNC for key in keys])
    if any(offsets):
        trun |= 0x0100_0000 | _COMPOSITION
        if not -0x8000_0000 <= min(offsets) <= max(offsets) < 0x8000_0000:
            raise LimitExceeded(f"fMP4: expected composition offsets of 32 bits, got {min(offsets)} to {max(offsets)}")
        columns.append([offset & _U32 for offset in offsets])
    width = len(columns)
    if width == 1:
        table = struct.pack(f">{count}I", *sizes)
    else:
        flat = [0] * (count * width)
        for column, values in enumerate(columns):
            flat[column::width] = values
        table = struct.pack(f">{count * width}I", *flat)
    tfhd_size = 16 + 4 * len(defaults)
    head = b"".join(
        (
            _TRAF_HEAD.pack(8 + tfhd_size + 20 + 20 + len(first) + len(table), b"traf", tfhd_size, b"tfhd", tfhd, index + 1),
            struct.pack(f">{len(defaults)}I", *defaults),
            _TFDT.pack(20, b"tfdt", 0x0100_0000, base),
        )
    )
    return head, trun, first + table


def styp(*brands: bytes) -> bytes:
    """Segment type box (8.16.2): 'msdh' and 'msix' unless told otherwise."""
    return box(b"styp", b"msdh", bytes(4), *(brands or (b"msdh", b"msix")))


def prft(track_index: int, wallclock: float, media_time: int, *, flags: int = 24) -> bytes:
    """Producer reference time (8.16.5), to stand before its moof: `wallclock` in Unix seconds is `media_time` in the track's ticks.

    `flags` 24: when the picture was taken; 0 entered the encoder, 1 left it, 2 the moof was ready, 4 written.
    """
    ntp = int((wallclock + 2_208_988_800) * (1 << 32)) & 0xFFFF_FFFF_FFFF_FFFF
    return full_box(b"prft", 1, flags, struct.pack(">IQQ", track_index + 1, ntp, media_time))
