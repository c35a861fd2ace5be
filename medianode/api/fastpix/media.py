"""`/v1/on-demand`: what is left of live streams: their recordings, as media with a playback id (shapes as the SDK parses them).

Media come from live streams only: nothing is uploaded or fetched here. Each has one playback id, as open as its live stream was.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from medianode import clock
from medianode.api.fastpix.shapes import Data, Desk, Filter, Listed, Metadata, PlaybackView, Success, listed
from medianode.api.fields import Text
from medianode.api.problems import FASTPIX
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.urls import Urls
from medianode.auth import Permission, Principal
from medianode.control.assets import Assets
from medianode.control.recordings import Recordings
from medianode.errors import NotFound
from medianode.media.names import shown
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording

HEIGHTS = (2160, 1440, 1080, 720, 480, 360)


class MediaTrack(msgspec.Struct, rename="camel"):
    id: str
    type: Literal["video", "audio"]
    status: str
    width: int | UnsetType = UNSET
    height: int | UnsetType = UNSET


class MediaObject(msgspec.Struct, rename="camel"):
    """`recordingId`, `downloadUrl` and the playback id's `url` are ours."""

    thumbnail: str
    id: str
    workspace_id: str
    stream_id: str | None
    metadata: dict[str, str]
    title: str
    source_resolution: str
    max_resolution: str
    status: str
    source_access: bool
    playback_ids: list[PlaybackView]
    tracks: list[MediaTrack]
    duration: float
    is_audio_only: bool
    created_at: str
    updated_at: str
    recording_id: str
    download_url: str


class ChangeMedia(msgspec.Struct):
    """What is absent stays as it is."""

    metadata: Metadata | UnsetType = UNSET
    title: Text | UnsetType = UNSET


class Media:
    def __init__(self, desk: Desk, assets: Assets, recordings: Recordings) -> None:
        self._desk = desk
        self._assets = assets
        self._recordings = recordings

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": FASTPIX, "tag": "FastPix", "auth": Permission.LIVE}
        one: dict[str, Any] = {"path": "/v1/on-demand/{media}", "aliases": ("/on-demand/{media}",), **common}
        ids: dict[str, Any] = {"response": Data[PlaybackView], "example": Data(True, _EXAMPLE.playback_ids[0]), **common}
        paged: dict[str, Any] = {"query": Filter, "response": Listed[MediaObject], "example": listed([_EXAMPLE], 1, 1, 10), **common}
        return [
            Route(
                method="GET",
                path="/v1/on-demand",
                aliases=("/on-demand",),
                handler=self.list_media,
                summary="List media: the recordings of live streams",
                **paged,
            ),
            Route(
                method="GET",
                path="/v1/on-demand/{stream}/live-clips",
                aliases=("/on-demand/{stream}/live-clips",),
                handler=self.list_of_stream,
                summary="List the media of one live stream",
                **paged,
            ),
            Route(method="GET", handler=self.get, response=Data[MediaObject], summary="One media", example=Data(True, _EXAMPLE), **one),
            Route(
                method="PATCH",
                handler=self.change,
                request=ChangeMedia,
                response=Data[MediaObject],
                summary="Change a media's metadata or title",
                request_example=ChangeMedia(metadata={"name": "launch"}),
                example=Data(True, _EXAMPLE),
                **one,
            ),
            Route(method="DELETE", handler=self.delete, response=Success, errors=(409,), summary="Delete a media and its files", **one),
            Route(
                method="GET",
                path="/v1/on-demand/{media}/playback-ids/{playback}",
                aliases=("/on-demand/{media}/playback-ids/{playback}",),
                handler=self.get_playback_id,
                summary="One playback id of a media",
                **ids,
            ),
        ]

    async def list_media(self, call: Call[Principal, Empty, Filter]) -> Listed[MediaObject]:
        return await self._page(call, None)

    async def list_of_stream(self, call: Call[Principal, Empty, Filter]) -> Listed[MediaObject]:
        return await self._page(call, call.path("stream"))

    async def get(self, call: Call[Principal, Empty, Empty]) -> Data[MediaObject]:
        (found,) = await self._recordings.whole([await self._find(call)])
        return Data(True, await self._object(call, found))

    async def change(self, call: Call[Principal, ChangeMedia, Empty]) -> Data[MediaObject]:
        found, body = await self._find(call), call.body
        given = {"labels": body.metadata, "title": body.title}
        changed = {name: value for name, value in given.items() if value is not UNSET}
        if changed:
            found = await self._recordings.change(found.project_id, found.id, **changed)
        (found,) = await self._recordings.whole([found])
        return Data(True, await self._object(call, found))

    async def delete(self, call: Call[Principal, Empty, Empty]) -> Success:
        found = await self._find(call)
        await self._recordings.delete(found.project_id, found.id)
        return Success(True)

    async def get_playback_id(self, call: Call[Principal, Empty, Empty]) -> Data[PlaybackView]:
        found = await self._find(call)
        if call.path("playback") != found.playback_id:
            raise NotFound(f"media {found.media_id}: no playback id {shown(call.path('playback'))}")
        return Data(True, _playback(found, self._desk.urls(call)))

    async def _page(self, call: Call[Principal, Empty, Filter], stream: str | None) -> Listed[MediaObject]:
        project, wanted = await self._desk.project(call.who), call.query
        found, total = await self._assets.list(
            project.id, ingress_id=stream, newest_first=wanted.newest_first, limit=wanted.limit, offset=wanted.first
        )
        objects = [await self._object(call, recording) for recording in await self._recordings.whole(found)]
        return listed(objects, total, wanted.offset, wanted.limit)

    async def _find(self, call: Call[Principal, Any, Any]) -> Recording:
        return await self._assets.get((await self._desk.project(call.who)).id, call.path("media"))

    async def _object(self, call: Call[Principal, Any, Any], recording: Recording) -> MediaObject:
        return media_object(recording, await self._recordings.first_file(recording.id), self._desk.urls(call))


