"""What an operator sets for one room, kept over restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from medianode.errors import LimitExceeded
from medianode.store import settings
from medianode.store.database import Database

PREFIX = "room/"
MOST = 10_000
"""Rooms with options of their own."""


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """`playout_delay`: seconds that WebRTC viewers are asked to buffer; None: the node's `rtc.playout_delay`."""

    playout_delay: Annotated[float, Meta(ge=0, le=10)] | None = None


class RoomOptions:
    """`load` before use. Another daemon on the same database sees a change at its next start."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._options: dict[tuple[str, str], Options] = {}
        self.on_change: Callable[[str, str, Options], None] | None = None

    async def load(self) -> None:
        async with self._db.read() as tx:
            stored = await settings.below(tx, PREFIX)
        for key, value in stored.items():
            project_id, _, room = key.removeprefix(PREFIX).partition("/")
            self._options[project_id, room] = msgspec.json.decode(value, type=Options)

    def get(self, project_id: str, room: str) -> Options:
        """`room` is canonical."""
        return self._options.get((project_id, room), Options())

    async def put(self, project_id: str, room: str, options: Options) -> None:
        """Raises LimitExceeded over MOST rooms."""
        key = (project_id, room)
        if key not in self._options and len(self._options) >= MOST:
            raise LimitExceeded(f"{MOST} rooms have options already", code="too-many-rooms")
        async with self._db.write() as tx:
            name = f"{PREFIX}{project_id}/{room}"
            if options == Options():
                await settings.remove(tx, name)
            else:
                await settings.put(tx, name, msgspec.json.encode(options).decode())
        if options == Options():
            self._options.pop(key, None)
        else:
            self._options[key] = options
        if self.on_change is not None:
            self.on_change(project_id, room, options)
