"""HlsService: `/hls/{app}/{room}/…`, and `/<playback id>.m3u8` of a live stream: multivariant and media playlists, init segments,
segments and parts.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from aiohttp import hdrs, web
from multidict import CIMultiDict

from medianode import clock, telemetry
from medianode.auth import Gatekeeper, ReadGrant
from medianode.config import Config
from medianode.egress.hls.live import LAYER, LINGER, VARIANTS, House, LiveRoom, Transcoder, Variant
from medianode.egress.hls.muxers import offers_aac
from medianode.egress.hls.playlists import Playlist
from medianode.egress.hls.viewers import Sessions
from medianode.egress.hls.window import Start, parse_name
from medianode.errors import Forbidden, InvalidRequest, MedianodeError, NotEnabled, NotFound, PeerTimeout
from medianode.events import LEAVES, Bus, RoomLive
from medianode.media.track import Codec, Track
from medianode.origin import CORS, OPEN_CORS, PLAYBACK, Origin, credentials, media_error, player
from medianode.protocols import hls
from medianode.protocols.rfc6381 import codec_string
from medianode.routing.registry import Registry
from medianode.tasks import every

FIRST_SEGMENT_WAIT = 10.0
"""Seconds that a player who comes before the first segment is kept waiting."""
VERDICT_SECONDS, VERDICTS, VERDICT_LENGTH = 5.0, 10_000, 2048
"""How long and how many verdicts of the gatekeeper are remembered, for tokens of how many characters: a plain player asks once a second."""
AAC_BANDWIDTH = 160_000
"""Bits per second allowed for the sound of the variant `aac` before it has been made."""

PEAK = 1.5
"""Peak over average bandwidth of a layer of which no segment has been made yet."""
_LAYER = re.compile(LAYER + r"(?:0|[1-9]\d{0,3})\.m3u8", re.ASCII)
_OWN = "private, max-age=31536000, immutable"
"""Media that not everybody may have are for the player's own cache only."""
_MEDIA = {**CORS, "Cache-Control": "public, max-age=31536000, immutable", "Accept-Ranges": "bytes"}
PLAYLIST = CIMultiDict(CORS, **{"Content-Type": "application/vnd.apple.mpegurl", "Cache-Control": "no-cache, no-store, must-revalidate"})
MP4 = CIMultiDict(_MEDIA, **{"Content-Type": "video/mp4"})
TS = CIMultiDict(_MEDIA, **{"Content-Type": "video/mp2t"})

REQUESTS = telemetry.counter("medianode_hls_requests_total", "HLS requests answered with 200 or 206, by kind", "kind")
SENT = telemetry.counter("medianode_hls_sent_bytes_total", "Bytes of HLS bodies sent, by kind", "kind")


