"""What of webhooks' addresses and payloads may be shown."""

from __future__ import annotations

import pytest

from medianode.api.deliveries import masked
from medianode.api.webhooks import shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/x", "https://a.example/x"),
        ("https://a.example:8443/x/y?token=secret&flag&e=", "https://a.example:8443/x/y?token=…&…&e=…"),
        ("http://[2001:db8::1]/?a=b=c#part", "http://[2001:db8::1]/?a=…"),
        ("https://a.example?secret", "https://a.example?…"),
    ],
)
def test_values_of_a_query_are_not_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_keys_and_secrets_are_cut_wherever_they_stand() -> None:
    body = {
        "event": "live.started",
        "streamKey": "0123456789abcdef",
        "nested": [{"srtSecret": "abcdefghijkl", "Password": "short", "token": None, "publicKeys": ["a"]}],
        "streamKeys": "plural is another word",
        "url": "rtmps://a.example/live2/verysecret?x=1",
        "playback": "https://a.example/live/verysecret.m3u8",
        "target": "srt://a.example:7000?streamid=verysecret",
        "n": 1,
    }
    assert masked(body) == {
        **body,
        "streamKey": "0123…",
        "nested": [{"srtSecret": "abcd…", "Password": "…", "token": None, "publicKeys": ["a"]}],
        "url": "rtmps://a.example/live2/…",
        "target": "srt://a.example:7000/…",
    }
