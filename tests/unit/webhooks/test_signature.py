"""Known answers, made with openssl: `openssl dgst -sha256 -hmac SECRET`; for FastPix `-mac HMAC -macopt hexkey:000102…`, in base64."""

from __future__ import annotations

import base64

import pytest

from medianode.webhooks import signature

BODY = '{"event":"live.started","é":1}'.encode()
FASTPIX_SECRET = base64.b64encode(bytes(range(32))).decode()


def test_baxcloud_and_streamhub_sign_with_the_secret_as_text() -> None:
    expected = "sha256=d1ef93a15f9146b2d13c700c6f2f9e38fb30be30c05ff04f24578752df5b2a71"
    assert signature.sign("baxcloud", "whsec_ü", BODY) == expected
    assert signature.sign("streamhub", "whsec_ü", BODY) == expected


def test_fastpix_signs_with_the_decoded_secret() -> None:
    assert signature.sign("fastpix", FASTPIX_SECRET, BODY) == "EULPAVD4rgSg3bLUojzhqpwlYNC/4/IA3iDwIyJRG3Q="
    assert len(signature.sign("fastpix", FASTPIX_SECRET, BODY)) == 44


def test_headers_of_each_dialect() -> None:
    bax = signature.headers("baxcloud", "live.started", "id1", BODY, "s", {})
    assert bax == {
        "Content-Type": "application/json",
        "User-Agent": "BaxCloud-VideoConverter/1.0",
        "Accept-Encoding": "identity",
        "X-BaxCloud-Event": "live.started",
        "X-BaxCloud-Signature": signature.sign("baxcloud", "s", BODY),
    }
    hub = signature.headers("streamhub", "stream_started", "id1", b'{"ts":1774794600123,"id":"id1"}', "s", {})
    assert hub["X-StreamHub-Event"] == "stream_started"
    assert hub["X-StreamHub-Delivery"] == "id1"
    assert hub["X-StreamHub-Timestamp"] == "1774794600123"
    assert hub["X-StreamHub-Signature"].startswith("sha256=")
    assert hub["User-Agent"] == "streamhub-core/callbacks"
    fast = signature.headers("fastpix", "video.live_stream.active", "id1", BODY, FASTPIX_SECRET, {})
    assert {name for name in fast if "ignature" in name} == {"FastPix-Signature"}


@pytest.mark.parametrize("dialect", ["baxcloud", "streamhub", "fastpix"])
def test_without_a_secret_there_is_no_signature(dialect: str) -> None:
    assert not [name for name in signature.headers(dialect, "e", "i", b"{}", None, {}) if "signature" in name.lower()]


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"ts":[1]}', b"{}"])
def test_a_body_without_a_stamp_has_no_timestamp_header(body: bytes) -> None:
    assert "X-StreamHub-Timestamp" not in signature.headers("streamhub", "e", "i", body, None, {})


def test_own_headers_are_added_and_override_none_of_ours() -> None:
    own = {"Authorization": "Bearer x", "host": "elsewhere", "X-BAXCLOUD-Signature": "forged", "content-length": "0", "User-Agent": "me"}
    made = signature.headers("baxcloud", "e", "i", BODY, "s", own)
    assert made["Authorization"] == "Bearer x"
    assert {"host", "content-length", "X-BAXCLOUD-Signature"}.isdisjoint(made)
    assert made["User-Agent"] == "BaxCloud-VideoConverter/1.0"


@pytest.mark.parametrize(
    "name", ["Host", "Transfer-Encoding", "connection", "FastPix-Signature", "X-StreamHub-Anything", ":path", "Proxy-X"]
)
def test_forbidden_names(name: str) -> None:
    assert signature.forbidden(name)
    assert not signature.forbidden("X-Tenant")


def test_new_secrets() -> None:
    assert len(base64.b64decode(signature.new_secret("fastpix"), validate=True)) == 32
    assert signature.new_secret("baxcloud").startswith("whsec_")
    assert len({signature.new_secret("streamhub") for _ in range(10)}) == 10
