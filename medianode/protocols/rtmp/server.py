"""The server's side of an RTMP connection: bytes in, events and bytes out.

The door feeds `receive_data`, takes `events()`, decides, calls `accept_…` or `reject_…`, and writes `data_to_send()`. Nothing waits
in here: a publisher that does not wait for its answer either is borne for `max_pending_bytes` of media, events stay in order, and the
door that has refused it ignores them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Enum
from typing import Any

from medianode.errors import LimitExceeded, PeerError, ProtocolError
from medianode.media.track import Kind
from medianode.protocols import amf
from medianode.protocols.amf import Value, encode_amf0
from medianode.protocols.reader import StreamReader
from medianode.protocols.rtmp import messages as m
from medianode.protocols.rtmp.chunk import DEFAULT_CHUNK_SIZE, ChunkReader, Message
from medianode.protocols.rtmp.handshake import Random, server_handshake
from medianode.protocols.rtmp.messages import Command, ControlType, MessageType, ServerEvent

_AUDIO, _VIDEO = int(MessageType.AUDIO), int(MessageType.VIDEO)
_CAN_DECODE_AND_FORWARD = 1 | 4  # FourCcInfoMask of E-RTMP v2
_CAPS_EX = m.Capability.MULTITRACK | m.Capability.MODEX | m.Capability.TIMESTAMP_NANO_OFFSET
VIDEO_FOURCC = ("avc1", "hvc1", "av01", "vp08", "vp09")
AUDIO_FOURCC = ("mp4a", "Opus", "fLaC", "ac-3", "ec-3", ".mp3")


class _State(Enum):
    IDLE = "idle"
    ASKED_PUBLISH = "waiting for the answer to publish"
    PUBLISHING = "publishing"
    ASKED_PLAY = "waiting for the answer to play"
    PLAYING = "playing"
    ENDED = "ended"  # stray media after the end is ignored


class _NetStream:
    __slots__ = ("name", "pending_bytes", "state")

    def __init__(self) -> None:
        self.state = _State.IDLE
        self.name = ""
        self.pending_bytes = 0


class ServerConnection:
    """One connection, from C0 to its end. After a PeerError from `receive_data` it is dead and ignores what is fed; events from before the
    error are still there to be taken. Until a publish is accepted messages are bounded by `max_early_bytes`: strangers hold little.
    Calling accept or reject for something not asked raises RuntimeError: the door's mistake.
    """

    def __init__(
        self,
        *,
        random: Random,
        max_message_bytes: int = 10 << 20,
        max_partial_bytes: int = 16 << 20,
        max_early_bytes: int = 1 << 20,
        max_chunk_streams: int = 64,
        max_streams: int = 8,
        max_pending_bytes: int = 4 << 20,
        max_aggregate_messages: int = 4096,
        max_amf_depth: int = amf.MAX_DEPTH,
        max_amf_items: int = amf.MAX_ITEMS,
    ) -> None:
        self._reader = StreamReader(4096)
        self._chunks = ChunkReader(
            self._reader,
            max_message_bytes=min(max_message_bytes, max_early_bytes),
            max_partial_bytes=min(max_partial_bytes, max_early_bytes),
            max_chunk_streams=max_chunk_streams,
        )
        self._wide = (max_message_bytes, max_partial_bytes)
        self._max_streams = max_streams
        self._max_pending = max_pending_bytes
        self._max_aggregate = max_aggregate_messages
        self._max_depth = max_amf_depth
        self._max_items = max_amf_items
        self._events: list[ServerEvent] = []
        self._out: list[bytes] = []
        self._parser = self._parse(random)
        self._dead = False
        self._handshaken = False
        self._connecting: float | None = None  # transaction of an unanswered connect
        self._connected = False
        self._enhanced = False
        self._object_encoding = 0.0
        self._chunk_size = DEFAULT_CHUNK_SIZE
        self._streams: dict[int, _NetStream] = {}
        self._next_stream = 1
        self._received = 0
        self._acknowledged = 0
        self._window = m.WINDOW_BYTES

    # -- bytes in, events and bytes out

    @property
    def bytes_received(self) -> int:
        return self._received

    @property
    def handshaken(self) -> bool:
        return self._handshaken

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
            self._dispatch()
        except PeerError as caught:
            error = caught
        if error is not None:
            self._dead = True
            raise error
        if self._connected and self._received - self._acknowledged >= self._window:
            self._acknowledged = self._received
            self._out.append(m.control(MessageType.ACKNOWLEDGEMENT, (self._received & 0xFFFFFFFF).to_bytes(4, "big")))

    def receive_eof(self) -> None:
        """The peer has closed: what it published or played ends, PeerClosed is the last event."""
        if self._dead:
            return
        self._dead = True
        for stream_id in list(self._streams):
            self._end(stream_id, "eof")
        clean = self._handshaken and not len(self._reader) and not self._chunks.held
        self._events.append(m.PeerClosed(clean))

    def events(self) -> list[ServerEvent]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def _parse(self, random: Random) -> Generator[None, None, None]:
        yield from server_handshake(self._reader, self._out.append, random)
        self._handshaken = True
        yield from self._chunks.parse()

    def _dispatch(self) -> None:
        messages = self._chunks.messages
        if not messages:
            return
        try:
            for message in messages:
                if message.type == _VIDEO or message.type == _AUDIO:
                    self._media(message)
                else:
                    self._message(message)
        finally:
            messages.clear()

    # -- messages

    def _media(self, message: Message) -> None:
        stream = self._streams.get(message.stream_id)
        if stream is None or stream.state is not _State.PUBLISHING:
            if stream is not None and stream.state is _State.ENDED:
                return
            if stream is None or stream.state is not _State.ASKED_PUBLISH:
                state = "not there" if stream is None else stream.state.value
                raise ProtocolError(f"expected media on a published stream, got it on stream {message.stream_id}, which is {state}")
            stream.pending_bytes += len(message.payload)
            if stream.pending_bytes > self._max_pending:
                raise LimitExceeded(f"expected at most {self._max_pending} bytes of media before the answer to publish, got more")
        kind = Kind.VIDEO if message.type == _VIDEO else Kind.AUDIO
        self._events.append(m.Media(kind, message.timestamp, message.payload, message.stream_id))

    def _message(self, message: Message) -> None:
        kind = message.type
        if kind in (MessageType.COMMAND, MessageType.COMMAND_AMF3):
            self._command(message.stream_id, m.read_command(message, self._max_depth, self._max_items))
        elif kind in (MessageType.DATA, MessageType.DATA_AMF3):
            self._data(message)
        elif kind == MessageType.AGGREGATE:
            for part in m.split_aggregate(message, self._max_aggregate):
                if part.type in (_VIDEO, _AUDIO):
                    self._media(part)
                elif part.type == MessageType.DATA:
                    self._data(part)
        elif kind == MessageType.WINDOW_ACKNOWLEDGEMENT_SIZE:
            self._window = int.from_bytes(message.payload[:4], "big") or self._window
        elif kind == MessageType.USER_CONTROL:
            self._user_control(message.payload)
        # Acknowledgement, Set Peer Bandwidth, shared objects and types nobody knows: nothing to do.

    def _data(self, message: Message) -> None:
        stream = self._streams.get(message.stream_id)
        if stream is not None and stream.state in (_State.PUBLISHING, _State.ASKED_PUBLISH):
            self._events.append(m.read_data(message, self._max_depth, self._max_items))

    def _user_control(self, payload: bytes) -> None:
        kind, value = int.from_bytes(payload[:2], "big"), payload[2:6]
        if len(value) < 4:
            return
        if kind == ControlType.PING_REQUEST:
            self._out.append(m.user_control(ControlType.PING_RESPONSE, int.from_bytes(value, "big")))
        elif kind == ControlType.PING_RESPONSE:
            self._events.append(m.Pong(int.from_bytes(value, "big")))

    # -- commands

    def _command(self, stream_id: int, command: Command) -> None:
        if command.name == "connect":
            self._connect(command)
            return
        if self._connecting is None and not self._connected:
            raise ProtocolError(f"expected connect as the first command, got {command.name[:64]!r}")
        handler = self._COMMANDS.get(command.name)
        if handler is not None:
            handler(self, stream_id, command)
        elif command.transaction and command.name not in ("_result", "_error"):
            information = m.status("error", "NetConnection.Call.Failed", f"no such method: {command.name[:64]}")
            self._send(stream_id, "_error", command.transaction, None, information)

    def _send(self, stream_id: int, name: str, transaction: float, *arguments: Value) -> None:
        self._out.append(m.command(self._chunk_size, stream_id, name, transaction, *arguments))

    def _connect(self, command: Command) -> None:
        if self._connecting is not None or self._connected:
            raise ProtocolError("expected one connect, got a second")
        params = command.fields(0)
        fourcc: set[str] = set()
        for key in ("fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap"):
            listed = params.get(key)
            if isinstance(listed, list | dict):
                fourcc.update(code for code in listed if isinstance(code, str))
        app, tc_url, caps = params.get("app"), params.get("tcUrl"), params.get("capsEx")
        path, query = m.split_name(app if isinstance(app, str) else "")
        url = tc_url if isinstance(tc_url, str) else ""
        self._object_encoding = 3.0 if params.get("objectEncoding") == 3 else 0.0
        self._enhanced = bool(fourcc) or "capsEx" in params
        self._connecting = command.transaction
        caps_ex = int(caps) if isinstance(caps, int | float) and 0 <= caps < 1 << 31 else 0
        self._events.append(m.Connect(path.strip("/"), url, query or m.split_name(url)[1], params, frozenset(fourcc), caps_ex))

    def _create_stream(self, _: int, command: Command) -> None:
        if len(self._streams) >= self._max_streams:
            raise LimitExceeded(f"expected at most {self._max_streams} streams, got another createStream")
        stream_id = self._next_stream
        self._next_stream += 1
        self._streams[stream_id] = _NetStream()
        self._send(0, "_result", command.transaction, None, float(stream_id))

    def _idle_stream(self, stream_id: int, command: Command) -> _NetStream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise ProtocolError(f"expected {command.name} on a created stream, got it on stream {stream_id}")
        if stream.state not in (_State.IDLE, _State.ENDED):
            raise ProtocolError(f"expected {command.name} on an idle stream, got it on stream {stream_id}, which is {stream.state.value}")
        return stream

    def _publish(self, stream_id: int, command: Command) -> None:
        stream = self._idle_stream(stream_id, command)
        name, query = m.split_name(command.text(1))
        stream.state, stream.name, stream.pending_bytes = _State.ASKED_PUBLISH, command.text(1), 0
        self._events.append(m.Publish(stream_id, name, query, command.text(2) or "live"))

    def _play(self, stream_id: int, command: Command) -> None:
        stream = self._idle_stream(stream_id, command)
        name, query = m.split_name(command.text(1))
        stream.state, stream.name = _State.ASKED_PLAY, command.text(1)
        self._events.append(m.Play(stream_id, name, query, command.number(2, -2.0), command.number(3, -1.0)))

    def _delete_stream(self, _: int, command: Command) -> None:
        stream_id = int(command.number(1, 0.0))
        if stream_id in self._streams:
            self._end(stream_id, "deleteStream")
            del self._streams[stream_id]
            self._events.append(m.StreamDeleted(stream_id))

    def _close_stream(self, stream_id: int, _: Command) -> None:
        self._end(stream_id, "closeStream")

    def _fc_unpublish(self, _: int, command: Command) -> None:
        self._send(0, "onFCUnpublish", 0.0, None, m.status("status", "NetStream.Unpublish.Success", command.text(1)))
        publishing = [i for i, s in self._streams.items() if s.state in (_State.PUBLISHING, _State.ASKED_PUBLISH)]
        named = [i for i in publishing if self._streams[i].name == command.text(1)]
        # OBS and others name the stream without its query, so a single one is meant whatever its name.
        for stream_id in named or publishing[: len(publishing) == 1]:
            self._end(stream_id, "FCUnpublish")

    def _end(self, stream_id: int, why: str) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if stream.state in (_State.PUBLISHING, _State.ASKED_PUBLISH):
            self._events.append(m.Unpublish(stream_id, why))
        elif stream.state in (_State.PLAYING, _State.ASKED_PLAY):
            self._events.append(m.StopPlay(stream_id, why))
        if stream.state is not _State.IDLE:
            stream.state = _State.ENDED

    def _release_stream(self, _: int, command: Command) -> None:
        if command.transaction:
            self._send(0, "_result", command.transaction, None, amf.UNDEFINED)

    def _fc_publish(self, _: int, command: Command) -> None:
        self._release_stream(0, command)
        self._send(0, "onFCPublish", 0.0, None, m.status("status", "NetStream.Publish.Start", command.text(1)))

    def _stream_length(self, stream_id: int, command: Command) -> None:
        if command.transaction:
            self._send(stream_id, "_result", command.transaction, None, 0.0)

    def _pause(self, stream_id: int, command: Command) -> None:
        if self._is_playing(stream_id):
            self._events.append(m.Pause(stream_id, command.arguments[1:2] == (True,), command.number(2, 0.0)))

    def _seek(self, stream_id: int, command: Command) -> None:
        if self._is_playing(stream_id):
            self._events.append(m.Seek(stream_id, command.number(1, 0.0)))

    def _is_playing(self, stream_id: int) -> bool:
        stream = self._streams.get(stream_id)
        return stream is not None and stream.state is _State.PLAYING

    _COMMANDS: dict[str, Callable[[Any, int, Command], None]] = {  # noqa: RUF012  # a table, never written
        "createStream": _create_stream,
        "publish": _publish,
        "play": _play,
        "deleteStream": _delete_stream,
        "closeStream": _close_stream,
        "releaseStream": _release_stream,
        "FCPublish": _fc_publish,
        "FCUnpublish": _fc_unpublish,
        "FCSubscribe": _release_stream,
        "getStreamLength": _stream_length,
        "_checkbw": _release_stream,
        "pause": _pause,
        "pauseRaw": _pause,
        "seek": _seek,
    }

    # -- the door's decisions

    def accept_connect(self) -> None:
        """Window, bandwidth, chunk size, then NetConnection.Connect.Success."""
        transaction = self._take_connect()
        self._connected = True
        window = m.WINDOW_BYTES.to_bytes(4, "big")
        self._out += (
            m.control(MessageType.WINDOW_ACKNOWLEDGEMENT_SIZE, window),
            m.control(MessageType.SET_PEER_BANDWIDTH, window + b"\x02"),
            m.control(MessageType.SET_CHUNK_SIZE, m.OUT_CHUNK_SIZE.to_bytes(4, "big")),
            m.user_control(ControlType.STREAM_BEGIN, 0),
        )
        self._chunk_size = m.OUT_CHUNK_SIZE
        properties: dict[str, Value] = {"fmsVer": "FMS/3,5,7,7009", "capabilities": 31.0, "mode": 1.0}
        if self._enhanced:
            properties |= {
                "fourCcList": [*VIDEO_FOURCC, *AUDIO_FOURCC],
                "videoFourCcInfoMap": dict.fromkeys(VIDEO_FOURCC, _CAN_DECODE_AND_FORWARD),
                "audioFourCcInfoMap": dict.fromkeys(AUDIO_FOURCC, _CAN_DECODE_AND_FORWARD),
                "capsEx": int(_CAPS_EX),
            }
        information = m.status("status", "NetConnection.Connect.Success", "Connection succeeded.", objectEncoding=self._object_encoding)
        self._send(0, "_result", transaction, properties, information)

    def reject_connect(self, code: str = "NetConnection.Connect.Rejected", description: str = "Connection rejected.") -> None:
        """The door closes afterwards, once this is sent."""
        self._send(0, "_error", self._take_connect(), None, m.status("error", code, description))

    def _take_connect(self) -> float:
        if self._connecting is None:
            raise RuntimeError("no connect waits for an answer")
        transaction, self._connecting = self._connecting, None
        return transaction

    def _take(self, stream_id: int, asked: _State, answer: _State) -> bool:
        """False if the peer gave up meanwhile."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is _State.ENDED:
            return False
        if stream.state is not asked:
            raise RuntimeError(f"stream {stream_id} is {stream.state.value}, not {asked.value}")
        stream.state = answer
        return True

    def accept_publish(self, stream_id: int) -> None:
        if self._take(stream_id, _State.ASKED_PUBLISH, _State.PUBLISHING):
            self._chunks.widen(*self._wide)
            self._out.append(m.user_control(ControlType.STREAM_BEGIN, stream_id))
            self.send_status(stream_id, "status", "NetStream.Publish.Start", "Publishing.")

    def reject_publish(self, stream_id: int, code: str = "NetStream.Publish.BadName", description: str = "Refused.") -> None:
        """`code`: NetStream.Publish.BadName, or NetStream.Publish.Unauthorized, at which OBS and vMix stop retrying."""
        if self._take(stream_id, _State.ASKED_PUBLISH, _State.ENDED):
            self.send_status(stream_id, "error", code, description)

    def accept_play(self, stream_id: int) -> None:
        if not self._take(stream_id, _State.ASKED_PLAY, _State.PLAYING):
            return
        # StreamIsRecorded is not sent: what we play is live.
        self._out.append(m.user_control(ControlType.STREAM_BEGIN, stream_id))
        self.send_status(stream_id, "status", "NetStream.Play.Reset", "Resetting.")
        self.send_status(stream_id, "status", "NetStream.Play.Start", "Playing.")
        self._out.append(m.chunk_data(0, encode_amf0("|RtmpSampleAccess", True, True), stream_id))

    def reject_play(self, stream_id: int, code: str = "NetStream.Play.StreamNotFound", description: str = "Not found.") -> None:
        if self._take(stream_id, _State.ASKED_PLAY, _State.ENDED):
            self.send_status(stream_id, "error", code, description)

    def end_play(self, stream_id: int, description: str = "The publisher left.") -> None:
        """The stream that is played has ended: StreamEOF, NetStream.Play.UnpublishNotify and Play.Stop."""
        if self._is_playing(stream_id):
            self._streams[stream_id].state = _State.ENDED
            self._out.append(m.user_control(ControlType.STREAM_EOF, stream_id))
            self.send_status(stream_id, "status", "NetStream.Play.UnpublishNotify", description)
            self.send_status(stream_id, "status", "NetStream.Play.Stop", description)

    def send_status(self, stream_id: int, level: str, code: str, description: str) -> None:
        """onStatus."""
        self._send(stream_id, "onStatus", 0.0, None, m.status(level, code, description))

    def send_media(self, stream_id: int, kind: Kind, timestamp_ms: int, payload: bytes) -> None:
        self._out.append(m.chunk_media(kind, timestamp_ms, payload, stream_id))

    def send_data(self, stream_id: int, timestamp_ms: int, *values: Value) -> None:
        """onMetaData and the like."""
        self._out.append(m.chunk_data(timestamp_ms, encode_amf0(*values), stream_id))

    def send_raw(self, data: bytes) -> None:
        """What chunk_media or chunk_data made; after accept_play only."""
        self._out.append(data)

    def send_ping_request(self, now_ms: int) -> None:
        """Answered by a Pong with the same number."""
        self._out.append(m.user_control(ControlType.PING_REQUEST, now_ms))
