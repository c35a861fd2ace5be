"""The forms of a stream id."""

from __future__ import annotations

import pytest

from medianode.errors import InvalidRequest
from medianode.protocols.srt.stream_id import StreamId, parse_stream_id


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("abc123", StreamId("publish", "abc123")),
        ("publish:live/abc123", StreamId("publish", "abc123", "live")),
        ("publish:abc123", StreamId("publish", "abc123")),
        ("publish:live/abc123?token=1", StreamId("publish", "abc123", "live")),
        ("read:live/studio", StreamId("request", "studio", "live")),
        ("#!::r=live/studio,m=publish,u=me,s=abc123", StreamId("publish", "abc123", "live", "studio")),
        ("#!::r=abc123,m=publish", StreamId("publish", "abc123")),
        ("#!::r=live/studio", StreamId("publish", "studio", "live")),
        ("#!::s=abc123,t=stream", StreamId("publish", "abc123")),
        ("#!::m=request,r=live/studio", StreamId("request", "studio", "live")),
        ("%23!::r=live/studio,s=abc123", StreamId("publish", "abc123", "live", "studio")),
        ("", StreamId("publish", "")),
    ],
)
def test_what_is_asked_for(text: str, found: StreamId) -> None:
    assert parse_stream_id(text) == found


@pytest.mark.parametrize(
    "text", ["#!{r=a}", "#!::secret", "#!::t=file,s=abc123", "rtmp://secret", "#!::" + ",".join(f"k{n}=1" for n in range(17))]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        parse_stream_id(text)
    assert "secret" not in told.value.message


def test_a_key_is_not_shown() -> None:
    assert "abc123" not in repr(parse_stream_id("publish:live/abc123"))
