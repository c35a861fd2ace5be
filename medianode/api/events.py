"""The events feed, `GET /v1/events`: server-sent events (HTML, 9.2) for those who cannot be called, or a page of JSON."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from medianode import clock, telemetry
from medianode.api.problems import BAXCLOUD, CORS, OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.auth import Gatekeeper, Permission, Principal
from medianode.control.feed import EventFeed, Gap, Page, chosen_types
from medianode.control.projects import Projects
from medianode.errors import Forbidden, MedianodeError, NotFound, PeerGone, PeerTimeout, StorageError, TooManyRequests, Unauthorized
from medianode.events import Bus, KeyRevoked, ProjectDeleted
from medianode.origin import Origin
from medianode.store.outbox import StoredEvent

HEARTBEAT = 15.0
"""Seconds of silence after which a comment keeps proxies and readers calm."""
LOOK = 5.0
"""How often the key is looked at again: it may have expired."""
UNSURE = 60.0
"""How long a stream goes on whose key cannot be looked at, for its address has failed too often."""
RETRY = 2000
"""Milliseconds after which a reader that lost us comes back."""
BATCH = 200
PACE, PACE_EACH = 0.05, 0.005
"""Seconds between two looks of one stream at the database, and what each open stream adds: many of them share some 200 a second."""
WRITE_TIMEOUT = 60.0
"""A reader that takes nothing for so long is gone."""
CLOSE_TIMEOUT = 1.0
EVENT_STREAM = "text/event-stream"
HEADERS = {
    **CORS,
    "Content-Type": EVENT_STREAM,
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx would keep events back until its buffer is full
}


class Wanted(msgspec.Struct):
    """`app`: slug or id of the project, for a key to the whole node."""

    after: Annotated[
        str,
        Meta(
            pattern=r"^(?:now|[0-9]{1,15})?(?!\n)$",
            description="the cursor of the last event that you have; `now`: only what comes; absent: all that is kept. Last-Event-ID wins",
            extra={"expected": "a cursor or now"},
        ),
    ] = ""
    types: Annotated[str, Meta(max_length=1000, description="names or patterns, separated by commas: ingress.*,room.live")] = ""
    app: Annotated[str, Meta(max_length=64)] = ""
    limit: (
        Annotated[int, Meta(ge=1, le=1000, description="one page of JSON of at most so many events, instead of a stream")] | UnsetType
    ) = UNSET


class EventView(msgspec.Struct, rename="camel"):
    """`id` stays the same wherever the event is told; `stream`: order is kept within it; `projectId` null: about the node."""

    id: str
    cursor: int
    type: str
    project_id: str | None
    stream: str
    at: str
    data: Any


class GapView(msgspec.Struct):
    """What lies between the cursors `after` and `oldest` is not kept any more."""

    after: int
    oldest: int


class EventPage(msgspec.Struct):
    """`next`: `after` of the next page. An event stream tells the same: `id` is the cursor, `event` the type, `data` one of these."""

    data: list[EventView]
    next: int
    gap: GapView | None = None


class EventsApi:
    """`bound`: limits.event_streams. A project may open one more while more are free than it has: no tenant takes them all."""

    def __init__(self, feed: EventFeed, projects: Projects, gatekeeper: Gatekeeper, origin: Origin, bus: Bus, *, bound: int) -> None:
        self._feed = feed
        self._projects = projects
        self._gatekeeper = gatekeeper
        self._origin = origin
        self._bound = bound
        self._streams: set[_Stream] = set()
        bus.subscribe(KeyRevoked, self._revoked)
        bus.subscribe(ProjectDeleted, self._project_deleted)
        telemetry.gauge("medianode_event_streams", "Open readers of the events feed", read=lambda: [((), len(self._streams))])

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {
            "method": "GET",
            "tag": "Events",
            "auth": Permission.LIVE,
            "query": Wanted,
            "response": EventPage,
            "streams": EVENT_STREAM,
            "errors": (404,),
            "summary": "What happens, as a stream of events or by pages",
            "example": EventPage([_EXAMPLE], 9120),
        }
        return [
            Route(path="/v1/events", handler=self.events, dialect=BAXCLOUD, **common),
            Route(path="/api/v1/events", handler=self.operators_events, dialect=OPERATOR, **common),
        ]

    async def close(self) -> None:
        """The node stops: every stream says so and ends. Waits for them, but not for long."""
        streams = tuple(self._streams)
        for stream in streams:
            stream.end(PeerGone("the server is stopping", code="shutdown"))
        self._feed.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                for stream in streams:
                    await stream.gone.wait()

    async def events(self, call: Call[Principal, Empty, Wanted]) -> EventPage | web.StreamResponse:
        types = chosen_types(call.query.types)
        project_id = await self._project_id(call.who, call.query.app)
        position, gap = await self._feed.start(_after(call.request, call.query.after))
        limit = call.query.limit
        if limit is UNSET and not _wants_json(call.request):
            return await self._stream(call, project_id, types, position, gap)
        page = await self._feed.page(position, 100 if limit is UNSET else limit, project_id, types)
        return EventPage([event_view(e) for e in page.events], page.position, None if gap is None else GapView(gap.after, gap.oldest))

    async def operators_events(self, call: Call[Principal, Empty, Wanted]) -> EventPage | web.StreamResponse:
        """The same under the other prefix, with its errors."""
        return await self.events(call)

    async def _stream(
        self, call: Call[Principal, Empty, Wanted], project_id: str | None, types: frozenset[str] | None, position: int, gap: Gap | None
    ) -> web.StreamResponse:
        self._check_share(project_id)
        response = web.StreamResponse(headers=HEADERS)
        stream = _Stream(call, response, project_id)
        self._streams.add(stream)
        try:
            await response.prepare(call.request)
            if call.request.method != "HEAD":
                await self._run(stream, project_id, types, position, gap)
        except (ConnectionError, PeerTimeout):
            pass  # the reader has left
        finally:
            self._streams.discard(stream)
            stream.gone.set()
        return response

    def _check_share(self, project_id: str | None) -> None:
        """Raises TooManyRequests."""
        free, own = self._bound - len(self._streams), sum(stream.project_id == project_id for stream in self._streams)
        if free <= 0:
            raise TooManyRequests(f"{self._bound} event streams are open, which is limits.event_streams", code="too-many-event-streams")
        if own >= free:
            whose = "this project" if project_id is not None else "the node's keys"
            raise TooManyRequests(
                f"{own} event streams of {whose} are open; the {free} that are left of limits.event_streams are kept for others",
                code="too-many-event-streams",
            )

    async def _run(self, stream: _Stream, project_id: str | None, types: frozenset[str] | None, position: int, gap: Gap | None) -> None:
        """Until the reader must leave. Raises ConnectionError, PeerTimeout."""
        await stream.write(f"retry: {RETRY}\n\n" + ("" if gap is None else _told("gap", {"after": gap.after, "oldest": gap.oldest})))
        while stream.over is None:
            if stream.request.transport is None:
                return  # the reader has left
            try:
                await self._look_at_key(stream)
                await asyncio.sleep(stream.read_at + max(PACE, PACE_EACH * len(self._streams)) - clock.now())
                stream.read_at = clock.now()
                page = await self._feed.page(position, BATCH, project_id, types)
                if page.events:
                    await stream.write("".join(map(_event, page.events)))
                position = page.position
                if not page.full and stream.over is None:
                    await self._wait(stream, page)
            except StorageError:
                # the reader stays: what it was not told of yet comes when the database is back
                await asyncio.sleep(1.0)
                await self._beat(stream)
        await stream.write(_told("end", {"code": stream.over.code, "message": stream.over.message}))

    async def _wait(self, stream: _Stream, page: Page) -> None:
        """For news, or until there is something else to do; a heartbeat when it is due."""
        until = min(stream.wrote_at + HEARTBEAT, stream.looked_at + LOOK)
        try:
            async with asyncio.timeout(max(0.0, until - clock.now())):
                await self._feed.news(page.position)
        except TimeoutError:
            await self._beat(stream)

    async def _beat(self, stream: _Stream) -> None:
        if clock.now() - stream.wrote_at >= HEARTBEAT:
            await stream.write(f": {clock.iso(clock.wallclock(), 0)}\n\n")

    async def _look_at_key(self, stream: _Stream) -> None:
        """Every so often: it may have expired, or another process has revoked it or deleted the project."""
        if clock.now() - stream.looked_at < LOOK:
            return
        stream.looked_at = clock.now()
        request = stream.request
        project = request.headers.get("X-Project-Id", "").strip() or None
        try:
            who = await self._gatekeeper.control(
                request.headers.get("Authorization"), Permission.LIVE, project, source=self._origin.source(request)
            )
            await self._project_id(who, stream.app)
            stream.good_at = clock.now()
        except (Unauthorized, Forbidden, NotFound) as e:
            stream.end(e)
        except TooManyRequests as e:  # others fail behind its address; but who fails there all the time must not outlive its key so
            if clock.now() - stream.good_at >= UNSURE:
                stream.end(e)

    async def _project_id(self, who: Principal, app: str) -> str | None:
        """Whose events: the key's project, for one to the node that which is named, else all. Raises Forbidden, NotFound."""
        if not app:
            return who.project_id
        if who.project_id is None:
            return (await self._projects.get(app)).id
        if app not in (who.project_id, who.slug):
            raise Forbidden("app: expected a project that this key may use", code="other-project")
        return who.project_id

    def _revoked(self, event: KeyRevoked) -> None:
        for stream in tuple(self._streams):
            if stream.key_id == event.key_id:
                stream.end(Unauthorized("this API key was revoked", code="key-revoked"))
        self._feed.wake()

    def _project_deleted(self, event: ProjectDeleted) -> None:
        for stream in tuple(self._streams):
            if stream.project_id == event.project_id:
                stream.end(NotFound(f"project {event.slug} was deleted", code="project-deleted"))
        self._feed.wake()


