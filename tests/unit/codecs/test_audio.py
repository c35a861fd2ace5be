import pytest

from medianode.codecs import aac, ac3, flac, mp3, opus
from medianode.errors import LimitExceeded, ProtocolError


@pytest.mark.parametrize(
    ("name", "rate", "channels", "out_rate", "samples", "codec"),
    [
        ("aac-lc-44100-stereo", 44100, 2, 44100, 1024, "mp4a.40.2"),
        ("aac-lc-48000-5.1", 48000, 6, 48000, 1024, "mp4a.40.2"),
        ("aac-lc-16000-mono", 16000, 1, 16000, 1024, "mp4a.40.2"),
        ("aac-lc-48000-quad-pce", 48000, 4, 48000, 1024, "mp4a.40.2"),
        ("he-aac-v1-hierarchical", 22050, 2, 44100, 2048, "mp4a.40.5"),
        ("he-aac-v1-backward", 24000, 2, 48000, 2048, "mp4a.40.5"),
        ("he-aac-v2-hierarchical", 22050, 2, 44100, 2048, "mp4a.40.29"),
    ],
)
def test_audio_specific_configs(
    vectors: dict[str, bytes], name: str, rate: int, channels: int, out_rate: int, samples: int, codec: str
) -> None:
    data = vectors[f"{name}.asc"]
    config = aac.parse_asc(data)
    assert (config.object_type, config.sample_rate, config.channels) == (aac.AAC_LC, rate, channels)
    assert (config.output_sample_rate, config.samples_per_frame) == (out_rate, samples)
    assert aac.codec_string(data) == codec
    assert aac.parse_asc(data + bytes(9)).sample_rate == rate


def test_asc_is_built_as_encoders_write_it(vectors: dict[str, bytes]) -> None:
    assert aac.build_asc(44100, 2) == b"\x12\x10"
    assert aac.build_asc(22050, 2, extension_sample_rate=44100) == vectors["he-aac-v1-hierarchical.asc"]
    assert aac.build_asc(22050, 1, extension_sample_rate=44100, ps=True) == vectors["he-aac-v2-hierarchical.asc"]
    odd = aac.parse_asc(aac.build_asc(44056, 1, frame_length=960))
    assert (odd.sample_rate, odd.frame_length, odd.samples_per_frame) == (44056, 960, 960)
    for arguments in ((44100, 0), (44100, 8), (1 << 24, 2), (0, 2), (44100, 2, 5)):
        with pytest.raises(ProtocolError, match="AAC"):
            aac.build_asc(*arguments)


@pytest.mark.parametrize(
    ("hex_", "object_type", "frame_length", "channels"),
    [("b99000", 23, 512, 2), ("b99400", 23, 480, 2), ("f8e64000", 39, 512, 2), ("f9464320", aac.USAC, 1024, 2)],
    ids=["LD", "LD 480", "ELD", "xHE-AAC"],
)
def test_other_object_types(hex_: str, object_type: int, frame_length: int, channels: int) -> None:
    config = aac.parse_asc(bytes.fromhex(hex_))
    assert (config.object_type, config.frame_length, config.channels) == (object_type, frame_length, channels)


def test_adts_of_ffmpeg_is_stripped(vectors: dict[str, bytes]) -> None:
    data = vectors["aac-lc-44100-stereo.adts"]
    header = aac.parse_adts(data)
    assert header == aac.AdtsHeader(2, 44100, 2, 7, header.frame_size, 1024)
    assert aac.is_adts(data)
    config, frames = aac.strip_adts(data)
    assert config == b"\x12\x10"
    assert len(frames) == 10
    assert sum(map(len, frames)) + 70 == len(data)
    assert frames[0] == vectors["aac-lc-44100-stereo-0.packet"]
    assert not aac.is_adts(frames[0])


def test_adts_is_bounded_and_one_block_each(vectors: dict[str, bytes]) -> None:
    data = vectors["aac-lc-44100-stereo.adts"]
    with pytest.raises(LimitExceeded, match="at most 9"):
        aac.strip_adts(data, max_frames=9)
    with pytest.raises(ProtocolError, match="one raw data block"):
        aac.strip_adts(data[:6] + bytes((data[6] | 1,)) + data[7:])
    with pytest.raises(ProtocolError, match="configuration 1 to 7"):
        aac.strip_adts(bytes.fromhex("fff15000017ffc") + bytes(4))  # channel configuration 0: the PCE is in the frame


def test_opus_heads(vectors: dict[str, bytes]) -> None:
    stereo, surround = vectors["libopus-stereo-20ms.head"], vectors["libopus-5.1-60ms.head"]
    assert opus.parse_head(stereo) == opus.OpusHead(2, 312, 48000, 0, 0, 1, 1)
    assert opus.parse_head(surround) == opus.OpusHead(6, 312, 48000, 0, 1, 4, 2, b"\0\4\1\2\3\5")
    for data in (stereo, surround):
        head = opus.parse_head(data)
        assert opus.build_head(head) == data
        assert opus.parse_dops(opus.build_dops(head)) == head
        assert opus.parse_head(data + b"trailing") == head
    assert opus.build_dops(opus.parse_head(stereo)) == vectors["libopus-stereo.dOps"]
    with pytest.raises(ProtocolError, match="version 0"):
        opus.parse_dops(b"\1" + vectors["libopus-stereo.dOps"][1:])


@pytest.mark.parametrize(
    ("packet", "samples"),
    [
        ("00", 480),
        ("18", 2880),
        ("60", 480),
        ("68", 960),
        ("80", 120),
        ("f8", 960),
        ("f9", 1920),
        ("fa", 1920),
        ("fb06", 5760),
        ("1b02", 5760),
        ("8330", 5760),
    ],
)
def test_opus_packet_durations_of_rfc_6716(packet: str, samples: int) -> None:
    assert opus.packet_samples(bytes.fromhex(packet)) == samples


