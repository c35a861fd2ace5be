"""The SRT door of a whole node with callers of our own: refusals by their codes, floods, silence, and what is decided once."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from harness import Node, running, until

from medianode import clock
from medianode.errors import PeerError
from medianode.ingress.srt_cipher import AesCiphers
from medianode.protocols.srt.caller import Caller
from medianode.protocols.srt.handshake import Handshake, Kind, parse_handshake
from medianode.protocols.srt.packet import HEADER, ControlType, control, parse_header

VECTOR = Path(__file__).parents[1] / "vectors" / "mpegts" / "h264_aac.ts"


class Encoder:
    """A caller that sends: our handshake, and data packets by hand."""

    def __init__(self, node: Node, stream_id: str, passphrase: str = "") -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.connect(("127.0.0.1", node.ready.srt_port))
        self.caller = Caller(
            secrets.randbits(30), random=secrets.token_bytes, ciphers=AesCiphers(), stream_id=stream_id, passphrase=passphrase
        )
        self.conclusion = b""
        self.answers: list[bytes] = []
        self.sequence = -1

    def look(self) -> None:
        if (greeting := self.caller.datagram(clock.now())) is not None:
            self.conclusion = greeting
            self.sock.send(greeting)
        while True:
            try:
                self.answers.append(self.sock.recv(2048))
            except BlockingIOError:
                return
            self.caller.receive(self.answers[-1], clock.now())

    async def connect(self) -> None:
        """Raises PeerError where the node refuses."""
        async with asyncio.timeout(5):
            while self.caller.connection is None:
                self.look()
                await asyncio.sleep(0.01)
        self.sequence = parse_handshake(self.conclusion).sequence

    def send(self, payload: bytes) -> None:
        assert self.caller.connection is not None
        for at in range(0, len(payload), 1316):
            self.sock.send(HEADER.pack(self.sequence, 0xE0000001, 0, self.caller.connection.peer) + payload[at : at + 1316])
            self.sequence = (self.sequence + 1) & 0x7FFFFFFF

    def heard(self, kind: ControlType) -> bool:
        self.look()
        return any((header := parse_header(answer)) is not None and header.kind == kind for answer in self.answers)


@asynccontextmanager
async def encoder(node: Node, stream_id: str, passphrase: str = "") -> AsyncIterator[Encoder]:
    made = Encoder(node, stream_id, passphrase)
    try:
        yield made
    finally:
        made.sock.close()


async def refused(node: Node, stream_id: str, passphrase: str = "") -> str:
    async with encoder(node, stream_id, passphrase) as made:
        with pytest.raises(PeerError) as told:
            await made.connect()
        return told.value.message


async def test_a_publisher_is_let_in_once_heard_and_put_out(tmp_path: Path) -> None:
    async with running(tmp_path, ingress={"silence": 1.5, "hold": 0.2}) as node, encoder(node, node.key) as first:
        await first.connect()
        first.send(VECTOR.read_bytes())
        await until(lambda: node.on_air)
        await until(lambda: first.heard(ControlType.ACK))
        first.sock.send(first.conclusion)  # as if our answer had been lost
        await until(lambda: sum(a[:4] == b"\x80\0\0\0" for a in (first.look(), first.answers)[1]) >= 3)

        assert "409" in await refused(node, node.key)  # heard from within two seconds
        assert "405" in await refused(node, "#!::r=live/studio,m=request")
        assert "400" in await refused(node, "#!nonsense")
        assert "401" in await refused(node, "")
        assert "bad-secret" in await refused(node, node.key, "not the passphrase")
        await until(lambda: first.heard(ControlType.SHUTDOWN))  # silent for too long
        await until(lambda: not node.on_air)
        async with encoder(node, f"publish:live/{node.key}", node.key) as second:  # without a password the key is the passphrase
            await second.connect()
            assert second.caller.connection is not None
            second.sock.send(control(ControlType.SHUTDOWN, second.caller.connection.peer, 0))
            await until(lambda: not node.daemon.registry.publications)


async def test_a_refusal_is_decided_and_counted_once(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"failed_logins_per_minute": 3, "srt_connections_per_source": 2}) as node:
        async with encoder(node, "nobody-has-this-key") as made:
            with pytest.raises(PeerError, match="401"):
                await made.connect()
            for _ in range(5):
                made.sock.send(made.conclusion)
            await until(lambda: (made.sock.send(made.conclusion), _drain(made))[1] > 3)
        async with encoder(node, node.key) as first:
            await first.connect()
            assert "402" not in await refused(node, node.key)  # a conflict
            assert "401" in await refused(node, "another")
            assert "401" in await refused(node, "a-third")
            assert "402" in await refused(node, "a-fourth")  # three failed logins


async def test_guesses_at_once_are_decided_one_after_the_other(tmp_path: Path) -> None:
    """Each costs derived keys: of those that come together no more are tried than failed logins are allowed."""
    async with running(tmp_path, limits={"failed_logins_per_minute": 3}) as node:
        said = await asyncio.gather(*(refused(node, node.key, f"not the passphrase {n}") for n in range(9)))
        assert sum("bad-secret" in message for message in said) == 3
        assert sum("402" in message for message in said) == 6


def _drain(made: Encoder) -> int:
    while True:
        try:
            made.answers.append(made.sock.recv(2048))
        except BlockingIOError:
            return len(made.answers)


async def test_floods_and_garbage_cost_others_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as node, encoder(node, node.key) as publisher:
        await publisher.connect()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect(("127.0.0.1", node.ready.srt_port))
            peer = publisher.caller.connection.peer if publisher.caller.connection is not None else 0
            induction = Handshake(version=4, extension=2, kind=Kind.INDUCTION, socket_id=9).packed(0, 0)
            conclusion = Handshake(version=5, kind=Kind.CONCLUSION, socket_id=9, cookie=7).packed(0, 0)
            for n in range(400):
                for junk in (induction, conclusion, induction[:63], b"\xff" * 40, b"", HEADER.pack(n, 0, 0, peer) + b"x", bytes(1400)):
                    stranger.send(junk)
                if n % 40 == 0:
                    await asyncio.sleep(0.005)
            publisher.send(VECTOR.read_bytes())
            await until(lambda: node.on_air)
        assert len(node.daemon.registry.publications) == 1
