"""What the documents say is there: links, commands, targets, the unit's program."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from medianode import cli
from medianode.config import Config

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("models/*.md")) if p.is_file())
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]\n]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]\n]+\]:\s+(\S+)", re.MULTILINE)


def relative_links(text: str) -> Iterator[str]:
    """Targets of links to files of this repository; code is not searched."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    for found in LINK.finditer(prose):
        target = found[1] or found[2]
        if not urlsplit(target).scheme and not target.startswith("//"):
            yield target


def anchors(document: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", document.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: Path) -> list[str]:
    broken = []
    for target in relative_links(document.read_text("utf-8")):
        path, _, anchor = unquote(target).partition("#")
        file = (document.parent / path).resolve() if path else document
        bad_anchor = anchor and file.suffix == ".md" and file.is_file() and anchor not in anchors(file)
        if not file.exists() or not file.is_relative_to(ROOT) or bad_anchor:
            broken.append(target)
    return broken


def command_lines(text: str) -> Iterator[str]:
    """Those of fenced ```sh blocks, prompts and comments taken off, continued lines joined."""
    for language, block in FENCE.findall(text):
        if language in ("sh", "bash", "shell", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                yield line.strip().removeprefix("$ ").removeprefix("sudo ")


def complaint(line: str) -> str:
    """Why a command line cannot be typed as it stands; empty when it can."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as e:
        return f"{line}: {e}"
    while words and re.fullmatch(r"\w+=.*", words[0]):  # variables before the program
        words.pop(0)
    if not words:
        return ""
    program = words[0].rpartition("/")[2]
    if program == "medianode":
        known, nested = subcommands()
        command = next((word for word in words[1:] if not word.startswith("-")), None)
        if command is None:
            return "" if words[1:] else f"{line}: no command"
        if command not in known:
            return f"{line}: medianode has no command {command}"
        if command in nested:
            action = words[words.index(command) + 1 : words.index(command) + 2]
            if not action or action[0] not in nested[command]:
                return f"{line}: medianode {command} has no {action}"
        return unknown_options(line, words)
    if program == "make":
        wanted = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        unknown = [word for word in wanted if word not in targets()]
        return f"{line}: no make target {unknown}" if unknown else ""
    return ""


def unknown_options(line: str, words: list[str]) -> str:
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    unknown = options - set(re.findall(r"--[\w-]+", all_help()))
    return f"{line}: medianode has no option {sorted(unknown)}" if unknown else ""


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def subcommands() -> tuple[set[str], dict[str, set[str]]]:
    """The commands, and the actions of those that have some."""
    found = dict(parsers(cli._parser()))
    nested = {name: {action for action, _ in parsers(sub)} for name, sub in found.items()}
    return set(found), {name: actions for name, actions in nested.items() if actions}


def all_help() -> str:
    top = cli._parser()
    subs = [sub for _, sub in parsers(top)]
    return "".join(p.format_help() for p in [top, *subs, *(deep for sub in subs for _, deep in parsers(sub))])


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_architecture_has_links_at_all() -> None:
    assert list(relative_links((ROOT / "ARCHITECTURE.md").read_text("utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_command_lines_name_what_is_there(document: Path) -> None:
    assert [said for line in command_lines(document.read_text("utf-8")) if (said := complaint(line))] == []


def test_the_unit_runs_what_is_there() -> None:
    unit = (ROOT / "systemd/medianode.service").read_text()
    commands = re.findall(r"^Exec\w+=[-@:+!]*(.+)$", unit, re.MULTILINE)
    assert len(commands) >= 2
    assert [said for command in commands if (said := complaint(command))] == []
    for section, key in re.findall(r"MEDIANODE__(?:(\w+?)__)?(\w+)=", unit):
        place = getattr(Config(), section.lower()) if section else Config()
        assert hasattr(place, key.lower()), f"no key {section}.{key}"


def test_makefile_s_phony_targets_are_there() -> None:
    phony = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {name for line in phony for name in line.split()} <= targets()


# the checks themselves can fail


def test_a_broken_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# A Heading: here\n")
    document = tmp_path / "document.md"
    document.write_text(
        "[a](there.md) [b](gone.md) [c](https://x.example/y) `[code](no.md)` [d](there.md#a-heading-here) [e](there.md#none)\n"
        "![picture](gone.png) [f](../outside.md)\n\n[ref]: gone-too.md\n```sh\n[no](link.md)\n```\n"
    )
    assert broken_links(document) == ["gone.md", "there.md#none", "gone.png", "../outside.md", "gone-too.md"]


@pytest.mark.parametrize(
    "line",
    [
        "medianode fly",
        "medianode",
        "medianode keys lose x",
        "medianode keys",
        "medianode push testsrc rtmp://x/y/z --forever",
        ".venv/bin/medianode fly",
        "FOO=1 medianode fly",
        "make moon",
        'make "run',
    ],
)
def test_a_wrong_command_line_is_found(line: str) -> None:
    assert complaint(line)


@pytest.mark.parametrize(
    "line",
    [
        "medianode serve --config x.toml",
        "medianode --version",
        "medianode keys create name --project live --permission live",
        "/opt/x/.venv/bin/medianode doctor",
        "MEDIANODE__HTTP__LISTEN=:80 medianode serve",
        "make run",
        "make venv PYTHON=python3.12",
        "curl -f http://localhost:8080/healthz",
        "# a comment",
        "",
    ],
)
def test_a_good_command_line_is_let_through(line: str) -> None:
    assert not complaint(line)
