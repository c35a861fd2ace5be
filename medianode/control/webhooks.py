"""Webhook endpoints: where a project's events go. Made, changed, given another secret, tried out."""

from __future__ import annotations

import base64
import binascii
import difflib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, get_args
from uuid import uuid4

from medianode import clock
from medianode.control import audit
from medianode.errors import Forbidden, InvalidRequest, NotFound
from medianode.media.names import shown
from medianode.outbound import Outbound
from medianode.store import deliveries, projects
from medianode.store import endpoints as table
from medianode.store.database import Database, Transaction
from medianode.store.deliveries import DEAD, DELIVERED, Attempt, Filter, StoredDelivery, Waiting
from medianode.store.endpoints import WebhookEndpoint
from medianode.store.projects import Project
from medianode.webhooks import dialects, signature
from medianode.webhooks.dialects.samples import SAMPLES
from medianode.webhooks.facts import TEST, Dialect, Fact, matches
from medianode.webhooks.outbox import TOPIC
from medianode.webhooks.sender import Answer
from medianode.webhooks.subject import Subject

SCHEMES = ("https", "http")
NAME_LENGTH = 200
PATTERNS = 64
PATTERN_LENGTH = 64
HEADERS = 20
HEADER_LENGTH = 1000
SECRET_LENGTHS = (16, 200)
OVERLAP = 86_400.0
MAX_OVERLAP = 30 * 86_400.0
BATCH = 2000
MINT = ""
"""For a secret: one is made."""

