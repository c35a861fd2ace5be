"""The one error tree. Every error has a stable kebab `code`, used in API bodies, logs and metrics.

    MedianodeError
    ├── PeerError                the other side erred: ends its session, one log line, never a traceback
    │   ├── ProtocolError        bytes that the protocol's specification does not allow
    │   │   └── LimitExceeded    well-formed, but over a bound of `[limits]`
    │   ├── InvalidRequest       a value that cannot be: a field, a name, a query
    │   ├── Unauthorized         no key, or a wrong one
    │   ├── Forbidden            a good key without the right for this
    │   ├── NotFound             no such room, ingress, key, project
    │   ├── Conflict             somebody else holds it
    │   ├── TooManyRequests      over a rate
    │   ├── NotEnabled           known, but switched off or not offered here
    │   ├── UnsupportedMedia     a codec or a format that we cannot carry
    │   ├── PeerTimeout          it stalled
    │   └── PeerGone             it closed, or was put out
    ├── SlowConsumer             a lossless reader fell behind its bound
    ├── StorageError             disk or database: full, read-only, locked, away
    └── ConfigError              the operator's configuration; the message has the path to the key

Messages say what was expected and what came.
"""

from __future__ import annotations


class MedianodeError(Exception):
    """Base of all our errors. `code` may be narrowed per raise and is part of the API."""

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class PeerError(MedianodeError):
    code = "peer-error"


class ProtocolError(PeerError):
    code = "protocol-error"


class LimitExceeded(ProtocolError):
    code = "limit-exceeded"


class InvalidRequest(PeerError):
    """`fields` holds one sentence for each bad field, in the order they were found."""

    code = "invalid-request"

    def __init__(self, message: str, *, code: str | None = None, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message, code=code)
        self.fields = fields or (message,)


class Unauthorized(PeerError):
    code = "unauthorized"


class Forbidden(PeerError):
    code = "forbidden"


class NotFound(PeerError):
    code = "not-found"


class Conflict(PeerError):
    code = "conflict"


class TooManyRequests(PeerError):
    code = "too-many-requests"


class NotEnabled(PeerError):
    code = "not-enabled"


class UnsupportedMedia(PeerError):
    code = "unsupported-media"


class PeerTimeout(PeerError):
    code = "peer-timeout"


class PeerGone(PeerError):
    code = "peer-gone"


class SlowConsumer(MedianodeError):
    code = "slow-consumer"


class StorageError(MedianodeError):
    code = "storage-error"


class ConfigError(MedianodeError):
    code = "config-error"
