"""Broadcast: the Sink that turns a feed into WebRTC for all its viewers.

Each access unit is packetised once. What arrives in one turn of the loop is sent together at its end: samples of sound that came in one
batch share a send, and a single packet waits for nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from medianode import clock, telemetry
from medianode.config import Limits
from medianode.errors import ProtocolError, UnsupportedMedia
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.rtp.payload import Packetiser, is_reference, packetiser
from medianode.protocols.sdp.plan import SendMedia
from medianode.rtc.batch import Batch
from medianode.rtc.channel import Channel
from medianode.rtc.flow import Flow, Peer
from medianode.rtc.outgoing import MAX_PAYLOAD, Outgoing, Stitch, playout_delay, random_number
from medianode.rtc.srtp import RAW
from medianode.rtc.viewer import Viewer

RTP_CLOCKS = {Codec.OPUS: 48_000, Codec.PCM_ALAW: 8_000, Codec.PCM_MULAW: 8_000}
VIDEO_CLOCK = 90_000
RTP_HEADER = 12
VIDEO = frozenset({Codec.H264, Codec.HEVC, Codec.VP8, Codec.VP9, Codec.AV1})
FRESH_SOUND = 0.2
"""Seconds of age up to which sound may begin (derived sound is 0.1 s old): players buffer a burst, and pictures wait for it."""
OLD_SOUND = 1.0
"""Seconds of age over which sound is left out: it came with a cached GOP, and only pictures are of use late."""
KEYFRAME_INTERVAL = 0.5
_DROPS = telemetry.counter("medianode_dropped_total", "Packets dropped, by place and cause", "place", "cause")


class Broadcast:
    """One per feed (or rendition, or layer). `request_keyframe` is the feed's; `on_codec_changed(kind)`: viewers of that kind must
    negotiate anew and are sent nothing till then; `on_slow(viewer)`: True where it was moved elsewhere instead of being thinned.
    """

    def __init__(
        self,
        batch: Batch,
        limits: Limits,
        *,
        playout_delay: float = 0.0,
        rtx: bool = False,
        request_keyframe: Callable[[], None] | None = None,
        on_codec_changed: Callable[[Kind], None] | None = None,
        on_slow: Callable[[Any], bool] | None = None,
        random: Callable[[int], int] = random_number,
    ) -> None:
        self.batch = batch
        self.cname = secrets.token_hex(8)
        self.viewers: dict[Viewer, None] = {}
        self.request_keyframe = request_keyframe
        self.on_codec_changed = on_codec_changed
        self.on_slow = on_slow
        self.undeliverable = 0
        """Access units that could not be packetised."""
        self._limits = limits
        self._stitch = Stitch()
        history = (limits.rtc_history_packets, limits.rtc_history_bytes)
        self.channels = {
            kind: Channel(batch, Outgoing(kind, rate, *history, rtx=rtx, random=random), self._stitch, self.want_keyframe, self._slow)
            for kind, rate in ((Kind.VIDEO, VIDEO_CLOCK), (Kind.AUDIO, 48_000))
        }
        self._tracks: dict[int, Kind] = {}
        self._packetisers: dict[Kind, Packetiser] = {}
        self._sound: list[tuple[bytes, int, bool]] = []
        self._sound_begins = True
        self._stale_since: float | None = None
        self._dirty = False
        self._keyframe_asked = -1.0
        self._playout_delay = 0.0
        self.playout_delay = playout_delay

    @property
    def ssrcs(self) -> dict[Kind, tuple[int, int | None]]:
        """SSRC and RTX SSRC by kind; the same to all viewers, known before any."""
        return {kind: (channel.outgoing.ssrc, channel.outgoing.rtx_ssrc) for kind, channel in self.channels.items()}

    def adopt(self, ssrcs: dict[Kind, tuple[int, int | None]], cname: str) -> None:
        """Be known by these, before the first viewer: this broadcast is a worker's mirror of another."""
        self.cname = cname
        for kind, (ssrc, rtx_ssrc) in ssrcs.items():
            outgoing = self.channels[kind].outgoing
            outgoing.ssrc, outgoing.rtx_ssrc = ssrc, rtx_ssrc

    @property
    def playout_delay(self) -> float:
        """Seconds that players keep pictures back (where they know the extension); may be set at any time."""
        return self._playout_delay

    @playout_delay.setter
    def playout_delay(self, seconds: float) -> None:
        self._playout_delay = seconds
        self.channels[Kind.VIDEO].outgoing.delay = playout_delay(seconds)

    # -- viewers ----------------------------------------------------------------------------------------------------------------------

    def add(self, peer: Peer, sends: tuple[SendMedia, ...]) -> Viewer:
        """A connected peer. UnsupportedMedia where it was promised another codec than there is now."""
        viewer = Viewer(peer, self.cname, self._limits.rtc_tcp_unsent_bytes)
        now = clock.now()
        for media in sends:
            channel = self.channels[media.kind]
            if channel.codec is not None and channel.codec is not media.codec:
                raise UnsupportedMedia(f"{media.kind.value}: expected {channel.codec.value}, got {media.codec.value}", code="codec-changed")
        for media in sends:
            viewer.flows[media.kind] = Flow(viewer, self.channels[media.kind], media)
        self.viewers[viewer] = None
        self.batch.wheel.add(viewer)
        for flow in viewer.flows.values():
            if not viewer.closed:  # it may fail with the first packet, and its peer with it
                flow.channel.add(flow, now)
        return viewer

    def remove(self, viewer: Viewer) -> None:
        """Idempotent. Its streams may be another broadcast's by now."""
        viewer.leave()
        self.viewers.pop(viewer, None)
        self.batch.wheel.remove(viewer)
        self._uninvite(viewer)

    def move(self, viewer: Viewer, to: Broadcast) -> None:
        """Its pictures are to come from another broadcast (a lower layer of the same source), from that one's next key frame on; the
        sound stays. The viewer remains ours: remove it here. UnsupportedMedia where the codecs differ.
        """
        flow = viewer.flows.get(Kind.VIDEO)
        if flow is None:
            return
        channel = to.channels[Kind.VIDEO]
        if channel.codec is not None and channel.codec is not flow.media.codec:
            raise UnsupportedMedia(f"video: expected {flow.media.codec.value}, got {channel.codec.value}", code="codec-changed")
        self._uninvite(viewer)
        if channel is not flow.channel:
            viewer.invited = channel
            channel.invite(flow, clock.now())

    @staticmethod
    def _uninvite(viewer: Viewer) -> None:
        if viewer.invited is not None:
            viewer.invited.uninvite(viewer.flows[Kind.VIDEO])
            viewer.invited = None

    # -- Sink -------------------------------------------------------------------------------------------------------------------------

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        video = next((t for t in tracks if t.codec in VIDEO), None)
        audio = next((t for t in tracks if t.codec in RTP_CLOCKS), None)
        self._tracks = {t.id: t.kind for t in (video, audio) if t is not None}
        for track in (video, audio):
            if track is None:
                continue
            channel = self.channels[track.kind]
            if channel.codec is track.codec:
                continue
            self._packetisers[track.kind] = packetiser(track.codec, MAX_PAYLOAD)
            self._flush()
            if channel.set_codec(track.codec, RTP_CLOCKS.get(track.codec, VIDEO_CLOCK)):
                self._stitch.forget(track.kind)
                if self.on_codec_changed is not None:
                    self.on_codec_changed(track.kind)

    def on_packet(self, packet: Packet) -> None:
        track = packet.track
        kind = self._tracks.get(track.id)
        if kind is None:
            return
        at = packet.received_at
        channel = self.channels[kind]
        if kind is Kind.AUDIO and self._late(clock.now(), at):
            _DROPS.labels("rtc", "old-sound").value += 1
            return
        try:
            # sound cannot be cut: a packet of a normal encoder has at most 1275 bytes (RFC 6716 3.2.1), a malicious one what it likes
            fits = kind is Kind.VIDEO or len(packet.data) + RTP_HEADER <= RAW.longest
            payloads = self._packetisers[kind].packetise(packet) if fits else []
        except (ProtocolError, UnsupportedMedia):  # the publisher's fault, and no reason to end the broadcast
            payloads = []
        if not payloads:
            self.undeliverable += 1
            _DROPS.labels("rtc", "not-packetised").value += 1
            return
        ticks = self._stitch.ticks(kind, packet.pts, track.clock_rate, channel.outgoing.rate, at)
        if kind is Kind.VIDEO:
            reference = packet.keyframe or is_reference(packet)
            channel.put_frame(payloads, ticks, keyframe=packet.keyframe, reference=reference, now=at)
        else:
            self._sound += [(payload, ticks, self._sound_begins) for payload in payloads]
            self._sound_begins, self._stale_since = False, None
        if not self._dirty:
            self._dirty = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _late(self, now: float, at: float) -> bool:
        """Sound that is too old, or is to begin with what had waited somewhere; what is never fresh begins all the same."""
        age = now - at
        if not self._sound_begins or age <= FRESH_SOUND:
            return age > OLD_SOUND
        if self._stale_since is None:
            self._stale_since = now
        return now - self._stale_since < OLD_SOUND

    def on_gap(self, gap: Gap) -> None:
        self._flush()
        self._stitch.broken()
        self._sound_begins = True

    def on_end(self, cause: str) -> None:
        self._flush()

    def close(self) -> None:
        """All viewers out; nothing is told to their peers."""
        for viewer in tuple(self.viewers):
            self.remove(viewer)
        for channel in self.channels.values():
            self.batch.wheel.unpace(channel)

    def _flush(self) -> None:
        self._dirty = False
        now = clock.now()
        if self._sound:
            sound, self._sound = self._sound, []
            channel = self.channels[Kind.AUDIO]
            channel.put_samples(sound, now)
            channel.pump(now)
        self.channels[Kind.VIDEO].pump(now)
        self.batch.wheel.turn(now)

    # -- upstream ---------------------------------------------------------------------------------------------------------------------

    def want_keyframe(self, now: float) -> None:
        if self.request_keyframe is not None and now - self._keyframe_asked >= KEYFRAME_INTERVAL:
            self._keyframe_asked = now
            self.request_keyframe()

    def _slow(self, viewer: Viewer) -> bool:
        return self.on_slow is not None and self.on_slow(viewer)
