"""What the fragmenter makes of sources as they are: their clocks drift, leap and stop, their tracks come late."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from harness import AUDIO, VIDEO

from medianode.egress.recorder.fragmenter import Fragmenter
from medianode.media.packet import Gap, Packet
from medianode.media.track import Codec, Track
from medianode.protocols.fmp4_read import Extent
from medianode.protocols.fmp4_samples import samples

PART, FILE = 650_000, 10_000_000
FRAME = 3000
SECOND = 1_000_000


class Tape:
    """Remembers files: (gap, [(extent, number of bytes)])."""

    def __init__(self) -> None:
        self.files: list[tuple[str, list[Extent]]] = []
        self.open_files = 0

    def open(self, tracks: Sequence[Track], gap: str) -> None:
        self.files.append((gap, []))
        self.open_files += 1

    def part(self, pieces: list[bytes], extent: Extent, pace: tuple[int, int]) -> None:
        assert self.open_files == 1
        self.files[-1][1].append(extent)

    def close(self) -> None:
        self.open_files -= 1

    @property
    def parts(self) -> list[Extent]:
        return [part for _, parts in self.files for part in parts]

    @property
    def end(self) -> int:
        return max(part.start + part.duration for part in self.parts)


class Source:
    """An encoder: `at` seconds of media at `arrives`, by default at once."""

    def __init__(self, *, part: int = PART, file: int = FILE) -> None:
        self.tape = Tape()
        self.asked = 0
        self.fragmenter = Fragmenter(self.tape, part, file, self._ask)

    def _ask(self) -> None:
        self.asked += 1

    def picture(self, number: int, arrives: float, *, key: bool, ahead: int = 0, frame: int = FRAME) -> None:
        dts = 10**9 + number * frame
        self.fragmenter.on_packet(Packet(VIDEO, b"picture", dts + ahead, dts, key, 100 + arrives))

    def sound(self, number: int, arrives: float) -> None:
        dts = 10**9 * 48 // 90 + number * 1024
        self.fragmenter.on_packet(Packet(AUDIO, b"sound", dts, dts, True, 100 + arrives))

    def both(self, first: int, last: int, *, gop: int = 30, late: float = 0.0) -> None:
        """30 pictures a second, and the sound to them."""
        for n in range(first, last):
            self.picture(n, n / 30 + late, key=(n - first) % gop == 0)
            for m in range(-(-n * 1600 // 1024), -(-(n + 1) * 1600 // 1024)):
                self.sound(m, m * 1024 / 48000 + late)


def test_parts_end_before_key_frames_and_files_with_them() -> None:
    source = Source()
    source.fragmenter.on_tracks((VIDEO, AUDIO))
    source.both(0, 30 * 25)
    source.fragmenter.flush()
    assert [(gap, parts[0].start, len(parts)) for gap, parts in source.tape.files] == [
        ("", 0, 20),
        ("", 10 * SECOND, 20),
        ("", 20 * SECOND, 10),
    ]
    assert all(parts[0].independent for _, parts in source.tape.files)
    assert [part.independent for part in source.tape.parts[:4]] == [True, False, True, False]
    starts = [part.start for part in source.tape.parts]
    assert starts == [sum(part.duration for part in source.tape.parts[:i]) for i in range(len(starts))]
    assert source.tape.end == 25 * SECOND


@pytest.mark.parametrize("gop", [1, 6, 20, 75])
def test_no_part_is_longer_than_it_may_be(gop: int) -> None:
    source = Source()
    source.fragmenter.on_tracks((VIDEO, AUDIO))
    source.both(0, 600, gop=gop)
    assert max(part.duration for part in source.tape.parts) <= PART + SECOND // 30
    assert min(part.duration for part in source.tape.parts[:-1]) >= SECOND // 6
    assert gop == 1 or sum(part.independent for part in source.tape.parts) >= 600 / 30 / max(0.7, gop / 30) - 3


@pytest.mark.parametrize("ppm", [200, -200])
def test_a_day_with_an_encoder_whose_clock_drifts(ppm: int) -> None:
    """A picture and a sound every eight seconds, with some jitter: after 24 hours the recording is as long as the day, within one frame of
    30 a second, in one set of files without a gap; and no sample's duration moved by more than what nobody hears.
    """
    source = Source(file=3600 * SECOND)
    fragmenter = source.fragmenter
    sound = Track(1, Codec.AAC, 48_000, AUDIO.config, sample_rate=48_000, channels=2)
    fragmenter.on_tracks((VIDEO, sound))
    rate = 1 / (1 + ppm / 1e6)
    worst = 0
    for n in range(0, 86_400, 8):
        arrives = n * rate
        jitter = (n * 7919 % 101) / 2500
        fragmenter.on_packet(Packet(VIDEO, b"p", n * 90_000, n * 90_000, True, 50 + arrives + jitter))
        fragmenter.on_packet(Packet(sound, b"s", n * 48_000, n * 48_000, True, 50 + arrives + jitter))
        if n > 60 and n % 100 == 0:
            worst = max(worst, abs(source.tape.end - round(arrives * SECOND)))
            picture, tone = (fragmenter._lanes[i] for i in (0, 1))
            assert abs(picture.us(picture.held_at) - tone.us(tone.held_at)) < 30  # in step, to the tick
    fragmenter.flush()
    assert worst < SECOND // 30
    assert {gap for gap, _ in source.tape.files} == {""}
    assert len(source.tape.files) == 24
    durations = [part.duration for part in source.tape.parts[1:-1]]
    assert max(abs(duration - 8 * SECOND) for duration in durations) <= 8 * 600  # 600 ppm
    assert source.tape.parts[-1].start == sum(part.duration for part in source.tape.parts[:-1])


def test_a_gap_takes_as_long_as_it_took() -> None:
    source = Source()
    source.fragmenter.on_tracks((VIDEO, AUDIO))
    source.both(0, 60)
    source.fragmenter.on_gap(Gap("publisher-gap"))
    source.picture(500, 5.0, key=False)  # waits for a key frame
    source.both(1000, 1060, late=5.5 - 1000 / 30)
    source.fragmenter.flush()
    assert [gap for gap, _ in source.tape.files] == ["", "publisher-gap"]
    assert source.tape.files[0][1][-1].start + source.tape.files[0][1][-1].duration == 2 * SECOND
    again = source.tape.files[1][1][0]
    assert again.start == pytest.approx(5.5 * SECOND, abs=2000)
    assert again.independent


def test_stamps_that_leap_forth_are_not_believed() -> None:
    """Eight seconds of stamps in no time: the ingress lets that pass, a recording would be longer than the day."""
    source = Source()
    source.fragmenter.on_tracks((VIDEO, AUDIO))
    source.both(0, 60)
    source.both(60 + 240, 120 + 240, late=-8.0)
    source.fragmenter.flush()
    assert {gap for gap, _ in source.tape.files} == {""}
    assert source.tape.end == pytest.approx(4 * SECOND, abs=SECOND // 15)


def test_a_picture_that_stands_still_and_moves_again() -> None:
    source = Source()
    source.fragmenter.on_tracks((VIDEO, AUDIO))
    source.both(0, 30)
    for m in range(47, 47 + 47 * 5):
        source.sound(m, m * 1024 / 48000)
    parts = len(source.tape.parts)
    assert parts >= 7
    assert source.tape.end > 5 * SECOND
    source.both(180, 240)
    source.fragmenter.flush()
    assert source.tape.end == pytest.approx(8 * SECOND, abs=SECOND // 15)
    assert len(source.tape.files) == 1


def test_sound_alone_where_the_picture_never_comes() -> None:
    source = Source()
    source.fragmenter.on_tracks((VIDEO, AUDIO))
    for m in range(47 * 4):
        source.sound(m, m * 1024 / 48000)
    source.fragmenter.flush()
    assert source.tape.end == pytest.approx(4 * SECOND, abs=25_000)  # from the first sound on: none was lost by waiting
    assert not any(part.independent for part in source.tape.parts)


def test_sound_alone_is_cut_by_time() -> None:
    source = Source()
    source.fragmenter.on_tracks((AUDIO,))
    for m in range(47 * 25):
        source.sound(m, m * 1024 / 48000)
    assert len(source.tape.files) == 3
    assert all(part.independent and part.duration <= PART + 22_000 for part in source.tape.parts)


def test_reordered_pictures_keep_their_order_of_showing() -> None:
    source = Source()
    written: list[bytes] = []
    source.tape.part = lambda pieces, extent, pace: written.append(b"".join(pieces))  # type: ignore[method-assign]
    source.fragmenter.on_tracks((VIDEO,))
    ahead = [(2, 0, 1)[n % 3] * FRAME for n in range(90)]
    for n in range(90):
        source.picture(n, n / 30, key=n % 30 == 0, ahead=ahead[n])
    source.fragmenter.flush()
    tables = [samples(part[: int.from_bytes(part[:4], "big")])[0] for part in written]
    assert [offset for table in tables for offset in table.compositions] == ahead


def test_a_burst_at_the_start_tells_when_it_was_taken() -> None:
    """Encoders hand over at first what they had gathered: it was taken before it came."""
    source = Source()
    source.fragmenter.on_tracks((VIDEO,))
    for n in range(60):
        source.picture(n, max(0.5, n / 30), key=n == 0)
    assert source.fragmenter.clock_zero == pytest.approx(100.0, abs=0.04)


def test_silence_is_written_by_the_clock() -> None:
    source = Source()
    source.fragmenter.on_tracks((VIDEO, AUDIO))
    source.both(0, 10)
    assert not source.tape.parts
    source.fragmenter.tend(100.9)
    assert not source.tape.parts
    source.fragmenter.tend(101.2)
    assert source.tape.end == pytest.approx(SECOND * 9 // 30, abs=1000)


def test_key_frames_are_asked_for_where_none_come() -> None:
    source = Source()
    source.fragmenter.on_tracks((VIDEO,))
    source.both(0, 30 * 3, gop=10_000)
    assert not source.asked
    source.both(30 * 3, 30 * 5, gop=10_000)
    for n in range(150, 300):
        source.picture(n, n / 30, key=False)
    assert source.asked


def test_other_tracks_are_another_file() -> None:
    source = Source()
    source.fragmenter.on_tracks((VIDEO,))
    source.both(0, 30)
    source.fragmenter.on_gap(Gap("track-changed"))
    source.fragmenter.on_tracks((VIDEO, AUDIO))
    source.both(30, 60)
    source.fragmenter.on_tracks((VIDEO, AUDIO))  # told again: nothing has changed
    source.both(60, 90)
    source.fragmenter.flush()
    assert [gap for gap, _ in source.tape.files] == ["", "track-changed"]
    assert source.tape.end == pytest.approx(3 * SECOND, abs=1000)
