"""RTMP parser: bytes per CPU second, against `bytes(memoryview)` over the same buffers in the same run.

    python bench/rtmp_parser.py [seconds of stream]

The stream is a publisher of 2.5 Mbit/s: 30 pictures a second with a key frame every 2 s that is 8 times the others, 128 kbit/s of
AAC, written in chunks of 4096 (OBS) and of 128 bytes (the protocol's default), and read 64 KiB at a time.
"with FLV" parses the tags as well.
"""

from __future__ import annotations

import random
import sys
import time

from medianode.media.track import Kind
from medianode.protocols.amf import encode_amf0
from medianode.protocols.flv import parse_audio, parse_video
from medianode.protocols.rtmp import Connect, Media, Publish, ServerConnection
from medianode.protocols.rtmp.chunk import chunk_message

READ = 65_536


def messages(seconds: int) -> list[tuple[int, int, bytes]]:
    """(time in ms, RTMP type, payload), in order."""
    noise = random.Random(1)
    video_bytes = (2_500_000 - 128_000) // 8
    unit = 2 * video_bytes // (59 + 8)  # bytes of an ordinary picture, of 60 in 2 s
    out: list[tuple[int, int, bytes]] = []
    for picture in range(30 * seconds):
        key = picture % 60 == 0
        size = unit * 8 if key else unit + noise.randrange(-unit // 2, unit // 2)
        out.append((picture * 1000 // 30, 9, (b"\x17" if key else b"\x27") + b"\x01\0\0\0" + noise.randbytes(size)))
    out += [(frame * 1024 // 48, 8, b"\xaf\x01" + noise.randbytes(341)) for frame in range(47 * seconds)]
    return sorted(out, key=lambda message: message[:2])


def wire(seconds: int, chunk_size: int) -> list[bytes]:
    parts = [chunk_message(2, 1, 0, 0, chunk_size.to_bytes(4, "big"), 128)]
    parts += (chunk_message(6 if type_ == 9 else 4, type_, 1, at, payload, chunk_size) for at, type_, payload in messages(seconds))
    stream = b"".join(parts)
    return [stream[at : at + READ] for at in range(0, len(stream), READ)]


def published() -> ServerConnection:
    connection = ServerConnection(random=bytes)
    commands = (
        ("connect", 1, {"app": "live", "tcUrl": "rtmp://localhost/live"}),
        ("createStream", 2, None),
        ("publish", 3, None, "key", "live"),
    )
    connection.receive_data(b"\x03" + bytes(1536) + bytes(1536))
    for number, command in enumerate(commands):
        connection.receive_data(chunk_message(3, 20, number // 2, 0, encode_amf0(*command), 128))
        for event in connection.events():
            if isinstance(event, Connect):
                connection.accept_connect()
            elif isinstance(event, Publish):
                connection.accept_publish(event.stream_id)
    connection.data_to_send()
    return connection


def parse(buffers: list[bytes], flv: bool) -> float:
    connection = published()
    count = 0
    start = time.process_time()
    for buffer in buffers:
        connection.receive_data(buffer)
        for event in connection.events():
            if isinstance(event, Media):
                count += 1
                if flv:
                    count += len(parse_video(event.payload) if event.kind is Kind.VIDEO else parse_audio(event.payload)) - 1
        connection.data_to_send()
    spent = time.process_time() - start
    if count < 30:
        raise SystemExit(f"expected media, got {count} messages")
    return spent


def copy(buffers: list[bytes]) -> float:
    start = time.process_time()
    for buffer in buffers:
        bytes(memoryview(buffer))
    return time.process_time() - start


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    for chunk_size in (4096, 128):
        buffers = wire(seconds, chunk_size)
        size = sum(map(len, buffers))
        copied = size / min(copy(buffers) for _ in range(7))
        for name, flv in (("parser", False), ("with FLV", True)):
            rate = size / min(parse(buffers, flv) for _ in range(3))
            share = 2_500_000 / 8 / rate
            print(
                f"chunks of {chunk_size:4}: {name:8} {rate / 1e6:7.0f} MB/CPU-s, copy {copied / 1e6:7.0f} MB/CPU-s,"
                f" ratio {rate / copied:.4f}, {share:.3%} of a core per 2.5 Mbit/s publisher"
            )


if __name__ == "__main__":
    main()
