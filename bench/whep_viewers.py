"""N WHEP viewers in one process: real ICE and DTLS, then drain and count.

One UDP socket per viewer, one epoll, sockets drained every --tick ms (the default
costs about 2 us per packet, so a core drains 300+ viewers of 2.5 Mbit/s). RTCP and
STUN go out at the rates a libwebrtc viewer was measured to send (3.5/s and 0.6/s).
No UDP GRO: a server that batches must still deliver single datagrams.

Stand-alone:   python -m bench.whep_viewers --url http://127.0.0.1:8080/whep/live/s0 -n 20 --seconds 20
From a script: omit --seconds; prints one JSON line when joined, then one per line
read on stdin (counters since start); "quit" or end of file ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import select
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from bench.whep_peer import Identity, Peer, Stream, local_address

Signal = Callable[[Peer], str]  # does the exchange, returns the server's SDP


def whep(url: str, token: str) -> tuple[Signal, Callable[[Peer], None]]:
    """RFC 9725-style signalling: POST offer, 201 with answer and Location, DELETE at the end."""
    head = {"Content-Type": "application/sdp", "Accept": "application/sdp", **({"Authorization": f"Bearer {token}"} if token else {})}

    def join(p: Peer) -> str:
        req = urllib.request.Request(url, data=p.offer().encode(), headers=head, method="POST")
        try:
            with urllib.request.urlopen(req, timeout=15) as r:
                p.resource = urljoin(url, r.headers.get("Location") or "")
                return str(r.read().decode())
        except urllib.error.HTTPError as e:
            raise RuntimeError(f"HTTP {e.code}: {e.read()[:200]!r}") from e

    def leave(p: Peer) -> None:
        if p.resource and p.resource != url:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(p.resource, headers=head, method="DELETE"), timeout=2).close()

    return join, leave


class Load:
    def __init__(self, a: argparse.Namespace) -> None:
        self.a = a
        if urlsplit(a.url).hostname not in ("127.0.0.1", "localhost"):
            sys.exit("load goes to loopback only")
        ips = ["127.0.0.1"]
        if (ip := local_address()) and not a.loopback_only:
            ips.append(ip)
        ident = Identity(a.srtp.encode())
        self.peers = [Peer(ident, ips, rtx=a.rtx, verify=i < a.verify) for i in range(a.n)]
        self.join, self.leave = whep(a.url, a.token)
        self.ep = select.epoll()
        self.by_fd = {p.sock.fileno(): p for p in self.peers}
        for fd in self.by_fd:
            self.ep.register(fd, select.EPOLLIN)
        self.todo: queue.SimpleQueue[Peer | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[tuple[Peer, str, str]] = queue.SimpleQueue()
        self.viewer_s, self.t0 = 0.0, time.monotonic()
        self.asked = 0
        self.lat: list[float] = []

    # -- signalling threads --------------------------------------------------
    def worker(self) -> None:
        while (p := self.todo.get()) is not None:
            try:
                self.answers.put((p, self.join(p), ""))
            except Exception as e:  # noqa: BLE001 - whatever the server did is that viewer's result
                self.answers.put((p, "", f"{type(e).__name__}: {e}"))

    def ask(self, now: float) -> None:
        allow = len(self.peers) if not self.a.rate else int((now - self.t0) * self.a.rate) + 1
        busy = sum(p.state in ("asked", "ice", "dtls") for p in self.peers[: self.asked][-4 * self.a.parallel :])
        while self.asked < min(allow, len(self.peers)) and busy < self.a.parallel:
            p = self.peers[self.asked]
            p.state, p.born = "asked", now
            self.asked += 1
            busy += 1
            self.todo.put(p)
        while not self.answers.empty():
            p, sdp, err = self.answers.get()
            if err:
                p.fail(err)
            else:
                asked = p.born
                p.remote(sdp, now)
                p.born = asked

    # -- the hot loop ----------------------------------------------------------
    def drain(self, now: float, buf: bytearray, unpack: Callable[..., tuple[int, ...]]) -> None:
        by_fd = self.by_fd
        for fd, _ in self.ep.poll(0, 4096):
            p = by_fd.get(fd)
            if p is None:
                continue
            streams, sock = p.streams, p.sock
            if p.state in ("asked", "ice", "new"):  # addresses matter until a pair is chosen
                try:
                    while p.state in ("asked", "ice", "new"):
                        data, addr = sock.recvfrom(2048)
                        p.other(data, addr, now)
                except OSError:
                    continue
            recv = sock.recv_into
            got = False
            try:
                while True:
                    n = recv(buf)
                    if n >= 12 and 127 < buf[0] < 192 and not 192 <= buf[1] <= 223:
                        got = True
                        _, b1, seq, _, ssrc = unpack(buf)
                        st = streams.get(ssrc)
                        if st is None:
                            pt = b1 & 127
                            if pt in p.rtx_pts:
                                p.rtx_n += 1
                                continue
                            st = streams[ssrc] = Stream(pt, seq)
                            if not p.first_at:
                                p.first_at = now
                        d = (seq - st.last) & 0xFFFF
                        if d == 1:
                            if seq == 0:
                                st.cycles += 65536
                            st.last = seq
                            st.n += 1
                        elif 0 < d < 32768:
                            st.gaps += d - 1
                            if seq < st.last:
                                st.cycles += 65536
                            st.last = seq
                            st.n += 1
                        else:
                            st.late += 1
                        st.nbytes += n
                        if p.verify and p.rx is not None:
                            self.check(p, bytes(buf[:n]), b1)
                    elif n:
                        p.other(bytes(buf[:n]), None, now)
            except BlockingIOError:
                pass
            except OSError as e:
                if p.state == "up" and now - p.up_at > 5:
                    p.fail(f"socket: {e}")
            if got:
                if p.last_arrival and now - p.last_arrival > p.max_gap:
                    p.max_gap = now - p.last_arrival
                p.last_arrival = now

    @staticmethod
    def check(p: Peer, data: bytes, b1: int) -> None:
        assert p.rx is not None
        try:
            p.rx.unprotect(data)
            p.verified += 1
            p.frames += bool(b1 & 0x80 and (b1 & 127) in p.video_pts)
        except Exception:  # noqa: BLE001 - retransmissions are replays to libsrtp
            p.bad += 1

    def timers(self, now: float, dt: float) -> None:
        a, up = self.a, 0
        for p in self.peers:
            s = p.state
            if s == "up":
                up += 1
                if now >= p.next_rtcp:
                    if p.next_rtcp and a.nack:
                        p.nack_debt = min(8.0, p.nack_debt + a.nack * a.pps / a.rtcp_hz)
                    p.next_rtcp = max(p.next_rtcp, now - 1) + 1 / a.rtcp_hz if p.next_rtcp else now + os.urandom(1)[0] / 256 / a.rtcp_hz
                    p.report(now, a.nack)
                if now >= p.next_stun:
                    p.next_stun = now + 1 / a.stun_hz
                    p.check(now)
            elif s in ("ice", "dtls"):
                if s == "ice" and now >= p.next_stun:
                    p.next_stun = now + 0.1
                    p.check(now)
                if s == "dtls" and p.dtls_at and now >= p.dtls_at and p.dtls is not None:
                    p.dtls.DTLSv1_handle_timeout()
                    p.shake(now)
                if now - p.born > a.join_timeout:
                    p.fail(f"not connected after {a.join_timeout} s, still in {s}")
        self.viewer_s += up * dt

    def snapshot(self, event: str) -> dict[str, object]:
        ps = self.peers
        st = [s for p in ps for s in p.streams.values()]
        gaps, late = sum(s.gaps for s in st), sum(s.late for s in st)
        mg = sorted(p.max_gap for p in ps if p.state == "up")
        for p in ps:
            p.max_gap = 0.0
        t = os.times()
        return {
            "event": event,
            "at": time.monotonic(),
            "up": sum(p.state == "up" for p in ps),
            "failed": sum(p.state == "failed" for p in ps),
            "errors": sorted({p.error for p in ps if p.error})[:3],
            "viewer_s": self.viewer_s,
            "packets": sum(s.n + s.late for s in st),
            "video": sum(s.n for p in ps for s in p.streams.values() if s.pt in p.video_pts),
            "bytes": sum(s.nbytes for s in st),
            "gaps": gaps,
            "late": late,
            "lost": max(0, gaps - late),
            "rtx": sum(p.rtx_n for p in ps),
            "nacked": sum(p.nacked for p in ps),
            "consent": sum(p.consent for p in ps),
            "rtcp_in": sum(p.rtcp_in for p in ps),
            "max_gap_ms": round(mg[-1] * 1e3) if mg else 0,
            "gap_p50_ms": round(mg[len(mg) // 2] * 1e3) if mg else 0,
            "verified": sum(p.verified for p in ps),
            "bad": sum(p.bad for p in ps),
            "frames": sum(p.frames for p in ps),
            "streams_per_viewer": round(len(st) / max(1, len(ps)), 2),
            "rig_cpu": t.user + t.system,
            "rig_drops": self.kernel_drops(),
            "profiles": sorted({p.profile.decode() for p in ps if p.profile}),
            "join_ms_p50": self.pct([p.up_at - p.born for p in ps if p.up_at], 50),
            "join_ms_p95": self.pct([p.up_at - p.born for p in ps if p.up_at], 95),
            "first_ms_p50": self.pct([p.first_at - p.born for p in ps if p.first_at], 50),
            "first_ms_p95": self.pct([p.first_at - p.born for p in ps if p.first_at], 95),
        }

    @staticmethod
    def pct(v: list[float], q: int) -> int:
        v = sorted(v)
        return round(v[min(len(v) - 1, len(v) * q // 100)] * 1e3) if v else 0

    def kernel_drops(self) -> int:
        """Datagrams the kernel dropped on our own sockets: the rig's fault, not the server's."""
        mine, n = {f"{p.port:04X}" for p in self.peers}, 0
        with open("/proc/net/udp") as f:
            for ln in f.readlines()[1:]:
                c = ln.split()
                if c[1].endswith(tuple(mine)):
                    n += int(c[-1])
        return n

    def run(self) -> None:
        a = self.a
        for _ in range(a.parallel):
            threading.Thread(target=self.worker, daemon=True).start()
        inp = None
        if a.seconds is None:
            inp = select.poll()
            inp.register(0, select.POLLIN)
        buf, unpack = bytearray(2048), struct.Struct("!BBHII").unpack_from
        tick, last, told, next_timer = a.tick / 1e3, time.monotonic(), False, 0.0
        deadline = self.t0 + a.max_seconds
        while True:
            now = time.monotonic()
            self.drain(now, buf, unpack)
            if now >= next_timer:
                self.timers(now, now - last)
                last, next_timer = now, now + 0.01
                if not told:
                    self.ask(now)
                    if self.asked == len(self.peers) and all(p.state in ("up", "failed") for p in self.peers):
                        told = True
                        out = self.snapshot("joined")
                        out["join_s"] = round(now - self.t0, 3)
                        print(json.dumps(out), flush=True)
                        if a.seconds is not None:
                            deadline = now + a.seconds
                if inp is not None and inp.poll(0):
                    line = sys.stdin.readline()
                    if not line or line.strip() == "quit":
                        break
                    print(json.dumps(self.snapshot(line.strip())), flush=True)
                if now > deadline:
                    print(json.dumps(self.snapshot("end")), flush=True)
                    break
            spare = now + tick - time.monotonic()
            if spare > 0:
                time.sleep(spare)
        for p in self.peers:
            if p.state == "up":
                self.leave(p)
            p.close()


def parser() -> argparse.ArgumentParser:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--url", required=True)
    ap.add_argument("-n", type=int, default=20)
    ap.add_argument("--seconds", type=float, help="run this long after all joined, then print and end")
    ap.add_argument("--max-seconds", type=float, default=600, help="end by itself at the latest")
    ap.add_argument("--token", default="")
    ap.add_argument("--rate", type=float, default=0, help="joins started per second (0: as fast as --parallel allows)")
    ap.add_argument("--parallel", type=int, default=8)
    ap.add_argument("--join-timeout", type=float, default=15)
    ap.add_argument("--tick", type=float, default=4, help="ms between drains")
    ap.add_argument("--rtcp-hz", type=float, default=3.5)
    ap.add_argument("--stun-hz", type=float, default=0.6)
    ap.add_argument("--nack", type=float, default=0, help="share of video packets to NACK although they came")
    ap.add_argument("--pps", type=float, default=290, help="video packets per second that --nack assumes")
    ap.add_argument("--rtx", action="store_true", help="offer RTX")
    ap.add_argument("--verify", type=int, default=1, help="viewers that unprotect every packet")
    ap.add_argument("--loopback-only", action="store_true", help="offer only 127.0.0.1 as candidate")
    ap.add_argument("--srtp", default="SRTP_AEAD_AES_128_GCM:SRTP_AEAD_AES_256_GCM:SRTP_AES128_CM_SHA1_80")
    return ap


if __name__ == "__main__":
    Load(parser().parse_args()).run()
