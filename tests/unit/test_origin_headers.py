"""Host and X-Forwarded-* from strangers."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from medianode.errors import InvalidRequest
from medianode.origin import Origin
from medianode.protocols.rtmp.url import parse_rtmp_url


class Transport:
    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 4711) if name == "peername" else default


def request(*headers: tuple[str, str]) -> object:
    return make_mocked_request("GET", "/", headers=CIMultiDict(headers), transport=Transport())


def test_a_proxy_that_adds_a_header_line_of_its_own_is_believed_and_not_the_client() -> None:
    origin = Origin("", ("127.0.0.1",))
    made_up = request(("Host", "node"), ("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "192.0.2.7"))
    assert origin.source(made_up) == "192.0.2.7"  # type: ignore[arg-type]  # a mock
    two = request(
        ("Host", "node"), ("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil, media.example")
    )
    assert origin.base(two) == "https://media.example"  # type: ignore[arg-type]  # a mock


@pytest.mark.parametrize("host", ["[::1", "[:::]", "b\u00fccher", "a\tb", "a:b:c", "", "a%00b", "[fe80::1%25eth0]"])
def test_a_host_that_is_none_is_refused_and_no_bug(host: str) -> None:
    with pytest.raises(InvalidRequest):
        Origin("", ()).hostname(request(("Host", host)))  # type: ignore[arg-type]  # a mock


@pytest.mark.parametrize(
    ("host", "name"), [("node:8080", "node"), ("[::1]:8080", "[::1]"), ("192.0.2.1", "192.0.2.1"), ("a_b.local", "a_b.local")]
)
def test_a_host_that_is_one(host: str, name: str) -> None:
    assert Origin("", ()).hostname(request(("Host", host))) == name  # type: ignore[arg-type]  # a mock


def test_an_rtmp_url_with_half_a_bracket() -> None:
    with pytest.raises(InvalidRequest):
        parse_rtmp_url("rtmp://[::1/live/key")
