"""What every part of the recordings' API needs: the project that a request is about, and public addresses."""

from __future__ import annotations

from typing import Any

from medianode.api.router import Call
from medianode.api.urls import Ports, Urls
from medianode.auth import Principal
from medianode.control.projects import Projects
from medianode.errors import Forbidden
from medianode.origin import Origin
from medianode.store.projects import Project


class Desk:
    def __init__(self, projects: Projects, origin: Origin, ports: Ports) -> None:
        self._projects = projects
        self._origin = origin
        self._ports = ports

    async def project(self, call: Call[Principal, Any, Any]) -> Project:
        """The one that the path names as `{project}`. Raises Forbidden (`other-project`)."""
        project = await self._projects.find(call.path("project"))
        if project is None or not (call.who.node or call.who.project_id == project.id):
            raise Forbidden("expected a project that this key may use", code="other-project")
        return project

    def urls(self, call: Call[Any, Any, Any]) -> Urls:
        return Urls.of(self._origin, call.request, self._ports)
