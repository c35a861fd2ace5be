"""Recordings over HTTP, in a whole node: HLS that FFmpeg plays, files and clips with ranges, pictures, who may see them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession
from harness import Node, footage, plays, running
from harness.footage import STARTED, Made, Take
from yarl import URL

from medianode import clock
from medianode.errors import NotFound
from medianode.events import ViewingChanged
from medianode.store.projects import Project

ID, LATER, SECRET, CLIP, SECRET_CLIP = (f"rec_{letter * 20}" for letter in "abcde")
ASSET = "0f0c8b52-1f63-4d2b-9c61-2f4f6f0f7f10"


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Take:
    return footage.film(tmp_path_factory.mktemp("film"), 12.0)


@dataclass
class Archive:
    """A node with a recording of 24 s with a gap in its middle, another of the same room two minutes later, and a private asset."""

    node: Node
    http: ClientSession
    first: Made

    async def get(self, path: str, **headers: str) -> tuple[int, bytes, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.get(path, headers=named, allow_redirects=False) as answer:
            return answer.status, await answer.read(), answer.headers

    async def text(self, path: str) -> str:
        status, body, _ = await self.get(path)
        assert status == 200, body
        return body.decode()


@asynccontextmanager
async def archive(data_dir: Path, take: Take) -> AsyncIterator[Archive]:
    async with running(data_dir) as node, ClientSession(node.http) as http:
        database, project = node.daemon.health.database, node.ready.first.project
        assert database is not None
        assert isinstance(project, Project)
        root = data_dir / "recordings"
        first = footage.new_recording(project, root, ID)
        files = footage.write(take, first)
        files += footage.write(take, first, start=60.0, sequence=len(files) + 1, gap="publisher-gap")
        made = await footage.store(database, first, files)
        later = footage.new_recording(project, root, LATER, started_at=STARTED + 120)
        await footage.store(database, later, footage.write(take, later))
        named: dict[str, Any] = {"playback_id": ASSET, "access_policy": "private", "room": "live-hidden"}
        secret = footage.new_recording(project, root, SECRET, **named)
        await footage.store(database, secret, footage.write(take, secret))
        for clip, policy in ((CLIP, "public"), (SECRET_CLIP, "private")):
            cut = footage.new_recording(project, root, clip, reason="clip", access_policy=policy)
            await footage.store(database, cut, footage.write(take, cut))
        yield Archive(node, http, made)


async def test_hls_files_clips_and_pictures(tmp_path: Path, take: Take) -> None:
    async with archive(tmp_path, take) as here:
        base = f"/vod/live/{ID}"
        index = await here.text(f"{base}/index.m3u8")
        assert re.search(r'CODECS="avc1\.\w{6},mp4a\.40\.2",RESOLUTION=320x180\nmain\.m3u8\n$', index)
        playlist = await here.text(f"{base}/main.m3u8")
        assert playlist.count("#EXT-X-DISCONTINUITY\n") == 1
        assert playlist.count("#EXT-X-MAP") == 1
        await every_segment_is_what_the_playlist_says(here, base, playlist)
        # -copyts: over a gap the timeline goes on by what has passed, which the tool otherwise closes up and says so
        await plays(f"{here.node.http}{base}/index.m3u8", "-copyts")

        await of_files(here, base)
        await of_clips(here, base, tmp_path)
        await of_pictures(here, base)
        await of_the_room(here)
        await of_asset(here)


async def every_segment_is_what_the_playlist_says(here: Archive, base: str, playlist: str) -> None:
    """Whole fragments, whose times are those of EXTINF; the map is ftyp and moov."""
    for size, offset, name in re.findall(r"#EXT-X-BYTERANGE:(\d+)@(\d+)\n(\S+)", playlist)[:3]:
        status, body, headers = await here.get(f"{base}/{name}", Range=f"bytes={offset}-{int(offset) + int(size) - 1}")
        assert (status, len(body), body[4:8]) == (206, int(size), b"moof")
        assert headers["Content-Range"].startswith(f"bytes {offset}-")
    (nbytes,) = re.findall(r'BYTERANGE="(\d+)@0"', playlist)
    _, body, _ = await here.get(f"{base}/000001.mp4", Range=f"bytes=0-{int(nbytes) - 1}")
    assert (body[4:8], b"moof" in body, b"moov" in body) == (b"ftyp", False, True)
    target = int(re.findall(r"TARGETDURATION:(\d+)", playlist)[0])
    assert all(round(float(each)) <= target for each in re.findall(r"#EXTINF:([\d.]+)", playlist))


async def of_files(here: Archive, base: str) -> None:
    data, path = here.first.path(1).read_bytes(), f"{base}/000001.mp4"
    status, body, headers = await here.get(path)
    assert (status, body, headers["Accept-Ranges"]) == (200, data, "bytes")
    assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
    tag = headers["ETag"]
    assert (await here.get(path, If_None_Match=f'"x", W/{tag}'))[0] == 304
    for asked, expected in {"bytes=-5": data[-5:], "bytes=100-": data[100:], "bytes=3-3": data[3:4]}.items():
        assert (await here.get(path, Range=asked))[:2] == (206, expected)
    for asked in ("bytes=0-1,5-6", "pages=1-2"):
        assert (await here.get(path, Range=asked))[:2] == (200, data), "several ranges, and other units, get all of it"
    assert (await here.get(path, Range="bytes=0-0", If_Range=tag))[0] == 206
    assert (await here.get(path, Range="bytes=0-0", If_Range='"old"'))[:2] == (200, data)
    status, _, headers = await here.get(path, Range=f"bytes={len(data)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(data)}")
    assert (await here.get(path, Range="bytes=5-2"))[0] == 400
    async with here.http.head(path) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(data)))
    assert (await here.get(f"{base}/000099.mp4"))[0] == 404
    here.first.path(2).unlink()
    status, body, _ = await here.get(f"{base}/000002.mp4")
    assert (status, b"file_gone" in body) == (404, True)


async def of_clips(here: Archive, base: str, tmp_path: Path) -> None:
    # the second stretch, of which all files are there
    query = "from=%2B62.5&to=%2B69.0"
    status, body, headers = await here.get(f"{base}/download.mp4?{query}")
    assert (status, headers["Content-Type"], headers["Content-Length"]) == (200, "video/mp4", str(len(body)))
    assert headers["Content-Disposition"] == 'attachment; filename="live-studio-20260921T141422Z.mp4"'
    assert body[4:8] == b"ftyp"
    assert body.index(b"moov") < body.index(b"mdat")
    (tmp_path / "clip.mp4").write_bytes(body)
    await plays(tmp_path / "clip.mp4")
    # a download that broke off goes on
    half = len(body) // 2
    tag = headers["ETag"]
    assert (await here.get(f"{base}/download.mp4?{query}", Range=f"bytes={half}-", If_Range=tag))[:2] == (206, body[half:])
    assert (await here.get(f"{base}/download.mp4?{query}", Range="bytes=10-19"))[1] == body[10:20]
    status, body, _ = await here.get(f"{base}/download.mp4?from=%2B5000")
    assert (status, b"nothing_recorded" in body) == (404, True)
    status, body, _ = await here.get(f"{base}/download.mp4?from=tomorrow")
    assert (status, b"from: expected RFC 3339" in body) == (400, True)


async def of_pictures(here: Archive, base: str) -> None:
    status, body, headers = await here.get(f"{base}/poster.jpg?at=%2B65&width=160")
    assert (status, headers["Content-Type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    assert (await here.get(f"{base}/poster.jpg?at=%2B65&width=160", If_None_Match=headers["ETag"]))[0] == 304
    assert (await here.get(f"{base}/poster.jpg?at=%2B68&width=160"))[1] != body
    assert (await here.get(f"{base}/poster.jpg?width=9999"))[0] == 400
    cues = await here.text(f"{base}/thumbnails.vtt?from=%2B60")
    assert cues.startswith("WEBVTT\n\n00:00:12.000 --> ")
    strip, x, y, width, height = re.findall(r"^(strip\.jpg\S+)#xywh=(\d+),(\d+),(\d+),(\d+)$", cues, re.MULTILINE)[-1]
    status, body, _ = await here.get(f"{base}/{strip}")
    assert (status, body[:2], width, height) == (200, b"\xff\xd8", "160", "90")
    size = body.index(b"\xff\xc0")
    assert int.from_bytes(body[size + 5 : size + 7]) >= int(y) + 90
    assert int.from_bytes(body[size + 7 : size + 9]) >= int(x) + 160


async def of_the_room(here: Archive) -> None:
    since = clock.iso(STARTED + 66)
    playlist = await here.text(f"/vod/live/rooms/studio/main.m3u8?from={since}&to={clock.iso(STARTED + 126)}")
    assert re.findall(r"^\.\./\.\./(rec_\w)\w+/(\d+)\.mp4$", playlist, re.MULTILINE) == [
        ("rec_a", "000005"),
        ("rec_a", "000006"),
        ("rec_b", "000001"),
        ("rec_b", "000002"),
    ]
    assert playlist.count("#EXT-X-DISCONTINUITY\n") == 1
    assert (await here.get("/vod/live/rooms/studio/main.m3u8"))[0] == 400
    told = await here.http.get("/vod/live/rooms/studio/recordings.json", params={"from": since, "to": clock.iso(STARTED + 200)})
    body = await told.json()
    assert [each["id"] for each in body["recordings"]] == [ID, LATER]  # the clips are of before
    assert [(each["recording"], each["from"]) for each in body["ranges"]] == [
        (ID, clock.iso(STARTED + 64)),
        (LATER, clock.iso(STARTED + 120)),
    ]
    whole = f"/vod/live/rooms/studio/recordings.json?from={clock.iso(STARTED)}"
    body = await (await here.http.get(whole)).json()
    assert [each["id"] for each in body["recordings"]] == [ID, LATER, CLIP], "clips that anybody may see are listed"
    assert {each["recording"] for each in body["ranges"]} == {ID, LATER}, "and are no part of the past that they are copies of"
    assert (await here.get("/vod/live/recordings.json"))[0] == 401
    listed = await here.http.get(f"/vod/live/recordings.json?from={clock.iso(STARTED)}", headers=here.node.admin)
    assert {each["id"] for each in (await listed.json())["recordings"]} == {LATER, SECRET, ID, CLIP, SECRET_CLIP}


async def of_asset(here: Archive) -> None:
    """By its playback id, private: with a token only, whatever the address; then public."""
    for path in (
        f"/vod/{ASSET}.m3u8",
        f"/{ASSET}.m3u8",
        f"/vod/{ASSET}/main.m3u8",
        f"/{ASSET}/main.m3u8",
        f"/vod/live/{SECRET}/index.m3u8",
    ):
        status, body, _ = await here.get(path)
        assert (status, b"token_missing" in body) == (401, True), path
    body = await (await here.http.get(f"/vod/live/rooms/hidden/recordings.json?from={clock.iso(STARTED)}")).json()
    assert body["recordings"] == []
    made = await here.http.post("/api/v1/apps/live/view-links", json={"room": "hidden"}, headers=here.node.admin)
    token = re.findall(r"token=([\w.-]+)", await made.text())[0]
    index = await here.text(f"/{ASSET}.m3u8?token={token}")
    assert index.endswith(f"\n{ASSET}/main.m3u8?token={token}\n")
    playlist = await here.text(f"/{ASSET}/main.m3u8?token={token}")
    assert f'URI="000001.mp4?token={token}"' in playlist
    status, _, headers = await here.get(f"/{ASSET}/000001.mp4?token={token}")
    assert (status, headers["Cache-Control"]) == (200, "private, max-age=31536000, immutable")
    status, body, _ = await here.get(f"/vod/live/{ID}/index.m3u8?token={token}")
    assert status == 200, "where viewing is public a token in vain does no harm"


async def test_of_another_projects_recordings_nothing_is_told(tmp_path: Path, take: Take) -> None:
    async with archive(tmp_path, take) as here:
        assert (await here.http.post("/api/v1/projects", json={"slug": "garage"}, headers=here.node.admin)).status == 201
        told = [await here.get(f"/vod/garage/{name}/index.m3u8") for name in (ID, SECRET, "rec_zzzzzzzzzzzzzzzzzzzz")]
        assert {answer[:2] for answer in told} == {told[2][:2]}
        assert told[0][0] == 404
        # what is no address of ours is not there, rather than there for other methods
        for name in ("..%2f..%2fetc%2fpasswd", "%2e%2e%2f000001.mp4", "000001.mp4%00", "a/b/c", "index.html"):
            answer = await here.http.get(URL(f"{here.node.http}/vod/live/{ID}/{name}", encoded=True))
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (404, "*"), name
            assert (await answer.json())["error"]["code"] == "no_such_file"
        ends = [await here.get(f"/vod/live/{ID}/000001.mp4", Range=f"bytes={text}") for text in (f"0-{'9' * 20}", f"{'9' * 20}-")]
        assert [status for status, *_ in ends] == [206, 416]


async def test_strangers_learn_nothing_and_a_leave_that_ends_ends_a_download(tmp_path: Path, take: Take) -> None:
    async with archive(tmp_path, take) as here:
        patched = await here.http.patch("/api/v1/projects/live", json={"viewing": "token"}, headers=here.node.admin)
        assert patched.status == 200, await patched.text()
        known, unknown = [await here.get(f"/vod/live/{name}/index.m3u8") for name in (ID, "rec_zzzzzzzzzzzzzzzzzzzz")]
        assert known[:2] == unknown[:2]
        assert known[0] == 401
        made = await here.http.post("/api/v1/apps/live/view-links", json={"room": "other"}, headers=here.node.admin)
        token = re.findall(r"token=([\w.-]+)", await made.text())[0]
        known, unknown = [await here.get(f"/vod/live/{name}/index.m3u8?token={token}") for name in (ID, "rec_zzzzzzzzzzzzzzzzzzzz")]
        assert known[:2] == unknown[:2]
        assert known[0] == 403
        bearer = here.node.admin
        assert (await here.get(f"/vod/live/{ID}/index.m3u8", **bearer))[0] == 200
        assert (await here.get("/vod/live/rec_zzzzzzzzzzzzzzzzzzzz/index.m3u8", **bearer))[0] == 404

        # a leave that ends while a download goes on
        large = here.first.path(1)
        large.write_bytes(large.read_bytes() + bytes(24 << 20))
        playback = here.node.daemon.playback
        assert playback is not None
        reel = await playback.library.reel(here.first.recording)
        grown = replace(reel.files[0], nbytes=large.stat().st_size)
        here.node.daemon.bus.publish(ViewingChanged("other"))
        known_files = playback.library._known[ID]
        playback.library._known[ID] = (clock.now() + 60, known_files[1], (grown, *known_files[2][1:]))
        async with here.http.get(f"/vod/live/{ID}/000001.mp4", headers=bearer) as answer:
            assert answer.status == 200
            await answer.content.readexactly(100_000)
            assert playback.in_use(large)

            async def gone(*_: Any, **__: Any) -> Any:
                raise NotFound("no longer")

            playback._access.recording = gone  # type: ignore[method-assign]
            here.node.daemon.bus.publish(ViewingChanged("live"))
            with pytest.raises((ClientPayloadError, ConnectionError)):
                await answer.read()
        assert not playback.in_use(large)
