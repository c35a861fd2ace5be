from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest

from medianode.errors import ProtocolError
from medianode.protocols.reader import StreamReader
from medianode.protocols.rtmp.handshake import SIZE, client_handshake, find_digest, server_handshake

SUFFIX = bytes.fromhex("f0eec24a8068bee82e00d0d1029e7e576eec5d2d29806fab93b8e636cfeb31ae")


def random(n: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(n))


def shake(schema: int | None, step: int = 4096, spoil: Callable[[bytes], bytes] = bytes) -> tuple[bytes, bytes]:
    """Run client and server against each other; what each wrote."""
    up, down = StreamReader(4096), StreamReader(4096)
    from_client, from_server = [], []
    client = client_handshake(down, from_client.append, random, schema)
    server = server_handshake(up, from_server.append, random)
    next(client)
    sent = [0, 0]
    done = [False, False]
    for _ in range(10_000):
        for index, (source, reader, parser) in enumerate(((from_client, up, server), (from_server, down, client))):
            data = b"".join(source) if index == 0 else spoil(b"".join(source))
            piece = data[sent[index] : sent[index] + step]
            sent[index] += len(piece)
            reader.feed(piece)
            if not done[index] and piece:
                done[index] = next(parser, "done") == "done"
        if all(done):
            return b"".join(from_client), b"".join(from_server)
    raise AssertionError("the handshake never ended")


@pytest.mark.parametrize("step", [1, 100, 4096])
@pytest.mark.parametrize("schema", [None, 0, 1])
def test_client_and_server_agree(schema: int | None, step: int) -> None:
    client, server = shake(schema, step)
    assert len(client) == len(server) == 1 + 2 * SIZE
    assert client[0] == server[0] == 3
    if schema is None:
        assert server[1 + SIZE :] == client[1 : 1 + SIZE]
        assert client[1 + SIZE :] == server[1 : 1 + SIZE]


@pytest.mark.parametrize("schema", [0, 1])
def test_digest_server_signs_as_flash_media_server(schema: int) -> None:
    client, server = shake(schema)
    c1, s1, s2 = client[1 : 1 + SIZE], server[1 : 1 + SIZE], server[1 + SIZE :]
    found = find_digest(s1, b"Genuine Adobe Flash Media Server 001")
    assert found is not None
    assert found[0] == schema
    block = (772, 8)[schema]
    position = block + 4 + sum(c1[block : block + 4]) % 728
    digest = c1[position : position + 32]
    assert digest == hmac.new(b"Genuine Adobe Flash Player 001", c1[:position] + c1[position + 32 :], hashlib.sha256).digest()
    key = hmac.new(b"Genuine Adobe Flash Media Server 001" + SUFFIX, digest, hashlib.sha256).digest()
    assert s2[-32:] == hmac.new(key, s2[:-32], hashlib.sha256).digest()


def test_ffmpegs_digest_is_found(vector: Callable[[str], bytes]) -> None:
    c1 = vector("ffmpeg9-h264-aac.bin")[1 : 1 + SIZE]
    assert find_digest(c1, b"Genuine Adobe Flash Player 001") is not None
    assert find_digest(c1[:-1] + bytes((c1[-1] ^ 1,)), b"Genuine Adobe Flash Player 001") is None


def test_a_wrong_signature_is_noticed_by_the_client() -> None:
    with pytest.raises(ProtocolError, match="signed for our C1"):
        shake(0, spoil=lambda data: data[:3000] + b"\xee" + data[3001:])


@pytest.mark.parametrize(("version", "message"), [(6, "RTMPE"), (8, "RTMPE"), (ord("G"), "got 71"), (0x16, "got 22"), (0, "got 0")])
def test_other_versions_are_refused_at_the_first_byte(version: int, message: str) -> None:
    reader = StreamReader(4096)
    reader.feed(bytes((version,)))
    out: list[bytes] = []
    with pytest.raises(ProtocolError, match=message):
        next(server_handshake(reader, out.append, random))
    assert out == []
