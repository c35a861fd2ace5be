"""Recordings: listed, started and stopped by hand, titled, pinned, deleted; clips; what there is of a room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode import clock
from medianode.api.desk import Desk
from medianode.api.fields import OptionalIdentity, RoomName, Text
from medianode.api.live import instant
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data, Page
from medianode.api.urls import Urls
from medianode.auth import Permission, Principal
from medianode.control.catalogue import Catalogue
from medianode.control.recordings import Extent, Recordings, Wanted
from medianode.errors import InvalidRequest
from medianode.media.names import room_name
from medianode.store.projects import Project
from medianode.store.recording_files import PAGE, RecordingFile
from medianode.store.recordings import Choice, Recording

State = Literal["recording", "finished", "failed"]
Reason = Literal["ingress", "room", "api", "clip", "rebuilt"]
_Word = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$")]
Labels = Annotated[
    dict[_Word, Text], Meta(max_length=20, extra={"expected": "at most 20 pairs of text, without control characters, names of up to 64"})
]
Instant = Annotated[str, Meta(max_length=40, extra={"expected": "an instant such as 2026-03-29T14:30:00Z, or seconds since 1970"})]
EARLIEST, LATEST = 0.0, 253_370_764_800.0
DAY = 86_400.0


class RecordingUrls(msgspec.Struct):
    """`page` is for people; `hls` plays it (while it is made, too), `download` is one MP4, both take `from` and `to`. Who may view them: as
    the room.
    """

    page: str
    hls: str
    download: str
    poster: str


class UploadView(msgspec.Struct):
    """`state`: `none`, `pending`, `uploading`, `done`, `failed` with the `error`; `url`: where it plays from the bucket."""

    state: str
    error: str
    url: str | None


class RecordingView(msgspec.Struct, rename="camel"):
    """`identity`: of the publisher that is recorded, empty for the room's programme. `reason`: why: `ingress` (its ingress or live stream
    is set so), `room` (the room is), `api`, `clip`, `rebuilt` (found on the disk). `duration` (seconds of media, without gaps) and `bytes`
    are of what there is: with the file that is being written, without what retention has taken, behind which `availableFrom` is; null:
    nothing is there. `pinned`: retention leaves it alone. `node`: which has its files.
    """

    id: str
    app: str
    room: str
    identity: str
    ingress_id: str | None
    reason: str
    state: str
    title: str
    labels: dict[str, str]
    pinned: bool
    started_at: str
    ended_at: str | None
    available_from: str | None
    duration: float
    bytes: int
    error_code: str
    error: str
    node: str
    media_id: str | None
    playback_id: str | None
    upload: UploadView
    urls: RecordingUrls


class FileTrack(msgspec.Struct):
    """`rate`: of sound, samples a second. What does not go with its kind is 0."""

    kind: str
    codec: str
    width: int = 0
    height: int = 0
    rate: int = 0
    channels: int = 0


class FileView(msgspec.Struct, rename="camel"):
    """`start`: seconds from the recording's start. `gap`: why nothing was recorded right before it, or empty. `state`: `open`, `closed`,
    `gone` (here: it may be in a bucket).
    """

    name: str
    state: str
    started_at: str
    start: float
    duration: float
    bytes: int
    tracks: list[FileTrack]
    gap: str
    uploaded: bool
    url: str


class GapView(msgspec.Struct):
    """Of a recording: `seconds` from `start` on (of the recording) in which nothing was recorded, and why."""

    start: float
    seconds: float
    cause: str


class RecordingDetail(RecordingView, rename="camel", kw_only=True):
    files: list[FileView]
    gaps: list[GapView]


class Filter(msgspec.Struct):
    """`from`, `to`: only recordings with anything between them."""

    room: RoomName = ""
    state: State | UnsetType = UNSET
    reason: Reason | UnsetType = UNSET
    since: Instant = msgspec.field(name="from", default="")
    until: Instant = msgspec.field(name="to", default="")
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    offset: Annotated[int, Meta(ge=0, le=10_000_000)] = 0


class Deletion(msgspec.Struct, rename="camel"):
    """`keepRemote`: what is in the project's bucket stays there."""

    keep_remote: bool = False


