"""What the modules of commands share: how a command is made, and the database that it works on."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from medianode.config import Config
from medianode.control import audit
from medianode.errors import ConfigError
from medianode.store.database import Database, open_database

EXIT_FAILED = 1
EXIT_USAGE = 2

Commands = argparse._SubParsersAction  # what add_subparsers returns has no public name
Run = Callable[[argparse.Namespace, Config], Awaitable[int]]


def command(commands: Commands[argparse.ArgumentParser], name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """A command with `--config`, to which its own arguments are then added."""
    made = commands.add_parser(name, help=text, description=text)
    made.add_argument("--config", type=Path, metavar="FILE", help="TOML configuration; MEDIANODE__SECTION__KEY in the environment wins")
    made.set_defaults(run=run)
    return made


def group(commands: Commands[argparse.ArgumentParser], name: str, text: str) -> Commands[argparse.ArgumentParser]:
    """Commands under a common name: `keys create`."""
    return commands.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar="ACTION")


@asynccontextmanager
async def database(config: Config) -> AsyncIterator[Database]:
    """Only one that is there: a key made in a fresh one, in whatever directory this is, would open nothing.

    What changes in it is audited as done by `cli`.
    """
    file = Path(config.data_dir) / "medianode.db"
    if not config.store.url and not file.exists():
        raise ConfigError(
            f"no database at {file.resolve()}: pass the daemon's --config, set MEDIANODE__DATA_DIR, or run this where the daemon runs"
        )
    async with open_database(config.store.url, Path(config.data_dir), secret_file=config.store.secret_file) as opened:
        audit.actor.set(audit.Actor("cli"))
        yield opened
