"""DTLS-SRTP (RFC 5764): certificate, handshake, keys, goodbye.

The handshake is aiortc's; when it is done nothing of aiortc stays but OpenSSL's connection, for the goodbye and for a last flight
that was lost. Where an aiortc to come no longer fits (`medianode.rtc.selftest` looks), `shake_directly` does the same on pyOpenSSL.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import hmac
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol, cast

import aiortc.rtcdtlstransport as aiortc_dtls
from aiortc.rtcdtlstransport import RTCCertificate, RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

from medianode import clock, telemetry
from medianode.errors import InvalidRequest, PeerError, PeerGone, ProtocolError
from medianode.protocols.sdp.plan import Fingerprint
from medianode.rtc.srtp import Keys, Profile

MTU = 1200
LIFETIME_DAYS = 30
RENEW_DAYS = 7
"""A certificate older than this is not used for new peers: no peer lives to see it end."""
MAX_QUEUED = 32
"""Datagrams of one peer that wait for its handshake; a whole flight is four or five."""

DROPPED = telemetry.counter("medianode_rtc_dropped_total", "What came to the WebRTC port and was not taken, by cause", "cause")

Role = Literal["client", "server"]
_DIGESTS: dict[str, hashes.HashAlgorithm] = {"sha-256": hashes.SHA256(), "sha-384": hashes.SHA384(), "sha-512": hashes.SHA512()}
_READ = 2048
_ALERT = 21
_SETTLED_CIPHERS = ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256")
_LABEL = b"EXTRACTOR-dtls_srtp"
_CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:"
    b"ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA"
)


class Identity:
    """Our certificate and the one TLS context of all its peers."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "medianode")])
        born = clock.utc(clock.wallclock())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(born - datetime.timedelta(days=1))
            .not_valid_after(born + datetime.timedelta(days=LIFETIME_DAYS))
            .sign(key, hashes.SHA256())
        )
        self.born = clock.now()
        self.fingerprint = Fingerprint("sha-256", _digest(certificate, "sha-256"))
        self.certificate = _Certificate(key, certificate)
        self.context = self.certificate.context = _context(key, certificate)

    @property
    def fresh(self) -> bool:
        return clock.now() - self.born < RENEW_DAYS * 86_400


class _Certificate(RTCCertificate):
    """aiortc makes a context per session from its certificate; this one has it made already."""

    context: SSL.Context

    def _create_ssl_context(self, srtp_profiles: Any) -> SSL.Context:
        return self.context


def _context(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_any)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    context.set_cipher_list(_CIPHERS)
    context.set_tlsext_use_srtp(b":".join(profile.openssl for profile in preferred_profiles()))
    return context


def _accept_any(*_: object) -> bool:
    """Certificates are self-signed; the fingerprint of the offer decides, after the handshake."""
    return True


def preferred_profiles() -> list[Profile]:
    """GCM-128 first: it costs least and every browser has it. GCM-256 last but one: for peers that want nothing else."""
    return [Profile.AEAD_AES_128_GCM, Profile.AES_CM_128_HMAC_SHA1_80, Profile.AEAD_AES_256_GCM]


def _digest(certificate: x509.Certificate, algorithm: str) -> str:
    return certificate.fingerprint(_DIGESTS[algorithm]).hex(":").upper()


def usable(fingerprints: tuple[Fingerprint, ...]) -> tuple[Fingerprint, ...]:
    """Those by algorithms that are good. Raises InvalidRequest when there is none."""
    found = tuple(f for f in fingerprints if f.algorithm.lower() in _DIGESTS)
    if not found:
        got = ", ".join(sorted({f.algorithm for f in fingerprints})) or "none"
        raise InvalidRequest(f"expected a fingerprint by {', '.join(_DIGESTS)}, got {got}", code="fingerprint-unsupported")
    return found


class Wire:
    """What a handshake sends and receives on: the three members of an ICE transport that aiortc asks for."""

    __slots__ = ("_arrived", "_queue", "_sent_at", "rtt", "send")

    role = "controlled"

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.send = send
        self._queue: deque[bytes] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._sent_at = 0.0
        self.rtt = 0.0
        """Seconds from a flight of ours to its answer; 0 before the first."""

    def deliver(self, datagram: bytes) -> None:
        if len(self._queue) >= MAX_QUEUED:
            DROPPED.labels("dtls-queue-full").value += 1
            return
        if self._sent_at:
            self.rtt, self._sent_at = clock.now() - self._sent_at, 0.0
        self._queue.append(datagram)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def rest(self) -> Iterator[bytes]:
        """What came after the handshake's last datagram and before anybody looked."""
        while self._queue:
            yield self._queue.popleft()

    async def _recv(self) -> bytes:
        while not self._queue:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        return self._queue.popleft()

    async def _send(self, data: bytes) -> None:
        self._sent_at = clock.now()
        self.send(data)


