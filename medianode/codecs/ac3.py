"""AC-3 and E-AC-3: syncframes (ETSI TS 102 366 4.4, E.1.2), dac3 and dec3 (annex F)."""

from __future__ import annotations

from typing import NamedTuple

from medianode.codecs.bits import BitReader, BitWriter
from medianode.errors import LimitExceeded, ProtocolError


class Syncframe(NamedTuple):
    """`samples` per channel; `strmtyp` 1 is a dependent substream; `chanmap` is the dependent's custom map, else 0."""

    enhanced: bool
    sample_rate: int
    channels: int
    samples: int
    frame_size: int
    fscod: int
    bsid: int
    bsmod: int
    acmod: int
    lfeon: int
    frmsizecod: int = 0
    strmtyp: int = 0
    substreamid: int = 0
    chanmap: int = 0


_RATES = (48000, 44100, 32000)
_CHANNELS = (2, 1, 2, 3, 3, 4, 4, 5)
_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_BLOCKS = (1, 2, 3, 6)
_DEPENDENT = 1


def parse_syncframe(data: bytes) -> Syncframe:
    """The header at the start of `data`, AC-3 (bsid up to 10) or E-AC-3 (11 to 16)."""
    if len(data) < 7 or data[:2] != b"\x0b\x77":
        raise ProtocolError(f"AC-3: expected syncword 0b77 and 7 bytes, got {data[:2].hex() or 'nothing'} of {len(data)}")
    bsid = data[5] >> 3
    r = BitReader(data[2:64], "syncframe")
    if bsid <= 10:
        return _read_ac3(r)
    if bsid <= 16:
        return _read_eac3(r)
    raise ProtocolError(f"AC-3: expected bsid of at most 16, got {bsid}")


def _read_ac3(r: BitReader) -> Syncframe:
    r.skip(16)
    fscod, frmsizecod = r.u(2), r.u(6)
    if fscod == 3 or frmsizecod >= 2 * len(_KBPS):
        raise ProtocolError(f"AC-3: expected fscod 0 to 2 and frmsizecod under {2 * len(_KBPS)}, got {fscod} and {frmsizecod}")
    bsid, bsmod, acmod = r.u(5), r.u(3), r.u(3)
    if acmod & 1 and acmod != 1:
        r.skip(2)
    if acmod & 4:
        r.skip(2)
    if acmod == 2:
        r.skip(2)
    lfeon = r.u(1)
    kbps = _KBPS[frmsizecod >> 1]
    if fscod == 0:
        words = 2 * kbps
    elif fscod == 1:
        words = kbps * 96000 // 44100 + (frmsizecod & 1)
    else:
        words = 3 * kbps
    rate = _RATES[fscod] >> max(0, bsid - 8)
    return Syncframe(False, rate, _CHANNELS[acmod] + lfeon, 1536, 2 * words, fscod, bsid, bsmod, acmod, lfeon, frmsizecod)


def _read_eac3(r: BitReader) -> Syncframe:
    strmtyp, substreamid, size = r.u(2), r.u(3), 2 * (r.u(11) + 1)
    if strmtyp == 3:
        raise ProtocolError("E-AC-3: expected strmtyp 0 to 2, got 3")
    fscod, code = r.u(2), r.u(2)
    if fscod == 3:
        if code == 3:
            raise ProtocolError("E-AC-3: expected fscod2 0 to 2, got 3")
        rate, blocks = _RATES[code] >> 1, 6
    else:
        rate, blocks = _RATES[fscod], _BLOCKS[code]
    acmod, lfeon, bsid = r.u(3), r.u(1), r.u(5)
    for _ in range(1 if acmod else 2):
        r.skip(5)
        if r.flag():
            r.skip(8)
    chanmap = r.u(16) if strmtyp == _DEPENDENT and r.flag() else 0
    return Syncframe(
        True, rate, _CHANNELS[acmod] + lfeon, 256 * blocks, size, fscod, bsid, 0, acmod, lfeon, 0, strmtyp, substreamid, chanmap
    )


def syncframes(data: bytes, *, max_frames: int = 64) -> list[Syncframe]:
    """The syncframes of one access unit."""
    found: list[Syncframe] = []
    position = 0
    while position < len(data):
        if len(found) == max_frames:
            raise LimitExceeded(f"AC-3: expected at most {max_frames} syncframes, got more")
        frame = parse_syncframe(data[position : position + 64])
        position += frame.frame_size
        if position > len(data):
            raise ProtocolError(f"AC-3: expected a syncframe of {frame.frame_size} bytes, got {frame.frame_size + len(data) - position}")
        found.append(frame)
    if not found:
        raise ProtocolError("AC-3: expected a syncframe, got nothing")
    return found


def build_dac3(frame: bytes) -> bytes:
    """The payload of dac3 (F.4), 3 bytes, from an AC-3 syncframe."""
    f = parse_syncframe(frame)
    if f.enhanced:
        raise ProtocolError(f"dac3: expected an AC-3 syncframe, got bsid {f.bsid}")
    w = BitWriter().u(2, f.fscod).u(5, f.bsid).u(3, f.bsmod).u(3, f.acmod).u(1, f.lfeon).u(5, f.frmsizecod >> 1).u(5, 0)
    return w.to_bytes()


def build_dec3(access_unit: bytes) -> bytes:
    """The payload of dec3 (F.6) from an E-AC-3 access unit: its independent substreams, each with its dependents."""
    frames = syncframes(access_unit)
    # With fewer than six blocks a frame, a sample repeats each substream; the first round tells all.
    independent: dict[int, Syncframe] = {}
    dependents: dict[int, dict[int, int]] = {}
    current = -1
    for f in frames:
        if not f.enhanced:
            raise ProtocolError(f"dec3: expected E-AC-3 syncframes, got bsid {f.bsid}")
        if f.strmtyp != _DEPENDENT:
            current = f.substreamid
            independent.setdefault(current, f)
        elif current < 0:
            raise ProtocolError("dec3: expected an independent substream first, got a dependent one")
        else:
            dependents.setdefault(current, {})[f.substreamid] = _chan_loc(f.chanmap)
    samples = sum(f.samples for f in frames if f.strmtyp != _DEPENDENT and f.substreamid == frames[0].substreamid)
    kbps = len(access_unit) * 8 * frames[0].sample_rate // (samples * 1000)
    w = BitWriter().u(13, min(kbps, 0x1FFF)).u(3, len(independent) - 1)
    for number, f in independent.items():
        below = dependents.get(number, {})
        w.u(2, f.fscod).u(5, f.bsid).u(1, 0).u(1, 0).u(3, f.bsmod).u(3, f.acmod).u(1, f.lfeon).u(3, 0).u(4, len(below))
        if below:
            locations = 0
            for location in below.values():
                locations |= location
            w.u(9, locations)
        else:
            w.u(1, 0)
    return w.to_bytes()


def _chan_loc(chanmap: int) -> int:
    """chan_loc of F.6.2.13 from the custom channel map of E.1.3.1.8: map bits 5 to 12 (from the left) in chan_loc order, LFE2 last."""
    bits = [chanmap >> (15 - index) & 1 for index in range(16)]
    wanted = (5, 6, 7, 8, 9, 10, 11, 12, 14)
    return sum(bits[index] << order for order, index in enumerate(wanted))
