"""What we mux, FFmpeg and ffprobe read without a word, and decode to the very same pictures and sound as the source file."""

import json
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import pytest

from medianode.codecs import aac, h264, hevc, vp9
from medianode.media.track import Codec, Kind, Track
from medianode.protocols import fmp4, fmp4_boxes, rfc6381

pytestmark = pytest.mark.interop

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
VIDEO = "-f lavfi -i testsrc2=s=320x180:r=25:d=2"
AUDIO = "-f lavfi -i sine=f=440:r={rate}:d=2"
CASES = {
    "h264-bframes-aac": (
        f"{VIDEO} {AUDIO.format(rate=44100)} -c:v libx264 -bf 3 -g 25 -pix_fmt yuv420p -c:a aac -ac 2",
        "avc1.64000c mp4a.40.2",
    ),
    "h264-zerolatency": (f"{VIDEO} -c:v libx264 -tune zerolatency -preset ultrafast -profile:v baseline -pix_fmt yuv420p", "avc1.42c00c"),
    "h264-sar-colour": (
        f"{VIDEO} -vf setsar=4/3 -c:v libx264 -x264-params colorprim=bt709:transfer=bt709:colormatrix=bt709 -pix_fmt yuv420p",
        "avc1.64000c",
    ),
    "hevc": (f"{VIDEO} -c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p -tag:v hvc1", "hvc1.1.6.L60.90"),
    "av1": (f"{VIDEO} -c:v libaom-av1 -cpu-used 8 -usage realtime -pix_fmt yuv420p", "av01.0.00M.08"),
    "vp9": (f"{VIDEO} -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 300k", "vp09.00.11.08"),
    "aac-5.1": (f"{AUDIO.format(rate=48000)} -c:a aac -ac 6", "mp4a.40.2"),
    "opus": (f"{AUDIO.format(rate=48000)} -c:a libopus -ac 2", "Opus"),
    "mp3": (f"{AUDIO.format(rate=44100)} -c:a libmp3lame -ac 2", "mp4a.6B"),
    "flac": (f"{AUDIO.format(rate=96000)} -c:a flac -ac 2 -sample_fmt s32", "fLaC"),
    "ac3": (f"{AUDIO.format(rate=48000)} -c:a ac3 -ac 6", "ac-3"),
    "eac3": (f"{AUDIO.format(rate=44100)} -c:a eac3 -ac 2", "ec-3"),
}


