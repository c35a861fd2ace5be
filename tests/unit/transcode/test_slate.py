"""Slates: made to match what was on air, decodable beside it, and made once."""

from __future__ import annotations

import asyncio
import io
import zlib

import av
import pytest
from av.codec.context import CodecContext
from av.packet import Packet as AvPacket

from medianode.codecs import h264, nal
from medianode.errors import InvalidRequest
from medianode.media.track import Codec, Track
from medianode.routing.fallback import Loop
from medianode.tasks import background
from medianode.transcode.artwork import Artwork, check_image, picture
from medianode.transcode.clip import load_clip, read_clip
from medianode.transcode.encode import AudioEncoder, H264Encoder, JpegEncoder
from medianode.transcode.loop import make_loop
from medianode.transcode.slate import SlateMaker

WORDS = Artwork("text", "Back soon")


def video(codec: Codec = Codec.H264, config: bytes = b"", width: int = 320, height: int = 240) -> Track:
    return Track(0, codec, 90_000, config, width, height, 25.0)


def source(frames: int) -> tuple[Track, list[bytes]]:
    """What an encoder sent: white pictures, High profile, under parameter sets with the number 0."""
    encoder = H264Encoder(320, 240, frame_rate=25, high=True)
    frame = av.VideoFrame(320, 240, "yuv420p")
    for plane, level in zip(frame.planes, (235, 128, 128), strict=True):
        plane.update(bytes((level,)) * plane.buffer_size)
    found = [e.data for n in range(frames) for e in encoder.encode(frame, n * 3600)]
    return video(config=encoder.config), found


def lumas(config: bytes, units: list[bytes]) -> list[int]:
    """The luma of each picture's corner, by one decoder that knows this configuration only."""
    decoder = CodecContext.create("h264", "r")
    decoder.extradata = config
    packets = [av.Packet(data) for data in units]
    frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return [frame.to_ndarray()[0, 0] for frame in frames]


def test_one_decoder_goes_through_the_source_the_slate_and_the_source_again() -> None:
    track, sent = source(5)
    (pictures,) = make_loop(WORDS, (track,)).strands
    assert pictures.track is track
    slate = [packet.data for packet in pictures.packets]
    seen = lumas(track.config, [*sent, *slate, *sent])
    assert len(seen) == len(sent) * 2 + len(slate)
    assert min(seen[:5] + seen[-5:]) > 200
    assert max(seen[5:-5]) < 60


def test_its_own_parameter_sets_have_a_number_that_the_source_does_not_use() -> None:
    track, _ = source(1)
    (pictures,) = make_loop(WORDS, (track,)).strands
    units = nal.split(pictures.packets[0].data)
    (own,) = [h264.parse_sps(unit) for unit in units if unit[0] & 31 == h264.NalType.SPS]
    (theirs,) = [h264.parse_sps(unit) for unit in h264.parse_avcc(track.config).sps]
    assert own.sps_id != theirs.sps_id
    assert (own.width, own.height) == (theirs.width, theirs.height)
    assert [packet.keyframe for packet in pictures.packets] == [True] + [False] * 49
    assert pictures.period == 180_000


@pytest.mark.parametrize("codec", [Codec.HEVC, Codec.VP8, Codec.VP9, Codec.MJPEG, Codec.AV1])
def test_other_codecs(codec: Codec) -> None:
    (pictures,) = make_loop(WORDS, (video(codec),)).strands
    made = Codec.H264 if codec is Codec.AV1 else codec
    assert pictures.track.codec is made
    assert (pictures.track == video(codec)) == (made not in (Codec.HEVC, Codec.H264)), "a configuration that is told changes"
    decoder = CodecContext.create(made.value, "r")
    decoder.extradata = pictures.track.config or None
    frames = [frame for packet in (*(av.Packet(p.data) for p in pictures.packets), None) for frame in decoder.decode(packet)]
    assert (len(frames), frames[0].width, frames[0].height) == (len(pictures.packets), 320, 240)


@pytest.mark.parametrize(
    ("codec", "rate", "channels", "same"),
    [
        (Codec.AAC, 44_100, 2, True),
        (Codec.AAC, 48_000, 1, True),
        (Codec.AAC, 22_050, 1, False),
        (Codec.OPUS, 48_000, 2, True),
        (Codec.PCM_MULAW, 8_000, 1, True),
        (Codec.MP3, 44_100, 2, False),
    ],
)
def test_the_sound_is_silence_in_the_codec_of_the_source(codec: Codec, rate: int, channels: int, same: bool) -> None:
    config = AudioEncoder(Codec.AAC, rate, channels).config if codec is Codec.AAC and same else b"\x13\x88" if codec is Codec.AAC else b""
    track = Track(1, codec, rate, config, sample_rate=rate, channels=channels)
    (sound,) = make_loop(WORDS, (track,)).strands
    assert (sound.track is track) is same
    decoder = CodecContext.create(sound.track.codec.value, "r")
    if sound.track.codec in (Codec.AAC, Codec.OPUS):
        decoder.extradata = sound.track.config or None
    decoder.sample_rate, decoder.layout = sound.track.sample_rate, "mono" if sound.track.channels == 1 else "stereo"
    frames = [frame for _ in range(5) for frame in decoder.decode(av.Packet(sound.packets[0].data))]
    assert frames[-1].samples == sound.period
    assert abs(frames[-1].to_ndarray().astype(float)).max() < 20


def test_a_room_that_nobody_has_published_in_gets_the_house_s_own_format() -> None:
    assert [track.codec for track in make_loop(WORDS, ()).tracks] == [Codec.H264, Codec.AAC]


