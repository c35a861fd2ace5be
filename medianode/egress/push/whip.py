"""WhipPush: a room's programme sent on by WHIP: one call over WebRTC, in which the target is what a viewer is by WHEP."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging

from medianode import clock
from medianode.config import Config
from medianode.egress.push.report import Report
from medianode.egress.push.whip_reports import Reports, Sent
from medianode.egress.push.whip_resource import Created, WhipResource
from medianode.egress.whep.lane import Lane, Transcoder
from medianode.errors import Forbidden, LimitExceeded, MedianodeError, PeerGone, ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Kind
from medianode.outbound import Outbound
from medianode.protocols.rtp.rtcp import read_feedback
from medianode.protocols.sdp.accept import Accepted, RemoteCandidate, read_answer
from medianode.protocols.sdp.offer import OfferedMedia, offered_audio, offered_video, write_offer
from medianode.routing.feed import Feed
from medianode.routing.room import Room
from medianode.rtc.batch import Batch
from medianode.rtc.dialer import Line
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.fanout import Broadcast
from medianode.rtc.flow import REPLAY_WINDOW
from medianode.rtc.peer import Peer
from medianode.rtc.viewer import Viewer
from medianode.tasks import guard, until_next
from medianode.transcode.rendition import Rendition
from medianode.transcode.want import Want

log = logging.getLogger("medianode.push")
LOOK = 1.0
REDIAL = 1.0
"""Seconds before the target is called anew because the room's codecs are others now."""
HISTORY = 2 * REPLAY_WINDOW
"""Packets that are kept once the target has the newest: what may be asked for again, and as many that are yet to be sent."""
_MIDS = {Kind.VIDEO: "0", Kind.AUDIO: "1"}
_OVER = "stream-ended"


class WhipPush:
    """A Pusher (`egress.push.report`). `endpoint`: whose certificate and addresses are ours; each call has a socket of its own."""

    def __init__(self, config: Config, endpoint: Endpoint, renditions: Transcoder, outbound: Outbound) -> None:
        self._config = config
        self._endpoint = endpoint
        self._renditions = renditions
        self._outbound = outbound

    async def run(self, url: str, key: str | None, room: Room, report: Report) -> None:
        """One connection; a new one at once where the room's codecs change, for WHIP cannot renegotiate (RFC 9725 4.2)."""
        while await self._call(WhipResource(self._config.limits, self._outbound, key), url, room, report):
            report.renew()
            await asyncio.sleep(REDIAL)

    async def _call(self, door: WhipResource, url: str, room: Room, report: Report) -> bool:
        """True where the target is to be called anew."""
        async with contextlib.AsyncExitStack() as stack:
            place = await door.place(url)
            line = Line(self._endpoint, loopback=any(ipaddress.ip_address(each).is_loopback for each in place.addresses))
            stack.callback(line.close)
            batch = Batch(line.datagrams.sock, self._config.limits.rtc_unsent_bytes, targets=1)
            stack.callback(batch.close)
            lane = await self._lane(stack, batch, room, Want(video="realtime", audio="opus"))
            if lane is None:
                return False
            media = _offered(lane, room)
            if not media:
                raise UnsupportedMedia(f"room {room.name} has neither pictures nor sound", code="no-media")
            created = await door.post(url, write_offer(line.local, media, lane.broadcast.cname))
            stack.callback(self._farewell, door, created)
            accepted = read_answer(created.answer, media, self._config.limits.rtc_offer_bytes)
            candidates = self._reachable(accepted, created)
            if not created.resource:
                report.said("the target named no session (Location): it cannot be told when this ends")
            elif accepted.refused:
                report.said("the target takes no sound: it has refused Opus")
            promised = next((send.codec for send in accepted.sends if send.kind is Kind.VIDEO), None)
            if promised is Codec.H264 and lane.codec(Kind.VIDEO) not in (None, Codec.H264):
                lane = await self._instead(stack, batch, lane)
                if lane is None:
                    return False
            call = Call(lane, accepted, report, batch, self._config.rtc.consent_timeout)
            lane.join(call)
            stack.callback(lane.part, call)
            call.peer = line.call(accepted.remote, candidates, lambda host: self._allows(host, created), call)
            return await call.serve(room, {each.kind for each in media})

    # what is sent

    async def _lane(self, stack: contextlib.AsyncExitStack, batch: Batch, room: Room, want: Want) -> Lane | None:
        """The room made fit for WebRTC, its tracks known; None where it went off air meanwhile. Raises LimitExceeded, PeerGone."""
        lane = Lane(room, want, self._config.rtc.rendition_idle, _nothing)
        stack.push_async_callback(lane.close)
        await lane.open(self._renditions, lambda feed: self._broadcast(lane, feed, batch))
        await lane.known.wait()
        if lane.ended == _OVER:
            return None
        if lane.ended:
            message = f"room {room.name} cannot be sent: its rendition ended ({lane.ended})"
            raise LimitExceeded(message, code="node-full") if lane.ended == "node-full" else PeerGone(message, code=lane.ended)
        return lane

    async def _instead(self, stack: contextlib.AsyncExitStack, batch: Batch, lane: Lane) -> Lane | None:
        """The target takes H.264, which the source is not: the same under the names that the offer has."""
        other = await self._lane(stack, batch, lane.room, Want(video="realtime-h264", audio="opus"))
        if other is not None and isinstance(other.broadcast, Broadcast):
            other.broadcast.adopt(lane.broadcast.ssrcs, lane.broadcast.cname)
        await lane.close()
        return other

    def _broadcast(self, lane: Lane, feed: Feed, batch: Batch) -> Broadcast:
        return Broadcast(batch, self._config.limits, request_keyframe=feed.request_keyframe, on_codec_changed=lane.renegotiate)

    # where it goes

    def _reachable(self, accepted: Accepted, created: Created) -> tuple[RemoteCandidate, ...]:
        """Raises ProtocolError (`bad-answer`), Forbidden (`private-address`)."""
        if not accepted.candidates:
            raise ProtocolError("the answer: expected a candidate by UDP, got none", code="bad-answer")
        allowed = tuple(each for each in accepted.candidates if self._allows(each.address, created))
        if not allowed:
            named = ", ".join(each.address for each in accepted.candidates[:3])
            raise Forbidden(
                f"the answer's candidates are {named}: private or special addresses, and not in the node's outbound.allow",
                code="private-address",
            )
        return allowed

    def _allows(self, address: str, created: Created) -> bool:
        """By itself, or as an address of the target's name, which the operator may have permitted."""
        return self._outbound.allows(address) or address in created.addresses

    def _farewell(self, door: WhipResource, created: Created) -> None:
        """Not waited for: whoever is put out is not to hang on a target that is gone."""
        if created.resource:
            with contextlib.suppress(LimitExceeded):  # the peer has said goodbye already, by DTLS
                self._endpoint.tasks.start(_delete(door, created.resource))


