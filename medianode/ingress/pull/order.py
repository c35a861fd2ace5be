"""PullOrder and PullState: what is to be fetched, and how that goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

from medianode.auth import PublishGrant
from medianode.ingress.pull.words import LENGTH, printable

Transport = Literal["auto", "udp", "tcp", "http"]
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt")
State = Literal["opening", "running", "waiting", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PullOrder:
    """One source. `url` holds its credentials and is never shown. `grant.ingress_id` names it.

    `transport` counts for RTSP only: `auto` is UDP, then TCP, then the HTTP tunnel. `silence`, `frozen_video`: seconds, None for the
    node's `[pull]`.
    """

    grant: PublishGrant
    url: str = field(repr=False)
    transport: Transport = "auto"
    silence: float | None = None
    frozen_video: float | None = None

    @property
    def ingress_id(self) -> str:
        return self.grant.ingress_id or ""

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PullState:
    """`state`: opening, running, waiting (until `retry_at`), stopped. `code` and `message`: the last failure in words, empty while it
    runs well.

    `transport`: `udp`, `tcp`, `http` for RTSP, else the scheme; what was used last. `since` and `retry_at`: wallclock, `retry_at` 0 where
    nothing is waited for. `nbytes`: since the order was given. `attempts`: how often it was opened.
    """

    state: State
    code: str = ""
    message: str = ""
    transport: str = ""
    since: float = 0.0
    retry_at: float = 0.0
    nbytes: int = 0
    attempts: int = 0


def without_secrets(text: str, url: str) -> str:
    """What a source said, fit to be shown: some repeat what they were asked."""
    text = printable(text)
    parts = urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    values = [value for item in parts.query.split("&") for value in (item, item.partition("=")[2])]
    secrets = [url, userinfo, parts.username or "", parts.password or "", parts.query, *values]
    # a stream key is the last of an RTMP address's path
    secrets += [parts.path.strip("/").rpartition("/")[2]] if parts.scheme.startswith("rtmp") else []
    for secret in sorted({s for raw in secrets for s in (raw, unquote(raw))}, key=len, reverse=True):
        if len(secret) >= 4 or (secret and secret == unquote(parts.password or "")):
            text = text.replace(secret, "…")
    return text[:LENGTH]
