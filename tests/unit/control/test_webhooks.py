from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from medianode.auth import Door
from medianode.control.webhooks import MINT, Change, NewEndpoint, Webhooks, check_patterns
from medianode.errors import Forbidden, InvalidRequest, NotFound
from medianode.outbound import Outbound
from medianode.store import audit, deliveries, outbox, schema
from medianode.store.deliveries import Filter
from medianode.store.endpoints import WebhookEndpoint
from medianode.webhooks import dialects
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce
from medianode.webhooks.sender import Answer

URL = "https://hooks.example.com/media?token=verysecret"
PRIVATE = {"inside.example.com": ["10.0.0.7"]}


async def lookup(host: str, port: int) -> Sequence[str]:
    return PRIVATE.get(host, ["93.184.216.34"])


@dataclass
class Recorder:
    answer: Answer = field(default_factory=lambda: Answer(status=200, latency=0.01, excerpt="ok"))
    sent: list[tuple[str, str, bytes, str | None]] = field(default_factory=list)

    async def send(self, endpoint: WebhookEndpoint, event: str, event_id: str, body: bytes, secret: str | None) -> Answer:
        self.sent.append((event, event_id, body, secret))
        return self.answer


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def webhooks(house: Any, recorder: Recorder) -> Webhooks:
    return Webhooks(house.db, Outbound((), lookup), recorder, bound=3)


async def actions(house: Any, project: Any) -> list[str]:
    async with house.db.read() as tx:
        return [entry.action for entry in await audit.before(tx, 100, project_id=project.id)]


async def connected(house: Any, project: Any, stream: str = "IN_a") -> Fact:
    data = {"ingressId": stream, "kind": "rtmp", "room": "shop-a", "identity": "obs", "name": "", "door": "rtmp", "live": False}
    fact = Fact(type="ingress.connected", project_id=project.id, stream=stream, at=1_800_000_000.0, data=data)
    async with house.db.write() as tx:
        await announce(tx, fact)
    return fact


async def test_a_secret_is_minted_shown_once_and_kept_sealed(house: Any, webhooks: Webhooks) -> None:
    project = await house.projects.create("shop")
    made = await webhooks.create(project, NewEndpoint(url=URL, name="billing", events=("live.*",), headers={"X-Tenant": "7"}))
    assert made.secret is not None
    assert made.secret.startswith("whsec_")
    assert made.warnings == ()
    endpoint, waiting = await webhooks.get(project.id, made.endpoint.id)
    assert endpoint == made.endpoint
    assert (endpoint.secret, endpoint.url, endpoint.events, dict(endpoint.headers)) == (made.secret, URL, ("live.*",), {"X-Tenant": "7"})
    assert (waiting.pending, waiting.failing) == (0, 0)
    assert made.secret not in repr(made)
    assert "verysecret" not in repr(made)
    async with house.db.read() as tx:
        (entry,) = await audit.before(tx, 10, action="webhook.created")
    assert (entry.target, entry.details["host"]) == (endpoint.id, "hooks.example.com")
    assert "verysecret" not in str(entry)


async def test_secrets_of_ones_own_and_none(house: Any, webhooks: Webhooks) -> None:
    project = await house.projects.create("shop")
    unsigned = await webhooks.create(project, NewEndpoint(url=URL, secret=None))
    assert (unsigned.secret, unsigned.endpoint.secret) == (None, None)
    own = base64.b64encode(b"0123456789abcdef").decode()
    given = await webhooks.create(project, NewEndpoint(url=URL, dialect="fastpix", secret=own, probe=False))
    assert (given.secret, given.endpoint.secret) == (None, own), "what the operator gave is not shown again"
    minted = await webhooks.create(project, NewEndpoint(url=URL, dialect="fastpix", probe=False))
    assert len(base64.b64decode(minted.secret or "", validate=True)) == 32
    for dialect, secret in (("baxcloud", "short"), ("baxcloud", "x" * 201), ("streamhub", "é" * 20), ("fastpix", "not base64 at all!")):
        with pytest.raises(InvalidRequest, match="secret: expected"):
            await webhooks.create(project, NewEndpoint(url=URL, dialect=dialect, secret=secret))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://10.1.2.3/x", "private-address"),
        ("http://[::ffff:127.0.0.1]/", "private-address"),
        ("https://inside.example.com/", "private-address"),
        ("ftp://hooks.example.com/", "invalid-request"),
        ("https://", "invalid-request"),
        ("https://hooks.example.com/a b", "invalid-request"),
        ("https://user:password@hooks.example.com/", "invalid-request"),
        ("https://hooks.example.com:99999/", "invalid-request"),
    ],
)
async def test_urls_that_are_refused(house: Any, webhooks: Webhooks, url: str, code: str) -> None:
    project = await house.projects.create("shop")
    made = await webhooks.create(project, NewEndpoint(url=URL))
    with pytest.raises(InvalidRequest, match=r"^url: ") as caught:
        await webhooks.create(project, NewEndpoint(url=url))
    assert caught.value.code == code
    with pytest.raises(InvalidRequest):
        await webhooks.change(project, made.endpoint.id, Change(url=url))
    assert (await webhooks.get(project.id, made.endpoint.id))[0] == made.endpoint
    assert len(await webhooks.list(project.id)) == 1


