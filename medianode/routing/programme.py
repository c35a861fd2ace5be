"""The one rule that picks which Publication a room's players show."""

from __future__ import annotations

from collections.abc import Iterable

from medianode.routing.publication import Publication


def pick_programme(publications: Iterable[Publication], current: Publication | None) -> Publication | None:
    """The current one while it lives; else the oldest active one that has video; else the oldest active one; else none."""
    active = [p for p in publications if p.active and not p.ended]
    if current is not None and current in active:
        return current
    return min(active, key=lambda p: (p.video is None, p.active_at), default=None)
