"""RTCP: Chromium's compounds, what aiortc and the RFCs make of the same values, builders, garbage, bounds."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from aiortc import rtp as theirs

from medianode.errors import LimitExceeded, PeerError, ProtocolError
from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.rtcp import (
    Bye,
    Feedback,
    Fir,
    Nack,
    Pli,
    ReceiverReport,
    Remb,
    ReportBlock,
    SenderReport,
    SourceDescription,
    TransportFeedback,
    parse,
    read_feedback,
)

CHROMIUM = json.loads((Path(__file__).parents[3] / "vectors" / "rtp" / "chromium-dump.json").read_text())
BLOCK = ReportBlock(0x11223344, 128, 1234, 0x0001FFFE, 90, 0xAABBCCDD, 0x00018000)
NEGATIVE = BLOCK._replace(cumulative_lost=-3, fraction_lost=0)


def test_chromium_compounds() -> None:
    messages = [message for wire in CHROMIUM["rtcp"] for message in parse(bytes.fromhex(wire))]
    assert {type(message) for message in messages} == {SenderReport, ReceiverReport, SourceDescription}
    senders = [message for message in messages if isinstance(message, SenderReport)]
    assert [sr.ntp for sr in senders] == sorted(sr.ntp for sr in senders)
    assert 1_795_218_000 < rtcp.wallclock(senders[0].ntp) < 1_795_219_000  # the time of the recording
    blocks = [block for message in messages if isinstance(message, ReceiverReport) for block in message.reports]
    assert {block.fraction_lost for block in blocks} == {0}
    stamps = {sr.ntp >> 16 & 0xFFFFFFFF for sr in senders}
    assert any(block.last_sr in stamps for block in blocks)
    cnames = [message.cnames for message in messages if isinstance(message, SourceDescription)]
    assert all(len(name) == 16 for names in cnames for name in names.values())


def test_chromium_first_receiver_report() -> None:
    wire = bytes.fromhex(
        "82c9000d000000017f596fd0000000000000017a0000010e00000000000000001da0d3450000000000001c200000008f0000000000000000"
        "80cf00040000000104000002eeab5a29e1d8c6d6"  # XR: skipped
    )
    video, audio = ReportBlock(0x7F596FD0, 0, 0, 0x17A, 0x10E, 0, 0), ReportBlock(0x1DA0D345, 0, 0, 0x1C20, 0x8F, 0, 0)
    assert parse(wire) == [ReceiverReport(1, (video, audio))]
    assert read_feedback(wire) == Feedback([video, audio], [], [])


def test_what_aiortc_builds() -> None:
    info = theirs.RtcpReceiverInfo(
        ssrc=BLOCK.ssrc,
        fraction_lost=BLOCK.fraction_lost,
        packets_lost=BLOCK.cumulative_lost,
        highest_sequence=BLOCK.highest,
        jitter=BLOCK.jitter,
        lsr=BLOCK.last_sr,
        dlsr=BLOCK.delay,
    )
    sender = theirs.RtcpSenderInfo(ntp_timestamp=1 << 63, rtp_timestamp=5, packet_count=6, octet_count=7)
    remb = theirs.RtcpPsfbPacket(fmt=15, ssrc=1, media_ssrc=0, fci=theirs.pack_remb_fci(4_160_000, [2, 3]))
    source = theirs.RtcpSourceInfo(ssrc=1, items=[(1, b"{85a38363-5999}"), (2, b"somebody")])
    wire = b"".join(
        map(
            bytes,
            (
                theirs.RtcpSrPacket(ssrc=1, sender_info=sender, reports=[info]),
                theirs.RtcpRrPacket(ssrc=1, reports=[info, info]),
                theirs.RtcpSdesPacket(chunks=[source]),
                theirs.RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=2, lost=[0, 15, 100, 65534, 65535]),
                theirs.RtcpPsfbPacket(fmt=1, ssrc=1, media_ssrc=2),
                remb,
                theirs.RtcpByePacket(sources=[1, 2]),
            ),
        )
    )
    assert parse(wire) == [
        SenderReport(1, 1 << 63, 5, 6, 7, (BLOCK,)),
        ReceiverReport(1, (BLOCK, BLOCK)),
        SourceDescription({1: "{85a38363-5999}"}),
        Nack(1, 2, (0, 15, 100, 65534, 65535)),
        Pli(1, 2),
        Remb(1, 4_160_000, (2, 3)),
        Bye((1, 2)),
    ]
    assert read_feedback(wire) == Feedback([BLOCK, BLOCK, BLOCK], [(2, [0, 15, 100, 65534, 65535])], [2])


def test_aiortc_reads_what_we_build() -> None:
    wire = b"".join(
        (
            rtcp.sender_report(1, 1 << 63, (1 << 32) + 5, 6, (1 << 32) + 7, [BLOCK]),
            rtcp.receiver_report(1, [NEGATIVE]),
            rtcp.sdes(1, "name"),
            rtcp.nack(1, 2, [0, 15, 100, 65534, 65535]),
            rtcp.pli(1, 2),
            rtcp.bye([1, 2], "done"),
        )
    )
    sr, rr, sdes, nack, pli, bye = theirs.RtcpPacket.parse(wire)
    assert (sr.ssrc, sr.sender_info.ntp_timestamp, sr.sender_info.rtp_timestamp) == (1, 1 << 63, 5)
    assert (sr.sender_info.packet_count, sr.sender_info.octet_count, sr.reports[0].packets_lost) == (6, 7, 1234)
    assert rr.reports[0].packets_lost == -3
    assert (sdes.chunks[0].ssrc, sdes.chunks[0].items) == (1, [(1, b"name")])
    assert (nack.fmt, nack.ssrc, nack.media_ssrc, nack.lost) == (1, 1, 2, [0, 15, 100, 65534, 65535])
    assert (pli.fmt, pli.ssrc, pli.media_ssrc) == (1, 1, 2)
    assert bye.sources == [1, 2]


@pytest.mark.parametrize("length", range(9))
def test_our_own_round_trip(length: int) -> None:
    name = "n" * length
    wire = b"".join(
        (
            rtcp.sender_report(1, 2, 3, 4, 5, [BLOCK, NEGATIVE]),
            rtcp.sdes(6, name),
            rtcp.fir(7, 8, 257),
            rtcp.bye([9], name),
        )
    )
    assert parse(wire) == [
        SenderReport(1, 2, 3, 4, 5, (BLOCK, NEGATIVE)),
        SourceDescription({6: name}),
        Fir(7, ((8, 1),)),
        Bye((9,), name),
    ]
    assert read_feedback(wire) == Feedback([BLOCK, NEGATIVE], [], [8])


def test_nack_entries_as_rfc_4585() -> None:
    assert rtcp.nack(1, 2, [10, 11, 26]) == struct.pack("!BBHIIHH", 0x81, 205, 3, 1, 2, 10, 0x8001)
    assert rtcp.nack(1, 2, [10, 27]) == struct.pack("!BBHIIHHHH", 0x81, 205, 4, 1, 2, 10, 0, 27, 0)
    assert rtcp.nack(1, 2, [10, 10, 11]) == struct.pack("!BBHIIHH", 0x81, 205, 3, 1, 2, 10, 1)
    assert rtcp.nack(1, 2, [0]) == struct.pack("!BBHIIHH", 0x81, 205, 3, 1, 2, 0, 0)
    assert parse(rtcp.nack(1, 2, [65534, 65535, 0, 14, 15])) == [Nack(1, 2, (65534, 65535, 0, 14, 15))]  # over the wrap
    assert rtcp.nack(1, 2, [65535, 0]) == struct.pack("!BBHIIHH", 0x81, 205, 3, 1, 2, 65535, 1)


def test_fir_names_each_media() -> None:
    wire = struct.pack("!BBHIIIIII", 0x84, 206, 6, 1, 0, 2, 3 << 24, 4, 5 << 24)
    assert parse(wire) == [Fir(1, ((2, 3), (4, 5)))]
    assert read_feedback(wire).keyframes == [2, 4]


def test_transport_feedback_header() -> None:
    wire = bytes.fromhex("afcd0005fa17fa1767d256660001000102ffdc002001d101")
    assert parse(wire) == [TransportFeedback(0xFA17FA17, 0x67D25666, 1, 1, 0x2FFDC, 0, b"\x20\x01\xd1")]
    assert parse(wire[:16] + b"\xff\xff\xff" + wire[19:])[0][4] == -1  # signed


def test_padding_and_unknown_types() -> None:
    app = struct.pack("!BBHII", 0x80, 204, 2, 1, 2)
    padded = b"\xa1" + rtcp.pli(1, 2)[1:3] + b"\x03" + rtcp.pli(1, 2)[4:] + b"\0\0\0\4"
    assert parse(app + rtcp.pli(3, 4) + padded) == [Pli(3, 4), Pli(1, 2)]
    assert parse(struct.pack("!BBHII", 0x9E, 205, 2, 1, 2) + struct.pack("!BBHII", 0x9E, 206, 2, 1, 2)) == []


def test_sdes_of_several_sources() -> None:
    body = b"\0\0\0\1\1\1a\0" + b"\0\0\0\2\3\2xy\1\1b\0" + b"\0\0\0\3\0\0\0\0"
    assert parse(struct.pack("!BBH", 0x83, 202, len(body) // 4) + body) == [SourceDescription({1: "a", 2: "b"})]


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("", "at least 4 bytes, got 0"),
        ("80c9", "at least 4 bytes, got 2"),
        ("80c90001 00000001 80", "header of 4 bytes, got 1"),
        ("40c90001 00000001", "version 2, got 1"),
        ("80c90002 00000001", "12 bytes, got 8"),
        ("81c90001 00000001", "24 bytes in a packet of type 201, got 0"),
        ("80c90000", "4 bytes in a packet of type 201, got 0"),
        ("80c80001 00000001", "24 bytes in a packet of type 200, got 4"),
        ("a0c90001 00000000", "padding, got 0"),
        ("a0c90001 00000005", "padding, got 5"),
        ("81cb0000", "4 bytes in a packet of type 203, got 0"),
        ("81cd0001 00000001", "8 bytes in a packet of type 205, got 4"),
        ("8fcd0002 00000001 00000002", "16 bytes in a packet of type 205, got 8"),
        ("81ca0000", "in a packet of type 202"),
        ("81ca0001 00000001", "end with a zero"),
        ("81ca0002 00000001 0109 6161", "within its packet"),
        ("8fce0004 00000001 00000000 52454d42 03000001", "28 bytes in a packet of type 206, got 16"),
    ],
)
def test_garbage_is_told(wire: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        parse(bytes.fromhex(wire))


@pytest.mark.parametrize(
    "wire", ["", "81c90001 00000001", "81c80001 00000001", "81cd0001 00000001", "84ce0001 00000001", "80c90002 00000001"]
)
def test_the_fast_path_refuses_garbage_too(wire: str) -> None:
    with pytest.raises(ProtocolError):
        read_feedback(bytes.fromhex(wire))


def test_cuts_are_read_or_refused() -> None:
    wire = rtcp.receiver_report(1, [BLOCK]) + rtcp.sdes(1, "name") + rtcp.nack(1, 2, [1, 50])
    whole = 0
    for end in range(len(wire) + 1):
        for read in (parse, read_feedback):
            try:
                read(wire[:end])
                whole += 1
            except PeerError:
                assert end not in (32, 32 + 16, len(wire))
    assert whole == 6


def test_what_is_over_its_bound_is_refused() -> None:
    flood = rtcp.nack(1, 2, range(0, 65536, 17))
    for read in (parse, read_feedback):
        with pytest.raises(LimitExceeded, match=f"at most {rtcp.MAX_BYTES} bytes, got {len(flood)}"):
            read(flood)
    entries = (rtcp.MAX_BYTES - 12) // 4
    dense = struct.pack("!BBHII", 0x81, 205, 2 + entries, 1, 2) + b"\0\0\xff\xff" * entries
    assert len(read_feedback(dense).nacks[0][1]) == 17 * entries  # the most that a datagram can ask for
    with pytest.raises(LimitExceeded, match="at most 31 report blocks, got 32"):
        rtcp.receiver_report(1, [BLOCK] * 32)


def test_ntp_both_ways_and_over_2036() -> None:
    assert rtcp.ntp(0.0) == 2_208_988_800 << 32
    for seconds in (0.0, 1_795_217_700.25, 2_085_978_496.0 + 1000, 4_000_000_000.5):
        assert rtcp.wallclock(rtcp.ntp(seconds)) == pytest.approx(seconds, abs=1e-6)
    assert rtcp.ntp(2_085_978_496.0) == 0  # 2036-02-07 06:28:16


def test_round_trip_as_rfc_3550_figure_2() -> None:
    block = ReportBlock(1, 0, 0, 0, 0, 0xB705_2000, 0x0005_4000)  # LSR 46853.125 s, DLSR 5.25 s
    assert rtcp.round_trip(block, 0xB710_8000 << 16) == pytest.approx(6.125)  # A 46864.5 s
    assert rtcp.round_trip(block._replace(last_sr=0), 1 << 60) is None
    assert rtcp.round_trip(block, 0xB705_0000 << 16) == 0.0  # a clock that went back
    assert rtcp.round_trip(ReportBlock(1, 0, 0, 0, 0, 0xFFFF_FFFF, 0), 0x1_0000_FFFF << 16) == pytest.approx(1.0)
