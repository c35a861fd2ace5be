"""StreamHub's recordings: started, stopped, and what has become of them (contracts 2.3)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from medianode import clock
from medianode.api.desk import Desk
from medianode.api.fields import RoomName, Text
from medianode.api.live import instant
from medianode.api.problems import STREAMHUB
from medianode.api.recordings import EXAMPLE, seconds
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data, Page
from medianode.api.urls import Urls
from medianode.auth import Permission, Principal
from medianode.control.ingresses import Ingresses
from medianode.control.projects import Projects
from medianode.control.recordings import Recordings, Wanted
from medianode.errors import NotFound
from medianode.media.names import room_name, shown
from medianode.store.recordings import Choice, Recording

Status = Literal["recording", "ready", "failed"]
STATUS: dict[str, Status] = {"recording": "recording", "finished": "ready", "failed": "failed"}
STATES = {status: state for state, status in STATUS.items()}


class Begin(msgspec.Struct, rename="camel"):
    """`streamId`: of one publisher, as `room/identity` or the ingress's id; without it the room's programme. `title` is ours."""

    room_name: RoomName
    stream_id: Annotated[str, Meta(max_length=260)] = ""
    title: Text = ""


class Begun(msgspec.Struct, rename="camel"):
    """`egressId` and `vodId` are the same: there is one VOD of a recording."""

    vod_id: str
    egress_id: str
    status: Status


class Vod(msgspec.Struct, rename="camel"):
    """`vodId` is `id`. `playUrl` (HLS) plays while it is recorded, too; `url` is one MP4. `duration` in seconds, `size` in bytes."""

    id: str
    vod_id: str
    egress_id: str
    app_id: str
    room: str
    stream_id: str
    title: str
    status: Status
    started_at: str
    ended_at: str | None
    duration: float
    size: int
    play_url: str
    url: str
    thumbnail_url: str
    error: str | None


class VodDeleted(msgspec.Struct, rename="camel"):
    vod_id: str
    deleted: bool = True


class Filter(msgspec.Struct):
    room: RoomName = ""
    status: Status | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Vods:
    def __init__(self, projects: Projects, ingresses: Ingresses, recordings: Recordings, desk: Desk) -> None:
        self._projects = projects
        self._ingresses = ingresses
        self._recordings = recordings
        self._desk = desk

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": STREAMHUB, "tag": "StreamHub", "auth": Permission.LIVE}
        viewing = {**common, "auth": Permission.VIEW}
        return [
            Route(
                method="POST",
                path="/api/v1/apps/{app}/recording/start",
                handler=self.start_recording,
                request=Begin,
                response=Data[Begun],
                status=201,
                errors=(409, 501),
                summary="Record what is on air in a room",
                request_example=Begin("demo"),
                example=Data(Begun(EXAMPLE.id, EXAMPLE.id, "recording")),
                **common,
            ),
            Route(
                method="POST",
                path="/api/v1/apps/{app}/recording/{id}/stop",
                handler=self.stop_recording,
                response=Data[Begun],
                status=201,
                errors=(409,),
                summary="Stop a recording; answers when its last file is complete",
                example=Data(Begun(EXAMPLE.id, EXAMPLE.id, "ready")),
                **common,
            ),
            Route(
                method="GET",
                path="/api/v1/apps/{app}/vods",
                handler=self.list_vods,
                query=Filter,
                response=Page[Vod],
                summary="Recordings, newest first",
                example=Page([_VOD], 1, 50, 0),
                **viewing,
            ),
            Route(
                method="GET",
                path="/api/v1/apps/{app}/vods/{id}",
                handler=self.get_vod,
                response=Data[Vod],
                summary="One recording",
                example=Data(_VOD),
                **viewing,
            ),
            Route(
                method="DELETE",
                path="/api/v1/apps/{app}/vods/{id}",
                handler=self.delete_vod,
                response=Data[VodDeleted],
                errors=(409,),
                summary="Delete a recording and its files",
                example=Data(VodDeleted(EXAMPLE.id)),
                **common,
            ),
        ]

    async def start_recording(self, call: Call[Principal, Begin, Empty]) -> Data[Begun]:
        project, new = await self._projects.get(call.path("app")), call.body
        identity = await self._identity(project.id, room_name(project.slug, new.room_name), new.stream_id)
        begun = await self._recordings.start(project, Wanted(room=new.room_name, identity=identity, title=new.title))
        return Data(_begun(begun))

    async def stop_recording(self, call: Call[Principal, Empty, Empty]) -> Data[Begun]:
        project = await self._projects.get(call.path("app"))
        return Data(_begun(await self._recordings.stop(project.id, call.path("id"))))

    async def list_vods(self, call: Call[Principal, Empty, Filter]) -> Page[Vod]:
        project, wanted, urls = await self._projects.get(call.path("app")), call.query, self._desk.urls(call)
        room = room_name(project.slug, wanted.room) if wanted.room else ""
        state = STATES[wanted.status] if wanted.status is not None else ""
        found, total = await self._recordings.list(project.id, Choice(room=room, state=state), limit=wanted.limit, offset=wanted.offset)
        whole = await self._recordings.whole(found)
        return Page([vod(recording, project.slug, urls) for recording in whole], total, wanted.limit, wanted.offset)

    async def get_vod(self, call: Call[Principal, Empty, Empty]) -> Data[Vod]:
        project = await self._projects.get(call.path("app"))
        (found,) = await self._recordings.whole([await self._recordings.get(project.id, call.path("id"))])
        return Data(vod(found, project.slug, self._desk.urls(call)))

    async def delete_vod(self, call: Call[Principal, Empty, Empty]) -> Data[VodDeleted]:
        project = await self._projects.get(call.path("app"))
        return Data(VodDeleted((await self._recordings.delete(project.id, call.path("id"))).id))

    async def _identity(self, project_id: str, room: str, stream_id: str) -> str:
        """Whose stream that is. Raises NotFound."""
        if not stream_id:
            return ""
        named, slash, identity = stream_id.partition("/")
        if not slash:
            ingress = await self._ingresses.get(project_id, stream_id)
            named, identity = ingress.room, ingress.participant_identity
        if named != room or not identity:
            raise NotFound(f"room {room}: no stream {shown(stream_id)}", code="no-such-stream")
        return identity


def _begun(recording: Recording) -> Begun:
    return Begun(recording.id, recording.id, STATUS[recording.state])


def vod(recording: Recording, slug: str, urls: Urls) -> Vod:
    where = slug, recording.id
    return Vod(
        id=recording.id,
        vod_id=recording.id,
        egress_id=recording.id,
        app_id=recording.project_id,
        room=recording.room,
        stream_id=f"{recording.room}/{recording.identity}" if recording.identity else recording.room,
        title=recording.title,
        status=STATUS[recording.state],
        started_at=clock.iso(recording.started_at),
        ended_at=instant(recording.ended_at),
        duration=seconds(recording.duration),
        size=recording.nbytes,
        play_url=urls.recording(*where),
        url=urls.recording(*where, "download.mp4"),
        thumbnail_url=urls.recording(*where, "poster.jpg"),
        error=recording.error_message or recording.error_code or None,
    )


_VOD = Vod(
    id=EXAMPLE.id,
    vod_id=EXAMPLE.id,
    egress_id=EXAMPLE.id,
    app_id="prj_0123456789ab",
    room="live-demo",
    stream_id="live-demo",
    title="",
    status="ready",
    started_at=EXAMPLE.started_at,
    ended_at=EXAMPLE.ended_at,
    duration=75.0,
    size=EXAMPLE.bytes,
    play_url=EXAMPLE.urls.hls,
    url=EXAMPLE.urls.download,
    thumbnail_url=EXAMPLE.urls.poster,
    error=None,
)
