"""SRT and transport streams under Hypothesis: nothing is lost, doubled or out of order but what never came; no cut of the bytes matters."""

from __future__ import annotations

import contextlib

from harness.transport import VIDEO, Packets, pes, unpack_losses
from hypothesis import given, settings
from hypothesis import strategies as st

from medianode.errors import PeerError
from medianode.ingress.srt_cipher import AesCiphers
from medianode.protocols.mpegts import TsDemuxer, TsUnit
from medianode.protocols.srt.connection import Connection
from medianode.protocols.srt.handshake import parse_handshake
from medianode.protocols.srt.keys import Keys
from medianode.protocols.srt.listener import Listener, Refusal
from medianode.protocols.srt.packet import HEADER, pack_losses
from medianode.protocols.srt.receiver import Lost, Output, Receiver
from medianode.protocols.srt.stream_id import parse_stream_id

TOP = 0x7FFFFFFF


@given(st.integers(0, TOP), st.data())
@settings(max_examples=80)
def test_what_is_handed_on_is_in_order_once_and_accounted_for(first: int, data: st.DataObject) -> None:
    receiver = Receiver(first, 0.1, 32)
    out: list[Output] = []
    now, pushed = 0.0, 0
    for step in data.draw(st.lists(st.tuples(st.integers(-4, 40), st.integers(0, 60)), max_size=60)):
        offset, wait = step
        now += wait / 1000
        at = (receiver.acknowledged + offset) & TOP
        receiver.push(at, at.to_bytes(4, "big"), now, out)
        pushed += 1
        if wait % 3 == 0:
            receiver.expire(now, out)
        receiver.losses(now, 0.02)
    receiver.expire(now + 1, out)
    expected = first
    for piece in out:
        if isinstance(piece, Lost):
            expected += piece.packets
        else:
            assert int.from_bytes(piece, "big") == expected & TOP
            expected += 1
    assert len(receiver) == 0
    assert receiver.acknowledged == expected & TOP
    assert pushed == receiver.received + receiver.duplicates + receiver.late + receiver.beyond
    assert receiver.lost == sum(piece.packets for piece in out if isinstance(piece, Lost))


@given(st.lists(st.integers(0, TOP - 1), max_size=60, unique=True).map(sorted))
def test_loss_lists_are_read_as_they_were_written(sequences: list[int]) -> None:
    read = [n for low, high in unpack_losses(pack_losses(sequences)) for n in range(low, high + 1)]
    assert read == sequences


@given(
    st.lists(
        st.binary(max_size=120)
        | st.builds(
            lambda a, b, c: HEADER.pack(a, b, 0, 5) + c, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=40)
        )
    )
)
def test_a_connection_bears_whatever_comes(datagrams: list[bytes]) -> None:
    keys = Keys("a secret of ten and more", AesCiphers())
    for line in (Connection(5, 6, 0, 0.1, 64, None, 0.0), Connection(5, 6, 0, 0.1, 64, keys, 0.0)):
        for n, datagram in enumerate(datagrams):
            if len(datagram) >= 16:
                line.receive(datagram, n / 50)
                line.tick(n / 50)
        assert len(line.receiver) <= 64
        assert all(len(answer) <= 1456 for answer in line.datagrams())


@given(st.binary(max_size=300))
def test_handshakes_raise_peer_errors_only(data: bytes) -> None:
    header = HEADER.pack(0x80000000, 0, 0, 0)
    listener = Listener(b"s")
    for datagram in (data, header + data):
        answer = listener.receive(datagram, b"somebody", 0.0)
        said = answer if isinstance(answer, bytes) else answer.datagram if isinstance(answer, Refusal) else b""
        assert len(said) <= len(datagram)
        with contextlib.suppress(PeerError):
            parse_handshake(datagram)


@given(st.text(max_size=80) | st.text(max_size=40).map("#!::".__add__))
def test_stream_ids_raise_peer_errors_only(text: str) -> None:
    with contextlib.suppress(PeerError):
        parse_stream_id(text)


@given(st.lists(st.binary(min_size=1, max_size=900), min_size=1, max_size=6), st.lists(st.integers(1, 700), max_size=30))
def test_pictures_come_out_as_they_went_in_however_the_bytes_are_cut(pictures: list[bytes], cuts: list[int]) -> None:
    packets = Packets()
    data = packets.tables(((0x24, VIDEO, b""),))
    payloads = [b"\0\0\0\1\x26" + picture.replace(b"\0\0\1", b"\0\0\2") for picture in pictures]
    for n, payload in enumerate(payloads):
        data += packets.cut(VIDEO, pes(payload, n * 3000))
    demuxer = TsDemuxer(1 << 20)
    found = []
    for cut in cuts:
        found += demuxer.feed(data[:cut])
        data = data[cut:]
    found += demuxer.feed(data) + demuxer.flush()
    assert all(isinstance(event, TsUnit) for event in found)
    assert [event.data for event in found if isinstance(event, TsUnit)] == payloads


@given(st.data())
@settings(max_examples=60)
def test_a_damaged_transport_stream_gives_whole_pictures_or_none(data: st.DataObject) -> None:
    packets = Packets()
    stream = bytearray(packets.tables(((0x1B, VIDEO, b""),)))
    payloads = [b"\0\0\0\1\x65" + bytes((n + 1,)) * 300 for n in range(8)]
    for n, payload in enumerate(payloads):
        stream += packets.cut(VIDEO, pes(payload, n * 3000))
    lost = data.draw(st.sets(st.integers(2, len(stream) // 188 - 1), max_size=5))
    kept = b"".join(bytes(stream[at * 188 : at * 188 + 188]) for at in range(len(stream) // 188) if at not in lost)
    demuxer = TsDemuxer(1 << 20)
    found = demuxer.feed(kept) + demuxer.flush(whole=False)
    assert {event.data for event in found if isinstance(event, TsUnit)} <= set(payloads)
