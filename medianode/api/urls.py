"""The public addresses that the dialects hand out, all from one base (contracts 8.7)."""

from __future__ import annotations

import html
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from aiohttp import web

from medianode.origin import Origin


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the doors listen really: RTMP, and RTMPS where it has a port of its own (0: it shares RTMP's).

    `whip`: whether that door is open; it needs no port of its own. `srt`: 0 where that door is closed.
    """

    rtmp: int
    rtmps: int = 0
    whip: bool = True
    srt: int = 0


@dataclass(frozen=True, slots=True)
class Urls:
    """`base`: https://host[:port]; `host`: without the port. Slugs and rooms are canonical names."""

    base: str
    host: str
    ports: Ports

    @classmethod
    def of(cls, origin: Origin, request: web.Request, ports: Ports) -> Urls:
        return cls(origin.base(request), origin.hostname(request), ports)

    @property
    def ws(self) -> str:
        return "ws" + self.base.removeprefix("http")

    @property
    def rtmp(self) -> str:
        return f"rtmp://{self.host}:{self.ports.rtmp}/live"

    @property
    def rtmps(self) -> str:
        return f"rtmps://{self.host}:{self.ports.rtmps or self.ports.rtmp}/live"

    @property
    def srt(self) -> str | None:
        """Where an encoder publishes by SRT, its stream key as streamid."""
        return f"srt://{self.host}:{self.ports.srt}" if self.ports.srt else None

    def whip(self, slug: str, room: str) -> str:
        """Where an encoder publishes by WHIP, its stream key as Bearer token."""
        return f"{self.base}/whip/{slug}/{quote(room)}"

    def whep(self, slug: str, room: str) -> str:
        return f"{self.base}/whep/{slug}/{quote(room)}"

    def play(self, slug: str, room: str) -> str:
        return f"{self.base}/play/{slug}/{quote(room)}"

    def embed(self, slug: str, room: str) -> str:
        return f"{self.base}/embed/{slug}/{quote(room)}"

    def iframe(self, slug: str, room: str) -> str:
        source = html.escape(self.embed(slug, room))
        return f'<iframe src="{source}" width="640" height="360" frameborder="0" allow="autoplay; fullscreen" allowfullscreen></iframe>'

    def hls(self, slug: str, room: str) -> str:
        return f"{self.base}/hls/{slug}/{quote(room)}/index.m3u8"

    def rtmp_play(self, slug: str, room: str) -> str:
        return f"rtmp://{self.host}:{self.ports.rtmp}/{slug}/{quote(room)}"

    def playback(self, playback_id: str) -> str:
        """HLS of a live stream by one of its public names."""
        return f"{self.base}/{playback_id}.m3u8"

    def recording(self, slug: str, recording_id: str, name: str = "index.m3u8") -> str:
        """Of one recording: its playlist, one of its files, `download.mp4`, `poster.jpg`."""
        return f"{self.base}/vod/{slug}/{recording_id}/{name}"

    def recording_page(self, slug: str, recording_id: str) -> str:
        """Where people watch one recording."""
        return f"{self.base}/vod/{slug}/{recording_id}"

    def asset(self, playback_id: str, name: str) -> str:
        """Of what was recorded of a live stream, by its playback id: as open as that, whatever its room is."""
        return f"{self.base}/vod/{playback_id}/{name}"

    def room_recordings(self, slug: str, room: str) -> str:
        """What was recorded in a room; takes `from` and `to`."""
        return f"{self.base}/vod/{slug}/rooms/{quote(room)}/index.m3u8"

    def mjpeg(self, slug: str, room: str) -> str:
        return f"{self.base}/live/{slug}/{quote(room)}/mjpeg"

    def frame(self, slug: str, room: str) -> str:
        return f"{self.base}/live/{slug}/{quote(room)}/frame.jpg"

    def camera(self, slug: str, room: str) -> str:
        """Where an ESP32 publishes; carries app and room, as the real server's does (contracts 2.4)."""
        return f"{self.ws}/ingest/ws?{urlencode({'app': slug, 'room': room})}"

    def viewer(self, slug: str, room: str) -> str:
        return f"{self.ws}/live/ws?{urlencode({'app': slug, 'room': room})}"
