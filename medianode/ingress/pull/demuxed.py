"""What FFmpeg's demuxers made of a source, into an Assembler."""

from __future__ import annotations

from medianode.ingress.assembler import Assembler
from medianode.transcode.puller import DemuxedUnit


def take_unit(assembler: Assembler, unit: DemuxedUnit, now: float) -> None:
    """Raises as the Assembler."""
    codec, config, data, dts, pts = unit
    if codec.kind not in assembler.publication.grant.kinds:
        assembler.unwanted(codec.kind)
        return
    if config:
        assembler.configure(codec, 0, config, now)
    ms, ticks = divmod(dts, 90)
    assembler.frame(codec, 0, data, ms, (pts - dts) / 90, now, ticks)
