"""The client's side of an RTMP connection: a publisher, or a player.

It handshakes and connects by itself; `publish` or `play` follow Connected.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeAlias

from medianode.errors import PeerError
from medianode.media.track import Kind
from medianode.protocols import amf
from medianode.protocols.amf import Value
from medianode.protocols.reader import StreamReader
from medianode.protocols.rtmp import auth
from medianode.protocols.rtmp import messages as m
from medianode.protocols.rtmp.chunk import DEFAULT_CHUNK_SIZE, ChunkReader, Message
from medianode.protocols.rtmp.handshake import Random, client_handshake
from medianode.protocols.rtmp.messages import Command, ControlType, Data, Media, MessageType, PeerClosed
from medianode.protocols.rtmp.server import AUDIO_FOURCC, VIDEO_FOURCC


class Connected(NamedTuple):
    """NetConnection.Connect.Success, with the server's properties. `fourcc`: what it says it takes of Enhanced RTMP, `*` for all; empty
    where it does not speak it."""

    properties: dict[str, Value]
    fourcc: frozenset[str] = frozenset()


class Publishing(NamedTuple):
    stream_id: int


class Playing(NamedTuple):
    stream_id: int


class Status(NamedTuple):
    """Any other onStatus."""

    level: str
    code: str
    description: str


class Rejected(NamedTuple):
    """The server refused connect, createStream, publish or play."""

    code: str
    description: str


class Acknowledged(NamedTuple):
    """The server has taken so many bytes of this connection in all (5.4.3), its 32-bit count unwrapped."""

    nbytes: int


class ChallengeReceived(NamedTuple):
    """Adobe's challenge: close, and connect again with `app?query`, as a new ClientConnection(app, …, query=query) does."""

    query: str


ClientEvent: TypeAlias = Connected | Publishing | Playing | Status | Rejected | Acknowledged | ChallengeReceived | Media | Data | PeerClosed