class HlsService:
    """`serve` runs for the life of the daemon; `routes` go into its HTTP application."""

    def __init__(
        self, registry: Registry, bus: Bus, gatekeeper: Gatekeeper, renditions: Transcoder, config: Config, origin: Origin
    ) -> None:
        self._registry = registry
        self._bus = bus
        self._gatekeeper = gatekeeper
        self._origin = origin
        self._config = config
        self._house = House(renditions, config.hls, config.limits, Path(config.data_dir) / "hls")
        self._live: dict[object, LiveRoom] = {}
        self._ended: list[LiveRoom] = []
        self._verdicts: dict[tuple[str | None, ...], tuple[float, ReadGrant]] = {}
        self.assets: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        """Who answers for playback ids that are no live stream's: what is left of one when it is over."""
        self._generation = 0
        self._sessions = Sessions()
        self._cells = {kind: (REQUESTS.labels(kind), SENT.labels(kind)) for kind in ("multivariant", "playlist", "init", "segment", "part")}
        house = self._house
        telemetry.gauge("medianode_hls_memory_bytes", "Bytes of HLS media in memory", read=lambda: [((), float(house.budget.nbytes))])
        telemetry.gauge("medianode_hls_waiting_requests", "HLS requests held", read=lambda: [((), float(house.waiting.count))])

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/hls/{app}/{room}/{name}", self._get),
            web.get("/hls/{tail:.*}", self._unknown),
            web.options("/hls/{tail:.*}", self._options),
            *(web.get(path, self._get) for path in (f"/{PLAYBACK}.m3u8", f"/{PLAYBACK}/{{name}}")),
            *(web.options(path, self._options) for path in (f"/{PLAYBACK}.m3u8", f"/{PLAYBACK}/{{name}}")),
        ]

    async def serve(self) -> None:
        """Follow the rooms until cancelled; then end all playlists and remove all files."""
        if not self._config.hls.enabled:
            return
        await asyncio.to_thread(shutil.rmtree, self._house.folder, ignore_errors=True)
        wired = [
            self._bus.subscribe(RoomLive, lambda event: self._room_live(event.project_id, event.room)),
            *(self._bus.subscribe(kind, lambda _: self._forget_verdicts()) for kind in LEAVES),
        ]
        async with self._house.tasks:
            try:
                for room in self._registry:
                    if room.on_air:
                        self._room_live(room.project_id, room.name)
                async for now in every(1.0):
                    self.tend(now)
            finally:
                for unsubscribe in wired:
                    unsubscribe()
                for live in (*self._live.values(), *self._ended):
                    live.close()
                self._live.clear()
                self._ended.clear()

    def _forget_verdicts(self) -> None:
        self._generation += 1
        self._verdicts.clear()

    def tend(self, now: float) -> None:
        """Once a second: rooms that ended long enough ago, idle variants, viewers."""
        for live in tuple(self._live.values()):
            live.tend(now)
        for live in (*self._live.values(), *self._ended):
            if live.ended_at and now - live.ended_at > LINGER:
                live.close()
                if live in self._ended:
                    self._ended.remove(live)
                else:
                    del self._live[live.key]

    def _room_live(self, project_id: str, name: str) -> None:
        room = self._registry.find(project_id, name)
        if room is None:
            return
        before = self._live.get((project_id, name))
        floors: dict[str, Start] = {}
        if before is not None:
            floors = before.floors | {variant.name: variant.window.successor for variant in before.variants.values()}
            self._ended.append(before)
        live = LiveRoom(self._house, room, floors)
        self._live[live.key] = live

    async def _options(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers=OPEN_CORS)

    async def _unknown(self, request: web.Request) -> web.Response:
        return media_error(NotFound("no such HLS resource"))

    async def _get(self, request: web.Request) -> web.StreamResponse:
        try:
            if not self._config.hls.enabled:
                raise NotEnabled("HLS is switched off on this node")
            name = request.match_info.get("name", "index.m3u8")
            media = parse_name(name)
            if media is not None:
                grant = await self._read(request)
                response = await self._media(request, grant, *media)
                if not grant.shared:
                    response.headers["Cache-Control"] = _OWN
                return response
            if name == "index.m3u8":
                return await self._multivariant(request)
            if name.endswith(".m3u8") and (name[:-5] in VARIANTS or _LAYER.fullmatch(name)):
                return await self._playlist(request, name[:-5])
            raise NotFound("no such HLS resource")
        except NotFound as e:
            if self.assets is None or "playback" not in request.match_info or e.code not in (NotFound.code, "no-such-playback-id"):
                return media_error(e)
            return await self.assets(request)
        except MedianodeError as e:
            return media_error(e)

    async def _read(self, request: web.Request) -> ReadGrant:
        token, authorization = credentials(request)
        asked, now = self._asked(request), clock.now()
        key = (*asked, token, authorization)
        known = self._verdicts.get(key)
        if known is not None and known[0] > now:
            return known[1]
        generation = self._generation
        grant = await self._decide(request, token, authorization)
        until = now + VERDICT_SECONDS
        if grant.expires_at is not None:
            until = min(until, now + grant.expires_at - clock.wallclock())
        if grant.audio_only:
            raise Forbidden("this token opens sound only, and HLS carries the picture with it", code="audio-only")
        if len(token or "") + len(authorization or "") > VERDICT_LENGTH or generation != self._generation:
            return grant
        if len(self._verdicts) >= VERDICTS:
            self._verdicts.clear()
        self._verdicts[key] = (until, grant)
        return grant

    @staticmethod
    def _asked(request: web.Request) -> tuple[str, ...]:
        """What the verdict depends on, besides a token."""
        asked = request.match_info
        if "playback" in asked:
            return (asked["playback"], *player(request))
        return (asked["app"], asked["room"])

    async def _decide(self, request: web.Request, token: str | None, authorization: str | None) -> ReadGrant:
        asked, source = request.match_info, self._origin.source(request)
        if "playback" not in asked:
            return await self._gatekeeper.read(asked["app"], asked["room"], token, authorization, source=source)
        site, agent = player(request)
        return await self._gatekeeper.read_playback(asked["playback"], token, authorization, site=site, agent=agent, source=source)

    async def _multivariant(self, request: web.Request) -> web.Response:
        grant = await self._read(request)
        live = await self._wanted(request, grant)
        mode = request.query.get("mode", "")
        if mode not in ("", "ts", "fmp4"):
            raise InvalidRequest(f"mode: expected ts or fmp4, got {mode[:20]!r}")
        name = "ts" if mode == "ts" else "main"
        with self._registry.demand.keep(*live.key):  # it reads from here on, though there is nothing yet
            variant = await self._started(live, name)
        query = f"?s={self._sessions.new()}"
        if "token" in request.query:
            query += f"&token={quote(request.query['token'], safe='')}"
        row = _stream_inf(variant, query)
        rows = [row]
        if name == "main" and offers_aac(variant.packager.tracks, ts=self._config.hls.container == "ts"):
            sound = (*[codec_string(track) for track in variant.packager.tracks if track.is_video], "mp4a.40.2")
            more = (row.bandwidth + AAC_BANDWIDTH, row.average_bandwidth + AAC_BANDWIDTH)
            rows.append(hls.Variant(f"aac.m3u8{query}", *more, sound, row.width, row.height, row.frame_rate))
        if name == "main":
            rows += [_layer_inf(live, *layer, query) for layer in live.layers()]
        if "playback" in request.match_info:
            # the children of /<id>.m3u8 are below /<id>/
            rows = [replace(row, uri=f"{request.match_info['playback']}/{row.uri}") for row in rows]
        return self._answer("multivariant", hls.multivariant(rows).encode(), PLAYLIST)

    async def _playlist(self, request: web.Request, name: str) -> web.Response:
        grant = await self._read(request)
        live = await self._wanted(request, grant)
        query = request.query if request.query_string else {}
        session = query.get("s", "")
        if not self._sessions.known(session):
            session = f"{self._origin.source(request)} {request.headers.get('User-Agent', '')[:80]}"
        if not grant.hidden and request.method != hdrs.METH_HEAD:
            if session not in live.viewers:
                self._registry.audience.check(grant)
            live.count(session, clock.now())
        with self._registry.demand.keep(*live.key):  # it reads from here on, though there is nothing yet
            variant = await self._started(live, name)
        playlist = variant.playlist
        delta = False
        if variant.window.parts:
            reload = hls.parse_reload(query)
            delta = reload.skip
            if reload.msn is not None:
                await _reach(live, playlist, reload.msn, reload.part)
        elif "_HLS_msn" in query:
            await _reach(live, playlist, hls.parse_reload({"_HLS_msn": query["_HLS_msn"]}).msn or 0, None)
        child = f"?token={quote(query['token'], safe='')}" if "token" in query else ""
        return self._answer("playlist", playlist.render(delta=delta, query=child), PLAYLIST)

    async def _media(
        self, request: web.Request, grant: ReadGrant, token: str, init: int | None, msn: int, part: int | None
    ) -> web.StreamResponse:
        found = self._house.windows.get(token)
        if found is None or found[0] != (grant.project_id, grant.room):
            raise NotFound("no such segment")
        window, name = found[1].window, request.match_info["name"]
        body: bytes | memoryview | None
        if init is not None:
            body = window.inits.get(name)
            return self._body(request, "init", body)
        if part is not None:
            if name != window.names.part(msn, part):
                raise NotFound("no such part")
            body = window.part(msn, part)
            if body is None and (msn, part) in ((window.next_msn, window.open_parts), (window.next_msn + 1, 0)):
                await found[1].reach(msn, part)
                body = window.part(msn, part)
            return self._body(request, "part", body)
        stored = window.segment(msn)
        if stored is None or name != stored.info.uri:
            raise NotFound("no such segment")
        if stored.body is None and stored.path is not None:
            self._cells["segment"][0].value += 1
            self._cells["segment"][1].value += stored.nbytes
            return web.FileResponse(stored.path, headers=TS if name.endswith(".ts") else MP4)
        return self._body(request, "segment", None if stored.body is None else stored.body.whole())

    def _find(self, grant: ReadGrant) -> LiveRoom:
        live = self._live.get((grant.project_id, grant.room))
        if live is None:
            raise NotFound(f"nobody publishes in room {grant.room}", code="no-programme")
        return live

    async def _wanted(self, request: web.Request, grant: ReadGrant) -> LiveRoom:
        """For a playlist: a source on demand is opened, and waited for; not for HEAD, by which no more is asked than whether it is on."""
        live = self._live.get((grant.project_id, grant.room))
        if (live is None or live.ended_at) and request.method != hdrs.METH_HEAD:
            await self._registry.demand.ask(grant.project_id, grant.room)
        return self._find(grant)

    @staticmethod
    async def _started(live: LiveRoom, name: str) -> Variant:
        """The variant with its first segment complete; waits for that. Raises PeerTimeout `not-ready`."""
        variant = live.use(name)
        if not variant.window.started:
            variant.check()
            try:
                await variant.playlist.started(FIRST_SEGMENT_WAIT)
            finally:
                variant.check()
            if not variant.window.started:
                raise NotFound(f"room {live.room.name} has ended", code="no-programme")
        return variant

    def _body(self, request: web.Request, kind: str, body: bytes | memoryview | None) -> web.Response:
        if body is None:
            raise NotFound(f"no such {kind}")
        headers = TS if request.match_info["name"].endswith(".ts") else MP4
        if hdrs.RANGE not in request.headers:
            return self._answer(kind, bytes(body), headers)
        size = len(body)
        try:
            start, stop, _ = request.http_range.indices(size)
        except ValueError:
            start = stop = size
        if start >= stop:
            return web.Response(status=416, headers={**OPEN_CORS, "Content-Range": f"bytes */{size}"})
        response = self._answer(kind, bytes(body[start:stop]), headers)
        response.set_status(206)
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{stop - 1}/{size}"
        return response

    def _answer(self, kind: str, body: bytes, headers: CIMultiDict[str]) -> web.Response:
        requests, sent = self._cells[kind]
        requests.value += 1
        sent.value += len(body)
        return web.Response(body=body, headers=headers.copy())


