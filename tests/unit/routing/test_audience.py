"""The audience: counted, bounded, and put out when its leave ends; and a project's bounds on who publishes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from samples import VIDEO, grant

from medianode.auth import ReadGrant
from medianode.config import Limits
from medianode.errors import Forbidden, LimitExceeded, MedianodeError, PeerGone, Unauthorized
from medianode.events import Bus
from medianode.media.packet import Packet
from medianode.routing.registry import Registry
from medianode.routing.room import Room

LEAVE = ReadGrant(project_id="p", slug="live", room="live-a", token_id="t1", expires_at=100.0)


def no_kick(error: MedianodeError) -> None:
    raise AssertionError(error)


@pytest.fixture
def registry() -> Registry:
    return Registry(Bus(), Limits(viewers_per_room=3))


def on_air(registry: Registry, name: str = "live-a", project: str = "p") -> Room:
    room, publication = registry.publish(grant(project_id=project, room=name, ingress_id=f"IN_{project}{name}"), "rtmp", "", no_kick)
    publication.set_tracks((VIDEO,))
    publication.write(Packet(VIDEO, b"x", 0, 0, True, 1.0))
    return room


async def test_a_visit_is_counted_while_it_lasts(registry: Registry) -> None:
    room = on_air(registry)
    with registry.audience.enter(room, "mjpeg", LEAVE, no_kick) as visit:
        assert (room.viewers["mjpeg"], list(registry.audience)) == (1, [visit])
        visit.leave()
    assert (room.viewers["mjpeg"], len(registry.audience)) == (0, 0)


async def test_a_room_and_a_project_have_bounds(registry: Registry) -> None:
    first, second, foreign = on_air(registry, "live-a"), on_air(registry, "live-b"), on_air(registry, "live-a", "q")
    bounded = replace(LEAVE, max_viewers=4)
    visits = [registry.audience.enter(first, "whep", bounded) for _ in range(3)]
    with pytest.raises(LimitExceeded) as caught:
        registry.audience.enter(first, "whep", bounded)
    assert caught.value.code == "room-full"
    second.count_viewer("hls", 1, 10)  # HLS players have no session, and count all the same
    with pytest.raises(LimitExceeded) as caught:
        registry.audience.enter(second, "rtmp", bounded)
    assert caught.value.code == "project-limit-viewers"
    assert second.viewers.get("rtmp", 0) == 0
    registry.audience.enter(foreign, "rtmp", replace(bounded, project_id="q"))
    visits[0].leave()
    registry.audience.enter(second, "rtmp", bounded)


async def test_who_came_by_a_revoked_token_goes_and_comes_in_no_more(registry: Registry) -> None:
    room = on_air(registry)
    kicked: list[MedianodeError] = []
    registry.audience.enter(room, "whep", LEAVE, kicked.append)
    registry.audience.enter(room, "whep", replace(LEAVE, token_id="t2"), no_kick)
    registry.audience.end_token("q", "t1")  # another project's, that has chosen the same id
    assert kicked == []
    registry.audience.end_token("p", "t1")
    registry.audience.end_token("p", "t1")
    assert [(type(e), e.code) for e in kicked] == [(Unauthorized, "token-revoked")]
    with pytest.raises(Unauthorized):  # its leave was given while it was revoked
        registry.audience.enter(room, "whep", LEAVE)
    assert room.viewers["whep"] == 2, "who was put out is counted until he has gone"


async def test_keys_and_projects_end_too(registry: Registry) -> None:
    room = on_air(registry)
    kicked: list[str] = []
    by_key = replace(LEAVE, token_id="", key_id="key_1")
    registry.audience.enter(room, "rtmp", by_key, lambda e: kicked.append(e.code))
    registry.audience.enter(room, "rtmp", LEAVE, lambda e: kicked.append(e.code))
    registry.audience.end_key("key_1")
    assert kicked == ["key-revoked"]
    registry.audience.end_project("p")
    assert kicked == ["key-revoked", "project-deleted"]
    with pytest.raises(PeerGone):
        registry.audience.enter(room, "rtmp", replace(by_key, key_id=""))


async def test_a_leave_ends_by_itself(registry: Registry) -> None:
    room = on_air(registry)
    kicked: list[str] = []
    registry.audience.enter(room, "rtmp", LEAVE, lambda e: kicked.append(e.code))
    registry.audience.enter(room, "rtmp", replace(LEAVE, expires_at=None), no_kick)
    registry.audience.end_expired(99.9)
    assert kicked == []
    registry.audience.end_expired(100.0)
    registry.audience.end_expired(101.0)
    assert kicked == ["token-expired"]


async def test_a_visit_that_is_ended_before_there_is_anything_to_end(registry: Registry) -> None:
    kicked: list[str] = []
    with registry.audience.enter(on_air(registry), "mjpeg", LEAVE) as visit:
        registry.audience.end_token("p", "t1")
        visit.on_kick(lambda e: kicked.append(e.code))
    assert kicked == ["token-revoked"]


async def test_a_project_bounds_its_publishers_and_rooms(registry: Registry) -> None:
    leave = grant(room="live-a", identity="a", ingress_id="IN_a", max_publishers=2, max_rooms=1)
    registry.publish(leave, "rtmp", "", lambda error: None)
    with pytest.raises(Forbidden) as caught:
        registry.publish(replace(leave, room="live-b", ingress_id="IN_b"), "rtmp", "", no_kick)
    assert caught.value.code == "project-limit-rooms"
    registry.publish(replace(leave, identity="b", ingress_id="IN_c"), "rtmp", "", no_kick)
    with pytest.raises(LimitExceeded) as caught:
        registry.publish(replace(leave, identity="c", ingress_id="IN_d"), "rtmp", "", no_kick)
    assert caught.value.code == "project-limit-publishers"
    registry.publish(replace(leave, project_id="q", identity="c", ingress_id="IN_e"), "rtmp", "", no_kick)
    room, _ = registry.publish(leave, "rtmp", "", no_kick)  # takes its own place
    assert len(room.publications) == 2


async def test_a_revoked_token_and_a_deleted_project_publish_no_more(registry: Registry) -> None:
    kicked: list[str] = []
    guest = grant(identity="guest", ingress_id=None, token_id="t1")
    room, _ = registry.publish(guest, "whip", "", lambda e: kicked.append(e.code))
    gone = Unauthorized("gone", code="token-revoked")
    registry.end_token("q", "t1", gone)
    assert kicked == [], "of another project"
    registry.end_token("p", "t1", gone)
    assert (kicked, room.publications) == (["token-revoked"], {})
    with pytest.raises(Unauthorized):
        registry.publish(guest, "whip", "", no_kick)
    held = on_air(registry, "live-h")
    held.end(next(iter(held.publications.values())), "publisher-left")
    assert held.held
    registry.publish(replace(guest, token_id="t2"), "whip", "", lambda e: kicked.append(e.code))
    registry.end_project("p", PeerGone("gone", code="project-deleted"))
    assert (kicked[1:], len(registry)) == (["project-deleted"], 0)
    with pytest.raises(Unauthorized):
        registry.publish(replace(guest, token_id="t3"), "whip", "", no_kick)
