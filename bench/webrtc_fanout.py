"""WHEP viewers: CPU of the whole daemon per viewer-second, per packet and per join; RSS per viewer. Stock aiortc beside it.

One RTMP publisher (1080p30 of 2.5 Mbit/s, AAC made Opus for WebRTC), viewers with real ICE and DTLS that count packets (`whep_viewers`),
RR and STUN at the rates of a browser, and at the largest count a run in which 1 % of the video packets are asked for again.
"""

from __future__ import annotations

import argparse
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench import rig

SETTLE = 5.0
LIMITS = {20: 2400.0, 100: 1250.0, 200: 1100.0, 300: 1100.0}
"""µs of CPU per viewer-second."""
PACKET_LIMIT = 4.0
"""µs per packet delivered at 200."""
PUBLISHER_LIMIT = 1.5
"""% of a core: one publisher whose AAC becomes Opus."""
JOIN_LIMIT = 2.5
"""ms of CPU."""
RSS_LIMIT = 60.0
"""KB per viewer."""
NAIVE_FACTOR = 5.5
"""So many times as much stock aiortc needs at 100."""
NACK = 0.01
ALONE = {"MEDIANODE__HLS__ENABLED": "false"}
"""As the peers were measured: WebRTC by itself. HLS costs 0.3 to 0.4 % of a core per publisher more (`publishers`)."""
MORE = 20
"""Viewers that tell what a viewer costs, and so what the publisher does."""


class Viewers:
    """`whep_viewers` as a process, spoken to line by line."""

    def __init__(self, url: str, count: int, nack: float) -> None:
        command = [sys.executable, "-m", "bench.whep_viewers", "--url", url, "-n", str(count), "--nack", str(nack), "--max-seconds", "240"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def line(self, timeout: float) -> dict[str, Any]:
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            raise TimeoutError("the viewers say nothing")
        return dict(json.loads(self.process.stdout.readline()))

    def ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(word + "\n")
        return self.line(20)

    def stop(self) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write("quit\n")
            self.process.stdin.close()
            self.process.wait(20)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True, slots=True)
class Row:
    """`us`: of CPU per viewer-second, publisher included; `per_packet`: the same over packets delivered."""

    us: float
    per_packet: float
    join_ms: float
    rss_kb: float
    lost: int
    resent: int
    packets: float
    gap_ms: float
    rig_drops: int
    complaint: str


def watch(pid: int, url: str, count: int, base: float, seconds: float, nack: float = 0.0) -> Row:
    """`base`: the share of a core that the publisher takes unwatched."""
    start = rig.sample(pid)
    viewers = Viewers(url, count, nack)
    try:
        joined = viewers.line(120)
        after_join = rig.sample(pid)
        time.sleep(SETTLE)
        first = viewers.ask("from")
        share, rss = rig.measure(pid, seconds)
        last = viewers.ask("to")
    finally:
        viewers.stop()
    wall, watched = last["at"] - first["at"], last["viewer_s"] - first["viewer_s"]
    packets = last["packets"] - first["packets"]
    complaint = f"{last['failed']} failed: {last['errors']}" if last["failed"] else ""
    if not watched or not packets:
        return Row(0, 0, 0, 0, 0, 0, 0, 0, 0, complaint or "nothing came")
    steady = (share - base) * wall / watched
    join = (after_join.cpu - start.cpu) - base * (after_join.wall - start.wall) - steady * joined["viewer_s"]
    return Row(
        us=share * wall / watched * 1e6,
        per_packet=share * wall / packets * 1e6,
        join_ms=join / max(1, joined["up"]) * 1e3,
        rss_kb=(rss - start.rss) / last["up"] / 1e3,
        lost=last["lost"] - first["lost"],
        resent=last["late"] - first["late"],
        packets=packets / watched,
        gap_ms=last["max_gap_ms"],
        rig_drops=last["rig_drops"],
        complaint=complaint,
    )


