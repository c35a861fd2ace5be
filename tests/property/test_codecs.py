"""Codec headers: what is written reads back, and garbage gives only PeerError."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medianode.codecs import aac, ac3, av1, flac, h264, hevc, jpeg, mp3, nal, opus, vp8, vp9
from medianode.codecs.bits import BitReader, BitWriter
from medianode.codecs.vui import Colour
from medianode.errors import PeerError
from medianode.protocols import fmp4_boxes

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "codecs" / "headers.json").read_text())
SEEDS = [bytes.fromhex(item["hex"])[:700] for item in VECTORS]
BROKEN = [
    bytes.fromhex(item["hex"])[:700] for item in json.loads((Path(__file__).parents[1] / "vectors" / "codecs" / "broken.json").read_text())
]

PARSERS: list[Callable[[bytes], object]] = [
    h264.parse_avcc, h264.parse_sps, h264.normalise, h264.is_idr, h264.codec_string,
    hevc.parse_hvcc, hevc.parse_sps, hevc.normalise, hevc.is_irap, hevc.codec_string,
    av1.parse_av1c, av1.parse_sequence_header, av1.normalise, av1.build_av1c, av1.codec_string,
    vp9.parse_frame, vp9.parse_vpcc, vp9.config_of, vp8.parse_frame,
    aac.parse_asc, aac.parse_adts, aac.strip_adts, opus.parse_head, opus.parse_dops, opus.packet_samples,
    flac.parse_streaminfo, flac.find_streaminfo, flac.frame_samples, mp3.parse_header,
    ac3.parse_syncframe, ac3.build_dac3, ac3.build_dec3, jpeg.parse_jpeg, nal.annexb_spans, fmp4_boxes.parse_boxes,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real header with some bytes changed, cut or doubled: gets deeper than noise."""
    data = bytearray(draw(st.sampled_from(SEEDS + BROKEN)))
    for _ in range(draw(st.integers(1, 6))):
        if data:
            at = draw(st.integers(0, min(len(data) - 1, 80)))
            kind = draw(st.integers(0, 3))
            if kind == 0:
                data[at] = draw(st.integers(0, 255))
            elif kind == 1:
                data[at] ^= 1 << draw(st.integers(0, 7))
            elif kind == 2:
                del data[at : at + draw(st.integers(1, 8))]
            else:
                data[at:at] = data[at : at + draw(st.integers(1, 8))]
    return bytes(data)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: f"{parser.__module__.rsplit('.', 1)[1]}.{parser.__name__}")
@settings(max_examples=60)
@given(data=mutated() | st.binary(max_size=200))
def test_garbage_gives_only_peer_errors(parser: Callable[[bytes], object], data: bytes) -> None:
    message = "expected"
    try:
        parser(data)
    except PeerError as error:
        message = error.message
    assert "expected" in message


@given(st.lists(st.tuples(st.sampled_from(["u", "ue", "se"]), st.integers(-(2**31) + 1, 2**31 - 1)), max_size=40))
def test_bits_written_are_bits_read(fields: list[tuple[str, int]]) -> None:
    w = BitWriter()
    for kind, value in fields:
        if kind == "u":
            w.u(32, value & 0xFFFFFFFF)
        elif kind == "ue":
            w.ue(abs(value))
        else:
            w.se(value)
    r = BitReader(w.trailing().to_bytes() + b"trailing", "test")
    for kind, value in fields:
        got = r.u(32) if kind == "u" else r.ue() if kind == "ue" else r.se()
        assert got == (value & 0xFFFFFFFF if kind == "u" else abs(value) if kind == "ue" else value)


@given(st.binary(max_size=200) | st.lists(st.sampled_from([b"\0", b"\1", b"\3", b"\xff"]), max_size=60).map(b"".join))
def test_emulation_prevention_is_undone(rbsp: bytes) -> None:
    escaped = nal.escape(rbsp)
    assert nal.unescape(escaped) == rbsp
    for bad in (b"\0\0\0", b"\0\0\1", b"\0\0\2"):
        assert bad not in escaped


UNIT = st.tuples(st.integers(1, 23), st.integers(0, 3), st.binary(max_size=400)).map(
    lambda parts: bytes((parts[1] << 5 | parts[0],)) + nal.escape(parts[2]) + b"\x80"
)


