"""The HTTP side of HLS: blocking reload, delta playlists, caching, tokens, refusals, viewers."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from medianode import clock
from medianode.config import Hls, Limits
from medianode.events import TokenRevoked

PLAIN = "no-cache, no-store, must-revalidate"
FOREVER = "public, max-age=31536000, immutable"


def _tag(text: str, tag: str) -> int:
    """The number behind a tag; 0 without it, as RFC 8216 4.3.3.2 and 4.3.3.3 have it."""
    found = re.search(rf"#EXT-X-{tag}:(\d+)", text)
    return int(found.group(1)) if found else 0


def _names(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


async def _live(make_rig: Any, make_clip: Any, **kwargs: Any) -> tuple[Any, Any, Any, Any]:
    """A node with four seconds and a half of a live room, four segments and two parts and a bit."""
    rig, clip = await make_rig(**kwargs), make_clip()
    publish = rig.publish(clip, hold=30.0)
    played = [p for p in clip.packets if p.received_at < 4.5]
    rig.write(publish[1], played)
    return rig, *publish, clip.packets[len(played) :]


async def _get(rig: Any, path: str, status: int = 200, **kwargs: Any) -> str:
    async with rig.client.get(f"/hls/live/cam/{path}", **kwargs) as answer:
        text: str = await answer.text(errors="replace")
        assert answer.status == status, text
    return text


async def test_multivariant(make_rig: Any, make_clip: Any) -> None:
    rig, *_ = await _live(make_rig, make_clip)
    async with rig.client.get("/hls/live/cam/index.m3u8") as answer:
        text = await answer.text()
        assert answer.headers["Content-Type"] == "application/vnd.apple.mpegurl"
        assert answer.headers["Cache-Control"] == PLAIN
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    info = re.search(r'STREAM-INF:BANDWIDTH=(\d+),AVERAGE-BANDWIDTH=(\d+),CODECS="(.+)",RESOLUTION=192x108,FRAME-RATE=30.000\n(.+)\n', text)
    assert info is not None, text
    assert int(info[1]) >= int(info[2]) > 50_000
    assert re.fullmatch(r"avc1\.[0-9a-f]{6},mp4a\.40\.2", info[3])
    assert re.fullmatch(r"main\.m3u8\?s=[0-9a-f]{20}", info[4])


async def test_playlist_and_what_it_names(make_rig: Any, make_clip: Any) -> None:
    rig, *_ = await _live(make_rig, make_clip)
    text = await _get(rig, "main.m3u8")
    assert "#EXT-X-TARGETDURATION:1\n" in text
    assert "CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=6.0,HOLD-BACK=3.0,PART-HOLD-BACK=0.8" in text
    segments = _names(text)
    assert len(segments) == 4
    assert text.count("#EXT-X-PROGRAM-DATE-TIME") == 5
    parts = re.findall(r'#EXT-X-PART:DURATION=[\d.]+,URI="([^"]+)"', text)
    for name in segments:
        async with rig.client.get(f"/hls/live/cam/{name}") as answer:
            whole = await answer.read()
            assert answer.headers["Cache-Control"] == FOREVER
            assert answer.headers["Content-Type"] == "video/mp4"
        stem = name.removesuffix(".m4s")
        pieces = []
        for part in [p for p in parts if p.startswith(f"{stem}.")]:
            async with rig.client.get(f"/hls/live/cam/{part}") as answer:
                pieces.append(await answer.read())
        assert not pieces or b"".join(pieces) == whole
    init = re.search(r'#EXT-X-MAP:URI="([^"]+)"', text)
    assert init is not None
    assert "ftyp" in await _get(rig, init[1])


async def test_blocking_reload(make_rig: Any, make_clip: Any) -> None:
    rig, _, publication, rest = await _live(make_rig, make_clip)
    text = await _get(rig, "main.m3u8")
    msn = _tag(text, "MEDIA-SEQUENCE") + 4
    loop = asyncio.get_running_loop()
    waiting = [loop.create_task(_get(rig, f"main.m3u8?_HLS_msn={msn}&_HLS_part={part}")) for part in (3, 3, 9)]
    waiting.append(loop.create_task(_get(rig, f"main.m3u8?_HLS_msn={msn}")))
    hint = re.search(r'#EXT-X-PRELOAD-HINT:TYPE=PART,URI="([^"]+)"', text)
    assert hint is not None
    hinted = loop.create_task(_get(rig, hint[1]))
    while rig.service._house.waiting.count < 5:
        await asyncio.sleep(0.01)
    rig.write(publication, [p for p in rest if p.received_at < 4.9])
    assert f"-{msn}.3.m4s" in await waiting[0]
    assert await waiting[0] == await waiting[1]
    assert "moof" in await hinted
    assert not waiting[2].done()
    assert not waiting[3].done()
    rig.write(publication, [p for p in rest if 4.9 <= p.received_at < 5.5])
    assert f"-{msn + 1}.0.m4s" in await waiting[2]
    assert f"-{msn}.m4s" in await waiting[3]
    assert rig.service._house.waiting.count == 0


@pytest.mark.parametrize("query", ["_HLS_part=1", "_HLS_msn=x", "_HLS_msn=-1", "_HLS_msn={3}", "_HLS_msn={1}&_HLS_part=99", "_HLS_skip=NO"])
async def test_refused_directives(make_rig: Any, make_clip: Any, query: str) -> None:
    rig, *_ = await _live(make_rig, make_clip)
    last = _tag(await _get(rig, "main.m3u8"), "MEDIA-SEQUENCE") + 3
    query = re.sub(r"{(\d)}", lambda m: str(last + int(m[1])), query)
    assert "invalid_request" in await _get(rig, f"main.m3u8?{query}", 400)


async def test_a_wait_is_bounded(make_rig: Any, make_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time: 503 while the publisher is silent, the playlist as it is while the room is held; in number: 503."""
    monkeypatch.setattr("medianode.egress.hls.playlists.LONGEST_WAIT", 0.05)
    rig, room, publication, _ = await _live(make_rig, make_clip)
    msn = _tag(await _get(rig, "main.m3u8"), "MEDIA-SEQUENCE") + 4
    assert "not_ready" in await _get(rig, f"main.m3u8?_HLS_msn={msn}", 503)
    rig.service._house.waiting.bound = 0
    assert "node_full" in await _get(rig, f"main.m3u8?_HLS_msn={msn}", 503)
    rig.service._house.waiting.bound = 10
    room.end(publication, "cut")
    assert "#EXTINF" in await _get(rig, f"main.m3u8?_HLS_msn={msn + 1}")


