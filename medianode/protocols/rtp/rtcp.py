"""RTCP: reports (RFC 3550 6), feedback (RFC 4585, 5104, 5506), REMB; read and built. NTP stamps and round-trip times.

`parse` tells all that is known of a compound; `read_feedback` only what a sender of media needs, at half the cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from medianode.errors import LimitExceeded, ProtocolError

MAX_BYTES = 4096
"""Of a compound: RTCP keeps to the MTU; what is longer is refused before anything is made of it."""
MAX_REPORTS = 31
"""Blocks in one SR or RR."""

_SR, _RR, _SDES, _BYE, _RTPFB, _PSFB = 200, 201, 202, 203, 205, 206
_NTP_EPOCH = 2_208_988_800  # 1900 to 1970, seconds

_HEAD = Struct("!BBH")
_TWO = Struct("!II")
_SENDER = Struct("!IQIII")
_BLOCK = Struct("!IIIIII")
_PAIR = Struct("!HH")
_FEEDBACK = Struct("!BBHII")
_TWCC = Struct("!HHI")
_head = _HEAD.unpack_from
_two = _TWO.unpack_from
_sender = _SENDER.unpack_from
_block = _BLOCK.unpack_from
_pair = _PAIR.unpack_from


class ReportBlock(NamedTuple):
    """RFC 3550 6.4.1. `fraction_lost` of 256; `cumulative_lost` may be negative (duplicates); `highest` is cycles and sequence, 32 bits.

    `jitter` in ticks; `last_sr` the middle 32 bits of its NTP stamp and `delay` since then in 1/65536 s, both 0 before the first SR.
    """

    ssrc: int
    fraction_lost: int
    cumulative_lost: int
    highest: int
    jitter: int
    last_sr: int
    delay: int


class SenderReport(NamedTuple):
    """`ntp`: 64 bits, of the same instant as the RTP `timestamp`."""

    ssrc: int
    ntp: int
    timestamp: int
    packets: int
    octets: int
    reports: tuple[ReportBlock, ...] = ()


class ReceiverReport(NamedTuple):
    ssrc: int
    reports: tuple[ReportBlock, ...] = ()


class SourceDescription(NamedTuple):
    """`cnames` by SSRC; other items are skipped."""

    cnames: dict[int, str]


class Bye(NamedTuple):
    ssrcs: tuple[int, ...]
    reason: str = ""


class Nack(NamedTuple):
    """RFC 4585 6.2.1. `sequences`: 16 bits each, in the order of the message."""

    sender_ssrc: int
    media_ssrc: int
    sequences: tuple[int, ...]


class Pli(NamedTuple):
    sender_ssrc: int
    media_ssrc: int


class Fir(NamedTuple):
    """RFC 5104 4.3.1. `requests`: (SSRC, command sequence); one with a sequence seen before is a repetition."""

    sender_ssrc: int
    requests: tuple[tuple[int, int], ...]


class Remb(NamedTuple):
    """draft-alvestrand-rmcat-remb: `bitrate` in bits a second for all `ssrcs` together."""

    sender_ssrc: int
    bitrate: int
    ssrcs: tuple[int, ...]


class TransportFeedback(NamedTuple):
    """transport-cc (draft-holmer 3.1). `reference_time` in 64 ms, signed; `body`: status chunks and deltas."""

    sender_ssrc: int
    media_ssrc: int
    base_sequence: int
    status_count: int
    reference_time: int
    feedback_count: int
    body: bytes


Message = SenderReport | ReceiverReport | SourceDescription | Bye | Nack | Pli | Fir | Remb | TransportFeedback


class Feedback(NamedTuple):
    """What a viewer wants of us. `nacks`: (media SSRC, sequences); `keyframes`: SSRCs that PLI or FIR names."""

    reports: list[ReportBlock]
    nacks: list[tuple[int, list[int]]]
    keyframes: list[int]


def ntp(wallclock: float) -> int:
    """64-bit NTP stamp of seconds since 1970, UTC."""
    return int((wallclock + _NTP_EPOCH) * 4_294_967_296.0) & 0xFFFFFFFFFFFFFFFF


def wallclock(ntp: int) -> float:
    """Seconds since 1970, UTC. Stamps with a clear top bit are of the era that begins in 2036 (RFC 4330 3)."""
    seconds = ntp >> 32
    if seconds < 0x80000000:
        seconds += 1 << 32
    return seconds - _NTP_EPOCH + (ntp & 0xFFFFFFFF) / 4_294_967_296.0


def round_trip(report: ReportBlock, now_ntp: int) -> float | None:
    """Seconds, not negative; None before the peer has seen an SR (RFC 3550 6.4.1). `now_ntp`: when the report came in."""
    if not report.last_sr:
        return None
    units = ((now_ntp >> 16) - report.last_sr - report.delay) & 0xFFFFFFFF
    return units / 65536.0 if units < 0x80000000 else 0.0


def _packets(data: bytes) -> Iterable[tuple[int, int, int, int]]:
    """(type, count or format, where the body begins, where it ends less padding) of each packet in a compound."""
    size = len(data)
    if size > MAX_BYTES:
        raise LimitExceeded(f"RTCP: expected at most {MAX_BYTES} bytes, got {size}")
    if size < 4:
        raise ProtocolError(f"RTCP: expected at least 4 bytes, got {size}")
    at = 0
    while at < size:
        if size - at < 4:
            raise ProtocolError(f"RTCP: expected a header of 4 bytes, got {size - at}")
        first, kind, words = _head(data, at)
        body = at + 4
        at = end = body + (words << 2)
        if first >> 6 != 2:
            raise ProtocolError(f"RTCP: expected version 2, got {first >> 6}")
        if end > size:
            raise ProtocolError(f"RTCP: expected {end} bytes, got {size}")
        if first & 0x20:
            padding = data[end - 1]
            if not padding or padding > end - body:
                raise ProtocolError(f"RTCP: expected 1 to {end - body} bytes of padding, got {padding}")
            end -= padding
        yield kind, first & 0x1F, body, end


def _short(kind: int, expected: int, got: int) -> ProtocolError:
    return ProtocolError(f"RTCP: expected {expected} bytes in a packet of type {kind}, got {got}")


def parse(data: bytes) -> list[Message]:
    """All known messages of a compound, or of a reduced-size packet (RFC 5506), in order; unknown ones are skipped."""
    messages: list[Message] = []
    for kind, count, at, end in _packets(data):
        if kind == _RR:
            if end - at < 4:
                raise _short(kind, 4, end - at)
            messages.append(ReceiverReport(int.from_bytes(data[at : at + 4], "big"), tuple(_blocks(data, kind, count, at + 4, end))))
        elif kind == _SR:
            if end - at < 24:
                raise _short(kind, 24, end - at)
            ssrc, stamp, timestamp, packets, octets = _sender(data, at)
            reports = tuple(_blocks(data, kind, count, at + 24, end))
            messages.append(SenderReport(ssrc, stamp, timestamp, packets, octets, reports))
        elif kind == _SDES:
            messages.append(_read_sdes(data, count, at, end))
        elif kind == _BYE:
            messages.append(_read_bye(data, count, at, end))
        elif kind in (_RTPFB, _PSFB):
            message = _read_feedback_message(data, kind, count, at, end)
            if message is not None:
                messages.append(message)
    return messages


def read_feedback(data: bytes) -> Feedback:
    """Reports, NACKs and key-frame requests of a compound; all else is skipped unread."""
    reports: list[ReportBlock] = []
    nacks: list[tuple[int, list[int]]] = []
    keyframes: list[int] = []
    for kind, count, at, end in _packets(data):
        if kind == _RR:
            if count:
                reports += _blocks(data, kind, count, at + 4, end)
        elif kind == _SR:
            if count:
                reports += _blocks(data, kind, count, at + 24, end)
        elif kind == _RTPFB and count == 1:
            if end - at < 8:
                raise _short(kind, 8, end - at)
            nacks.append((_two(data, at)[1], _sequences(data, at + 8, end)))
        elif kind == _PSFB and (count == 1 or count == 4):
            if end - at < 8:
                raise _short(kind, 8, end - at)
            if count == 1:
                keyframes.append(_two(data, at)[1])
            else:
                keyframes += [_two(data, entry)[0] for entry in range(at + 8, end - 7, 8)]
    return Feedback(reports, nacks, keyframes)


def _blocks(data: bytes, kind: int, count: int, at: int, end: int) -> list[ReportBlock]:
    if end - at < 24 * count:
        raise _short(kind, 24 * count, end - at)
    blocks = []
    for offset in range(at, at + 24 * count, 24):
        ssrc, loss, highest, jitter, last_sr, delay = _block(data, offset)
        lost = loss & 0xFFFFFF
        blocks.append(ReportBlock(ssrc, loss >> 24, lost - (1 << 24) if lost & 0x800000 else lost, highest, jitter, last_sr, delay))
    return blocks


def _sequences(data: bytes, at: int, end: int) -> list[int]:
    """Of the generic NACK's entries: the PID and, bit by bit, what follows it."""
    sequences = []
    for offset in range(at, end - 3, 4):
        pid, following = _pair(data, offset)
        sequences.append(pid)
        while following:
            pid += 1
            if following & 1:
                sequences.append(pid & 0xFFFF)
            following >>= 1
    return sequences


