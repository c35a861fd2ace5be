"""A small WebRTC peer in pure Python, for tests: full ICE (controlling), DTLS client or server, SRTP; UDP or ICE-TCP.

    async with TestPeer() as peer:
        remote = RemoteTransport(...)   # or: offer = peer.offer(...); answer from the node by HTTP
        await peer.connect(answer)      # an SDP answer, or a LocalTransport
        peer.send_rtp(rtp_bytes)        # sealed and sent
        packet = await peer.receive()   # next decrypted RTP packet
        peer.rtp, peer.rtcp             # all decrypted packets so far (bounded), oldest first

`serving(endpoint)` runs an Endpoint without a daemon, `Recorder` is a PeerHandler that keeps what it hears.
The peer shares no code with medianode.rtc but `protocols.stun`, so that both sides do not agree on one mistake.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import re
import secrets
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from pylibsrtp import Error as SrtpError
from pylibsrtp import Policy, Session

from medianode.errors import MedianodeError
from medianode.protocols import stun
from medianode.protocols.sdp.plan import Candidate, Credentials, Fingerprint, LocalTransport, RemoteTransport
from medianode.rtc.endpoint import Endpoint
from medianode.tasks import background

PROFILES = {
    b"SRTP_AEAD_AES_128_GCM": (Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 16, 12),
    b"SRTP_AEAD_AES_256_GCM": (Policy.SRTP_PROFILE_AEAD_AES_256_GCM, 32, 12),
    b"SRTP_AES128_CM_SHA1_80": (Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 16, 14),
}
KEPT = 20_000


class Recorder:
    """A PeerHandler that keeps what it hears."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.ended = asyncio.Event()
        self.error: MedianodeError | None = None
        self.packets: list[bytes] = []
        self.compounds: list[bytes] = []
        self.closings = 0

    def connected(self) -> None:
        self.up.set()

    def rtp(self, packet: bytes, now: float) -> None:
        self.packets.append(packet)

    def rtcp(self, packet: bytes, now: float) -> None:
        self.compounds.append(packet)

    def closed(self, error: MedianodeError | None) -> None:
        self.closings += 1
        self.error = error
        self.ended.set()


@asynccontextmanager
async def serving(endpoint: Endpoint) -> AsyncIterator[Endpoint]:
    """An endpoint that serves as long as the block."""
    endpoint.open()
    async with background(endpoint.serve()):
        while not endpoint.running:
            await asyncio.sleep(0.005)
        yield endpoint


class Certificate:
    """A certificate and its DTLS context; share one between the peers of a test. `profiles`: OpenSSL's names, colon-separated."""

    def __init__(self, profiles: bytes = b":".join(PROFILES)) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        certificate = made.not_valid_after(now + datetime.timedelta(days=30)).sign(key, hashes.SHA256())
        self.fingerprint = Fingerprint("sha-256", certificate.fingerprint(hashes.SHA256()).hex(":").upper())
        self.context = SSL.Context(SSL.DTLS_METHOD)
        self.context.use_certificate(certificate)
        self.context.use_privatekey(key)
        self.context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        self.context.set_tlsext_use_srtp(profiles)


