from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode import clock
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.transcode.mailbox import BEHIND, Item, Mailbox, Mark, Order, Restart, Skipped

VIDEO = Track(1, Codec.H264, 90_000)
AUDIO = Track(2, Codec.AAC, 48_000)


def video(number: int, keyframe: bool = False, size: int = 10) -> Packet:
    return Packet(VIDEO, bytes(size), number, number, keyframe, 0.0)


def audio(number: int, size: int = 10) -> Packet:
    return Packet(AUDIO, bytes(size), number, number, True, 0.0)


def test_gives_all_that_came_in_order() -> None:
    box = Mailbox(10, 1000)
    items = [video(0, True), audio(1), video(2)]
    for item in items:
        box.put(item)
    assert (len(box), box.nbytes) == (3, 30)
    assert box.take() == items
    assert (len(box), box.nbytes) == (0, 0)


def test_a_mark_keeps_its_place_over_all_that_is_dropped() -> None:
    box, mark = Mailbox(2, 1000), Mark(lambda: None)
    box.put(video(0, True))
    box.mark(mark.passed)
    for number in (1, 2):
        box.put(video(number, True))
    assert box.take() == [mark, Skipped(), video(2, True)]
    box.put(audio(4))
    box.mark(mark.passed)
    restart = Restart(1, (Order(AUDIO, Codec.OPUS),))
    box.restart(restart)
    assert box.take() == [restart, mark]
    box.close()
    box.mark(mark.passed)
    assert box.take() is None


def test_overflow_jumps_to_the_newest_key_frame_and_keeps_the_sound() -> None:
    box = Mailbox(6, 1000)
    for item in [video(0, True), video(1), audio(2), video(3, True), video(4), audio(5)]:
        box.put(item)
    box.put(video(6))
    assert box.take() == [audio(2), Skipped(), video(3, True), video(4), audio(5), video(6)]
    assert box.dropped == {BEHIND: 2}


def test_overflow_without_a_newer_key_frame_waits_for_one() -> None:
    box = Mailbox(3, 1000)
    for item in [video(0, True), video(1), video(2), video(3)]:
        box.put(item)
    box.put(video(4))
    box.put(audio(5))
    box.put(video(6, True))
    assert box.take() == [Skipped(), audio(5), video(6, True)]
    assert box.dropped == {BEHIND: 5}


def test_key_frames_alone_leave_the_newest() -> None:
    box = Mailbox(1, 1000)
    for number in range(5):
        box.put(video(number, True))
    assert box.take() == [Skipped(), video(4, True)]


def test_sound_goes_oldest_first() -> None:
    box = Mailbox(3, 1000)
    for number in range(5):
        box.put(audio(number))
    assert box.take() == [audio(2), audio(3), audio(4)]
    assert box.dropped == {BEHIND: 2}


def test_bytes_are_bounded_too() -> None:
    box = Mailbox(100, 100)
    for number in range(5):
        box.put(audio(number, 40))
    assert box.nbytes == 80
    box.put(audio(9, 500))
    assert (len(box), box.nbytes) == (0, 0)


def test_restart_forgets_the_old_timeline() -> None:
    box = Mailbox(10, 1000)
    box.put(video(0, True))
    box.restart(Restart(1, (Order(VIDEO, Codec.MJPEG),)))
    box.put(audio(1))
    assert box.take() == [Restart(1, (Order(VIDEO, Codec.MJPEG),)), audio(1)]
    assert box.dropped == {}


@pytest.mark.parametrize("linger", [0.0, 30.0])
def test_close_wakes_the_reader(linger: float) -> None:
    box = Mailbox(10, 1000)
    taken: list[list[Item] | None] = []
    thread = threading.Thread(target=lambda: taken.append(box.take(linger)))
    thread.start()
    if linger:
        box.put(audio(0))
    box.close()
    thread.join(10)
    assert taken == [None]
    box.put(audio(1))
    box.restart(Restart(1, ()))
    assert len(box) == 0


def test_linger_ends_when_half_of_the_bound_is_passed() -> None:
    box = Mailbox(4, 1000)
    taken: list[list[Item] | None] = []
    thread = threading.Thread(target=lambda: taken.append(box.take(60.0)))
    thread.start()
    for number in range(3):
        box.put(audio(number))
    thread.join(10)
    assert taken == [[audio(0), audio(1), audio(2)]]


@given(st.lists(st.tuples(st.sampled_from(["audio", "video", "key", "take"]), st.integers(0, 60)), max_size=80))
def test_bounds_hold_video_resumes_on_a_key_frame_and_all_is_accounted_for(steps: list[tuple[str, int]]) -> None:
    box = Mailbox(5, 100)
    pushed = delivered = 0
    resumes = False
    last: dict[int, int] = {}
    for number, (kind, size) in enumerate([*steps, ("audio", 1), ("take", 0)]):
        if kind != "take":
            pushed += 1
            box.put(audio(number, size) if kind == "audio" else video(number, kind == "key", size))
            assert len(box) <= 5
            assert box.nbytes <= 100
            continue
        if not box._items:
            continue
        for item in box.take() or []:
            if isinstance(item, Skipped):
                resumes = True
            elif isinstance(item, Packet):
                delivered += 1
                assert item.pts > last.get(item.track.id, -1)
                last[item.track.id] = item.pts
                if item.track.is_video and resumes:
                    assert item.keyframe
                    resumes = False
    assert delivered + box.dropped.get(BEHIND, 0) == pushed


def test_a_reader_that_expects_more_sleeps_until_its_batch_is_there() -> None:
    box = Mailbox(100, 1 << 20)
    taken: list[list[Item] | None] = []
    ready = threading.Event()

    def read() -> None:
        ready.set()
        while (items := box.take(30.0, 3)) is not None:  # the time never comes: only the batch wakes it
            taken.append(items)

    thread = threading.Thread(target=read)
    thread.start()
    ready.wait()
    for n in range(6):
        box.put(audio(n))
    while sum(map(len, [items for items in taken if items])) < 6:
        threading.Event().wait(0.001)
    box.close()
    thread.join(5.0)
    assert not thread.is_alive()
    assert all(items is not None and len(items) >= 3 for items in taken)


def test_what_came_is_returned_when_the_time_is_over() -> None:
    box = Mailbox(100, 1 << 20)
    thread = threading.Thread(target=lambda: taken.append(box.take(0.01, 50)))
    taken: list[list[Item] | None] = []
    thread.start()
    box.put(audio(1))
    thread.join(5.0)
    assert taken == [[audio(1)]]


def test_video_that_waited_too_long_makes_room_for_a_newer_key_frame() -> None:
    box = Mailbox(100, 1 << 20, 1.0)
    now = clock.now()
    late = [packet._replace(received_at=now - 5) for packet in (video(0, True), video(1), video(2))]
    fresh = [packet._replace(received_at=now) for packet in (video(3, True), video(4))]
    for packet in (*late, audio(7), *fresh):
        box.put(packet)
    assert box.take() == [audio(7), Skipped(), *fresh]
    assert box.dropped == {BEHIND: 3}
    for packet in late:
        box.put(packet)
    assert box.take() == late  # old, but there is nothing newer to jump to
