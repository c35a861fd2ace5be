"""Objects: files in buckets of S3 services, by botocore; its only home. It is loaded with the first request: 35 MB and half a second.

botocore writes and signs requests and reads answers; the wire is ours, by its `before-send` event. Every connection goes to an address
that `outbound.place` has looked at, TLS is verified by `outbound.trust`, redirects are not followed, nothing is tried again behind our
back, and nothing of the environment (profiles, proxies, instance metadata) is asked. What is sent has its SHA-256 in the signature, so that
a service takes nothing that was damaged on the way, and Content-MD5 and x-amz-checksum-sha256 besides.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from medianode import clock
from medianode.errors import PeerError, ProtocolError
from medianode.outbound import Outbound
from medianode.store.object_errors import Refused, refusal
from medianode.store.object_wire import Exchange, Pacer

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse

T = TypeVar("T")
REGION = "us-east-1"
CLIENTS = 8
"""Buckets (with their credentials) whose client is kept: a client has 2 MB."""
LOOKUP = 10.0
ORPHANS = 100
PARTS = 10_000
"""Of one upload, at most (Amazon S3 quotas)."""
PRESIGNED = 3600
"""Seconds that a presigned URL is good for."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where objects go, in the shape of `control.storage`. `endpoint`: empty for AWS."""

    name: str
    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    prefix: str = ""
    cdn_url: str = ""

    @classmethod
    def of(cls, storage: Mapping[str, Any]) -> Bucket:
        return cls(
            name=str(storage["bucket"]),
            endpoint=str(storage.get("endpoint") or "").rstrip("/"),
            region=str(storage.get("region") or REGION),
            access_key=str(storage["accessKey"]),
            secret_key=str(storage["secretKey"]),
            prefix=str(storage.get("prefix") or "").strip("/"),
            cdn_url=str(storage.get("cdnUrl") or "").rstrip("/"),
        )

    @property
    def virtual(self) -> bool:
        """By the bucket's own host, as AWS wants it; services of one's own by the path, and names with a dot, which break TLS."""
        return not self.endpoint and "." not in self.name

    @property
    def base(self) -> str:
        if self.virtual:
            return f"https://{self.name}.s3.{self.region}.amazonaws.com"
        return f"{self.endpoint or f'https://s3.{self.region}.amazonaws.com'}/{self.name}"

    @property
    def host(self) -> str:
        return urlsplit(self.base).hostname or ""

    def key(self, name: str) -> str:
        """The key of what has this name, below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def public_url(self, key: str) -> str:
        """Where the public finds it: at the CDN, or in the bucket, which the operator must have opened."""
        return f"{self.cdn_url or self.base}/{quote(key, safe='/-_.~')}"


@dataclass(frozen=True, slots=True)
class Head:
    """`sha256`: hexadecimal, where the service keeps one; with `-n` behind it of the digests of n parts, as ETags are."""

    size: int
    etag: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What the service acknowledged. `sha256`: hexadecimal, ours, of the bytes that were sent."""

    etag: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A part that the service has."""

    number: int
    etag: str
    size: int


@dataclass(slots=True)
class _Turn:
    """One call of botocore in its thread, which may be several requests."""

    loop: asyncio.AbstractEventLoop
    host: str
    aborted: threading.Event = field(default_factory=threading.Event)
    exchange: Exchange | None = None

    def abort(self) -> None:
        self.aborted.set()
        if self.exchange is not None:
            self.exchange.abort()


class Objects:
    """`requests`: limits.object_requests at a time; more wait. `bitrate`: recording.upload_bitrate, bit/s of all together, 0 for no bound.

    All raise Refused (the service's no), PeerError (`bucket-away`, `no-such-host`, `tls`), Forbidden (`private-address`), ProtocolError
    (an answer that cannot be).
    """

    def __init__(self, outbound: Outbound, *, requests: int, bitrate: int = 0) -> None:
        self._outbound = outbound
        self._turns = asyncio.Semaphore(requests)
        self._pacer = Pacer(bitrate)
        self._running = threading.local()
        self._making = threading.Lock()
        self._clients: dict[Bucket, Any] = {}

    async def load(self) -> None:
        """Take the half second now, and its pauses of up to 75 ms for the loop, rather than with the first file."""
        await asyncio.to_thread(_new_client, Bucket("bucket", "", REGION, "none", "none"))

    async def put(self, bucket: Bucket, key: str, data: bytes, content_type: str = "application/octet-stream") -> Sent:
        """A whole object in one request."""
        return await self._do(bucket, lambda s3: _sent(s3.put_object, bucket, key, data, ContentType=content_type))

    async def create_upload(self, bucket: Bucket, key: str, content_type: str = "application/octet-stream") -> str:
        """Begin a multipart upload. Returns its id."""
        made = await self._do(
            bucket,
            lambda s3: s3.create_multipart_upload(Bucket=bucket.name, Key=key, ContentType=content_type, ChecksumAlgorithm="SHA256"),
        )
        return _text(made, "UploadId")

    async def send_part(self, bucket: Bucket, key: str, upload_id: str, number: int, data: bytes) -> Sent:
        """`number` from 1 on. All but the last must have 5 MiB."""
        return await self._do(bucket, lambda s3: _sent(s3.upload_part, bucket, key, data, UploadId=upload_id, PartNumber=number))

    async def parts(self, bucket: Bucket, key: str, upload_id: str) -> list[Listed]:
        """Those that the service has. Raises Refused `no-such-upload`."""
        found: list[Listed] = []
        after, more = 0, True
        while more and len(found) < PARTS:
            asked = {"PartNumberMarker": after} if after else {}
            page = await self._do(
                bucket,
                lambda s3, asked=asked: s3.list_parts(Bucket=bucket.name, Key=key, UploadId=upload_id, **asked),  # type: ignore[misc]
            )
            listed = page.get("Parts") or []
            found += [Listed(part["PartNumber"], _etag(part["ETag"]), part["Size"]) for part in listed]
            more = bool(page.get("IsTruncated")) and bool(listed)
            after = found[-1].number if found else 0
        return found

    async def uploads(self, bucket: Bucket, key: str) -> list[str]:
        """Ids of the multipart uploads of this very key that are neither completed nor aborted."""
        page = await self._do(bucket, lambda s3: s3.list_multipart_uploads(Bucket=bucket.name, Prefix=key))
        return [str(upload["UploadId"]) for upload in page.get("Uploads") or [] if upload.get("Key") == key][:ORPHANS]

    async def complete(self, bucket: Bucket, key: str, upload_id: str, parts: Mapping[int, Sent]) -> None:
        """All `parts` by their number, as they were acknowledged."""
        listed = [
            {"PartNumber": n, "ETag": f'"{parts[n].etag}"', "ChecksumSHA256": _base64(bytes.fromhex(parts[n].sha256))}
            for n in sorted(parts)
        ]
        await self._do(
            bucket,
            lambda s3: s3.complete_multipart_upload(Bucket=bucket.name, Key=key, UploadId=upload_id, MultipartUpload={"Parts": listed}),
        )

    async def abort(self, bucket: Bucket, key: str, upload_id: str) -> None:
        """What is gone already is well."""
        try:
            await self._do(bucket, lambda s3: s3.abort_multipart_upload(Bucket=bucket.name, Key=key, UploadId=upload_id))
        except Refused as e:
            if e.code not in ("no-such-upload", "no-such-object"):
                raise

    async def head(self, bucket: Bucket, key: str) -> Head | None:
        """None: there is none."""
        try:
            found = await self._do(bucket, lambda s3: s3.head_object(Bucket=bucket.name, Key=key, ChecksumMode="ENABLED"))
        except Refused as e:
            if e.code == "no-such-object":
                return None
            raise
        digest, dash, count = str(found.get("ChecksumSHA256") or "").partition("-")
        return Head(int(found["ContentLength"]), _etag(_text(found, "ETag")), f"{base64.b64decode(digest).hex()}{dash}{count}")

    async def read(self, bucket: Bucket, key: str, offset: int, size: int) -> bytes:
        """Bytes from `offset` on, `size` at most. Raises Refused `no-such-object`."""
        wanted = f"bytes={offset}-{offset + size - 1}"

        def get(s3: Any) -> bytes:
            return bytes(s3.get_object(Bucket=bucket.name, Key=key, Range=wanted)["Body"].read())

        return await self._do(bucket, get)

    async def delete(self, bucket: Bucket, key: str) -> None:
        """What is gone already is well."""
        try:
            await self._do(bucket, lambda s3: s3.delete_object(Bucket=bucket.name, Key=key))
        except Refused as e:
            if e.code != "no-such-object":
                raise

    async def presigned(self, bucket: Bucket, key: str) -> str:
        """A URL that gives this object to whoever holds it, for PRESIGNED seconds. Nothing is asked of the service."""
        asked = {"Bucket": bucket.name, "Key": key}
        return str(await self._do(bucket, lambda s3: s3.generate_presigned_url("get_object", Params=asked, ExpiresIn=PRESIGNED)))

    async def _do(self, bucket: Bucket, call: Callable[[Any], T]) -> T:
        """In a thread of its own, whose end is not waited for where the caller gives up: its connection is shut instead."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        turn = _Turn(loop, bucket.host)

        def settle(result: T | None, error: PeerError | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # None only beside an error

        def run() -> None:
            # our bug goes to threading's hook with its traceback, and who waits is not left hanging
            result: T | None = None
            error: PeerError | None = PeerError("the request ended by a fault of ours: the log tells", code="internal")
            try:
                self._running.turn = turn
                result = _said_plainly(lambda: call(self._client(bucket)))
                error = None
            except PeerError as e:
                error = e
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(settle, result, error)

        async with self._turns:
            threading.Thread(target=run, name="medianode-object", daemon=True).start()
            try:
                return await done
            except asyncio.CancelledError:
                turn.abort()
                raise

    def _client(self, bucket: Bucket) -> Any:
        """In a thread."""
        with self._making:
            client = self._clients.pop(bucket, None)
            if client is None:
                client = _new_client(bucket)
                client.meta.events.register("before-send.s3", self._send)
            self._clients[bucket] = client  # as the newest
            if len(self._clients) > CLIENTS:
                del self._clients[next(iter(self._clients))]
            return client

    def _send(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        """What botocore calls in place of its own sending, in the thread of the turn."""
        from botocore.awsrequest import AWSResponse

        turn: _Turn = self._running.turn
        parts = urlsplit(request.url)
        if parts.hostname != turn.host:  # botocore would follow a bucket to another region
            raise Refused("the bucket is elsewhere: set storage.region or storage.endpoint", code="wrong-region")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            place = asyncio.run_coroutine_threadsafe(self._outbound.place(turn.host, port), turn.loop).result(LOOKUP)
        except TimeoutError:
            raise PeerError(f"{turn.host}: the name cannot be resolved: timeout", code="no-such-host") from None
        exchange = turn.exchange = Exchange(place, self._outbound.trust if parts.scheme == "https" else None, self._pacer, turn.aborted)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        headers = {name: value if isinstance(value, str) else value.decode("latin-1") for name, value in request.headers.items()}
        answer = exchange.run(request.method, target, {"Host": parts.netloc, **headers}, _bytes(request.body))
        return AWSResponse(request.url, answer.status, answer.headers, answer)


@functools.cache
def _session() -> Any:
    """A session that looks at no environment and no file of the user."""
    import logging
    import os

    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
    from botocore.session import Session

    logging.getLogger("botocore").setLevel(logging.WARNING)  # its debug lines have whole requests in them
    known = {name: (None, None, default, convert) for name, (_, _, default, convert) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()}
    for file in ("config_file", "credentials_file"):
        known[file] = (None, None, os.devnull, None)
    return Session(session_vars=known)


def _new_client(bucket: Bucket) -> Any:
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        s3={
            "addressing_style": "virtual" if bucket.virtual else "path",
            "payload_signing_enabled": True,
            "us_east_1_regional_endpoint": "regional",
        },
        proxies={},
        retries={"total_max_attempts": 1, "mode": "standard"},
        # their trailers are not known to many services: we send our own
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,
        use_dualstack_endpoint=False,
        use_fips_endpoint=False,
        user_agent="medianode",
    )
    return _session().create_client(
        "s3",
        region_name=bucket.region,
        endpoint_url=bucket.endpoint or None,
        aws_access_key_id=bucket.access_key,
        aws_secret_access_key=bucket.secret_key,
        config=config,
    )


def _said_plainly(call: Callable[[], T]) -> T:
    """Its errors in words of ours: those of libraries name URLs, which may hold signatures."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except ClientError as e:
        said, meta = e.response.get("Error", {}), e.response.get("ResponseMetadata", {})
        headers = meta.get("HTTPHeaders") or {}
        raise refusal(
            str(said.get("Code", "")), str(said.get("Message", "")), int(meta.get("HTTPStatusCode") or 0), headers, clock.wallclock()
        ) from None
    except BotoCoreError as e:
        raise ProtocolError(f"the service's answer, or what was asked of it, cannot be read: {type(e).__name__}") from None
    except (KeyError, TypeError, ValueError) as e:
        raise ProtocolError(f"the service's answer cannot be read: {type(e).__name__}") from None


def _sent(operation: Callable[..., Any], bucket: Bucket, key: str, data: bytes, **more: Any) -> Sent:
    """In a thread."""
    sha256, md5 = hashlib.sha256(data).digest(), hashlib.md5(data, usedforsecurity=False).digest()
    answer = operation(
        Bucket=bucket.name, Key=key, Body=data, ContentMD5=_base64(md5), ChecksumSHA256=_base64(sha256), ContentLength=len(data), **more
    )
    return Sent(_etag(_text(answer, "ETag")), sha256.hex())


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value or len(value) > 1024 or not value.isprintable():
        raise ProtocolError(f"expected {name} in the service's answer")
    return value


def _etag(value: str) -> str:
    return value.strip().strip('"').lower()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    return bytes(body) if isinstance(body, bytes | bytearray) else bytes(body.read())
