"""audit: who changed what."""

from __future__ import annotations

import argparse

import msgspec

from medianode import clock
from medianode.cli.commands import Commands, command, database
from medianode.config import Config
from medianode.control.audit import AuditLog
from medianode.control.projects import Projects
from medianode.events import Bus


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    audit = command(commands, "audit", _audit, "Show who changed what, the newest last.")
    audit.add_argument("--project", help="slug or id; without it the whole node")
    audit.add_argument("--action", default="", help="key.created, ingress.deleted, …")
    audit.add_argument("--target", default="", help="what was changed: an id")
    audit.add_argument("--actor", default="", help="key_…, cli, system")
    audit.add_argument("--before", type=int, metavar="NUMBER", help="only entries before this one")
    audit.add_argument("--limit", type=int, default=50)


async def _audit(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        project = None if arguments.project is None else (await Projects(db, Bus()).get(arguments.project)).id
        found = await AuditLog(db).before(
            max(1, min(arguments.limit, 10_000)),
            project_id=project,
            before_id=arguments.before,
            action=arguments.action,
            target=arguments.target,
            actor=arguments.actor,
        )
    for entry in reversed(found):
        details = msgspec.json.encode(dict(entry.details)).decode() if entry.details else ""
        source = f" from {entry.source}" if entry.source else ""
        print(f"{entry.id} {clock.iso(entry.at, 0)} {entry.actor}{source} {entry.action} {entry.target} {details}".rstrip())
    return 0
