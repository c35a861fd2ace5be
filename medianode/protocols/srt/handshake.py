"""The handshake packet and its extensions (3.2.1), and why a connection is refused."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from enum import IntEnum

from medianode.errors import ProtocolError
from medianode.protocols.srt.packet import HEADER_SIZE, ControlType, ExtensionType, control

_BODY = struct.Struct(">IHHIIIIII16s")
BODY_SIZE = 48
MAGIC = 0x4A17
"""In the extension field of an induction's answer: SRT, not UDT (4.3.1.1)."""
VERSION = 5
SRT_VERSION = 0x010501
OLDEST_SRT = 0x010300
MAX_STREAM_ID = 512
MAX_EXTENSION_BYTES = 2048
DATAGRAM = 2

TSBPD_SENDER, TSBPD_RECEIVER, CRYPT, TOO_LATE_DROP, PERIODIC_NAK, REXMIT, STREAM_MODE, PACKET_FILTER = (1 << n for n in range(8))
OUR_FLAGS = TSBPD_SENDER | TSBPD_RECEIVER | CRYPT | TOO_LATE_DROP | PERIODIC_NAK | REXMIT
HAS_HSREQ, HAS_KMREQ, HAS_CONFIG = 1, 2, 4


class Kind(IntEnum):
    """Handshake Type (table 4)."""

    WAVEAHAND = 0
    INDUCTION = 1
    CONCLUSION = 0xFFFFFFFF
    AGREEMENT = 0xFFFFFFFE
    DONE = 0xFFFFFFFD


REJECTIONS = 1000
"""A Handshake Type of this and more, up to the named ones, is a refusal: the reason is what it is over it (table 7)."""


class Reject(IntEnum):
    """Reasons of the protocol (table 7) and, from 1000 on, of the application: HTTP's codes and 1000 (access control document)."""

    UNKNOWN = 0
    SYSTEM = 1
    PEER = 2
    RESOURCE = 3
    ROGUE = 4
    BACKLOG = 5
    INTERNAL = 6
    CLOSE = 7
    VERSION = 8
    RENDEZVOUS_COOKIE = 9
    BAD_SECRET = 10
    UNSECURE = 11
    MESSAGE_API = 12
    CONGESTION = 13
    FILTER = 14
    GROUP = 15
    TIMEOUT = 16
    CRYPTO = 17
    KEY_NOT_SUPPORTED = 1001
    BAD_REQUEST = 1400
    UNAUTHORIZED = 1401
    OVERLOAD = 1402
    FORBIDDEN = 1403
    NOT_FOUND = 1404
    BAD_MODE = 1405
    UNACCEPTABLE = 1406
    CONFLICT = 1409
    NOT_SUPPORTED_MEDIA = 1415
    LOCKED = 1423
    SERVER_ERROR = 1500
    UNIMPLEMENTED = 1501
    GATEWAY = 1502
    DOWN = 1503
    NO_ROOM = 1507


_SAID = {
    Reject.BAD_SECRET: "the passphrase is wrong",
    Reject.UNSECURE: "encryption is needed on both sides or neither",
    Reject.VERSION: "the SRT version is not supported",
    Reject.UNAUTHORIZED: "the stream id was not let in",
    Reject.FORBIDDEN: "access is forbidden",
    Reject.NOT_FOUND: "there is no such stream",
    Reject.CONFLICT: "the stream is in use",
    Reject.OVERLOAD: "the server is overloaded",
    Reject.BAD_MODE: "this mode is not offered",
    Reject.MESSAGE_API: "expected live mode, not file mode",
    Reject.CONGESTION: "expected live congestion control",
    Reject.FILTER: "a packet filter (FEC) is not offered",
    Reject.GROUP: "bonding is not offered",
    Reject.ROGUE: "the handshake cannot be read",
}