def _read_feedback_message(data: bytes, kind: int, form: int, at: int, end: int) -> Message | None:
    if end - at < 8:
        raise _short(kind, 8, end - at)
    sender, media = _two(data, at)
    at += 8
    if kind == _RTPFB:
        if form == 1:
            return Nack(sender, media, tuple(_sequences(data, at, end)))
        if form == 15:
            if end - at < 8:
                raise _short(kind, 16, end - at + 8)
            base, count, times = _TWCC.unpack_from(data, at)
            reference = times >> 8
            reference -= (reference & 0x800000) << 1
            return TransportFeedback(sender, media, base, count, reference, times & 0xFF, data[at + 8 : end])
        return None
    if form == 1:
        return Pli(sender, media)
    if form == 4:
        entries = (_two(data, entry) for entry in range(at, end - 7, 8))
        return Fir(sender, tuple((ssrc, rest >> 24) for ssrc, rest in entries))
    if form == 15 and data[at : at + 4] == b"REMB" and end - at >= 8:
        value = _two(data, at)[1]
        count = value >> 24
        if end - at < 8 + 4 * count:
            raise _short(kind, 16 + 4 * count, end - at + 8)
        ssrcs = tuple(int.from_bytes(data[entry : entry + 4], "big") for entry in range(at + 8, at + 8 + 4 * count, 4))
        return Remb(sender, (value & 0x3FFFF) << (value >> 18 & 0x3F), ssrcs)
    return None


