"""STUN: RFC 5769's vectors, what an ICE-lite agent answers, and that garbage gives None."""

import random
from zlib import crc32

import pytest

from medianode.protocols import stun

KEY = b"VOkJxbRl1RmTxUk/WvJxBt"
REQUEST = bytes.fromhex(  # RFC 5769 2.1
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36"
    "000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
RESPONSE_V4 = bytes.fromhex(  # RFC 5769 2.2
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
RESPONSE_V6 = bytes.fromhex(  # RFC 5769 2.3
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
)
TRANSACTION = bytes(range(12))


def request(**more) -> bytes:
    return stun.binding_request(TRANSACTION, b"ours:theirs", b"password", controlling=7, **more)


def test_rfc5769_request() -> None:
    assert stun.peek_username(REQUEST) == b"evtj"
    assert stun.verify(REQUEST, KEY)
    assert not stun.verify(REQUEST, KEY + b"x")
    found = stun.parse(REQUEST)
    assert found is not None
    assert found.username == b"evtj:h6vY"
    assert found.is_request
    assert found.integrity
    assert not found.use_candidate
    assert (found.priority, found.controlled, found.controlling) == (0x6E0001FF, 0x932FF9B151263B36, None)
    assert found.unknown == ()


@pytest.mark.parametrize(("data", "host"), [(RESPONSE_V4, "192.0.2.1"), (RESPONSE_V6, "2001:db8:1234:5678:11:2233:4455:6677")])
def test_rfc5769_responses(data: bytes, host: str) -> None:
    assert stun.verify(data, KEY)
    found = stun.parse(data)
    assert found is not None
    assert found.type == stun.BINDING_RESPONSE
    assert found.mapped == (host, 32853)
    assert stun.peek_username(data) is None


@pytest.mark.parametrize(
    ("address", "mapped"),
    [
        (("192.0.2.7", 40012), ("192.0.2.7", 40012)),
        (("::ffff:192.0.2.7", 40012, 0, 0), ("192.0.2.7", 40012)),
        (("2001:db8::5", 1, 0, 0), ("2001:db8::5", 1)),
        (("fe80::1%eth0", 65535, 0, 2), ("fe80::1", 65535)),
    ],
)
def test_the_answer_tells_where_the_request_came_from(address, mapped) -> None:
    asked = stun.parse(request(use_candidate=True))
    assert asked is not None
    assert asked.use_candidate
    assert asked.controlling == 7
    made = stun.answer(asked, address, b"password")
    assert stun.verify(made, b"password")
    assert not stun.verify(made, b"passwore")
    found = stun.parse(made)
    assert found is not None
    assert (found.type, found.transaction, found.mapped) == (stun.BINDING_RESPONSE, TRANSACTION, mapped)


def test_success_of_ours_is_not_larger_than_a_browsers_request() -> None:
    asked = request()
    found = stun.parse(asked)
    assert found is not None
    assert len(stun.answer(found, ("192.0.2.7", 9), b"password")) <= len(asked)


def test_a_controlled_peer_is_told_of_the_role_conflict() -> None:
    asked = stun.parse(stun.binding_request(TRANSACTION, b"a:b", b"k", controlled=3))
    assert asked is not None
    made = stun.answer(asked, ("192.0.2.7", 9), b"k")
    found = stun.parse(made)
    assert found is not None
    assert (found.type, found.error) == (stun.BINDING_ERROR, 487)
    assert stun.verify(made, b"k")


def test_unknown_attributes_must_be_understood_below_0x8000_only() -> None:
    attributes = (
        stun.attribute(6, b"a:b") + stun.attribute(0x7777, b"xyz") + stun.attribute(0xC057, b"\0\1\2\3") + stun.attribute(0x0033, b"")
    )
    asked = stun.parse(stun.build(stun.BINDING_REQUEST, TRANSACTION, attributes, b"k"))
    assert asked is not None
    assert asked.unknown == (0x7777, 0x0033)
    made = stun.answer(asked, ("192.0.2.7", 9), b"k")
    found = stun.parse(made)
    assert found is not None
    assert found.error == 420
    assert stun.attribute(stun.Attribute.UNKNOWN_ATTRIBUTES, b"\x77\x77\x00\x33") in made


def test_what_stands_behind_the_integrity_is_ignored() -> None:
    inner = stun.build(stun.BINDING_REQUEST, TRANSACTION, stun.attribute(6, b"a:b"), b"k")[:-8]
    tail = stun.attribute(stun.Attribute.USE_CANDIDATE, b"") + stun.attribute(0x7777, b"")
    whole = inner + tail
    whole = whole[:2] + (len(whole) - 20).to_bytes(2, "big") + whole[4:]
    assert stun.verify(whole, b"k")
    found = stun.parse(whole)
    assert found is not None
    assert not found.use_candidate
    assert found.unknown == ()


def test_without_fingerprint_it_is_taken_with_a_wrong_one_not() -> None:
    data = request()
    bare = data[:-8]
    bare = bare[:2] + (len(bare) - 20).to_bytes(2, "big") + bare[4:]
    assert stun.verify(bare, b"password")
    assert stun.parse(bare) is not None
    wrong = data[:-1] + bytes((data[-1] ^ 1,))
    assert not stun.verify(wrong, b"password")
    assert stun.parse(wrong) is None


def test_integrity_absent_or_short_is_no_integrity() -> None:
    attributes = stun.attribute(6, b"a:b")
    assert not stun.verify(stun.build(1, TRANSACTION, attributes, None), b"")
    assert not stun.verify(stun.build(1, TRANSACTION, attributes + stun.attribute(8, bytes(16)), None), b"k")
    assert stun.parse(stun.build(1, TRANSACTION, attributes + stun.attribute(8, bytes(16)), None)) is None


@pytest.mark.parametrize("flip", range(52 - 8))
def test_any_bit_changed_in_what_is_signed_breaks_it(flip: int) -> None:
    data = bytearray(stun.build(1, TRANSACTION, stun.attribute(6, b"a:b"), b"k"))
    data[flip] ^= 1
    data[-4:] = (crc32(bytes(data[:-8])) ^ 0x5354554E).to_bytes(4, "big")  # as who can recompute the CRC
    assert not stun.verify(bytes(data), b"k")


def test_a_username_without_colon_or_after_the_integrity_is_nobodys() -> None:
    assert stun.peek_username(stun.build(1, TRANSACTION, stun.attribute(6, b"abcd"), b"k")) is None
    after = stun.build(1, TRANSACTION, b"", b"k")[:-8] + stun.attribute(6, b"a:b")
    after = after[:2] + (len(after) - 20).to_bytes(2, "big") + after[4:]
    assert stun.peek_username(after) is None
    assert stun.peek_username(stun.build(stun.BINDING_INDICATION, TRANSACTION, stun.attribute(6, b"a:b"), None)) is None


def test_refusals_never_amplify() -> None:
    longer = request()
    assert stun.refusal(longer, 401) is not None
    assert len(stun.refusal(longer, 401) or b"") <= len(longer)
    assert stun.refusal(stun.build(1, TRANSACTION, b"", None), 401) is None
    assert stun.refusal(b"\x00\x01" + bytes(60), 400) is None


def test_floods_of_attributes_are_left() -> None:
    many = stun.attribute(0x8001, b"") * 300
    data = stun.build(1, TRANSACTION, many + stun.attribute(6, b"a:b"), b"k")
    assert stun.peek_username(data) is None
    assert stun.parse(data) is None
    assert stun.parse(stun.build(1, TRANSACTION, stun.attribute(0x8022, bytes(4096)), b"k")) is None


def test_garbage_gives_none() -> None:
    rng = random.Random(3)
    base = request(use_candidate=True)
    for _ in range(4000):
        data = bytearray(base if rng.random() < 0.7 else rng.randbytes(rng.randrange(90)))
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        data = data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data
        raw = bytes(data)
        stun.parse(raw)
        stun.peek_username(raw)
        if raw[:-8] != base[:-8]:
            assert not stun.verify(raw, b"password")