class Session:
    """After the handshake: goodbyes, and a last flight that was lost.

    OpenSSL keeps 80 KB for a DTLS connection, all of it for these two. So once the peer has shown that it has our last flight,
    `settle` takes our goodbye in advance and the key that opens the peer's, and lets OpenSSL go.
    """

    __slots__ = ("_farewell", "_role", "_send", "_ssl", "_theirs")

    def __init__(self, ssl: SSL.Connection, role: Role, send: Callable[[bytes], None]) -> None:
        self._ssl: SSL.Connection | None = ssl
        self._role = role
        self._send = send
        self._farewell = b""
        self._theirs = b""

    @property
    def settled(self) -> bool:
        return self._ssl is None

    def settle(self) -> None:
        """Only with the cipher suite that every browser agrees to; with others OpenSSL stays."""
        ssl = self._ssl
        if ssl is None or ssl.get_cipher_name() not in _SETTLED_CIPHERS or ssl.get_protocol_version_name() != "DTLSv1.2":
            return
        master, client, server = ssl.master_key(), ssl.client_random(), ssl.server_random()
        if not (master and client and server):
            return
        block = _expand(master, server + client, 40)  # RFC 5246 6.3: client's key, server's key, client's IV, server's IV
        self._theirs = block[:16] + block[32:36] if self._role == "server" else block[16:32] + block[36:40]
        self._farewell = _goodbye(ssl)
        self._ssl = None

    def receive(self, datagram: bytes) -> bool:
        """Application data is ignored, a repeated last flight answered. False when the peer has said goodbye."""
        if self._ssl is None:
            return not any(self._ends(record) for record in _records(datagram) if record[0] == _ALERT)
        try:
            self._ssl.bio_write(datagram)
            while True:
                self._ssl.recv(_READ)
        except SSL.ZeroReturnError:
            return False
        except SSL.WantReadError:
            pass
        except SSL.Error:
            DROPPED.labels("dtls").value += 1
        _flush(self._ssl, self._send)
        return True

    def _ends(self, record: bytes) -> bool:
        """A close_notify or fatal alert that is the peer's indeed (RFC 5288 3, RFC 6347 4.1.2)."""
        head, fragment = record[:13], record[13:]
        if len(fragment) != 26 or not self._theirs:  # nonce, two bytes, tag; no key after our own goodbye
            return False
        additional = head[3:11] + head[:3] + b"\x00\x02"
        try:
            level, what = AESGCM(self._theirs[:16]).decrypt(self._theirs[16:] + fragment[:8], fragment[8:], additional)
        except InvalidTag:
            DROPPED.labels("dtls").value += 1
            return False
        return level == 2 or what == 0

    def close(self) -> None:
        """close_notify; the second time nothing."""
        ssl, self._ssl = self._ssl, None
        farewell, self._farewell = self._farewell if ssl is None else _goodbye(ssl), b""
        if farewell:
            self._send(farewell)


def _goodbye(ssl: SSL.Connection) -> bytes:
    try:
        ssl.shutdown()
        return ssl.bio_read(_READ)
    except SSL.Error:  # the connection failed already: there is nobody to take leave of
        return b""


def _expand(master: bytes, seed: bytes, size: int) -> bytes:
    """TLS 1.2's PRF with SHA-256 for the label "key expansion" (RFC 5246 5)."""
    seed = b"key expansion" + seed
    out, a = b"", seed
    while len(out) < size:
        a = hmac.digest(master, a, "sha256")
        out += hmac.digest(master, a + seed, "sha256")
    return out[:size]


def _records(datagram: bytes) -> Iterator[bytes]:
    at = 0
    while at + 13 <= len(datagram):
        end = at + 13 + int.from_bytes(datagram[at + 11 : at + 13], "big")
        if end > len(datagram):
            return
        yield datagram[at:end]
        at = end


class Established(NamedTuple):
    session: Session
    outbound: Keys
    inbound: Keys


class Shake(Protocol):
    """Raises PeerError: the handshake failed, the fingerprint is another's, no profile is shared."""

    def __call__(self, identity: Identity, role: Role, fingerprints: tuple[Fingerprint, ...], wire: Wire) -> Awaitable[Established]: ...


def _flush(ssl: SSL.Connection, send: Callable[[bytes], None]) -> None:
    """Send what OpenSSL wrote: whole records, as many as fit into a datagram."""
    try:
        data = ssl.bio_read(65_536)
    except SSL.Error:
        return
    ready = b""
    for record in _records(data):
        if ready and len(ready) + len(record) > MTU:
            send(ready)
            ready = b""
        ready += record
    if ready:
        send(ready)