class _Stream:
    """One reader. `project_id`: whose events, None for all. `over`: why it must end."""

    def __init__(self, call: Call[Principal, Empty, Wanted], response: web.StreamResponse, project_id: str | None) -> None:
        self.request = call.request
        self.key_id = call.who.key_id
        self.app = call.query.app
        self.project_id = project_id
        self.over: MedianodeError | None = None
        self.gone = asyncio.Event()
        self.wrote_at = self.looked_at = self.good_at = clock.now()
        self.read_at = 0.0
        self._response = response
        self._writing = False

    def end(self, why: MedianodeError) -> None:
        self.over = self.over or why
        if self._writing and self.request.transport is not None:
            self.request.transport.abort()  # it does not read: there is no telling it

    async def write(self, text: str) -> None:
        """Waits for a slow reader. Raises ConnectionError, PeerTimeout."""
        self._writing = True
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._response.write(text.encode())
        except TimeoutError:
            if self.request.transport is not None:
                self.request.transport.abort()
            raise PeerTimeout(f"it has read nothing for {WRITE_TIMEOUT:g} s", code="slow-reader") from None
        finally:
            self._writing = False
        self.wrote_at = clock.now()


def _after(request: web.Request, after: str) -> int | None:
    """None: only what comes. A reader that reconnects says where it was, whatever its address still says."""
    last = request.headers.get("Last-Event-ID", "").strip()
    if last.isascii() and last.isdigit() and len(last) <= 15:
        return int(last)
    return None if after == "now" else int(after or 0)


def _wants_json(request: web.Request) -> bool:
    accept = request.headers.get("Accept", "").lower()
    return "application/json" in accept and EVENT_STREAM not in accept


def event_view(event: StoredEvent) -> EventView:
    return EventView(
        id=event.id,
        cursor=event.cursor,
        type=event.type,
        project_id=event.project_id,
        stream=event.stream,
        at=clock.iso(event.at),
        data=event.data,
    )


def _event(event: StoredEvent) -> str:
    return f"id: {event.cursor}\n" + _told(event.type, event_view(event))


def _told(name: str, data: object) -> str:
    """JSON is one line, whatever stands in it."""
    return f"event: {name}\ndata: {msgspec.json.encode(data).decode()}\n\n"


_EXAMPLE = EventView(
    id="6f1c1e0e-0b7e-4c55-9d0c-2f6a0b1d7e11",
    cursor=9120,
    type="ingress.connected",
    project_id="prj_0123456789ab",
    stream="IN_0123456789abcdef",
    at="2026-03-29T14:30:00.000Z",
    data={"ingressId": "IN_0123456789abcdef", "room": "live-demo", "resumed": False},
)
