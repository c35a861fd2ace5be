"""A room with a slate and a backup, and publishers that come, freeze, go and come back in any order: what a player is handed stays sound.

Per track dts never goes back between gaps; video begins with a key frame after its tracks and after every gap; between two gaps all
packets are of one source; who is shown is who the rule names.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

from harness.clockwork import Clockwork
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from samples import AUDIO, VIDEO, grant

from medianode import clock
from medianode.config import Limits
from medianode.events import Bus
from medianode.media.packet import Gap, Packet
from medianode.media.track import Track
from medianode.routing.fallback import Fallback, Loop, Strand
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.routing.room import Room

HOLD, FRAME = 8.0, 3000
NAMES = ("main", "other", "spare")
SLATE = Loop(
    (
        Strand(VIDEO, tuple(Packet(VIDEO, b"slate", n * FRAME, n * FRAME, n == 0, 0.0) for n in range(30)), 30 * FRAME),
        Strand(AUDIO, (Packet(AUDIO, b"slate", 0, 0, True, 0.0),), 1024),
    ),
    100,
)


class Player:
    """Checks all that it is handed."""

    def __init__(self, *, evidence: bool = False) -> None:
        self.evidence = evidence
        self.tracks: tuple[Track, ...] = ()
        self.source = b""
        self.last: dict[int, int] = {}
        self.begun = False
        self.over = False

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        self.tracks = tracks
        self._anew()

    def on_packet(self, packet: Packet) -> None:
        assert packet.track in self.tracks
        assert not (self.evidence and packet.data == b"slate")
        if packet.track.is_video and not self.begun:
            assert packet.keyframe, "video begins with a key frame"
            self.begun = True
        assert self.source in (b"", packet.data), "two sources without a gap"
        self.source = packet.data
        assert packet.dts >= self.last.get(packet.track.id, packet.dts)
        self.last[packet.track.id] = packet.dts

    def on_gap(self, gap: Gap) -> None:
        self._anew()

    def on_end(self, cause: str) -> None:
        self.over = True

    def _anew(self) -> None:
        self.source, self.last, self.begun = b"", {}, False


class Ready:
    """Slates are there at once, or a while later."""

    def __init__(self, machine: FallbackMachine) -> None:
        self._machine = machine

    def find(self, project_id: str, room: str, slate: str, like: tuple[Track, ...], ready: Any) -> Loop | None:
        if self._machine.slow:
            self._machine.waiting.append(ready)
            return None
        return SLATE


class FallbackMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = Clockwork()
        self.patch = mock.patch.object(clock, "now", self.loop.time)
        self.patch.start()
        self.registry = Registry(Bus(), Limits())
        self.fallback: Fallback | None = Fallback(slate="s/1", backup="IN_spare", frozen=2.0, patience=3.0)
        self.registry.slates.of = lambda project, room: self.fallback
        self.registry.slates.loops = Ready(self)
        self.slow = False
        self.waiting: list[Any] = []
        self.on: dict[str, tuple[Room, Publication]] = {}
        self.dts = 0
        self.frozen: set[str] = set()
        self.players: list[Player] = []
        self.where: dict[Player, Room] = {}

    def teardown(self) -> None:
        try:
            self.fallback = None
            for room in self.registry:
                self.loop.do(lambda r=room: r.fall_back(None))  # type: ignore[misc]
            for name in tuple(self.on):
                self._end(name)
            self._pass(HOLD + 2)
            assert self.registry.publications == []
            assert self.registry.slates.playing == ()
            for player, room in self.where.items():
                if not player.over:
                    self.loop.do(lambda r=room, p=player: r.detach(p))  # type: ignore[misc]
            assert len(self.registry) == 0
            assert self.loop.timers == 0
        finally:
            self.patch.stop()
            self.loop.close()

    @rule(name=st.sampled_from(NAMES))
    def come(self, name: str) -> None:
        if name not in self.on:
            leave = grant(ingress_id=f"IN_{name}", identity=name, hold=HOLD)
            self.loop.do(lambda: self.on.__setitem__(name, self.registry.publish(leave, "rtmp", "192.0.2.1", lambda error: None)))
            self.loop.do(lambda: self.on[name][1].set_tracks((VIDEO, AUDIO)))

    @precondition(lambda self: self.on)
    @rule(data=st.data())
    def go(self, data: Any) -> None:
        self._end(data.draw(st.sampled_from(sorted(self.on))))

    @precondition(lambda self: self.on)
    @rule(data=st.data())
    def freeze_or_thaw(self, data: Any) -> None:
        self.frozen ^= {data.draw(st.sampled_from(sorted(self.on)))}

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        self._pass(seconds)

    @rule(slow=st.booleans())
    def slates_take_long(self, slow: bool) -> None:
        self.slow = slow
        if not slow:
            ready, self.waiting = self.waiting, []
            for call in ready:
                self.loop.do(call)

    @rule(always=st.booleans(), backup=st.booleans(), version=st.integers(1, 2))
    def change(self, always: bool, backup: bool, version: int) -> None:
        self.fallback = Fallback(slate=f"s/{version}", always=always, backup="IN_spare" if backup else "", frozen=2.0, patience=3.0)
        self.loop.do(lambda: self.registry.fall_back("live", "p", "live-a"))

    @rule(evidence=st.booleans())
    def watch(self, evidence: bool) -> None:
        room = self.registry.find("p", "live-a")
        if room is not None:
            player = Player(evidence=evidence)
            self.players.append(player)
            self.where[player] = room
            self.loop.do(lambda: room.attach(player))

    @invariant()
    def who_is_shown_is_who_the_rule_names(self) -> None:
        room = self.registry.find("p", "live-a")
        if room is None:
            return
        first = [p for p in room.publications.values() if p.active and p.grant.ingress_id != "IN_spare"]
        assert room.slated == (room.programme in [slate.publication for slate in self.registry.slates.playing] and bool(room.programme))
        assert len(self.registry.slates.playing) == room.slated
        if room.slated:
            assert not [p for p in room.publications.values() if p.active], "somebody publishes"
        if not (self.fallback and self.fallback.backup) and first:
            assert room.programme in room.publications.values()
        if room.backed_up:
            assert room._watch is not None
            assert not any(room._watch.well(p) for p in first), "one before it is well"
        if self.fallback and self.fallback.always and not self.slow:
            assert room.on_air

    def _pass(self, seconds: float) -> None:
        """In steps of a picture; all that publish and are not frozen write, each its own bytes."""
        for step in range(int(seconds * 10)):
            self.loop.at += 0.1
            self.dts += FRAME
            for name, (_, publication) in tuple(self.on.items()):
                if name not in self.frozen and not publication.ended:
                    key, data = step % 10 == 0, name.encode()
                    sound = self.dts * 48_000 // 90_000
                    self.loop.do(lambda p=publication, k=key, d=data: p.write(Packet(VIDEO, d, self.dts, self.dts, k, self.loop.at)))  # type: ignore[misc]
                    self.loop.do(lambda p=publication, d=data, s=sound: p.write(Packet(AUDIO, d, s, s, True, self.loop.at)))  # type: ignore[misc]
            for slate in self.registry.slates.playing:
                self.loop.do(lambda s=slate: s.advance(self.loop.at))  # type: ignore[misc]
            if step % 10 == 9:
                self.loop.do(lambda: self.registry.look(self.loop.at))
        self.loop.turn()

    def _end(self, name: str) -> None:
        room, publication = self.on.pop(name)
        self.frozen.discard(name)
        self.loop.do(lambda: room.end(publication, "connection-reset"))


FallbackMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFallback = FallbackMachine.TestCase
