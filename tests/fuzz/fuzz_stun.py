"""STUN: nothing raises, nothing amplifies, nothing verifies without the key.

python tests/fuzz/fuzz_stun.py -max_total_time=60 [corpus directory]
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["medianode.protocols"]):
        import medianode.protocols.stun  # noqa: F401

from medianode.protocols import stun

KEY = b"a key that no fuzzer guesses"


def one_input(data: bytes) -> None:
    body = data[: len(data) & ~3]
    framed = b"\x00\x01" + (len(body) & 0xFFFF).to_bytes(2, "big") + stun.COOKIE + bytes(12) + body
    for each in (data, framed):
        stun.peek_username(each)
        if stun.verify(each, KEY):
            raise AssertionError("verified without the key")
        refused = stun.refusal(each, 400)
        if refused is not None and len(refused) > len(each):
            raise AssertionError("a refusal longer than the request")
        found = stun.parse(each)
        if found is not None:
            made = stun.answer(found, ("192.0.2.1", 9), KEY)
            if stun.parse(made) is None or not stun.verify(made, KEY):
                raise AssertionError("expected an answer that can be read")


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
