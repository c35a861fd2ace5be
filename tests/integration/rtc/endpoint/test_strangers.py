"""Strangers and liars at the node's WebRTC port get nothing and disturb nobody."""

from __future__ import annotations

import asyncio
import os
import random
import socket

import pytest
from harness import until
from harness.endpoint import CERTIFICATE, RR, dropped, joined, rtp
from harness.webrtc import Certificate, Recorder, TestPeer

from medianode.errors import InvalidRequest
from medianode.protocols import stun
from medianode.protocols.sdp.plan import Credentials, Fingerprint, RemoteTransport
from medianode.rtc.endpoint import Endpoint


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
