"""Faults of the world around a whole node: SIGKILL, a full disk, no descriptors left, crowds that say nothing, bytes that mean nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession
from harness import publishing, send_second
from soak.program import Program, create_ingress, environment, ingress_status, last_sequence, on_air, playlist, serving

KILLS = 8
QUICK = {"INGRESS__HOLD": "1"}

pytestmark = pytest.mark.alone


# SIGKILL


async def test_sigkill_at_random_moments_loses_nothing_acknowledged(tmp_path: Path) -> None:
    environ = environment(tmp_path / "data", **QUICK)
    keys: list[str] = []
    ingresses: dict[str, str] = {}
    cut_off = ""
    for kill in range(KILLS + 1):
        async with serving(tmp_path / "data", environ) as node, ClientSession() as session:
            # of the starts before
            for secret in keys[-5:]:
                async with session.get(f"{node.http}/v1/ingress", headers={"Authorization": f"Bearer {secret}"}) as response:
                    assert response.status == 200, await response.text()
            assert await known(node, session) >= set(ingresses)
            if cut_off:
                assert await ingress_status(node, session, cut_off) == "COMPLETE"
            for stream_key in list(ingresses.values())[-1:] + list(ingresses.values())[:1]:
                async with publishing(f"{node.rtmp}/live/{stream_key}") as publisher:
                    await send_second(publisher)
            if kill == KILLS:
                break
            mine = await create_ingress(node, session, f"live-{kill}")
            ingresses[mine["id"]] = mine["streamKey"]
            async with on_air(f"{node.rtmp}/live/{mine['streamKey']}"):
                async with asyncio.timeout(20):
                    while await ingress_status(node, session, mine["id"]) != "ACTIVE":
                        await asyncio.sleep(0.05)
                cut_off = mine["id"]
                writers = [asyncio.get_running_loop().create_task(make_for_ever(node, session, keys, ingresses)) for _ in range(3)]
                await asyncio.sleep(random.uniform(0.02, 0.5))
                await node.kill()
                await asyncio.wait(writers)
    assert len(keys) > KILLS
    assert len(ingresses) > KILLS


async def known(node: Program, session: ClientSession) -> set[str]:
    """All ingresses, page by page."""
    found: set[str] = set()
    while True:
        async with session.get(f"{node.http}/v1/ingress?limit=500&offset={len(found)}", headers=node.admin) as response:
            assert response.status == 200, await response.text()
            page = {item["id"] for item in (await response.json())["items"]}
        found |= page
        if len(page) < 500:
            return found


async def make_for_ever(node: Program, session: ClientSession, keys: list[str], ingresses: dict[str, str]) -> None:
    """Note what was acknowledged, until the node is no more."""
    with contextlib.suppress(ClientError, OSError):
        while True:
            body = {"name": "k", "permissions": ["live"]}
            async with session.post(f"{node.http}/api/v1/keys", json=body, headers=node.admin) as response:
                answer = await response.json()
                assert response.status == 201, answer
            keys.append(answer["data"]["key"])
            made = await create_ingress(node, session, f"passing-{random.randrange(1 << 40)}")
            ingresses[made["id"]] = made["streamKey"]


async def test_sigkill_in_the_first_start(tmp_path: Path) -> None:
    """Before the greeting, at any point: the next start has one project, one admin key that works, one ingress."""
    environ = environment(tmp_path / "data", **QUICK)
    for delay in (0.5, 0.8, 1.1, 1.4):
        process = subprocess.Popen(
            [sys.executable, "-m", "medianode", "serve"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, delay)
        process.kill()
        process.wait()
    async with serving(tmp_path / "data", environ) as node, ClientSession() as session:
        assert len(await known(node, session)) == 1
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher:
            await send_second(publisher)


# a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MB: tmpfs where we may mount, else in a mount namespace that only a child may make (see `through`)."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0777", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def through(place: Path) -> list[str]:
    """How to start a program that sees `place` as a small disk."""
    if os.path.ismount(place):
        return []
    script = 'mount -t tmpfs -o size=6m,mode=0777 tmpfs "$0" && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(place)]


@contextlib.contextmanager
def filled(node: Program, place: Path) -> Iterator[None]:
    """No byte left on the node's disk, seen from its own mount namespace."""
    inside = Path(f"/proc/{node.process.pid}/root{place}")
    ballast = inside / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            continue
    try:
        yield
    finally:
        ballast.unlink()


