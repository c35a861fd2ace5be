"""What sources send to the puller (RTSP, its descriptions, AAC and JPEG over RTP, playlists, multipart): only PeerError gets out.

python tests/fuzz/fuzz_pull.py -max_total_time=60 [corpus directory]
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode.protocols"]):
        import medianode.protocols.hls_read
        import medianode.protocols.rtp.jpeg
        import medianode.protocols.rtp.mpeg_audio
        import medianode.protocols.rtsp.client
        import medianode.protocols.rtsp.description  # noqa: F401

import contextlib

from medianode.errors import PeerError
from medianode.media.track import Kind
from medianode.protocols.hls_read import read_playlist
from medianode.protocols.multipart import PartReader
from medianode.protocols.rtp.jpeg import JpegDepacketiser
from medianode.protocols.rtp.mpeg_audio import LatmDepacketiser, Mpeg4Depacketiser, MpegAudioDepacketiser
from medianode.protocols.rtp.packet import RtpPacket
from medianode.protocols.rtsp.client import ClientConnection
from medianode.protocols.rtsp.description import choose, parse_description

BOUND = 70_000


def one_input(data: bytes) -> None:
    which, data = data[:1], data[1:]
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(PeerError):
        if which < b"\x40":
            client = ClientConnection("u", "p", lambda: "c")
            client.request("DESCRIBE", "rtsp://h/")
            for at in range(0, len(data), 7):
                client.receive_data(data[at : at + 7])
                if len(client._splitter) > BOUND:
                    raise AssertionError("unbounded")
            client.data_to_send()
        elif which < b"\x70":
            streams, _ = choose(parse_description(text, "rtsp://h/").streams, frozenset(Kind))
            for stream in streams:
                stream.record()
        elif which < b"\x90":
            read_playlist(text, "http://h/")
        elif which < b"\xb0":
            PartReader("b", 5000).feed(data)
        else:
            for depacketiser in (Mpeg4Depacketiser(5000, {}), LatmDepacketiser(5000), MpegAudioDepacketiser(5000), JpegDepacketiser(5000)):
                for i, payload in enumerate(data.split(b"\n")):
                    depacketiser.push(RtpPacket(96, len(payload) % 2 == 0, i, i // 3, 1, {}, payload), i % 5 == 4)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
