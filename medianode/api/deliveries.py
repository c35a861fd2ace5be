"""Deliveries of a project (`app`): what was sent where, how often and with which answer; sent again, called off."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode import clock
from medianode.api.live import instant
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data
from medianode.auth import Permission, Principal
from medianode.control.deliveries import IDS, Deliveries
from medianode.control.projects import Projects
from medianode.errors import InvalidRequest, NotFound
from medianode.store.deliveries import Attempt, Filter, StoredDelivery

State = Literal["pending", "delivered", "dead", "cancelled"]
Finished = Literal["delivered", "dead", "cancelled"]
Id = Annotated[int, Meta(ge=1, le=2**53)]
Cursor = Annotated[int, Meta(ge=0, le=2**53)]
Instant = Annotated[str, Meta(max_length=40, description="RFC 3339: 2026-03-29T14:30:00Z")]
MASK = "…"


class DeliveryView(msgspec.Struct, rename="camel"):
    """`event` is the dialect's name; `eventId` and `cursor` are those of the events feed (cursor 0: a test).

    `attempts` counts, `status` and `error` are the last one's. `replayOf`: the delivery that this one repeats.
    """

    id: int
    endpoint_id: str
    event: str
    event_id: str
    cursor: int
    stream: str
    state: str
    attempts: int
    status: int | None
    error: str
    created_at: str
    done_at: str | None
    replay_of: int | None


class AttemptView(msgspec.Struct, rename="camel"):
    """`latency` in seconds; `excerpt`: the beginning of the answer."""

    at: str
    status: int | None
    latency: float
    error: str
    excerpt: str


class DeliveryDetail(msgspec.Struct, rename="camel"):
    """`body` is what was sent, but for keys and secrets, which are cut; `attempts` has the last 100."""

    delivery: DeliveryView
    attempts: list[AttemptView]
    body: Any


class DeliveryPage(msgspec.Struct):
    """Newest first. `next`: `before` of the next page, or null."""

    data: list[DeliveryView]
    next: int | None


class Chosen(msgspec.Struct, rename="camel"):
    """All that is given must hold. `endpoint` is an id; `event` may be a pattern (`live.*`); `status` is that of the last attempt."""

    endpoint: Annotated[str, Meta(max_length=64)] = ""
    state: State | UnsetType = UNSET
    event: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_.*-]*(?!\n)$", extra={"expected": "a name or pattern"})] = ""
    event_id: Annotated[str, Meta(max_length=64)] = ""
    stream: Annotated[str, Meta(max_length=160)] = ""
    status: Annotated[int, Meta(ge=100, le=599)] | UnsetType = UNSET
    since: Instant = ""
    until: Instant = ""


class Listing(Chosen):
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    before: Id | UnsetType = UNSET


class ReplayRequest(msgspec.Struct):
    """Some of the endpoint's deliveries once more: `ids`; or those made from `since` until `until`; or of all events behind the cursor
    `after`; or all of one `state`. What is given together must all hold. Each event is sent once, what is pending is not doubled.

    `from`: where a replay that met the bound goes on, its `next`.
    """

    ids: Annotated[list[Id], Meta(max_length=IDS)] = []
    since: Instant = ""
    until: Instant = ""
    after: Cursor | UnsetType = UNSET
    state: Finished | UnsetType = UNSET
    event: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_.*-]*(?!\n)$", extra={"expected": "a name or pattern"})] = ""
    start: Id | UnsetType = msgspec.field(default=UNSET, name="from")


class ReplayView(msgspec.Struct):
    """`next`: `from` of the request that goes on, where this one met the bound; else null."""

    replayed: int
    next: int | None


class CancelView(msgspec.Struct):
    cancelled: int


class DeliveriesApi:
    def __init__(self, projects: Projects, deliveries: Deliveries) -> None:
        self._projects = projects
        self._deliveries = deliveries

    @property
    def routes(self) -> list[AnyRoute]:
        return [*self._of_all(), *self._of_one()]

    def _of_all(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Webhooks", "path": "/api/v1/apps/{app}/deliveries"}
        return [
            Route(
                method="GET",
                handler=self.list_deliveries,
                auth=Permission.LIVE,
                query=Listing,
                response=DeliveryPage,
                summary="Deliveries, filtered, newest first",
                example=DeliveryPage([_EXAMPLE], 4711),
                **common,
            ),
            Route(
                method="DELETE",
                handler=self.cancel_deliveries,
                auth=Permission.ADMIN,
                query=Chosen,
                response=Data[CancelView],
                summary="Call off pending deliveries of one endpoint",
                example=Data(CancelView(3)),
                **common,
            ),
            Route(
                method="POST",
                handler=self.replay_deliveries,
                auth=Permission.ADMIN,
                request=ReplayRequest,
                response=Data[ReplayView],
                errors=(409,),
                summary="Send deliveries of an endpoint again: some, a range, all since a cursor",
                request_example=ReplayRequest(after=0),
                example=Data(ReplayView(17, None)),
                **{**common, "path": "/api/v1/apps/{app}/webhooks/{id}/replay"},
            ),
        ]

    def _of_one(self) -> list[AnyRoute]:
        common: dict[str, Any] = {"dialect": OPERATOR, "tag": "Webhooks"}
        path = "/api/v1/apps/{app}/deliveries/{delivery}"
        return [
            Route(
                method="GET",
                path=path,
                handler=self.get_delivery,
                auth=Permission.LIVE,
                response=Data[DeliveryDetail],
                summary="One delivery with its attempts and its body",
                example=Data(DeliveryDetail(_EXAMPLE, [_ATTEMPT], {"event": "live.started", "eventId": _EXAMPLE.event_id})),
                **common,
            ),
            Route(
                method="POST",
                path=f"{path}/replay",
                handler=self.replay_delivery,
                auth=Permission.ADMIN,
                response=Data[DeliveryView],
                errors=(409,),
                summary="Send it again; one that is pending is tried at once",
                example=Data(_EXAMPLE),
                **common,
            ),
            Route(
                method="DELETE",
                path=path,
                handler=self.cancel_delivery,
                auth=Permission.ADMIN,
                response=Data[DeliveryView],
                errors=(409,),
                summary="Call off a pending delivery",
                example=Data(msgspec.structs.replace(_EXAMPLE, state="cancelled")),
                **common,
            ),
        ]

    async def list_deliveries(self, call: Call[Principal, Empty, Listing]) -> DeliveryPage:
        limit = call.query.limit
        wanted = await self._filter(call, before_id=None if call.query.before is UNSET else call.query.before)
        found = await self._deliveries.list(wanted, limit)
        return DeliveryPage([delivery_view(d) for d in found], found[-1].id if len(found) == limit else None)

    async def cancel_deliveries(self, call: Call[Principal, Empty, Chosen]) -> Data[CancelView]:
        if not call.query.endpoint:
            raise InvalidRequest("endpoint: expected the id of the endpoint whose pending deliveries are called off")
        return Data(CancelView(await self._deliveries.cancel_all(await self._filter(call))))

    async def replay_deliveries(self, call: Call[Principal, ReplayRequest, Empty]) -> Data[ReplayView]:
        wanted = call.body
        chosen = Filter(
            project_id=await self._project_id(call),
            endpoint_id=call.path("id"),
            ids=tuple(wanted.ids),
            since=parsed("since", wanted.since),
            until=parsed("until", wanted.until),
            after_cursor=None if wanted.after is UNSET else wanted.after,
            states=() if wanted.state is UNSET else (wanted.state,),
            type=wanted.event,
            after_id=None if wanted.start is UNSET else wanted.start,
        )
        done = await self._deliveries.replay_all(chosen)
        return Data(ReplayView(done.count, done.next_id))

    async def get_delivery(self, call: Call[Principal, Empty, Empty]) -> Data[DeliveryDetail]:
        opened = await self._deliveries.open(*await self._one(call))
        body = masked(msgspec.json.decode(opened.body))
        return Data(DeliveryDetail(delivery_view(opened.delivery), [attempt_view(a) for a in opened.attempts], body))

    async def replay_delivery(self, call: Call[Principal, Empty, Empty]) -> Data[DeliveryView]:
        return Data(delivery_view(await self._deliveries.replay(*await self._one(call))))

    async def cancel_delivery(self, call: Call[Principal, Empty, Empty]) -> Data[DeliveryView]:
        return Data(delivery_view(await self._deliveries.cancel(*await self._one(call))))

    async def _one(self, call: Call[Principal, Empty, Empty]) -> tuple[str, int]:
        text = call.path("delivery")
        if not text.isascii() or not text.isdigit() or len(text) > 15:
            raise NotFound("no such delivery", code="no-such-delivery")
        return await self._project_id(call), int(text)

    async def _filter(self, call: Call[Principal, Empty, Any], before_id: int | None = None) -> Filter:
        wanted: Chosen = call.query
        return Filter(
            project_id=await self._project_id(call),
            endpoint_id=wanted.endpoint,
            states=() if wanted.state is UNSET else (wanted.state,),
            type=wanted.event,
            event_id=wanted.event_id,
            stream=wanted.stream,
            status=None if wanted.status is UNSET else wanted.status,
            since=parsed("since", wanted.since),
            until=parsed("until", wanted.until),
            before_id=before_id,
        )

    async def _project_id(self, call: Call[Principal, Any, Any]) -> str:
        """Who asks was checked for it."""
        return (await self._projects.get(call.path("app"))).id


def parsed(field: str, text: str) -> float | None:
    """Wallclock of an RFC 3339 instant; None for empty text. Raises InvalidRequest."""
    if not text:
        return None
    try:
        return clock.seconds(text)
    except ValueError:
        raise InvalidRequest(f"{field}: expected RFC 3339 with its zone, 2026-03-29T14:30:00Z, got {text!r}") from None


def delivery_view(delivery: StoredDelivery) -> DeliveryView:
    return DeliveryView(
        id=delivery.id,
        endpoint_id=delivery.endpoint_id,
        event=delivery.type,
        event_id=delivery.event_id,
        cursor=delivery.cursor,
        stream=delivery.stream,
        state=delivery.state,
        attempts=delivery.attempts,
        status=delivery.status,
        error=delivery.error,
        created_at=clock.iso(delivery.created_at),
        done_at=instant(delivery.done_at),
        replay_of=delivery.replay_of,
    )


def attempt_view(attempt: Attempt) -> AttemptView:
    return AttemptView(clock.iso(attempt.at), attempt.status, round(attempt.latency, 4), attempt.error, attempt.excerpt)


_SECRET = re.compile(r"(?i)(?:key|secret|password|token)$")
_LOCATOR = re.compile(r"((?:rtmps?|srt)://[^/?]*(?:/[^/?]*)?)[/?].+")


def masked(value: Any, name: str = "") -> Any:
    """JSON as it may be shown: of keys and secrets the first four characters, of addresses that media is sent to no stream name."""
    if isinstance(value, dict):
        return {key: masked(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item, name) for item in value]
    if not isinstance(value, str):
        return value
    if _SECRET.search(name):
        return f"{value[:4]}{MASK}" if len(value) > 8 else MASK
    found = _LOCATOR.fullmatch(value)
    return f"{found[1]}/{MASK}" if found else value


_EXAMPLE = DeliveryView(
    id=4711,
    endpoint_id="wh_0123456789abcdef",
    event="live.started",
    event_id="6f1c1e0e-0b7e-4c55-9d0c-2f6a0b1d7e11",
    cursor=9120,
    stream="IN_0123456789abcdef",
    state="delivered",
    attempts=2,
    status=200,
    error="",
    created_at="2026-03-29T14:30:00.000Z",
    done_at="2026-03-29T14:30:05.412Z",
    replay_of=None,
)
_ATTEMPT = AttemptView("2026-03-29T14:30:00.012Z", 503, 0.0213, "it answered 503", "busy")
