from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from medianode.errors import LimitExceeded, PeerError, ProtocolError
from medianode.protocols.amf import (
    UNDEFINED,
    UNSUPPORTED,
    Date,
    EcmaArray,
    TypedObject,
    Value,
    Xml,
    decode_amf0,
    decode_amf3,
    encode_amf0,
    encode_amf3,
)

# From the specification's own tables and FFmpeg's connect.
AMF0 = [
    ("00 3ff8000000000000", 1.5),
    ("01 01", True),
    ("01 00", False),
    ("02 0003 666f6f", "foo"),
    ("03 0001 61 05 000009", {"a": None}),
    ("05", None),
    ("06", UNDEFINED),
    ("08 00000001 0001 61 0100 000009", EcmaArray(a=False)),
    ("0a 00000002 05 06", [None, UNDEFINED]),
    ("0b 4076d00000000000 ffc4", Date(365.0, -60)),
    ("0c 00000002 6869", "hi"),
    ("0d", UNSUPPORTED),
    ("0f 00000004 3c612f3e", Xml("<a/>")),
    ("10 0001 43 0001 61 05 000009", TypedObject("C", [("a", None)])),
    ("11 0401", 1),
]
AMF3 = [
    ("00", UNDEFINED),
    ("01", None),
    ("02", False),
    ("03", True),
    ("04 00", 0),
    ("04 7f", 127),
    ("04 8100", 128),
    ("04 bfffffff", (1 << 28) - 1),
    ("04 ffffffff", -1),
    ("04 c0808000", -(1 << 28)),
    ("05 3ff8000000000000", 1.5),
    ("06 07 666f6f", "foo"),
    ("07 09 3c612f3e", Xml("<a/>")),
    ("08 01 4076d00000000000", Date(365.0)),
    ("09 05 01 0401 0402", [1, 2]),
    ("09 03 03 61 01 01 0402", EcmaArray({"a": None, "0": 2})),
    ("0a 13 01 03 61 0401", {"a": 1}),
    ("0a 0b 03 43 03 61 0401 01", TypedObject("C", [("a", 1)])),
    ("0b 09 3c612f3e", Xml("<a/>")),
    ("0c 05 0102", b"\x01\x02"),
    ("0d 05 00 00000001 ffffffff", [1, -1]),
    ("0e 03 01 ffffffff", [0xFFFFFFFF]),
    ("0f 03 00 3ff8000000000000", [1.5]),
    ("10 03 00 01 0401", [1]),
    ("11 03 00 0401 0402", [(1, 2)]),
]


@pytest.mark.parametrize(("wire", "value"), AMF0)
def test_amf0_vectors(wire: str, value: Value) -> None:
    (decoded,) = decode_amf0(bytes.fromhex(wire))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(("wire", "value"), AMF3)
def test_amf3_vectors(wire: str, value: Value) -> None:
    (decoded,) = decode_amf3(bytes.fromhex(wire))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("value", [value for wire, value in AMF0 if not wire.startswith("11")])
def test_amf0_round_trip(value: Value) -> None:
    assert decode_amf0(encode_amf0(value, value)) == [value, value]


@pytest.mark.parametrize("value", [v for _, v in AMF3 if not isinstance(v, list) or not isinstance(v[0], tuple)])
def test_amf3_round_trip(value: Value) -> None:
    assert decode_amf3(encode_amf3(value, value)) == [value, value]


def test_long_strings_and_lengths() -> None:
    text = "é" * 40_000
    assert encode_amf0(text)[0] == 0x0C
    assert decode_amf0(encode_amf0(text)) == [text]
    assert decode_amf3(encode_amf3(text, b"x" * 3_000_000)) == [text, b"x" * 3_000_000]
    with pytest.raises(ValueError, match="65535"):
        encode_amf0({text: 1})
    with pytest.raises(TypeError):
        encode_amf0(b"bytes")


def test_infinities_and_nan_are_numbers() -> None:
    values = decode_amf0(encode_amf0(math.inf, -math.inf, math.nan))
    assert values[:2] == [math.inf, -math.inf]
    assert isinstance(values[2], float)
    assert math.isnan(values[2])


def test_ecma_arrays_with_a_wrong_count_or_no_end() -> None:
    assert decode_amf0(bytes.fromhex("08 ffffffff 0001 61 05 000009 05")) == [{"a": None}, None]
    assert decode_amf0(bytes.fromhex("08 00000000 0001 61 05")) == [{"a": None}]
    assert decode_amf0(bytes.fromhex("03 0001 61 05")) == [{"a": None}]