@given(st.lists(UNIT, min_size=1, max_size=12), st.sampled_from([2, 4]))
def test_normalise_keeps_all_but_parameter_sets_whatever_the_framing(units: list[bytes], size: int) -> None:
    lengths = b"".join(len(unit).to_bytes(size, "big") + unit for unit in units)
    kept = [unit for unit in units if unit[0] & 31 not in (7, 8, 9, 12, 13)]
    expected = nal.join(kept)
    try:
        results = [h264.normalise(lengths, size), h264.normalise(nal.to_annexb(lengths, size))]
    except PeerError:
        return
    for au in results:
        assert nal.split(au.data) == kept
        assert au.data == expected
        assert au.keyframe == any(unit[0] & 31 == 5 for unit in units)
        assert au.is_reference == any(unit[0] & 31 <= 5 and unit[0] & 0x60 for unit in units)
        assert list(au.sps) == [unit for unit in units if unit[0] & 31 == 7]
        assert list(au.pps) == [unit for unit in units if unit[0] & 31 == 8]
        assert h264.normalise(au.data).data is au.data


@st.composite
def h264_sps(draw: st.DrawFn) -> tuple[bytes, dict[str, object]]:
    """A random SPS by 7.3.2.1.1 with what it must read as."""
    profile = draw(st.sampled_from([66, 77, 88, 100, 110, 122, 244]))
    level, sps_id = draw(st.integers(10, 62)), draw(st.integers(0, 31))
    w = BitWriter().u(8, profile).u(8, 0).u(8, level).ue(sps_id)
    chroma, depth = 1, 8
    if profile >= 100:
        chroma, depth = draw(st.integers(0, 3)), draw(st.integers(8, 14))
        w.ue(chroma)
        if chroma == 3:
            w.u(1, 0)
        w.ue(depth - 8).ue(depth - 8).u(1, 0)
        matrices = draw(st.booleans())
        w.u(1, matrices)
        if matrices:
            for index in range(12 if chroma == 3 else 8):
                deltas = draw(
                    st.one_of(st.none(), st.lists(st.integers(-3, 3), min_size=16 if index < 6 else 64, max_size=16 if index < 6 else 64))
                )
                w.u(1, deltas is not None)
                last = following = 8
                for delta in deltas or ():
                    if following:
                        w.se(delta)
                        following = (last + delta) % 256
                    last = following or last
    w.ue(4)
    poc = draw(st.integers(0, 2))
    w.ue(poc)
    if poc == 0:
        w.ue(2)
    elif poc == 1:
        cycle = draw(st.lists(st.integers(-9, 9), max_size=5))
        w.u(1, 0).se(-1).se(2).ue(len(cycle))
        for value in cycle:
            w.se(value)
    wide, high = draw(st.integers(2, 500)), draw(st.integers(2, 250))
    progressive = draw(st.booleans())
    w.ue(4).u(1, 0).ue(wide - 1).ue(high - 1).u(1, progressive)
    if not progressive:
        w.u(1, 1)
    w.u(1, 1)
    fields = 1 if progressive else 2
    unit_x, unit_y = (2 if chroma in (1, 2) else 1), (2 if chroma == 1 else 1) * fields
    left, right, top, bottom = (draw(st.integers(0, 3)) for _ in range(4))
    w.u(1, 1).ue(left).ue(right).ue(top).ue(bottom)
    width, height = wide * 16 - unit_x * (left + right), high * 16 * fields - unit_y * (top + bottom)
    sar = draw(st.tuples(st.integers(1, 65535), st.integers(1, 65535)))
    colour = Colour(*(draw(st.integers(0, 255)) for _ in range(3)), draw(st.booleans()))
    units, scale, reorder, hrds = (
        draw(st.integers(1, 2**32 - 1)),
        draw(st.integers(1, 2**32 - 1)),
        draw(st.integers(0, 16)),
        draw(st.integers(0, 3)),
    )
    w.u(1, 1).u(1, 1).u(8, 255).u(16, sar[0]).u(16, sar[1]).u(1, 1).u(1, 0)
    w.u(1, 1).u(3, 5).u(1, colour.full_range).u(1, 1).u(8, colour.primaries).u(8, colour.transfer).u(8, colour.matrix)
    w.u(1, 1).ue(1).ue(2).u(1, 1).u(32, units).u(32, scale).u(1, 1)
    for bit in (1, 2):
        w.u(1, bool(hrds & bit))
        if hrds & bit:
            w.ue(1).u(8, 0x44).ue(10).ue(11).u(1, 0).ue(12).ue(13).u(1, 1).u(20, 0x12345)
    w.u(1 + (hrds > 0), 0).u(1, 1).u(1, 1).ue(2).ue(1).ue(16).ue(16).ue(reorder).ue(16).trailing()
    expected: dict[str, object] = {
        "profile_idc": profile,
        "level_idc": level,
        "sps_id": sps_id,
        "chroma_format_idc": chroma,
        "bit_depth_luma": depth,
        "pic_order_cnt_type": poc,
        "width": width,
        "height": height,
        "frame_mbs_only": progressive,
        "sar": sar,
        "colour": colour,
        "frame_rate": scale / (2 * units),
        "max_num_reorder_frames": reorder,
    }
    return b"\x67" + nal.escape(w.to_bytes()), expected


