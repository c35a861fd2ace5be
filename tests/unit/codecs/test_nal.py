import pytest

from medianode.codecs import nal
from medianode.errors import LimitExceeded, ProtocolError

UNITS = [b"\x65abc", b"\x06", b"\x41" + bytes(range(200))]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_lengths_of_each_size(size: int) -> None:
    data = b"".join(len(unit).to_bytes(size, "big") + unit for unit in UNITS)
    assert nal.split(data, size) == UNITS
    assert nal.spans(data, size)[1] is (size == 4)


def test_join_and_annexb_are_inverses() -> None:
    data = nal.join(UNITS)
    assert nal.split(data) == UNITS
    assert nal.from_annexb(nal.to_annexb(data)) == data


def test_annexb_tolerates_short_codes_and_zero_padding() -> None:
    data = b"\0\0\0\0\0\1\x67\x42\0\0\1\x68\xce\0\0\0\0\1\x65\x88\0\0"
    assert [data[a:b] for a, b in nal.annexb_spans(data)] == [b"\x67\x42", b"\x68\xce", b"\x65\x88"]
    assert nal.spans(data[2:]) == ([(a - 2, b - 2) for a, b in nal.annexb_spans(data)], False)


def test_a_one_byte_unit_is_not_mistaken_for_a_start_code() -> None:
    """00000001 0b is a length of 1 and an end of stream; so it walks, and stays."""
    data = nal.join([b"\x0b", b"\x65\x88"])
    assert nal.split(data) == [b"\x0b", b"\x65\x88"]
    assert nal.spans(data)[1]


def test_units_of_256_to_511_bytes_look_like_a_start_code_and_are_none() -> None:
    data = nal.join([b"\x65" * 300])
    assert data.startswith(b"\0\0\1")
    assert nal.split(data) == [b"\x65" * 300]


def test_empty_units_are_passed_over() -> None:
    assert nal.spans(b"\0\0\0\0\0\0\0\1\x65") == ([(8, 9)], False)
    assert nal.spans(b"") == ([], True)


def test_the_number_of_units_is_bounded() -> None:
    data = nal.join([b"\x41"] * 9)
    assert len(nal.spans(data, max_units=9)[0]) == 9
    for bomb in (data, bytes(4 * 9), b"\0\0\0\1\x65" * 9 + b"\0\0\0"):
        with pytest.raises(LimitExceeded, match="at most 8"):
            nal.spans(bomb, max_units=8)
    with pytest.raises(LimitExceeded, match="at most 8"):
        nal.annexb_spans(b"\0\0\1\x65" * 9, max_units=8)


def test_annexb_needs_a_start_code() -> None:
    with pytest.raises(ProtocolError, match="got none"):
        nal.annexb_spans(b"\x65\x88")
    with pytest.raises(ProtocolError, match="only zeros"):
        nal.annexb_spans(b"\x65\0\0\1\x65")


def test_emulation_prevention() -> None:
    assert nal.escape(b"\0\0\0\0\0\1\0\0\3\0\0") == b"\0\0\3\0\0\3\0\1\0\0\3\3\0\0\3"
    assert nal.unescape(b"\0\0\3\0\0\3\0\1\0\0\3\3\0\0\3") == b"\0\0\0\0\0\1\0\0\3\0\0"
