"""SRT: nothing raises but PeerError, no stranger gets more bytes than he sent, and what is held stays within its bound.

python tests/fuzz/fuzz_srt.py -max_total_time=60 [corpus directory]
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode.protocols"]):
        import medianode.protocols.srt.connection
        import medianode.protocols.srt.listener  # noqa: F401

import contextlib

from medianode.errors import PeerError
from medianode.ingress.srt_cipher import AesCiphers
from medianode.protocols.srt.caller import Caller
from medianode.protocols.srt.connection import Connection
from medianode.protocols.srt.keys import Keys
from medianode.protocols.srt.listener import Listener
from medianode.protocols.srt.packet import HEADER
from medianode.protocols.srt.stream_id import parse_stream_id

SECRET = "a secret that no fuzzer guesses"
MAX = 64


def one_input(data: bytes) -> None:
    header = HEADER.pack(0x80000000, 0, 0, 0)
    listener = Listener(b"secret")
    caller = Caller(5, random=bytes, ciphers=AesCiphers(), passphrase=SECRET)
    caller.datagram(0.0)
    for each in (data, header + data):
        answer = listener.receive(each, b"somebody", 0.0)
        if isinstance(answer, bytes) and len(answer) > len(each):
            raise AssertionError("an answer longer than its question")
        with contextlib.suppress(PeerError):
            caller.receive(each[:12] + b"\0\0\0\5" + each[16:], 0.0)
    line = Connection(5, 6, 0, 0.1, MAX, Keys(SECRET, AesCiphers()) if data[:1] > b"\x7f" else None, 0.0)
    now = 0.0
    for at in range(0, len(data), 24):
        now += 0.007
        line.receive((data[at : at + 24]).ljust(16, b"\0"), now)
        line.tick(now)
        if len(line.receiver) > MAX:
            raise AssertionError("more is held than the bound")
    with contextlib.suppress(PeerError):
        parse_stream_id(data.decode("utf-8", "replace"))


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