async def test_delta(make_rig: Any, make_clip: Any) -> None:
    rig, clip = await make_rig(), make_clip(seconds=12)
    _, publication = rig.publish(clip)
    rig.write(publication, clip.packets)
    whole, delta = await _get(rig, "main.m3u8"), await _get(rig, "main.m3u8?_HLS_skip=YES")
    skipped = _tag(delta, "SKIP") if "SKIPPED-SEGMENTS=" not in delta else int(delta.split("SKIPPED-SEGMENTS=")[1].split("\n")[0])
    assert skipped > 0
    assert _names(whole)[skipped:] == _names(delta)


async def test_who_knows_nothing_of_ll_hls(make_rig: Any, make_clip: Any) -> None:
    rig, *_ = await _live(make_rig, make_clip, hls=Hls(segment_duration=1.0, part_duration=0.2, low_latency=False))
    text = await _get(rig, "main.m3u8?_HLS_skip=YES")
    assert "#EXT-X-VERSION:7\n" in text
    assert all(tag not in text for tag in ("PART", "SERVER-CONTROL", "PRELOAD", "SKIP"))
    assert len(_names(text)) == 4


async def test_waits_for_the_first_segment(make_rig: Any, make_clip: Any) -> None:
    rig, clip = await make_rig(), make_clip()
    _, publication = rig.publish(clip)
    rig.write(publication, clip.packets[:10])
    asked = asyncio.get_running_loop().create_task(_get(rig, "index.m3u8"))
    while not rig.service._house.waiting.count:
        await asyncio.sleep(0.01)
    rig.write(publication, clip.packets[10:200])
    assert "#EXT-X-STREAM-INF" in await asked


