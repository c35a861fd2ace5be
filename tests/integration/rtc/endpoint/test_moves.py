"""Peers that move: to another port, to TCP and back, behind another NAT, and by an ICE restart."""

from __future__ import annotations

import pytest
from harness import until
from harness.endpoint import CERTIFICATE, RR, dropped, joined, rtp
from harness.webrtc import Recorder, TestPeer

from medianode.protocols import stun
from medianode.protocols.sdp.plan import Credentials, RemoteTransport
from medianode.rtc import peer as peer_module
from medianode.rtc.endpoint import Endpoint


async def test_use_candidate_moves_the_peer(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, heard = await joined(node, client)
        first = peer.address
        client.open()
        client.check()
        await until(lambda: peer.address != first)
        assert peer.moves == 1
        client.send_rtp(rtp(7))
        await until(lambda: heard.packets)
        peer.send_rtcp(RR)
        assert await client.receive_rtcp() == RR


async def test_a_nomination_from_a_made_up_address_moves_nothing(node: Endpoint) -> None:
    """Signed by one who knows the password, sent as if from a victim: who is really there would answer our check, the victim does not."""
    async with TestPeer(CERTIFICATE) as client, TestPeer(CERTIFICATE) as victim:
        peer, _ = await joined(node, client)
        first = peer.address
        victim.credentials, victim.remote, victim.answers_checks = client.credentials, client.remote, False
        victim.open()
        for _ in range(20):
            victim.check()
        await until(lambda: len(victim.stun_answers) == 20)
        assert peer.address == first
        assert victim.asked == 1, "one check of ours, however many nominations came"
        peer.send_rtcp(RR)
        assert await client.receive_rtcp() == RR
        assert not victim.rtcp
        assert len(node._challenged) == 1
        peer.close()
        assert not node._challenged


async def test_from_udp_to_tcp_and_back(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, heard = await joined(node, client)
        for n, tcp in enumerate((True, False, True, True, False)):
            moves = peer.moves
            client.open(tcp=tcp)
            client.check()
            await until(lambda moves=moves: peer.moves == moves + 1)
            assert peer.transport == ("tcp" if tcp else "udp")
            client.send_rtp(rtp(n))
            await until(lambda n=n: len(heard.packets) == n + 1)
            peer.send_rtcp(RR)
            assert await client.receive_rtcp() == RR
        await until(lambda: not node._streams)


async def test_on_tcp_the_address_for_datagrams_stays(node: Endpoint) -> None:
    """The fan-out's rows look at it up to a second longer; one of another family than the UDP socket's would stop them all."""
    async with TestPeer(CERTIFICATE) as client:
        peer, _ = await joined(node, client)
        before = peer.address
        client.open(tcp=True)
        client.check()
        await until(lambda: peer.transport == "tcp")
        assert peer.address is before
        assert peer.stream is not None
        assert peer.remote_text.endswith(f":{peer.stream.address[1]}")


async def test_a_check_without_nomination_does_not_move_a_living_pair(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client, TestPeer(CERTIFICATE) as second:
        peer, _ = await joined(node, client)
        first = peer.address
        second.credentials, second.remote, second.nominate = client.credentials, client.remote, False
        second.open()
        second.check()
        await until(lambda: second.stun_answers)
        assert peer.address == first
        assert len(node._by_address) == 2


async def test_a_rebound_nat_is_followed_without_nomination(node: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, heard = await joined(node, client)
        monkeypatch.setattr(peer_module, "SILENT", 0.0)
        client.nominate = False
        first = peer.address
        client.open()
        client.check()
        await until(lambda: peer.address != first)
        client.send_rtp(rtp(7))
        await until(lambda: heard.packets)


async def test_the_paths_of_a_peer_are_bounded_and_the_one_in_use_stays(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        _, heard = await joined(node, client)
        others = [TestPeer(CERTIFICATE) for _ in range(peer_module.MAX_PATHS * 2)]
        for other in others:
            other.credentials, other.remote, other.nominate = client.credentials, client.remote, False
            other.open()
            other.check()
            await until(lambda other=other: other.stun_answers)
        assert len(node._by_address) == peer_module.MAX_PATHS
        client.send_rtp(rtp(7))
        await until(lambda: heard.packets)
        for other in others:
            await other.close()


async def test_a_peer_cannot_take_anothers_address(node: Endpoint) -> None:
    """Two sessions behind one 5-tuple could not be told apart, and one of them might be a thief."""
    async with TestPeer(CERTIFICATE) as client:
        peer, heard = await joined(node, client)
        thief = node.create(RemoteTransport(client.credentials, (CERTIFICATE.fingerprint,), "actpass"), Recorder())
        before = dropped("address-taken")
        request = stun.binding_request(
            bytes(12), f"{thief.local.ufrag}:x".encode(), thief.local.pwd.encode(), use_candidate=True, controlling=1
        )
        client.send(request)
        await until(lambda: dropped("address-taken") == before + 1)
        assert thief.state == "new"
        client.send_rtp(rtp(1))
        await until(lambda: heard.packets)
        peer.close()
        client.send(request)
        await until(lambda: thief.state != "new")


async def test_ice_restart(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, heard = await joined(node, client)
        old, address = peer.local, peer.address
        fresh = Credentials("fresh", "f" * 24)
        new = peer.restart(fresh)
        assert new == peer.local != old
        answers = len(client.stun_answers)
        client.check()  # the old pair works on
        await until(lambda: len(client.stun_answers) > answers)
        client.send_rtp(rtp(1))
        await until(lambda: heard.packets)
        client.restart(new, fresh)
        client.open()
        client.check()
        await until(lambda: peer.address != address)
        assert set(node._by_ufrag) == {new.ufrag.encode()}
        client.send_rtp(rtp(2))
        await until(lambda: len(heard.packets) == 2)
        assert heard.closings == 0
    await until(heard.ended.is_set)
    assert not node._by_ufrag
