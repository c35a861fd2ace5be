"""LiveKit-shaped room tokens: JWTs signed by HS256 with the project's secret, as LiveKit's and StreamHub's clients mint and read them."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from medianode.errors import InvalidRequest, Unauthorized
from medianode.media.names import check_identity, room_name, shown
from medianode.store.projects import Project

LEEWAY = 60.0
TTL = 6 * 3600.0
TTL_MAX = 366 * 86_400.0
METADATA_LENGTH = 2000
TOKEN_LENGTH = 8192
ID_LENGTH = 128

_INSTANT_MAX = 1e12
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|m|h|d|w)?", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a token says. `room` is canonical; instants are wallclock. `can_publish_sources`, where set, is all that may be published.

    `id` tells it from all others, for revoking it: its `jti`, or a digest where that is absent or its identity, as LiveKit's SDKs have it.
    """

    identity: str
    room: str
    expires_at: float
    id: str = ""
    name: str = ""
    metadata: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    can_join: bool = True
    can_publish: bool = True
    can_subscribe: bool = True
    can_publish_data: bool = True
    can_publish_sources: tuple[str, ...] | None = None
    can_update_own_metadata: bool = False
    hidden: bool = False
    recorder: bool = False
    audio_only: bool = False


def span(ttl: str | float | None) -> float:
    """Seconds of `6h`, `30m`, `90s`, `2d`, `1w`, or of a number of seconds (text too); None is six hours. Raises InvalidRequest."""
    if ttl is None:
        return TTL
    found = _SPAN.fullmatch(ttl.strip() if isinstance(ttl, str) else f"{ttl:.3f}")
    seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else 0.0
    if not 1 <= seconds <= TTL_MAX:
        raise InvalidRequest(f"ttl: expected 1 s to 366 d, such as 6h, 30m, 90s or a number of seconds, got {shown(str(ttl))}")
    return seconds


def mint(
    project: Project,
    *,
    at: float,
    room: str = "",
    identity: str | None = None,
    name: str = "",
    ttl: str | float | None = None,
    metadata: str = "",
    can_publish: bool | None = None,
    can_subscribe: bool = True,
    hidden: bool = False,
    recorder: bool = False,
    audio_only: bool = False,
    token_id: str = "",
) -> tuple[str, Token]:
    """The JWT and what it says. `at`: wallclock. `token_id`: its `jti`, or empty for a random one.

    No identity makes one (`anon-…`); one that is hidden or records does not publish unless `can_publish` says so. Raises InvalidRequest.
    """
    if len(metadata) > METADATA_LENGTH:
        raise InvalidRequest(f"metadata: expected up to {METADATA_LENGTH} characters, got {len(metadata)}")
    publishes = not (hidden or recorder) if can_publish is None else can_publish
    token = Token(
        identity=check_identity(identity, "identity") if identity else f"anon-{secrets.token_hex(8)}",
        room=room_name(project.slug, room),
        expires_at=float(int(at + span(ttl))),
        id=token_id or secrets.token_hex(8),
        name=name,
        metadata=metadata,
        can_publish=publishes,
        can_subscribe=can_subscribe,
        can_publish_data=publishes,
        hidden=hidden,
        recorder=recorder,
        audio_only=audio_only,
    )
    return jwt.encode(_claims(project, token, at), project.jwt_secret, algorithm="HS256"), token


_REASONS: dict[type[Exception], str] = {
    jwt.InvalidSignatureError: "signed with another key, or cut short",
    jwt.InvalidIssuerError: "of another project",
    jwt.MissingRequiredClaimError: "it says neither who made it nor until when it is good (iss, exp)",
    jwt.InvalidAlgorithmError: "expected it signed with HS256",
}


