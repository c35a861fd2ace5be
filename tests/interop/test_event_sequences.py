"""FFmpeg as encoder, a whole node, and every event that it is told as, in each dialect and in order: gone and back inside the reconnect
window, outside it, deleted while live, disabled while live, and over a daemon that is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import ClientSession
from harness import H264_AAC, ffmpeg, ffmpeg_process, moving_picture, running
from soak.program import environment, serving
from sqlalchemy import select

from medianode import clock
from medianode.store import outbox, schema
from medianode.store.database import Database, open_database

pytestmark = pytest.mark.interop
DIALECTS = {"baxcloud": "baxcloud/seed", "streamhub": "streamhub/seed", "fastpix": "fastpix/seed", "2026": "fastpix/2026"}
WINDOW = 3
ASSET = "video.asset.created"


@dataclass
class Stage:
    """A node's API and its database. `endpoints`: by the names of DIALECTS."""

    http: str
    rtmp: str
    admin: dict[str, str]
    db: Database
    session: ClientSession
    endpoints: dict[str, str]

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self.session.request(method, self.http + path, json=body, headers={**self.admin, "X-Project-Id": "live"}) as response:
            assert response.status < 300, await response.text()
            return await response.json()

    async def listen(self) -> None:
        for name, dialect in DIALECTS.items():
            words, profile = dialect.split("/")
            # nobody is there: what is told of here is what is to be sent, in its order
            new = {"url": "http://127.0.0.1:9/", "dialect": words, "profile": profile, "probe": False}
            self.endpoints[name] = (await self.ask("POST", "/api/v1/apps/live/webhooks", new))["data"]["id"]

    async def live_stream(self) -> dict[str, Any]:
        settings = {"playbackSettings": {"accessPolicy": "public"}, "inputMediaSettings": {"reconnectWindow": WINDOW}}
        data: dict[str, Any] = (await self.ask("POST", "/v1/live/streams", settings))["data"]
        return data

    async def told(self, name: str, lane: str = "") -> list[tuple[str, Any]]:
        """Names and bodies of all that one endpoint is told, of one stream (in the sense of order) where it is given."""
        table = schema.deliveries
        where = [table.c.endpoint_id == self.endpoints[name], *([table.c.stream == lane] if lane else [])]
        async with self.db.read() as tx:
            rows = await tx.all(select(table).where(*where).order_by(table.c.id))
            bodies = [tx.secrets.open(row["body"], outbox.place(row["event_id"])) for row in rows]
        return [(row["type"], msgspec.json.decode(body)) for row, body in zip(rows, bodies, strict=True)]

    async def names(self, name: str, lane: str = "") -> list[str]:
        """Without what all share, and a run of tracks as one: how many there are by the first picture is the encoder's."""
        found = [event.removeprefix("video.live_stream.").removeprefix("live.") for event, _ in await self.told(name, lane)]
        return [event for i, event in enumerate(found) if not event.startswith("track_") or found[i - 1] != event]

    async def until(self, name: str, *last: str, timeout: float = 30.0) -> None:
        """Wait until the newest events are these."""
        async with asyncio.timeout(timeout):
            while (await self.names(name))[-len(last) :] != list(last):
                await asyncio.sleep(0.05)

    def encoder(self, key: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
        """FFmpeg, killed at the end of the block."""
        return ffmpeg_process(*moving_picture(120, size="160x120"), *H264_AAC, "-f", "flv", f"{self.rtmp}/live/{key}")


@asynccontextmanager
async def staged(tmp_path: Path) -> AsyncIterator[Stage]:
    async with running(tmp_path, outbound={"allow": ["127.0.0.0/8"]}) as node, ClientSession() as session:
        assert node.daemon.health.database is not None
        stage = Stage(node.http, node.rtmp, node.admin, node.daemon.health.database, session, {})
        await stage.listen()
        yield stage


async def check_asset(stage: Stage, stream: str) -> None:
    """Told within two seconds of the end, and it plays at the address that is told."""
    told = await stage.told("fastpix")
    at = {event: clock.seconds(body["createdAt"]) for event, body in reversed(told)}  # of the first of each
    assert at[ASSET] - at["video.live_stream.idle"] < 2.0
    asset = next(body["data"]["asset"] for event, body in told if event == ASSET)
    assert asset["duration"] > 1
    path = urlsplit(asset["url"]).path  # the node's own address may be another than the one that the test has it by
    media = (await stage.ask("GET", f"/v1/on-demand/{asset['id']}"))["data"]
    assert (media["streamId"], media["duration"], media["playbackIds"][0]["id"]) == (
        stream,
        asset["duration"],
        asset["playbackId"][0]["id"],
    )
    done = await ffmpeg("-i", stage.http + path, "-map", "0:v", "-map", "0:a", "-xerror", "-f", "null", "-")
    assert done.code == 0, done.output


async def test_back_in_the_window_then_too_late_then_deleted_while_live(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        made = await stage.live_stream()
        stream, key = made["streamId"], made["streamKey"]
        async with stage.encoder(key):
            await stage.until("fastpix", "recording", "active")
            await stage.until("streamhub", "recording_started")
        await stage.until("fastpix", "disconnected")
        async with stage.encoder(key):  # back inside the window
            await stage.until("fastpix", "connected", "active")
        await stage.until("fastpix", "disconnected", "idle", ASSET)  # nobody comes back
        async with stage.encoder(key):
            await stage.until("fastpix", "recording", "active")
            await stage.until("streamhub", "recording_started")
            await stage.ask("DELETE", f"/v1/live/streams/{stream}")
            await stage.until("streamhub", "recording_stopped", "vod_ready")

        there, gone = ["connected", "recording", "active"], "disconnected"
        whole = [*there, gone, "connected", "active", gone, "idle", ASSET]  # one recording over the reconnect
        assert await stage.names("fastpix") == ["created", *whole, *there, gone, "idle", "deleted"]
        assert [body["data"]["status"] for _, body in await stage.told("fastpix")] == [
            *("idle", "preparing", "preparing", "active", "preparing", "preparing", "active", "preparing", "idle", "idle"),
            *("preparing", "preparing", "active", "preparing", "idle", "idle"),
        ]
        await check_asset(stage, stream)
        assert {body["object"]["id"] for _, body in await stage.told("fastpix")} == {stream}
        assert all(body["data"]["streamKey"] == key for _, body in await stage.told("fastpix"))

        new, media = ["connected", "preparing", "recording", "active"], ["video.media.created", "video.media.ready"]
        back = ["connected", "preparing", "active"]
        assert await stage.names("2026") == ["created", *new, gone, *back, gone, "idle", *media, *new, gone, "idle", "deleted"]

        begun, over = ["started", "updated", "recording.started"], ["ended", "recording.stopped", "recording.available"]
        blip = ["updated"] * 4  # lost, back, ACTIVE, lost
        assert await stage.names("baxcloud") == [*begun, *blip, *over, *begun, "updated", *over]
        bodies = [body["data"] for event, body in await stage.told("baxcloud") if event.startswith("live.")]
        buffering, active, complete = "BUFFERING", "ACTIVE", "COMPLETE"
        assert [data["status"] for data in bodies] == [
            *(buffering, active, buffering, buffering, active, buffering, complete),
            *(buffering, active, buffering, complete),
        ]
        assert [data.get("reason", "") for data in bodies][9:] == ["ingress-deleted", "ingress-deleted"]
        assert [data["inputType"] for data in bodies] == ["RTMP"] * 11
        assert [data.get("resumed", False) for data in bodies].index(True) == 3

        session = ["ingress_started", "participant_joined", "stream_started", "track_published", "recording_started"]
        blip = ["track_unpublished", "track_published"]
        end = ["track_unpublished", "stream_ended", "participant_left", "ingress_ended", "recording_stopped", "vod_ready"]
        assert await stage.names("streamhub", stream) == [*session, *blip, *end, *session, *end]
        on_air = ["room_started", "hls_started", "hls_stopped", "room_finished"]
        assert await stage.names("streamhub", f"room:live-{stream}") == [*on_air, *on_air]
        tracks = {body["data"]["codec"] for event, body in await stage.told("streamhub", stream) if event == "track_published"}
        assert "h264" in tracks


async def test_disabled_while_live_then_enabled_and_its_key_reset(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        made = await stage.live_stream()
        path = f"/v1/live/streams/{made['streamId']}"
        async with stage.encoder(made["streamKey"]) as encoder:
            await stage.until("fastpix", "recording", "active")
            await stage.until("streamhub", "recording_started")
            await stage.ask("PUT", f"{path}/live-disable")
            async with asyncio.timeout(10):
                await encoder.wait()
        await stage.until("fastpix", "disconnected", "idle", ASSET)
        await stage.ask("PUT", f"{path}/live-enable")
        first = ["created", "connected", "recording", "active", "disabled", "disconnected", "idle", ASSET, "enabled"]
        assert await stage.names("fastpix") == first
        told = [body["data"]["status"] for _, body in await stage.told("fastpix")]
        assert told == ["idle", "preparing", "preparing", "active", "disabled", "preparing", "disabled", "disabled", "idle"]
        lost = next(body["data"] for event, body in await stage.told("baxcloud") if body["data"].get("reason"))
        assert (lost["reason"], lost["status"]) == ("ingress-disabled", "BUFFERING")
        async with stage.encoder(made["streamKey"]) as encoder:
            await stage.until("fastpix", "recording", "active")
            fresh = (await stage.ask("PUT", f"{path}/stream-key"))["data"]["streamKey"]
            async with asyncio.timeout(10):
                await encoder.wait()
        await stage.until("fastpix", "updated", "disconnected")
        async with stage.encoder(fresh):  # it is waited for, and comes back with the new key
            await stage.until("fastpix", "connected", "active")
        again = ["connected", "recording", "active", "updated", "disconnected", "connected", "active"]
        assert (await stage.names("fastpix"))[len(first) :] == again
        keys = [body["data"]["streamKey"] == fresh for _, body in (await stage.told("fastpix"))[len(first) :]]
        assert keys == [*[False] * 3, *[True] * 4]


async def test_over_a_daemon_that_is_killed_and_an_orderly_end(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    environ = environment(data_dir, OUTBOUND__ALLOW="127.0.0.0/8")
    async with ClientSession() as session, open_database("", data_dir, environ={}) as db:
        stage = Stage("", "", {}, db, session, {})
        async with serving(data_dir, environ) as node:
            stage.http, stage.rtmp, stage.admin = node.http, node.rtmp, node.admin
            await stage.listen()
            made = await stage.live_stream()
            async with stage.encoder(made["streamKey"]):
                await stage.until("streamhub", "recording_started")
                await asyncio.sleep(1.5)  # so much of it is on the disk that something is left
                await node.kill()
        before = await stage.names("fastpix")
        assert before == ["created", "connected", "recording", "active"]
        async with serving(data_dir, environ) as node:
            await stage.until("fastpix", "disconnected", "idle", ASSET)
            assert await stage.names("fastpix") == [*before, "disconnected", "idle", ASSET]
            ended = next(told for told in await stage.told("baxcloud") if told[0] == "live.ended")
            assert (await stage.names("baxcloud"))[-2:] == ["recording.stopped", "recording.available"]
            assert ended[1]["data"]["reason"] == "node-restarted"
            stage.http, stage.rtmp = node.http, node.rtmp
            async with stage.encoder(made["streamKey"]):
                await stage.until("streamhub", "recording_started")
                assert await node.stop() == 0
        # a node that stops tells of all ends before it closes its database, the window's and the recording's too
        assert (await stage.names("fastpix"))[-6:] == ["connected", "recording", "active", "disconnected", "idle", ASSET]
        assert [b["data"]["reason"] for e, b in await stage.told("baxcloud") if e == "live.ended"] == ["node-restarted", "shutdown"]
        assert (await stage.names("streamhub"))[-3:] == ["room_finished", "recording_stopped", "vod_ready"]
