"""The RTMP door of a whole node: who is let in, who is put out and when, and what strangers may not do to it."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import Node, publishing, running, send_second, until

from medianode.egress.rtmp_publish import open_publisher
from medianode.errors import PeerError
from medianode.protocols.rtmp.url import parse_rtmp_url
from medianode.routing import room as room_module

LIMITS = {"handshake_timeout": 1.0, "tcp_connections_per_peer": 12}


async def publish_a_second(url: str) -> None:
    async with publishing(url) as publisher:
        await send_second(publisher)


@pytest.mark.parametrize(
    "form", ["{rtmp}/live/{key}", "{rtmp}/live/studio?key={key}", "{rtmp}/live/x?streamKey={key}", "{rtmp}/live/x?pass={key}"]
)
async def test_the_key_in_the_name_or_its_query(tmp_path: Path, form: str) -> None:
    async with running(tmp_path) as node, publishing(form.format(rtmp=node.rtmp, key=node.key)) as publisher:
        await send_second(publisher)
        await until(lambda: node.on_air)


@pytest.mark.parametrize("name", ["wrong", "studio", "live-studio", "x?key=wrong", "../../etc/passwd", "%00"])
async def test_a_wrong_key_is_told_so_and_closed(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as node:
        with pytest.raises(PeerError, match=r"NetStream\.Publish\.Unauthorized"):
            await publish_a_second(f"{node.rtmp}/live/{name}")
        await until(lambda: not node.daemon.registry.publications)


async def test_a_key_where_the_app_should_be_is_not_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with running(tmp_path) as node:
        key = node.key
        with pytest.raises(PeerError, match=r"the stream key is not known \(server rtmp://HOST/live"):
            await publish_a_second(f"{node.rtmp}/{key}/demo")
    told = [str(record.__dict__.get("fields")) for record in caplog.records] + [record.getMessage() for record in caplog.records]
    assert any(f"{key[:4]}…" in text for text in told)
    assert not any(key in text for text in told)


async def test_user_and_password_by_adobes_challenge(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        good = node.rtmp.replace("rtmp://", f"rtmp://obs:{node.key}@") + "/live/auth/studio"
        async with publishing(good) as publisher:
            await send_second(publisher)
            await until(lambda: len(node.daemon.registry.publications) == 1)
        with pytest.raises(PeerError, match=r"NetStream\.Publish\.Unauthorized"):
            await publish_a_second(good.replace(node.key, "guess"))


async def test_rtmps_on_the_same_port_with_the_certificate_from_the_start_page(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        async with ClientSession() as session, session.get(f"{node.http}/certificate.pem") as response:
            trust = ssl.create_default_context(cadata=await response.text())
        url = parse_rtmp_url(node.rtmp.replace("rtmp://", "rtmps://") + f"/live/{node.key}")
        async with open_publisher(url, verify=trust):
            await until(lambda: [p.door for p in node.daemon.registry.publications] == ["rtmps"])


async def test_a_publisher_that_falls_silent_is_noticed(tmp_path: Path) -> None:
    async with running(tmp_path, ingress={"silence": 1.0, "hold": 60.0}) as node, publishing(f"{node.rtmp}/live/{node.key}") as publisher:
        await send_second(publisher)
        await until(lambda: node.room() is not None)
        room = node.room()
        await until(lambda: room.on_air)
        with pytest.raises(PeerError):
            await publisher.watch()
        await until(lambda: room.held)


async def test_frozen_video_is_reported_while_sound_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, ingress={"frozen_video": 0.5}) as node, publishing(f"{node.rtmp}/live/{node.key}") as publisher:
        await send_second(publisher)
        await until(lambda: node.daemon.registry.publications)
        publication = node.daemon.registry.publications[0]
        for second in range(1, 40):
            await send_second(publisher, second, video=False)
            await asyncio.sleep(0.1)
            if publication.health.frozen_video:
                break
        assert publication.health.frozen_video
        assert "no video" in publication.health.last_error


async def test_another_encoder_with_the_same_key_is_refused_while_the_first_is_heard(tmp_path: Path) -> None:
    """Two that both reconnect would else put each other out every two seconds (seen with two OBS)."""
    async with running(tmp_path) as node, publishing(f"{node.rtmp}/live/{node.key}") as first:
        await send_second(first)
        await until(lambda: node.daemon.registry.publications)
        with pytest.raises(PeerError, match=r"NetStream\.Publish\.BadName: .*publishes here already"):
            await publish_a_second(f"{node.rtmp}/live/{node.key}")
        assert node.on_air


async def test_one_that_fell_silent_is_taken_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "TAKEOVER_SILENCE", 0.3)
    async with running(tmp_path) as node, publishing(f"{node.rtmp}/live/{node.key}") as first:
        await send_second(first)
        await until(lambda: node.daemon.registry.publications)
        old = node.daemon.registry.publications[0]
        await asyncio.sleep(0.5)
        async with publishing(f"{node.rtmp}/live/{node.key}") as second:
            await send_second(second)
            with pytest.raises(PeerError):
                await first.watch()
            assert node.daemon.registry.publications[0] is not old
            assert node.on_air


async def test_deleting_the_ingress_disconnects_its_encoder_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as node, publishing(f"{node.rtmp}/live/{node.key}") as publisher, ClientSession() as session:
        await send_second(publisher)
        await until(lambda: node.room() is not None)
        ingress = node.ready.first.ingress
        assert ingress is not None
        async with session.delete(f"{node.http}/v1/ingress/{ingress.id}", headers=node.admin) as response:
            assert response.status == 200
        with pytest.raises(PeerError, match=r"deleted|closed"):
            await publisher.watch()
        assert node.room() is None, "no hold for what was deleted"


async def test_a_project_may_be_opened_to_keyless_publishing(tmp_path: Path) -> None:
    async with running(tmp_path) as node, ClientSession() as session:
        async with session.patch(f"{node.http}/api/v1/projects/live", json={"openPublish": True}, headers=node.admin) as response:
            assert response.status == 200, await response.text()
        async with publishing(f"{node.rtmp}/live/anything") as publisher:
            await send_second(publisher)
            await until(lambda: node.room("live-anything") is not None)
        with pytest.raises(PeerError, match=r"NetStream\.Publish"):
            await publish_a_second(f"{node.rtmp}/live/..%2f..%2fx")


# strangers


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def assert_alive(node: Node) -> None:
    async with publishing(f"{node.rtmp}/live/{node.key}") as publisher:
        await send_second(publisher)
        await until(lambda: node.daemon.registry.publications)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="silent"),
        pytest.param(b"\x03", id="C0 alone"),
        pytest.param(b"\x03" + bytes(700), id="half a C1"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="half a ClientHello"),
        pytest.param(b"\x03" + bytes(1536), id="C2 never comes"),
    ],
)
async def test_handshakes_that_stall_are_ended(tmp_path: Path, sent: bytes) -> None:
    async with running(tmp_path, limits=LIMITS) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.ready.rtmp_port)
        writer.write(sent)
        await read_to_end(reader)
        writer.close()
        await assert_alive(node)


async def test_one_byte_at_a_time_does_not_extend_the_handshake(tmp_path: Path) -> None:
    async with running(tmp_path, limits=LIMITS) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.ready.rtmp_port)
        reading = asyncio.get_running_loop().create_task(read_to_end(reader))
        for _ in range(100):
            if reading.done():
                break
            writer.write(b"\x03")
            await asyncio.sleep(0.05)
        assert reading.done()
        writer.close()


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x00", b"\x06", b"\xff\xff\xff", b"SSH-2.0-x\r\n"])
async def test_other_protocols_are_closed_at_once(tmp_path: Path, first: bytes) -> None:
    async with running(tmp_path) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.ready.rtmp_port)
        writer.write(first + os.urandom(4096))
        await read_to_end(reader)
        writer.close()
        await assert_alive(node)


async def test_silent_connections_are_bounded_per_peer_and_others_get_in(tmp_path: Path) -> None:
    async with running(tmp_path, limits={**LIMITS, "handshake_timeout": 30.0}) as node:
        opened = [await asyncio.open_connection("127.0.0.1", node.ready.rtmp_port) for _ in range(40)]
        closed = 0
        for reader, _ in opened:
            try:
                async with asyncio.timeout(0.05):
                    closed += await reader.read() == b""
            except TimeoutError:
                continue
            except ConnectionResetError:
                closed += 1
        assert closed == 40 - LIMITS["tcp_connections_per_peer"]
        # from another address of loopback
        reader, writer = await asyncio.open_connection("127.0.0.1", node.ready.rtmp_port, local_addr=("127.0.0.2", 0))
        writer.write(b"\x03" + bytes(1536))
        async with asyncio.timeout(5):
            assert len(await reader.readexactly(3073)) == 3073
        writer.close()
        for _, other in opened:
            other.close()


async def test_graceful_stop_ends_publications_and_a_restart_loses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        key = node.key
        async with publishing(f"{node.rtmp}/live/{key}") as publisher:
            await send_second(publisher)
            await until(lambda: node.daemon.registry.publications)
    async with running(tmp_path) as node, publishing(f"{node.rtmp}/live/{key}") as publisher:
        assert not node.ready.first.created
        await send_second(publisher)
        await until(lambda: node.daemon.registry.publications)
