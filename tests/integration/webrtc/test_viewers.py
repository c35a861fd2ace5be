"""What the API tells of WebRTC viewers, putting one out, and what is set for one room."""

from __future__ import annotations

from pathlib import Path

from harness import running
from harness.calls import AUDIO_IN, CERTIFICATE, VIDEO_IN, calling
from harness.webrtc import TestPeer


async def test_viewers_are_listed_and_put_out(tmp_path: Path) -> None:
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            async with TestPeer(CERTIFICATE) as peer:
                reply = await line.post("/whep/live/studio", peer.offer(VIDEO_IN, AUDIO_IN))
                api, admin = f"{line.node.http}/api/v1/viewers", line.node.admin
                async with line.http.get(api, headers=admin) as response:
                    (connecting,) = (await response.json())["data"]
                assert (connecting["state"], connecting["packets"]) == ("connecting", 0)
                await peer.connect(reply.text)
                await line.until(lambda: len(peer.rtp) > 20)
                async with line.http.get(api, headers=admin, params={"room": "live-studio"}) as response:
                    (viewer,) = (await response.json())["data"]
                assert viewer["id"] == connecting["id"]
                assert (viewer["video"], viewer["audio"], viewer["transport"]) == ("h264", "opus", "udp")
                assert viewer["packets"] >= 20
                assert viewer["address"].startswith("127.0.0.1:")
                async with line.http.get(api, headers=admin, params={"room": "live-other"}) as response:
                    assert (await response.json())["data"] == []
                async with line.http.get(api) as response:
                    assert response.status == 401
                async with line.http.delete(f"{api}/{viewer['id']}", headers=admin) as response:
                    assert response.status == 204
                await line.until(peer.closed.is_set)
                async with line.http.get(f"{line.node.http}/api/v1/audit?action=viewer.put-out", headers=admin) as response:
                    assert [entry["target"] for entry in (await response.json())["data"]] == [viewer["id"]]
                async with line.http.delete(f"{api}/{viewer['id']}", headers=admin) as response:
                    assert response.status == 404


async def test_a_rooms_playout_delay_is_kept_over_a_restart(tmp_path: Path) -> None:
    path = "/api/v1/projects/live/rooms/studio/options"
    async with calling(tmp_path) as line:
        headers = line.node.admin
        async with line.http.get(f"{line.node.http}{path}", headers=headers) as response:
            assert (await response.json())["data"] == {"playoutDelay": None, "record": False}
        async with line.http.put(f"{line.node.http}{path}", headers=headers, json={"playoutDelay": 11}) as response:
            assert response.status == 400
        async with line.http.put(f"{line.node.http}{path}", headers=headers, json={"playoutDelai": 1}) as response:
            assert response.status == 400
        async with line.http.put(f"{line.node.http}{path}", headers=headers, json={"playoutDelay": 0.3}) as response:
            assert response.status == 200
        async with line.http.get(f"{line.node.http}{path.replace('/live/', '/nobody/')}", headers=headers) as response:
            assert response.status == 403
    async with running(tmp_path) as node:
        project = node.ready.first.project
        assert project is not None
        webrtc = node.daemon.webrtc
        assert webrtc is not None
        assert webrtc.delay(project.id, "live-studio") == 0.3
        assert webrtc.delay(project.id, "live-other") == node.daemon.config.rtc.playout_delay


async def test_those_who_watch_feel_a_new_playout_delay(tmp_path: Path) -> None:
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            async with line.viewing() as viewer:
                await viewer.until(5)
                url = f"{line.node.http}/api/v1/projects/live/rooms/live-studio/options"
                async with line.http.put(url, headers=line.node.admin, json={"playoutDelay": 0.25}) as response:
                    assert response.status == 200
                webrtc = line.node.daemon.webrtc
                assert webrtc is not None
                (lane,) = webrtc.whep.lanes
                assert lane.broadcast.playout_delay == 0.25
