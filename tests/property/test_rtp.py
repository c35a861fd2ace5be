"""RTP and RTCP under Hypothesis: any loss, doubling and order; round trips; garbage."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medianode.errors import PeerError
from medianode.protocols.rtp import packet as rtp
from medianode.protocols.rtp import rtcp
from medianode.protocols.rtp.receiver import MAX_MISORDER, Arrived, StreamReceiver
from medianode.protocols.rtp.twcc import ArrivalLog

u32 = st.integers(0, 0xFFFFFFFF)
u16 = st.integers(0, 0xFFFF)
packets = st.builds(
    rtp.RtpPacket,
    st.integers(0, 127),
    st.booleans(),
    u16,
    u32,
    u32,
    st.dictionaries(st.integers(1, 255), st.binary(max_size=40), max_size=6),
    st.binary(max_size=100),
)
blocks = st.builds(rtcp.ReportBlock, u32, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), u32, u32, u32, u32)


@given(packets, st.integers(0, 255), st.lists(u32, max_size=15))
def test_packets_come_back(packet: rtp.RtpPacket, padding: int, csrcs: list[int]) -> None:
    wire = rtp.build(
        packet.payload_type, packet.sequence, packet.timestamp, packet.ssrc, packet.payload,
        marker=packet.marker, extensions=packet.extensions, csrcs=csrcs, padding=padding,
    )  # fmt: skip
    assert rtp.parse(wire) == packet


@given(packets)
def test_retransmissions_come_back(packet: rtp.RtpPacket) -> None:
    rtx = packet._replace(payload_type=97, ssrc=1, sequence=7, payload=packet.sequence.to_bytes(2, "big") + packet.payload)
    assert rtp.unwrap_rtx(rtx, packet.payload_type, packet.ssrc) == packet


@given(st.lists(st.integers(-30_000, 30_000), min_size=1, max_size=50), u16)
def test_unwrapping_follows_any_walk(steps: list[int], start: int) -> None:
    unwrap = rtp.Unwrapper(16)
    value = start
    assert unwrap(start) == start
    for step in steps:
        value += step
        assert unwrap(value & 0xFFFF) == value


@given(u32, u32, st.lists(blocks, max_size=31), st.integers(0, (1 << 64) - 1), u32, u32, st.text(max_size=40))
def test_reports_come_back(ssrc: int, stamp: int, reports: list[rtcp.ReportBlock], ntp: int, count: int, octets: int, name: str) -> None:
    wire = rtcp.sender_report(ssrc, ntp, stamp, count, octets, reports) + rtcp.receiver_report(ssrc, reports) + rtcp.sdes(ssrc, name)
    assert rtcp.parse(wire) == [
        rtcp.SenderReport(ssrc, ntp, stamp, count, octets, tuple(reports)),
        rtcp.ReceiverReport(ssrc, tuple(reports)),
        rtcp.SourceDescription({ssrc: name}),
    ]
    assert rtcp.read_feedback(wire) == rtcp.Feedback(reports * 2, [], [])


@given(st.lists(st.integers(1, 60), max_size=300), u16)
def test_nacks_come_back(steps: list[int], start: int) -> None:
    sequences = [start]
    for step in steps:
        sequences.append((sequences[-1] + step) & 0xFFFF)
    wire = rtcp.nack(1, 2, sequences)
    assert rtcp.parse(wire) == [rtcp.Nack(1, 2, tuple(sequences))]
    assert rtcp.read_feedback(wire).nacks == [(2, sequences)]


@given(st.binary(max_size=80))
def test_garbage_gives_only_peer_errors(data: bytes) -> None:
    for parse in (rtp.parse, rtcp.parse, rtcp.read_feedback):
        try:
            parse(data)
        except PeerError:
            continue


@given(st.sampled_from([0x80, 0x81, 0x82, 0x84, 0x8F, 0xA1, 0xAF]), st.integers(198, 208), st.binary(max_size=60))
def test_garbage_in_good_frames(first: int, kind: int, body: bytes) -> None:
    body += bytes(-len(body) % 4)
    wire = bytes((first, kind)) + (len(body) // 4).to_bytes(2, "big") + body
    results = []
    for parse in (rtcp.parse, rtcp.read_feedback):
        try:
            results.append(parse(wire))
        except PeerError:
            continue
    if len(results) == 2:
        messages, feedback = results
        assert isinstance(messages, list)
        assert isinstance(feedback, rtcp.Feedback)
        assert feedback.reports == [b for m in messages if isinstance(m, rtcp.SenderReport | rtcp.ReceiverReport) for b in m.reports]
        assert feedback.nacks == [(m.media_ssrc, list(m.sequences)) for m in messages if isinstance(m, rtcp.Nack)]


fates = st.lists(
    st.tuples(
        st.sampled_from(["arrives", "arrives", "arrives", "lost", "doubled", "padding", "rtx"]),
        st.floats(0, 0.4),  # how late
        st.floats(0, 0.05),  # after the one before
    ),
    min_size=1,
    max_size=MAX_MISORDER,
)


@given(
    fates,
    st.sampled_from([0, 65_500, 65_535, 30_000]),
    st.booleans(),
    st.integers(4, 200),
    st.floats(0.0, 0.5),
    st.integers(0, 12),
)
def test_any_path_gives_order_and_numbers_that_add_up(
    fates: list[tuple[str, float, float]], start: int, nack: bool, max_packets: int, rtt: float, skip: int
) -> None:
    stream = StreamReceiver(90_000, max_packets=max_packets, nack=nack, max_wait=0.5)
    stream.rtt = rtt
    events: list[tuple[float, int, int, bytes, bool]] = []
    now = 100.0
    for number, (fate, late, step) in enumerate(fates):
        now += step
        payload = b"" if fate == "padding" else number.to_bytes(4, "big")
        if fate != "lost":
            events.append((now + late, len(events), number, payload, fate == "rtx"))
        if fate == "doubled":
            events.append((now + late / 2, len(events), number, payload, False))
    events.sort()
    out: list[Arrived] = []
    asked = 0
    highest: int | None = None
    for index, (now, _, number, payload, retransmitted) in enumerate(events):
        out += stream.poll(now)
        out += stream.push(
            rtp.RtpPacket(96, False, (start + number) & 0xFFFF, number * 3000, 9, {}, payload), now, retransmitted=retransmitted
        )
        highest = number if highest is None else max(highest, number)
        wanted = stream.nacks(now)
        asked += len(wanted)
        assert nack or not wanted
        assert all((sequence - start) & 0xFFFF < highest for sequence in wanted)
        assert len(stream) <= max_packets
        assert stream.holes <= max_packets
        assert (stream.next_wake is None) == (stream.holes == 0)
        if skip and index % 17 == skip:
            out += stream.skip_to((start + number) & 0xFFFF)
        assert stream.received + stream.duplicates + stream.late + stream.strays == index + 1
        assert stream.received == stream.delivered + stream.padding + len(stream)
    out += stream.poll(now + 10)
    numbers = [int.from_bytes(each.packet.payload, "big") for each in out]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == stream.delivered
    assert (stream.holes, len(stream), stream.next_wake, stream.nacked) == (0, 0, None, asked)
    assert (stream.restarts, stream.strays) == (0, 0)
    if not events:
        return
    first = events[0][2]
    assert highest is not None
    assert stream.received + stream.lost == highest - first + 1
    there = {number for *_, number, payload, _ in events if not payload}
    before = first - 1
    for number, arrived in zip(numbers, out, strict=True):
        gone = set(range(before + 1, number)) - there
        if gone:
            assert arrived.lost
        elif number == before + 1:
            assert not arrived.lost
        before = number


@given(
    st.lists(st.tuples(st.integers(-40, 3000), st.floats(0, 12)), max_size=120),
    u16,
    st.integers(1, 300),
)
def test_arrivals_of_any_kind_make_feedback_that_parses(steps: list[tuple[int, float]], start: int, max_packets: int) -> None:
    log = ArrivalLog(max_packets)
    now, sequence = 1.0, start
    for index, (step, passed) in enumerate(steps):
        now += passed
        sequence += step
        log.arrived(sequence & 0xFFFF, now)
        assert len(log) <= max_packets
        if index % 10 == 0:
            for _ in range(1000):
                wire = log.feedback(now, 1, 2)
                if wire is None:
                    break
                (message,) = rtcp.parse(wire)
                assert isinstance(message, rtcp.TransportFeedback)
                assert 0 < message.status_count <= 0xFFFF
                assert len(wire) <= 1200
            else:
                raise AssertionError("expected an end of feedback")
