"""Counters that wrap: 16 bits of sequence number and 32 bits of timestamp, in and out, end to end."""

from __future__ import annotations

import itertools
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness.calls import Viewer, calling
from harness.rough import rough

from medianode.egress.whep import service
from medianode.media.packet import Packet
from medianode.media.track import Kind
from medianode.rtc.fanout import Broadcast

SEQUENCE, STAMP = 1 << 16, 1 << 32


def _number(below: int) -> int:
    """What a Broadcast asks chance for: SSRCs, its first sequence number less one, and its timestamp offset, which is set below."""
    return SEQUENCE - 331 if below == 0x4000 else next(_ssrcs)


_ssrcs = itertools.count(1000)


class Wrapping(Broadcast):
    """Its pictures' timestamps wrap half a second after the first."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, random=_number, **named)
        self.aimed = False
        made.append(self)

    def on_packet(self, packet: Packet) -> None:
        if packet.track.is_video and not self.aimed:
            self.aimed = True
            self.channels[Kind.VIDEO].outgoing.offset = (STAMP - 40_000 - packet.pts) % STAMP
        super().on_packet(packet)


made: list[Wrapping] = []


def _wrapped(viewer: Viewer, kind: Kind) -> tuple[bool, bool]:
    """Whether the sequence and the timestamp that came went over their ends."""
    packets = [viewer.heard[kind].packets[n] for n in sorted(viewer.heard[kind].packets)]
    sequences, stamps = [p.sequence for p in packets], [p.timestamp for p in packets]
    return (
        any(b < a and a - b > SEQUENCE / 2 for a, b in pairwise(sequences)),
        any(b < a and a - b > STAMP / 2 for a, b in pairwise(stamps)),
    )


async def test_a_publisher_whose_counters_wrap(tmp_path: Path) -> None:
    """With losses, so that requests and retransmissions straddle the wrap too."""
    async with calling(tmp_path) as line, rough(line.port, loss=0.03, seed=12) as path:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, through=path, sequence=SEQUENCE - 60, first=STAMP - 40_000) as publisher:
            await line.live()
            async with line.viewing() as viewer:
                frames = await viewer.until(45)
            assert publisher.picture.sequence > SEQUENCE + 40
            (publication,) = line.node.daemon.registry.publications
            assert publication.health.network["recovered"] > 0
            assert frames == sorted(set(frames))
            assert len(frames) >= 0.9 * (frames[-1] - frames[0] + 1)
            stamps = [viewer.heard[Kind.VIDEO].packets[n].timestamp for n in sorted(viewer.heard[Kind.VIDEO].packets)]
            steps = {(b - a) & 0xFFFFFFFF for a, b in pairwise(stamps)}
            assert max(steps) < 90_000, "outgoing time goes on as the publisher's does"


async def test_what_viewers_are_sent_wraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who was there before the wrap, behind losses; one by TCP; one who joins after it; one who joins just before it."""
    made.clear()
    monkeypatch.setattr(service, "Broadcast", Wrapping)
    async with calling(tmp_path) as line, rough(line.port, loss=0.05, seed=13) as path:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, size=8000) as publisher:
            await line.live()
            async with line.viewing(through=path) as early, line.viewing(tcp=True) as tcp:
                await early.until(5)
                video = made[0].channels[Kind.VIDEO].outgoing
                await line.until(lambda: video.next > SEQUENCE - 200)
                async with line.viewing() as close:
                    await line.until(lambda: video.next > SEQUENCE + 50)
                    async with line.viewing() as late:
                        for viewer in (early, tcp, close, late):
                            await viewer.until(10)
                        last = publisher.picture.frames - 1
                        await line.until(
                            lambda: last in early.frames and last in close.frames and last in late.frames and last in tcp.frames
                        )
                        assert _wrapped(early, Kind.VIDEO) == (True, True)
                        assert _wrapped(tcp, Kind.VIDEO) == (True, True)
                        for viewer in (early, tcp, close, late):
                            frames = [n for n in viewer.frames if n <= last - 5]
                            assert frames == list(range(frames[0], frames[-1] + 1))
                            assert viewer.sounds > 5
