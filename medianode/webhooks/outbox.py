"""The door of the outbox: a fact is written in the transaction of the state it tells of, with a letter for each endpoint that wants it.

The shapes of `Fact.data`, by family (JSON, no secrets; names as the events feed shows them):

- `ingress.*`: `ingressId kind room identity name door live` and, of the session, `resumed code message duration` (seconds). `kind` is that
  of the ingress, `door` what the encoder came by (empty before one has). `live`: it is a live stream.
- `publisher.*`: `room identity name door resumed code message duration`.
- `room.*`: `room`.
- `target.*`: `targetId ingressId room host enabled code message bitrate`; ingressId may be null.
"""

from __future__ import annotations

from medianode.store import endpoints, outbox
from medianode.store.database import Transaction
from medianode.store.outbox import Letter
from medianode.webhooks.dialects import translate
from medianode.webhooks.facts import Fact
from medianode.webhooks.subject import load_subject

TOPIC = "outbox"
"""What `Database.subscribe` knows commits by that brought something to tell."""


async def announce(tx: Transaction, fact: Fact) -> None:
    """Write it down, and what is to be delivered of it. For a deletion: before the row goes."""
    cursor = await outbox.append(tx, id=fact.id, project_id=fact.project_id, stream=fact.stream, type=fact.type, at=fact.at, data=fact.data)
    tx.tell(TOPIC)
    if fact.project_id is None:
        return
    wanted = await endpoints.of_project(tx, fact.project_id, enabled=True)
    subject = await load_subject(tx, fact) if wanted else None
    if subject is None:
        return
    for endpoint in wanted:
        for name, body in translate(endpoint, fact, subject):
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
