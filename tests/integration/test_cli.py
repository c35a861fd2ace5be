"""The `medianode` program as an operator types it, in processes of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import Run, run
from soak.program import create_ingress, environment, ingress_status, serving

import medianode
from medianode.cli import main

Program = Callable[..., Run]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Program]:
    """`program(data_dir, *arguments, HLS__SPEED="9")` in this process, as a fresh interpreter would run it; both streams as one text."""
    root = logging.getLogger()
    before = (
        root.handlers[:],
        root.level,
        {name: log.level for name, log in root.manager.loggerDict.items() if isinstance(log, logging.Logger)},
    )

    def call(data_dir: Path, *arguments: str, **more: str) -> Run:
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("MEDIANODE__")]:
                patch.delenv(name)
            for name, value in environment(data_dir, **more).items():
                patch.setenv(name, value)
            try:
                code = main(list(arguments))
            except SystemExit as e:  # argparse ends the interpreter by itself
                code = int(e.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Run(code, err + out)

    yield call
    root.handlers[:], level, levels = before
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


async def medianode_program(data_dir: Path, *arguments: str, **more: str) -> Run:
    """In a process of its own; both streams as one text."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "medianode", *arguments),
        env=environment(data_dir, **more),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    assert b"Traceback" not in output, output.decode()
    return Run(process.returncode, output.decode())


