"""A publisher over a path that loses, doubles, reorders and delays: what readers see, and what the publisher is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness.rtp_sender import (
    EPOCH,
    H264,
    H264_RTX,
    OPUS,
    PCMU,
    VP8,
    VP8_RTX,
    Encoder,
    FakePeer,
    Path,
    audio_media,
    video_media,
)
from harness.sinks import Sink
from samples import grant

from medianode.config import Config, Limits
from medianode.errors import PeerGone
from medianode.events import Bus, Event
from medianode.ingress.whip.session import WhipSession
from medianode.media.packet import Packet
from medianode.media.track import Codec
from medianode.protocols.rtp import packet as rtp
from medianode.protocols.rtp import rtcp
from medianode.protocols.sdp.plan import ReceiveMedia
from medianode.routing.registry import Registry


@dataclass
class House:
    """A session on a publication that a sink reads. `time` stands in for the clock; `path` moves it."""

    receives: tuple[ReceiveMedia, ...]
    config: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        self.told: list[Event] = []
        bus = Bus()
        bus.subscribe(Event, self.told.append)
        self.registry = Registry(bus, self.config.limits)
        self.peer = FakePeer()
        self.ended: list[WhipSession] = []
        self.session = WhipSession(self.config, self.receives, "192.0.2.7", "test", self.ended.append)
        self.peer.handler = self.session
        self.session.bind(self.peer)
        leave = grant(hold=0.0)
        self.room, self.publication = self.registry.publish(leave, "whip", "192.0.2.7", self.session.fail)
        self.session.open(self.room, self.publication)
        self.sink = Sink()
        self.publication.attach(self.sink)
        self.session.connected()

    @property
    def drops(self) -> dict[str, int]:
        return self.publication.health.drops


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[House, Path]]:
    """Makes a House and the Path to it, whose time is the clock's."""

    def make(*encoders: Encoder, receives: tuple[ReceiveMedia, ...] | None = None, config: Config | None = None, **path: Any) -> Any:
        paths: list[Path] = []
        monkeypatch.setattr("medianode.clock.now", lambda: paths[0].now if paths else 0.0)
        house = House(receives or (video_media(), audio_media()), config or Config())
        paths.append(Path(house.session, house.peer, list(encoders), **path))
        return house, paths[0]

    return make


def video(codec: Codec = Codec.H264, **changes: Any) -> Encoder:
    h = codec is Codec.H264
    fields: dict[str, Any] = {"rtx_ssrc": 1001, "rtx_payload_type": H264_RTX if h else VP8_RTX, **changes}
    return Encoder(codec, fields.pop("ssrc", 1000), H264 if h else VP8, 90_000, **fields)


def audio(**changes: Any) -> Encoder:
    return Encoder(Codec.OPUS, 2000, OPUS, 48_000, mid="1", **changes)


def publish(
    path: Path, seconds: float, *encoders: Encoder, fps: int = 25, gop: float = 1e9, reports: bool = True, start: bool = True
) -> None:
    """Frames of all encoders in real time, key frames where they are asked for, each `gop`, and at the start."""
    wanted = {e.ssrc for e in encoders} if start else set()
    path.on_keyframe = wanted.add
    begin = path.now
    next_key = begin + gop
    steps = round(seconds * 100)
    for i in range(steps):
        at = begin + i / 100
        path.run(at, step=0.01)
        if at >= next_key:
            next_key += gop
            wanted.update(e.ssrc for e in encoders)
        for encoder in encoders:
            every = 2 if encoder.codec in (Codec.OPUS, Codec.PCM_MULAW) else 100 // fps
            if i % every == 0:
                is_video = encoder.rate == 90_000
                path.send(encoder.frame(at, keyframe=encoder.ssrc in wanted if is_video else True))
                wanted.discard(encoder.ssrc)
            if reports and i % 100 == 50:
                path.session.rtcp(encoder.report(at), at)
    path.run(begin + seconds)


@pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8])
async def test_a_clean_path_hands_on_every_frame_with_its_own_stamps(stage: Any, codec: Codec) -> None:
    picture, sound = video(codec, first=4_000_000_000, sequence=65_500), audio(first=4_294_900_000, sequence=65_530)
    house, path = stage(picture, sound)
    publish(path, 20.0, picture, sound)
    path.run(20.2)
    shown = house.sink.of(0)
    assert [t.codec for t in house.sink.tracks[-1]] == [codec, Codec.OPUS]
    assert len(house.sink.tracks) == 1
    assert (len(shown), len(house.sink.of(1))) == (500, 1000)
    assert {b.dts - a.dts for a, b in itertools.pairwise(shown)} == {3600}, "90 kHz, not milliseconds, over both wraps"
    assert all(p.pts == p.dts for p in shown)
    heard = house.sink.of(1)
    assert {b.dts - a.dts for a, b in itertools.pairwise(heard)} == {960}
    assert house.sink.gaps == []
    assert house.drops == {}
    assert path.keyframes == [], "nobody needed one"
    assert [p.keyframe for p in shown[:2]] == [True, False]