async def test_patterns_name_events_of_the_dialect(house: Any, webhooks: Webhooks) -> None:
    project = await house.projects.create("shop")
    with pytest.raises(InvalidRequest, match=r"no event 'live.strated' in this dialect; did you mean live.started") as caught:
        await webhooks.create(project, NewEndpoint(url=URL, events=("live.strated",)))
    assert caught.value.code == "unknown-event"
    for events in ((), ("video.live_stream.active",), ("a b",), ("*" * 65,), tuple(f"live.{i}" for i in range(65))):
        with pytest.raises(InvalidRequest, match=r"^events: "):
            await webhooks.create(project, NewEndpoint(url=URL, events=events))
    made = await webhooks.create(project, NewEndpoint(url=URL, events=("live.*", "live.*", "moderation.completed")))
    assert made.endpoint.events == ("live.*", "moderation.completed")
    with pytest.raises(InvalidRequest, match=r"^profile: "):
        await webhooks.create(project, NewEndpoint(url=URL, profile="2026"))
    for dialect, profile in (("baxcloud", "seed"), ("streamhub", "seed"), ("fastpix", "seed"), ("fastpix", "2026")):
        assert check_patterns(dialects.names(dialect, profile)[:60], dialect, profile)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "x"},
        {"content-LENGTH": "3"},
        {"X-BaxCloud-Signature": "sha256=00"},
        {"FastPix-Signature": "x"},
        {"Bad Name": "x"},
        {"X": "line\r\nbreak"},
        {"X": "é"},
        {"X": "y" * 1001},
        {"X-A": "1", "x-a": "2"},
        {f"X-{i}": "1" for i in range(21)},
    ],
)
async def test_headers_that_are_refused(house: Any, webhooks: Webhooks, headers: dict[str, str]) -> None:
    project = await house.projects.create("shop")
    with pytest.raises(InvalidRequest, match=r"^headers: "):
        await webhooks.create(project, NewEndpoint(url=URL, headers=headers))


async def test_a_project_has_its_bound_and_its_own_only(house: Any, webhooks: Webhooks) -> None:
    project, other = await house.projects.create("shop"), await house.projects.create("other")
    made = [await webhooks.create(project, NewEndpoint(url=URL)) for _ in range(3)]
    with pytest.raises(Forbidden) as caught:
        await webhooks.create(project, NewEndpoint(url=URL))
    assert caught.value.code == "webhook-quota"
    foreign = made[0].endpoint.id
    for call in (webhooks.get, webhooks.delete, webhooks.rotate):
        with pytest.raises(NotFound):
            await call(other.id, foreign)
    with pytest.raises(NotFound):
        await webhooks.change(other, foreign, Change(enabled=False))
    with pytest.raises(NotFound):
        await webhooks.test(other, foreign)
    assert await webhooks.list(other.id) == []
    await webhooks.delete(project.id, foreign)
    await webhooks.create(project, NewEndpoint(url=URL))
    for absent in ("", "wh_none", "a\0b", "\ud800", "x" * 1000):
        with pytest.raises(NotFound):
            await webhooks.get(project.id, absent)


