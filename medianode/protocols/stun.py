"""STUN (RFC 8489) as an ICE-lite agent needs it (RFC 8445 7.3): binding requests in, responses out.

In order of cost, so that a flood is cheap: `peek_username` (no HMAC; drop unknown fragments), `verify` (one HMAC-SHA1), `parse`,
`answer`. None of them raises for bytes from the net.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct
from zlib import crc32

COOKIE = b"\x21\x12\xa4\x42"
HEADER_BYTES = 20

BINDING_REQUEST = 0x0001
BINDING_INDICATION = 0x0011
BINDING_RESPONSE = 0x0101
BINDING_ERROR = 0x0111

MAX_BYTES = 2048
"""A request longer than this is none of ICE's."""
MAX_ATTRIBUTES = 64


class Attribute(IntEnum):
    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A


REASONS = {400: "Bad Request", 401: "Unauthenticated", 420: "Unknown Attribute", 487: "Role Conflict", 500: "Server Error"}

_USERNAME = int(Attribute.USERNAME)
_INTEGRITY = int(Attribute.MESSAGE_INTEGRITY)
_INTEGRITY_SHA256 = int(Attribute.MESSAGE_INTEGRITY_SHA256)
_FINGERPRINT = int(Attribute.FINGERPRINT)
_UNDERSTOOD = frozenset(int(a) for a in Attribute)
_HEADER = Struct("!HH4s12s")
_ATTRIBUTE = Struct("!HH")
_U16 = Struct("!H")
_U32 = Struct("!I")
_U64 = Struct("!Q")
_MAPPED_V4 = Struct("!HHBBH4s")
_MAPPED_V6 = Struct("!HHBBH16s")
_INTEGRITY_HEAD = b"\x00\x08\x00\x14"
_FINGERPRINT_HEAD = b"\x80\x28\x00\x04"
_FINGERPRINT_XOR = 0x5354554E
_PORT_XOR = 0x2112
_REQUEST_HEAD = b"\x00\x01"


@dataclass(slots=True)
class Message:
    """One STUN message. `username` whole (`local:remote` in a request to us); `controlling`/`controlled` are tie-breakers.

    `unknown` holds attributes below 0x8000 that we do not understand: a request with one is answered 420. `integrity`: there is a
    MESSAGE-INTEGRITY; whether it is right, `verify` says.
    """

    type: int
    transaction: bytes
    username: bytes = b""
    priority: int = 0
    use_candidate: bool = False
    controlling: int | None = None
    controlled: int | None = None
    integrity: bool = False
    error: int = 0
    mapped: tuple[str, int] | None = None
    unknown: tuple[int, ...] = ()

    @property
    def is_request(self) -> bool:
        return self.type == BINDING_REQUEST


def is_stun(data: bytes) -> bool:
    """RFC 7983 and the cookie: cheap enough for every datagram."""
    return len(data) >= HEADER_BYTES and data[0] < 4 and data[4:8] == COOKIE


def _framed(data: bytes) -> bool:
    size = len(data)
    return HEADER_BYTES <= size <= MAX_BYTES and not size & 3 and data[4:8] == COOKIE and (data[2] << 8 | data[3]) == size - HEADER_BYTES


def peek_username(data: bytes) -> bytes | None:
    """Of a binding request: our half of USERNAME, what stands before the colon. None for anything else. No HMAC is computed."""
    if data[:2] != _REQUEST_HEAD or not _framed(data):
        return None
    at, end = HEADER_BYTES, len(data)
    for _ in range(MAX_ATTRIBUTES):
        if at + 4 > end:
            return None
        kind, length = _ATTRIBUTE.unpack_from(data, at)
        if kind == _USERNAME:
            colon = data.find(b":", at + 4, at + 4 + length)
            return data[at + 4 : colon] if colon > 0 and at + 4 + length <= end else None
        if kind == _INTEGRITY:  # USERNAME must be covered by it
            return None
        at += 4 + (length + 3 & ~3)
    return None


