"""MPEG-2 transport streams in, sans-IO (ISO/IEC 13818-1): packets, tables, PES, and the access units in them."""

from medianode.protocols.mpegts.demuxer import TsDemuxer, TsFault, TsUnit

__all__ = ["TsDemuxer", "TsFault", "TsUnit"]
