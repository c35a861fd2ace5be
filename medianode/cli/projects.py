"""projects: create, list, show, change, delete."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from medianode import clock
from medianode.cli.commands import Commands, command, database, group
from medianode.config import Config
from medianode.control.projects import LIMITS, Projects
from medianode.control.storage import shown_storage
from medianode.errors import ConfigError, InvalidRequest
from medianode.events import Bus
from medianode.outbound import Outbound
from medianode.store.database import Database
from medianode.store.projects import Project

VIEWINGS = ("public", "token", "signed")


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    actions = group(commands, "projects", "Create, list, change and delete projects.")
    create = command(actions, "create", _create, "Make a project.")
    create.add_argument("slug", help="a-z 0-9 _ -; stands in addresses")
    create.add_argument("--name", default="")
    _add_settings(create, "public")
    command(actions, "list", _list, "List projects.")
    show = command(actions, "show", _show, "Print one project as JSON, without secrets.")
    show.add_argument("project", help="slug or id")
    change = command(actions, "change", _change, "Change what is named; a running daemon follows within seconds.")
    change.add_argument("project", help="slug or id")
    change.add_argument("--name")
    _add_settings(change, None)
    delete = command(actions, "delete", _delete, "Delete a project with its keys, ingresses, links and webhooks.")
    delete.add_argument("project", help="slug or id")
    delete.add_argument("--confirm", required=True, metavar="SLUG", help="its slug, once more")


def _add_settings(parser: argparse.ArgumentParser, viewing: str | None) -> None:
    parser.add_argument("--viewing", choices=VIEWINGS, default=viewing, help="who may view: all, or who has a token, or a signed link")
    parser.add_argument("--open-publish", choices=("yes", "no"), help="may anybody publish without a key?")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="NAME=NUMBER", help=f"{', '.join(LIMITS)}; none takes it away; may be given again"
    )
    parser.add_argument(
        "--storage", metavar="FILE", help="JSON as the API takes it, - for the standard input (it may hold a secret); none: the node's own"
    )


async def _create(arguments: argparse.Namespace, config: Config) -> int:
    storage = _storage(arguments.storage)
    async with database(config) as db:
        made = await _projects(db, config).create(
            arguments.slug,
            arguments.name,
            viewing=arguments.viewing,
            open_publish=arguments.open_publish == "yes",
            limits=_limits(arguments.limit),
            storage=None if storage is UNSET else storage,
        )
    print(made.id)
    return 0


async def _change(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        changed = await _projects(db, config).change(
            arguments.project,
            name=arguments.name,
            viewing=arguments.viewing,
            open_publish=None if arguments.open_publish is None else arguments.open_publish == "yes",
            limits=_limits(arguments.limit),
            storage=_storage(arguments.storage),
        )
    print(_json(changed))
    return 0


async def _list(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        found = await _projects(db, config).list()
    print(f"{'SLUG':<20} {'ID':<18} {'VIEWING':<8} {'PUBLISH':<8} {'CREATED':<20} NAME")
    for project in found:
        publish = "OPEN" if project.open_publish else "by key"
        print(
            f"{project.slug:<20} {project.id:<18} {project.viewing:<8} {publish:<8} {clock.iso(project.created_at, 0):<20} {project.name}"
        )
    return 0


async def _show(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        print(_json(await _projects(db, config).get(arguments.project)))
    return 0


async def _delete(arguments: argparse.Namespace, config: Config) -> int:
    async with database(config) as db:
        project = await _projects(db, config).delete(arguments.project, arguments.confirm)
    print(f"{project.slug} ({project.id}) is deleted")
    return 0


def _projects(db: Database, config: Config) -> Projects:
    return Projects(db, Bus(), outbound=Outbound(config.outbound.allow))


def _limits(texts: list[str]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if value != "none" and not (value.isascii() and value.isdigit()):
            raise InvalidRequest(f"--limit: expected NAME=NUMBER or NAME=none, got {text!r}")
        found[name] = None if value == "none" else int(value)
    return found


def _storage(file: str | None) -> Any:
    """UNSET where none is named, None for the node's own."""
    if file is None:
        return UNSET
    if file == "none":
        return None
    text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as e:
        raise ConfigError(f"--storage: expected a JSON object: {e}") from None


def _json(project: Project) -> str:
    shown = {
        "id": project.id,
        "slug": project.slug,
        "name": project.name,
        "viewing": project.viewing,
        "openPublish": project.open_publish,
        "limits": dict(project.limits),
        "storage": shown_storage(project.storage),
        "tokenIssuer": project.jwt_key_id,
        "createdAt": clock.iso(project.created_at),
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()
