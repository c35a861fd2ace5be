"""The operators' view: every publication with its numbers, every room with its viewers. Read from live state, nothing stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import Meta

from medianode import clock
from medianode.api.hints import NO_B_FRAMES, hints
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data, Page, page_of
from medianode.api.urls import Ports, Urls
from medianode.auth import Permission, Principal
from medianode.errors import NotFound
from medianode.media.track import Track
from medianode.origin import Origin
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.transcode.renditions import Rendition, Renditions


class TrackView(msgspec.Struct, rename="camel"):
    """`frameRate` and `bitrate` (bits per second) are measured, `declaredFrameRate` is what the bitstream says; durations in seconds."""

    id: int
    kind: Literal["video", "audio"]
    codec: str
    packets: int
    bytes: int
    bitrate: int
    width: int = 0
    height: int = 0
    frame_rate: float = 0.0
    declared_frame_rate: float = 0.0
    key_frames: int = 0
    key_frame_interval: float = 0.0
    b_frames: bool = False
    sample_rate: int = 0
    channels: int = 0
    idle_seconds: float = 0.0
    layer: str = ""


YEAR_2200 = 7_258_118_400.0


@runtime_checkable
class Queued(Protocol):
    """A reader with a queue: a Subscription, a Rendition."""

    @property
    def queued(self) -> int: ...

    @property
    def dropped(self) -> int | Mapping[str, int]: ...


class QueueView(msgspec.Struct, rename="camel"):
    """The readers of this publication that have a queue: how many packets wait in them, and how many were dropped there."""

    readers: int
    queued: int
    deepest: int
    dropped: int


class RenditionView(msgspec.Struct, rename="camel"):
    """What is made of this publication now. `video` and `audio`: what its readers want; `treatment`: what is done for it, per kind, and why
    (`copy`, `b-frames-dropped`, `re-encoded: …`, `aac-to-opus`, …); `latency`: milliseconds that it adds, per kind; `dropped` by cause.
    """

    video: str
    audio: str
    treatment: dict[str, str]
    users: int
    transcodes: bool
    queued: int
    dropped: dict[str, int]
    latency: dict[str, float]
    last_error: str


class SessionView(msgspec.Struct, rename="camel"):
    """`sourceClock`: by the publisher's own clock, when its media time 0 was (WebRTC tells it); `network`, of a publisher by WebRTC or
    SRT: `loss` (fraction), `jitter` and `rtt` (seconds) as they are now, and counts since the start.
    """

    id: str
    app: str
    room: str
    identity: str
    name: str
    ingress_id: str | None
    door: str
    peer: str
    state: Literal["buffering", "active"]
    programme: bool
    started_at: str
    uptime: float
    tracks: list[TrackView]
    drift: float
    drops: dict[str, int]
    repairs: dict[str, int]
    viewers: dict[str, int]
    queue: QueueView
    last_error: str
    hints: list[str]
    source_clock: str | None = None
    network: dict[str, float] = {}
    renditions: list[RenditionView] = []


Showing = Literal["publisher", "backup", "slate", "nothing"]


class RoomView(msgspec.Struct, rename="camel"):
    """`held`: on air in a publisher's gap. `programme`: the id of the session that the players show; `showing`: what that is, in a gap the
    slate or a backup.
    """

    app: str
    room: str
    on_air: bool
    held: bool
    live_since: str | None
    programme: str | None
    showing: Showing
    sessions: list[str]
    viewers: dict[str, int]
    play_url: str
    hls_url: str
    poster_url: str


class Filter(msgspec.Struct, rename="camel"):
    app: Annotated[str, Meta(max_length=64, description="Only this app")] = ""
    room: Annotated[str, Meta(max_length=120, description="Only this room, by its full name")] = ""
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Sessions:
    """`renditions`: the node's, so that a session tells what is made of it; None where there are none."""

    def __init__(self, registry: Registry, origin: Origin, ports: Ports, renditions: Renditions | None = None) -> None:
        self._registry = registry
        self._renditions = renditions
        self._origin = origin
        self._ports = ports

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"method": "GET", "dialect": OPERATOR, "tag": "Operator", "auth": Permission.LIVE}
        return [
            Route(
                path="/api/v1/sessions",
                handler=self.list_sessions,
                query=Filter,
                response=Page[SessionView],
                summary="Publications of this moment",
                example=Page([_EXAMPLE], 1, 100, 0),
                **common,
            ),
            Route(
                path="/api/v1/sessions/{session:[^/]+(?:/[^/]+)?}",
                handler=self.get_session,
                response=Data[SessionView],
                summary="One publication; the id is room/identity with the slash written %2F",
                example=Data(_EXAMPLE),
                **common,
            ),
            Route(
                path="/api/v1/rooms",
                handler=self.list_rooms,
                query=Filter,
                response=Page[RoomView],
                summary="Rooms on air or with readers",
                **{**common, "auth": Permission.VIEW},
            ),
        ]

    async def list_sessions(self, call: Call[Principal, Empty, Filter]) -> Page[SessionView]:
        now = clock.now()
        rooms = self._rooms(call.who, call.query)
        found = [view_of(room, p, now, self._made()) for room in rooms for p in room.publications.values()]
        return page_of(found, call.query.limit, call.query.offset)

    async def get_session(self, call: Call[Principal, Empty, Empty]) -> Data[SessionView]:
        name, _, identity = call.path("session").partition("/")
        for room in self._rooms(call.who, Filter(room=name)):
            if identity in room.publications:
                return Data(view_of(room, room.publications[identity], clock.now(), self._made()))
        raise NotFound(f"session {name}/{identity} is not live", code="no-such-session")

    async def list_rooms(self, call: Call[Principal, Empty, Filter]) -> Page[RoomView]:
        urls = Urls.of(self._origin, call.request, self._ports)
        return page_of([room_view(r, urls) for r in self._rooms(call.who, call.query)], call.query.limit, call.query.offset)

    def _made(self) -> tuple[Rendition, ...]:
        return self._renditions.all if self._renditions is not None else ()

    def _rooms(self, who: Principal, wanted: Filter) -> list[Room]:
        """Those that the key may see, by name."""
        rooms = (r for r in self._registry if who.node or r.project_id == who.project_id)
        chosen = (r for r in rooms if wanted.app in ("", r.slug) and wanted.room in ("", r.name))
        return sorted(chosen, key=lambda r: (r.slug, r.name))


