"""Scaled: a publication whose picture is held to the lines that its grant allows, made smaller once for all readers of its room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from medianode.errors import LimitExceeded
from medianode.media.gop import GopCache
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.routing.feed import Sink, tell
from medianode.routing.publication import Publication
from medianode.transcode.rendition import Rendition
from medianode.transcode.renditions import Renditions
from medianode.transcode.want import Want

log = logging.getLogger("medianode.transcode")
RETRY, RETRIES = 0.25, 8
"""Seconds and times that readers who were there before wait for a thread: the one of the publication before is still on its way out."""
_EMPTY = GopCache(0, 0)


class Scaled:
    """A `routing.feed.Treatment`. While the picture fits, readers hang on the publication itself; else on a Rendition, which lives exactly
    while somebody reads. Passive readers (who follow tracks only) get what is foreseen, and nothing is decoded for them.

    Where it cannot be made (`node-full`, `picture-too-large`) nobody is shown the full size: who comes is refused, who was there is ended
    and `forget` called with them. Of the Rendition it is a Sink, the first one.
    """

    def __init__(self, publication: Publication, renditions: Renditions, forget: Callable[[tuple[Sink, ...]], None]) -> None:
        self._publication = publication
        self._renditions = renditions
        self._forget = forget
        self._want = Want(max_height=publication.grant.max_height)
        self._rendition: Rendition | None = None
        self._sinks: list[Sink] = []
        self._waiting: list[Sink] = []
        self._timer: asyncio.TimerHandle | None = None
        self.treats = self._exceeds()

    # the Feed's side

    @property
    def sinks(self) -> tuple[Sink, ...]:
        return tuple(self._sinks)

    @property
    def tracks(self) -> tuple[Track, ...]:
        if not self.treats:
            return self._publication.tracks
        made = self._rendition.tracks if self._rendition is not None else ()
        return made or self._want.foreseen(self._publication.tracks)

    @property
    def gop(self) -> GopCache:
        if not self.treats:
            return self._publication.gop
        return _EMPTY if self._rendition is None else self._rendition.gop

    def attach(self, sink: Sink, *, replay: bool = True) -> None:
        """Raises LimitExceeded `node-full`."""
        rendition = None if not self.treats or _passive(sink) else self._open()
        self._sinks.append(sink)
        if rendition is not None:
            rendition.attach(sink, replay=replay)
        elif self.treats:
            self._foretell(sink)
        else:
            self._publication.attach(sink, replay=replay)

    def move(self, sink: Sink) -> None:
        try:
            self.attach(sink)
        except LimitExceeded:
            self._sinks.append(sink)
            self._waiting.append(sink)
            self._try_again(RETRIES)

    def detach(self, sink: Sink) -> None:
        self._sinks = [s for s in self._sinks if s is not sink]
        self._waiting = [s for s in self._waiting if s is not sink]
        self._publication.detach(sink)
        if self._rendition is not None:
            self._rendition.detach(sink)
            if all(_passive(s) for s in self._sinks):
                self._release()

    def request_keyframe(self) -> None:
        if self._rendition is not None:
            self._rendition.request_keyframe()
        elif not self.treats:
            self._publication.request_keyframe()

    def renew(self) -> None:
        treats = self._exceeds()
        if treats != self.treats:
            self._turn(treats)
        elif treats:
            for sink in tuple(self._sinks):
                if _passive(sink):
                    self._foretell(sink)

    def close(self) -> None:
        for sink in tuple(self._sinks):
            self.detach(sink)
        self._release()
        self._settle()

    # the Rendition's sink

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        """Its readers hear it themselves."""

    def on_packet(self, packet: Packet) -> None:
        """Its readers hear it themselves."""

    def on_gap(self, gap: Gap) -> None:
        """Its readers hear it themselves."""

    def on_end(self, cause: str) -> None:
        """It failed, and its readers are ended after this one."""
        rendition, self._rendition = self._rendition, None
        if rendition is None:
            return
        self._renditions.let_go(rendition, 0.0)
        waiting = set(map(id, self._waiting))
        why = f"the picture could not be made smaller: {rendition.last_error or cause}"
        self._drop(tuple(s for s in self._sinks if not _passive(s) and id(s) not in waiting), why)

    def _exceeds(self) -> bool:
        return any(self._want.exceeded(track) and not track.layer for track in self._publication.tracks)

    def _turn(self, treats: bool) -> None:
        """The picture has come over the limit, or back under it: all readers move, and see a Gap."""
        sinks = tuple(self._sinks)
        for sink in sinks:
            self.detach(sink)
        self._release()
        self.treats = treats
        for sink in sinks:
            if tell(sink.on_gap, Gap("track-changed")):
                self.move(sink)

    def _open(self) -> Rendition:
        if self._rendition is None:
            try:
                rendition = self._renditions.hold(self._publication, self._want)
                if rendition.ended:
                    self._renditions.let_go(rendition, 0.0)
                    raise LimitExceeded(rendition.last_error or rendition.ended, code=rendition.ended)
            except LimitExceeded as e:
                why = self._publication.health.last_error = f"the picture could not be made smaller: {e.message}"
                raise LimitExceeded(why, code=e.code) from None
            rendition.attach(self, replay=False)
            self._rendition = rendition
        return self._rendition

    def _release(self) -> None:
        rendition, self._rendition = self._rendition, None
        if rendition is not None:
            rendition.detach(self)
            self._renditions.let_go(rendition, 0.0)

    def _foretell(self, sink: Sink) -> None:
        tracks = self._want.foreseen(self._publication.tracks)
        if tracks:
            tell(sink.on_tracks, tracks)

    def _try_again(self, times: int) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RETRY, self._retry, times)

    def _retry(self, times: int) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        try:
            for sink in waiting:
                self._open().attach(sink)
        except LimitExceeded as e:
            if times > 1:
                self._waiting = waiting
                self._try_again(times - 1)
                return
            self._drop(tuple(waiting), e.message)
            for sink in waiting:
                tell(sink.on_end, e.code)

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop(self, sinks: tuple[Sink, ...], why: str) -> None:
        """These are ended: nobody is shown what the stream does not allow."""
        if not sinks:
            return
        publication = self._publication
        publication.health.last_error = why
        self._sinks = [s for s in self._sinks if all(s is not sink for sink in sinks)]
        fields = {"room": publication.grant.room, "identity": publication.grant.identity, "readers": len(sinks), "reason": why}
        log.warning("picture not scaled", extra={"fields": fields})
        self._forget(sinks)


def _passive(sink: Sink) -> bool:
    return bool(getattr(sink, "passive", False))
