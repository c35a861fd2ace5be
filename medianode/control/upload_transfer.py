"""Transfer: one file into a bucket. Begun parts are gone on with after a restart, and it counts as there only once it was verified."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medianode.errors import PeerError
from medianode.store.object_errors import Refused
from medianode.store.objects import Bucket, Head, Objects, Sent
from medianode.store.uploads import PartSent, Upload

PART_BYTES = 8 * 1024 * 1024
"""Of a multipart upload; smaller files go in one request. S3 allows 10 000 parts, so files of up to 80 GB."""
READ_BACK = 4 * 1024 * 1024
VIDEO = "video/mp4"

OnPart = Callable[[str, Sequence[PartSent]], Awaitable[bool]]
"""Told after each part, to be written down: the upload's id and what is there of it. False: nobody wants the file any more."""


class LocalTrouble(PeerError):
    """It is not the service: the file here is missing, or not what its row says (`file-missing`, `file-changed`)."""


class Unwanted(PeerError):
    """The file's row is gone: it was deleted while it was on its way. Or it is to go elsewhere."""

    code = "unwanted"


@dataclass(frozen=True, slots=True)
class Piece:
    """Of the file here; digests hexadecimal."""

    offset: int
    size: int
    sha256: str
    md5: str


@dataclass(frozen=True, slots=True)
class Measure:
    """What the file here is. `etag` and `composite` (SHA-256): as a service makes them of so many parts."""

    size: int
    sha256: str
    pieces: Mapping[int, Piece] = field(repr=False)

    @property
    def etag(self) -> str:
        if len(self.pieces) == 1:
            return self.pieces[1].md5
        return f"{hashlib.md5(self._joined('md5'), usedforsecurity=False).hexdigest()}-{len(self.pieces)}"

    @property
    def composite(self) -> str:
        return f"{hashlib.sha256(self._joined('sha256')).hexdigest()}-{len(self.pieces)}"

    def _joined(self, digest: str) -> bytes:
        return b"".join(bytes.fromhex(getattr(self.pieces[n], digest)) for n in sorted(self.pieces))

    def is_of(self, head: Head) -> bool:
        """By size and a digest that the service keeps."""
        return head.size == self.size and (head.sha256 in (self.sha256, self.composite) or head.etag == self.etag)


