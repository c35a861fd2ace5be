"""events: what happens, as the feed tells it."""

from __future__ import annotations

import argparse
import sys

import msgspec

from medianode import clock
from medianode.cli.commands import Commands, command, database
from medianode.config import Config
from medianode.control.feed import EventFeed, chosen_types
from medianode.control.projects import Projects
from medianode.events import Bus
from medianode.store.outbox import StoredEvent

PAGE = 500


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    events = command(commands, "events", _events, "Print what happened, one JSON object a line.")
    events.add_argument("--project", help="slug or id; default all of the node")
    events.add_argument("--after", type=int, default=0, metavar="CURSOR", help="only what came behind this one")
    events.add_argument("--types", default="", help="names or patterns, separated by commas: ingress.*")
    events.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")


async def _events(arguments: argparse.Namespace, config: Config) -> int:
    types = chosen_types(arguments.types)
    async with database(config) as db:
        project_id = (await Projects(db, Bus()).get(arguments.project)).id if arguments.project else None
        feed = EventFeed(db)
        position, gap = await feed.start(max(0, arguments.after))
        if gap is not None:
            print(f"what lies between the cursors {gap.after} and {gap.oldest} is not kept any more", file=sys.stderr)
        while True:
            page = await feed.page(position, PAGE, project_id, types)
            for event in page.events:
                print(_line(event), flush=True)
            position = page.position
            if not page.full:
                if not arguments.follow:
                    return 0
                await feed.news(position)


def _line(event: StoredEvent) -> str:
    told = {"cursor": event.cursor, "at": clock.iso(event.at), "type": event.type, "stream": event.stream, "data": event.data}
    return msgspec.json.encode(told).decode()