async def test_changes_and_the_audit_log(house: Any, webhooks: Webhooks) -> None:
    project = await house.projects.create("shop")
    made = await webhooks.create(project, NewEndpoint(url=URL, headers={"X": "1"}))
    changed = await webhooks.change(project, made.endpoint.id, Change(url="http://hooks.example.com/2", events=("live.ended",), name="two"))
    assert "not encrypted" in changed.warnings[0]
    assert (changed.endpoint.events, changed.endpoint.name, dict(changed.endpoint.headers)) == (("live.ended",), "two", {"X": "1"})
    assert changed.endpoint.secret == made.secret
    assert not (await webhooks.change(project, made.endpoint.id, Change(enabled=False))).endpoint.enabled
    assert dict((await webhooks.change(project, made.endpoint.id, Change(headers={}))).endpoint.headers) == {}
    await webhooks.rotate(project.id, made.endpoint.id)
    await webhooks.test(project, made.endpoint.id)
    await webhooks.delete(project.id, made.endpoint.id)
    assert [a for a in reversed(await actions(house, project)) if a.startswith("webhook.")] == [
        "webhook.created",
        *["webhook.updated"] * 3,
        "webhook.secret-rotated",
        "webhook.tested",
        "webhook.deleted",
    ]


async def test_rotation_keeps_the_old_secret_for_a_while(house: Any, webhooks: Webhooks, time: Any) -> None:
    project = await house.projects.create("shop")
    made = await webhooks.create(project, NewEndpoint(url=URL))
    first = made.secret
    rotated = await webhooks.rotate(project.id, made.endpoint.id, overlap=60.0)
    endpoint = (await webhooks.get(project.id, made.endpoint.id))[0]
    assert rotated.secret not in (None, first)
    assert (endpoint.secret, endpoint.previous_secret, endpoint.previous_until) == (rotated.secret, first, time.wall + 60.0)
    at_once = await webhooks.rotate(project.id, made.endpoint.id, overlap=0.0)
    assert (at_once.endpoint.previous_secret, at_once.endpoint.previous_until) == (None, None)
    own = await webhooks.rotate(project.id, made.endpoint.id, "my-own-secret-text", 60.0)
    assert (own.secret, own.endpoint.secret, own.endpoint.previous_secret) == (None, "my-own-secret-text", at_once.secret)
    none = await webhooks.rotate(project.id, made.endpoint.id, None, 60.0)
    assert (none.endpoint.secret, none.endpoint.previous_secret) == (None, None)
    for overlap in (-1.0, 1e9, float("nan")):
        with pytest.raises(InvalidRequest, match=r"^overlap: "):
            await webhooks.rotate(project.id, made.endpoint.id, MINT, overlap)


async def test_fastpix_probes_with_an_unsigned_empty_object(house: Any, webhooks: Webhooks, recorder: Recorder) -> None:
    project = await house.projects.create("shop")
    good = await webhooks.create(project, NewEndpoint(url=URL, dialect="fastpix"))
    assert recorder.sent == [("", "", b"{}", None)]
    assert (good.warnings, good.endpoint.probe_status, good.endpoint.probe_error) == ((), 200, "")
    recorder.answer = Answer(status=204)
    kept = await webhooks.create(project, NewEndpoint(url=URL, dialect="fastpix"))
    assert "it answered 204" in kept.warnings[0]
    assert "here it is active" in kept.warnings[0]
    recorder.answer = Answer(error="connection-refused: nobody there")
    endpoint = (await webhooks.change(project, kept.endpoint.id, Change(url="https://hooks.example.com/2"))).endpoint
    assert (endpoint.probe_status, endpoint.probe_error) == (None, "connection-refused: nobody there")
    assert (await webhooks.get(project.id, kept.endpoint.id))[0] == endpoint
    recorder.sent.clear()
    await webhooks.change(project, kept.endpoint.id, Change(name="no new URL"))
    await webhooks.create(project, NewEndpoint(url=URL))
    assert recorder.sent == []
    await webhooks.delete(project.id, kept.endpoint.id)
    await webhooks.create(project, NewEndpoint(url=URL, dialect="streamhub", secret="0123456789abcdef", probe=True))
    assert [(name, secret) for name, _, _, secret in recorder.sent] == [("webhook_test", "0123456789abcdef")]