@given(h264_sps())
def test_an_sps_reads_as_written(case: tuple[bytes, dict[str, object]]) -> None:
    unit, expected = case
    for data in (unit, unit + b"\0\0trailing"):
        sps = h264.parse_sps(data)
        assert {name: getattr(sps, name) for name in expected} == expected
    record = h264.build_avcc([unit], [b"\x68\xce"])
    assert h264.parse_avcc(record).sps == (unit,)
    assert h264.parse_avcc(record).pps == (b"\x68\xce",)
    assert h264.parse_avcc(record + b"trailing").ext.endswith(b"trailing")


@st.composite
def hevc_sps(draw: st.DrawFn) -> tuple[bytes, dict[str, object]]:
    """A random SPS by H.265 7.3.2.2 with what it must read as."""
    sub_layers = draw(st.integers(1, 7))
    w = BitWriter().u(4, 0).u(3, sub_layers - 1).u(1, 1).u(8, 0x21).u(32, 0x20000000).u(48, 0x900000000000).u(8, 93)
    levels = [draw(st.tuples(st.booleans(), st.booleans())) for _ in range(sub_layers - 1)]
    for present in levels:
        w.u(1, present[0]).u(1, present[1])
    if levels:
        w.u(2 * (8 - len(levels)), 0)
    for profile_present, level_present in levels:
        w.u(88 * profile_present, 0).u(8 * level_present, 0)
    chroma, wide, high, depth = draw(st.integers(0, 3)), draw(st.integers(64, 8192)), draw(st.integers(64, 4320)), draw(st.integers(8, 12))
    w.ue(3).ue(chroma)
    if chroma == 3:
        w.u(1, 0)
    crop = [draw(st.integers(0, 4)) for _ in range(4)]
    w.ue(wide).ue(high).u(1, 1)
    for value in crop:
        w.ue(value)
    w.ue(depth - 8).ue(depth - 8).ue(4)
    every = draw(st.booleans())
    reorder = draw(st.integers(0, 4))
    w.u(1, every)
    for index in range(sub_layers if every else 1):
        w.ue(4).ue(reorder if index == sub_layers - 1 or not every else 0).ue(0)
    w.ue(0).ue(3).ue(0).ue(3).ue(0).ue(0)
    lists = draw(st.booleans())
    w.u(1, lists)
    if lists:
        w.u(1, 1)
        for size in range(4):
            for matrix in range(2 if size == 3 else 6):
                explicit = draw(st.booleans())
                w.u(1, explicit)
                if not explicit:
                    w.ue(0)
                    continue
                if size > 1:
                    w.se(-matrix)
                for _ in range(min(64, 16 << (2 * size))):
                    w.se(1)
    pcm = draw(st.booleans())
    w.u(2, 3).u(1, pcm)
    if pcm:
        w.u(8, 0x77).ue(0).ue(2).u(1, 1)
    write_reference_sets(draw, w)
    w.u(1, 1).ue(2).u(9, 7).u(9, 300).u(2, 3)
    units, scale = draw(st.integers(1, 2**32 - 1)), draw(st.integers(1, 2**32 - 1))
    w.u(1, 1).u(1, 1).u(8, 2).u(1, 0).u(1, 0).u(1, 0).u(3, 0).u(1, 1).ue(1).ue(1).ue(1).ue(1).u(1, 1).u(32, units).u(32, scale).u(1, 0).u(
        1, 0
    ).u(1, 0).u(1, 0)
    unit_x, unit_y = (2 if chroma in (1, 2) else 1), (2 if chroma == 1 else 1)
    expected: dict[str, object] = {
        "sps_id": 3,
        "max_sub_layers": sub_layers,
        "chroma_format_idc": chroma,
        "bit_depth_luma": depth,
        "width": wide - unit_x * (crop[0] + crop[1]),
        "height": high - unit_y * (crop[2] + crop[3]),
        "max_num_reorder": reorder,
        "sar": (12, 11),
        "frame_rate": scale / units,
    }
    return b"\x42\x01" + nal.escape(w.trailing().to_bytes()), expected


