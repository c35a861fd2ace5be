"""Shelf: HLS playlists of recordings and of a room's past, made in threads, remembered by the state of what they show."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from medianode.config import Limits
from medianode.egress.playback import playlists
from medianode.egress.playback.disk import Disk, Reader
from medianode.egress.playback.footage import Footage, Reel
from medianode.egress.playback.library import Recorder
from medianode.egress.playback.playlists import Cuts, Entry, Rendered
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
FETCHED = 16
"""Beginnings of files that are read from a bucket for one playlist."""


@dataclass(slots=True)
class _State:
    """Of a growing playlist. `first`: sequence of the file that it begins with; `dropped`: segments that were listed before that."""

    first: int
    dropped: int = 0
    target: int = 0


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
        self._states: OrderedDict[tuple[object, ...], _State] = OrderedDict()

    async def rendered(
        self,
        scope: tuple[object, ...],
        chosen: Sequence[tuple[Reel, Footage]],
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
        state = self._state(key, chosen, address) if growing else None
        await self._fetch(chosen)
        made = await self._disk.run(self._make, tuple(chosen), address, span, growing, state)
        if state is not None:
            state.target = max(state.target, made.target)
        self._rendered[key] = (version, made)
        self._rendered.move_to_end(key)
        while len(self._rendered) > RENDERED:
            self._rendered.popitem(last=False)
        return made

    def _state(self, key: tuple[object, ...], chosen: Sequence[tuple[Reel, Footage]], address: Callable[[Reel, Footage], str]) -> _State:
        """What of a growing playlist must not go back: how much of its beginning is gone, and how long segments may be."""
        first, uri = (chosen[0][1].sequence, address(*chosen[0])) if chosen else (0, "")
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = _State(first)
        if chosen and first > state.first:
            recording_id = chosen[0][0].recording.id
            for sequence in range(state.first, first):
                state.dropped += self._cuts.count(recording_id, sequence, uri.replace(chosen[0][1].name, f"{sequence:06}.mp4"))
            state.first = first
        self._states.move_to_end(key)
        while len(self._states) > RENDERED * 8:
            self._states.popitem(last=False)
        return state

    def _make(
        self,
        chosen: Sequence[tuple[Reel, Footage]],
        address: Callable[[Reel, Footage], str],
        span: Span,
        growing: bool,
        state: _State | None,
    ) -> Rendered:
        """In a thread."""
        entries: list[Entry] = []
        found: tuple[Format, ...] | None = None
        before: tuple[Reel, Footage] | None = None
        with Reader() as reader:
            for reel, file in chosen:
                follows = (
                    before is not None
                    and before[0].recording.id == reel.recording.id
                    and before[1].sequence + 1 == file.sequence
                    and not file.gap
                )
                if not follows or found is None:
                    found = self._format(reader, reel, file)
                if found is not None:
                    entries.append(Entry(reel, file, address(reel, file), found, follows and bool(entries)))
                    before = (reel, file)
                else:
                    before = None
        dropped, least = (state.dropped, state.target) if state is not None else (0, 0)
        return playlists.render(entries, self._cuts, span, growing=growing, bound=self._bound, dropped=dropped, least=least)

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

    async def _fetch(self, chosen: Sequence[tuple[Reel, Footage]]) -> None:
        """What files are that are only in a bucket, where the one before does not tell. A bucket that is away leaves a break."""
        fetched, before = 0, None
        for reel, file in chosen:
            key = (reel.recording.id, file.sequence)
            follows = before == (reel.recording.id, file.sequence - 1) and not file.gap
            before = key
            if follows or file.here or not file.remote_key or key in self._formats or self.far is None or fetched >= FETCHED:
                continue
            fetched += 1
            try:
                self._know(key, formats(await self.far(reel.recording, file.remote_key, file.init_bytes)))
            except PeerError as e:
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
