"""The ring keeps whole GOPs: as long as it should, as large as it may."""

from __future__ import annotations

from samples import AUDIO, VIDEO

from medianode.egress.recorder.ring import Ring
from medianode.media.packet import Gap, Packet


def fill(ring: Ring, seconds: int, *, first: int = 0, gop: float = 1.0, size: int = 10) -> None:
    ring.on_tracks((VIDEO, AUDIO))
    for n in range(first * 10, (first + seconds) * 10):
        ring.on_packet(Packet(VIDEO, bytes(size), n, n, n % round(gop * 10) == 0, n / 10))
        ring.on_packet(Packet(AUDIO, b"", n, n, True, n / 10))


def test_whole_gops_of_so_many_seconds() -> None:
    ring = Ring(5.0, 1 << 20)
    fill(ring, 30)
    kept = list(ring.since(0.0))
    assert kept[0].keyframe
    assert kept[0].track is VIDEO
    assert 5.0 <= 29.9 - kept[0].received_at <= 7.0
    assert [p.received_at for p in kept] == sorted(p.received_at for p in kept)
    assert next(ring.since(27.5)).received_at == 27.0
    assert next(ring.since(99.0)).received_at == 29.0


def test_a_gop_longer_than_the_ring_is_kept_whole() -> None:
    ring = Ring(2.0, 1 << 20)
    fill(ring, 18, gop=10.0)
    assert next(ring.since(17.0)).received_at == 10.0
    assert next(ring.since(9.0)).received_at == 0.0


def test_the_oldest_goes_over_the_bound() -> None:
    ring = Ring(60.0, 1000)
    fill(ring, 30)
    assert ring.nbytes <= 1000
    assert ring.nbytes == sum(len(p.data) for p in ring.since(0.0))
    assert next(ring.since(0.0)).keyframe
    assert next(ring.since(0.0)).received_at > 0.0
    fill(ring, 3, first=30, gop=100.0, size=400)  # one that is larger than all of it is not kept either
    assert not list(ring.since(0.0))
    assert ring.nbytes == 0


def test_a_gap_joins_nothing() -> None:
    ring = Ring(5.0, 1 << 20)
    fill(ring, 3)
    ring.on_gap(Gap("publisher-gap"))
    assert not list(ring.since(0.0))
    ring.on_packet(Packet(VIDEO, b"x", 0, 0, False, 4.0))
    assert not list(ring.since(0.0))


def test_sound_alone_in_groups() -> None:
    ring = Ring(5.0, 1 << 20)
    ring.on_tracks((AUDIO,))
    for n in range(300):
        ring.on_packet(Packet(AUDIO, b"x", n, n, True, n / 10))
    assert 5.0 <= 29.9 - next(ring.since(0.0)).received_at <= 8.0
