"""Bounds and faults of the endpoint: how many may come, and what a bug of ours costs."""

from __future__ import annotations

import asyncio

import pytest
from harness import until
from harness.endpoint import CERTIFICATE, RR, joined, make, rtp
from harness.webrtc import Recorder, TestPeer, serving

from medianode import tasks
from medianode.errors import LimitExceeded, MedianodeError, TooManyRequests
from medianode.protocols import stun
from medianode.rtc import dtls
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.peer import Peer
from medianode.rtc.udp import UdpSocket


async def test_a_bug_of_ours_costs_one_datagram(node: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the batch belongs to others."""
    bugs = tasks.BUGS.labels("rtc").value
    for tcp in (False, True):
        async with TestPeer(CERTIFICATE) as client:
            peer, heard = await joined(node, client, tcp=tcp)
            client.keep_checking = False
            with monkeypatch.context() as patch:
                patch.setattr(stun, "parse", lambda data: 1 / 0)
                request = stun.binding_request(bytes(12), f"{peer.local.ufrag}:x".encode(), peer.local.pwd.encode())
                if not tcp:
                    client.send(request)
                    client.send_rtp(rtp(1))
                    await until(lambda heard=heard: heard.packets)
                else:
                    client.send(request)
                    async with asyncio.timeout(5):
                        await client.closed.wait()
    assert tasks.BUGS.labels("rtc").value == bugs + 2


async def test_handshakes_are_bounded(node: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "tasks", tasks.TaskSet("none", 0))
    async with TestPeer(CERTIFICATE) as client:
        heard = Recorder()
        client.remote = node.create(client.transport, heard).local_transport()
        client.open()
        client.check()
        await until(heard.ended.is_set)
        assert heard.error is not None
        assert heard.error.code == "node-full"


async def test_the_number_of_peers_is_bounded() -> None:
    async with serving(make({"rtc_peers": 2})) as node:
        peers = [node.create(TestPeer(CERTIFICATE).transport, Recorder()) for _ in range(2)]
        with pytest.raises(LimitExceeded) as raised:
            node.create(TestPeer(CERTIFICATE).transport, Recorder())
        assert raised.value.code == "node-full"
        peers[0].close()
        node.create(TestPeer(CERTIFICATE).transport, Recorder())


async def test_those_who_ask_and_never_connect_are_bounded_per_address() -> None:
    async with serving(make({"rtc_connecting_per_source": 2})) as node:
        offers = [node.create(TestPeer(CERTIFICATE).transport, Recorder(), "192.0.2.1") for _ in range(2)]
        with pytest.raises(TooManyRequests):
            node.create(TestPeer(CERTIFICATE).transport, Recorder(), "192.0.2.1")
        node.create(TestPeer(CERTIFICATE).transport, Recorder(), "192.0.2.2").close()
        offers[0].close()
        async with TestPeer(CERTIFICATE) as client:
            heard = Recorder()
            peer = node.create(client.transport, heard, "192.0.2.1")
            await client.connect(peer.local_transport(loopback=True))
            await asyncio.wait_for(heard.up.wait(), 5)
            node.create(TestPeer(CERTIFICATE).transport, Recorder(), "192.0.2.1")  # who has connected does not count
    assert not node._connecting


async def test_the_last_places_are_kept_for_publishers() -> None:
    """Anybody may ask to view, and never connect."""
    async with serving(make({"rtc_peers": 64})) as node:
        for _ in range(62):
            node.create(TestPeer(CERTIFICATE).transport, Recorder(), views=True)
        with pytest.raises(LimitExceeded) as raised:
            node.create(TestPeer(CERTIFICATE).transport, Recorder(), views=True)
        assert raised.value.code == "node-full"
        for _ in range(2):
            node.create(TestPeer(CERTIFICATE).transport, Recorder())
        with pytest.raises(LimitExceeded):
            node.create(TestPeer(CERTIFICATE).transport, Recorder())


@pytest.mark.parametrize("where", ["connected", "rtp", "rtcp"])
async def test_a_bug_of_a_handler_ends_that_peer_only(node: Endpoint, where: str) -> None:
    class Buggy(Recorder):
        pass

    def bug(*_: object) -> None:
        raise ZeroDivisionError(where)

    bugs = tasks.BUGS.labels("rtc-peer").value
    async with TestPeer(CERTIFICATE) as client, TestPeer(CERTIFICATE) as other:
        _, fine = await joined(node, other)
        buggy = Buggy()
        setattr(buggy, where, bug)
        peer = node.create(client.transport, buggy)
        await client.connect(peer.local_transport())
        if where != "connected":
            client.send_rtp(rtp(1))
            client.send_rtcp(RR)
        await until(buggy.ended.is_set)
        assert buggy.error is not None
        assert (type(buggy.error), buggy.error.code) == (MedianodeError, "internal")
        assert tasks.BUGS.labels("rtc-peer").value == bugs + 1
        other.send_rtp(rtp(1))
        await until(lambda: fine.packets)


async def test_a_handler_may_close_its_peer_at_once(node: Endpoint) -> None:
    class Impatient(Recorder):
        peer: Peer

        def connected(self) -> None:
            self.peer.close()

    async with TestPeer(CERTIFICATE) as client:
        heard = Impatient()
        heard.peer = node.create(client.transport, heard)
        await client.connect(heard.peer.local_transport())
        await until(client.closed.is_set)
        assert (heard.closings, heard.error) == (1, None)


async def test_at_the_end_all_are_told_and_the_ports_are_free() -> None:
    node = make()
    async with TestPeer(CERTIFICATE) as one, TestPeer(CERTIFICATE) as two:
        async with serving(node):
            ports = node.udp_port, node.tcp_port
            (_, first), (_, second) = await joined(node, one), await joined(node, two, tcp=True)
        assert first.closings == second.closings == 1
        await until(lambda: one.closed.is_set() and two.closed.is_set())
    UdpSocket("127.0.0.1", ports[0]).close()
    for listener in tasks.listen_tcp("127.0.0.1", ports[1]):
        listener.close()


async def test_a_taken_port_is_told_at_once_and_nothing_stays_open(node: Endpoint) -> None:
    taken = make(listen=f"127.0.0.1:{node.udp_port}")
    with pytest.raises(OSError, match="in use"):
        taken.open()
    taken = make(tcp_listen=f"127.0.0.1:{node.tcp_port}")
    with pytest.raises(OSError, match="in use"):
        taken.open()
    assert taken._socket is None


async def test_peers_keep_the_certificate_of_their_answer(node: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    async with TestPeer(CERTIFICATE) as client:
        heard = Recorder()
        peer = node.create(client.transport, heard)
        answer = peer.local_transport()
        node._identity.born -= dtls.RENEW_DAYS * 86_400 + 1
        assert node.fingerprint != answer.fingerprint
        assert peer.local_transport().fingerprint == answer.fingerprint
        await client.connect(answer)  # the client checks it
        assert client.error == ""