_PATTERN = re.compile(r"[A-Za-z0-9_.*-]+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VISIBLE = re.compile(r"[\x20-\x7e]*")


class Sender(Protocol):
    """`webhooks.sender`: one request now, past the queue. It raises for nothing that the receiver does."""

    async def send(self, endpoint: WebhookEndpoint, event: str, event_id: str, body: bytes, secret: str | None) -> Answer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEndpoint:
    """`secret`: the operator's own, MINT, or None for deliveries that are not signed. `probe` None: as the vendor does."""

    url: str
    name: str = ""
    events: Sequence[str] = ("*",)
    dialect: Dialect = "baxcloud"
    profile: str = "seed"
    secret: str | None = field(default=MINT, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    enabled: bool = True
    probe: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is None stays as it is."""

    url: str | None = None
    name: str | None = None
    events: Sequence[str] | None = None
    profile: str | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    enabled: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """`secret` is there only where it was minted now: it is shown this once. `warnings`: sentences for who made it."""

    endpoint: WebhookEndpoint
    secret: str | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A test-fire: what was sent, and what came back."""

    delivery_id: int
    event: str
    event_id: str
    answer: Answer


class Webhooks:
    """`bound`: limits.webhook_endpoints, per project."""

    def __init__(self, db: Database, outbound: Outbound, sender: Sender, *, bound: int) -> None:
        self._db = db
        self._outbound = outbound
        self._sender = sender
        self._bound = bound

    async def create(self, project: Project, new: NewEndpoint) -> Made:
        """Raises InvalidRequest (`private-address`, …), Forbidden (`webhook-quota`), NotFound if the project is gone."""
        at = clock.wallclock()
        minted = signature.new_secret(new.dialect) if new.secret == MINT else None
        endpoint = WebhookEndpoint(
            id=f"wh_{secrets.token_hex(8)}",
            project_id=project.id,
            name=_name(new.name),
            url=new.url,
            events=check_patterns(new.events, new.dialect, _profile(new.profile, new.dialect)),
            dialect=new.dialect,
            profile=new.profile,
            secret=minted or check_secret(new.secret, new.dialect),
            headers=check_headers(new.headers),
            enabled=new.enabled,
            created_at=at,
            updated_at=at,
        )
        warnings = await self._check_url(new.url)
        if new.dialect == "fastpix" if new.probe is None else new.probe:
            endpoint, met = await self._probe(project, endpoint)
            warnings += met
        async with self._db.write() as tx:
            # the lock makes count and insert one
            if await projects.lock(tx, project.id) is None:
                raise NotFound(f"no project {shown(project.slug)}")
            if await table.count(tx, project.id) >= self._bound:
                raise Forbidden(
                    f"project {project.slug} has {self._bound} webhook endpoints, which is limits.webhook_endpoints", code="webhook-quota"
                )
            await table.insert_endpoint(tx, endpoint)
            await audit.record(tx, "webhook.created", endpoint.id, project.id, **_told(endpoint))
        return Made(endpoint=endpoint, secret=minted, warnings=warnings)

    async def list(self, project_id: str) -> list[tuple[WebhookEndpoint, Waiting]]:
        """Oldest first; at most `bound`."""
        async with self._db.read() as tx:
            found = await table.of_project(tx, project_id)
            waiting = await deliveries.waiting(tx, [endpoint.id for endpoint in found])
        return [(endpoint, waiting.get(endpoint.id, Waiting())) for endpoint in found]

    async def get(self, project_id: str, endpoint_id: str) -> tuple[WebhookEndpoint, Waiting]:
        """Raises NotFound, also if it is another project's."""
        async with self._db.read() as tx:
            endpoint = await own(tx, project_id, endpoint_id)
            waiting = await deliveries.waiting(tx, [endpoint.id])
        return endpoint, waiting.get(endpoint.id, Waiting())

    async def change(self, project: Project, endpoint_id: str, change: Change) -> Made:
        """Another URL is looked at, and probed, like a new one. What waits after a failure is tried again at once.

        Raises InvalidRequest, NotFound.
        """
        endpoint, _ = await self.get(project.id, endpoint_id)
        changed = _changed(endpoint, change)
        warnings: tuple[str, ...] = ()
        if change.url is not None:
            warnings = await self._check_url(change.url)
            if changed.dialect == "fastpix":
                changed, met = await self._probe(project, changed)
                warnings += met
        async with self._db.write() as tx:
            await projects.lock(tx, project.id)
            # as it stands now: somebody else may have changed it while its new URL was looked at
            endpoint = _changed(await own(tx, project.id, endpoint_id), change)
            endpoint = replace(endpoint, probe_status=changed.probe_status, probe_error=changed.probe_error)
            await table.replace(tx, endpoint)
            await deliveries.wake(tx, endpoint.id)
            await audit.record(tx, "webhook.updated", endpoint.id, project.id, **_told(endpoint))
            tx.tell(TOPIC)
        return Made(endpoint=endpoint, warnings=warnings)

    async def delete(self, project_id: str, endpoint_id: str) -> WebhookEndpoint:
        """With all its deliveries, some at a time: others write in between. From the first on it is sent nothing. Raises NotFound."""
        async with self._db.write() as tx:
            await projects.lock(tx, project_id)
            endpoint = await own(tx, project_id, endpoint_id)
            await table.replace(tx, replace(endpoint, enabled=False, updated_at=clock.wallclock()))
            await audit.record(tx, "webhook.deleted", endpoint.id, project_id, **_told(endpoint))
            tx.tell(TOPIC)
        left = True
        while left:
            async with self._db.write() as tx:
                left = await deliveries.forget(tx, Filter(project_id=project_id, endpoint_id=endpoint.id), BATCH) == BATCH
        async with self._db.write() as tx:
            await projects.lock(tx, project_id)  # who changes an endpoint has the project, and then wants the turn
            await table.delete_endpoint(tx, endpoint.id)
        return endpoint

    async def rotate(self, project_id: str, endpoint_id: str, secret: str | None = MINT, overlap: float = OVERLAP) -> Made:
        """Another secret; the one until now stays good for `overlap` seconds beside it. `secret` as in NewEndpoint.

        Raises InvalidRequest, NotFound.
        """
        if not 0 <= overlap <= MAX_OVERLAP:
            raise InvalidRequest(f"overlap: expected 0 to {MAX_OVERLAP:.0f} seconds, got {overlap:g}")
        at = clock.wallclock()
        async with self._db.write() as tx:
            await projects.lock(tx, project_id)
            endpoint = await own(tx, project_id, endpoint_id)
            dialect = _dialect(endpoint)
            minted = signature.new_secret(dialect) if secret == MINT else None
            chosen = minted or check_secret(secret, dialect)
            kept = overlap > 0 and chosen is not None and endpoint.secret is not None
            endpoint = replace(
                endpoint,
                secret=chosen,
                previous_secret=endpoint.secret if kept else None,
                previous_until=at + overlap if kept else None,
                updated_at=at,
            )
            await table.replace(tx, endpoint)
            await deliveries.wake(tx, endpoint.id)
            await audit.record(
                tx, "webhook.secret-rotated", endpoint.id, project_id, overlap=overlap if kept else 0, signed=chosen is not None
            )
            tx.tell(TOPIC)
        return Made(endpoint=endpoint, secret=minted)

    async def test(self, project: Project, endpoint_id: str, event: str = "") -> Tried:
        """Send one event now, past the queue: `webhook.test`, or the example of a named one. It stands among the deliveries.

        Raises InvalidRequest for a name that the dialect has not, NotFound.
        """
        endpoint, _ = await self.get(project.id, endpoint_id)
        name, event_id, body = await self._sample(project, endpoint, event)
        answer = await self._sender.send(endpoint, name, event_id, body, endpoint.secret)
        at = clock.wallclock()
        tried = StoredDelivery(
            id=0,
            endpoint_id=endpoint.id,
            project_id=project.id,
            event_id=event_id,
            cursor=0,
            stream="test",
            type=name,
            state=DELIVERED if answer.good else DEAD,
            attempts=1,
            status=answer.status,
            error=answer.error,
            created_at=at,
            done_at=at,
            replay_of=None,
        )
        attempt = Attempt(id=0, at=at, status=answer.status, latency=answer.latency, error=answer.error, excerpt=answer.excerpt)
        async with self._db.write() as tx:
            await own(tx, project.id, endpoint_id)
            made = await deliveries.record(tx, tried, body, attempt)
            await audit.record(tx, "webhook.tested", endpoint.id, project.id, event=name, status=answer.status)
        return Tried(delivery_id=made, event=name, event_id=event_id, answer=answer)

    async def _sample(self, project: Project, endpoint: WebhookEndpoint, event: str) -> tuple[str, str, bytes]:
        """Name, id and body of what a test sends: an example that has just happened."""
        dialect, at = _dialect(endpoint), clock.wallclock()
        if event in ("", TEST):
            data = {"message": "this is a test of the endpoint", "endpointId": endpoint.id}
            fact = Fact(type=TEST, project_id=project.id, stream="test", at=at, data=data)
            (name, body), *_ = dialects.translate(endpoint, fact, Subject(project=project))
            return name, fact.id, body
        only = replace(endpoint, events=(event,))
        for sample, subject in SAMPLES:
            fact = replace(sample, id=str(uuid4()), at=at, project_id=project.id)
            for name, body in dialects.translate(only, fact, replace(subject, project=project)):
                if name == event:
                    return name, fact.id, body
        raise InvalidRequest(f"event: {_unknown(event, dialects.names(dialect, endpoint.profile))}", code="unknown-event")

    async def _check_url(self, url: str) -> tuple[str, ...]:
        """Warnings. Raises InvalidRequest."""
        parts = await self._outbound.check(url, SCHEMES)
        if parts.username or parts.password:
            raise InvalidRequest("url: expected no user and password in it: give an Authorization header under headers")
        if parts.scheme == "http":
            return ("url: http:// is not encrypted: whoever is on the way reads the events, stream keys in them included",)
        return ()

    async def _probe(self, project: Project, endpoint: WebhookEndpoint) -> tuple[WebhookEndpoint, tuple[str, ...]]:
        """FastPix: an unsigned `{}`, answered by 200 (contracts 3.1). Others: a test event. What it met is kept, and refuses nothing."""
        fastpix = endpoint.dialect == "fastpix"
        name, event_id, body = ("", "", b"{}") if fastpix else await self._sample(project, endpoint, TEST)
        met = await self._sender.send(endpoint, name, event_id, body, None if fastpix else endpoint.secret)
        good = met.status == 200 if fastpix else met.good
        error = "" if good else met.error or f"it answered {met.status}"
        warning = f"probe: {error}: FastPix would not activate this endpoint; here it is active" if fastpix else f"probe: {error}"
        return replace(endpoint, probe_status=met.status, probe_error=error[:500]), () if good else (warning,)


async def own(tx: Transaction, project_id: str, endpoint_id: str) -> WebhookEndpoint:
    """Raises NotFound, also if it is another project's."""
    endpoint = await table.find(tx, endpoint_id)
    if endpoint is None or endpoint.project_id != project_id:
        raise NotFound(f"no webhook endpoint {shown(endpoint_id)}")
    return endpoint


def _changed(endpoint: WebhookEndpoint, change: Change) -> WebhookEndpoint:
    """Raises InvalidRequest."""
    dialect = _dialect(endpoint)
    profile = endpoint.profile if change.profile is None else _profile(change.profile, dialect)
    return replace(
        endpoint,
        url=endpoint.url if change.url is None else change.url,
        name=endpoint.name if change.name is None else _name(change.name),
        events=check_patterns(endpoint.events if change.events is None else change.events, dialect, profile),
        profile=profile,
        headers=endpoint.headers if change.headers is None else check_headers(change.headers),
        enabled=endpoint.enabled if change.enabled is None else change.enabled,
        updated_at=clock.wallclock(),
    )


def check_patterns(patterns: Sequence[str], dialect: Dialect, profile: str) -> tuple[str, ...]:
    """Each names some event of the dialect. Raises InvalidRequest (`unknown-event`), with what is near."""
    known = dialects.names(dialect, profile)
    chosen = tuple(dict.fromkeys(patterns))
    if not 1 <= len(chosen) <= PATTERNS:
        raise InvalidRequest(f"events: expected 1 to {PATTERNS} names or patterns, got {len(chosen)}")
    for pattern in chosen:
        if len(pattern) > PATTERN_LENGTH or not _PATTERN.fullmatch(pattern):
            raise InvalidRequest(f"events: expected names, in which * stands for any part, got {shown(pattern)}")
        if not any(matches((pattern,), name) for name in known):
            raise InvalidRequest(f"events: {_unknown(pattern, known)}", code="unknown-event")
    return chosen


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.rstrip("*."), known, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known[:40])}"
    return f"no event {shown(name)} in this dialect; {hint}"


