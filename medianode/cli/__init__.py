"""The command line: one module for each group of commands, no logic of its own.

A module's `add(commands)` makes its commands; each sets `run`, a coroutine of the arguments and the configuration.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Awaitable, Callable

import uvloop

from medianode import __version__
from medianode.cli import audit, events, keys, links, node, projects, push, recordings, webhooks
from medianode.cli.commands import EXIT_FAILED, EXIT_USAGE
from medianode.config import Config, load
from medianode.errors import ConfigError, MedianodeError
from medianode.telemetry import configure_logs

EXIT_UNREAD = 141
"""As a shell says it of a program that SIGPIPE ended."""


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        config = load(arguments.config, os.environ)
        configure_logs(config.log.level, config.log.format)
        command: Callable[[argparse.Namespace, Config], Awaitable[int]] = arguments.run
        status: int = uvloop.run(command(arguments, config))  # type: ignore[arg-type]  # all commands are coroutines
        sys.stdout.flush()  # here, where a pipe that nobody reads any more has an answer
        return status
    except ConfigError as e:
        print(f"medianode: {e.message}", file=sys.stderr)
        return EXIT_USAGE
    except MedianodeError as e:
        print(f"medianode: {e.code}: {e.message}", file=sys.stderr)
        return EXIT_FAILED
    except (OSError, TimeoutError) as e:
        if isinstance(e, BrokenPipeError) and _unread():
            return EXIT_UNREAD
        print(f"medianode: {e or type(e).__name__}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _unread() -> bool:
    """Is what we print read by nobody any more (`| head`)? What is still to be printed then goes nowhere, in silence."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medianode", description="A self-hosted media node.")
    parser.add_argument("--version", action="version", version=f"medianode {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (node, push, keys, webhooks, events, projects, links, recordings, audit):
        group.add(commands)
    return parser
