"""Fuzz the camera door's decisions: any messages at any times give verdicts of the contract and never an exception.

.venv/bin/python tests/fuzz/fuzz_ws_jpeg.py [-max_total_time=60] [corpus directory]
Bytes are read as steps: kind, a delay, a length, that many bytes of payload, with or without the opening of a JPEG in front.
"""

from __future__ import annotations

import sys
from types import FunctionType

from medianode.codecs import jpeg
from medianode.config import WsJpeg
from medianode.ingress.ws_jpeg import CameraSession, Close, Due, Frame

POLICY = WsJpeg(max_fps=10.0, max_frame_bytes=600, idle_timeout=12.0, ping_interval=3.0)
OPENING = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc0000b080008000801011100ffda0008010100003f00")
CODES = {1003, 4408, 4413}


def one_input(data: bytes) -> None:
    session = CameraSession(POLICY, 0.0)
    now, pts, frames, position = 0.0, -1, 0, 0
    while position + 3 <= len(data):
        kind, delay, size = data[position : position + 3]
        payload = data[position + 3 : position + 3 + size * 4]
        position += 3 + len(payload)
        now += delay / 64
        verdict = None
        if kind % 4 == 0:
            verdict = session.binary(payload, now)
        elif kind % 4 == 1:
            verdict = session.binary(OPENING + payload + b"\xff\xd9", now)
        elif kind % 4 == 2:
            verdict = session.text(payload.decode("latin-1"))
        else:
            session.pong()
        if isinstance(verdict, Frame):
            frames += 1
            assert verdict.pts > pts
            assert verdict.width > 0
            assert verdict.height > 0
            pts = verdict.pts
        if isinstance(verdict, Close):
            assert verdict.code in CODES
            return
        if (due := session.tick(now)) is not None and due is not Due.PING:
            assert due is Due.LOST or due.code in CODES
            return
    assert frames <= now * POLICY.max_fps + 2.5 + 1e-6


def main() -> None:
    import atheris

    # not instrument_all: aiohttp comes with this door, and its ten thousand functions are not what we are after
    for function in (*vars(CameraSession).values(), *vars(jpeg).values()):
        if isinstance(function, FunctionType):
            atheris.instrument_func(function)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
