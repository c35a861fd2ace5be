"""What the daemon and its fan-out workers tell each other: msgpack behind 4-byte lengths, over a socketpair."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any, cast

import msgspec

from medianode.media.track import Codec, Track
from medianode.protocols.sdp.plan import SendMedia
from medianode.rtc.viewer import Stats


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all. `cast` and `viewer` are numbers that the daemon gives, never twice."""


class Hello(Message, frozen=True):
    """The first: the daemon's `[limits]`."""

    limits: dict[str, Any]


class Open(Message, frozen=True):
    """`ssrcs`: kind, SSRC, RTX SSRC."""

    cast: int
    ssrcs: list[tuple[str, int, int | None]]
    cname: str
    playout_delay: float


class Close(Message, frozen=True):
    cast: int


class Playout(Message, frozen=True):
    cast: int
    seconds: float


class Tracks(Message, frozen=True):
    cast: int
    tracks: list[dict[str, Any]]


class Media(Message, frozen=True):
    """A Packet. `received_at` is good in all processes: the monotonic clock is the system's."""

    cast: int
    track: int
    data: bytes
    pts: int
    dts: int
    keyframe: bool
    received_at: float


class Break(Message, frozen=True):
    """A Gap."""

    cast: int
    cause: str


class Join(Message, frozen=True):
    cast: int
    viewer: int
    profile: str
    material: bytes
    address: list[Any]
    ancillary: list[tuple[int, int, bytes]]
    sends: list[SendMedia]


class Leave(Message, frozen=True):
    viewer: int


class Moved(Message, frozen=True):
    """The peer has another address."""

    viewer: int
    address: list[Any]
    ancillary: list[tuple[int, int, bytes]]


class Switch(Message, frozen=True):
    """Its pictures are to come from another broadcast."""

    viewer: int
    to: int


class Feedback(Message, frozen=True):
    """RTCP of a viewer, decrypted."""

    viewer: int
    packet: bytes


class Control(Message, frozen=True):
    """RTCP for a viewer, to be sealed by the daemon, whose keys and index SRTCP has."""

    viewer: int
    packet: bytes


class Keyframe(Message, frozen=True):
    cast: int


class Slow(Message, frozen=True):
    viewer: int


class Failed(Message, frozen=True):
    viewer: int
    reason: str


class Figures(Message, frozen=True):
    viewers: list[tuple[int, Stats]]


_Down = Hello | Open | Close | Playout | Tracks | Media | Break | Join | Leave | Moved | Switch | Feedback
_Up = Control | Keyframe | Slow | Failed | Figures
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Down | _Up).decode
_FIELDS = tuple(field.name for field in dataclasses.fields(Track) if field.init)


def track_fields(track: Track) -> dict[str, Any]:
    return {name: value.value if isinstance(value := getattr(track, name), Codec) else value for name in _FIELDS}


def track_of(fields: dict[str, Any]) -> Track:
    return Track(**{**fields, "codec": Codec(fields["codec"])})


class Pipe(asyncio.Protocol):
    """One end. `received` per message, `lost` once when the other end is gone."""

    def __init__(self, received: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from asyncio's

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost()

    def send(self, message: Message) -> None:
        """Nothing happens where the other end is gone: `lost` told so, or will."""
        if self._transport is not None:
            body = _encode(message)
            self._transport.write(len(body).to_bytes(4, "big") + body)

    @property
    def unsent(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        while size - at >= 4:
            end = at + 4 + int.from_bytes(buffer[at : at + 4], "big")
            if end > size:
                break
            message = _decode(memoryview(buffer)[at + 4 : end])
            at = end
            self._received(message)
        del buffer[:at]

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