def verify(data: bytes, key: bytes) -> bool:
    """Whether MESSAGE-INTEGRITY is there and made with `key` (the ICE password of the asked one); and FINGERPRINT right, where present."""
    if not _framed(data):
        return False
    at = -1
    size = len(data)
    # every browser ends with these two; what is signed ends where MESSAGE-INTEGRITY begins, so looking from the end cannot be tricked
    if size >= 52 and data[-8:-4] == _FINGERPRINT_HEAD and data[-32:-28] == _INTEGRITY_HEAD:
        at = size - 32
    else:
        at = _find_integrity(data)
        if at < 0:
            return False
    after = at + 24
    signed = data[:2] + _U16.pack(after - HEADER_BYTES) + data[4:at]
    if not hmac.compare_digest(hmac.digest(key, signed, "sha1"), data[at + 4 : after]):
        return False
    return after == size or _fingerprint_fits(data)


def _find_integrity(data: bytes) -> int:
    at, end = HEADER_BYTES, len(data)
    for _ in range(MAX_ATTRIBUTES):
        if at + 4 > end:
            return -1
        kind, length = _ATTRIBUTE.unpack_from(data, at)
        if kind == _INTEGRITY:
            return at if length == 20 and at + 24 <= end else -1
        at += 4 + (length + 3 & ~3)
    return -1


def _fingerprint_fits(data: bytes) -> bool:
    """True too where there is none: it must be the last attribute (RFC 8489 14.7)."""
    if data[-8:-4] != _FINGERPRINT_HEAD:
        return True
    found: int = _U32.unpack_from(data, len(data) - 4)[0]
    return crc32(memoryview(data)[:-8]) ^ _FINGERPRINT_XOR == found


def parse(data: bytes) -> Message | None:
    """None for what is no well-formed STUN message, or has a wrong FINGERPRINT. What follows MESSAGE-INTEGRITY is ignored (14.5)."""
    if data[:1] > b"\x03" or not _framed(data):
        return None
    message = Message(data[0] << 8 | data[1], data[8:20])
    unknown: list[int] = []
    at, end = HEADER_BYTES, len(data)
    count = 0
    while at < end:
        kind, length = _ATTRIBUTE.unpack_from(data, at)  # in bounds: both are multiples of four
        value_at = at + 4
        at = value_at + (length + 3 & ~3)
        count += 1
        if at > end or count > MAX_ATTRIBUTES:
            return None
        if kind == _FINGERPRINT:
            if length != 4 or at != end or not _fingerprint_fits(data):
                return None
        elif message.integrity:
            continue
        elif kind == _INTEGRITY:
            if length != 20:
                return None
            message.integrity = True
        elif kind == _USERNAME:
            message.username = data[value_at : value_at + length]
        elif kind not in _UNDERSTOOD:
            if kind < 0x8000:
                unknown.append(kind)
        elif not _take(message, kind, data[value_at : value_at + length]):
            return None
    if unknown:
        message.unknown = tuple(unknown)
    return message


def _take(message: Message, kind: int, value: bytes) -> bool:
    """The rarer attributes; False where the length cannot be."""
    length = len(value)
    if kind == Attribute.PRIORITY:
        if length != 4:
            return False
        message.priority = _U32.unpack(value)[0]
    elif kind == Attribute.USE_CANDIDATE:
        message.use_candidate = True
    elif kind == Attribute.ICE_CONTROLLING or kind == Attribute.ICE_CONTROLLED:
        if length != 8:
            return False
        tie_breaker = _U64.unpack(value)[0]
        if kind == Attribute.ICE_CONTROLLING:
            message.controlling = tie_breaker
        else:
            message.controlled = tie_breaker
    elif kind == Attribute.ERROR_CODE:
        if length < 4:
            return False
        message.error = (value[2] & 7) * 100 + value[3]
    elif kind == Attribute.XOR_MAPPED_ADDRESS:
        message.mapped = _unmap(value, message.transaction)
        return message.mapped is not None
    return True


