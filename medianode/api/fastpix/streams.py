"""`/v1/live/streams`: live streams."""

from __future__ import annotations

from typing import Any

import msgspec

from medianode.api.fastpix.shapes import (
    ChangeStream,
    CreateStream,
    Data,
    Desk,
    Filter,
    InputMediaSettings,
    Listed,
    PlaybackSettings,
    PlaybackView,
    SrtPlayback,
    StreamObject,
    Success,
    listed,
    stored,
)
from medianode.api.problems import FASTPIX
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.auth import Permission, Principal
from medianode.control.assets import Assets
from medianode.control.broadcasts import Broadcast
from medianode.control.live_streams import LiveStreams, Policy


class Views(msgspec.Struct):
    views: int


class Streams:
    def __init__(self, desk: Desk, streams: LiveStreams, assets: Assets) -> None:
        self._desk = desk
        self._streams = streams
        self._assets = assets

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": FASTPIX, "tag": "FastPix", "auth": Permission.LIVE}
        many: dict[str, Any] = {"path": "/v1/live/streams", "aliases": ("/live/streams",), **common}
        example = Data(True, _EXAMPLE)
        return [
            Route(
                method="POST",
                handler=self.create,
                request=CreateStream,
                response=Data[StreamObject],
                status=201,
                summary="Make a live stream, its stream key and a playback id",
                request_example=CreateStream(PlaybackSettings("public"), InputMediaSettings(metadata={"name": "launch"})),
                example=example,
                **many,
            ),
            Route(
                method="GET",
                handler=self.list_page,
                query=Filter,
                response=Listed[StreamObject],
                summary="List live streams",
                example=listed([_EXAMPLE], 1, 1, 10),
                **many,
            ),
            Route(method="GET", handler=self.get, response=Data[StreamObject], summary="One live stream", example=example, **_one(common)),
            Route(
                method="PATCH",
                handler=self.update,
                request=ChangeStream,
                response=Data[StreamObject],
                summary="Change a live stream",
                request_example=ChangeStream(metadata={"name": "launch"}, reconnect_window=120),
                example=example,
                **_one(common),
            ),
            Route(
                method="DELETE",
                handler=self.delete,
                response=Success,
                summary="Delete a live stream; its encoder and its viewers are disconnected at once",
                **_one(common),
            ),
            Route(
                method="PUT",
                handler=self.disable,
                response=Success,
                errors=(409,),
                summary="Put the encoder and the viewers out, and let none in until it is enabled",
                **_one(common, "/live-disable"),
            ),
            Route(
                method="PUT",
                handler=self.enable,
                response=Success,
                errors=(409,),
                summary="Let encoders in again",
                **_one(common, "/live-enable"),
            ),
            Route(
                method="PUT",
                handler=self.finish,
                response=Success,
                errors=(409,),
                summary="End the session that is on air, without a reconnect window",
                **_one(common, "/finish"),
            ),
            Route(
                method="GET",
                handler=self.viewers,
                response=Data[Views],
                summary="How many view it now, by all doors",
                example=Data(True, Views(17)),
                **_one(common, "/viewer-count"),
            ),
            Route(
                method="PUT",
                handler=self.reset_key,
                response=Data[StreamObject],
                summary="A new stream key (ours); who publishes by the old one is disconnected",
                example=example,
                **_one(common, "/stream-key"),
            ),
        ]

    async def create(self, call: Call[Principal, CreateStream, Empty]) -> Data[StreamObject]:
        playback, settings = call.body.playback_settings, call.body.input_media_settings
        policy = Policy(
            access_policy=playback.access_policy,
            restrictions=stored(playback.access_restrictions),
            reconnect_window=settings.reconnect_window,
            max_duration=settings.max_duration,
            max_resolution=settings.max_resolution,
            audio_only=settings.audio_only,
            latency_mode="low" if settings.low_latency else settings.latency_mode,
            enable_recording=settings.enable_recording,
            enable_dvr=settings.enable_dvr_mode,
            media_policy=settings.media_policy,
            metadata=settings.metadata,
            test=settings.test,
        )
        return await self._object(call, await self._streams.create(await self._desk.project(call.who), policy))

    async def list_page(self, call: Call[Principal, Empty, Filter]) -> Listed[StreamObject]:
        project, wanted = await self._desk.project(call.who), call.query
        found, total = await self._streams.list(project.id, newest_first=wanted.newest_first, limit=wanted.limit, offset=wanted.first)
        targets = await self._streams.targets(*(broadcast.ingress.id for broadcast in found))
        media = await self._assets.ids_of([broadcast.ingress.id for broadcast in found])
        objects = [
            self._desk.stream(call, b, [t for t in targets if t.ingress_id == b.ingress.id], media.get(b.ingress.id, ())) for b in found
        ]
        return listed(objects, total, wanted.offset, wanted.limit)

    async def get(self, call: Call[Principal, Empty, Empty]) -> Data[StreamObject]:
        return await self._object(call, await self._find(call))

    async def update(self, call: Call[Principal, ChangeStream, Empty]) -> Data[StreamObject]:
        project = await self._desk.project(call.who)
        given = {name: getattr(call.body, name) for name in call.body.__struct_fields__ if getattr(call.body, name) is not None}
        if "enable_dvr_mode" in given:
            given["enable_dvr"] = given.pop("enable_dvr_mode")
        if not given:
            return await self.get(Call(call.request, call.who, Empty(), Empty()))
        changed = await self._streams.change(project.id, call.path("id"), **given)
        self._desk.live.hold(changed.ingress, changed.stream.reconnect_window)
        return await self._object(call, changed)

    async def delete(self, call: Call[Principal, Empty, Empty]) -> Success:
        await self._streams.delete((await self._desk.project(call.who)).id, call.path("id"))
        return Success(True)

    async def enable(self, call: Call[Principal, Empty, Empty]) -> Success:
        await self._streams.enable((await self._desk.project(call.who)).id, call.path("id"))
        return Success(True)

    async def disable(self, call: Call[Principal, Empty, Empty]) -> Success:
        await self._streams.disable((await self._desk.project(call.who)).id, call.path("id"))
        return Success(True)

    async def finish(self, call: Call[Principal, Empty, Empty]) -> Success:
        await self._streams.finish((await self._desk.project(call.who)).id, call.path("id"))
        return Success(True)

    async def viewers(self, call: Call[Principal, Empty, Empty]) -> Data[Views]:
        return Data(True, Views(self._desk.live.viewers((await self._find(call)).ingress)))

    async def reset_key(self, call: Call[Principal, Empty, Empty]) -> Data[StreamObject]:
        return await self._object(call, await self._streams.reset_key((await self._desk.project(call.who)).id, call.path("id")))

    async def _find(self, call: Call[Principal, Any, Any]) -> Broadcast:
        return await self._streams.get((await self._desk.project(call.who)).id, call.path("id"))

    async def _object(self, call: Call[Principal, Any, Any], broadcast: Broadcast) -> Data[StreamObject]:
        stream_id = broadcast.ingress.id
        media = (await self._assets.ids_of([stream_id])).get(stream_id, ())
        return Data(True, self._desk.stream(call, broadcast, await self._streams.targets(stream_id), media))


