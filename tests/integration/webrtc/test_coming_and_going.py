"""Peers that vanish, move, restart ICE, only listen, never connect or never send."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from harness.calls import AUDIO_IN, CERTIFICATE, VIDEO_IN, VIDEO_OUT, Line, calling, figure
from harness.rough import rough
from harness.webrtc import Certificate, TestPeer

from medianode.media.track import Kind
from medianode.protocols.rtp import rtcp
from medianode.tasks import background


async def test_a_viewer_that_vanishes_is_forgotten(tmp_path: Path) -> None:
    """No DELETE, no goodbye, no packet any more: consent expires (RFC 7675) and all it had goes."""
    async with calling(tmp_path, rtc={"consent_timeout": 2.0, "rendition_idle": 0.2}) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            async with line.viewing() as stays:
                async with TestPeer(CERTIFICATE) as peer:
                    reply = await line.post("/whep/live/studio", peer.offer(VIDEO_IN, AUDIO_IN))
                    await peer.connect(reply.text)
                    await line.until(lambda: len(peer.rtp) > 10)
                    assert (line.viewers, line.peers) == (2, 3)
                    before = figure("medianode_rtc_peers_ended_total", 'cause="consent-expired"')
                    await peer.close(goodbye=False)
                    await line.until(lambda: line.viewers == 1)
                assert line.peers == 2
                assert figure("medianode_rtc_peers_ended_total", 'cause="consent-expired"') == before + 1
                async with line.http.patch(f"{line.node.http}{reply.location}", data="", headers={"If-Match": reply.etag}) as response:
                    assert response.status == 404
                await stays.until(10)
            await line.until(lambda: line.viewers == 0 and line.peers == 1)


async def test_a_publisher_that_vanishes_is_forgotten(tmp_path: Path) -> None:
    async with calling(tmp_path, rtc={"consent_timeout": 1.0}, ingress={"hold": 0.2}) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key) as publisher:
            await line.live()
            await publisher.peer.close(goodbye=False)
            await line.until(lambda: line.peers == 0)
            await line.until(lambda: line.node.room() is None)


async def test_a_nat_that_rebinds_is_followed(tmp_path: Path) -> None:
    """The same credentials from another address: the next check moves both a viewer and a publisher."""
    async with calling(tmp_path) as line, rough(line.port) as up, rough(line.port) as down:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, through=up) as publisher:
            await line.live()
            async with line.viewing(through=down) as viewer:
                await viewer.until(10)
                before = figure("medianode_rtc_moves_total", 'to="udp"')
                up.rebind()
                down.rebind()
                publisher.peer.check()
                viewer.peer.check()
                last = (await viewer.until(25))[-1]
                assert last > 30
                assert figure("medianode_rtc_moves_total", 'to="udp"') == before + 2
                assert line.peers == 2
                # feedback finds the publisher at its new address too
                publisher.messages.clear()
                await line.until(lambda: any(isinstance(m, rtcp.ReceiverReport) for m in publisher.messages))


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_ice_restart_by_patch(tmp_path: Path, tcp: bool) -> None:
    """WHIP and WHEP: new credentials, checks from a new port, and media goes on through the same DTLS session."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, tcp=tcp) as publisher:
            await line.live()
            async with line.viewing(tcp=tcp) as viewer:
                await viewer.until(10)
                for who in (publisher, viewer):
                    reply, peer = who.reply, who.peer
                    old = peer.remote
                    assert old is not None
                    again = await line.restart(reply, peer)
                    assert again.status == 200, again
                    assert again.etag != reply.etag
                    peer.open(tcp=tcp)
                    answered = len(peer.stun_answers)
                    peer.check()
                    await line.until(lambda peer=peer, answered=answered: len(peer.stun_answers) > answered)
                    who.reply = again
                    assert (await line.restart(reply, peer, "thirdone")).status == 412, "the ETag is of before"
                frames = await viewer.until(25)
                assert len(frames) >= frames[-1] - frames[0] - 10
                assert line.peers == 2
                # again, and the generation before the last is no longer answered
                peer, forgotten = viewer.peer, old.credentials
                assert (await line.restart(viewer.reply, peer, "fourthone")).status == 200
                peer.check()
                await viewer.until(5)
                unknown = figure("medianode_rtc_dropped_total", 'cause="stun-unknown"')
                assert peer.remote is not None
                peer.remote = type(peer.remote)(forgotten, peer.remote.fingerprint, peer.remote.candidates)
                peer.check()
                await line.until(lambda: figure("medianode_rtc_dropped_total", 'cause="stun-unknown"') == unknown + 1)


async def test_a_viewer_that_only_receives(tmp_path: Path) -> None:
    """Consent by STUN, and never an RTCP packet: it is sent everything, sender reports too, and is not put out."""
    async with calling(tmp_path, rtc={"consent_timeout": 2.0}) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            async with line.viewing(run=False) as viewer:
                frames = await viewer.until(90)
                assert frames == list(range(frames[0], frames[-1] + 1))
                assert viewer.sounds > 60
                reports = [m for packet in viewer.peer.rtcp for m in rtcp.parse(packet) if isinstance(m, rtcp.SenderReport)]
                assert {r.ssrc for r in reports} == {viewer.heard[kind].ssrc for kind in Kind}
                assert line.viewers == 1
                (view,) = (await line.api("GET", "/api/v1/viewers"))["data"]
                assert (view["state"], view["dropped"]) == ("live", {})


