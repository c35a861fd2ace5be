"""Ring: the last seconds of a room in whole GOPs, so that a clip of an event begins before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from medianode.media.packet import Gap, Packet
from medianode.media.track import Track

SOUND_GROUP = 1.0
"""Seconds of sound that are kept or dropped together where there is no picture."""


class Ring:
    """A Sink. `seconds`: a GOP is kept while the one after it is younger; `max_bytes`: the oldest go over it, the newest too if it alone is
    larger.
    """

    def __init__(self, seconds: float, max_bytes: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._groups: deque[list[Packet]] = deque()
        self._sizes: deque[int] = deque()
        self._video: int | None = None
        self.nbytes = 0

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self._clear()
        self._video = next((track.id for track in tracks if track.is_video and not track.layer), None)

    def on_packet(self, packet: Packet) -> None:
        if packet.track.layer:
            return
        if self._opens(packet):
            self._groups.append([])
            self._sizes.append(0)
            while len(self._groups) > 2 and self._groups[1][0].received_at <= packet.received_at - self._seconds:
                self._drop()
        elif not self._groups:
            return
        self._groups[-1].append(packet)
        self._sizes[-1] += len(packet.data)
        self.nbytes += len(packet.data)
        while self.nbytes > self._max_bytes:
            self._drop()

    def on_gap(self, gap: Gap) -> None:
        """What is before it does not join what follows."""
        self._clear()

    def on_end(self, cause: str) -> None:
        self._clear()

    def since(self, at: float) -> Iterator[Packet]:
        """From the newest key frame that came at `at` or before (`clock.now()`); from the oldest there is where none did."""
        groups = tuple(self._groups)
        first = max((i for i, group in enumerate(groups) if group[0].received_at <= at), default=0)
        for group in groups[first:]:
            yield from tuple(group)

    def _opens(self, packet: Packet) -> bool:
        if self._video is not None:
            return packet.keyframe and packet.track.id == self._video
        return not self._groups or packet.received_at - self._groups[-1][0].received_at >= SOUND_GROUP

    def _drop(self) -> None:
        self._groups.popleft()
        self.nbytes -= self._sizes.popleft()

    def _clear(self) -> None:
        self._groups.clear()
        self._sizes.clear()
        self.nbytes = 0
