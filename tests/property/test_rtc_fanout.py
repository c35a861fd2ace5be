"""The fan-out's invariants: numbers, trains, time and plaintexts, whatever the source and the viewers do."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from typing import Any

import pytest
from harness.fanout import SENDS, VIDEO, FakePeer, FakeStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medianode import clock
from medianode.config import Limits
from medianode.media.packet import Gap, Packet
from medianode.media.track import Kind
from medianode.protocols.rtp import packet as rtp
from medianode.protocols.rtp import rtcp
from medianode.rtc import srtp
from medianode.rtc.batch import MAX_RUN, Batch
from medianode.rtc.fanout import Broadcast
from medianode.rtc.outgoing import Look, Outgoing, Stitch
from medianode.rtc.pacing import Budget
from medianode.rtc.srtp import Keys, Sealer

LOOK = Look(96, 0, 16, 7)


def outgoing(kind: Kind = Kind.VIDEO, packets: int = 4096, nbytes: int = 1 << 24) -> Outgoing:
    return Outgoing(kind, 90_000, packets, nbytes, rtx=False, random=random.Random(1).randrange)


@given(st.lists(st.lists(st.one_of(st.just(1164), st.integers(1, 1164)), min_size=1, max_size=90), min_size=1, max_size=6))
def test_trains_are_runs_of_one_size_and_cover_every_packet(frames: list[list[int]]) -> None:
    out = outgoing()
    first = out.next
    for i, sizes in enumerate(frames):
        out.put_frame([bytes(size) for size in sizes], i * 3000, keyframe=i == 0, reference=True, now=float(i))
    expected = first
    for number in range(out.next_train):
        train = out.trains[number]
        assert train.first == expected
        assert 1 <= train.packets <= MAX_RUN
        expected += train.packets
        sizes = [len(packet) for packet in out.render(range(train.first, expected), LOOK)]
        assert len(set(sizes[:-1])) <= 1
        assert sizes[-1] <= sizes[0]
        assert train.nbytes == sum(sizes) - 12 * len(sizes)
    assert expected == out.next
    markers = [out.packets[sequence][1] for sequence in range(first, out.next)]
    assert [i for i, marker in enumerate(markers) if marker] == [n - 1 for n in itertools.accumulate(len(sizes) for sizes in frames)]


@given(st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=50))
def test_padding_of_sound_can_be_taken_off_again(samples: list[bytes]) -> None:
    out = outgoing(Kind.AUDIO)
    first = out.next
    out.put_samples([(data, i * 960, i == 0) for i, data in enumerate(samples)], 0.0)
    parsed = [rtp.parse(data) for data in out.render(range(first, out.next), LOOK)]
    assert [packet.payload for packet in parsed] == samples
    for train in out.trains.values():
        sizes = [len(packet) for packet in out.render(range(train.first, train.first + train.packets), LOOK)]
        assert len(set(sizes[:-1])) <= 1
        assert sizes[-1] <= sizes[0]
        carried = sum(len(packet.payload) for packet in parsed[train.first - first :][: train.packets])
        assert train.nbytes <= 2 * carried + 16 * train.packets


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(20, 100), st.integers(20_000, 80_000))
def test_history_keeps_its_bounds(frames: list[int], packets: int, nbytes: int) -> None:
    out = outgoing(packets=packets, nbytes=nbytes)
    for i, count in enumerate(frames):
        out.put_frame([bytes(1000)] * count, i, keyframe=i % 10 == 0, reference=True, now=0.0)
        assert len(out.packets) <= packets
        assert out.nbytes == sum(len(entry[4]) for entry in out.packets.values()) <= nbytes
        for train in out.trains.values():
            assert all(sequence in out.packets for sequence in range(train.first, train.first + train.packets))
        assert out.key_train is None or out.trains[out.key_train].begins


@given(
    st.lists(
        st.tuples(st.integers(-(10**9), 10**9), st.floats(0, 30), st.integers(1, 20), st.integers(-20_000, 20_000), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_outgoing_time_never_goes_back_and_lips_stay_in_sync(sources: list[tuple[int, float, int, int, bool]]) -> None:
    stitch = Stitch()
    now = 100.0
    last: dict[Kind, int] = {}
    for origin, pause, pictures, offset, sound_first in sources:
        now += pause
        stitch.broken()
        seen: dict[Kind, set[float]] = {Kind.VIDEO: set(), Kind.AUDIO: set()}
        for i in range(pictures):
            now += 1 / 30
            video_pts = origin + i * 3000
            audio_pts = (origin + offset) * 48 // 90 + i * 1600
            order = [(Kind.VIDEO, video_pts, 90_000), (Kind.AUDIO, audio_pts, 48_000)]
            for kind, pts, rate in reversed(order) if sound_first else order:
                ticks = stitch.ticks(kind, pts, rate, rate, now)
                if kind in last:
                    assert ticks > last[kind]
                last[kind] = ticks
                seen[kind].add(round((ticks - pts) / rate, 6))
        # both kinds of one source end up moved alike: at most its first packets may still go by an earlier shift
        assert len(seen[Kind.VIDEO]) <= 2
        assert seen[Kind.VIDEO] & seen[Kind.AUDIO] or pictures == 1
        assert stitch.now_ticks(now, 90_000) is not None


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 30_000)), max_size=60), st.floats(1e4, 1e7), st.floats(1e3, 1e5))
def test_a_budget_is_kept(asks: list[tuple[float, int]], rate: float, burst: float) -> None:
    budget = Budget(rate, burst)
    now = start = 50.0
    spent = largest = 0
    for passed, nbytes in asks:
        now += passed
        if budget.open(now):
            budget.take(nbytes)
            spent += nbytes
            largest = max(largest, nbytes)
        assert spent <= burst + rate * (now - start) + largest + 1


class RecordingSealer(Sealer):
    """Seals, and holds every plaintext against what was sealed under the same index before."""

    __slots__ = ("first", "plain")

    def __init__(self, keys: Keys) -> None:
        super().__init__(keys)
        self.plain: dict[tuple[bytes, bytes], bytes] = {}
        self.first: list[bytes] = []

    def protect(self, packet: bytes) -> bytes:
        key = (packet[8:12], packet[2:4])
        before = self.plain.setdefault(key, packet)
        assert before == packet, "two plaintexts under one index"
        if before is packet:
            self.first.append(packet)
        return super().protect(packet)


OPS = (
    "frame",
    "frame",
    "frame",
    "key",
    "loose",
    "gap",
    "delay",
    "thin",
    "hold",
    "full",
    "nack",
    "nack",
    "move",
    "back",
    "join",
    "tcp",
    "wait",
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(OPS), min_size=5, max_size=60), st.booleans(), st.integers(0, 1000))
def test_no_index_is_used_for_two_plaintexts(monkeypatch: pytest.MonkeyPatch, ops: list[str], near_wrap: bool, seed: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(srtp.RAW, "usable", False)
        asyncio.run(_play(ops, near_wrap, random.Random(seed)))


async def _play(ops: list[str], near_wrap: bool, chance: random.Random) -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setblocking(False)
    batch, limits = Batch(sock, 1 << 20), Limits(rtc_history_packets=300)
    casts = [Broadcast(batch, limits), Broadcast(batch, limits)]
    for cast in casts:
        cast.on_tracks((VIDEO,))
        if near_wrap:
            _restart(cast, 65_300)
    peers: list[FakePeer] = []
    viewers: list[Any] = []
    pts = 0

    def picture(cast: Broadcast, *, key: bool = False, reference: bool = True) -> None:
        unit = bytes((0x65 if key else 0x41 if reference else 0x01,)) + chance.randbytes(chance.choice((50, 3000, 30_000)))
        cast.on_packet(Packet(VIDEO, len(unit).to_bytes(4, "big") + unit, pts, pts, key, clock.now()))

    def join() -> None:
        peer = FakePeer()
        peer.sealer = RecordingSealer(peer.opener_keys)
        peers.append(peer)
        viewers.append(casts[0].add(peer, SENDS[:1]))

    picture(casts[0], key=True)
    join()
    for op in ops:
        pts += 3000
        viewer = chance.choice(viewers)
        flow = viewer.flows[Kind.VIDEO]
        if op in ("frame", "key", "loose"):
            for cast in casts:
                picture(cast, key=op == "key", reference=op != "loose")
        elif op == "gap":
            casts[0].on_gap(Gap("takeover"))
            picture(casts[0], key=True)
        elif op == "delay":
            casts[0].playout_delay = chance.random()
        elif op in ("thin", "hold", "full"):
            flow.channel.detach(flow)
            flow.thinned, flow.holding = True, op != "thin"
        elif op == "nack":
            high = max(flow.next, flow.channel.sent_next)
            viewer.rtcp(rtcp.nack(1, flow.ssrc, sorted((high - chance.randrange(400)) & 0xFFFF for _ in range(9))), clock.now() + pts)
        elif op in ("move", "back"):
            casts[0].move(viewer, casts[op == "move"])
        elif op == "join" and len(peers) < 4:
            join()
        elif op == "tcp":
            flow.peer.stream = None if flow.peer.stream else FakeStream()
            viewer.visit(clock.now())
        await asyncio.sleep(0.005 if op == "wait" else 0)
    for _ in range(400):
        if all(flow.cursor is None for v in viewers for flow in v.flows.values()):
            break
        await asyncio.sleep(0.005)
    for peer in peers:
        assert isinstance(peer.sealer, RecordingSealer)
        numbers = [int.from_bytes(packet[2:4], "big") for packet in peer.sealer.first]
        assert all((b - a) & 0xFFFF == 1 for a, b in itertools.pairwise(numbers)), "no hole, and no step back"
        assert not numbers or numbers[0] < 65_236
    for cast in casts:
        cast.close()
    batch.close()
    sock.close()
    for peer in peers:
        peer.rx.close()


def _restart(cast: Broadcast, sequence: int) -> None:
    out = cast.channels[Kind.VIDEO].outgoing
    out.next = out._tail = cast.channels[Kind.VIDEO].sent_next = sequence
