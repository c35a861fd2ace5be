from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medianode.config import Limits
from medianode.egress.push.report import Report
from medianode.egress.push.rtmp import UNSENT, Outlet, RtmpPush, spoken, want_for
from medianode.egress.rtmp_publish import WATCHED, RtmpPublisher, Stamps
from medianode.errors import ConfigError, Forbidden
from medianode.media.packet import Gap, Packet
from medianode.media.queue import Bounds
from medianode.media.track import Codec, Track
from medianode.outbound import Outbound
from medianode.transcode.want import Want

H264 = Track(0, Codec.H264, 90_000, b"avcc")
HEVC = Track(0, Codec.HEVC, 90_000, b"hvcc")
LAYER = Track(2, Codec.H264, 90_000, b"avcc", layer="q")
AAC = Track(1, Codec.AAC, 48_000, b"asc")
OPUS = Track(1, Codec.OPUS, 48_000)


def test_codecs_of_a_target_by_its_answer_to_connect() -> None:
    assert spoken(()) == {Codec.H264, Codec.AAC}
    assert spoken(("hvc1", "Opus", "????")) == {Codec.H264, Codec.AAC, Codec.HEVC, Codec.OPUS}
    assert spoken("*") >= {Codec.AV1, Codec.VP9, Codec.VP8, Codec.FLAC, Codec.EAC3}


@pytest.mark.parametrize(
    ("tracks", "fourcc", "want"),
    [
        ((H264, AAC), ("hvc1",), Want("h264", "aac")),
        ((HEVC, AAC), (), Want("h264", "aac")),
        ((HEVC, OPUS), ("hvc1",), Want("copy", "aac")),
        ((HEVC, OPUS), ("*",), Want("copy", "copy")),
        ((LAYER, HEVC), ("hvc1",), Want("copy", "aac")),
        ((OPUS,), ("Opus",), Want("h264", "copy")),
        ((), (), Want("h264", "aac")),
    ],
)
def test_what_is_passed_on_and_what_is_made(tracks: tuple[Track, ...], fourcc: Sequence[str], want: Want) -> None:
    assert want_for(tracks, spoken(fourcc)) == want


class Publisher:
    """What an Outlet needs of a RtmpPublisher; `unsent` as the test says."""

    def __init__(self) -> None:
        self.stamps = Stamps()
        self.unsent = 0
        self.closing = False
        self.put_packets: list[Packet] = []
        self.declared: list[tuple[Track, ...]] = []

    def declare(self, tracks: tuple[Track, ...]) -> None:
        self.declared.append(tracks)

    def put(self, packet: Packet) -> None:
        self.put_packets.append(packet)

    def write(self) -> int:
        return 0


def outlet(publisher: Publisher, report: Report, seconds: float = 8.0) -> Outlet:
    return Outlet(publisher, report, Bounds(4096, 1 << 25, seconds), spoken(()))  # type: ignore[arg-type]


def video(second: float, *, keyframe: bool = False, track: Track = H264) -> Packet:
    return Packet(track, bytes(100), round(second * 90_000), round(second * 90_000), keyframe, second)


def sound(second: float) -> Packet:
    return Packet(AAC, bytes(10), round(second * 48_000), round(second * 48_000), True, second)


def test_a_slow_target_jumps_to_the_newest_key_frame_and_it_is_counted() -> None:
    publisher, report = Publisher(), Report()
    made = outlet(publisher, report)
    made.on_tracks((H264, AAC))
    made.on_packet(video(0, keyframe=True))
    made.flush()
    publisher.unsent = UNSENT + 1
    for i in range(1, 200):
        made.on_packet(video(i / 10, keyframe=i % 20 == 0))
        made.flush()
    assert len(publisher.put_packets) == 1
    publisher.unsent = 0
    made.flush()
    resumed = publisher.put_packets[1]
    assert resumed.keyframe
    assert resumed.dts > 8 * 90_000
    assert report.dropped_packets > 0
    assert report.dropped_packets + len(publisher.put_packets) == 200


def test_of_one_that_does_not_read_it_is_told_and_the_publisher_is_not_asked() -> None:
    publisher, report = Publisher(), Report()
    made = outlet(publisher, report)
    made.on_tracks((H264, AAC))
    publisher.unsent = UNSENT + 1
    for i in range(5):
        made.on_packet(video(float(i), keyframe=True))
        made.on_packet(sound(float(i)))
        made.flush()
    assert len(report.queue) == 10
    assert made.keyframe_at == 4.0, "there are key frames: it is the target that has none"
    report.renew()
    assert len(report.queue) == 0


def test_what_came_before_a_change_of_tracks_is_sent_before_it() -> None:
    publisher = Publisher()
    made = outlet(publisher, Report())
    made.on_tracks((AAC,))
    made.on_packet(sound(0))
    made.on_gap(Gap("track-changed"))
    made.on_tracks((H264, LAYER, AAC))
    made.on_packet(sound(0.1))
    made.on_packet(video(0.1, keyframe=True))
    made.on_packet(Packet(LAYER, b"", 0, 0, True, 0.1))
    made.flush()
    assert [p.track for p in publisher.put_packets] == [AAC, H264], "sound of before the first picture is left out, layers always"
    assert publisher.declared == [(AAC,), (H264, AAC)]


def test_codecs_that_the_target_does_not_know_are_never_sent() -> None:
    publisher = Publisher()
    made = outlet(publisher, Report())
    made.on_tracks((HEVC, AAC))
    made.on_packet(video(0, keyframe=True, track=HEVC))
    made.on_packet(sound(0))
    made.flush()
    assert publisher.declared == [(AAC,)]
    assert [p.track for p in publisher.put_packets] == [AAC]


class Talk:
    """A connection and a transport in one: an answer for each byte that came."""

    def __init__(self) -> None:
        self.owed = self.written = 0

    def receive_data(self, data: bytes) -> None:
        self.owed += len(data)

    def events(self) -> list[Any]:
        return []

    def data_to_send(self) -> bytes:
        owed, self.owed = self.owed, 0
        return bytes(owed)

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += len(data)


async def test_a_target_that_asks_without_end_is_answered_a_little_at_a_time() -> None:
    reader, talk = asyncio.StreamReader(), Talk()
    reader.feed_data(bytes(100_000))
    publisher = RtmpPublisher(talk, reader, talk)  # type: ignore[arg-type]
    watching = asyncio.ensure_future(publisher.watch(rest=3600.0))
    for _ in range(100):
        await asyncio.sleep(0)
    assert talk.written == WATCHED
    watching.cancel()
    await asyncio.wait((watching,))


async def test_a_name_that_turned_private_since_it_was_registered() -> None:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return ["10.0.0.7"]

    renditions: Any = None
    push = RtmpPush(Outbound(lookup=lookup), renditions, Limits())
    with pytest.raises(Forbidden, match=r"live\.test: a private") as raised:
        await push.run("rtmp://live.test/app", "key", renditions, Report())
    assert raised.value.code == "private-address"


@pytest.mark.parametrize("content", [None, "no certificate in here"])
def test_a_cafile_that_is_none_is_said_at_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"outbound\.cafile: .*ca\.pem: "):
        Outbound(cafile=str(file))
