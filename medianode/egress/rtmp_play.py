"""RTMP play: FFmpeg, VLC and other servers pull a live programme. Each message is serialised once for all players of a room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from medianode import telemetry
from medianode.auth import ReadGrant
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.protocols import flv
from medianode.protocols.amf import Value, encode_amf0
from medianode.protocols.flv import PacketType
from medianode.protocols.rtmp import messages as m
from medianode.routing.audience import Audience, Visit
from medianode.routing.room import Room

BYTES = telemetry.counter("medianode_bytes_total", "Bytes by door and direction", "door", "direction")
DROPS = telemetry.counter("medianode_dropped_total", "Packets dropped, by place and cause", "place", "cause")
STUCK = 10.0
"""Seconds without a byte read by a player that is over its bound, after which it is put out."""
_CARRIED = frozenset(
    {
        *(Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP8, Codec.VP9, Codec.AAC, Codec.OPUS, Codec.FLAC, Codec.MP3, Codec.AC3, Codec.EAC3),
        *(Codec.PCM_ALAW, Codec.PCM_MULAW),
    }
)
_CONFIGURED = frozenset({Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9, Codec.AAC, Codec.OPUS, Codec.FLAC})


class RtmpPlayDesk:
    """Makes and forgets the one Broadcast of each room that somebody plays over RTMP.

    `max_unsent`: bytes a slow player may leave unread.
    """

    def __init__(self, max_unsent: int, audience: Audience) -> None:
        self._max_unsent = max_unsent
        self._audience = audience
        self._broadcasts: dict[Room, Broadcast] = {}

    def play(self, room: Room, grant: ReadGrant, stream_id: int, transport: asyncio.Transport, ended: Callable[[str], None]) -> RtmpPlayer:
        """Raises what `Audience.enter` does, and LimitExceeded where its picture would have to be made smaller and cannot be."""
        visit = self._audience.enter(room, "rtmp", grant)
        broadcast = self._broadcasts.get(room)
        if broadcast is None:
            broadcast = self._broadcasts[room] = Broadcast(room, self._forget)
        player = RtmpPlayer(broadcast, visit, stream_id, transport, ended, self._max_unsent)
        with ExitStack() as undo:
            undo.callback(player.close)
            broadcast.add(player)
            undo.pop_all()
        visit.on_kick(lambda error: ended(error.code))
        return player

    def _forget(self, room: Room) -> None:
        self._broadcasts.pop(room, None)


class RtmpPlayer:
    """One player's connection. Slow ones lose everything up to the next key frame."""

    def __init__(
        self,
        broadcast: Broadcast,
        visit: Visit,
        stream_id: int,
        transport: asyncio.Transport,
        ended: Callable[[str], None],
        max_unsent: int,
    ) -> None:
        self._broadcast = broadcast
        self._visit = visit
        self._transport = transport
        self._max_unsent = max_unsent
        self.stream_id = stream_id
        self.ended = ended
        self.waits = True
        self._unsent = 0
        self._read_at = 0.0
        self._closed = False

    def send(self, data: bytes, *, joins: bool, now: float) -> None:
        """`joins`: playing may start, or start again, here."""
        if self.waits and not joins:
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent > self._max_unsent:
            DROPS.labels("rtmp-play", "slow-reader").value += 1
            self.waits = True
            if not self._unsent or unsent < self._unsent:
                self._unsent, self._read_at = unsent, now
            if now - self._read_at > STUCK:
                self.ended("peer-not-reading")
            return
        self._unsent = 0
        self.waits = False
        self.write(data)

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            BYTES.labels("rtmp", "out").value += len(data)
            self._transport.write(data)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._visit.leave()
            self._broadcast.remove(self)


