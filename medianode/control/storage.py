"""Where a project's files go by default: a directory of the node, or a bucket of an S3 service. Checked here, used by what writes files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from medianode.errors import InvalidRequest
from medianode.media.names import shown
from medianode.outbound import Outbound

S3_FIELDS = ("bucket", "region", "endpoint", "accessKey", "secretKey", "prefix", "cdnUrl")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_REGION = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
_TEXT_LENGTH = 512


async def check_storage(raw: Mapping[str, Any], before: Mapping[str, Any] | None, outbound: Outbound) -> dict[str, Any]:
    """`{type: directory, path}` or `{type: s3, bucket, accessKey, secretKey, region?, endpoint?, prefix?, cdnUrl?}`, as it is stored.

    `before`: what stood there; the secret key may be left out where the access key stays the same, for it is never shown.
    Raises InvalidRequest, `private-address` for an endpoint that must not be reached.
    """
    match raw.get("type"):
        case "directory":
            return {"type": "directory", "path": _directory(_text(raw, "path", needed=True))}
        case "s3":
            return await _s3(raw, before or {}, outbound)
        case other:
            raise InvalidRequest(f"storage.type: expected directory or s3, got {shown(str(other))}")


def shown_storage(storage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Without its secret key."""
    return None if storage is None else {name: value for name, value in storage.items() if name != "secretKey"}


async def _s3(raw: Mapping[str, Any], before: Mapping[str, Any], outbound: Outbound) -> dict[str, Any]:
    found = {name: _text(raw, name) for name in S3_FIELDS}
    if not _BUCKET.fullmatch(found["bucket"]):
        raise InvalidRequest(f"storage.bucket: expected 3 to 63 of a-z 0-9 . -, got {shown(found['bucket'])}")
    if found["region"] and not _REGION.fullmatch(found["region"]):
        raise InvalidRequest(f"storage.region: expected a name such as eu-central-1, got {shown(found['region'])}")
    if not found["accessKey"]:
        raise InvalidRequest("storage.accessKey: expected the access key's id, got nothing")
    if not found["secretKey"] and before.get("accessKey") == found["accessKey"]:
        found["secretKey"] = before.get("secretKey", "")
    if not found["secretKey"]:
        raise InvalidRequest("storage.secretKey: expected the secret of this access key, got nothing")
    if found["endpoint"]:
        parts = await outbound.check(found["endpoint"], ("https", "http"), "storage.endpoint")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InvalidRequest("storage.endpoint: expected https://host[:port], without user, query and fragment")
    if found["cdnUrl"]:
        outbound.parse(found["cdnUrl"], ("https", "http"), "storage.cdnUrl")
    if ".." in found["prefix"].split("/") or found["prefix"].startswith("/"):
        raise InvalidRequest(f"storage.prefix: expected a path such as media/live, got {shown(found['prefix'])}")
    return {"type": "s3", **{name: value for name, value in found.items() if value}}


def _directory(path: str) -> str:
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts:
        raise InvalidRequest(f"storage.path: expected an absolute path without .., got {shown(path)}")
    return str(pure)


def _text(raw: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    value = raw.get(name) or ""
    if not isinstance(value, str) or len(value) > _TEXT_LENGTH or not value.isprintable() or (needed and not value):
        raise InvalidRequest(f"storage.{name}: expected up to {_TEXT_LENGTH} printable characters")
    return value
