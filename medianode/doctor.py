"""`medianode doctor`: looks at what a node needs and says what to change. Each check is one line: ok, warn or fail."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from medianode import clock
from medianode.certificate import Certificate
from medianode.config import Config, split_listen
from medianode.control import disk
from medianode.control.recording_places import MOST_PROJECTS, own_root, root_of
from medianode.errors import ConfigError, MedianodeError
from medianode.rtc import selftest
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.udp import UdpSocket, allowed_buffers, small_buffers
from medianode.store import projects
from medianode.store.database import open_database
from medianode.tasks import listen_tcp
from medianode.transcode.inventory import missing_codecs

MIN_DISK = 1 << 30
PROBE_BYTES = 16 << 20
SLOW_DISK = 20e6
SLOW_SYNC = 0.1
MIN_CLOCK = 1_735_689_600
"""2025-01-01: a box without a battery wakes in 1970."""
MIN_DESCRIPTORS = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    """`level`: ok, warn or fail. `advice` says what to change, empty when all is well."""

    level: str
    subject: str
    text: str
    advice: str = ""


async def examine(config: Config) -> AsyncIterator[Finding]:
    """All checks, in the order in which they matter. Changes nothing but what a start would."""
    for finding in _ports(config):
        yield finding
    for finding in _srt(config):
        yield finding
    data_dir = Path(config.data_dir)
    async for finding in _webrtc(config):
        yield finding
    for finding in await asyncio.to_thread(lambda: list(_disk(data_dir))):
        yield finding
    finding, own = await _database(config, data_dir)
    yield finding
    for finding in await asyncio.to_thread(lambda: list(_recording_disks(config, own))):
        yield finding
    for finding in _certificate(config, data_dir):
        yield finding
    for finding in _machine():
        yield finding
    missing = await asyncio.to_thread(missing_codecs)
    if missing:
        yield Finding(
            "warn", "codecs", f"missing in this PyAV: {', '.join(missing)}", "renditions that need them fail; install PyAV's wheel"
        )
    else:
        yield Finding("ok", "codecs", "all decoders and encoders for renditions are there (no ffmpeg program is needed)")


def _ports(config: Config) -> Iterator[Finding]:
    wanted = [("http.listen", config.http.listen), ("rtmp.listen", config.rtmp.listen)]
    if config.rtmp.tls_listen:
        wanted.append(("rtmp.tls_listen", config.rtmp.tls_listen))
    if config.rtc.enabled and config.rtc.tcp_listen:
        wanted.append(("rtc.tcp_listen", config.rtc.tcp_listen))
    for key, value in wanted:
        host, port = split_listen(value, key)
        try:
            for sock in listen_tcp(host, port):
                sock.close()
            yield Finding("ok", "port", f"{key} {value} is free")
        except OSError as e:
            yield _taken(config, "port", f"{key} {value}", e, "ss -ltnp")


def _srt(config: Config) -> Iterator[Finding]:
    if not config.srt.enabled:
        return
    try:
        UdpSocket(*split_listen(config.srt.listen, "srt.listen")).close()
        yield Finding("ok", "srt", f"srt.listen {config.srt.listen} (UDP) is free")
    except OSError as e:
        yield _taken(config, "srt", f"srt.listen {config.srt.listen} (UDP)", e, "ss -lunp")


async def _webrtc(config: Config) -> AsyncIterator[Finding]:
    """The UDP port, what the kernel's buffers allow, what browsers are told to connect to, and whether the libraries still fit."""
    if not config.rtc.enabled:
        return
    endpoint = Endpoint(msgspec.structs.replace(config.rtc, tcp_listen=""), config.limits)
    try:
        try:
            endpoint.open()
            yield Finding("ok", "webrtc", f"rtc.listen {config.rtc.listen} (UDP) is free")
        except OSError as e:
            yield _taken(config, "webrtc", f"rtc.listen {config.rtc.listen} (UDP)", e, "ss -lunp")
            endpoint = Endpoint(
                msgspec.structs.replace(config.rtc, listen=f"{config.rtc.listen.rpartition(':')[0]}:0", tcp_listen=""), config.limits
            )
            endpoint.open()
        told = ", ".join(dict.fromkeys(candidate.address for candidate in endpoint.candidates()))
        yield Finding("ok", "webrtc", f"browsers are told to connect to {told} (besides those: rtc.public_addresses)")
    finally:
        endpoint.shut()
    small = small_buffers(allowed_buffers())
    for name, size in small:
        yield Finding("warn", "webrtc", f"{name} is {size} bytes: bursts to many viewers overflow it", f"sysctl -w {name}=8388608")
    if not small:
        yield Finding("ok", "webrtc", "the kernel allows socket buffers large enough for bursts")
    try:
        for misfit in await selftest.run():
            yield Finding("warn", "webrtc", misfit, "install the versions of the lock file")
    except MedianodeError as e:
        yield Finding("fail", "webrtc", e.message, "WebRTC will not start")


def _taken(config: Config, subject: str, what: str, e: OSError, shown_by: str) -> Finding:
    """`what` cannot be listened on; `shown_by`: the program that tells who does."""
    if _is_medianode(*split_listen(config.http.listen, "http.listen")):
        return Finding("ok", subject, f"{what} is served by a running medianode")
    advice = f"stop what holds it ({shown_by} shows it) or set another port"
    if isinstance(e, PermissionError):
        advice = "ports under 1024 want CAP_NET_BIND_SERVICE (AmbientCapabilities= in the unit)"
    return Finding("warn", subject, f"{what}: {os.strerror(e.errno) if e.errno else e}", advice)


