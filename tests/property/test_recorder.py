"""Whatever a source does, time of a recording goes on; and wherever a file is cut, its whole parts are what was told of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import AUDIO, VIDEO
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medianode.egress.recorder import label
from medianode.egress.recorder.fragmenter import Fragmenter
from medianode.egress.recorder.order import Order
from medianode.egress.recorder.recover import recover
from medianode.errors import ProtocolError
from medianode.media.packet import Gap, Packet
from medianode.media.parts import Part
from medianode.media.track import Track
from medianode.protocols import fmp4, fmp4_boxes, fmp4_read
from medianode.protocols.fmp4_boxes import parse_boxes
from medianode.protocols.fmp4_read import Extent

SECOND = 1_000_000
ORDER = Order(recording_id="rec_1", project_id="p", slug="s", room="r", directory=Path("/nowhere"))


class Files:
    """A tape in memory: bytes and parts of each file."""

    def __init__(self) -> None:
        self.done: list[tuple[bytearray, list[Part]]] = []
        self._tracks: Sequence[Track] = ()
        self._open = False

    def open(self, tracks: Sequence[Track], gap: str) -> None:
        assert not self._open
        self._tracks, self._open = tracks, True
        self.done.append((bytearray(), []))

    def part(self, pieces: list[bytes], extent: Extent, pace: tuple[int, int]) -> None:
        assert self._open
        data, parts = self.done[-1]
        if not data:
            told = label.build(ORDER, len(self.done), "", 0.0, extent.start, label.facts(self._tracks))
            data += fmp4.init_segment(self._tracks, told)
            pieces.insert(0, fmp4.prft(pace[0], 1e9, pace[1]))
        size = sum(map(len, pieces))
        parts.append(Part(len(data), size, *extent))
        data += b"".join(pieces)

    def close(self) -> None:
        self._open = False


# (what, how far its stamp goes on in ms, seconds that pass)
STEP = st.tuples(
    st.sampled_from("vvvvvvkaaaaaag"),
    st.sampled_from([0, 1, 33, 33, 33, 40, 900, 9000]),
    st.sampled_from([0.0, 0.0, 0.033, 0.033, 0.5, 30.0]),
)


def play(steps: list[tuple[str, int, float]]) -> Files:
    files = Files()
    fragmenter = Fragmenter(files, 200_000, 1 * SECOND)
    fragmenter.on_tracks((VIDEO, AUDIO))
    now, clocks = 100.0, {"v": 0, "a": 0}
    for what, ms, passed in steps:
        now += passed
        if what == "g":
            fragmenter.on_gap(Gap("publisher-gap"))
            continue
        kind = "a" if what == "a" else "v"
        track = AUDIO if kind == "a" else VIDEO
        clocks[kind] += max(1, ms * track.clock_rate // 1000)
        fragmenter.on_packet(Packet(track, bytes((len(steps) % 256,)) * (ms % 50), clocks[kind], clocks[kind], what in "ka", now))
        fragmenter.tend(now)
    fragmenter.flush()
    return files


@settings(max_examples=150, deadline=None)
@example([("k", 0, 0.0), ("v", 900, 0.0), ("v", 900, 0.0), ("k", 0, 0.0), ("k", 0, 0.5)])
@example([("a", 0, 0.0), ("v", 0, 30.0), ("a", 0, 0.0), ("k", 0, 0.0)])
@given(st.lists(STEP, max_size=120))
def test_decode_times_follow_each_other(steps: list[tuple[str, int, float]]) -> None:
    ends: dict[int, int] = {}
    for data, parts in play(steps).done:
        if not parts:
            continue  # it had begun with sound, of which nothing was before the picture
        assert parts[0].independent or not any(part.independent for part in parts)
        scales = {1: fmp4_read.Timescale(90_000, True), 2: fmp4_read.Timescale(48_000, False)}
        for box in parse_boxes(bytes(data)):
            if box.type == b"moof":
                runs = fmp4_read.runs(fmp4_boxes.box(b"moof", box.payload), scales)
                for traf, run in zip([b for b in box.children if b.type == b"traf"], runs, strict=True):
                    number = int.from_bytes(traf.children[0].payload[4:8], "big")
                    assert run.base >= ends.get(number, 0)
                    ends[number] = run.base + run.ticks


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, min_size=20, max_size=120), st.floats(0, 1), st.binary(max_size=40))
def test_cut_anywhere_the_whole_parts_are_found(steps: list[tuple[str, int, float]], where: float, garbage: bytes) -> None:
    for data, parts in play([("k", 33, 0.033), *steps]).done:
        cut = round(len(data) * where)
        whole = [part for part in parts if part.offset + part.size <= cut]
        with tempfile.NamedTemporaryFile() as file:
            path = Path(file.name)
            path.write_bytes(bytes(data[:cut]) + (garbage if cut < len(data) else b""))
            try:
                found = recover(path)
            except ProtocolError:
                assert not whole
                continue
            assert list(found.parts[: len(whole)]) == whole
            assert len(found.parts) <= len(whole) + 1  # garbage may happen to complete the torn one's box
            assert path.stat().st_size == found.nbytes
