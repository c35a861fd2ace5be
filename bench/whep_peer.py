"""One WHEP viewer without a media stack: ICE, DTLS-SRTP, RTCP, counters.

Offers what a browser offers (H.264 + Opus, NACK, PLI, optional RTX), takes an
ICE-lite or full-ICE answer, finishes DTLS for real and checks the certificate
against the answer's fingerprint. RTP is then only counted: header fields are in
the clear under SRTP. A viewer made with verify=True also unprotects every packet.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import os
import re
import secrets
import socket
import struct
import zlib

import pylibsrtp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from pylibsrtp import Policy, Session

MAGIC = 0x2112A442
PROFILES = {  # OpenSSL name: (policy profile, key bytes, salt bytes)
    b"SRTP_AEAD_AES_128_GCM": (Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 16, 12),
    b"SRTP_AEAD_AES_256_GCM": (Policy.SRTP_PROFILE_AEAD_AES_256_GCM, 32, 12),
    b"SRTP_AES128_CM_SHA1_80": (Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 16, 14),
}


class Identity:
    """One certificate and TLS context, shared by all viewers of a process."""

    def __init__(self, profiles: bytes) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rig")])
        now = datetime.datetime.now(datetime.UTC)
        cert = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .sign(key, hashes.SHA256())
        )
        der = cert.public_bytes(serialization.Encoding.DER)
        self.fingerprint = ":".join(f"{b:02X}" for b in hashlib.sha256(der).digest())
        self.ctx = SSL.Context(SSL.DTLS_METHOD)
        self.ctx.use_certificate(cert)
        self.ctx.use_privatekey(key)
        self.ctx.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        self.ctx.set_tlsext_use_srtp(profiles)


def stun_attr(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + b"\0" * (-len(value) % 4)


def stun_seal(kind: int, txid: bytes, body: bytes, key: bytes) -> bytes:
    """A STUN message with MESSAGE-INTEGRITY and FINGERPRINT (RFC 8489, 14.5 and 14.7)."""
    head = struct.pack("!HHI", kind, len(body) + 24, MAGIC) + txid
    body += stun_attr(8, hmac.new(key, head + body, hashlib.sha1).digest())
    head = struct.pack("!HHI", kind, len(body) + 8, MAGIC) + txid
    return head + body + stun_attr(0x8028, struct.pack("!I", zlib.crc32(head + body) ^ 0x5354554E))


def is_local(ip: str) -> bool:
    """True when this machine owns the address: load never leaves it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.bind((ip, 0))
            return True
        except OSError:
            return False


class Stream:
    """Receive state of one SSRC (RFC 3550, A.3 in short)."""

    __slots__ = ("cycles", "first", "gaps", "last", "late", "lsr", "lsr_at", "n", "nbytes", "pt", "rr_exp", "rr_n")

    def __init__(self, pt: int, seq: int) -> None:
        self.pt, self.first, self.last, self.cycles = pt, seq, (seq - 1) & 0xFFFF, 0
        self.n = self.nbytes = self.gaps = self.late = self.lsr = self.rr_exp = self.rr_n = 0
        self.lsr_at = 0.0