def test_opus_packets_of_libopus(vectors: dict[str, bytes]) -> None:
    assert opus.packet_samples(vectors["libopus-stereo-20ms-0.packet"]) == 960
    assert opus.packet_samples(vectors["libopus-5.1-60ms-0.packet"]) == 2880
    assert opus.packet_channels(vectors["libopus-stereo-20ms-0.packet"]) == 2
    assert opus.packet_channels(b"\xf8") == 1
    with pytest.raises(ProtocolError):
        opus.packet_channels(b"")


def test_flac(vectors: dict[str, bytes]) -> None:
    data = vectors["flac-44100-stereo.streaminfo"]
    info = flac.parse_streaminfo(data)
    assert (info.sample_rate, info.channels, info.bits_per_sample, info.total_samples, info.max_block_size) == (44100, 2, 16, 8820, 1024)
    for wrapped in (data, b"\x80\0\0\x22" + data, b"\0\0\0\x22" + data + b"\x84", b"fLaC\0\0\0\x22" + data + b"more"):
        assert flac.find_streaminfo(wrapped) == data
    assert flac.frame_samples(vectors["flac-44100-stereo-first.packet"]) == 1024
    assert flac.frame_samples(vectors["flac-44100-stereo-last.packet"]) == 8820 - 8 * 1024


@pytest.mark.parametrize(
    ("frame", "samples"),
    [
        ("fff81918000000", 192),
        ("fff82918000000", 576),
        ("fff85918000000", 4608),
        ("fff8f918000000", 32768),
        ("fff86918002a00", 43),
        ("fff87918c2800fff00", 4096),
    ],
)
def test_flac_block_sizes(frame: str, samples: int) -> None:
    assert flac.frame_samples(bytes.fromhex(frame)) == samples


def test_mp3_of_lame(vectors: dict[str, bytes]) -> None:
    assert mp3.parse_header(vectors["lame-44100-128k-0.packet"]) == mp3.FrameHeader(1.0, 3, 128000, 44100, 2, 1152, 417)
    for name in ("lame-44100-128k-0", "lame-44100-128k-1", "lame-22050-mono-mpeg2-0"):
        packet = vectors[f"{name}.packet"]
        assert mp3.parse_header(packet).frame_size == len(packet)
    low = mp3.parse_header(vectors["lame-22050-mono-mpeg2-0.packet"])
    assert (low.version, low.sample_rate, low.channels, low.samples) == (2.0, 22050, 1, 576)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("fffd9064", (1.0, 2, 160000, 44100, 1152, 522)),
        ("ffff9064", (1.0, 1, 288000, 44100, 384, 312)),
        ("ffe390c4", (2.5, 3, 80000, 11025, 576, 522)),
    ],
    ids=["layer 2", "layer 1", "MPEG 2.5"],
)
def test_other_mpeg_audio(header: str, expected: tuple[float, int, int, int, int, int]) -> None:
    h = mp3.parse_header(bytes.fromhex(header))
    assert (h.version, h.layer, h.bitrate, h.sample_rate, h.samples, h.frame_size) == expected


def test_ac3_and_eac3_as_ffmpeg_muxes_them(vectors: dict[str, bytes]) -> None:
    first, enhanced = vectors["ac3-48000-5.1.packet"], vectors["eac3-48000-stereo.packet"]
    frame = ac3.parse_syncframe(first)
    assert (frame.enhanced, frame.sample_rate, frame.channels, frame.samples, frame.frame_size) == (False, 48000, 6, 1536, len(first))
    assert ac3.build_dac3(first) == vectors["ac3-48000-5.1.dac3"]
    frame = ac3.parse_syncframe(enhanced)
    assert (frame.enhanced, frame.sample_rate, frame.channels, frame.samples, frame.frame_size) == (True, 48000, 2, 1536, len(enhanced))
    assert ac3.build_dec3(enhanced) == vectors["eac3-48000-stereo.dec3"]
    with pytest.raises(LimitExceeded, match="at most 2"):
        ac3.syncframes(enhanced * 3, max_frames=2)


@pytest.mark.parametrize(("fscod", "code", "size"), [(0, 8, 256), (1, 8, 278), (1, 9, 280), (2, 8, 384), (1, 37, 2788)])
def test_ac3_frame_sizes_of_table_4_13(vectors: dict[str, bytes], fscod: int, code: int, size: int) -> None:
    frame = vectors["ac3-48000-5.1.packet"]
    assert ac3.parse_syncframe(frame[:4] + bytes((fscod << 6 | code,)) + frame[5:]).frame_size == size


def test_a_dependent_substream_adds_its_channels(vectors: dict[str, bytes]) -> None:
    """7.1: strmtyp 1 behind the independent one, custom map of Lrs/Rrs (bit 6 from the left), which is bit 1 of chan_loc."""
    independent = vectors["eac3-48000-stereo.packet"]
    header = f"{1:02b}{0:03b}{4:011b}{0:02b}{3:02b}{2:03b}{0:01b}{16:05b}{0:05b}0" + "1" + f"{1 << 9:016b}"
    dependent = b"\x0b\x77" + int(header.ljust(64, "0"), 2).to_bytes(8, "big")
    frames = ac3.syncframes(independent + dependent)
    assert [(frame.strmtyp, frame.chanmap) for frame in frames] == [(0, 0), (1, 1 << 9)]
    record = ac3.build_dec3(independent + dependent)
    assert record[4:] == bytes((1 << 1 | 0, 2))
    with pytest.raises(ProtocolError, match="independent substream first"):
        ac3.build_dec3(dependent)
