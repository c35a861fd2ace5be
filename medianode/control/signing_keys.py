"""Signing keys: pairs whose private half a customer's server signs view tokens with (RS256), as FastPix has them.

A token names its key in `kid` (header or payload), what it opens in `aud` (`media:<playbackId>`) and its end in `exp`.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from medianode import clock
from medianode.control import audit
from medianode.control.tokens import LEEWAY, TOKEN_LENGTH
from medianode.errors import Forbidden, NotFound, Unauthorized
from medianode.events import Bus, KeyRevoked, ViewingChanged
from medianode.media.names import shown
from medianode.store import live_streams as table
from medianode.store import projects
from medianode.store.database import Database
from medianode.store.live_streams import SigningKey
from medianode.store.projects import Project
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

BITS = 2048
AUDIENCE = "media:"
_KEY_ID_LENGTH = 64


@dataclass(frozen=True, slots=True)
class NewSigningKey:
    """`private_key`: base64 of its PEM (PKCS 8), shown once."""

    key: SigningKey
    private_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedView:
    """What a token says. `audience`: as it stands there; `expires_at`: wallclock."""

    audience: tuple[str, ...]
    expires_at: float
    token_id: str = ""

    def opens(self, playback_id: str) -> bool:
        return f"{AUDIENCE}{playback_id}" in self.audience


class SigningKeys:
    """`per_project`: limits.signing_keys."""

    def __init__(self, db: Database, bus: Bus, *, per_project: int) -> None:
        self._db = db
        self._bus = bus
        self._per_project = per_project
        self._making = asyncio.Lock()

    async def create(self, project: Project) -> NewSigningKey:
        """Raises Forbidden (`signing-key-quota`), NotFound if the project is gone."""
        async with self._making:  # each costs a tenth of a second of a thread
            private, public = await asyncio.to_thread(_pair)
        key = SigningKey(id=str(uuid.uuid4()), project_id=project.id, public_key=public, created_at=clock.wallclock())
        async with self._db.write() as tx:
            if await projects.lock(tx, project.id) is None:
                raise NotFound(f"no project {shown(project.slug)}")
            _, there = await table.list_signing_keys(tx, project.id, 1, 0)
            if there >= self._per_project:
                raise Forbidden(f"this project has {there} signing keys, which is limits.signing_keys", code="signing-key-quota")
            await table.insert_signing_key(tx, key)
            await audit.record(tx, "signing-key.created", key.id, project.id)
        self._bus.publish(ViewingChanged(project.id))  # its absence may be remembered
        return NewSigningKey(key, private)

    async def list(self, project_id: str, limit: int, offset: int) -> tuple[Sequence[SigningKey], int]:
        """Newest first, and how many there are."""
        async with self._db.read() as tx:
            return await table.list_signing_keys(tx, project_id, limit, offset)

    async def get(self, project_id: str, key_id: str) -> SigningKey:
        """Raises NotFound, also if it is another project's."""
        async with self._db.read() as tx:
            key = await table.find_signing_key(tx, key_id)
        if key is None or key.project_id != project_id:
            raise NotFound(f"no signing key {shown(key_id)}")
        return key

    async def delete(self, project_id: str, key_id: str) -> None:
        """What it signed opens nothing any more, and who views by that is put out. Raises NotFound."""
        await self.get(project_id, key_id)
        async with self._db.write() as tx:
            await projects.hold(tx, (project_id,))
            if not await table.delete_signing_key(tx, key_id):
                raise NotFound(f"no signing key {shown(key_id)}")
            await audit.record(tx, "signing-key.deleted", key_id, project_id)
            told = Fact(type="key.revoked", project_id=project_id, stream=f"key:{key_id}", at=clock.wallclock(), data={"keyId": key_id})
            await announce(tx, told)
        self._bus.publish(ViewingChanged(project_id))
        self._bus.publish(KeyRevoked(key_id, project_id))


def signed_by(text: str) -> str | None:
    """The `kid` of a token that claims to be signed by a signing key, unverified; None for tokens of other kinds."""
    if len(text) > TOKEN_LENGTH or not text.isascii() or text.count(".") != 2:
        return None
    try:
        header = jwt.get_unverified_header(text)
        if header.get("alg") != "RS256":
            return None
        found = header.get("kid") or jwt.decode(text, options={"verify_signature": False}).get("kid")
    except (jwt.PyJWTError, RecursionError):
        return None
    return found if isinstance(found, str) and len(found) <= _KEY_ID_LENGTH else None


def verify(key: SigningKey, text: str, at: float) -> SignedView:
    """What a token says that this key signed.

    Raises Unauthorized: `token-expired` and `token-not-yet` for good ones at a bad time (60 s leeway), `unauthorized` for all else.
    """
    try:
        claims = jwt.decode(
            text,
            key.public_key,
            algorithms=["RS256"],
            options={"require": ["exp", "aud"], "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False},
        )
    except jwt.MissingRequiredClaimError:
        raise Unauthorized("token: it says neither what it opens nor until when (aud, exp)") from None
    except (jwt.PyJWTError, RecursionError):
        raise Unauthorized("token: not signed with this project's signing key, or cut short") from None
    expires_at = _instant(claims, "exp")
    if at > expires_at + LEEWAY:
        raise Unauthorized("token: expired", code="token-expired")
    if "nbf" in claims and at < _instant(claims, "nbf") - LEEWAY:
        raise Unauthorized("token: not valid yet: is the clock of its issuer right?", code="token-not-yet")
    audience, token_id = claims["aud"], claims.get("jti", "")
    told = tuple(a for a in (audience if isinstance(audience, list) else [audience]) if isinstance(a, str))
    return SignedView(audience=told, expires_at=expires_at, token_id=token_id if isinstance(token_id, str) else "")


def _instant(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise Unauthorized(f"token: {name}: expected seconds since 1970, got {type(value).__name__}")
    return float(value)


def _pair() -> tuple[str, str]:
    made = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    private = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(private).decode(), public.decode()
