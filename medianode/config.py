"""The operator's configuration: TOML into frozen msgspec structs, then `MEDIANODE__SECTION__KEY` from the environment.

Unknown keys and wrong types are refused with the path to them. Units stand in the comments of config/medianode.toml, which lists
every key with its default (a test holds it to this file). Durations are seconds, sizes bytes, unless a name says otherwise.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from medianode.errors import ConfigError

PREFIX = "MEDIANODE__"

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections."""


class Log(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Http(Section, frozen=True):
    listen: str = ":8080"
    trusted_proxies: tuple[str, ...] = ()


class Rtmp(Section, frozen=True):
    listen: str = ":1935"
    tls_listen: str = ""
    read_interval: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.05
    realtime_read_interval: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.05


class Srt(Section, frozen=True):
    enabled: bool = True
    listen: str = ":8890"
    latency: Annotated[float, msgspec.Meta(ge=0.02, le=8)] = 0.12
    encryption: Literal["optional", "required"] = "optional"
    read_interval: Annotated[float, msgspec.Meta(ge=0.005, le=0.05)] = 0.02


class Tls(Section, frozen=True):
    certificate: str = ""
    key: str = ""
    names: tuple[str, ...] = ()


class Store(Section, frozen=True):
    url: str = ""
    secret_file: str = ""


class Ingress(Section, frozen=True):
    hold: Seconds = 15.0
    silence: Positive = 5.0
    frozen_video: Positive = 10.0
    track_wait: Positive = 2.0


class Hls(Section, frozen=True):
    enabled: bool = True
    container: Literal["fmp4", "ts"] = "fmp4"
    low_latency: bool = True
    segment_duration: Positive = 2.0
    standard_segment_duration: Positive = 4.0
    part_duration: Positive = 0.5
    playlist_segments: Annotated[int, msgspec.Meta(ge=3, le=1000)] = 7
    dvr_window: Seconds = 0.0
    rendition_idle: Positive = 15.0


class Recording(Section, frozen=True):
    directory: str = ""
    file_duration: Annotated[float, msgspec.Meta(ge=5, le=3600)] = 60.0
    part_duration: Annotated[float, msgspec.Meta(ge=0.1, le=1)] = 1.0
    fsync: Literal["part", "file", "never"] = "part"
    min_free: Annotated[int, msgspec.Meta(ge=0)] = 2 * 1024 * 1024 * 1024
    max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_age: Seconds = 0.0
    preroll: Seconds = 0.0
    upload_bitrate: Annotated[int, msgspec.Meta(ge=0)] = 0


class Pull(Section, frozen=True):
    silence: Positive = 5.0
    frozen_video: Positive = 10.0
    connect_timeout: Positive = 10.0
    first_retry: Positive = 1.0
    last_retry: Positive = 10.0
    read_interval: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.05
    on_demand_idle: Positive = 10.0
    on_demand_wait: Positive = 8.0


class Mjpeg(Section, frozen=True):
    quality: Annotated[int, msgspec.Meta(ge=1, le=31)] = 5
    max_fps: Positive = 15.0
    rendition_idle: Positive = 5.0


class WsJpeg(Section, frozen=True):
    enabled: bool = True
    max_fps: Positive = 15.0
    max_frame_bytes: Count = 262_144
    idle_timeout: Positive = 30.0
    ping_interval: Positive = 15.0
    max_cameras: Count = 64


class Rtc(Section, frozen=True):
    enabled: bool = True
    listen: str = ":8189"
    tcp_listen: str = ":8189"
    public_addresses: tuple[str, ...] = ()
    stun_servers: tuple[str, ...] = ()
    turn_servers: tuple[str, ...] = ()
    turn_secret: str = ""
    turn_ttl: Positive = 86_400.0
    playout_delay: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.1
    rendition_idle: Positive = 15.0
    consent_timeout: Positive = 15.0
    workers: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0


class Outbound(Section, frozen=True):
    allow: tuple[str, ...] = ()
    cafile: str = ""


class Webhooks(Section, frozen=True):
    timeout: Positive = 10.0
    first_retry: Positive = 5.0
    last_retry: Positive = 21_600.0
    retention: Positive = 604_800.0
    audit_retention: Positive = 31_536_000.0


class Limits(Section, frozen=True):
    """Every bound in the code."""

    tcp_connections: Count = 4096
    tcp_connections_per_peer: Count = 256
    handshake_timeout: Positive = 10.0
    first_media_timeout: Positive = 30.0
    request_timeout: Positive = 15.0
    rtmp_message_bytes: Count = 16 * 1024 * 1024
    rtmp_pending_bytes: Count = 20 * 1024 * 1024
    rtmp_early_bytes: Count = 1024 * 1024
    rtmp_chunk_streams: Count = 64
    rtmp_message_streams: Count = 8
    srt_connections: Count = 500
    srt_connections_per_source: Count = 64
    srt_receive_packets: Annotated[int, msgspec.Meta(ge=32, le=65_536)] = 8192
    amf_depth: Count = 16
    amf_items: Count = 4096
    http_body_bytes: Count = 1024 * 1024
    http_header_bytes: Count = 16_384
    ws_handshakes_per_minute: Count = 60
    failed_logins_per_minute: Count = 30
    rooms: Count = 1000
    publications: Count = 500
    tracks_per_publication: Count = 16
    viewers_per_room: Count = 5000
    gop_packets: Count = 2500
    gop_bytes: Count = 32 * 1024 * 1024
    reader_packets: Count = 4096
    reader_bytes: Count = 32 * 1024 * 1024
    reader_seconds: Positive = 8.0
    hls_room_bytes: Count = 192 * 1024 * 1024
    hls_total_bytes: Count = 1024 * 1024 * 1024
    hls_max_segment_duration: Positive = 12.0
    hls_waiting_requests: Count = 10_000
    dvr_room_bytes: Count = 4 * 1024 * 1024 * 1024
    rendition_queue_packets: Count = 256
    renditions: Count = 16
    audio_renditions: Count = 256
    decode_pixels: Count = 3840 * 2160 * 4
    rtc_peers: Count = 2000
    rtc_connect_timeout: Positive = 15.0
    rtc_connecting_per_source: Count = 256
    rtc_offer_bytes: Count = 131_072
    rtc_receive_packets: Count = 2048
    rtc_history_packets: Count = 4096
    rtc_history_bytes: Count = 16 * 1024 * 1024
    rtc_unsent_bytes: Count = 8 * 1024 * 1024
    rtc_tcp_unsent_bytes: Count = 1024 * 1024
    playback_ids: Count = 100
    signing_keys: Count = 100
    webhook_endpoints: Count = 50
    webhook_connections: Count = 8
    webhook_lanes: Count = 1024
    webhook_letters: Count = 4096
    webhook_response_bytes: Count = 65_536
    webhook_replays: Count = 100_000
    event_streams: Count = 100
    playback_reads: Count = 256
    playback_cache_bytes: Count = 64 * 1024 * 1024
    playlist_segments: Count = 50_000
    download_index_bytes: Count = 32 * 1024 * 1024
    unwritten_facts: Count = 10_000
    view_links: Count = 10_000
    push_targets: Count = 100
    push_targets_per_room: Count = 10
    recordings: Count = 200
    recorder_bytes: Count = 32 * 1024 * 1024
    preroll_bytes: Count = 64 * 1024 * 1024
    clip_seconds: Positive = 14_400.0
    uploads: Count = 2
    object_requests: Count = 8
    pulls: Count = 100
    fallbacks: Count = 1000
    slate_bytes: Count = 8 * 1024 * 1024
    slate_seconds: Positive = 30.0
    slate_cache_bytes: Count = 64 * 1024 * 1024
    shutdown_grace: Positive = 8.0


class Config(Section, frozen=True):
    data_dir: str = "./data"
    public_url: str = ""
    log: Log = Log()
    http: Http = Http()
    rtmp: Rtmp = Rtmp()
    srt: Srt = Srt()
    tls: Tls = Tls()
    store: Store = Store()
    ingress: Ingress = Ingress()
    hls: Hls = Hls()
    recording: Recording = Recording()
    pull: Pull = Pull()
    mjpeg: Mjpeg = Mjpeg()
    ws_jpeg: WsJpeg = WsJpeg()
    rtc: Rtc = Rtc()
    outbound: Outbound = Outbound()
    webhooks: Webhooks = Webhooks()
    limits: Limits = Limits()


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read the file (if any), lay the environment over it, check. Raises ConfigError with the path to the bad key."""
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text("utf-8"))
        except OSError as e:
            raise ConfigError(f"{path}: cannot be read: {e.strerror or e}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}: not TOML: {e}") from None
    for name, value in sorted((environ or {}).items()):
        if name.startswith(PREFIX):
            _overlay(raw, name, value)
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as e:
        where = f"{path}: " if path else ""
        raise ConfigError(f"{where}{_readable(str(e))}") from None
    _check(config)
    return config


def split_listen(value: str, key: str = "listen") -> tuple[str | None, int]:
    """`:8080`, `127.0.0.1:8080`, `[::1]:8080` → (host or None for all, port). Port 0 lets the system choose."""
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{key}: expected HOST:PORT or :PORT, got {value!r}")
    return (host.strip("[]") or None, int(port))


def _check(config: Config) -> None:
    split_listen(config.http.listen, "http.listen")
    split_listen(config.rtmp.listen, "rtmp.listen")
    if config.rtmp.tls_listen:
        split_listen(config.rtmp.tls_listen, "rtmp.tls_listen")
    split_listen(config.srt.listen, "srt.listen")
    split_listen(config.rtc.listen, "rtc.listen")
    if config.rtc.tcp_listen:
        split_listen(config.rtc.tcp_listen, "rtc.tcp_listen")
    if bool(config.tls.certificate) != bool(config.tls.key):
        raise ConfigError("tls: certificate and key go together; set both or neither")
    if config.public_url and not config.public_url.startswith(("http://", "https://")):
        raise ConfigError(f"public_url: expected http://… or https://…, got {config.public_url!r}")
    if config.hls.part_duration * 2 > config.hls.segment_duration:
        raise ConfigError("hls.part_duration: must be at most half of hls.segment_duration")


def _overlay(raw: dict[str, Any], name: str, value: str) -> None:
    """Put one environment variable into the raw tree, as the type that its key has."""
    path = [part.lower() for part in name[len(PREFIX) :].split("__")]
    kind: Any = Config
    for i, part in enumerate(path):
        fields = typing.get_type_hints(kind, include_extras=True) if isinstance(kind, type) and issubclass(kind, Section) else {}
        if part not in fields:
            raise ConfigError(f"{name}: unknown key {'.'.join(path[: i + 1])}")
        kind = fields[part]
    if isinstance(kind, type) and issubclass(kind, Section):
        raise ConfigError(f"{name}: names the section {'.'.join(path)}; a key of it is wanted")
    node = raw
    for part in path[:-1]:
        node = node.setdefault(part, {})
    node[path[-1]] = _parse(name, ".".join(path), kind, value)


def _parse(name: str, path: str, kind: Any, value: str) -> Any:
    parsed: Any = value
    if typing.get_origin(_plain(kind)) is tuple:
        parsed = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(parsed, kind, strict=False)
    except msgspec.ValidationError as e:
        raise ConfigError(f"{name}: {path}: {_readable(str(e))}") from None


def _plain(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) in (Annotated, types.UnionType) else kind


def _readable(message: str) -> str:
    """msgspec says "… - at `$.hls.container`"; operators know the key as hls.container."""
    text, found, where = message.partition(" - at `$.")
    where = where.rstrip("`")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown is None:
        return f"{where}: {text}" if found else message
    section: Any = Config
    for part in where.split(".") if found else ():
        section = typing.get_type_hints(section)[part]
    near = difflib.get_close_matches(unknown[1], section.__struct_fields__, 1)
    path = f"{where}.{unknown[1]}" if found else unknown[1]
    return f"{path}: unknown key" + (f"; did you mean {near[0]}?" if near else f"; known are {', '.join(section.__struct_fields__)}")
