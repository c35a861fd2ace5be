"""Assets: the scripts, styles and pictures of the pages, held in memory, gzipped once, cacheable for ever under their version."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from medianode.origin import OPEN_CORS

STATIC = Path(__file__).parent / "static"
HLS_SCRIPT = "vendor/hls.min.js"

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "application/typescript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
_VERSION = re.compile(r"v-[0-9a-f]{12}/")
_FOREVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"
_STABLE = "medianode.js"
"""What other sites import: they are sent to the versioned name, so that its parts never mix with those of another version."""
_REDIRECT_AGE = "public, max-age=300"


@dataclass(frozen=True, slots=True)
class Asset:
    content_type: str
    body: bytes
    packed: bytes
    etag: str


class Assets:
    """`/static/<name>` (with an ETag; `medianode.js` by a redirect) and `/static/v-<hash>/<name>`; relative imports carry the hash along.

    Names are looked up in memory, never on disk: only what stood under `root` at start, with a type known above, is ever served.
    """

    def __init__(self, root: Path = STATIC) -> None:
        self._assets = dict(sorted(_read(root)))
        digest = hashlib.sha256("".join(f"{name} {a.etag}\n" for name, a in self._assets.items()).encode())
        self.version = f"v-{digest.hexdigest()[:12]}"

    @property
    def has_hls(self) -> bool:
        """hls.js was brought by npm; without it players fall back to native HLS and MJPEG."""
        return HLS_SCRIPT in self._assets

    async def serve(self, request: web.Request) -> web.Response:
        """GET|HEAD /static/{name}: 200, 304 or a plain 404."""
        name = request.match_info["name"]
        version = _VERSION.match(name)
        asset = self._assets.get(name[version.end() :] if version else name)
        headers = {**OPEN_CORS, "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "cross-origin"}
        if asset is None:
            return web.Response(status=404, text="404: no such file\n", headers={**headers, "Cache-Control": "no-store"})
        if name == _STABLE:
            to = {**headers, "Location": f"{self.version}/{name}", "Cache-Control": _REDIRECT_AGE}
            return web.Response(status=302, headers=to)
        headers["ETag"] = asset.etag
        headers["Vary"] = "Accept-Encoding"
        headers["Cache-Control"] = _FOREVER if version and version.group() == f"{self.version}/" else _ASK_AGAIN
        if asset.etag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = asset.content_type
        if "gzip" in request.headers.get("Accept-Encoding", "") and len(asset.packed) < len(asset.body):
            return web.Response(body=asset.packed, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=asset.body, headers=headers)


def _read(root: Path) -> Iterator[tuple[str, Asset]]:
    for path in root.rglob("*"):
        if path.suffix in _TYPES and path.is_file():
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
            yield path.relative_to(root).as_posix(), Asset(_TYPES[path.suffix], body, gzip.compress(body, 9, mtime=0), etag)
