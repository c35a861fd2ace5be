"""What a grant allows over time: seconds on air, bits per second, lines of picture; and how a session is finished or disabled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from harness.sinks import Sink
from samples import AUDIO, VIDEO, grant

from medianode import clock
from medianode.config import Limits
from medianode.errors import Forbidden, MedianodeError, PeerGone
from medianode.events import Bus, Event, PublicationEnded, PublicationLost
from medianode.media.packet import Packet
from medianode.media.track import Track
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room

LEAVE = grant(hold=5.0)
TALL = replace(VIDEO, width=1920, height=1080)
FINISHED = PeerGone("the stream was finished", code="finished")


class Place:
    """A registry, what it told, and the encoders that were put out."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.facts: list[Any] = []
        self.kicked: list[str] = []
        self.bus.subscribe(Event, self.facts.append)
        self.registry = Registry(self.bus, Limits())

    def publish(self, tracks: tuple[Track, ...] = (VIDEO,), **changes: Any) -> Publication:
        made = self.registry.publish(replace(LEAVE, **changes), "rtmp", "192.0.2.1", self._kick)[1]
        made.set_tracks(tracks)
        if not made.ended:
            self.write(made)
        return made

    def write(self, publication: Publication, nbytes: int = 1) -> None:
        publication.write(Packet(publication.tracks[0], bytes(nbytes), 0, 0, True, clock.now()))

    @property
    def room(self) -> Room:
        found = self.registry.find("p", "live-a")
        assert found is not None
        return found

    def causes(self, kind: type[PublicationLost | PublicationEnded]) -> list[str]:
        return [fact.cause for fact in self.facts if type(fact) is kind]

    def _kick(self, error: MedianodeError) -> None:
        self.kicked.append(error.code)


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`time[0]` is what the clock is ahead."""
    ahead = [0.0]
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + ahead[0])
    return ahead


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_was_on_air_long_enough_is_put_out_for_good(place: Place) -> None:
    first = place.publish(max_duration=0.01)
    player = Sink(ends=True)
    place.room.attach(player)
    while not first.ended:
        await asyncio.sleep(0.005)
    await turn()
    assert place.kicked == ["max-duration"]
    assert place.causes(PublicationLost) == place.causes(PublicationEnded) == ["max-duration"], "no hold"
    assert player.ended == ["stream-ended"]


async def test_the_duration_counts_over_reconnects_and_anew_for_a_new_session(place: Place, time: list[float]) -> None:
    first = place.publish(max_duration=100.0)
    time[0] = 60.0
    place.room.end(first, "closed")
    second = place.publish(max_duration=100.0)
    timer = place.room._policies[second]._timer
    assert timer is not None
    assert timer.when() - asyncio.get_running_loop().time() == pytest.approx(40.0, abs=1.0)
    place.room.end(second, "closed", final=True)
    assert timer.cancelled()
    third = place.publish(max_duration=100.0)
    timer = place.room._policies[third]._timer
    assert timer is not None
    assert timer.when() - asyncio.get_running_loop().time() == pytest.approx(100.0, abs=1.0)
    place.room.end(third, "closed", final=True)


async def test_a_hold_ends_with_the_duration(place: Place, time: list[float]) -> None:
    first = place.publish(max_duration=100.0, hold=60.0)
    time[0] = 90.0
    place.room.end(first, "closed")
    timer = place.room._holds["obs"][0]
    assert timer.when() - asyncio.get_running_loop().time() == pytest.approx(10.0, abs=1.0)
    place.room.release("obs")


async def test_waiting_for_the_first_picture_is_not_on_air(place: Place) -> None:
    waiting = place.registry.publish(replace(LEAVE, max_duration=0.001), "rtmp", "192.0.2.1", place._kick)[1]
    await asyncio.sleep(0.01)
    assert not waiting.ended


async def test_a_bitrate_over_the_limit_is_told_and_then_put_out(place: Place) -> None:
    publication = place.publish(max_bitrate=1_000_000)

    def second(now: float, nbytes: int) -> None:
        place.write(publication, nbytes)
        for meter in publication.meters.values():
            meter.sample(now)
        place.registry.look(now)

    for now in range(1, 6):
        second(float(now), 100_000 if now % 2 else 140_000)  # a key frame in each second one
    assert publication.health.notes == {}
    for now in range(6, 20):
        second(float(now), 200_000)
        if publication.ended:
            break
        if now > 9:
            assert publication.health.notes["bitrate-limit"].startswith("1600 kbit/s, the stream allows 1000")
    assert publication.ended
    assert now >= 16
    await turn()
    assert place.kicked == ["bitrate-limit"]


async def test_who_reconnects_is_not_forgiven_its_bitrate(place: Place) -> None:
    now, turns = 0.0, 0
    while not place.kicked and turns < 10:
        publication = place.publish(max_bitrate=1_000_000)
        turns += 1
        for _ in range(7):
            now += 1.0
            place.write(publication, 200_000)
            for meter in publication.meters.values():
                meter.sample(now)
            place.registry.look(now)
            await turn()
            if publication.ended:
                break
        else:
            place.room.end(publication, "peer-gone")
    assert place.kicked == ["bitrate-limit"]
    assert turns == 3


async def test_a_burst_is_borne(place: Place) -> None:
    publication = place.publish(max_bitrate=1_000_000)
    for now, nbytes in enumerate((100_000, 900_000, 900_000, *[100_000] * 12), 1):
        place.write(publication, nbytes)
        publication.meters[0].sample(float(now))
        place.registry.look(float(now))
    assert not publication.ended
    assert publication.health.notes == {}


async def test_layers_of_simulcast_are_counted_once(place: Place) -> None:
    low = replace(VIDEO, id=2, layer="l")
    publication = place.publish((VIDEO, low, AUDIO))
    for number, meter in publication.meters.items():
        meter.bitrate = 10.0**number
    assert publication.bitrate == 110.0


async def test_a_picture_over_the_limit_is_refused_where_transcoding_is_off(place: Place) -> None:
    publication = place.publish((TALL, AUDIO), max_height=720, enable_transcoding=False)
    assert publication.ended
    assert place.kicked == [], "its door is calling: it hears of it in the next turn"
    await turn()
    assert place.kicked == ["resolution-too-high"]
    lost = next(fact for fact in place.facts if isinstance(fact, PublicationLost))
    assert lost.failure
    assert "expected at most 720" in lost.message


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (720, 1280), (0, 0), (640, 2000)])
async def test_what_fits_is_let_in(place: Place, width: int, height: int) -> None:
    publication = place.publish((replace(VIDEO, width=width, height=height),), max_height=720, bypass_transcoding=True)
    assert not publication.ended
    assert publication.health.notes == {}


async def test_a_picture_that_grows_over_the_limit_while_live_is_told(place: Place) -> None:
    publication = place.publish((replace(TALL, width=1280, height=720),), max_height=720)
    publication.set_tracks((TALL,))
    assert publication.health.notes == {"resolution-too-high": "1080 lines, the stream allows 720: players get 720"}
    assert not publication.ended
    publication.set_tracks((replace(TALL, width=1280, height=720),))
    assert publication.health.notes == {}


async def test_finished_ends_what_is_on_air_and_what_is_held(place: Place) -> None:
    place.publish()
    assert place.registry.kick_ingress("IN_1", FINISHED)
    assert (place.kicked, place.causes(PublicationEnded)) == (["finished"], ["finished"])
    again = place.publish()
    assert not again.resumes, "publishing after that is a new session"
    place.room.end(again, "connection-reset")
    assert place.room.held
    assert place.registry.kick_ingress("IN_1", FINISHED)
    assert place.causes(PublicationEnded) == ["finished", "connection-reset"]
    assert len(place.registry) == 0
    assert not place.registry.kick_ingress("IN_1", FINISHED)


async def test_kicked_without_being_finished_it_may_come_back(place: Place) -> None:
    place.publish()
    assert place.registry.kick_ingress("IN_1", PeerGone("the key was reset", code="key-reset"), final=False)
    assert place.room.held
    assert place.publish().resumes


async def test_disabled_nothing_is_opened_until_it_is_enabled(place: Place) -> None:
    place.publish()
    disabled = PeerGone("the live stream was disabled", code="ingress-disabled")
    assert place.registry.disable_ingress("IN_1", disabled)
    with pytest.raises(Forbidden) as e:  # with a grant that was given before
        place.publish()
    assert e.value.code == "ingress-disabled"
    place.registry.enable_ingress("IN_1")
    assert place.publish().active
    assert place.room.on_air
