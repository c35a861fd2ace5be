"""The command line: serve, check-config, keys, doctor, push. No logic of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop

from medianode import __version__, clock
from medianode.config import Config, load
from medianode.control.keys import Keys
from medianode.control.projects import Projects
from medianode.daemon import Ready, serve
from medianode.doctor import examine
from medianode.egress.rtmp_publish import RtmpPublisher, RtmpUrl, open_publisher, parse_rtmp_url
from medianode.errors import ConfigError, MedianodeError, PeerError
from medianode.events import Bus
from medianode.store.database import Database, open_database
from medianode.telemetry import configure_logs
from medianode.transcode.source import MediaSource, open_source

EXIT_FAILED = 1
EXIT_USAGE = 2
PUSH_REPORT = 5.0


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load(arguments.config, os.environ)
        configure_logs(config.log.level, config.log.format)
        command: Callable[[argparse.Namespace, Config], Awaitable[int]] = arguments.run
        return uvloop.run(command(arguments, config))  # type: ignore[arg-type]  # all commands are coroutines
    except ConfigError as e:
        print(f"medianode: {e.message}", file=sys.stderr)
        return EXIT_USAGE
    except MedianodeError as e:
        print(f"medianode: {e.code}: {e.message}", file=sys.stderr)
        return EXIT_FAILED
    except (OSError, TimeoutError) as e:
        print(f"medianode: {e or type(e).__name__}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medianode", description="A self-hosted media node.")
    parser.add_argument("--version", action="version", version=f"medianode {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--config", type=Path, metavar="FILE", help="TOML configuration; MEDIANODE__SECTION__KEY in the environment wins")
        sub.set_defaults(run=run)
        return sub

    add("serve", _serve, "Run the daemon until SIGTERM.")
    check = add("check-config", _check_config, "Check the configuration, and print it with all defaults.")
    check.add_argument("--quiet", action="store_true", help="print nothing when it is good")
    add("doctor", _doctor, "Check ports, certificate, clock, disk and codecs, and say what to change.")
    push = add("push", _push, "Publish a file or a test picture to an RTMP(S) URL, in real time.")
    push.add_argument("source", help="a media file, or testsrc")
    push.add_argument("url", help="rtmp://host/app/key or rtmps://…")
    push.add_argument("--loop", action="store_true", help="start the file again at its end")
    push.add_argument("--seconds", type=float, default=0.0, help="stop after this long")
    push.add_argument("--cafile", type=Path, help="PEM to trust for rtmps: a node's own is at /certificate.pem")
    keys = commands.add_parser("keys", help="Create, list and revoke API keys.").add_subparsers(required=True, metavar="ACTION")
    _add_keys(keys)
    return parser


def _add_keys(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    create = actions.add_parser("create", help="make a key and print it: it is shown this once")
    create.add_argument("name", help="what it is for")
    create.add_argument("--project", help="slug or id; without it the key is for the whole node")
    create.add_argument("--permission", action="append", choices=["admin", "live", "view"], help="may be given again; default admin")
    listing = actions.add_parser("list", help="list keys, never their secrets")
    revoke = actions.add_parser("revoke", help="end a key; a running daemon follows within seconds")
    revoke.add_argument("id", help="key_… as keys list shows it")
    for sub, run in ((create, _keys_create), (listing, _keys_list), (revoke, _keys_revoke)):
        sub.add_argument("--config", type=Path, metavar="FILE")
        sub.set_defaults(run=run)


async def _serve(arguments: argparse.Namespace, config: Config) -> int:
    await serve(config, lambda ready: print(greeting(config, ready), flush=True))
    return 0


async def _check_config(arguments: argparse.Namespace, config: Config) -> int:
    if not arguments.quiet:
        shown = msgspec.structs.replace(config, store=msgspec.structs.replace(config.store, url=_without_password(config.store.url)))
        print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    return 0


async def _doctor(arguments: argparse.Namespace, config: Config) -> int:
    worst = 0
    async for finding in examine(config):
        worst = max(worst, ("ok", "warn", "fail").index(finding.level))
        advice = f"\n       -> {finding.advice}" if finding.advice else ""
        print(f"{finding.level:<5} {finding.subject}: {finding.text}{advice}", flush=True)
    return EXIT_FAILED if worst == 2 else 0


async def _push(arguments: argparse.Namespace, config: Config) -> int:
    url = parse_rtmp_url(arguments.url)
    try:
        return await _push_to(url, arguments)
    except ssl.SSLCertVerificationError as e:
        raise PeerError(
            f"the certificate of {url.host}:{url.port} is not trusted ({e.verify_message}): give its PEM by --cafile; "
            f"a medianode's own is at http://{url.host}:8080/certificate.pem",
            code="certificate-not-trusted",
        ) from None
    except (OSError, TimeoutError) as e:
        reason = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else str(e) or "no answer in time"
        raise PeerError(f"{url.host}:{url.port}: {reason}: is the server running, and this its RTMP port?", code="unreachable") from None


async def _push_to(url: RtmpUrl, arguments: argparse.Namespace) -> int:
    trust = ssl.create_default_context(cafile=str(arguments.cafile)) if arguments.cafile else None
    async with open_source(arguments.source, loop=arguments.loop) as source, open_publisher(url, verify=trust) as publisher:
        names = ", ".join(
            f"{t.codec.value} {t.width}x{t.height}" if t.is_video else f"{t.codec.value} {t.sample_rate} Hz" for t in source.tracks
        )
        print(f"publishing {names} to {url.tc_url}/…; Ctrl-C ends it", flush=True)
        try:
            await _send(arguments.seconds, source, publisher)
        except ExceptionGroup as e:  # what the server said, or else how the connection went away: one line is enough
            raise next((x for x in e.exceptions if isinstance(x, MedianodeError)), e.exceptions[0]) from None
    return 0


async def _send(seconds: float, source: MediaSource, publisher: RtmpPublisher) -> None:
    """Until the source ends, or for `seconds` (0: without end). Raises a group with what ended it."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(publisher.watch())
        await publisher.open_tracks(source.tracks)
        start = reported = clock.now()
        async for packet in source:
            await publisher.send(packet)
            now = clock.now()
            if seconds and now - start >= seconds:
                break
            if now - reported >= PUSH_REPORT:
                reported = now
                print(f"{now - start:.0f} s, {publisher.sent_bytes / 1e6:.1f} MB sent", flush=True)
        await publisher.finish()
        watching.cancel()


