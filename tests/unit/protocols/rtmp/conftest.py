from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from medianode.errors import PeerError
from medianode.protocols.amf import Value, encode_amf0
from medianode.protocols.rtmp import Connect, Play, Publish, ServerConnection, ServerEvent
from medianode.protocols.rtmp.chunk import chunk_message

VECTORS = Path(__file__).parents[3] / "vectors" / "rtmp"


class Door:
    """Accepts everything, keeps all events, what was sent, and the error that ended it."""

    def __init__(self, **limits: int) -> None:
        self.connection = ServerConnection(random=bytes, **limits)
        self.events: list[ServerEvent] = []
        self.sent = b""
        self.error: PeerError | None = None

    def feed(self, *pieces: bytes) -> Door:
        for piece in pieces:
            try:
                self.connection.receive_data(piece)
            except PeerError as error:
                assert self.error is None, "a PeerError is raised once"
                self.error = error
            for event in self.connection.events():
                self.events.append(event)
                if isinstance(event, Connect):
                    self.connection.accept_connect()
                elif isinstance(event, Publish):
                    self.connection.accept_publish(event.stream_id)
                elif isinstance(event, Play):
                    self.connection.accept_play(event.stream_id)
            self.sent += self.connection.data_to_send()
        return self

    def of(self, kind: type) -> list[ServerEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def opened(self) -> Door:
        return self.feed(b"\x03" + bytes(3072), say("connect", 1, {"app": "live", "tcUrl": "rtmp://host/live"}))

    def published(self) -> Door:
        return self.opened().feed(say("createStream", 2, None), say("publish", 3, None, "key", "live", stream_id=1))


def say(*values: Value, stream_id: int = 0) -> bytes:
    return chunk_message(3, 20, stream_id, 0, encode_amf0(*values), 128)


@pytest.fixture
def door() -> Callable[..., Door]:
    return Door


@pytest.fixture(name="say")
def _say() -> Callable[..., bytes]:
    return say


@pytest.fixture
def vector() -> Callable[[str], bytes]:
    return lambda name: (VECTORS / name).read_bytes()


@pytest.fixture
def cut() -> Callable[[bytes, int], Iterable[bytes]]:
    return lambda data, size: [data[at : at + size] for at in range(0, len(data), size)]
