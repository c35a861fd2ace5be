"""Recordings on the disk without a recorder: its own fragmenter and labels, written at once, and told on the bus as it tells them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import VIDEO
from medianode.config import Config, Recording
from medianode.control.catalogue import Catalogue
from medianode.control.recording_ledger import RecordingLedger
from medianode.control.recording_places import RecordingPlaces
from medianode.control.recording_recovery import Recovery
from medianode.control.retention import Retention
from medianode.egress.recorder import label
from medianode.egress.recorder.file import RecordedFile, name
from medianode.egress.recorder.fragmenter import Fragmenter
from medianode.egress.recorder.order import Order
from medianode.events import Bus, Event, RecordingEnded, RecordingFileChanged, RecordingStarted
from medianode.media.packet import Packet
from medianode.media.parts import Part, pack
from medianode.media.track import Track
from medianode.protocols import fmp4
from medianode.protocols.fmp4_read import Extent
from medianode.store.database import Database
from medianode.store.projects import Project

SECOND = 1_000_000


class Film:
    """A recording that begins at `at` (wallclock). `padding`: bytes of each picture, of which there are ten a second."""

    def __init__(self, order: Order, bus: Bus, at: float, *, file_seconds: float = 10.0, padding: int = 100) -> None:
        self.order, self.at = order, at
        self.files: list[RecordedFile] = []
        self._bus = bus
        self._padding = bytes(padding)
        self._tracks: Sequence[Track] = ()
        self._gap = ""
        self._frames = 0
        self._open = False
        self._fragmenter = Fragmenter(self, round(0.65 * SECOND), round(file_seconds * SECOND))
        self._fragmenter.on_tracks((VIDEO,))

    def roll(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            dts = self._frames * 9000
            picture = bytes([0x65 if self._frames % 10 == 0 else 0x41]) + self._padding
            data = len(picture).to_bytes(4, "big") + picture
            self._fragmenter.on_packet(Packet(VIDEO, data, dts, dts, self._frames % 10 == 0, 100.0 + self._frames / 10))
            self._frames += 1

    def stop(self, code: str = "") -> None:
        self._fragmenter.flush()
        duration, nbytes = sum(file.duration for file in self.files), sum(file.nbytes for file in self.files)
        end = self.at + self._frames / 10
        self._tell(RecordingEnded(*self._about, at=end, duration=duration, nbytes=nbytes, code=code, message=code and "it broke"))

    # the fragmenter's tape

    def open(self, tracks: Sequence[Track], gap: str) -> None:
        self._tracks, self._gap = tracks, gap

    def part(self, pieces: list[bytes], extent: Extent, pace: tuple[int, int]) -> None:
        if not self._open:
            file = self._new_file(extent.start)
            pieces.insert(0, fmp4.prft(pace[0], file.started_at, pace[1]))
        file = self.files[-1]
        data = b"".join(pieces)
        with file.path.open("ab") as out:
            out.write(data)
        file.parts.append(Part(file.size, len(data), extent.start, extent.duration, extent.independent))
        file.size += len(data)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._file_changed(closed=True)

    def _new_file(self, start: int) -> RecordedFile:
        sequence, started_at = len(self.files) + 1, self.at + start / SECOND
        order, facts = self.order, label.facts(self._tracks)
        if sequence == 1:
            order.directory.mkdir(parents=True)
            labels = tuple(order.labels.items())
            self._tell(RecordingStarted(*self._about, order.reason, str(order.directory), started_at, order.title, labels))
        told = label.build(order, sequence, self._gap, started_at, start, facts)
        init = fmp4.init_segment(tuple(self._tracks), told)
        file = RecordedFile(Path(order.directory) / name(sequence), sequence, self._gap, started_at, start, facts, init)
        file.path.write_bytes(init)
        self.files.append(file)
        self._open = True
        self._file_changed(closed=False)
        return file

    def _file_changed(self, *, closed: bool) -> None:
        file = self.files[-1]
        self._tell(
            RecordingFileChanged(
                *self._about,
                sequence=file.sequence,
                name=file.path.name,
                closed=closed,
                started_at=file.started_at,
                start=file.start,
                duration=file.duration if closed else 0,
                nbytes=file.nbytes if closed else len(file.init),
                init_bytes=len(file.init),
                tracks=file.tracks,
                gap=file.gap,
                index=pack(file.parts) if closed else None,
            )
        )

    @property
    def _about(self) -> tuple[str, str, str, str, str | None]:
        order = self.order
        return order.recording_id, order.project_id, order.room, order.identity, order.ingress_id

    def _tell(self, event: Event) -> None:
        self._bus.publish(event)


@dataclass
class Studio:
    """What `control` knows of recordings, as the daemon wires it, over one database and one directory."""

    db: Database
    root: Path
    settings: Recording
    node_id: str = "node-a"

    def __post_init__(self) -> None:
        self.bus = Bus()
        self.settled = 0
        self.places = RecordingPlaces(Config(recording=Recording(directory=str(self.root))), self.db, self.bus)
        self.ledger = RecordingLedger(self.db, self.bus, self.node_id, 1000, self._settle)
        self.catalogue = Catalogue(self.db)
        self.ledger.on_written = self.catalogue.note
        self.recovery = Recovery(self.db, self.ledger, self.places, self.node_id)
        self.retention = Retention(self.db, self.bus, self.settings, self.places, self.node_id)

    async def _settle(self) -> None:
        self.settled += 1

    async def open(self) -> None:
        await self.places.open()
        await self.recovery.open()

    def film(self, project: Project, room: str, at: float, *, identity: str = "cam", padding: int = 100, title: str = "") -> Film:
        return Film(self.places.order(project, room, identity=identity, reason="api", title=title), self.bus, at, padding=padding)

    async def recorded(self, project: Project, room: str, at: float, seconds: float, *, padding: int = 100) -> Film:
        """Ended, and written down."""
        film = self.film(project, room, at, padding=padding)
        film.roll(seconds)
        film.stop()
        await self.ledger.write()
        return film