class NewRecording(msgspec.Struct, rename="camel"):
    """What is on air in the room: its programme, or one publisher by `identity`, over reconnects, until it is stopped, the session ends or
    `maxDuration` seconds have passed (0: no bound).
    """

    room: RoomName
    identity: OptionalIdentity = ""
    title: Text = ""
    labels: Labels = {}
    max_duration: Annotated[float, Meta(ge=0, le=31_536_000)] = 0.0


class RecordingChange(msgspec.Struct):
    """What is absent stays as it is. `labels` are replaced as a whole."""

    title: Text | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    pinned: bool | UnsetType = UNSET


class StretchView(msgspec.Struct, rename="camel"):
    """Uninterrupted media of one recording; `to` null: it goes on. `gap`: why nothing is before it, or empty. `here`: on the node, else in
    a bucket only.
    """

    recording_id: str
    identity: str
    since: str = msgspec.field(name="from")
    until: str | None = msgspec.field(name="to")
    gap: str
    here: bool


class TimelineView(msgspec.Struct):
    """By time. `hls` plays what is between `from` and `to`."""

    room: str
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")
    stretches: list[StretchView]
    hls: str


class Span(msgspec.Struct):
    """Without them the last 24 hours."""

    since: Instant = msgspec.field(name="from", default="")
    until: Instant = msgspec.field(name="to", default="")


