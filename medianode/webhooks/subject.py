"""Whom a fact is about, at its moment: for dialects whose payloads show the whole object."""

from __future__ import annotations

from dataclasses import dataclass

from medianode.store import ingresses, live_streams, projects, targets
from medianode.store.database import Transaction
from medianode.store.ingresses import Ingress
from medianode.store.live_streams import LiveStream, PlaybackId
from medianode.store.projects import Project
from medianode.store.targets import PushTarget
from medianode.webhooks.facts import Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """`targets`: those of the live stream; `target`: the one that the fact is about."""

    project: Project
    ingress: Ingress | None = None
    live_stream: LiveStream | None = None
    playback_ids: tuple[PlaybackId, ...] = ()
    targets: tuple[PushTarget, ...] = ()
    target: PushTarget | None = None


async def load_subject(tx: Transaction, fact: Fact) -> Subject | None:
    """None where its project is gone."""
    project = await projects.find(tx, fact.project_id or "")
    if project is None:
        return None
    ingress_id, target_id = fact.data.get("ingressId"), fact.data.get("targetId")
    ingress = await ingresses.find(tx, str(ingress_id)) if ingress_id else None
    stream = await live_streams.find(tx, ingress.id) if ingress is not None else None
    return Subject(
        project=project,
        ingress=ingress,
        live_stream=stream,
        playback_ids=tuple(await live_streams.playback_ids_of(tx, stream.ingress_id)) if stream is not None else (),
        targets=tuple(await targets.of_ingress(tx, stream.ingress_id)) if stream is not None else (),
        target=await targets.find(tx, str(target_id)) if target_id else None,
    )
