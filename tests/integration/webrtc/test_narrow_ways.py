"""Where packets do not get through as they should: UDP blocked, readers that stop, sockets that are full, libraries that have changed."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness.calls import Line, Viewer, calling

from medianode import daemon
from medianode.rtc import batch, dtls, selftest, srtp

Media = list[daemon.WebRtc]


async def _view(line: Line, transport: str) -> dict[str, Any]:
    (found,) = [v for v in (await line.api("GET", "/api/v1/viewers"))["data"] if v["transport"] == transport]
    return dict(found)


async def test_udp_is_blocked(tmp_path: Path) -> None:
    """ICE-TCP publishes and plays, as well as UDP does."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, tcp=True) as publisher:
            await line.live()
            async with line.viewing(tcp=True) as viewer, line.viewing() as other:
                frames = await viewer.until(25)
                assert frames == list(range(frames[0], frames[-1] + 1))
                assert viewer.sounds > 12
                await other.until(1)
                view = await _view(line, "tcp")
                assert (view["state"], view["dropped"]) == ("live", {})
                # a key frame that a viewer asks for by TCP comes from a publisher on TCP
                publisher.messages.clear()
                viewer.want_keyframe()
                await line.until(lambda: any(type(m).__name__ == "Pli" for m in publisher.messages))


async def test_udp_becomes_blocked_while_playing(tmp_path: Path) -> None:
    """The same session goes over to TCP, and back."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key) as publisher:
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(10)
                for tcp in (True, False):
                    for peer in (viewer.peer, publisher.peer):
                        peer.open(tcp=tcp)
                        peer.check()
                    frames = await viewer.until(25)
                    assert len(frames) > 0.8 * (frames[-1] - frames[0])
                    assert (await _view(line, "tcp" if tcp else "udp"))["dropped"] == {}
                assert line.peers == 2


async def test_a_slow_reader_by_tcp_loses_to_the_next_key_frame_and_nobody_else(tmp_path: Path, media: Media) -> None:
    """It stops reading for a while: what its bound does not hold is left out up to a key frame, which is asked for when it reads again."""
    async with calling(tmp_path, hls={"enabled": False}, limits={"rtc_tcp_unsent_bytes": 131_072}) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, size=20_000):
            await line.live()
            async with line.viewing(tcp=True, run=False) as slow, line.viewing() as other:
                await slow.until(5)
                (watcher,) = [w for w in media[0].whep.watchers.values() if w.peer.stream is not None]
                stream = watcher.peer.stream
                assert stream is not None
                stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
                sock, loop = slow.peer._sock, asyncio.get_running_loop()
                assert sock is not None
                loop.remove_reader(sock.fileno())
                await line.until(lambda: watcher.viewer is not None and watcher.viewer.dropped.get("tcp-unsent", 0) > 100)
                view = await _view(line, "tcp")
                assert (view["state"], view["reason"]) == ("paused", "tcp-unsent")
                assert stream.unsent <= 131_072 + 40_000, "one picture over the bound"
                loop.add_reader(sock.fileno(), slow.peer._readable)
                before = len(slow.frames)
                await slow.until(25)
                numbers = slow.frames
                gaps = [(a, b) for a, b in pairwise(numbers) if b != a + 1]
                assert len(gaps) >= 1, "it lost something"
                assert all(a < b for a, b in gaps)
                assert len(numbers) > before
                heard = sorted(next(iter(slow.heard.values())).packets)
                assert heard == list(range(heard[0], heard[-1] + 1)), "what it was not sent leaves no hole in its numbers"
                theirs = other.frames
                assert theirs == list(range(theirs[0], theirs[-1] + 1))
                assert (await _view(line, "udp"))["dropped"] == {}


class _Full:
    """A socket that now and then is full (EAGAIN), by seeded draws."""

    def __init__(self, sock: socket.socket, share: float) -> None:
        self._sock = sock
        self._random = random.Random(21)
        self.share = share
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _draw(self) -> None:
        if self._random.random() < self.share:
            self.refused += 1
            raise BlockingIOError(errno.EAGAIN, "full")

    def sendmsg(self, *arguments: Any) -> int:
        self._draw()
        return self._sock.sendmsg(*arguments)

    def sendto(self, *arguments: Any) -> int:
        self._draw()
        return self._sock.sendto(*arguments)


class _FullLibc:
    """sendmmsg that takes some of the messages only."""

    def __init__(self, libc: Any, share: float) -> None:
        self._libc = libc
        self._random = random.Random(22)
        self._share = share

    def sendmmsg(self, fd: int, headers: Any, count: int, flags: int) -> int:
        if self._random.random() < self._share:
            taken = self._random.randrange(count + 1) - 1
            return int(self._libc.sendmmsg(fd, headers, taken, flags)) if taken > 0 else -1
        return int(self._libc.sendmmsg(fd, headers, count, flags))


async def test_a_send_buffer_that_is_full_loses_nothing_within_the_bound(
    tmp_path: Path, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of all sends are refused, and a buffer as small as the kernel allows: all viewers get every packet, in order."""
    monkeypatch.setattr(batch, "_libc", _FullLibc(batch._libc, 0.5))
    async with calling(tmp_path) as line:
        inside = media[0].whep._batch
        inside.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        full = inside.sock = _Full(inside.sock, 0.5)  # type: ignore[assignment]  # looks like a socket
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, size=12_000):
            await line.live()
            async with line.viewing(run=False) as one, line.viewing(run=False) as two, line.viewing(run=False) as three:
                for viewer in (one, two, three):
                    frames = await viewer.until(12)
                    assert frames == list(range(frames[0], frames[-1] + 1))
                    _in_order(viewer)
                assert full.refused > 50
                assert inside.queued_at_most > 0
                assert inside.dropped == 0


