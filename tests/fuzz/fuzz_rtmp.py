"""RTMP server and client: only PeerError gets out of them.

    python tests/fuzz/fuzz_rtmp.py -max_total_time=60 [corpus directory]

The first byte picks what is fuzzed and how the rest is cut: bit 7 the client instead of the server, bit 6 the handshake too, bits 0–5
the step.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode"]):
        import medianode.protocols.rtmp  # noqa: F401

from medianode.errors import PeerError
from medianode.protocols.amf import encode_amf0
from medianode.protocols.rtmp import ClientConnection, Connect, Play, Publish, ServerConnection
from medianode.protocols.rtmp.chunk import chunk_message

_HELLO = b"\x03" + bytes(3072)


def _opened() -> bytes:
    commands = (("connect", 1, {"app": "live"}), ("createStream", 2, None), ("publish", 3, None, "key"))
    return _HELLO + b"".join(chunk_message(3, 20, number // 2, 0, encode_amf0(*command), 128) for number, command in enumerate(commands))


_OPENED = _opened()


def _pieces(prefix: bytes, data: bytes, step: int) -> list[bytes]:
    return [prefix, *(data[at : at + step] for at in range(0, len(data), step))]


def _serve(pieces: list[bytes]) -> None:
    connection = ServerConnection(random=bytes, max_message_bytes=1 << 16, max_partial_bytes=1 << 17)
    for piece in pieces:
        try:
            connection.receive_data(piece)
        except PeerError:
            break
        for event in connection.events():
            if isinstance(event, Connect):
                connection.accept_connect()
            elif isinstance(event, Publish):
                connection.accept_publish(event.stream_id)
            elif isinstance(event, Play):
                connection.accept_play(event.stream_id)
    connection.receive_eof()
    connection.events()
    connection.data_to_send()


def _call(pieces: list[bytes]) -> None:
    connection = ClientConnection("live", "rtmp://host/live", random=bytes, user="user", password="password")
    for piece in pieces:
        try:
            connection.receive_data(piece)
        except PeerError:
            break
    connection.receive_eof()
    connection.events()
    connection.data_to_send()


def one_input(data: bytes) -> None:
    mode = data[0] if data else 0
    step = (mode & 0x3F) * 64 + 1
    if mode & 0x80:
        _call(_pieces(b"" if mode & 0x40 else _HELLO, data[1:], step))
    else:
        _serve(_pieces(b"" if mode & 0x40 else _OPENED, data[1:], step))


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
