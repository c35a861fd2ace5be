"""Downloads: files as they are, and spans of them as one MP4; both with ranges, so that a download goes on where it was cut."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from medianode import clock
from medianode.auth import ReadGrant
from medianode.config import Limits
from medianode.egress.playback import body, clip
from medianode.egress.playback.answers import FOREVER, mp4_headers
from medianode.egress.playback.body import Still
from medianode.egress.playback.clip import Clip
from medianode.egress.playback.disk import Disk, Stretch
from medianode.egress.playback.footage import Chosen, Footage, follows
from medianode.egress.playback.kept import Kept
from medianode.egress.playback.span import Span
from medianode.errors import NotFound
from medianode.store.recordings import Recording


class Downloads:
    """`remote`: the address of a file that is only in a bucket; None: there is no such thing."""

    def __init__(self, disk: Disk, limits: Limits, sent: Callable[[int], None]) -> None:
        self.remote: Callable[[Recording, str], Awaitable[str]] | None = None
        self._disk = disk
        self._sent = sent
        self._index_bytes = limits.download_index_bytes
        self._clips = Kept[tuple[Clip, str]](limits.playback_cache_bytes, lambda made: made[0].memory)

    async def file(
        self, request: web.Request, grant: ReadGrant, recording: Recording, file: Footage | None, still: Still
    ) -> web.StreamResponse:
        """A file as it is; of an open one what is on the disk."""
        if file is None:
            raise NotFound("no such file of this recording", code="no-such-file")
        if not file.here:
            if self.remote is None or not file.remote_key:
                raise NotFound("this part of the recording is no longer here", code="file-gone")
            address = await self.remote(recording, file.remote_key)
            headers = {"Location": address, "Cache-Control": "no-store", "Access-Control-Allow-Origin": "*"}
            return web.Response(status=302, headers=headers)
        whole = body.Whole(Stretch(file.path, 0, file.nbytes))
        etag = f'"{recording.id}-{file.sequence}-{file.nbytes}"' if file.closed else ""
        headers = mp4_headers(grant, FOREVER if file.closed else 0)
        with self._disk.using((file.path,)):
            return await body.send(request, whole, self._disk, headers, etag, self._sent, still)

    async def clip(
        self,
        request: web.Request,
        grant: ReadGrant,
        scope: tuple[object, ...],
        chosen: Sequence[Chosen],
        span: Span,
        still: Still,
    ) -> web.StreamResponse:
        """A span as one progressive MP4. Raises as `clip.build`."""
        if not chosen:
            raise NotFound("nothing is recorded there", code="nothing-recorded")
        for _, file in chosen:
            if not file.here:
                at = clock.iso(file.started_at)
                raise NotFound(f"the part from {at} on is only in the bucket: download that by its file {file.name}", code="file-gone")
        final = all(file.closed for _, file in chosen)
        with self._disk.using({file.path for _, file in chosen}):
            made, etag = await self._made(scope, chosen, span)
            first = chosen[0][1].started_at if span.since is None else max(span.since, chosen[0][1].started_at)
            named = f"{grant.room}-{clock.iso(first, 0).replace(':', '').replace('-', '')}.mp4"
            headers = mp4_headers(grant, 3600 if final else 0)
            headers["Content-Disposition"] = f'{"inline" if "inline" in request.query else "attachment"}; filename="{named}"'
            return await body.send(request, made, self._disk, headers, etag, self._sent, still)

    async def _made(self, scope: tuple[object, ...], chosen: Sequence[Chosen], span: Span) -> tuple[Clip, str]:
        last = chosen[-1][1]
        key = (*scope, span, len(chosen), chosen[0][1].path, last.path, last.nbytes)
        return await self._clips.get(key, lambda: self._disk.run(_build, chosen, span, self._index_bytes))


def _build(chosen: Sequence[Chosen], span: Span, bound: int) -> tuple[Clip, str]:
    """In a thread. The tag is of the index and of where the media stand: the same bytes have the same."""
    pieces = [clip.Piece(now[1], follows(before, now)) for before, now in zip([None, *chosen], chosen, strict=False)]
    made = clip.build(pieces, span, bound)
    digest = hashlib.blake2b(made.head, digest_size=12)
    for path, offset, size in (made.stretches[0], made.stretches[-1]):
        digest.update(f"{path} {offset} {size}\n".encode())
    return made, f'"{digest.hexdigest()}"'
