"""RTMP handshakes: plain (RTMP 1.0, 5.2) and Adobe's undocumented digest ("complex") one, which Flash-era peers insist on.

C1 and S1 have 1536 bytes: time, version, then in a digest handshake a key block and a digest block of 764 bytes each; schema 0 puts the
key first, schema 1 the digest. A digest block is a 4-byte offset, whose bytes are summed modulo 728, and 760 bytes with the 32-byte digest
at that offset. Version 6 and 8 (RTMPE) are refused: their encryption protects nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from medianode.errors import ProtocolError
from medianode.protocols.reader import StreamReader, Wait

Random = Callable[[int], bytes]

SIZE = 1536
_VERSION = 3
_DIGEST = 32
_SUFFIX = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")
_PLAYER = b"Genuine Adobe Flash Player 001"
_SERVER = b"Genuine Adobe Flash Media Server 001"
_PLAYER_FULL = _PLAYER + _SUFFIX
_SERVER_FULL = _SERVER + _SUFFIX
_BLOCKS = (8 + 764, 8)  # where the digest block begins, by schema
_PLAYER_RELEASE = bytes((9, 0, 124, 2))
_SERVER_RELEASE = bytes((13, 14, 10, 13))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)


def _digest_position(packet: bytes, schema: int) -> int:
    block = _BLOCKS[schema]
    return block + 4 + sum(packet[block : block + 4]) % 728


def _digest(packet: bytes, position: int, key: bytes) -> bytes:
    return _hmac(key, packet[:position] + packet[position + _DIGEST :])


def find_digest(packet: bytes, key: bytes) -> tuple[int, bytes] | None:
    """(schema, digest) if C1 or S1 carries a digest made with `key`."""
    for schema in (0, 1):
        position = _digest_position(packet, schema)
        found = packet[position : position + _DIGEST]
        if hmac.compare_digest(found, _digest(packet, position, key)):
            return schema, found
    return None


def _sign(packet: bytes, schema: int, key: bytes) -> bytes:
    position = _digest_position(packet, schema)
    return packet[:position] + _digest(packet, position, key) + packet[position + _DIGEST :]


def _answer(key: bytes, digest: bytes, noise: bytes) -> bytes:
    """C2 or S2 of the digest handshake: 1504 bytes of noise and their digest under a key made from the peer's digest."""
    return noise + _hmac(_hmac(key, digest), noise)


def _version(byte: int) -> None:
    if byte in (6, 8):
        raise ProtocolError(f"expected RTMP version 3, got {byte} (RTMPE): publish over rtmp:// or rtmps://")
    if byte != _VERSION:
        raise ProtocolError(f"expected RTMP version 3, got {byte}")


def server_handshake(reader: StreamReader, write: Callable[[bytes], None], random: Random) -> Wait:
    """Serve C0 C1 C2. Raises ProtocolError for another version; what C2 says is not looked at, as peers get it wrong."""
    _version((yield from reader.read_exactly(1))[0])
    c1 = yield from reader.read_exactly(SIZE)
    found = find_digest(c1, _PLAYER) if c1[4:8] != b"\0\0\0\0" else None
    if found is None:
        write(bytes((_VERSION,)) + bytes(8) + random(SIZE - 8) + c1)
    else:
        schema, digest = found
        s1 = _sign(bytes(4) + _SERVER_RELEASE + random(SIZE - 8), schema, _SERVER)
        write(bytes((_VERSION,)) + s1 + _answer(_SERVER_FULL, digest, random(SIZE - _DIGEST)))
    yield from reader.read_exactly(SIZE)


def client_handshake(reader: StreamReader, write: Callable[[bytes], None], random: Random, schema: int | None = None) -> Wait:
    """Send C0 C1, answer S1 with C2. `schema` 0 or 1 asks for the digest handshake; a server without it is answered plainly."""
    c1 = bytes(4) + (bytes(4) if schema is None else _PLAYER_RELEASE) + random(SIZE - 8)
    if schema is not None:
        c1 = _sign(c1, schema, _PLAYER)
    write(bytes((_VERSION,)) + c1)
    _version((yield from reader.read_exactly(1))[0])
    s1 = yield from reader.read_exactly(SIZE)
    found = find_digest(s1, _SERVER) if schema is not None else None
    write(s1 if found is None else _answer(_PLAYER_FULL, found[1], random(SIZE - _DIGEST)))
    s2 = yield from reader.read_exactly(SIZE)
    if found is not None and schema is not None:
        position = _digest_position(c1, schema)
        expected = _answer(_SERVER_FULL, c1[position : position + _DIGEST], s2[:-_DIGEST])
        if not hmac.compare_digest(s2, expected):
            raise ProtocolError("expected S2 to be signed for our C1, got another signature")
