"""The master key and what is made with it: sealed columns (AES-256-GCM) and keyed digests to look secrets up by (HMAC-SHA256).

Also the one way to write a file of secrets: whole or not at all, mode 0600, on the disk when the call returns.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from medianode.errors import ConfigError, StorageError

KEY_BYTES = 32
CREDENTIAL = "medianode-secret"
_NONCE_BYTES = 12
_VERSION = b"\x01"


class Secrets:
    """Subkeys of one master key of 32 bytes.

    `place` names where a value lives ("table:column:id"): a value moved elsewhere does not open.
    """

    def __init__(self, master: bytes) -> None:
        self._aead = AESGCM(_subkey(master, b"medianode seal v1"))
        self._lookup = _subkey(master, b"medianode lookup v1")

    def seal(self, text: str, place: str) -> bytes:
        """Version, nonce, ciphertext and tag."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._aead.encrypt(nonce, text.encode(), place.encode())

    def open(self, sealed: bytes, place: str) -> str:
        """The text. Raises StorageError (`sealed-wrongly`) if it was sealed with another key, for another place, or has been altered."""
        nonce = sealed[1 : 1 + _NONCE_BYTES]
        try:
            if sealed[:1] != _VERSION or len(nonce) != _NONCE_BYTES:
                raise InvalidTag
            return self._aead.decrypt(nonce, sealed[1 + _NONCE_BYTES :], place.encode()).decode()
        except InvalidTag:
            raise StorageError(f"{place}: cannot be opened: other master key, or altered", code="sealed-wrongly") from None

    def lookup(self, text: str, purpose: str) -> bytes:
        """A digest of 32 bytes to find `text` by; of no use without the master key."""
        return hmac.digest(self._lookup, purpose.encode() + b"\0" + text.encode("utf-8", "surrogatepass"), "sha256")


def key_hash(key: str) -> bytes:
    """SHA-256 of an API key: enough for 256 random bits, and independent of the master key."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def master_key(data_dir: Path, secret_file: str, credentials: str, *, create: bool) -> tuple[bytes, str]:
    """The master key and where it came from: `secret_file`, else `<credentials>/medianode-secret` (systemd), else `<data_dir>/secret.key`.

    Only the last is made where missing, and only with `create`. Raises ConfigError.
    """
    if secret_file:
        return _read_key(Path(secret_file), "store.secret_file"), secret_file
    if credentials and (path := Path(credentials, CREDENTIAL)).exists():
        return _read_key(path, "systemd credential"), str(path)
    path = data_dir / "secret.key"
    if not path.exists():
        if not create:
            raise ConfigError(
                f"{path}: missing, but the database was sealed with a master key: restore it from a backup or from the other node",
                code="master-key-missing",
            )
        write_once(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
    return _read_key(path, "master key"), str(path)


def write_once(path: Path, data: bytes) -> bool:
    """Put a file of secrets there, mode 0600, atomically and durably. False if there was one already, which then stands.

    Raises StorageError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # link, not rename: of two that start at once the first stays, and both read the same
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync_directory(path.parent)
    except OSError as e:
        raise StorageError(f"{path}: cannot be written: {e.strerror or e}", code="storage-error") from e
    return True


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_key(path: Path, what: str) -> bytes:
    """32 raw bytes, or 64 hexadecimal digits, or base64 of 32 bytes."""
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"{what} {path}: cannot be read: {e.strerror or e}") from None
    if len(raw) == KEY_BYTES:
        return raw
    text = raw.strip()
    decoded = b""
    try:
        decoded = bytes.fromhex(text.decode("ascii")) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        decoded = b""
    if len(decoded) != KEY_BYTES:
        raise ConfigError(f"{what} {path}: expected {KEY_BYTES} bytes, raw, hexadecimal or base64; got {len(raw)} bytes")
    return decoded


def _subkey(master: bytes, info: bytes) -> bytes:
    if len(master) != KEY_BYTES:
        raise ConfigError(f"master key: expected {KEY_BYTES} bytes, got {len(master)}")
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(master)
