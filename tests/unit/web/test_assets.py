from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from yarl import URL

from medianode.web.assets import STATIC, Assets

Client = TestClient[web.Request, web.Application]


@pytest.fixture
def version(client: Client) -> str:
    return Assets().version


async def test_versioned_names_are_immutable_and_others_are_asked_again(client: Client, version: str) -> None:
    fixed = await client.get(f"/static/{version}/player.js")
    loose = await client.get("/static/player.js")
    old = await client.get("/static/v-000000000000/player.js")
    assert [r.status for r in (fixed, loose, old)] == [200, 200, 200]
    assert "immutable" in fixed.headers["Cache-Control"]
    assert loose.headers["Cache-Control"] == old.headers["Cache-Control"] == "no-cache"
    assert fixed.headers["ETag"] == loose.headers["ETag"]
    assert await fixed.read() == (STATIC / "player.js").read_bytes()


async def test_etag_answers_304(client: Client) -> None:
    first = await client.get("/static/page.css")
    again = await client.get("/static/page.css", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status == 304
    assert await again.read() == b""


async def test_types_sniffing_and_cors(client: Client) -> None:
    for name, kind in (("player.js", "text/javascript"), ("page.css", "text/css"), ("icon.svg", "image/svg+xml")):
        response = await client.get(f"/static/{name}")
        assert response.content_type == kind
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_gzip_only_for_those_who_take_it(client: Client) -> None:
    async with client.session.get(client.make_url("/static/player.js"), headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Vary"] == "Accept-Encoding"
        assert await response.read() == (STATIC / "player.js").read_bytes()
    async with client.session.get(client.make_url("/static/player.js"), headers={"Accept-Encoding": "identity"}) as response:
        assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "../pages.py", "%2e%2e/pages.py", "..%2fpages.py", "pages/play.html", "v-000000000000/", "vendor", "player.js/", "%00"],
)
async def test_only_known_assets_are_served(client: Client, name: str) -> None:
    response = await client.get(URL(f"/static/{name}", encoded=True), allow_redirects=False)
    assert response.status == 404


async def test_head(client: Client) -> None:
    response = await client.head("/static/player.js")
    assert response.status == 200
    assert await response.read() == b""


async def test_other_sites_import_one_stable_address(client: Client, version: str) -> None:
    """It leads to the versioned script, so that its parts are of one version and stay in caches."""
    first = await client.get("/static/medianode.js", allow_redirects=False)
    assert (first.status, first.headers["Location"]) == (302, f"{version}/medianode.js")
    assert first.headers["Cache-Control"] == "public, max-age=300"
    assert first.headers["Access-Control-Allow-Origin"] == "*"
    assert first.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    script = await client.get("/static/medianode.js")
    assert script.url.path == f"/static/{version}/medianode.js"
    assert "immutable" in script.headers["Cache-Control"]
    assert script.headers["Access-Control-Allow-Origin"] == "*"
    types = await client.get(f"/static/{version}/medianode.d.ts")
    assert types.content_type == "application/typescript"


def test_what_other_sites_import_depends_on_nothing_else() -> None:
    """medianode.js and what it imports: no element of our pages, no hls.js."""
    taken, wanted = set[str](), {"medianode.js"}
    while wanted:
        name = wanted.pop()
        taken.add(name)
        wanted |= set(re.findall(r"from '\./([\w.]+)'", (STATIC / name).read_text("utf-8"))) - taken
    assert taken == {"medianode.js", "connection.js"}


def test_the_types_name_what_the_script_exports() -> None:
    script, types = ((STATIC / name).read_text("utf-8") for name in ("medianode.js", "medianode.d.ts"))
    exported = set(re.findall(r"^export class (\w+)", script, re.MULTILINE))
    for names in re.findall(r"^export \{([^}]+)\}", script, re.MULTILINE):
        exported |= {name.strip() for name in names.split(",")}
    assert exported == set(re.findall(r"^export (?:class|function) (\w+)", types, re.MULTILINE))


def test_the_version_changes_with_any_content(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    first = Assets(tmp_path)
    (tmp_path / "a.js").write_text("2")
    second = Assets(tmp_path)
    assert first.version != second.version
    assert not first.has_hls
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor/hls.min.js").write_bytes(gzip.compress(b"x"))
    assert Assets(tmp_path).has_hls


def test_scripts_and_styles_name_no_other_host() -> None:
    """Nothing is fetched from elsewhere: absolute addresses stand only as XML namespaces and in the texts for encoders."""
    for path in STATIC.glob("*.*"):
        found = [
            u for u in re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text("utf-8")) if not u.endswith(("www.w3.org", ".example"))
        ]
        assert found == [], path.name


def test_imports_name_existing_modules() -> None:
    for path in STATIC.glob("*.js"):
        for name in re.findall(r"from '\./([\w.]+)'", path.read_text("utf-8")):
            assert (STATIC / name).is_file(), f"{path.name} imports {name}"
