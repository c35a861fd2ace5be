"""Slate: the publication that a room shows in a gap: a Loop, stamped on and on. No encoder runs while it plays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from heapq import merge

from medianode import clock
from medianode.auth import Door, PublishGrant, Takeover
from medianode.errors import MedianodeError
from medianode.media.gop import GopCache
from medianode.media.packet import Packet
from medianode.routing.fallback import Fallback, Loop, Loops, Strand
from medianode.routing.publication import Publication
from medianode.tasks import every, guarded

TICK = 0.05
"""Seconds between wake-ups: pictures leave in small batches, as those of an encoder that is read every 50 ms do."""
LATE = 1.0
"""A loop that is behind by more slips: nobody wants the seconds that the node slept."""
MOST_DELAY = 90_000
"""Ticks of 90 kHz: an encoder that says more than a second is not believed."""
DOOR = "slate"


class Slate:
    """One loop being shown, from now on; its media time starts at 0. `delays` are of what was on air, see `delays_of`."""

    def __init__(self, loop: Loop, slug: str, project_id: str, room: str, gop: GopCache, *, delays: tuple[int, int] = (0, 0)) -> None:
        grant = PublishGrant(
            project_id=project_id,
            slug=slug,
            room=room,
            identity=DOOR,
            name="",
            kind=Door.URL,
            ingress_id=None,
            takeover=Takeover.REJECT,
            hold=0.0,
        )
        self.publication = Publication(grant, DOOR, "", _no_kick, gop)
        self.loop = loop
        self._begun = clock.now()
        strands = (_stamped(strand, *(delays if strand.track.is_video else (0, 0))) for strand in loop.strands)
        self._stamped = merge(*strands, key=lambda timed: timed[0])
        self._next = next(self._stamped)

    def open(self) -> None:
        """Declare its tracks and write the first key frame, for those who join."""
        self.publication.set_tracks(self.loop.tracks)
        self.advance(self._begun)

    def advance(self, now: float) -> None:
        """Write what is due at `now`."""
        due = now - self._begun
        if due - self._next[0] > LATE:
            self._begun += due - self._next[0]
            due = self._next[0]
        while self._next[0] <= due and not self.publication.ended:
            packet = self._next[1]
            self._next = next(self._stamped)
            self.publication.write(packet._replace(received_at=now))

    def close(self) -> None:
        self.publication.ended = True


class Slates:
    """All rooms' slates of the node: `loops` (set by the daemon) makes them, `of` (set by the daemon) knows which room has which fallback,
    `serve` plays them. `needed` (set by the daemon) is told that a room has lost its programme and its backup is wanted.
    """

    def __init__(self) -> None:
        self.loops: Loops | None = None
        self.of: Callable[[str, str], Fallback | None] = _no_fallback
        self.needed: Callable[[str, str], None] = _not_needed
        self._playing: dict[Slate, None] = {}
        self._wake = asyncio.Event()

    @property
    def playing(self) -> tuple[Slate, ...]:
        return tuple(self._playing)

    def play(self, slate: Slate) -> None:
        self._playing[slate] = None
        self._wake.set()

    def stop(self, slate: Slate) -> None:
        self._playing.pop(slate, None)
        slate.close()

    async def serve(self) -> None:
        """Runs until cancelled; asleep while no room shows a slate."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            async for now in every(TICK):
                if not self._playing:
                    break
                self._advance(now)

    def _advance(self, now: float) -> None:
        """Not in the loop of `serve`, whose variables live on: the last slate would be kept."""
        for slate in self.playing:
            guarded("slate", slate.advance, now)


def delays_of(gop: GopCache) -> tuple[int, int]:
    """How long after its decoding a picture is shown, in ticks of 90 kHz, where there are B-frames: a key frame, and the longest."""
    first = gop.keyframe
    if first is None:
        return 0, 0
    delays = [packet.pts - packet.dts for packet in gop.packets if packet.track.id == first.track.id]
    return min(max(0, delays[0]), MOST_DELAY), min(max(0, *delays), MOST_DELAY)


def _stamped(strand: Strand, delay: int, longest: int) -> Iterator[tuple[float, Packet]]:
    """Each packet with the second at which it is due, without end.

    Pictures are shown with the delay of those before them, or the first would come before the last of these; and then soon with that of
    a key frame, or the last would come after the first of the encoder that is back.
    """
    rate, base = strand.track.clock_rate, 0
    while True:
        for packet in strand.packets:
            dts = base + packet.dts
            late = max(delay, longest - dts // 3)
            yield dts / rate, packet._replace(pts=base + packet.pts + late, dts=dts)
        base += strand.period


def _no_kick(error: MedianodeError) -> None:
    """Nobody is behind it."""


def _no_fallback(project_id: str, room: str) -> Fallback | None:
    return None


def _not_needed(project_id: str, room: str) -> None:
    """No backup is fetched here."""
