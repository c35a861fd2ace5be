"""FastPix's own Python SDK drives every operation on live streams against a node; FFmpeg publishes what it made and plays it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession
from fastpix_python import Fastpix, errors, models
from harness import H264_AAC, TICKS, Node, ffmpeg, ffmpeg_process, moving_picture, run, running, until

from medianode import clock

README = Path(__file__).parents[2] / "README.md"
pytestmark = pytest.mark.interop
PUBLIC = {"access_policy": "public"}


@asynccontextmanager
async def sdk_of(node: Node, password: str | None = None) -> AsyncIterator[Fastpix]:
    """Without retries: it would try for an hour."""
    key = node.admin["Authorization"].removeprefix("Bearer ") if password is None else password
    async with Fastpix(security=models.Security(username="", password=key), server_url=f"{node.http}/v1/", retry_config=None) as sdk:
        yield sdk


def publish(node: Node, stream: Any, seconds: float = 60) -> list[str]:
    return [*moving_picture(seconds), *H264_AAC, "-f", "flv", f"{node.rtmp}/live/{stream.stream_key}"]


async def played(url: str, *arguments: str) -> None:
    """FFmpeg decodes two seconds of picture and sound."""
    done = await ffmpeg(*arguments, "-i", url, "-t", "2", "-map", "0:v", "-map", "0:a", "-xerror", *TICKS, "-f", "null", "-")
    assert done.code == 0, done.output


async def refused(node: Node, path: str, **headers: str) -> tuple[int, str]:
    async with ClientSession() as http, http.get(f"{node.http}{path}", headers=headers) as answer:
        return answer.status, (await answer.json())["error"]["code"]


async def test_the_lines_of_the_readme(tmp_path: Path) -> None:
    section = README.read_text("utf-8").partition("## Create a live stream and publish")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if language == "sh" for line in block.replace("\\\n", " ").splitlines()]
    async with running(tmp_path) as node:
        values = {"localhost:8080": f"127.0.0.1:{node.ready.http_port}", "data/admin.key": str(node.ready.first.admin_key_file)}

        async def ask(start: str) -> Any:
            line = lines.pop(next(i for i, line in enumerate(lines) if line.startswith(start)))
            for word, value in values.items():
                line = line.replace(word, value)
            done = await run("bash", "-c", line)
            answer = json.loads(done.output)
            assert "data" in answer, (line, answer)
            return answer["data"]

        made = await ask("curl -s http://localhost:8080/v1/live/streams ")
        values |= {"STREAM_KEY": made["streamKey"], "STREAM_ID": made["streamId"], "PLAYBACK_ID": made["playbackIds"][0]["id"]}
        assert (await ask("curl -s http://localhost:8080/v1/live/streams/STREAM_ID"))["metadata"] == {"name": "launch"}
        private = await ask("curl -s http://localhost:8080/v1/live/streams ")
        values["PLAYBACK_ID"] = playback = private["playbackIds"][0]["id"]
        link = (await ask("curl -s http://localhost:8080/api/v1/apps/live/view-links"))["token"]
        key = await ask("curl -s -X POST http://localhost:8080/v1/iam/signing-keys")
        assert [line.split()[0] for line in lines] == ["ffmpeg", "ffplay"], "those are played in the test below"
        written: dict[str, Any] = {}
        exec(next(block for language, block in blocks if language == "python"), written)
        signed = written["signed_url"](playback, key["id"], key["privateKey"]).removeprefix("http://localhost:8080")
        for path in (signed, f"/{playback}.m3u8?token={link}"):
            assert await refused(node, path) == (404, "no_programme"), "nobody publishes: but the token is good"
        assert await refused(node, f"/{playback}.m3u8") == (401, "token_missing")


async def test_every_operation_by_the_sdk(tmp_path: Path) -> None:
    async with running(tmp_path, outbound={"allow": ("127.0.0.0/8",)}) as node, sdk_of(node) as sdk:
        start, manage, ids, simulcast = sdk.start_live_stream, sdk.manage_live_stream, sdk.live_playback, sdk.simulcast_stream
        made = (
            await start.create_new_stream_async(
                playback_settings=PUBLIC,
                input_media_settings={"max_resolution": "720p", "reconnect_window": 90, "metadata": {"name": "launch"}},
            )
        ).data
        assert (made.status, made.max_resolution, made.reconnect_window, made.metadata) == ("idle", "720p", 90, {"name": "launch"})
        assert made.stream_key.endswith(f"k{made.stream_id}")
        assert made.max_duration == 43_200
        assert abs(made.created_at.timestamp() - clock.wallclock()) < 60
        second = (await start.create_new_stream_async(playback_settings={"access_policy": "private"}, input_media_settings={})).data
        first_page = await manage.get_all_streams_async(limit=1, offset=1, order_by="asc")
        assert [s.stream_id for s in first_page.data] == [made.stream_id]
        told = first_page.pagination
        assert (told.total_records, told.current_offset, told.offset_count) == (2, 1, 2)
        assert [s.stream_id for s in (await manage.get_all_streams_async(limit=1, offset=2, order_by="asc")).data] == [second.stream_id]
        stream = made.stream_id
        assert (await manage.get_live_stream_by_id_async(stream_id=stream)).data == made
        changed = (await manage.update_live_stream_async(stream_id=stream, metadata={"name": "b"}, reconnect_window=120)).data
        assert (changed.metadata, changed.reconnect_window) == ({"name": "b"}, 120)
        assert (await manage.get_live_stream_viewer_count_by_id_async(stream_id=stream)).data.views == 0
        await manage.disable_live_stream_async(stream_id=stream)
        assert (await manage.get_live_stream_by_id_async(stream_id=stream)).data.status == "disabled"
        await manage.enable_live_stream_async(stream_id=stream)

        private = (await ids.create_playback_id_of_stream_async(stream_id=stream, access_policy="private")).data
        assert private.access_policy == "private"
        assert (await ids.get_live_stream_playback_id_async(stream_id=stream, playback_id=private.id)).data.id == private.id
        domains = {"default_policy": "deny", "allow": ["shop.example"], "deny": []}
        restricted = await ids.update_live_stream_domain_restrictions_async(stream_id=stream, playback_id=private.id, **domains)
        assert (restricted.data.default_policy, restricted.data.allow) == ("deny", ["shop.example"])
        agents = {"default_policy": "allow", "deny": ["curl"]}
        await ids.update_live_stream_user_agent_restrictions_async(stream_id=stream, playback_id=private.id, **agents)
        kept = (await ids.get_live_stream_playback_id_async(stream_id=stream, playback_id=private.id)).data.access_restrictions
        assert (kept.domains.allow, kept.user_agents.deny) == (["shop.example"], ["curl"])
        assert (await ids.delete_playback_id_of_stream_async(stream_id=stream, playback_id=private.id)).success

        place = {"url": "rtmp://127.0.0.1:9/live", "stream_key": "a-secret-of-another"}
        target = (await simulcast.create_simulcast_of_stream_async(stream_id=stream, metadata={"to": "x"}, **place)).data
        assert (target.url, target.is_enabled, target.metadata) == (place["url"], True, {"to": "x"})
        assert place["stream_key"] not in str(target)
        named = {"stream_id": stream, "simulcast_id": target.simulcast_id}
        off = (await simulcast.update_specific_simulcast_of_stream_async(**named, is_enabled=False)).data
        assert off.is_enabled is False
        assert (await simulcast.get_specific_simulcast_of_stream_async(**named)).data.is_enabled is False
        assert (await manage.get_live_stream_by_id_async(stream_id=stream)).data.simulcast_responses[0].simulcast_id == target.simulcast_id
        assert (await simulcast.delete_simulcast_of_stream_async(**named)).success

        keys = sdk.signing_keys
        key = (await keys.create_signing_key_async()).data
        assert base64.b64decode(key.private_key).startswith(b"-----BEGIN PRIVATE KEY-----")
        assert [k.id for k in (await keys.list_signing_keys_async()).data] == [key.id]
        public = (await keys.get_signing_key_by_id_async(signing_key_id=key.id)).data.public_key
        assert base64.b64decode(public).startswith(b"-----BEGIN PUBLIC KEY-----")
        assert (await keys.delete_signing_key_async(signing_key_id=key.id)).success

        assert (await manage.delete_live_stream_async(stream_id=stream)).success
        assert [s.stream_id for s in (await manage.get_all_streams_async()).data] == [second.stream_id]


async def test_errors_as_the_sdk_parses_them(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"playback_ids": 1}) as node, sdk_of(node) as sdk, sdk_of(node, "sk_of_nobody") as stranger:
        manage, nobody = sdk.manage_live_stream, "0" * 32
        stream = (await sdk.start_live_stream.create_new_stream_async(playback_settings=PUBLIC, input_media_settings={})).data.stream_id
        for error, code, call in (
            (errors.UnauthorizedError, 401, stranger.manage_live_stream.get_all_streams_async()),
            (
                errors.InvalidPermissionError,
                403,
                sdk.live_playback.create_playback_id_of_stream_async(stream_id=stream, access_policy="public"),
            ),
            (errors.NotFoundError, 404, manage.get_live_stream_by_id_async(stream_id=nobody)),
            (errors.LiveNotFoundError, 404, manage.delete_live_stream_async(stream_id=nobody)),
            (errors.LiveNotFoundError, 404, manage.get_live_stream_viewer_count_by_id_async(stream_id=nobody)),
            (errors.NotFoundErrorPlaybackID, 404, sdk.live_playback.delete_playback_id_of_stream_async(stream_id=stream, playback_id="x")),
            (
                errors.NotFoundErrorSimulcast,
                404,
                sdk.simulcast_stream.get_specific_simulcast_of_stream_async(stream_id=stream, simulcast_id="x"),
            ),
            (errors.SigningKeyNotFoundError, 404, sdk.signing_keys.get_signing_key_by_id_async(signing_key_id="x")),
            # what the real API answers, too, when there is nothing to complete: the SDK has no other class for its 400
            (errors.UnauthorizedError, 400, manage.complete_live_stream_async(stream_id=stream)),
        ):
            with pytest.raises(error) as told:
                await call
            assert told.value.data.error.code == code
            assert told.value.data.success is False
        with pytest.raises(errors.BadRequest) as enabled:
            await manage.enable_live_stream_async(stream_id=stream)
        assert enabled.value.status_code == 400
        await manage.disable_live_stream_async(stream_id=stream)
        with pytest.raises(errors.StreamAlreadyDisabledError):
            await manage.disable_live_stream_async(stream_id=stream)
        with pytest.raises(errors.SimulcastUnavailableError):
            await sdk.simulcast_stream.create_simulcast_of_stream_async(stream_id=stream, url="rtmp://x.example/live", stream_key="k")
        with pytest.raises(errors.ValidationErrorResponse) as invalid:
            await manage.update_live_stream_async(stream_id=stream, reconnect_window=9000)
        assert invalid.value.code == 422
        assert invalid.value.fields == [
            {"field": "reconnectWindow", "message": "expected a whole number from 0 to 1800, got 9000"},
        ]


async def test_the_same_key_publishes_by_whip(tmp_path: Path) -> None:
    codecs = [
        "-pix_fmt",
        "yuv420p",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-profile:v",
        "baseline",
        "-bf",
        "0",
        "-g",
        "30",
        "-r",
        "30",
    ]
    async with running(tmp_path) as node, sdk_of(node) as sdk:
        made = (await sdk.start_live_stream.create_new_stream_async(playback_settings=PUBLIC, input_media_settings={})).data
        room = f"live-{made.stream_id}"
        place = ["-f", "whip", "-authorization", made.stream_key, f"{node.http}/whip/live/{room}"]
        async with ffmpeg_process(*moving_picture(60), *codecs, "-c:a", "libopus", "-ar", "48000", "-ac", "2", *place):
            await until(lambda: (found := node.room(room)) is not None and found.on_air)
            assert (await sdk.manage_live_stream.get_live_stream_by_id_async(stream_id=made.stream_id)).data.status == "active"


async def check_media(node: Node, sdk: Fastpix, stream: str) -> None:
    """What is left of a private live stream is private media, and only a token for it plays it."""
    async with asyncio.timeout(5):
        while not (ids := (await sdk.manage_live_stream.get_live_stream_by_id_async(stream_id=stream)).data.media_ids):
            await asyncio.sleep(0.1)
    videos = sdk.manage_videos
    media = (await videos.get_media_async(media_id=ids[0])).data
    assert (media.stream_id, media.status, media.is_audio_only) == (stream, "Ready", False)
    assert {track.type for track in media.tracks} == {"video", "audio"}
    assert media.duration > 1
    listed = await videos.list_media_async()
    assert ([m.id for m in listed.data], listed.pagination.total_records) == (ids, 1)
    assert [m.id for m in (await videos.list_live_clips_async(livestream_id=stream)).data] == ids
    changed = await videos.updated_media_async(media_id=ids[0], metadata={"name": "launch"})
    assert changed.data.metadata == {"name": "launch"}
    playback = media.playback_ids[0]
    assert playback.access_policy == "private"
    assert (await sdk.playback.get_playback_id_async(media_id=ids[0], playback_id=playback.id)).data.id == playback.id
    key = (await sdk.signing_keys.create_signing_key_async()).data
    claims = {"kid": key.id, "aud": f"media:{playback.id}", "iss": "fastpix.io", "exp": int(clock.wallclock()) + 600}
    signed = jwt.encode(claims, base64.b64decode(key.private_key), algorithm="RS256")
    for path in (f"/{playback.id}.m3u8", f"/vod/{playback.id}.m3u8"):
        assert await refused(node, path) == (403, "user_agent_refused"), "as the live stream"
        assert await refused(node, path, **{"User-Agent": "Lavf/60"}) == (401, "token_missing")
        await played(f"{node.http}{path}?token={signed}")
    assert (await videos.delete_media_async(media_id=ids[0])).success
    with pytest.raises(errors.MediaNotFoundError):
        await videos.get_media_async(media_id=ids[0])
    assert (await refused(node, f"/{playback.id}.m3u8"))[0] == 404


async def test_publish_and_play_with_every_kind_of_token(tmp_path: Path) -> None:
    async with running(tmp_path) as node, sdk_of(node) as sdk, ClientSession(node.http, headers=node.admin) as http:
        start, manage = sdk.start_live_stream, sdk.manage_live_stream
        made = (await start.create_new_stream_async(playback_settings=PUBLIC, input_media_settings={"reconnect_window": 0})).data
        stream, public = made.stream_id, made.playback_ids[0].id
        room = f"live-{stream}"
        assert await refused(node, f"/{public}.m3u8") == (404, "no_programme")
        async with ffmpeg_process(*publish(node, made)) as encoder:
            await until(lambda: (found := node.room(room)) is not None and found.on_air)
            assert (await manage.get_live_stream_by_id_async(stream_id=stream)).data.status == "active"
            await played(f"{node.http}/{public}.m3u8")
            assert (await manage.get_live_stream_viewer_count_by_id_async(stream_id=stream)).data.views >= 1

            private = (await sdk.live_playback.create_playback_id_of_stream_async(stream_id=stream, access_policy="private")).data.id
            assert (await sdk.live_playback.delete_playback_id_of_stream_async(stream_id=stream, playback_id=public)).success
            assert await refused(node, f"/{public}.m3u8") == (404, "no_such_playback_id")
            assert await refused(node, f"/{private}.m3u8") == (401, "token_missing")
            assert await refused(node, f"/hls/live/{room}/index.m3u8") == (401, "token_missing")
            key = (await sdk.signing_keys.create_signing_key_async()).data
            claims = {"kid": key.id, "aud": f"media:{private}", "iss": "fastpix.io", "exp": int(clock.wallclock()) + 600}
            signed = jwt.encode(claims, base64.b64decode(key.private_key), algorithm="RS256")
            token = (await (await http.post("/api/v1/apps/live/tokens", json={"room": room, "canPublish": False})).json())["data"]["token"]
            link = (await (await http.post("/api/v1/apps/live/view-links", json={"room": room})).json())["data"]["token"]
            for secret in (signed, token, link):
                await played(f"{node.http}/{private}.m3u8?token={secret}")
            await played(f"{node.http}/hls/live/{room}/index.m3u8?token={signed}")
            stale = jwt.encode({**claims, "exp": int(clock.wallclock()) - 600}, base64.b64decode(key.private_key), algorithm="RS256")
            assert await refused(node, f"/{private}.m3u8?token={stale}") == (401, "token_expired")
            other = jwt.encode({**claims, "aud": f"media:{public}"}, base64.b64decode(key.private_key), algorithm="RS256")
            assert await refused(node, f"/{private}.m3u8?token={other}") == (403, "forbidden")

            await sdk.live_playback.update_live_stream_user_agent_restrictions_async(
                stream_id=stream, playback_id=private, default_policy="deny", allow=["Lavf"]
            )
            await played(f"{node.http}/{private}.m3u8?token={signed}")
            assert await refused(node, f"/{private}.m3u8?token={signed}") == (403, "user_agent_refused")
            await sdk.signing_keys.delete_signing_key_async(signing_key_id=key.id)
            assert (await refused(node, f"/{private}.m3u8?token={signed}", **{"User-Agent": "Lavf/60"}))[0] == 401

            await manage.complete_live_stream_async(stream_id=stream)
            assert await encoder.wait() != 0
        assert (await manage.get_live_stream_by_id_async(stream_id=stream)).data.status == "idle"
        await check_media(node, sdk, stream)
        await manage.disable_live_stream_async(stream_id=stream)
        again = await ffmpeg(*publish(node, made, 5))
        assert again.code != 0
        assert node.room(room) is None
