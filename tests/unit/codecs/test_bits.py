import pytest

from medianode.codecs.bits import BitReader, BitWriter
from medianode.errors import ProtocolError


def test_exp_golomb_of_table_9_2() -> None:
    r = BitReader(bytes([0b10100110, 0b01000010, 0b10011000]), "test")
    assert [r.ue() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert BitReader(b"\x28", "test").ue() == 4


def test_signed_codes_alternate() -> None:
    w = BitWriter()
    for value in (0, 1, -1, 2, -2, 32767, -32768):
        w.se(value)
    r = BitReader(w.trailing().to_bytes(), "test")
    assert [r.se() for _ in range(7)] == [0, 1, -1, 2, -2, 32767, -32768]


def test_reading_past_the_end_names_what() -> None:
    r = BitReader(b"\xa5", "SPS")
    assert (r.u(3), r.u(0), r.u(5), r.remaining) == (5, 0, 5, 0)
    with pytest.raises(ProtocolError, match="SPS: expected 1 bits at bit 8, got 0"):
        r.flag()
    with pytest.raises(ProtocolError, match="SPS"):
        r.skip(1)


def test_fields_may_span_many_bytes() -> None:
    r = BitReader(b"\x01\x23\x45\x67\x89\xab\xcd\xef\xff", "test")
    r.skip(4)
    assert r.u(64) == 0x123456789ABCDEFF
    r.align()
    assert r.remaining == 0


def test_bound_of_a_code() -> None:
    assert BitReader(b"\x28", "test").ue(4) == 4
    with pytest.raises(ProtocolError, match="at most 3 before bit 5, got 4"):
        BitReader(b"\x28", "test").ue(3)
    with pytest.raises(ProtocolError, match="32 leading zeros"):
        BitReader(bytes(9), "test").ue()


def test_a_field_that_does_not_fit_is_our_bug() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        BitWriter().u(3, 8)
    with pytest.raises(ValueError, match="does not fit"):
        BitWriter().u(3, -1)
