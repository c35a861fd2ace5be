"""Three layers of one picture: the best active one is the room's, all are tracks, and no switch shows anything but whole pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness.rtp_sender import VP8, VP8_RTX, Encoder, FakePeer, Path, audio_media, video_media
from harness.sinks import Sink
from samples import grant

from medianode.config import Config
from medianode.events import Bus
from medianode.ingress.whip.layers import Layer, LayerPicker
from medianode.ingress.whip.session import WhipSession
from medianode.media.track import Codec
from medianode.protocols.sdp.plan import ReceiveMedia
from medianode.routing.registry import Registry

RIDS = ("q", "h", "f")
SIZES = {"q": (320, 180), "h": (640, 360), "f": (1280, 720)}
TRACKS = {"q": 2, "h": 4, "f": 6}


class Stage:
    """A publisher of three layers: a PLI to any brings key frames of all that are on, as Chrome does it."""

    def __init__(self, receives: tuple[ReceiveMedia, ...], rids: bool, **path: Any) -> None:
        registry = Registry(Bus(), Config().limits)
        self.layers = {
            rid: Encoder(
                Codec.VP8,
                10 * i + 1,
                VP8,
                90_000,
                first=1_000_000 * i,
                rid=rid if rids else "",
                width=SIZES[rid][0],
                height=SIZES[rid][1],
                size=400 * (i + 1),
                rtx_ssrc=10 * i + 2,
                rtx_payload_type=VP8_RTX,
            )
            for i, rid in enumerate(RIDS)
        }
        self.on = set(RIDS)
        self.wanted = set(RIDS)
        self.peer = FakePeer()
        self.session = WhipSession(Config(), receives, "192.0.2.7", "test", lambda session: None)
        self.peer.handler = self.session
        self.session.bind(self.peer)
        room, self.publication = registry.publish(grant(hold=0.0), "whip", "192.0.2.7", self.session.fail)
        self.session.open(room, self.publication)
        self.sink = Sink()
        self.publication.attach(self.sink)
        self.session.connected()
        self.path = Path(self.session, self.peer, list(self.layers.values()), **path)
        self.path.on_keyframe = lambda ssrc: self.wanted.update(self.on)

    def run(self, seconds: float) -> None:
        begin = self.path.now
        for i in range(round(seconds * 25)):
            at = begin + i / 25
            self.path.run(at)
            for rid in RIDS:
                if rid in self.on:
                    self.path.send(self.layers[rid].frame(at, keyframe=rid in self.wanted))
                    self.wanted.discard(rid)
                if i % 25 == 10:
                    self.session.rtcp(self.layers[rid].report(at), at)
        self.path.run(begin + seconds)

    def widths(self) -> list[int]:
        return [width for width, _ in itertools.groupby(p.track.width for p in self.sink.of(0))]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []
    monkeypatch.setattr("medianode.clock.now", lambda: made[0].path.now if made else 0.0)

    def make(*, receives: tuple[ReceiveMedia, ...] | None = None, rids: bool = True, **path: Any) -> Stage:
        made.append(Stage(receives or (video_media(RIDS),), rids, **path))
        return made[0]

    return make


async def test_the_best_layer_is_the_rooms_picture_and_all_are_tracks(stage: Any) -> None:
    s = stage()
    s.run(4.0)
    assert len(s.sink.tracks) == 1
    shown = [(t.id, t.layer, t.width) for t in s.sink.tracks[0]]
    assert shown == [(0, "", 1280), (2, "q", 320), (4, "h", 640), (6, "f", 1280)]
    assert (s.publication.video.id, s.publication.video.layer) == (0, "")
    assert s.widths() == [1280]
    main, best = s.sink.of(0), s.sink.of(6)
    assert len(main) >= 95
    assert [(a.dts, a.data) for a in main] == [(b.dts, b.data) for b in best]
    for ident in (2, 4, 6):
        packets = s.sink.of(ident)
        assert packets[0].keyframe
        assert {b.dts - a.dts for a, b in itertools.pairwise(packets)} <= {3600}
    assert s.path.keyframes == []


async def test_layers_of_one_instant_have_one_time(stage: Any) -> None:
    s = stage()
    s.run(6.0)
    last = {ident: s.sink.of(ident)[-1].dts for ident in (2, 4, 6)}
    assert max(last.values()) - min(last.values()) <= 90_000 * 0.009


async def test_a_layer_that_is_paused_gives_way_and_comes_back(stage: Any) -> None:
    s = stage()
    s.run(3.0)
    s.on = {"q", "h"}
    s.run(4.0)
    assert s.widths() == [1280, 640]
    s.on = set(RIDS)
    s.wanted.add("f")
    s.run(8.0)
    assert s.widths() == [1280, 640, 1280]
    main = s.sink.of(0)
    changes = [b for a, b in itertools.pairwise(main) if a.track.width != b.track.width]
    assert all(p.keyframe for p in changes)
    assert [p.dts for p in main] == sorted({p.dts for p in main})
    longest = max(b.dts - a.dts for a, b in itertools.pairwise(main))
    assert longest <= 90_000 * 1.5, "the picture stands for a moment only"
    assert s.sink.gaps == ["track-changed"] * 2
    assert len(s.path.keyframes) <= 8


async def test_the_first_layer_that_comes_is_not_waited_for_for_ever(stage: Any) -> None:
    s = stage(receives=(video_media(RIDS), audio_media()))
    s.on = {"q"}
    s.run(4.0)
    assert s.publication.active
    assert [(t.id, t.layer) for t in s.sink.tracks[-1]] == [(0, ""), (2, "q")]
    s.on = set(RIDS)
    s.wanted = {"h", "f"}
    s.run(5.0)
    assert s.widths() == [320, 1280]
    assert [(t.id, t.layer) for t in s.sink.tracks[-1]] == [(0, ""), (2, "q"), (4, "h"), (6, "f")]


async def test_simulcast_by_ssrcs_alone(stage: Any) -> None:
    media = video_media((), ssrcs=(1, 11, 21), rtx_ssrcs={2: 1, 12: 11, 22: 21})
    s = stage(receives=(media,), rids=False)
    s.run(3.0)
    assert [(t.id, t.layer) for t in s.sink.tracks[0]] == [(0, ""), (2, "0"), (4, "1"), (6, "2")]
    assert s.widths() == [1280]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_loss_on_all_layers(stage: Any, seed: int) -> None:
    s = stage(seed=seed, loss=0.05, jitter=0.01, delay=0.01)
    s.run(10.0)
    assert len(s.sink.of(0)) > 220
    assert s.publication.health.network["recovered"] > 10
    assert s.publication.health.drops.get("unknown-layer", 0) == 0, "bound by the first packets, whatever of them came"


def test_a_better_layer_must_last() -> None:
    small, big = Layer("q", 1), Layer("f", 2)
    picker = LayerPicker(0, (small, big))
    frame = {"nbytes": 100, "settled": True}
    assert picker.take(small, keyframe=True, area=100, now=0.0, **frame)
    assert not picker.take(big, keyframe=True, area=400, now=0.1, **frame)
    for i in range(2, 10):
        assert picker.take(small, keyframe=False, area=100, now=i / 10, **frame)
        assert not picker.take(big, keyframe=False, area=400, now=i / 10, **frame)
    assert not picker.wants_keyframe(0.9)
    assert picker.take(small, keyframe=False, area=100, now=1.2, **frame)
    assert not picker.take(big, keyframe=False, area=400, now=1.2, **frame)
    assert picker.wants_keyframe(1.2)
    assert picker.take(big, keyframe=True, area=400, now=1.3, **frame)
    assert not picker.take(small, keyframe=True, area=100, now=1.3, **frame)
    assert not picker.wants_keyframe(1.3)


def test_while_nothing_is_shown_yet_the_best_is_taken_at_once() -> None:
    small, big = Layer("q", 1), Layer("f", 2)
    picker = LayerPicker(0, (small, big))
    assert picker.take(small, keyframe=True, area=100, nbytes=100, now=0.0, settled=False)
    assert picker.take(big, keyframe=True, area=400, nbytes=100, now=0.1, settled=False)
    assert picker.current is big


def test_of_one_size_the_richer_is_better() -> None:
    poor, rich = Layer("a", 1), Layer("b", 2)
    picker = LayerPicker(0, (poor, rich))
    for i in range(60):
        picker.take(poor, keyframe=i % 10 == 0, area=100, nbytes=500, now=i / 25, settled=True)
        picker.take(rich, keyframe=i % 10 == 0, area=100, nbytes=5000, now=i / 25, settled=True)
    assert picker.current is rich
    assert picker.switches == 1


def test_flapping_is_damped() -> None:
    small, big = Layer("q", 1), Layer("f", 2)
    picker = LayerPicker(0, (small, big))
    for i in range(25 * 60):
        now = i / 25
        picker.take(small, keyframe=True, area=100, nbytes=100, now=now, settled=True)
        if int(now) % 3 != 2:
            picker.take(big, keyframe=True, area=400, nbytes=900, now=now, settled=True)
    assert picker.switches <= 6