@contextmanager
def naive() -> Iterator[rig.Server]:
    """The relay that everybody writes first: stock aiortc."""
    http, rtmp = rig.free_port(), rig.free_port()
    command = [sys.executable, "-m", "bench.naive_aiortc", "--rtmp", f"127.0.0.1:{rtmp}", "--http", f"127.0.0.1:{http}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        rig.wait_for(http, process)
        yield rig.Server(process.pid, http, rtmp)
    finally:
        rig.stop(process)


def show(name: str, count: int, row: Row, limit: float | None) -> bool:
    """Print a row; True where it is over its limit, or no figure at all."""
    ratio = f", ratio {row.us / limit:.2f} to {limit:.0f}" if limit else ""
    print(
        f"  {name} {count:3}: {row.us:6.0f} us per viewer-second{ratio}, {row.per_packet:.2f} us per packet, {row.packets:.0f} packets/s, "
        f"join {row.join_ms:.2f} ms, {row.rss_kb:.0f} KB RSS, lost {row.lost}, resent {row.resent}, longest gap {row.gap_ms:.0f} ms"
        + (f" VOID: the viewers' sockets dropped {row.rig_drops}" if row.rig_drops else "")
        + (f" !! {row.complaint}" if row.complaint else ""),
        flush=True,
    )
    return bool(row.complaint) or row.us == 0 or (limit is not None and row.us > limit) or row.lost > 0


def medianode_rows(counts: tuple[int, ...], seconds: float, nack: bool) -> tuple[dict[int, Row], bool]:
    rows: dict[int, Row] = {}
    over = False
    for count in counts:  # a node of its own for each: RSS is counted from its first viewer
        with rig.medianode(**ALONE) as server, rig.publishers(f"rtmp://127.0.0.1:{server.rtmp}/live/{{name}}", 1, rig.clip()):
            url = f"http://127.0.0.1:{server.http}/whep/live/s0"
            time.sleep(SETTLE)
            base, _ = rig.measure(server.pid, seconds / 2)
            watch(server.pid, url, 1, base, 0.5)  # the first one has the sound encoded: not what a viewer costs
            rows[count] = watch(server.pid, url, count, base, seconds)
            over |= show("medianode", count, rows[count], LIMITS.get(count))
            if nack and count == max(counts):
                again = watch(server.pid, url, count, base, seconds, NACK)
                over |= show(f"medianode, {NACK:.0%} asked again,", count, again, LIMITS.get(count))
    return rows, over


def publisher_row(seconds: float) -> bool:
    """What a publisher costs whose sound becomes Opus: with 1 and with 21 viewers, and of the line through both where it begins."""
    with rig.medianode(**ALONE) as server, rig.publishers(f"rtmp://127.0.0.1:{server.rtmp}/live/{{name}}", 1, rig.clip()):
        time.sleep(SETTLE)
        url = f"http://127.0.0.1:{server.http}/whep/live/s0"
        alone, _ = rig.measure(server.pid, seconds)
        one, many = (watch(server.pid, url, count, alone, seconds) for count in (1, 1 + MORE))
    shares = one.us / 1e4, many.us * (1 + MORE) / 1e4
    rendered = shares[0] - (shares[1] - shares[0]) / MORE
    print(
        f"  publisher: {alone * 100:.2f} % of a core unwatched, {rendered:.2f} % with its Opus, ratio {rendered / PUBLISHER_LIMIT:.2f} to"
    )
    print(f"  {PUBLISHER_LIMIT} %; {shares[0]:.2f} % with one viewer, {(shares[1] - shares[0]) / MORE:.3f} % for each more of {MORE}")
    return rendered > PUBLISHER_LIMIT or bool(one.complaint or many.complaint)


def main(counts: tuple[int, ...], seconds: float, peer: int) -> int:
    """1 where a limit is passed."""
    rig.clip()
    print("WHEP viewers of one RTMP publisher, CPU of the whole daemon")
    over = publisher_row(seconds)
    rows, too_much = medianode_rows(counts, seconds, nack=True)
    over |= too_much
    for count, row in rows.items():
        if row.join_ms > JOIN_LIMIT or (count >= 200 and (row.rss_kb > RSS_LIMIT or row.per_packet > PACKET_LIMIT)):
            print(f"  over a limit at {count}: join {row.join_ms:.2f} ms, {row.rss_kb:.0f} KB RSS, {row.per_packet:.2f} us per packet")
            over = True
    if peer:
        with naive() as server, rig.publishers(f"rtmp://127.0.0.1:{server.rtmp}/live/{{name}}", 1, rig.clip()):
            time.sleep(SETTLE)
            base, _ = rig.measure(server.pid, seconds / 2)
            theirs = watch(server.pid, f"http://127.0.0.1:{server.http}/whep/s0", peer, base, seconds)
        show("stock aiortc", peer, theirs, None)
        if peer in rows and rows[peer].us:
            factor = theirs.us / rows[peer].us
            print(f"  stock aiortc / medianode at {peer}: {factor:.1f} times, aim {NAIVE_FACTOR}")
            over |= factor < NAIVE_FACTOR
    return int(over)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, nargs="*", default=[20, 100, 200])
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--peer", type=int, default=100, help="viewers of stock aiortc; 0: leave it out")
    arguments = parser.parse_args()
    print(rig.machine())
    sys.exit(main(tuple(arguments.n), arguments.seconds, arguments.peer))
