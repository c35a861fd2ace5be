"""Handshakes in memory: both drivers, both roles, each profile; goodbyes with OpenSSL and without; fingerprints."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

import pytest
from OpenSSL import SSL

from medianode import clock
from medianode.errors import InvalidRequest, PeerError
from medianode.protocols.sdp.plan import Fingerprint
from medianode.rtc import dtls
from medianode.rtc.dtls import Established, Identity, Shake, Wire, shake_by_aiortc, shake_directly
from medianode.rtc.srtp import Opener, Profile, Sealer

DRIVERS = [pytest.param(shake_by_aiortc, id="aiortc"), pytest.param(shake_directly, id="pyopenssl")]
RTP = b"\x80\x60" + bytes(10) + b"payload"


class Line:
    """Two wires that end in each other. `lose(direction, datagram)` may drop; everything sent is kept."""

    def __init__(self, lose: Callable[[str, bytes], bool] = lambda direction, datagram: False) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.lose = lose
        self.client = Wire(functools.partial(self._carry, "up"))
        self.server = Wire(functools.partial(self._carry, "down"))

    def _carry(self, direction: str, datagram: bytes) -> None:
        self.sent.append((direction, datagram))
        if not self.lose(direction, datagram):
            (self.server if direction == "up" else self.client).deliver(datagram)


async def shaken(
    shake: Shake, line: Line, one: Identity, other: Identity, wanted: Fingerprint | None = None
) -> tuple[Established | BaseException, Established | BaseException]:
    """(the server's end by `shake`, the client's by pyOpenSSL)."""
    async with asyncio.timeout(20):
        server, client = await asyncio.gather(
            shake(one, "server", (wanted or other.fingerprint,), line.server),
            shake_directly(other, "client", (one.fingerprint,), line.client),
            return_exceptions=True,
        )
    return server, client


def good(end: Established | BaseException) -> Established:
    assert isinstance(end, Established), end
    return end


@pytest.mark.parametrize("shake", DRIVERS)
async def test_what_one_seals_the_other_opens(shake: Shake) -> None:
    ends = await shaken(shake, Line(), Identity(), Identity())
    server, client = (good(end) for end in ends)
    assert server.outbound.profile is Profile.AEAD_AES_128_GCM
    assert Opener(client.inbound).unprotect(Sealer(server.outbound).protect(RTP)) == RTP
    assert Opener(server.inbound).unprotect(Sealer(client.outbound).protect(RTP)) == RTP


@pytest.mark.parametrize("shake", DRIVERS)
async def test_as_client_too(shake: Shake) -> None:
    line, one, other = Line(), Identity(), Identity()
    async with asyncio.timeout(20):
        client, server = await asyncio.gather(
            shake(one, "client", (other.fingerprint,), line.client), shake_directly(other, "server", (one.fingerprint,), line.server)
        )
    assert client.outbound == server.inbound
    assert client.inbound == server.outbound


@pytest.mark.parametrize("shake", DRIVERS)
@pytest.mark.parametrize("profile", list(Profile))
async def test_a_peer_with_one_profile_gets_it(shake: Shake, profile: Profile) -> None:
    other = Identity()
    other.context.set_tlsext_use_srtp(profile.openssl)
    ends = await shaken(shake, Line(), Identity(), other)
    server, client = (good(end) for end in ends)
    assert server.outbound.profile is profile
    assert len(server.outbound.material) == profile.key_length + profile.salt_length
    assert Opener(client.inbound).unprotect(Sealer(server.outbound).protect(RTP)) == RTP


@pytest.mark.parametrize("shake", DRIVERS)
async def test_without_a_shared_profile_the_cause_is_told(shake: Shake) -> None:
    other = Identity()
    other.context.set_tlsext_use_srtp(b"SRTP_AES128_CM_SHA1_32")
    server, _ = await shaken(shake, Line(), Identity(), other)
    assert isinstance(server, PeerError)
    assert server.code == "no-srtp-profile"


@pytest.mark.parametrize("shake", DRIVERS)
@pytest.mark.parametrize("algorithm", ["sha-256", "sha-384", "sha-512", "SHA-512"])
async def test_fingerprints_by_each_algorithm(shake: Shake, algorithm: str) -> None:
    other = Identity()
    value = dtls._digest(other.certificate._cert, algorithm.lower())
    server, _ = await shaken(shake, Line(), Identity(), other, Fingerprint(algorithm, value))
    good(server)


@pytest.mark.parametrize("shake", DRIVERS)
async def test_another_ones_certificate_is_refused_with_a_goodbye(shake: Shake) -> None:
    line, other = Line(), Identity()
    server, client = await shaken(shake, line, Identity(), other, Identity().fingerprint)
    assert isinstance(server, PeerError)
    assert server.code == "fingerprint-mismatch"
    assert not all(good(client).session.receive(datagram) for datagram in line.client.rest())


def test_a_fingerprint_by_an_unknown_algorithm_is_not_enough() -> None:
    with pytest.raises(InvalidRequest, match="sha-256") as raised:
        dtls.usable((Fingerprint("sha-1", "00"),))
    assert raised.value.code == "fingerprint-unsupported"


@pytest.mark.parametrize("shake", DRIVERS)
async def test_a_lost_flight_is_sent_again(shake: Shake) -> None:
    lost: list[bytes] = []

    def lose(direction: str, datagram: bytes) -> bool:
        if direction == "down" and len(datagram) > 300 and not lost:
            lost.append(datagram)
            return True
        return False

    ends = await shaken(shake, Line(lose), Identity(), Identity())
    assert lost
    assert good(ends[0]).outbound == good(ends[1]).inbound


@pytest.mark.parametrize("shake", DRIVERS)
async def test_the_last_flight_is_repeated_for_who_lost_it(shake: Shake) -> None:
    """The server is done, the client is not: until its media comes, the server keeps what it needs."""
    done: list[Established] = []
    lost: list[bytes] = []

    def lose(direction: str, datagram: bytes) -> bool:
        if direction == "down" and datagram[0] == 20 and not lost:  # ChangeCipherSpec and Finished
            lost.append(datagram)
            return True
        return False

    line, one, other = Line(lose), Identity(), Identity()

    async def serve() -> None:
        done.append(await shake(one, "server", (other.fingerprint,), line.server))
        while True:
            done[0].session.receive(await line.server._recv())

    async with asyncio.timeout(20):
        server = asyncio.get_running_loop().create_task(serve())
        client = await shake_directly(other, "client", (one.fingerprint,), line.client)
        server.cancel()
    assert lost
    assert done[0].outbound == client.inbound


@pytest.mark.parametrize("shake", DRIVERS)
async def test_garbage_does_not_disturb_a_handshake(shake: Shake) -> None:
    line = Line()
    for datagram in (b"\x16", b"\x16\xfe\xfd" + bytes(200), b"\x17" * 100, b"\x14\xfe\xff" + bytes(12), b"\x3f" * 1400):
        line.server.deliver(datagram)
        line.client.deliver(datagram)
    ends = await shaken(shake, line, Identity(), Identity())
    good(ends[0])
    good(ends[1])


def test_what_waits_for_a_handshake_is_bounded() -> None:
    wire = Wire(lambda datagram: None)
    before = dtls.DROPPED.labels("dtls-queue-full").value
    for _ in range(1000):
        wire.deliver(b"\x16" * 1000)
    assert len(list(wire.rest())) == dtls.MAX_QUEUED
    assert dtls.DROPPED.labels("dtls-queue-full").value == before + 1000 - dtls.MAX_QUEUED


async def test_the_round_trip_is_measured() -> None:
    line = Line()
    await shaken(shake_by_aiortc, line, Identity(), Identity())
    assert line.server.rtt > 0


# goodbyes


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("role", ["server", "client"])
async def test_a_goodbye_is_heard_and_said_once(role: str, settled: bool) -> None:
    line = Line()
    ends = await shaken(shake_by_aiortc, line, Identity(), Identity())
    ours, theirs = (good(end).session for end in (ends if role == "server" else ends[::-1]))
    if settled:
        ours.settle()
    assert ours.settled is settled
    sent = len(line.sent)
    theirs.close()
    theirs.close()
    assert len(line.sent) == sent + 1
    assert ours.receive(b"\x15\xfe\xfd" + bytes(24))
    assert not ours.receive(line.sent[-1][1])
    ours.close()
    ours.close()
    assert len(line.sent) == sent + 2
    assert theirs.receive(line.sent[-1][1]), "who has closed has no key to hear with"


async def test_the_goodbye_made_in_advance_is_understood() -> None:
    line = Line()
    ends = await shaken(shake_by_aiortc, line, Identity(), Identity())
    server, client = (good(end).session for end in ends)
    server.settle()
    server.close()
    assert not client.receive(line.sent[-1][1])


@pytest.mark.parametrize("change", range(0, 39, 3))
async def test_a_forged_goodbye_is_not_believed(change: int) -> None:
    line = Line()
    ends = await shaken(shake_by_aiortc, line, Identity(), Identity())
    server, client = (good(end).session for end in ends)
    server.settle()
    client.close()
    forged = bytearray(line.sent[-1][1])
    forged[change] ^= 0x40
    assert server.receive(bytes(forged))
    assert server.receive(bytes(forged[:change]))
    assert not server.receive(line.sent[-1][1])


async def test_with_another_cipher_openssl_stays() -> None:
    other = Identity()
    other.context.set_cipher_list(b"ECDHE-ECDSA-AES256-GCM-SHA384")
    line = Line()
    ends = await shaken(shake_by_aiortc, line, Identity(), other)
    server, client = (good(end).session for end in ends)
    server.settle()
    assert not server.settled
    client.close()
    assert not server.receive(line.sent[-1][1])


async def test_application_data_is_ignored() -> None:
    line = Line()
    ends = await shaken(shake_directly, line, Identity(), Identity())
    server, client = (good(end).session for end in ends)
    assert client._ssl is not None
    client._ssl.send(b"hello")
    datagram = client._ssl.bio_read(2000)
    assert server.receive(datagram)
    server.settle()
    assert server.receive(datagram)


# certificates


def test_one_context_for_all_peers() -> None:
    identity = Identity()
    assert identity.certificate._create_ssl_context([]) is identity.certificate._create_ssl_context([]) is identity.context


def test_an_old_certificate_is_not_used_for_new_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity()
    assert identity.fresh
    later = clock.now() + dtls.RENEW_DAYS * 86_400 + 1
    monkeypatch.setattr(clock, "now", lambda: later)
    assert not identity.fresh
    assert dtls.RENEW_DAYS < dtls.LIFETIME_DAYS


async def test_a_peer_without_certificate_is_refused() -> None:
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_tlsext_use_srtp(b"SRTP_AEAD_AES_128_GCM")
    other = Identity()
    other.context = context
    line = Line()
    server, client = await shaken(shake_directly, line, Identity(), other)
    assert isinstance(server, PeerError)
    assert server.code == "dtls-failed"
    assert isinstance(client, PeerError | Established)


def test_one_of_several_certificates_is_enough_but_the_strongest_hash_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8122 5: an offer may name two certificates; a weaker hash that fits does not help where a stronger one does not."""
    certificate, other = Identity().certificate._cert, Identity().certificate._cert

    class Connection:
        def get_peer_certificate(self, as_cryptography: bool) -> object:
            return certificate

    def named(algorithm: str, one: object) -> Fingerprint:
        return Fingerprint(algorithm, dtls._digest(one, algorithm))  # type: ignore[arg-type]  # a certificate of cryptography's

    monkeypatch.setattr(dtls, "_keys", lambda ssl, role: "keys")
    checked = dtls._checked
    both = (named("sha-256", other), named("sha-256", certificate))
    assert checked(Connection(), "server", both) == "keys"  # type: ignore[arg-type]  # a fake
    with pytest.raises(PeerError):
        checked(Connection(), "server", (named("sha-256", certificate), named("sha-512", other)))  # type: ignore[arg-type]  # a fake
