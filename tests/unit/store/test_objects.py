"""Where buckets are, what their services refuse in plain words, and the pace of uploads."""

from __future__ import annotations

import pytest

from medianode.store.object_errors import refusal
from medianode.store.object_wire import Pacer
from medianode.store.objects import Bucket

OWN = {"type": "s3", "bucket": "evidence", "endpoint": "https://s3.example.com:9000/", "accessKey": "AK", "secretKey": "never-shown"}
AWS = {"type": "s3", "bucket": "evidence", "region": "eu-central-1", "accessKey": "AK", "secretKey": "never-shown", "prefix": "/media/"}
NOW = 1774794600.0  # 2026-03-29T14:30:00Z


@pytest.mark.parametrize(
    ("storage", "base", "host", "virtual"),
    [
        (OWN, "https://s3.example.com:9000/evidence", "s3.example.com", False),
        (AWS, "https://evidence.s3.eu-central-1.amazonaws.com", "evidence.s3.eu-central-1.amazonaws.com", True),
        # a dot in the name does not fit the certificate of *.s3.…
        ({**AWS, "bucket": "a.b"}, "https://s3.eu-central-1.amazonaws.com/a.b", "s3.eu-central-1.amazonaws.com", False),
        ({**AWS, "region": ""}, "https://evidence.s3.us-east-1.amazonaws.com", "evidence.s3.us-east-1.amazonaws.com", True),
    ],
)
def test_where_a_bucket_is(storage: dict[str, str], base: str, host: str, virtual: bool) -> None:
    bucket = Bucket.of(storage)
    assert (bucket.base, bucket.host, bucket.virtual) == (base, host, virtual)


def test_keys_and_public_addresses() -> None:
    assert Bucket.of(AWS).key("p/1.mp4") == "media/p/1.mp4"
    assert Bucket.of(OWN).key("p/1.mp4") == "p/1.mp4"
    assert Bucket.of(OWN).public_url("a b/ü.mp4") == "https://s3.example.com:9000/evidence/a%20b/%C3%BC.mp4"
    assert Bucket.of({**OWN, "cdnUrl": "https://cdn.example.com/x/"}).public_url("1.mp4") == "https://cdn.example.com/x/1.mp4"


def test_the_secret_stands_in_no_repr() -> None:
    assert "never-shown" not in repr(Bucket.of(OWN))


@pytest.mark.parametrize(
    ("said", "told", "status", "headers", "code", "message"),
    [
        ("SlowDown", "easy", 503, {}, "slow-down", "the service asks us to slow down: 503 SlowDown"),
        ("InvalidAccessKeyId", "", 403, {}, "wrong-credentials", "the service does not know the access key: 403 InvalidAccessKeyId"),
        ("NoSuchBucket", "", 404, {}, "no-such-bucket", "there is no such bucket: 404 NoSuchBucket"),
        (
            "RequestTimeTooSkewed",
            "",
            403,
            {"date": "Sun, 29 Mar 2026 15:30:00 GMT"},
            "clock-skew",
            "this node's clock is 3600 s behind the service's: set it right (NTP): 403 RequestTimeTooSkewed",
        ),
        ("RequestTimeTooSkewed", "", 403, {"date": "?"}, "clock-skew", "this node's clock and the service's differ by too much: 403 "),
        ("301", "", 301, {"x-amz-bucket-region": "eu-west-1"}, "wrong-region", "(the bucket's region is eu-west-1): 301"),
        ("403", "", 403, {}, "access-denied", "the access key may not do this, or the secret key is wrong: 403"),
        ("502", "", 502, {}, "bucket-away", "the service failed: 502"),
        ("Whim", "not\x1btoday", 400, {}, "refused", "the service refused the request: 400 Whim, 'nottoday'"),
    ],
)
def test_refusals_in_plain_words(said: str, told: str, status: int, headers: dict[str, str], code: str, message: str) -> None:
    found = refusal(said, told, status, headers, NOW)
    assert found.code == code
    assert message in found.message


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0", 0.0), ("1e9", 3600.0), ("nan", None), ("-1", None), ("soon", None)])
def test_how_long_a_service_wants_to_be_left_alone(header: str, seconds: float | None) -> None:
    assert refusal("SlowDown", "", 503, {"retry-after": header}, NOW).retry_after == seconds


def test_all_uploads_share_one_pace() -> None:
    pacer = Pacer(8_000)  # 1000 bytes a second
    assert pacer.delay(500, 10.0) == 0.0
    assert pacer.delay(1000, 10.0) == 0.5
    assert pacer.delay(100, 10.2) == pytest.approx(1.3)
    assert pacer.delay(100, 60.0) == 0.0  # what was not used is not saved up
    assert Pacer(0).delay(10**9, 0.0) == 0.0
