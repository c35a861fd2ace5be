"""A picture of more lines than its stream allows, on real publications in a room: what readers are shown, and what that costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from harness.derived import Clip, Recorder, until
from samples import grant

from medianode import clock, config
from medianode.errors import LimitExceeded
from medianode.events import Bus
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room
from medianode.transcode.decode import VideoDecoder
from medianode.transcode.renditions import Renditions, Want
from medianode.transcode.scaled import Scaled

LEAVE = grant(max_height=120, hold=5.0)
PICTURE = "-f lavfi -i testsrc2=size={size}:rate=30:duration=3"
LIVE = f"{PICTURE} -f lavfi -i sine=duration=3 -pix_fmt yuv420p -c:v libx264 -preset ultrafast -bf 2 -g 20 -c:a aac"


class Reader(Recorder):
    def packets(self, *, video: bool = True) -> list[Packet]:
        return [item for item in self.log if isinstance(item, Packet) and item.track.is_video is video]

    @property
    def ends(self) -> list[str]:
        return [item for item in self.log if isinstance(item, str)]


class Follower(Reader):
    passive = True


class Place:
    def __init__(self, renditions: Renditions) -> None:
        self.renditions = renditions
        self.registry = Registry(Bus(), config.Limits())
        self.registry.treat = lambda publication, forget: Scaled(publication, renditions, forget)

    def publish(self, packets: list[Packet] | None = None, **changes: object) -> tuple[Room, Publication]:
        """With the tracks of these packets, on air with the first of them."""
        room, publication = self.registry.publish(replace(LEAVE, **changes), "test", "192.0.2.1", lambda error: None)
        if packets is not None:
            publication.set_tracks(tracks_of(packets))
            write(publication, packets[:1])
        return room, publication

    async def quiet(self) -> None:
        await until(lambda: not self.renditions.threads, "threads")


@asynccontextmanager
async def place(**limits: int) -> AsyncIterator[Place]:
    async with Renditions(config.Limits(**limits), config.Mjpeg(), config.Hls()) as renditions:
        yield Place(renditions)
        await renditions.close()
        assert renditions.threads == 0


async def play(publication: Publication, packets: list[Packet], reader: Reader) -> None:
    """Some first, as a reader's pictures begin where the first batch of them ends."""
    write(publication, packets[:12])
    await until(lambda: bool(reader.tracks), "the first picture")
    write(publication, packets[12:])


def tracks_of(packets: list[Packet]) -> tuple[Track, ...]:
    return tuple(sorted({packet.track.id: packet.track for packet in packets}.values(), key=lambda track: track.id))


def sound_of(packets: list[Packet]) -> list[Packet]:
    return [packet for packet in packets if not packet.track.is_video]


def write(publication: Publication, packets: list[Packet]) -> None:
    for packet in packets:
        publication.write(packet._replace(received_at=clock.now()))


def sizes(packets: list[Packet]) -> set[tuple[int, int]]:
    """Of the pictures, decoded."""
    found, decoders = set(), {}
    for packet in packets:
        decoder = decoders.setdefault(id(packet.track), VideoDecoder(packet.track, 10_000_000))
        found |= {(frame.width, frame.height) for frame in decoder.decode(packet)}
    return found


async def test_all_readers_share_one_smaller_picture_with_the_key_frames_of_the_source(clip: Clip) -> None:
    packets = clip("live.mp4", LIVE.format(size="426x240"))
    async with place() as here:
        room, publication = here.publish(packets)
        one, two = Reader(), Reader()
        room.attach(one)
        room.attach(two)
        async with here.renditions.acquire(room, Want("realtime", "none"), 0.0) as webrtc:
            three = Reader()
            webrtc.attach(three)
            await play(publication, packets[1:], one)
            await until(lambda: len(one.packets()) >= 85 and len(three.packets()) >= 85, "pictures")
            assert here.renditions.threads == 1, "decoded and encoded once for all"
            assert webrtc.treatment == {"video": "copy"}
        keys = sorted(p.pts for p in packets if p.track.is_video and p.keyframe)
        assert [p.pts for p in one.packets() if p.keyframe] == keys, "where the source has them"
        assert sizes(one.packets()) == {(214, 120)}
        assert [t.lines for t in one.tracks if t.is_video] == [120]
        assert [t.codec for t in one.tracks] == [Codec.H264, Codec.AAC]
        shown = [p.pts for p in one.packets()]
        assert shown == [p.pts for p in two.packets()] == sorted(p.pts for p in packets if p.track.is_video)[: len(shown)]
        heard = one.packets(video=False)
        assert len(heard) > 100
        assert heard == [p._replace(received_at=h.received_at) for p, h in zip(sound_of(packets)[-len(heard) :], heard, strict=True)]
        room.detach(one)
        room.detach(two)
        await here.quiet()
        assert publication.sinks == ()


