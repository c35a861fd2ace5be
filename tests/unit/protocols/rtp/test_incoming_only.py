"""Payload formats that cameras send and we do not: AAC, MPEG audio, JPEG."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medianode.codecs import jpeg
from medianode.errors import LimitExceeded, PeerError
from medianode.protocols.rtp.assembly import Frame
from medianode.protocols.rtp.jpeg import JpegDepacketiser
from medianode.protocols.rtp.mpeg_audio import LatmDepacketiser, Mpeg4Depacketiser, MpegAudioDepacketiser
from medianode.protocols.rtp.packet import RtpPacket

HBR = {"mode": "AAC-hbr", "sizelength": "13", "indexlength": "3"}


def packet(payload: bytes, timestamp: int = 1000, *, marker: bool = True, sequence: int = 0) -> RtpPacket:
    return RtpPacket(96, marker, sequence, timestamp, 1, {}, payload)


def aac(*units: bytes, size: int | None = None) -> bytes:
    heads = b"".join(((size or len(unit)) << 3).to_bytes(2, "big") for unit in units)
    return (len(units) * 16).to_bytes(2, "big") + heads + b"".join(units)


def test_aac_units_of_one_packet_follow_each_other() -> None:
    d = Mpeg4Depacketiser(1000, HBR)
    frames = d.push(packet(aac(b"one", b"three")), False)
    assert [(f.data, f.timestamp, f.complete) for f in frames] == [(b"one", 1000, True), (b"three", 2024, True)]


def test_an_aac_unit_over_several_packets() -> None:
    d = Mpeg4Depacketiser(1000, HBR)
    assert d.push(packet(aac(b"abc", size=7), marker=False), False) == []
    (frame,) = d.push(packet(aac(b"defg", size=7)), False)
    assert frame.data == b"abcdefg"
    assert d.push(packet(aac(b"abc", size=7), 5000), False) == []
    assert d.push(packet(aac(b"defg", size=7), 5000), True) == []  # what came between is lost
    assert d.incomplete == 1
    (frame,) = d.push(packet(aac(b"x"), 6000), False)
    assert frame.data == b"x"


def test_aac_bounds_and_faults() -> None:
    d = Mpeg4Depacketiser(4, HBR)
    with pytest.raises(LimitExceeded):
        d.push(packet(aac(b"abcde", size=7)), False)
    assert d.push(packet(b"\xff\xff"), False) == [Frame(b"", 1000, False)]
    assert d.push(packet(b"\x00\x00a"), False) == [Frame(b"", 1000, False)]
    assert (d.malformed, d.fault) == (2, "AAC over RTP: expected headers of 16 bits, got 0 in 3 bytes")
    low = Mpeg4Depacketiser(100, {"mode": "AAC-lbr"})
    (frame,) = low.push(packet(b"\x00\x08" + bytes((3 << 2,)) + b"abc"), False)
    assert frame.data == b"abc"


def test_latm() -> None:
    d = LatmDepacketiser(2000)
    long = b"y" * 300
    assert d.push(packet(b"\xff\x2d" + long[:100], marker=False), False) == []
    (frame,) = d.push(packet(long[100:]), False)
    assert frame.data == long
    assert d.push(packet(b"\x09abc", 5), False) == [Frame(b"", 5, False)]
    assert d.malformed == 1


def test_mpeg_audio() -> None:
    header = bytes.fromhex("fffb9064")  # 128 kbit/s, 44.1 kHz: 417 bytes
    frame = header + bytes(413)
    d = MpegAudioDepacketiser(5000)
    first, second = d.push(packet(bytes(4) + frame + frame), False)
    assert (first.data, second.data) == (frame, frame)
    assert second.timestamp - first.timestamp == 1152 * 90_000 // 44_100
    assert d.push(packet(bytes(4) + frame[:200], 9), False) == []
    (whole,) = d.push(packet(b"\0\0\0\xc8" + frame[200:], 9), False)
    assert whole.data == frame
    assert d.push(packet(b"\0\0\0\xc8" + frame[200:], 99), False) == []


def picture(subsampling: int, quality: int = 60) -> bytes:
    made = io.BytesIO()
    image = Image.effect_noise((64, 48), 40).convert("RGB")
    image.save(made, "jpeg", quality=quality, subsampling=subsampling)
    return made.getvalue()


def payloads(data: bytes, kind: int, size: int = 300) -> list[bytes]:
    """As a sender cuts it: tables in band, the scan alone."""
    tables = b"".join(data[at + 5 : at + 69] for at in range(len(data)) if data[at : at + 4] == b"\xff\xdb\x00\x43")
    scan = data[data.index(b"\xff\xda") + 14 :].removesuffix(b"\xff\xd9")
    out = []
    for offset in range(0, len(scan), size):
        head = b"\0" + offset.to_bytes(3, "big") + bytes((kind, 255, 8, 6))
        extra = b"\0\0" + len(tables).to_bytes(2, "big") + tables if offset == 0 else b""
        out.append(head + extra + scan[offset : offset + size])
    return out


@pytest.mark.parametrize(("kind", "subsampling"), [(0, 1), (1, 2)])
def test_a_jpeg_gets_its_headers_back(kind: int, subsampling: int) -> None:
    data = picture(subsampling)
    pieces = payloads(data, kind)
    assert len(pieces) > 2
    d, frames = JpegDepacketiser(1 << 20), []
    for i, piece in enumerate(pieces):
        frames += d.push(packet(piece, marker=i == len(pieces) - 1, sequence=i), False)
    (frame,) = frames
    look = jpeg.parse_jpeg(frame.data)
    assert (look.width, look.height) == (64, 48)
    ours, theirs = Image.open(io.BytesIO(frame.data)), Image.open(io.BytesIO(data))
    assert ours.tobytes() == theirs.tobytes()  # pixel for pixel


def test_a_jpeg_with_a_hole_is_not_shown() -> None:
    pieces = payloads(picture(2), 1)
    d = JpegDepacketiser(1 << 20)
    frames = [f for i, p in enumerate(pieces) if i != 1 for f in d.push(packet(p, marker=i == len(pieces) - 1), i == 2)]
    assert frames == [Frame(b"", 1000, False)]  # told once, and as soon as it is known
    assert d.incomplete == 1
    with pytest.raises(LimitExceeded):
        JpegDepacketiser(100).push(packet(pieces[0]), False)


def test_a_jpeg_whose_end_never_came_and_one_of_a_kind_that_is_none_are_told() -> None:
    pieces = payloads(picture(2), 1)
    d = JpegDepacketiser(1 << 20)
    assert d.push(packet(pieces[0], 1000, marker=False), False) == []
    assert d.push(packet(pieces[0], 4600, marker=False), True) == [Frame(b"", 1000, False)]
    assert d.push(packet(pieces[1], 4600, marker=False), True) == [Frame(b"", 4600, False)]
    (told,) = d.push(packet(pieces[0][:4] + b"\x07" + pieces[0][5:], 8200, marker=False), False)
    assert told == Frame(b"", 8200, False)
    assert d.fault == "JPEG over RTP: expected type 0 or 1, a size and tables, got type 7, 64x48, Q 255"
    assert d.push(packet(pieces[1], 8200), False) == []


@given(st.lists(st.binary(max_size=80), max_size=12), st.booleans())
def test_garbage_is_a_peers_fault(payloads: list[bytes], lost: bool) -> None:
    for d in (Mpeg4Depacketiser(200, HBR), LatmDepacketiser(200), MpegAudioDepacketiser(200), JpegDepacketiser(200)):
        for i, payload in enumerate(payloads):
            with contextlib.suppress(PeerError):
                d.push(packet(payload, i // 2, marker=i % 3 == 0), lost)
