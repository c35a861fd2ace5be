"""`/v1/live/streams/{id}/playback-ids`: the names that a live stream is viewed by, and for whom."""

from __future__ import annotations

from typing import Any

import msgspec

from medianode.api.fastpix.shapes import Data, Desk, NewPlaybackId, PlaybackView, Rule, RuleChange, Success, playback_view, stored
from medianode.api.problems import FASTPIX
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.auth import Permission, Principal
from medianode.control.live_streams import LiveStreams, Restriction


class Named(msgspec.Struct, rename="camel"):
    playback_id: str


class PlaybackIds:
    def __init__(self, desk: Desk, streams: LiveStreams) -> None:
        self._desk = desk
        self._streams = streams

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": FASTPIX, "tag": "FastPix", "auth": Permission.LIVE}
        path = "/live/streams/{id}/playback-ids"
        many: dict[str, Any] = {"path": f"/v1{path}", "aliases": (path,), **common}
        example = Data(True, _EXAMPLE)
        return [
            Route(
                method="POST",
                handler=self.create,
                request=NewPlaybackId,
                response=Data[PlaybackView],
                status=201,
                summary="One more playback id; a private one needs a signed token",
                request_example=NewPlaybackId("private"),
                example=example,
                **many,
            ),
            Route(
                method="DELETE",
                handler=self.delete,
                query=Named,
                response=Success,
                summary="Delete a playback id; nobody views by it any more",
                **many,
            ),
            Route(
                method="GET",
                path=f"/v1{path}/{{playback}}",
                aliases=(f"{path}/{{playback}}",),
                handler=self.get,
                response=Data[PlaybackView],
                summary="One playback id",
                example=example,
                **common,
            ),
            *(
                Route(
                    method="PATCH",
                    path=f"/v1{path}/{{playback}}/{last}",
                    aliases=(f"{path}/{{playback}}/{last}",),
                    handler=handler,
                    request=RuleChange,
                    response=Data[Rule],
                    summary=summary,
                    request_example=RuleChange(rule.default_policy, rule.allow, rule.deny),
                    example=Data(True, rule),
                    **common,
                )
                for last, handler, summary, rule in (
                    ("domains", self.restrict_domains, "Which pages may play it", Rule("deny", ["shop.example", "*.shop.example"])),
                    ("user-agents", self.restrict_user_agents, "Which players may play it", Rule("allow", [], ["curl"])),
                )
            ),
        ]

    async def create(self, call: Call[Principal, NewPlaybackId, Empty]) -> Data[PlaybackView]:
        project, new = await self._desk.project(call.who), call.body
        policy = None if new.access_policy is msgspec.UNSET else new.access_policy
        made = await self._streams.add_playback_id(project.id, call.path("id"), policy, stored(new.access_restrictions))
        return Data(True, playback_view(made, self._desk.urls(call)))

    async def get(self, call: Call[Principal, Empty, Empty]) -> Data[PlaybackView]:
        project = await self._desk.project(call.who)
        found = await self._streams.get_playback_id(project.id, call.path("id"), call.path("playback"))
        return Data(True, playback_view(found, self._desk.urls(call)))

    async def delete(self, call: Call[Principal, Empty, Named]) -> Success:
        project = await self._desk.project(call.who)
        await self._streams.delete_playback_id(project.id, call.path("id"), call.query.playback_id)
        return Success(True)

    async def restrict_domains(self, call: Call[Principal, RuleChange, Empty]) -> Data[Rule]:
        return await self._restrict(call, "domains")

    async def restrict_user_agents(self, call: Call[Principal, RuleChange, Empty]) -> Data[Rule]:
        return await self._restrict(call, "userAgents")

    async def _restrict(self, call: Call[Principal, RuleChange, Empty], what: Restriction) -> Data[Rule]:
        project = await self._desk.project(call.who)
        change = msgspec.to_builtins(call.body)
        rule = await self._streams.restrict(project.id, call.path("id"), call.path("playback"), what, change)
        return Data(True, msgspec.convert(rule, Rule))


_EXAMPLE = PlaybackView(
    "5f0c8b52-1f63-4d2b-9c61-2f4f6f0f7f10", "private", "https://media.example.com/5f0c8b52-1f63-4d2b-9c61-2f4f6f0f7f10.m3u8"
)
