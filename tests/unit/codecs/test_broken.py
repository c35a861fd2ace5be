"""Every broken vector is refused with a ProtocolError, and every header cut anywhere gives nothing but PeerError."""

import importlib
from collections.abc import Callable

import pytest

from medianode.codecs import aac, ac3, av1, flac, h264, hevc, jpeg, mp3, opus, vp8, vp9
from medianode.errors import PeerError, ProtocolError

PARSERS: dict[str, tuple[Callable[..., object], ...]] = {
    "avcC": (h264.parse_avcc, h264.codec_string),
    "hvcC": (hevc.parse_hvcc, hevc.codec_string),
    "annexb": (h264.normalise, hevc.normalise),
    "au": (h264.normalise, h264.is_idr),
    "av1C": (av1.parse_av1c, av1.codec_string),
    "tu": (av1.normalise, av1.parse_sequence_header, av1.build_av1c),
    "obu": (av1.normalise,),
    "vpcC": (vp9.parse_vpcc,),
    "frame": (vp8.parse_frame, vp9.parse_frame),
    "asc": (aac.parse_asc,),
    "adts": (aac.strip_adts,),
    "head": (opus.parse_head,),
    "dOps": (opus.parse_dops,),
    "streaminfo": (flac.parse_streaminfo,),
    "packet": (mp3.parse_header, ac3.parse_syncframe, ac3.build_dac3, ac3.build_dec3, opus.packet_samples, flac.frame_samples),
    "jpg": (jpeg.parse_jpeg,),
    "dac3": (ac3.syncframes,),
    "dec3": (ac3.syncframes,),
}


def test_every_broken_vector_is_refused(broken: list[dict[str, str]]) -> None:
    assert len(broken) > 80
    for item in broken:
        module, name = item["parser"].split(".")
        parser = getattr(importlib.import_module(f"medianode.codecs.{module}"), name)
        with pytest.raises(ProtocolError, match="expected"):
            print(item["parser"], item["why"], parser(bytes.fromhex(item["hex"])))


def test_every_cut_gives_only_peer_errors(vectors: dict[str, bytes]) -> None:
    for name, data in vectors.items():
        for parser in PARSERS[name.rsplit(".", 1)[1]]:
            refused = 0
            for size in range(min(len(data), 600)):
                try:
                    parser(data[:size])
                except PeerError:
                    refused += 1
            assert refused or len(data) < 20 or parser is h264.is_idr, (name, parser)


def test_cut_parameter_sets_give_only_peer_errors(vectors: dict[str, bytes]) -> None:
    for name, data in vectors.items():
        if name.endswith("avcC"):
            units, parse = h264.parse_avcc(data).sps, h264.parse_sps
        elif name.endswith("hvcC"):
            units, parse = hevc.parse_hvcc(data).sps, hevc.parse_sps
        else:
            continue
        for size in range(len(units[0])):
            try:
                parse(units[0][:size])
            except ProtocolError:
                continue
            # Only the VUI's tail may be missing without harm.
            assert size > len(units[0]) // 2, (name, size)
