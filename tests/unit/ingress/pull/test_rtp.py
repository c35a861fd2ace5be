"""How what an RTSP source sends is put together."""

from __future__ import annotations

import pytest

from medianode.errors import LimitExceeded
from medianode.ingress.pull.rtp import MAX_SOUND_BYTES, _depacketiser
from medianode.media.track import Codec
from medianode.protocols.rtp import packet as packets
from medianode.protocols.rtsp.description import Stream


@pytest.mark.parametrize(("encoding", "head"), [("mp4a-latm", b""), ("mpeg4-generic", b"\0\x20\xff\xff\xff\xf8")])
def test_a_frame_of_sound_without_end_is_given_up(encoding: str, head: bytes) -> None:
    stream = Stream("audio", 97, encoding, 48_000, 2, fmtp={"sizelength": "29", "indexlength": "3"})
    depacketiser = _depacketiser(stream, Codec.AAC)
    piece = packets.parse(packets.build(97, 1, 5, 1, head + bytes(MAX_SOUND_BYTES // 2), marker=False))
    assert depacketiser.push(piece, False) == []
    assert depacketiser.push(piece, False) == []
    with pytest.raises(LimitExceeded):
        depacketiser.push(piece, False)
