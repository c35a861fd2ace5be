"""The bodies of FastPix's API as its SDKs send and parse them (contracts 3), and what ours adds: nothing that they would trip over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode import clock
from medianode.api.live import Live
from medianode.api.router import Call
from medianode.api.urls import Ports, Urls
from medianode.auth import Principal
from medianode.control.broadcasts import Broadcast
from medianode.control.ingress_state import State
from medianode.control.live_streams import MAX_DURATION, AccessPolicy
from medianode.control.projects import Projects
from medianode.control.targets import masked_key, masked_url
from medianode.origin import Origin
from medianode.store.live_streams import PlaybackId
from medianode.store.projects import Project
from medianode.store.targets import PushTarget

T = TypeVar("T")
DEFAULT_PROJECT = "live"
WINDOW_MAX = 1800

Resolution = Literal["1080p", "720p", "480p"]
LatencyMode = Literal["standard", "low"]
Status = Literal["idle", "preparing", "active", "disabled"]
_STATUS: Mapping[State, Status] = {State.BUFFERING: "preparing", State.ACTIVE: "active"}
Window = Annotated[int, Meta(ge=0, le=WINDOW_MAX, description="Seconds that the stream waits for its encoder to come back")]
Duration = Annotated[int, Meta(ge=60, le=int(MAX_DURATION), description="Seconds on air at most")]
Word = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*(?!\n)$")]
Metadata = Annotated[
    dict[Word, Word], Meta(max_length=10, extra={"expected": "at most 10 pairs of text, each of up to 255 characters without control ones"})
]
Pattern = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+(?!\n)$")]
Patterns = Annotated[list[Pattern], Meta(max_length=100, extra={"expected": "at most 100 texts of 1 to 255 characters"})]


class Rule(msgspec.Struct, rename="camel"):
    """What is denied is denied, what is allowed is allowed, and for the rest counts the default."""

    default_policy: Literal["allow", "deny"] = "allow"
    allow: Patterns = []
    deny: Patterns = []


class RuleChange(msgspec.Struct, rename="camel", omit_defaults=True):
    """What is left out stays as it is."""

    default_policy: Literal["allow", "deny"] | msgspec.UnsetType = msgspec.UNSET
    allow: Patterns | msgspec.UnsetType = msgspec.UNSET
    deny: Patterns | msgspec.UnsetType = msgspec.UNSET


class Restrictions(msgspec.Struct, rename="camel"):
    """`domains`: host names of the pages that play it (`shop.example`, `*.shop.example`); `userAgents`: parts of players' names."""

    domains: Rule | None = None
    user_agents: Rule | None = None


class PlaybackSettings(msgspec.Struct, rename="camel"):
    access_policy: AccessPolicy = "public"
    access_restrictions: Restrictions | None = None


class NewPlaybackId(msgspec.Struct, rename="camel"):
    """Without `accessPolicy` it is as private as those that the live stream has."""

    access_policy: AccessPolicy | msgspec.UnsetType = msgspec.UNSET
    access_restrictions: Restrictions | None = None


class InputMediaSettings(msgspec.Struct, rename="camel"):
    """`maxDuration`, `audioOnly`, `latencyMode` (`lowLatency` true is the mode `low`) and `test` are ours, named as in the webhooks.

    A test stream ends after five minutes and is then disabled for good.
    """

    max_resolution: Resolution = "1080p"
    reconnect_window: Window = 60
    media_policy: AccessPolicy = "public"
    metadata: Metadata = {}
    enable_dvr_mode: bool = False
    enable_recording: bool = True
    max_duration: Duration = int(MAX_DURATION)
    audio_only: bool = False
    latency_mode: LatencyMode = "standard"
    low_latency: bool = False
    test: bool = False


class CreateStream(msgspec.Struct, rename="camel"):
    playback_settings: PlaybackSettings = msgspec.field(default_factory=PlaybackSettings)
    input_media_settings: InputMediaSettings = msgspec.field(default_factory=InputMediaSettings)


class ChangeStream(msgspec.Struct, rename="camel"):
    """What is absent stays as it is. `reconnectWindow` and `enableRecording` count at once, all else from the next time that an encoder
    comes."""

    metadata: Metadata | None = None
    reconnect_window: Window | None = None
    max_resolution: Resolution | None = None
    media_policy: AccessPolicy | None = None
    enable_dvr_mode: bool | None = None
    enable_recording: bool | None = None
    max_duration: Duration | None = None
    audio_only: bool | None = None
    latency_mode: LatencyMode | None = None


class Success(msgspec.Struct):
    success: bool


class Data(msgspec.Struct, Generic[T]):
    success: bool
    data: T


class Filter(msgspec.Struct, rename="camel"):
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    offset: Annotated[int, Meta(ge=1, le=1_000_000, description="The page, from 1")] = 1
    order_by: Literal["asc", "desc"] = "desc"

    @property
    def first(self) -> int:
        """How many there are before the page."""
        return (self.offset - 1) * self.limit

    @property
    def newest_first(self) -> bool:
        return self.order_by == "desc"


class Pagination(msgspec.Struct, rename="camel"):
    """`currentOffset`: the page, from 1; `offsetCount`: how many pages there are."""

    total_records: int
    current_offset: int
    offset_count: int


class Listed(msgspec.Struct, Generic[T]):
    success: bool
    data: list[T]
    pagination: Pagination