def media_object(recording: Recording, first: RecordingFile | None, urls: Urls) -> MediaObject:
    """`first`: its first file, which tells the tracks."""
    tracks = [_track(recording, number, track) for number, track in enumerate(first.tracks if first is not None else ())]
    lines = max((min(t.width, t.height) for t in tracks if t.width is not UNSET and t.height is not UNSET), default=0)
    playback_id = recording.playback_id or ""
    resolution = next((f"{height}p" for height in HEIGHTS if lines >= height), f"{lines}p")
    return MediaObject(
        thumbnail=urls.asset(playback_id, "poster.jpg"),
        id=recording.media_id or "",
        workspace_id=recording.project_id,
        stream_id=recording.ingress_id,
        metadata=dict(recording.labels),
        title=recording.title,
        source_resolution=resolution,
        max_resolution=resolution,
        status="Failed" if recording.state == "failed" else "Ready",
        source_access=False,
        playback_ids=[_playback(recording, urls)] if recording.playback_id else [],
        tracks=tracks,
        duration=recording.duration / 1_000_000,
        is_audio_only=bool(tracks) and all(track.type == "audio" for track in tracks),
        created_at=clock.iso(recording.started_at, 6),
        updated_at=clock.iso(recording.ended_at or recording.started_at, 6),
        recording_id=recording.id,
        download_url=urls.asset(playback_id, "download.mp4"),
    )


def _track(recording: Recording, number: int, track: Any) -> MediaTrack:
    kind: Literal["video", "audio"] = "video" if track.get("kind") == "video" else "audio"
    made = MediaTrack(f"{recording.media_id}-{number}", kind, "Ready")
    if kind == "video":
        made.width, made.height = int(track.get("width", 0)), int(track.get("height", 0))
    return made


def _playback(recording: Recording, urls: Urls) -> PlaybackView:
    playback_id = recording.playback_id or ""
    return PlaybackView(playback_id, recording.access_policy, urls.playback(playback_id))


_ID = "8717422d-8928-4ad5-958d-4a86e9afe2a2"
_PLAYBACK = "9d3c1f5b-2a77-4c43-8e0f-7c5a4f5e8a0b"
_WHERE = f"https://media.example.com/vod/{_PLAYBACK}"
_EXAMPLE = MediaObject(
    thumbnail=f"{_WHERE}/poster.jpg",
    id=_ID,
    workspace_id="prj_0123456789ab",
    stream_id="0123456789abcdef0123456789abcdef",
    metadata={},
    title="",
    source_resolution="720p",
    max_resolution="720p",
    status="Ready",
    source_access=False,
    playback_ids=[PlaybackView(_PLAYBACK, "public", f"https://media.example.com/{_PLAYBACK}.m3u8")],
    tracks=[MediaTrack(f"{_ID}-0", "video", "Ready", 1280, 720), MediaTrack(f"{_ID}-1", "audio", "Ready")],
    duration=75.0,
    is_audio_only=False,
    created_at="2026-03-29T14:30:00.000000Z",
    updated_at="2026-03-29T14:31:20.000000Z",
    recording_id="rec_0a1B2c3D4e5F6g7H8i9J",
    download_url=f"{_WHERE}/download.mp4",
)
