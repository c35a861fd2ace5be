"""recordings: list, forecast, rebuild."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from medianode import clock
from medianode.api.forecast import forecast_view
from medianode.cli.commands import Commands, command, database, group
from medianode.config import Config
from medianode.control.catalogue import Catalogue
from medianode.control.forecast import Forecasts
from medianode.control.nodes import open_node_id
from medianode.control.projects import Projects
from medianode.control.recording_ledger import RecordingLedger
from medianode.control.recording_places import MOST_PROJECTS, RecordingPlaces
from medianode.control.recording_recovery import Recovery
from medianode.control.retention import Retention
from medianode.errors import ConfigError
from medianode.events import Bus
from medianode.media.names import room_name
from medianode.store import projects, recording_files, recordings
from medianode.store.database import Database, Transaction
from medianode.store.recordings import Choice, Recording


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    actions = group(commands, "recordings", "List recordings, see how long the disk lasts, make a lost index anew.")
    listing = command(actions, "list", _list, "List recordings, the newest first.")
    listing.add_argument("--project", help="slug or id; without it all")
    listing.add_argument("--room", help="of the project; without --project by its full name, such as live-demo")
    listing.add_argument("--limit", type=int, default=50)
    forecast = command(actions, "forecast", _forecast, "Print as JSON how long the disk lasts, and what goes first.")
    forecast.add_argument("--project", help="slug or id; without it the whole node")
    rebuild = command(actions, "rebuild", _rebuild, "Make the rows of all recordings anew out of their files; the daemon must not run.")
    rebuild.add_argument("--directory", type=Path, help="where they are; without it where the configuration and the projects say")


async def _list(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        project = None if arguments.project is None else await Projects(db, Bus()).get(arguments.project)
        if arguments.room and project is None:
            await _check_full(db, arguments.room)
        room = room_name(project.slug, arguments.room) if project is not None and arguments.room else arguments.room
        async with db.read() as tx:
            limit = max(1, min(arguments.limit, 10_000))
            found, total = await recordings.page(tx, None if project is None else project.id, Choice(room=room or ""), limit=limit)
            there = await recording_files.left(tx, [r.id for r in found if r.reason != "clip"])
            opened = {r.id: await _opened(tx, r) for r in found if r.state == "recording"}
    print(f"{'ID':<25} {'STARTED':<20} {'SECONDS':>9} {'BYTES':>13} {'STATE':<10} {'PIN':<3} ROOM")
    for r in found:
        duration, nbytes = (there[r.id].duration, there[r.id].nbytes) if r.id in there else (r.duration, r.nbytes)
        more, bytes_more = opened.get(r.id, (0.0, 0))
        seconds, pin = f"{duration / 1_000_000 + more:.1f}", "pin" if r.pinned else ""
        print(f"{r.id:<25} {clock.iso(r.started_at, 0):<20} {seconds:>9} {nbytes + bytes_more:>13} {r.state:<10} {pin:<3} {r.room}")
    if total > len(found):
        print(f"{total - len(found)} more")
    return 0


async def _opened(tx: Transaction, recording: Recording) -> tuple[float, int]:
    """Seconds and bytes of the file that is being written, as its last writing tells them; of another node's nothing is known here."""
    for file in await recording_files.of_recording(tx, recording.id, parts=False):
        if file.state == "open":
            with suppress(OSError):
                stat = (Path(recording.directory) / file.name).stat()
                return max(0.0, stat.st_mtime - file.started_at), stat.st_size
    return 0.0, 0


async def _check_full(db: Database, room: str) -> None:
    """No room is called so whose name does not begin with its project's. Raises ConfigError."""
    async with db.read() as tx:
        slugs = [project.slug for project in await projects.list_projects(tx, MOST_PROJECTS)]
    if not any(room == slug or room.startswith(f"{slug}-") for slug in slugs):
        raise ConfigError(f"--room {room}: expected --project with it, or the room's full name, such as live-{room}")


async def _forecast(arguments: argparse.Namespace, config: Config) -> int:
    """Without what is being written, which a running daemon alone knows."""
    async with database(config) as db:
        bus, node_id = Bus(), open_node_id(Path(config.data_dir))
        places = RecordingPlaces(config, db, bus)
        await places.open()
        retention = Retention(db, bus, config.recording, places, node_id)
        forecasts = Forecasts(db, config.recording, places, retention, node_id)
        if arguments.project is None:
            found = await forecasts.of_node()
        else:
            found = await forecasts.of_project(await Projects(db, bus).get(arguments.project))
    view = msgspec.to_builtins(forecast_view(found, node=True))
    for part in (view, *view["disks"]):
        part["writeRate"] = None
    print(msgspec.json.format(msgspec.json.encode(view), indent=2).decode())
    print("What is being written (writeRate) only a running daemon knows, so secondsLeft leaves it out here. Ask it by", file=sys.stderr)
    where = f"projects/{arguments.project}/recordings" if arguments.project is not None else "recordings"
    print(f"GET /api/v1/{where}/forecast on {config.http.listen} with an API key.", file=sys.stderr)
    return 0


async def _rebuild(arguments: argparse.Namespace, config: Config) -> int:
    if arguments.directory is not None and not arguments.directory.is_dir():
        raise ConfigError(f"--directory {arguments.directory}: there is no such directory")
    async with database(config) as db:
        places, recovery = await _recovery(db, config)
        roots = [arguments.directory.absolute()] if arguments.directory is not None else sorted(places.roots)
        with ExitStack() as claims:
            await recovery.claim(claims, roots)
            for root in roots:
                print(f"{root}: {await recovery.rebuild(root)}")
    return 0


async def _recovery(db: Database, config: Config) -> tuple[RecordingPlaces, Recovery]:
    bus, node_id = Bus(), open_node_id(Path(config.data_dir))
    places = RecordingPlaces(config, db, bus)
    await places.open()
    ledger = RecordingLedger(db, bus, node_id, config.limits.unwritten_facts, _nothing)
    ledger.on_written = Catalogue(db).note
    return places, Recovery(db, ledger, places, node_id)


async def _nothing() -> None:
    """There are no sessions to settle in this process."""