class RecordingsApi:
    def __init__(self, desk: Desk, recordings: Recordings, catalogue: Catalogue) -> None:
        self._desk = desk
        self._recordings = recordings
        self._catalogue = catalogue

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Recordings", "auth": Permission.LIVE}
        some, one = "/api/v1/projects/{project}/recordings", "/api/v1/projects/{project}/recordings/{recording}"
        viewing = {**common, "auth": Permission.VIEW}
        return [
            Route(
                method="GET",
                path=some,
                handler=self.list_recordings,
                query=Filter,
                response=Page[RecordingView],
                summary="Recordings, newest first",
                example=Page([EXAMPLE], 1, 50, 0),
                **viewing,
            ),
            Route(
                method="POST",
                path=some,
                handler=self.start,
                request=NewRecording,
                response=Data[RecordingView],
                status=201,
                errors=(404, 409, 501),
                summary="Record what is on air in a room",
                request_example=NewRecording("demo", title="Press conference", max_duration=3600),
                example=Data(EXAMPLE),
                **common,
            ),
            Route(
                method="GET",
                path=one,
                handler=self.get,
                response=Data[RecordingDetail],
                summary="One recording, its files and its gaps",
                example=Data(_DETAIL),
                **viewing,
            ),
            Route(
                method="GET",
                path="/api/v1/projects/{project}/rooms/{room}/timeline",
                handler=self.timeline,
                query=Span,
                response=Data[TimelineView],
                summary="When something was recorded in a room, and when nothing",
                example=Data(_TIMELINE),
                **viewing,
            ),
            Route(
                method="POST",
                path=f"{one}/stop",
                handler=self.stop,
                response=Data[RecordingView],
                errors=(409,),
                summary="Stop it; answers when its last file is complete. What began by itself does so again with the next session",
                example=Data(EXAMPLE),
                **common,
            ),
            Route(
                method="PATCH",
                path=one,
                handler=self.change,
                request=RecordingChange,
                response=Data[RecordingView],
                summary="Title, labels, and whether retention leaves it alone",
                request_example=RecordingChange(title="Press conference", labels={"case": "17"}),
                example=Data(EXAMPLE),
                **common,
            ),
            Route(
                method="DELETE",
                path=one,
                handler=self.delete,
                query=Deletion,
                status=204,
                errors=(409,),
                summary="Delete it and its files, in the bucket too; one that runs is stopped first (as by stop), a pinned one is refused",
                **common,
            ),
        ]

    async def list_recordings(self, call: Call[Principal, Empty, Filter]) -> Page[RecordingView]:
        project, wanted, urls = await self._desk.project(call), call.query, self._desk.urls(call)
        choice = Choice(
            room=room_name(project.slug, wanted.room) if wanted.room else "",
            state=wanted.state or "",
            reason=wanted.reason or "",
            since=moment(wanted.since, "from"),
            until=moment(wanted.until, "to"),
        )
        found, total = await self._recordings.list(project.id, choice, limit=wanted.limit, offset=wanted.offset)
        extents = await self._recordings.extents(found)
        return Page([recording_view(r, project.slug, urls, extents[r.id]) for r in found], total, wanted.limit, wanted.offset)

    async def start(self, call: Call[Principal, NewRecording, Empty]) -> Data[RecordingView]:
        project, new = await self._desk.project(call), call.body
        begun = await self._recordings.start(
            project, Wanted(room=new.room, identity=new.identity, title=new.title, labels=new.labels, max_duration=new.max_duration)
        )
        return Data(recording_view(begun, project.slug, self._desk.urls(call)))

    async def get(self, call: Call[Principal, Empty, Empty]) -> Data[RecordingDetail]:
        project = await self._desk.project(call)
        found = await self._recordings.get(project.id, call.path("recording"))
        files = await self._recordings.files(found.id)
        shown = msgspec.structs.asdict(await self._view(call, project, found))
        views = await file_views(files, project.slug, self._desk.urls(call))
        return Data(RecordingDetail(**shown, files=views, gaps=gaps_of(files)))

    async def timeline(self, call: Call[Principal, Empty, Span]) -> Data[TimelineView]:
        project, wanted = await self._desk.project(call), call.query
        room, now = room_name(project.slug, call.path("room")), clock.wallclock()
        given = moment(wanted.until, "to")
        until = now if given is None else given
        earliest = moment(wanted.since, "from")
        since = max(0.0, until - DAY) if earliest is None else earliest
        if until <= since:
            raise InvalidRequest("to: expected an instant behind from")
        found = await self._catalogue.timeline(project.id, room, since, until)
        stretches = [StretchView(s.recording_id, s.identity, clock.iso(s.started_at), instant(s.ended_at), s.gap, s.here) for s in found]
        hls = f"{self._desk.urls(call).room_recordings(project.slug, room)}?from={since:.3f}&to={until:.3f}"
        return Data(TimelineView(room, clock.iso(since), clock.iso(until), stretches, hls))

    async def stop(self, call: Call[Principal, Empty, Empty]) -> Data[RecordingView]:
        project = await self._desk.project(call)
        stopped = await self._recordings.stop(project.id, call.path("recording"))
        return Data(await self._view(call, project, stopped))

    async def change(self, call: Call[Principal, RecordingChange, Empty]) -> Data[RecordingView]:
        project = await self._desk.project(call)
        given = {name: value for name, value in msgspec.structs.asdict(call.body).items() if value is not UNSET}
        if not given:
            raise InvalidRequest("title: expected this, labels or pinned, got nothing")
        changed = await self._recordings.change(project.id, call.path("recording"), **given)
        return Data(await self._view(call, project, changed))

    async def delete(self, call: Call[Principal, Empty, Deletion]) -> None:
        project = await self._desk.project(call)
        await self._recordings.delete(project.id, call.path("recording"), keep_remote=call.query.keep_remote)

    async def _view(self, call: Call[Principal, Any, Any], project: Project, recording: Recording) -> RecordingView:
        extents = await self._recordings.extents([recording])
        return recording_view(recording, project.slug, self._desk.urls(call), extents[recording.id])


def moment(text: str, field: str) -> float | None:
    """The wallclock of an RFC 3339 text, or of seconds since 1970; None where there is no text. Raises InvalidRequest."""
    if not text:
        return None
    try:
        at = float(text) if text.replace(".", "", 1).isdigit() else clock.seconds(text.replace(" ", "+"))
    except (ValueError, OverflowError):
        at = -1.0
    if not EARLIEST <= at < LATEST:
        raise InvalidRequest(f"{field}: expected an instant such as 2026-03-29T14:30:00Z, or seconds since 1970, got {text[:40]!r}")
    return at


