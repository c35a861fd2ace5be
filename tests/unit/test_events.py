from __future__ import annotations

import pytest

from medianode.events import Bus, Event, KeyRevoked, RoomEnded, RoomLive


def test_in_order_and_by_kind() -> None:
    bus, seen = Bus(), []
    bus.subscribe(RoomLive, lambda e: seen.append(("first", e)))
    bus.subscribe(Event, lambda e: seen.append(("all", e)))
    bus.subscribe(RoomLive, lambda e: seen.append(("last", e)))
    live, ended = RoomLive("prj_1", "live-a"), RoomEnded("prj_1", "live-a")
    bus.publish(live)
    bus.publish(ended)
    assert seen == [("first", live), ("all", live), ("last", live), ("all", ended)]


def test_unsubscribe_ends_one_subscription_and_twice_is_harmless() -> None:
    bus, seen = Bus(), []
    stop = bus.subscribe(RoomLive, seen.append)
    bus.subscribe(RoomLive, seen.append)
    stop()
    stop()
    bus.publish(RoomLive("p", "r"))
    assert len(seen) == 1


def test_one_that_raises_does_not_stop_the_others() -> None:
    bus, seen = Bus(), []

    def bad(_: Event) -> None:
        raise ValueError("bad")

    bus.subscribe(KeyRevoked, bad)
    bus.subscribe(KeyRevoked, seen.append)
    bus.subscribe(KeyRevoked, bad)
    with pytest.raises(ExceptionGroup, match="KeyRevoked") as caught:
        bus.publish(KeyRevoked("key_1", None))
    assert [type(e) for e in caught.value.exceptions] == [ValueError, ValueError]
    assert len(seen) == 1


def test_subscribers_may_publish_and_unsubscribe() -> None:
    bus, seen = Bus(), []
    stops = []

    def once(e: RoomLive) -> None:
        stops[0]()
        bus.publish(RoomEnded(e.project_id, e.room))

    stops.append(bus.subscribe(RoomLive, once))
    bus.subscribe(Event, seen.append)
    bus.publish(RoomLive("p", "r"))
    bus.publish(RoomLive("p", "s"))
    assert seen == [RoomEnded("p", "r"), RoomLive("p", "r"), RoomLive("p", "s")]
