"""Peers on the node's WebRTC port: they come, speak, move, restart and go; strangers and liars get nothing."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from harness import until
from harness.webrtc import Certificate, Recorder, TestPeer, serving

from medianode import clock, tasks
from medianode.config import Limits, Rtc
from medianode.errors import InvalidRequest, LimitExceeded, MedianodeError, TooManyRequests
from medianode.protocols import stun
from medianode.protocols.sdp.plan import Credentials, Fingerprint, RemoteTransport
from medianode.rtc import dtls
from medianode.rtc import endpoint as endpoint_module
from medianode.rtc import peer as peer_module
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.peer import Peer
from medianode.rtc.udp import DROPPED, UdpSocket

CERTIFICATE = Certificate()
RR = struct.pack("!BBHI", 0x80, 201, 1, 77)


def rtp(sequence: int, payload: bytes = b"media") -> bytes:
    return struct.pack("!BBHII", 0x80, 96, sequence, 9000, 77) + payload


def dropped(cause: str) -> float:
    return DROPPED.labels(cause).value


def make(limits: dict[str, Any] | None = None, **config: Any) -> Endpoint:
    return Endpoint(Rtc(**{"listen": "127.0.0.1:0", "tcp_listen": "127.0.0.1:0", **config}), msgspec.convert(limits or {}, Limits))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "TICK", 0.02)


@pytest.fixture
async def node() -> AsyncIterator[Endpoint]:
    async with serving(make()) as endpoint:
        yield endpoint


async def joined(node: Endpoint, client: TestPeer, **options: Any) -> tuple[Peer, Recorder]:
    """Connected, as both see it."""
    heard = Recorder()
    peer = node.create(client.transport, heard)
    await client.connect(peer.local_transport(loopback=True), **options)
    async with asyncio.timeout(5):
        await heard.up.wait()
    return peer, heard


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


# strangers and liars


def flood(target: tuple[str, int], datagrams: list[bytes]) -> list[bytes]:
    """Send them, and what came back within a moment."""
    answers = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        for datagram in datagrams:
            sock.sendto(datagram, target)
        try:
            while True:
                answers.append(sock.recv(4096))
        except TimeoutError:
            return answers


async def test_strangers_get_no_answer_and_disturb_nobody(node: Endpoint) -> None:
    chance = random.Random(1)
    unknown = stun.binding_request(bytes(12), b"nobody:x", b"y" * 22, use_candidate=True, controlling=1)
    datagrams = [chance.randbytes(chance.randrange(1, 1500)) for _ in range(400)]
    datagrams += (
        [bytes((first,)) + chance.randbytes(40) for first in range(256)] + [unknown] * 200 + [unknown[:n] for n in range(len(unknown))]
    )
    async with TestPeer(CERTIFICATE) as client:
        _, heard = await joined(node, client)
        before = dropped("stun-unknown")
        answers = await asyncio.to_thread(flood, ("127.0.0.1", node.udp_port), datagrams)
        assert answers == []
        client.send_rtp(rtp(5))
        await until(lambda: heard.packets)
        assert dropped("stun-unknown") >= before + 200
        assert len(node) == 1
        assert len(node._by_address) == 1


async def test_an_unknown_ufrag_costs_no_hmac(node: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stun, "verify", lambda *_: pytest.fail("an HMAC for a stranger"))
    unknown = stun.binding_request(bytes(12), b"nobody:x", b"y" * 22)
    before = dropped("stun-unknown")
    await asyncio.to_thread(flood, ("127.0.0.1", node.udp_port), [unknown] * 10)
    await until(lambda: dropped("stun-unknown") == before + 10)


async def test_who_knows_the_ufrag_but_not_the_password_gets_nothing(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, _ = await joined(node, client)
        forged = stun.binding_request(bytes(12), f"{peer.local.ufrag}:x".encode(), b"wrong" * 5, use_candidate=True, controlling=1)
        before, address = dropped("stun-integrity"), peer.address
        assert await asyncio.to_thread(flood, ("127.0.0.1", node.udp_port), [forged] * 20) == []
        assert dropped("stun-integrity") == before + 20
        assert peer.address == address


async def test_media_of_a_stranger_and_forged_or_repeated_media_is_counted(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer, heard = await joined(node, client)
        sealed = client.seal(rtp(1))
        before = {cause: dropped(cause) for cause in ("srtp", "srtcp", "unknown-address", "garbage", "dtls")}
        await asyncio.to_thread(flood, ("127.0.0.1", node.udp_port), [sealed, b"\x16" * 50])
        client.send(sealed)
        client.send(sealed)
        client.send(sealed[:-1] + bytes((sealed[-1] ^ 1,)))
        client.send(b"\x80\xc9" + bytes(30))
        client.send(b"\x80")
        client.send(b"\x15\xfe\xfd" + os.urandom(60))
        client.send_rtp(rtp(2))
        await until(lambda: len(heard.packets) == 2)
        assert heard.packets == [rtp(1), rtp(2)]
        assert dropped("unknown-address") == before["unknown-address"] + 2
        assert dropped("srtp") == before["srtp"] + 2
        assert dropped("srtcp") == before["srtcp"] + 1
        assert dropped("garbage") == before["garbage"] + 1
        assert peer.received == 2


@pytest.mark.parametrize("spoken", [False, True])
async def test_garbage_with_a_peers_own_address_does_not_end_it(node: Endpoint, spoken: bool) -> None:
    """Who can forge its source can forge no media, no goodbye and no check."""
    chance = random.Random(2)
    async with TestPeer(CERTIFICATE) as client:
        peer, heard = await joined(node, client)
        client.keep_checking = False
        if spoken:
            client.send_rtcp(RR)
            await until(lambda: heard.compounds)
        taken = node.datagrams.received
        alert = bytes.fromhex("15fefd0000000000000000000202") + b"\x28"
        records = [bytes((kind,)) + b"\xfe\xfd\0\1" + chance.randbytes(6) + b"\0\x1a" + chance.randbytes(26) for kind in range(20, 26)] * 10
        garbage = [alert, alert[:-1] + b"\0", *records] + [chance.randbytes(chance.randrange(1, 1400)) for _ in range(300)]
        for n, datagram in enumerate(garbage):
            client.send(datagram)
            if n % 50 == 0:
                await until(lambda n=n: node.datagrams.received >= taken + n)
        client.send_rtp(rtp(1))
        await until(lambda: heard.packets)
        assert peer.state == "connected"
        await client.close()
        await until(heard.ended.is_set)
        assert heard.packets == [rtp(1)]


async def test_media_before_the_keys_is_counted(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer = node.create(client.transport, Recorder())
        client.remote = peer.local_transport()
        client.filter_out = lambda datagram: 19 < datagram[0] < 64
        client.open()
        before = dropped("early")
        client.check()
        await until(lambda: peer.state == "dtls")
        client.send(rtp(1))
        await until(lambda: dropped("early") == before + 1)


async def test_another_ones_certificate_closes_the_peer_with_its_reason(node: Endpoint) -> None:
    for tcp in (False, True):
        async with TestPeer(CERTIFICATE) as client:
            heard = Recorder()
            wrong = Fingerprint("sha-256", ":".join(["00"] * 32))
            peer = node.create(RemoteTransport(client.credentials, (wrong,), "actpass"), heard)
            await client.connect(peer.local_transport(), tcp=tcp)
            await until(heard.ended.is_set)
            assert heard.error is not None
            assert heard.error.code == "fingerprint-mismatch"
            assert not heard.up.is_set()
            assert peer.sealer is None
            assert len(node) == 0


async def test_a_dtls_that_cannot_succeed_closes_the_peer(node: Endpoint) -> None:
    async with TestPeer(Certificate(b"SRTP_AES128_CM_SHA1_32")) as client:
        heard = Recorder()
        peer = node.create(client.transport, heard)
        client.remote = peer.local_transport()
        client.open()
        client.start()
        await until(heard.ended.is_set)
        assert heard.error is not None
        assert heard.error.code in ("no-srtp-profile", "dtls-failed")


async def test_an_offer_without_usable_fingerprint_makes_no_peer(node: Endpoint) -> None:
    remote = RemoteTransport(Credentials("a", "b"), (Fingerprint("sha-1", "00"),), "actpass")
    with pytest.raises(InvalidRequest):
        node.create(remote, Recorder())
    assert len(node) == 0
    assert not node._by_ufrag


async def test_a_role_conflict_is_told_and_solved_by_the_peer(node: Endpoint) -> None:
    async with TestPeer(CERTIFICATE) as client:
        peer = node.create(client.transport, Recorder())
        client.remote = peer.local_transport()
        client.open()
        client.check(controlling=None, controlled=5)
        await until(lambda: client.stun_answers)
        assert client.stun_answers[0].error == 487
        assert (peer.state, peer.sockaddr) == ("new", b"")


# moves


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


# time


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


# bounds and faults


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


# candidates


def test_candidates_of_one_host() -> None:
    node = make()
    node.open()
    assert [(c.address, c.port, c.protocol) for c in node.candidates()] == [
        ("127.0.0.1", node.udp_port, "udp"),
        ("127.0.0.1", node.tcp_port, "tcp"),
    ]
    node.shut()


def test_candidates_of_all_interfaces_and_public_ones() -> None:
    node = make(listen=":0", tcp_listen="", public_addresses=("203.0.113.9", "[2001:db8::9]:443"))
    node.open()
    asked = [(c.address, c.port) for c in node.candidates(loopback=True)]
    assert ("127.0.0.1", node.udp_port) in asked
    assert asked[-2:] == [("203.0.113.9", node.udp_port), ("2001:db8::9", 443)]
    assert {c.protocol for c in node.candidates()} == {"udp"}
    node.shut()


@pytest.mark.parametrize(("listen", "ipv4", "ipv6"), [(":0", True, True), ("0.0.0.0:0", True, False), ("[::]:0", True, True)])
def test_each_way_to_say_all_interfaces(listen: str, ipv4: bool, ipv6: bool) -> None:
    node = make(listen=listen, tcp_listen="")
    node.open()
    told = [c.address for c in node.candidates(loopback=True)]
    assert ("127.0.0.1" in told) is ipv4
    assert ("::1" in told) is ipv6
    assert "::" not in told
    assert node.datagrams.wildcard
    node.shut()


def test_tcp_on_one_family_is_told_for_that_one_only() -> None:
    for listen, address in (("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1")):
        node = make(listen=":0", tcp_listen=listen)
        node.open()
        told = [c.address for c in node.candidates(loopback=True) if c.protocol == "tcp"]
        assert {":" in a for a in told} == {":" in address}
        assert address in told
        node.shut()


def test_a_public_port_is_told_for_tcp_too_where_tcp_is_served() -> None:
    node = make(public_addresses=("203.0.113.9:443",))
    node.open()
    found = [(c.port, c.protocol) for c in node.candidates() if c.address == "203.0.113.9"]
    assert found == [(443, "udp"), (443, "tcp")]
    node.shut()


def test_the_metrics_count_peers_by_state() -> None:
    node = make()
    node.open()
    node.create(TestPeer(CERTIFICATE).transport, Recorder())
    assert node._count() == [(("new", "udp"), 1)]
    assert node._counted("received") == [((), 0.0)]
    node.shut()
    assert node._counted("received") == []
