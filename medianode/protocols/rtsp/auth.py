"""Basic and Digest authentication of a client (RFC 7617, RFC 7616, RFC 2069 for old cameras)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable

from medianode.errors import ProtocolError

_CHALLENGE = re.compile(r"(?i)\b(basic|digest)\b\s*")
_PARAMETER = re.compile(r'(?<![A-Za-z0-9_-])([A-Za-z0-9_-]++)\s*+=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
_HASHES: dict[str, Callable[[bytes], str]] = {
    "md5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "sha-256": lambda data: hashlib.sha256(data).hexdigest(),
}


class Authentication:
    """Answers challenges for one user. `nonce`: makes a client nonce."""

    def __init__(self, user: str, password: str, nonce: Callable[[], str]) -> None:
        self._user = user
        self._password = password
        self._nonce = nonce
        self._digest: dict[str, str] = {}
        self._basic = False
        self._count = 0

    def __repr__(self) -> str:
        return f"Authentication(user={self._user!r})"

    def challenged(self, values: Iterable[str]) -> bool:
        """Take the WWW-Authenticate lines of a 401. False where there is nothing more to offer: no user, or it was refused."""
        if not self._user:
            return False
        challenges = [parse_challenge(value) for value in values]
        digests = [c for c in challenges if c["scheme"] == "digest" and c.get("algorithm", "md5").lower().removesuffix("-sess") in _HASHES]
        digests.sort(key=lambda c: "256" not in c.get("algorithm", ""))
        if digests:
            fresh = digests[0].get("stale", "").lower() == "true" or not (self._digest or self._basic)
            self._digest, self._basic, self._count = digests[0], False, 0
            return fresh
        if any(c["scheme"] == "basic" for c in challenges) and not self._basic:
            self._basic, self._digest = True, {}
            return True
        return False

    def header(self, method: str, url: str) -> str | None:
        """The Authorization of a request, None before a challenge. Raises ProtocolError on what no header can hold."""
        if self._basic:
            return "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        if not self._digest:
            return None
        challenge = self._digest
        algorithm = challenge.get("algorithm", "MD5")
        digest = _HASHES[algorithm.lower().removesuffix("-sess")]
        realm, nonce = challenge.get("realm", ""), challenge.get("nonce", "")
        first = digest(f"{self._user}:{realm}:{self._password}".encode())
        cnonce = self._nonce()
        if algorithm.lower().endswith("-sess"):
            first = digest(f"{first}:{nonce}:{cnonce}".encode())
        second = digest(f"{method}:{url}".encode())
        fields = {"username": _quoted(self._user), "realm": _quoted(realm), "nonce": _quoted(nonce), "uri": _quoted(url)}
        if "auth" in (item.strip().lower() for item in challenge.get("qop", "").split(",")):
            self._count += 1
            count = f"{self._count:08x}"
            response = digest(f"{first}:{nonce}:{count}:{cnonce}:auth:{second}".encode())
            fields |= {"response": _quoted(response), "qop": "auth", "nc": count, "cnonce": _quoted(cnonce)}
        else:
            fields["response"] = _quoted(digest(f"{first}:{nonce}:{second}".encode()))
        if "opaque" in challenge:
            fields["opaque"] = _quoted(challenge["opaque"])
        if "algorithm" in challenge:
            fields["algorithm"] = algorithm
        return "Digest " + ", ".join(f"{name}={value}" for name, value in fields.items())


def parse_challenge(value: str) -> dict[str, str]:
    """`scheme` (lower case, empty where it is neither) and its parameters."""
    scheme = _CHALLENGE.match(value.strip())
    found = {"scheme": scheme[1].lower() if scheme else ""}
    for name, quoted, bare in _PARAMETER.findall(value):
        found.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or bare)
    return found


def _quoted(text: str) -> str:
    """Raises ProtocolError: a line end, from who wrote the URL or from the server, would begin a header of its own."""
    if not text.isprintable():
        raise ProtocolError("Digest: expected a user and a challenge without control characters")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