async def test_a_send_buffer_that_stays_full_is_bounded(tmp_path: Path, media: Media) -> None:
    """Nothing can be sent for a while: the bound holds, what is over it is counted to its viewer, and later all goes on."""
    async with calling(tmp_path, limits={"rtc_unsent_bytes": 100_000}) as line:
        inside = media[0].whep._batch
        real = inside.sock
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, size=20_000) as publisher:
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                full = inside.sock = _Full(real, 1.0)  # type: ignore[assignment]  # looks like a socket
                inside_libc, batch._libc = batch._libc, _FullLibc(batch._libc, 1.0)
                try:
                    at = publisher.picture.frames
                    await line.until(lambda: publisher.picture.frames > at + 25)
                    assert inside.queued_at_most <= 100_000
                    assert inside.dropped > 0
                    (view,) = (await line.api("GET", "/api/v1/viewers"))["data"]
                    assert view["dropped"]["socket-full"] > 0
                finally:
                    inside.sock, batch._libc = real, inside_libc
                assert full.refused > 0
                publisher.wanted = True
                await viewer.until(20)
                assert inside.unsent == 0


def _in_order(viewer: Viewer) -> None:
    """Nothing was repaired: it came as it was sent."""
    for heard in viewer.heard.values():
        numbers = list(heard.packets)
        assert numbers == sorted(numbers)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert heard.twice == 0


class _Changed:
    """A private binding whose function does something else now."""

    def srtp_protect(self, handle: object, packet: object, length: object) -> int:
        return 0


async def _nothing(self: object) -> None:
    """A method of aiortc's that has another meaning now."""


@pytest.mark.parametrize("what", ["pylibsrtp", "aiortc", "both"])
async def test_libraries_that_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """The self-test says what no longer fits, and the slower public ways publish and play."""
    monkeypatch.setattr(srtp.RAW, "usable", srtp.RAW.usable)  # put back at the end
    monkeypatch.setattr(dtls.DRIVER, "shake", dtls.DRIVER.shake)
    if what != "aiortc":
        monkeypatch.setattr(selftest, "lib", _Changed())
    if what != "pylibsrtp":
        monkeypatch.setattr(dtls._Handshake, "_do_handshake", _nothing)
        monkeypatch.setattr(selftest, "TIMEOUT", 0.5)
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            async with line.viewing(run=False) as viewer, line.viewing(tcp=True) as tcp:
                frames = await viewer.until(25)
                assert frames == list(range(frames[0], frames[-1] + 1))
                assert viewer.sounds > 10
                await tcp.until(5)
        assert srtp.RAW.usable is (what == "aiortc")
        assert (dtls.DRIVER.shake is dtls.shake_directly) is (what != "pylibsrtp")
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("self-test:")]
    assert len(told) == (2 if what == "both" else 1)
    for library in ("pylibsrtp", "aiortc") if what == "both" else (what,):
        assert any(library in line for line in told)
