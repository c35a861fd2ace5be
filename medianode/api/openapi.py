"""`/openapi.json` (OpenAPI 3.1) out of the routes that serve, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from medianode.api.fields import present
from medianode.api.problems import Dialect, phrase
from medianode.api.router import AnyRoute
from medianode.auth import Permission
from medianode.errors import InvalidRequest, MedianodeError

REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::(?:[^{}]|\{[^{}]*\})*)?\}")
_WHY = {
    400: ("invalid-request", "roomName: expected text, got nothing"),
    401: ("unauthorized", "expected a key that this node knows in Authorization: Bearer"),
    403: ("forbidden", "the key is not of this project"),
    404: ("not-found", "no such id"),
    405: ("method-not-allowed", "allowed: GET"),
    408: ("request-timeout", "body: expected all of it in 15 s"),
    409: ("conflict", "somebody else holds it"),
    413: ("body-too-large", "body: expected at most 1048576 bytes"),
    422: ("invalid-request", "reconnectWindow: expected a whole number from 0 to 1800, got 9000"),
    429: ("too-many-requests", "too many failed logins: wait a minute"),
    500: ("internal", "the node failed on this request; its log has the details"),
    501: ("not-enabled", "known, but not enabled on this node"),
    503: ("storage-error", "the database is away"),
}

_TAGS = {
    "Events": "What happens, as server-sent events or page by page, for those who cannot be called.",
    "Webhooks": "Who is called when something happens, in which dialect, and what became of each call.",
    "Simulcast": "Where a room is sent on to while it is on air.",
    "Recordings": "What is kept of rooms, and clips of it.",
    "Pull": "What the node fetches itself: cameras and other URLs, how that goes, on and off.",
    "Fallback": "What a room shows while its publisher is gone: a slate, or a backup ingress.",
}
"""Parts of our own dialect with a heading of their own."""


def document(routes: Sequence[AnyRoute], version: str, base: str = "") -> dict[str, Any]:
    """The whole description. `base`: the public address, for `servers`."""
    types_ = _types(routes)
    refs, components = msgspec.json.schema_components(types_, ref_template=REF)
    schema = {_name(t): ref for t, ref in zip(types_, refs, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for i, path in enumerate((route.path, *route.aliases)):
            operation = _operation(route, schema)
            if i:
                operation["operationId"] += f".alias{i}"
            paths.setdefault(template(path), {})[route.method.lower()] = operation
    dialects = {route.tag: route.dialect for route in routes}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "medianode",
            "version": version,
            "description": "Live media in and out. Each tag is one vendor's dialect over the same domain.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        **({"servers": [{"url": base}]} if base else {}),
        "tags": [{"name": tag, "description": _TAGS.get(tag, d.text)} for tag, d in dialects.items()],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key of this node: `medianode keys create`."},
            },
        },
    }


def template(path: str) -> str:
    """aiohttp's path as OpenAPI writes it: `{id:[^/]+}` → `{id}`."""
    return _PARAMETER.sub(r"{\1}", path)


def _types(routes: Iterable[AnyRoute]) -> list[Any]:
    found: dict[str, Any] = {}
    for route in routes:
        for kind in (route.request, route.response, route.dialect.error):
            if kind is not None:
                found[_name(kind)] = kind
    return list(found.values())


def _name(kind: Any) -> str:
    return str(kind)


def _operation(route: AnyRoute, schema: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [route.tag],
        "security": [{"key": []}] if route.auth is not None else [],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_headers(route)],
        "responses": {str(route.status if route.response is not None else 204): _success(route, schema)},
    }
    if route.auth is not None:
        more = "" if route.auth == Permission.ADMIN else " (or `admin`)"
        operation["description"] = f"Needs a key with the permission `{route.auth}`{more}."
    if route.request is not None:
        operation["requestBody"] = {
            "required": any(f.required for f in msgspec.structs.fields(route.request)),
            "content": {"application/json": _content(schema[_name(route.request)], _short(route.request_example))},
        }
    for status in route.statuses:
        operation["responses"][str(status)] = _failure(route.dialect, status, schema)
    return operation


def _success(route: AnyRoute, schema: Mapping[str, Any]) -> dict[str, Any]:
    if route.response is None:
        return {"description": "Done; no body"}
    return {
        "description": phrase(route.status),
        "content": {
            "application/json": _content(schema[_name(route.response)], route.example),
            **({route.streams: {"schema": {"type": "string"}}} if route.streams else {}),
        },
    }


def _failure(dialect: Dialect, status: int, schema: Mapping[str, Any]) -> dict[str, Any]:
    code, message = _WHY[status]
    example = dialect.say(status, InvalidRequest(message) if status == 422 else MedianodeError(message, code=code))
    return {"description": phrase(status), "content": {"application/json": _content(schema[_name(dialect.error)], example)}}


def _content(schema: Any, example: Any) -> dict[str, Any]:
    return {"schema": schema, **({} if example is None else {"example": msgspec.to_builtins(example)})}


def _short(example: msgspec.Struct | None) -> dict[str, Any] | None:
    """A request as a person would write it: without what is the default anyway."""
    if example is None:
        return None
    fields = msgspec.structs.fields(example)
    return {f.encode_name: msgspec.to_builtins(v) for f in fields if (v := getattr(example, f.name)) != f.default}


def _path_parameters(route: AnyRoute) -> list[dict[str, Any]]:
    return [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in _PARAMETER.findall(route.path)]


def _headers(route: AnyRoute) -> list[dict[str, Any]]:
    known = route.dialect.headers if route.auth is not None else ()
    return [{"name": n, "in": "header", "required": False, "schema": {"type": "string"}, "description": text} for n, text in known]


def _query_parameters(route: AnyRoute) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    found = []
    for field in msgspec.structs.fields(route.query):
        (schema,), _ = msgspec.json.schema_components([present(field.type)], ref_template=REF)
        text = schema.pop("description", None)
        found.append(
            {
                "name": field.encode_name,
                "in": "query",
                "required": field.required,
                "schema": schema,
                **({"description": text} if text else {}),
            }
        )
    return found
