"""Whose secret is this? The doors' one way to recognise API keys, room tokens and stream keys, and to count wrong ones."""

from __future__ import annotations

from medianode import clock
from medianode.auth import Door, FailedLogins
from medianode.control import tokens
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.links import Links
from medianode.errors import Unauthorized
from medianode.store.ingresses import Ingress
from medianode.store.keys import ApiKey
from medianode.store.links import ViewLink
from medianode.store.projects import Project


class Credentials:
    """Only wrong secrets count as failed logins: a missing one, an expired key or token and a missing right are no guesses.

    `source`: the address of who asks, as FailedLogins counts it.
    """

    def __init__(self, keys: Keys, ingresses: Ingresses, links: Links, failed: FailedLogins) -> None:
        self._keys = keys
        self._links = links
        self._ingresses = ingresses
        self._failed = failed

    def check(self, source: str) -> None:
        """Raises TooManyRequests after too many wrong ones."""
        self._failed.check(source, clock.now())

    def failed(self, source: str) -> None:
        self._failed.failed(source, clock.now())

    def wrong(self, message: str, source: str) -> Unauthorized:
        """To be raised; it is counted here."""
        self.failed(source)
        return Unauthorized(message)

    async def api_key(self, secret: str, source: str, key_id: str | None = None) -> ApiKey:
        """`key_id`: whose it is said to be. Raises as `Keys.verify`."""
        try:
            return await self._keys.verify(secret, source, key_id)
        except Unauthorized as e:
            if e.code != "key-expired":
                self.failed(source)
            raise

    async def token(self, project: Project, text: str, source: str) -> tuple[tokens.Token, ViewLink | None]:
        """What it says, and the view link that it is of, if any. Raises as `tokens.verify` and `Links.check`."""
        try:
            token = tokens.verify(project, text, clock.wallclock())
        except Unauthorized as e:
            if e.code == Unauthorized.code:
                self.failed(source)
            raise
        return token, await self.link(project, token.id)

    async def link(self, project: Project, token_id: str) -> ViewLink | None:
        """As `Links.check`: a token that was found good may have been revoked since."""
        return await self._links.check(project.id, token_id)

    async def stream_key(self, door: Door, candidates: tuple[str, ...]) -> tuple[Ingress, str] | None:
        """The first of `candidates` that is a stream key of this door, with its ingress.

        Raises Unauthorized (`wrong-door`) where there are only keys of other doors: an ingress takes what its kind says, and its
        encoder is told so.
        """
        other: Ingress | None = None
        for candidate in candidates:
            ingress = await self._ingresses.find_by_stream_key(candidate)
            if ingress is not None and opens(ingress, door):
                return ingress, candidate
            other = other or ingress
        if other is not None:
            raise Unauthorized(
                f"this stream key is of an ingress of kind {other.kind}: {door.value} needs one of its own", code="wrong-door"
            )
        return None


def opens(ingress: Ingress, door: Door) -> bool:
    """Does its stream key open this door? What an encoder does by RTMP it may do by SRT: the same media, another transport."""
    if ingress.kind == Door.ANY:
        return door in (Door.RTMP, Door.WHIP, Door.SRT)
    return ingress.kind == door or (ingress.kind == Door.RTMP and door is Door.SRT)
