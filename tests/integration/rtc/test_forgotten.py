"""A peer that has gone is kept by nothing, not even by a loop that looked at it last."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from harness.webrtc import Recorder, TestPeer, serving

from medianode.config import Limits, Rtc
from medianode.rtc import endpoint as endpoints
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.peer import Peer
from medianode.rtc.tcp import TcpStream


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_closed_peer_is_freed(monkeypatch: pytest.MonkeyPatch, tcp: bool) -> None:
    monkeypatch.setattr(endpoints, "TICK", 0.02)
    before = {id(o) for o in gc.get_objects() if type(o) is TcpStream}  # a gauge of another test's node may hold one
    async with serving(Endpoint(Rtc(listen="127.0.0.1:0", tcp_listen="127.0.0.1:0"), Limits())) as endpoint:

        async def call() -> weakref.ref[Peer]:
            heard = Recorder()
            async with TestPeer() as client:
                made = endpoint.create(client.transport, heard)
                await client.connect(made.local_transport(loopback=True), tcp=tcp)
                await asyncio.wait_for(heard.up.wait(), 5)
                await asyncio.sleep(0.1)  # some looks of the sweep
            await asyncio.wait_for(heard.ended.wait(), 5)
            return weakref.ref(made)

        gone = await call()
        async with asyncio.timeout(5):
            while endpoint._streams:
                await asyncio.sleep(0.02)
        gc.collect()
        assert gone() is None, gc.get_referrers(gone())
        assert not [o for o in gc.get_objects() if type(o) is TcpStream and id(o) not in before]
