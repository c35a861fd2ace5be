"""BucketRemovals: what is deleted through the API goes from its project's bucket, too. Retention takes nothing from there.

Only keys that we put, from the bucket that they are in: where a project has another by now, what is in the old one stays, for nobody
kept the credentials. A service that is away, or refuses, is asked again without end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from medianode import clock
from medianode.control import upload_listing
from medianode.control.uploads import TOPIC, find_bucket, words_of
from medianode.errors import StorageError
from medianode.events import Bus, ProjectChanged
from medianode.store import object_discards as table
from medianode.store import projects as project_table
from medianode.store.database import Database, Transaction
from medianode.store.object_discards import ObjectDiscard
from medianode.store.object_errors import Refused
from medianode.store.objects import Bucket, Objects
from medianode.store.recordings import Recording
from medianode.tasks import guard

TICK, LOOK = 1.0, 60.0
"""Seconds between looks: while something is left, and for what no commit of this process told of."""
LAST_RETRY = 3600.0
FAILED_AGAIN = 600.0
"""Seconds before an object that could not be deleted is tried again; those behind it go first."""
BATCH = 50
BESIDE = (upload_listing.PLAYLIST, upload_listing.DESCRIPTION)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Trouble:
    """Of a project's bucket. `retry_at`: clock.now()."""

    failures: int = 0
    retry_at: float = 0.0
    told: str = ""


class BucketRemovals:
    """`busy`: is anything of this recording on its way into the bucket? Then it would be there again."""

    def __init__(self, db: Database, bus: Bus, objects: Objects, node_id: str, busy: Callable[[str], bool]) -> None:
        self._db = db
        self._objects = objects
        self._node_id = node_id
        self._busy = busy
        self._wake = asyncio.Event()
        self._troubles: dict[str, _Trouble] = {}
        self._failed: dict[int, float] = {}
        db.subscribe(TOPIC, self._wake.set)
        bus.subscribe(ProjectChanged, self._changed)

    async def add(self, tx: Transaction, recording: Recording) -> None:
        """It is being deleted: in the transaction that takes its rows away, and before that."""
        bucket = await self._bucket(tx, recording.project_id)
        if bucket is not None:
            await table.add_all_of(tx, recording, bucket.base, BESIDE)
            tx.tell(TOPIC)

    async def add_begun(self, tx: Transaction, recording: Recording, file_ids: Collection[int]) -> None:
        """Retention takes these files before they were there: parts that were sent are of no use to anybody."""
        bucket = await self._bucket(tx, recording.project_id)
        if bucket is not None:
            await table.add_begun(tx, recording, bucket.base, file_ids)

    async def serve(self) -> None:
        """Runs until cancelled. A database that is away is tried again each second."""
        while True:
            self._wake.clear()
            try:
                left = await self.look(clock.now())
            except StorageError as e:
                log.warning("deletions in buckets wait for the database: %s: %s", e.code, e)
                left = True
            if left:
                await asyncio.sleep(TICK)
                continue
            try:
                async with asyncio.timeout(LOOK):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def look(self, now: float) -> bool:
        """One round. True where something is left that may go soon. Raises StorageError."""
        self._failed = {number: at for number, at in self._failed.items() if now - at < FAILED_AGAIN}
        blocked = {project_id for project_id, trouble in self._troubles.items() if trouble.retry_at > now}
        async with self._db.read() as tx:
            found = await table.oldest(tx, self._node_id, BATCH, without=self._failed, blocked=blocked)
            buckets = {project_id: await self._bucket(tx, project_id) for project_id in {each.project_id for each in found}}
        done: list[int] = []
        for each in found:
            if each.project_id not in blocked and not self._busy(each.recording_id):
                why = await guard("removal", self._remove(each, buckets[each.project_id]))
                if why is None:
                    done.append(each.id)
                    self._troubles.pop(each.project_id, None)
                else:
                    self._fail(each, why, now)
                    blocked.add(each.project_id)
        if done:
            async with self._db.write() as tx:
                await table.remove(tx, done)
        return bool(found) or bool(self._troubles)

    async def _remove(self, what: ObjectDiscard, bucket: Bucket | None) -> None:
        if bucket is None or bucket.base != what.bucket:
            log.warning("%s stays in %s: its project has another storage by now", what.key, what.bucket)
            return
        try:
            if what.upload_id:
                await self._objects.abort(bucket, what.key, what.upload_id)
            else:
                await self._objects.delete(bucket, what.key)
        except Refused as e:
            if e.code != "no-such-bucket":
                raise

    def _fail(self, what: ObjectDiscard, why: BaseException, now: float) -> None:
        self._failed[what.id] = now
        trouble = self._troubles.setdefault(what.project_id, _Trouble())
        trouble.failures += 1
        trouble.retry_at = now + min(LAST_RETRY, 2.0 ** min(trouble.failures, 12))
        code, message = words_of(why)
        if code != trouble.told:
            trouble.told = code
            log.warning("%s cannot be deleted from %s yet: %s: %s", what.key, what.bucket, code, message)

    async def _bucket(self, tx: Transaction, project_id: str) -> Bucket | None:
        project = await project_table.find(tx, project_id)
        return None if project is None else find_bucket(project)

    def _changed(self, event: ProjectChanged) -> None:
        """Its credentials may be right now."""
        if self._troubles.pop(event.project_id, None) is not None:
            self._failed.clear()
            self._wake.set()