def test_empty_names_are_not_the_end() -> None:
    assert decode_amf0(bytes.fromhex("03 0000 05 000009")) == [{"": None}]


def test_ill_formed_utf8_is_replaced() -> None:
    assert decode_amf0(bytes.fromhex("02 0002 ff41")) == ["\ufffdA"]


def test_amf0_reference() -> None:
    assert decode_amf0(bytes.fromhex("03 0001 61 03 000009 0001 62 07 0001 000009")) == [{"a": {}, "b": {}}]


def test_amf3_references() -> None:
    assert decode_amf3(bytes.fromhex("06 03 61 06 00")) == ["a", "a"]
    assert decode_amf3(bytes.fromhex("09 03 01 01 09 00")) == [[None], [None]]
    assert decode_amf3(bytes.fromhex("0a 13 01 03 61 0401 0a 01 0402")) == [{"a": 1}, {"a": 2}]
    assert decode_amf3(bytes.fromhex("0c 03 78 0c 00 08 01 4076d00000000000 08 02")) == [b"x", b"x", Date(365.0), Date(365.0)]


@pytest.mark.parametrize(
    ("decode", "wire", "message"),
    [
        (decode_amf0, "03 0001 61 07 0000 000009", "finished"),
        (decode_amf0, "07 0000", "reference below 0"),
        (decode_amf0, "04", "type marker"),
        (decode_amf0, "00 00", "expected 8 bytes"),
        (decode_amf0, "0a ffffffff", "got the end"),
        (decode_amf0, "0c ffffffff 61", "expected 4294967295 bytes"),
        (decode_amf3, "09 03 01 09 00", "finished"),
        (decode_amf3, "06 04", "string reference below 0"),
        (decode_amf3, "0a 05", "traits reference below 0"),
        (decode_amf3, "0a 07 03 43", "no externalizable class, got 'C'"),
        (decode_amf3, "12", "type marker"),
        (decode_amf3, "0c ffffffff", "bytes"),
    ],
)
def test_refused(decode: Callable[[bytes], list[Value]], wire: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode(bytes.fromhex(wire))


@pytest.mark.parametrize("wire", ["03000161", "0a00000001", "0800000000000161", "100000000161", "110903010903010903010903 01"])
def test_nesting_is_bounded(wire: str) -> None:
    with pytest.raises(LimitExceeded, match="levels"):
        decode_amf0(bytes.fromhex(wire) * 100_000, max_depth=8, max_items=1 << 30)
    with pytest.raises(LimitExceeded, match="values"):
        decode_amf0(bytes.fromhex(wire) * 100_000, max_depth=1000 if "11" in wire else 100, max_items=50)


def test_depth_may_reach_its_bound() -> None:
    nested: Value = []
    for _ in range(7):
        nested = [nested]
    assert decode_amf0(encode_amf0(nested), max_depth=8) == [nested]
    with pytest.raises(LimitExceeded):
        decode_amf0(encode_amf0([nested]), max_depth=8)


def test_references_count_as_what_they_stand_for() -> None:
    # Billion laughs: an array of ten references to an array of ten references …
    levels = b"\x0a" + (1).to_bytes(4, "big") + b"\x05"
    wire = b"\x0a" + (8).to_bytes(4, "big") + levels
    for level in range(1, 8):
        wire += b"\x0a" + (10).to_bytes(4, "big") + (b"\x07" + level.to_bytes(2, "big")) * 10
    with pytest.raises(LimitExceeded, match="values"):
        decode_amf0(wire)
    with pytest.raises(LimitExceeded, match="levels"):
        decode_amf0(wire, max_depth=4, max_items=1 << 40)


@pytest.mark.parametrize("decode", [decode_amf0, decode_amf3])
def test_every_prefix_gives_values_or_a_peer_error(decode: Callable[[bytes], list[Value]]) -> None:
    whole = b"".join(bytes.fromhex(wire) for wire, _ in (AMF0 if decode is decode_amf0 else AMF3))
    decoded = len(decode(whole))
    refused = 0
    for end in range(len(whole)):
        try:
            assert len(decode(whole[:end])) <= decoded
        except PeerError:
            refused += 1
    assert len(whole) // 2 < refused < len(whole)
