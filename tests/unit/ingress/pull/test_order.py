"""Nothing of what a source is opened with is shown."""

from __future__ import annotations

import errno
import ssl

import pytest

from medianode.auth import Door, PublishGrant, Takeover
from medianode.errors import PeerError, UnsupportedMedia
from medianode.ingress.pull.order import PullOrder, without_secrets
from medianode.ingress.pull.words import describe, refused

GRANT = PublishGrant(
    project_id="p",
    slug="live",
    room="live-cam",
    identity="cam",
    name="",
    kind=Door.URL,
    ingress_id="in_1",
    takeover=Takeover.REPLACE,
    hold=5.0,
)


def test_the_url_stands_in_no_repr() -> None:
    order = PullOrder(grant=GRANT, url="rtsp://admin:geheim@cam.example/s?token=abcdef")
    assert "geheim" not in repr(order)
    assert "abcdef" not in repr(order)
    assert (order.ingress_id, order.scheme, order.host) == ("in_1", "rtsp", "cam.example")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("no rtsp://admin:geheim@h/ for you", "rtsp://admin:geheim@h/"),
        ("who is admin:geheim", "rtsp://admin:geheim@h/"),
        ("geheim", "rtsp://admin:geheim@h/"),
        ("ge heim!", "rtsp://admin:ge%20heim!@h/"),
        ("stream geheim?x", "rtmp://h/live/geheim"),
        ("token=geheim is over", "http://h/a?token=geheim"),
    ],
)
def test_what_a_source_says_is_masked(text: str, url: str) -> None:
    shown = without_secrets(text, url)
    assert "geheim" not in shown
    assert "heim!" not in shown


def test_terminals_and_databases_can_take_it() -> None:
    assert without_secrets("a\x00\x1b[31mb" + "x" * 999, "rtsp://h/") == "a  [31mb" + "x" * 292


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ECONNREFUSED, ""), "connection-refused", "nothing listens"),
        (OSError(errno.EHOSTUNREACH, ""), "no-route", "no route"),
        (TimeoutError(), "unreachable", "no answer in time"),
        (TimeoutError(errno.ETIMEDOUT, ""), "unreachable", "switched on"),
        (ConnectionResetError(errno.ECONNRESET, ""), "connection-reset", "cut"),
        (ssl.SSLCertVerificationError("x"), "certificate-not-trusted", "outbound.cafile"),
        (ssl.SSLError(1, "x"), "tls-failed", "TLS"),
        (PeerError("hm", code="odd"), "odd", "hm"),
        (ZeroDivisionError("secret"), "internal", "ZeroDivisionError"),
    ],
)
def test_plain_words(error: BaseException, code: str, words: str) -> None:
    told, message = describe(error, "cam.example")
    assert told == code
    assert words in message
    assert "secret" not in message


def test_databases_can_take_what_a_source_said() -> None:
    """The codec's name of an SDP, or a Content-Type in Latin-1, which aiohttp decodes to surrogates."""
    error = UnsupportedMedia("expected H.264, got \x00evil\n\udcff" + "x" * 200_000, code="unsupported-codec")
    assert describe(error, "h") == ("unsupported-codec", "expected H.264, got  evil  " + "x" * 273)


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthorized"), (403, "unauthorized"), (404, "not-found"), (453, "source-full"), (418, "rejected"), (599, "source-error")],
)
def test_statuses(status: int, code: str) -> None:
    told, message = refused(status, "DESCRIBE")
    assert told == code
    assert f"(DESCRIBE {status})" in message
