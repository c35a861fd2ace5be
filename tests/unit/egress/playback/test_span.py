"""`from` and `to`: what is understood, and what is answered to what is not."""

import pytest

from medianode.egress.playback.span import Span, parse_span
from medianode.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-21T10:00:00Z", 1795255200.0),
        ("2026-11-21T11:00:00+01:00", 1795255200.0),
        ("2026-11-21T11:00:00 01:00", 1795255200.0),  # a plus that was not escaped
        ("1795255200.25", 1795255200.25),
        ("+10", 1010.0),
        (" 10.5", 1010.5),
    ],
)
def test_instants(text: str, instant: float) -> None:
    assert parse_span({"from": text}, 1000.0) == Span(instant, None)


@pytest.mark.parametrize("text", ["yesterday", "2026-11-21T10:00:00", "-5", "1e400", "+-3", "9" * 41, "nan", "inf", "0001-01-01T00:00:00Z"])
def test_what_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidRequest, match="from: expected RFC 3339"):
        parse_span({"from": text}, 1000.0)


def test_backwards_and_relative_where_there_is_no_beginning() -> None:
    with pytest.raises(InvalidRequest, match="after from"):
        parse_span({"from": "20", "to": "10"}, None)
    with pytest.raises(InvalidRequest, match="absolute"):
        parse_span({"to": "+10"}, None)
    assert parse_span({}, None) == Span()
