"""What an S3 service refused, in the house's codes and plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from medianode.errors import PeerError

SAID = 200
"""Characters of the service's own words that are kept."""

_CODES = {
    "SlowDown": ("slow-down", "the service asks us to slow down"),
    "ServiceUnavailable": ("bucket-away", "the service is not available"),
    "InternalError": ("bucket-away", "the service failed inside"),
    "RequestTimeout": ("bucket-away", "the service waited for us in vain"),
    "InvalidAccessKeyId": ("wrong-credentials", "the service does not know the access key"),
    "SignatureDoesNotMatch": ("wrong-credentials", "the secret key is wrong"),
    "InvalidToken": ("wrong-credentials", "the service does not know the access key"),
    "ExpiredToken": ("wrong-credentials", "the access key has expired"),
    "AccessDenied": ("access-denied", "the access key may not do this"),
    "AllAccessDisabled": ("access-denied", "the bucket is closed to everybody"),
    "AccountProblem": ("access-denied", "the service has a problem with the account"),
    "QuotaExceeded": ("bucket-full", "the bucket's quota is used up"),
    "XMinioStorageFull": ("bucket-full", "the service's disk is full"),
    "NoSuchBucket": ("no-such-bucket", "there is no such bucket"),
    "NoSuchUpload": ("no-such-upload", "the service does not know this multipart upload"),
    "NoSuchKey": ("no-such-object", "there is no such object"),
    "RequestTimeTooSkewed": ("clock-skew", "this node's clock and the service's differ by too much"),
    "RequestExpired": ("clock-skew", "this node's clock and the service's differ by too much"),
    "BadDigest": ("corrupted", "the checksum does not fit what arrived"),
    "InvalidDigest": ("corrupted", "the checksum does not fit what arrived"),
    "XAmzContentSHA256Mismatch": ("corrupted", "the checksum does not fit what arrived"),
    "XAmzContentChecksumMismatch": ("corrupted", "the checksum does not fit what arrived"),
    "IncompleteBody": ("corrupted", "less arrived than was announced"),
    "InvalidPart": ("no-such-upload", "the service does not have a part that it acknowledged"),
    "InvalidPartOrder": ("no-such-upload", "the service does not have the parts as they were sent"),
    "EntityTooSmall": ("no-such-upload", "the service wants larger parts"),
    "PermanentRedirect": ("wrong-region", "the bucket is elsewhere: set storage.region or storage.endpoint"),
    "TemporaryRedirect": ("wrong-region", "the bucket is elsewhere: set storage.region or storage.endpoint"),
    "AuthorizationHeaderMalformed": ("wrong-region", "the bucket is in another region: set storage.region"),
}
_STATUS = {
    401: ("wrong-credentials", "the service does not accept the access key"),
    403: ("access-denied", "the access key may not do this, or the secret key is wrong"),
    404: ("no-such-object", "there is no such object or bucket"),
    408: ("bucket-away", "the service waited for us in vain"),
    429: ("slow-down", "the service asks us to slow down"),
    507: ("bucket-full", "the service's disk is full"),
}
_PLEASE_WAIT = 3600.0


class Refused(PeerError):
    """The service said no, or not now. `retry_after`: seconds that it asked for."""

    def __init__(self, message: str, *, code: str, retry_after: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


def refusal(said: str, told: str, status: int, headers: Mapping[str, Any], now: float) -> Refused:
    """`said`: the service's code (a status where it gave none). `told`: its words. `headers`: names in lower case. `now`: wallclock."""
    if said in _CODES:
        code, words = _CODES[said]
    elif 300 <= status < 400:
        code, words = "wrong-region", "the bucket is elsewhere: set storage.region or storage.endpoint"
    elif status in _STATUS:
        code, words = _STATUS[status]
    else:
        code, words = ("bucket-away", "the service failed") if status >= 500 else ("refused", "the service refused the request")
    if code == "clock-skew" and (there := _date(str(headers.get("date", "")))) is not None:
        words = f"this node's clock is {abs(there - now):.0f} s {'behind' if there > now else 'ahead of'} the service's: set it right (NTP)"
    region = _clean(str(headers.get("x-amz-bucket-region", "")))
    if code == "wrong-region" and region:
        words += f" (the bucket's region is {region})"
    own = _clean(told) if said not in _CODES else ""
    message = f"{words}: {status} {_clean(said) if said != str(status) else ''}".rstrip() + (f", {own!r}" if own else "")
    return Refused(message, code=code, retry_after=_seconds(str(headers.get("retry-after", ""))))


def _clean(text: str) -> str:
    return "".join(c for c in text[:SAID] if c.isprintable())


def _seconds(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return min(found, _PLEASE_WAIT) if math.isfinite(found) and found >= 0 else None


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
