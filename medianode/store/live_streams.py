"""LiveStream: the broadcast policy of an ingress (a FastPix live stream); its playback ids; a project's signing keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, delete, func, insert, select, update

from medianode.store import schema
from medianode.store.database import Transaction, storable

_table = schema.live_streams
_playback = schema.playback_ids
_signing = schema.signing_keys
_ingresses = schema.ingresses


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStream:
    """`ingress_id` is FastPix's streamId. `reconnect_window`, `max_duration`: seconds. `max_resolution`: `1080p`, `720p`, `480p`.
    `latency_mode`: `standard` or `low`. Whether it is disabled stands in its ingress.
    """

    ingress_id: str
    reconnect_window: float = 60.0
    max_duration: float = 43_200.0
    max_resolution: str = "1080p"
    audio_only: bool = False
    latency_mode: str = "standard"
    enable_recording: bool = True
    enable_dvr: bool = False
    media_policy: str = "public"
    metadata: Mapping[str, str] = field(default_factory=dict)
    test: bool = False
    srt_secret: str = field(repr=False)
    updated_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackId:
    """A public name to view a live stream by. `access_policy`: `public` or `private` (needs a signed token). `restrictions`:
    `{"domains": {defaultPolicy, allow, deny}, "userAgents": {…}}`."""

    id: str
    ingress_id: str
    access_policy: str
    restrictions: Mapping[str, Any] = field(default_factory=dict)
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """`public_key`: PEM. Its private half signs view tokens (RS256) elsewhere and is not kept."""

    id: str
    project_id: str
    public_key: str
    created_at: float


async def insert_live_stream(tx: Transaction, stream: LiveStream) -> None:
    sealed = tx.secrets.seal(stream.srt_secret, _place(stream.ingress_id))
    await tx.change(insert(_table).values(ingress_id=stream.ingress_id, srt_secret=sealed, **_values(stream)))


async def replace(tx: Transaction, stream: LiveStream) -> bool:
    """Write the policy anew, the SRT secret too. False if there is no such stream any more."""
    sealed = tx.secrets.seal(stream.srt_secret, _place(stream.ingress_id))
    where = _table.c.ingress_id == stream.ingress_id
    return await tx.change(update(_table).where(where).values(srt_secret=sealed, **_values(stream))) > 0


async def find(tx: Transaction, ingress_id: str) -> LiveStream | None:
    if not storable(ingress_id):
        return None
    row = await tx.first(select(_table).where(_table.c.ingress_id == ingress_id))
    return None if row is None else _live_stream(tx, row)


async def in_room(tx: Transaction, project_id: str, room: str) -> LiveStream | None:
    """The live stream whose room this is."""
    joined = select(_table).join(_ingresses, _ingresses.c.id == _table.c.ingress_id)
    row = await tx.first(joined.where(_ingresses.c.project_id == project_id, _ingresses.c.room == room).limit(1))
    return None if row is None else _live_stream(tx, row)


async def list_live_streams(
    tx: Transaction, project_id: str, *, newest_first: bool, limit: int, offset: int
) -> tuple[list[LiveStream], int]:
    """By creation, and how many there are in all."""
    joined = _table.join(_ingresses, _ingresses.c.id == _table.c.ingress_id)
    mine = _ingresses.c.project_id == project_id
    total = int(await tx.scalar(select(func.count()).select_from(joined).where(mine)))
    columns = (_ingresses.c.created_at, _ingresses.c.id)
    order = [c.desc() for c in columns] if newest_first else list(columns)
    rows = await tx.all(select(_table).select_from(joined).where(mine).order_by(*order).limit(limit).offset(offset))
    return [_live_stream(tx, row) for row in rows], total


async def tests_ended_by(tx: Transaction, error_code: str) -> Sequence[tuple[str, str]]:
    """The test streams that are not disabled though their newest session ended with this code: (project, stream)."""
    joined = select(_ingresses.c.project_id, _ingresses.c.id).join(_table, _ingresses.c.id == _table.c.ingress_id)
    where = (_table.c.test, _ingresses.c.disabled_at.is_(None), _ingresses.c.error_code == error_code)
    return [(row["project_id"], row["id"]) for row in await tx.all(joined.where(*where))]


async def insert_playback_id(tx: Transaction, playback: PlaybackId) -> None:
    values = {c.name: getattr(playback, c.name) for c in _playback.columns}
    await tx.change(insert(_playback).values(**{**values, "restrictions": dict(playback.restrictions)}))


async def find_playback_id(tx: Transaction, playback_id: str) -> PlaybackId | None:
    if not storable(playback_id):
        return None
    row = await tx.first(select(_playback).where(_playback.c.id == playback_id))
    return None if row is None else PlaybackId(**row)


async def playback_ids_of(tx: Transaction, *ingress_ids: str) -> Sequence[PlaybackId]:
    """Oldest first."""
    mine = _playback.c.ingress_id.in_(ingress_ids)
    rows = await tx.all(select(_playback).where(mine).order_by(_playback.c.created_at, _playback.c.id))
    return [PlaybackId(**row) for row in rows]


async def restrict(tx: Transaction, playback_id: str, restrictions: Mapping[str, Any]) -> bool:
    statement = update(_playback).where(_playback.c.id == playback_id).values(restrictions=dict(restrictions))
    return await tx.change(statement) > 0


async def delete_playback_id(tx: Transaction, playback_id: str) -> bool:
    return await tx.change(delete(_playback).where(_playback.c.id == playback_id)) > 0


async def insert_signing_key(tx: Transaction, key: SigningKey) -> None:
    await tx.change(insert(_signing).values(**{c.name: getattr(key, c.name) for c in _signing.columns}))


async def find_signing_key(tx: Transaction, key_id: str) -> SigningKey | None:
    if not storable(key_id):
        return None
    row = await tx.first(select(_signing).where(_signing.c.id == key_id))
    return None if row is None else SigningKey(**row)


async def list_signing_keys(tx: Transaction, project_id: str, limit: int, offset: int) -> tuple[Sequence[SigningKey], int]:
    """Newest first, and how many there are."""
    total = int(await tx.scalar(select(func.count()).select_from(_signing).where(_signing.c.project_id == project_id)))
    order = (_signing.c.created_at.desc(), _signing.c.id)
    rows = await tx.all(select(_signing).where(_signing.c.project_id == project_id).order_by(*order).limit(limit).offset(offset))
    return [SigningKey(**row) for row in rows], total


async def delete_signing_key(tx: Transaction, key_id: str) -> bool:
    return await tx.change(delete(_signing).where(_signing.c.id == key_id)) > 0


_PLAIN = tuple(c.name for c in _table.columns if c.name not in ("ingress_id", "srt_secret"))


def _place(ingress_id: str) -> str:
    return f"live_streams:srt_secret:{ingress_id}"


def _values(stream: LiveStream) -> dict[str, Any]:
    values = {name: getattr(stream, name) for name in _PLAIN}
    return {**values, "metadata": dict(stream.metadata)}


def _live_stream(tx: Transaction, row: RowMapping) -> LiveStream:
    secret = tx.secrets.open(row["srt_secret"], _place(row["ingress_id"]))
    return LiveStream(ingress_id=row["ingress_id"], srt_secret=secret, **{name: row[name] for name in _PLAIN})