def write_reference_sets(draw: st.DrawFn, w: BitWriter) -> None:
    count = draw(st.integers(0, 4))
    w.ue(count)
    pictures = 0
    for index in range(count):
        predicted = index > 0 and draw(st.booleans())
        if index:
            w.u(1, predicted)
        if predicted:
            w.u(1, 0).ue(0)
            kept = 0
            for _ in range(pictures + 1):
                used, delta = draw(st.booleans()), draw(st.booleans())
                w.u(1, used)
                if not used:
                    w.u(1, delta)
                kept += used or delta
            pictures = kept
        else:
            before, after = draw(st.integers(0, 4)), draw(st.integers(0, 3))
            w.ue(before).ue(after)
            for _ in range(before + after):
                w.ue(0).u(1, 1)
            pictures = before + after


@given(hevc_sps())
def test_an_hevc_sps_reads_as_written(case: tuple[bytes, dict[str, object]]) -> None:
    unit, expected = case
    sps = hevc.parse_sps(unit)
    assert {name: getattr(sps, name) for name in expected} == expected
    record = hevc.build_hvcc([b"\x40\x01\x0c"], [unit], [b"\x44\x01\xc0"])
    config = hevc.parse_hvcc(record)
    assert (config.vps, config.sps, config.pps) == ((b"\x40\x01\x0c",), (unit,), (b"\x44\x01\xc0",))
    assert (config.profile, config.bit_depth_luma, config.length_size) == (sps.profile, sps.bit_depth_luma, 4)
    assert hevc.codec_string(record) == hevc.codec_string(unit) == "hvc1.1.4.H93.90"


@given(
    st.integers(1, 2**24 - 1), st.integers(1, 7), st.sampled_from([1, 2, 3, 4]), st.sampled_from([960, 1024]), st.sampled_from([0, 1, 2])
)
@example(7350, 1, 2, 1024, 2)
def test_audio_specific_configs_read_as_written(rate: int, channels: int, kind: int, frame: int, he: int) -> None:
    extension = min(2 * rate, 2**24 - 1) if he else 0
    asc = aac.build_asc(rate, channels, kind, frame_length=frame, extension_sample_rate=extension, ps=he == 2)
    config = aac.parse_asc(asc + b"\0")
    assert (config.sample_rate, config.channel_config, config.object_type, config.frame_length) == (rate, channels, kind, frame)
    assert (config.sbr, config.ps, config.extension_sample_rate) == (he > 0, he == 2, extension)


@given(st.integers(0, 2**32 - 1), st.binary(max_size=9))
def test_leb128_reads_as_written(value: int, trailing: bytes) -> None:
    data = av1.leb128(value)
    assert av1.read_leb128(data + trailing, 0) == (value, len(data))


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 15]), st.booleans(), st.binary(max_size=300)), max_size=9), st.booleans()
)
def test_obus_survive_normalising(units: list[tuple[int, bool, bytes]], bare_last: bool) -> None:
    pieces = [bytes((kind << 3 | ext << 2 | 2,)) + b"\x08" * ext + av1.leb128(len(body)) + body for kind, ext, body in units if kind != 1]
    if bare_last:
        pieces.append(b"\x30last")
    data = b"".join(pieces)
    unit = av1.normalise(data)
    assert unit.data == b"".join(piece for piece in pieces if piece[0] >> 3 & 15 not in (2, 8, 15))
    assert (unit.data is data) == (unit.data == data)


@given(
    st.integers(1, 255),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    st.integers(-32768, 32767),
    st.integers(1, 255),
    st.integers(1, 200),
    st.data(),
)
def test_opus_heads_read_as_written(channels: int, skip: int, rate: int, gain: int, family: int, streams: int, data: st.DataObject) -> None:
    coupled = data.draw(st.integers(0, min(streams, 255 - streams)))
    mapping = bytes(data.draw(st.lists(st.integers(0, streams + coupled - 1) | st.just(255), min_size=channels, max_size=channels)))
    head = opus.OpusHead(channels, skip, rate, gain, family, streams, coupled, mapping)
    assert opus.parse_head(opus.build_head(head)) == head
    assert opus.parse_dops(opus.build_dops(head)) == head


@given(
    st.integers(0, 3),
    st.integers(0, 255),
    st.sampled_from([8, 10, 12]),
    st.integers(0, 3),
    st.booleans(),
    st.tuples(*[st.integers(0, 255)] * 3),
)
def test_vpcc_reads_as_written(profile: int, level: int, depth: int, chroma: int, full: bool, codes: tuple[int, int, int]) -> None:
    config = vp9.VpConfig(profile, level, depth, chroma, full, *codes)
    assert vp9.parse_vpcc(vp9.build_vpcc(config)) == config