class Transfer:
    """`seasoned`: it may have been tried before, by a process that is gone: what that left is looked for."""

    def __init__(self, objects: Objects, bucket: Bucket, key: str, path: Path, size: int, upload: Upload, *, seasoned: bool) -> None:
        self._objects = objects
        self._bucket = bucket
        self._key = key
        self._path = path
        self._size = size
        self._seasoned = seasoned or upload.attempts > 0 or bool(upload.upload_id)
        same = (upload.bucket, upload.key) == (bucket.name, key)
        self._upload_id = upload.upload_id if same else ""
        self._known = {part.number: part for part in upload.parts} if same else {}
        self.sent_bytes = 0
        """That the service has, for who looks on."""

    async def run(self, on_part: OnPart) -> str:
        """To the end. Returns the file's SHA-256 (hexadecimal). Raises PeerError and what is below it, OSError."""
        descriptor = await asyncio.to_thread(self._open)
        try:
            measure = await asyncio.to_thread(measured, descriptor, self._size)
            if not (self._seasoned and await self._is_there(measure)):
                await self._send(descriptor, measure, on_part)
                await self._verify(measure)
        finally:
            os.close(descriptor)
        self.sent_bytes = self._size
        return measure.sha256

    def _open(self) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise LocalTrouble(f"{self._path.name}: the file is not on this node any more", code="file-missing") from None
        size = os.fstat(descriptor).st_size
        if size != self._size:
            os.close(descriptor)
            raise LocalTrouble(f"{self._path.name}: expected {self._size} bytes here, got {size}", code="file-changed")
        return descriptor

    async def _is_there(self, measure: Measure) -> bool:
        """An answer that was lost, or a process that ended between the last request and its row."""
        head = await self._objects.head(self._bucket, self._key)
        return head is not None and measure.is_of(head)

    async def _send(self, descriptor: int, measure: Measure, on_part: OnPart) -> None:
        if len(measure.pieces) == 1:
            data = await self._piece(descriptor, measure.pieces[1])
            await self._objects.put(self._bucket, self._key, data, VIDEO)
            return
        there = await self._resumed(measure)
        if not self._upload_id:
            await self._abort_orphans()
            self._upload_id = await self._objects.create_upload(self._bucket, self._key, VIDEO)
        await self._note(there, on_part)
        for number in sorted(measure.pieces.keys() - there.keys()):
            data = await self._piece(descriptor, measure.pieces[number])
            there[number] = await self._objects.send_part(self._bucket, self._key, self._upload_id, number, data)
            await self._note(there, on_part)
        await self._objects.complete(self._bucket, self._key, self._upload_id, there)

    async def _resumed(self, measure: Measure) -> dict[int, Sent]:
        """What the service has of it that is what the file here is."""
        if not self._upload_id:
            return {}
        if any(n not in measure.pieces or part.sha256 != measure.pieces[n].sha256 for n, part in self._known.items()):
            await self._give_up()  # the file was another when these were sent
            return {}
        try:
            listed = await self._objects.parts(self._bucket, self._key, self._upload_id)
        except Refused as e:
            if e.code not in ("no-such-upload", "no-such-object"):
                raise
            self._upload_id, self._known = "", {}
            return {}
        found: dict[int, Sent] = {}
        for part in listed:
            piece, known = measure.pieces.get(part.number), self._known.get(part.number)
            if piece is None:
                await self._give_up()  # a part more than the file has, and none can be taken back
                return {}
            if part.size == piece.size and (part.etag == piece.md5 or (known is not None and part.etag == known.etag)):
                found[part.number] = Sent(part.etag, piece.sha256)
        return found

    async def _give_up(self) -> None:
        await self._objects.abort(self._bucket, self._key, self._upload_id)
        self._upload_id, self._known = "", {}

    async def _abort_orphans(self) -> None:
        """Begun by a process that ended before it wrote their id down. Nobody else writes to this key."""
        if not self._seasoned:
            return
        try:
            for orphan in await self._objects.uploads(self._bucket, self._key):
                await self._objects.abort(self._bucket, self._key, orphan)
        except Refused as e:
            if e.code not in ("access-denied", "refused"):
                raise  # a key that may not list: the bucket's lifecycle rule removes them

    async def _note(self, there: Mapping[int, Sent], on_part: OnPart) -> None:
        self.sent_bytes = min(len(there) * PART_BYTES, self._size)
        if not await on_part(self._upload_id, [PartSent(n, there[n].etag, there[n].sha256) for n in sorted(there)]):
            await self._give_up()
            raise Unwanted("the file was deleted while it was on its way")

    async def _piece(self, descriptor: int, piece: Piece) -> bytes:
        data = await asyncio.to_thread(os.pread, descriptor, piece.size, piece.offset)
        if await asyncio.to_thread(_sha256, data) != piece.sha256:
            raise LocalTrouble(f"{self._path.name}: it changed while it was being read", code="file-changed")
        return data

    async def _verify(self, measure: Measure) -> None:
        """By what the service keeps; where it keeps nothing that we could compare (encrypted by its own keys), by reading it back."""
        head = await self._objects.head(self._bucket, self._key)
        if head is None:
            raise PeerError("the service acknowledged the file and does not have it", code="not-verified")
        if measure.is_of(head):
            return
        if head.size != measure.size:
            raise PeerError(f"the service has {head.size} bytes of it, expected {measure.size}", code="not-verified")
        whole = hashlib.sha256()
        for offset in range(0, measure.size, READ_BACK):
            size = min(READ_BACK, measure.size - offset)
            whole.update(await self._objects.read(self._bucket, self._key, offset, size))
        if whole.hexdigest() != measure.sha256:
            raise PeerError("what the service has is not what was sent", code="not-verified")


def measured(descriptor: int, size: int) -> Measure:
    """In a thread: reads the whole file once. Raises LocalTrouble."""
    whole, pieces = hashlib.sha256(), {}
    for number, offset in enumerate(range(0, max(size, 1), PART_BYTES), 1):
        data = os.pread(descriptor, min(PART_BYTES, size - offset), offset)
        if len(data) != min(PART_BYTES, size - offset):
            raise LocalTrouble(f"expected {size} bytes, got {offset + len(data)}", code="file-changed")
        whole.update(data)
        pieces[number] = Piece(offset, len(data), _sha256(data), hashlib.md5(data, usedforsecurity=False).hexdigest())
    return Measure(size, whole.hexdigest(), pieces)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
