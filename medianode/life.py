"""Signs of life: systemd's notify socket and watchdog, the loop's lag, the process's figures."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from medianode import clock, telemetry
from medianode.tasks import until_next

log = logging.getLogger("medianode.life")


class Notifier:
    """sd_notify(3) over $NOTIFY_SOCKET; does nothing where systemd did not start us."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        path = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        pid = env.get("WATCHDOG_PID")
        mine = pid is None or pid == str(os.getpid())
        self.watchdog = int(env.get("WATCHDOG_USEC", "0")) / 1e6 if mine else 0.0
        """Seconds within which systemd wants a sign of life; 0 when it does not ask."""

    def tell(self, *lines: str) -> None:
        if not self._address:
            return
        # systemd busy (its queue is full) or gone must neither stop the loop nor end the node: the next sign of life follows soon
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.sendto("\n".join(lines).encode(), self._address)
            except OSError as e:
                log.warning("systemd was not told %s: %s", lines[0].partition("=")[0], e.strerror or e)


class LoopLag:
    """How late the loop runs a timer: measured four times a second, kept for a minute."""

    def __init__(self, period: float = 0.25, keep: int = 240) -> None:
        self._period = period
        self._lags: deque[float] = deque(maxlen=keep)
        self.turned_at = clock.now()
        telemetry.gauge("medianode_loop_lag_seconds", "How late timers run, over the last minute", "quantile", read=self._samples)

    async def serve(self) -> None:
        while True:
            # not loop.time(): uvloop's counts whole milliseconds
            now = clock.now()
            wait = until_next(self._period, now)
            await asyncio.sleep(wait)
            self.turned_at = clock.now()
            self._lags.append(max(0.0, self.turned_at - now - wait))

    def quantile(self, q: float) -> float:
        """Seconds; 0.0 before the first measurement."""
        ordered = sorted(self._lags)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0

    def _samples(self) -> Iterable[telemetry.Sample]:
        return [((str(q),), self.quantile(q)) for q in (0.5, 0.99, 1.0)]


async def feed_watchdog(notifier: Notifier, healthy: Callable[[], str]) -> None:
    """Feed systemd's watchdog at a third of its period, and only while `healthy()` has nothing to say against it."""
    if not notifier.watchdog:
        return
    while True:
        complaint = healthy()
        if complaint:
            notifier.tell(f"STATUS=unhealthy: {complaint}")
        else:
            notifier.tell("WATCHDOG=1")
        await asyncio.sleep(notifier.watchdog / 3)


def resident_bytes() -> int:
    """RSS of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def os_threads() -> int:
    """Of this process, those that codecs start by themselves too: threading.active_count() does not know them."""
    return len(os.listdir("/proc/self/task"))


def register_process_metrics() -> None:
    telemetry.gauge("medianode_resident_bytes", "RSS of the daemon", read=lambda: [((), resident_bytes())])
    telemetry.gauge("medianode_open_descriptors", "Open file descriptors", read=lambda: [((), open_descriptors())])
    telemetry.gauge("medianode_threads", "OS threads", read=lambda: [((), os_threads())])
    telemetry.gauge("medianode_tasks", "asyncio tasks", read=lambda: [((), len(asyncio.all_tasks()))])
    telemetry.gauge("medianode_cpu_seconds", "CPU seconds, user and system", read=lambda: [((), clock.cpu_seconds())])
