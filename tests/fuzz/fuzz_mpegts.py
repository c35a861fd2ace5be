"""Transport streams: nothing raises, nothing is held beyond its bound, and how the bytes are cut does not matter.

python tests/fuzz/fuzz_mpegts.py -max_total_time=60 CORPUS tests/vectors/mpegts (what it finds goes into the first directory)
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode.protocols.mpegts", "medianode.codecs.latm"]):
        import medianode.protocols.mpegts  # noqa: F401

from medianode.protocols.mpegts import TsDemuxer, TsUnit

MAX = 1 << 16


def one_input(data: bytes) -> None:
    whole, cut = TsDemuxer(MAX), TsDemuxer(MAX)
    # the sync bytes are given, or a fuzzer spends its time on them
    framed = b"".join(b"\x47" + data[at : at + 187] for at in range(0, len(data), 187))
    found = whole.feed(framed) + whole.flush()
    pieces = []
    for at in range(0, len(framed), 100):
        pieces += cut.feed(framed[at : at + 100])
    pieces += cut.flush()
    if len(framed) % 188 == 0 and found != pieces:
        raise AssertionError("the cut of the bytes mattered")
    if any(isinstance(event, TsUnit) and len(event.data) > MAX + 188 for event in found):
        raise AssertionError("a unit over the bound")
    raw = TsDemuxer(MAX)
    raw.feed(data)
    raw.lost(16)
    raw.feed(data)
    raw.flush()


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
