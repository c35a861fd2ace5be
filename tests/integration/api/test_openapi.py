"""`/openapi.json` and the routes are one: neither has what the other lacks, and what is served fits what is described."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import msgspec

from medianode.api.openapi import template
from medianode.api.router import AnyRoute


def check(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "$") -> list[str]:
    """As much of JSON Schema 2020-12 as msgspec writes; and no fields that the schema does not name."""
    known = {"$ref", "anyOf", "enum", "type", "properties", "required", "items", "additionalProperties", "title", "description", "default"}
    bounds = {"minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "minItems", "maxItems", "pattern"}
    of_objects = {"maxProperties", "propertyNames"}
    assert set(schema) <= known | bounds | of_objects, f"{where}: this checker knows no {set(schema) - known - bounds - of_objects}"
    if not schema:
        return []  # any JSON
    if "$ref" in schema:
        return check(value, root["components"]["schemas"][schema["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in schema:
        tried = [check(value, s, root, where) for s in schema["anyOf"]]
        return [] if any(not t for t in tried) else [t for some in tried for t in some]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{where}: {value!r} is none of {schema['enum']}"]
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    if "type" in schema and (not isinstance(value, types[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean")):
        return [f"{where}: {value!r} is no {schema['type']}"]
    wrong: list[str] = []
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        wrong += [f"{where}: lacks {name}" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            if name in properties:
                wrong += check(item, properties[name], root, f"{where}.{name}")
            elif isinstance(schema.get("additionalProperties"), dict):
                wrong += check(item, schema["additionalProperties"], root, f"{where}.{name}")
            else:
                wrong.append(f"{where}: {name} is not described")
        if len(value) > schema.get("maxProperties", len(value)):
            wrong.append(f"{where}: {len(value)} properties")
        wrong += [w for name in value for w in check(name, schema.get("propertyNames", {}), root, f"{where}.{name}")]
    elif isinstance(value, list):
        wrong += [w for i, item in enumerate(value) for w in check(item, schema.get("items", {}), root, f"{where}[{i}]")]
    elif isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9):
            wrong.append(f"{where}: length {len(value)}")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            wrong.append(f"{where}: {value!r} does not match {schema['pattern']}")
    return wrong


async def description(house: Any) -> dict[str, Any]:
    answer = await house.ask("GET", "/openapi.json", key="")
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
    body: dict[str, Any] = answer.body
    return body


async def test_every_route_is_described_and_every_operation_is_served(house: Any) -> None:
    root = await description(house)
    served = {
        (route.method.lower(), template(route.resource.get_info().get("formatter") or route.resource.canonical))
        for route in house.app.router.routes()
        if route.method != "HEAD"
    }
    described = {(method, path) for path, item in root["paths"].items() for method in item}
    assert served - described == {("get", "/openapi.json"), ("get", "/docs")}
    assert described - served == set()


async def test_it_is_openapi_3_1_and_holds_together(house: Any) -> None:
    root = await description(house)
    assert root["openapi"] == "3.1.0"
    assert root["servers"] == [{"url": "https://media.example.com"}]
    operations = [o for item in root["paths"].values() for o in item.values()]
    ids = [o["operationId"] for o in operations]
    assert len(set(ids)) == len(ids)
    assert {tag for o in operations for tag in o["tags"]} == {t["name"] for t in root["tags"]}
    assert len({t["description"] for t in root["tags"]}) == len(root["tags"])
    refs = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', msgspec.json.encode(root).decode()))
    assert refs <= set(root["components"]["schemas"])
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in root["components"]["schemas"])
    for path, item in root["paths"].items():
        for method, operation in item.items():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), (method, path)
            assert (operation["security"] == [{"key": []}]) == (
                "401" in operation["responses"] and "permission" in operation.get("description", "")
            )


async def test_every_example_fits_its_schema(house: Any) -> None:
    root = await description(house)
    seen = 0
    for path, item in root["paths"].items():
        for method, operation in item.items():
            contents = [r["content"]["application/json"] for r in operation["responses"].values() if "content" in r]
            if "requestBody" in operation:
                contents.append(operation["requestBody"]["content"]["application/json"])
                assert "example" in contents[-1], (method, path)
            for content in contents:
                if "example" in content:
                    assert check(content["example"], content["schema"], root) == [], (method, path)
                    seen += 1
    assert seen > 100


async def test_what_is_served_fits_what_is_described(house: Any) -> None:
    """One call of every route, good and bad; each answer's status and body must be in the description."""
    root = await description(house)
    ingress = (await house.ask("POST", "/api/v1/apps/live/ingress", {"inputType": "rtmp", "room": "demo"})).data
    camera = (await house.ask("POST", "/api/v1/apps/live/ws-ingest", {"room": "cam"})).data
    await house.publish(ingress["streamKey"])
    key_id = (await house.keys.create("spare", ["live"], "live")).key.id
    webhook = {"url": "https://hooks.example.com/", "dialect": "fastpix"}
    hook = (await house.ask("POST", "/api/v1/apps/live/webhooks", webhook, key=house.admin)).data["id"]
    live = (await house.ask("POST", "/v1/live/streams", {})).data
    delivery = (await house.ask("GET", "/api/v1/apps/live/deliveries")).data[0]["id"]
    simulcast = {"url": "rtmp://live.example.net/live", "streamKey": "k"}
    target = (await house.ask("POST", f"/v1/live/streams/{live['streamId']}/simulcast", simulcast)).data
    push = (await house.ask("POST", "/api/v1/apps/live/rooms/demo/targets", simulcast)).data["id"]
    signing_key = (await house.ask("POST", "/v1/iam/signing-keys")).data
    link = (await house.ask("POST", "/api/v1/apps/live/view-links", {"room": "demo"})).data["id"]
    camera_url = {"inputType": "url", "room": "gate", "url": "rtsp://127.0.0.1/cam"}
    source = (await house.ask("POST", "/api/v1/apps/live/ingress", camera_url)).data["ingressId"]
    await house.ask("PUT", "/api/v1/apps/live/rooms/demo/fallback", {})
    media = await house.asset()
    played = (await house.ask("GET", f"/v1/on-demand/{media}")).data["playbackIds"][0]["id"]
    recording = (await house.ask("POST", "/api/v1/projects/live/recordings", {"room": "demo", "identity": "ingress-live"})).data["id"]
    ids = {
        "app": "live",
        "room": "demo",
        "project": "live",
        "media": media,
        "recording": recording,
        "link": link,
        "key": key_id,
        "stream": "live-demo%2Fingress-live",
        "session": "live-demo%2Fingress-live",
        "playback": live["playbackIds"][0]["id"],
        "target": target["simulcastId"],
        "delivery": delivery,
        "viewer": "9f1c2ab07e5d4c31",
    }
    succeeded = set()

    # deletions last, the stream's before its ingress's and what is deeper first: the others need what they delete
    def turn(route: AnyRoute) -> tuple[bool, bool, bool, int]:
        deep = -route.path.count("/") if route.method == "DELETE" and "live/streams" in route.path else 0
        return route.method == "DELETE", "stream" not in route.path, "webhooks" in route.path, deep

    for route in sorted(house.api.typed, key=turn):
        for path in (route.path, *route.aliases):
            item_id = camera["id"] if "ws-ingest" in path else ingress["ingressId"]
            item_id = live["streamId"] if "live/streams" in path else hook if "webhooks" in path else item_id
            item_id = source if "/pulls/" in path else item_id
            item_id = recording if "/vods" in path or "/recording/" in path else item_id
            named = {**ids, "key": signing_key["id"]} if "signing-keys" in path else {**ids, "target": push} if "rooms" in path else ids
            named = {**named, "playback": played} if "on-demand" in path else named
            url = template(path).format(id=item_id, **named)
            url += (
                "?limit=10" if route.streams else f"?endpoint={hook}" if route.method == "DELETE" and path.endswith("/deliveries") else ""
            )
            url += f"?playbackId={live['playbackIds'][0]['id']}" if route.method == "DELETE" and path.endswith("playback-ids") else ""
            body = None if route.request_example is None else msgspec.to_builtins(route.request_example)
            for key, sent in ((house.admin, body), (house.admin, {} if body else None), ("", body)):
                answer = await house.ask(route.method, url, sent, key=key)
                responses = root["paths"][template(path)][route.method.lower()]["responses"]
                assert str(answer.status) in responses, (route.method, url, answer)
                described = responses[str(answer.status)].get("content")
                if described is None:
                    assert answer.body == b""
                else:
                    assert check(answer.body, described["application/json"]["schema"], root) == [], (route.method, url)
                if answer.status < 300:
                    succeeded.add(id_of(route))
    assert {id_of(r) for r in house.api.typed} - succeeded == {
        "DELETE /api/v1/apps/{app}/ingress/{id}",  # BaxCloud's deleted it
        "DELETE /api/v1/projects/{project}",  # lacks its confirmation
        "PUT /v1/live/streams/{id}/finish",  # nobody publishes
        "POST /api/v1/apps/{app}/recording/start",  # our own dialect has started one,
        "POST /api/v1/apps/{app}/recording/{id}/stop",  # stopped
        "DELETE /api/v1/apps/{app}/vods/{id}",  # and deleted it
        "DELETE /api/v1/viewers/{viewer}",  # there is none
        "POST /api/v1/projects/{project}/recordings/{recording}/upload",  # there is no bucket
        "PUT /api/v1/apps/{app}/rooms/{room}/fallback/slate",  # takes a file
        "POST /api/v1/apps/{app}/tokens/revoke",  # the example's token is signed by nobody
    }


def id_of(route: AnyRoute) -> str:
    return f"{route.method} {template(route.path)}"


async def test_the_page_shows_it_and_runs_its_own_script_only(house: Any) -> None:
    answer = await house.ask("GET", "/docs", key="")
    assert answer.status == 200
    page = answer.body.decode()
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in answer.headers["Content-Security-Policy"]
    assert re.findall(r"(?:src|href)=\"(?:https?:)?//", page) == [], "nothing from elsewhere"