async def test_refusals(make_rig: Any, make_clip: Any) -> None:
    rig = await make_rig()
    for path in ("/hls/live/cam/index.m3u8", "/hls/live/cam/main.m3u8", "/hls/live/cam", "/hls/x", "/hls/live/cam/x/y"):
        async with rig.client.get(path) as answer:
            assert answer.status == 404, path
            assert (await answer.json())["error"]["code"] in ("no_programme", "not_found")
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
    clip = make_clip()
    rig.write(rig.publish(clip)[1], clip.packets)
    real = _names(await _get(rig, "main.m3u8"))[0]
    token = real.split("-")[1]
    wrong = [
        "..%2f..%2fetc%2fpasswd",
        "main.m3u8%00",
        "%2e%2e",
        "nope.m3u8",
        f"main-{token}-init9.mp4",
        f"main-{token}-1.m4s",
        real.replace("main", "aac"),
    ]
    wrong += [real.replace(token, "0" * 16), real.replace(".m4s", ".ts"), real.replace(".m4s", ".9.m4s"), f"main-{token}-{'9' * 30}.m4s"]
    for name in wrong:
        await _get(rig, name, 404)
    async with rig.client.get(f"/hls/other/cam/{real}") as answer:
        assert answer.status == 404
    async with rig.client.get("/hls/live/..a/index.m3u8") as answer:
        assert answer.status == 400


async def test_options_head_and_ranges(make_rig: Any, make_clip: Any) -> None:
    rig, *_ = await _live(make_rig, make_clip)
    name = _names(await _get(rig, "main.m3u8"))[0]
    async with rig.client.options(f"/hls/live/cam/{name}") as answer:
        assert answer.status == 204
        assert "Range" in answer.headers["Access-Control-Allow-Headers"]
    async with rig.client.get(f"/hls/live/cam/{name}") as answer:
        whole = await answer.read()
    async with rig.client.head(f"/hls/live/cam/{name}") as answer:
        assert (answer.status, answer.content_length, await answer.read()) == (200, len(whole), b"")
    for asked, body in (("bytes=0-9", whole[:10]), ("bytes=10-", whole[10:]), ("bytes=-7", whole[-7:])):
        async with rig.client.get(f"/hls/live/cam/{name}", headers={"Range": asked}) as answer:
            assert (answer.status, await answer.read()) == (206, body)
    async with rig.client.get(f"/hls/live/cam/{name}", headers={"Range": "bytes=0-9"}) as answer:
        assert answer.headers["Content-Range"] == f"bytes 0-9/{len(whole)}"
    for asked in ("bytes=99999999-", "lines=1-2", "bytes=9-1"):
        async with rig.client.get(f"/hls/live/cam/{name}", headers={"Range": asked}) as answer:
            assert answer.status == 416


async def test_tokens_reach_every_uri(make_rig: Any, make_clip: Any) -> None:
    rig, clip = await make_rig(), make_clip()
    rig.write(rig.publish(clip, app="priv")[1], clip.packets)
    for path in ("index.m3u8", "main.m3u8?token=wrong"):
        async with rig.client.get(f"/hls/priv/cam/{path}") as answer:
            assert answer.status == 401
    async with rig.client.get("/hls/priv/cam/index.m3u8?token=sesame") as answer:
        media = _names(await answer.text())[0]
    assert "&token=sesame" in media
    async with rig.client.get(f"/hls/priv/cam/{media}&_HLS_skip=YES") as answer:
        text = await answer.text()
    uris = re.findall(r'URI="([^"]+)"', text) + _names(text)
    assert len(uris) > 10
    assert all(uri.endswith("?token=sesame") for uri in uris)
    asked = rig.keeper.asked
    async with rig.client.get(f"/hls/priv/cam/{uris[-1]}") as answer:
        assert answer.status == 200
    assert rig.keeper.asked == asked
    async with rig.client.get(f"/hls/priv/cam/{uris[-1].partition('?')[0]}") as answer:
        assert answer.status == 401
    async with rig.client.get("/hls/priv/cam/main.m3u8", headers={"Authorization": "Bearer sesame"}) as answer:
        assert answer.status == 200
        assert "token=" not in await answer.text()


