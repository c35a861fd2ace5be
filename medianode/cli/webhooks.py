"""webhooks: endpoints of a project, and what was sent to them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

from medianode import clock
from medianode.api.deliveries import parsed
from medianode.cli.commands import EXIT_FAILED, Commands, Run, command, database, group
from medianode.config import Config
from medianode.control.deliveries import Deliveries
from medianode.control.projects import Projects
from medianode.control.webhooks import MINT, OVERLAP, Change, Made, NewEndpoint, Webhooks
from medianode.errors import InvalidRequest
from medianode.events import Bus
from medianode.outbound import Outbound
from medianode.store.database import Database
from medianode.store.deliveries import STATES, Filter
from medianode.store.projects import Project
from medianode.webhooks.facts import Dialect
from medianode.webhooks.sender import open_sender


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    actions = group(commands, "webhooks", "Webhook endpoints of a project, and what was sent to them.")

    def action(name: str, run: Run, text: str, *positional: tuple[str, str]) -> argparse.ArgumentParser:
        made = command(actions, name, run, text)
        for argument, meaning in positional:
            made.add_argument(argument, help=meaning)
        made.add_argument("--project", default="live", help="slug or id; default live")
        return made

    an_id = ("id", "wh_… as webhooks list shows it")
    action("list", _list, "List endpoints, never their secrets.")
    _add_new(action("add", _add, "Register an endpoint; its secret is shown this once.", ("url", "https://… or http://…")))
    action("remove", _remove, "Remove an endpoint and its deliveries.", an_id)
    action("enable", _enable, "Send to it (again); what waits is tried at once.", an_id)
    action("disable", _disable, "Send nothing to it; what happens meanwhile is not kept for it.", an_id)
    rotate = action("rotate", _rotate, "Another secret, shown this once; the old one stays good for a while.", an_id)
    rotate.add_argument("--overlap", type=float, default=OVERLAP, metavar="SECONDS", help="how long; 0 ends it at once; default a day")
    _add_secret(rotate)
    test = action("test", _test, "Send one event now and show the answer.", an_id)
    test.add_argument("--event", default="", metavar="NAME", help="the example of this event; default webhook.test")
    _add_filters(action("deliveries", _deliveries, "List deliveries, the newest first."))
    action("delivery", _delivery, "Show one delivery with its attempts.", ("number", "as webhooks deliveries shows it"))
    _add_replay(action("replay", _replay, "Send deliveries again: one by --number, or a range.", an_id))


def _add_new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default="", help="what it is for")
    parser.add_argument("--event", action="append", metavar="PATTERN", help="live.*; may be given again; default all")
    parser.add_argument("--dialect", choices=get_args(Dialect), default="baxcloud", help="whose payloads and signatures; default baxcloud")
    parser.add_argument("--profile", default="seed", help="FastPix: seed or 2026")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="sent with each delivery; may be given again")
    parser.add_argument("--disabled", action="store_true", help="register it only")
    parser.add_argument("--no-probe", action="store_true", help="FastPix: do not try it now")
    _add_secret(parser)


def _add_secret(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--secret-file", type=Path, metavar="FILE", help="one of your own, - for the standard input; default: one is made")
    parser.add_argument("--unsigned", action="store_true", help="without a secret nothing is signed")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", default="", metavar="ID", help="only of this one")
    parser.add_argument("--state", choices=STATES)
    parser.add_argument("--event", default="", metavar="PATTERN", help="live.*")
    parser.add_argument("--stream", default="", help="an ingress's id, room:ROOM")
    parser.add_argument("--since", default="", metavar="INSTANT", help="2026-03-29T14:30:00Z")
    parser.add_argument("--before", type=number, metavar="NUMBER", help="the page behind this one")
    parser.add_argument("--limit", type=int, default=20)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--number", type=number, action="append", default=[], help="a delivery; may be given again")
    parser.add_argument("--since", default="", metavar="INSTANT", help="made from then on")
    parser.add_argument("--until", default="", metavar="INSTANT", help="made before")
    parser.add_argument("--after", type=number, metavar="CURSOR", help="of all events behind this one")
    parser.add_argument("--state", choices=STATES[1:], help="dead: all that was given up")
    parser.add_argument("--event", default="", metavar="PATTERN", help="live.*")


class _Desk(NamedTuple):
    project: Project
    webhooks: Webhooks
    deliveries: Deliveries


@asynccontextmanager
async def _desk(arguments: argparse.Namespace, config: Config) -> AsyncIterator[_Desk]:
    outbound = Outbound(config.outbound.allow)
    async with database(config) as db, open_sender(outbound, config.webhooks, config.limits) as sender:
        webhooks = Webhooks(db, outbound, sender, bound=config.limits.webhook_endpoints)
        yield _Desk(await _project(db, arguments.project), webhooks, Deliveries(db, bound=config.limits.webhook_replays))


async def _project(db: Database, name: str) -> Project:
    return await Projects(db, Bus()).get(name)


async def _list(arguments: argparse.Namespace, config: Config) -> int:
    async with _desk(arguments, config) as desk:
        found = await desk.webhooks.list(desk.project.id)
    print(f"{'ID':<20} {'DIALECT':<10} {'STATE':<9} {'PENDING':>7} {'FAILING':>7} {'EVENTS':<24} NAME, URL")
    for endpoint, waiting in found:
        state = "enabled" if endpoint.enabled else "disabled"
        events = ",".join(endpoint.events)
        where = " ".join(filter(None, (endpoint.name, endpoint.url.partition("?")[0])))
        print(f"{endpoint.id:<20} {endpoint.dialect:<10} {state:<9} {waiting.pending:>7} {waiting.failing:>7} {events:<24} {where}")
    return 0


async def _add(arguments: argparse.Namespace, config: Config) -> int:
    new = NewEndpoint(
        url=arguments.url,
        name=arguments.name,
        events=arguments.event or ("*",),
        dialect=arguments.dialect,
        profile=arguments.profile,
        secret=_secret(arguments),
        headers=dict(_header(text) for text in arguments.header),
        enabled=not arguments.disabled,
        probe=False if arguments.no_probe else None,
    )
    async with _desk(arguments, config) as desk:
        made = await desk.webhooks.create(desk.project, new)
    _show(made, "registered")
    return 0


async def _remove(arguments: argparse.Namespace, config: Config) -> int:
    async with _desk(arguments, config) as desk:
        gone = await desk.webhooks.delete(desk.project.id, arguments.id)
    print(f"{gone.id} is removed")
    return 0


async def _enable(arguments: argparse.Namespace, config: Config) -> int:
    return await _switch(arguments, config, True)


async def _disable(arguments: argparse.Namespace, config: Config) -> int:
    return await _switch(arguments, config, False)


async def _switch(arguments: argparse.Namespace, config: Config, enabled: bool) -> int:
    async with _desk(arguments, config) as desk:
        made = await desk.webhooks.change(desk.project, arguments.id, Change(enabled=enabled))
    _show(made, "enabled" if enabled else "disabled")
    return 0


async def _rotate(arguments: argparse.Namespace, config: Config) -> int:
    async with _desk(arguments, config) as desk:
        made = await desk.webhooks.rotate(desk.project.id, arguments.id, _secret(arguments), arguments.overlap)
    until = made.endpoint.previous_until
    _show(made, "rotated; the secret until now is good " + ("no more" if until is None else f"until {clock.iso(until, 0)}"))
    return 0


async def _test(arguments: argparse.Namespace, config: Config) -> int:
    async with _desk(arguments, config) as desk:
        tried = await desk.webhooks.test(desk.project, arguments.id, arguments.event)
    answer = tried.answer
    print(f"{tried.event} {tried.event_id}: {answer.status or 'no answer'} after {answer.latency * 1000:.0f} ms")
    if answer.error:
        print(answer.error)
    if answer.excerpt:
        print(f"> {answer.excerpt}")
    return 0 if answer.good else EXIT_FAILED


async def _deliveries(arguments: argparse.Namespace, config: Config) -> int:
    async with _desk(arguments, config) as desk:
        wanted = Filter(
            project_id=desk.project.id,
            endpoint_id=arguments.endpoint,
            states=(arguments.state,) if arguments.state else (),
            type=arguments.event,
            stream=arguments.stream,
            since=parsed("--since", arguments.since),
            before_id=arguments.before,
        )
        found = await desk.deliveries.list(wanted, max(1, min(arguments.limit, 1000)))
    print(f"{'NUMBER':>9} {'CREATED':<20} {'STATE':<9} {'TRIES':>5} {'STATUS':>6} {'EVENT':<36} {'STREAM':<32} ENDPOINT, ERROR")
    for d in found:
        told = " ".join(filter(None, (d.endpoint_id, d.error)))
        row = f"{d.id:>9} {clock.iso(d.created_at, 0):<20} {d.state:<9} {d.attempts:>5} {d.status or '':>6}"
        print(f"{row} {d.type:<36} {d.stream:<32} {told}")
    return 0


async def _delivery(arguments: argparse.Namespace, config: Config) -> int:
    try:
        wanted = number(arguments.number)
    except ValueError:
        raise InvalidRequest(f"number: expected a delivery's number, got {arguments.number!r}") from None
    async with _desk(arguments, config) as desk:
        opened = await desk.deliveries.open(desk.project.id, wanted)
    delivery = opened.delivery
    print(f"{delivery.id} {delivery.type} {delivery.event_id} to {delivery.endpoint_id}: {delivery.state}, {len(opened.body)} bytes")
    for attempt in opened.attempts:
        print(f"{clock.iso(attempt.at)} {attempt.status or 'no answer'} after {attempt.latency * 1000:.0f} ms {attempt.error}")
        if attempt.excerpt:
            print(f"> {attempt.excerpt}")
    return 0


async def _replay(arguments: argparse.Namespace, config: Config) -> int:
    async with _desk(arguments, config) as desk:
        wanted = Filter(
            project_id=desk.project.id,
            endpoint_id=arguments.id,
            ids=tuple(arguments.number),
            since=parsed("--since", arguments.since),
            until=parsed("--until", arguments.until),
            after_cursor=arguments.after,
            states=(arguments.state,) if arguments.state else (),
            type=arguments.event,
        )
        count = 0
        while True:
            done = await desk.deliveries.replay_all(wanted)
            count += done.count
            if done.next_id is None:
                break
            wanted = replace(wanted, after_id=done.next_id)
    print(f"{count} deliveries will be sent again")
    return 0


def _show(made: Made, what: str) -> None:
    """The secret alone on the standard output, for scripts."""
    if made.secret is not None:
        print(made.secret)
    print(f"{made.endpoint.id}: {what}" + ("; keep its secret, it is not shown again" if made.secret else ""), file=sys.stderr)
    for warning in made.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _secret(arguments: argparse.Namespace) -> str | None:
    if arguments.unsigned:
        return None
    file: Path | None = arguments.secret_file
    if file is None:
        return MINT
    try:
        text = (sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")).strip()
    except UnicodeDecodeError:
        raise InvalidRequest(f"--secret-file {file}: expected text") from None
    if not text:
        raise InvalidRequest(f"--secret-file {file}: it is empty")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise InvalidRequest(f"--header: expected NAME:VALUE, got {text[:40]!r}")
    return name.strip(), value.strip()


def number(text: str) -> int:
    """Of a delivery or a cursor, as a database can have it. Raises ValueError, of which argparse tells by this name."""
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError
    return int(text)
