"""Players for benchmarks: HTTP over one kept connection, HLS and LL-HLS, RTMP play, MJPEG. Cheap: what nobody asks for is not parsed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Self

from medianode.protocols.rtmp.client import ClientConnection, Connected, Rejected
from medianode.protocols.rtmp.messages import Media, PeerClosed

BUFFER = 1 << 22


class HttpError(Exception):
    """`status`: what came in place of 200."""

    def __init__(self, status: int, path: str) -> None:
        super().__init__(f"{status} for {path}")
        self.status = status


class Http:
    """GET over one HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.requests = self.nbytes = 0

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=BUFFER))

    async def head(self, path: str) -> dict[str, str]:
        """The answer's header, its body unread. Raises HttpError where it is not 200."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: medianode-bench\r\n\r\n".encode())
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        header = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.requests += 1
        code = int(status.split()[1])
        if code != 200:
            await self.reader.readexactly(int(header.get("content-length", "0")))
            raise HttpError(code, path)
        return header

    async def get(self, path: str) -> bytes:
        size = int((await self.head(path))["content-length"])
        self.nbytes += size
        return await self.reader.readexactly(size)

    def close(self) -> None:
        self.writer.close()


@dataclass(slots=True)
class Playlist:
    """What a player reads in a media playlist. `next`: the segment and part that are not listed yet, for `_HLS_msn` and `_HLS_part`."""

    init: str = ""
    segments: list[str] = field(default_factory=list)
    parts: list[tuple[str, bool]] = field(default_factory=list)
    hint: str = ""
    hold_back: float = 0.0
    part_hold_back: float = 0.0
    part_target: float = 0.0
    next: tuple[int, int] = (0, 0)


def _attribute(line: str, name: str) -> str:
    """The value behind `name=` in an attribute list, unquoted; empty where it is not there."""
    value = ("," + line.partition(":")[2]).partition(f",{name}=")[2]
    return value[1:].partition('"')[0] if value.startswith('"') else value.partition(",")[0]


def parse(text: str) -> Playlist:
    found, msn, part = Playlist(), 0, 0
    for line in text.splitlines():
        if line.startswith("#EXT-X-PART:"):
            found.parts.append((_attribute(line, "URI"), _attribute(line, "INDEPENDENT") == "YES"))
            part += 1
        elif line.startswith("#EXT-X-MEDIA-SEQUENCE:"):
            msn = int(line.partition(":")[2])
        elif line.startswith("#EXT-X-MAP:"):
            found.init = _attribute(line, "URI")
        elif line.startswith("#EXT-X-PRELOAD-HINT:"):
            found.hint = _attribute(line, "URI")
        elif line.startswith("#EXT-X-PART-INF:"):
            found.part_target = float(_attribute(line, "PART-TARGET"))
        elif line.startswith("#EXT-X-SERVER-CONTROL:"):
            found.part_hold_back = float(_attribute(line, "PART-HOLD-BACK") or 0)
            found.hold_back = float(_attribute(line, "HOLD-BACK") or 0)
        elif line and not line.startswith("#"):
            found.segments.append(line)
            msn, part = msn + 1, 0
    found.next = (msn, part)
    return found


async def open_playlist(http: Http, room: str) -> tuple[str, str]:
    """(base path, name of the media playlist with its query) of the first variant."""
    base = f"/hls/live/{room}/"
    index = (await http.get(base + "index.m3u8")).decode()
    return base, next(line for line in index.splitlines() if line and not line.startswith("#"))


async def playlists(http: Http, base: str, media: str) -> AsyncGenerator[Playlist, None]:
    """Each state of the playlist as soon as the server has it: blocking reload."""
    query = ""
    while True:
        found = parse((await http.get(base + media + query)).decode())
        yield found
        query = f"{'&' if '?' in media else '?'}_HLS_msn={found.next[0]}&_HLS_part={found.next[1]}"


class HlsPlayer:
    """Plays a room as a browser does, bodies thrown away. Plain: a segment at a time, reloads as RFC 8216 6.3.4 has them."""

    def __init__(self, port: int, room: str, *, low_latency: bool) -> None:
        self.port = port
        self.room = room
        self.low_latency = low_latency
        self.media = self.requests = self.nbytes = 0

    async def run(self) -> None:
        http = await Http.open(self.port)
        try:
            base, media = await open_playlist(http, self.room)
            if self.low_latency:
                await self._low_latency(http, base, media)
            else:
                await self._plain(http, base, media)
        finally:
            http.close()

    async def _low_latency(self, http: Http, base: str, media: str) -> None:
        seen: set[str] = set()
        async for playlist in playlists(http, base, media):
            names = [name for name, _ in playlist.parts]
            await self._fetch(http, base, playlist, names[-2:] if not seen else [name for name in names if name not in seen], not seen)
            seen = set(names)

    async def _plain(self, http: Http, base: str, media: str) -> None:
        seen: set[str] = set()
        while True:
            playlist = parse((await http.get(base + media)).decode())
            new = playlist.segments[-2:] if not seen else [name for name in playlist.segments if name not in seen]
            await self._fetch(http, base, playlist, new, not seen)
            seen = set(playlist.segments)
            await asyncio.sleep(2.0 if new else 1.0)

    async def _fetch(self, http: Http, base: str, playlist: Playlist, names: list[str], first: bool) -> None:
        for name in [playlist.init, *names] if first and playlist.init else names:
            await http.get(base + name)
        self.media += len(names)
        self.requests, self.nbytes = http.requests, http.nbytes


async def rtmp_play(port: int, name: str) -> AsyncGenerator[Media, None]:
    """Media messages of `rtmp://127.0.0.1:port/live/name`, until the server ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=BUFFER)
    connection = ClientConnection("live", f"rtmp://127.0.0.1:{port}/live", random=secrets.token_bytes)
    try:
        while True:
            writer.write(connection.data_to_send())
            if data := await reader.read(1 << 16):
                connection.receive_data(data)
            else:
                connection.receive_eof()
            for event in connection.events():
                if isinstance(event, Connected):
                    connection.play(name)
                elif isinstance(event, Rejected):
                    raise ConnectionError(f"{event.code}: {event.description}")
                elif isinstance(event, PeerClosed):
                    return
                elif isinstance(event, Media):
                    yield event
    finally:
        writer.close()


async def mjpeg(port: int, room: str) -> AsyncGenerator[bytes, None]:
    """The JPEGs of a room's MJPEG stream."""
    http = await Http.open(port)
    try:
        await http.head(f"/live/live/{room}/mjpeg")
        while True:
            header = (await http.reader.readuntil(b"\r\n\r\n")).lower()
            size = int(header.partition(b"content-length:")[2].partition(b"\r\n")[0])
            yield await http.reader.readexactly(size)
    finally:
        http.close()