async def _with_database(config: Config, use: Callable[[Database], Awaitable[int]]) -> int:
    """Only a database that is there: a key made in a fresh one, in whatever directory this is, would open nothing."""
    file = Path(config.data_dir) / "medianode.db"
    if not config.store.url and not file.exists():
        raise ConfigError(
            f"no database at {file.resolve()}: pass the daemon's --config, set MEDIANODE__DATA_DIR, or run this where the daemon runs"
        )
    async with open_database(config.store.url, Path(config.data_dir), secret_file=config.store.secret_file) as database:
        return await use(database)


async def _keys_create(arguments: argparse.Namespace, config: Config) -> int:
    async def use(database: Database) -> int:
        made = await Keys(database, Bus()).create(arguments.name, arguments.permission or ["admin"], arguments.project)
        print(made.secret)
        print(f"{made.key.id}: keep it, it is not shown again", file=sys.stderr)
        return 0

    return await _with_database(config, use)


async def _keys_list(arguments: argparse.Namespace, config: Config) -> int:
    async def use(database: Database) -> int:
        slugs = {p.id: p.slug for p in await Projects(database, Bus()).list()}
        print(f"{'ID':<18} {'PROJECT':<12} {'PERMISSIONS':<16} {'CREATED':<20} {'LAST USED':<20} {'STATE':<8} NAME")
        for key in await Keys(database, Bus()).list():
            used = clock.iso(key.last_used_at, 0) if key.last_used_at else "never"
            project = slugs.get(key.project_id or "", "(all)")
            state = "revoked" if key.revoked_at else "good"
            created = clock.iso(key.created_at, 0)
            print(f"{key.id:<18} {project:<12} {','.join(sorted(key.permissions)):<16} {created:<20} {used:<20} {state:<8} {key.name}")
        return 0

    return await _with_database(config, use)


async def _keys_revoke(arguments: argparse.Namespace, config: Config) -> int:
    async def use(database: Database) -> int:
        key = await Keys(database, Bus()).revoke(arguments.id)
        print(f"{key.id} ({key.name}) is revoked")
        return 0

    return await _with_database(config, use)


def _program() -> str:
    """What to type to run this program again: its name where the PATH finds it, else its path."""
    name = Path(sys.argv[0])
    if name.name != "medianode":
        return f"{sys.executable} -m medianode"
    return "medianode" if shutil.which("medianode") == str(name.resolve()) else os.path.relpath(name)


def _without_password(url: str) -> str:
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":…@") if password else url


def greeting(config: Config, ready: Ready) -> str:
    """What a person who has just started the node wants to know. The admin key is in it only at the very first start."""
    base = config.public_url.rstrip("/") or f"http://localhost:{ready.http_port}"
    host = urlsplit(base).hostname or "localhost"
    lines = ["", f"medianode {__version__} is running", "", f"  start page   {base}/"]
    ingress, project = ready.first.ingress, ready.first.project
    if ingress is not None and project is not None:
        lines += [
            f"  play         {base}/play/{project.slug}/{ingress.room}",
            "",
            f"  OBS server   rtmp://{host}:{ready.rtmp_port}/{project.slug}",
            f"  stream key   {ingress.stream_key}",
            f"  try it       {_program()} push testsrc rtmp://{host}:{ready.rtmp_port}/{project.slug}/{ingress.stream_key}",
        ]
    if ready.first.admin_key:
        lines += ["", f"  API key      {ready.first.admin_key}   (shown this once; kept in {ready.first.admin_key_file})"]
    else:
        lines += ["", f"  API key      in {ready.first.admin_key_file}; {_program()} keys create makes another"]
    lines += [f"  data         {ready.data_dir.resolve()}", ""]
    return "\n".join(lines)
