"""The command line: one module for each group of commands, no logic of its own.

A module's `add(commands)` makes its commands; each sets `run`, a coroutine of the arguments and the configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable

import uvloop

from medianode import __version__
from medianode.cli import audit, events, keys, links, node, projects, push, recordings, webhooks
from medianode.cli.commands import EXIT_FAILED, EXIT_USAGE
from medianode.config import Config, load
from medianode.errors import ConfigError, MedianodeError
from medianode.telemetry import configure_logs


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
    for group in (node, push, keys, webhooks, events, projects, links, recordings, audit):
        group.add(commands)
    return parser
