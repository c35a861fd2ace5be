"""Order, loss and its bounds."""

from __future__ import annotations

from harness.transport import unpack_losses

from medianode.protocols.srt.packet import pack_losses
from medianode.protocols.srt.receiver import Lost, Output, Receiver

TOP = 0x7FFFFFFF


def push(receiver: Receiver, *sequences: int, now: float = 0.0) -> list[Output]:
    out: list[Output] = []
    for sequence in sequences:
        receiver.push(sequence & TOP, str(sequence).encode(), now, out)
    return out


def test_what_is_in_order_is_handed_on_at_once_and_over_the_wrap() -> None:
    receiver = Receiver(TOP - 1, 0.12, 64)
    assert push(receiver, TOP - 1, TOP, TOP + 1, TOP + 2) == [str(n).encode() for n in range(TOP - 1, TOP + 3)]
    assert receiver.acknowledged == 2


def test_a_hole_is_asked_for_at_once_and_again_and_holds_back_what_is_behind_it() -> None:
    receiver = Receiver(10, 0.12, 64)
    assert push(receiver, 10, 12, 14) == [b"10"]
    assert receiver.losses(0.0, 0.0) == [11, 13]
    assert receiver.losses(0.01, 0.0) == []
    assert receiver.losses(0.02, 0.0) == [11, 13]
    assert receiver.losses(0.05, 0.2) == [11, 13]
    assert push(receiver, 13, now=0.06) == []
    assert push(receiver, 11, now=0.06) == [b"11", b"12", b"13", b"14"]
    assert (receiver.recovered, receiver.nacked, receiver.lost, len(receiver)) == (2, 6, 0, 0)


def test_a_hole_is_given_up_after_the_latency_and_told_where_it_is() -> None:
    receiver = Receiver(1, 0.12, 64)
    push(receiver, 1, 4)
    push(receiver, 6, now=0.1)
    out: list[Output] = []
    receiver.expire(0.119, out)
    assert out == []
    receiver.expire(0.12, out)
    assert out == [Lost(2), b"4"]
    receiver.expire(0.22, out)
    assert out[2:] == [Lost(1), b"6"]
    assert push(receiver, 2, 5) == []
    assert (receiver.late, receiver.lost, receiver.acknowledged) == (2, 3, 7)
    assert receiver.losses(1.0, 0.0) == []


def test_what_the_sender_gave_up_is_not_waited_for() -> None:
    receiver = Receiver(1, 9.0, 64)
    push(receiver, 1, 4)
    receiver.give_up(2, 3)
    assert receiver.losses(0.0, 0.0) == []
    out: list[Output] = []
    receiver.expire(0.0, out)
    assert out == [Lost(2), b"4"]
    receiver.give_up(5, 6)  # nothing behind them yet
    receiver.expire(0.0, out)
    assert out[2:] == [Lost(2)]
    assert push(receiver, 7) == [b"7"]
    receiver.give_up(0, TOP)  # ends before it begins, as does the next
    receiver.give_up(5, 1)
    receiver.give_up(2, 7)  # is behind
    assert push(receiver, 8, now=1.0) == [b"8"]
    assert receiver.lost == 4


def test_what_is_far_ahead_is_dropped_and_doubles_are_counted() -> None:
    receiver = Receiver(1, 0.12, 8)
    assert push(receiver, 9, 1, 3, 3) == [b"1"]
    assert (receiver.beyond, receiver.duplicates, receiver.room) == (1, 1, 6)


def test_a_full_window_gives_up_its_oldest_hole() -> None:
    receiver = Receiver(1, 9.0, 8)
    assert push(receiver, 2, 3, 5, 8) == []
    assert push(receiver, 9) == [Lost(1), b"2", b"3"]
    assert push(receiver, 30) == []
    assert (receiver.beyond, receiver.lost, len(receiver)) == (1, 1, 3)


def test_after_an_outage_longer_than_the_window_it_goes_on_with_what_comes() -> None:
    receiver = Receiver(TOP - 1, 9.0, 8)
    assert push(receiver, TOP - 1, TOP, TOP + 2) == [str(n).encode() for n in (TOP - 1, TOP)]
    assert push(receiver, TOP + 90, TOP + 92) == []  # one alone is a stray
    second, third = str(TOP + 93).encode(), str(TOP + 94).encode()
    assert push(receiver, TOP + 93, TOP + 94) == [Lost(1), str(TOP + 2).encode(), Lost(90), second, third]
    assert (receiver.lost, receiver.beyond, receiver.received, len(receiver)) == (91, 2, 5, 0)
    assert receiver.losses(0.0, 0.0) == []
    assert receiver.acknowledged == 94


def test_no_datagram_opens_holes_without_end() -> None:
    """Each of these would open and give up a window of holes: two milliseconds for 17 bytes."""
    receiver, out = Receiver(0, 1.0, 100), list[Output]()
    for n in range(1, 50):
        receiver.push(n * 90, b"x", 0.0, out)
        receiver.give_up(0, 90)
    assert (receiver.received, receiver.beyond, receiver.lost) == (1, 48, 90)
    receiver.push(91, b"x", 0.0, out)  # what opens none is taken
    assert receiver.received == 2
    receiver.losses(0.0, 0.1)
    receiver.push(101, b"x", 0.0, out)
    assert receiver.received == 3


def test_loss_lists_have_ranges() -> None:
    assert unpack_losses(pack_losses([1, 2, 3, 7, TOP, TOP + 1])) == [(1, 3), (7, 7), (TOP, 0)]
    assert len(pack_losses(range(0, 10_000, 2))) <= 1024
