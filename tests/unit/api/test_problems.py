from __future__ import annotations

import msgspec
import pytest

from medianode.api.problems import BAXCLOUD, STREAMHUB, answer, dialect_of
from medianode.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    MedianodeError,
    NotEnabled,
    NotFound,
    PeerTimeout,
    StorageError,
    TooManyRequests,
    Unauthorized,
)


@pytest.mark.parametrize(
    ("error", "status", "phrase"),
    [
        (InvalidRequest("x"), 400, "Bad Request"),
        (Unauthorized("x"), 401, "Unauthorized"),
        (Forbidden("x"), 403, "Forbidden"),
        (NotFound("x"), 404, "Not Found"),
        (PeerTimeout("x"), 408, "Request Timeout"),
        (Conflict("x"), 409, "Conflict"),
        (LimitExceeded("x"), 413, "Payload Too Large"),
        (TooManyRequests("x"), 429, "Too Many Requests"),
        (NotEnabled("x"), 501, "Not Implemented"),
        (StorageError("x"), 503, "Service Unavailable"),
    ],
)
def test_the_golden_bodies(error: MedianodeError, status: int, phrase: str) -> None:
    bax = answer(BAXCLOUD, error)
    assert (bax.status, bax.headers["X-Error-Code"]) == (status, error.code)
    assert bax.body == msgspec.json.encode({"statusCode": status, "error": phrase, "message": "x", "code": error.code, "success": False})
    hub = answer(STREAMHUB, error)
    message = ["x"] if status == 400 else "x"
    assert (hub.status, hub.body) == (status, msgspec.json.encode({"statusCode": status, "message": message, "error": phrase}))
    for response in (bax, hub):
        assert response.content_type == "application/json"
        assert ("WWW-Authenticate" in response.headers) == (status == 401)
        assert ("Retry-After" in response.headers) == (status == 429)


def test_several_bad_fields() -> None:
    error = InvalidRequest("a; b", fields=("a", "b"))
    assert msgspec.json.decode(answer(BAXCLOUD, error).body)["message"] == "a; b"
    assert msgspec.json.decode(answer(STREAMHUB, error).body)["message"] == ["a", "b"]


def test_our_faults_have_no_details() -> None:
    response = answer(STREAMHUB, MedianodeError("table ingresses, row 7", code="illegal-transition"))
    assert response.status == 500
    assert b"ingresses" not in response.body


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1", "BaxCloud"),
        ("/v1/x", "BaxCloud"),
        ("/ingress", "BaxCloud"),
        ("/ingress/IN_1", "BaxCloud"),
        ("/api/v1/apps", "StreamHub"),
        ("/api/v1", "StreamHub"),
        ("/ingest/ws", None),
        ("/v10", None),
        ("/api/v11", None),
        ("/", None),
        ("/hls/live/live/index.m3u8", None),
    ],
)
def test_prefixes(path: str, name: str | None) -> None:
    found = dialect_of(path)
    assert (found.name if found else None) == name
