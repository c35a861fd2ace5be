from __future__ import annotations

import base64
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medianode.errors import ConfigError, StorageError
from medianode.store.secrets import Secrets, key_hash, master_key, write_once

MASTER = bytes(range(32))


def test_seal_and_open() -> None:
    secrets = Secrets(MASTER)
    sealed = secrets.seal("naïve key", "t:c:1")
    assert b"key" not in sealed
    assert secrets.open(sealed, "t:c:1") == "naïve key"
    assert secrets.seal("naïve key", "t:c:1") != sealed


@pytest.mark.parametrize("broken", [b"", b"\x01", b"\x01" + bytes(11), b"\x01" + bytes(12), b"\x01" + bytes(40), b"\x02" + bytes(40)])
def test_what_was_never_sealed_does_not_open(broken: bytes) -> None:
    with pytest.raises(StorageError, match=r"t:c:1: cannot be opened"):
        Secrets(MASTER).open(broken, "t:c:1")


def test_every_altered_byte_is_found() -> None:
    secrets = Secrets(MASTER)
    sealed = secrets.seal("key", "t:c:1")
    for i in range(len(sealed)):
        altered = bytearray(sealed)
        altered[i] ^= 1
        with pytest.raises(StorageError):
            secrets.open(bytes(altered), "t:c:1")


def test_another_place_or_key_does_not_open() -> None:
    sealed = Secrets(MASTER).seal("key", "t:c:1")
    with pytest.raises(StorageError):
        Secrets(MASTER).open(sealed, "t:c:2")
    with pytest.raises(StorageError):
        Secrets(bytes(32)).open(sealed, "t:c:1")


def test_lookup_depends_on_text_purpose_and_master() -> None:
    digests = {
        Secrets(MASTER).lookup("a", "p"),
        Secrets(MASTER).lookup("b", "p"),
        Secrets(MASTER).lookup("a", "q"),
        Secrets(bytes(32)).lookup("a", "p"),
    }
    assert len(digests) == 4
    assert {len(d) for d in digests} == {32}
    assert Secrets(MASTER).lookup("a\ud800", "p") != Secrets(MASTER).lookup("a", "p")


def test_key_hash_known_answer() -> None:
    assert key_hash("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("text", [MASTER, MASTER.hex().encode() + b"\n", base64.b64encode(MASTER), base64.b64encode(MASTER) + b"\r\n"])
def test_master_key_forms(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "k").write_bytes(text)
    assert master_key(tmp_path, str(tmp_path / "k"), "", create=False) == (MASTER, str(tmp_path / "k"))


@pytest.mark.parametrize("text", [b"", b"short", b"g" * 64, MASTER + b"x", base64.b64encode(MASTER[:31]), b"\xff" * 64])
def test_master_key_that_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "k").write_bytes(text)
    with pytest.raises(ConfigError, match="expected 32 bytes"):
        master_key(tmp_path, str(tmp_path / "k"), "", create=True)


def test_where_the_master_key_comes_from(tmp_path: Path) -> None:
    data, credentials = tmp_path / "data", tmp_path / "credentials"
    data.mkdir()
    credentials.mkdir()
    with pytest.raises(ConfigError, match="missing"):
        master_key(data, "", str(credentials), create=False)
    made, source = master_key(data, "", str(credentials), create=True)
    assert source == str(data / "secret.key")
    assert stat.S_IMODE((data / "secret.key").stat().st_mode) == 0o600
    assert master_key(data, "", "", create=True)[0] == made
    (credentials / "medianode-secret").write_bytes(MASTER)
    assert master_key(data, "", str(credentials), create=True)[0] == MASTER
    (tmp_path / "k").write_bytes(bytes(32))
    assert master_key(data, str(tmp_path / "k"), str(credentials), create=True)[0] == bytes(32)
    with pytest.raises(ConfigError, match=r"store\.secret_file .*absent"):
        master_key(data, str(tmp_path / "absent"), "", create=True)


def test_write_once_has_one_winner_and_no_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with ThreadPoolExecutor(8) as pool:
        texts = [os.urandom(1000) for _ in range(16)]
        won = list(pool.map(lambda text: write_once(path, text), texts))
    assert sum(won) == 1
    assert path.read_bytes() == texts[won.index(True)]
    assert list(tmp_path.iterdir()) == [path]


def test_write_once_to_nowhere(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        write_once(tmp_path / "absent" / "f", b"")
