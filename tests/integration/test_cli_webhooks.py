"""`medianode webhooks` and `medianode events` as an operator types them, over a database with a project `live`."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from medianode.cli import main
from medianode.control.projects import Projects
from medianode.events import Bus
from medianode.store import schema
from medianode.store.database import open_database
from medianode.webhooks.facts import Fact
from medianode.webhooks.outbox import announce

Program = Callable[..., tuple[int, str, str]]


class Sink(BaseHTTPRequestHandler):
    status = 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"fine")

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def sink() -> Iterator[tuple[type[Sink], str]]:
    """The handler, whose status may be set, and its URL."""

    class Here(Sink):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield Here, f"http://127.0.0.1:{server.server_address[1]}/hook"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Program]:
    """`program("list")` is `medianode webhooks list`: its code, what it said, and what it said beside."""
    asyncio.run(_prepare(tmp_path))
    monkeypatch.setenv("MEDIANODE__DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MEDIANODE__OUTBOUND__ALLOW", "127.0.0.0/8")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def call(*arguments: str, group: str = "webhooks") -> tuple[int, str, str]:
        code = main([group, *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    yield call
    root.handlers[:] = handlers
    root.setLevel(level)


async def _prepare(data_dir: Path) -> None:
    async with open_database("", data_dir, environ={}) as db:
        await Projects(db, Bus()).create("live")


async def _tell(data_dir: Path, state: str) -> None:
    """An encoder connected, and what became of its delivery."""
    async with open_database("", data_dir, environ={}) as db:
        project = await Projects(db, Bus()).get("live")
        data = {"ingressId": "IN_a", "kind": "rtmp", "room": "live-a", "identity": "obs", "name": "", "door": "rtmp", "live": False}
        async with db.write() as tx:
            await announce(tx, Fact(type="ingress.connected", project_id=project.id, stream="IN_a", at=1_800_000_000.0, data=data))
            await tx.change(schema.deliveries.update().where(schema.deliveries.c.state == "pending").values(state=state, done_at=1.0))


def test_an_endpoint_s_life(program: Program, sink: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler, url = sink
    code, secret, told = program("add", f"{url}?token=verysecret", "--name", "billing", "--event", "live.*", "--header", "X-Team: 7")
    assert (code, secret[:6]) == (0, "whsec_")
    assert "it is not shown again" in told
    assert "warning: url: http:// is not encrypted" in told
    endpoint = told.split(":")[0]
    code, listed, _ = program("list")
    assert code == 0
    assert endpoint in listed
    assert "billing" in listed
    assert secret.strip() not in listed
    assert "verysecret" not in listed
    code, told, _ = program("test", endpoint)
    assert code == 0
    assert told.startswith("webhook.test ")
    assert "> fine" in told
    handler.status = 503
    code, told, _ = program("test", endpoint, "--event", "live.ended")
    assert code == 1
    assert "503 after" in told
    monkeypatch.setattr("sys.stdin", io.StringIO("my-own-secret-of-old\n"))
    code, out, told = program("rotate", endpoint, "--secret-file", "-", "--overlap", "60")
    assert (code, out) == (0, "")
    assert "is good until 20" in told
    code, out, told = program("rotate", endpoint, "--unsigned")
    assert (code, out) == (0, "")
    assert "good no more" in told
    assert "disabled" in program("disable", endpoint)[2]
    assert program("remove", endpoint)[0] == 0
    assert program("remove", endpoint)[::2] == (1, f"medianode: not-found: no webhook endpoint '{endpoint}'\n")


def test_deliveries_are_listed_and_sent_again(program: Program, sink: Any, tmp_path: Path) -> None:
    endpoint = program("add", sink[1])[2].split(":")[0]
    asyncio.run(_tell(tmp_path, "dead"))
    code, listed, _ = program("deliveries", "--state", "dead")
    assert code == 0
    number = listed.splitlines()[1].split()[0]
    assert "live.started" in listed
    code, told, _ = program("delivery", number)
    assert code == 0
    assert told.startswith(f"{number} live.started ")
    assert program("replay", endpoint, "--state", "dead")[1] == "1 deliveries will be sent again\n"
    assert program("replay", endpoint, "--number", number)[1] == "0 deliveries will be sent again\n", "it is pending already"
    assert len(program("deliveries")[1].splitlines()) == 3
    assert program("replay", endpoint)[0] == 1, "which?"
    assert len(program("deliveries", "--since", "2999-01-01T00:00:00Z")[1].splitlines()) == 1
    program("disable", endpoint)
    assert "webhook-disabled" in program("replay", endpoint, "--state", "dead")[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "http://10.0.0.1/"), "private-address"),
        (("add", "https://hooks.example.com/", "--event", "live.strated"), "did you mean live.started"),
        (("add", "https://hooks.example.com/", "--header", "no colon"), "--header: expected NAME:VALUE"),
        (("add", "https://hooks.example.com/", "--secret-file", "/dev/null"), "it is empty"),
        (("add", "https://hooks.example.com/", "--secret-file", "/nowhere"), "No such file"),
        (("list", "--project", "none"), "no project 'none'"),
        (("deliveries", "--since", "yesterday"), "--since: expected RFC 3339"),
        (("delivery", "²"), "expected a delivery's number"),
        (("delivery", "9" * 20), "expected a delivery's number"),
        (("delivery", "99"), "no delivery 99"),
        (("rotate", "wh_none", "--overlap", "-1"), "overlap: expected"),
    ],
)
def test_what_is_refused_says_why(program: Program, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str) -> None:
    code, _, told = program(*arguments)
    assert code == 1
    assert said in told


def test_events_one_a_line(program: Program, tmp_path: Path) -> None:
    asyncio.run(_tell(tmp_path, "dead"))
    code, out, _ = program("--types", "ingress.*", group="events")
    (event,) = [json.loads(line) for line in out.splitlines()]
    assert (code, event["type"], event["data"]["ingressId"]) == (0, "ingress.connected", "IN_a")
    assert program("--after", str(event["cursor"]), "--project", "live", group="events")[1] == ""
    assert "unknown-event" in program("--types", "ingres", group="events")[2]
    assert "not kept any more" in program("--after", str(event["cursor"] + 9), group="events")[2]