def _checked(ssl: SSL.Connection, role: Role, fingerprints: tuple[Fingerprint, ...]) -> tuple[Keys, Keys]:
    """(outbound, inbound) once the peer's certificate is one of its offer: of those under the strongest hash there (RFC 8122 5)."""
    certificate = ssl.get_peer_certificate(as_cryptography=True)
    known = usable(fingerprints)
    strongest = max((f.algorithm.lower() for f in known), key=list(_DIGESTS).index)
    if certificate is None or _digest(certificate, strongest) not in [f.value.upper() for f in known if f.algorithm.lower() == strongest]:
        raise ProtocolError("the certificate of the DTLS handshake is not the one of the offer", code="fingerprint-mismatch")
    return _keys(ssl, role)


def _keys(ssl: SSL.Connection, role: Role) -> tuple[Keys, Keys]:
    selected = bytes(ssl.get_selected_srtp_profile())
    profile = next((p for p in Profile if p.openssl == selected), None)
    if profile is None:
        wanted = ", ".join(p.name for p in preferred_profiles())
        raise ProtocolError(f"expected an SRTP profile of {wanted}, got none", code="no-srtp-profile")
    k, s = profile.key_length, profile.salt_length
    material = ssl.export_keying_material(_LABEL, 2 * (k + s))
    client = Keys(profile, material[:k] + material[2 * k : 2 * k + s])
    server = Keys(profile, material[k : 2 * k] + material[2 * k + s :])
    return (client, server) if role == "client" else (server, client)


class _Handshake(RTCDtlsTransport):
    """aiortc's, of which the steps after the handshake are ours: one SRTP session of each kind is enough, and the cause is told."""

    keys: tuple[Keys, Keys] | None = None
    wanted: tuple[Fingerprint, ...] = ()
    refusal: PeerError | None = None

    async def _do_handshake(self) -> None:
        assert self._ssl is not None
        self._ssl.set_ciphertext_mtu(MTU)
        await super()._do_handshake()

    def _validate_peer_identity(self, remoteParameters: RTCDtlsParameters) -> None:  # noqa: N803 - aiortc's name
        """Left to `_setup_srtp`, which comes next."""

    def _setup_srtp(self) -> None:
        try:
            self.keys = _checked(self._ssl, self._role, self.wanted)  # type: ignore[arg-type]  # "client" or "server": we set it
        except PeerError as e:
            self.refusal = e
            self._set_state(aiortc_dtls.State.FAILED)


async def shake_by_aiortc(identity: Identity, role: Role, fingerprints: tuple[Fingerprint, ...], wire: Wire) -> Established:
    handshake = _Handshake(cast(Any, wire), [identity.certificate])  # three members of the ICE transport it expects
    handshake.wanted = fingerprints
    handshake._set_role(role)
    await handshake.start(RTCDtlsParameters([RTCDtlsFingerprint(f.algorithm, f.value) for f in fingerprints]))
    if handshake._task is not None:  # its data pump, which has not run yet
        handshake._task.cancel()
    ssl = handshake._ssl
    if ssl is None:
        raise PeerGone("the DTLS handshake did not begin", code="dtls-failed")
    if handshake.refusal is not None:
        _take_leave(ssl, role, wire)
        raise handshake.refusal
    if handshake.keys is None:
        _flush(ssl, wire.send)  # the alert
        raise PeerGone("the DTLS handshake failed", code="dtls-failed")
    _flush(ssl, wire.send)
    return Established(Session(ssl, role, wire.send), *handshake.keys)


async def shake_directly(identity: Identity, role: Role, fingerprints: tuple[Fingerprint, ...], wire: Wire) -> Established:
    ssl = SSL.Connection(identity.context)
    ssl.set_ciphertext_mtu(MTU)
    (ssl.set_connect_state if role == "client" else ssl.set_accept_state)()
    while True:
        try:
            ssl.do_handshake()
            break
        except SSL.WantReadError:
            await _turn(ssl, wire)
        except SSL.Error as e:
            _flush(ssl, wire.send)  # the alert
            raise PeerGone(f"the DTLS handshake failed: {_reason(e)}", code="dtls-failed") from None
    _flush(ssl, wire.send)
    try:
        outbound, inbound = _checked(ssl, role, fingerprints)
    except PeerError:
        _take_leave(ssl, role, wire)
        raise
    return Established(Session(ssl, role, wire.send), outbound, inbound)


async def _turn(ssl: SSL.Connection, wire: Wire) -> None:
    _flush(ssl, functools.partial(_sent, wire))
    try:
        async with asyncio.timeout(ssl.DTLSv1_get_timeout()):
            ssl.bio_write(await wire._recv())
    except TimeoutError:
        ssl.DTLSv1_handle_timeout()


def _sent(wire: Wire, data: bytes) -> None:
    wire._sent_at = clock.now()
    wire.send(data)


def _take_leave(ssl: SSL.Connection, role: Role, wire: Wire) -> None:
    Session(ssl, role, wire.send).close()


def _reason(error: SSL.Error) -> str:
    stack = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return str(stack[-1][-1]) if stack else type(error).__name__


class _Driver:
    """Which handshake is used; the self-test may take aiortc's away."""

    shake: Shake = staticmethod(shake_by_aiortc)


DRIVER = _Driver()
