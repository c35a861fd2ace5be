"""Signatures and headers of a delivery, as each dialect's receivers check them (contracts 5). Pure, but for the minting of secrets.

HMAC-SHA256 over the very bytes of the body. Without a secret there is no signature header.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Mapping

import msgspec

from medianode import __version__
from medianode.webhooks.facts import Dialect

SECRET_BYTES = 32
_AGENTS = {"baxcloud": "BaxCloud-VideoConverter/1.0", "streamhub": "streamhub-core/callbacks", "fastpix": f"medianode/{__version__}"}
_FRAME = {
    *("accept-encoding", "connection", "content-encoding", "content-length", "content-type", "date", "expect", "host", "http2-settings"),
    *("keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "fastpix-signature"),
}
_OURS = ("x-baxcloud-", "x-streamhub-", "proxy-", ":")


class _Stamped(msgspec.Struct):
    id: str = ""
    ts: str | int | float = ""


def new_secret(dialect: Dialect) -> str:
    """To be shown once. FastPix's is base64 of 32 bytes, for its receivers decode it; the others' is text."""
    random = secrets.token_bytes(SECRET_BYTES)
    return base64.b64encode(random).decode() if dialect == "fastpix" else "whsec_" + base64.urlsafe_b64encode(random).rstrip(b"=").decode()


def sign(dialect: str, secret: str, body: bytes) -> str:
    """What stands in the signature header: `sha256=` and lower-case hex; FastPix's is plain base64."""
    if dialect == "fastpix":
        return base64.b64encode(hmac.digest(_decoded(secret), body, "sha256")).decode()
    return "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex()


def headers(dialect: str, event: str, event_id: str, body: bytes, secret: str | None, custom: Mapping[str, str]) -> dict[str, str]:
    """All that a delivery carries beside Host and Content-Length. `custom` is the endpoint's own and overrides none of ours."""
    ours = {"Content-Type": "application/json", "User-Agent": _AGENTS[dialect], "Accept-Encoding": "identity"}
    if dialect == "baxcloud":
        ours["X-BaxCloud-Event"] = event
    elif dialect == "streamhub":
        stamped = _stamped(body)
        # of several events of one fact each has an id of its own, in its body
        ours |= {"X-StreamHub-Event": event, "X-StreamHub-Delivery": stamped.id or event_id}
        if stamped.ts:
            ours["X-StreamHub-Timestamp"] = str(stamped.ts)
    if secret is not None:
        ours[_SIGNATURES[dialect]] = sign(dialect, secret, body)
    return {name: value for name, value in custom.items() if not forbidden(name)} | ours


def forbidden(name: str) -> bool:
    """May an endpoint's own headers not have this one? It frames the request, or tells the receiver what only we may tell."""
    lower = name.lower()
    return lower in _FRAME or lower.startswith(_OURS)


_SIGNATURES = {"baxcloud": "X-BaxCloud-Signature", "streamhub": "X-StreamHub-Signature", "fastpix": "FastPix-Signature"}


def _decoded(secret: str) -> bytes:
    """What is no base64 was never shown to a receiver that decodes: it is taken as text."""
    try:
        return base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        return secret.encode()


def _stamped(body: bytes) -> _Stamped:
    """Id and instant of a StreamHub body, so that headers and body agree; empty where it has none."""
    try:
        return msgspec.json.decode(body, type=_Stamped)
    except msgspec.DecodeError:
        return _Stamped()