async def _reach(live: LiveRoom, playlist: Playlist, msn: int, part: int | None) -> None:
    """Blocking reload. In a publisher's gap the playlist as it is answers the request when its time is over: players stay."""
    try:
        await playlist.reach(msn, part)
    except PeerTimeout:
        if not live.room.held:
            raise


def _stream_inf(variant: Variant, query: str) -> hls.Variant:
    window, packager = variant.window, variant.packager
    average = window.average_bandwidth
    video = next((track for track in packager.tracks if track.is_video), None)
    codecs = tuple(codec_string(track) for track in packager.tracks)
    uri, peak = f"{variant.name}.m3u8{query}", max(window.peak_bandwidth, average)
    if video is None:
        return hls.Variant(uri, peak, average, codecs)
    declared = video.frame_rate if video.codec is not Codec.MJPEG else 0.0
    return hls.Variant(uri, peak, average, codecs, video.width, video.height, declared or packager.frame_rate)


def _layer_inf(live: LiveRoom, name: str, track: Track, bitrate: float, query: str) -> hls.Variant:
    """What the segments have shown once there are some, and before that what comes in."""
    variant = live.variants.get(name)
    if variant is not None and variant.window.started and variant.packager.tracks:
        return _stream_inf(variant, query)
    codecs = tuple(codec_string(t) for t in (track, *[t for t in live.room.tracks if not t.is_video][:1]))
    return hls.Variant(f"{name}.m3u8{query}", round(bitrate * PEAK), round(bitrate), codecs, track.width, track.height, track.frame_rate)
