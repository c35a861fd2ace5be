"""How what an RTSP source sends is put together."""

from __future__ import annotations

import pytest
from samples import grant

from medianode.errors import LimitExceeded
from medianode.ingress.assembler import Assembler
from medianode.ingress.pull.rtp import MAX_SOUND_BYTES, RtpSession, _depacketiser
from medianode.media.gop import GopCache
from medianode.media.track import Codec
from medianode.protocols.rtp import packet as packets
from medianode.protocols.rtsp.description import Stream
from medianode.routing.publication import Publication


@pytest.mark.parametrize(("encoding", "head"), [("mp4a-latm", b""), ("mpeg4-generic", b"\0\x20\xff\xff\xff\xf8")])
def test_a_frame_of_sound_without_end_is_given_up(encoding: str, head: bytes) -> None:
    stream = Stream("audio", 97, encoding, 48_000, 2, fmtp={"sizelength": "29", "indexlength": "3"})
    depacketiser = _depacketiser(stream, Codec.AAC)
    piece = packets.parse(packets.build(97, 1, 5, 1, head + bytes(MAX_SOUND_BYTES // 2), marker=False))
    assert depacketiser.push(piece, False) == []
    assert depacketiser.push(piece, False) == []
    with pytest.raises(LimitExceeded):
        depacketiser.push(piece, False)


class House:
    """An Intake with a publication of its own."""

    def __init__(self) -> None:
        self.publication = Publication(grant(), "pull", "h", lambda error: None, GopCache(100, 1 << 20))
        self.assembler: Assembler | None = None

    def begin(self, transport: str, expected: frozenset[int] = frozenset()) -> Assembler:
        self.assembler = Assembler(self.publication, 0.0, 4, expected)
        return self.assembler

    def heard(self, nbytes: int, now: float) -> None:
        pass


def sound(sequence: int) -> bytes:
    return packets.build(8, sequence, sequence * 160, 1, bytes(160))


G711 = Stream("audio", 8, "pcma", 8000)


def test_what_was_lost_in_a_connection_is_counted_and_what_came_twice_is_not() -> None:
    house = House()
    session = RtpSession([G711], house, "tcp", [])
    for sequence in (65_534, 65_535, 0, 0, 3, 3, 40_000, 40_001):
        session.rtp(0, sound(sequence), 1.0)
    session.look(1.0)
    assert house.publication.health.network == {"received": 8, "lost": 2}


def test_the_drift_of_the_source_is_told_whoever_looks() -> None:
    house = House()
    session = RtpSession([G711], house, "tcp", [])
    for i in range(1000):
        session.rtp(0, sound(i), now := i * 0.0202)
    session.look(now)
    drift = house.publication.health.drift
    assert -0.2 < drift < -0.1  # it is 1 % slow, and was measured for 15 s
    assert house.assembler is not None
    house.assembler.tick(now)
    assert house.publication.health.drift == drift


def test_why_nothing_can_be_made_of_pictures_is_told() -> None:
    house = House()
    session = RtpSession([Stream("video", 26, "jpeg", 90_000)], house, "tcp", [])
    session.rtp(0, packets.build(26, 1, 5, 1, bytes((0, 0, 0, 0, 2, 50, 8, 6)) + b"scan", marker=True), 1.0)
    assert house.publication.health.drops == {"lost-packets": 1}
    assert "expected type 0 or 1" in house.publication.health.last_error
