"""What is asked in headers: gzip or not, and whether the client has it already."""

import gzip

import pytest
from aiohttp.test_utils import make_mocked_request

from medianode.auth import Means, ReadGrant
from medianode.egress.playback import answers


@pytest.mark.parametrize(
    ("accepted", "packs"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip; q=0", False), ("gzip;q=0.0", False), ("identity", False), ("x-gzip", False)],
)
def test_gzip_is_for_who_asks_for_it(accepted: str, packs: bool) -> None:
    assert answers.packs(make_mocked_request("GET", "/", {"Accept-Encoding": accepted})) is packs


def test_without_the_header_nothing_is_packed() -> None:
    assert not answers.packs(make_mocked_request("GET", "/"))
    response = answers.text(answers.pack(b"#EXTM3U\n"), answers.PLAYLIST, packed=True)
    assert (response.headers["Content-Encoding"], response.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert isinstance(response.body, bytes)
    assert gzip.decompress(response.body) == b"#EXTM3U\n"


@pytest.mark.parametrize(
    ("asked", "unchanged"), [('"a"', True), ('"b", W/"a"', True), ("*", True), ('"b"', False), ("a", False), ("", False)]
)
def test_what_the_client_has_is_not_sent_again(asked: str, unchanged: bool) -> None:
    request = make_mocked_request("GET", "/", {"If-None-Match": asked})
    assert answers.unchanged(request, '"a"') is unchanged
    assert not answers.unchanged(request, ""), "what may yet grow has no tag"


def test_what_not_everybody_may_have_is_for_the_players_own_cache() -> None:
    grant = ReadGrant(project_id="p", slug="p", room="r", means=Means.TOKEN, shared=False)
    assert answers.cached(grant, answers.FOREVER) == "private, max-age=31536000, immutable"
    assert answers.cached(grant, 5) == "private, max-age=5"
    assert answers.cached(grant, 0) == "no-cache"
