"""RTMP messages (RTMP 1.0, sections 5.4, 6 and 7): their numbers, the events they become, and how ours are written."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote

from medianode.errors import LimitExceeded, PeerError, ProtocolError
from medianode.media.track import Kind
from medianode.protocols.amf import Value, decode_amf0, encode_amf0
from medianode.protocols.rtmp.chunk import Message, chunk_message

OUT_CHUNK_SIZE = 65_536
WINDOW_BYTES = 2_500_000


class MessageType(IntEnum):
    SET_CHUNK_SIZE = 1
    ABORT = 2
    ACKNOWLEDGEMENT = 3
    USER_CONTROL = 4
    WINDOW_ACKNOWLEDGEMENT_SIZE = 5
    SET_PEER_BANDWIDTH = 6
    AUDIO = 8
    VIDEO = 9
    DATA_AMF3 = 15
    SHARED_OBJECT_AMF3 = 16
    COMMAND_AMF3 = 17
    DATA = 18
    SHARED_OBJECT = 19
    COMMAND = 20
    AGGREGATE = 22


class ControlType(IntEnum):
    """User control events, 7.1.7."""

    STREAM_BEGIN = 0
    STREAM_EOF = 1
    STREAM_DRY = 2
    SET_BUFFER_LENGTH = 3
    STREAM_IS_RECORDED = 4
    PING_REQUEST = 6
    PING_RESPONSE = 7


class Capability(IntEnum):
    """Bits of capsEx (E-RTMP v2)."""

    RECONNECT = 1
    MULTITRACK = 2
    MODEX = 4
    TIMESTAMP_NANO_OFFSET = 8


class Connect(NamedTuple):
    """Answer with accept_connect or reject_connect. `app` has neither query nor outer slashes; `query` is the app's, else tcUrl's. `params`
    is the whole command object. `fourcc`: the codes in any of its lists, `*` for all; `caps_ex`: its Capability bits."""

    app: str
    tc_url: str
    query: dict[str, str]
    params: dict[str, Value]
    fourcc: frozenset[str]
    caps_ex: int


class Publish(NamedTuple):
    """Answer with accept_publish or reject_publish. `type`: live, record, append."""

    stream_id: int
    name: str
    query: dict[str, str]
    type: str


class Play(NamedTuple):
    """Answer with accept_play or reject_play. `start`, `duration`: seconds, negative for live (7.2.2.1)."""

    stream_id: int
    name: str
    query: dict[str, str]
    start: float
    duration: float


class Media(NamedTuple):
    """An FLV tag body, see protocols.flv. `timestamp`: milliseconds modulo 2**32."""

    kind: Kind
    timestamp: int
    payload: bytes
    stream_id: int


class Data(NamedTuple):
    """onMetaData and the like, without @setDataFrame. `payload` is AMF0 as it came; `values` follow the name, empty if not decodable."""

    stream_id: int
    timestamp: int
    name: str
    values: tuple[Value, ...]
    payload: bytes


class Unpublish(NamedTuple):
    """`why`: the command that ended it, or `eof`."""

    stream_id: int
    why: str


class StopPlay(NamedTuple):
    stream_id: int
    why: str


class Pause(NamedTuple):
    stream_id: int
    paused: bool
    milliseconds: float


class Seek(NamedTuple):
    stream_id: int
    milliseconds: float


class StreamDeleted(NamedTuple):
    stream_id: int


class Pong(NamedTuple):
    """The answer to send_ping_request: `timestamp` as it was sent, modulo 2**32."""

    timestamp: int


class PeerClosed(NamedTuple):
    """End of the peer's bytes. `clean`: nothing was cut off."""

    clean: bool


ServerEvent: TypeAlias = Connect | Publish | Play | Media | Data | Unpublish | StopPlay | Pause | Seek | StreamDeleted | Pong | PeerClosed


class Command(NamedTuple):
    name: str
    transaction: float
    arguments: tuple[Value, ...]  # the command object first

    def text(self, index: int) -> str:
        value = self.arguments[index] if index < len(self.arguments) else None
        return value if isinstance(value, str) else ""

    def number(self, index: int, default: float) -> float:
        value = self.arguments[index] if index < len(self.arguments) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value in (float("inf"), float("-inf")):
            return default
        return float(value)

    def fields(self, index: int) -> dict[str, Value]:
        value = self.arguments[index] if index < len(self.arguments) else None
        return value if isinstance(value, dict) else {}