def png(width: int, height: int) -> bytes:
    frame = av.VideoFrame(width, height, "rgb24")
    frame.planes[0].update(bytes((255,)) * frame.planes[0].buffer_size)
    encoder = CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "rgb24", 1
    return b"".join(bytes(packet) for f in (frame, None) for packet in encoder.encode(f))


def test_an_image_stands_in_the_middle_with_its_shape_kept() -> None:
    shown = picture(Artwork("image", data=png(100, 100)), 320, 160).to_ndarray()
    assert (shown[80, 20], shown[80, 160], shown[80, 300]) == (16, 235, 16)


def test_what_is_no_picture_is_refused_and_a_large_one_before_it_is_decoded() -> None:
    good = png(64, 64)
    assert check_image(good, 5000) == "image/png"
    huge = good[:16] + (20_000).to_bytes(4, "big") * 2 + good[24:]
    for bad in (b"", b"GIF89a", good[:40], huge, b"\xff\xd8\xff\xe0"):
        with pytest.raises(InvalidRequest) as refused:
            check_image(bad, 5000)
        assert refused.value.code == "bad-image"
    with pytest.raises(InvalidRequest, match="at most 4000 pixels"):
        check_image(good, 4000)


def test_a_picture_of_very_many_scans_is_refused() -> None:
    encoder = JpegEncoder(64, 64, 5)
    frame = av.VideoFrame(64, 64, "yuvj420p")
    whole = encoder.encode(frame)
    assert check_image(whole, 5000) == "image/jpeg"
    scan = whole[whole.index(b"\xff\xda") : -2]
    with pytest.raises(InvalidRequest, match="at most 100 scans"):
        check_image(whole[:-2] + scan * 100 + whole[-2:], 5000)


def test_texts_of_a_picture_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of them would be a gigabyte."""
    handed: list[bytes] = []
    monkeypatch.setattr(av, "Packet", lambda data: handed.append(data) or AvPacket(data))
    good, text = png(64, 64), b"a\0\0" + zlib.compress(bytes(1_000_000))
    chunk = len(text).to_bytes(4, "big") + b"zTXt" + text + zlib.crc32(b"zTXt" + text).to_bytes(4, "big")
    assert check_image(good[:33] + chunk + good[33:], 5000) == "image/png"
    assert b"zTXt" not in handed[0]
    assert handed[0].endswith(good[-12:])


async def test_each_format_is_made_once_and_those_who_asked_are_told() -> None:
    asked: list[str] = []

    async def load(project_id: str, room: str, slate: str) -> Artwork | None:
        asked.append(room)
        return WORDS

    made = asyncio.Event()
    maker = SlateMaker(load, 100_000)
    like = (video(Codec.MJPEG),)
    for room in ("one", "two"):
        assert maker.find("p", room, "s/1", like, made.set) is None
    async with background(maker.serve()):
        await made.wait()
    loop = maker.find("p", "two", "s/1", like, made.set)
    assert isinstance(loop, Loop)
    assert maker.find("p", "one", "s/1", like, made.set) is loop
    assert asked == ["one"]


async def test_a_slate_that_cannot_be_made_is_not_tried_again_and_again() -> None:
    tries: list[str] = []

    async def load(project_id: str, room: str, slate: str) -> Artwork | None:
        tries.append(room)
        return Artwork("image", data=b"no picture")

    maker = SlateMaker(load, 100_000)
    async with background(maker.serve()):
        assert maker.find("p", "one", "s/1", (), lambda: None) is None
        while not maker._failed:
            await asyncio.sleep(0)
        assert maker.find("p", "one", "s/1", (), lambda: None) is None
        await asyncio.sleep(0)
    assert tries == ["one"]


async def test_a_slate_that_the_room_has_no_longer_is_not_asked_for_again_and_again() -> None:
    """Another node changed it, and this one looks every ten seconds."""
    tries: list[str] = []

    async def load(project_id: str, room: str, slate: str) -> Artwork | None:
        tries.append(room)
        return None

    maker = SlateMaker(load, 100_000)

    def ask() -> None:
        """As a room does that is told that its slate is there."""
        if len(tries) < 5:
            maker.find("p", "one", "s/1", (), ask)

    ask()
    async with background(maker.serve()):
        for _ in range(20):
            await asyncio.sleep(0)
    assert tries == ["one"]


def movie(container: str, frames: int = 40) -> bytes:
    """White pictures, 160x120, 20 a second."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        frame = av.VideoFrame(160, 120, "yuv420p")
        for plane, level in zip(frame.planes, (235, 128, 128), strict=True):
            plane.update(bytes((level,)) * plane.buffer_size)
        for number in range(frames):
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


async def test_a_clip_is_read_by_another_process_and_shown_at_the_source_s_rate() -> None:
    data = await read_clip(movie("mp4"), 1.5)
    clip = load_clip(data)
    assert (clip.width, clip.height, clip.frame_rate, len(clip.units)) == (160, 120, 20, 30)
    track, _ = source(1)
    (pictures,) = make_loop(Artwork("clip", data=data), (track,)).strands
    assert pictures.track is track
    assert abs(len(pictures.packets) - 1.5 * 25) <= 1
    assert [packet.dts for packet in pictures.packets] == [n * 3600 for n in range(len(pictures.packets))]
    assert min(lumas(track.config, [packet.data for packet in pictures.packets])) > 200


@pytest.mark.parametrize(
    "bad", [b"", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"]
)
async def test_what_is_no_clip_is_refused_and_nothing_that_it_names_is_opened(bad: bytes) -> None:
    with pytest.raises(InvalidRequest, match="a video that can be decoded") as refused:
        await read_clip(bad, 5.0)
    assert refused.value.code == "bad-clip"