async def test_the_publisher_hears_of_arrivals_and_losses(stage: Any) -> None:
    picture, sound = video(), audio()
    _house, path = stage(picture, sound)
    publish(path, 5.0, picture, sound)
    feedback = path.got(rtcp.TransportFeedback)
    assert 45 <= len(feedback) <= 51
    assert sum(m.status_count for m in feedback) >= path.transport - 30
    reports = path.got(rtcp.ReceiverReport)
    blocks = [block for report in reports for block in report.reports]
    assert {block.ssrc for block in blocks} == {1000, 2000}
    assert 18 <= len(blocks) <= 22
    assert all(block.fraction_lost == 0 for block in blocks)
    assert any(block.last_sr and block.delay for block in blocks)
    assert all(isinstance(m, rtcp.ReceiverReport) for _, m in path.messages if m in reports)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("rtx", [True, False])
async def test_what_is_lost_is_asked_for_and_comes(stage: Any, seed: int, rtx: bool) -> None:
    picture, sound = video(rtx_ssrc=1001 if rtx else 0), audio()
    house, path = stage(picture, sound, seed=seed, loss=0.05, jitter=0.015, double=0.05, delay=0.01)
    publish(path, 10.0, picture, sound)
    path.run(11.0)
    assert len(path.got(rtcp.Nack)) > 10
    shown = house.sink.of(0)
    lost = house.drops.get("waiting-for-keyframe", 0) + house.drops.get("lost-packets", 0)
    assert len(shown) >= 245 - lost - 5
    assert [p.dts for p in shown] == sorted({p.dts for p in shown})
    figures = house.publication.health.network
    assert figures["recovered"] > 10
    assert figures["duplicates"] > 5
    assert figures["nacks"] > 10
    assert figures["rtt"] == 0.03


async def test_an_unrecovered_loss_shows_nothing_until_the_key_frame_that_is_asked_for(stage: Any) -> None:
    picture, sound = video(), audio()
    house, path = stage(picture, sound)
    publish(path, 2.0, picture, sound)
    path.answers = False
    begin = house.sink.of(0)[-1].dts
    path.loss = 1.0
    path.send(picture.frame(path.now))
    path.loss = 0.0
    publish(path, 3.0, picture, sound, start=False)
    after = [p for p in house.sink.of(0) if p.dts > begin]
    assert after[0].keyframe, "no damaged picture is passed on"
    assert house.drops["lost-packets"] == 1
    assert house.drops["waiting-for-keyframe"] >= 1
    assert len(path.keyframes) == 1
    assert house.sink.gaps == []


async def test_key_frame_requests_are_coalesced_and_fir_comes_last(stage: Any) -> None:
    picture = video()
    house, path = stage(picture, receives=(video_media(),))
    for i in range(250):
        at = i / 25
        path.run(at)
        path.send(picture.frame(at))  # never a key frame
    assert not house.sink.packets
    gaps = [b[0] - a[0] for a, b in zip(path.keyframes, path.keyframes[1:], strict=False)]
    assert min(gaps) >= 0.5 - 1e-6
    assert 15 <= len(path.keyframes) <= 21
    firs = path.got(rtcp.Fir)
    assert [request for fir in firs for _, request in fir.requests] == list(range(1, len(firs) + 1))
    assert len(firs) == len(path.keyframes) - 4
    house.publication.request_keyframe()
    assert house.drops["no-configuration"] > 100


async def test_a_reader_that_needs_a_key_frame_gets_one(stage: Any) -> None:
    picture, sound = video(), audio()
    house, path = stage(picture, sound)
    publish(path, 1.0, picture, sound)
    house.publication.request_keyframe()
    publish(path, 1.0, picture, sound, start=False)
    assert [ssrc for _, ssrc in path.keyframes] == [1000]
    assert sum(p.keyframe for p in house.sink.of(0)) == 2


