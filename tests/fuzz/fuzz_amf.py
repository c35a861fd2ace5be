"""AMF0 and AMF3: only PeerError gets out; what was decoded stays within its bounds and can be walked.

python tests/fuzz/fuzz_amf.py -max_total_time=60 [corpus directory]
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode"]):
        import medianode.protocols.amf  # noqa: F401

from medianode.errors import PeerError
from medianode.protocols.amf import Value, decode_amf0, decode_amf3

_DEPTH, _ITEMS = 12, 1000


def _walk(value: Value, depth: int) -> int:
    if depth > _DEPTH + 1:
        raise AssertionError(f"expected at most {_DEPTH} levels")
    if isinstance(value, dict):
        return 1 + sum(_walk(item, depth + 1) for item in value.values())
    if type(value) is list:
        return 1 + sum(_walk(item, depth + 1) for item in value)
    return 1


def one_input(data: bytes) -> None:
    for decode in (decode_amf0, decode_amf3):
        try:
            values = decode(data, max_depth=_DEPTH, max_items=_ITEMS)
        except PeerError:
            continue
        items = sum(_walk(value, 0) for value in values)
        if items > _ITEMS:
            raise AssertionError(f"expected at most {_ITEMS} values, got {items}")


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
