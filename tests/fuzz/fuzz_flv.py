"""FLV tag bodies: only PeerError gets out, and no tag has more bytes than came in.

python tests/fuzz/fuzz_flv.py -max_total_time=60 [corpus directory]
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode"]):
        import medianode.protocols.flv  # noqa: F401

from medianode.errors import PeerError
from medianode.protocols.flv import parse_audio, parse_video


def one_input(data: bytes) -> None:
    for parse in (parse_video, parse_audio):
        try:
            tags = parse(data)
        except PeerError:
            continue
        if sum(len(tag.data) - 4 for tag in tags) > len(data):
            raise AssertionError("expected no more bytes out than in")


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
