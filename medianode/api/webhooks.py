"""Webhook endpoints of a project (`app`), in the operators' shapes."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode import clock
from medianode.api.fields import Text
from medianode.api.live import instant
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data
from medianode.auth import Permission, Principal
from medianode.control.projects import Projects
from medianode.control.webhooks import HEADERS, MINT, OVERLAP, PATTERNS, Change, Made, NewEndpoint, Webhooks
from medianode.outbound import URL_LENGTH
from medianode.store.deliveries import Waiting
from medianode.store.endpoints import WebhookEndpoint
from medianode.store.projects import Project
from medianode.webhooks.facts import Dialect

Url = Annotated[str, Meta(max_length=URL_LENGTH, description="http:// or https://, of a public address or one that outbound.allow permits")]
Patterns = Annotated[
    list[Annotated[str, Meta(max_length=64)]],
    Meta(min_length=1, max_length=PATTERNS, description="names in the dialect's words; * stands for any part: live.*"),
]
Headers = Annotated[
    dict[Annotated[str, Meta(max_length=100)], Annotated[str, Meta(max_length=1000)]],
    Meta(max_length=HEADERS, description="sent with each delivery; kept sealed and not shown again"),
]
Secret = Annotated[str, Meta(min_length=16, max_length=200, description="absent: one is made and shown this once; null: nothing is signed")]
Profile = Literal["seed", "2026"]
MASK = "…"


class WebhookView(msgspec.Struct, rename="camel"):
    """`secret` comes once, when the node made it. Of `url` the values of the query are not shown, of `headers` no value.

    `pending` deliveries wait, the oldest since `pendingSince`; `failing`: of how many streams the last attempt failed, the next at
    `nextAttemptAt`. `probeStatus` is what the probe at registration was answered with.
    """

    id: str
    name: str
    url: str
    events: list[str]
    dialect: str
    profile: str
    enabled: bool
    signed: bool
    previous_secret_until: str | None
    headers: dict[str, str]
    probe_status: int | None
    probe_error: str
    pending: int
    pending_since: str | None
    failing: int
    next_attempt_at: str | None
    created_at: str
    updated_at: str
    secret: str | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


class NewWebhook(msgspec.Struct, rename="camel"):
    """`profile`: how FastPix's payloads look, `seed` (2024) or `2026`. `probe`: try the endpoint now; FastPix does unless it is false."""

    url: Url
    name: Text = ""
    events: Patterns = msgspec.field(default_factory=lambda: ["*"])
    dialect: Dialect = "baxcloud"
    profile: Profile = "seed"
    secret: Secret | UnsetType | None = UNSET
    headers: Headers = {}
    enabled: bool = True
    probe: bool | None = None


class WebhookChange(msgspec.Struct, rename="camel"):
    """What is absent stays as it is. What waits after a failure is then tried again at once.

    Disabled, it keeps what waited for it until then; what happens meanwhile is not written for it, and stands in the events feed only.
    """

    url: Url | None = None
    name: Text | None = None
    events: Patterns | None = None
    profile: Profile | None = None
    headers: Headers | None = None
    enabled: bool | None = None


class Rotation(msgspec.Struct):
    """`overlap`: seconds that the secret until now stays good beside the new one; 0: it ends at once."""

    secret: Secret | UnsetType | None = UNSET
    overlap: Annotated[float, Meta(ge=0, le=2_592_000)] = OVERLAP


class TestFire(msgspec.Struct):
    """`event`: a name of the dialect, of which the example is sent; absent: `webhook.test`."""

    event: Annotated[str, Meta(max_length=64)] = ""


class TestView(msgspec.Struct, rename="camel"):
    """`status` is null where there was no answer, and `error` says why; `latency` in seconds; `excerpt`: the beginning of the answer."""

    delivered: bool
    event: str
    event_id: str
    delivery_id: int
    status: int | None
    latency: float
    error: str
    excerpt: str