class Broadcast:
    """Sink of a room: packets to FLV tags to RTMP messages, once, for all its players. Stamps are milliseconds since the first packet."""

    def __init__(self, room: Room, forget: Callable[[Room], None]) -> None:
        self.room = room
        self._forget = forget
        self._players: list[RtmpPlayer] = []
        self._video: Track | None = None
        self._audio: Track | None = None
        self._origin: float | None = None
        self._last_ms = 0

    def add(self, player: RtmpPlayer) -> None:
        if not self._players:
            self._players = [player]
            self.room.attach(self)
            return
        self._players = [*self._players, player]
        gop = self.room.gop
        keyframe = gop.keyframe if gop else None
        # headers are stamped like the oldest packet that follows them
        self._open(player, self._last_ms if keyframe is None else self._stamp(keyframe))
        for packet in gop.packets if gop else ():
            if (message := self._message(packet, player.stream_id)) is not None:
                player.send(message, joins=packet.keyframe and packet.track.is_video, now=packet.received_at)
        if keyframe is None:  # a WebRTC publisher makes none unasked
            self.room.request_keyframe()

    def remove(self, player: RtmpPlayer) -> None:
        self._players = [p for p in self._players if p is not player]
        if not self._players:
            self.room.detach(self)
            self._forget(self.room)

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        carried = [t for t in tracks if t.codec in _CARRIED]
        self._video = next((t for t in carried if t.is_video), None)
        self._audio = next((t for t in carried if not t.is_video), None)
        for player in self._players:
            self._open(player, self._last_ms)

    def on_packet(self, packet: Packet) -> None:
        messages: dict[int, bytes | None] = {}
        joins = packet.keyframe and (packet.track.is_video or self._video is None)
        for player in self._players:
            if player.stream_id not in messages:
                messages[player.stream_id] = self._message(packet, player.stream_id)
            message = messages[player.stream_id]
            if message is not None:
                player.send(message, joins=joins, now=packet.received_at)

    def on_gap(self, gap: Gap) -> None:
        for player in self._players:
            player.waits = True
        self._origin = None

    def on_end(self, cause: str) -> None:
        for player in tuple(self._players):
            player.ended(cause)

    def _open(self, player: RtmpPlayer, stamp: int) -> None:
        """onMetaData and the sequence headers: a player that joins, or tracks that changed."""
        player.waits = True
        if self._video is None and self._audio is None:
            return
        player.write(m.chunk_data(stamp, encode_amf0("onMetaData", self._metadata()), player.stream_id))
        for track in (self._video, self._audio):
            if track is not None and track.codec in _CONFIGURED:
                make = flv.video_tag if track.is_video else flv.audio_tag
                player.write(m.chunk_media(track.kind, stamp, make(track.codec, PacketType.CONFIG, track.config), player.stream_id))

    def _metadata(self) -> dict[str, Value]:
        data: dict[str, Value] = {"server": "medianode"}
        if self._video is not None:
            data |= {"width": float(self._video.width), "height": float(self._video.height), "framerate": self._video.frame_rate}
        if self._audio is not None:
            data |= {"audiosamplerate": float(self._audio.sample_rate), "audiochannels": float(self._audio.channels)}
        return data

    def _stamp(self, packet: Packet) -> int:
        seconds = packet.dts / packet.track.clock_rate
        if self._origin is None:
            # after a gap the new timeline is laid behind the old one: players hate stamps that go back
            self._origin = seconds - self._last_ms / 1000
        return max(0, round((seconds - self._origin) * 1000))

    def _message(self, packet: Packet, stream_id: int) -> bytes | None:
        track = packet.track
        if track is not self._video and track is not self._audio:
            return None
        ms = self._stamp(packet)
        self._last_ms = max(self._last_ms, ms)
        if track.is_video:
            composition = round((packet.pts - packet.dts) * 1000 / track.clock_rate)
            payload = flv.video_tag(track.codec, PacketType.FRAMES, packet.data, keyframe=packet.keyframe, composition_time=composition)
        else:
            payload = flv.audio_tag(track.codec, PacketType.FRAMES, packet.data)
        return m.chunk_media(track.kind, ms & 0xFFFFFFFF, payload, stream_id)
