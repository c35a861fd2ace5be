"""RTP payload formats: what is packetised comes back, loss never yields a wrong unit, garbage gives only PeerError within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medianode.codecs import av1, nal
from medianode.errors import PeerError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp.packet import RtpPacket, parse
from medianode.protocols.rtp.payload import Frame, depacketiser, is_reference, packetiser

CODECS = [Codec.H264, Codec.HEVC, Codec.VP8, Codec.VP9, Codec.AV1, Codec.OPUS]
VIDEO = CODECS[:-1]
MAX_BYTES = 1 << 16
VECTORS = Path(__file__).parents[1] / "vectors" / "rtp"


def recorded(name: str) -> list[bytes]:
    data, at, found = (VECTORS / f"ffmpeg9-{name}.rtp").read_bytes(), 0, []
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        found.append(parse(data[at + 2 : end]).payload)
        at = end
    return found


SEEDS = {
    Codec.H264: recorded("h264"),
    Codec.HEVC: recorded("hevc"),
    Codec.VP8: recorded("vp8"),
    Codec.VP9: recorded("vp9"),
    Codec.AV1: recorded("av1"),
    Codec.OPUS: recorded("opus"),
}

_size = st.one_of(st.integers(0, 60), st.integers(0, 4000))


@st.composite
def access_unit(draw: st.DrawFn, codec: Codec) -> bytes:
    """As packets carry it, with parameter sets in front now and then. Bodies are cheap and differ."""
    seed = draw(st.integers(0, 255))

    def body(index: int) -> bytes:
        return bytes((seed + index + at) & 0xFF for at in range(draw(_size)))

    count = draw(st.integers(1, 6))
    if codec is Codec.H264:
        heads = draw(st.sampled_from([b"", b"\x67", b"\x67\x68", b"\x68"]))
        kinds = draw(st.lists(st.sampled_from(b"\x65\x41\x01\x21"), min_size=1, max_size=count))
        return nal.join([bytes((head,)) + body(at) for at, head in enumerate((*heads, *kinds))])
    if codec is Codec.HEVC:
        heads = draw(st.sampled_from([b"", b"\x40\x42\x44", b"\x44"]))
        kinds = draw(st.lists(st.sampled_from(b"\x26\x02\x00\x03"), min_size=1, max_size=count))
        return nal.join([bytes((head, draw(st.integers(1, 7)))) + body(at) + b"x" for at, head in enumerate((*heads, *kinds))])
    if codec is Codec.AV1:
        kinds = draw(st.lists(st.sampled_from([5, 3, 4, 6]), min_size=1, max_size=count))
        if draw(st.booleans()):
            kinds.insert(0, 1)
        extension = draw(st.sampled_from([b"", b"\x20"]))
        flags = 2 | 4 * (extension != b"")
        bodies = [body(at) for at in range(len(kinds))]
        return b"".join(bytes((kind << 3 | flags,)) + extension + av1.leb128(len(b)) + b for kind, b in zip(kinds, bodies, strict=True))
    return bytes((seed,)) + body(0)


@st.composite
def streams(draw: st.DrawFn, codec: Codec, most: int = 1) -> tuple[list[bytes], int]:
    """(access units, max_payload)."""
    units = draw(st.lists(access_unit(codec), min_size=1, max_size=most))
    return units, draw(st.one_of(st.integers(16, 200), st.integers(16, 1500)))


def carry(codec: Codec, units: list[bytes], max_payload: int, keyframes: bool = False) -> list[RtpPacket]:
    payloads = packetiser(codec, max_payload)
    track = Track(0, codec, 90_000)
    out: list[RtpPacket] = []
    for index, data in enumerate(units):
        cut = payloads.packetise(Packet(track, data, 0, 0, keyframes, 0.0))
        assert cut
        if codec is not Codec.OPUS:
            assert max(map(len, cut)) <= max_payload
        out += [RtpPacket(96, at == len(cut) - 1, len(out) + at, index, 7, {}, payload) for at, payload in enumerate(cut)]
    return out


@pytest.mark.parametrize("codec", CODECS)
@given(st.data())
def test_what_is_packetised_comes_back(codec: Codec, data: st.DataObject) -> None:
    units, max_payload = data.draw(streams(codec, 3))
    frames = depacketiser(codec, 1 << 20)
    packets = carry(codec, units, max_payload, data.draw(st.booleans()))
    got = [frame for packet in packets for frame in frames.push(packet, False)]
    assert got == [Frame(unit, index, True) for index, unit in enumerate(units)]


@pytest.mark.parametrize("codec", [Codec.VP8, Codec.VP9, Codec.H264, Codec.HEVC])
@given(st.data())
def test_a_picture_in_one_piece_is_one_run_of_equal_payloads(codec: Codec, data: st.DataObject) -> None:
    size, max_payload = data.draw(st.integers(3, 6000)), data.draw(st.integers(16, 1500))
    picture = b"\x02\x01".ljust(size, b"x")
    unit = picture if codec in (Codec.VP8, Codec.VP9) else nal.join([picture])
    lengths = [len(packet.payload) for packet in carry(codec, [unit], max_payload)]
    assert set(lengths[:-1]) <= {max_payload}


@pytest.mark.parametrize("codec", VIDEO)
@given(st.data())
def test_loss_never_yields_a_wrong_unit(codec: Codec, data: st.DataObject) -> None:
    units, max_payload = data.draw(streams(codec, 6))
    packets = carry(codec, units, max_payload, data.draw(st.booleans()))
    if data.draw(st.booleans()):
        packets = [packet._replace(marker=False) for packet in packets]
    arrived = data.draw(st.lists(st.booleans() | st.just(True), min_size=len(packets), max_size=len(packets)))
    frames = depacketiser(codec, 1 << 20)
    got: list[Frame] = []
    lost, losses = False, 0
    for packet, here in zip(packets, arrived, strict=True):
        if here:
            got += frames.push(packet, lost)
            losses += lost
        lost = not here
    complete = [frame for frame in got if frame.complete]
    assert all(units[frame.timestamp] == frame.data for frame in complete)
    times = [frame.timestamp for frame in complete]
    assert times == sorted(set(times))
    assert (losses > 0) <= sum(not frame.complete for frame in got) <= losses
    assert frames.malformed == 0 or not all(arrived)
    assert safe(packets, arrived) <= set(times)


def safe(packets: list[RtpPacket], arrived: list[bool]) -> set[int]:
    """Units that arrived whole, with the packet before them, and (where there is no marker) the one behind."""
    found = set()
    for index in {packet.timestamp for packet in packets}:
        own = [packet.sequence for packet in packets if packet.timestamp == index]
        needed = [*range(max(0, own[0] - 1), own[-1] + 1)]
        if not packets[own[-1]].marker:
            needed.append(own[-1] + 1)
        if needed[-1] < len(packets) and all(arrived[at] for at in needed):
            found.add(index)
    return found


@st.composite
def payloads_of_garbage(draw: st.DrawFn, codec: Codec) -> bytes:
    if draw(st.booleans()):
        return draw(st.binary(max_size=40))
    payload = bytearray(draw(st.sampled_from(SEEDS[codec])))
    for _ in range(draw(st.integers(0, 3))):
        if payload:
            at = draw(st.integers(0, min(len(payload) - 1, 12)))
            payload[at] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.integers(0, 1500))])


@pytest.mark.parametrize("codec", CODECS)
@given(st.data())
def test_garbage_gives_only_peer_errors_within_bounds(codec: Codec, data: st.DataObject) -> None:
    max_bytes = data.draw(st.sampled_from([100, 2000, MAX_BYTES]))
    frames = depacketiser(codec, max_bytes)
    taken = 0
    for _ in range(data.draw(st.integers(1, 12))):
        payload = data.draw(payloads_of_garbage(codec))
        taken += len(payload) + 1
        packet = RtpPacket(96, data.draw(st.booleans()), 0, data.draw(st.integers(0, 2)), 7, {}, payload)
        try:
            told = frames.push(packet, data.draw(st.booleans()))
        except PeerError:
            continue
        for frame in told:
            assert len(frame.data) <= 4 * min(taken, max_bytes + 100)
            assert frame.complete == bool(frame.data)


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=50)
@given(data=st.binary(max_size=200), keyframe=st.booleans())
def test_packets_of_garbage_give_only_peer_errors(codec: Codec, data: bytes, keyframe: bool) -> None:
    packet = Packet(Track(0, codec, 90_000), data, 0, 0, keyframe, 0.0)
    assert is_reference(packet) in (True, False)
    try:
        cut = packetiser(codec, 50).packetise(packet)
    except PeerError:
        return
    assert sum(map(len, cut)) <= 8 * len(data) + 20