async def test_sound_only_and_hidden_tokens(make_rig: Any, make_clip: Any) -> None:
    rig, room, *_ = await _live(make_rig, make_clip)
    assert "audio_only" in await _get(rig, "main.m3u8?token=sound", 403)
    await _get(rig, "main.m3u8?token=hidden")
    assert not room.viewers.get("hls")


async def test_viewers_are_players_not_requests(make_rig: Any, make_clip: Any) -> None:
    rig, room, *_ = await _live(make_rig, make_clip, limits=Limits(viewers_per_room=3))
    first, second = [_names(await _get(rig, "index.m3u8"))[0] for _ in range(2)]
    for path in (first, first, second, "main.m3u8", "main.m3u8?s=forged"):
        await _get(rig, path)
    assert room.viewers["hls"] == 3
    assert "room_full" in await _get(rig, _names(await _get(rig, "index.m3u8"))[0], 503)
    rig.service.tend(clock.now() + 60)
    assert room.viewers["hls"] == 0


async def test_a_project_has_so_many_players_and_no_more(make_rig: Any, make_clip: Any) -> None:
    rig, room, *_ = await _live(make_rig, make_clip)
    rig.keeper.max_viewers = 2
    room.count_viewer("whep", 1, 10)
    path = _names(await _get(rig, "index.m3u8"))[0]
    for _ in range(3):
        await _get(rig, path)
    assert "project_limit_viewers" in await _get(rig, _names(await _get(rig, "index.m3u8"))[0], 503)
    await _get(rig, path)
    assert room.viewers["hls"] == 1


async def test_verdicts_are_forgotten_with_a_revocation(make_rig: Any, make_clip: Any) -> None:
    rig, *_ = await _live(make_rig, make_clip)
    await _get(rig, "main.m3u8?token=a")
    asked = rig.keeper.asked
    await _get(rig, "main.m3u8?token=a")
    assert rig.keeper.asked == asked
    rig.registry.bus.publish(TokenRevoked("p-live", "a"))
    await _get(rig, "main.m3u8?token=a")
    assert rig.keeper.asked == asked + 1


async def test_the_end_lingers(make_rig: Any, make_clip: Any) -> None:
    """ENDLIST for 30 s, then 404; a publisher in between continues the numbers."""
    rig, room, publication, _ = await _live(make_rig, make_clip)
    room.end(publication, "done", final=True)
    text = await _get(rig, "main.m3u8")
    assert text.endswith("#EXT-X-ENDLIST\n")
    old = _names(text)[-1]
    clip = make_clip("h264", "mp3")
    rig.write(rig.publish(clip)[1], clip.packets)
    again = await _get(rig, "main.m3u8")
    assert "ENDLIST" not in again
    assert _tag(again, "MEDIA-SEQUENCE") > _tag(text, "MEDIA-SEQUENCE") + 4
    assert _tag(again, "DISCONTINUITY-SEQUENCE") > _tag(text, "DISCONTINUITY-SEQUENCE")
    await _get(rig, old)
    rig.service.tend(clock.now() + 31)
    await _get(rig, old, 404)
    await _get(rig, "main.m3u8")


async def test_on_demand_variants_stop(make_rig: Any, make_clip: Any) -> None:
    rig, clip = await make_rig(), make_clip()
    rig.write(rig.publish(clip)[1], clip.packets[:10])
    live = rig.service._live["p-live", "live-cam"]
    assert list(live.variants) == ["main"]
    asked = asyncio.get_running_loop().create_task(_get(rig, "ts.m3u8"))
    while "ts" not in live.variants:
        await asyncio.sleep(0.01)
    room = rig.registry.find("p-live", "live-cam")
    rig.write(room.programme, clip.packets[10:])
    assert len(_names(await asked)) == 7
    before = rig.service._house.budget.nbytes
    rig.service.tend(clock.now() + 16)
    assert list(live.variants) == ["main"]
    assert 0 < rig.service._house.budget.nbytes < before
