"""serve, check-config, doctor."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from medianode import __version__
from medianode.cli.commands import EXIT_FAILED, Commands, command
from medianode.config import Config
from medianode.daemon import Ready, serve
from medianode.doctor import examine


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    command(commands, "serve", _serve, "Run the daemon until SIGTERM.")
    check = command(commands, "check-config", _check_config, "Check the configuration, and print it with all defaults.")
    check.add_argument("--quiet", action="store_true", help="print nothing when it is good")
    command(commands, "doctor", _doctor, "Check ports, certificate, clock, disk and codecs, and say what to change.")


async def _serve(arguments: argparse.Namespace, config: Config) -> int:
    await serve(config, lambda ready: print(greeting(config, ready, show=not into_journal(os.environ, 1)), flush=True))
    return 0


async def _check_config(arguments: argparse.Namespace, config: Config) -> int:
    if not arguments.quiet:
        shown = msgspec.structs.replace(config, store=msgspec.structs.replace(config.store, url=_without_password(config.store.url)))
        print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    return 0


async def _doctor(arguments: argparse.Namespace, config: Config) -> int:
    worst = 0
    async for finding in examine(config):
        worst = max(worst, ("ok", "warn", "fail").index(finding.level))
        advice = f"\n       -> {finding.advice}" if finding.advice else ""
        print(f"{finding.level:<5} {finding.subject}: {finding.text}{advice}", flush=True)
    return EXIT_FAILED if worst == 2 else 0


def _program() -> str:
    """What to type to run this program again: its name where the PATH finds it, else its path."""
    name = Path(sys.argv[0])
    if name.name != "medianode":
        return f"{sys.executable} -m medianode"
    return "medianode" if shutil.which("medianode") == str(name.resolve()) else os.path.relpath(name)


def _without_password(url: str) -> str:
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":…@") if password else url


def into_journal(environ: Mapping[str, str], fd: int) -> bool:
    """Does systemd's journal read this descriptor? It tells device and inode of what it reads (systemd.exec(5), JOURNAL_STREAM)."""
    found = os.fstat(fd)
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def greeting(config: Config, ready: Ready, *, show: bool = True) -> str:
    """What a person who has just started the node wants to know. The admin key is in it only at the very first start.

    `show`: keys too; not for the journal, which keeps what is printed and which more people read.
    """
    base = config.public_url.rstrip("/") or f"http://localhost:{ready.http_port}"
    host = urlsplit(base).hostname or "localhost"
    lines = ["", f"medianode {__version__} is running", "", f"  start page   {base}/"]
    ingress, project = ready.first.ingress, ready.first.project
    if ingress is not None and project is not None:
        key = ingress.stream_key if show else "STREAM_KEY"
        told = key if show else f"in the answer of {base}/api/v1/apps/{project.slug}/ingress (with the API key)"
        lines += [
            f"  play         {base}/play/{project.slug}/{ingress.room}",
            "",
            f"  OBS server   rtmp://{host}:{ready.rtmp_port}/{project.slug}",
            f"  stream key   {told}",
            *((f"  by SRT       srt://{host}:{ready.srt_port}?streamid={key}",) if ready.srt_port else ()),
            f"  try it       {_program()} push testsrc rtmp://{host}:{ready.rtmp_port}/{project.slug}/{key}",
        ]
    if ready.first.admin_key and show:
        lines += ["", f"  API key      {ready.first.admin_key}   (shown this once; kept in {ready.first.admin_key_file})"]
    else:
        lines += ["", f"  API key      in {ready.first.admin_key_file}; {_program()} keys create makes another"]
    lines += [f"  data         {ready.data_dir.resolve()}", ""]
    return "\n".join(lines)