def check_secret(secret: str | None, dialect: Dialect) -> str | None:
    """Raises InvalidRequest. FastPix's is base64, for its receivers decode it (contracts 5)."""
    if secret is None:
        return None
    low, high = SECRET_LENGTHS
    if not low <= len(secret) <= high or not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        raise InvalidRequest(f"secret: expected {low} to {high} printable ASCII characters, got {len(secret)}")
    if dialect == "fastpix":
        try:
            decoded = base64.b64decode(secret, validate=True)
        except (binascii.Error, ValueError):
            decoded = b""
        if len(decoded) < low:
            raise InvalidRequest(f"secret: expected base64 of at least {low} bytes, as FastPix's are")
    return secret


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Raises InvalidRequest. What the request's frame and the dialect set is not the operator's."""
    if len(headers) > HEADERS:
        raise InvalidRequest(f"headers: expected at most {HEADERS}, got {len(headers)}")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise InvalidRequest(f"headers: expected a field name (RFC 9110 5.1), got {shown(name)}")
        if signature.forbidden(name):
            raise InvalidRequest(f"headers: {name} is set by the node itself")
        if len(value) > HEADER_LENGTH or not _VISIBLE.fullmatch(value):
            raise InvalidRequest(f"headers: {name}: expected up to {HEADER_LENGTH} visible ASCII characters")
    if len({name.lower() for name in headers}) < len(headers):
        raise InvalidRequest("headers: expected each name once, whatever its case")
    return dict(headers)


def _name(name: str) -> str:
    if len(name) > NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"name: expected up to {NAME_LENGTH} printable characters, got {shown(name)}")
    return name


def _dialect(endpoint: WebhookEndpoint) -> Dialect:
    known: Sequence[Dialect] = get_args(Dialect)
    return next(dialect for dialect in known if dialect == endpoint.dialect)


def _profile(profile: str, dialect: Dialect) -> str:
    if profile not in dialects.PROFILES[dialect]:
        raise InvalidRequest(f"profile: expected {' or '.join(dialects.PROFILES[dialect])} for {dialect}, got {shown(profile)}")
    return profile


def _told(endpoint: WebhookEndpoint) -> dict[str, object]:
    """For the audit log: nothing of its URL but the host, for tokens stand in paths too."""
    host = endpoint.url.partition("://")[2].partition("/")[0].partition("?")[0]
    return {"host": host[:200], "dialect": endpoint.dialect, "events": list(endpoint.events), "enabled": endpoint.enabled}
