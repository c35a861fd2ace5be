"""The audit log: who changed what, when and from where."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from medianode import clock
from medianode.api.problems import OPERATOR
from medianode.api.router import AnyRoute, Call, Empty, Route
from medianode.api.shapes import Data
from medianode.auth import Permission, Principal
from medianode.control.audit import AuditLog
from medianode.control.projects import Projects
from medianode.store.audit import Entry


class Filter(msgspec.Struct, rename="camel"):
    """`before`: the `id` that the last page ended with. `action`: `key.created`, …; `target`: an id; `actor`: a key's id, `cli`."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    before: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    action: Annotated[str, Meta(max_length=64)] = ""
    target: Annotated[str, Meta(max_length=160)] = ""
    actor: Annotated[str, Meta(max_length=64)] = ""


class EntryView(msgspec.Struct, rename="camel"):
    """`actor`: an API key's id, `cli`, or `system` for the node itself; `source`: the address that it came from, or empty.

    `details`: an object.
    """

    id: int
    at: str
    project: str | None
    actor: str
    source: str
    action: str
    target: str
    details: Any


class AuditApi:
    def __init__(self, log: AuditLog, projects: Projects) -> None:
        self._log = log
        self._projects = projects

    @property
    def routes(self) -> list[AnyRoute]:
        common: dict[str, Any] = {
            "method": "GET",
            "dialect": OPERATOR,
            "tag": "Operator",
            "auth": Permission.ADMIN,
            "query": Filter,
            "response": Data[list[EntryView]],
            "example": Data([_EXAMPLE]),
        }
        return [
            Route(path="/api/v1/audit", handler=self.of_key, summary="What was changed, newest first: all that the key may see", **common),
            Route(path="/api/v1/apps/{app}/audit", handler=self.of_app, summary="What was changed in one project, newest first", **common),
        ]

    async def of_key(self, call: Call[Principal, Empty, Filter]) -> Data[list[EntryView]]:
        return await self._page(None if call.who.node else call.who.project_id, call.query)

    async def of_app(self, call: Call[Principal, Empty, Filter]) -> Data[list[EntryView]]:
        return await self._page(call.who.project_id, call.query)

    async def _page(self, project_id: str | None, wanted: Filter) -> Data[list[EntryView]]:
        found = await self._log.before(
            wanted.limit,
            project_id=project_id,
            before_id=wanted.before,
            action=wanted.action,
            target=wanted.target,
            actor=wanted.actor,
        )
        return Data([entry_view(entry) for entry in found])


def entry_view(entry: Entry) -> EntryView:
    return EntryView(
        id=entry.id,
        at=clock.iso(entry.at),
        project=entry.project_id,
        actor=entry.actor,
        source=entry.source,
        action=entry.action,
        target=entry.target,
        details=dict(entry.details),
    )


_EXAMPLE = EntryView(
    id=42,
    at="2026-03-29T14:30:00.000Z",
    project="prj_0123456789ab",
    actor="key_0123456789ab",
    source="203.0.113.9",
    action="key.created",
    target="key_fedcba987654",
    details={"name": "backend", "permissions": ["live"]},
)
