"""One SRT caller that was let in: its datagrams in, its transport stream into a publication, acknowledgements and requests back."""

from __future__ import annotations

import logging
from collections.abc import Callable

from medianode import clock, telemetry
from medianode.config import Config
from medianode.errors import MedianodeError, PeerGone, PeerTimeout
from medianode.ingress.assembler import Assembler
from medianode.ingress.transport_stream import TransportStream
from medianode.protocols.srt.connection import Connection
from medianode.protocols.srt.receiver import Lost
from medianode.routing.publication import Publication
from medianode.routing.room import Room
from medianode.rtc.udp import Source
from medianode.tasks import guarded

log = logging.getLogger("medianode.srt")
DOOR = "srt"
SESSIONS = telemetry.counter("medianode_sessions_total", "Sessions opened, by door", "door")
ENDS = telemetry.counter("medianode_session_ends_total", "Sessions ended, by door and code", "door", "code")
PER_DATAGRAM = 7
"""Transport packets in a datagram of 1316 bytes, which is what all encoders send."""
POLITE = frozenset({"takeover", "shutdown", "unpublished"})
"""Ends that are no failure of the publisher's."""
LOOK = 0.5


def pour(connection: Connection, stream: TransportStream, now: float) -> None:
    """What came of it since. Raises as TransportStream."""
    whole: list[bytes] = []
    for piece in connection.media():
        if isinstance(piece, Lost):
            stream.feed(b"".join(whole), now)
            whole = []
            stream.lost(piece.packets * PER_DATAGRAM, now)
        else:
            whole.append(piece)
    if whole:
        stream.feed(b"".join(whole), now)


class SrtSession:
    """Made before its publication, which may be refused; from `open` to `fail` or the caller's goodbye it is the publication's door.

    `answer`: the handshake that let it in, repeated where it was lost. `ended` is called once, last of all. `inbox`: datagrams that `take`
    has not seen yet.
    """

    def __init__(
        self,
        config: Config,
        connection: Connection,
        source: Source,
        peer: str,
        answer: bytes,
        send: Callable[[bytes, Source], None],
        ended: Callable[[SrtSession], None],
    ) -> None:
        self._config = config
        self._send = send
        self._ended = ended
        self._room: Room | None = None
        self._publication: Publication | None = None
        self._assembler: Assembler | None = None
        self._stream: TransportStream | None = None
        self._closed = False
        self._opened_at = clock.now()
        self.connection = connection
        self.source = source
        self.peer = peer
        self.answer = answer
        self.inbox: list[bytes] = []

    def open(self, room: Room, publication: Publication, *, encrypted: bool) -> None:
        """The publication is its own from here on, to its end."""
        config = self._config
        self._room, self._publication = room, publication
        self._assembler = Assembler(publication, config.ingress.track_wait, config.limits.tracks_per_publication)
        self._stream = TransportStream(self._assembler)
        SESSIONS.labels(DOOR).value += 1
        identity, latency = publication.grant.identity, int(self.connection.latency * 1000)
        telemetry.session(
            log, "publishing", peer=self.peer, door=DOOR, room=room.name, identity=identity, encrypted=encrypted, latency_ms=latency
        )

    def run(self, step: Callable[[float], None], now: float) -> None:
        """The edge of the session: what goes wrong in it ends it, and nothing else."""
        if not self._closed and guarded("srt", self._run, step, now) is not None:
            self.fail(PeerGone("internal error", code="internal"))

    def _run(self, step: Callable[[float], None], now: float) -> None:
        try:
            step(now)
        except MedianodeError as e:
            self.fail(e)

    def take(self, now: float) -> None:
        """What came since, and what is due. Raises as TransportStream."""
        connection, stream = self.connection, self._stream
        assert stream is not None
        if self.inbox:
            inbox, self.inbox = self.inbox, []
            for datagram in inbox:
                connection.receive(datagram, now)
        connection.tick(now)
        for datagram in connection.datagrams():
            self._send(datagram, self.source)
        pour(connection, stream, now)
        if connection.closed and not self._closed:
            self._end(None)

    def look(self, now: float) -> None:
        """Twice a second: callers that fell silent, or send nothing that could be shown; and what is told of the network."""
        publication, connection, assembler = self._publication, self.connection, self._assembler
        assert publication is not None
        assert assembler is not None
        assembler.tick(now)
        receiver = connection.receiver
        expected = receiver.received + receiver.lost
        publication.health.network = {
            "loss": receiver.lost / expected if expected else 0.0,
            "rtt": connection.rtt,
            "received": receiver.received,
            "lost": receiver.lost,
            "recovered": receiver.recovered,
            "duplicates": receiver.duplicates + receiver.late,
            "nacks": receiver.nacked,
        }
        if connection.undecryptable:
            publication.health.notes["undecryptable"] = (
                f"{connection.undecryptable} packets were not encrypted with a key of this connection"
            )
        waited = now - publication.opened_at
        if not publication.active and waited > self._config.limits.first_media_timeout:
            why = publication.health.last_error or "none came"
            self.fail(PeerTimeout(f"no media that could be shown in {waited:.0f} s: {why}", code="no-media"))
        elif (silence := now - connection.media_at) >= self._config.ingress.silence - LOOK:
            self.fail(PeerTimeout(f"the encoder sent nothing for {silence:.1f} s", code="publisher-silent"))

    def fail(self, error: MedianodeError) -> None:
        """End it; also what the registry calls to put it out. SRT's goodbye tells no reason."""
        if not self._closed:
            self._end(error)

    def _end(self, error: MedianodeError | None) -> None:
        """None: the caller said goodbye."""
        self._closed = True
        now = clock.now()
        code, message = ("unpublished", "") if error is None else (error.code, error.message)
        if error is not None:
            self.connection.shutdown(now)
            for datagram in self.connection.datagrams():
                self._send(datagram, self.source)
        room, publication = self._room, self._publication
        if room is not None and publication is not None:
            if not publication.ended:
                guarded("srt", self._finish, now)
            room.end(publication, code, message, failed=code not in POLITE, final=code == "ingress-deleted")
        ENDS.labels(DOOR, code).value += 1
        receiver = self.connection.receiver
        told = {"peer": self.peer, "door": DOOR, "code": code, "reason": message, "seconds": now - self._opened_at}
        telemetry.session(log, "closed", **told, bytes=self.connection.nbytes, lost=receiver.lost, recovered=receiver.recovered)
        self._ended(self)

    def _finish(self, now: float) -> None:
        """The last picture has no next one that tells its end, and may be cut: callers say goodbye with packets unsent."""
        assert self._stream is not None
        assert self._assembler is not None
        try:
            self._stream.finish(now, whole=False)
        except MedianodeError as e:
            log.debug("the last picture: %s", e)
        self._assembler.finish()
