"""Who asks, under which address, with which token; and which status an error has."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from medianode import errors, origin
from medianode.errors import InvalidRequest, MedianodeError
from medianode.origin import Origin, bearer


def request(peer: str = "198.51.100.7", path: str = "/", **headers: str) -> web.Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("GET", path, headers={"Host": "node:8080", **named}).clone(remote=peer)


# source


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        ("198.51.100.7", "", "198.51.100.7"),
        ("::ffff:198.51.100.7", "", "198.51.100.7"),
        ("198.51.100.7", "192.0.2.1", "198.51.100.7"),  # a stranger may say what it likes
        ("10.0.0.2", "192.0.2.1", "192.0.2.1"),
        ("::ffff:10.0.0.2", "192.0.2.1", "192.0.2.1"),
        ("10.0.0.2", "192.0.2.66, 192.0.2.1", "192.0.2.1"),  # the first was said by the client itself
        ("10.0.0.2", "192.0.2.1, 10.0.0.3", "192.0.2.1"),
        ("10.0.0.2", "192.0.2.1 , 2001:db8::5", "192.0.2.1"),
        ("10.0.0.2", "10.0.0.9", "10.0.0.2"),
        ("10.0.0.2", "", "10.0.0.2"),
        ("10.0.0.2", " , ,", "10.0.0.2"),
    ],
)
def test_the_client_s_address(peer: str, forwarded: str, source: str) -> None:
    asked = request(peer, X_Forwarded_For=forwarded) if forwarded else request(peer)
    assert Origin("", ("10.0.0.0/8", "2001:db8::5")).source(asked) == source


# base


def test_public_url_wins_over_all() -> None:
    house = Origin("https://tv.example/", ("198.51.100.0/24",))
    asked = request(X_Forwarded_Proto="http", X_Forwarded_Host="evil.example")
    assert house.base(asked) == "https://tv.example"
    assert house.hostname(asked) == "tv.example"


@pytest.mark.parametrize(
    ("trusted", "headers", "base"),
    [
        ((), {}, "http://node:8080"),
        ((), {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "evil.example"}, "http://node:8080"),
        (("198.51.100.7",), {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "tv.example"}, "https://tv.example"),
        (("198.51.100.7",), {"X_Forwarded_Proto": "HTTPS"}, "https://node:8080"),
        (("198.51.100.7",), {"X_Forwarded_Proto": "gopher"}, "http://node:8080"),
        (("198.51.100.7",), {"X_Forwarded_Host": "a.example, b.example"}, "http://b.example"),
        (("198.51.100.7",), {"X_Forwarded_Host": " "}, "http://node:8080"),
    ],
)
def test_the_public_address(trusted: tuple[str, ...], headers: dict[str, str], base: str) -> None:
    assert Origin("", trusted).base(request(**headers)) == base


@pytest.mark.parametrize("host", ["a/b", "a\\b", "u@h", "a?b", "a#b", "<x>", 'a"b', "a'b", "a b"])
def test_a_host_that_would_break_out_of_a_page_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequest, match="Host: expected a host name"):
        Origin("", ()).base(request(Host=host))


def test_host_names() -> None:
    house = Origin("", ())
    assert house.hostname(request(Host="tv.example:8080")) == "tv.example"
    assert house.hostname(request(Host="[2001:db8::1]:8080")) == "[2001:db8::1]"


# tokens


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("BEARER a b", "a b"),
        ("Bearer", None),
        ("Bearer  ", None),
        ("Basic abc", None),
        ("", None),
    ],
)
def test_bearer(header: str, token: str | None) -> None:
    assert bearer(request(Authorization=header) if header else request()) == token


# statuses


def tree(kind: type[MedianodeError] = MedianodeError) -> list[type[MedianodeError]]:
    """Those of `errors`: what others make of them has their status."""
    here = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [kind, *(found for sub in here for found in tree(sub))]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("x"), 400),
        (errors.Unauthorized("x"), 401),
        (errors.Forbidden("x"), 403),
        (errors.NotFound("x"), 404),
        (errors.PeerTimeout("x"), 408),
        (errors.Conflict("x"), 409),
        (errors.LimitExceeded("x"), 413),
        (errors.LimitExceeded("x", code="room-full"), 503),
        (errors.LimitExceeded("x", code="node-full"), 503),
        (errors.UnsupportedMedia("x"), 415),
        (errors.TooManyRequests("x"), 429),
        (errors.NotEnabled("x"), 501),
        (errors.ProtocolError("x", code="undecodable"), 502),
        (errors.StorageError("x"), 503),
        (errors.MedianodeError("x"), 500),
    ],
)
def test_each_error_has_its_status(error: MedianodeError, status: int) -> None:
    assert origin.status(error) == status


def test_no_error_has_a_status_that_is_none() -> None:
    assert {origin.status(kind("x")) for kind in tree()} <= {400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 501, 502, 503}


def test_what_has_only_just_begun_is_to_be_asked_for_again_in_a_second() -> None:
    soon = origin.media_error(errors.PeerTimeout("x", code="not-ready"))
    assert (soon.status, soon.headers["Retry-After"]) == (503, "1")
    assert "Retry-After" not in origin.media_error(errors.PeerTimeout("x")).headers


def test_what_a_player_shows_and_says_of_itself_is_read_within_bounds() -> None:
    asked = request(path="/?token=t", Authorization="Bearer b", Referer="https://shop.example/" + "x" * 1000, User_Agent="y" * 1000)
    assert origin.credentials(asked) == ("t", "b")
    site, agent = origin.player(asked)
    assert (site[:21], len(site), agent) == ("https://shop.example/", 500, "y" * 200)
    assert origin.player(request(Origin="https://a.example", Referer="https://b.example")) == ("https://a.example", "")
    assert origin.credentials(request()) == (None, None)
    with pytest.raises(InvalidRequest, match="token: expected up to 8192"):
        origin.credentials(request(path="/?token=" + "x" * 8193))
