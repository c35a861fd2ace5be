"""Who may publish, read and control: the shapes of the decisions and the door's side of making them. `control.gatekeeper` decides."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from typing import Protocol
from urllib.parse import parse_qsl

from medianode.errors import TooManyRequests
from medianode.media.track import Kind


class Door(StrEnum):
    """How media comes in; also the kind of an Ingress. `ANY` is a kind only: its key opens every door that encoders come by. `SRT` is
    none: keys of RTMP open it.
    """

    ANY = "any"
    RTMP = "rtmp"
    WHIP = "whip"
    URL = "url"
    WS_MJPEG = "ws-mjpeg"
    SRT = "srt"


class Means(StrEnum):
    """By what somebody views: nothing at all, a room token, a signed link, an API key, the room's own stream key, a playback id."""

    PUBLIC = "public"
    TOKEN = "token"  # noqa: S105 - a word
    LINK = "link"
    KEY = "key"
    STREAM_KEY = "stream-key"
    PLAYBACK = "playback"


class Takeover(StrEnum):
    """What a second encoder does to a publication that is heard from. One that has fallen silent may always be replaced."""

    REPLACE = "replace"
    REJECT = "reject"


class Permission(StrEnum):
    """What an API key may do. `admin` may do all; `live` may also view. `video` and `moderate` are for jobs on files."""

    ADMIN = "admin"
    LIVE = "live"
    MODERATE = "moderate"
    VIDEO = "video"
    VIEW = "view"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishGrant:
    """Leave to publish as `identity` into `room` (canonical). `hold`: seconds that the publication waits for its encoder to come back.

    `ingress_id` is None for a room token, and in a project open to key-less publishing. `kinds`: what may be published.
    `max_height`: lines of picture (`Track.lines`) that players may get, 0 for any; `max_duration`: seconds on air, 0 for ever.
    `max_bitrate`: bit/s, 0 for any. `low_latency`: the room's HLS has parts, where the node's has.
    `token_id`: of the room token that it was given for, or empty. `max_rooms`, `max_publishers`: of the project, 0 for any number.
    `record`: from its first key frame to its end; `title`: of those recordings, up to 200 characters.
    """

    project_id: str
    slug: str
    room: str
    identity: str
    name: str
    kind: Door
    ingress_id: str | None
    takeover: Takeover
    hold: float
    enable_transcoding: bool = True
    bypass_transcoding: bool = False
    kinds: frozenset[Kind] = frozenset(Kind)
    max_height: int = 0
    max_duration: float = 0.0
    max_bitrate: int = 0
    low_latency: bool = True
    token_id: str = ""
    max_rooms: int = 0
    max_publishers: int = 0
    record: bool = False
    title: str = ""

    @property
    def scales(self) -> bool:
        """A picture of more than `max_height` lines is made smaller; without it its publisher is refused."""
        return self.enable_transcoding and not self.bypass_transcoding


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadGrant:
    """Leave to view `room` (canonical). `identity` is the token's, or empty; `expires_at`: when it ends, wallclock, or None.

    `token_id` (a token's `jti`) and `key_id` (an API key's) tell by what it was given, so that revoking that ends the view. `playback_id`:
    the live stream's or the asset's public name that was asked for, or empty; `recording_id`: the asset's recording, which alone it opens.
    `max_viewers`: of the project, 0 for any number. `shared`: what is sent may be kept by caches between.
    """

    project_id: str
    slug: str
    room: str
    identity: str = ""
    expires_at: float | None = None
    audio_only: bool = False
    hidden: bool = False
    token_id: str = ""
    key_id: str = ""
    playback_id: str = ""
    recording_id: str = ""
    max_viewers: int = 0
    means: Means = Means.PUBLIC
    shared: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A known API key. `project_id` and `slug` are what this request is about: the key's project, else the one named, else None.

    `node`: the key is not bound to a project.
    """

    key_id: str
    project_id: str | None
    slug: str | None
    permissions: frozenset[str]
    node: bool

    def may(self, permission: Permission) -> bool:
        return allows(self.permissions, permission)


class Gatekeeper(Protocol):
    """All raise Unauthorized (no key, or an unknown one), Forbidden (known, not for this), NotFound (no such project), TooManyRequests
    (too many failures from `source`, an IP address) and StorageError. The keys themselves stand in no message.
    """

    async def publish(
        self, door: Door, app: str, key: str, room: str | None = None, *, source: str = "", proves: Callable[[str], bool] | None = None
    ) -> PublishGrant:
        """`key`: for RTMP the whole stream name with its query, for the others the key.

        `room`: the room that the peer named, which must then fit.
        `proves` tells whether the peer has shown to know a secret (Adobe's challenge, a password, SRT's passphrase); the user name is of no
        weight.
        """

    async def play(self, app: str, name: str, *, source: str = "") -> ReadGrant:
        """RTMP play.

        `name`: the whole stream name: a room, or a stream key; `token`, `key`, `streamKey` or `pass` in its query may open a room.
        """

    async def read(self, app: str, room: str, token: str | None = None, bearer: str | None = None, *, source: str = "") -> ReadGrant:
        """View a room.

        `app` is the project's slug or id; `token` a JWT or an API key from the query, `bearer` one from the Authorization header.
        """

    async def read_playback(
        self, playback_id: str, token: str | None = None, bearer: str | None = None, *, site: str = "", agent: str = "", source: str = ""
    ) -> ReadGrant:
        """View a live stream by one of its playback ids.

        `site`: the Origin of the page that asks, else the Referer; `agent`: the User-Agent; empty where there is none.
        """

    async def read_asset(
        self, playback_id: str, token: str | None = None, bearer: str | None = None, *, site: str = "", agent: str = "", source: str = ""
    ) -> ReadGrant:
        """View what was recorded of a live stream, by the playback id of its recording. `site`, `agent`: as above."""

    async def control(
        self, authorization: str | None, permission: Permission, project: str | None = None, *, source: str = ""
    ) -> Principal:
        """`authorization`: the header, Bearer or Basic (the key is the password). `project`: slug or id, or None for the key's own."""


