"""A room pushed on by WHIP: to another node, whose viewers see it; to targets that refuse, change their minds, die or fall silent."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.calls import Line, calling, figure
from harness.lossy import lossy
from harness.whip_target import KEY, Target, push, relayed, target

from medianode import clock
from medianode.auth import Door, PublishGrant, Takeover
from medianode.egress.push import supervisor
from medianode.egress.push.report import Report
from medianode.errors import MedianodeError
from medianode.media.packet import Packet
from medianode.media.track import Codec, Track
from medianode.protocols.rtp import rtcp
from medianode.routing.publication import Publication
from medianode.tasks import background


@asynccontextmanager
async def source(data_dir: Path, **sections: Any) -> AsyncIterator[Line]:
    """A node with room `studio` on air, by WHIP."""
    async with calling(data_dir, **sections) as line, line.publishing((await line.ingress())["streamKey"]):
        await line.live()
        yield line


async def ended(line: Line, made: Target, *, report: Report | None = None, **options: Any) -> MedianodeError:
    """What a push that fails fails with."""
    with pytest.raises(MedianodeError) as caught:
        async with asyncio.timeout(20):
            await push(line.node, made.url, KEY, report or Report(), **options)
    return caught.value


SOUND = Track(9, Codec.OPUS, 48_000, b"", sample_rate=48_000, channels=2)


async def sing(publication: Publication) -> None:
    for i in range(1000):
        publication.write(Packet(SOUND, b"\xfc\xff\xfe", i * 960, i * 960, True, clock.now()))
        await asyncio.sleep(0.02)


def of_kind(packets: list[bytes], payload_type: int) -> list[bytes]:
    return [packet for packet in packets if packet[1] & 0x7F == payload_type]


async def test_a_room_is_pushed_to_another_node_and_watched_there(tmp_path: Path) -> None:
    async with source(tmp_path / "a") as here, calling(tmp_path / "b") as there:
        key = (await there.ingress("copy"))["streamKey"]
        report = Report()
        async with background(push(here.node, f"{there.node.http}/whip/live/copy", key, report)):
            await there.live("copy")
            async with there.viewing("copy") as viewer:
                frames = await viewer.until(60)
                assert frames[-1] - frames[0] + 1 == len(frames), "every picture, once"
                await there.until(lambda: viewer.sounds > 50)
                viewer.want_keyframe()
                await here.until(lambda: report.is_broadcasting and report.acknowledged_bytes > 100_000)
            assert report.sent_bytes >= report.acknowledged_bytes
            assert report.treatment == {"video": "copy", "audio": "copy"}
            room = there.node.room("live-copy")
            assert room is not None
            (publication,) = room.publications.values()
            assert publication.door == "whip"
        # it said goodbye, and so was not waited for
        await there.until(lambda: not room.publications)
        assert figure("medianode_rtc_peers") <= 1


async def test_a_target_by_the_api_over_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "REFUSED", (0.1, 0.2))
    monkeypatch.setattr(supervisor, "RETRY", (0.1, 0.2))
    path = "/api/v1/apps/live/rooms/studio/targets"
    async with calling(tmp_path / "b") as there:
        key = (await there.ingress("copy"))["streamKey"]
        pem = tmp_path / "other.pem"
        async with there.http.get(f"{there.node.http}/certificate.pem") as response:
            pem.write_bytes(await response.read())
        url = there.node.http.replace("http://127.0.0.1", "https://localhost") + "/whip/live/copy"

        async def becomes(line: Line, state: str) -> dict[str, Any]:
            view: dict[str, Any] = {}
            async with asyncio.timeout(15):
                while view.get("state") != state:
                    await asyncio.sleep(0.05)
                    view = (await line.api("GET", path))["data"][0]
            return view

        allow = ["127.0.0.0/8", "::1", "localhost"]
        async with source(tmp_path / "a", outbound={"allow": allow}) as here:
            await here.api("POST", path, {"url": url, "streamKey": key})
            assert (await becomes(here, "failed"))["errorCode"] == "certificate-not-trusted"
        async with source(tmp_path / "c", outbound={"allow": allow, "cafile": str(pem)}) as here:
            made = (await here.api("POST", path, {"url": url, "streamKey": "wrong" * 5}))["data"]
            view = await becomes(here, "failed")
            assert (view["errorCode"], "wrong" in view["error"]) == ("rejected", False)
            await here.api("PATCH", f"{path}/{made['id']}", {"streamKey": key})
            view = await becomes(here, "broadcasting")
            assert view["treatment"] == {"video": "copy", "audio": "copy"}
            await there.live("copy")
            await here.api("DELETE", f"{path}/{made['id']}")
            room = there.node.room("live-copy")
            assert room is not None
            await there.until(lambda: not room.publications)


async def test_lost_packets_are_sent_again(tmp_path: Path) -> None:
    async with (
        source(tmp_path / "a") as here,
        calling(tmp_path / "b") as there,
        lossy(there.port, 0.0) as network,
        relayed(f"{there.node.http}/whip/live/copy", there.port, network.port) as url,
    ):
        key = (await there.ingress("copy"))["streamKey"]
        report = Report()
        async with background(push(here.node, url, key, report)):
            await there.live("copy")
            async with there.viewing("copy") as viewer:
                await viewer.until(10)
                network.loss = 0.05
                before = viewer.frames[-1]
                frames = await viewer.until(120)
                assert network.lost > 10
                network.loss = 0.0
                missing = set(range(before, frames[-1] - 10)) - set(frames)
                assert len(missing) < 12, f"of {network.lost} lost packets {len(missing)} pictures are not whole"
                await here.until(lambda: report.is_broadcasting)


async def test_two_rooms_are_pushed_to_the_same_port(tmp_path: Path) -> None:
    """Whoever serves WebRTC on one port knows its peers by their addresses."""
    async with calling(tmp_path) as line, target() as made:
        keys = [(await line.ingress(room))["streamKey"] for room in ("one", "two")]
        async with line.publishing(keys[0], "one", first=1000), line.publishing(keys[1], "two", first=5000, sound=False):
            await line.live("one")
            await line.live("two")
            pushes = [push(line.node, made.url, KEY, Report(), room=room) for room in ("one", "two")]
            async with background(*pushes):
                await line.until(lambda: len(made.calls) == 2 and all(len(call.packets) > 50 for call in made.calls))
        ssrcs = [{packet[8:12] for packet in call.packets} for call in made.calls]
        assert not ssrcs[0] & ssrcs[1]
        await line.until(lambda: sorted(made.deleted) == ["/session/1", "/session/2"])


async def test_reports_key_frames_and_lost_packets(tmp_path: Path) -> None:
    async with source(tmp_path) as line, target() as made:
        report = Report()
        async with background(push(line.node, made.url, KEY, report)):
            await line.until(lambda: made.calls and len(made.calls[0].packets) > 50)
            (call,), (peer,) = made.calls, made.endpoint._peers
            lost = of_kind(call.packets, 96)[-1]
            ssrc = int.from_bytes(lost[8:12], "big")
            again = figure("medianode_rtc_dropped_total", 'cause="srtp"')
            peer.send_rtcp(rtcp.receiver_report(7) + rtcp.nack(7, ssrc, [int.from_bytes(lost[2:4], "big")]))
            # libsrtp at the target knows it already, and drops it: seen by what was not taken
            await line.until(lambda: figure("medianode_rtc_dropped_total", 'cause="srtp"') > again)
            before = sum(1 for packet in of_kind(call.packets, 96) if packet[12] & 0x1F == 5 or packet[13] & 0x9F == 0x85)
            peer.send_rtcp(rtcp.receiver_report(7) + rtcp.pli(7, ssrc))
            await line.until(
                lambda: sum(1 for packet in of_kind(call.packets, 96) if packet[12] & 0x1F == 5 or packet[13] & 0x9F == 0x85) > before
            )
            highest = int.from_bytes(of_kind(call.packets, 96)[-1][2:4], "big")
            peer.send_rtcp(rtcp.receiver_report(7, [rtcp.ReportBlock(ssrc, 0, 0, highest, 0, 0, 0)]))
            await line.until(lambda: report.is_broadcasting and report.acknowledged_bytes > 0)
            await line.until(lambda: any(compound[1] == 200 for compound in call.compounds))  # sender reports


async def test_refusals_and_answers_that_cannot_be(tmp_path: Path) -> None:
    async with source(tmp_path) as line, target() as made:
        made.refuse = 401
        assert (await ended(line, made)).code == "rejected"
        made.refuse = 0
        made.rewrite = lambda answer: "what?"
        assert (await ended(line, made)).code == "bad-answer"
        made.rewrite = lambda answer: answer.replace(" 127.0.0.1 ", " 10.1.2.3 ")
        error = await ended(line, made)
        assert (error.code, "10.1.2.3" in error.message) == ("private-address", True)
        made.rewrite = lambda answer: answer.replace("a=candidate:", "a=nothing:")
        assert "candidate" in (await ended(line, made)).message
        made.rewrite = lambda answer: answer.replace("m=video 9", "m=video 0").replace("BUNDLE 0 1", "BUNDLE 1")
        assert (await ended(line, made)).code == "no-shared-codec"
        made.rewrite = lambda answer: answer.replace(" 127.0.0.1 ", " ::1 ")
        error = await ended(line, made, allow=("127.0.0.0/8", "::1"))
        assert (error.code, "IPv6" in error.message) == ("unreachable", True)
        assert (await ended(line, made, allow=("192.0.2.0/24",))).code == "private-address"
        # what was created was deleted, too
        await line.until(lambda: len(made.deleted) == len(made.calls) == 5)


async def test_nobody_answers_the_checks_or_with_another_certificate(tmp_path: Path) -> None:
    async with source(tmp_path, limits={"rtc_connect_timeout": 1.0}) as line, target() as made:
        made.rewrite = lambda answer: answer.replace(f" {made.endpoint.udp_port} typ", " 9 typ")
        assert (await ended(line, made)).code == "rtc-connect-timeout"
        wrong = ":".join(["AB"] * 32)
        made.rewrite = lambda answer: answer.replace(made.endpoint.fingerprint.value, wrong)
        assert (await ended(line, made)).code == "fingerprint-mismatch"


async def test_a_target_without_a_location_is_pushed_to_all_the_same(tmp_path: Path) -> None:
    async with source(tmp_path) as line, target() as made:
        made.location = ""
        report = Report()
        async with background(push(line.node, made.url, KEY, report)):
            await line.until(lambda: made.calls and len(made.calls[0].packets) > 20)
        assert "Location" in report.last_words
        async with asyncio.timeout(5):
            await made.calls[0].ended.wait()
        assert made.deleted == []


async def test_a_target_that_says_goodbye_and_one_that_falls_silent(tmp_path: Path) -> None:
    async with source(tmp_path, rtc={"consent_timeout": 1.0}) as line, target() as made:

        async def leave() -> None:
            await line.until(lambda: made.calls and len(made.calls[-1].packets) > 20)
            next(iter(made.endpoint._peers)).close()

        async with background(leave()):
            assert (await ended(line, made)).code == "peer-gone"

        report = Report()

        async def hush() -> None:
            # it makes no reports, but consents long after the first media
            await line.until(lambda: report.is_broadcasting)
            made.hush()

        async with background(hush()):
            assert (await ended(line, made, report=report)).code == "consent-expired"


async def test_a_target_that_is_there_and_takes_nothing(tmp_path: Path) -> None:
    """It looks green: ICE lives and reports come, but they stand still."""
    async with source(tmp_path, rtc={"consent_timeout": 1.0}) as line, target() as made:

        async def report_the_same() -> None:
            while True:
                for call, peer in zip(made.calls, made.endpoint._peers, strict=False):
                    video = of_kind(call.packets, 96)
                    if video:
                        ssrc, first = struct.unpack("!I", video[0][8:12])[0], int.from_bytes(video[0][2:4], "big")
                        peer.send_rtcp(rtcp.receiver_report(7, [rtcp.ReportBlock(ssrc, 0, 0, first, 0, 0, 0)]))
                await asyncio.sleep(0.1)

        async with background(report_the_same()):
            assert (await ended(line, made)).code == "target-silent"


async def test_sound_that_comes_late_is_a_call_of_its_own(tmp_path: Path) -> None:
    """WHIP cannot renegotiate."""
    async with calling(tmp_path) as line, target() as made:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, sound=False):
            await line.live()

            async def come() -> None:
                await line.until(lambda: made.calls and len(made.calls[0].packets) > 20)
                room = line.node.room()
                assert room is not None
                (publication,) = room.publications.values()
                publication.set_tracks((*publication.tracks, SOUND))
                await sing(publication)

            async with background(come(), push(line.node, made.url, KEY, Report())):
                await line.until(
                    lambda: len(made.calls) == 2 and of_kind(made.calls[1].packets, 111) and of_kind(made.calls[1].packets, 96)
                )
                assert "m=audio" not in made.offers[0]
                assert made.calls[0].ended.is_set()


async def test_a_publishers_gap_keeps_the_call_and_its_end_ends_it(tmp_path: Path) -> None:
    async with calling(tmp_path, ingress={"hold": 2.0}) as line, target() as made:
        key = (await line.ingress())["streamKey"]
        report = Report()
        async with line.publishing(key, first=1000):
            await line.live()
            running = asyncio.get_running_loop().create_task(push(line.node, made.url, KEY, report))
            await line.until(lambda: made.calls and len(made.calls[0].packets) > 50)
        before = len(made.calls[0].packets)
        async with line.publishing(key, first=9000):
            await line.until(lambda: len(made.calls[0].packets) > before + 50)
        async with asyncio.timeout(10):
            await running
        assert len(made.calls) == 1
        pictures = [struct.unpack("!HI", packet[2:8]) for packet in of_kind(made.calls[0].packets, 96)]
        for (number, stamp), (after, later) in itertools.pairwise(pictures):
            assert (after - number) & 0xFFFF == 1
            assert (later - stamp) & 0xFFFFFFFF < 0x80000000, "time never goes back"


async def test_sound_alone(tmp_path: Path) -> None:
    async with calling(tmp_path) as line, target() as made:
        project = line.node.ready.first.project
        assert project is not None
        grant = PublishGrant(
            project_id=project.id,
            slug="live",
            room="live-studio",
            identity="radio",
            name="",
            kind=Door.WHIP,
            ingress_id=None,
            takeover=Takeover.REPLACE,
            hold=0.0,
        )
        room, publication = line.node.daemon.registry.publish(grant, "test", "127.0.0.1", lambda error: None)
        publication.set_tracks((SOUND,))
        async with background(sing(publication)):
            await line.live()
            async with background(push(line.node, made.url, KEY, Report())):
                await line.until(lambda: made.calls and len(of_kind(made.calls[0].packets, 111)) > 20)
                assert "m=video" not in made.offers[0]
        room.end(publication, "closed")