def read_command(message: Message, max_depth: int, max_items: int) -> Command:
    """A message of type 20 or 17. Raises ProtocolError, LimitExceeded."""
    payload = message.payload
    # A byte 0 precedes the values of an AMF3 message; some encoders leave it out.
    start = 1 if message.type == MessageType.COMMAND_AMF3 and payload[:1] == b"\0" else 0
    values = decode_amf0(payload, start, max_depth=max_depth, max_items=max_items)
    if not values or not isinstance(values[0], str):
        raise ProtocolError(f"expected a command's name, got {type(values[0]).__name__ if values else 'an empty message'}")
    transaction = values[1] if len(values) > 1 else 0.0
    if isinstance(transaction, bool) or not isinstance(transaction, int | float):
        raise ProtocolError(f"expected the transaction number of {values[0][:64]!r}, got {type(transaction).__name__}")
    return Command(values[0], float(transaction), tuple(values[2:]))


_SET_DATA_FRAME = encode_amf0("@setDataFrame")


def read_data(message: Message, max_depth: int, max_items: int) -> Data:
    """A message of type 18 or 15. Never fatal: FFmpeg's timecode and some cameras' metadata are not whole AMF (srs#3804)."""
    payload = message.payload
    if message.type == MessageType.DATA_AMF3 and payload[:1] == b"\0":
        payload = payload[1:]
    if payload.startswith(_SET_DATA_FRAME):
        payload = payload[len(_SET_DATA_FRAME) :]
    try:
        values = decode_amf0(payload, max_depth=max_depth, max_items=max_items)
    except PeerError:
        values = []
    name = values[0] if values and isinstance(values[0], str) else ""
    return Data(message.stream_id, message.timestamp, name, tuple(values[1:]) if name else (), payload)


def split_aggregate(message: Message, max_messages: int) -> list[Message]:
    """The messages in an aggregate (7.1.6), their timestamps rebased so that the first has the aggregate's.

    Raises ProtocolError if it is cut short, LimitExceeded over `max_messages`.
    """
    payload = message.payload
    parts: list[Message] = []
    position = 0
    offset = 0
    while position < len(payload):
        body = position + 11
        size = int.from_bytes(payload[position + 1 : position + 4], "big")
        if body + size > len(payload):
            raise ProtocolError(f"expected {11 + size} bytes of an aggregate's message, got {len(payload) - position}")
        if len(parts) >= max_messages:
            raise LimitExceeded(f"expected at most {max_messages} messages in an aggregate, got more")
        timestamp = payload[position + 7] << 24 | int.from_bytes(payload[position + 4 : position + 7], "big")
        if not parts:
            offset = message.timestamp - timestamp
        parts.append(Message(payload[position], message.stream_id, (timestamp + offset) & 0xFFFFFFFF, payload[body : body + size]))
        position = body + size + 4  # the back pointer, which the last may lack
    return parts


def parse_query(text: str) -> dict[str, str]:
    """`a=1&b=2`, percent-decoded; `+` stays, as base64 in Adobe's authmod is sent raw. The first of two equal names wins."""
    query: dict[str, str] = {}
    for item in text.split("&"):
        name, _, value = item.partition("=")
        if name:
            query.setdefault(unquote(name), unquote(value))
    return query


def split_name(text: str) -> tuple[str, dict[str, str]]:
    """`name?query` → (name, query)."""
    name, _, query = text.partition("?")
    return name, parse_query(query)


def control(type_: MessageType, payload: bytes) -> bytes:
    """A protocol or user control message: chunk stream 2, message stream 0."""
    return chunk_message(2, type_, 0, 0, payload, OUT_CHUNK_SIZE)


def user_control(type_: ControlType, *values: int) -> bytes:
    return control(MessageType.USER_CONTROL, type_.to_bytes(2, "big") + b"".join((v & 0xFFFFFFFF).to_bytes(4, "big") for v in values))


def command(chunk_size: int, stream_id: int, name: str, transaction: float, *arguments: Value) -> bytes:
    csid = 5 if stream_id else 3
    return chunk_message(csid, MessageType.COMMAND, stream_id, 0, encode_amf0(name, transaction, *arguments), chunk_size)


def chunk_media(kind: Kind, timestamp: int, payload: bytes, stream_id: int = 1) -> bytes:
    """One media message for any number of players: all our connections write chunks of OUT_CHUNK_SIZE once accepted."""
    if kind is Kind.VIDEO:
        return chunk_message(6, MessageType.VIDEO, stream_id, timestamp, payload, OUT_CHUNK_SIZE)
    return chunk_message(4, MessageType.AUDIO, stream_id, timestamp, payload, OUT_CHUNK_SIZE)


def chunk_data(timestamp: int, payload: bytes, stream_id: int = 1) -> bytes:
    """One data message (onMetaData) for any number of players. `payload`: AMF0."""
    return chunk_message(7, MessageType.DATA, stream_id, timestamp, payload, OUT_CHUNK_SIZE)


def status(level: str, code: str, description: str, **more: Value) -> dict[str, Value]:
    """The information object of _result, _error and onStatus."""
    return {"level": level, "code": code, "description": description, **more}
