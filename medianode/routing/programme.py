"""The one rule that picks which Publication a room's players show, and the watch that tells whether one is worth showing."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from medianode.routing.fallback import Fallback
from medianode.routing.publication import Publication


def pick_programme(publications: Iterable[Publication], current: Publication | None, watch: Watch | None = None) -> Publication | None:
    """The current one while it lives; else the oldest active one that has video; else the oldest active one; else none.

    With a backup in the room, first among those that are not it and are well; then the backup; then whatever is left.
    """
    active = [p for p in publications if p.active and not p.ended]
    for among in _ranks(active, watch):
        if current is not None and current in among:
            return current
        if among:
            return min(among, key=lambda p: (p.video is None, p.active_at))
    return None


def _ranks(active: list[Publication], watch: Watch | None) -> tuple[list[Publication], ...]:
    if watch is None or not watch.fallback.backup:
        return (active,)
    first = [p for p in active if not watch.is_backup(p)]
    return [p for p in first if watch.well(p)], [p for p in active if watch.is_backup(p)], first


class Watch:
    """Of one room with a backup: which of the publications before it are well. `returned` is called, while a key frame of one is being
    written, once it has been well for long enough: that is where the programme goes back to it.
    """

    def __init__(self, fallback: Fallback, returned: Callable[[], None]) -> None:
        self.fallback = fallback
        self._returned = returned
        self._doubted: dict[Publication, float] = {}

    def is_backup(self, publication: Publication) -> bool:
        return publication.grant.ingress_id == self.fallback.backup

    def well(self, publication: Publication) -> bool:
        return publication not in self._doubted

    def doubt(self, publication: Publication, since: float) -> None:
        """It is back while the backup is shown: it has to prove itself. `since`: clock.now(), 0 where nothing comes of it."""
        self._doubted[publication] = since

    def forget(self, publication: Publication) -> None:
        self._doubted.pop(publication, None)
        publication.on_keyframe = None

    def look(self, publications: Iterable[Publication], now: float) -> bool:
        """Once a second. True where one has frozen since: the programme is to be picked anew."""
        frozen = False
        for publication in publications:
            if not publication.active or self.is_backup(publication):
                continue
            flows = now - _heard(publication) < self.fallback.frozen
            since = self._doubted.get(publication)
            if since is None:
                if not flows:
                    self._doubted[publication] = 0.0
                    frozen = True
            elif not flows or not since:
                self._doubted[publication] = now if flows else 0.0
                publication.on_keyframe = None
            elif now - since >= self.fallback.patience and publication.on_keyframe is None:
                publication.on_keyframe = self._well
                publication.request_keyframe()
        return frozen

    def close(self) -> None:
        for publication in tuple(self._doubted):
            self.forget(publication)

    def _well(self, publication: Publication) -> None:
        self.forget(publication)
        self._returned()


def _heard(publication: Publication) -> float:
    """When its last picture came; of one without pictures, its last packet."""
    video = publication.video
    return publication.last_packet_at if video is None else publication.meters[video.id].last_at