async def test_a_full_disk_costs_what_must_be_written_and_nothing_else(tmp_path: Path, small_disk: Path) -> None:
    data = small_disk / "data"
    environ = environment(data, HLS__DVR_WINDOW="30", **QUICK)
    log_there = tmp_path / "node"  # the log is not on that disk
    async with serving(log_there, environ, through=through(small_disk)) as node, ClientSession() as session:
        node.data_dir = Path(f"/proc/{node.process.pid}/root{data}")
        admin = node.admin
        made = await create_ingress(node, session, "gate")
        async with on_air(f"{node.rtmp}/live/{made['streamKey']}") as publisher:
            number = last_sequence(await playlist(node, "gate"))
            with filled(node, small_disk):
                answer = await refused(node, session, admin)
                assert answer["code"] == "storage-full", answer
                assert "full" in answer["message"]
                # what is only read is answered
                assert await ingress_status(node, session, made["id"]) == "ACTIVE"
                async with asyncio.timeout(40):
                    while last_sequence(await playlist(node, "gate")) < number + 3:
                        await asyncio.sleep(0.3)
                    while "medianode_hls_dvr_failures_total" not in " ".join(name for name, n in (await node.metrics()).items() if n):
                        await asyncio.sleep(0.3)
                assert (await node.get("/healthz"))[0] == 200
                assert not publisher.done()
            # room is made: all is well without a restart
            other = await create_ingress(node, session, "yard")
            async with on_air(f"{node.rtmp}/live/{other['streamKey']}"):
                await playlist(node, "yard")
            assert not publisher.done()


async def refused(node: Program, session: ClientSession, admin: dict[str, str]) -> dict[str, str]:
    """Create ingresses until the database has no room left: its WAL may have some pages to spare."""
    for i in range(3000):
        body = {"inputType": "RTMP_INPUT", "roomName": f"filler-{i}", "participantIdentity": "x"}
        async with session.post(f"{node.http}/v1/ingress", json=body, headers=admin) as response:
            if response.status != 201:
                assert response.status == 503, await response.text()
                answer: dict[str, str] = await response.json()
                return answer
    raise AssertionError("the disk is full, and 3000 ingresses were created")


