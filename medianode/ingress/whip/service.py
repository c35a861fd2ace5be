"""WhipService: opens a publisher's publication and its peer, and drives all sessions by one timer."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from medianode import clock
from medianode.auth import PublishGrant
from medianode.config import Config
from medianode.errors import Forbidden, LimitExceeded, MedianodeError, PeerGone
from medianode.ingress.whip.session import DOOR, WhipSession
from medianode.protocols.sdp.answer import answer_whip
from medianode.protocols.sdp.negotiate import plan_whip
from medianode.protocols.sdp.parse import Offer
from medianode.protocols.sdp.plan import Credentials, LocalTransport
from medianode.routing.registry import Registry
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.peer import Peer
from medianode.rtc.signalling import Joined
from medianode.tasks import guarded

TICK = 0.02
"""Seconds between looks at what each session has to say: a request for a lost packet may be late by so much."""


class Resource:
    """A session as its URL sees it."""

    def __init__(self, session: WhipSession, peer: Peer, local: LocalTransport) -> None:
        self._session = session
        self._peer = peer
        self._local = local

    @property
    def closed(self) -> bool:
        return not self._session.live

    def restart(self, credentials: Credentials) -> LocalTransport:
        return replace(self._local, credentials=self._peer.restart(credentials))

    def close(self, error: MedianodeError | None = None) -> None:
        if error is None:
            self._session.leave()
        else:
            self._session.fail(error)


class WhipService:
    """`publish` is what the door calls. Without sessions no timer runs."""

    def __init__(self, config: Config, registry: Registry, endpoint: Endpoint) -> None:
        self._config = config
        self._registry = registry
        self._endpoint = endpoint
        self._timer: asyncio.TimerHandle | None = None
        self.sessions: set[WhipSession] = set()

    async def publish(self, offer: Offer, grant: PublishGrant, *, source: str, agent: str) -> Joined:
        """The answer, and the session until its peer is gone. Where anything fails nothing stays behind.

        A token names what may be published, so an offer of more is refused; a stream key's ingress may be one that leaves a kind out (a
        live stream of sound only), which is agreed on all the same, as an answer takes the whole offer.

        Raises UnsupportedMedia, InvalidRequest, Forbidden (nothing of it may be published), Conflict, LimitExceeded.
        """
        receives = plan_whip(offer)
        taken = tuple(media for media in receives if media.kind in grant.kinds)
        if not taken or (grant.ingress_id is None and taken != receives):
            unwanted = next(media.kind for media in receives if media.kind not in grant.kinds)
            raise Forbidden(f"this {'token' if grant.ingress_id is None else 'stream'} does not let {unwanted.value} be published")
        session = WhipSession(self._config, taken, source, agent, self._ended)
        most = self._config.limits.tracks_per_publication
        if session.tracks > most:
            raise LimitExceeded(f"expected at most {most} tracks, the offer comes to {session.tracks}", code="too-many-tracks")
        peer = self._endpoint.create(offer.remote, session, source)
        session.bind(peer)
        with contextlib.ExitStack() as undo:
            undo.callback(peer.close, PeerGone("the session could not be opened", code="refused"))
            session.open(*self._registry.publish(grant, DOOR, source, session.fail))
            local = peer.local_transport(loopback=source in ("127.0.0.1", "::1"))
            answer = answer_whip(offer, local, receives)
            undo.pop_all()
        self.sessions.add(session)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)
        return Joined(answer, Resource(session, peer, local))

    def _ended(self, session: WhipSession) -> None:
        self.sessions.discard(session)

    def _tick(self) -> None:
        self._timer = None
        now = clock.now()
        for session in tuple(self.sessions):
            if guarded("whip", session.tick, now) is not None:
                session.fail(PeerGone("internal error", code="internal"))
        if self.sessions:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)
