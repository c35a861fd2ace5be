"""Recordings without a recorder: FFmpeg's pictures and sound, cut into parts and files as the recorder's, on disk and in the database."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av

from harness import FFMPEG
from medianode.media.parts import Part, pack
from medianode.media.track import Codec, Track
from medianode.protocols import fmp4
from medianode.protocols.fmp4 import Sample
from medianode.store import projects, recording_files, recordings
from medianode.store.database import Database
from medianode.store.projects import Project
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording

MICRO = 1_000_000
STARTED = 1_790_000_000.0
"""Wallclock of the first sample of what is made here, unless told otherwise."""


@dataclass(slots=True)
class Take:
    """What was filmed: per track its samples with their decode times, ticks."""

    tracks: tuple[Track, ...]
    samples: tuple[list[tuple[int, Sample]], ...]


@dataclass(slots=True)
class Made:
    recording: Recording
    files: list[RecordingFile] = field(default_factory=list)

    def path(self, sequence: int) -> Path:
        return Path(self.recording.directory) / f"{sequence:06}.mp4"


def film(path: Path, seconds: float, *, size: str = "320x180", gop: int = 30, bframes: int = 2, sound: bool = True) -> Take:
    """A counter on a moving picture at 30 a second, with B-frames, and a tone as AAC, both from 0 on."""
    source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=30"]
    if sound:
        source += ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]
    coded = ["-t", str(seconds), "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-bf", str(bframes)]
    coded += ["-g", str(gop), "-sc_threshold", "0", "-c:a", "aac", "-b:a", "64k", "-video_track_timescale", "90000"]
    made = path / f"film-{seconds}-{size}-{gop}-{bframes}.mp4"
    subprocess.run([FFMPEG, "-v", "error", "-y", *source, *coded, str(made)], check=True, timeout=60)
    return read(made)


def read(path: Path) -> Take:
    tracks, samples = [], []
    with av.open(str(path)) as container:
        for stream in container.streams:
            config = stream.codec_context.extradata or b""
            if stream.type == "video":
                track = Track(len(tracks), Codec(stream.codec_context.name), 90_000, config, stream.width, stream.height, 30.0)
            else:
                rate = stream.codec_context.sample_rate
                track = Track(len(tracks), Codec.AAC, rate, config, sample_rate=rate, channels=stream.codec_context.channels)
            tracks.append(track)
            samples.append([])
        for packet in container.demux():
            if packet.dts is None or packet.pts is None:
                continue
            track, ticks = tracks[packet.stream.index], packet.time_base * tracks[packet.stream.index].clock_rate
            dts, pts = (round(Fraction(at) * ticks) for at in (packet.dts, packet.pts))
            duration = round(Fraction(packet.duration) * ticks)
            samples[packet.stream.index].append((dts, Sample(bytes(packet), duration, pts - dts, packet.is_keyframe)))
    least = min(each[0][0] / track.clock_rate for track, each in zip(tracks, samples, strict=True))
    for track, each in zip(tracks, samples, strict=True):
        first = round(least * track.clock_rate)
        each[:] = [(dts - first, sample) for dts, sample in each]
    return Take(tuple(tracks), tuple(samples))


def cut(take: Take, start: float = 0.0) -> Iterator[tuple[int, bool, list[tuple[int, int, list[Sample]]]]]:
    """Parts of a second or from key frame to key frame: (µs, independent, runs). `start`: seconds added to all."""
    picture = take.samples[0]
    rate = take.tracks[0].clock_rate
    edges = [0]
    for i, (dts, sample) in enumerate(picture):
        if i and (sample.keyframe or dts - picture[edges[-1]][0] >= rate):
            edges.append(i)
    edges.append(len(picture))
    taken = [0] * len(take.tracks)
    for low, high in itertools.pairwise(edges):
        end = picture[high][0] / rate if high < len(picture) else float("inf")
        runs = [(0, picture[low][0] + round(start * rate), [sample for _, sample in picture[low:high]])]
        for number, (track, samples) in enumerate(zip(take.tracks[1:], take.samples[1:], strict=True), 1):
            upto = taken[number]
            while upto < len(samples) and samples[upto][0] / track.clock_rate < end:
                upto += 1
            if upto > taken[number]:
                base = samples[taken[number]][0] + round(start * track.clock_rate)
                runs.append((number, base, [sample for _, sample in samples[taken[number] : upto]]))
            taken[number] = upto
        yield picture[low][0] * MICRO // rate + round(start * MICRO), picture[low][1].keyframe, runs


def write(
    take: Take,
    recording: Recording,
    *,
    start: float = 0.0,
    file_seconds: float = 4.0,
    sequence: int = 1,
    gap: str = "",
) -> list[RecordingFile]:
    """Files of about `file_seconds` that begin with key frames. `start`: of the first sample on the recording's timeline."""
    directory = Path(recording.directory)
    directory.mkdir(parents=True, exist_ok=True)
    init = fmp4.init_segment(take.tracks)
    files: list[RecordingFile] = []
    body, parts, begun = bytearray(), list[Part](), 0

    def close() -> None:
        name = f"{sequence + len(files):06}.mp4"
        (directory / name).write_bytes(body)
        duration = parts[-1].start + parts[-1].duration - begun
        facts = [{"kind": t.kind.value, "codec": t.codec.value} for t in take.tracks]
        files.append(
            RecordingFile(
                recording_id=recording.id,
                project_id=recording.project_id,
                sequence=sequence + len(files),
                name=name,
                state="closed",
                started_at=recording.started_at + begun / MICRO,
                start=begun,
                duration=duration,
                nbytes=len(body),
                init_bytes=len(init),
                tracks=facts,
                gap=gap if not files else "",
                parts=pack(parts),
            )
        )

    for number, (at, key, runs) in enumerate(cut(take, start)):
        if parts and key and at - begun >= file_seconds * MICRO:
            close()
            body, parts = bytearray(), []
        if not parts:
            body += init
            begun = at
        fragment = fmp4.fragment(number + 1, runs)
        ticks = sum(sample.duration for sample in runs[0][2])
        parts.append(Part(len(body), len(fragment), at, ticks * MICRO // take.tracks[0].clock_rate, key))
        body += fragment
    close()
    return files


def new_recording(project: Project, directory: Path, name: str = "rec_aaaaaaaaaaaaaaaaaaaa", **fields: object) -> Recording:
    known: dict[str, object] = {"started_at": STARTED, "room": f"{project.slug}-studio", "state": "finished", "node_id": "n"}
    return Recording(id=name, project_id=project.id, directory=str(directory / name), **{**known, **fields})  # type: ignore[arg-type]


async def store(db: Database, recording: Recording, files: Sequence[RecordingFile]) -> Made:
    """Rows of it."""
    duration, nbytes = sum(f.duration for f in files), sum(f.nbytes for f in files)
    ended = files[-1].started_at + files[-1].duration / MICRO if files else recording.started_at
    whole = replace(recording, duration=duration, nbytes=nbytes, ended_at=recording.ended_at or ended)
    async with db.write() as tx:
        if await projects.find(tx, recording.project_id) is None:
            raise AssertionError("expected the project to be there")
        await recordings.insert_recording(tx, whole)
        for file in files:
            await recording_files.put(tx, file)
    return Made(whole, list(files))
