"""Readers of a publication that keep what they are handed."""

from __future__ import annotations

from medianode.media.packet import Gap, Packet
from medianode.media.track import Track


class Sink:
    """`tracks`: each announcement; `ends`: whether the publication may end while this one reads."""

    def __init__(self, *, ends: bool = False) -> None:
        self.ends = ends
        self.tracks: list[tuple[Track, ...]] = []
        self.packets: list[Packet] = []
        self.gaps: list[str] = []
        self.ended: list[str] = []

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.tracks.append(tracks)

    def on_packet(self, packet: Packet) -> None:
        self.packets.append(packet)

    def on_gap(self, gap: Gap) -> None:
        self.gaps.append(gap.cause)

    def on_end(self, cause: str) -> None:
        self.ended.append(cause)
        assert self.ends, cause

    def of(self, ident: int) -> list[Packet]:
        return [p for p in self.packets if p.track.id == ident]
