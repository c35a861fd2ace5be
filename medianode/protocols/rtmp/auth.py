"""Adobe's authmod, the only user and password that librtmp (OBS) and FFmpeg can send: a challenge in the refusal of `connect`.

    C connect app                                                       S refuses: `code=403 need auth; authmod=adobe`
    C connect app?authmod=adobe&user=U                                  S refuses: `?reason=needauth&user=U&salt=S&challenge=C&opaque=O`
    C connect app?authmod=adobe&user=U&challenge=X&response=R&opaque=O

R is b64(md5(b64(md5(U S password)) O X)), with C in O's place if O is empty. Each step is a connection of its own. The server keeps nothing
between them: `opaque` is a nonce and its expiry under a MAC, the salt is made from it. A response can be used again until its expiry by
whoever overhears it; over RTMPS nobody does.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple

NEED_AUTH = "[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] : "
AUTH_FAILED = "[ AccessManager.Reject ] : [ authmod=adobe ] : ?reason=authfailed"
NO_SUCH_USER = "[ AccessManager.Reject ] : [ authmod=adobe ] : ?reason=nosuchuser"
_PREFIX = "[ AccessManager.Reject ] : [ authmod=adobe ] : ?reason=needauth"


class Challenge(NamedTuple):
    """What the refusal carries. Each part is base64url or hex, so that it needs no escaping."""

    user: str
    salt: str
    challenge: str
    opaque: str

    @property
    def description(self) -> str:
        return f"{_PREFIX}&user={self.user}&salt={self.salt}&challenge={self.challenge}&opaque={self.opaque}"


def _mac(secret: bytes, purpose: str, text: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(secret, f"{purpose}:{text}".encode("utf-8", "replace"), hashlib.sha256)[:12]).decode()


def make_challenge(user: str, secret: bytes, nonce: bytes, expires: int) -> Challenge:
    """`secret`: the server's own, the same for all connections; `nonce`: fresh random bytes; `expires`: seconds on any clock."""
    body = f"{nonce.hex()}.{expires:x}"
    opaque = f"{body}.{_mac(secret, 'opaque', body)}"
    return Challenge(user, _mac(secret, "salt", opaque), _mac(secret, "challenge", opaque), opaque)


def respond(user: str, password: str, salt: str, challenge: str, opaque: str, client_challenge: str) -> str:
    """The `response` of the third step."""
    secret = _b64_md5(f"{user}{salt}{password}")
    return _b64_md5(f"{secret}{opaque or challenge}{client_challenge}")


def _b64_md5(text: str) -> str:
    digest = hashlib.md5(text.encode("utf-8", "replace"), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def verify(query: Mapping[str, str], password: str, secret: bytes, now: int) -> bool:
    """Whether the app's query in the third step proves the password. `now` on the clock of `expires`."""
    opaque = query.get("opaque", "")
    body, _, mac = opaque.rpartition(".")
    genuine = hmac.compare_digest(mac.encode("utf-8", "replace"), _mac(secret, "opaque", body).encode())
    user, client_challenge = query.get("user", ""), query.get("challenge", "")
    expected = respond(user, password, _mac(secret, "salt", opaque), "", opaque, client_challenge)
    proven = hmac.compare_digest(query.get("response", "").encode("utf-8", "replace"), expected.encode())
    return genuine and proven and now <= int(body.rpartition(".")[2], 16)


def is_adobe(query: Mapping[str, str]) -> bool:
    return query.get("authmod") == "adobe"


def answer_rejection(description: str, user: str, password: str, client_challenge: str) -> str | None:
    """The client's side: the query to reconnect with, or None if this refusal is final or no challenge. `client_challenge`: random hex."""
    if "authmod=adobe" not in description:
        return None
    if "code=403 need auth" in description:
        return f"authmod=adobe&user={user}"
    _, found, text = description.partition("?reason=needauth")
    if not found:
        return None
    fields = dict(item.partition("=")[::2] for item in text.split("&"))
    salt, challenge, opaque = fields.get("salt", ""), fields.get("challenge", ""), fields.get("opaque", "")
    response = respond(user, password, salt, challenge, opaque, client_challenge)
    query = f"authmod=adobe&user={user}&challenge={client_challenge}&response={response}"
    return f"{query}&opaque={opaque}" if opaque else query