@pytest.mark.parametrize(("dialect", "name", "place"), [("baxcloud", "live.ended", "eventId"), ("streamhub", "stream_started", "id")])
async def test_test_fire(house: Any, webhooks: Webhooks, recorder: Recorder, dialect: Any, name: str, place: str) -> None:
    project = await house.projects.create("shop")
    made = await webhooks.create(project, NewEndpoint(url=URL, dialect=dialect, events=(name,), enabled=False))
    first, second = await webhooks.test(project, made.endpoint.id), await webhooks.test(project, made.endpoint.id, name)
    assert (first.answer.good, second.event) == (True, name)
    assert [(event, secret) for event, _, _, secret in recorder.sent] == [(first.event, made.secret), (name, made.secret)]
    for tried, (_, event_id, body, _) in zip((first, second), recorder.sent, strict=True):
        assert json.loads(body)[place] == event_id == tried.event_id
    assert first.event_id != second.event_id
    recorder.answer = Answer(status=500, error="http-500", latency=0.25, excerpt="oops")
    bad = await webhooks.test(project, made.endpoint.id)
    async with house.db.read() as tx:
        listed = await deliveries.newest(tx, Filter(project_id=project.id), 10)
        (attempt,) = await deliveries.attempts_of(tx, bad.delivery_id, 10)
        assert json.loads(await deliveries.body(tx, listed[1]))[place] == second.event_id
    assert [(d.id, d.state, d.cursor, d.status) for d in listed][:2] == [
        (bad.delivery_id, "dead", 0, 500),
        (second.delivery_id, "delivered", 0, 200),
    ]
    assert (attempt.status, attempt.latency, attempt.error, attempt.excerpt) == (500, 0.25, "http-500", "oops")
    with pytest.raises(InvalidRequest, match="no event 'nope'") as caught:
        await webhooks.test(project, made.endpoint.id, "nope")
    assert caught.value.code == "unknown-event"


async def test_what_waits_is_told_and_woken(house: Any, webhooks: Webhooks, time: Any) -> None:
    project = await house.projects.create("shop")
    made = await webhooks.create(project, NewEndpoint(url=URL))
    idle = await webhooks.create(project, NewEndpoint(url=URL, events=("live.ended",)))
    for stream in ("IN_a", "IN_a", "IN_b"):
        await connected(house, project, stream)
    async with house.db.write() as tx:
        await tx.change(outbox._lanes.update().where(outbox._lanes.c.stream == "IN_a").values(failures=3, next_at=time.wall + 900))
    by_id = {endpoint.id: waiting for endpoint, waiting in await webhooks.list(project.id)}
    waiting = by_id[made.endpoint.id]
    assert (waiting.pending, waiting.failing, waiting.next_at, waiting.oldest_at) == (3, 1, time.wall + 900, 1_800_000_000.0)
    assert by_id[idle.endpoint.id].pending == 0
    await webhooks.change(project, made.endpoint.id, Change(enabled=True))
    waiting = (await webhooks.get(project.id, made.endpoint.id))[1]
    assert (waiting.pending, waiting.failing, waiting.next_at) == (3, 0, None)


async def test_one_that_cannot_be_unsealed_undoes_nothing(house: Any, webhooks: Webhooks) -> None:
    project = await house.projects.create("shop")
    made = await webhooks.create(project, NewEndpoint(url=URL, headers={"X-Tenant": "7"}))
    async with house.db.write() as tx:
        await tx.change(schema.webhook_endpoints.update().values(url=b"broken", secret=b"broken", headers=b"broken"))
    fact = await connected(house, project)
    async with house.db.read() as tx:
        assert [event.id for event in await outbox.after(tx, 0, 10, project_id=project.id)][-1] == fact.id
        (waiting,) = await deliveries.newest(tx, Filter(project_id=project.id), 10)
    assert (waiting.endpoint_id, waiting.event_id) == (made.endpoint.id, fact.id)


async def test_what_befalls_an_ingress_that_cannot_be_unsealed_is_in_the_feed_only(house: Any, webhooks: Webhooks) -> None:
    project = await house.projects.create("shop")
    await webhooks.create(project, NewEndpoint(url=URL))
    ingress = await house.ingresses.create(project, Door.RTMP, "a", "obs")
    async with house.db.write() as tx:
        await tx.change(schema.ingresses.update().values(stream_key=b"broken"))
    fact = await connected(house, project, ingress.id)
    async with house.db.read() as tx:
        assert [event.id for event in await outbox.after(tx, 0, 10, project_id=project.id)][-1] == fact.id
        assert await deliveries.newest(tx, Filter(project_id=project.id), 10) == []
