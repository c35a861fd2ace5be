"""ObjectDiscards: what is to be taken out of projects' buckets, of recordings that no row tells of any more.

Written in the transaction that takes the rows away: a process that ends, or a bucket that is away, leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, insert, select

from medianode.store import schema
from medianode.store.database import Transaction
from medianode.store.recordings import Recording

_table = schema.object_discards
_files = schema.recording_files
_uploads = schema.uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDiscard:
    """An object, or with `upload_id` a multipart upload that had begun. `bucket`: `Bucket.base` of the one that it is in."""

    id: int
    project_id: str
    recording_id: str
    bucket: str
    key: str
    upload_id: str


async def add_all_of(tx: Transaction, recording: Recording, bucket: str, beside: Collection[str]) -> None:
    """All that was put there of a recording, or may have been: its files, what is `beside` them (names), and uploads that had begun."""
    sent = select(_files.c.remote_key).where(_files.c.recording_id == recording.id, _files.c.remote_key != "")
    keys = {row["remote_key"] for row in await tx.all(sent)}
    begun = await _begun(tx, _files.c.recording_id == recording.id)
    keys |= {key for key, _ in begun}
    keys |= {f"{folder}/{name}" for folder in {key.rpartition("/")[0] for key in keys} for name in beside}
    await _add(tx, recording, bucket, [*((key, "") for key in sorted(keys)), *((key, upload) for key, upload in begun if upload)])


async def add_begun(tx: Transaction, recording: Recording, bucket: str, file_ids: Collection[int]) -> None:
    """Only the multipart uploads of these files: what is there whole stays."""
    begun = await _begun(tx, _files.c.id.in_(list(file_ids)))
    await _add(tx, recording, bucket, [(key, upload) for key, upload in begun if upload])


async def oldest(tx: Transaction, node_id: str, limit: int, *, without: Collection[int], blocked: Collection[str]) -> list[ObjectDiscard]:
    """`without`: ids, and `blocked`: projects that are passed over."""
    c = _table.c
    where = (c.node_id == node_id, c.id.not_in(list(without)), c.project_id.not_in(list(blocked)))
    columns = [column for column in _table.columns if column.name != "node_id"]
    return [ObjectDiscard(**row) for row in await tx.all(select(*columns).where(*where).order_by(c.id).limit(limit))]


async def remove(tx: Transaction, ids: Collection[int]) -> None:
    await tx.change(delete(_table).where(_table.c.id.in_(list(ids))))


async def _begun(tx: Transaction, where: ColumnElement[bool]) -> list[tuple[str, str]]:
    """Key and id, which is empty of what goes in one request."""
    c = _uploads.c
    statement = select(c.key, c.upload_id).join_from(_uploads, _files, c.file_id == _files.c.id).where(where, c.key != "")
    return [(row["key"], row["upload_id"]) for row in await tx.all(statement)]


async def _add(tx: Transaction, recording: Recording, bucket: str, what: Sequence[tuple[str, str]]) -> None:
    if what:
        whose = {"node_id": recording.node_id, "project_id": recording.project_id, "recording_id": recording.id, "bucket": bucket}
        await tx.many(insert(_table), [{**whose, "key": key, "upload_id": upload_id} for key, upload_id in what])
