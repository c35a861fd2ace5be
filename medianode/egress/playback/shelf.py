"""Shelf: HLS playlists of recordings and of a room's past, made in threads, remembered by the state of what they show."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

from medianode import clock
from medianode.config import Limits
from medianode.egress.playback import playlists
from medianode.egress.playback.disk import Disk, Reader
from medianode.egress.playback.footage import Chosen, Footage, Reel, follows
from medianode.egress.playback.library import Recorder
from medianode.egress.playback.playlists import Cuts, Entry, Past, Rendered
from medianode.egress.playback.segments import cut
from medianode.egress.playback.span import Span
from medianode.errors import PeerError, PeerTimeout
from medianode.protocols.fmp4_samples import Format, formats
from medianode.store.recordings import Recording

log = logging.getLogger(__name__)
FIRST_SEGMENT_WAIT = 10.0
"""Seconds that a player who comes before the first segment of a recording is kept waiting."""
RENDERED = 32
"""Playlists remembered."""
FORMATS = 8192
FETCHED, AT_ONCE = 512, 8
"""Beginnings of files that are read from a bucket for one playlist."""
PASTS = 64
"""Growing playlists of which it is remembered what they have listed."""
AWAY = 10.0
"""Seconds before a bucket is asked again that could not be read for a recording."""


class Shelf:
    """`far` reads the beginning of a file that is only in a bucket, by its key; None: there is no such thing."""

    def __init__(self, disk: Disk, recorder: Recorder, limits: Limits) -> None:
        self.far: Callable[[Recording, str, int], Awaitable[bytes]] | None = None
        self._disk = disk
        self._recorder = recorder
        self._bound = limits.playlist_segments
        self._cuts = Cuts()
        self._formats: OrderedDict[tuple[str, int], tuple[Format, ...]] = OrderedDict()
        self._rendered: OrderedDict[tuple[object, ...], tuple[tuple[object, ...], Rendered]] = OrderedDict()
        self._pasts: OrderedDict[tuple[object, ...], Past] = OrderedDict()
        self._away: dict[str, float] = {}
        self._fetching: WeakValueDictionary[tuple[object, ...], asyncio.Lock] = WeakValueDictionary()

    async def rendered(
        self,
        scope: tuple[object, ...],
        chosen: Sequence[Chosen],
        address: Callable[[Reel, Footage], str],
        span: Span,
        *,
        growing: bool,
    ) -> Rendered:
        """`scope`: what it is of; `chosen`: its files in order. Raises as `playlists.render`, StorageError, LimitExceeded."""
        key = (*scope, span)
        last = chosen[-1] if chosen else None
        # parts come each second, and segments each few: only those change what is listed
        tail = (last[1].sequence, last[1].closed or len(cut(last[1].entries, closed=False))) if last else ()
        version = (len(chosen), chosen[0][1].path if chosen else None, tail, growing)
        known = self._rendered.get(key)
        if known is not None and known[0] == version:
            self._rendered.move_to_end(key)
            return known[1]
        async with self._fetching.setdefault(scope, asyncio.Lock()):  # who come together ask the bucket once, and wait for one playlist
            known = self._rendered.get(key)
            if known is not None and known[0] == version:
                return known[1]
            whole = await self._fetch(chosen)
            past = self._past(key, growing)
            # what is missing for a moment is not gone
            past = past if whole or past is None else replace(past)
            made = await self._disk.run(self._make, tuple(chosen), address, span, growing, past)
        if not whole:
            return made
        self._rendered[key] = (version, made)
        self._rendered.move_to_end(key)
        while len(self._rendered) > RENDERED:
            self._rendered.popitem(last=False)
        return made

    def _past(self, key: tuple[object, ...], growing: bool) -> Past | None:
        """Also of one that has just ended: its players go on from what they know."""
        if not growing:
            return self._pasts.get(key)
        past = self._pasts.setdefault(key, Past())
        self._pasts.move_to_end(key)
        while len(self._pasts) > PASTS:
            self._pasts.popitem(last=False)
        return past

    def _make(
        self,
        chosen: Sequence[Chosen],
        address: Callable[[Reel, Footage], str],
        span: Span,
        growing: bool,
        past: Past | None,
    ) -> Rendered:
        """In a thread."""
        entries: list[Entry] = []
        found: tuple[Format, ...] | None = None
        before: Chosen | None = None
        with Reader() as reader:
            for reel, file in chosen:
                same = follows(before, (reel, file))
                if not same:
                    found = self._format(reader, reel, file)
                if found is not None:
                    entries.append(Entry(reel, file, address(reel, file), found, same))
                before = (reel, file) if found is not None else None
        return playlists.render(entries, self._cuts, span, growing=growing, past=past, bound=self._bound)

    def _format(self, reader: Reader, reel: Reel, file: Footage) -> tuple[Format, ...] | None:
        """None for a file that is not here any more: it leaves a break in the playlist."""
        key = (reel.recording.id, file.sequence)
        known = self._formats.get(key)
        if known is None and file.here:
            try:
                known = formats(reader.read(file.path, 0, file.init_bytes))
            except FileNotFoundError:
                return None
            self._know(key, known)
        return known

    def _know(self, key: tuple[str, int], found: tuple[Format, ...]) -> None:
        self._formats[key] = found
        while len(self._formats) > FORMATS:
            self._formats.popitem(last=False)

    async def _fetch(self, chosen: Sequence[Chosen]) -> bool:
        """What files are that are only in a bucket, where the one before does not tell. False where one is not to be had now: it leaves a
        break, and the playlist is not to be remembered.
        """
        if self.far is None:
            return True
        wanted: list[Chosen] = []
        before: Chosen | None = None
        for reel, file in chosen:
            key = (reel.recording.id, file.sequence)
            if not file.here and file.remote_key and key not in self._formats and not follows(before, (reel, file)):
                wanted.append((reel, file))
            before = (reel, file)
        now = clock.now()
        self._away = {recording_id: until for recording_id, until in self._away.items() if until > now}
        for at in range(0, min(len(wanted), FETCHED), AT_ONCE):
            group = [(reel, file) for reel, file in wanted[at : at + AT_ONCE] if reel.recording.id not in self._away]
            await asyncio.gather(*(self._fetch_one(reel.recording, file) for reel, file in group))
        return all((reel.recording.id, file.sequence) in self._formats for reel, file in wanted)

    async def _fetch_one(self, recording: Recording, file: Footage) -> None:
        assert self.far is not None
        try:
            self._know((recording.id, file.sequence), formats(await self.far(recording, file.remote_key, file.init_bytes)))
        except PeerError as e:
            self._away[recording.id] = clock.now() + AWAY
            log.warning("%s is not to be had from its bucket: %s: %s", file.remote_key, e.code, e)

    async def begun(self, recording_id: str) -> None:
        """Until a growing recording has its first segment. Raises PeerTimeout `not-ready`."""
        arrived = asyncio.Event()
        unsubscribe = self._recorder.on_parts(recording_id, arrived.set)
        try:
            async with asyncio.timeout(FIRST_SEGMENT_WAIT):
                while True:
                    live = self._recorder.live(recording_id)
                    if live is None or live.sequence > 1 or cut(live.parts, closed=False):
                        return
                    await arrived.wait()
                    arrived.clear()
        except TimeoutError:
            raise PeerTimeout("this recording has only just begun", code="not-ready") from None
        finally:
            unsubscribe()
