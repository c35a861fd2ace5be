"""links: signed view links of a project."""

from __future__ import annotations

import argparse
import sys

from medianode import clock
from medianode.cli.commands import Commands, command, database, group
from medianode.config import Config
from medianode.control.links import LIST_LIMIT, Links
from medianode.control.projects import Projects
from medianode.events import Bus


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    actions = group(commands, "links", "Make, list and revoke signed view links.")
    create = command(actions, "create", _create, "Make a link and print its token, which goes behind ?token=; it is shown this once.")
    create.add_argument("room")
    create.add_argument("--ttl", default="1h", help="30m, 2h, 7d, …; up to 30d; default 1h")
    create.add_argument("--identity", default="", help="whom it is given to, for your own records")
    revoke = command(actions, "revoke", _revoke, "Revoke a link; who views by it is put out within seconds.")
    revoke.add_argument("id", help="vl_… as links list shows it")
    for made in (create, command(actions, "list", _list, "List links, never their tokens."), revoke):
        made.add_argument("--project", default="live", help="slug or id; default live")


async def _create(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        project = await Projects(db, Bus()).get(arguments.project)
        made = await Links(db, Bus(), most=config.limits.view_links).create(
            project, arguments.room, ttl=arguments.ttl, identity=arguments.identity
        )
    print(made.token)
    path = f"/play/{project.slug}/{made.link.room}?token=…"
    print(f"{made.link.id}: good until {clock.iso(made.link.expires_at, 0)}; opens {path}", file=sys.stderr)
    return 0


async def _list(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        project = await Projects(db, Bus()).get(arguments.project)
        found, _ = await Links(db, Bus(), most=config.limits.view_links).list(project, limit=LIST_LIMIT)
    print(f"{'ID':<28} {'ROOM':<24} {'EXPIRES':<20} {'STATE':<8} IDENTITY")
    for link in found:
        state = "revoked" if link.revoked_at is not None else "expired" if clock.wallclock() >= link.expires_at else "good"
        print(f"{link.id:<28} {link.room:<24} {clock.iso(link.expires_at, 0):<20} {state:<8} {link.identity}")
    return 0


async def _revoke(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        project = await Projects(db, Bus()).get(arguments.project)
        link = await Links(db, Bus(), most=config.limits.view_links).revoke(project.id, arguments.id)
    print(f"{link.id} is revoked")
    return 0
