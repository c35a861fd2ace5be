"""Does the target take what it is sent? By the acknowledgements of its kernel (TCP_INFO) and its own (RTMP 5.4.3)."""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from medianode.errors import PeerTimeout

PATIENCE = 10.0
"""Seconds without any progress while something waits."""
REGULAR = 3
"""Acknowledgements of its own after which a target is taken to send them for good, and in how many steps one may be late."""
SETTLE = 1.0
"""Seconds after the first media that a target has to refuse: some let anybody begin and then close."""
_INFO_BYTES = 160
_ACKED, _UNACKED, _NOT_SENT = 120, 24, 144  # tcpi_bytes_acked (u64), tcpi_unacked, tcpi_notsent_bytes of struct tcp_info


class Progress(NamedTuple):
    """`acked`: bytes that the peer's kernel has confirmed. `waiting`: the kernel still holds some."""

    acked: int
    waiting: bool


def tcp_progress(sock: Any) -> Progress | None:
    """None where the kernel does not tell, or the socket is gone."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        acked = struct.unpack_from("=Q", info, _ACKED)[0]
        return Progress(acked, bool(struct.unpack_from("=I", info, _UNACKED)[0] or struct.unpack_from("=I", info, _NOT_SENT)[0]))
    except (OSError, AttributeError, struct.error):
        return None


class Liveness:
    """Of one connection; looked at about once a second. Times are clock.now()."""

    def __init__(self, now: float) -> None:
        self._acked = 0
        self._moved_at = now
        self._first_at: float | None = None
        self._mark = 0
        self._confirmed = 0
        self._confirmed_at = now
        self._confirmations = 0
        self._step = 0

    @property
    def own(self) -> int:
        """Bytes that the target itself has acknowledged; 0 where it does not."""
        return self._confirmed

    def media_sent(self, now: float, acked: int) -> None:
        """The first media went out when the kernel's count was `acked`: what it confirms from there on is media."""
        if self._first_at is None:
            self._first_at, self._mark = now, acked

    def confirmed(self, nbytes: int, now: float) -> None:
        """The target's own acknowledgement, bytes in all."""
        self._step = max(self._step, nbytes - self._confirmed)
        self._confirmed, self._confirmed_at = nbytes, now
        self._confirmations += 1

    def look(self, now: float, acked: int, sent: int, *, waiting: bool) -> bool:
        """Whether it has taken media by now. `sent`: bytes given to the socket; `waiting`: we or the kernel hold some of them.

        Raises PeerTimeout `target-stalled`.
        """
        if acked > self._acked or not waiting:
            self._acked, self._moved_at = max(acked, self._acked), now
        if now - self._moved_at > PATIENCE:
            raise PeerTimeout(f"the target took nothing for {PATIENCE:g} s while media waited", code="target-stalled")
        late = sent - self._confirmed > REGULAR * self._step and now - self._confirmed_at > PATIENCE
        if late and self._confirmations >= REGULAR:
            raise PeerTimeout(
                f"the target stopped acknowledging: {self._confirmed} of {sent} bytes, the last {now - self._confirmed_at:.0f} s ago",
                code="target-stalled",
            )
        return self._first_at is not None and now - self._first_at >= SETTLE and acked > self._mark
