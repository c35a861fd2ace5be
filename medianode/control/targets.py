"""Simulcast targets: where a room's programme is sent on to. Made, listed, changed, deleted; `egress.push` does the sending."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from medianode import clock
from medianode.config import Limits
from medianode.control import audit
from medianode.errors import Conflict, Forbidden, InvalidRequest, NotFound
from medianode.events import Bus, TargetChanged
from medianode.media.names import room_name, shown
from medianode.outbound import Outbound
from medianode.protocols.rtmp.url import parse_rtmp_url
from medianode.store import projects
from medianode.store import targets as table
from medianode.store.database import Database, Transaction
from medianode.store.projects import Project
from medianode.store.targets import PushTarget
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

SCHEMES = ("rtmp", "rtmps", "http", "https")
KEY_LENGTH = 2000
METADATA = 10
"""Entries; a name has up to 128 characters, a value up to 255."""


class Targets:
    """`limits.push_targets` counts those of the whole database, enabled or not."""

    def __init__(self, db: Database, bus: Bus, limits: Limits, outbound: Outbound) -> None:
        self._db = db
        self._bus = bus
        self._limits = limits
        self._outbound = outbound

    async def create(
        self,
        project: Project,
        room: str,
        url: str,
        stream_key: str | None = None,
        *,
        ingress_id: str | None = None,
        alternate_url: str | None = None,
        metadata: Mapping[str, str] | None = None,
        enabled: bool = True,
    ) -> PushTarget:
        """`room` in either form; `ingress_id`: the live stream that it belongs to, and goes with.

        Raises InvalidRequest (`private-address` too), Forbidden (`target-quota`), NotFound, Conflict (`duplicate-target`; or the
        live stream is gone).
        """
        at = clock.wallclock()
        target = PushTarget(
            id=secrets.token_hex(16),
            project_id=project.id,
            ingress_id=ingress_id,
            room=room_name(project.slug, room),
            url=url,
            stream_key=stream_key or None,
            alternate_url=alternate_url or None,
            metadata=dict(metadata or {}),
            enabled=enabled,
            created_at=at,
            updated_at=at,
        )
        await self._check(target)
        async with self._db.write() as tx:
            if await projects.lock(tx, project.id) is None:
                raise NotFound(f"no project {shown(project.slug)}")
            if await table.count(tx) >= self._limits.push_targets:
                raise Forbidden(
                    f"this node has {self._limits.push_targets} simulcast targets, which is limits.push_targets", code="target-quota"
                )
            here = await table.of_room(tx, project.id, target.room)
            if len(here) >= self._limits.push_targets_per_room:
                raise Forbidden(
                    f"room {target.room} has {len(here)} simulcast targets, which is limits.push_targets_per_room", code="target-quota"
                )
            _refuse_twice(target, here)
            await table.insert_target(tx, target)
            await self._tell(tx, "target.created", target, at)
        self._changed(target)
        return target

    async def get(self, project_id: str, target_id: str) -> PushTarget:
        """Raises NotFound."""
        async with self._db.read() as tx:
            return await _find(tx, project_id, target_id)

    async def list(self, project_id: str, room: str | None = None) -> Sequence[PushTarget]:
        """Oldest first; of one room (canonical), or of the project."""
        async with self._db.read() as tx:
            return await (table.of_project(tx, project_id) if room is None else table.of_room(tx, project_id, room))

    async def change(
        self,
        project_id: str,
        target_id: str,
        *,
        enabled: bool | None = None,
        metadata: Mapping[str, str] | None = None,
        url: str | None = None,
        stream_key: str | None = None,
        alternate_url: str | None = None,
    ) -> PushTarget:
        """None leaves a field as it is; empty text takes the key or the alternate URL away. What is being sent connects anew where it must.

        Raises NotFound, InvalidRequest, Conflict (`duplicate-target`).
        """
        at = clock.wallclock()
        wanted = {
            "enabled": enabled,
            "metadata": None if metadata is None else dict(metadata),
            "url": url,
            "stream_key": stream_key,
            "alternate_url": alternate_url,
        }
        changes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        for name in ("stream_key", "alternate_url"):
            if changes.get(name) == "":
                changes[name] = None
        async with self._db.read() as tx:
            before = await _find(tx, project_id, target_id)
        after = replace(before, **changes)
        if replace(after, enabled=before.enabled) != before:
            await self._check(after)
        async with self._db.write() as tx:
            await projects.lock(tx, project_id)  # nobody adds the same meanwhile
            # its state may have moved since: only what was asked for is changed
            target = replace(await _find(tx, project_id, target_id, lock=True), **changes, updated_at=at)
            if {"url", "stream_key"} & changes.keys():
                _refuse_twice(target, await table.of_room(tx, project_id, target.room))
            await table.replace(tx, target)
            await self._tell(tx, "target.updated", target, at, changed=sorted(changes))
        self._changed(target)
        return target

    async def delete(self, project_id: str, target_id: str) -> PushTarget:
        """It is sent nothing any more. Raises NotFound."""
        async with self._db.write() as tx:
            target = await _find(tx, project_id, target_id, lock=True)
            await self._tell(tx, "target.deleted", target, clock.wallclock())
            await table.delete_target(tx, target_id)
        self._changed(target)
        return target

    async def _check(self, target: PushTarget) -> None:
        """Raises InvalidRequest."""
        key = target.stream_key
        if key is not None and (len(key) > KEY_LENGTH or not key.isprintable() or " " in key):
            raise InvalidRequest(f"streamKey: expected up to {KEY_LENGTH} printable characters without spaces, got {len(key)} characters")
        for field, url in (("url", target.url), ("alternateUrl", target.alternate_url)):
            if url is None:
                continue
            parts = await self._outbound.check(url, SCHEMES, field)
            if parts.scheme in ("rtmp", "rtmps"):
                try:
                    parse_rtmp_url(url, key)
                except InvalidRequest as e:
                    raise InvalidRequest(f"{field}: {e.message}") from None
        if len(target.metadata) > METADATA or any(len(k) > 128 or len(v) > 255 for k, v in target.metadata.items()):
            raise InvalidRequest(f"metadata: expected at most {METADATA} names of up to 128 characters with texts of up to 255")

    async def _tell(self, tx: Transaction, type_: str, target: PushTarget, at: float, **details: object) -> None:
        await announce(tx, target_fact(type_, target, at))
        await audit.record(tx, type_, target.id, target.project_id, room=target.room, host=host_of(target.url), **details)

    def _changed(self, target: PushTarget) -> None:
        self._bus.publish(TargetChanged(target.id, target.project_id, target.room))


async def _find(tx: Transaction, project_id: str, target_id: str, *, lock: bool = False) -> PushTarget:
    found = (await table.lock(tx, (target_id,))).get(target_id) if lock else await table.find(tx, target_id)
    if found is None or found.project_id != project_id:
        raise NotFound(f"no simulcast target {shown(target_id)}", code="no-such-target")
    return found


def _refuse_twice(target: PushTarget, others: Sequence[PushTarget]) -> None:
    """Two that send under one key put each other out for ever, and each tells that the other is to blame. Raises Conflict."""
    for other in others:
        if other.id != target.id and _destination(other) == _destination(target):
            message = f"room {target.room} is sent to {host_of(target.url)} under this key already, by target {other.id}"
            raise Conflict(message, code="duplicate-target")


def _destination(target: PushTarget) -> tuple[object, ...]:
    """A key in the URL is the same as one beside it."""
    if urlsplit(target.url).scheme in ("rtmp", "rtmps"):
        return (parse_rtmp_url(target.url, target.stream_key),)
    return target.url, target.stream_key


def target_fact(
    type_: str, target: PushTarget, at: float, *, host: str = "", code: str = "", message: str = "", bitrate: float = 0.0
) -> Fact:
    """Kept in the order of its live stream, where it has one, else of its room. `host`: where it is not that of the URL."""
    data = {
        "targetId": target.id,
        "ingressId": target.ingress_id,
        "room": target.room,
        "host": host or host_of(target.url),
        "enabled": target.enabled,
        "code": code,
        "message": message,
        "bitrate": round(bitrate),
    }
    return Fact(type=type_, project_id=target.project_id, stream=target.ingress_id or f"room:{target.room}", at=at, data=data)


def host_of(url: str) -> str:
    return urlsplit(url).hostname or ""


def masked_key(key: str | None) -> str | None:
    """Its last four characters, where that leaves most of it unsaid."""
    return None if key is None else f"…{key[-4:]}" if len(key) >= 12 else "…"


def masked_url(url: str, key: str | None) -> str:
    """Without what may be a key: the last part of the path where no key is given beside it, the values of a query, a password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}:…@" if parts.username else ""
    path = parts.path
    if key is None:
        head, slash, last = path.rpartition("/")
        path = f"{head}{slash}{masked_key(last) if last else ''}"
    query = "&".join(f"{item.partition('=')[0]}=…" for item in parts.query.split("&") if item)
    return f"{parts.scheme}://{user}{host}{path}{'?' + query if query else ''}"
