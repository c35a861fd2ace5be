"""Who watches: distinct players of the last seconds, without cookies."""

from __future__ import annotations

import hashlib
import secrets

WINDOW = 12.0
"""Seconds without a playlist request after which a player is gone."""


class Sessions:
    """Makes and knows the session ids that the multivariant playlist puts into its URIs. Nothing is stored: an id carries its own proof."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)

    def new(self) -> str:
        nonce = secrets.token_hex(6)
        return nonce + self._proof(nonce)

    def known(self, session: str) -> bool:
        return len(session) == 20 and session.isascii() and secrets.compare_digest(self._proof(session[:12]), session[12:])

    def _proof(self, nonce: str) -> str:
        return hashlib.blake2b(nonce.encode(), digest_size=4, key=self._key).hexdigest()


class Viewers:
    """Of one room, by session id or address. `now` is `clock.now()`; the caller bounds how many there are."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, key: str) -> bool:
        return key in self._seen

    def seen(self, key: str, now: float) -> None:
        self._seen[key] = now

    def expire(self, now: float) -> None:
        for key in [key for key, at in self._seen.items() if now - at > WINDOW]:
            del self._seen[key]