def _one(common: dict[str, Any], rest: str = "") -> dict[str, Any]:
    return {"path": f"/v1/live/streams/{{id}}{rest}", "aliases": (f"/live/streams/{{id}}{rest}",), **common}


_ID = "0123456789abcdef0123456789abcdef"
_PLAYBACK = "5f0c8b52-1f63-4d2b-9c61-2f4f6f0f7f10"
_EXAMPLE = StreamObject(
    stream_id=_ID,
    stream_key="x" * 32 + "k" + _ID,
    srt_secret="x" * 32 + "k" + _ID,
    trial=False,
    status="idle",
    max_resolution="1080p",
    max_duration=43_200,
    created_at="2026-03-29T14:30:00.000000Z",
    reconnect_window=60,
    enable_recording=True,
    enable_dvr_mode=False,
    media_policy="public",
    metadata={"name": "launch"},
    low_latency=False,
    closed_captions=False,
    playback_ids=[PlaybackView(_PLAYBACK, "public", f"https://media.example.com/{_PLAYBACK}.m3u8")],
    media_ids=[],
    srt_playback_response=SrtPlayback(f"play{_ID}", "x" * 32 + "k" + _ID),
    simulcast_responses=[],
    test=False,
    audio_only=False,
    latency_mode="standard",
    rtmp_url="rtmp://media.example.com:1935/live",
    rtmps_url="rtmps://media.example.com:1935/live",
    whip_url=f"https://media.example.com/whip/live/live-{_ID}",
    srt_url="srt://media.example.com:8890",
)
