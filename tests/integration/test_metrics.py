"""What Prometheus reads, and who else may."""

from pathlib import Path

from aiohttp import ClientSession
from harness import publishing, running, send_second, until


async def test_metrics_tell_of_a_live_publication(tmp_path: Path) -> None:
    async with running(tmp_path) as node, publishing(f"{node.rtmp}/live/{node.key}") as publisher, ClientSession() as session:
        await send_second(publisher)
        await until(lambda: node.on_air)
        async with session.get(f"{node.http}/metrics") as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = await response.text()
    for line in (
        'medianode_publications{door="rtmp"} 1.0',
        'medianode_rooms{state="live"} 1.0',
        'medianode_publication_packets{identity="ingress-live",room="live-studio",track="h264"}',
        'medianode_bytes_total{direction="in",door="rtmp"}',
        'medianode_sessions_total{door="rtmp"}',
        'medianode_loop_lag_seconds{quantile="0.99"}',
        'medianode_queue_packets{queue="renditions"} 0.0',
        'medianode_queue_packets{queue="push"} 0.0',
        "medianode_resident_bytes ",
    ):
        assert line in text, line
    assert node.key not in text


async def test_from_behind_a_proxy_a_key_is_wanted(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ClientSession(headers={"X-Forwarded-For": "203.0.113.9"}) as session:
        async with session.get(f"{node.http}/metrics") as response:
            assert response.status == 401
        async with session.get(f"{node.http}/metrics", headers=node.admin) as response:
            assert response.status == 200


async def test_a_tenant_s_key_does_not_read_the_metrics_of_all(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ClientSession(headers={"X-Forwarded-For": "203.0.113.9"}) as session:
        new = {"name": "tenant", "project": "live", "permissions": ["admin"]}
        async with session.post(f"{node.http}/api/v1/keys", headers=node.admin, json=new) as response:
            made = (await response.json())["data"]
        async with session.get(f"{node.http}/metrics", headers={"Authorization": f"Bearer {made['key']}"}) as response:
            assert (response.status, "medianode_rooms" in await response.text()) == (403, False)