async def test_lips_are_in_step_once_both_clocks_are_known(stage: Any) -> None:
    # pictures are stamped when they are taken; they are coded and sent 150 ms later than the sound of that instant
    picture, sound = video(first=123_456), audio(first=777)
    house, path = stage(picture, sound)

    wanted = {1000}
    path.on_keyframe = wanted.add
    for i in range(1500):
        at = i / 100
        path.run(at, step=0.01)
        if i % 2 == 0:
            path.send(sound.frame(at))
        if i % 4 == 0:
            path.send(picture.frame(at, keyframe=1000 in wanted), late=0.15)
            wanted.discard(1000)
        if i == 200:
            path.session.rtcp(sound.report(at), at)
            path.session.rtcp(picture.report(at), at)
    path.run(15.3)

    def apart(pictures: list[Packet], count: int) -> list[float]:
        """Media time of the picture of an instant, minus that of the sound of the same instant."""
        heard = house.sink.of(1)[0].dts / 48_000
        return [pictures[n].dts / 90_000 - (heard + n * 0.04) for n in count]

    shown = house.sink.of(0)
    early, late = apart(shown, range(5)), apart(shown, range(350, 370))
    assert all(0.14 < off < 0.16 for off in early), "by arrival"
    assert all(abs(off) < 0.009 for off in late), "by the sender's clock"
    steps = [b.dts - a.dts for a, b in itertools.pairwise(shown)]
    assert min(steps) >= 3600 - 180, "moved little by little"
    assert max(steps) <= 3600 + 180
    heard = house.sink.of(1)
    assert {b.dts - a.dts for a, b in itertools.pairwise(heard)} == {960}, "sound is never moved"
    assert house.sink.gaps == []
    assert house.publication.health.source_clock == pytest.approx(EPOCH - heard[0].dts / 48_000, abs=0.03)


async def test_silence_within_the_sound_stays_silence(stage: Any) -> None:
    sound = audio()
    house, path = stage(sound, receives=(audio_media(),))
    at = 0.0
    for gap in [0.02] * 20 + [0.4] * 5 + [0.02] * 10:
        path.run(at)
        path.send(sound.frame(at))
        at += gap
    path.run(at + 0.1)
    heard = house.sink.of(1)
    steps = [b.dts - a.dts for a, b in itertools.pairwise(heard)]
    assert steps == [960] * 20 + [19_200] * 5 + [960] * 9
    assert house.sink.gaps == []


async def test_sound_alone_starts_at_once(stage: Any) -> None:
    sound = audio()
    house, path = stage(sound, receives=(audio_media({"sprop-stereo": "1"}),))
    publish(path, 0.2, sound)
    assert house.publication.active
    assert (house.sink.tracks[0][0].codec, house.sink.tracks[0][0].channels) == (Codec.OPUS, 2)


async def test_another_codec_in_the_middle_is_another_track(stage: Any) -> None:
    sound = audio()
    first, second = video(Codec.H264), video(Codec.VP8, sequence=0, width=640, height=360)
    house, path = stage(first, sound)
    publish(path, 2.0, first, sound)
    second.sequence = first.sequence
    path.encoders[1000] = second
    publish(path, 2.0, second, sound)
    path.run(4.1)
    assert [[t.codec for t in tracks] for tracks in house.sink.tracks] == [[Codec.H264, Codec.OPUS], [Codec.VP8, Codec.OPUS]]
    assert house.sink.gaps == ["track-changed"]
    shown = house.sink.of(0)
    assert [p.dts for p in shown] == sorted(p.dts for p in shown)
    assert next(p for p in shown if p.track.codec is Codec.VP8).keyframe


async def test_another_payload_type_of_another_rate(stage: Any) -> None:
    opus, pcmu = audio(), Encoder(Codec.PCM_MULAW, 2000, PCMU, 8000, mid="1")
    house, path = stage(opus, receives=(audio_media(),))
    publish(path, 1.0, opus)
    pcmu.sequence = opus.sequence
    publish(path, 1.0, pcmu)
    path.run(2.1)
    last = house.sink.packets[-1]
    assert (last.track.codec, last.track.clock_rate) == (Codec.PCM_MULAW, 8000)
    assert last.dts / 8000 == pytest.approx(house.sink.packets[0].dts / 48_000 + 1.98, abs=0.05)


async def test_a_source_that_begins_anew_with_another_ssrc(stage: Any) -> None:
    first, second = video(), video(ssrc=5000, first=99, sequence=9)
    sound = audio()
    house, path = stage(first, second, sound)
    publish(path, 2.0, first, sound)
    path.run(2.6)
    publish(path, 2.0, second, sound)
    path.run(4.7)
    shown = house.sink.of(0)
    assert len(shown) > 95
    steps = [b.dts - a.dts for a, b in itertools.pairwise(shown)]
    assert min(steps) > 0
    assert max(steps) == pytest.approx(0.64 * 90_000, abs=4000)


async def test_two_sources_at_once_do_not_take_turns(stage: Any) -> None:
    first, second = video(), video(ssrc=5000, first=99, sequence=9)
    house, path = stage(first, second, receives=(video_media(),))
    publish(path, 2.0, first, second)
    assert len({p.track for p in house.sink.packets}) == 1
    assert house.drops["second-source"] > 50
    assert len(house.sink.of(0)) >= 48