def session_id(publication: Publication) -> str:
    """As StreamHub's streamId."""
    return f"{publication.grant.room}/{publication.grant.identity}"


def view_of(room: Room, publication: Publication, now: float, renditions: Iterable[Rendition] = ()) -> SessionView:
    """The numbers of this moment; `now` is clock.now(). `renditions`: the node's; those of this publication are told."""
    grant, health = publication.grant, publication.health
    sources = (publication, room) if room.programme is publication else (publication,)
    made = [r for r in renditions if r.source in sources]
    realtime = [r.treatment["video"] for r in made if r.want.realtime and "video" in r.treatment]
    queues = [s for s in publication.sinks if isinstance(s, Queued)]
    age = max(0.0, now - publication.opened_at)
    return SessionView(
        id=session_id(publication),
        app=grant.slug,
        room=grant.room,
        identity=grant.identity,
        name=grant.name,
        ingress_id=grant.ingress_id,
        door=publication.door,
        peer=publication.peer,
        state="active" if publication.active else "buffering",
        programme=room.programme is publication,
        started_at=clock.iso(publication.opened_wallclock),
        uptime=round(age, 1),
        tracks=[_track(publication, t, now) for t in publication.tracks],
        drift=round(health.drift, 3),
        drops=dict(health.drops),
        repairs=dict(health.repairs),
        viewers={door: n for door, n in room.viewers.items() if n},
        queue=QueueView(
            readers=len(queues),
            queued=sum(q.queued for q in queues),
            deepest=max((q.queued for q in queues), default=0),
            dropped=sum(_count(q.dropped) for q in queues),
        ),
        last_error=health.last_error,
        hints=hints(publication.tracks, publication.meters, health, age, now, realtime),
        source_clock=_utc(health.source_clock),
        network={name: round(value, 4) for name, value in health.network.items()},
        renditions=[_rendition(r) for r in made],
    )


