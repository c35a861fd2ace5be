"""Clips: what PyAV (FFmpeg) shows of them is what was asked for, picture for picture."""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import av
import pytest
from harness import footage
from harness.footage import STARTED, Take

from medianode.egress.playback import clip
from medianode.egress.playback.disk import Reader
from medianode.egress.playback.footage import Footage
from medianode.egress.playback.span import Span
from medianode.errors import Conflict, LimitExceeded, NotFound
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording

RECORDING = Recording(id="rec_c", project_id="p", room="r", node_id="n", directory="", started_at=STARTED)
BOUND = 1 << 20


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Take:
    return footage.film(tmp_path_factory.mktemp("film"), 12.0)


def laid(path: Path, take: Take, **how: object) -> list[Footage]:
    recording = Recording(id="rec_c", project_id="p", room="r", node_id="n", directory=str(path), started_at=STARTED)
    return [as_footage(path, row) for row in footage.write(take, recording, **how)]  # type: ignore[arg-type]


def as_footage(path: Path, row: RecordingFile) -> Footage:
    return Footage(
        path / row.name, row.sequence, row.started_at, row.start, row.duration, row.nbytes, row.init_bytes, row.gap, index=row.parts
    )


def pieces(files: Sequence[Footage]) -> list[clip.Piece]:
    return [clip.Piece(file, bool(i) and not file.gap) for i, file in enumerate(files)]


def saved(made: clip.Clip, path: Path) -> Path:
    target = path / "clip.mp4"
    with Reader() as reader, target.open("wb") as out:
        out.write(made.head)
        out.write(reader.gather(made.between(len(made.head), made.nbytes, made.nbytes)))
    assert target.stat().st_size == made.nbytes
    return target


def shown(path: Path) -> list[tuple[float, str]]:
    with av.open(str(path)) as container:
        return [
            (round(float(frame.pts * frame.time_base), 3), hashlib.md5(frame.to_ndarray().tobytes()).hexdigest())
            for frame in container.decode(video=0)
            if frame.pts is not None
        ]


def heard(path: Path) -> tuple[float, float]:
    """(when it begins, how long it is), seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    return float(frames[0].pts * frames[0].time_base), sum(frame.samples for frame in frames) / frames[0].sample_rate


def test_all_of_it_is_every_picture_once(take: Take, tmp_path: Path) -> None:
    path = saved(clip.build(pieces(laid(tmp_path, take)), Span(), BOUND), tmp_path)
    pictures = shown(path)
    assert [at for at, _ in pictures[:3]] == [0.0, 0.033, 0.067]
    assert len(pictures) == 360
    assert len({picture for _, picture in pictures}) == 360
    begins, length = heard(path)
    assert begins == pytest.approx(0.0, abs=0.03)
    assert length == pytest.approx(12.0, abs=0.06)


@pytest.mark.parametrize(("low", "high"), [(2.5, 9.25), (3.9, 4.1), (0.0, 1.0), (7.0, 12.0), (0.2, 0.3)])
def test_a_span_is_cut_to_the_picture(take: Take, tmp_path: Path, low: float, high: float) -> None:
    files = laid(tmp_path, take)
    whole = shown(saved(clip.build(pieces(files), Span(), BOUND), tmp_path))
    lead = take.samples[0][0][1].composition_offset / 90_000  # the first picture is shown so long after it was decoded
    made = clip.build(pieces(files), Span(STARTED + low, STARTED + high), BOUND)
    path = saved(made, tmp_path)
    pictures = shown(path)
    # a picture is there where it begins within the span, and the one before it where the span begins in its middle
    first = next(i for i, (at, _) in enumerate(whole) if at + lead + 1 / 30 > low + 0.001)
    assert pictures[0][1] == whole[first][1]
    assert pictures[0][0] == pytest.approx(max(0.0, lead - low), abs=0.002)
    expected = [picture for at, picture in whole[first:] if at + lead < high - 0.001]
    assert [picture for _, picture in pictures] == expected
    begins, length = heard(path)
    assert begins == pytest.approx(0.0, abs=0.05)
    assert length == pytest.approx(high - low, abs=0.08)


def test_gaps_are_left_out_and_sound_stays_with_its_picture(take: Take, tmp_path: Path) -> None:
    first = laid(tmp_path, take)
    second = laid(tmp_path, take, start=100.0, sequence=len(first) + 1, gap="publisher-gap")
    path = saved(clip.build(pieces([*first, *second]), Span(), BOUND), tmp_path)
    pictures = shown(path)
    assert len(pictures) == 720
    assert pictures[-1][0] == pytest.approx(24.0, abs=0.15)
    assert heard(path)[1] == pytest.approx(24.0, abs=0.15)
    steps = [b - a for (a, _), (b, _) in itertools.pairwise(pictures)]
    assert max(steps) < 0.15
    # over the gap: from inside the one to inside the other
    path = saved(clip.build(pieces([*first, *second]), Span(STARTED + 10, STARTED + 102), BOUND), tmp_path)
    assert shown(path)[-1][0] == pytest.approx(4.0, abs=0.15)
    assert heard(path)[1] == pytest.approx(4.0, abs=0.2)


def test_another_format_is_refused_with_where_it_changes(take: Take, tmp_path: Path) -> None:
    first = laid(tmp_path, take)
    larger = footage.film(tmp_path, 2.0, size="640x360")
    second = laid(tmp_path, larger, start=12.0, sequence=9, gap="track-changed")
    with pytest.raises(Conflict, match=r"to=2026-09-21T14:13:32.000Z and from=2026-09-21T14:13:32.000Z") as refused:
        clip.build(pieces([*first, *second]), Span(), BOUND)
    assert refused.value.code == "format-changes"


def test_bounds_and_nothing(take: Take, tmp_path: Path) -> None:
    files = laid(tmp_path, take)
    with pytest.raises(LimitExceeded, match="ask for less"):
        clip.build(pieces(files), Span(), 1000)
    with pytest.raises(NotFound, match="nothing is recorded"):
        clip.build([], Span(), BOUND)


def test_any_range_of_it_is_the_same_bytes(take: Take, tmp_path: Path) -> None:
    made = clip.build(pieces(laid(tmp_path, take)), Span(STARTED + 1, STARTED + 6), BOUND)
    whole = saved(made, tmp_path).read_bytes()
    with Reader() as reader:
        for start in range(len(made.head), made.nbytes, 7919):
            got = reader.gather(made.between(start, made.nbytes, 5000))
            assert got == whole[start : start + 5000]
