"""Sealing and sending in batches: one memory copy, one seal per packet and one share of a sendmmsg per viewer and run.

A run is a train of RTP packets for one destination, all of one size but the last, which may be shorter: what UDP GSO
(`UDP_SEGMENT`, Linux 4.18) takes as a single send. Runs are laid out once per layout in a template; for up to ROW viewers at a time the
template is copied into slots of a scratch buffer, sealed there in place, and handed to the kernel in one sendmmsg.
Where GSO does not work (no such kernel, a route or device that refuses it) each packet of a run is a sendmmsg to the row, and where that
is missing too a sendto. What the socket does not take is queued in order, up to a bound, and drained when it is writable again.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import deque
from collections.abc import Set as AbstractSet
from itertools import repeat
from typing import Any

from medianode import telemetry
from medianode.errors import ProtocolError
from medianode.rtc.pacing import Wheel
from medianode.rtc.rows import ROW, SOL_UDP, UDP_SEGMENT, Destination, Row, Target, cdefs, control
from medianode.rtc.rows import libc as _libc
from medianode.rtc.srtp import RAW, ffi, lib  # type: ignore[attr-defined]  # the binding, at its one home

MAX_RUN = 20
"""Packets per run."""
MAX_PACKET = 1280
"""Bytes of one sealed packet."""
LENGTHS = 128
"""Bytes before the packets of a slot: their lengths as C ints, which libsrtp changes in place."""
SLOT = LENGTHS + MAX_RUN * MAX_PACKET
ROOM = SLOT - LENGTHS
"""Sealed bytes of one run: what is more would be written over other memory."""
LAYOUTS = 96
"""Run shapes whose pointers are kept; up to 30 KB each."""
_LENGTHS = [struct.Struct(f"={count}i") for count in range(MAX_RUN + 1)]
_SPACE = bytes(16)
_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM})
_REFUSED = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT})
_DROPS = telemetry.counter("medianode_dropped_total", "Packets dropped, by place and cause", "place", "cause")


class Run:
    """A laid-out run: what the template holds. `plain` and `last`: bytes before sealing of each packet and of the last; `tag`: bytes that
    sealing adds."""

    __slots__ = ("count", "last", "plain", "tag")

    def __init__(self, count: int, plain: int, last: int, tag: int) -> None:
        self.count, self.plain, self.last, self.tag = count, plain, last, tag

    @property
    def segment(self) -> int:
        return self.plain + self.tag

    @property
    def nbytes(self) -> int:
        """Sealed."""
        return (self.count - 1) * (self.plain + self.tag) + self.last + self.tag


class Batch:
    """`max_unsent`: bytes that may wait for the socket. Not thread-safe; in the loop. `close` forgets what waits.

    `targets`: no row ever has more. One that has a batch to itself needs 400 KB less.
    """

    def __init__(self, sock: socket.socket, max_unsent: int, *, targets: int = ROW) -> None:
        self.sock = sock
        self.family = sock.family
        self.wheel = Wheel()
        self.sendmmsg = hasattr(_libc, "sendmmsg")
        self.gso = self.sendmmsg and _knows_gso()
        self.sent = self.nbytes = self.calls = 0
        self.full = self.refused = self.dropped = self.queued_at_most = 0
        self.unsent = 0
        """Bytes that wait."""
        self._fd = sock.fileno()
        self._max_unsent = max_unsent
        self._targets = targets
        self._queue: deque[tuple[Target, bytes, int]] = deque()
        self._writing = False
        self._prepare()

    def _prepare(self) -> None:
        self.control: Any = cdefs.new("char[]", control([], 0))
        self.vectors: Any = cdefs.new("struct iovec[]", ROW)
        self._scratch: Any = cdefs.new("char[]", SLOT * self._targets)
        self._template: Any = cdefs.new("char[]", SLOT)
        self._view = memoryview(cdefs.buffer(self._template))
        self._scratch_view = memoryview(cdefs.buffer(self._scratch))
        self._slots: list[Any] = []
        self._singles: Any = cdefs.new("struct mmsghdr[]", MAX_RUN)
        self._single_vectors: Any = cdefs.new("struct iovec[]", MAX_RUN)
        for i in range(ROW):
            self.vectors[i].iov_base = self._scratch + i * SLOT + LENGTHS
        for i in range(MAX_RUN):
            self._singles[i].msg_hdr.msg_iov = self._single_vectors + i
            self._singles[i].msg_hdr.msg_iovlen = 1
        self._pointers: dict[tuple[int, int], list[tuple[Any, list[Any], list[Any]]]] = {}
        self._total = -1
        self._sized = 0
        """So many of the vectors have the length `_total`."""
        if RAW.usable:
            base = int(cdefs.cast("intptr_t", self._scratch))
            self._slots = [ffi.cast("char *", base + i * SLOT) for i in range(self._targets)]
            self._source = ffi.cast("char *", int(cdefs.cast("intptr_t", self._template)))

    def row(self, *, plain: bool = False) -> Row:
        """An empty row on this batch's slots."""
        return Row(self.control, self.vectors, self.family, plain=plain or not self.gso)

    # -- laying out -------------------------------------------------------------------------------------------------------------------

    def lay(self, packets: list[bytes], tag: int) -> Run:
        """Put a run into the template: packets as they are before sealing, at most MAX_RUN, all of one size but the last, ROOM in all."""
        count = len(packets)
        plain, last = len(packets[0]), len(packets[-1])
        if count > MAX_RUN or last > plain or count * (plain + tag) > ROOM:
            raise ValueError(f"run: expected up to {MAX_RUN} packets and {ROOM} bytes, got {count} of {plain} and {last} bytes")
        joined = _SPACE[:tag].join(packets)
        cdefs.memmove(self._template + LENGTHS, joined, len(joined))
        _LENGTHS[count].pack_into(self._view, 0, *([plain] * (count - 1)), last)
        return Run(count, plain, last, tag)

    def _places(self, count: int, stride: int) -> list[tuple[Any, list[Any], list[Any]]]:
        """Per slot: its start, and pointers to each packet and each length."""
        key = (count, stride) if count > 1 else (1, 0)
        found = self._pointers.get(key)
        if found is None:
            if len(self._pointers) >= LAYOUTS:
                self._pointers.clear()
            lengths = range(count)
            found = self._pointers[key] = [
                (slot, [slot + (LENGTHS + i * stride) for i in lengths], [ffi.cast("int *", slot) + i for i in lengths])
                for slot in self._slots
            ]
        return found

    # -- sending to rows --------------------------------------------------------------------------------------------------------------

    def spread(self, rows: list[Row], run: Run) -> None:
        """Seal and send the run in the template to all targets of the rows."""
        rows = list(rows)  # one whose last target fails while it is sent to leaves them
        if not RAW.usable or not self.sendmmsg:
            for row in rows:
                for target in tuple(row.targets):
                    self.send_run(target, run)
            return
        segment, total, count = run.segment, run.nbytes, run.count
        widest = max([len(row.targets) for row in rows])
        if total != self._total or widest > self._sized:
            self._total, self._sized = total, widest
            vectors = self.vectors
            for i in range(widest):
                vectors[i].iov_len = total
        cdefs.memmove(self.control + 16, struct.pack("=H", segment), 2)
        places = self._places(count, segment)
        source, size = self._source, LENGTHS + total
        memmove, protect, sendmmsg, fd = ffi.memmove, lib.srtp_protect, _libc.sendmmsg, self._fd
        for row in rows:
            failures: set[int] | None = None
            for i, (handle, (slot, packets, lengths)) in enumerate(zip(row.handles, places, strict=False)):
                memmove(slot, source, size)
                if any(map(protect, repeat(handle), packets, lengths)):
                    failures = {i, *(failures or ())}
            number = len(row.targets)
            if self._queue or failures:
                self._one_by_one(row, run, failures or frozenset())
                continue
            if count > 1 and row.plain:
                self._packet_by_packet(row, run)
                continue
            if row.special:
                row.set_segment(segment)
            done = sendmmsg(fd, row.headers, number, socket.MSG_DONTWAIT)
            self.calls += 1
            if done != number:
                done = self._rest(row, run, max(0, done))
            self.sent += done * count
            self.nbytes += done * total

    def _packet_by_packet(self, row: Row, run: Run) -> None:
        """Without GSO: a sendmmsg for the first packet of all targets, one for the second, and so on."""
        number, stride, total, vectors = len(row.targets), run.segment, run.nbytes, self.vectors
        left: list[int] = []  # where each target's rest begins
        for at in range(0, total, stride):
            size = min(stride, total - at)
            for i in range(number):
                vectors[i].iov_base, vectors[i].iov_len = self._scratch + (i * SLOT + LENGTHS + at), size
            done = max(0, _libc.sendmmsg(self._fd, row.headers, number, socket.MSG_DONTWAIT))
            self.calls += 1
            self.sent += done
            self.nbytes += done * size
            if done < number:
                left = [at + stride] * done + [at] * (number - done)
                break
        self._total = -1
        for i in range(ROW):
            vectors[i].iov_base = self._scratch + (i * SLOT + LENGTHS)
        for target, start, i in zip(tuple(row.targets), left, range(number), strict=False):
            if start < total:
                self._emit(target, bytes(self._slot_view(i, total)[start:]), stride, plain=True)

    def _rest(self, row: Row, run: Run, at: int) -> int:
        """sendmmsg stopped at message `at`: find out why with that one by itself, then go on. Returns how many it sent in all."""
        number, done, targets = len(row.targets), at, tuple(row.targets)
        stopped = list(range(at, number))
        while stopped:
            i = stopped.pop(0)
            self._emit(targets[i], bytes(self._slot_view(i, run.nbytes)), run.segment)
            if self._queue or not stopped or targets != tuple(row.targets):
                break
            more = max(0, _libc.sendmmsg(self._fd, row.headers + i + 1, len(stopped), socket.MSG_DONTWAIT))
            self.calls += 1
            done += more
            del stopped[:more]
        for i in stopped:
            self._emit(targets[i], bytes(self._slot_view(i, run.nbytes)), run.segment)
        return done

    def _one_by_one(self, row: Row, run: Run, failures: AbstractSet[int]) -> None:
        for i, target in enumerate(tuple(row.targets)):
            if i in failures:
                self._not_sealed(target, run)
            else:
                self._emit(target, bytes(self._slot_view(i, run.nbytes)), run.segment, plain=row.plain)

    def _slot_view(self, i: int, nbytes: int) -> memoryview:
        start = i * SLOT + LENGTHS
        return self._scratch_view[start : start + nbytes]

    # -- sending to one ---------------------------------------------------------------------------------------------------------------

    def send_run(self, target: Target, run: Run, *, plain: bool = False) -> None:
        """Seal and send the run in the template to one target."""
        sealed = self.seal(target, run)
        if sealed is not None:
            self._emit(target, sealed, run.segment, plain=plain)

    def seal(self, target: Target, run: Run) -> bytes | None:
        """The run in the template, sealed for one target; None (and the target told) where that failed."""
        sealer = target.peer.sealer
        if RAW.usable:
            slot, packets, lengths = self._places(run.count, run.segment)[0]
            ffi.memmove(slot, self._source, LENGTHS + run.nbytes)
            if not any(map(lib.srtp_protect, repeat(sealer.handle), packets, lengths)):
                return bytes(self._scratch_view[LENGTHS : LENGTHS + run.nbytes])
            self._not_sealed(target, run)
            return None
        out = []
        try:
            for i in range(run.count):
                start = LENGTHS + i * run.segment
                out.append(sealer.protect(bytes(self._view[start : start + (run.last if i == run.count - 1 else run.plain)])))
        except ProtocolError:
            self._not_sealed(target, run)
            return None
        return b"".join(out)

    def _not_sealed(self, target: Target, run: Run) -> None:
        self.dropped += run.count
        _DROPS.labels("rtc", "not-sealed").value += run.count
        target.failed("libsrtp refused to seal")

    def _emit(self, target: Target, sealed: bytes, segment: int, *, plain: bool = False) -> None:
        """Send, or queue behind what waits."""
        if self._queue:
            self._wait(target, sealed, segment)
            return
        left = self._send(target, sealed, segment, plain=plain)
        if left is None:
            return
        if left:
            self._wait(target, left, segment)
            self._watch()
        else:
            self._lose(target, "not-routed", -(-len(sealed) // segment))

    def _send(self, target: Target, sealed: bytes, segment: int, *, plain: bool = False) -> bytes | None:
        """None: all went; bytes: what the full socket did not take; b"": the address cannot be sent to."""
        peer: Destination = target.peer
        count = -(-len(sealed) // segment)
        if self.gso and count > 1 and not plain:
            cmsg = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment)), *peer.ancillary]
            try:
                self.calls += 1
                self.sock.sendmsg([sealed], cmsg, socket.MSG_DONTWAIT, peer.address)
            except OSError as e:
                if e.errno in _FULL:
                    self.full += 1
                    return sealed
                if e.errno not in _REFUSED:
                    return b""
                # a small route MTU, a device that cannot: packets one by one are what the kernel may fragment
                self.refused += 1
                target.refused()
            else:
                self.sent += count
                self.nbytes += len(sealed)
                return None
        for start in range(0, len(sealed), segment):
            packet = sealed[start : start + segment]
            try:
                self.calls += 1
                if peer.ancillary:
                    self.sock.sendmsg([packet], peer.ancillary, socket.MSG_DONTWAIT, peer.address)
                else:
                    self.sock.sendto(packet, socket.MSG_DONTWAIT, peer.address)
            except OSError as e:
                if e.errno in _FULL:
                    self.full += 1
                    return sealed[start:]
                return b""
            self.sent += 1
            self.nbytes += len(packet)
        return None

    # -- what waits -------------------------------------------------------------------------------------------------------------------

    def _wait(self, target: Target, sealed: bytes, segment: int) -> None:
        if self.unsent + len(sealed) > self._max_unsent:
            self._lose(target, "socket-full", -(-len(sealed) // segment))
            return
        self._queue.append((target, sealed, segment))
        self.unsent += len(sealed)
        self.queued_at_most = max(self.queued_at_most, self.unsent)

    def _watch(self) -> None:
        if not self._writing:
            self._writing = True
            asyncio.get_running_loop().add_writer(self._fd, self._drain)

    def _drain(self) -> None:
        queue = self._queue
        while queue:
            target, sealed, segment = queue[0]
            left = None if target.gone else self._send(target, sealed, segment)
            if left:
                self.unsent -= len(sealed) - len(left)
                queue[0] = (target, left, segment)
                return
            queue.popleft()
            self.unsent -= len(sealed)
            if left is not None:
                self._lose(target, "not-routed", -(-len(sealed) // segment))
        self._unwatch()

    def _lose(self, target: Target, cause: str, packets: int) -> None:
        self.dropped += packets
        _DROPS.labels("rtc", cause).value += packets
        target.lost(cause, packets)

    def _unwatch(self) -> None:
        if self._writing:
            self._writing = False
            asyncio.get_running_loop().remove_writer(self._fd)

    def close(self) -> None:
        self._queue.clear()
        self.unsent = 0
        self._unwatch()
        self.wheel.close()


def _knows_gso() -> bool:
    """Whether this kernel takes UDP_SEGMENT, tried on a socket of our own over loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        try:
            segment = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", 100))]
            sender.sendmsg([bytes(150)], segment, socket.MSG_DONTWAIT, receiver.getsockname())
            return len(receiver.recv(1000)) == 100
        except OSError:
            return False
