"""ICE-TCP: framing in any pieces, strangers, silence, a viewer that does not read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from harness import until
from harness.webrtc import Certificate, Recorder, TestPeer, serving

from medianode.config import Limits, Rtc
from medianode.protocols import stun
from medianode.rtc import endpoint as endpoint_module
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.peer import Peer
from medianode.rtc.tcp import REFUSED
from medianode.rtc.udp import DROPPED

CERTIFICATE = Certificate()
RR = struct.pack("!BBHI", 0x80, 201, 1, 77)


def make(**limits: Any) -> Endpoint:
    return Endpoint(Rtc(listen="127.0.0.1:0", tcp_listen="127.0.0.1:0"), msgspec.convert(limits, Limits))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "TICK", 0.02)


@pytest.fixture
async def node() -> AsyncIterator[Endpoint]:
    async with serving(make(handshake_timeout=0.3, rtc_tcp_unsent_bytes=200_000, tcp_connections_per_peer=20)) as endpoint:
        yield endpoint


async def joined(node: Endpoint, client: TestPeer) -> tuple[Peer, Recorder]:
    heard = Recorder()
    peer = node.create(client.transport, heard)
    await client.connect(peer.local_transport(), tcp=True)
    async with asyncio.timeout(5):
        await heard.up.wait()
    return peer, heard


def framed(*datagrams: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(d)) + d for d in datagrams)


async def closed_by_node(node: Endpoint, *sent: bytes) -> None:
    """Connect, send, and see the node close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.tcp_port)
    for data in sent:
        writer.write(data)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    await until(lambda: len(node._streams) == 0)
    assert node._gate.total == 0


async def test_frames_in_any_pieces(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        _, heard = await joined(node, client)
        client.keep_checking = False
        packets = [struct.pack("!BBHII", 0x80, 96, n, 0, 77) + bytes(n * 7) for n in range(60)]
        whole = framed(*(client.seal(packet) for packet in packets))
        assert client._sock is not None
        at = 0
        for size in (1, 1, 2, 3, 500, 1, 13, 1400, 20_000):
            client._sock.sendall(whole[at : at + size])
            at += size
            await asyncio.sleep(0.01)
        assert at >= len(whole)
        await until(lambda: len(heard.packets) == len(packets))
        assert heard.packets == packets


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\0\0",
        b"\xff\xff" * 100,
        framed(b"\x80" * 40),
        framed(b"\x00" * 40),
        b"\x00\x10\x40",
    ],
    ids=["http", "tls", "empty", "long", "media", "stun-like", "turn"],
)
async def test_what_is_no_ice_tcp_is_closed(node: Endpoint, sent: bytes) -> None:
    await closed_by_node(node, sent)


async def test_strangers_and_liars_are_closed(node: Endpoint) -> None:
    peer = node.create(TestPeer(CERTIFICATE).transport, Recorder())
    await closed_by_node(node, framed(stun.binding_request(bytes(12), b"nobody:x", b"y" * 22)))
    await closed_by_node(node, framed(stun.binding_request(bytes(12), f"{peer.local.ufrag}:x".encode(), b"y" * 22)))
    assert peer.state == "new"


async def test_silent_connections_time_out(node: Endpoint) -> None:
    before = REFUSED.labels("silent").value
    await closed_by_node(node)
    await closed_by_node(node, b"\0")
    assert REFUSED.labels("silent").value == before + 2


async def test_connections_are_bounded_per_address(node: Endpoint) -> None:
    opened = [await asyncio.open_connection("127.0.0.1", node.tcp_port) for _ in range(30)]
    await until(lambda: sum(reader.at_eof() for reader, _ in opened) >= 10)
    assert node._gate.total <= 20
    for _, writer in opened:
        writer.close()
    await until(lambda: node._gate.total == 0)


async def test_who_does_not_read_loses_packets_within_a_bound_and_nobody_waits(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, _ = await joined(node, client)
        assert peer.stream is not None
        assert client._sock is not None
        client.keep_checking = False
        asyncio.get_running_loop().remove_reader(client._sock.fileno())
        before = DROPPED.labels("tcp-unsent-full").value
        refused = 0
        for _ in range(10_000):
            if not peer.stream.send([bytes(1200)] * 4):
                refused += 1
        assert refused
        assert 0 < peer.stream.unsent <= peer.stream.bound
        assert peer.stream.dropped == DROPPED.labels("tcp-unsent-full").value - before == refused * 4
        asyncio.get_running_loop().add_reader(client._sock.fileno(), client._readable)
        await until(lambda: peer.stream is not None and peer.stream.unsent == 0)
        peer.send_rtcp(RR)
        assert await client.receive_rtcp() == RR, "what was sent is whole frames"


async def test_a_batch_is_one_write(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, _ = await joined(node, client)
        assert peer.stream is not None
        assert peer.sealer is not None
        packets = [struct.pack("!BBHII", 0x80, 96, n, 0, 5) + b"x" for n in range(9)]
        assert peer.stream.send([peer.sealer.protect(packet) for packet in packets])
        assert [await client.receive() for _ in packets] == packets


async def test_when_the_connection_breaks_sends_go_nowhere_and_the_peer_may_come_back(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, heard = await joined(node, client)
        assert client._sock is not None
        client.keep_checking = False
        client._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client._leave()
        await until(lambda: not node._streams)
        peer.send_rtcp(RR)
        assert peer.stream is not None
        assert not peer.stream.send([b"x"])
        assert peer.state == "connected"
        client.open(tcp=True)
        client.check()
        await until(lambda: peer.moves == 1)
        client.send_rtcp(RR)
        await until(lambda: heard.compounds)


async def test_a_connection_belongs_to_one_peer(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        await joined(node, client)
        other = node.create(TestPeer(CERTIFICATE).transport, Recorder())
        before = DROPPED.labels("stun-another").value
        client.send(stun.binding_request(bytes(12), f"{other.local.ufrag}:x".encode(), other.local.pwd.encode(), use_candidate=True))
        await until(lambda: DROPPED.labels("stun-another").value == before + 1)
        assert other.state == "new"


async def test_with_its_peer_every_connection_ends(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client, TestPeer(CERTIFICATE) as second:
        peer, _ = await joined(node, client)
        second.credentials, second.remote, second.nominate = client.credentials, client.remote, False
        second.open(tcp=True)
        second.check()
        await until(lambda: second.stun_answers)
        assert len(node._streams) == 2
        peer.close()
        await until(lambda: not node._streams and node._gate.total == 0)
