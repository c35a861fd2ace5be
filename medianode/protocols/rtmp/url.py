"""RTMP addresses, as encoders write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from medianode.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class RtmpUrl:
    """rtmp[s]://[user:password@]host[:port]/app[/instance]/name: the last path segment, with its query, is the stream's name."""

    secure: bool
    host: str
    port: int
    app: str
    name: str = field(repr=False)
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def tc_url(self) -> str:
        """As encoders write it: a usual port is left out, for servers that tell virtual hosts by it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == (443 if self.secure else 1935) else f":{self.port}"
        return f"{'rtmps' if self.secure else 'rtmp'}://{host}{port}/{self.app}"


def parse_rtmp_url(text: str, key: str | None = None) -> RtmpUrl:
    """`key`: the stream's name where it is not in the URL, which is then all app, as OBS has a server and a key. Raises InvalidRequest."""
    try:
        url = urlsplit(text)
    except ValueError as e:  # a bracket without its other half
        raise InvalidRequest(f"expected rtmp://host/app/key or rtmps://…: {e}") from None
    if url.scheme not in ("rtmp", "rtmps") or not url.hostname:
        raise InvalidRequest(f"expected rtmp://host/app/key or rtmps://…, got {url.scheme or text[:20]!r}")
    query = f"?{url.query}" if url.query else ""
    if key:
        app, name = url.path.strip("/"), key
        if not app:
            raise InvalidRequest("expected rtmp://host/app: an app behind the host")
        app += query
    else:
        app, _, name = url.path.lstrip("/").rpartition("/")
        if not app or not name:
            raise InvalidRequest("expected rtmp://host/app/key: an app and a stream name or key behind the host")
        name += query
    secure = url.scheme == "rtmps"
    try:
        port = url.port or (443 if secure else 1935)
    except ValueError as e:
        raise InvalidRequest(f"port: {e}") from None
    return RtmpUrl(secure, url.hostname, port, app, name, unquote(url.username or ""), unquote(url.password or ""))
