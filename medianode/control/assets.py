"""Assets: what is left of a live stream once it is over: its recording, with a public name of its own to play it by."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medianode import clock
from medianode.control.broadcasts import load_broadcast
from medianode.control.recording_facts import asset_fact
from medianode.errors import NotFound
from medianode.media.names import shown
from medianode.store import assets as table
from medianode.store import recordings
from medianode.store.database import Database, Transaction
from medianode.store.recordings import Recording
from medianode.webhooks.outbox import announce

_LIVE_STREAM = re.compile(r"[0-9a-f]{32}", re.ASCII)
"""The ids of live streams; other ingresses are called otherwise."""


class Assets:
    """`on_end` makes them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def on_end(self, tx: Transaction, recording: Recording) -> None:
        """In the transaction of its end, behind what is told of its session: a live stream's recording is an asset from here on.

        It is open to everybody only where its live stream is and its media policy says so. One whose live stream was deleted meanwhile is
        private, and nobody is told: they know no such stream any more.
        """
        live_stream = recording.ingress_id
        if recording.media_id is not None or recording.reason != "ingress" or not recording.nbytes:
            return
        if live_stream is None or _LIVE_STREAM.fullmatch(live_stream) is None:
            return
        broadcast = await load_broadcast(tx, live_stream)
        public = broadcast is not None and broadcast.open and broadcast.stream.media_policy == "public"
        named: dict[str, Any] = {
            "media_id": str(uuid.uuid4()),
            "playback_id": str(uuid.uuid4()),
            "access_policy": "public" if public else "private",
        }
        if not await recordings.change(tx, recording.id, **named) or broadcast is None:
            return
        asset = replace(recording, **named)
        await announce(tx, asset_fact(asset, broadcast.ingress, clock.wallclock(), f"/vod/{asset.playback_id}.m3u8"))

    async def get(self, project_id: str, media_id: str) -> Recording:
        """Raises NotFound."""
        async with self._db.read() as tx:
            found = await table.find(tx, project_id, media_id)
        if found is None:
            raise NotFound(f"no media {shown(media_id)}", code="no-such-media")
        return found

    async def list(
        self, project_id: str, *, ingress_id: str | None = None, newest_first: bool = True, limit: int = 10, offset: int = 0
    ) -> tuple[Sequence[Recording], int]:
        """By their start, and how many there are in all. `ingress_id`: of one live stream."""
        async with self._db.read() as tx:
            return await table.page(tx, project_id, ingress_id=ingress_id, newest_first=newest_first, limit=limit, offset=offset)

    async def ids_of(self, stream_ids: Collection[str]) -> Mapping[str, Sequence[str]]:
        """The media ids of each of these live streams that has any, oldest first."""
        async with self._db.read() as tx:
            return await table.ids_of(tx, stream_ids)