def _read_sdes(data: bytes, count: int, at: int, end: int) -> SourceDescription:
    cnames = {}
    for _ in range(count):
        if end - at < 4:
            raise _short(_SDES, at + 4, end)
        ssrc = int.from_bytes(data[at : at + 4], "big")
        start = at
        at += 4
        while True:
            if at >= end:
                raise ProtocolError("RTCP: expected the items of an SDES chunk to end with a zero")
            item = data[at]
            if not item:
                break
            if at + 2 > end or at + 2 + data[at + 1] > end:
                raise ProtocolError("RTCP: expected an SDES item within its packet")
            value = at + 2
            at = value + data[value - 1]
            if item == 1:
                cnames[ssrc] = data[value:at].decode("utf-8", "replace")
        at += 4 - (at - start) % 4  # at least one zero, then up to a word
    return SourceDescription(cnames)


def _read_bye(data: bytes, count: int, at: int, end: int) -> Bye:
    if end - at < 4 * count:
        raise _short(_BYE, 4 * count, end - at)
    ssrcs = tuple(int.from_bytes(data[entry : entry + 4], "big") for entry in range(at, at + 4 * count, 4))
    at += 4 * count
    return Bye(ssrcs, data[at + 1 : min(at + 1 + data[at], end)].decode("utf-8", "replace") if at < end else "")


