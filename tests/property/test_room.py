"""Publish, lose, return, take over, finish, disable, expire and delete in any order: nothing dangles, and each session ends once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

from harness.clockwork import Clockwork
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from samples import AUDIO, VIDEO, grant

from medianode import clock
from medianode.auth import Takeover
from medianode.config import Limits
from medianode.errors import Conflict, Forbidden, MedianodeError, PeerGone, Unauthorized
from medianode.events import (
    Bus,
    Event,
    PublicationActive,
    PublicationEnded,
    PublicationLost,
    PublicationOpened,
    RoomEnded,
    RoomLive,
)
from medianode.media.gop import GopCache
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.routing.feed import Sink
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room

MAY_FOLLOW: dict[str, set[str]] = {
    "": {"PublicationOpened"},
    "PublicationOpened": {"PublicationOpened", "PublicationActive", "PublicationLost"},  # opened again: taken over by its own
    "PublicationActive": {"PublicationOpened", "PublicationLost"},
    "PublicationLost": {"PublicationOpened", "PublicationEnded"},
    "PublicationEnded": {"PublicationOpened"},
}
HOLD, DURATION = 5.0, 12.0
IDENTITIES = {"IN_1": "obs", "IN_2": "obs", "IN_3": "camera"}
"""Two ingresses share an identity."""


class Player:
    def __init__(self) -> None:
        self.ends = 0
        self.open = False

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.open = bool(tracks)

    def on_packet(self, packet: Packet) -> None:
        assert self.open, "a packet without its tracks"

    def on_gap(self, gap: Gap) -> None:
        """The same player stays."""

    def on_end(self, cause: str) -> None:
        self.ends += 1


class Mirror:
    """A Treatment that hands the publication on."""

    def __init__(self, publication: Publication, forget: Callable[[tuple[Sink, ...]], None]) -> None:
        self.publication = publication
        self.closed = False
        self.treats = False
        self.forget = forget

    @property
    def sinks(self) -> tuple[Sink, ...]:
        return self.publication.sinks

    @property
    def gop(self) -> GopCache:
        return self.publication.gop

    @property
    def tracks(self) -> tuple[Track, ...]:
        return self.publication.tracks

    def attach(self, sink: Sink, *, replay: bool = True) -> None:
        self.publication.attach(sink, replay=replay)

    def move(self, sink: Sink) -> None:
        self.attach(sink)

    def detach(self, sink: Sink) -> None:
        self.publication.detach(sink)

    def request_keyframe(self) -> None:
        self.publication.request_keyframe()

    def renew(self) -> None:
        assert not self.closed

    def close(self) -> None:
        assert not self.closed
        assert self.sinks == ()
        self.closed = True


class RoomMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = Clockwork()
        self.patch = mock.patch.object(clock, "now", self.loop.time)
        self.patch.start()
        self.facts: list[Event] = []
        bus = Bus()
        bus.subscribe(Event, self.facts.append)
        self.registry = Registry(bus, Limits())
        self.mirrors: list[Mirror] = []
        self.registry.treat = self._treat
        self.doors: dict[Publication, Room] = {}
        self.players: list[Player] = []
        self.rooms_of: dict[Player, Room] = {}
        self.disabled: set[str] = set()
        self.deleted: set[str] = set()
        self.dts = 0

    def teardown(self) -> None:
        try:
            self.registry.treat = None
            for publication, room in tuple(self.doors.items()):
                self.loop.do(lambda p=publication, r=room: r.end(p, "closed"))  # type: ignore[misc]
            self.loop.at += HOLD + 1
            self.loop.turn()
            assert self.registry.publications == []
            assert self.loop.timers == 0
            for ingress in IDENTITIES:
                assert self._last(ingress) in ("", "PublicationEnded")
            for player in self.players:
                if player in self.rooms_of and not player.ends:
                    self.loop.do(lambda p=player: self.rooms_of[p].detach(p))  # type: ignore[misc]
            assert len(self.registry) == 0
            assert all(mirror.closed for mirror in self.mirrors)
        finally:
            self.patch.stop()
            self.loop.close()

    @rule(
        ingress=st.sampled_from(sorted(IDENTITIES)),
        takeover=st.sampled_from(Takeover),
        height=st.sampled_from([0, 240]),
        limited=st.booleans(),
        active=st.booleans(),
    )
    def publish(self, ingress: str, takeover: Takeover, height: int, limited: bool, active: bool) -> None:
        leave = grant(
            ingress_id=ingress,
            identity=IDENTITIES[ingress],
            takeover=takeover,
            hold=HOLD,
            max_height=height,
            max_duration=DURATION if limited else 0.0,
        )

        def go() -> None:
            kicked: list[MedianodeError] = []
            try:
                room, publication = self.registry.publish(leave, "rtmp", "192.0.2.1", kicked.append)
            except Conflict:
                assert takeover is Takeover.REJECT
                return
            except (Forbidden, Unauthorized):
                assert ingress in self.disabled | self.deleted
                return
            assert ingress not in self.disabled | self.deleted
            self.doors[publication] = room
            if active:
                self._show(publication)

        self.loop.do(go)

    @precondition(lambda self: self.doors)
    @rule(data=st.data())
    def show(self, data: Any) -> None:
        publication = data.draw(st.sampled_from(list(self.doors)))
        self.loop.do(lambda: self._show(publication))

    @precondition(lambda self: self.doors)
    @rule(data=st.data(), failed=st.booleans(), final=st.booleans())
    def lose(self, data: Any, failed: bool, final: bool) -> None:
        publication = data.draw(st.sampled_from(list(self.doors)))
        room = self.doors.pop(publication)
        self.loop.do(lambda: room.end(publication, "connection-reset", failed=failed, final=final))

    @rule(ingress=st.sampled_from(sorted(IDENTITIES)), final=st.booleans())
    def kick(self, ingress: str, final: bool) -> None:
        before = self._last(ingress)
        self.loop.do(lambda: self.registry.kick_ingress(ingress, PeerGone("finished", code="finished"), final=final))
        if final:
            assert self._last(ingress) in ("", "PublicationEnded")
        elif before in ("PublicationOpened", "PublicationActive"):
            assert self._last(ingress) in ("PublicationLost", "PublicationEnded")

    @rule(ingress=st.sampled_from(sorted(IDENTITIES)), on=st.booleans())
    def disable(self, ingress: str, on: bool) -> None:
        if on:
            self.disabled.discard(ingress)
            self.registry.enable_ingress(ingress)
            return
        self.disabled.add(ingress)
        self.loop.do(lambda: self.registry.disable_ingress(ingress, PeerGone("disabled", code="ingress-disabled")))
        assert self._last(ingress) in ("", "PublicationEnded")

    @precondition(lambda self: len(self.deleted) < 2)
    @rule(ingress=st.sampled_from(["IN_2", "IN_3"]))
    def delete(self, ingress: str) -> None:
        self.deleted.add(ingress)
        self.registry.retire_ingress(ingress)
        self.loop.do(lambda: self.registry.kick_ingress(ingress, PeerGone("deleted", code="ingress-deleted")))
        assert self._last(ingress) in ("", "PublicationEnded")

    @rule(seconds=st.integers(1, 14))
    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.loop.at += 1.0
            self.loop.turn()

    @precondition(lambda self: len(self.registry))
    @rule()
    def watch(self) -> None:
        player, room = Player(), next(iter(self.registry))
        self.players.append(player)
        self.rooms_of[player] = room
        self.loop.do(lambda: room.attach(player))

    @precondition(lambda self: any(p in self.rooms_of for p in self.players))
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        player = data.draw(st.sampled_from([p for p in self.players if p in self.rooms_of]))
        room = self.rooms_of.pop(player)
        self.loop.do(lambda: room.detach(player))

    @invariant()
    def facts_of_each_ingress_are_in_order(self) -> None:
        for ingress in IDENTITIES:
            told = [type(f).__name__ for f in self.facts if getattr(f, "ingress_id", None) == ingress]
            for before, after in zip(["", *told], told, strict=False):
                assert after in MAY_FOLLOW[before], (ingress, told)
        rooms = [type(f) for f in self.facts if isinstance(f, RoomLive | RoomEnded)]
        assert rooms == [(RoomLive, RoomEnded)[i % 2] for i in range(len(rooms))]

    @invariant()
    def nothing_dangles(self) -> None:
        holds = policies = 0
        for room in self.registry:
            live = set(room.publications.values())
            holds += len(room._holds)
            policies += sum(policy._timer is not None for policy in room._policies.values())
            assert set(room._policies) <= live
            assert not any(p.ended for p in live)
            assert not set(room.publications) & set(room._holds), "held or there, not both"
            assert set(room._sessions) <= set(room.publications) | set(room._holds)
            assert room.programme is None or room.programme in live
            watching = {p for p, r in self.rooms_of.items() if r is room and not p.ends}
            assert watching == set(room._sinks)
            if room.programme is not None:
                assert set(room.programme.sinks) == watching
        assert self.loop.timers == holds + policies
        assert all(p.sinks == () for p in self.doors if p.ended)
        assert sum(not mirror.closed for mirror in self.mirrors) <= len(self.registry)
        assert all(player.ends <= 1 for player in self.players)

    @invariant()
    def nobody_is_on_air_longer_than_it_may(self) -> None:
        for room in self.registry:
            for publication in room.publications.values():
                if publication.active and publication.grant.max_duration:
                    since = room._sessions[publication.grant.identity].since
                    assert since is not None
                    assert self.loop.at - since < DURATION

    def _show(self, publication: Publication) -> None:
        if not publication.tracks:
            publication.set_tracks((VIDEO, AUDIO))
        self.dts += 3000
        publication.write(Packet(VIDEO, b"v", self.dts, self.dts, True, self.loop.at))

    def _last(self, ingress: str) -> str:
        kinds = (PublicationOpened, PublicationActive, PublicationLost, PublicationEnded)
        told = [type(f).__name__ for f in self.facts if isinstance(f, kinds) and f.ingress_id == ingress]
        return told[-1] if told else ""

    def _treat(self, publication: Publication, forget: Callable[[tuple[Sink, ...]], None]) -> Mirror:
        self.mirrors.append(Mirror(publication, forget))
        return self.mirrors[-1]


RoomMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestRoom = RoomMachine.TestCase
