"""keys: create, list, rotate, revoke."""

from __future__ import annotations

import argparse
import sys

from medianode import clock
from medianode.auth import Permission
from medianode.cli.commands import Commands, command, database, group
from medianode.config import Config
from medianode.control import tokens
from medianode.control.keys import OVERLAP, Keys, NewKey
from medianode.control.projects import Projects
from medianode.events import Bus
from medianode.store.keys import ApiKey


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    actions = group(commands, "keys", "Create, list, rotate and revoke API keys.")
    create = command(actions, "create", _create, "Make a key and print it: it is shown this once.")
    create.add_argument("name", help="what it is for")
    create.add_argument("--project", help="slug or id; without it the key is for the whole node")
    create.add_argument("--permission", action="append", choices=[p.value for p in Permission], help="may be given again; default admin")
    create.add_argument("--ttl", metavar="SPAN", help="90d, 12h, …: how long it is good; default for ever")
    create.add_argument("--allow", action="append", metavar="NETWORK", help="address or CIDR that it may be used from; may be given again")
    command(actions, "list", _list, "List keys, never their secrets.")
    rotate = command(actions, "rotate", _rotate, "Give a key a new text and print it; the old one stays good for a while.")
    rotate.add_argument("id", help="key_… as keys list shows it")
    rotate.add_argument("--overlap", type=float, default=OVERLAP, metavar="SECONDS", help="how long; 0 ends it at once; default an hour")
    revoke = command(actions, "revoke", _revoke, "End a key; a running daemon follows within seconds.")
    revoke.add_argument("id", help="key_… as keys list shows it")


async def _create(arguments: argparse.Namespace, config: Config) -> int:
    expires_at = None if arguments.ttl is None else clock.wallclock() + tokens.span(arguments.ttl)
    async with database(config) as db:
        made = await Keys(db, Bus()).create(
            arguments.name,
            arguments.permission or ["admin"],
            arguments.project,
            expires_at=expires_at,
            allowed_addresses=arguments.allow,
        )
    return _show(made)


async def _rotate(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        return _show(await Keys(db, Bus()).rotate(arguments.id, arguments.overlap))


def _show(made: NewKey) -> int:
    print(made.secret)
    print(f"{made.key.id}: keep it, it is not shown again", file=sys.stderr)
    return 0


async def _list(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        slugs = {p.id: p.slug for p in await Projects(db, Bus()).list()}
        keys = await Keys(db, Bus()).list()
    print(
        f"{'ID':<18} {'PROJECT':<12} {'PERMISSIONS':<16} {'CREATED':<20} {'EXPIRES':<20} {'LAST USED':<20} {'STATE':<8} {'FROM':<20} NAME"
    )
    for key in keys:
        used = clock.iso(key.last_used_at, 0) if key.last_used_at else "never"
        expires = clock.iso(key.expires_at, 0) if key.expires_at else "never"
        project = "(all)" if key.project_id is None else slugs.get(key.project_id, key.project_id)
        created = clock.iso(key.created_at, 0)
        source = ",".join(key.allowed_addresses or ("anywhere",))
        permissions = ",".join(sorted(key.permissions))
        print(
            f"{key.id:<18} {project:<12} {permissions:<16} {created:<20} {expires:<20} {used:<20} {_state(key):<8} {source:<20} {key.name}"
        )
    return 0


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and clock.wallclock() >= key.expires_at else "good"


async def _revoke(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        key = await Keys(db, Bus()).revoke(arguments.id)
    print(f"{key.id} ({key.name}) is revoked")
    return 0
