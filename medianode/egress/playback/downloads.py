"""Downloads: files as they are, and spans of them as one MP4; both with ranges, so that a download goes on where it was cut."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from medianode import clock
from medianode.auth import ReadGrant
from medianode.config import Limits
from medianode.egress.playback import body, clip
from medianode.egress.playback.answers import media_headers
from medianode.egress.playback.body import Still
from medianode.egress.playback.clip import Clip
from medianode.egress.playback.disk import Disk, Stretch
from medianode.egress.playback.footage import Footage, Reel
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
        self._bound = limits.playback_cache_bytes
        self._clips: OrderedDict[tuple[object, ...], tuple[Clip, str]] = OrderedDict()
        self._held = 0

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
        headers = media_headers(grant, "video/mp4", final=file.closed)
        with self._disk.using((file.path,)):
            return await body.send(request, whole, self._disk, headers, etag, self._sent, still)

    async def clip(
        self,
        request: web.Request,
        grant: ReadGrant,
        scope: tuple[object, ...],
        chosen: Sequence[tuple[Reel, Footage]],
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
            headers = media_headers(grant, "video/mp4", final=False)
            headers["Content-Disposition"] = f'{"inline" if "inline" in request.query else "attachment"}; filename="{named}"'
            if final:
                headers["Cache-Control"] = "public, max-age=3600" if grant.shared else "private, max-age=3600"
            return await body.send(request, made, self._disk, headers, etag, self._sent, still)

    async def _made(self, scope: tuple[object, ...], chosen: Sequence[tuple[Reel, Footage]], span: Span) -> tuple[Clip, str]:
        last = chosen[-1][1]
        key = (*scope, span, len(chosen), chosen[0][1].path, last.path, last.nbytes)
        known = self._clips.get(key)
        if known is not None:
            self._clips.move_to_end(key)
            return known
        reels = []
        before: tuple[Reel, Footage] | None = None
        for reel, file in chosen:
            same = before is not None and before[0].recording.id == reel.recording.id and before[1].sequence + 1 == file.sequence
            reels.append(clip.Reel(file, same and not file.gap))
            before = (reel, file)
        made, etag = await self._disk.run(_build, reels, span, self._index_bytes)
        if made.memory <= self._bound // 2 and key not in self._clips:
            self._clips[key] = (made, etag)
            self._held += made.memory
            while self._held > self._bound:
                self._held -= self._clips.popitem(last=False)[1][0].memory
        return made, etag


def _build(reels: Sequence[clip.Reel], span: Span, bound: int) -> tuple[Clip, str]:
    """In a thread. The tag is of the index and of where the media stand: the same bytes have the same."""
    made = clip.build(reels, span, bound)
    digest = hashlib.blake2b(made.head, digest_size=12)
    for path, offset, size in (made.stretches[0], made.stretches[-1]):
        digest.update(f"{path} {offset} {size}\n".encode())
    return made, f'"{digest.hexdigest()}"'