class Peer:
    def __init__(self, ident: Identity, local_ips: list[str], *, rtx: bool, verify: bool) -> None:
        self.ident, self.rtx = ident, rtx
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        for opt in (33, socket.SO_RCVBUF):  # 33: SO_RCVBUFFORCE
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, opt, 2 << 20)
                break
            except OSError:
                continue
        self.sock.bind(("0.0.0.0", 0))
        self.port = self.sock.getsockname()[1]
        self.ufrag, self.pwd = secrets.token_hex(4), secrets.token_hex(12)
        self.tiebreak, self.controlling = os.urandom(8), True  # offerer, or facing ICE-lite
        self.local_ips = local_ips
        self.r_ufrag = self.r_pwd = self.r_fp = ""
        self.cands: list[tuple[str, int]] = []
        self.r_setup, self.video_pts, self.rtx_pts = "passive", set[int](), set[int]()
        self.state = "new"  # new, ice, dtls, up, failed
        self.error = ""
        self.dtls: SSL.Connection | None = None
        self.tx = self.rx = None
        self.verify, self.verified, self.bad, self.frames = verify, 0, 0, 0
        self.profile = b""
        self.streams: dict[int, Stream] = {}
        self.txids: dict[bytes, float] = {}
        self.next_stun = self.next_rtcp = self.dtls_at = self.born = self.up_at = self.first_at = 0.0
        self.consent = self.rtcp_in = self.rtx_n = self.nacked = 0
        self.nack_debt = 0.0
        self.last_arrival, self.max_gap = 0.0, 0.0
        self.ssrc = secrets.randbelow(1 << 32)
        self.resource = ""

    # -- SDP ---------------------------------------------------------------
    def offer(self, mids: tuple[str, str] = ("0", "1")) -> str:
        base = [
            "c=IN IP4 0.0.0.0",
            "a=rtcp:9 IN IP4 0.0.0.0",
            f"a=ice-ufrag:{self.ufrag}",
            f"a=ice-pwd:{self.pwd}",
            "a=ice-options:trickle",
            f"a=fingerprint:sha-256 {self.ident.fingerprint}",
            "a=setup:actpass",
        ]
        cand = [f"a=candidate:{i} 1 udp {2130706431 - i} {ip} {self.port} typ host" for i, ip in enumerate(self.local_ips, 1)]
        out = [
            "v=0",
            f"o=- {secrets.randbelow(1 << 60)} 2 IN IP4 127.0.0.1",
            "s=-",
            "t=0 0",
            "a=group:BUNDLE " + " ".join(mids),
            "a=msid-semantic: WMS",
            "m=audio 9 UDP/TLS/RTP/SAVPF 111",
            *base,
            f"a=mid:{mids[0]}",
            "a=recvonly",
            "a=rtcp-mux",
            "a=rtpmap:111 opus/48000/2",
            "a=fmtp:111 minptime=10;useinbandfec=1",
            *cand,
            "a=end-of-candidates",
        ]
        profs = [(102, "42001f"), (104, "42e01f"), (106, "4d001f"), (108, "64001f")]
        pts = [str(p + d) for p, _ in profs for d in ((0, 1) if self.rtx else (0,))]
        out += [f"m=video 9 UDP/TLS/RTP/SAVPF {' '.join(pts)}", *base, f"a=mid:{mids[1]}", "a=recvonly", "a=rtcp-mux", "a=rtcp-rsize"]
        for pt, prof in profs:
            out += [
                f"a=rtpmap:{pt} H264/90000",
                f"a=rtcp-fb:{pt} ccm fir",
                f"a=rtcp-fb:{pt} nack",
                f"a=rtcp-fb:{pt} nack pli",
                f"a=fmtp:{pt} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={prof}",
            ]
            if self.rtx:
                out += [f"a=rtpmap:{pt + 1} rtx/90000", f"a=fmtp:{pt + 1} apt={pt}"]
        return "\r\n".join([*out, *cand, "a=end-of-candidates", ""])

    def remote(self, sdp: str, now: float) -> None:
        """Take the server's description and start ICE."""

        def one(pat: str) -> str:
            m = re.search(pat, sdp, re.M)
            return m.group(1).strip() if m else ""

        self.r_ufrag, self.r_pwd = one(r"^a=ice-ufrag:(\S+)"), one(r"^a=ice-pwd:(\S+)")
        self.r_fp = one(r"^a=fingerprint:(?i:sha-256) (\S+)").upper()
        self.r_setup = one(r"^a=setup:(\S+)") or "passive"
        video = one(r"^m=video [1-9]\d* \S+ ([\d ]+)")
        self.rtx_pts = {int(p) for p in re.findall(r"^a=rtpmap:(\d+) rtx/", sdp, re.M | re.I)}
        self.video_pts = {int(p) for p in video.split()} - self.rtx_pts
        seen = re.findall(r"^a=candidate:\S+ 1 (?:udp|UDP) \d+ (\d+\.\d+\.\d+\.\d+) (\d+) typ (?:host|srflx)", sdp, re.M)
        self.cands = list(dict.fromkeys((ip, int(p)) for ip, p in seen if is_local(ip)))
        self.cands.sort(key=lambda c: c[0] != "127.0.0.1")
        if not (self.cands and self.r_ufrag and self.r_pwd and self.r_fp):
            return self.fail(f"answer lacks a local UDP candidate, ICE credentials or a SHA-256 fingerprint: {seen}")
        self.state, self.born, self.next_stun = "ice", now, 0.0
        return None

    def fail(self, why: str) -> None:
        self.state, self.error = "failed", self.error or why

    # -- ICE ---------------------------------------------------------------
    def check(self, now: float) -> None:
        """Connectivity check before, consent check after nomination."""
        txid = os.urandom(12)
        role = stun_attr(0x802A, self.tiebreak) + stun_attr(0x25, b"") if self.controlling else stun_attr(0x8029, self.tiebreak)
        body = stun_attr(6, f"{self.r_ufrag}:{self.ufrag}".encode()) + stun_attr(0x24, struct.pack("!I", 1853824767)) + role
        msg = stun_seal(1, txid, body, self.r_pwd.encode())
        self.txids = {k: t for k, t in self.txids.items() if now - t < 5}
        self.txids[txid] = now
        try:
            if self.state == "ice":
                for c in self.cands:
                    self.sock.sendto(msg, c)
            else:
                self.sock.send(msg)
        except OSError as e:
            if self.state == "ice" and now - self.born > 5:
                self.fail(f"ICE: {e}")

    def stun(self, data: bytes, addr: tuple[str, int] | None, now: float) -> None:
        (kind,) = struct.unpack_from("!H", data)
        txid = data[8:20]
        if kind == 1:  # a full-ICE server checks us
            ip, port = addr or self.sock.getpeername()
            x = struct.pack("!BBHI", 0, 1, port ^ (MAGIC >> 16), struct.unpack("!I", socket.inet_aton(ip))[0] ^ MAGIC)
            out = stun_seal(0x0101, txid, stun_attr(0x20, x), self.pwd.encode())
            self.sock.send(out) if addr is None else self.sock.sendto(out, addr)
        elif kind == 0x0101 and self.txids.pop(txid, None) is not None:
            self.consent += 1
            if self.state == "ice":
                self.sock.connect(addr)
                self.state = "dtls"
                self.dtls = SSL.Connection(self.ident.ctx, None)
                self.dtls.set_ciphertext_mtu(1200)
                self.dtls.set_accept_state() if self.r_setup == "active" else self.dtls.set_connect_state()
                self.shake(now)
        elif kind == 0x0111 and b"\x04\x57" in data[20:36]:  # 487 Role Conflict: a full-ICE server that made the offer
            if self.txids.pop(txid, None) is not None:
                self.controlling = False
                self.next_stun = 0.0
        elif kind == 0x0111 and self.state == "ice" and now - self.born > 3:
            self.fail("STUN error response " + data[20:60].hex())

    # -- DTLS --------------------------------------------------------------
    def shake(self, now: float) -> None:
        d = self.dtls
        assert d is not None
        try:
            d.do_handshake()
            done = True
        except SSL.WantReadError:
            done = False
        except SSL.Error as e:
            return self.fail(f"DTLS: {e}")
        self.flush()
        if done and self.state == "dtls":
            self.keys(now)
        t = d.DTLSv1_get_timeout()
        self.dtls_at = now + t if t is not None else 0.0
        return None

    def flush(self) -> None:
        """Send what OpenSSL wrote, packed by whole records into datagrams of at most 1200 bytes."""
        assert self.dtls is not None
        try:
            data = self.dtls.bio_read(65536)
        except SSL.WantReadError:
            return
        out = b""
        while data:
            n = 13 + int.from_bytes(data[11:13], "big")
            if out and len(out) + n > 1200:
                self.sock.send(out)
                out = b""
            out, data = out + data[:n], data[n:]
        if out:
            with contextlib.suppress(ConnectionRefusedError):
                self.sock.send(out)

    def keys(self, now: float) -> None:
        d = self.dtls
        assert d is not None
        cert = d.get_peer_certificate()
        got = cert.digest("sha256").decode().upper() if cert else "none"
        if got != self.r_fp:
            return self.fail("certificate does not match the fingerprint of the answer")
        self.profile = bytes(d.get_selected_srtp_profile())
        prof, k, s = PROFILES[self.profile]
        m = d.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (k + s))
        client, server = m[:k] + m[2 * k : 2 * k + s], m[k : 2 * k] + m[2 * k + s :]
        mine, theirs = (server, client) if self.r_setup == "active" else (client, server)
        self.tx = Session(Policy(key=mine, ssrc_type=Policy.SSRC_ANY_OUTBOUND, srtp_profile=prof))
        self.rx = Session(Policy(key=theirs, ssrc_type=Policy.SSRC_ANY_INBOUND, srtp_profile=prof))
        self.state, self.up_at = "up", now
        return None

    # -- media -------------------------------------------------------------
    def other(self, data: bytes, addr: tuple[str, int] | None, now: float) -> None:
        """Everything that is not RTP."""
        b = data[0]
        if b < 4:
            self.stun(data, addr, now)
        elif 19 < b < 64 and self.dtls is not None:
            self.dtls.bio_write(data)
            if self.state == "dtls":
                self.shake(now)
            else:
                try:
                    self.dtls.recv(1500)
                except SSL.ZeroReturnError:
                    self.fail("server closed DTLS")
                except SSL.Error:
                    pass
                self.flush()
        elif 127 < b < 192 and self.rx is not None:
            self.rtcp_in += 1
            try:
                plain = self.rx.unprotect_rtcp(data)
            except pylibsrtp.Error:
                self.bad += 1
                return
            if plain[1] == 200 and len(plain) >= 28:
                ssrc, hi, lo = struct.unpack_from("!III", plain, 4)
                if st := self.streams.get(ssrc):
                    st.lsr, st.lsr_at = ((hi & 0xFFFF) << 16) | (lo >> 16), now

    def report(self, now: float, nack: float) -> None:
        """RR + SDES for every stream, plus NACKs for a share of what came (made-up loss)."""
        assert self.tx is not None
        blocks = b""
        for ssrc, st in self.streams.items():
            ext = st.cycles + st.last
            expected = ext - st.first + 1
            de, dn = expected - st.rr_exp, st.n - st.rr_n
            st.rr_exp, st.rr_n = expected, st.n
            frac = max(0, min(255, (de - dn) * 256 // de)) if de > 0 else 0
            lost = max(0, min(0x7FFFFF, expected - st.n))
            dlsr = int((now - st.lsr_at) * 65536) & 0xFFFFFFFF if st.lsr else 0
            blocks += struct.pack("!IIIIII", ssrc, (frac << 24) | lost, ext & 0xFFFFFFFF, 0, st.lsr, dlsr)
        n = len(blocks) // 24
        out = struct.pack("!BBHI", 0x80 | n, 201, 1 + 6 * n, self.ssrc) + blocks
        out += struct.pack("!BBHI", 0x81, 202, 3, self.ssrc) + b"\1\3rig\0\0\0"
        if nack > 0:
            for ssrc, st in self.streams.items():
                if st.pt in self.video_pts:
                    fci = b""
                    while self.nack_debt >= 1 and len(fci) < 64:
                        self.nack_debt -= 1
                        self.nacked += 1
                        fci += struct.pack("!HH", (st.last - secrets.randbelow(40)) & 0xFFFF, 0)
                    if fci:
                        out += struct.pack("!BBHII", 0x81, 205, 2 + len(fci) // 4, self.ssrc, ssrc) + fci
        with contextlib.suppress(OSError):
            self.sock.send(self.tx.protect_rtcp(out))

    def close(self) -> None:
        if self.dtls is not None and self.state == "up":
            try:
                self.dtls.shutdown()
                self.flush()
            except (SSL.Error, OSError):
                pass
        self.sock.close()


def local_address() -> str | None:
    """The address of the default route's interface, if there is one (nothing is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            return str(s.getsockname()[0])
        except OSError:
            return None
