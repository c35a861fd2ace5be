"""CameraSession and its neighbours: every rule of contracts 2.4 that needs no socket. Time is an argument."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medianode.config import WsJpeg
from medianode.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    MedianodeError,
    NotEnabled,
    NotFound,
    PeerGone,
    StorageError,
    TooManyRequests,
    Unauthorized,
)
from medianode.ingress.ws_jpeg import (
    CameraSession,
    Close,
    Drop,
    Due,
    Frame,
    Handshakes,
    close_of,
    close_of_kick,
    error_text,
    ready_text,
)


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def session() -> CameraSession:
    return CameraSession(WsJpeg(), 100.0)


def drive(session: CameraSession, until: float, answer: Callable[[], None] | None = None) -> list[tuple[float, Close | Due]]:
    """Wake it whenever it asks to, answering each ping where `answer` is given; stops at an end."""
    seen: list[tuple[float, Close | Due]] = []
    while session.wake_at <= until:
        at = session.wake_at
        while (due := session.tick(at)) is not None:
            seen.append((at, due))
            if due is not Due.PING:
                return seen
            if answer:
                answer()
    return seen


def test_ready_is_compact_and_in_the_order_of_the_contract() -> None:
    assert ready_text("live-gate", "wscam-abc123", WsJpeg()) == (
        '{"type":"ready","room":"live-gate","streamId":"live-gate/wscam-abc123","maxFps":15,"maxFrameBytes":262144,"idleTimeoutSec":30}'
    )
    assert '"maxFps":7.5,' in ready_text("r", "i", WsJpeg(max_fps=7.5))


def test_error_text() -> None:
    assert error_text(Close(4401, "invalid_key")) == '{"type":"error","code":"4401","message":"invalid_key"}'


def test_a_frame_tells_its_size_and_its_media_time(session: CameraSession, jpeg: bytes) -> None:
    assert session.binary(jpeg, 100.0) == Frame(64, 48, 0)
    assert session.binary(jpeg, 100.5) == Frame(64, 48, 45_000)


def test_media_time_rises_also_within_one_instant(session: CameraSession, jpeg: bytes) -> None:
    assert [session.binary(jpeg, 101.0) for _ in range(2)] == [Frame(64, 48, 90_000), Frame(64, 48, 90_001)]


def test_a_frame_at_the_bound_passes_and_one_over_it_closes(jpeg: bytes) -> None:
    policy = WsJpeg(max_frame_bytes=len(jpeg))
    assert isinstance(CameraSession(policy, 0.0).binary(jpeg, 0.0), Frame)
    assert CameraSession(policy, 0.0).binary(jpeg + b"\0", 0.0) == Close(4413, "frame_too_large")


def test_text_is_ignored_under_the_bound(session: CameraSession) -> None:
    assert session.text('{"type":"stats","fps":12}') is None
    assert session.text("x" * 262_145) == Close(4413, "message_too_large")


def test_the_fifth_non_jpeg_in_a_row_closes(session: CameraSession, jpeg: bytes) -> None:
    for _ in range(3):
        assert [session.binary(b"GIF89a", 100.0) for _ in range(4)] == [Drop("not-jpeg")] * 4
        assert not isinstance(session.binary(jpeg, 100.0), Close)
    assert [session.binary(b"", 100.0) for _ in range(5)] == [Drop("not-jpeg")] * 4 + [Close(1003, "not_jpeg")]


def test_a_jpeg_cut_short_is_none(session: CameraSession, jpeg: bytes) -> None:
    assert session.binary(jpeg[: len(jpeg) // 2], 100.0) == Drop("not-jpeg")
    assert session.binary(b"\xff\xd8\xff\xd9", 100.0) == Drop("not-jpeg")


@pytest.mark.parametrize(("offered", "least", "most"), [(30, 148, 155), (15, 150, 150), (14, 140, 140)])
def test_the_frame_rate_is_held_over_ten_seconds(session: CameraSession, jpeg: bytes, offered: int, least: int, most: int) -> None:
    verdicts = [session.binary(jpeg, 100.0 + i / offered) for i in range(10 * offered)]
    assert least <= sum(isinstance(v, Frame) for v in verdicts) <= most
    assert {v for v in verdicts if not isinstance(v, Frame)} <= {Drop("rate")}


@given(st.lists(st.floats(0.0, 0.5), max_size=300), st.floats(0.5, 60.0))
def test_never_more_than_the_rate_and_one_burst(gaps: list[float], fps: float) -> None:
    image = io.BytesIO()
    Image.new("L", (8, 8)).save(image, "JPEG")
    session = CameraSession(WsJpeg(max_fps=fps), 0.0)
    now, passed, last = 0.0, 0, -1
    for gap in gaps:
        now += gap
        verdict = session.binary(image.getvalue(), now)
        if isinstance(verdict, Frame):
            passed += 1
            assert verdict.pts > last
            last = verdict.pts
    assert passed <= now * fps + max(2.0, fps / 4) + 1e-6


def test_an_idle_camera_is_closed_at_the_next_check_after_thirty_seconds(session: CameraSession, jpeg: bytes) -> None:
    session.binary(jpeg, 101.0)
    seen = drive(session, 200.0, session.pong)
    assert seen == [(115.0, Due.PING), (130.0, Due.PING), (135.0, Close(4408, "idle_timeout"))]


def test_a_camera_that_never_sends_a_frame_is_idle_and_garbage_is_no_frame(session: CameraSession) -> None:
    session.binary(b"nothing", 120.0)
    assert drive(session, 200.0, session.pong)[-1] == (130.0, Close(4408, "idle_timeout"))


def test_frames_over_the_rate_still_show_that_it_lives(session: CameraSession, jpeg: bytes) -> None:
    for i in range(100):
        session.binary(jpeg, 125.0 + i / 1000)
    assert all(due is Due.PING for _, due in drive(session, 154.0, session.pong))


def test_dead_after_two_lost_pongs(jpeg: bytes) -> None:
    session = CameraSession(WsJpeg(idle_timeout=1000.0), 0.0)
    assert drive(session, 200.0) == [(15.0, Due.PING), (30.0, Due.PING), (45.0, Due.LOST)]


def test_one_lost_pong_is_forgiven() -> None:
    session = CameraSession(WsJpeg(idle_timeout=1000.0), 0.0)
    assert drive(session, 31.0) == [(15.0, Due.PING), (30.0, Due.PING)]
    session.pong()
    assert drive(session, 61.0) == [(45.0, Due.PING), (60.0, Due.PING)]


def test_handshakes_sixty_in_any_minute() -> None:
    gate = Handshakes(60)
    for i in range(60):
        gate.enter("192.0.2.1", i * 0.5)
    with pytest.raises(TooManyRequests):
        gate.enter("192.0.2.1", 59.9)
    with pytest.raises(TooManyRequests):
        gate.enter("::ffff:192.0.2.1", 59.9)
    gate.enter("192.0.2.2", 59.9)
    gate.enter("192.0.2.1", 60.0)
    with pytest.raises(TooManyRequests):
        gate.enter("192.0.2.1", 60.1)


def test_handshakes_remember_a_bounded_number_of_sources() -> None:
    gate = Handshakes(1, sources=10)
    for i in range(1000):
        gate.enter(f"10.0.{i // 250}.{i % 250}", 0.0)
    assert len(gate) == 10


@pytest.mark.parametrize(
    ("error", "close"),
    [
        (Unauthorized("x"), Close(4401, "invalid_key")),
        (Unauthorized("x", code="room-mismatch"), Close(4401, "room_mismatch")),
        (Forbidden("x"), Close(4401, "invalid_key")),
        (NotFound("x"), Close(4401, "invalid_app")),
        (InvalidRequest("x"), Close(4401, "invalid_room")),
        (NotEnabled("x", code="feature-off"), Close(4403, "feature_off")),
        (LimitExceeded("x", code="max-cameras"), Close(4403, "max_cameras")),
        (Conflict("x"), Close(4409, "conflict")),
        (TooManyRequests("x"), Close(4429, "too_many_requests")),
        (StorageError("x"), Close(1013, "try_again_later")),
        (MedianodeError("x"), Close(1011, "internal")),
    ],
)
def test_each_refusal_has_its_code(error: MedianodeError, close: Close) -> None:
    assert close_of(error) == close


def test_each_kick_has_its_code() -> None:
    assert close_of_kick(PeerGone("x", code="takeover")).code == 4409
    assert close_of_kick(NotFound("x", code="ingress-deleted")) == Close(4401, "ingress_deleted")
    assert close_of_kick(PeerGone("x", code="shutdown")).code == 1001