async def test_a_node_does_not_start_on_a_full_disk_and_says_why(tmp_path: Path, small_disk: Path) -> None:
    fill = 'dd if=/dev/zero of="$0/ballast" bs=4096 2>/dev/null; exec "$@"'
    command = [*through(small_disk), "sh", "-c", fill, str(small_disk), sys.executable, "-m", "medianode", "serve"]
    started = await asyncio.create_subprocess_exec(
        *command, env=environment(small_disk / "data"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await asyncio.wait_for(started.communicate(), 60)
    assert started.returncode == 1, stderr
    assert b"Traceback" not in stderr
    assert os.strerror(errno.ENOSPC).encode() in stderr or b"full" in stderr, stderr


# crowds


CROWD = """
import resource, socket, sys
ports, wanted = [int(p) for p in sys.argv[1:3]], int(sys.argv[3])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
for i in range(min(wanted, hard - 100)):
    sock = socket.socket()
    sock.settimeout(5)
    # 200 to a source address; 127.0.0.0/8 is all ours
    sock.bind((f"127.0.1.{1 + i // 200}", 0))
    try:
        sock.connect(("127.0.0.1", ports[i % 2]))
    except OSError:
        sock.close()
        continue
    held.append(sock)
print(len(held), flush=True)
sys.stdin.read()
"""
"""Connects, says nothing, and holds on until its standard input ends."""


@contextlib.asynccontextmanager
async def crowd(node: Program, size: int) -> AsyncIterator[int]:
    """Silent connections, half of them to each port; yields how many the system let through."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CROWD, str(node.http_port), str(node.rtmp_port), str(size)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(90):
            yield int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


async def test_ten_thousand_who_say_nothing_disturb_nobody(tmp_path: Path) -> None:
    """More than the node takes (4096 to each port by default): a publisher and an HLS player who were there go on, and find no gap."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = min(10_000, hard - 200)
    raised = ["sh", "-c", 'ulimit -n "$(ulimit -H -n)" && exec "$@"', "sh"]
    environ = environment(tmp_path / "data", LIMITS__HANDSHAKE_TIMEOUT="5", **QUICK)
    async with serving(tmp_path / "data", environ, through=raised) as node, ClientSession() as session:
        async with on_air(f"{node.rtmp}/live/{node.key}") as publisher:
            first = last_sequence(await playlist_by(session, node))
            async with crowd(node, wanted) as came:
                assert came > wanted * 0.9
                for number in range(first + 1, first + 4):
                    url = f"{node.http}/hls/live/studio/main.m3u8?_HLS_msn={number}"
                    async with session.get(url) as response:
                        text = await response.text()
                        assert response.status == 200, text
                        assert last_sequence(text) >= number
                metrics = await by(session, node)
                assert metrics["medianode_rtmp_connections"] <= 4096
                assert metrics["medianode_http_connections"] <= 4096
            assert not publisher.done()
            async with asyncio.timeout(30):
                while (await by(session, node))["medianode_rtmp_connections"] > 1:
                    await asyncio.sleep(0.2)
        # and newcomers are served again
        async with publishing(f"{node.rtmp}/live/{node.key}") as late:
            await send_second(late)


async def playlist_by(session: ClientSession, node: Program) -> str:
    """On the player's own kept-alive connection."""
    async with asyncio.timeout(30):
        while True:
            async with session.get(f"{node.http}/hls/live/studio/main.m3u8") as response:
                text = await response.text()
                if response.status == 200 and "#EXTINF" in text:
                    return text
            await asyncio.sleep(0.2)


async def by(session: ClientSession, node: Program) -> dict[str, float]:
    async with session.get(f"{node.http}/metrics") as response:
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


async def test_out_of_descriptors_and_back(tmp_path: Path) -> None:
    """The limit is under what the crowd wants. Those who are in stay in; when the crowd is gone, newcomers get in."""
    low = ["sh", "-c", 'ulimit -n 120 && exec "$@"', "sh"]
    environ = environment(tmp_path / "data", LIMITS__HANDSHAKE_TIMEOUT="4", **QUICK)
    async with serving(tmp_path / "data", environ, through=low) as node, ClientSession() as session:
        async with on_air(f"{node.rtmp}/live/{node.key}") as publisher:
            first = last_sequence(await playlist_by(session, node))
            async with crowd(node, 400):
                async with session.get(f"{node.http}/hls/live/studio/main.m3u8?_HLS_msn={first + 1}") as response:
                    assert response.status == 200
                async with asyncio.timeout(20):
                    while "Too many open files" not in node.log:
                        await asyncio.sleep(0.1)
            assert not publisher.done()
            async with asyncio.timeout(30):
                while (await node.get("/readyz"))[0] != 200:
                    await asyncio.sleep(0.2)
            assert not publisher.done()
        made = await create_ingress(node, session, "gate")
        async with on_air(f"{node.rtmp}/live/{made['streamKey']}"):
            await playlist(node, "gate")


# bytes that mean nothing


HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(100)
NONSENSE = {
    "random": random.Random(7).randbytes(50_000),
    "zeros": bytes(50_000),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "RTMP": b"\x03" + bytes(1536) + bytes(1536) + b"\x03\x00\x00\x00\x00\x00\x05\x14\x00\x00\x00\x00hello",
    "TLS, cut": HELLO,
    "TLS, then nonsense": HELLO + bytes(5000),
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    "PROXY": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\n\r\n",
    "one byte": b"\xff",
    "nothing": b"",
}


async def test_nonsense_to_each_port(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", environment(tmp_path / "data", LIMITS__HANDSHAKE_TIMEOUT="2", **QUICK)) as node:
        async with on_air(f"{node.rtmp}/live/{node.key}") as publisher:
            await asyncio.gather(
                *(talk(port, sent, how) for port in (node.http_port, node.rtmp_port) for sent in NONSENSE.values() for how in ENDS)
            )
            await playlist(node)
            assert not publisher.done()
            metrics = await node.metrics()
            assert not [name for name, n in metrics.items() if name.startswith("medianode_bugs_total") and n]
        async with asyncio.timeout(20):
            while (await node.metrics())["medianode_rtmp_connections"]:
                await asyncio.sleep(0.1)


ENDS = ("waits", "half-closes", "leaves")


async def talk(port: int, sent: bytes, how: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        await writer.drain()
        if how == "half-closes":
            writer.write_eof()
        if how != "leaves":
            async with asyncio.timeout(30):
                await reader.read()
    except (ConnectionError, BrokenPipeError):
        return
    finally:
        writer.transport.abort()