async def test_version() -> None:
    assert await run(sys.executable, "-m", "medianode", "--version") == (0, f"medianode {medianode.__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("fly",), ("keys",), ("push", "testsrc"), ("serve", "--confg", "x")], ids=" ".join)
def test_a_mistyped_command_is_explained_with_exit_code_2(tmp_path: Path, program: Program, arguments: tuple[str, ...]) -> None:
    code, output = program(tmp_path, *arguments)
    assert code == 2
    assert output.startswith("usage: medianode")


def test_help_names_every_command(tmp_path: Path, program: Program) -> None:
    code, output = program(tmp_path, "--help")
    assert code == 0
    for command in ("serve", "check-config", "doctor", "push", "projects", "keys", "links", "audit", "webhooks", "events"):
        assert re.search(rf"^    {command}\b", output, re.MULTILINE), output


# check-config


def test_a_good_configuration_is_shown_with_its_defaults_and_without_passwords(tmp_path: Path, program: Program) -> None:
    file = tmp_path / "good.toml"
    file.write_text('[store]\nurl = "postgresql://node:hunter2@db/media"\n[ingress]\nhold = 3.5\n')
    code, output = program(tmp_path, "check-config", "--config", str(file))
    assert code == 0
    assert '"hold": 3.5' in output
    assert '"silence": 5.0' in output
    assert "hunter2" not in output
    assert "postgresql://node" in output
    assert program(tmp_path, "check-config", "--quiet", "--config", str(file)) == (0, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[hls]\nsegments = 3\n", "segments"),
        ('[ingress]\nhold = "long"\n', "ingress.hold"),
        ("[ingress]\nhold = -1\n", "ingress.hold"),
        ('[http]\nlisten = "eighty"\n', "HOST:PORT"),
        ("[hls\n", "not TOML"),
        ('[tls]\ncertificate = "x.pem"\n', "certificate and key go together"),
    ],
)
def test_a_bad_configuration_is_refused_with_the_path_to_the_key(tmp_path: Path, program: Program, text: str, said: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    for command in ("check-config", "serve"):
        code, output = program(
            tmp_path / "data", command, "--config", str(file), HTTP__LISTEN="eighty" if "eighty" in text else "127.0.0.1:0"
        )
        assert code == 2
        assert output.startswith("medianode: ")
        assert said in output
        assert output.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_bad_environment_and_a_missing_file(tmp_path: Path, program: Program) -> None:
    code, output = program(tmp_path, "check-config", HLS__SPEED="9")
    assert (code, "MEDIANODE__HLS__SPEED" in output) == (2, True)
    code, output = program(tmp_path, "check-config", "--config", str(tmp_path / "none.toml"))
    assert (code, "cannot be read" in output) == (2, True)


# serve


async def test_the_admin_key_is_greeted_only_the_first_time(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with serving(data) as node:
        secret = (data / "admin.key").read_text().strip()
        assert secret in node.greeting
        assert f"medianode {medianode.__version__} is running" in node.greeting
        assert stat.S_IMODE((data / "admin.key").stat().st_mode) == 0o600
        stream_key = node.key
    async with serving(data) as node:
        assert secret not in node.greeting
        assert str(data / "admin.key") in node.greeting
        assert node.key == stream_key
    # and never in the log
    assert secret not in node.log
    assert stream_key not in node.log


@pytest.mark.parametrize("door", ["http", "rtmp"])
def test_a_taken_port_is_named_with_exit_code_2(tmp_path: Path, program: Program, door: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        code, output = program(tmp_path / "data", "serve", **{f"{door.upper()}__LISTEN": listen})
    assert code == 2
    assert f"{door}.listen: cannot listen on {listen}: " in output
    assert "in use" in output
    assert "medianode doctor" in output
    assert not (tmp_path / "data").exists(), "found out before anything was made"


def test_a_data_directory_that_cannot_be(tmp_path: Path, program: Program) -> None:
    (tmp_path / "file").write_text("")
    code, output = program(tmp_path / "file" / "data", "serve")
    assert code == 1
    assert output.startswith("medianode: storage-error: data_dir ")


# keys


async def test_keys_of_a_running_daemon(tmp_path: Path) -> None:
    """Made, used, listed without its secret, revoked: the daemon follows within seconds."""
    data = tmp_path / "data"
    async with serving(data) as node, ClientSession() as session:
        code, output = await medianode_program(data, "keys", "create", "for the test", "--project", "live", "--permission", "live")
        assert code == 0
        found = re.fullmatch(r"(?s)(?=.*^(sk_[\w-]{43})$)(?=.*^(key_\w+): keep it, it is not shown again$).*", output, re.MULTILINE)
        assert found, output
        secret, key_id = found.groups()

        async def use() -> int:
            async with session.get(f"{node.http}/v1/ingress", headers={"Authorization": f"Bearer {secret}"}) as response:
                return response.status

        assert await use() == 200
        code, output = await medianode_program(data, "keys", "list")
        assert code == 0
        row = next(line for line in output.splitlines() if line.startswith(key_id))
        assert row.split()[1:3] == ["live", "live"]
        assert "good" in row
        assert row.endswith("for the test")
        assert secret not in output

        assert await medianode_program(data, "keys", "revoke", key_id) == (0, f"{key_id} (for the test) is revoked\n")
        async with asyncio.timeout(10):
            while (status := await use()) == 200:
                await asyncio.sleep(0.2)
        assert status == 401
        assert "revoked" in (await medianode_program(data, "keys", "list")).output


def test_keys_that_cannot_be(tmp_path: Path, program: Program) -> None:
    code, output = program(tmp_path, "keys", "list")
    assert code == 2
    assert "no database at" in output
    assert not list(tmp_path.rglob("*.db")), "looking makes none"
    assert program(tmp_path, "doctor")[0] in (0, 1)  # makes what a start would
    code, output = program(tmp_path, "keys", "revoke", "key_none")
    assert (code, output) == (1, "medianode: not-found: no key 'key_none'\n")
    code, output = program(tmp_path, "keys", "create", "x", "--project", "nowhere")
    assert (code, output) == (1, "medianode: not-found: no project 'nowhere'\n")
    code, output = program(tmp_path, "keys", "create", "")
    assert code == 1
    assert "expected 1 to 200 printable characters" in output


def test_a_tenant_from_its_making_to_its_end(tmp_path: Path, program: Program) -> None:
    """A project with limits and storage, its key, a view link, and the log of it all."""
    program(tmp_path, "doctor")  # makes the database
    storage = tmp_path / "s3.json"
    storage.write_text('{"type":"s3","bucket":"media-1","accessKey":"AKIA1","secretKey":"very secret"}')
    settings = ("--viewing", "signed", "--limit", "viewers=50", "--limit", "rooms=2", "--storage", str(storage))
    code, output = program(tmp_path, "projects", "create", "garage", *settings)
    assert (code, output[:4]) == (0, "prj_")
    code, output = program(tmp_path, "projects", "change", "garage", "--limit", "rooms=none", "--name", "The Garage")
    shown = json.loads(output)
    assert (code, shown["limits"], shown["viewing"], shown["name"]) == (0, {"viewers": 50}, "signed", "The Garage")
    assert shown["storage"] == {"type": "s3", "bucket": "media-1", "accessKey": "AKIA1"}
    assert json.loads(program(tmp_path, "projects", "show", "garage").output) == shown
    assert re.search(r"^garage +prj_\w+ +signed +by key .* The Garage$", program(tmp_path, "projects", "list").output, re.MULTILINE)

    policy = ("--permission", "view", "--ttl", "2d", "--allow", "10.0.0.0/8")
    code, output = program(tmp_path, "keys", "create", "tv", "--project", "garage", *policy)
    first, key_id = re.findall(r"sk_[\w-]{43}", output)[0], re.findall(r"key_\w+", output)[0]
    code, output = program(tmp_path, "keys", "rotate", key_id, "--overlap", "60")
    assert code == 0
    assert first not in output
    row = next(line for line in program(tmp_path, "keys", "list").output.splitlines() if line.startswith(key_id))
    assert (row.split()[1:3], "10.0.0.0/8" in row, "good" in row) == (["garage", "view"], True, True)

    code, output = program(tmp_path, "links", "create", "hall", "--project", "garage", "--identity", "ada")
    link_id = re.findall(r"vl_\w+", output)[0]
    assert (code, len(re.findall(r"(?:[\w-]+\.){2}[\w-]+", output)), "/play/garage/garage-hall?token=…" in output) == (0, 1, True)
    assert program(tmp_path, "links", "revoke", link_id, "--project", "garage") == (0, f"{link_id} is revoked\n")
    listed = program(tmp_path, "links", "list", "--project", "garage").output
    assert re.search(rf"^{link_id} +garage-hall .*revoked +ada$", listed, re.MULTILINE)

    log = program(tmp_path, "audit", "--project", "garage").output
    assert [line.split()[3] for line in log.splitlines()] == [
        *("project.created", "project.changed", "key.created", "key.rotated", "link.created", "link.revoked")
    ]
    assert {line.split()[2] for line in log.splitlines()} == {"cli"}
    assert "very secret" not in log
    assert program(tmp_path, "projects", "delete", "garage", "--confirm", "wrong").code == 1
    assert program(tmp_path, "projects", "delete", "garage", "--confirm", "garage").code == 0
    for wrong in (("--limit", "rooms"), ("--limit", "rooms=-1"), ("--limit", "x=1"), ("--storage", str(tmp_path / "none"))):
        assert program(tmp_path, "projects", "create", "g2", *wrong).code == 1, wrong


# doctor


def findings(output: str) -> dict[str, str]:
    """Level by subject; the worst where a subject comes twice."""
    found: dict[str, str] = {}
    for level, subject in re.findall(r"^(ok|warn|fail) +([^:]+):", output, re.MULTILINE):
        found[subject] = max(found.get(subject, "ok"), level, key=("ok", "warn", "fail").index)
    return found


def test_doctor_on_a_machine_where_all_is_well(tmp_path: Path, program: Program) -> None:
    code, output = program(tmp_path / "data", "doctor", PUBLIC_URL="https://node.example")
    assert code == 0, output
    found = findings(output)
    assert set(found) >= {"port", "disk space", "disk speed", "database", "certificate", "clock", "descriptors", "codecs"}
    assert "fail" not in found.values()
    assert found["port"] == found["database"] == found["codecs"] == "ok"


async def test_doctor_tells_a_taken_port_from_a_running_node(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other_port = other.getsockname()[1]
        code, output = await medianode_program(tmp_path / "other", "doctor", RTMP__LISTEN=f"127.0.0.1:{other_port}")
    assert code == 0
    assert re.search(rf"^warn +port: rtmp\.listen 127\.0\.0\.1:{other_port}: .*in use.*\n +-> .*ss -ltnp", output, re.MULTILINE), output
    async with serving(tmp_path / "data") as node:
        code, output = await medianode_program(tmp_path / "data", "doctor", HTTP__LISTEN=f"127.0.0.1:{node.http_port}")
    assert code == 0
    assert re.search(rf"^ok +port: http\.listen 127\.0\.0\.1:{node.http_port} is served by a running medianode$", output, re.MULTILINE)


async def test_doctor_fails_on_what_would_keep_a_node_from_serving(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = await medianode_program(tmp_path / "file" / "data", "doctor")
    assert code == 1
    assert findings(output)["disk"] == findings(output)["database"] == "fail"

    (tmp_path / "cert.pem").write_text("no certificate")
    (tmp_path / "key.pem").write_text("no key")
    code, output = await medianode_program(
        tmp_path / "data", "doctor", TLS__CERTIFICATE=str(tmp_path / "cert.pem"), TLS__KEY=str(tmp_path / "key.pem")
    )
    assert code == 1
    assert findings(output)["certificate"] == "fail"

    async with serving(tmp_path / "data"):
        pass
    code, output = await medianode_program(tmp_path / "data", "doctor", PUBLIC_URL="https://other.example")
    assert code == 1
    assert "not good for other.example" in output


# push


async def test_push_to_a_wrong_key_or_to_nobody_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as node:
        code, output = await medianode_program(tmp_path, "push", "testsrc", f"{node.rtmp}/live/wrong", "--seconds", "5")
        assert code == 1
        assert "NetStream.Publish.Unauthorized" in output
        assert "wrong" not in output.replace("wrong key", "")
        rtmps = node.rtmp.replace("rtmp://", "rtmps://")
        code, output = await medianode_program(tmp_path, "push", "testsrc", f"{rtmps}/live/{node.key}", "--seconds", "5")
        assert code == 1
        assert "certificate" in output.lower()
        assert node.key not in output
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    code, output = await medianode_program(tmp_path, "push", "testsrc", f"rtmp://127.0.0.1:{port}/live/key")
    assert code == 1
    assert output.splitlines()[-1].startswith("medianode: ")
    for url in ("http://127.0.0.1/live/key", "rtmp://127.0.0.1/key", "rtmp://127.0.0.1:99999/live/key"):
        code, output = await medianode_program(tmp_path, "push", "testsrc", url)
        assert code == 1
        assert output.startswith("medianode: invalid-request: "), output
    code, output = await medianode_program(tmp_path, "push", str(tmp_path / "none.mp4"), "rtmp://127.0.0.1/live/key")
    assert code == 1
    assert "none.mp4" in output


async def test_push_with_the_node_s_own_certificate(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as node:
        (tmp_path / "node.pem").write_text((await node.get("/certificate.pem"))[1])
        target = node.rtmp.replace("rtmp://", "rtmps://") + f"/live/{node.key}"
        code, output = await medianode_program(
            tmp_path, "push", "testsrc", target, "--seconds", "2", "--cafile", str(tmp_path / "node.pem")
        )
        assert code == 0, output
        assert output.startswith("publishing h264 ")
        assert node.key not in output
        assert "door=rtmps" in node.log


@pytest.mark.parametrize("how", ["deleted", "killed"])
async def test_push_that_is_ended_by_the_node_says_so_in_a_line(tmp_path: Path, how: str) -> None:
    async with serving(tmp_path / "data") as node, ClientSession() as session:
        made = await create_ingress(node, session, "gate")
        pushing = asyncio.get_running_loop().create_task(
            medianode_program(tmp_path, "push", "testsrc", f"{node.rtmp}/live/{made['streamKey']}", "--seconds", "60")
        )
        async with asyncio.timeout(30):
            while await ingress_status(node, session, made["id"]) != "ACTIVE":
                await asyncio.sleep(0.2)
        if how == "deleted":
            async with session.delete(f"{node.http}/v1/ingress/{made['id']}", headers=node.admin) as response:
                assert response.status == 200
        else:
            await node.kill()
        code, output = await pushing
        assert code == 1
        last = output.splitlines()[-1]
        assert last.startswith("medianode: "), output
        assert ("deleted" in last) == (how == "deleted"), output
