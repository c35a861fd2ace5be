"""Policy: what a grant allows a publication over time: seconds on air, bits per second, lines of picture."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from medianode import clock
from medianode.auth import PublishGrant
from medianode.errors import LimitExceeded, PeerGone, UnsupportedMedia
from medianode.routing.publication import Publication

log = logging.getLogger("medianode.routing")
PATIENCE = 10.0
"""Seconds that a publisher may stay over its bitrate."""
SAMPLES = 4
"""Seconds over which the bitrate is taken: a key frame makes one second of two look heavy."""
BITRATE = "bitrate-limit"
DURATION = "max-duration"
RESOLUTION = "resolution-too-high"

PutOut = Callable[[Publication, PeerGone | LimitExceeded | UnsupportedMedia], None]


class Policy:
    """Of one publication, from its start to `close`. `put_out` ends it for good; notes go to its health, for the session view."""

    def __init__(self, publication: Publication, put_out: PutOut) -> None:
        self._publication = publication
        self._put_out = put_out
        self._timer: asyncio.TimerHandle | None = None
        self._rates: deque[float] = deque(maxlen=SAMPLES)
        self._over_since: float | None = None

    @staticmethod
    def needed(grant: PublishGrant) -> bool:
        return bool(grant.max_duration or grant.max_bitrate or grant.max_height)

    def on_air(self, since: float) -> None:
        """It is active. `since`: `clock.now()` of the first ACTIVE of its session, over all its reconnects."""
        limit = self._publication.grant.max_duration
        if limit and self._timer is None:
            left = max(0.0, limit - (clock.now() - since))
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
        if rate <= limit:
            self._over_since = None
            publication.health.notes.pop(BITRATE, None)
            return
        told = f"{rate / 1000:.0f} kbit/s, the stream allows {limit / 1000:.0f}"
        publication.health.notes[BITRATE] = f"{told}: it is put out if that lasts {PATIENCE:g} s; lower the encoder's bitrate"
        if self._over_since is None:
            self._over_since = now
            self._log("bitrate over the limit", bitrate=round(rate), limit=limit)
        elif now - self._over_since > PATIENCE:
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
