"""What a room falls back to: a backup that takes over from a publisher that freezes or goes, and a room that is always on air."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import av
from aiohttp import ClientSession
from av.codec.context import CodecContext
from harness import H264_AAC, ffmpeg, ffmpeg_process, moving_picture, running, until

FALLBACK = "/api/v1/apps/live/rooms/studio/fallback"


async def test_a_backup_takes_over_from_a_publisher_that_freezes_or_goes_and_gives_way_to_it(tmp_path: Path) -> None:
    """The backup is fetched on demand, from another room of this very node."""
    sections: dict[str, Any] = {"ingress": {"hold": 20.0}, "outbound": {"allow": ["127.0.0.0/8"]}, "pull": {"on_demand_idle": 0.3}}
    async with running(tmp_path, **sections) as node, ClientSession(node.http, headers=node.admin) as session:
        other = await made(session, {"inputType": "rtmp", "room": "other", "participantIdentity": "other"})
        address = f"{node.rtmp}/live/other"
        spare = {"inputType": "url", "room": "studio", "participantIdentity": "spare", "url": address, "onDemand": True}
        backup = await made(session, spare)
        async with session.put(FALLBACK, json={"backup": backup["ingressId"], "frozen": 1.0, "patience": 1.0}) as answer:
            assert answer.status == 200, await answer.text()
        async with ffmpeg_process(*moving_picture(60), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{other['streamKey']}"):
            async with ffmpeg_process(*moving_picture(60), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{node.key}") as main:
                await until(lambda: node.on_air and node.room().programme is not None, 20)
                main.send_signal(signal.SIGSTOP)  # it lives and sends nothing
                await until(lambda: node.room().backed_up, 20)
                main.send_signal(signal.SIGCONT)
                await until(lambda: not node.room().backed_up, 20)
                assert node.room().programme.grant.ingress_id != backup["ingressId"]
                await until(lambda: "spare" not in node.room().publications)  # nobody needs it
            await until(lambda: node.room().backed_up, 20)  # it was killed; till then the slate


async def made(session: ClientSession, body: dict[str, Any]) -> dict[str, Any]:
    async with session.post("/api/v1/apps/live/ingress", json=body) as answer:
        assert answer.status == 201, await answer.text()
        return dict((await answer.json())["data"])


async def test_a_room_that_is_always_on_air_shows_the_uploaded_picture_until_somebody_publishes(tmp_path: Path) -> None:
    async with running(tmp_path, ingress={"hold": 0.0}) as node, ClientSession(node.http, headers=node.admin) as session:
        async with session.put(f"{FALLBACK}/slate", data=b"not a picture") as answer:
            assert (answer.status, "a JPEG or a video" in await answer.text()) == (400, True)
        async with session.put(f"{FALLBACK}/slate", data=await red(tmp_path)) as answer:
            assert answer.status == 200, await answer.text()
        assert not node.on_air
        async with session.put(FALLBACK, json={"slate": "image", "always": True}) as answer:
            assert answer.status == 200, await answer.text()
        await until(lambda: node.on_air)
        assert await reddish(session)
        async with ffmpeg_process(*moving_picture(60), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{node.key}"):
            await until(lambda: not node.room().slated, 20)
            assert not await reddish(session)
            async with session.put(f"{FALLBACK}/slate", data=await red(tmp_path, "red.mp4", "-t", "1", "-pix_fmt", "yuv420p")) as answer:
                assert (answer.status, (await answer.json())["data"]["slate"]) == (200, "clip")
        await until(lambda: node.room().slated)
        assert await reddish(session)
        async with session.delete(FALLBACK) as answer:
            assert answer.status == 204
        assert not node.on_air


async def red(folder: Path, name: str = "red.png", *arguments: str) -> bytes:
    how = arguments or ("-frames:v", "1")
    made = await ffmpeg("-f", "lavfi", "-i", "color=red:size=300x200", *how, str(folder / name))
    assert made.code == 0, made.output
    return (folder / name).read_bytes()


async def reddish(session: ClientSession) -> bool:
    """The middle of what the room shows."""
    async with session.get("/live/live/studio/frame.jpg") as answer:
        assert answer.status == 200, await answer.text()
        frames = CodecContext.create("mjpeg", "r").decode(av.Packet(await answer.read()))
    picture = frames[0].to_ndarray(format="rgb24")
    red, green, blue = (int(level) for level in picture[picture.shape[0] // 2, picture.shape[1] // 2])
    return red > 180 and green < 70 and blue < 70