def _pack_blocks(reports: Sequence[ReportBlock]) -> bytes:
    if len(reports) > MAX_REPORTS:
        raise LimitExceeded(f"RTCP: expected at most {MAX_REPORTS} report blocks, got {len(reports)}")
    return b"".join(
        _BLOCK.pack(
            block.ssrc,
            block.fraction_lost << 24 | max(-0x800000, min(0x7FFFFF, block.cumulative_lost)) & 0xFFFFFF,
            block.highest & 0xFFFFFFFF,
            block.jitter & 0xFFFFFFFF,
            block.last_sr,
            block.delay & 0xFFFFFFFF,
        )
        for block in reports
    )


def sender_report(ssrc: int, ntp: int, timestamp: int, packets: int, octets: int, reports: Sequence[ReportBlock] = ()) -> bytes:
    """An SR; counters are wrapped to 32 bits."""
    head = _HEAD.pack(0x80 | len(reports) & 0x1F, _SR, 6 + 6 * len(reports))
    body = _SENDER.pack(ssrc, ntp, timestamp & 0xFFFFFFFF, packets & 0xFFFFFFFF, octets & 0xFFFFFFFF)
    return head + body + _pack_blocks(reports)


def receiver_report(ssrc: int, reports: Sequence[ReportBlock] = ()) -> bytes:
    return _HEAD.pack(0x80 | len(reports) & 0x1F, _RR, 1 + 6 * len(reports)) + ssrc.to_bytes(4, "big") + _pack_blocks(reports)


def sdes(ssrc: int, cname: str) -> bytes:
    """One chunk with a CNAME of up to 255 bytes, which each compound needs."""
    name = cname.encode()
    chunk = ssrc.to_bytes(4, "big") + bytes((1, len(name))) + name
    chunk += bytes(4 - len(chunk) % 4)
    return _HEAD.pack(0x81, _SDES, len(chunk) >> 2) + chunk


def bye(ssrcs: Sequence[int], reason: str = "") -> bytes:
    body = b"".join(ssrc.to_bytes(4, "big") for ssrc in ssrcs)
    if reason:
        text = reason.encode()
        body += bytes((len(text),)) + text
        body += bytes(-len(body) % 4)
    return _HEAD.pack(0x80 | len(ssrcs), _BYE, len(body) >> 2) + body


def nack(sender_ssrc: int, media_ssrc: int, sequences: Iterable[int]) -> bytes:
    """RFC 4585 6.2.1. `sequences` in sending order (they may wrap), or entries are spent on them."""
    entries: list[tuple[int, int]] = []
    pid = following = -1
    for sequence in sequences:
        ahead = (sequence - pid) & 0xFFFF
        if following >= 0 and ahead <= 16:
            if ahead:
                following |= 1 << (ahead - 1)
                entries[-1] = (pid, following)
        else:
            pid, following = sequence & 0xFFFF, 0
            entries.append((pid, following))
    head = _FEEDBACK.pack(0x81, _RTPFB, 2 + len(entries), sender_ssrc, media_ssrc)
    return head + b"".join(_PAIR.pack(*entry) for entry in entries)


def pli(sender_ssrc: int, media_ssrc: int) -> bytes:
    return _FEEDBACK.pack(0x81, _PSFB, 2, sender_ssrc, media_ssrc)


def fir(sender_ssrc: int, media_ssrc: int, sequence: int) -> bytes:
    """`sequence`: one more, modulo 256, for each new request to this SSRC."""
    return _FEEDBACK.pack(0x84, _PSFB, 4, sender_ssrc, 0) + _TWO.pack(media_ssrc, (sequence & 0xFF) << 24)