@dataclass(frozen=True, slots=True)
class StreamName:
    """An RTMP stream name taken apart: `name?key=…`. `secrets`: the values of `key`, `streamKey`, `pass`, in that order."""

    name: str
    secrets: tuple[str, ...] = ()
    token: str | None = None


QUERY_FIELDS = 32


def stream_name(raw: str) -> StreamName:
    """Take an RTMP stream name apart.

    FFmpeg's `mp4:`-style prefixes are not ours and stay; a query of more than 32 fields counts as none.
    """
    name, _, query = raw.partition("?")
    try:
        fields = dict(parse_qsl(query, keep_blank_values=False, max_num_fields=QUERY_FIELDS))
    except ValueError:
        fields = {}
    secrets = tuple(fields[field] for field in ("key", "streamKey", "pass") if field in fields)
    return StreamName(name.strip("/"), secrets, fields.get("token"))


def allows(permissions: frozenset[str], permission: Permission) -> bool:
    if Permission.ADMIN in permissions or permission in permissions:
        return True
    return permission is Permission.VIEW and Permission.LIVE in permissions


def same_secret(a: str, b: str) -> bool:
    """Equal? In a time that tells nothing of where they differ."""
    return hmac.compare_digest(a.encode("utf-8", "surrogatepass"), b.encode("utf-8", "surrogatepass"))


class FailedLogins:
    """A penalty per source: a leaky bucket of `per_minute` failures. A source without failures is never slowed.

    At most `sources` are remembered; the one that failed least recently is forgotten first. IPv6 is counted by /64, the smallest net that
    one customer gets. `now` is `clock.now()`.
    """

    def __init__(self, per_minute: int, sources: int = 4096) -> None:
        self._limit = per_minute
        self._sources = sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def check(self, source: str, now: float) -> None:
        """Raises TooManyRequests while the bucket of `source` is full."""
        if self._buckets and self._level(network(source), now) > self._limit - 1:
            raise TooManyRequests(f"over {self._limit} failed logins a minute from this address: wait a minute")

    def failed(self, source: str, now: float) -> None:
        """Count one failure."""
        key = network(source)
        self._buckets[key] = (min(self._level(key, now) + 1, float(self._limit)), now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._sources:
            self._buckets.popitem(last=False)

    def _level(self, key: str, now: float) -> float:
        level, at = self._buckets.get(key, (0.0, now))
        return max(0.0, level - (now - at) * self._limit / 60)


def network(source: str) -> str:
    """The unit of blame: an IPv4 address (also when mapped into IPv6), an IPv6 /64, or the text itself where it is no address."""
    try:
        address = ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or f"{IPv6Address(int(address) >> 64 << 64)}/64")
    return str(address)
