"""Policy: what a grant allows a publication over time: seconds on air, bits per second, lines of picture."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from medianode import clock
from medianode.auth import PublishGrant
from medianode.errors import LimitExceeded, PeerGone, UnsupportedMedia
from medianode.routing.publication import Publication

log = logging.getLogger("medianode.routing")
PATIENCE = 10.0
"""Seconds that a publisher may stay over its bitrate, those of before a reconnect included."""
SAMPLES = 4
"""Seconds over which the bitrate is taken: a key frame makes one second of two look heavy."""
BITRATE = "bitrate-limit"
DURATION = "max-duration"
RESOLUTION = "resolution-too-high"

PutOut = Callable[[Publication, PeerGone | LimitExceeded | UnsupportedMedia], None]


@dataclass(slots=True)
class Session:
    """What a reconnect does not begin anew. `since`: clock.now() of the first ACTIVE. `over`: seconds over the bitrate, since it was last
    seen within.
    """

    since: float | None = None
    over: float = 0.0


class Policy:
    """Of one publication, from its start to `close`. `put_out` ends it for good; notes go to its health, for the session view."""

    def __init__(self, publication: Publication, session: Session, put_out: PutOut) -> None:
        self._publication = publication
        self._session = session
        self._put_out = put_out
        self._timer: asyncio.TimerHandle | None = None
        self._rates: deque[float] = deque(maxlen=SAMPLES)
        self._looked_at: float | None = None

    @staticmethod
    def needed(grant: PublishGrant) -> bool:
        return bool(grant.max_duration or grant.max_bitrate or grant.max_height)

    def on_air(self) -> None:
        """It is active."""
        now, limit = clock.now(), self._publication.grant.max_duration
        if self._session.since is None:
            self._session.since = now
        if limit and self._timer is None:
            left = max(0.0, limit - (now - self._session.since))
            self._timer = asyncio.get_running_loop().call_later(left, self._expired)

    def on_tracks(self) -> None:
        """Its tracks are known, or are others."""
        publication = self._publication
        grant, limit = publication.grant, publication.grant.max_height
        lines = max((track.lines for track in publication.tracks if track.is_video), default=0)
        before = publication.health.notes.pop(RESOLUTION, "")
        if not limit or lines <= limit:
            return
        consequence = f"players get {limit}" if grant.scales else "it is refused, as transcoding is off"
        note = publication.health.notes[RESOLUTION] = f"{lines} lines, the stream allows {limit}: {consequence}"
        if note != before:
            self._log("picture over the limit", lines=lines, limit=limit, scaled=grant.scales)
        if not grant.scales:
            message = (
                f"the picture has {lines} lines, expected at most {limit}: set a lower output resolution at the encoder, "
                "or switch transcoding on for this ingress"
            )
            self._put_out(publication, UnsupportedMedia(message, code=RESOLUTION))

    def look(self, now: float) -> None:
        """Once a second, after the meters were sampled."""
        publication, limit = self._publication, self._publication.grant.max_bitrate
        if not limit or not publication.active:
            return
        self._rates.append(publication.bitrate)
        rate = sum(self._rates) / len(self._rates)
        passed = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        if rate <= limit:
            if len(self._rates) == SAMPLES:  # a new publication's first rates are too low
                self._session.over = 0.0
            publication.health.notes.pop(BITRATE, None)
            return
        told = f"{rate / 1000:.0f} kbit/s, the stream allows {limit / 1000:.0f}"
        if BITRATE not in publication.health.notes:
            self._log("bitrate over the limit", bitrate=round(rate), limit=limit)
        else:
            self._session.over += passed
        publication.health.notes[BITRATE] = f"{told}: it is put out if that lasts {PATIENCE:g} s; lower the encoder's bitrate"
        if self._session.over > PATIENCE:
            message = f"{told}, and that for over {PATIENCE:g} s: set a lower bitrate at the encoder"
            self._put_out(publication, LimitExceeded(message, code=BITRATE))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        limit = self._publication.grant.max_duration
        self._put_out(self._publication, PeerGone(f"the stream was on air for the {limit:g} s that it may be", code=DURATION))

    def _log(self, event: str, **fields: object) -> None:
        grant = self._publication.grant
        log.warning(event, extra={"fields": {"room": grant.room, "identity": grant.identity, **fields}})