async def test_nothing_is_decoded_where_nobody_looks(clip: Clip) -> None:
    packets = clip("live.mp4", LIVE.format(size="426x240"))
    async with place() as here:
        room, publication = here.publish(packets)
        follower = Follower()
        room.attach(follower, replay=False)
        write(publication, packets[1:60])
        assert room.treated
        assert here.renditions.all == ()
        assert [(t.width, t.height, t.codec) for t in follower.tracks if t.is_video] == [(214, 120, Codec.H264)], "but told what would be"
        reader = Reader()
        room.attach(reader)
        await until(lambda: bool(reader.packets()), "a late joiner's first picture")
        assert reader.packets()[0].keyframe
        late = Reader()
        room.attach(late)
        assert late.packets()[:1] == reader.packets()[:1], "the next one gets what is there"
        assert room.gop is not None
        assert room.gop.keyframe is reader.packets()[0]
        room.detach(reader)
        room.detach(late)
        await here.quiet()


@pytest.mark.parametrize(("size", "shown"), [("240x426", (120, 214)), ("122x150", (120, 148)), ("300x300", (120, 120))])
async def test_the_shorter_side_is_held_and_sizes_stay_even(clip: Clip, size: str, shown: tuple[int, int]) -> None:
    packets = clip("small.mp4", f"{PICTURE.format(size=size)} -pix_fmt yuv420p -c:v libx264 -preset ultrafast")[:30]
    async with place() as here:
        room, publication = here.publish(packets)
        reader = Reader()
        room.attach(reader)
        await play(publication, packets[1:], reader)
        await until(lambda: len(reader.packets()) > 20, "pictures")
        assert sizes(reader.packets()) == {shown}
        room.detach(reader)


async def test_what_fits_is_handed_on_as_it_is(clip: Clip) -> None:
    packets = clip("low.mp4", f"{PICTURE.format(size='160x120')} -pix_fmt yuv420p -c:v libx264 -preset ultrafast")
    async with place(renditions=1) as here:
        room, publication = here.publish(packets)
        reader = Reader()
        room.attach(reader)
        assert publication.sinks == (reader,)
        write(publication, packets[1:])
        assert [p.data for p in reader.packets()] == [p.data for p in packets]
        assert not room.treated
        assert here.renditions.all == ()


async def test_a_picture_that_comes_over_the_limit_while_live_and_goes_back(clip: Clip) -> None:
    low = clip("low.mp4", f"{PICTURE.format(size='160x120')} -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 20")
    high = clip("high.mp4", f"{PICTURE.format(size='320x240')} -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 20")
    async with place() as here:
        room, publication = here.publish(low)
        reader, follower = Reader(), Follower()
        room.attach(follower, replay=False)
        room.attach(reader)
        publication.set_tracks(tracks_of(high))
        assert publication.health.notes
        write(publication, high[:5])
        await until(lambda: len(reader.log) > 4, "scaled pictures")
        write(publication, high[5:])
        await until(lambda: len(reader.packets()) > 50, "scaled pictures")
        publication.set_tracks(tracks_of(low))
        write(publication, low)
        await until(lambda: reader.packets()[-1].data == low[-1].data, "the source's own")
        assert sizes(reader.packets()) == {(160, 120)}
        assert [item.cause for item in reader.log if hasattr(item, "cause")] == ["track-changed", "track-changed"]
        assert [t.width for t in follower.tracks] == [160]
        await here.quiet()
        assert publication.sinks == (follower, reader)