def listed(rows: list[T], total: int, page: int, limit: int) -> Listed[T]:
    return Listed(True, rows, Pagination(total, page, -(-total // limit)))


class PlaybackView(msgspec.Struct, rename="camel"):
    """`url` (ours): where it plays; a private one needs `?token=`."""

    id: str
    access_policy: str
    url: str
    access_restrictions: Restrictions | UnsetType = UNSET


class SimulcastView(msgspec.Struct, rename="camel"):
    """Of the stream key the last characters only: it is another's secret."""

    simulcast_id: str
    url: str
    stream_key: str
    is_enabled: bool
    metadata: dict[str, str] = {}


class SrtPlayback(msgspec.Struct, rename="camel"):
    srt_playback_stream_id: str
    srt_playback_secret: str


class StreamObject(msgspec.Struct, rename="camel"):
    """`rtmpUrl`, `rtmpsUrl`, `whipUrl`, `srtUrl` (where to publish with `streamKey`; by SRT it is the streamid, and `srtSecret` the
    passphrase), `test`, `audioOnly` and `latencyMode` are ours.

    `status` is `preparing`, too, while the stream waits for its encoder to come back: the same as its webhooks say. `mediaIds`: of its
    recordings that are over, oldest first; `mediaPolicy` private keeps them private though the stream is public. `dvrUrl` (ours): with
    `enableDvrMode` and `enableRecording`, while it is on air: plays from the session's start on, and grows.
    """

    stream_id: str
    stream_key: str
    srt_secret: str
    trial: bool
    status: Status
    max_resolution: str
    max_duration: int
    created_at: str
    reconnect_window: int
    enable_recording: bool
    enable_dvr_mode: bool
    media_policy: str
    metadata: dict[str, str]
    low_latency: bool
    closed_captions: bool
    playback_ids: list[PlaybackView]
    media_ids: list[str]
    srt_playback_response: SrtPlayback
    simulcast_responses: list[SimulcastView]
    test: bool
    audio_only: bool
    latency_mode: str
    rtmp_url: str
    rtmps_url: str
    whip_url: str | None
    srt_url: str | None
    dvr_url: str | None = None


class Desk:
    """What every part of this dialect needs: the project that a request is about, the live state, and public addresses."""

    def __init__(self, projects: Projects, live: Live, origin: Origin, ports: Ports) -> None:
        self.live = live
        self._projects = projects
        self._origin = origin
        self._ports = ports

    async def project(self, who: Principal) -> Project:
        """The key's own, or the one of X-Project-Id; for a key to the whole node that names none, the one of the first start."""
        return await self._projects.get(who.project_id or DEFAULT_PROJECT)

    def urls(self, call: Call[Principal, Any, Any]) -> Urls:
        return Urls.of(self._origin, call.request, self._ports)

    def stream(
        self, call: Call[Principal, Any, Any], broadcast: Broadcast, targets: Iterable[PushTarget], media_ids: Iterable[str]
    ) -> StreamObject:
        urls, ingress, stream = self.urls(call), broadcast.ingress, broadcast.stream
        slug, dvr = ingress.room.removesuffix(f"-{ingress.id}"), None
        publication = self.live.publication(ingress)
        if stream.enable_dvr and stream.enable_recording and publication is not None and ingress.started_at is not None:
            dvr = f"{urls.room_recordings(slug, ingress.room)}?from={ingress.started_at:.0f}"
        return StreamObject(
            stream_id=ingress.id,
            stream_key=ingress.stream_key,
            srt_secret=stream.srt_secret,
            trial=stream.test,
            status=status_of(broadcast, self.live),
            max_resolution=stream.max_resolution,
            max_duration=int(stream.max_duration),
            created_at=clock.iso(ingress.created_at, 6),
            reconnect_window=int(stream.reconnect_window),
            enable_recording=stream.enable_recording,
            enable_dvr_mode=stream.enable_dvr,
            media_policy=stream.media_policy,
            metadata=dict(stream.metadata),
            low_latency=stream.latency_mode == "low",
            closed_captions=False,
            playback_ids=[playback_view(playback, urls) for playback in broadcast.playback_ids],
            media_ids=list(media_ids),
            srt_playback_response=SrtPlayback(f"play{ingress.id}", stream.srt_secret),
            simulcast_responses=[simulcast_view(target) for target in targets],
            test=stream.test,
            audio_only=stream.audio_only,
            latency_mode=stream.latency_mode,
            rtmp_url=urls.rtmp,
            rtmps_url=urls.rtmps,
            whip_url=urls.whip(slug, ingress.room) if self._ports.whip else None,
            dvr_url=dvr,
            srt_url=urls.srt,
        )


def status_of(broadcast: Broadcast, live: Live) -> Status:
    if broadcast.disabled:
        return "disabled"
    return _STATUS.get(live.state(broadcast.ingress), "idle")


def playback_view(playback: PlaybackId, urls: Urls) -> PlaybackView:
    view = PlaybackView(playback.id, playback.access_policy, urls.playback(playback.id))
    if playback.restrictions:
        view.access_restrictions = msgspec.convert(playback.restrictions, Restrictions)
    return view


def stored(restrictions: Restrictions | None) -> Mapping[str, Any]:
    """As store.live_streams keeps them: rules by `domains` and `userAgents`, where they are given."""
    given: dict[str, Any] = msgspec.to_builtins(restrictions) if restrictions is not None else {}
    return {what: rule for what, rule in given.items() if rule is not None}


def simulcast_view(target: PushTarget) -> SimulcastView:
    url, key = masked_url(target.url, target.stream_key), masked_key(target.stream_key) or ""
    return SimulcastView(target.id, url, key, target.enabled, dict(target.metadata))