def _xor(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    return (int.from_bytes(data, "big") ^ int.from_bytes(mask[:size], "big")).to_bytes(size, "big")


def _unmap(value: bytes, transaction: bytes) -> tuple[str, int] | None:
    if len(value) not in (8, 20) or value[1] != (1 if len(value) == 8 else 2):
        return None
    packed = _xor(value[4:], COOKIE + transaction)
    address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    return str(address), _U16.unpack_from(value, 2)[0] ^ _PORT_XOR


@lru_cache(maxsize=2048)
def _packed(host: str) -> bytes:
    """4 or 16 bytes; an IPv4 address as a dual-stack socket shows it (`::ffff:192.0.2.1`) is IPv4. A scope id is left out."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.packed


def _xor_mapped(host: str, port: int, transaction: bytes) -> bytes:
    packed = _packed(host)
    if len(packed) == 4:
        return _MAPPED_V4.pack(0x0020, 8, 0, 1, port ^ _PORT_XOR, _xor(packed, COOKIE))
    return _MAPPED_V6.pack(0x0020, 20, 0, 2, port ^ _PORT_XOR, _xor(packed, COOKIE + transaction))


def build(kind: int, transaction: bytes, attributes: bytes, key: bytes | None) -> bytes:
    """A whole message: `attributes` already padded; MESSAGE-INTEGRITY where there is a `key`, FINGERPRINT always."""
    size = len(attributes)
    if key is not None:
        signed = _HEADER.pack(kind, size + 24, COOKIE, transaction) + attributes
        attributes += _INTEGRITY_HEAD + hmac.digest(key, signed, "sha1")
        size += 24
    body = _HEADER.pack(kind, size + 8, COOKIE, transaction) + attributes
    return body + _FINGERPRINT_HEAD + _U32.pack(crc32(body) ^ _FINGERPRINT_XOR)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) & 3)


def binding_response(request: Message, address: tuple[str, int] | tuple[str, int, int, int], key: bytes) -> bytes:
    """Success; `address` is where the request came from, as the socket gives it."""
    return build(BINDING_RESPONSE, request.transaction, _xor_mapped(address[0], address[1], request.transaction), key)


def error_response(request: Message, code: int, key: bytes | None, unknown: tuple[int, ...] = ()) -> bytes:
    """`key` None for 400 and 401, which come before authentication (RFC 8489 9.1.3)."""
    reason = REASONS[code].encode()
    attributes = attribute(Attribute.ERROR_CODE, bytes((0, 0, code // 100, code % 100)) + reason)
    if unknown:
        attributes += attribute(Attribute.UNKNOWN_ATTRIBUTES, b"".join(map(_U16.pack, unknown)))
    return build(BINDING_ERROR, request.transaction, attributes, key)


def answer(request: Message, address: tuple[str, int] | tuple[str, int, int, int], key: bytes) -> bytes:
    """What a *verified* request is owed by an ICE-lite agent, which is always the controlled one: 420, 487 or success."""
    if request.unknown:
        return error_response(request, 420, key, request.unknown)
    if request.controlled is not None:  # both sides lite, or a peer that has mistaken its role (RFC 8445 7.3.1.1)
        return error_response(request, 487, key)
    return binding_response(request, address, key)


def refusal(data: bytes, code: int) -> bytes | None:
    """An unauthenticated 400 or 401, only where it is no longer than the request: a spoofed source must gain nothing by us."""
    if code not in (400, 401) or data[:2] != _REQUEST_HEAD or not _framed(data):
        return None
    made = error_response(Message(BINDING_REQUEST, data[8:20]), code, None)
    return made if len(made) <= len(data) else None


def binding_request(
    transaction: bytes,
    username: bytes,
    key: bytes,
    *,
    priority: int = 1845501695,
    controlling: int | None = None,
    controlled: int | None = None,
    use_candidate: bool = False,
) -> bytes:
    """What a full agent sends: for probes and tests. `username` is `theirs:ours` as seen from the sender."""
    parts = [attribute(Attribute.USERNAME, username), attribute(Attribute.PRIORITY, _U32.pack(priority))]
    if controlling is not None:
        parts.append(attribute(Attribute.ICE_CONTROLLING, _U64.pack(controlling)))
    if controlled is not None:
        parts.append(attribute(Attribute.ICE_CONTROLLED, _U64.pack(controlled)))
    if use_candidate:
        parts.append(attribute(Attribute.USE_CANDIDATE, b""))
    return build(BINDING_REQUEST, transaction, b"".join(parts), key)
