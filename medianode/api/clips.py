"""Clips of a room: some seconds around now, or out of what is recorded."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from medianode.api.desk import Desk
from medianode.api.fields import OptionalIdentity, Text
from medianode.api.problems import OPERATOR
from medianode.api.recordings import EARLIEST, EXAMPLE, LATEST, Instant, Labels, RecordingView, moment, recording_view
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data
from medianode.auth import Permission, Principal
from medianode.control.clips import Around, Between, Clips
from medianode.control.recordings import Wanted
from medianode.errors import InvalidRequest
from medianode.store.projects import Project

Span = Annotated[float, Meta(ge=0, le=86_400, description="Seconds")]
Edge = Instant | Annotated[float, Meta(ge=EARLIEST, lt=LATEST, extra={"expected": "these as a number"})]
_INSIDE = re.compile(r"\+\d{1,9}(\.\d{1,6})?", re.ASCII)


class NewClip(msgspec.Struct, rename="camel"):
    """Around now by `before` (at most the node's recording.preroll) and `after`; or of what is recorded, by `from` and `to` (RFC 3339 or
    seconds since 1970), where `recordingId` may say of which recording (else of the one that has most of it); with it `"+5"` is five
    seconds from its beginning. `identity`: of one publisher. The clip is a recording of its own: webhooks tell as of any other
    (`recording.stopped`, `recording.available`) when it is there. `pinned`: retention leaves it alone.
    """

    before: Span | None = None
    after: Span | None = None
    since: Edge = msgspec.field(name="from", default="")
    until: Edge = msgspec.field(name="to", default="")
    recording_id: Annotated[str, Meta(max_length=32)] = ""
    identity: OptionalIdentity = ""
    title: Text = ""
    labels: Labels = {}
    pinned: bool = False


class ClipsApi:
    def __init__(self, desk: Desk, clips: Clips) -> None:
        self._desk = desk
        self._clips = clips

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Recordings", "auth": Permission.LIVE}
        clip = msgspec.structs.replace(EXAMPLE, reason="clip", title="Door opened", duration=25.0)
        return [
            Route(
                method="POST",
                path="/api/v1/projects/{project}/rooms/{room}/clips",
                handler=self.create,
                request=NewClip,
                response=Data[RecordingView],
                status=201,
                errors=(404, 409, 501),
                summary="Keep some seconds around now, or out of what is recorded",
                request_example=NewClip(before=10, after=15, title="Door opened"),
                example=Data(clip),
                **common,
            ),
        ]

    async def create(self, call: Call[Principal, NewClip, Empty]) -> Data[RecordingView]:
        project, new = await self._desk.project(call), call.body
        wanted = Wanted(room=call.path("room"), identity=new.identity, title=new.title, labels=new.labels, pinned=new.pinned)
        since, until = [await self._edge(project, new, name, edge) for name, edge in (("from", new.since), ("to", new.until))]
        around = (new.before, new.after) != (None, None)
        if around == (since is not None or until is not None):
            raise InvalidRequest("clip: expected before and after, or from and to")
        if around:
            made = await self._clips.around(project, wanted, Around(before=new.before or 0.0, after=new.after or 0.0))
        elif since is None or until is None:
            raise InvalidRequest("from: expected with to, and to with from")
        else:
            made = await self._clips.between(project, wanted, Between(since=since, until=until, recording_id=new.recording_id))
        return Data(recording_view(made, project.slug, self._desk.urls(call)))

    async def _edge(self, project: Project, new: NewClip, field: str, edge: str | float) -> float | None:
        """As wallclock. Raises InvalidRequest, NotFound."""
        if isinstance(edge, int | float):
            return float(edge)
        if not _INSIDE.fullmatch(edge):
            return moment(edge, field)
        if not new.recording_id:
            raise InvalidRequest(f"{field}: expected a recordingId, from whose beginning {edge} counts")
        return await self._clips.began(project.id, new.recording_id) + float(edge)