def verify(project: Project, text: str, at: float, *, expired: bool = False) -> Token:
    """What a token of this project says. `expired`: one at a bad time will do, too.

    Raises Unauthorized: `token-expired` and `token-not-yet` for good ones at a bad time (60 s leeway), `unauthorized` for all else.
    """
    if not _may_be_token(text):
        raise Unauthorized(f"token: expected up to {TOKEN_LENGTH} ASCII characters, got {len(text)} characters")
    try:
        claims = jwt.decode(
            text,
            project.jwt_secret,
            algorithms=["HS256"],
            issuer=project.jwt_key_id,
            options={"require": ["exp", "iss"], "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
        )
    except (jwt.PyJWTError, RecursionError) as e:  # RecursionError: json, on a header of nothing but brackets
        raise Unauthorized(f"token: {_REASONS.get(type(e), 'not one of this project, or cut short')}") from None
    expires_at = _instant(claims, "exp")
    if at > expires_at + LEEWAY and not expired:
        raise Unauthorized("token: expired", code="token-expired")
    if "nbf" in claims and not expired and at < _instant(claims, "nbf") - LEEWAY:
        raise Unauthorized("token: not valid yet: is the clock of its issuer right?", code="token-not-yet")
    return _token(project, claims, expires_at, _id(claims, text))


def issuer(text: str) -> str | None:
    """Whose token it claims to be, unverified: for finding the project whose secret may verify it."""
    if not _may_be_token(text):
        return None
    try:
        found = jwt.decode(text, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def looks_like_token(text: str) -> bool:
    """As opposed to an API key."""
    return text.count(".") == 2


def _may_be_token(text: str) -> bool:
    return len(text) <= TOKEN_LENGTH and text.isascii()


def _claims(project: Project, token: Token, at: float) -> dict[str, Any]:
    video: dict[str, Any] = {
        "roomJoin": True,
        "room": token.room,
        "canPublish": token.can_publish,
        "canSubscribe": token.can_subscribe,
        "canPublishData": token.can_publish_data,
    }
    if token.hidden:
        video["hidden"] = True
    if token.recorder:
        video["recorder"] = True
    claims: dict[str, Any] = {
        "iss": project.jwt_key_id,
        "sub": token.identity,
        "nbf": int(at),
        "exp": int(token.expires_at),
        "jti": token.id,
        "video": video,
    }
    if token.name:
        claims["name"] = token.name
    if token.metadata:
        claims["metadata"] = token.metadata
    if token.audio_only:
        claims["audioOnly"] = True
    return claims


def _id(claims: Mapping[str, Any], text: str) -> str:
    jti = claims.get("jti")
    if isinstance(jti, str) and 0 < len(jti) <= ID_LENGTH and jti.isprintable() and jti != claims.get("sub"):
        return jti
    return f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"


def _token(project: Project, claims: Mapping[str, Any], expires_at: float, token_id: str) -> Token:
    """The signature is good, so its maker holds the secret; the types may yet be anything."""
    video = claims.get("video")
    grant: Mapping[str, Any] = video if isinstance(video, dict) else {}
    try:
        room = room_name(project.slug, _text(grant, "room")) if grant.get("room") else ""
    except InvalidRequest as e:
        raise Unauthorized(f"token: {e.message}") from None
    sources = grant.get("canPublishSources")
    named = tuple(str(source) for source in sources) if isinstance(sources, list) and sources else None
    attributes = claims.get("attributes")
    return Token(
        identity=_text(claims, "sub"),
        room=room,
        expires_at=expires_at,
        id=token_id,
        name=_text(claims, "name"),
        metadata=_text(claims, "metadata"),
        attributes={str(k): str(v) for k, v in attributes.items()} if isinstance(attributes, dict) else {},
        can_join=grant.get("roomJoin") is True,
        can_publish=grant.get("canPublish", True) is True if named is None else True,
        can_subscribe=grant.get("canSubscribe", True) is True,
        can_publish_data=grant.get("canPublishData", True) is True,
        can_publish_sources=named,
        can_update_own_metadata=grant.get("canUpdateOwnMetadata") is True,
        hidden=grant.get("hidden") is True,
        recorder=grant.get("recorder") is True,
        audio_only=claims.get("audioOnly") is True,
    )


def _text(claims: Mapping[str, Any], key: str) -> str:
    value = claims.get(key, "")
    if not isinstance(value, str):
        raise Unauthorized(f"token: {key}: expected text, got {type(value).__name__}")
    return value


def _instant(claims: Mapping[str, Any], key: str) -> float:
    value = claims.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _INSTANT_MAX:
        raise Unauthorized(f"token: {key}: expected seconds since 1970, got {type(value).__name__}")
    return float(value)
