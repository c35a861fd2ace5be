"""FFmpeg's depacketisers on our payloads: it decodes from RTP the very pictures that it decodes from the encoder's file."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest
from harness import FFMPEG

from medianode.codecs import nal
from medianode.ingress.elementary import ElementaryStream
from medianode.media.packet import Packet
from medianode.media.track import Codec
from medianode.protocols.rtp.payload import packetiser

pytestmark = pytest.mark.interop
VECTORS = Path(__file__).parents[1] / "vectors" / "rtp"
SSRC = 7


def packets_of(name: str, codec: Codec) -> list[Packet]:
    data, at, stream = (VECTORS / f"ffmpeg9-{name}.units").read_bytes(), 0, ElementaryStream(0, codec)
    packets = []
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        unit = stream.unit(nal.from_annexb(data[at + 4 : end]) if codec in (Codec.H264, Codec.HEVC) else data[at + 4 : end])
        at = end
        assert unit is not None
        assert stream.track is not None
        packets.append(Packet(stream.track, unit.data, len(packets) * 9000, 0, unit.keyframe, 0.0))
    return packets


def free_ports() -> int:
    """An even UDP port that is free, as is the one above it for RTCP."""
    for port in range(42_000, 60_000, 2):
        if not (taken(port) or taken(port + 1)):
            return port
    raise AssertionError("expected two free ports")


def taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise
    return False


def hashes(output: str) -> list[str]:
    """Of the decoded pictures in framemd5, in order."""
    return [line.split(",")[-1].strip() for line in output.splitlines() if line and line[0] != "#"]


def reference(packets: list[Packet], codec: Codec, tmp_path: Path) -> list[str]:
    """What FFmpeg decodes of the same units in a plain file."""
    file = tmp_path / "stream"
    config = {Codec.H264: "h264", Codec.HEVC: "hevc", Codec.AV1: "obu"}.get(codec, "ivf")
    if config in ("h264", "hevc"):
        data = (VECTORS / f"ffmpeg9-{NAMES[codec]}.units").read_bytes()
        at = 0
        with file.open("wb") as out:
            while at < len(data):
                end = at + 4 + int.from_bytes(data[at : at + 4], "big")
                out.write(data[at + 4 : end])
                at = end
    elif config == "obu":
        file.write_bytes(b"".join(b"\x12\0" + packet.data for packet in packets))
    else:
        fourcc = b"VP80" if codec is Codec.VP8 else b"VP90"
        head = b"DKIF" + struct.pack("<HH4sHHIIII", 0, 32, fourcc, 320, 180, 10, 1, len(packets), 0)
        file.write_bytes(head + b"".join(struct.pack("<IQ", len(p.data), at) + p.data for at, p in enumerate(packets)))
    decoded = subprocess.run(
        [FFMPEG, "-v", "error", "-f", config, "-i", str(file), "-fps_mode", "passthrough", "-f", "framemd5", "-"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return hashes(decoded.stdout)


NAMES = {Codec.H264: "h264", Codec.HEVC: "hevc", Codec.VP8: "vp8", Codec.VP9: "vp9", Codec.AV1: "av1"}
ENCODINGS = {Codec.H264: "H264", Codec.HEVC: "H265", Codec.VP8: "VP8", Codec.VP9: "VP9", Codec.AV1: "AV1"}


@pytest.mark.parametrize("codec", NAMES, ids=lambda codec: codec.value)
def test_ffmpeg_decodes_our_payloads(tmp_path: Path, codec: Codec) -> None:
    packets = packets_of(NAMES[codec], codec)
    port = free_ports()
    sdp = tmp_path / "stream.sdp"
    fmtp = "a=fmtp:96 packetization-mode=1\r\n" if codec is Codec.H264 else ""
    sdp.write_text(
        f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=video {port} RTP/AVP 96\r\na=rtpmap:96 {ENCODINGS[codec]}/90000\r\n{fmtp}"
    )
    arguments = ["-v", "warning", "-protocol_whitelist", "file,udp,rtp", "-i", str(sdp), "-fps_mode", "passthrough", "-f", "framemd5", "-"]
    with (
        subprocess.Popen([FFMPEG, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ffmpeg,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        try:
            while not taken(port + 1):
                assert ffmpeg.poll() is None
                time.sleep(0.02)
            payloads = packetiser(codec, 1200)
            sequence = 0
            for packet in packets:
                cut = payloads.packetise(packet)
                for at, payload in enumerate(cut):
                    marker = 0x80 if at == len(cut) - 1 else 0
                    sender.sendto(struct.pack("!BBHII", 0x80, marker | 96, sequence, packet.pts, SSRC) + payload, ("127.0.0.1", port))
                    sequence += 1
                time.sleep(0.005)
            report = struct.pack("!BBHIQIII", 0x80, 200, 6, SSRC, 1 << 32, 0, sequence, 0)
            sender.sendto(report + struct.pack("!BBHI", 0x81, 203, 1, SSRC), ("127.0.0.1", port + 1))
            output, complaints = ffmpeg.communicate(timeout=30)
        finally:
            ffmpeg.kill()
    assert hashes(output) == reference(packets, codec, tmp_path), complaints
    assert len(hashes(output)) == len(packets)
