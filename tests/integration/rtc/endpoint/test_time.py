"""What time does to peers: those who never come, stall, vanish or are silent."""

from __future__ import annotations

import asyncio
import time

import pytest
from harness import until
from harness.endpoint import CERTIFICATE, RR, joined, make
from harness.webrtc import Recorder, TestPeer, serving

from medianode import clock
from medianode.rtc import endpoint as endpoint_module


async def test_a_peer_that_never_comes_is_given_up() -> None:
    async with serving(make({"rtc_connect_timeout": 0.1})) as node:
        heard = Recorder()
        node.create(TestPeer(CERTIFICATE).transport, heard)
        await until(heard.ended.is_set)
        assert heard.error is not None
        assert heard.error.code == "rtc-connect-timeout"
        assert not node._by_ufrag
        assert len(node) == 0


async def test_a_handshake_that_stalls_is_given_up() -> None:
    async with serving(make({"rtc_connect_timeout": 0.3})) as node, TestPeer(CERTIFICATE) as client:
        heard = Recorder()
        peer = node.create(client.transport, heard)
        client.remote = peer.local_transport()
        client.filter_out = lambda datagram: datagram[0] > 3
        client.open()
        client.start()
        await until(heard.ended.is_set)
        assert heard.error is not None
        assert "(dtls)" in heard.error.message
        await until(lambda: len(node.tasks) == 0)


async def test_a_vanished_peer_is_noticed_and_a_check_keeps_a_silent_one() -> None:
    async with serving(make(consent_timeout=1.0)) as node:
        client = TestPeer(CERTIFICATE)
        peer, heard = await joined(node, client)
        client.keep_checking = False
        until_then = clock.now() + 1.6
        while clock.now() < until_then:
            client.check()
            await asyncio.sleep(0.1)
        assert peer.state == "connected"
        await client.close(goodbye=False)
        await until(heard.ended.is_set)
        assert heard.error is not None
        assert heard.error.code == "consent-expired"


async def test_authenticated_media_is_consent_too() -> None:
    async with serving(make(consent_timeout=1.0)) as node, TestPeer(CERTIFICATE) as client:
        peer, _ = await joined(node, client)
        client.keep_checking = False
        until_then = clock.now() + 1.6
        while clock.now() < until_then:
            client.send_rtcp(RR)
            await asyncio.sleep(0.1)
        assert peer.state == "connected"


async def test_a_loop_that_stood_still_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(make(consent_timeout=0.5)) as node, TestPeer(CERTIFICATE) as client:
        peer, _ = await joined(node, client)
        monkeypatch.setattr(endpoint_module, "STALL", 0.1)
        client.check()
        time.sleep(0.7)
        await until(lambda: clock.now() - peer.heard < 0.5)
        assert peer.state == "connected"
