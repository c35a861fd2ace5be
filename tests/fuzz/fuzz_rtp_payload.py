"""RTP payloads of every video format: only PeerError gets out, no more bytes than came in, and incomplete units have no data.

python tests/fuzz/fuzz_rtp_payload.py -max_total_time=60 [corpus directory]
The first byte picks the format. Then one packet after another: a byte of flags (1 marker, 2 lost, 4 next timestamp), a byte of length.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode"]):
        import medianode.protocols.rtp.payload  # noqa: F401

from medianode.errors import PeerError
from medianode.media.track import Codec
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtp.payload import depacketiser

CODECS = (Codec.H264, Codec.HEVC, Codec.VP8, Codec.VP9, Codec.AV1)
MAX_BYTES = 600


def one_input(data: bytes) -> None:
    if not data:
        return
    frames = depacketiser(CODECS[data[0] % len(CODECS)], MAX_BYTES)
    at, timestamp, told = 1, 0, 0
    while at + 2 <= len(data):
        flags, size = data[at], data[at + 1]
        timestamp += flags >> 2 & 1
        packet = RtpPacket(96, flags & 1 != 0, 0, timestamp, 7, {}, data[at + 2 : at + 2 + size])
        at += 2 + size
        try:
            found = frames.push(packet, flags & 2 != 0)
        except PeerError:
            continue
        for frame in found:
            if frame.complete != bool(frame.data):
                raise AssertionError("expected data in complete units, and only there")
            told += len(frame.data)
    if told > 6 * len(data):
        raise AssertionError("expected no more bytes out than in, but for lengths")


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
