"""kill -9 of a fan-out worker: its viewers are told to come again, the daemon and its publishers live, and another takes its place."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from harness.calls import calling, figure
from harness.rough import rough

from medianode.protocols.rtp import rtcp


def workers() -> list[int]:
    """Our children that are fan-out workers."""
    children = [int(child) for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()]
    return [child for child in children if b"medianode.rtc.worker" in _command(child)]


def _command(child: int) -> bytes:
    try:
        return Path(f"/proc/{child}/cmdline").read_bytes()
    except OSError:  # it has just gone
        return b""


def _ended() -> float:
    return figure("medianode_rtc_peers_ended_total", 'cause="worker-lost"')


async def test_kill_9_of_a_fan_out_worker(tmp_path: Path) -> None:
    async with calling(tmp_path, rtc={"workers": 1}) as line:
        key = (await line.ingress())["streamKey"]
        await line.until(workers)
        async with line.publishing(key) as publisher:
            await line.live()
            async with line.viewing() as viewer, line.viewing(tcp=True) as tcp:
                frames = await viewer.until(25)
                assert frames == list(range(frames[0], frames[-1] + 1))
                ended, lost = _ended(), figure("medianode_rtc_workers_lost_total")
                (worker,) = workers()
                os.kill(worker, signal.SIGKILL)
                await asyncio.wait_for(viewer.peer.closed.wait(), 5)
                await line.until(lambda: line.viewers == 1)
                assert _ended() == ended + 1
                assert figure("medianode_rtc_workers_lost_total") == lost + 1
                # whoever the daemon serves itself (TCP) and the publisher have not noticed
                before = tcp.frames
                assert before == list(range(before[0], before[-1] + 1))
                publisher.messages.clear()
                async with line.viewing() as again:
                    await again.until(20)
                await tcp.until(5)
                await line.until(lambda: any(isinstance(m, rtcp.ReceiverReport) for m in publisher.messages))
                # another worker has taken its place and serves who comes next
                await line.until(lambda: [pid for pid in workers() if pid != worker])
                async with line.viewing() as third:
                    await third.until(20)
                assert not publisher.peer.closed.is_set()
        (left,) = workers()
    await line.until(lambda: not workers())
    assert not Path(f"/proc/{left}").exists(), "reaped"


async def test_a_worker_that_stands_still_is_put_out(tmp_path: Path) -> None:
    """It does not read any more: what it is sent is bounded, then it is killed, and its viewers come again."""
    async with calling(tmp_path, rtc={"workers": 1}, limits={"rtc_unsent_bytes": 300_000}) as line:
        key = (await line.ingress())["streamKey"]
        await line.until(workers)
        async with line.publishing(key, size=40_000) as publisher:
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                (worker,) = workers()
                os.kill(worker, signal.SIGSTOP)
                await asyncio.wait_for(viewer.peer.closed.wait(), 10)
                await line.until(lambda: worker not in workers())
            async with line.viewing() as again:
                await again.until(10)
            assert not publisher.peer.closed.is_set()


async def test_a_worker_repairs_losses_and_follows_a_nat(tmp_path: Path) -> None:
    async with calling(tmp_path, rtc={"workers": 1}) as line, rough(line.port, loss=0.05, seed=31) as path:
        key = (await line.ingress())["streamKey"]
        await line.until(workers)
        async with line.publishing(key, size=4000):
            await line.live()
            async with line.viewing(through=path) as viewer:
                await viewer.until(25)
                path.rebind()
                viewer.peer.check()
                frames = await viewer.until(40)
                settled = [n for n in frames if n < frames[-1] - 20]
                assert len(settled) >= 0.9 * (settled[-1] - settled[0] + 1)
                assert path.seen["lost"] > 5
                viewer.want_keyframe()
                await viewer.until(10)
                assert line.viewers == 1