async def test_codec_and_size_change_above_the_limit(clip: Clip) -> None:
    first = clip("high.mp4", f"{PICTURE.format(size='320x240')} -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 20")
    second = clip("high.webm", f"{PICTURE.format(size='426x240')} -c:v libvpx -deadline realtime -cpu-used 8 -g 20")
    async with place(renditions=1) as here:
        room, publication = here.publish(first)
        reader, follower = Reader(), Follower()
        room.attach(follower, replay=False)
        room.attach(reader)
        await play(publication, first[1:], reader)
        await until(lambda: len(reader.packets()) > 30, "pictures of the first")
        publication.set_tracks(tracks_of(second))
        assert [(t.codec, t.width) for t in follower.tracks] == [(Codec.H264, 214)]
        before = len(reader.packets())
        write(publication, second[:12])
        await until(lambda: reader.tracks[0].width == 214, "the new size")
        write(publication, second[12:])
        await until(lambda: len(reader.packets()) > before + 30, "pictures of the second")
        assert reader.ends == []
        assert [t.lines for t in reader.tracks] == [120]
        assert sizes(reader.packets()[-20:]) == {(214, 120)}
        room.detach(reader)


async def test_another_encoder_takes_over_with_the_only_thread(clip: Clip) -> None:
    packets = clip("live.mp4", LIVE.format(size="426x240"))
    async with place(renditions=1) as here:
        room, first = here.publish(packets)
        reader = Reader()
        room.attach(reader)
        await play(first, packets[1:100], reader)
        await until(lambda: len(reader.packets()) > 20, "pictures")
        _, second = here.publish(packets)
        assert first.ended
        before = len(reader.packets())
        write(second, packets[1:])
        await until(lambda: len(reader.packets()) > before, "pictures of the second")
        assert reader.ends == []
        assert sizes(reader.packets()[before:]) == {(214, 120)}
        room.end(second, "closed")
        assert room.held
        await here.quiet()
        room.release("obs")


async def test_without_a_thread_nobody_is_shown_the_full_size(clip: Clip) -> None:
    packets = clip("high.mp4", f"{PICTURE.format(size='320x240')} -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 20")
    low = clip("low.mp4", f"{PICTURE.format(size='160x120')} -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 20")
    async with place(renditions=1) as here:
        other, _ = here.publish(packets, room="live-other")
        busy = Reader()
        other.attach(busy)
        room, publication = here.publish(packets)
        reader = Reader()
        with pytest.raises(LimitExceeded) as e:
            room.attach(reader)
        assert e.value.code == "node-full"
        with pytest.raises(LimitExceeded):
            async with here.renditions.acquire(room, Want(), 0.0):
                pass
        assert reader.log == []
        publication.set_tracks(tracks_of(low))
        room.attach(reader)  # what fits needs no thread
        publication.set_tracks(tracks_of(packets))
        write(publication, packets)
        await until(lambda: reader.ends == ["node-full"], "who was there is told")
        assert reader.packets() == []
        assert "could not be made smaller: the node runs 1 renditions" in publication.health.last_error
        room.detach(reader)
        other.detach(busy)
        await here.quiet()
        room.attach(again := Reader())
        write(publication, packets)
        await until(lambda: bool(again.packets()), "once there is one")
        room.detach(again)


async def test_who_waits_for_every_packet_is_told_to_the_door(clip: Clip) -> None:
    packets = clip("live.mp4", LIVE.format(size="426x240"))
    async with place() as here:
        room, publication = here.publish(packets)
        reader = Reader()
        room.attach(reader)
        assert not publication.realtime
        reader.realtime = True  # type: ignore[attr-defined]
        assert publication.realtime
        room.request_keyframe()
        room.detach(reader)


async def test_a_layer_over_the_limit_is_left_out_and_the_others_pass(clip: Clip) -> None:
    high = clip("high.mp4", f"{PICTURE.format(size='320x240')} -pix_fmt yuv420p -c:v libx264 -preset ultrafast -g 20")
    track = high[0].track
    layers = (track, replace(track, id=4, layer="h"), replace(track, id=6, layer="l", width=160, height=120))
    async with place() as here:
        room, publication = here.publish()
        publication.set_tracks(layers)
        write(publication, high[:1])
        reader = Reader()
        room.attach(reader)
        write(publication, high[1:30])
        await until(lambda: bool(reader.packets()), "pictures")
        assert [(t.id, t.layer, t.lines) for t in reader.tracks] == [(track.id, "", 120), (6, "l", 120)]
        room.detach(reader)
