"""TransportStream: an MPEG-2 transport stream into an Assembler, whatever brought it (SRT, HTTP, segments of HLS)."""

from __future__ import annotations

from medianode.errors import ProtocolError
from medianode.ingress.assembler import Assembler
from medianode.protocols.mpegts import TsDemuxer, TsFault, TsUnit

MAX_UNIT_BYTES = 8 << 20
"""Of one picture."""
_TICKS = 90


class TransportStream:
    """`feed` bytes however they are cut. Raises as the Assembler: LimitExceeded on too many tracks, ProtocolError after many bad frames in
    a row.
    """

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler
        self._health = assembler.publication.health
        self._kinds = assembler.publication.grant.kinds
        self._demuxer = TsDemuxer(MAX_UNIT_BYTES)
        self._configs: dict[int, bytes] = {}

    def feed(self, data: bytes, now: float) -> None:
        """What came."""
        for event in self._demuxer.feed(data):
            self._take(event, now)

    def lost(self, packets: int, now: float) -> None:
        """Up to so many transport packets are missing here."""
        for event in self._demuxer.lost(packets):
            self._take(event, now)

    def finish(self, now: float, *, whole: bool = True) -> None:
        """The end. `whole`: nothing is cut off, so that the picture that is open is complete."""
        for event in self._demuxer.flush(whole=whole):
            self._take(event, now)

    def _take(self, event: TsUnit | TsFault, now: float) -> None:
        if isinstance(event, TsFault):
            self._fault(event)
            return
        codec, number, dts, pts, data, config = event
        if codec.kind not in self._kinds:
            self._assembler.unwanted(codec.kind)
            return
        if config and self._configs.get(number) != config:
            self._configs[number] = config
            self._assembler.configure(codec, number, config, now)
        ms, ticks = divmod(dts, _TICKS)
        self._assembler.frame(codec, number, data, ms, (pts - dts) / _TICKS, now, ticks)

    def _fault(self, fault: TsFault) -> None:
        if fault.cause == "unsupported":
            # which ends nothing: what is carried may come beside it
            self._health.notes["unsupported-stream"] = self._health.last_error = fault.message
        elif fault.cause == "lost":
            self._assembler.drop("transport-loss")
            if fault.kind is not None:
                self._assembler.damaged(fault.kind, fault.number)
        else:
            self._assembler.bad_frame(ProtocolError(fault.message))
