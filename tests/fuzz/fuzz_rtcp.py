"""RTP and RTCP packets: only PeerError gets out, and what was read is no more than came.

python tests/fuzz/fuzz_rtcp.py -max_total_time=60 [corpus directory]

The whole input is read as one RTCP compound, as one RTP packet, and as a run of RTP packets for a receiver: two bytes of sequence, one of
delay each.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode"]):
        import medianode.protocols.rtp.receiver
        import medianode.protocols.rtp.twcc  # noqa: F401

from medianode.errors import PeerError
from medianode.protocols.rtp import packet, rtcp
from medianode.protocols.rtp.receiver import StreamReceiver
from medianode.protocols.rtp.twcc import ArrivalLog


def _rtcp(data: bytes) -> None:
    try:
        messages = rtcp.parse(data)
        feedback = rtcp.read_feedback(data)
    except PeerError:
        return
    if 4 * len(messages) > len(data) or 17 * len(data) < 4 * sum(len(sequences) for _, sequences in feedback.nacks):
        raise AssertionError("expected no more out than in")


def _rtp(data: bytes) -> None:
    try:
        read = packet.parse(data)
    except PeerError:
        return
    if len(read.payload) + sum(map(len, read.extensions.values())) + 12 > len(data):
        raise AssertionError("expected no more bytes out than in")
    packet.unwrap_rtx(read, 96, 1)
    again = packet.build(*read[:1], *read[2:5], read.payload, marker=read.marker, extensions=read.extensions)
    if packet.parse(again) != read:
        raise AssertionError("expected the same packet again")


def _run(data: bytes) -> None:
    stream = StreamReceiver(90_000, max_packets=64, nack=True, max_wait=0.5)
    log = ArrivalLog(64)
    now, out = 0.0, 0
    for at in range(0, len(data) - 2, 3):
        now += data[at + 2] / 500
        sequence = data[at] << 8 | data[at + 1]
        out += len(stream.poll(now))
        out += len(stream.push(packet.RtpPacket(96, False, sequence, sequence, 1, {}, b"x"), now))
        stream.nacks(now)
        log.arrived(sequence, now)
        if len(stream) > 64 or stream.holes > 64 or len(log) > 64:
            raise AssertionError("expected at most 64 packets")
        if data[at + 2] & 1:
            wire = log.feedback(now, 1, 2)
            if wire is not None:
                rtcp.parse(wire)
    out += len(stream.resync())
    if out != stream.received or stream.received + stream.duplicates + stream.late + stream.strays != len(data) // 3:
        raise AssertionError("expected every packet once")


def one_input(data: bytes) -> None:
    _rtcp(data)
    _rtp(data)
    _run(data)


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
