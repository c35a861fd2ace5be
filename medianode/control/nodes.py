"""Nodes that share a database: this one's lasting id, its sign of life, and the end of what a dead one left behind."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

from medianode import clock
from medianode.control.lifecycle import IngressLives
from medianode.errors import ConfigError, StorageError
from medianode.store import nodes as table
from medianode.store.database import Database
from medianode.store.nodes import Node
from medianode.tasks import every

FILE = "node.id"
BEAT = 10.0
LOOK = 30.0
GONE = 60.0
"""Seconds: a node signs every BEAT, looks after the others every LOOK, and gives one up that has not signed for GONE."""

log = logging.getLogger(__name__)


def open_node_id(data_dir: Path) -> str:
    """32 hex digits, kept in data_dir: the same over restarts. Two nodes must not have copies of one data_dir. Raises ConfigError."""
    path = data_dir / FILE
    try:
        kept = path.read_text("ascii").strip() if path.exists() else ""
        if kept:
            if len(kept) != 32 or not all(c in "0123456789abcdef" for c in kept):
                raise ConfigError(f"{path}: expected 32 hex digits; remove the file and a new id is made")
            return kept
        made = uuid.uuid4().hex
        beside = path.with_suffix(".new")
        with beside.open("w", encoding="ascii") as file:
            file.write(made + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read or made: {e}") from e
    return made


class Nodes:
    """Whether another lives is told by its row changing, counted on our own clock: wallclocks differ, and jump.

    `rising`: called with `lives.rise` when we are back after we were given up. `burying`: called with the id of a node that is gone, once
    its sessions are ended.
    """

    def __init__(
        self,
        db: Database,
        lives: IngressLives,
        node_id: str,
        *rising: Callable[[], None],
        burying: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        self._db = db
        self._lives = lives
        self._rising = (lives.rise, *rising)
        self._burying = burying
        self._node_id = node_id
        self._heard: dict[str, tuple[Node, float]] = {}

    async def join(self) -> None:
        """At start, after `lives.recover`. Raises StorageError."""
        at = clock.wallclock()
        async with self._db.write() as tx:
            await table.join(tx, Node(id=self._node_id, started_at=at, seen_at=at))

    async def serve(self) -> None:
        """Runs until cancelled. A database that is away is tried again at the next beat."""
        looked = clock.now()
        async for now in every(BEAT):
            try:
                await self.beat()
                if now - looked >= LOOK - 1.0:
                    looked = now
                    await self.look(now)
            except StorageError as e:
                log.warning("no sign of life in the database: %s: %s", e.code, e)

    async def beat(self) -> None:
        """Sign. Where we were given up meanwhile, our sessions are told anew: the others have ended them."""
        async with self._db.write() as tx:
            lives = await table.see(tx, self._node_id, clock.wallclock())
        if not lives:
            log.warning("this node was given up while it did not reach the database; its sessions are told anew")
            await self.join()
            for rise in self._rising:
                rise()

    async def look(self, now: float) -> None:
        """Give up those that have not signed for GONE seconds of `now`, and end their sessions."""
        async with self._db.read() as tx:
            found = [node for node in await table.all_nodes(tx) if node.id != self._node_id]
        self._heard = {node.id: self._hear(node, now) for node in found}
        for node, since in tuple(self._heard.values()):
            if now - since >= GONE:
                ended = await self._lives.bury(node)
                if self._burying is not None:
                    await self._burying(node.id)
                log.warning("node %s has not been heard of for %.0f s: %d sessions of its ended", node.id, now - since, ended)

    def _hear(self, node: Node, now: float) -> tuple[Node, float]:
        last = self._heard.get(node.id)
        return last if last is not None and last[0] == node else (node, now)
