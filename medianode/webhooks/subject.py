"""Whom a fact is about, at its moment: for dialects whose payloads show the whole object."""

from __future__ import annotations

from dataclasses import dataclass

from medianode.store import ingresses, live_streams, projects, recordings, settings, targets
from medianode.store.database import Transaction
from medianode.store.ingresses import Ingress
from medianode.store.live_streams import LiveStream, PlaybackId
from medianode.store.projects import Project
from medianode.store.recordings import Recording
from medianode.store.targets import PushTarget
from medianode.webhooks.facts import Fact

BASE = "base/"
"""In `store.settings`, with a node's id: the address that the public has it by, for what is only there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """`targets`: those of the live stream; `target`: the one that the fact is about. `recording`: that it is about, unless it is gone, and
    `base`: the public address of the node that has its files, `https://host`, or empty where that is not known."""

    project: Project
    ingress: Ingress | None = None
    live_stream: LiveStream | None = None
    playback_ids: tuple[PlaybackId, ...] = ()
    targets: tuple[PushTarget, ...] = ()
    target: PushTarget | None = None
    recording: Recording | None = None
    base: str = ""


async def load_subject(tx: Transaction, fact: Fact) -> Subject | None:
    """None where its project is gone."""
    project = await projects.find(tx, fact.project_id or "")
    if project is None:
        return None
    ingress_id, target_id = fact.data.get("ingressId"), fact.data.get("targetId")
    ingress = await ingresses.find(tx, str(ingress_id)) if ingress_id else None
    stream = await live_streams.find(tx, ingress.id) if ingress is not None else None
    recording_id = fact.data.get("recordingId")
    recording = await recordings.find(tx, str(recording_id)) if recording_id else None
    return Subject(
        project=project,
        ingress=ingress,
        live_stream=stream,
        playback_ids=tuple(await live_streams.playback_ids_of(tx, stream.ingress_id)) if stream is not None else (),
        targets=tuple(await targets.of_ingress(tx, stream.ingress_id)) if stream is not None else (),
        target=await targets.find(tx, str(target_id)) if target_id else None,
        recording=recording,
        base="" if recording is None else await settings.get(tx, BASE + recording.node_id) or "",
    )
