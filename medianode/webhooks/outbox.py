"""The door of the outbox: a fact is written in the transaction of the state it tells of, with a letter for each endpoint that wants it.

The shapes of `Fact.data`, by family (JSON, no secrets; names as the events feed shows them):

- `ingress.*`: `ingressId kind room identity name door live` and, of the session, `resumed code message duration` (seconds). `kind` is that
  of the ingress, `door` what the encoder came by (empty before one has). `live`: it is a live stream.
- `publisher.*`: `room identity name door resumed code message duration`.
- `room.*`: `room`.
- `target.*`: `targetId ingressId room host enabled code message bitrate`; ingressId may be null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from medianode.store import endpoints, ingresses, live_streams, outbox, projects, targets
from medianode.store.database import Transaction
from medianode.store.endpoints import WebhookEndpoint
from medianode.store.ingresses import Ingress
from medianode.store.live_streams import LiveStream, PlaybackId
from medianode.store.outbox import Letter
from medianode.store.projects import Project
from medianode.store.targets import PushTarget
from medianode.webhooks.facts import Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the database holds of whom a fact is about, at its moment: for dialects whose payloads show the whole object."""

    project: Project
    ingress: Ingress | None = None
    live_stream: LiveStream | None = None
    playback_ids: tuple[PlaybackId, ...] = ()
    targets: tuple[PushTarget, ...] = ()
    target: PushTarget | None = None


class Translate(Protocol):
    def __call__(self, endpoint: WebhookEndpoint, fact: Fact, subject: Subject) -> list[tuple[str, bytes]]:
        """The event's name and body for this endpoint, in its dialect; none where that has no word for the fact or the endpoint does
        not want it. Some facts are two events there."""
        ...


class Outbox:
    """`woken` is called once after each commit that brought something; `translate` is `webhooks.dialects.translate`."""

    def __init__(self, translate: Translate) -> None:
        self._translate = translate
        self._listeners: list[Callable[[], None]] = []

    def on_commit(self, call: Callable[[], None]) -> None:
        """Delivery and the events feed: there is something new."""
        self._listeners.append(call)

    async def announce(self, tx: Transaction, fact: Fact) -> None:
        """Write it down, and what is to be delivered of it. For a deletion: before the row goes."""
        cursor = await outbox.append(
            tx, id=fact.id, project_id=fact.project_id, stream=fact.stream, type=fact.type, at=fact.at, data=fact.data
        )
        tx.once_committed(self._woken)
        if fact.project_id is None:
            return
        wanted = await endpoints.of_project(tx, fact.project_id, enabled=True)
        if not wanted:
            return
        subject = await load_subject(tx, fact)
        if subject is None:
            return
        for endpoint in wanted:
            for name, body in self._translate(endpoint, fact, subject):
                letter = Letter(
                    endpoint_id=endpoint.id,
                    project_id=fact.project_id,
                    event_id=fact.id,
                    cursor=cursor,
                    stream=fact.stream,
                    type=name,
                    body=body,
                )
                await outbox.enqueue(tx, letter, fact.at)

    def _woken(self) -> None:
        for call in self._listeners:
            call()


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
        targets=tuple(await targets.of_ingress(tx, ingress.id)) if stream is not None and ingress is not None else (),
        target=await targets.find(tx, str(target_id)) if target_id else None,
    )
