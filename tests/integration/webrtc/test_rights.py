"""Who may publish and view, who takes over from whom, and ingresses that are deleted under a publisher."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness.calls import AUDIO_IN, CERTIFICATE, VIDEO_IN, VIDEO_OUT, Line, calling
from harness.webrtc import TestPeer

from medianode import clock


async def _token(line: Line, **wanted: Any) -> str:
    made = await line.api("POST", "/api/v1/apps/live/tokens", wanted)
    return str(made["data"]["token"])


async def test_the_first_encoder_is_kept_while_it_is_heard(tmp_path: Path) -> None:
    """takeover reject, the default: 409 in words, and neither the first nor its viewer notices."""
    async with calling(tmp_path) as line:
        made = await line.ingress(takeover="reject")
        async with line.publishing(made["streamKey"]) as first:
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                reply = await line.post("/whip/live/studio", TestPeer(CERTIFICATE).offer(VIDEO_OUT), made["streamKey"])
                assert reply.status == 409
                assert "publishes here already" in reply.text
                frames = await viewer.until(10)
                assert frames == list(range(frames[0], frames[-1] + 1))
                assert not first.peer.closed.is_set()
                assert (line.peers, line.resources) == (2, 2)


@pytest.mark.parametrize("takeover", ["reject", "replace"])
async def test_another_encoder_takes_over(tmp_path: Path, takeover: str) -> None:
    """From a silent one under `reject`, at once under `replace`. The viewer stays and sees pictures of the second, under the same SSRC."""
    async with calling(tmp_path) as line:
        made = await line.ingress(takeover=takeover)
        async with line.publishing(made["streamKey"]) as first:
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                if takeover == "reject":
                    first.paused = True
                    (publication,) = line.node.daemon.registry.publications
                    await line.until(lambda: clock.now() - publication.last_packet_at > 0.3)  # what was on its way has come
                    publication.last_packet_at -= 10.0  # it has been silent for long, and its socket does not know
                async with line.publishing(made["streamKey"]) as second:
                    await asyncio.wait_for(first.peer.closed.wait(), 5)
                    second.picture.frames = 5000
                    await line.until(lambda: 5010 in viewer.frames)
                    numbers = viewer.frames
                    later = [n for n in numbers if n >= 5000]
                    assert later == list(range(later[0], later[-1] + 1))
                    packets = next(iter(viewer.heard.values())).packets
                    ordered = [packets[n] for n in sorted(packets)]
                    steps = [(b.timestamp - a.timestamp) & 0xFFFFFFFF for a, b in pairwise(ordered)]
                    assert max(steps) < 0x80000000, "time goes forward over the takeover"
                    assert not viewer.peer.closed.is_set()
                    assert line.viewers == 1


async def test_the_same_encoder_comes_back_within_the_hold(tmp_path: Path) -> None:
    """DELETE and publish again, as OBS does when a setting is changed: its viewers stay. Meanwhile a new viewer is told to come again."""
    async with calling(tmp_path, ingress={"hold": 8.0}) as line:
        made = await line.ingress()
        async with line.publishing(made["streamKey"]) as first:
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                assert await line.delete(first.reply) == 200
                await line.until(lambda: (room := line.node.room()) is not None and room.held)
                assert not viewer.peer.closed.is_set()
                async with line.publishing(made["streamKey"]) as again:
                    again.picture.frames = 7000
                    await line.until(lambda: 7010 in viewer.frames)
                assert line.viewers == 1
                assert not viewer.peer.closed.is_set()


async def test_viewers_go_when_the_hold_is_over(tmp_path: Path) -> None:
    async with calling(tmp_path, ingress={"hold": 0.3}) as line:
        made = await line.ingress()
        async with line.publishing(made["streamKey"]) as first:
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                assert await line.delete(first.reply) == 200
                await asyncio.wait_for(viewer.peer.closed.wait(), 5)
                await line.until(lambda: line.viewers == 0 and line.peers == 0)
                async with line.http.post(f"{line.node.http}/whep/live/studio", data=viewer.peer.offer(VIDEO_IN)) as response:
                    assert response.status == 404
                    assert int(response.headers["Retry-After"]) > 0


async def test_an_ingress_is_deleted_while_it_publishes(tmp_path: Path) -> None:
    """Publisher and viewers go at once, without a hold, and the key is good for nothing any more."""
    async with calling(tmp_path, ingress={"hold": 60.0}) as line:
        made = await line.ingress()
        async with line.publishing(made["streamKey"]) as publisher:
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                await line.api("DELETE", f"/v1/ingress/{made['id']}")
                await asyncio.wait_for(publisher.peer.closed.wait(), 5)
                await asyncio.wait_for(viewer.peer.closed.wait(), 5)
                await line.until(lambda: line.peers == 0)
                assert (line.viewers, line.node.daemon.registry.publications) == (0, [])
                reply = await line.post("/whip/live/studio", TestPeer(CERTIFICATE).offer(VIDEO_OUT), made["streamKey"])
                assert reply.status == 401
                # the URLs of the sessions that have ended: DELETE is idempotent, PATCH finds nothing
                for who in (publisher, viewer):
                    assert await line.delete(who.reply) == 200
                    assert (await line.restart(who.reply, who.peer)).status == 404


async def test_room_tokens(tmp_path: Path) -> None:
    """A viewer's does not publish, a publisher's not into another room, and a microphone's no picture."""
    async with calling(tmp_path) as line:
        offer = TestPeer(CERTIFICATE).offer(VIDEO_OUT)
        viewer = await _token(line, room="studio", identity="ann", canPublish=False)
        publisher = await _token(line, room="studio", identity="bob", canPublish=True)
        microphone = await _token(line, room="studio", identity="cat", canPublish=True, audioOnly=True)
        for token, room, status in (
            (viewer, "studio", 403),
            (publisher, "other", 403),
            (microphone, "studio", 403),
            (publisher + "x", "studio", 401),
            ("", "studio", 401),
        ):
            reply = await line.post(f"/whip/live/{room}", offer, token)
            assert reply.status == status, reply
        assert (line.peers, line.resources, line.node.daemon.registry.publications) == (0, 0, [])
        async with line.publishing(publisher):
            await line.live()
            (publication,) = line.node.daemon.registry.publications
            assert publication.grant.identity == "bob"
            # the token may be the last segment of the path too; its owner is heard from, so this is a conflict
            assert (await line.post(f"/whip/live/studio/{publisher}", offer)).status == 409
            async with line.viewing() as watching:
                await watching.until(5)


