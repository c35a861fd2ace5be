"""From FFmpeg's transport streams, and from such as are damaged, cut, wrapped and unusual."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from harness.transport import AUDIO, PMT, VIDEO, Packets, pat, pes, pmt

from medianode.codecs import latm
from medianode.errors import ProtocolError
from medianode.media.track import Codec, Kind
from medianode.protocols.mpegts import TsDemuxer, TsFault, TsUnit
from medianode.protocols.mpegts.demuxer import Event
from medianode.protocols.mpegts.tables import crc32

VECTORS = Path(__file__).parents[3] / "vectors" / "mpegts"
H264 = ((0x1B, VIDEO, b""),)
AU = b"\0\0\0\1\x09\xf0\0\0\0\1\x65" + b"\xab" * 400
WRAP = 1 << 33


def demuxed(data: bytes, size: int = 1316) -> list[Event]:
    demuxer = TsDemuxer(1 << 20)
    found: list[Event] = []
    for at in range(0, len(data), size):
        found += demuxer.feed(data[at : at + size])
    return found + demuxer.flush()


def units(events: list[Event]) -> list[TsUnit]:
    return [event for event in events if isinstance(event, TsUnit)]


def faults(events: list[Event]) -> list[str]:
    return [event.cause for event in events if isinstance(event, TsFault)]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("h264_aac", {Codec.H264: 10, Codec.AAC: 20}),
        ("hevc_latm", {Codec.HEVC: 10, Codec.AAC: 20}),
        ("opus", {Codec.OPUS: 21}),
        ("ac3", {Codec.AC3: 13}),
        ("eac3", {Codec.EAC3: 13}),
        ("mp2_mpeg2video", {Codec.MP3: 17}),
    ],
)
def test_what_ffmpeg_makes(name: str, counts: dict[Codec, int]) -> None:
    data = (VECTORS / f"{name}.ts").read_bytes()
    found = demuxed(data)
    for codec, number in counts.items():
        own = [unit for unit in units(found) if unit.codec is codec]
        assert len(own) == number
        assert all(unit.pts >= unit.dts for unit in own)
        steps = {b.dts - a.dts for a, b in pairwise(own)}
        assert max(steps) - min(steps) <= 1, steps
    assert {unit.codec for unit in units(found)} == set(counts)
    assert faults(found) == (["unsupported"] if name == "mp2_mpeg2video" else [])
    for size in (1, 187, 188, 189, 1000):
        assert demuxed(data, size) == found


def test_latm_brings_its_configuration_beside_raw_frames() -> None:
    found = units(demuxed((VECTORS / "hevc_latm.ts").read_bytes()))
    sound = [unit for unit in found if unit.codec is Codec.AAC]
    assert {unit.config.hex() for unit in sound} == {"1188"}  # AAC-LC, 48 kHz, mono
    assert all(unit.data and unit.data[:2] != b"\xff\xf1" for unit in sound)
    with pytest.raises(ProtocolError):
        latm.loas_size(b"\xff\xf1\0")


def test_stamps_go_on_over_33_bits_and_pictures_keep_their_order() -> None:
    packets = Packets()
    data = packets.tables(H264)
    for n in range(4):
        dts = WRAP - 6000 + n * 3000
        data += packets.cut(VIDEO, pes(AU, dts + 6000, dts))
    found = units(demuxed(data))
    assert [unit.dts - found[0].dts for unit in found] == [0, 3000, 6000, 9000]
    assert {unit.pts - unit.dts for unit in found} == {6000}


def test_a_hole_costs_the_picture_and_is_told_before_the_next() -> None:
    packets = Packets()
    tables = packets.tables(H264)
    first, second, third = (packets.cut(VIDEO, pes(AU, n * 3000)) for n in range(3))
    found = demuxed(tables + first[:188] + first[376:] + second + third)
    assert [type(event).__name__ for event in found] == ["TsFault", "TsUnit", "TsUnit"]
    assert isinstance(found[0], TsFault)
    assert (found[0].cause, found[0].kind, found[0].number) == ("lost", Kind.VIDEO, 0)
    whole = demuxed(tables + first[:188] + first[:188] + first[188:] + second)  # a packet may be sent twice
    assert (len(units(whole)), faults(whole)) == (2, [])


def test_missing_packets_are_told_by_whoever_knows() -> None:
    packets = Packets()
    demuxer = TsDemuxer(1 << 20)
    demuxer.feed(packets.tables(H264) + packets.cut(VIDEO, pes(AU, 0)))
    assert demuxer.lost(7) == []
    assert faults(demuxer.lost(16)) == ["lost"]
    assert demuxer.flush() == []


def test_a_cut_end_is_no_picture() -> None:
    packets = Packets()
    demuxer = TsDemuxer(1 << 20)
    demuxer.feed(packets.tables(H264) + packets.cut(VIDEO, pes(AU, 0)))
    assert demuxer.flush(whole=False) == []
    demuxer.feed(packets.cut(VIDEO, pes(AU, 3000)))
    assert len(demuxer.flush()) == 1


def test_pictures_that_share_a_packet_are_told_apart_and_one_in_two_is_put_together() -> None:
    packets = Packets()
    data = packets.tables(H264) + packets.cut(VIDEO, pes(AU + AU, 9000))
    data += packets.cut(VIDEO, pes(AU[:100], 18000)) + packets.cut(VIDEO, pes(AU[100:], None))
    found = units(demuxed(data))
    assert [(unit.dts, unit.data) for unit in found] == [(9000, AU), (12003, AU), (18000, AU)]


@pytest.mark.parametrize("last", [200, 0xFFF0])
def test_a_picture_of_many_packets_of_the_largest_length_is_put_together(last: int) -> None:
    """Its end is told by a shorter packet, or by the next picture."""
    packets = Packets()
    picture = AU + bytes((0xCD,)) * (2 * 0xFFF0 + last - len(AU))
    data = packets.tables(H264)
    for at in range(0, len(picture), 0xFFF0):
        data += packets.cut(VIDEO, pes(picture[at : at + 0xFFF0], None if at else 9000, length=True))
    data += packets.cut(VIDEO, pes(AU, 12000))
    assert [(unit.dts, unit.data) for unit in units(demuxed(data))] == [(9000, picture), (12000, AU)]


def test_sound_is_stamped_where_a_frame_begins() -> None:
    frame = bytes.fromhex("fff15080") + bytes.fromhex("035ffc") + b"\x21" * 19  # 26 bytes, 44.1 kHz
    packets = Packets()
    data = packets.tables(((0x0F, AUDIO, b""),))
    data += packets.cut(AUDIO, pes(frame + frame[:10], 9000, stream_id=0xC0, length=True))
    data += packets.cut(AUDIO, pes(frame[10:] + frame, 50000, stream_id=0xC0, length=True))
    found = demuxed(data)
    assert [(unit.pts, unit.data) for unit in units(found)] == [(9000, frame), (9000 + 2089, frame), (50000, frame)]
    assert faults(found) == []


def test_a_changed_pmt_ends_what_is_gone_and_keeps_what_stays() -> None:
    packets = Packets()
    data = packets.tables(((0x1B, VIDEO, b""), (0x0F, AUDIO, b"")))
    data += packets.cut(VIDEO, pes(AU, 0)) + packets.cut(PMT, b"\0" + pmt(((0x1B, VIDEO, b""), (0x24, 0x102, b""), (0x02, 0x103, b""))))
    data += packets.cut(VIDEO, pes(AU, 3000)) + packets.cut(0x102, pes(AU, 3000))
    found = demuxed(data)
    assert [(unit.codec, unit.number) for unit in units(found)] == [(Codec.H264, 0), (Codec.H264, 0), (Codec.HEVC, 1)]
    assert faults(found) == ["unsupported"]


def test_a_table_that_is_announced_is_waited_for() -> None:
    packets = Packets()
    coming = bytearray(pmt(((0x24, VIDEO, b""),))[:-4])
    coming[5] &= 0xFE
    announced = b"\0" + coming + crc32(coming).to_bytes(4, "big")
    data = packets.tables(H264) + packets.cut(PMT, announced) + packets.cut(VIDEO, pes(AU, 0))
    data += packets.cut(PMT, b"\0" + pmt(((0x24, VIDEO, b""),))) + packets.cut(VIDEO, pes(AU, 3000))
    found = demuxed(data)
    assert [unit.codec for unit in units(found)] == [Codec.H264, Codec.HEVC]
    assert faults(found) == []


def test_of_two_programs_the_first_that_says_something_counts() -> None:
    packets = Packets()
    data = packets.cut(0, b"\0" + pat({1: PMT, 2: PMT + 1}))
    data += packets.cut(PMT, b"\0" + pmt(((0x86, 0x200, b""),))) + packets.cut(PMT + 1, b"\0" + pmt(H264, 2))
    data += packets.cut(PMT, b"\0" + pmt(((0x1B, 0x300, b""),)))
    data += packets.cut(VIDEO, pes(AU, 0)) + packets.cut(0x300, pes(AU, 0))
    assert len(units(demuxed(data))) == 1


def test_what_cannot_be_is_told_and_passed_over() -> None:
    packets = Packets()
    tables = packets.tables(H264)
    broken = bytearray(Packets().tables(H264))
    broken[-1] ^= 1
    assert "malformed" in faults(demuxed(bytes(broken)))
    assert faults(demuxed(tables + packets.cut(VIDEO, b"no pes header" * 5))) == ["malformed"]
    scrambled = bytearray(packets.cut(VIDEO, pes(AU, 0)))
    scrambled[3] |= 0xC0
    assert set(faults(demuxed(tables + bytes(scrambled)))) == {"lost"}
    good = packets.cut(VIDEO, pes(AU, 3000))
    noisy = demuxed(tables + b"noise" * 30 + good + tables)
    assert "malformed" in faults(noisy)
    assert len(units(noisy)) == 1


def test_a_picture_without_end_is_given_up() -> None:
    packets = Packets()
    demuxer = TsDemuxer(10_000)
    found = demuxer.feed(packets.tables(H264) + packets.cut(VIDEO, pes(AU * 60, 0)))
    assert faults(found) == ["lost"]
    assert demuxer.flush() == []


def test_packets_with_a_byte_each_are_bounded_by_what_it_costs_to_keep_them() -> None:
    packets = Packets()
    demuxer = TsDemuxer(10_000)
    found = demuxer.feed(packets.tables(H264) + packets.cut(VIDEO, pes(AU, 0)))
    pieces = [bytes((0x47, VIDEO >> 8, VIDEO & 0xFF, 0x30 | n & 15, 182)) + bytes(182) + b"x" for n in range(3, 100)]
    found += demuxer.feed(b"".join(pieces))
    assert faults(found) == ["lost"]
