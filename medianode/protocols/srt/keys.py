"""Key material messages (3.2.2) and the keys of a connection (6): AES-CTR under keys that come wrapped by the passphrase's.

AES-GCM (libsrt 1.5.2 and later, on request only) is refused: no stock client here could show that ours is right.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Protocol

from medianode.errors import ProtocolError

EVEN, ODD = 1, 2
ITERATIONS = 2048
SALT_SIZE = 16
MIN_PASSPHRASE, MAX_PASSPHRASE = 10, 79
"""Bytes: what the protocol's users can set."""
ENCRYPTION = {16: 2, 24: 3, 32: 4}
"""The handshake's Encryption Field, by bytes of key (table 3)."""
NO_SECRET, BAD_SECRET = 3, 4
"""Key material states in a KMRSP of one word."""
_FIXED = struct.Struct(">BHBIBBBBHBB")
_FIRST, _SIGN = 0x12, 0x2029
_AES_CTR = 2
_TRANSPORT = 2
_BLOCK = 16


class Ctr(Protocol):
    """AES-CTR under one key."""

    def crypt(self, iv: bytes, data: bytes) -> bytes:
        """Decrypt, which is also how to encrypt."""


class Ciphers(Protocol):
    """What of cryptography is needed: handed in, for this floor knows no library."""

    def unwrap(self, key: bytes, wrapped: bytes) -> bytes | None:
        """RFC 3394; None under the wrong key."""

    def wrap(self, key: bytes, plain: bytes) -> bytes: ...

    def ctr(self, key: bytes) -> Ctr: ...


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """A KMREQ. `flags`: which keys it brings, even or odd or both. Nothing of it is secret before it is opened."""

    flags: int
    key_size: int
    salt: bytes
    wrapped: bytes

    def packed(self) -> bytes:
        head = _FIXED.pack(_FIRST, _SIGN, self.flags, 0, _AES_CTR, 0, _TRANSPORT, 0, 0, SALT_SIZE // 4, self.key_size // 4)
        return head + self.salt + self.wrapped


def parse_material(content: bytes) -> KeyMaterial:
    """Raises ProtocolError; also on ciphers other than AES-CTR."""
    if len(content) < _FIXED.size + SALT_SIZE:
        raise ProtocolError(f"key material: expected at least {_FIXED.size + SALT_SIZE} bytes, got {len(content)}")
    first, sign, flags, _, cipher, auth, _, _, _, salt_words, key_words = _FIXED.unpack_from(content)
    flags &= 3
    size = key_words * 4
    if first != _FIRST or sign != _SIGN or not flags or salt_words * 4 != SALT_SIZE or size not in ENCRYPTION:
        raise ProtocolError(f"key material: expected a message of 2029 with a salt of 16 bytes and AES keys, got {content[:16].hex()}")
    if cipher != _AES_CTR or auth:
        raise ProtocolError(f"key material: expected AES-CTR, got cipher {cipher} with authentication {auth}")
    end = _FIXED.size + SALT_SIZE
    length = 8 + size * flags.bit_count()
    wrapped = content[end : end + length]
    if len(wrapped) != length:
        raise ProtocolError(f"key material: expected {length} bytes of wrapped keys, got {len(wrapped)}")
    return KeyMaterial(flags, size, content[_FIXED.size : end], wrapped)


def wrapping_key(passphrase: str, salt: bytes, size: int) -> bytes:
    """PBKDF2 over the last 64 bits of the salt (6.1.4). About half a millisecond."""
    return hashlib.pbkdf2_hmac("sha1", passphrase.encode(), salt[8:], ITERATIONS, size)


def fits(passphrase: str) -> bool:
    """Can a user of the protocol set it?"""
    return MIN_PASSPHRASE <= len(passphrase.encode()) <= MAX_PASSPHRASE


class Keys:
    """The receiving keys of one connection; renewed in band under the same passphrase. `repr` tells nothing."""

    __slots__ = ("_ciphers", "_keys", "_passphrase", "_prefix", "_wrapping", "material", "size")

    def __init__(self, passphrase: str, ciphers: Ciphers) -> None:
        self._passphrase = passphrase
        self._ciphers = ciphers
        self._keys: dict[int, Ctr] = {}
        self._prefix: dict[int, int] = {}
        self._wrapping: tuple[bytes, int, bytes] = (b"", 0, b"")
        self.material = b""
        """The message taken last, as its answer repeats it."""
        self.size = 0

    def take(self, content: bytes) -> bool:
        """A KMREQ. False where the passphrase does not open it. Raises ProtocolError."""
        material = parse_material(content)
        if self._wrapping[:2] != (material.salt, material.key_size):
            self._wrapping = (material.salt, material.key_size, wrapping_key(self._passphrase, material.salt, material.key_size))
        plain = self._ciphers.unwrap(self._wrapping[2], material.wrapped)
        if plain is None:
            return False
        size = material.key_size
        pieces = [plain[at : at + size] for at in range(0, len(plain), size)]
        for which in (EVEN, ODD):
            if material.flags & which:
                self._adopt(which, pieces.pop(0), material.salt)
        self.material = content
        self.size = size
        return True

    def make(self, key: bytes, salt: bytes) -> bytes:
        """As a caller: the KMREQ that offers `key` (random), which the answerer encrypts with."""
        wrapping = wrapping_key(self._passphrase, salt, len(key))
        self._wrapping = (salt, len(key), wrapping)
        self._adopt(EVEN, key, salt)
        self.size = len(key)
        self.material = KeyMaterial(EVEN, len(key), salt, self._ciphers.wrap(wrapping, key)).packed()
        return self.material

    def _adopt(self, which: int, key: bytes, salt: bytes) -> None:
        self._keys[which] = self._ciphers.ctr(key)
        # the counter's block: 112 bits of salt, the packet's number laid over their end, and 16 bits that count blocks (6.2.2)
        self._prefix[which] = int.from_bytes(salt[:14], "big") << 16

    def decrypt(self, which: int, sequence: int, payload: bytes) -> bytes | None:
        """`sequence`: the packet's 31 bits. None where this key never came."""
        cipher = self._keys.get(which)
        if cipher is None:
            return None
        iv = (self._prefix[which] ^ sequence << 16).to_bytes(_BLOCK, "big")
        return cipher.crypt(iv, payload)
