"""Chromium publishes by WHIP and another tab plays it by WHEP, over the whole node: delay, lips, loss, layers, ways through firewalls."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any

import pytest
from harness import running, until
from harness.chromium import Lab, ask, on_air, whip_key
from harness.lossy import lossy
from playwright.async_api import Browser

pytestmark = [pytest.mark.interop, pytest.mark.alone]
ROOM = "cam"
SETTLED = 2.0
"""Seconds after which joining is over."""
LOSSY = 8.0
"""Seconds on the bad network."""
GLASS_TO_GLASS, LIPS = 300, 100
"""Milliseconds, p50."""


async def watch(publisher: Lab, viewer: Lab, seconds: float, codec: str) -> None:
    """All that a viewer would notice."""
    await asyncio.sleep(SETTLED)
    await viewer.forget()
    before = await viewer.stats()
    await asyncio.sleep(seconds)
    after, seen = await viewer.stats(), await viewer.seen()
    video = after["video"]
    decoded, freezes, dropped = (video[name] - before["video"][name] for name in ("framesDecoded", "freezeCount", "framesDropped"))
    p95 = sorted(seen.latency)[len(seen.latency) * 95 // 100]
    lips = statistics.median(seen.offsets)
    print(
        f"{codec}, {seconds:g} s: glass to glass p50 {seen.glass_to_glass:g} ms, p95 {p95} ms; "
        f"picture behind sound {lips:.0f} ms ({min(seen.offsets):.0f} to {max(seen.offsets):.0f}, {len(seen.offsets)} beeps); "
        f"{decoded} frames, longest gap {seen.gap:.0f} ms, freezes {freezes}, dropped {dropped}, "
        f"lost {video['packetsLost']}; first frame after {seen.first:.0f} ms; audio level {after['audio']['audioLevel']:.3f}"
    )
    assert decoded > seconds * 20
    assert f"video/{codec}" in after["codecs"]
    assert freezes == 0
    assert after["audio"]["audioLevel"] > 0
    assert after["audio"]["totalAudioEnergy"] > before["audio"]["totalAudioEnergy"]
    assert len(seen.latency) > seconds * 20
    assert seen.glass_to_glass < GLASS_TO_GLASS
    assert len(seen.offsets) > seconds / 2
    assert abs(lips) < LIPS
    assert (await publisher.stats())["state"] == "connected"


@pytest.mark.parametrize(("codec", "seconds"), [("H264", 60), ("VP8", 8)])
async def test_one_tab_publishes_and_another_plays(tmp_path: Path, browser: Browser, codec: str, seconds: float) -> None:
    async with running(tmp_path) as node:
        publisher, viewer = await Lab.open(browser, node), await Lab.open(browser, node)
        await publisher.publish(ROOM, await whip_key(node, ROOM), codec)
        await on_air(node, ROOM)
        await viewer.play(ROOM, measure=True)
        await watch(publisher, viewer, seconds, codec)
        (session,) = await ask(node, "sessions")
        assert session["door"] == "whip"
        assert [r["treatment"] for r in session["renditions"]] == [{"video": "copy", "audio": "copy"}]
        assert session["drops"] == {}


@pytest.mark.parametrize("loss", [0.02, 0.10])
async def test_lost_packets_are_asked_for_again_on_both_sides(tmp_path: Path, browser: Browser, loss: float) -> None:
    async with (
        running(tmp_path) as node,
        lossy(node.ready.rtc_port, 0.0) as up,
        lossy(node.ready.rtc_port, 0.0, seed=2) as down,
    ):
        publisher, viewer = await Lab.open(browser, node), await Lab.open(browser, node)
        picture = {"width": 960, "height": 540}
        await publisher.publish(ROOM, await whip_key(node, ROOM), "VP8", media=picture, only={"udp": up.port})
        await on_air(node, ROOM)
        await viewer.play(ROOM, only={"udp": down.port})
        await viewer.plays()
        up.loss = down.loss = loss
        await viewer.forget()
        before = (await viewer.stats())["video"]
        await asyncio.sleep(LOSSY)
        stats, sent, seen = await viewer.stats(), (await publisher.stats())["sent"][0], await viewer.seen()
        (watcher,) = await ask(node, "viewers")
        (session,) = await ask(node, "sessions")
        video = stats["video"]
        decoded, freezes, frozen = (video[n] - before[n] for n in ("framesDecoded", "freezeCount", "totalFreezesDuration"))
        print(
            f"loss {loss:.0%} (up {up.lost} of {up.lost + up.passed}, down {down.lost} of {down.lost + down.passed}): "
            f"{decoded} frames in {LOSSY:g} s, longest gap {seen.gap:.0f} ms, freezes {freezes} ({frozen:.1f} s); viewer: NACKs "
            f"{video['nackCount']}, PLI {video['pliCount']}, lost for good {video['packetsLost']}, resent {watcher['resent']}, "
            f"sound lost {stats['audio']['packetsLost']}; publisher: NACKs {sent['nackCount']}, PLI {sent['pliCount']}, "
            f"resent {sent['retransmittedPacketsSent']}; drops {session['drops']}"
        )
        assert up.lost > 0
        assert down.lost > 0
        assert sent["nackCount"] > 0
        assert sent["retransmittedPacketsSent"] > 0
        assert video["nackCount"] > 0
        assert watcher["resent"] > 0
        assert decoded > LOSSY * (20 if loss < 0.05 else 12)
        # and it goes on
        await viewer.plays()


async def test_a_publisher_reaches_its_full_bitrate(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as node:
        publisher = await Lab.open(browser, node)
        noise = {"noise": True, "width": 480, "height": 270, "fps": 20}
        await publisher.publish(ROOM, await whip_key(node, ROOM), "VP8", media=noise, maxBitrate=2_500_000)
        await on_air(node, ROOM)
        rates: list[int] = []
        async with asyncio.timeout(10):
            while not rates or rates[-1] < 1_800_000:
                await asyncio.sleep(0.5)
                (session,) = await ask(node, "sessions")
                rates.append(next(t["bitrate"] for t in session["tracks"] if t["kind"] == "video"))
        reached = len(rates) / 2
        await asyncio.sleep(3)
        (session,) = await ask(node, "sessions")
        (track,) = (t for t in session["tracks"] if t["kind"] == "video")
        stats = await publisher.stats()
        print(
            f"received {rates} bit/s each half second: 1.8 Mbit/s after {reached} s; then {track['bitrate']}, "
            f"estimate {stats['estimate']:.0f}"
        )
        # it did not only touch it
        assert track["bitrate"] > 1_500_000
        assert stats["estimate"] > 2_000_000


async def test_three_layers_come_and_the_best_is_played(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as node:
        publisher, viewer = await Lab.open(browser, node), await Lab.open(browser, node)
        media = {"width": 960, "height": 540, "fps": 20}
        await publisher.publish(ROOM, await whip_key(node, ROOM), "VP8", media=media, layers=True)
        await on_air(node, ROOM)
        await viewer.play(ROOM)
        async with asyncio.timeout(40):
            while True:
                (session,) = await ask(node, "sessions")
                sizes = [(t["width"], t["height"]) for t in session["tracks"] if t["kind"] == "video"]
                shown = ((await viewer.stats())["video"] or {}).get("frameWidth")
                # the programme first, then each layer by itself
                if sizes == [(960, 540), (240, 135), (480, 270), (960, 540)] and shown == 960:
                    break
                await asyncio.sleep(0.2)
        await viewer.plays()
        layers = {s.get("rid"): (s["frameWidth"], s["framesSent"]) for s in (await publisher.stats())["sent"] if s["framesSent"]}
        print(f"layers sent {layers}, tracks {sizes}, viewer's first frame after {(await viewer.seen()).first:.0f} ms")
        assert layers.keys() == {"q", "h", "f"}


async def test_where_udp_is_blocked_media_goes_by_tcp(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as node:
        publisher, viewer = await Lab.open(browser, node), await Lab.open(browser, node)
        await publisher.publish(ROOM, await whip_key(node, ROOM), "H264", camera=True, only={"tcp": True})
        await on_air(node, ROOM)
        await viewer.play(ROOM, only={"tcp": True})
        await viewer.plays(90)
        await viewer.hears()
        stats = await viewer.stats()
        (watcher,) = await ask(node, "viewers")
        video, first = stats["video"], (await viewer.seen()).first
        print(f"TCP: {video['framesDecoded']} frames, freezes {video['freezeCount']}, first frame after {first:.0f} ms")
        assert stats["path"] == (await publisher.stats())["path"] == "tcp"
        assert watcher["transport"] == "tcp"


async def test_a_publisher_who_comes_again_is_seen_by_those_who_waited(tmp_path: Path, browser: Browser) -> None:
    async with running(tmp_path) as node:
        key = await whip_key(node, ROOM, takeover="replace")
        publisher, viewer = await Lab.open(browser, node), await Lab.open(browser, node)
        await publisher.publish(ROOM, key, "H264")
        await on_air(node, ROOM)
        await viewer.play(ROOM)
        await viewer.plays()
        # the tab is killed: the new session takes the place of the old one
        await publisher.close()
        publisher = await Lab.open(browser, node)
        await viewer.forget()
        await publisher.publish(ROOM, key, "H264")
        await viewer.plays(60)
        await viewer.hears()
        seen, stats = await viewer.seen(), await viewer.stats()
        assert stats["state"] == "connected"
        assert seen.states == ["connecting", "connected"]
        # one whose publisher ends in order waits as well
        await publisher.page.evaluate("fetch(lab.session, {method: 'DELETE'})")
        await until(lambda: node.room(f"live-{ROOM}").held)
        await publisher.close()
        publisher = await Lab.open(browser, node)
        await publisher.publish(ROOM, key, "H264")
        await viewer.plays(60)
        watchers: list[dict[str, Any]] = await ask(node, "viewers")
        print(
            f"gap of {seen.gap:.0f} ms, then {(await viewer.seen()).gap:.0f} ms with a publisher who left in order; viewers {len(watchers)}"
        )
        assert (await viewer.seen()).states == ["connecting", "connected"]
        assert len(watchers) == 1
