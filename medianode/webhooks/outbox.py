"""The door of the outbox: a fact is written in the transaction of the state it tells of, with a letter for each endpoint that wants it.

The shapes of `Fact.data`, by family (JSON, no secrets; names as the events feed shows them):

- `ingress.*`: `ingressId kind room identity name door live` and, of the session, `resumed code message duration tracks`. `kind` is that
  of the ingress, `door` what the encoder came by (empty before one has). `live`: it is a live stream. `duration`: seconds from the first
  key frame to the last loss. `tracks`: `{kind, codec}` each. `ingress.updated` with `keyReset`: the stream key is a new one.
- `publisher.*`: `room identity name door resumed code message duration tracks`.
- `room.*`: `room hls` (whether rooms on air are on HLS here).
- `target.*`: `targetId ingressId room host enabled code message bitrate`; ingressId may be null.
- `recording.*`: `recordingId ingressId room identity reason state title labels startedAt endedAt duration bytes code message`; ingressId
  may be null, identity is empty for a room's programme; `duration`: seconds of media. `trouble`: `code` and `message` say what is missing,
  an empty `code` that it is over. `uploaded`: `url`. `deleted`: `seconds files bytesDeleted` that are gone since it was last told (once an
  hour while something is left), whether that is the `whole` of it, its `cause` (`age`, `bytes`, `space`, `uploaded`, `api`, `lost`), and
  how many of the files were `notUploaded`.
- `asset.created`: as `ingress.*` and `recordingId mediaId playbackId accessPolicy duration path`; `path`: where it plays on the node.
- `disk.*`: `path free total code message`; bytes of the disk that the project's recordings are on.
- `pull.*`: as `ingress.*` and `code message transport attempts`.
- `ingress.finished`: as `ingress.*`, and `startedAt` of the session that is to end, null where it is not active yet.
- `key.revoked`: `keyId`. `link.revoked`: `tokenId`, of a view link or a room token. `project.changed`: `projectId slug deleted`; of a
  deletion the fact belongs to no project, for those of a project go with it.
"""

from __future__ import annotations

import logging

from medianode.errors import StorageError
from medianode.store import endpoints, outbox
from medianode.store.database import Transaction
from medianode.store.endpoints import WebhookEndpoint
from medianode.store.outbox import Letter
from medianode.tasks import guarded
from medianode.webhooks.dialects import Message, translate
from medianode.webhooks.facts import Fact
from medianode.webhooks.subject import Subject, load_subject

log = logging.getLogger(__name__)
TOPIC = "outbox"
"""What `Database.subscribe` knows commits by that brought something to tell."""


async def announce(tx: Transaction, fact: Fact) -> None:
    """Write it down, and what is to be delivered of it. For a deletion: before the row goes.

    On PostgreSQL those who announce wait for each other until they commit: lock rows before, never after.
    """
    cursor = await outbox.append(tx, id=fact.id, project_id=fact.project_id, stream=fact.stream, type=fact.type, at=fact.at, data=fact.data)
    tx.tell(TOPIC)
    if fact.project_id is None:
        return
    wanted = await endpoints.to_write_to(tx, fact.project_id)
    subject = await _subject(tx, fact) if wanted else None
    if subject is None:
        return
    for endpoint in wanted:
        messages: list[Message] = []
        # a dialect that stumbles must not undo what came to pass: the event stands in the feed
        guarded(f"dialect {endpoint.dialect}", _translate, endpoint, fact, subject, messages)
        for name, body in messages:
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


async def _subject(tx: Transaction, fact: Fact) -> Subject | None:
    try:
        return await load_subject(tx, fact)
    except StorageError as e:
        if e.code != "sealed-wrongly":
            raise
        # a row that was altered: what came to pass with it stands in the feed, and undoes nothing of others
        log.error("%s is not told to webhooks: %s", fact.type, e)
        return None


def _translate(endpoint: WebhookEndpoint, fact: Fact, subject: Subject, into: list[Message]) -> None:
    into.extend(translate(endpoint, fact, subject))
