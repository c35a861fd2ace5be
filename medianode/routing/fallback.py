"""Fallback: what a room's players get while its publisher is gone: a backup ingress, else a slate. And what makes slates, from below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from medianode.media.packet import Packet
from medianode.media.track import Track


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """Of one room. `slate`: names the picture and its version, empty for none. `always`: it is shown whenever nobody publishes, and the
    room is always on air. `backup`: the ingress that takes over where no other is on air and well, empty for none.

    `frozen`: seconds without a picture (or, where there is none, sound) after which a publication is not well. `patience`: seconds that
    one has to be well before the backup gives way.
    """

    slate: str = ""
    always: bool = False
    backup: str = ""
    frozen: float = 3.0
    patience: float = 5.0


@dataclass(frozen=True, slots=True)
class Strand:
    """One track of a Loop: packets with stamps from 0 up to `period`, in ticks of the track, where it begins anew."""

    track: Track
    packets: Sequence[Packet]
    period: int


@dataclass(frozen=True, slots=True)
class Loop:
    """A slate in one format, made once and shared by all rooms that show it: strands of their own length, the video one first and begun
    by a key frame. `nbytes` of all packets.
    """

    strands: tuple[Strand, ...]
    nbytes: int

    @property
    def tracks(self) -> tuple[Track, ...]:
        return tuple(strand.track for strand in self.strands)


class Loops(Protocol):
    """transcode.slate.SlateMaker."""

    def find(self, project_id: str, room: str, slate: str, like: tuple[Track, ...], ready: Callable[[], None]) -> Loop | None:
        """The slate made to match `like`; empty: in the house's own format. None while it is being made: `ready` is called once it is
        there. None without a call where it cannot be made: who makes it has said so.
        """
