"""Session: one recording from its order to its end: a Sink of what it records, the tape of its fragmenter, the owner of its reel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from medianode import clock, telemetry
from medianode.config import Recording
from medianode.egress.recorder import carriage, label
from medianode.egress.recorder.file import LiveFile, RecordedFile, name
from medianode.egress.recorder.fragmenter import Fragmenter
from medianode.egress.recorder.order import Order
from medianode.egress.recorder.writer import Close, End, Job, Open, Reel, Write, Writer
from medianode.events import Bus, RecordingEnded, RecordingFileChanged, RecordingStarted, RecordingTrouble
from medianode.media.packet import Gap, Packet
from medianode.media.parts import Part, pack
from medianode.media.track import Track
from medianode.protocols import fmp4
from medianode.protocols.fmp4_read import Extent

log = logging.getLogger("medianode.recorder")
BYTES = telemetry.counter("medianode_recorded_bytes_total", "Bytes of recordings on the disk").labels()
PARTS = telemetry.counter("medianode_recorded_parts_total", "Parts of recordings on the disk").labels()
GAPS = telemetry.counter("medianode_recording_gaps_total", "Breaks in recordings, by cause", "cause")
DROPPED = telemetry.counter("medianode_recording_dropped_packets_total", "Packets that recordings lost, by cause", "cause")
SHARE = 0.65
"""Of recording.part_duration: how long a part gets. The rest is what it waits for the writer and the disk."""
SECOND = 1_000_000
CAUSE_LENGTH = 32
DISK = "disk-"
"""What the codes of a disk that refuses begin with."""
WELL_AFTER = 5.0
"""Seconds without a refusal after which a disk is well: at its limit it refuses every other second."""
SLOW = "slow-disk"
UNSUPPORTED = "unsupported-codec"
CLOCK_STEP = "clock-step"
STEP = 1.0
"""Seconds that the wallclock moves against the timeline from file to file when it was set anew: what is before it and what follows do not
join in time."""


class _WritePart(Write):
    __slots__ = ("file", "part")

    def __init__(self, file: RecordedFile, part: Part, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces)
        self.file = file
        self.part = part


class _OpenFile(Open):
    __slots__ = ("file",)

    def __init__(self, file: RecordedFile) -> None:
        super().__init__(file.path, (file.init,))
        self.file = file


class _CloseFile(Close):
    __slots__ = ("file",)

    def __init__(self, file: RecordedFile) -> None:
        super().__init__()
        self.file = file


class Session:
    """`bound`: limits.recorder_bytes. `on_disk`: told the recording's id when something of it is on the disk; `on_refused`: the code when
    the disk does not take it. Settable: `ask`, its source for a key frame; `leave`, its source, for good: it calls when nothing follows.

    `ending`: it was told to end; what its source still has for it is taken.
    """

    def __init__(
        self,
        order: Order,
        config: Recording,
        bound: int,
        bus: Bus,
        writer: Writer,
        *,
        on_disk: Callable[[str], None],
        on_refused: Callable[[Session, str], None],
        on_end: Callable[[Session], None],
    ) -> None:
        self.order = order
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started_at = 0.0
        self._zero = 0.0
        self._until = 0.0
        self.duration = 0
        self.nbytes = 0
        self.queued = 0
        self.trouble: dict[str, str] = {}
        self.ending = False
        self.writer = writer
        self.ask: Callable[[], None] = lambda: None
        self.leave: Callable[[Callable[[], None]], None] = lambda then: then()
        self._bus = bus
        self._bound = bound
        self._reel: Reel = writer.add(self)
        self._on_disk = on_disk
        self._on_refused = on_refused
        self._on_end = on_end
        part, file = round(config.part_duration * SHARE * SECOND), round(config.file_duration * SECOND)
        self._fragmenter = Fragmenter(self, part, file, lambda: self.ask())  # noqa: PLW0108 - it is set later
        self._tracks: tuple[Track, ...] = ()
        self._gap = ""
        self._sequence = 0
        self._filming: RecordedFile | None = None
        self._file: RecordedFile | None = None
        self._paused = self._sealed = False
        self._broken = ""
        self._refused_at = 0.0
        self._cause = ("", "")

    # the Sink's side: what is recorded

    def on_tracks(self, tracks: tuple[Track, ...]) -> None:
        carried = carriage.carry(tracks)
        if carried.refused:
            self._tell_trouble(UNSUPPORTED, "; ".join(carried.refused))
        elif tracks:
            self._over(UNSUPPORTED)
        self._fragmenter.on_tracks(carried.tracks)

    def on_packet(self, packet: Packet) -> None:
        if self._sealed:
            return
        if self._broken:
            self._break(self._broken)
            self._broken = ""
        if self._paused:
            if self.queued > self._bound // 2:
                DROPPED.labels(self._slow()).value += 1
                return
            self._paused = False
            self.ask()
        elif self.queued > self._bound:
            self._paused = True
            code = self._slow()
            if code == SLOW:
                self._tell_trouble(SLOW, f"{self.queued} bytes wait for the disk, more than limits.recorder_bytes: some are not recorded")
            self._break(code)
            return
        self._fragmenter.on_packet(packet)

    def on_gap(self, gap: Gap) -> None:
        if self._fragmenter.begun:
            GAPS.labels(gap.cause).value += 1
        self._fragmenter.on_gap(gap)

    def on_end(self, cause: str) -> None:
        self.end()

    def tend(self, now: float) -> None:
        """Some times a second."""
        if not self._paused:
            self._fragmenter.tend(now)
        if self.queued < self._bound // 2 and not self._paused:
            self._over(SLOW)
        if now - self._refused_at >= WELL_AFTER and not self._reel.broken:
            for code in tuple(self.trouble):
                if code.startswith(DISK):
                    self._over(code)

    def end(self, patience: float = 10.0) -> None:
        """Finish the file; `ended` tells when all is on the disk and was told. A disk that refuses is waited for `patience` seconds."""
        if not self.ending:
            self.ending = True
            self.leave(lambda: self._seal(patience))

    def _seal(self, patience: float) -> None:
        self._fragmenter.flush()
        self._sealed = True
        self._reel.give_up_at = clock.now() + patience
        self.writer.submit(self._reel, End(), hurry=True)

    @property
    def live(self) -> LiveFile | None:
        """The open file, once something of it is on the disk."""
        file = self._file
        return file.live() if file is not None and file.parts else None

    # the Tape's side: what the fragmenter makes of it

    def open(self, tracks: Sequence[Track], gap: str) -> None:
        self._tracks = tuple(tracks)
        self._gap = gap[:CAUSE_LENGTH] or self._gap  # of one before that came to nothing

    def part(self, pieces: list[bytes], extent: Extent, pace: tuple[int, int]) -> None:
        file = self._filming
        if file is None:
            file = self._filming = self._new_file(extent.start)
            pieces.insert(0, fmp4.prft(pace[0], file.started_at, pace[1]))
        size = sum(map(len, pieces))
        part = Part(file.size, size, extent.start, extent.duration, extent.independent)
        file.size += size
        self._submit(_WritePart(file, part, pieces))

    def close(self) -> None:
        file, self._filming = self._filming, None
        if file is not None:
            self._submit(_CloseFile(file))

    def _new_file(self, start: int) -> RecordedFile:
        """Opened with its first part, so that none is empty."""
        self._sequence += 1
        started_at = clock.wallclock_of(self._fragmenter.clock_zero + start / SECOND)
        if not self.started_at:
            self.started_at = started_at
            self._started()
        tracks = label.facts(self._tracks)
        gap, self._gap = self._gap if self._sequence > 1 else "", ""
        zero = started_at - start / SECOND
        if self._sequence > 1 and not gap and abs(zero - self._zero) > STEP:
            gap = CLOCK_STEP
        self._zero = zero
        told = label.build(self.order, self._sequence, gap, started_at, start, tracks)
        init = fmp4.init_segment(self._tracks, told)
        path = self.order.directory / name(self._sequence)
        file = RecordedFile(path, self._sequence, gap, started_at, start, tracks, init)
        self._submit(_OpenFile(file))
        return file

    def _submit(self, job: Job) -> None:
        self.queued += job.nbytes
        self.writer.submit(self._reel, job)

    # the reel's side: what the disk says

    def landed(self, job: Job) -> None:
        self.queued -= job.nbytes
        if isinstance(job, _OpenFile):
            job.file.opened = True
            self._file = job.file
            BYTES.value += job.nbytes
            self._file_changed(job.file, closed=False)
        elif isinstance(job, _WritePart):
            job.file.parts.append(job.part)
            BYTES.value += job.nbytes
            PARTS.value += 1
            self._on_disk(self.order.recording_id)
        elif isinstance(job, _CloseFile):
            self._file = None
            if job.file.opened:
                self.duration += job.file.duration
                self._until = max(self._until, job.file.started_at + job.file.duration / SECOND)
                self.nbytes += job.file.nbytes
                self._file_changed(job.file, closed=True)
        elif isinstance(job, End):
            self._finished()

    def refused(self, code: str, message: str) -> None:
        self._refused_at = clock.now()
        if self._reel.lost:
            self._cause = (code, message)
        self._tell_trouble(code, f"{self.order.directory}: {message}; it is tried again each second")
        self._on_refused(self, code)

    def broken(self, code: str, message: str) -> None:
        self._refused_at = clock.now()
        if code not in self.trouble:
            self._broken = code
        self._tell_trouble(code, f"{self.order.directory}: {message}: what was written may be lost with the power")

    # what is told

    def _slow(self) -> str:
        """Why nothing more can be taken."""
        return next((code for code in self.trouble if code.startswith(DISK)), SLOW)

    def _break(self, cause: str) -> None:
        GAPS.labels(cause).value += 1
        self._fragmenter.on_gap(Gap(cause))

    def _tell_trouble(self, code: str, message: str) -> None:
        """Once until it is over."""
        if code in self.trouble:
            return
        self.trouble[code] = message
        log.warning("recording: %s", message, extra={"fields": self._fields | {"code": code}})
        self._bus.publish(RecordingTrouble(*self._about, code=code, message=message))

    def _over(self, code: str) -> None:
        if self.trouble.pop(code, None) is not None and not self.trouble:
            log.info("recording: well again", extra={"fields": self._fields})
            self._bus.publish(RecordingTrouble(*self._about, code="", message=""))

    def _started(self) -> None:
        order = self.order
        telemetry.session(log, "recording", **self._fields, reason=order.reason)
        labels = tuple(order.labels.items())
        self._bus.publish(
            RecordingStarted(
                *self._about,
                reason=order.reason,
                directory=str(order.directory),
                at=self.started_at,
                title=order.title,
                labels=labels,
            )
        )

    def _file_changed(self, file: RecordedFile, *, closed: bool) -> None:
        self._bus.publish(
            RecordingFileChanged(
                *self._about,
                sequence=file.sequence,
                name=file.path.name,
                closed=closed,
                started_at=file.started_at,
                start=file.start,
                duration=file.duration,
                nbytes=file.nbytes,
                init_bytes=len(file.init),
                tracks=file.tracks,
                gap=file.gap,
                index=pack(file.parts) if closed else None,
            )
        )

    def _finished(self) -> None:
        code, message = self._cause
        if self.started_at:
            at = max(self.started_at, self._until, clock.wallclock())
            telemetry.session(log, "recorded", **self._fields, code=code, duration=self.duration / SECOND, bytes=self.nbytes)
            self._bus.publish(RecordingEnded(*self._about, at=at, duration=self.duration, nbytes=self.nbytes, code=code, message=message))
        self._on_end(self)
        if not self.ended.done():
            self.ended.set_result(None)

    @property
    def _about(self) -> tuple[str, str, str, str, str | None]:
        order = self.order
        return order.recording_id, order.project_id, order.room, order.identity, order.ingress_id

    @property
    def _fields(self) -> dict[str, object]:
        return {"room": self.order.room, "recording": self.order.recording_id}
