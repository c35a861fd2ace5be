"""An Endpoint under test: made for loopback, joined by a TestPeer, and the packets that go between them."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec

from harness.webrtc import Certificate, Recorder, TestPeer
from medianode.config import Limits, Rtc
from medianode.rtc.endpoint import Endpoint
from medianode.rtc.peer import Peer
from medianode.rtc.udp import DROPPED

CERTIFICATE = Certificate()
RR = struct.pack("!BBHI", 0x80, 201, 1, 77)


def rtp(sequence: int, payload: bytes = b"media") -> bytes:
    return struct.pack("!BBHII", 0x80, 96, sequence, 9000, 77) + payload


def dropped(cause: str) -> float:
    return DROPPED.labels(cause).value


def make(limits: dict[str, Any] | None = None, **config: Any) -> Endpoint:
    return Endpoint(Rtc(**{"listen": "127.0.0.1:0", "tcp_listen": "127.0.0.1:0", **config}), msgspec.convert(limits or {}, Limits))


async def joined(node: Endpoint, client: TestPeer, **options: Any) -> tuple[Peer, Recorder]:
    """Connected, as both see it."""
    heard = Recorder()
    peer = node.create(client.transport, heard)
    await client.connect(peer.local_transport(loopback=True), **options)
    async with asyncio.timeout(5):
        await heard.up.wait()
    return peer, heard