class Call:
    """One session with the target: the handler of its peer, and the member of its lane."""

    def __init__(self, lane: Lane, accepted: Accepted, report: Report, batch: Batch, patience: float) -> None:
        self.peer: Peer
        self.sends = accepted.sends
        self._lane = lane
        self._report = report
        self._batch = batch
        self._reports = Reports(patience)
        self._over = asyncio.Event()
        self._error: MedianodeError | None = None
        self._viewer: Viewer | None = None
        self._media_at: float | None = None
        self._sent = self._dropped = 0

    async def serve(self, room: Room, kinds: set[Kind]) -> bool:
        """Until it is over. True where the room has other codecs, or kinds, than were offered."""
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_next(LOOK, clock.now())):
                    await self._over.wait()
            self._look(clock.now())
            if {track.kind for track in room.tracks} - kinds:
                return True
        if self._error is None or self._error.code == _OVER:
            return False
        if self._error.code == "codec-changed":
            return True
        raise self._error

    def _end(self, error: MedianodeError | None) -> None:
        """The first cause counts."""
        if not self._over.is_set():
            self._error = error
            self._over.set()

    def _look(self, now: float) -> None:
        """Once a second: how it fares."""
        report, viewer = self._report, self._viewer
        report.sent(self._batch.nbytes - self._sent)
        self._sent = self._batch.nbytes
        if viewer is None or self._over.is_set():
            return
        dropped = sum(viewer.stats.dropped.values())
        report.dropped(dropped - self._dropped)
        self._dropped = dropped
        if isinstance(self._lane.feed, Rendition):
            report.treatment = self._lane.feed.treatment
        streams = [
            Sent(flow.ssrc, flow.counts[0], flow.next if flow.layout is None else flow.channel.sent_next + flow.origin.shift)
            for flow in viewer.flows.values()
            if flow.counts[0]
        ]
        if streams and self._media_at is None:
            self._media_at = now
        for flow in viewer.flows.values():
            if flow.next >= 0 and flow.cursor is None:  # it has caught up
                flow.channel.outgoing.keep(HISTORY)
        try:
            self._reports.look(streams, self._batch.nbytes, now)
        except MedianodeError as e:
            self._end(e)
            return
        report.acknowledged(self._reports.acknowledged)
        # where a target makes no reports, that it consents long after the first media is all there is to know
        if self._reports.arrives or (self._media_at is not None and self.peer.heard > self._media_at + LOOK):
            report.broadcasting()

    # the peer's handler

    def connected(self) -> None:
        broadcast = self._lane.broadcast
        try:
            viewer = broadcast.add(self.peer, self.sends)
        except UnsupportedMedia as e:  # the codec has changed since the offer
            self._end(e)
            return
        assert isinstance(viewer, Viewer)
        self._viewer = viewer
        log.info("target connected", extra={"fields": {"room": self._lane.room.name, "peer": self.peer.remote_text}})

    def rtp(self, packet: bytes, now: float) -> None:
        """A target has nothing to send us."""

    def rtcp(self, packet: bytes, now: float) -> None:
        if self._viewer is None:
            return
        self._viewer.rtcp(packet, now)
        with contextlib.suppress(ProtocolError):  # counted by the viewer
            self._reports.take(read_feedback(packet).reports)

    def closed(self, error: MedianodeError | None) -> None:
        viewer, self._viewer = self._viewer, None
        if viewer is not None:
            self._lane.broadcast.remove(viewer)
        self._end(error or PeerGone("the node has closed the call", code="shutdown"))

    # the lane's member

    def leave(self, error: PeerGone) -> None:
        self._end(error)


def _offered(lane: Lane, room: Room) -> tuple[OfferedMedia, ...]:
    """What the room has now; what it gets later is a new call."""
    ssrcs = lane.broadcast.ssrcs
    kinds = {track.kind for track in (*room.tracks, *lane.tracks)}
    video = next((track for track in lane.tracks if track.is_video), None)
    codecs = {Kind.VIDEO: offered_video(video), Kind.AUDIO: offered_audio()}
    return tuple(OfferedMedia(mid, kind, codecs[kind], ssrcs[kind][0]) for kind, mid in _MIDS.items() if kind in kinds)


async def _delete(door: WhipResource, resource: str) -> None:
    error = await guard("push", door.delete(resource))
    if error is not None:
        log.info("a target could not be told that its session is over: %s", error or type(error).__name__)


def _nothing(lane: Lane) -> None:
    """Whoever opened it closes it."""
