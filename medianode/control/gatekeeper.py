"""The decisions behind every door: who may publish, play, view and control. Implements `auth.Gatekeeper`."""

from __future__ import annotations

import base64
from collections.abc import Callable

from medianode import clock
from medianode.auth import (
    Door,
    FailedLogins,
    Permission,
    Principal,
    PublishGrant,
    ReadGrant,
    StreamName,
    Takeover,
    allows,
    same_secret,
    stream_name,
)
from medianode.control import tokens
from medianode.control.cache import Cache
from medianode.control.ingresses import Ingresses
from medianode.control.keys import Keys
from medianode.control.projects import Projects
from medianode.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from medianode.media.names import check_identity, room_name, shown
from medianode.media.track import Kind
from medianode.store.ingresses import Ingress
from medianode.store.keys import ApiKey
from medianode.store.projects import Project
from medianode.store.secrets import key_hash

NO_SUCH_KEY = "publish: the stream key is not known"
SOURCES = {"camera": Kind.VIDEO, "screen_share": Kind.VIDEO, "microphone": Kind.AUDIO, "screen_share_audio": Kind.AUDIO}
"""LiveKit's names of what a token may publish."""
GRANTS = 4096
GRANTS_TTL = 30.0


class HouseGatekeeper:
    """`hold`: config.ingress.hold.

    Only wrong keys count as failed logins: a missing one, an expired token and a missing right are no guesses.
    """

    def __init__(self, projects: Projects, keys: Keys, ingresses: Ingresses, failed: FailedLogins, *, hold: float) -> None:
        self._projects = projects
        self._keys = keys
        self._ingresses = ingresses
        self._failed = failed
        self._hold = hold
        # verifying costs some 100 µs, and a player shows its token with every segment
        self._grants: Cache[tuple[bytes, str, str], ReadGrant] = Cache(GRANTS, GRANTS_TTL)

    async def publish(
        self, door: Door, app: str, key: str, room: str | None = None, *, source: str = "", proves: Callable[[str], bool] | None = None
    ) -> PublishGrant:
        self._failed.check(source, clock.now())
        if door is Door.WHIP:
            return await self._publish_by_whip(app, key, room, source)
        parsed = stream_name(key) if door is Door.RTMP else StreamName(key)
        found = await self._by_key(door, (*parsed.secrets, parsed.name))
        if found is not None:
            ingress, used = found
            others = tuple(secret for secret in parsed.secrets if secret != used)
            self._check_password(ingress, others, proves, source)
            return await self._grant_ingress(ingress, app, room)
        project = await self._projects.find(app)
        if project is not None and door is Door.RTMP:
            if proves is not None:
                ingress_of_room = await self._by_proof(project, parsed.name, proves)
                if ingress_of_room is not None:
                    return self._publish_grant(project, ingress_of_room)
            elif project.open_publish and not parsed.secrets:
                return self._open_grant(project, door, parsed.name)
        raise self._wrong(NO_SUCH_KEY, source)

    async def _publish_by_whip(self, app: str, secret: str, room: str | None, source: str) -> PublishGrant:
        """`secret`: the Bearer token, or the key in the path: a stream key or a room token.

        Without one the room's place in the path may hold the key itself, which is how RTMP's users fill in an address.
        """
        if tokens.looks_like_token(secret):
            return await self._grant_token(app, secret, room, source)
        found = await self._by_key(Door.WHIP, (secret,) if secret else (room or "",))
        if found is not None:
            self._check_password(found[0], (), None, source)
            return await self._grant_ingress(found[0], app, room if secret else None)
        if secret:
            raise self._wrong(NO_SUCH_KEY, source)
        project = await self._projects.find(app)
        if project is not None and project.open_publish:
            return self._open_grant(project, Door.WHIP, room or "")
        self._failed.failed(source, clock.now())  # the room was looked up as a key: guesses are counted here too
        raise Unauthorized("publish: expected the ingress's stream key or a room token as Bearer token", code="token-missing")

    async def play(self, app: str, name: str, *, source: str = "") -> ReadGrant:
        self._failed.check(source, clock.now())
        parsed = stream_name(name)
        found = await self._by_key(Door.RTMP, (*parsed.secrets, parsed.name))
        if found is not None:
            project = await self._projects.get(found[0].project_id)
            return ReadGrant(project_id=project.id, slug=project.slug, room=found[0].room)
        token = parsed.token or (parsed.secrets[0] if parsed.secrets else None)
        return await self.read(app, parsed.name, token, source=source)

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        project = await self._projects.find(app)
        if project is None:
            raise NotFound(f"no project {shown(app)}")
        canonical = room_name(project.slug, room)
        if project.viewing == "public":
            return ReadGrant(project_id=project.id, slug=project.slug, room=canonical)
        secret = token or bearer
        if not secret:
            raise Unauthorized(f"room {canonical}: viewing needs a token", code="token-missing")
        self._failed.check(source, clock.now())
        if tokens.looks_like_token(secret):
            return self._read_by_token(project, canonical, secret, source)
        key = await self._verify(secret, source)
        if key.project_id not in (None, project.id) or not allows(key.permissions, Permission.VIEW):
            raise Forbidden(f"room {canonical}: this key may not view it")
        return ReadGrant(project_id=project.id, slug=project.slug, room=canonical)

    async def control(
        self, authorization: str | None, permission: Permission, project: str | None = None, *, source: str = ""
    ) -> Principal:
        secret = credential(authorization)
        self._failed.check(source, clock.now())
        key = await self._verify(secret, source)
        about = await self._about(key, project)
        principal = Principal(
            key_id=key.id,
            project_id=about.id if about else None,
            slug=about.slug if about else None,
            permissions=key.permissions,
            node=key.project_id is None,
        )
        if not principal.may(permission):
            raise Forbidden(f"this key lacks the permission {permission.value}")
        return principal

    async def _about(self, key: ApiKey, project: str | None) -> Project | None:
        """The project of a request. A key of one project learns nothing of which others exist."""
        if key.project_id is None:
            return None if project is None else await self._projects.get(project)
        own = await self._projects.get(key.project_id)
        if project not in (None, own.id, own.slug):
            raise Forbidden("this key is of another project", code="other-project")
        return own

    async def _verify(self, secret: str, source: str) -> ApiKey:
        try:
            return await self._keys.verify(secret)
        except Unauthorized:
            self._failed.failed(source, clock.now())
            raise

    async def _by_key(self, door: Door, candidates: tuple[str, ...]) -> tuple[Ingress, str] | None:
        """The first of `candidates` that is a stream key of this door, with its ingress.

        Raises Unauthorized (`wrong-door`) where there are only keys of other doors: an ingress takes what its kind says, and its
        encoder is told so.
        """
        other: Ingress | None = None
        for candidate in candidates:
            ingress = await self._ingresses.find_by_stream_key(candidate)
            if ingress is not None and ingress.kind == door:
                return ingress, candidate
            other = other or ingress
        if other is not None:
            raise Unauthorized(
                f"this stream key is of an ingress of kind {other.kind}: {door.value} needs one of its own", code="wrong-door"
            )
        return None

    def _check_password(self, ingress: Ingress, others: tuple[str, ...], proves: Callable[[str], bool] | None, source: str) -> None:
        password = ingress.password
        if password is None or any(same_secret(password, other) for other in others) or (proves is not None and proves(password)):
            return
        raise self._wrong("publish: this ingress has a password, and it was not given", source)

    async def _by_proof(self, project: Project, room: str, proves: Callable[[str], bool]) -> Ingress | None:
        """Adobe's challenge never shows the password: try the keys of the ingresses of the room that the stream name is."""
        try:
            candidates = await self._ingresses.in_room(project, room, Door.RTMP)
        except InvalidRequest:
            return None
        return next((i for i in candidates if proves(i.password if i.password is not None else i.stream_key)), None)

    async def _grant_ingress(self, ingress: Ingress, app: str, room: str | None) -> PublishGrant:
        project = await self._projects.get(ingress.project_id)
        if room is not None:
            # a camera names its app and room, and both must be those of its key (contracts 2.4)
            if app not in (project.slug, project.id):
                raise Unauthorized("publish: the key is of another app", code="room-mismatch")
            if room_name(project.slug, room) != ingress.room:
                raise Unauthorized("publish: the key is of another room", code="room-mismatch")
        return self._publish_grant(project, ingress)

    def _publish_grant(self, project: Project, ingress: Ingress) -> PublishGrant:
        return PublishGrant(
            project_id=project.id,
            slug=project.slug,
            room=ingress.room,
            identity=ingress.participant_identity,
            name=ingress.participant_name,
            kind=Door(ingress.kind),
            ingress_id=ingress.id,
            takeover=Takeover(ingress.takeover),
            hold=self._hold,
            enable_transcoding=ingress.enable_transcoding,
            bypass_transcoding=ingress.bypass_transcoding,
        )

    async def _grant_token(self, app: str, text: str, room: str | None, source: str) -> PublishGrant:
        """A room token publishes under its own identity, into its own room only. Who holds it already is not put out while heard from."""
        project = await self._projects.find(app)
        if project is None:
            raise NotFound(f"no project {shown(app)}")
        token = self._verify_token(project, text, source)
        canonical = room_name(project.slug, room) if room else token.room
        if not token.can_join or not token.can_publish or not token.room or token.room != canonical:
            raise Forbidden(f"room {canonical}: this token is not for publishing into it")
        sources = token.can_publish_sources
        kinds = frozenset(Kind) if sources is None else frozenset(SOURCES[named] for named in sources if named in SOURCES)
        if token.audio_only:
            kinds &= {Kind.AUDIO}
        if not kinds:
            raise Forbidden(f"room {canonical}: this token lets neither picture nor sound be published")
        if not token.identity:
            raise Forbidden("this token names no identity (sub), and a publisher needs one")
        return PublishGrant(
            project_id=project.id,
            slug=project.slug,
            room=canonical,
            identity=check_identity(token.identity, "identity"),
            name=token.name,
            kind=Door.WHIP,
            ingress_id=None,
            takeover=Takeover.REJECT,
            hold=self._hold,
            kinds=kinds,
        )

    def _open_grant(self, project: Project, door: Door, name: str) -> PublishGrant:
        """Key-less: a stranger must not put out another, hence REJECT; the same encoder coming back finds its old session silent."""
        return PublishGrant(
            project_id=project.id,
            slug=project.slug,
            room=room_name(project.slug, name),
            identity=f"ingress-{project.slug}",
            name="",
            kind=door,
            ingress_id=None,
            takeover=Takeover.REJECT,
            hold=self._hold,
        )

    def _read_by_token(self, project: Project, room: str, text: str, source: str) -> ReadGrant:
        seen = (key_hash(text), project.jwt_key_id, room)
        at = clock.wallclock()
        if (hit := self._grants.get(seen, clock.now())) is not None and (hit[0].expires_at or 0.0) + tokens.LEEWAY >= at:
            return hit[0]
        token = self._verify_token(project, text, source)
        if not token.can_join or not token.can_subscribe or token.room != room:
            raise Forbidden(f"room {room}: this token is not for viewing it")
        grant = ReadGrant(
            project_id=project.id,
            slug=project.slug,
            room=room,
            identity=token.identity,
            expires_at=token.expires_at,
            audio_only=token.audio_only,
            hidden=token.hidden,
        )
        self._grants.put(seen, grant, clock.now(), self._grants.generation)
        return grant

    def _verify_token(self, project: Project, text: str, source: str) -> tokens.Token:
        try:
            return tokens.verify(project, text, clock.wallclock())
        except Unauthorized as e:
            if e.code == Unauthorized.code:
                self._failed.failed(source, clock.now())
            raise

    def _wrong(self, message: str, source: str) -> Unauthorized:
        self._failed.failed(source, clock.now())
        return Unauthorized(message)


def credential(authorization: str | None) -> str:
    """The key of an Authorization header. Basic (RFC 7617): the password, or the user where there is no password. Raises Unauthorized."""
    scheme, _, rest = (authorization or "").partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer" and rest:
        return rest
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except ValueError:  # not ASCII, not base64, not UTF-8
            raise Unauthorized("authorization: Basic needs base64 of user:password") from None
        if password or user:
            return password or user
    raise Unauthorized("authorization: expected Bearer KEY, or Basic with the key as password", code="key-missing")
