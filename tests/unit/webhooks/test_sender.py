from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Mapping

import aiohttp
import pytest

from medianode.config import Limits
from medianode.outbound import Guard, Outbound
from medianode.store.endpoints import WebhookEndpoint
from medianode.webhooks import sender
from medianode.webhooks.sender import Answer


@pytest.mark.parametrize(
    ("value", "expected"), [("120", 120.0), ("0", 0.0), ("", None), ("soon", None), ("-5", None), ("9" * 40, 999_999_999.0)]
)
def test_retry_after(value: str, expected: float | None) -> None:
    assert sender.retry_after({"Retry-After": value}) == expected


def test_retry_after_as_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medianode.clock.wallclock", lambda: 1445412450.0)  # Wed, 21 Oct 2015 07:27:30 GMT
    assert sender.retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 30.0
    assert sender.retry_after({"Retry-After": "Wed, 21 Oct 2015 07:00:00 GMT"}) == 0.0


async def test_a_second_request_has_what_the_first_left_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, given = [1000.0], []
    monkeypatch.setattr("medianode.clock.now", lambda: now[0])

    class Broken(sender.Sender):
        async def _post(self, url: str, headers: Mapping[str, str], body: bytes, timeout: float, *, fresh: bool = False) -> Answer | None:
            given.append((timeout, fresh))
            now[0] += 4.0
            return None

    endpoint = WebhookEndpoint(
        id="wh", project_id="p", name="", url="http://a.example/", events=("*",), dialect="baxcloud", created_at=1.0, updated_at=1.0
    )
    answer = await Broken(None, Outbound(), 10.0, Limits()).send(endpoint, "e", "id", b"{}", None)  # type: ignore[arg-type]
    assert given == [(10.0, False), (6.0, True)]
    assert (answer.status, answer.latency) == (None, 8.0)


def test_no_socket_is_made_for_an_address_that_was_not_looked_at() -> None:
    guard = Guard(Outbound())
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "169.254.169.254"), (socket.AF_INET6, "::ffff:10.0.0.1")):
        with pytest.raises(OSError, match="private") as raised:
            guard.make_socket((family, socket.SOCK_STREAM, 0, "", (address, 80)))
        assert raised.value.errno == errno.EACCES
    guard.make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", 80))).close()


async def test_a_private_address_of_an_allowed_name_gets_a_socket() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        return ["10.0.0.7"]

    guard = Guard(Outbound(["hooks.lan"], lookup=lookup))
    (found,) = await guard.resolve("hooks.lan", 443)
    assert (found["host"], found["family"]) == ("10.0.0.7", socket.AF_INET)
    guard.make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.7", 443))).close()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionResetError(errno.ECONNRESET, "x"), "peer-gone: "),
        (aiohttp.ServerDisconnectedError(), "peer-gone: "),
        (aiohttp.ClientPayloadError("https://h/secret-token"), "peer-gone: "),
        (aiohttp.InvalidURL("https://h/secret-token"), "invalid-request: "),
        (ValueError("secret-token"), "invalid-request: "),
        (ssl.SSLError(1, "broken"), "tls: "),
        (OSError(errno.EHOSTUNREACH, "x"), "unreachable: No route to host"),
        (aiohttp.ClientError("secret-token"), "peer-error: ClientError"),
    ],
)
def test_words_of_an_error_show_nothing_of_the_url(error: Exception, told: str) -> None:
    text = sender._why(error)
    assert text.startswith(told)
    assert "secret-token" not in text


def test_what_is_kept_of_an_answer_fits_into_any_database() -> None:
    assert sender._clean("a\0b\x1b[2Jc\nd\ud800", 500) == "a\ufffdb\ufffd[2Jc\nd\ufffd"
    assert len(sender._clean("x" * 10_000, sender.EXCERPT)) == 500
