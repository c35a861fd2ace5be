"""The RTMP chunk stream (RTMP 1.0, section 5.3): bytes to messages and back.

Reading is one loop over the reader's buffer; it is left only where the buffer ends. Payload is taken as it comes, so no more than a header
is ever held over, and a message grows with its bytes, never with the length it declares.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from medianode.errors import LimitExceeded, ProtocolError
from medianode.protocols.reader import StreamReader, Wait

DEFAULT_CHUNK_SIZE = 128
MAX_CHUNK_SIZE = 0xFFFFFF  # 5.4.1: no message is longer
_EXTENDED = 0xFFFFFF
_HEADER_SIZES = (11, 7, 3, 0)
_LONGEST_HEADER = 3 + 11 + 4
_SET_CHUNK_SIZE = 1
_ABORT = 2
_U32 = Struct(">I")


class Message(NamedTuple):
    """`timestamp`: 32 bits as on the wire, in milliseconds, deltas added up."""

    type: int
    stream_id: int
    timestamp: int
    payload: bytes


class _ChunkStream:
    __slots__ = ("absolute", "assembly", "extended", "field", "length", "missing", "stream_id", "timestamp", "type")

    def __init__(self) -> None:
        self.assembly = bytearray()
        self.missing = 0  # bytes until the message is whole; 0 between messages
        self.timestamp = 0
        self.field = 0  # what the last header said: a timestamp if `absolute`, else a delta
        self.absolute = True
        self.extended = False
        self.length = 0
        self.type = 0
        self.stream_id = 0


class ChunkReader:
    """Reassembles messages. Set Chunk Size and Abort are obeyed here, all other messages are appended to `messages`.

    `max_message_bytes`: longest declared length. `max_partial_bytes`: payload held for unfinished messages of all chunk streams together.
    `max_chunk_streams`: ids in use over the life of the connection.
    """

    __slots__ = ("_held", "_max_chunk_streams", "_max_message", "_max_partial", "_reader", "_streams", "chunk_size", "messages")

    def __init__(self, reader: StreamReader, *, max_message_bytes: int, max_partial_bytes: int, max_chunk_streams: int) -> None:
        self.messages: list[Message] = []
        self.chunk_size = DEFAULT_CHUNK_SIZE
        self._reader = reader
        self._streams: dict[int, _ChunkStream] = {}
        self._held = 0
        self._max_message = max_message_bytes
        self._max_partial = max_partial_bytes
        self._max_chunk_streams = max_chunk_streams

    @property
    def held(self) -> int:
        """Bytes of unfinished messages."""
        return self._held

    def widen(self, max_message_bytes: int, max_partial_bytes: int) -> None:
        """New bounds, from the next message on."""
        self._max_message = max_message_bytes
        self._max_partial = max_partial_bytes

    def parse(self) -> Wait:
        """Runs for ever. Raises ProtocolError, LimitExceeded."""
        reader = self._reader
        streams = self._streams
        buffer, position = reader.buffer, reader.position
        while True:
            if len(buffer) - position < _LONGEST_HEADER:
                reader.position = position
                yield from self._await_header()
                buffer, position = reader.buffer, reader.position
            first = buffer[position]
            csid = first & 0x3F
            position += 1
            if csid < 2:
                csid, position = self._long_csid(buffer, position, csid)
            stream = streams.get(csid)
            if first < 0xC0 or stream is None:
                stream, position = self._header(buffer, position, first >> 6, csid)
            elif stream.extended or not stream.missing:
                position = self._repeat(stream, buffer, position)

            take = stream.missing if stream.missing < self.chunk_size else self.chunk_size
            stop = position + take
            if stop > len(buffer):
                reader.position = position
                yield from self._await_payload(stream, take)
                buffer, position = reader.buffer, reader.position
                if stream.missing:
                    continue
                payload = bytes(stream.assembly)
            elif take == stream.length:
                payload = buffer[position:stop]
                position = stop
                stream.missing = 0
                self._finish(stream, payload, 0)
                continue
            else:
                self._hold(stream, buffer[position:stop])
                position = stop
                if stream.missing:
                    continue
                payload = bytes(stream.assembly)
            stream.assembly = bytearray()
            self._finish(stream, payload, stream.length)

    def _finish(self, stream: _ChunkStream, payload: bytes, held: int) -> None:
        self._held -= held
        if stream.type > _ABORT or not stream.type:
            self.messages.append(Message(stream.type, stream.stream_id, stream.timestamp, payload))
        elif len(payload) < 4:
            raise ProtocolError(f"expected 4 bytes in protocol control message {stream.type}, got {len(payload)}")
        elif stream.type == _SET_CHUNK_SIZE:
            size = _U32.unpack_from(payload)[0] & 0x7FFFFFFF
            if size == 0:
                raise ProtocolError("expected a chunk size of at least 1, got 0")
            self.chunk_size = min(size, MAX_CHUNK_SIZE)
        elif stream.type == _ABORT:
            aborted = self._streams.get(_U32.unpack_from(payload)[0])
            if aborted is not None:
                self._held -= len(aborted.assembly)
                aborted.assembly = bytearray()
                aborted.missing = 0

    def _hold(self, stream: _ChunkStream, piece: bytes) -> None:
        size = len(piece)
        self._held += size
        if self._held > self._max_partial:
            raise LimitExceeded(f"expected at most {self._max_partial} bytes of unfinished messages, got {self._held}")
        stream.assembly += piece
        stream.missing -= size

    def _await_payload(self, stream: _ChunkStream, take: int) -> Wait:
        reader = self._reader
        while take:
            piece = reader.read_some(take)
            if piece:
                self._hold(stream, piece)
                take -= len(piece)
            else:
                yield

    def _await_header(self) -> Wait:
        reader = self._reader
        size = 1
        while True:
            yield from reader.require(size)
            needed = self._header_size(reader.buffer, reader.position)
            if needed <= size:
                return
            size = needed

    def _header_size(self, buffer: bytes, position: int) -> int:
        """Bytes of the chunk header that begins here, as far as it can be told from what is there."""
        there = len(buffer) - position
        csid = buffer[position] & 0x3F
        basic = 1 if csid > 1 else 2 + csid
        if there < basic:
            return basic
        if csid < 2:
            csid, _ = self._long_csid(buffer, position + 1, csid)
        fmt = buffer[position] >> 6
        size = basic + _HEADER_SIZES[fmt]
        if there < size:
            return size
        if fmt == 3:
            stream = self._streams.get(csid)
            return size + 4 if stream is not None and stream.extended else size
        start = position + basic
        return size + 4 if buffer[start : start + 3] == b"\xff\xff\xff" else size

    @staticmethod
    def _long_csid(buffer: bytes, position: int, form: int) -> tuple[int, int]:
        if form == 0:
            return 64 + buffer[position], position + 1
        return 64 + buffer[position] + (buffer[position + 1] << 8), position + 2

    def _header(self, buffer: bytes, position: int, fmt: int, csid: int) -> tuple[_ChunkStream, int]:
        """A message header of type 0, 1 or 2, or the first chunk of a stream."""
        stream = self._streams.get(csid)
        if stream is None:
            stream = self._open(csid, fmt)
        size = _HEADER_SIZES[fmt]
        header = buffer[position : position + size]
        position += size
        length = int.from_bytes(header[3:6], "big") if fmt < 2 else stream.length
        if stream.missing and (fmt == 0 or length != stream.length):
            raise ProtocolError(
                f"expected the other {stream.missing} bytes of a message of {stream.length} on chunk stream {csid}, "
                f"got the header of one of {length}"
            )
        field = int.from_bytes(header[:3], "big")
        extended = field == _EXTENDED
        if extended:
            field = _U32.unpack_from(buffer, position)[0]
            position += 4
        if stream.missing:  # a peer that repeats the header inside a message
            return stream, position
        if length > self._max_message:
            raise LimitExceeded(f"expected a message of at most {self._max_message} bytes, got one of {length}")
        stream.field, stream.extended, stream.absolute = field, extended, fmt == 0
        stream.timestamp = field if fmt == 0 else (stream.timestamp + field) & 0xFFFFFFFF
        stream.length = stream.missing = length
        if fmt < 2:
            stream.type = header[6]
            if fmt == 0:
                stream.stream_id = int.from_bytes(header[7:11], "little")
        return stream, position

    def _open(self, csid: int, fmt: int) -> _ChunkStream:
        if fmt > 1:  # librtmp opens its control stream with type 1
            raise ProtocolError(f"expected chunk stream {csid} to begin with a chunk of type 0, got type {fmt}")
        if len(self._streams) >= self._max_chunk_streams:
            raise LimitExceeded(f"expected at most {self._max_chunk_streams} chunk streams, got more")
        stream = self._streams[csid] = _ChunkStream()
        return stream

    @staticmethod
    def _repeat(stream: _ChunkStream, buffer: bytes, position: int) -> int:
        """A chunk of type 3 that begins a message, or has an extended timestamp. 5.3.1.3 demands the extended timestamp; FFmpeg and
        librtmp once left it out, others repeat the message's timestamp where the header had a delta. So it counts only if it fits."""
        begins = not stream.missing
        if begins:
            stream.missing = stream.length
            if not stream.extended:
                stream.timestamp = (stream.timestamp + stream.field) & 0xFFFFFFFF
        if stream.extended:
            value = _U32.unpack_from(buffer, position)[0]
            if begins and stream.absolute and 0 <= (value - stream.timestamp) & 0xFFFFFFFF < 60_000:
                stream.timestamp = value
                return position + 4
            if begins and not stream.absolute:
                stream.timestamp = (stream.timestamp + stream.field) & 0xFFFFFFFF
            if value in (stream.field, stream.timestamp):
                return position + 4
        return position


def chunk_message(csid: int, type_: int, stream_id: int, timestamp: int, payload: bytes, chunk_size: int) -> bytes:
    """One message under a header of type 0, so that it stands on its own: the same bytes serve every connection with this chunk size.
    `csid` 2…63, `timestamp` modulo 2**32."""
    timestamp &= 0xFFFFFFFF
    extended = _U32.pack(timestamp) if timestamp >= _EXTENDED else b""
    size = len(payload)
    field = min(timestamp, _EXTENDED)
    head = b"".join(
        (
            bytes((csid,)),
            field.to_bytes(3, "big"),
            size.to_bytes(3, "big"),
            bytes((type_,)),
            stream_id.to_bytes(4, "little"),
            extended,
        )
    )
    if size <= chunk_size:
        return head + payload
    between = bytes((0xC0 | csid,)) + extended
    parts = [head, payload[:chunk_size]]
    for start in range(chunk_size, size, chunk_size):
        parts += (between, payload[start : start + chunk_size])
    return b"".join(parts)