async def test_a_clock_that_jumps_is_a_break(stage: Any) -> None:
    picture, sound = video(), audio()
    house, path = stage(picture, sound)
    publish(path, 2.0, picture, sound)
    picture.first += 90_000 * 500
    publish(path, 2.0, picture, sound)
    assert house.sink.gaps == ["timestamp-jump"]
    assert house.publication.health.repairs["timestamp-jump"] == 1
    shown = house.sink.of(0)
    assert max(b.dts - a.dts for a, b in itertools.pairwise(shown)) < 90_000


async def test_packets_of_nobody_are_counted(stage: Any) -> None:
    house, _path = stage(receives=(video_media(),))
    session = house.session
    session.rtp(rtp.build(45, 1, 1, 77, b"x"), 0.0)
    session.rtp(rtp.build(VP8, 1, 1, 77, b"x", extensions={1: b"9"}), 0.0)
    session.rtp(rtp.build(VP8_RTX, 1, 1, 78, b"xxxx"), 0.0)
    session.rtp(b"\x80", 0.0)
    session.rtcp(b"\x80\xc8", 0.0)
    assert house.drops == {"unknown-stream": 2, "unbound-retransmission": 1, "malformed-packet": 1, "malformed-rtcp": 1}
    assert not house.peer.closed_for


async def test_many_ssrcs_are_not_remembered(stage: Any) -> None:
    house, _path = stage(receives=(video_media(), audio_media()))
    for ssrc in range(500):
        house.session.rtp(rtp.build(VP8, 1, 1, ssrc, b"\x10\x31\x00\x00"), ssrc * 1.0)
        house.session.rtp(rtp.build(VP8_RTX, 1, 1, 1000 + ssrc, b"\0\0\x10\x31\x00\x00"), ssrc * 1.0)
    assert len(house.session._streams.routes) == 2
    assert len(house.session._clock._streams) == 1


async def test_garbage_for_a_codec_ends_the_session_in_the_end(stage: Any) -> None:
    house, _path = stage(receives=(video_media(),))
    for i in range(300):
        house.session.rtp(rtp.build(VP8, i, i * 3000, 1, b"\x10\x30\x00\x00garbage", marker=True), i / 30)
    (why,) = house.peer.closed_for
    assert why.code == "undecodable-media"
    assert house.publication.ended


async def test_silence_ends_it(stage: Any) -> None:
    picture, sound = video(), audio()
    house, path = stage(picture, sound)
    publish(path, 2.0, picture, sound)
    path.run(6.0)
    assert not house.peer.closed_for
    path.run(7.5)
    assert [e.code for e in house.peer.closed_for] == ["publisher-silent"]
    assert house.publication.ended
    assert house.ended == [house.session]
    assert [type(e).__name__ for e in house.told][-3:] == ["PublicationLost", "PublicationEnded", "RoomEnded"]
    assert house.told[-3].failure


async def test_who_never_sends_is_put_out(stage: Any) -> None:
    house, path = stage(config=Config(limits=Limits(first_media_timeout=3.0)))
    path.run(2.9)
    assert not house.peer.closed_for
    path.run(3.6)
    assert [e.code for e in house.peer.closed_for] == ["no-media"]


async def test_goodbyes(stage: Any) -> None:
    picture, sound = video(), audio()
    house, path = stage(picture, sound)
    publish(path, 1.0, picture, sound)
    path.session.rtcp(rtcp.receiver_report(1000) + rtcp.bye([1000]), path.now)
    path.run(2.5)
    assert not house.peer.closed_for, "sound goes on"
    path.session.rtcp(rtcp.receiver_report(1000) + rtcp.bye([2000]), path.now)
    path.run(4.0)
    assert [e.code for e in house.peer.closed_for] == ["unpublished"]
    assert not house.told[-3].failure


@pytest.mark.parametrize("how", ["leave", "kick", "peer"])
async def test_ends(stage: Any, how: str) -> None:
    picture, sound = video(), audio()
    house, path = stage(picture, sound)
    publish(path, 1.0, picture, sound)
    if how == "leave":
        house.session.leave()
    elif how == "kick":
        house.publication.kick(PeerGone("taken over", code="takeover"))
    else:
        house.peer.close(PeerGone("the peer closed the session"))
    assert house.publication.ended
    assert house.publication.on_keyframe_wanted is None
    lost = next(e for e in house.told if type(e).__name__ == "PublicationLost")
    assert (lost.cause, lost.failure) == ({"leave": "unpublished", "kick": "takeover", "peer": "peer-gone"}[how], False)
    packets = len(house.sink.packets)
    house.session.rtp(picture.frame(path.now)[0], path.now)
    house.session.tick(path.now)
    house.session.fail(PeerGone("again"))
    assert len(house.sink.packets) == packets
    assert house.ended == [house.session]