async def test_a_late_viewer_starts_at_once_where_the_source_sends_no_key_frame(tmp_path: Path) -> None:
    """From the cached key frame: the publisher does not answer PLI."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key) as publisher:
            publisher.listen = publisher.peer.rtcp.clear  # type: ignore[method-assign]  # deaf
            await line.live()
            async with line.viewing() as first:
                await first.until(15)
                async with line.viewing(run=False) as late:
                    frames = await late.until(20)
                    assert frames[0] == first.frames[0] == 0, "the only key frame there was"
                    assert frames == list(range(len(frames)))


async def _ended(line: Line, ingress: str) -> dict[str, object]:
    found: dict[str, object] = await line.api("GET", f"/v1/ingress/{ingress}")
    return found


async def test_a_publisher_that_connects_and_never_sends(tmp_path: Path) -> None:
    async with calling(tmp_path, limits={"first_media_timeout": 1.0}) as line:
        made = await line.ingress()
        async with line.publishing(made["streamKey"], run=False) as publisher:
            assert (line.peers, line.resources) == (1, 1)
            await asyncio.wait_for(publisher.peer.closed.wait(), 5)
            assert line.peers == 0
            assert line.node.daemon.registry.publications == []
            assert (await _ended(line, made["id"]))["status"] == "ERROR"
            assert await line.delete(publisher.reply) == 200
            assert line.resources == 0
        async with line.publishing(made["streamKey"]):
            await line.live()


async def test_a_publisher_whose_pictures_never_begin(tmp_path: Path) -> None:
    """Packets come, but no key frame however it is asked: put out as if nothing had come."""
    async with calling(tmp_path, limits={"first_media_timeout": 1.0}) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, run=False, sound=False) as publisher:
            publisher.wanted = False
            publisher.listen = publisher.peer.rtcp.clear  # type: ignore[method-assign]  # deaf
            async with background(publisher.run()):
                await asyncio.wait_for(publisher.peer.closed.wait(), 5)
            assert line.node.daemon.registry.publications == []
            assert line.peers == 0


async def test_peers_that_never_connect(tmp_path: Path) -> None:
    """Answered, and never seen: their publication, their seat and their URL are free again after rtc_connect_timeout."""
    async with calling(tmp_path, limits={"rtc_connect_timeout": 0.5}) as line:
        made = await line.ingress()
        before = figure("medianode_rtc_peers_ended_total", 'cause="rtc-connect-timeout"')
        peer = TestPeer(CERTIFICATE)
        reply = await line.post("/whip/live/studio", peer.offer(VIDEO_OUT), made["streamKey"])
        assert (reply.status, line.peers, len(line.node.daemon.registry.publications)) == (201, 1, 1)
        await line.until(lambda: line.peers == 0)
        assert line.node.daemon.registry.publications == []
        assert figure("medianode_rtc_peers_ended_total", 'cause="rtc-connect-timeout"') == before + 1
        async with line.publishing(made["streamKey"]):
            await line.live()
            reply = await line.post("/whep/live/studio", peer.offer(VIDEO_IN, AUDIO_IN))
            assert (reply.status, line.viewers) == (201, 1)
            await line.until(lambda: line.viewers == 0 and line.peers == 1)


@pytest.mark.parametrize("setup", ["actpass", "passive"], ids=["they-call", "we-call"])
async def test_another_certificate_than_was_offered(tmp_path: Path, setup: str) -> None:
    """A man in the middle of DTLS: refused, whoever of the two is the client, and nothing was sent or taken."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        before = figure("medianode_rtc_peers_ended_total", 'cause="fingerprint-mismatch"')
        other = Certificate()
        async with line.publishing(key):
            await line.live()
            for path, offered, token, room in (("/whep/live/studio", VIDEO_IN, "", ""), ("/whip/live/other", VIDEO_OUT, "make", "other")):
                if token:
                    token = (await line.ingress(room))["streamKey"]
                async with TestPeer(CERTIFICATE, setup=setup) as peer:  # type: ignore[arg-type]  # one of the two
                    said = peer.offer(offered).replace(CERTIFICATE.fingerprint.value, other.fingerprint.value)
                    reply = await line.post(path, said, token)
                    assert reply.status == 201
                    peer.remote = peer.read_answer(reply.text)
                    peer.open()
                    peer.start()
                    await asyncio.wait_for(peer.closed.wait(), 5)
                    assert not peer.rtp
            await line.until(lambda: line.peers == 1)
            assert line.viewers == 0
            assert [p.grant.room for p in line.node.daemon.registry.publications] == ["live-studio"]
        assert figure("medianode_rtc_peers_ended_total", 'cause="fingerprint-mismatch"') == before + 2
