"""Peers come to the node's WebRTC port, speak both ways, and go."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from harness import until
from harness.endpoint import CERTIFICATE, RR, joined, make, rtp
from harness.webrtc import TestPeer, serving

from medianode.rtc import dtls
from medianode.rtc.endpoint import Endpoint


@pytest.mark.parametrize("setup", ["actpass", "active", "passive"])
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_media_goes_both_ways_and_a_goodbye_ends_it(node: Endpoint, tcp: bool, setup: Any) -> None:
    client = TestPeer(CERTIFICATE, setup=setup)
    peer, heard = await joined(node, client, tcp=tcp)
    assert (peer.state, peer.transport, len(node)) == ("connected", "tcp" if tcp else "udp", 1)
    assert client.profile == b"SRTP_AEAD_AES_128_GCM"
    assert peer.remote_text == f"127.0.0.1:{client._sock.getsockname()[1]}"  # type: ignore[union-attr]
    assert 0 < peer.rtt < 5
    for n in range(50):
        client.send_rtp(rtp(n))
    client.send_rtcp(RR)
    await until(lambda: heard.compounds)
    assert heard.packets == [rtp(n) for n in range(50)]
    assert heard.compounds == [RR]
    assert peer.sealer is not None
    peer.send(peer.sealer.protect(rtp(1)))
    peer.send_rtcp(RR)
    assert await client.receive() == rtp(1)
    assert await client.receive_rtcp() == RR
    await client.close()
    await until(heard.ended.is_set)
    assert heard.error is not None
    assert heard.error.code == "peer-gone"
    assert (peer.state, len(node), heard.closings) == ("closed", 0, 1)
    assert not node._by_ufrag
    assert not node._by_address


@pytest.mark.parametrize("spoken", [False, True])
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_our_goodbye_is_heard(node: Endpoint, tcp: bool, spoken: bool) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, heard = await joined(node, client, tcp=tcp)
        if spoken:
            client.send_rtcp(RR)
            await until(lambda: heard.compounds)
        peer.close()
        peer.close()
        assert (heard.error, heard.closings) == (None, 1)
        async with asyncio.timeout(5):
            await client.closed.wait()
        peer.send_rtcp(RR)


async def test_ipv6_and_a_wildcard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(make(listen=":0", tcp_listen=":0")) as node:
        for address in ("127.0.0.1", "::1"):
            for tcp in (False, True):
                async with TestPeer(CERTIFICATE) as client:
                    _, heard = await joined(node, client, address=address, tcp=tcp)
                    assert client.target[0] == address
                    client.send_rtp(rtp(1))
                    await until(lambda heard=heard: heard.packets)


async def test_through_the_plain_socket_calls(node: Endpoint) -> None:
    node.datagrams._batch = None
    async with TestPeer(CERTIFICATE) as client:
        _, heard = await joined(node, client)
        client.send_rtp(rtp(1))
        await until(lambda: heard.packets)


async def test_where_aiortc_no_longer_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtls.DRIVER, "shake", dtls.shake_directly)
    async with serving(make()) as node:
        assert dtls.DRIVER.shake is dtls.shake_directly
        async with TestPeer(CERTIFICATE) as client:
            _, heard = await joined(node, client)
            client.send_rtp(rtp(1))
            await until(lambda: heard.packets)


async def test_lost_handshake_flights_are_repeated(node: Endpoint) -> None:
    chance = random.Random(4)
    async with TestPeer(CERTIFICATE) as client:
        client.filter_in = client.filter_out = lambda datagram: chance.random() < 0.3 and datagram[0] > 3
        peer, _ = await joined(node, client, timeout=20)
        assert peer.state == "connected"