class TestPeer:
    """`setup`: what our offer says. `filter_out(datagram)` drops what we send where it says True, `filter_in` what arrives.

    `open()` once more is a move to a new port (or to TCP and back), which `check()` then nominates; `restart()` follows a signalled ICE
    restart; `keep_checking = False` and `close(goodbye=False)` make it vanish.
    """

    __test__ = False  # pytest: no test class

    def __init__(self, certificate: Certificate | None = None, *, setup: Literal["actpass", "active", "passive"] = "actpass") -> None:
        self.certificate = certificate or Certificate()
        self.setup: Literal["actpass", "active", "passive"] = setup
        self.credentials = Credentials(secrets.token_hex(4), secrets.token_hex(12))
        self.tie_breaker = int.from_bytes(os.urandom(8), "big")
        self.rtp: deque[bytes] = deque(maxlen=KEPT)
        self.rtcp: deque[bytes] = deque(maxlen=KEPT)
        self.bad = 0
        """Packets that did not open: retransmissions and forgeries."""
        self.connected = asyncio.Event()
        self.closed = asyncio.Event()
        """The node said goodbye (close_notify), or its TCP connection ended."""
        self.error = ""
        self.filter_out: Callable[[bytes], bool] | None = None
        self.filter_in: Callable[[bytes], bool] | None = None
        self.stun_answers: list[stun.Message] = []
        self.profile = b""
        self.remote: LocalTransport | None = None
        self.keep_checking = True
        self.answers_checks = True
        self.asked = 0
        self.nominate = True
        self.target: tuple[Any, ...] = ()
        self._sock: socket.socket | None = None
        self._tcp = b""
        self._stream = False
        self._dtls: SSL.Connection | None = None
        self._tx: Session | None = None
        self._rx: Session | None = None
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # signalling

    @property
    def transport(self) -> RemoteTransport:
        """Our side, as `Offer.remote` would be."""
        return RemoteTransport(self.credentials, (self.certificate.fingerprint,), self.setup)

    def offer(self, *media: str) -> str:
        """A whole SDP offer. Each of `media` is an m-section without the transport lines: `m=` line and its `a=` lines, mid included."""
        mids = [found for section in media for found in re.findall(r"a=mid:(\S+)", section)]
        transport = [
            "c=IN IP4 0.0.0.0",
            f"a=ice-ufrag:{self.credentials.ufrag}",
            f"a=ice-pwd:{self.credentials.pwd}",
            f"a=fingerprint:{self.certificate.fingerprint.algorithm} {self.certificate.fingerprint.value}",
            f"a=setup:{self.setup}",
            "a=rtcp-mux",
        ]
        lines = ["v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=group:BUNDLE {' '.join(mids)}"]
        for section in media:
            first, *rest = section.strip().splitlines()
            lines += [first.strip(), *transport, *(line.strip() for line in rest)]
        return "\r\n".join([*lines, ""])

    @staticmethod
    def read_answer(answer: str) -> LocalTransport:
        """The node's transport out of an SDP answer."""

        def one(pattern: str) -> str:
            found = re.search(pattern, answer, re.M)
            assert found, f"{pattern} is missing in {answer}"
            return found.group(1)

        candidates = tuple(
            Candidate(address, int(port), "udp" if protocol.lower() == "udp" else "tcp", int(priority), foundation)
            for foundation, protocol, priority, address, port in re.findall(
                r"^a=candidate:(\S+) 1 (\S+) (\d+) (\S+) (\d+) typ host", answer, re.M
            )
        )
        algorithm, value = one(r"^a=fingerprint:(\S+ \S+)").split()
        credentials = Credentials(one(r"^a=ice-ufrag:(\S+)"), one(r"^a=ice-pwd:(\S+)"))
        return LocalTransport(credentials, Fingerprint(algorithm, value), tuple(dict.fromkeys(candidates)))

    # connecting

    async def connect(self, answer: str | LocalTransport, *, tcp: bool = False, timeout: float = 10.0, address: str = "") -> None:
        """ICE, DTLS, keys. Takes the candidate at `address`, else a loopback one, else the first. Raises TimeoutError."""
        self.remote = self.read_answer(answer) if isinstance(answer, str) else answer
        self.open(tcp=tcp, address=address)
        self.start()
        try:
            await asyncio.wait_for(self.connected.wait(), timeout)
        except TimeoutError:
            raise TimeoutError(f"not connected: {self.error or 'no answer'}") from None

    def open(self, *, tcp: bool = False, address: str = "") -> None:
        """A socket to one of the node's candidates. Called again: a move (new port), after which `check()` nominates it."""
        assert self.remote is not None
        wanted = [c for c in self.remote.candidates if c.protocol == ("tcp" if tcp else "udp")]
        wanted.sort(key=lambda c: (c.address != address, c.address not in ("127.0.0.1", "::1")))
        candidate = wanted[0]
        self._leave()
        family = socket.AF_INET6 if ":" in candidate.address else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        self._stream, self._tcp = tcp, b""
        self.target = (candidate.address, candidate.port)
        if tcp:
            self._sock.connect(self.target)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 << 20)
            self._sock.bind(("::1" if candidate.address == "::1" else "", 0) if family == socket.AF_INET6 else ("", 0))
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._readable)

    def start(self) -> None:
        """Checks every 50 ms until connected, then every second; DTLS timers."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._checks()))

    async def _checks(self) -> None:
        while True:
            if self.keep_checking:
                self.check()
            if self._dtls is not None and not self.connected.is_set() and self._dtls.DTLSv1_get_timeout() == 0:
                self._dtls.DTLSv1_handle_timeout()
                self._flush()
            await asyncio.sleep(1.0 if self.connected.is_set() else 0.05)

    def check(self, **options: Any) -> None:
        """One binding request; `options` of `stun.binding_request` over ours."""
        assert self.remote is not None
        username = f"{self.remote.credentials.ufrag}:{self.credentials.ufrag}".encode()
        arguments = {"controlling": self.tie_breaker, "use_candidate": self.nominate, **options}
        self.send(stun.binding_request(os.urandom(12), username, self.remote.credentials.pwd.encode(), **arguments))

    def restart(self, remote: Credentials, local: Credentials) -> None:
        """After an ICE restart was signalled: check with the new credentials from now on."""
        assert self.remote is not None
        self.credentials = local
        self.remote = LocalTransport(remote, self.remote.fingerprint, self.remote.candidates)

    async def close(self, *, goodbye: bool = True) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        if goodbye and self._dtls is not None and self.connected.is_set() and not self.closed.is_set() and self._sock is not None:
            self._dtls.shutdown()
            self._flush()
        self._leave()

    def _leave(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    # sending

    def send(self, datagram: bytes) -> None:
        """As it is: STUN, DTLS, garbage."""
        if self._sock is None or (self.filter_out is not None and self.filter_out(datagram)):
            return
        try:
            if self._stream:
                self._sock.send(struct.pack("!H", len(datagram)) + datagram)
            else:
                self._sock.sendto(datagram, self.target)
        except OSError as e:
            self.error = str(e)

    def seal(self, packet: bytes) -> bytes:
        assert self._tx is not None
        return self._tx.protect(packet)

    def send_rtp(self, packet: bytes) -> None:
        self.send(self.seal(packet))

    def send_rtcp(self, compound: bytes) -> None:
        assert self._tx is not None
        self.send(self._tx.protect_rtcp(compound))

    # receiving

    async def receive(self, timeout: float = 5.0) -> bytes:
        """The oldest RTP packet not yet taken."""
        return await self._take(self.rtp, timeout)

    async def receive_rtcp(self, timeout: float = 5.0) -> bytes:
        return await self._take(self.rtcp, timeout)

    async def _take(self, queue: deque[bytes], timeout: float) -> bytes:
        async with asyncio.timeout(timeout):
            while not queue:
                self._arrived.clear()
                await self._arrived.wait()
        return queue.popleft()

    def _readable(self) -> None:
        assert self._sock is not None
        for _ in range(64):
            try:
                data = self._sock.recv(65_536)
            except (BlockingIOError, ConnectionRefusedError):
                return
            except OSError as e:
                self.error = str(e)
                data = b""
            if not self._stream:
                self._datagram(data)
                continue
            if not data:
                self.closed.set()
                self._leave()
                return
            self._tcp += data
            while len(self._tcp) >= 2 and len(self._tcp) >= 2 + (size := int.from_bytes(self._tcp[:2], "big")):
                datagram, self._tcp = self._tcp[2 : 2 + size], self._tcp[2 + size :]
                self._datagram(datagram)

    def _datagram(self, data: bytes) -> None:
        if not data or (self.filter_in is not None and self.filter_in(data)):
            return
        first = data[0]
        if first < 4:
            self._answered(data)
        elif first < 64:
            self._handshake(data)
        elif self._rx is not None:
            rtcp = 192 <= data[1] <= 223
            try:
                (self.rtcp if rtcp else self.rtp).append(self._rx.unprotect_rtcp(data) if rtcp else self._rx.unprotect(data))
            except SrtpError:
                self.bad += 1
            self._arrived.set()

    def _answered(self, data: bytes) -> None:
        assert self.remote is not None
        message = stun.parse(data)
        if message is not None and message.type == stun.BINDING_REQUEST:
            # a full agent answers checks too: so the node knows that a peer that has moved is really there
            key = self.credentials.pwd.encode()
            self.asked += 1
            if self.answers_checks and stun.verify(data, key):
                self.send(stun.binding_response(message, self.target[:2], key))
            return
        if message is None or not stun.verify(data, self.remote.credentials.pwd.encode()):
            self.error = "a STUN answer that does not verify"
            return
        self.stun_answers.append(message)
        del self.stun_answers[:-100]
        if message.type == stun.BINDING_RESPONSE and self._dtls is None:
            self._dtls = SSL.Connection(self.certificate.context, None)
            self._dtls.set_ciphertext_mtu(1200)
            if self.setup == "passive":
                self._dtls.set_accept_state()
            else:
                self._dtls.set_connect_state()
                self._handshake(b"")
        elif message.type == stun.BINDING_ERROR:
            self.error = f"STUN error {message.error}"

    def _handshake(self, data: bytes) -> None:
        dtls = self._dtls
        if dtls is None:
            return
        if data:
            dtls.bio_write(data)
        try:
            if self.connected.is_set():
                dtls.recv(2048)
            else:
                dtls.do_handshake()
                self._flush()
                self._made_keys(dtls)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.closed.set()
        except SSL.Error as e:
            self.error = f"DTLS: {e}"
            self.closed.set()
        self._flush()

    def _flush(self) -> None:
        assert self._dtls is not None
        try:
            data = self._dtls.bio_read(65_536)
        except SSL.Error:
            return
        ready = b""
        while data:  # whole records, as many as a datagram holds
            size = 13 + int.from_bytes(data[11:13], "big")
            if len(ready) + size > 1200:
                self.send(ready)
                ready = b""
            ready, data = ready + data[:size], data[size:]
        if ready:
            self.send(ready)

    def _made_keys(self, dtls: SSL.Connection) -> None:
        assert self.remote is not None
        shown = dtls.get_peer_certificate(as_cryptography=True)
        assert shown is not None
        if shown.fingerprint(hashes.SHA256()).hex(":").upper() != self.remote.fingerprint.value:
            self.error = "the certificate is not the one of the answer"
            return
        self.profile = bytes(dtls.get_selected_srtp_profile())
        profile, k, s = PROFILES[self.profile]
        m = dtls.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (k + s))
        client, server = m[:k] + m[2 * k : 2 * k + s], m[k : 2 * k] + m[2 * k + s :]
        mine, theirs = (server, client) if self.setup == "passive" else (client, server)
        outbound = Policy(key=mine, ssrc_type=Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile)
        outbound.allow_repeat_tx = True
        self._tx = Session(outbound)
        self._rx = Session(Policy(key=theirs, ssrc_type=Policy.SSRC_ANY_INBOUND, srtp_profile=profile))
        self.connected.set()