def _is_medianode(host: str | None, port: int) -> bool:
    try:
        with closing(socket.create_connection((host or "127.0.0.1", port), 1)) as sock:
            sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return b'"ready"' in sock.recv(4096)
    except OSError:
        return False


def _disk(data_dir: Path) -> Iterator[Finding]:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(data_dir).free
        level = "ok" if free >= MIN_DISK else "fail"
        yield Finding(
            level, "disk space", f"{free / 1e9:.1f} GB free at {data_dir.resolve()}", "" if level == "ok" else "make room: 1 GB at least"
        )
        rate, sync = _speed(data_dir)
    except OSError as e:
        yield Finding(
            "fail", "disk", f"{data_dir}: {e.strerror or e}", "the data directory must be writable: see data_dir, StateDirectory="
        )
        return
    slow = rate < SLOW_DISK or sync > SLOW_SYNC
    advice = "a slow card will do without DVR and recording only" if slow else ""
    yield Finding("warn" if slow else "ok", "disk speed", f"writes {rate / 1e6:.0f} MB/s, one fsync {sync * 1000:.1f} ms", advice)


def _speed(directory: Path) -> tuple[float, float]:
    """Bytes a second, and seconds of one fsync. Raises OSError."""
    with tempfile.TemporaryFile(dir=directory) as file:
        block = os.urandom(1 << 20)
        start = clock.now()
        for _ in range(PROBE_BYTES >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        rate = PROBE_BYTES / max(1e-6, clock.now() - start)
        start = clock.now()
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
        return rate, clock.now() - start


def _recording_disks(config: Config, own: Mapping[Path, str]) -> Iterator[Finding]:
    """Where recordings go that is not below the data directory, which was looked at. `own`: directories of projects, and which's."""
    data_dir = Path(config.data_dir).absolute()
    for root, whose in {root_of(config): "recording.directory", **own}.items():
        if root == data_dir / "recordings":
            continue
        where = f"{root} ({whose})"
        if not root.is_dir():
            yield Finding("warn", "recording disk", f"{where} is not there yet", "is its disk mounted? The first recording makes it else")
            continue
        try:
            space = disk.measure(root)
            rate, sync = _speed(root)
        except OSError as e:
            advice = "recordings must be writable there by the service's user: see recording.directory, ReadWritePaths="
            yield Finding("fail", "recording disk", f"{where}: {e.strerror or e}", advice)
            continue
        wanted = min(config.recording.min_free, space.total // 4)
        text = f"{space.free / 1e9:.1f} GB free at {where}, writes {rate / 1e6:.0f} MB/s, one fsync {sync * 1000:.1f} ms"
        if space.free < wanted:
            advice = f"make room: {wanted / 1e9:.1f} GB are to stay free (recording.min_free), so the oldest recordings go now"
            yield Finding("warn", "recording disk", text, advice)
        elif rate < SLOW_DISK or sync > SLOW_SYNC:
            yield Finding("warn", "recording disk", text, "slow: it will do for few recordings at a time only")
        else:
            yield Finding("ok", "recording disk", text)


async def _database(config: Config, data_dir: Path) -> tuple[Finding, Mapping[Path, str]]:
    """And the directories that projects record to, with whose they are."""
    own: dict[Path, str] = {}
    try:
        async with open_database(config.store.url, data_dir, secret_file=config.store.secret_file) as database:
            await database.ping()
            async with database.read() as tx:
                for project in await projects.list_projects(tx, MOST_PROJECTS):
                    if (root := own_root(project)) is not None:
                        own[root.absolute()] = f"project {project.slug}"
            return Finding("ok", "database", database.description), own
    except MedianodeError as e:
        return Finding("fail", "database", e.message, "see [store] in the configuration"), own


def _certificate(config: Config, data_dir: Path) -> Iterator[Finding]:
    chain = Path(config.tls.certificate) if config.tls.certificate else data_dir / "tls.crt"
    key = Path(config.tls.key) if config.tls.key else data_dir / "tls.key"
    if not config.tls.certificate and not chain.exists():
        yield Finding("ok", "certificate", "none yet: the first start makes one")
        return
    try:
        certificate = Certificate(chain, key, self_made=not config.tls.certificate)
    except ConfigError as e:
        yield Finding("fail", "certificate", e.message, "give a PEM chain and its key, readable by the service's user")
        return
    days = certificate.days_left
    if days < 14:
        yield Finding("fail" if days <= 0 else "warn", "certificate", f"ends in {days:.0f} days", "renew it")
    host = urlsplit(config.public_url).hostname
    if host and host not in certificate.names and not any(n.startswith("*.") and host.endswith(n[1:]) for n in certificate.names):
        yield Finding(
            "fail", "certificate", f"not good for {host}, only for {', '.join(certificate.names)}", "RTMPS clients will refuse it"
        )
    else:
        kind = "self-made: encoders must trust it (download it from the start page)" if certificate.self_made else "the operator's"
        yield Finding("ok", "certificate", f"{kind}; good for {', '.join(certificate.names)}; {days:.0f} days left")


def _machine() -> Iterator[Finding]:
    if clock.wallclock() < MIN_CLOCK:
        yield Finding(
            "fail", "clock", f"it says {clock.iso(clock.wallclock())}", "set it (timedatectl set-ntp true): tokens and certificates need it"
        )
    else:
        synced = Path("/run/systemd/timesync/synchronized").exists()
        yield Finding("ok", "clock", clock.iso(clock.wallclock()) + (", synchronised" if synced else ""))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_DESCRIPTORS:
        yield Finding("warn", "descriptors", f"limit {soft} (hard {hard})", "ulimit -n 65536, or LimitNOFILE= in the unit")
    else:
        yield Finding("ok", "descriptors", f"limit {soft}")
