"""The part on the wire, byte for byte (contracts 2.4), and read back by the standard library's MIME parser."""

from __future__ import annotations

import contextlib
import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.errors import PeerError, ProtocolError
from medianode.protocols.multipart import BOUNDARY, CONTENT_TYPE, PartReader, boundary_of, jpeg_part


def test_a_part_is_exactly_what_the_contract_says() -> None:
    assert CONTENT_TYPE == "multipart/x-mixed-replace; boundary=frame"
    assert jpeg_part(b"\xff\xd8abc\xff\xd9") == (b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 7\r\n\r\n\xff\xd8abc\xff\xd9\r\n")


def test_an_empty_part() -> None:
    assert jpeg_part(b"") == b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 0\r\n\r\n\r\n"


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_parts_follow_one_another_and_are_read_back_by_their_lengths(frames: list[bytes]) -> None:
    wire = b"".join(jpeg_part(frame) for frame in frames)
    found = []
    while wire:
        head, _, rest = wire.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[:2] == [b"--frame", b"Content-Type: image/jpeg"]
        length = int(lines[2].removeprefix(b"Content-Length: "))
        found.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        wire = rest[length + 2 :]
    assert found == frames


def test_a_mime_parser_agrees() -> None:
    wire = b"Content-Type: " + CONTENT_TYPE.encode() + b"\r\n\r\n" + jpeg_part(b"one") + jpeg_part(b"two") + f"--{BOUNDARY}--\r\n".encode()
    message = email.message_from_bytes(wire, policy=email.policy.HTTP)
    assert [part.get_content_type() for part in message.iter_parts()] == ["image/jpeg", "image/jpeg"]


BODIES = [b"\xff\xd8one\xff\xd9", b"\xff\xd8two--frame in it\xff\xd9", b"\xff\xd8three\xff\xd9"]
WITH_LENGTH = b"".join(jpeg_part(body) for body in BODIES)
WITHOUT = b"".join(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + body + b"\r\n" for body in BODIES) + b"--frame"


@pytest.mark.parametrize("wire", [WITH_LENGTH, WITHOUT, b"\r\n" + WITH_LENGTH.replace(b"--frame\r", b"--frame \r")])
@given(step=st.integers(1, 60))
def test_parts_are_read_however_they_are_cut(wire: bytes, step: int) -> None:
    reader, out = PartReader("--frame", 1000), []
    for at in range(0, len(wire), step):
        out += reader.feed(wire[at : at + step])
    assert out == BODIES


def test_parts_are_bounded() -> None:
    for wire in (
        b"--frame\r\nContent-Length: 1001\r\n\r\n",
        b"--frame\r\n\r\n" + b"x" * 1001,
        b"x" * 9000,
        b"--frame\r\n" + b"x" * 9000,
    ):
        with pytest.raises(ProtocolError):
            PartReader("frame", 1000).feed(wire)


@given(st.binary(max_size=2000))
def test_garbage_is_a_peers_fault(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        PartReader("f", 500).feed(b"--f\r\n" + data)


def test_many_small_parts_cost_what_few_large_ones_do() -> None:
    part = b"--f\r\nContent-Length: 1\r\n\r\nx\r\n"
    assert len(PartReader("f", 500).feed(part * 300_000)) == 300_000  # minutes, were the rest copied for each


def test_boundaries() -> None:
    assert boundary_of('multipart/x-mixed-replace; boundary="--myboundary"') == "--myboundary"
    assert boundary_of("Multipart/X-Mixed-Replace;boundary=b") == "b"
    assert boundary_of("multipart/x-mixed-replace") == "frame"
    assert boundary_of("video/mp4") is None
