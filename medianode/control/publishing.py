"""Who may publish: by stream key, room token, Adobe's challenge, or without a key where the project is open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from medianode.auth import Door, PublishGrant, StreamName, Takeover, same_secret, stream_name
from medianode.control import tokens
from medianode.control.broadcasts import Broadcasts
from medianode.control.credentials import Credentials
from medianode.control.ingresses import Ingresses
from medianode.control.projects import Projects
from medianode.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from medianode.media.names import check_identity, room_name, shown
from medianode.media.track import Kind
from medianode.store.ingresses import Ingress
from medianode.store.live_streams import LiveStream
from medianode.store.projects import Project

NO_SUCH_KEY = "publish: the stream key is not known (server rtmp://HOST/live, and the stream key behind it or in a field of its own)"
WRONG_PASSPHRASE = "wrong-passphrase"  # noqa: S105 - a word
PROOFS = 8
"""Ingresses of one room whose passphrase is tried."""
SOURCES = {"camera": Kind.VIDEO, "screen_share": Kind.VIDEO, "microphone": Kind.AUDIO, "screen_share_audio": Kind.AUDIO}
"""LiveKit's names of what a token may publish."""


class Publishing:
    """`hold`: config.ingress.hold. Errors as `auth.Gatekeeper`."""

    def __init__(self, projects: Projects, ingresses: Ingresses, credentials: Credentials, broadcasts: Broadcasts, *, hold: float) -> None:
        self._projects = projects
        self._ingresses = ingresses
        self._credentials = credentials
        self._broadcasts = broadcasts
        self._hold = hold

    async def publish(
        self, door: Door, app: str, key: str, room: str | None = None, *, source: str = "", proves: Callable[[str], bool] | None = None
    ) -> PublishGrant:
        self._credentials.check(source)
        if door is Door.WHIP:
            return await self._publish_by_whip(app, key, room, source)
        if door is Door.SRT:
            return await self._publish_by_srt(app, key, room, source, proves)
        parsed = stream_name(key) if door is Door.RTMP else StreamName(key)
        found = await self._credentials.stream_key(door, (*parsed.secrets, parsed.name))
        if found is not None:
            ingress, used = found
            others = tuple(secret for secret in parsed.secrets if secret != used)
            self._check_password(ingress, others, proves, source)
            return await self._grant_ingress(ingress, door, app, room)
        project = await self._projects.find(app)
        if project is not None and door is Door.RTMP:
            if proves is not None:
                ingress_of_room = await self._by_proof(project, parsed.name, proves)
                if ingress_of_room is not None:
                    return await self._publish_grant(project, ingress_of_room, door)
            elif project.open_publish and not parsed.secrets:
                return self._open_grant(project, door, parsed.name)
        raise self._credentials.wrong(NO_SUCH_KEY, source)

    async def _publish_by_whip(self, app: str, secret: str, room: str | None, source: str) -> PublishGrant:
        """`secret`: the Bearer token, or the key in the path: a stream key or a room token.

        Without one the room's place in the path may hold the key itself, which is how RTMP's users fill in an address.
        """
        if tokens.looks_like_token(secret):
            return await self._grant_token(app, secret, room, source)
        found = await self._credentials.stream_key(Door.WHIP, (secret,) if secret else (room or "",))
        if found is not None:
            self._check_password(found[0], (), None, source)
            return await self._grant_ingress(found[0], Door.WHIP, app, room if secret else None)
        if secret:
            raise self._credentials.wrong(NO_SUCH_KEY, source)
        project = await self._projects.find(app)
        if project is not None and project.open_publish:
            return self._open_grant(project, Door.WHIP, room or "")
        self._credentials.failed(source)  # the room was looked up as a key: guesses are counted here too
        raise Unauthorized("publish: expected the ingress's stream key or a room token as Bearer token", code="token-missing")

    async def _publish_by_srt(
        self, app: str, key: str, room: str | None, source: str, proves: Callable[[str], bool] | None
    ) -> PublishGrant:
        """`proves`: is this the caller's passphrase? None where it does not encrypt.

        A passphrase that is given must be the live stream's srtSecret or the ingress's password, or, without either, its stream key.
        Who encrypts may name the room alone: the passphrase then says which ingress of it, and no key crosses the wire.
        """
        found = await self._credentials.stream_key(Door.SRT, (key,))
        if found is not None:
            ingress = found[0]
            if proves is None and ingress.password is not None:
                raise self._credentials.wrong("publish: this ingress has a password: it is the SRT passphrase", source)
            if proves is not None and not any(proves(secret) for secret in await self._passphrases(ingress)):
                self._credentials.failed(source)
                raise Unauthorized("publish: the SRT passphrase is not the stream's", code=WRONG_PASSPHRASE)
            return await self._grant_ingress(ingress, Door.SRT, app, room)
        project = await self._projects.find(app) if app else None
        if project is not None and proves is not None:
            for ingress in (await self._in_room(project, key, (Door.ANY, Door.RTMP)))[:PROOFS]:  # each costs derived keys
                if any(proves(secret) for secret in await self._passphrases(ingress)):
                    return await self._publish_grant(project, ingress, Door.SRT)
        elif project is not None and project.open_publish and room is None:
            return self._open_grant(project, Door.SRT, key)
        raise self._credentials.wrong("publish: the stream key is not known (by SRT it is the streamid)", source)

    async def _passphrases(self, ingress: Ingress) -> tuple[str, ...]:
        broadcast = await self._broadcasts.of_ingress(ingress.id) if ingress.kind == Door.ANY else None
        own = (ingress.password,) if ingress.password is not None else () if broadcast is not None else (ingress.stream_key,)
        return own if broadcast is None else (broadcast.stream.srt_secret, *own)

    async def _in_room(self, project: Project, room: str, kinds: tuple[Door, ...]) -> list[Ingress]:
        """Those of the first kind first. None where no room can be called so."""
        try:
            return [ingress for kind in kinds for ingress in await self._ingresses.in_room(project, room, kind)]
        except InvalidRequest:
            return []

    def _check_password(self, ingress: Ingress, others: tuple[str, ...], proves: Callable[[str], bool] | None, source: str) -> None:
        password = ingress.password
        if password is None or any(same_secret(password, other) for other in others) or (proves is not None and proves(password)):
            return
        raise self._credentials.wrong("publish: this ingress has a password, and it was not given", source)

    async def _by_proof(self, project: Project, room: str, proves: Callable[[str], bool]) -> Ingress | None:
        """Adobe's challenge never shows the password: try the keys of the ingresses of the room that the stream name is."""
        candidates = await self._in_room(project, room, (Door.RTMP, Door.ANY))
        return next((i for i in candidates if proves(i.password if i.password is not None else i.stream_key)), None)

    async def _grant_ingress(self, ingress: Ingress, door: Door, app: str, room: str | None) -> PublishGrant:
        project = await self._projects.get(ingress.project_id)
        if room is not None:
            # a camera names its app and room, and both must be those of its key (contracts 2.4)
            if app not in (project.slug, project.id):
                raise Unauthorized("publish: the key is of another app", code="room-mismatch")
            if room_name(project.slug, room) != ingress.room:
                raise Unauthorized("publish: the key is of another room", code="room-mismatch")
        return await self._publish_grant(project, ingress, door)

    async def pull(self, ingress: Ingress) -> PublishGrant:
        """For what is fetched from its URL: nobody else publishes by it, and what is left of the connection before gives way."""
        project = await self._projects.get(ingress.project_id)
        return replace(await self._publish_grant(project, ingress, Door.URL), takeover=Takeover.REPLACE)

    async def _publish_grant(self, project: Project, ingress: Ingress, door: Door) -> PublishGrant:
        """Within the policy of its live stream, where it is one. Raises Forbidden (`ingress-disabled`)."""
        if ingress.disabled_at is not None:
            raise Forbidden("publish: this ingress is disabled", code="ingress-disabled")
        grant = PublishGrant(
            project_id=project.id,
            slug=project.slug,
            room=ingress.room,
            identity=ingress.participant_identity,
            name=ingress.participant_name,
            kind=door,
            ingress_id=ingress.id,
            takeover=Takeover(ingress.takeover),
            hold=self._hold,
            enable_transcoding=ingress.enable_transcoding,
            bypass_transcoding=ingress.bypass_transcoding,
            record=ingress.record,
        )
        broadcast = await self._broadcasts.of_ingress(ingress.id) if ingress.kind == Door.ANY else None
        return grant if broadcast is None else within(grant, broadcast.stream)

    async def _grant_token(self, app: str, text: str, room: str | None, source: str) -> PublishGrant:
        """A room token publishes under its own identity, into its own room only. Who holds it already is not put out while heard from."""
        project = await self._projects.find(app)
        if project is None:
            raise NotFound(f"no project {shown(app)}")
        token, _ = await self._credentials.token(project, text, source)
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
            token_id=token.id,
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


def within(grant: PublishGrant, stream: LiveStream) -> PublishGrant:
    """What the policy of a live stream leaves of it. People know it by the name in its metadata: its room is 32 digits."""
    name = stream.metadata.get("name", "")[:200]
    return replace(
        grant,
        name=grant.name or name,
        title=name,
        hold=stream.reconnect_window,
        max_duration=stream.max_duration,
        max_height=int(stream.max_resolution.removesuffix("p")),
        kinds=frozenset({Kind.AUDIO}) if stream.audio_only else grant.kinds,
        low_latency=stream.latency_mode == "low",
        record=stream.enable_recording,
    )
