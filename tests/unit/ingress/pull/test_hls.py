"""Segments are handed on in slices that the loop can bear, however large and however short they say they are."""

from __future__ import annotations

from typing import Any, cast

from medianode.ingress.pull.hls import MAX_SLICE, HlsReader
from medianode.protocols.hls_read import Segment


class Taker:
    """Stands for the TransportStream, the Intake and the Order."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def feed(self, data: bytes, now: float) -> None:
        self.sizes.append(len(data))

    def heard(self, nbytes: int, now: float) -> None:
        pass


async def test_a_large_segment_of_no_time_is_taken_in_slices() -> None:
    taker = Taker()
    reader = HlsReader(cast(Any, None), cast(Any, taker), cast(Any, None))
    reader._transport = cast(Any, taker)
    await reader._transport_stream(Segment(0, "http://h/a.ts", 0.0), bytes(5 * MAX_SLICE + 188))
    assert taker.sizes == [MAX_SLICE] * 5 + [188]
