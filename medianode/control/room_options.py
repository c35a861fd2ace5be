"""What an operator sets for one room, kept over restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from medianode.control import audit
from medianode.errors import Forbidden, NotFound
from medianode.events import Bus, ProjectDeleted
from medianode.store import projects, settings
from medianode.store.database import Database, Transaction

PREFIX = "room/"
MOST = 10_000
"""Rooms of a project with options of their own."""


class Options(msgspec.Struct, frozen=True, omit_defaults=True):
    """`playout_delay`: seconds that WebRTC viewers are asked to buffer; None: the node's `rtc.playout_delay`. `record`: its programme is
    recorded whenever it is on air."""

    playout_delay: Annotated[float, Meta(ge=0, le=10)] | None = None
    record: bool = False


class RoomOptions:
    """`load` before use. Another daemon on the same database sees a change at its next start."""

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._options: dict[tuple[str, str], Options] = {}
        self.on_change: list[Callable[[str, str, Options], None]] = []
        bus.subscribe(ProjectDeleted, self._project_deleted)

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
        """Raises Forbidden (`room-options-quota`) over MOST rooms, NotFound if the project is gone."""
        key = (project_id, room)
        if key not in self._options and sum(mine == project_id for mine, _ in self._options) >= MOST:
            raise Forbidden(f"{MOST} rooms of this project have options, which is the bound", code="room-options-quota")
        async with self._db.write() as tx:
            if not await projects.hold(tx, (project_id,)):
                raise NotFound("this project was deleted")
            name = f"{_prefix(project_id)}{room}"
            if options == Options():
                await settings.remove(tx, name)
            else:
                await settings.put(tx, name, msgspec.json.encode(options).decode())
            details = {"playout_delay": options.playout_delay, "record": options.record}
            await audit.record(tx, "room.options-changed", room, project_id, **details)
        if options == Options():
            self._options.pop(key, None)
        else:
            self._options[key] = options
        for told in self.on_change:
            told(project_id, room, options)

    def _project_deleted(self, event: ProjectDeleted) -> None:
        self._options = {key: options for key, options in self._options.items() if key[0] != event.project_id}


async def remove_all(tx: Transaction, project_id: str) -> None:
    """They refer to their project by name only, and do not go with its row."""
    await settings.remove_below(tx, _prefix(project_id))


def _prefix(project_id: str) -> str:
    return f"{PREFIX}{project_id}/"