def _utc(seconds: float | None) -> str | None:
    """None where there is none, and where a publisher's clock is out of all bounds."""
    return None if seconds is None or not 0.0 <= seconds < YEAR_2200 else clock.iso(seconds)


def _rendition(rendition: Rendition) -> RenditionView:
    return RenditionView(
        video=rendition.want.video,
        audio=rendition.want.audio,
        treatment=rendition.treatment,
        users=rendition.users,
        transcodes=rendition.transcodes,
        queued=rendition.queued,
        dropped=rendition.dropped,
        latency=rendition.latency,
        last_error=rendition.last_error,
    )


def _count(dropped: int | Mapping[str, int]) -> int:
    return dropped if isinstance(dropped, int) else sum(dropped.values())


def _track(publication: Publication, track: Track, now: float) -> TrackView:
    meter = publication.meters[track.id]
    return TrackView(
        id=track.id,
        kind="video" if track.is_video else "audio",
        codec=track.codec.value,
        packets=meter.packets,
        bytes=meter.nbytes,
        bitrate=round(meter.bitrate),
        width=track.width,
        height=track.height,
        frame_rate=round(meter.frame_rate, 2) if track.is_video else 0.0,
        declared_frame_rate=round(track.frame_rate, 3),
        key_frames=meter.keyframes if track.is_video else 0,
        key_frame_interval=round(meter.keyframe_interval, 2),
        b_frames=track.is_video and meter.reordered,
        sample_rate=track.sample_rate,
        channels=track.channels,
        idle_seconds=round(max(0.0, now - meter.last_at), 1) if meter.last_at else 0.0,
        layer=track.layer,
    )


def showing(room: Room | None) -> Showing:
    """What its players see now."""
    if room is None or room.programme is None:
        return "nothing"
    return "slate" if room.slated else "backup" if room.backed_up else "publisher"


def room_view(room: Room, urls: Urls) -> RoomView:
    return RoomView(
        app=room.slug,
        room=room.name,
        on_air=room.on_air,
        held=room.held or room.slated,
        live_since=clock.iso(room.live_since) if room.on_air else None,
        programme=session_id(room.programme) if room.programme is not None and not room.slated else None,
        showing=showing(room),
        sessions=[session_id(p) for p in room.publications.values()],
        viewers={door: n for door, n in room.viewers.items() if n},
        play_url=urls.play(room.slug, room.name),
        hls_url=urls.hls(room.slug, room.name),
        poster_url=urls.frame(room.slug, room.name),
    )


_EXAMPLE = SessionView(
    id="live-demo/obs",
    app="live",
    room="live-demo",
    identity="obs",
    name="OBS Studio",
    ingress_id="IN_0123456789abcdef",
    door="rtmp",
    peer="192.0.2.7",
    state="active",
    programme=True,
    started_at="2026-03-29T14:30:00.000Z",
    uptime=81.4,
    tracks=[
        TrackView(
            id=1,
            kind="video",
            codec="h264",
            packets=2440,
            bytes=25_400_000,
            bitrate=2_501_000,
            width=1280,
            height=720,
            frame_rate=29.97,
            declared_frame_rate=30.0,
            key_frames=10,
            key_frame_interval=8.3,
            b_frames=True,
        )
    ],
    drift=0.012,
    drops={},
    repairs={},
    viewers={"hls": 1, "whep": 3},
    queue=QueueView(1, 0, 0, 0),
    last_error="",
    hints=[
        f"B-frames: WebRTC viewers cannot be shown them and see a lower frame rate: {NO_B_FRAMES}",
        "key-frame interval 8.3 s makes HLS start slowly: set 2 s",
    ],
    renditions=[
        RenditionView(
            video="realtime",
            audio="opus",
            treatment={"video": "b-frames-dropped", "audio": "aac-to-opus"},
            users=3,
            transcodes=True,
            queued=0,
            dropped={"b-frame": 812},
            latency={"audio": 41.5},
            last_error="",
        )
    ],
)