async def test_a_project_whose_viewing_needs_a_token(tmp_path: Path) -> None:
    """401 without one, 403 with one for another room, in WHEP's words and with CORS; a good one plays, as Bearer and in the query."""
    async with calling(tmp_path) as line:
        assert line.node.ready.first.project is not None
        await line.api("PATCH", f"/api/v1/projects/{line.node.ready.first.project.id}", {"viewing": "token"})
        made = await line.ingress()
        good = await _token(line, room="studio", identity="ann", canPublish=False)
        other = await _token(line, room="other", identity="ann", canPublish=False)
        blind = await _token(line, room="studio", identity="eve", canPublish=True, canSubscribe=False)
        offer = TestPeer(CERTIFICATE).offer(VIDEO_IN, AUDIO_IN)
        async with line.publishing(made["streamKey"]):
            await line.live()
            for token, status in (("", 401), (other, 403), (blind, 403), (good[:-3] + "abc", 401), ("not-a-key", 401)):
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                async with line.http.post(f"{line.node.http}/whep/live/studio", data=offer, headers=headers) as response:
                    assert response.status == status, (token, await response.text())
                    assert response.headers["Access-Control-Allow-Origin"] == "*"
                    if status == 401:
                        assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert (line.peers, line.viewers) == (1, 0)
            async with line.viewing(token=good) as viewer:
                await viewer.until(5)
                (view,) = (await line.api("GET", "/api/v1/viewers"))["data"]
                assert view["identity"] == "ann"
            reply = await line.post(f"/whep/live/studio?token={good}", offer)
            assert reply.status == 201


async def test_the_url_of_a_session_is_its_only_key(tmp_path: Path) -> None:
    """Nobody guesses it, and one like it ends nobody."""
    async with calling(tmp_path) as line:
        made = await line.ingress()
        async with line.publishing(made["streamKey"]) as publisher:
            await line.live()
            where = publisher.reply.location
            assert len(where.rpartition("/")[2]) >= 32
            for guess in (where[:-1] + ("A" if where[-1] != "A" else "B"), where[:-1], where + "A", where.upper()):
                assert await line.delete(publisher.reply._replace(location=guess)) in (200, 404)
            assert not publisher.peer.closed.is_set()
            assert line.peers == 1
            assert await line.delete(publisher.reply) == 200
            await asyncio.wait_for(publisher.peer.closed.wait(), 5)
