"""Uploads of a project's recordings to its bucket: how that goes, and to try again now."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from medianode import clock
from medianode.api.desk import Desk
from medianode.api.live import instant
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data
from medianode.auth import Permission, Principal
from medianode.control.uploads import Outage, Uploads


class RunningUpload(msgspec.Struct, rename="camel"):
    """A file on its way: bytes that the bucket has acknowledged, and all that it has."""

    key: str
    sent_bytes: int
    bytes: int


class OutageView(msgspec.Struct, rename="camel"):
    """Why nothing goes up: `code` and plain words. It is tried again at `nextAttemptAt`, without end; nothing is lost meanwhile."""

    code: str
    message: str
    since: str
    failures: int
    next_attempt_at: str


class UploadsView(msgspec.Struct, rename="camel"):
    """`state`: `idle` (all is there), `uploading`, `waiting` (see `outage`). `files` and `bytes`: still to be there, the oldest since
    `oldestSince`. `running` and `outage`: of this node.
    """

    state: Literal["idle", "uploading", "waiting"]
    files: int
    bytes: int
    oldest_since: str | None
    running: list[RunningUpload]
    outage: OutageView | None


class RecordingUpload(msgspec.Struct, rename="camel"):
    """`state`: `pending`, `uploading`, `done`, `failed` with the `error`. `url`: where it plays from the bucket."""

    recording_id: str
    state: str
    error: str
    url: str | None


class UploadsApi:
    def __init__(self, desk: Desk, uploads: Uploads) -> None:
        self._desk = desk
        self._uploads = uploads

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Recordings", "auth": Permission.LIVE}
        return [
            Route(
                method="GET",
                path="/api/v1/projects/{project}/uploads",
                handler=self.show,
                response=Data[UploadsView],
                summary="How recordings get into the project's bucket",
                example=Data(_EXAMPLE),
                **common,
            ),
            Route(
                method="POST",
                path="/api/v1/projects/{project}/recordings/{recording}/upload",
                handler=self.retry,
                response=Data[RecordingUpload],
                status=202,
                errors=(409,),
                summary="Put a recording into the project's bucket now, or try again",
                example=Data(RecordingUpload("rec_4Jd8kQ2mZx7Wp1Rb9TfC", "pending", "", None)),
                **common,
            ),
        ]

    async def show(self, call: Call[Principal, Empty, Empty]) -> Data[UploadsView]:
        found = await self._uploads.state(await self._desk.project(call))
        queue = found.queue
        return Data(
            UploadsView(
                state="waiting" if found.outage is not None else "uploading" if queue.files else "idle",
                files=queue.files,
                bytes=queue.nbytes,
                oldest_since=instant(queue.oldest),
                running=[RunningUpload(key, sent, size) for key, sent, size in found.running],
                outage=None if found.outage is None else _outage(found.outage),
            )
        )

    async def retry(self, call: Call[Principal, Empty, Empty]) -> Data[RecordingUpload]:
        recording = await self._uploads.retry(await self._desk.project(call), call.path("recording"))
        return Data(RecordingUpload(recording.id, recording.upload_state, recording.upload_error, recording.remote_url or None))


def _outage(outage: Outage) -> OutageView:
    wait = max(outage.retry_at - clock.now(), 0.0)
    return OutageView(
        code=outage.code,
        message=outage.message,
        since=clock.iso(outage.since),
        failures=outage.failures,
        next_attempt_at=clock.iso(clock.wallclock() + wait),
    )


_EXAMPLE = UploadsView(
    state="waiting",
    files=12,
    bytes=225_000_000,
    oldest_since="2026-03-29T14:30:00.000Z",
    running=[],
    outage=OutageView(
        code="bucket-away",
        message="s3.example.com:443 cannot be reached: Connection refused",
        since="2026-03-29T14:31:00.000Z",
        failures=4,
        next_attempt_at="2026-03-29T14:31:42.000Z",
    ),
)
