"""Whose fault it was, who owns a task, who gets in."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Iterator

import pytest

from medianode import tasks
from medianode.errors import LimitExceeded, PeerError, PeerTimeout, StorageError
from medianode.tasks import Gate, TaskSet, accept, background, guard, listen_tcp, readable, until_next, whole


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    a.setblocking(False)
    with a, b:
        yield a, b


def bugs(place: str) -> float:
    return tasks.BUGS.labels(place).value


# guard


@pytest.mark.parametrize("error", [PeerError("x"), StorageError("x"), TimeoutError(), ConnectionResetError(), OSError(5, "x")])
async def test_what_is_not_our_fault_ends_the_session_and_is_no_bug(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def session() -> None:
        raise error

    before = bugs("t-peer")
    assert await guard("t-peer", session()) is error
    assert bugs("t-peer") == before
    assert not caplog.records


async def test_a_session_that_ends_by_itself() -> None:
    assert await guard("t", asyncio.sleep(0)) is None


@pytest.mark.parametrize("error", [ValueError("v"), KeyError("k"), ExceptionGroup("g", [ValueError("v")]), AssertionError()])
async def test_anything_else_is_our_bug_counted_with_its_traceback(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def session() -> None:
        raise error

    before = bugs("t-bug")
    assert await guard("t-bug", session()) is error
    assert bugs("t-bug") == before + 1
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]


async def test_tests_may_have_bugs_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def session() -> None:
        raise ValueError("told")

    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(str(context["exception"])))
    monkeypatch.setattr(tasks, "raise_bugs", True)
    await guard("t-raise", session())
    assert told == ["told"]


async def test_cancellation_goes_through_guard() -> None:
    task = asyncio.get_running_loop().create_task(guard("t", asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# TaskSet and background


async def test_a_set_is_bounded_and_forgets_who_ended() -> None:
    gate = asyncio.Event()
    async with TaskSet("t-set", 2) as sessions:
        for _ in range(2):
            sessions.start(gate.wait())
        refused = asyncio.sleep(0)
        with pytest.raises(LimitExceeded, match="2 sessions already") as caught:
            sessions.start(refused)
        assert caught.value.code == "node-full"
        with pytest.raises(RuntimeError):
            refused.send(None)  # closed: it will never warn that nobody awaited it
        gate.set()
        await asyncio.sleep(0.01)
        assert len(sessions) == 0
        sessions.start(asyncio.sleep(0))


async def test_leaving_a_set_cancels_and_waits() -> None:
    ended: list[int] = []

    async def session(i: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(i)

    async with TaskSet("t-set", 10) as sessions:
        for i in range(3):
            sessions.start(session(i))
        await asyncio.sleep(0)
    assert sorted(ended) == [0, 1, 2]
    assert len(sessions) == 0


async def test_one_session_s_bug_leaves_the_others_alone() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    gate = asyncio.Event()
    async with TaskSet("t-alone", 10) as sessions:
        other = sessions.start(gate.wait())
        sessions.start(broken())
        await asyncio.sleep(0.01)
        assert not other.done()
        assert len(sessions) == 1


async def test_background_services_end_with_the_block() -> None:
    ended = asyncio.Event()

    async def service() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with background(service()):
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_a_failing_service_fails_the_block() -> None:
    async def service() -> None:
        raise StorageError("gone")

    with pytest.raises(ExceptionGroup) as caught:
        async with background(service()):
            await asyncio.sleep(60)
    assert caught.group_contains(StorageError, match="gone")


# Gate


async def test_whole_work_is_done_before_its_cancelled_caller_goes() -> None:
    go, done = asyncio.Event(), list[str]()

    async def work() -> None:
        await go.wait()
        done.append("work")

    async def call() -> None:
        try:
            await whole(work())
        finally:
            done.append("caller")

    calling = asyncio.ensure_future(call())
    for _ in range(3):  # the second and third while it waits
        await asyncio.sleep(0)
        calling.cancel()
    await asyncio.sleep(0)
    assert not calling.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert done == ["work", "caller"]


async def test_whole_work_that_fails() -> None:
    async def work() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await whole(work())


def test_the_gate_counts_in_all_and_per_peer() -> None:
    gate = Gate(3, 2)
    gate.enter("a")
    gate.enter("a")
    with pytest.raises(LimitExceeded) as caught:
        gate.enter("a")
    assert caught.value.code == "too-many-connections-from-peer"
    gate.enter("b")
    with pytest.raises(LimitExceeded) as caught:
        gate.enter("c")
    assert caught.value.code == "too-many-connections"
    assert gate.total == 3
    gate.leave("a")
    gate.enter("c")
    for peer in ("a", "b", "c"):
        gate.leave(peer)
    assert gate.total == 0
    assert not gate._peers, "a peer that has left is not remembered"


# sockets


def test_listening_on_all_addresses_takes_both_families() -> None:
    (listener,) = listen_tcp(None, 0)
    with listener:
        port = listener.getsockname()[1]
        assert not listener.getblocking()
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        if listener.family == socket.AF_INET6:
            with socket.create_connection(("::1", port), 5):
                pass


def test_a_taken_port_is_an_os_error() -> None:
    (listener,) = listen_tcp("127.0.0.1", 0)
    with listener, pytest.raises(OSError) as caught:
        listen_tcp("127.0.0.1", listener.getsockname()[1])
    assert caught.value.errno == errno.EADDRINUSE


async def test_accept_hands_over_sockets_with_plain_addresses() -> None:
    (listener,) = listen_tcp(None, 0)
    seen: list[tuple[socket.socket, str]] = []
    with listener:
        accepting = asyncio.get_running_loop().create_task(accept(listener, lambda sock, peer: seen.append((sock, peer))))
        _, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
        async with asyncio.timeout(5):
            while not seen:
                await asyncio.sleep(0)
        assert seen[0][1] == "127.0.0.1", "not ::ffff:127.0.0.1"
        seen[0][0].close()
        writer.close()
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)


class Scripted:
    """A loop whose sock_accept does what the script says."""

    def __init__(self, script: list[object]) -> None:
        self.script = script

    async def sock_accept(self, listener: socket.socket) -> object:
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step


async def test_accept_survives_running_out_of_descriptors(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    passing = [OSError(number, "x") for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)]
    script: list[object] = [*passing, (pair[0], ("::ffff:192.0.2.1", 7)), OSError(errno.EBADF, "closed")]
    seen: list[str] = []
    monkeypatch.setattr(tasks.asyncio, "get_running_loop", lambda: Scripted(script))
    monkeypatch.setattr(tasks.asyncio, "sleep", nap)
    with caplog.at_level(logging.WARNING), pytest.raises(OSError) as caught:
        await accept(pair[1], lambda sock, peer: seen.append(peer))
    assert caught.value.errno == errno.EBADF
    assert naps == [0.1] * len(passing)
    assert seen == ["192.0.2.1"]


@pytest.mark.parametrize("seconds", [0.005, 0.015, 0.02, 0.05, 1.0])
def test_a_grid_is_kept_however_fine_it_is(seconds: float) -> None:
    """Also where a timer runs a little early or late."""
    for off in (-0.001, 0.0, 0.001):
        assert until_next(seconds, 100 * seconds + off) == pytest.approx(seconds - off)


async def test_the_first_byte_is_seen_and_not_taken(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    asyncio.get_running_loop().call_soon(theirs.sendall, b"\x16abc")
    assert await readable(ours, 5) == b"\x16"
    assert ours.recv(10) == b"\x16abc"


async def test_a_peer_that_says_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(PeerTimeout) as caught:
        await readable(pair[0], 0.01)
    assert caught.value.code == "handshake-timeout"


async def test_a_peer_that_closes_first(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].close()
    with pytest.raises(PeerError) as caught:
        await readable(pair[0], 5)
    assert caught.value.code == "peer-gone"
