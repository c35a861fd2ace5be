"""AES for SRT, by the cryptography library, which the floor of protocols does not know."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap


class AesCtr:
    """One key's context, set to a new counter for each packet: a quarter of the cost of a new one."""

    __slots__ = ("_context",)

    def __init__(self, key: bytes) -> None:
        self._context: CipherContext = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def crypt(self, iv: bytes, data: bytes) -> bytes:
        self._context.reset_nonce(iv)
        return self._context.update(data)


class AesCiphers:
    """`protocols.srt.keys.Ciphers`."""

    def unwrap(self, key: bytes, wrapped: bytes) -> bytes | None:
        try:
            return aes_key_unwrap(key, wrapped)
        except InvalidUnwrap:
            return None

    def wrap(self, key: bytes, plain: bytes) -> bytes:
        return aes_key_wrap(key, plain)

    def ctr(self, key: bytes) -> AesCtr:
        return AesCtr(key)
