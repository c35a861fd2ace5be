"""PlaybackService: `/vod/{app}/{recording}/…`, `/vod/{app}/rooms/{room}/…` and `/vod/{playback id}…`: HLS, files, clips, pictures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import hdrs, web

from medianode import clock, telemetry
from medianode.auth import Gatekeeper, Permission, ReadGrant
from medianode.config import Config
from medianode.egress.playback import answers, body, listing, playlists
from medianode.egress.playback.access import Access, may_see
from medianode.egress.playback.disk import Disk
from medianode.egress.playback.downloads import Downloads
from medianode.egress.playback.footage import Footage, Reel
from medianode.egress.playback.library import Library, Recorder, merged
from medianode.egress.playback.playlists import Rendered
from medianode.egress.playback.shelf import Shelf
from medianode.egress.playback.span import Span, parse_span
from medianode.egress.playback.stills import Stills
from medianode.errors import InvalidRequest, MedianodeError, NotFound
from medianode.events import LEAVES, Bus
from medianode.origin import CORS, OPEN_CORS, PLAYBACK, RECORDING, Origin, media_error
from medianode.store.database import Database
from medianode.store.recordings import Recording
from medianode.tasks import every

Handler = Callable[["PlaybackService", web.Request], Awaitable[web.StreamResponse]]
_DAY = 86_400.0
_LONGEST = 400 * _DAY
_LISTED = 500

REQUESTS = telemetry.counter("medianode_playback_requests_total", "Requests for recordings by who may view them, by kind", "kind")
SENT = telemetry.counter("medianode_playback_sent_bytes_total", "Bytes of recordings sent from files")


def _answered(handler: Handler) -> Handler:
    """Refusals are answered as by all doors of media."""

    @wraps(handler)
    async def wrapped(self: PlaybackService, request: web.Request) -> web.StreamResponse:
        try:
            return await handler(self, request)
        except body.Unsatisfiable as e:
            return web.Response(status=416, headers={**OPEN_CORS, "Content-Range": f"bytes */{e.size}", "Cache-Control": "no-store"})
        except MedianodeError as e:
            return media_error(e)

    return wrapped


class PlaybackService:
    """`serve` runs for the life of the daemon; `routes` go into its HTTP application."""

    def __init__(self, config: Config, database: Database, bus: Bus, gatekeeper: Gatekeeper, origin: Origin, recorder: Recorder) -> None:
        self.library = Library(database, bus, recorder)
        self._disk = Disk(config.limits.playback_reads)
        self._shelf = Shelf(self._disk, recorder, config.limits)
        self._stills = Stills(self._disk, config.limits, config.mjpeg)
        self.downloads = Downloads(self._disk, config.limits, self._count)
        self._gatekeeper = gatekeeper
        self._access = Access(gatekeeper, self.library, origin)
        self._origin = origin
        self._generation = 0
        self._sent = SENT.labels()
        for kind in LEAVES:  # downloads that go on ask anew
            bus.subscribe(kind, self._changed)

    def routes(self) -> list[web.RouteDef]:
        media = r"{name:[A-Za-z0-9]+\.(?:m3u8|mp4|jpg|vtt|json)}"
        return [
            web.get(f"/vod/{PLAYBACK}.m3u8", self.recording),
            web.get(f"/vod/{PLAYBACK}/{media}", self.recording),
            web.get("/vod/{app}/recordings.json", self._project),
            web.get(f"/vod/{{app}}/rooms/{{room}}/{media}", self._room),
            web.get(f"/vod/{{app}}/{RECORDING}/{media}", self.recording),
            web.options("/vod/{tail:.*}", self._options),
            web.get("/vod/{app}/{what}/{tail:.+}", self._lost),  # people's pages are above that
        ]

    async def serve(self) -> None:
        """Until cancelled."""
        try:
            async for now in every(5.0):
                self.library.tend(now)
        finally:
            self._disk.close()

    def in_use(self, path: Path) -> bool:
        """Does a viewer read this file, or is about to? Whoever deletes files asks."""
        return self._disk.in_use(path)

    async def _lost(self, request: web.Request) -> web.Response:
        return media_error(NotFound("no such resource of a recording", code="no-such-file"))

    async def _options(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers=OPEN_CORS)

    @_answered
    async def recording(self, request: web.Request) -> web.StreamResponse:
        """Of one, by its id or its playback id; the latter also where live HLS knows no such id."""
        recording, grant = await self._access.recording(request)
        name = request.match_info.get("name", "index.m3u8")
        self._cell(name)
        if name in ("index.m3u8", "main.m3u8"):
            return await self._playlist(request, recording, grant, name)
        if name == "download.mp4":
            span = parse_span(request.query, recording.started_at)
            reel = await self.library.reel(recording, *span)
            chosen = [(reel, file) for file in reel.files]
            return await self.downloads.clip(request, grant, (recording.id,), chosen, span, self._still(request, grant))
        if name.endswith(".mp4"):
            file = await self.library.file(recording, name)
            return await self.downloads.file(request, grant, recording, file, self._still(request, grant))
        reel = await self.library.reel(recording)
        if name == "poster.jpg":
            return await self._stills.poster(request, grant, reel)
        if name == "strip.jpg":
            return await self._stills.strip(request, grant, reel)
        if name == "thumbnails.vtt":
            return await self._stills.thumbnails(request, reel)
        if name == "info.json":
            return _json(listing.whole(reel))
        raise NotFound("no such file of this recording", code="no-such-file")

    def reach(self, address: Callable[[Recording, str], Awaitable[str]], read: Callable[[Recording, str, int], Awaitable[bytes]]) -> None:
        """How to get at files that are only in a bucket, by their keys: where viewers fetch them, and their first bytes."""
        self.downloads.remote = address
        self._shelf.far = read

    async def _playlist(self, request: web.Request, recording: Recording, grant: ReadGrant, name: str) -> web.StreamResponse:
        span = parse_span(request.query, recording.started_at)
        if self.library.growing(recording.id):
            await self._shelf.begun(recording.id)
        reel = await self.library.reel(recording, *span)
        chosen = [(reel, file) for file in reel.files]
        made = await self._shelf.rendered((recording.id,), chosen, lambda _, file: file.name, span, growing=_goes_on([reel], span))
        # the children of /<playback id>.m3u8 are below /<playback id>/
        below = "" if "name" in request.match_info else f"{request.match_info['playback']}/"
        return await self._hls(request, made, name, below)

    @_answered
    async def _room(self, request: web.Request) -> web.StreamResponse:
        """Of a room, over all its recordings."""
        grant, name = await self._access.room(request), request.match_info["name"]
        span = parse_span(request.query, None)
        self._cell(name)
        if name == "recordings.json":
            since, until = _bounded(span)
            reels = await self._reels(grant, since, until, parts=False)
            clips = await self.library.clips(grant.project_id, grant.room, since, until, limit=_LISTED)
            told = [listing.brief(reel.recording, growing=reel.growing) for reel in reels]
            # listed, and no part of the room's past, of which they are copies
            told += [listing.brief(clip, growing=False) for clip in clips if may_see(grant, clip)]
            return _json({"room": grant.room, "recordings": told, "ranges": listing.ranges(reels), "now": clock.iso(clock.wallclock())})
        if span.since is None:
            raise InvalidRequest("from: expected an instant to begin at, got none")
        reels = await self._reels(grant, span.since, clock.wallclock() + _DAY if span.until is None else span.until, parts=True)
        scope, chosen = (grant.project_id, grant.room), merged(reels)
        if name in ("index.m3u8", "main.m3u8"):
            made = await self._shelf.rendered(scope, chosen, _from_room, span, growing=_goes_on(reels, span))
            return await self._hls(request, made, name, "")
        if name == "download.mp4":
            return await self.downloads.clip(request, grant, scope, chosen, span, self._still(request, grant))
        raise NotFound("no such resource of a room's past", code="no-such-file")

    async def _reels(self, grant: ReadGrant, since: float, until: float, *, parts: bool) -> list[Reel]:
        """Those that have anything in between."""
        reels = await self.library.of_room(grant.project_id, grant.room, since, until, parts=parts)
        return [reel for reel in reels if may_see(grant, reel.recording)]

    @_answered
    async def _project(self, request: web.Request) -> web.StreamResponse:
        """For holders of an API key that may view it."""
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        source, app = self._origin.source(request), request.match_info["app"]
        principal = await self._gatekeeper.control(authorization, Permission.VIEW, app, source=source)
        since, until = _bounded(parse_span(request.query, None))
        if principal.project_id is None:
            raise NotFound("no such project")
        found = await self.library.page(principal.project_id, since, until, limit=_LISTED)
        told = [listing.brief(recording, growing=self.library.growing(recording.id)) for recording in found]
        return _json({"recordings": told, "more": len(found) == _LISTED, "now": clock.iso(clock.wallclock())})

    async def _hls(self, request: web.Request, made: Rendered, name: str, below: str) -> web.Response:
        carried = [f"{field}={quote(request.query[field], safe='')}" for field in ("from", "to") if field in request.query]
        token = [f"token={quote(request.query['token'], safe='')}"] if "token" in request.query else []
        if name == "index.m3u8":
            query = f"?{'&'.join([*carried, *token])}" if carried or token else ""
            return answers.text(playlists.multivariant(made, query, below=below).encode(), answers.PLAYLIST)
        text = playlists.text_for(made, f"?{token[0]}" if token else "")
        if len(text) > answers.LONG and answers.packs(request):
            return answers.text(await self._disk.run(answers.pack, text), answers.PLAYLIST, packed=True)
        return answers.text(text, answers.PLAYLIST)

    def _still(self, request: web.Request, grant: ReadGrant) -> body.Still:
        """What a long answer asks between its chunks: costs nothing until something has changed."""
        seen = self._generation

        async def still() -> None:
            nonlocal seen
            if grant.expires_at is not None and clock.wallclock() > grant.expires_at:
                raise NotFound("the leave to view has expired", code="token-expired")
            if seen != self._generation:
                seen = self._generation
                await (self._access.room(request) if "room" in request.match_info else self._access.recording(request))

        return still

    def _changed(self, _: object) -> None:
        self._generation += 1

    def _count(self, nbytes: int) -> None:
        self._sent.value += nbytes

    def _cell(self, name: str) -> None:
        kind = {"m3u8": "playlist", "jpg": "picture", "vtt": "picture", "json": "list"}.get(name.rpartition(".")[2], "file")
        REQUESTS.labels("clip" if name == "download.mp4" else kind).value += 1


def _from_room(reel: Reel, file: Footage) -> str:
    return f"../../{reel.recording.id}/{file.name}"


def _goes_on(reels: Sequence[Reel], span: Span) -> bool:
    """Is there more to come of it?"""
    return any(reel.growing for reel in reels) and (span.until is None or span.until > clock.wallclock())


def _bounded(span: Span) -> tuple[float, float]:
    """A day unless told otherwise."""
    until = span.until if span.until is not None else (clock.wallclock() + 1.0 if span.since is None else span.since + _DAY)
    since = span.since if span.since is not None else until - _DAY
    if until - since > _LONGEST:
        raise InvalidRequest(f"from: expected up to {_LONGEST / _DAY:g} days before to")
    return since, until


def _json(told: dict[str, Any]) -> web.Response:
    headers = {**CORS, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.json_response(told, headers=headers)