def run(*args: str | Path) -> str:
    done = subprocess.run([*map(str, args)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def track_of(number: int, stream: av.stream.Stream, first: bytes) -> Track:
    codec = Codec({"mp3float": "mp3", "libdav1d": "av1"}.get(stream.codec_context.name, stream.codec_context.codec.canonical_name))
    config = bytes(stream.codec_context.extradata or b"")
    if codec is Codec.VP9:
        config = vp9.build_vpcc(vp9.config_of(first, 25))
    elif codec in (Codec.AC3, Codec.EAC3):
        config = fmp4_boxes.ac3_config(codec, first)
    elif codec is Codec.MP3:
        config = b""
    if stream.type == "video":
        return Track(number, codec, 90_000, config, stream.codec_context.width, stream.codec_context.height)
    return Track(
        number,
        codec,
        stream.codec_context.sample_rate,
        config,
        sample_rate=stream.codec_context.sample_rate,
        channels=stream.codec_context.channels,
    )


def demux(source: Path) -> tuple[list[Track], list[list[tuple[int, fmp4.Sample]]]]:
    with av.open(str(source), options={"ignore_editlist": "1"}) as container:
        packets = {stream.index: [p for p in container.demux(stream) if p.size] for stream in container.streams if not container.seek(0)}
        tracks, runs = [], []
        for stream in container.streams:
            track = track_of(stream.index + 7, stream, bytes(packets[stream.index][0]))
            tick = Fraction(stream.time_base) * track.clock_rate
            run_ = []
            for p in packets[stream.index]:
                data = bytes(p)
                if track.codec is Codec.H264:
                    data = h264.normalise(data).data
                elif track.codec is Codec.HEVC:
                    data = hevc.normalise(data).data
                key = p.is_keyframe if track.kind is Kind.VIDEO else True
                run_.append((int(p.dts * tick), fmp4.Sample(data, int(p.duration * tick), int((p.pts - p.dts) * tick), key)))
            tracks.append(track)
            runs.append(run_)
    return tracks, runs


def mux(tracks: list[Track], runs: list[list[tuple[int, fmp4.Sample]]], part: int) -> bytes:
    out = [fmp4.init_segment(tracks), fmp4.styp()]
    number = 1
    for at in range(0, max(map(len, runs)), part):
        batch = [(index, run_[at][0], [sample for _, sample in run_[at : at + part]]) for index, run_ in enumerate(runs) if at < len(run_)]
        out += (fmp4.prft(batch[0][0], 1_700_000_000.5, batch[0][1]), fmp4.fragment(number, batch))
        number += 1
    return b"".join(out)


def hashes(path: Path, index: int) -> list[str]:
    text = run(
        FFMPEG, "-v", "error", "-ignore_editlist", "1", "-i", path, "-map", f"0:{index}", "-fps_mode", "passthrough", "-f", "framemd5", "-"
    )
    return [line.split(",")[-1].strip() for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", CASES)
def test_ffmpeg_plays_it(name: str, tmp_path: Path) -> None:
    arguments, codecs = CASES[name]
    source, ours = tmp_path / "source.mp4", tmp_path / "ours.mp4"
    subprocess.run(
        [FFMPEG, "-v", "error", "-y", *arguments.split(), str(source)], check=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    tracks, runs = demux(source)
    assert " ".join(map(rfc6381.codec_string, tracks)) == codecs
    ours.write_bytes(mux(tracks, runs, 7))
    run(FFMPEG, "-v", "error", "-xerror", "-i", ours, "-f", "null", "-")
    run("ffmpeg", "-v", "error", "-xerror", "-i", ours, "-f", "null", "-")
    told = json.loads(
        run("ffprobe", "-v", "error", "-count_packets", "-show_format", "-show_streams", "-show_packets", "-of", "json", ours)
    )
    for index, (track, samples) in enumerate(zip(tracks, runs, strict=True)):
        stream = told["streams"][index]
        assert stream["codec_name"] == track.codec.value
        assert int(stream["nb_read_packets"]) == len(samples)
        assert stream["time_base"] == f"1/{track.clock_rate}"
        packets = [p for p in told["packets"] if p["stream_index"] == index]
        assert [int(p["size"]) for p in packets] == [len(sample.data) for _, sample in samples]
        assert [p["flags"][0] == "K" for p in packets] == [sample.keyframe for _, sample in samples]
        assert [(p["pts"], p["dts"]) for p in packets] == [(dts + sample.composition_offset, dts) for dts, sample in samples]
        length = sum(sample.duration for _, sample in samples) / track.clock_rate
        assert float(told["format"]["duration"]) == pytest.approx(length, abs=0.1)
        expected, got = hashes(source, index), hashes(ours, index)
        assert len(got) == len(expected) == len(samples) > 20
        # FFmpeg cuts the last frame of sound to the source's duration; ours carries the whole frame.
        assert got[:-1] == expected[:-1]
        if track.kind is Kind.VIDEO:
            assert (stream["width"], stream["height"]) == (320, 180)
        else:
            assert (int(stream["sample_rate"]), stream["channels"]) == (track.sample_rate, track.channels)
    if name == "h264-sar-colour":
        assert told["streams"][0]["sample_aspect_ratio"] == "4:3"
        assert told["streams"][0]["color_primaries"] == "bt709"
    if name == "h264-bframes-aac":
        assert any(sample.composition_offset for _, sample in runs[0])
        assert told["streams"][0]["has_b_frames"] > 0


@pytest.mark.parametrize(("asc", "core"), [("2b920800", 22050), ("131056e598", 24000)])
def test_ffprobe_reads_our_he_aac_signalling(asc: str, core: int, tmp_path: Path) -> None:
    """No encoder here makes HE-AAC: the configuration alone must be taken as we take it, over the core rate in the sample entry."""
    track = Track(1, Codec.AAC, 2 * core, bytes.fromhex(asc), sample_rate=core, channels=2)
    path = tmp_path / "he.mp4"
    path.write_bytes(fmp4.init_segment([track]) + fmp4.fragment(1, [(0, 0, [fmp4.Sample(b"\xe0", 2048)] * 3)]))
    told = json.loads(
        subprocess.run(["ffprobe", "-v", "quiet", "-show_streams", "-of", "json", str(path)], capture_output=True, check=True).stdout
    )
    stream = told["streams"][0]
    assert (int(stream["sample_rate"]), stream["channels"]) == (2 * core, 2)
    assert aac.parse_asc(track.config).output_sample_rate == 2 * core
    assert rfc6381.codec_string(track) == "mp4a.40.5"


def test_negative_composition_offsets(tmp_path: Path) -> None:
    """trun version 1: pts may stand before dts. FFmpeg reads them signed, then moves all pts up so that none is before its dts."""
    source, ours = tmp_path / "source.mp4", tmp_path / "ours.mp4"
    run(FFMPEG, "-v", "error", *VIDEO.split(), "-c:v", "libx264", "-bf", "2", "-pix_fmt", "yuv420p", source)
    tracks, runs = demux(source)
    shift = runs[0][0][1].composition_offset
    moved = [(dts, sample._replace(composition_offset=sample.composition_offset - shift)) for dts, sample in runs[0]]
    assert min(sample.composition_offset for _, sample in moved) < 0
    ours.write_bytes(mux(tracks, [moved], 10))
    told = json.loads(run("ffprobe", "-v", "error", "-show_frames", "-of", "json", ours))
    first = -min(sample.composition_offset for _, sample in moved)
    assert [frame["pts"] for frame in told["frames"]] == list(range(first, first + 50 * 3600, 3600))
