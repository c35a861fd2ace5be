"""RTP payloads back to access units: what all video depacketisers share. Which packet opens a unit, which ends it, and what loss does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from medianode.errors import LimitExceeded, ProtocolError
from medianode.protocols.rtp.packet import RtpPacket

MAX_PIECES = 65_536
"""Payloads, or parts of them, in one access unit: a bound for those that bring hardly a byte."""


class Frame(NamedTuple):
    """One access unit as `ElementaryStream.unit` takes it. `timestamp`: the raw 32 bits.

    `complete=False`, with no data: something of the stream is missing here, told once for each loss and as soon as it is known.
    """

    data: bytes
    timestamp: int
    complete: bool


class Assembly(ABC):
    """Gathers the payloads of one timestamp until the marker, or until the timestamp changes: some senders set no markers.

    After a loss the unit that was open is given up. The one that follows is taken only where its first packet is surely its first.
    A payload that its format does not allow costs its access unit: counted in `malformed`, `fault` says what it was.
    Raises LimitExceeded where a unit outgrows `max_bytes`; the unit is then given up.
    """

    __slots__ = ("_max_bytes", "_open", "_pieces", "_room", "_skips", "_timestamp", "_unsure", "fault", "incomplete", "malformed")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._pieces: list[bytes] = []
        self._timestamp = -1
        self._open = False
        self._skips = False
        self._unsure = False
        self.malformed = 0
        self.incomplete = 0
        self.fault = ""

    def push(self, packet: RtpPacket, lost: bool) -> list[Frame]:
        """Packets in order of sequence; `lost`: some right before this one will never come. What is finished or given up by it."""
        frames: list[Frame] = []
        timestamp = packet.timestamp
        if lost:
            self._give_up(timestamp, frames)
        payload = packet.payload
        if payload:
            try:
                if not self._open or timestamp != self._timestamp or self._begins(payload):
                    if self._open:
                        self._close(frames)
                    self._open_unit(timestamp, payload)
                if not self._skips:
                    self._take(payload)
            except LimitExceeded:
                self._drop()
                self._skips = True
                raise
            except ProtocolError as error:
                self._spoil(error, frames)
        if packet.marker and self._open and timestamp == self._timestamp:
            self._close(frames)
        return frames

    def _open_unit(self, timestamp: int, payload: bytes) -> None:
        self._drop()
        self._timestamp = timestamp
        self._open = True
        # what cannot be told from a first packet was told as lost before
        self._skips = self._unsure and not self._surely_first(payload)
        self._unsure = False

    def _close(self, frames: list[Frame]) -> None:
        self._open = False
        if self._skips:
            self._skips = False
            return
        try:
            data = self._finish()
        except ProtocolError as error:
            self._spoil(error, frames)
            self._skips = False
        else:
            if data:
                frames.append(Frame(data, self._timestamp, True))
        self._drop()

    def _give_up(self, timestamp: int, frames: list[Frame]) -> None:
        """Packets are missing right before one stamped `timestamp`."""
        if self._open and not self._skips and self._is_whole():
            if timestamp == self._timestamp:
                return
            self._close(frames)
        if self._open and timestamp == self._timestamp:
            # within one unit: its rest is of no use
            if not self._skips:
                self._tell(timestamp, frames)
            self._skips = True
        else:
            self._tell(self._timestamp if self._open else timestamp, frames)
            self._open = self._skips = False
            self._unsure = True
        self._drop()

    def _spoil(self, error: ProtocolError, frames: list[Frame]) -> None:
        self.malformed += 1
        self.fault = error.message
        self._tell(self._timestamp, frames)
        self._skips = True
        self._drop()

    def _tell(self, timestamp: int, frames: list[Frame]) -> None:
        self.incomplete += 1
        frames.append(Frame(b"", timestamp, False))

    def _add(self, piece: bytes) -> None:
        """Keep a part of the unit, within the bounds."""
        self._room -= len(piece)
        if self._room < 0:
            raise LimitExceeded(f"access unit: expected at most {self._max_bytes} bytes, got more")
        self._pieces.append(piece)
        if len(self._pieces) > MAX_PIECES:
            raise LimitExceeded(f"access unit: expected at most {MAX_PIECES} pieces, got more")

    def _drop(self) -> None:
        """Forget what was gathered."""
        self._pieces = []
        self._room = self._max_bytes

    def _begins(self, payload: bytes) -> bool:
        """Whether this opens a unit although the one before had the same timestamp and no marker."""
        return False

    def _is_whole(self) -> bool:
        """Whether the open unit has all it needs, marker or not."""
        return False

    @abstractmethod
    def _surely_first(self, payload: bytes) -> bool:
        """Whether nothing of its access unit that matters can have come before this payload. Not empty; may be garbage."""

    @abstractmethod
    def _take(self, payload: bytes) -> None:
        """Add one payload. Raises ProtocolError."""

    def _finish(self) -> bytes:
        """The unit. Raises ProtocolError where it has no end."""
        return b"".join(self._pieces)