def said(reason: int) -> str:
    """A refusal in words."""
    try:
        known = Reject(reason)
    except ValueError:
        return f"refused (SRT reason {reason})"
    return f"{_SAID.get(known, 'refused')} (SRT {known.name.lower().replace('_', '-')}, {reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """`extensions`: by type, as they came; the last of a type counts."""

    version: int
    encryption: int = 0
    extension: int = 0
    sequence: int = 0
    mtu: int = 1500
    flow_window: int = 8192
    kind: int = Kind.INDUCTION
    socket_id: int = 0
    cookie: int = 0
    peer_address: bytes = bytes(16)
    extensions: dict[int, bytes] = field(default_factory=dict, repr=False)

    @property
    def rejection(self) -> int | None:
        """The reason, where this is a refusal."""
        return self.kind - REJECTIONS if REJECTIONS <= self.kind < Kind.DONE else None

    def packed(self, to: int, timestamp: int) -> bytes:
        """A whole datagram for the socket `to`."""
        body = _BODY.pack(
            self.version,
            self.encryption,
            self.extension,
            self.sequence,
            self.mtu,
            self.flow_window,
            self.kind,
            self.socket_id,
            self.cookie,
            self.peer_address,
        )
        for kind, content in self.extensions.items():
            padded = content + bytes(-len(content) % 4)
            body += struct.pack(">HH", kind, len(padded) // 4) + padded
        return control(ControlType.HANDSHAKE, to, timestamp, body=body)

    def refused(self, reason: int) -> Handshake:
        """The answer that refuses this one."""
        return replace(self, version=VERSION, encryption=0, extension=0, kind=REJECTIONS + reason, cookie=0, extensions={})


def parse_handshake(datagram: bytes) -> Handshake:
    """Of a whole control packet. Raises ProtocolError."""
    body = datagram[HEADER_SIZE:]
    if len(body) < BODY_SIZE:
        raise ProtocolError(f"handshake: expected at least {BODY_SIZE} bytes, got {len(body)}")
    version, encryption, extension, sequence, mtu, window, kind, socket_id, cookie, address = _BODY.unpack_from(body)
    extensions: dict[int, bytes] = {}
    # induction's extension field means something else, and nothing follows it
    if version >= VERSION and kind == Kind.CONCLUSION:
        extensions = _extensions(body[BODY_SIZE:])
    return Handshake(
        version=version,
        encryption=encryption,
        extension=extension,
        sequence=sequence & 0x7FFFFFFF,
        mtu=mtu,
        flow_window=window,
        kind=kind,
        socket_id=socket_id,
        cookie=cookie,
        peer_address=address,
        extensions=extensions,
    )


def _extensions(data: bytes) -> dict[int, bytes]:
    if len(data) > MAX_EXTENSION_BYTES:
        raise ProtocolError(f"handshake: expected at most {MAX_EXTENSION_BYTES} bytes of extensions, got {len(data)}")
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        kind, words = struct.unpack_from(">HH", data, at)
        end = at + 4 + words * 4
        if end > len(data):
            raise ProtocolError(f"handshake: expected an extension of {words * 4} bytes, got {len(data) - at - 4}")
        found[kind] = data[at + 4 : end]
        at = end
    return found


@dataclass(frozen=True, slots=True)
class Terms:
    """HSREQ and HSRSP (3.2.1.1.1). Latencies in ms: of whom it comes from as a receiver, and what it asks of its peer as one."""

    version: int
    flags: int
    receiver_latency: int
    sender_latency: int

    def packed(self) -> bytes:
        return struct.pack(">IIHH", self.version, self.flags, self.receiver_latency, self.sender_latency)


def parse_terms(content: bytes | None) -> Terms:
    """Raises ProtocolError."""
    if content is None or len(content) < 12:
        raise ProtocolError(f"handshake: expected 12 bytes of HSREQ or HSRSP, got {len(content or b'')}")
    return Terms(*struct.unpack_from(">IIHH", content))


def pack_text(text: str) -> bytes:
    """As SID and CONGESTION are sent (3.2.1.1.3): each group of four bytes turned round."""
    data = text.encode()
    data += bytes(-len(data) % 4)
    return b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))


def unpack_text(content: bytes) -> str:
    """Raises ProtocolError on what is no UTF-8, or too long."""
    data = b"".join(content[at : at + 4][::-1] for at in range(0, len(content), 4)).rstrip(b"\0")
    if len(data) > MAX_STREAM_ID:
        raise ProtocolError(f"stream id: expected at most {MAX_STREAM_ID} bytes, got {len(data)}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProtocolError("stream id: expected UTF-8") from None


def text_of(handshake: Handshake, kind: ExtensionType) -> str:
    """Empty where there is none. Raises ProtocolError."""
    content = handshake.extensions.get(kind)
    return unpack_text(content) if content else ""