def recording_view(recording: Recording, slug: str, urls: Urls, extent: Extent | None = None) -> RecordingView:
    """`extent`: of what there is; None: all of it."""
    extent = extent or Extent(recording.duration, recording.nbytes, recording.started_at)
    query = ""
    if recording.reason == "clip" and recording.ended_at is not None:
        query = f"?from={recording.started_at:.3f}&to={recording.ended_at:.3f}"
    where = slug, recording.id
    return RecordingView(
        id=recording.id,
        app=slug,
        room=recording.room,
        identity=recording.identity,
        ingress_id=recording.ingress_id,
        reason=recording.reason,
        state=recording.state,
        title=recording.title,
        labels=dict(recording.labels),
        pinned=recording.pinned,
        started_at=clock.iso(recording.started_at),
        ended_at=instant(recording.ended_at),
        available_from=instant(extent.since),
        duration=seconds(extent.duration),
        bytes=extent.nbytes,
        error_code=recording.error_code,
        error=recording.error_message,
        node=recording.node_id,
        media_id=recording.media_id,
        playback_id=recording.playback_id,
        upload=UploadView(recording.upload_state, recording.upload_error, recording.remote_url or None),
        urls=RecordingUrls(
            urls.recording_page(*where),
            urls.recording(*where) + query,
            urls.recording(*where, "download.mp4") + query,
            urls.recording(*where, "poster.jpg"),
        ),
    )


def file_view(file: RecordingFile, slug: str, urls: Urls) -> FileView:
    return FileView(
        name=file.name,
        state=file.state,
        started_at=clock.iso(file.started_at),
        start=seconds(file.start),
        duration=seconds(file.duration),
        bytes=file.nbytes,
        tracks=[msgspec.convert(track, FileTrack) for track in file.tracks],
        gap=file.gap,
        uploaded=file.uploaded_at is not None,
        url=urls.recording(slug, file.recording_id, file.name),
    )


async def file_views(files: Sequence[RecordingFile], slug: str, urls: Urls) -> list[FileView]:
    """A month's are 43 200: between two pages the loop gets on with other things."""
    views: list[FileView] = []
    for first in range(0, len(files), PAGE):
        views += [file_view(file, slug, urls) for file in files[first : first + PAGE]]
        await asyncio.sleep(0)
    return views


def gaps_of(files: Iterable[RecordingFile]) -> list[GapView]:
    """Between the files, in order."""
    found: list[GapView] = []
    end: int | None = None
    for file in files:
        if file.gap and end is not None:
            found.append(GapView(seconds(end), max(0.0, seconds(file.start - end)), file.gap))
        end = file.start + file.duration
    return found


def seconds(microseconds: int) -> float:
    return round(microseconds / 1_000_000, 3)


_ID = "rec_0a1B2c3D4e5F6g7H8i9J"
_WHERE = f"https://media.example.com/vod/live/{_ID}"
EXAMPLE = RecordingView(
    id=_ID,
    app="live",
    room="live-demo",
    identity="obs",
    ingress_id="IN_a1B2c3D4e5F6",
    reason="ingress",
    state="finished",
    title="",
    labels={},
    pinned=False,
    started_at="2026-03-29T14:30:00.000Z",
    ended_at="2026-03-29T14:31:20.000Z",
    available_from="2026-03-29T14:30:00.000Z",
    duration=75.0,
    bytes=23_400_000,
    error_code="",
    error="",
    node="node_0123456789ab",
    media_id=None,
    playback_id=None,
    upload=UploadView("none", "", None),
    urls=RecordingUrls(_WHERE, f"{_WHERE}/index.m3u8", f"{_WHERE}/download.mp4", f"{_WHERE}/poster.jpg"),
)
_TRACKS = (FileTrack("video", "h264", 1280, 720), FileTrack("audio", "aac", rate=48_000, channels=2))
_FILES = [
    FileView("000001.mp4", "closed", EXAMPLE.started_at, 0.0, 60.0, 18_720_000, list(_TRACKS), "", False, f"{_WHERE}/000001.mp4"),
    FileView(
        *("000002.mp4", "closed", "2026-03-29T14:31:05.000Z", 65.0, 15.0, 4_680_000),
        *(list(_TRACKS), "publisher-gap", False, f"{_WHERE}/000002.mp4"),
    ),
]
_TIMELINE = TimelineView(
    *("live-demo", EXAMPLE.started_at, "2026-03-29T15:30:00.000Z"),
    [StretchView(_ID, "obs", EXAMPLE.started_at, EXAMPLE.ended_at, "", True)],
    "https://media.example.com/vod/live/rooms/live-demo/index.m3u8?from=1774794600.000&to=1774798200.000",
)
_DETAIL = RecordingDetail(**msgspec.structs.asdict(EXAMPLE), files=_FILES, gaps=[GapView(60.0, 5.0, "publisher-gap")])