class ClientConnection:
    """`app` and `tc_url` as connect has them. With `user` and `password` Adobe's challenges are answered by ChallengeReceived; `query`
    is that of the last one. `digest_schema` 0 or 1 asks for a digest handshake. `window`: bytes after which the server is asked to send
    Acknowledged, 0 leaves it to the server. After a PeerError from `receive_data` it is dead."""

    def __init__(
        self,
        app: str,
        tc_url: str,
        *,
        random: Random,
        user: str = "",
        password: str = "",
        query: str = "",
        digest_schema: int | None = None,
        window: int = 0,
        max_message_bytes: int = 10 << 20,
        max_partial_bytes: int = 16 << 20,
        max_chunk_streams: int = 64,
    ) -> None:
        self._reader = StreamReader(4096)
        self._chunks = ChunkReader(
            self._reader, max_message_bytes=max_message_bytes, max_partial_bytes=max_partial_bytes, max_chunk_streams=max_chunk_streams
        )
        suffix = f"?{query}" if query else ""
        self._app, self._tc_url = app + suffix, tc_url + suffix
        self._random = random
        self._user, self._password = user, password
        self._answered = "response=" in query
        self._events: list[ClientEvent] = []
        self._out: list[bytes] = []
        self._chunk_size = DEFAULT_CHUNK_SIZE
        self._transaction = 0
        self._create = 0  # transaction of an unanswered createStream
        self._wanted: tuple[str, str] = ("", "")  # (publish or play, stream name)
        self._stream_id = 0
        self._dead = False
        self._received = 0
        self._acknowledged = 0
        self._window = m.WINDOW_BYTES
        self._asked_window = window
        self._taken = 0  # of ours, by the server's count
        self._parser = self._parse(digest_schema)
        next(self._parser)

    def receive_data(self, data: bytes) -> None:
        """Take what the transport read. Raises PeerError once; events from before it stay."""
        if self._dead:
            return
        error: PeerError | None = None
        self._received += len(data)
        try:
            self._reader.feed(data)
            next(self._parser)
        except PeerError as caught:
            error = caught
        try:
            for message in self._chunks.messages:
                self._message(message)
        except PeerError as caught:
            error = caught
        self._chunks.messages.clear()
        if error is not None:
            self._dead = True
            raise error
        if self._received - self._acknowledged >= self._window:
            self._acknowledged = self._received
            self._out.append(m.control(MessageType.ACKNOWLEDGEMENT, (self._received & 0xFFFFFFFF).to_bytes(4, "big")))

    def receive_eof(self) -> None:
        if not self._dead:
            self._dead = True
            self._events.append(PeerClosed(not len(self._reader) and not self._chunks.held))

    def events(self) -> list[ClientEvent]:
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _parse(self, digest_schema: int | None) -> Generator[None, None, None]:
        yield from client_handshake(self._reader, self._out.append, self._random, digest_schema)
        self._out.append(m.control(MessageType.SET_CHUNK_SIZE, m.OUT_CHUNK_SIZE.to_bytes(4, "big")))
        self._chunk_size = m.OUT_CHUNK_SIZE
        fourcc: list[Value] = [*VIDEO_FOURCC, *AUDIO_FOURCC]
        parameters: dict[str, Value] = {
            "app": self._app,
            "type": "nonprivate",
            "flashVer": "FMLE/3.0 (compatible; medianode)",
            "tcUrl": self._tc_url,
            "fpad": False,
            "capabilities": 239.0,
            "audioCodecs": 4071.0,
            "videoCodecs": 252.0,
            "videoFunction": 1.0,
            "objectEncoding": 0.0,
            "fourCcList": fourcc,
        }
        self._call("connect", parameters)
        yield from self._chunks.parse()

    def _send(self, stream_id: int, name: str, transaction: int, *arguments: Value) -> None:
        self._out.append(m.command(self._chunk_size, stream_id, name, transaction, *arguments))

    def _call(self, name: str, *arguments: Value) -> int:
        self._transaction += 1
        self._send(0, name, self._transaction, *arguments)
        return self._transaction

    # -- what the peer says

    def _message(self, message: Message) -> None:
        kind = message.type
        if kind == MessageType.VIDEO:
            self._events.append(Media(Kind.VIDEO, message.timestamp, message.payload, message.stream_id))
        elif kind == MessageType.AUDIO:
            self._events.append(Media(Kind.AUDIO, message.timestamp, message.payload, message.stream_id))
        elif kind in (MessageType.COMMAND, MessageType.COMMAND_AMF3):
            self._command(m.read_command(message, amf.MAX_DEPTH, amf.MAX_ITEMS))
        elif kind in (MessageType.DATA, MessageType.DATA_AMF3):
            self._events.append(m.read_data(message, amf.MAX_DEPTH, amf.MAX_ITEMS))
        elif kind == MessageType.ACKNOWLEDGEMENT:
            self._acknowledge(int.from_bytes(message.payload[:4], "big"))
        elif kind == MessageType.WINDOW_ACKNOWLEDGEMENT_SIZE:
            self._window = int.from_bytes(message.payload[:4], "big") or self._window
        elif kind == MessageType.SET_PEER_BANDWIDTH:
            self._out.append(m.control(MessageType.WINDOW_ACKNOWLEDGEMENT_SIZE, m.WINDOW_BYTES.to_bytes(4, "big")))
        elif kind == MessageType.USER_CONTROL and message.payload[:2] == b"\0\x06":
            self._out.append(m.user_control(ControlType.PING_RESPONSE, int.from_bytes(message.payload[2:6], "big")))

    def _acknowledge(self, count: int) -> None:
        advance = (count - self._taken) & 0xFFFFFFFF
        if advance < 1 << 31:  # else it went back
            self._taken += advance
            self._events.append(Acknowledged(self._taken))

    def _command(self, command: Command) -> None:
        if command.name == "_result" and command.transaction == 1:
            if self._asked_window:
                self._out.append(m.control(MessageType.WINDOW_ACKNOWLEDGEMENT_SIZE, self._asked_window.to_bytes(4, "big")))
            self._events.append(Connected(command.fields(0), _fourcc(command.fields(0)) | _fourcc(command.fields(1))))
        elif command.name == "_result" and self._create and command.transaction == self._create:
            self._created(int(command.number(1, 0.0)) & 0xFFFFFFFF)
        elif command.name == "_error":
            self._error(command)
        elif command.name == "onStatus":
            self._status(command)

    def _error(self, command: Command) -> None:
        code, description = _code_and_description(command)
        if command.transaction == 1:
            query = None
            if self._user and not self._answered:
                query = auth.answer_rejection(description, self._user, self._password, self._random(4).hex())
            self._events.append(ChallengeReceived(query) if query else Rejected(code, description))
        elif self._create and command.transaction == self._create:
            self._events.append(Rejected(code, description))
        # Else releaseStream or FCPublish, which many servers do not know.

    def _status(self, command: Command) -> None:
        level, (code, description) = command.fields(1).get("level"), _code_and_description(command)
        if code == "NetStream.Publish.Start":
            self._events.append(Publishing(self._stream_id))
        elif code == "NetStream.Play.Start":
            self._events.append(Playing(self._stream_id))
        elif level == "error":
            self._events.append(Rejected(code, description))
        else:
            self._events.append(Status(level if isinstance(level, str) else "", code, description))

    def _created(self, stream_id: int) -> None:
        self._create = 0
        self._stream_id = stream_id
        what, name = self._wanted
        if what == "publish":
            self._send(stream_id, "publish", self._next_transaction(), None, name, "live")
        else:
            self._send(stream_id, "play", 0, None, name, -2.0)
            self._out.append(m.user_control(ControlType.SET_BUFFER_LENGTH, stream_id, 1000))

    def _next_transaction(self) -> int:
        self._transaction += 1
        return self._transaction

    # -- what we say

    def publish(self, name: str) -> None:
        """After Connected; Publishing or Rejected follows. `name` may carry a query."""
        self._wanted = ("publish", name)
        self._call("releaseStream", None, name)
        self._call("FCPublish", None, name)
        self._create = self._call("createStream", None)

    def play(self, name: str) -> None:
        """After Connected; Playing or Rejected follows."""
        self._wanted = ("play", name)
        self._create = self._call("createStream", None)

    def send_media(self, kind: Kind, timestamp_ms: int, payload: bytes) -> None:
        """After Publishing. `payload`: an FLV tag body."""
        self._out.append(m.chunk_media(kind, timestamp_ms, payload, self._stream_id))

    def send_metadata(self, metadata: dict[str, Value]) -> None:
        """onMetaData behind @setDataFrame."""
        payload = amf.encode_amf0("@setDataFrame", "onMetaData", amf.EcmaArray(metadata))
        self._out.append(m.chunk_data(0, payload, self._stream_id))

    def close(self) -> None:
        """FCUnpublish and deleteStream, to be sent before the socket is closed."""
        if self._stream_id:
            if self._wanted[0] == "publish":
                self._call("FCUnpublish", None, self._wanted[1])
            self._call("deleteStream", None, float(self._stream_id))
            self._stream_id = 0


def _fourcc(fields: dict[str, Value]) -> frozenset[str]:
    """E-RTMP v2 puts the lists among the properties; some servers among the information."""
    found: set[str] = set()
    for key in ("fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap"):
        listed = fields.get(key)
        if isinstance(listed, list | dict):
            found.update(code for code in listed if isinstance(code, str))
    return frozenset(found)


def _code_and_description(command: Command) -> tuple[str, str]:
    fields = command.fields(1)
    code, description = fields.get("code"), fields.get("description")
    return (code if isinstance(code, str) else ""), (description if isinstance(description, str) else "")
