from __future__ import annotations

import asyncio

from medianode.store.endpoints import WebhookEndpoint
from medianode.store.lanes import LaneKey, PendingLetter
from medianode.webhooks.lane import DOWN, FORGET, LARGEST_BATCH, LONGEST_PAUSE, Lane, Outlet

ENDPOINT = WebhookEndpoint(
    id="wh_1", project_id="prj_1", name="", url="http://a.example/", events=("*",), dialect="baxcloud", created_at=0.0, updated_at=0.0
)


def outlet(lanes: int = 0) -> Outlet:
    made = Outlet(ENDPOINT, asyncio.Semaphore(8))
    for i in range(lanes):
        made.lanes[f"s{i}"] = Lane(LaneKey("wh_1", f"s{i}"), made, 0, 100.0)
    return made


def fail(end: Outlet, times: int, now: float = 0.0, retry_after: float | None = None) -> None:
    for _ in range(times):
        end.failed(end.down, 5.0, 3600.0, now, retry_after)


def test_room_while_all_is_well() -> None:
    assert outlet().room(64, 512, 0.0) == 64
    assert outlet(60).room(64, 512, 0.0) == 4
    assert outlet(64).room(64, 512, 0.0) == 0
    assert outlet(64).room(64, 512, 0.0, freed=3) == 3
    assert outlet(60).room(64, 2, 0.0) == 2


def test_the_first_lane_is_always_to_be_had() -> None:
    assert outlet().room(64, -100, 0.0) == 1
    assert outlet(1).room(64, -100, 0.0) == 0


def test_one_lane_while_it_is_down_and_pauses_that_grow() -> None:
    end = outlet()
    fail(end, DOWN - 1)
    assert (end.down, end.room(64, 512, 0.0), end.may_send(0.0)) == (False, 64, True)
    fail(end, 1)
    assert (end.down, end.room(64, 512, 0.0), end.room(64, 512, 5.0), end.may_send(4.9), end.may_send(5.0)) == (True, 0, 1, False, True)
    end.sending = 1
    assert not end.may_send(5.0)
    pauses = []
    for _ in range(6):
        fail(end, 1)
        pauses.append(end.pause)
    assert pauses == [10.0, 20.0, 40.0, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_attempts_that_were_under_way_when_it_went_down_do_not_prolong_the_pause() -> None:
    end = outlet()
    for _ in range(8):
        end.failed(False, 5.0, 3600.0, 0.0, None)
    assert end.pause == 5.0


def test_it_asks_to_be_left_alone() -> None:
    end = outlet()
    fail(end, 1, retry_after=30.0)
    assert (end.down, end.may_send(29.0), end.may_send(30.0)) == (False, False, True)
    fail(end, 1, retry_after=1e9)
    assert end.may_send(LONGEST_PAUSE)


def test_one_success_ends_it() -> None:
    end = outlet()
    fail(end, DOWN + 2)
    assert end.worth_keeping(10.0)
    end.succeeded()
    assert (end.down, end.back, end.pause, end.may_send(0.0)) == (False, True, 0.0, True)
    end.back = False
    assert not end.worth_keeping(0.0)
    fail(end, 1)
    assert end.worth_keeping(FORGET - 1)
    assert not end.worth_keeping(FORGET + 1)


def test_batches_are_what_is_sent_in_a_second() -> None:
    end = outlet()
    end.sent(16, 160.0)
    assert end.batch == 1
    end.sent(1, 0.001)
    assert end.batch == 4
    for _ in range(5):
        end.sent(256, 0.1)
    assert end.batch == LARGEST_BATCH
    end.sent(0, 10.0)
    assert end.batch == LARGEST_BATCH


def test_a_lane_wants_more_when_half_is_sent_and_there_may_be_more() -> None:
    lane = Lane(LaneKey("wh_1", "s"), outlet(), 0, 100.0)
    letters = [PendingLetter(id=i, event_id="e", type="t", body=b"", attempts=0, created_at=0.0) for i in range(16)]
    lane.give(letters, full=True)
    assert (lane.behind, lane.thirsty) == (15, False)
    for _ in range(8):
        lane.given.popleft()
    assert lane.thirsty
    lane.give([], full=False)
    assert (lane.behind, lane.thirsty) == (15, False)