class WebhooksApi:
    def __init__(self, projects: Projects, webhooks: Webhooks) -> None:
        self._projects = projects
        self._webhooks = webhooks

    @property
    def routes(self) -> list[AnyRoute]:
        return [*self._collection(), *self._item()]

    def _collection(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Webhooks", "path": "/api/v1/apps/{app}/webhooks"}
        return [
            Route(
                method="GET",
                handler=self.list_webhooks,
                auth=Permission.LIVE,
                response=Data[list[WebhookView]],
                summary="Webhook endpoints of an app, and what waits for each",
                example=Data([_EXAMPLE]),
                **common,
            ),
            Route(
                method="POST",
                handler=self.create_webhook,
                auth=Permission.ADMIN,
                request=NewWebhook,
                response=Data[WebhookView],
                status=201,
                summary="Register an endpoint; its secret is shown this once",
                request_example=NewWebhook("https://hooks.example.com/media", events=["live.*"], secret=UNSET),
                example=Data(msgspec.structs.replace(_EXAMPLE, secret="whsec_" + "x" * 43, warnings=[])),
                **common,
            ),
        ]

    def _item(self) -> list[AnyRoute]:
        path = "/api/v1/apps/{app}/webhooks/{id}"
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Webhooks", "auth": Permission.ADMIN, "response": Data[WebhookView]}
        shown: dict[str, Any] = {**common, "example": Data(_EXAMPLE)}
        return [
            Route(
                method="GET",
                path=path,
                handler=self.get_webhook,
                summary="One endpoint",
                **{**shown, "auth": Permission.LIVE},
            ),
            Route(
                method="PATCH",
                path=path,
                handler=self.change_webhook,
                request=WebhookChange,
                summary="Change an endpoint; disabled ones are told of nothing",
                request_example=WebhookChange(enabled=True),
                **shown,
            ),
            Route(
                method="POST",
                path=f"{path}/secret",
                handler=self.rotate_secret,
                request=Rotation,
                summary="Another secret, shown this once; the old one stays good for a while",
                request_example=Rotation(overlap=3600.0),
                **{**common, "example": Data(msgspec.structs.replace(_EXAMPLE, secret="whsec_" + "y" * 43))},
            ),
            Route(
                method="POST",
                path=f"{path}/test",
                handler=self.test_webhook,
                request=TestFire,
                summary="Send an event now, and say what came back",
                request_example=TestFire(),
                **{**common, "response": Data[TestView], "example": Data(_TESTED)},
            ),
            Route(
                method="DELETE",
                path=path,
                handler=self.delete_webhook,
                summary="Remove an endpoint, and its deliveries with it",
                **shown,
            ),
        ]

    async def list_webhooks(self, call: Call[Principal, Empty, Empty]) -> Data[list[WebhookView]]:
        project = await self._project(call)
        return Data([webhook_view(endpoint, waiting) for endpoint, waiting in await self._webhooks.list(project.id)])

    async def create_webhook(self, call: Call[Principal, NewWebhook, Empty]) -> Data[WebhookView]:
        new = call.body
        endpoint = NewEndpoint(
            url=new.url,
            name=new.name,
            events=new.events,
            dialect=new.dialect,
            profile=new.profile,
            secret=MINT if new.secret is UNSET else new.secret,
            headers=new.headers,
            enabled=new.enabled,
            probe=new.probe,
        )
        made = await self._webhooks.create(await self._project(call), endpoint)
        return Data(msgspec.structs.replace(made_view(made), warnings=list(made.warnings)))

    async def get_webhook(self, call: Call[Principal, Empty, Empty]) -> Data[WebhookView]:
        project = await self._project(call)
        return Data(webhook_view(*await self._webhooks.get(project.id, call.path("id"))))

    async def change_webhook(self, call: Call[Principal, WebhookChange, Empty]) -> Data[WebhookView]:
        project, wanted = await self._project(call), call.body
        change = Change(**{name: getattr(wanted, name) for name in wanted.__struct_fields__})
        made = await self._webhooks.change(project, call.path("id"), change)
        view = webhook_view(*await self._webhooks.get(project.id, made.endpoint.id))
        return Data(msgspec.structs.replace(view, warnings=list(made.warnings)))

    async def rotate_secret(self, call: Call[Principal, Rotation, Empty]) -> Data[WebhookView]:
        project, wanted = await self._project(call), call.body
        secret = MINT if wanted.secret is UNSET else wanted.secret
        return Data(made_view(await self._webhooks.rotate(project.id, call.path("id"), secret, wanted.overlap)))

    async def test_webhook(self, call: Call[Principal, TestFire, Empty]) -> Data[TestView]:
        tried = await self._webhooks.test(await self._project(call), call.path("id"), call.body.event)
        answer = tried.answer
        return Data(
            TestView(
                delivered=answer.good,
                event=tried.event,
                event_id=tried.event_id,
                delivery_id=tried.delivery_id,
                status=answer.status,
                latency=round(answer.latency, 4),
                error=answer.error,
                excerpt=answer.excerpt,
            )
        )

    async def delete_webhook(self, call: Call[Principal, Empty, Empty]) -> Data[WebhookView]:
        project = await self._project(call)
        return Data(webhook_view(await self._webhooks.delete(project.id, call.path("id")), Waiting()))

    async def _project(self, call: Call[Principal, Any, Any]) -> Project:
        """Who asks was checked for it."""
        return await self._projects.get(call.path("app"))


def made_view(made: Made) -> WebhookView:
    view = webhook_view(made.endpoint, Waiting())
    return view if made.secret is None else msgspec.structs.replace(view, secret=made.secret)


def webhook_view(endpoint: WebhookEndpoint, waiting: Waiting) -> WebhookView:
    kept = endpoint.previous_until is not None and endpoint.previous_until > clock.wallclock()
    return WebhookView(
        id=endpoint.id,
        name=endpoint.name,
        url=shown_url(endpoint.url),
        events=list(endpoint.events),
        dialect=endpoint.dialect,
        profile=endpoint.profile,
        enabled=endpoint.enabled,
        signed=endpoint.secret is not None,
        previous_secret_until=instant(endpoint.previous_until) if kept else None,
        headers=dict.fromkeys(endpoint.headers, MASK),
        probe_status=endpoint.probe_status,
        probe_error=endpoint.probe_error,
        pending=waiting.pending,
        pending_since=instant(waiting.oldest_at),
        failing=waiting.failing,
        next_attempt_at=instant(waiting.next_at),
        created_at=clock.iso(endpoint.created_at),
        updated_at=clock.iso(endpoint.updated_at),
    )


def shown_url(url: str) -> str:
    """Tokens stand in queries: their names are shown, the values are not."""
    parts = urlsplit(url)
    named = (f"{name}={MASK}" if equals else MASK for name, equals, _ in (field.partition("=") for field in parts.query.split("&")))
    fields = "&".join(named) if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc, parts.path, fields, ""))


_EXAMPLE = WebhookView(
    id="wh_0123456789abcdef",
    name="billing",
    url="https://hooks.example.com/media",
    events=["live.*"],
    dialect="baxcloud",
    profile="seed",
    enabled=True,
    signed=True,
    previous_secret_until=None,
    headers={"X-Tenant": MASK},
    probe_status=None,
    probe_error="",
    pending=2,
    pending_since="2026-03-29T14:30:00.000Z",
    failing=1,
    next_attempt_at="2026-03-29T14:31:20.000Z",
    created_at="2026-03-29T14:00:00.000Z",
    updated_at="2026-03-29T14:00:00.000Z",
)
_TESTED = TestView(True, "webhook.test", "6f1c1e0e-0b7e-4c55-9d0c-2f6a0b1d7e11", 4711, 200, 0.0213, "", "ok")
